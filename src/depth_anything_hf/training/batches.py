"""One reader of batches: labeled and unlabeled records in a fixed ratio, from sets with an index and from streams.

The sampler plans the numbers of the batches, and for a set with an index the records of each batch. A stream
(`datasets.IterableDataset`) has no index: each worker of each process reads its own share, and a batch includes the
position of its worker after it, so the main process knows the position although workers run ahead. Shuffles and the seeds
of the augmentation follow from the run's seed and the number of the batch: a resumed run equals an uninterrupted one.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import os
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.data_loader import prepare_data_loader
from torch.utils.data import BatchSampler, DataLoader, Dataset, get_worker_info
from transformers import TrainingArguments

from depth_anything_hf.data.record_images import record_image, with_record_images
from depth_anything_hf.data.records import DepthSample
from depth_anything_hf.prediction.stream import share

if TYPE_CHECKING:
    import datasets

LABELED, UNLABELED = 0, 1
SOURCE_NAMES = ("train_dataset", "unlabeled_dataset")


def derive_seed(*position: int) -> int:
    """Mix non-negative integers, such as seed, epoch and index, into one seed.

    A run that resumes derives the same seeds as one that was never interrupted, in any number of workers, and no
    random state has to be saved.

    Args:
        position (`int`): At least one non-negative integer. Trailing zeros do not count: (3, 0) is (3,).

    Returns:
        `int`: In [0, 2**63).

    Example:
        >>> derive_seed(0, 1) == derive_seed(0, 1), derive_seed(0, 1) == derive_seed(1, 0)
        (True, False)
    """
    return int(np.random.SeedSequence(position).generate_state(1, np.uint64)[0] >> np.uint64(1))


def generator_at(*position: int) -> torch.Generator:
    """Make a CPU generator seeded with `derive_seed(*position)`."""
    return torch.Generator().manual_seed(derive_seed(*position))


def as_record(record: dict | DepthSample) -> dict:
    """Wrap a sample of a benchmark's reader, so that it can have more keys; return a record unchanged."""
    if isinstance(record, DepthSample):
        return {"sample": record}
    if not isinstance(record, Mapping):
        raise TypeError(
            f"a record is a {type(record).__name__}; it must be a mapping with image, depth_map, depth_scale, depth_offset "
            "and space. encode_record(image, depth, space='depth') makes one."
        )
    return record  # type: ignore[return-value]


def is_stream(source) -> bool:
    """Return whether a source is a `datasets.IterableDataset`, not a set with an index."""
    from datasets import IterableDataset

    return isinstance(source, IterableDataset)


