"""Decide which inputs form a shard, and which process labels it.

A block is a run of `block_size` inputs of one part, in order, and becomes one shard. Its content depends only on the
inputs, not on the number of processes or on the point where an earlier run stopped: the finished set is always the same,
record for record. Accelerate divides whole parts among the processes. If there are fewer parts than processes, each of n
processes reads all parts and labels every n-th block.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from accelerate import PartialState

from depth_anything_hf.labeling.sources import ImageSource, Item, digest_of


class BlockId(NamedTuple):
    """Identify a block by its part and its number in the part."""

    part: int
    block: int

    def __str__(self) -> str:
        return f"{self.part:05d}-{self.block:05d}"


class Work(NamedTuple):
    """Describe one input to label."""

    block: BlockId
    position: int
    item: Item


class BlockEnd(NamedTuple):
    """Mark that all inputs of a block have been read."""

    block: BlockId
    inputs: int
    last: bool  # of its part
    digest: str  # of the keys of its inputs
    unreadable: str | None = None  # why the part ends here, if its file is broken


def schedule(
    source: ImageSource, block_size: int, finished: Mapping[BlockId, Mapping], state: PartialState
) -> Iterator[Work | BlockEnd]:
    """Yield the unfinished inputs of this process, block by block; a `BlockEnd` follows each block.

    `finished` has the blocks of earlier runs, with their `inputs`, `last` and `digest`; `state` says which process this is.

    Raises:
        ValueError: The inputs of a finished block changed since it was labeled.
    """
    parts = list(range(len(source.parts)))
    shared = len(parts) < state.num_processes
    if not shared:
        with state.split_between_processes(parts) as own:
            parts = list(own)
    for part in parts:
        if source.whole_files and _first_missing(part, finished) is None:
            continue
        for block, (items, last, unreadable) in enumerate(_blocks(source.read(part), block_size)):
            name = BlockId(part, block)
            if name in finished:
                _check_unchanged(source, name, [item.key for item in items], last, finished[name])
            elif not shared or (part + block) % state.num_processes == state.process_index:
                keys = []
                for position, item in enumerate(items):
                    keys.append(item.key)
                    yield Work(name, position, item)
                yield BlockEnd(name, len(keys), last(), digest_of(keys), unreadable())
            else:
                for _ in items:
                    pass


def _blocks(items: Iterator[Item], size: int):
    """Yield blocks as lazy runs of items, each with two functions to call after the run: `last` and `unreadable`."""
    reader = _Reader(items)
    yield reader.take(size), lambda: reader.ended, lambda: reader.unreadable
    while not reader.ended:
        yield reader.take(size), lambda: reader.ended, lambda: reader.unreadable


class _Reader:
    """Read one item ahead, to know at the end of a block whether it is the last of its part."""

    def __init__(self, items: Iterator[Item]):
        self.items, self.ended = items, False
        self.unreadable: str | None = None
        self.ahead: Item
        self._advance()

    def take(self, size: int) -> Iterator[Item]:
        for _ in range(size):
            if self.ended:
                return
            item = self.ahead
            self._advance()
            yield item

    def _advance(self) -> None:
        try:
            self.ahead = next(self.items)
        except StopIteration:
            self.ended = True
        except (ValueError, EOFError, tarfile.TarError, OSError) as error:
            if isinstance(error, OSError) and not _is_of_the_file(error):
                raise  # the disk or the network: another run may succeed
            self.ended, self.unreadable = True, f"{type(error).__name__}: {error}"


def _is_of_the_file(error: OSError) -> bool:
    """Return True for a broken file, False for a failing disk or network; pyarrow raises OSError without a number."""
    return type(error) is OSError and error.errno is None


def _check_unchanged(source: ImageSource, name: BlockId, keys: list[str], last, entry: Mapping) -> None:
    if (len(keys), last(), digest_of(keys)) != (entry["inputs"], entry["last"], entry["digest"]):
        raise ValueError(
            f"the inputs changed since block {name} of {source.name} ({source.parts[name.part]}) was labeled: it had "
            f"{entry['inputs']} then and {len(keys)} now, or others. Undo the change, or label into a new folder."
        )


def missing_blocks(parts: int, finished: Mapping[BlockId, Mapping]) -> list[str]:
    """List the first unfinished block of each part."""
    found = (_first_missing(part, finished) for part in range(parts))
    return [str(name) for name in found if name is not None]


def _first_missing(part: int, finished: Mapping[BlockId, Mapping]) -> BlockId | None:
    """Return the first unfinished block of a part; None if the part is complete."""
    name = BlockId(part, 0)
    while name in finished:
        if finished[name]["last"]:
            return None
        name = BlockId(part, name.block + 1)
    return name
