"""Two streams, labelled and unlabelled, in one data loader with a fixed ratio in every batch."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch.utils.data import Dataset, Sampler
from transformers import TrainerCallback

from depth_anything_hf.data.records import DepthSample
from depth_anything_hf.training.seeding import derive_seed, generator_at
from depth_anything_hf.training.shares import is_stream

LABELED, UNLABELED = 0, 1
SOURCE_NAMES = ("train_dataset", "unlabeled_dataset")


class Draw(NamedTuple):
    """One sample of a batch: which stream, which record of it, and the seed of its geometric augmentation."""

    stream: int
    index: int
    seed: int


def as_record(record: dict | DepthSample) -> dict:
    """Wrap a sample, as the benchmarks' readers give, so that it can carry more; a record stays what it is."""
    return {"sample": record} if isinstance(record, DepthSample) else record


def tag_record(record: dict | DepthSample, stream: int, seed: int) -> dict:
    """Copy a record and add which stream it is of, and the seed of its augmentation."""
    return {**as_record(record), "stream": stream, "draw_seed": seed}


def check_sources(sources: tuple) -> None:
    """Raise unless there is a labelled or an unlabelled source, and each that there is has records.

    Args:
        sources (`tuple`): Labelled and unlabelled: map-style, a `datasets.IterableDataset`, or None.

    Raises:
        ValueError: Both are missing, or one is empty or split by process already.
        TypeError: One is of neither kind.
    """
    if all(source is None for source in sources):
        raise ValueError("no training data; pass train_dataset (labelled), unlabeled_dataset, or both.")
    for name, source in zip(SOURCE_NAMES, sources, strict=True):
        if source is None:
            continue
        if is_stream(source):
            if source._distributed is not None:
                raise ValueError(f"{name} is split by process already; pass all of it: each process takes its share.")
        elif not (hasattr(source, "__len__") and hasattr(source, "__getitem__")):
            raise TypeError(
                f"{name} is a {type(source).__name__} without a length and an index; it must be map-style or a "
                "datasets.IterableDataset, which datasets.IterableDataset.from_generator makes of any generator function."
            )
        elif len(source) == 0:
            raise ValueError(f"{name} has 0 records; check its folder, or leave it out.")


def check_batch_sizes(sources: tuple, batch_sizes: tuple[int, int]) -> None:
    """Raise a `ValueError` unless each source that is given has records in a batch, and one that is missing none."""
    for source, size in zip(sources, batch_sizes, strict=True):
        if (source is None) != (size == 0) or size < 0:
            raise ValueError(
                f"batch_sizes (labelled, unlabelled) are {batch_sizes}; each must be positive where its data set is "
                "given and 0 where it is not."
            )


class TrainingStreams(Dataset):
    """Hold the labelled and the unlabelled records behind one index, which is a `Draw`.

    Args:
        labeled (*optional*): Map-style dataset of records with labels, or of samples as the benchmarks' readers give.
        unlabeled (*optional*): Map-style dataset of records: photographs, or pseudo-labels.

    Raises:
        ValueError: Both are missing, or one is empty.
        TypeError: One has no length.
    """

    def __init__(self, labeled=None, unlabeled=None):
        self.streams = (labeled, unlabeled)
        check_sources(self.streams)

    def __len__(self) -> int:
        return sum(len(stream) for stream in self.streams if stream is not None)

    def __getitem__(self, draw: Draw) -> dict:
        return tag_record(self.streams[draw.stream][draw.index], draw.stream, draw.seed)

    def __getitems__(self, draws: list[Draw]) -> list[dict]:
        """Read a batch; a source that can give several records at once, by `__getitems__`, is asked for all of its."""
        tagged: dict[int, dict] = {}
        for stream, source in enumerate(self.streams):
            places = [place for place, draw in enumerate(draws) if draw.stream == stream]
            indices = [draws[place].index for place in places]
            several = getattr(source, "__getitems__", None)
            records = several(indices) if several and places else [source[index] for index in indices]
            for place, record in zip(places, records, strict=True):
                tagged[place] = tag_record(record, stream, draws[place].seed)
        return [tagged[place] for place in range(len(draws))]


class StreamBatchSampler(Sampler[list[Draw]]):
    """Draw batches of so many labelled and so many unlabelled records, labelled first, every batch full.

    An epoch is one sweep over the unlabelled records (V1, section 4.1), or over the labelled ones where they are
    alone; the last batch is filled from the next shuffle. The other stream goes round at its own pace. Everything
    follows from the seed and the epoch, and nothing from the number of processes: those together draw what one alone
    draws with a batch that many times as large.

    Args:
        streams (`TrainingStreams`): The two sets.
        batch_sizes (`tuple[int, int]`): Labelled and unlabelled records in a batch; 0 for a stream that is missing.
        seed (`int`): Of the shuffles and the augmentation.
        num_processes (`int`): Take turns at the batches; an epoch has as many for each.

    Raises:
        ValueError: A batch size does not fit its stream.
    """

    drop_last = False  # read by accelerate

    def __init__(self, streams: TrainingStreams, batch_sizes: tuple[int, int], seed: int = 0, num_processes: int = 1):
        check_batch_sizes(streams.streams, batch_sizes)
        self.lengths = [0 if stream is None else len(stream) for stream in streams.streams]
        self.batch_sizes = batch_sizes
        self.batch_size = sum(batch_sizes)
        self.seed = seed
        self.num_processes = num_processes
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose batches are drawn next."""
        self.epoch = epoch

    def __len__(self) -> int:
        swept = UNLABELED if self.batch_sizes[UNLABELED] else LABELED
        # Rounded up: accelerate would fill the last round with batches of the first.
        return math.ceil(self.lengths[swept] / self.batch_sizes[swept] / self.num_processes) * self.num_processes

    def __iter__(self) -> Iterator[list[Draw]]:
        orders: dict[tuple[int, int], torch.Tensor] = {}

        def record(stream: int, position: int) -> int:
            sweep, offset = divmod(position, self.lengths[stream])
            if (stream, sweep) not in orders:
                orders.pop((stream, sweep - 1), None)
                order = torch.randperm(self.lengths[stream], generator=generator_at(self.seed, stream, sweep))
                orders[stream, sweep] = order
            return int(orders[stream, sweep][offset])

        first = self.epoch * len(self)
        for batch in range(first, first + len(self)):
            yield [
                Draw(stream, record(stream, position), derive_seed(self.seed, 2 + stream, position))
                for stream in (LABELED, UNLABELED)
                for position in range(batch * self.batch_sizes[stream], (batch + 1) * self.batch_sizes[stream])
            ]


class SetEpoch(TrainerCallback):
    """Tell the sampler its epoch: after a resume accelerate's wrappers hide it from the Trainer."""

    def __init__(self, sampler: StreamBatchSampler, updates_per_epoch: int):
        self.sampler = sampler
        self.updates_per_epoch = updates_per_epoch

    def on_epoch_begin(self, args, state, control, **kwargs):
        """Set it from where training stands."""
        self.sampler.set_epoch(state.global_step // self.updates_per_epoch)