def max_workers(source, world_size: int) -> int | None:
    """Count the workers per process that a source has shards for.

    Args:
        source: Set with an index, or `datasets.IterableDataset`.
        world_size (`int`): Number of processes.

    Returns:
        `int` or `None`: Smallest number of shards that a process has of a stream; None = any number, for a set with an index.

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


class Plan(NamedTuple):
    """One batch to read: its number in the run, and for each source the indices of its records (None: a stream)."""

    number: int
    indices: tuple[list[int] | None, list[int] | None]


class Batch(NamedTuple):
    """Records of one batch, labeled first; for streams also the worker that read them and its position after them."""

    records: list[dict]
    worker: int
    state: dict[str, dict] | None


class BatchReader(Dataset):
    """Read batches of labeled and unlabeled records, labeled first.

    Args:
        labeled (*optional*): Records with labels, or samples of a benchmark's reader: a set with a length and an index,
            or a `datasets.IterableDataset`. A stream must not be split by process beforehand, needs no shuffle, and
            should have `features`: its blocks then contain encoded images.
        unlabeled (*optional*): Photographs or pseudo-labeled records, of either kind.
        batch_sizes (`tuple[int, int]`): Labeled and unlabeled records in a batch; 0 for a missing source.
        seed (`int`): Seed of the shuffles and the augmentation.
        rank (`int`): Number of this process.
        world_size (`int`): Number of processes.
        block_size (`int`): Records of a stream that each worker keeps in memory and shuffles together.

    Raises:
        ValueError: Both sources are missing, one is empty or already split by process, or a batch size does not fit
            its source.
        TypeError: A source is of neither kind.

    Example:
        >>> reader = BatchReader([{"name": "a"}], [{"name": "b"}, {"name": "c"}], (1, 2))
        >>> records = next(iter(reader.loader())).records
        >>> [record["part"] for record in records], sorted(record["name"] for record in records)
        ([0, 1, 1], ['a', 'b', 'c'])
    """

    def __init__(
        self,
        labeled,
        unlabeled,
        batch_sizes: tuple[int, int],
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        block_size: int = 256,
    ):
        self.sources = tuple(map(with_record_images, (labeled, unlabeled)))
        _check_sources(self.sources, batch_sizes)
        self.batch_sizes, self.seed, self.block_size = (batch_sizes[0], batch_sizes[1]), seed, block_size
        self.rank, self.world_size = rank, world_size
        self.has_streams = any(map(is_stream, self.sources))
        self._states: list[dict[str, dict] | None] = []
        self._first_worker = self.first_turn = 0  # of streams
        self._readers: dict[int, Iterator[tuple[dict, Place]]] = {}  # of the streams, in the process that reads

    def __len__(self) -> int:
        if self.has_streams:
            raise TypeError("a stream has no length")
        return sum(len(source) for source in self.sources if source is not None)

    def __getitems__(self, plans: list[Plan]) -> Batch:
        """Read one batch: a data loader passes a list with one plan."""
        (plan,) = plans
        share = self._share()
        state = dict((self._states[share.worker] if self._states else None) or {}) if self.has_streams else None
        records = []
        for part, (source, size) in enumerate(zip(self.sources, self.batch_sizes, strict=True)):
            if not size:
                continue
            if is_stream(source):
                if part not in self._readers:
                    place = Place(**(state or {}).get(SOURCE_NAMES[part], {}))
                    self._readers[part] = read_stream(source, share, (self.seed, part), place, self.block_size)
                drawn, places = zip(*itertools.islice(self._readers[part], size), strict=True)
                state = (state or {}) | {SOURCE_NAMES[part]: asdict(places[-1])}
            else:
                indices = plan.indices[part] or []
                at_once = getattr(source, "__getitems__", None)
                drawn = at_once(indices) if at_once else [source[index] for index in indices]
            first = plan.number * size
            records += [
                {**as_record(record), "part": part, "draw_seed": derive_seed(self.seed, 2 + part, first + i)}
                for i, record in enumerate(drawn)
            ]
        if state is not None:
            self._states = self._states or [None] * share.num_workers
            self._states[share.worker] = state
        return Batch(records, share.worker, state)

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_readers": {}}  # a worker opens its own

    def _share(self) -> Share:
        info = get_worker_info()
        asked, num_workers = (0, 1) if info is None else (info.id, info.num_workers)
        # A loader asks its workers in turn, starting with the first, so the first takes the place of the next one.
        return Share(self.rank, self.world_size, (asked + self._first_worker) % num_workers, num_workers)

    def resume(self, position: StreamPosition) -> None:
        """Continue the streams from a position, with the same number of workers, as an uninterrupted run would."""
        self._states, self._first_worker, self._readers = list(position.states), position.next_worker, {}
        self.first_turn = position.turn

    def loader(self, collate: Callable[[list[dict]], Any] | None = None, **settings) -> DataLoader:
        """Make a data loader over this process's batches.

        Args:
            collate (`Callable`, *optional*): Turns the records of a batch into a dict; with streams `stream_position` is
                added to it. Left out: `Batch` tuples.
            settings: Arguments of `DataLoader`, such as `num_workers`.

        Returns:
            `DataLoader`: Endless with streams, else of one epoch.
        """
        collate_batch: Callable[[Any], Any] = _keep if collate is None else BatchCollator(collate)
        return DataLoader(self, batch_sampler=BatchNumbers(self), collate_fn=collate_batch, **settings)


class BatchNumbers(BatchSampler):
    """Plan the batches of one process, epoch by epoch; with streams an epoch has no end.

    An epoch is one sweep over the unlabeled records (V1, section 4.1), or over the labeled ones if there are no others.
    Every batch is full: the last one is filled from the next shuffle. The other source is repeated at its own pace.
    The records depend only on the seed and the number of the batch, not on the number of processes: n processes
    together draw the same records as one process with a batch n times as large.

    Args:
        reader (`BatchReader`): The sources, the batch sizes, and which process this is.

    Example:
        >>> plans = BatchNumbers(BatchReader(["a", "b", "c"], None, (2, 0)))
        >>> len(plans), [len(plan.indices[0]) for (plan,) in plans]
        (2, [2, 2])
    """

    drop_last = False  # read by accelerate

    def __init__(self, reader: BatchReader):
        self.reader, self.epoch = reader, 0
        self.batch_size = sum(reader.batch_sizes)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose batches are planned next."""
        self.epoch = epoch

    def __len__(self) -> int:
        if self.reader.has_streams:
            raise TypeError("a stream has no length")
        swept = UNLABELED if self.reader.batch_sizes[UNLABELED] else LABELED
        # Rounded up, so that all processes have the same number of batches.
        return math.ceil(len(self.reader.sources[swept]) / self.reader.batch_sizes[swept] / self.reader.world_size)

    def __iter__(self) -> Iterator[list[Plan]]:  # type: ignore[override]  # a sampler of PyTorch yields integers
        orders: dict[tuple[int, int], torch.Tensor] = {}
        reader = self.reader

        def indices(part: int, number: int) -> list[int] | None:
            source, size = reader.sources[part], reader.batch_sizes[part]
            if source is None or is_stream(source):
                return None
            found = []
            for position in range(number * size, (number + 1) * size):
                sweep, offset = divmod(position, len(source))
                if (part, sweep) not in orders:
                    for old in [key for key in orders if key[0] == part and key[1] < sweep - 1]:
                        del orders[old]
                    generator = generator_at(reader.seed, part, sweep)
                    orders[part, sweep] = torch.randperm(len(source), generator=generator)
                found.append(int(orders[part, sweep][offset]))
            return found

        if reader.has_streams:
            turns: Iterable[int] = itertools.count(reader.first_turn)
        else:
            turns = range(self.epoch * len(self), (self.epoch + 1) * len(self))
        for turn in turns:
            number = reader.rank + turn * reader.world_size
            found = (indices(LABELED, number), indices(UNLABELED, number)) if turn >= 0 else (None, None)
            yield [Plan(number, found)]


