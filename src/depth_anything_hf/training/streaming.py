"""Two streams read without an index: `datasets.IterableDataset`, or that beside a map-style set, exact after a resume.

Every worker of every process reads a share of its own and makes whole batches of it. Each batch says where its worker
stands after it, so the main process knows, though workers run ahead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import Any, NamedTuple

from torch.utils.data import IterableDataset, get_worker_info

from depth_anything_hf.training.seeding import derive_seed
from depth_anything_hf.training.shares import Place, Share, is_stream, read_map_style, read_stream
from depth_anything_hf.training.streams import (
    LABELED,
    SOURCE_NAMES,
    UNLABELED,
    check_batch_sizes,
    check_sources,
    tag_record,
)


class StreamedBatch(NamedTuple):
    """Records of one batch, labelled first, the worker that read them, and where it stands after them."""

    records: list[dict]
    worker: int
    state: dict[str, dict]


class StreamedBatches(IterableDataset):
    """Read batches of so many labelled and so many unlabelled records, labelled first, without end.

    Each source goes round for ever, in a new order each time. A share of a stream is its shards (parquet files, or as
    `datasets` counts them), or every so-manieth record where there are fewer shards than processes; shards should be
    of about one size, and many. They are read in blocks, and each block is shuffled. A map-style set is drawn from as
    by `StreamBatchSampler`, whatever the number of workers and processes. Everything follows from the seed and the
    share. For a `DataLoader` with `batch_size=None` and a `StreamCollator`; `max_workers` says how many it may have.

    Args:
        labeled (*optional*): Map-style set or `datasets.IterableDataset` of records with labels. A stream must not be
            split by process beforehand, needs no shuffle, and should have `features`: blocks then hold encoded images.
        unlabeled (*optional*): The same, of photographs or pseudo-labels.
        batch_sizes (`tuple[int, int]`): Labelled and unlabelled records in a batch; 0 for a source that is missing.
        seed (`int`): Of the shuffles and the augmentation.
        rank (`int`): Of this process.
        world_size (`int`): Number of processes.
        block_size (`int`): Records of a stream that are held and shuffled together, in each worker.

    Raises:
        ValueError: Both sources are missing, one is empty or split already, or a batch size does not fit its source.
        TypeError: A source is of neither kind.

    Example:
        >>> batches = StreamedBatches([{"name": "a"}], [{"name": "b"}, {"name": "c"}], (1, 2), 0, 0, 1)
        >>> records = next(iter(batches)).records
        >>> [record["stream"] for record in records], sorted(record["name"] for record in records)
        ([0, 1, 1], ['a', 'b', 'c'])
    """

    def __init__(
        self,
        labeled,
        unlabeled,
        batch_sizes: tuple[int, int],
        seed: int,
        rank: int,
        world_size: int,
        block_size: int = 256,
    ):
        self.streams = (labeled, unlabeled)
        check_sources(self.streams)
        check_batch_sizes(self.streams, batch_sizes)
        self.batch_sizes, self.seed, self.block_size = tuple(batch_sizes), seed, block_size
        self.rank, self.world_size = rank, world_size
        self.states: list[dict[str, dict] | None] = []
        self.first_worker = 0

    def resume(self, position: StreamPosition) -> None:
        """Go on from a position, with the same number of workers, as a run without interruption would."""
        self.states, self.first_worker = list(position.states), position.next_worker

    def __iter__(self) -> Iterator[StreamedBatch]:
        info = get_worker_info()
        asked, num_workers = (0, 1) if info is None else (info.id, info.num_workers)
        # A loader asks its workers in turn from the first, so the first plays the one whose turn it was.
        share = Share(self.rank, self.world_size, (asked + self.first_worker) % num_workers, num_workers)
        state = dict((self.states[share.worker] if self.states else None) or {})
        streams = [stream for stream in (LABELED, UNLABELED) if self.batch_sizes[stream]]
        readers = {
            stream: self._read(stream, share, Place(**state.get(SOURCE_NAMES[stream], {}))) for stream in streams
        }
        while True:
            records = []
            for stream, reader in readers.items():
                for record, place in islice(reader, self.batch_sizes[stream]):
                    position = share.position(place.count - 1, self.batch_sizes[stream])
                    records.append(tag_record(record, stream, derive_seed(self.seed, 2 + stream, position)))
                state[SOURCE_NAMES[stream]] = place._asdict()
            yield StreamedBatch(records, share.worker, dict(state))

    def _read(self, stream: int, share: Share, place: Place) -> Iterator[tuple[Any, Place]]:
        source, seed = self.streams[stream], (self.seed, stream)
        if is_stream(source):
            return read_stream(source, share, seed, place, self.block_size)
        return read_map_style(source, share, seed, place, self.batch_sizes[stream])


class StreamPosition:
    """Keep, in the main process, where the streams stand after the batches that training has used.

    Args:
        batches (`StreamedBatches`): What is read.
        num_workers (`int`): Of the data loader.

    Example:
        >>> batches = StreamedBatches([{"name": "a"}, {"name": "b"}], None, (1, 0), 0, 0, 1)
        >>> position, iterator = StreamPosition(batches, 0), iter(batches)
        >>> first = next(iterator)
        >>> position.update(first.worker, first.state)
        >>> resumed = StreamPosition(batches, 0)
        >>> resumed.load_state_dict(position.state_dict())
        >>> batches.resume(resumed)
        >>> next(iter(batches)) == next(iterator)
        True
    """

    def __init__(self, batches: StreamedBatches, num_workers: int):
        self.settings = {
            "world_size": batches.world_size,
            "num_workers": max(1, num_workers),
            "rank": batches.rank,
            "batch_sizes": list(batches.batch_sizes),
            "seed": batches.seed,
            "block_size": batches.block_size,
            "sizes": [_size(source) for source in batches.streams],
        }
        self.states: list[dict | None] = [None] * self.settings["num_workers"]
        self.next_worker = 0

    def update(self, worker: int, state: dict) -> None:
        """Move past a batch of this worker that training has used."""
        self.states[worker] = state
        self.next_worker = (worker + 1) % len(self.states)

    def state_dict(self) -> dict:
        """Return what JSON can hold of the position and the settings that it belongs to."""
        return {**self.settings, "next_worker": self.next_worker, "states": list(self.states)}

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Take over a saved position.

        Args:
            saved (`Mapping[str, Any]`): From `state_dict`.

        Raises:
            ValueError: It was saved with other settings: number of processes or workers, batch sizes, seed, or data.
        """
        now = self.settings
        differing = [f"{name} was {saved.get(name)}, is {now[name]}" for name in now if saved.get(name) != now[name]]
        if differing:
            raise ValueError(
                f"the saved position does not fit: {'; '.join(differing)} (sizes are the records of a map-style set or "
                "the shards of a stream). A stream goes on only with the same numbers: use those, or pass "
                "ignore_data_skip=True to start the streams anew."
            )
        self.states, self.next_worker = list(saved["states"]), saved["next_worker"]


class StreamCollator:
    """Collate a `StreamedBatch`, and hand on where its worker stands, as `stream_position`.

    Args:
        collate (`Callable`): Turns a list of records into a dict.

    Example:
        >>> StreamCollator(lambda records: {"count": len(records)})(StreamedBatch([{}, {}], 1, {}))
        {'count': 2, 'stream_position': (1, {})}
    """

    def __init__(self, collate: Callable[[list[dict]], dict]):
        self.collate = collate

    def __call__(self, batch: StreamedBatch) -> dict:
        """Collate the records; `stream_position` holds the arguments of `StreamPosition.update`."""
        return {**self.collate(batch.records), "stream_position": (batch.worker, batch.state)}


def _size(source) -> int | None:
    return None if source is None else source.num_shards if is_stream(source) else len(source)
