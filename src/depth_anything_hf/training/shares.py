"""Shares of a source of records: which one worker of one process reads, in which order, and where it stands.

The order follows from the seed and the share alone, and a place is small and exact: a reader that is given one goes on
with the very next record.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from depth_anything_hf.training.seeding import derive_seed, generator_at

if TYPE_CHECKING:
    import datasets


class Share(NamedTuple):
    """The part of both sources that one worker of one process reads."""

    rank: int
    world_size: int
    worker: int
    num_workers: int

    @property
    def index(self) -> int:
        """Number of this share; every process has one before any has two."""
        return self.worker * self.world_size + self.rank

    @property
    def total(self) -> int:
        """Number of shares."""
        return self.world_size * self.num_workers

    def position(self, count: int, batch_size: int) -> int:
        """Place a share's next record, after `count`, among all records drawn: shares take turns batch by batch."""
        batches, offset = divmod(count, batch_size)
        return (self.index + batches * self.total) * batch_size + offset


class Place(NamedTuple):
    """Where a share of one source stands; a map-style source needs only `count`."""

    count: int = 0  # records given so far
    sweep: int = 0
    block: int = 0  # in this sweep
    offset: int = 0  # records given of this block
    start: dict | None = None  # state of the data set where the block starts; None = where the sweep starts


def is_stream(source) -> bool:
    """Tell a `datasets.IterableDataset` from a map-style set."""
    from datasets import IterableDataset as Stream

    return isinstance(source, Stream)


def max_workers(source, world_size: int) -> int | None:
    """Count the workers that can have a share of a source in every process.

    Args:
        source: Map-style set or `datasets.IterableDataset`.
        world_size (`int`): Number of processes.

    Returns:
        `int` or `None`: Shards of a stream that a process has at least; None = any number, for a map-style set.

    Example:
        >>> from datasets import Dataset
        >>> stream = Dataset.from_dict({"name": list("abcdefg")}).to_iterable_dataset(num_shards=7)
        >>> max_workers(stream, 2), max_workers(stream, 8), max_workers(["a"], 2)
        (3, 7, None)
    """
    if not is_stream(source):
        return None
    shards = source.num_shards
    return shards // world_size if shards >= world_size else shards


def read_map_style(
    source, share: Share, seed: tuple[int, int], place: Place, batch_size: int
) -> Iterator[tuple[Any, Place]]:
    """Read a share of a map-style set for ever, as `StreamBatchSampler` draws from it.

    All shares advance alike, so no record is seen more often than another, and a set may be smaller than their number.

    Args:
        source: Anything with a length and an index.
        share (`Share`): Whose records.
        seed (`tuple[int, int]`): Of the run, and the stream.
        place (`Place`): Where to go on.
        batch_size (`int`): Records of this source in a batch.

    Yields:
        A record, and the place after it.
    """
    size = len(source)
    while True:
        sweep, offset = divmod(share.position(place.count, batch_size), size)
        positions = torch.arange(sweep * size + offset, (sweep + 1) * size)
        order = torch.randperm(size, generator=generator_at(*seed, sweep))[offset:]
        mine = order[positions // batch_size % share.total == share.index]
        del positions, order  # a share holds its own indices only
        for index in mine.numpy():
            place = Place(place.count + 1)
            yield source[int(index)], place


def read_stream(
    source: datasets.IterableDataset, share: Share, seed: tuple[int, int], place: Place, block_size: int
) -> Iterator[tuple[dict, Place]]:
    """Read a share of a stream for ever: its shards in an order that is new in each sweep, in shuffled blocks.

    Args:
        source (`datasets.IterableDataset`): Split by nothing yet.
        share (`Share`): Whose records.
        seed (`tuple[int, int]`): Of the run, and the stream.
        place (`Place`): Where to go on; the block it is in is read again.
        block_size (`int`): Records of a block, which are held as encoded images where `source.features` says so.

    Yields:
        A record, its images decoded, and the place after it.

    Raises:
        ValueError: The share has no shards, or no records.
    """
    from datasets import Image

    features = source.features or {}
    images = {name: kind for name, kind in features.items() if isinstance(kind, Image) and kind.decode}
    encoded = source.decode(False) if features else source
    while True:
        part = _part(encoded, share)
        part.set_epoch(derive_seed(*seed, place.sweep) % 2**31)  # `datasets` adds it to 63-bit seeds of its own
        part.load_state_dict(place.start)
        reader = part.iter(batch_size=1)  # `__iter__` would split the part by worker once more
        while block := [{name: values[0] for name, values in row.items()} for row in islice(reader, block_size)]:
            order = torch.randperm(len(block), generator=generator_at(*seed, place.sweep, share.index, place.block))
            for i in order[place.offset :].tolist():
                place = place._replace(count=place.count + 1, offset=place.offset + 1)
                yield _decoded(block[i], images), place
                block[i].clear()  # or two blocks would be held while the next one is read
            place = place._replace(block=place.block + 1, offset=0, start=part.state_dict())
        if place.block == 0:
            raise ValueError(
                f"a stream of {source.num_shards} shards gave no records to {share}; check its files, or use fewer "
                "workers or processes."
            )
        place = Place(place.count, place.sweep + 1)


def _part(source: datasets.IterableDataset, share: Share) -> datasets.IterableDataset:
    """Take a share: whole shards, or every so-manieth record where there are fewer shards than processes."""
    from datasets.distributed import split_dataset_by_node

    limit = max_workers(source, share.world_size)
    if share.num_workers > limit:
        raise ValueError(
            f"a stream of {source.num_shards} shards is read by {share.num_workers} workers in each of "
            f"{share.world_size} processes; every worker needs a shard: use at most {limit}, or write more shards."
        )
    if source.num_shards >= share.world_size:
        return source.shard(share.total, share.index, contiguous=False)
    shards = source.shard(share.num_workers, share.worker, contiguous=False)
    return split_dataset_by_node(shards, share.rank, share.world_size)


def _decoded(record: dict, images: Mapping[str, datasets.Image]) -> dict:
    encoded = {name: record[name] for name in images if isinstance(record[name], Mapping)}
    return record | {name: images[name].decode_example(value) for name, value in encoded.items()}