class BatchCollator:
    """Collate the records of a `Batch`, and add the position of its worker as `stream_position`.

    Args:
        collate (`Callable`): Turns a list of records into a dict.

    Example:
        >>> BatchCollator(lambda records: {"count": len(records)})(Batch([{}, {}], 1, {}))
        {'count': 2, 'stream_position': (1, {})}
    """

    def __init__(self, collate: Callable[[list[dict]], dict]):
        self.collate = collate

    def __call__(self, batch: Batch) -> dict:
        """Collate the records; `stream_position` holds the arguments of `StreamPosition.update`."""
        position = {} if batch.state is None else {"stream_position": (batch.worker, batch.state)}
        return {**self.collate(batch.records), **position}


class Batches:
    """Load a process's batches for a Trainer, and continue after a checkpoint at the record where it stopped.

    For sets with an index the Trainer counts the finished batches and skips their plans. For streams the position
    is saved with every checkpoint.

    Args:
        reader (`BatchReader`): The sources.
        collate (`Callable`): Turns a list of records into a dict.
        args (`TrainingArguments`): Arguments of the run.
    """

    def __init__(self, reader: BatchReader, collate: Callable[[list[dict]], dict], args: TrainingArguments):
        self.reader, self.collate, self.args = reader, collate, args
        limits = [max_workers(source, reader.world_size) for source in reader.sources if source is not None]
        asked = args.dataloader_num_workers
        self.num_workers = min([asked, *(limit for limit in limits if limit is not None)])
        if self.num_workers < asked:
            warnings.warn(
                f"dataloader_num_workers is {asked}, but a process has only {self.num_workers} shards of a stream; it gets that "
                "many workers. Write more shards, for example with a smaller shard_size, to use more.",
                stacklevel=2,
            )
        self.position = StreamPosition(reader, self.num_workers)

    def loader(
        self, accelerator: Accelerator, checkpoint: str | os.PathLike | None = None, skipped: int = 0
    ) -> DataLoader:
        """Make the loader; streams start at the beginning, or at the position in a checkpoint.

        Args:
            accelerator (`Accelerator`): Of the Trainer.
            checkpoint (*optional*): Its folder.
            skipped (`int`): Plans that the Trainer skips after it: its updates by today's gradient accumulation, which
                are more or fewer than the batches that were used where that has changed.

        Raises:
            ValueError: The checkpoint has no position for this process, or its settings differ.
        """
        if self.reader.has_streams:
            self.position = StreamPosition(self.reader, self.num_workers)
            if checkpoint is not None:
                path = self._file(checkpoint)
                if not path.is_file():
                    raise ValueError(
                        f"{path} is missing: the checkpoint was not written by this many processes with streams. Use the "
                        "same number, or pass ignore_data_skip=True to start the streams from the beginning."
                    )
                self.position.load_state_dict(json.loads(path.read_text(encoding="utf-8")))
            self.reader.resume(self.position)
            self.reader.first_turn -= skipped  # below 0 are plans that nobody reads
        loader = self.reader.loader(self.collate, **loader_settings(self.args, self.num_workers))
        # Each process plans its own batches: accelerate has nothing to divide.
        return prepare_data_loader(
            loader,
            accelerator.device,
            num_processes=1,
            process_index=0,
            put_on_device=True,
            dispatch_batches=False,
            non_blocking=accelerator.non_blocking,
        )

    def used(self, inputs: Mapping[str, Any]) -> None:
        """Move the position past a batch that training has used."""
        if "stream_position" in inputs:
            self.position.update(*inputs["stream_position"])

    def save(self, checkpoint: str | os.PathLike) -> None:
        """Write the position of this process's streams into a checkpoint."""
        if self.reader.has_streams:
            path = self._file(checkpoint)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(self.position.state_dict()), encoding="utf-8")

    def _file(self, checkpoint: str | os.PathLike) -> Path:
        return Path(checkpoint) / f"stream_position_{self.reader.rank}.json"


