"""Which inputs make which shard, and which process labels it.

A block is a run of `block_size` inputs of one part, in order, and becomes one shard. What a block holds depends on the
inputs alone, neither on the number of processes nor on where an earlier run was stopped: so the finished set is the
same, record for record. Whole parts are divided among the processes by Accelerate; where there are fewer parts than
processes, each process i of n reads them all and labels every n-th block.
"""

from __future__ import annotations

import itertools
import tarfile
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from accelerate import PartialState

from depth_anything_hf.labeling.sources import ImageSource, Item, digest_of


class BlockId(NamedTuple):
    """A block: its part, and its place in that part."""

    part: int
    block: int

    def __str__(self) -> str:
        return f"{self.part:05d}-{self.block:05d}"


class Work(NamedTuple):
    """One input to label."""

    block: BlockId
    position: int
    item: Item


class BlockEnd(NamedTuple):
    """The end of a block: all of its inputs have been read."""

    block: BlockId
    inputs: int
    last: bool  # of its part
    digest: str  # of the keys
    unreadable: str | None = None  # why the part ends here, where its file is broken


def schedule(
    source: ImageSource, block_size: int, finished: Mapping[BlockId, Mapping], state: PartialState
) -> Iterator[Work | BlockEnd]:
    """Yield this process's unfinished inputs, block after block, each block closed by a `BlockEnd`.

    Args:
        source: The inputs.
        block_size: Inputs of a block; the last of a part may have fewer.
        finished: The blocks of earlier runs, with their `inputs`, `last` and `digest`.
        state: Which process this is, of how many.

    Returns:
        Work and block ends.

    Raises:
        ValueError: A finished block holds other inputs now than when it was labelled.
    """
    parts = list(range(len(source.parts)))
    shared = len(parts) < state.num_processes
    if not shared:
        with state.split_between_processes(parts) as own:
            parts = list(own)
    for part in parts:
        if source.whole_files and _is_complete(part, finished):
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


def _is_complete(part: int, finished: Mapping[BlockId, Mapping]) -> bool:
    block = 0
    while (entry := finished.get(BlockId(part, block))) is not None and not entry["last"]:
        block += 1
    return entry is not None


def _blocks(items: Iterator[Item], size: int):
    """Yield blocks as lazy runs of items, each with two functions that answer once the run is through."""
    reader = _Reader(items)
    yield reader.take(size), lambda: reader.ended, lambda: reader.unreadable
    while not reader.ended:
        yield reader.take(size), lambda: reader.ended, lambda: reader.unreadable


class _Reader:
    """Read one item ahead, so that the last block of a part knows that it is the last."""

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
                raise  # the disk or the network: another run may fare better
            self.ended, self.unreadable = True, f"{type(error).__name__}: {error}"


def _is_of_the_file(error: OSError) -> bool:
    """Check whether the file is broken, not the disk or network: pyarrow's OSError of a broken page has no number."""
    return type(error) is OSError and error.errno is None


def _check_unchanged(source: ImageSource, name: BlockId, keys: list[str], last, entry: Mapping) -> None:
    if (len(keys), last(), digest_of(keys)) != (entry["inputs"], entry["last"], entry["digest"]):
        raise ValueError(
            f"the inputs changed since block {name} of {source.name} ({source.parts[name.part]}) was labelled: it had "
            f"{entry['inputs']} then and {len(keys)} now, or others. Undo the change, or label into a new folder."
        )


def missing_blocks(parts: int, finished: Mapping[BlockId, Mapping]) -> list[str]:
    """List the first unfinished block of each part."""
    found = []
    for part in range(parts):
        for block in itertools.count():
            name = BlockId(part, block)
            if name not in finished:
                found.append(str(name))
                break
            if finished[name]["last"]:
                break
    return found