def loader_settings(args: TrainingArguments, num_workers: int) -> dict[str, Any]:
    """Return the settings of a `DataLoader` for the arguments of a run."""
    settings: dict[str, Any] = {"num_workers": num_workers, "pin_memory": args.dataloader_pin_memory}
    if num_workers > 0:
        settings |= {
            "persistent_workers": args.dataloader_persistent_workers,
            "prefetch_factor": args.dataloader_prefetch_factor,
            "multiprocessing_context": args.dataloader_multiprocessing_context,
            "timeout": args.ddp_timeout,  # every wait has an end
        }
    return settings


def hand_over(batch: Any) -> Any:
    """Return a batch as a worker process passes it on: in shared memory; elsewhere as it is.

    Raises:
        RuntimeError: The shared memory is full.
    """
    try:
        return share(batch)
    except OSError as error:
        raise RuntimeError(f"{_SHARED_MEMORY} ({str(error.__cause__).splitlines()[0]})") from error


_SHARED_MEMORY = (
    "a data loading process found no room in the shared memory, /dev/shm, or was killed for lack of memory. Docker gives "
    "64 MB: start it with --shm-size=8g or --ipc=host, or lower dataloader_num_workers (0 needs none)."
)


@contextlib.contextmanager
def plain_worker_errors() -> Iterator[None]:
    """Turn the errors of a data loader's workers into what they say without workers.

    Raises:
        RuntimeError: A worker died or does not answer.
    """
    try:
        yield
    except Exception as error:
        text, kind = str(error), type(error)
        if text.startswith(f"Caught {kind.__name__} in DataLoader worker"):
            own = re.split(rf"\n(?:\w+\.)*{kind.__name__}: ", text)
            if len(own) > 1:
                raise kind(own[-1].strip()) from error
        elif isinstance(error, RuntimeError) and re.search(r"DataLoader (worker|timed out)", text):
            raise RuntimeError(f"{_SHARED_MEMORY} ({text.splitlines()[0]})") from error
        raise


class StreamPosition:
    """Store, in the main process, the position of the streams after the batches that training has used.

    Args:
        reader (`BatchReader`): Reader of the sources.
        num_workers (`int`): Worker processes of the data loader.

    Example:
        >>> from datasets import Dataset
        >>> def reader():
        ...     return BatchReader(Dataset.from_dict({"name": list("abc")}).to_iterable_dataset(), None, (1, 0))
        >>> straight, position = iter(reader().loader()), StreamPosition(reader(), 0)
        >>> first = next(straight)
        >>> position.update(first.worker, first.state)
        >>> resumed, restored = reader(), StreamPosition(reader(), 0)
        >>> restored.load_state_dict(position.state_dict())
        >>> resumed.resume(restored)
        >>> next(iter(resumed.loader())).records[0]["name"] == next(straight).records[0]["name"]
        True
    """

    def __init__(self, reader: BatchReader, num_workers: int):
        self.settings = {
            "world_size": reader.world_size,
            "num_workers": max(1, num_workers),
            "rank": reader.rank,
            "batch_sizes": list(reader.batch_sizes),
            "seed": reader.seed,
            "block_size": reader.block_size,
            "sizes": [_size(source) for source in reader.sources],
        }
        self.states: list[dict | None] = [None] * max(1, num_workers)
        self.next_worker = 0
        self._streamed = [(SOURCE_NAMES[i], reader.batch_sizes[i]) for i in (0, 1) if is_stream(reader.sources[i])]

    @property
    def turn(self) -> int:
        """Number of batches that this process has used."""
        (name, size), *_ = self._streamed
        return sum(state[name]["count"] // size for state in self.states if state)

    def update(self, worker: int, state: dict) -> None:
        """Move past a batch of this worker that training has used."""
        self.states[worker] = state
        self.next_worker = (worker + 1) % len(self.states)

    def state_dict(self) -> dict:
        """Return the position and its settings as JSON types."""
        return {**self.settings, "next_worker": self.next_worker, "states": list(self.states)}

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Restore a saved position.

        Args:
            saved (`Mapping[str, Any]`): From `state_dict`.

        Raises:
            ValueError: It was saved with other settings: number of processes or workers, batch sizes, seed, or data.
        """
        now = self.settings
        differing = [f"{name} was {saved.get(name)}, is {now[name]}" for name in now if saved.get(name) != now[name]]
        if differing:
            raise ValueError(
                f"the saved position does not fit: {'; '.join(differing)} (sizes are the records of a set with an index "
                "or the shards of a stream). A stream continues only with the same numbers: use those, or pass "
                "ignore_data_skip=True to start the streams from the beginning."
            )
        self.states, self.next_worker = list(saved["states"]), saved["next_worker"]


@dataclass(frozen=True)
class Share:
    """The part of a stream that one worker of one process reads."""

    rank: int
    world_size: int
    worker: int
    num_workers: int

    @property
    def index(self) -> int:
        """Number of this share; every process has one before any process has two."""
        return self.worker * self.world_size + self.rank

    @property
    def total(self) -> int:
        """Number of shares."""
        return self.world_size * self.num_workers


@dataclass(frozen=True)
class Place:
    """The position in a share of a stream."""

    count: int = 0  # records yielded so far
    sweep: int = 0
    block: int = 0  # in this sweep
    offset: int = 0  # records yielded from this block
    start: dict | None = None  # state of the data set at the start of the block; None = start of the sweep


def read_stream(
    source: datasets.IterableDataset, share: Share, seed: tuple[int, int], place: Place, block_size: int
) -> Iterator[tuple[dict, Place]]:
    """Read a share of a stream without end: its shards in a new order in each sweep, in shuffled blocks.

    A share is whole shards (parquet files, or as `datasets` counts them), or every n-th record if there are fewer
    shards than processes; use many shards of about equal size.

    Args:
        source (`datasets.IterableDataset`): Not yet split.
        share (`Share`): The share to read.
        seed (`tuple[int, int]`): Seed of the run, and number of the source.
        place (`Place`): Where to continue; its block is read again.
        block_size (`int`): Records of a block; images stay encoded in memory if `source.features` names them.

    Yields:
        A record, its images decoded, and the place after it.

    Raises:
        ValueError: The share has no shards, or no records.
    """
    from datasets import Image

    features = source.features or {}
    images = {name: record_image(kind) for name, kind in features.items() if isinstance(kind, Image) and kind.decode}
    encoded = source.decode(False) if features else source
    while True:
        part = _part(encoded, share)
        part.set_epoch(derive_seed(*seed, place.sweep) % 2**31)  # `datasets` adds it to 63-bit seeds of its own
        part.load_state_dict(place.start)
        rows = part.iter(batch_size=1)  # `__iter__` would split the part by worker once more
        while block := [
            {name: values[0] for name, values in row.items()} for row in itertools.islice(rows, block_size)
        ]:
            order = torch.randperm(len(block), generator=generator_at(*seed, place.sweep, share.index, place.block))
            for i in order[place.offset :].tolist():
                place = replace(place, count=place.count + 1, offset=place.offset + 1)
                yield _decoded(block[i], images), place
                block[i].clear()  # else two blocks would be in memory while the next one is read
            place = replace(place, block=place.block + 1, offset=0, start=part.state_dict())
        if place.block == 0:
            raise ValueError(
                f"a stream of {source.num_shards} shards has no records for {share}; check its files, or use fewer "
                "workers or processes."
            )
        place = Place(place.count, place.sweep + 1)


def _part(source: datasets.IterableDataset, share: Share) -> datasets.IterableDataset:
    """Return a share: whole shards, or every n-th record if there are fewer shards than processes."""
    from datasets.distributed import split_dataset_by_node

    limit = max_workers(source, share.world_size) or 0
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


def _check_sources(sources: tuple, batch_sizes: tuple[int, int]) -> None:
    """Raise an error if a source cannot be read, or if a batch size does not fit it."""
    if all(source is None for source in sources):
        raise ValueError("no training data; pass train_dataset (labeled), unlabeled_dataset, or both.")
    for name, source in zip(SOURCE_NAMES, sources, strict=True):
        if source is None:
            continue
        if is_stream(source):
            if source._distributed is not None:
                raise ValueError(
                    f"{name} is split by process already; pass the whole stream: each process takes its share."
                )
        elif not (hasattr(source, "__len__") and hasattr(source, "__getitem__")):
            raise TypeError(
                f"{name} is a {type(source).__name__} without a length and an index; pass a set that has both, or a "
                "datasets.IterableDataset, such as datasets.IterableDataset.from_generator returns for a generator function."
            )
        elif len(source) == 0:
            raise ValueError(f"{name} has 0 records; check its folder, or leave it out.")
    for source, size in zip(sources, batch_sizes, strict=True):
        if (source is None) != (size == 0) or size < 0:
            raise ValueError(
                f"batch_sizes (labeled, unlabeled) are {batch_sizes}; each must be positive if its data set is passed "
                "and 0 if it is not."
            )


def _size(source) -> int | None:
    return None if source is None else source.num_shards if is_stream(source) else len(source)


def _keep(batch: Batch) -> Batch:
    return batch
