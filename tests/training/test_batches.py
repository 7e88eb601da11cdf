import itertools
import json
import math
import pickle
from collections import Counter
from functools import cache
from itertools import islice

import datasets
import numpy as np
import pytest
import torch
from accelerate import skip_first_batches
from accelerate.data_loader import prepare_data_loader
from torch.utils.data import IterableDataset as TorchIterableDataset

from depth_anything_hf.data.folder import stream_folder
from depth_anything_hf.data.record_images import RecordImage
from depth_anything_hf.data.records import DepthSample, decode_record, encode_record, record_features
from depth_anything_hf.training.batches import (
    BatchCollator,
    BatchNumbers,
    BatchReader,
    Place,
    Share,
    StreamPosition,
    derive_seed,
    max_workers,
    read_stream,
)

# Three workers are more than some machines' CPU cores.
pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")

LABELED = [{"name": f"l{i}"} for i in range(5)]
UNLABELED = [{"name": f"u{i}"} for i in range(12)]
SEVEN = UNLABELED[:7]


def generate(shards):
    for shard in shards:
        yield from ({"name": f"u{shard}-{i}"} for i in range(4))


@cache
def from_generator(shards):
    """A stream of Python objects: 4 records a shard."""
    return datasets.IterableDataset.from_generator(generate, gen_kwargs={"shards": list(range(shards))})


@cache
def from_tables(shards):
    """A stream of Arrow tables, as parquet gives them: 4 records a shard."""
    names = [record["name"] for record in generate(range(shards))]
    return datasets.Dataset.from_dict({"name": names}).to_iterable_dataset(num_shards=shards)


def make(labeled=LABELED, unlabeled=UNLABELED, batch_sizes=(1, 2), seed=0, rank=0, world_size=1, block_size=3):
    return BatchReader(labeled, unlabeled, batch_sizes, seed, rank, world_size, block_size)


def alone(source, **settings):
    return make(None, source, (0, 1), **settings)


def name_records(records):
    """Keep names and seeds; at module level, so that spawned workers find it."""
    return {"drawn": [(record["name"], record["part"], record["draw_seed"]) for record in records]}


def open_loader(reader, workers=0):
    return reader.loader(name_records, num_workers=workers)


def epochs(reader, workers=0):
    """Batches epoch after epoch, as a Trainer reads them; of a stream, one epoch without end."""
    loader = open_loader(reader, workers)
    for epoch in itertools.count():
        loader.batch_sampler.set_epoch(epoch)
        yield from loader


def read(reader, count, workers=0):
    return list(islice(epochs(reader, workers), count))


def epoch(reader, number, workers=0):
    """The names and seeds of the batches of one epoch."""
    loader = open_loader(reader, workers)
    loader.batch_sampler.set_epoch(number)
    return [batch["drawn"] for batch in loader]


def epoch_of_all(batch_sizes, number, processes, seed=0):
    """The batches that all processes read in an epoch, in the order of their numbers."""
    ranks = [
        epoch(make(batch_sizes=batch_sizes, seed=seed, rank=r, world_size=processes), number) for r in range(processes)
    ]
    return [batch for turn in zip(*ranks, strict=True) for batch in turn]


def drawn(batches, count, workers=0):
    return [batch["drawn"] for batch in read(batches, count, workers)]


def names_by_sweep(source, rank, world_size, workers):
    """Names that one process draws in its first two sweeps over a stream."""
    found, ahead = ([], []), set()
    for batch in open_loader(alone(source, rank=rank, world_size=world_size), workers):
        worker, state = batch["stream_position"]
        sweep = state["unlabeled_dataset"]["sweep"]
        if sweep < 2:
            found[sweep].extend(name for name, _, _ in batch["drawn"])
        else:
            ahead.add(worker)
        if len(ahead) == workers:
            return found


# Batches


@pytest.mark.parametrize("unlabeled", [UNLABELED, from_tables(3)], ids=["indexed", "stream"])
@pytest.mark.parametrize("labeled", [LABELED, from_generator(2)], ids=["indexed", "stream"])
def test_reader__ratio_and_order_in_each_batch(labeled, unlabeled):
    for batch in drawn(make(labeled, unlabeled, (2, 3)), 20):
        assert [stream for _, stream, _ in batch] == [0, 0, 1, 1, 1]


def test_reader__one_source_alone():
    assert {stream for batch in drawn(make(from_tables(2), None, (3, 0)), 6) for _, stream, _ in batch} == {0}
    assert {stream for batch in drawn(make(None, from_tables(2), (0, 3)), 6) for _, stream, _ in batch} == {1}


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2, 3])
@pytest.mark.parametrize("world_size", [1, 2])
def test_reader__sets_with_an_index_are_drawn_alike_beside_a_stream(world_size, workers):
    """The labeled records, their order and their seeds do not depend on what the other source is."""
    found = []
    for unlabeled in (UNLABELED, from_tables(8)):
        ranks = [
            drawn(make(LABELED, unlabeled, (2, 3), 4, rank, world_size), 16 // world_size, workers)
            for rank in range(world_size)
        ]
        batches = [batch for turn in zip(*ranks, strict=True) for batch in turn]
        found.append([[draw for draw in batch if draw[1] == 0] for batch in batches])
        assert [draw[2] for batch in found[-1] for draw in batch] == [derive_seed(4, 2, i) for i in range(32)]
    assert found[0] == found[1]
    names = [name for batch in found[0] for name, _, _ in batch]
    assert all(sorted(names[i : i + 5]) == [f"l{k}" for k in range(5)] for i in range(0, 30, 5))


def test_reader__a_sample_is_tagged_like_a_record():
    sample = DepthSample(image=None, source="a")
    (record,) = next(iter(make([sample], None, (1, 0)).loader())).records
    assert record.keys() == {"sample", "part", "draw_seed"}
    assert record["sample"] is sample


@pytest.mark.slow
def test_reader__seeds_are_unlike_in_all_shares():
    drawn_by_all = [drawn(make(from_tables(4), from_tables(4), rank=rank, world_size=2), 20, 2) for rank in (0, 1)]
    seeds = [seed for batches in drawn_by_all for batch in batches for _, _, seed in batch]
    assert len(set(seeds)) == len(seeds) == 120


def test_reader__same_seed_same_draws():
    first, again, other = (drawn(make(LABELED, from_tables(3), seed=seed), 20) for seed in (0, 0, 1))
    assert first == again
    assert first != other
    assert {name for batch in first for name, _, _ in batch} == {name for batch in other for name, _, _ in batch}


# Sets with an index: the plan of an epoch


def test_plan__ratio_and_order_in_each_batch():
    batches = epoch(make(batch_sizes=(2, 3), unlabeled=SEVEN), 0)
    assert len(batches) == 3  # ceil(7 / 3)
    for batch in batches:
        assert [stream for _, stream, _ in batch] == [0, 0, 1, 1, 1]


@pytest.mark.parametrize("number", [0, 1, 4])
def test_plan__an_epoch_reaches_every_unlabeled_record(number):
    batches = epoch(make(batch_sizes=(1, 1), unlabeled=SEVEN), number)
    assert sorted(name for batch in batches for name, stream, _ in batch if stream) == [f"u{i}" for i in range(7)]


def test_plan__sweeps_follow_one_another_across_epochs():
    reader = make(unlabeled=SEVEN)  # 4 batches = 8 unlabeled draws an epoch, of 7 records
    draws = [draw for number in range(7) for batch in epoch(reader, number) for draw in batch]
    unlabeled = [name for name, stream, _ in draws if stream]
    labeled = [name for name, stream, _ in draws if not stream]
    assert len(unlabeled) == 56
    assert len(labeled) == 28
    for sweep in range(8):
        assert sorted(unlabeled[7 * sweep : 7 * sweep + 7]) == [f"u{i}" for i in range(7)]
    for sweep in range(5):
        assert sorted(labeled[5 * sweep : 5 * sweep + 5]) == [f"l{i}" for i in range(5)]
    assert unlabeled[:7] != unlabeled[7:14]


def test_plan__last_batch_is_full():
    assert {len(batch) for batch in epoch(make(batch_sizes=(2, 4), unlabeled=SEVEN), 0)} == {6}


def test_plan__one_source_sweeps_itself():
    only_labeled = epoch(make(LABELED, None, (2, 0)), 0)
    assert len(only_labeled) == 3
    assert {stream for batch in only_labeled for _, stream, _ in batch} == {0}
    (only_unlabeled,) = epoch(make(None, SEVEN, (0, 7)), 0)
    assert sorted(name for name, _, _ in only_unlabeled) == [f"u{i}" for i in range(7)]


@pytest.mark.parametrize("processes", [1, 2, 3, 4])
def test_plan__processes_together_draw_what_one_draws_with_a_larger_batch(processes):
    for number in range(3):
        whole = epoch(make(batch_sizes=(2 * processes, 3 * processes)), number)
        shares = epoch_of_all((2, 3), number, processes)
        assert len(shares) == processes * len(whole)
        for i, batch in enumerate(whole):
            turn = shares[processes * i : processes * (i + 1)]
            assert batch == [draw for share in turn for draw in share[:2]] + [d for share in turn for d in share[2:]]


def test_plan__batch_larger_than_its_source_goes_round():
    (batch,) = epoch(make(batch_sizes=(12, 7), unlabeled=SEVEN), 0)
    names = [name for name, stream, _ in batch if not stream]
    assert sorted(names[:5]) == sorted(names[5:10]) == [f"l{i}" for i in range(5)]
    assert len({seed for _, _, seed in batch}) == 19


def test_plan__same_seed_same_draws():
    assert epoch(make(), 1) == epoch(make(), 1)
    assert epoch(make(seed=0), 1) != epoch(make(seed=1), 1)


def test_plan__other_epoch_other_order_and_other_seeds():
    reader = make(batch_sizes=(1, 1), unlabeled=SEVEN)
    first, second = epoch(reader, 0), epoch(reader, 1)
    assert [name for batch in first for name, _, _ in batch] != [name for batch in second for name, _, _ in batch]
    seeds = [seed for batch in first + second for _, _, seed in batch]
    assert len(set(seeds)) == len(seeds) == 28


def test_plan__epoch_does_not_depend_on_the_ones_before():
    straight = make(batch_sizes=(2, 3))
    for number in range(4):
        last = epoch(straight, number)
    assert epoch(make(batch_sizes=(2, 3)), 3) == last
    torch.manual_seed(5)
    torch.rand(3)
    assert epoch(straight, 3) == last


def test_plan__independent_of_workers():
    assert epoch(make(seed=3), 1, 0) == epoch(make(seed=3), 1, 2)


def test_plan__accelerate_skips_batches_without_reading_them():
    asked = AtOnce(UNLABELED)
    reader = make(unlabeled=asked)
    whole = epoch(reader, 0)
    asked.asked.clear()
    rest = skip_first_batches(prepare_data_loader(open_loader(reader), num_processes=1, process_index=0), 4)
    assert [batch["drawn"] for batch in rest] == whole[4:]
    assert len(asked.asked) == len(whole) - 4


def test_plan__lengths():
    reader = make(unlabeled=SEVEN)
    assert (len(reader), len(BatchNumbers(reader)), len(open_loader(reader))) == (12, 4, 4)
    streamed = make(LABELED, from_tables(2))
    for endless in (streamed, BatchNumbers(streamed), open_loader(streamed)):
        with pytest.raises(TypeError, match="no length"):
            len(endless)


def test_reader__gives_the_record_its_stream_and_seed():
    for name, stream, seed in epoch(make(batch_sizes=(1, 7), unlabeled=SEVEN), 0)[0]:
        assert name[0] == "lu"[stream]
        assert seed >= 0
    assert "part" not in LABELED[0]


class AtOnce(list):
    """Records that a batch reads together."""

    def __init__(self, records):
        super().__init__(records)
        self.asked = []

    def __getitems__(self, indices):
        self.asked.append(indices)
        return [self[index] for index in indices]


def test_reader__reads_a_batch_at_once_where_the_source_can():
    at_once = AtOnce(SEVEN)
    (batch,) = epoch(make(batch_sizes=(3, 7), unlabeled=at_once), 0)
    assert epoch(make(batch_sizes=(3, 7), unlabeled=SEVEN), 0) == [batch]
    assert [[f"u{i}" for i in indices] for indices in at_once.asked] == [[name for name, s, _ in batch if s]]


@pytest.mark.parametrize(("given", "name"), [(([], None), "train_dataset"), ((None, []), "unlabeled_dataset")])
def test_reader__empty(given, name):
    with pytest.raises(ValueError, match=f"{name} has 0 records"):
        make(*given)


# Shares


@pytest.mark.slow
@pytest.mark.parametrize(("world_size", "workers"), [(1, 1), (2, 1), (2, 2), (1, 3)])
@pytest.mark.parametrize("shards", [7, 3, 1])
@pytest.mark.parametrize("source", [from_generator, from_tables], ids=["objects", "tables"])
def test_reader__every_record_of_a_stream_once_a_sweep(source, shards, world_size, workers):
    stream = source(shards)
    workers = min(workers, max_workers(stream, world_size))
    ranks = [names_by_sweep(stream, rank, world_size, workers) for rank in range(world_size)]
    everything = Counter(record["name"] for record in generate(range(shards)))
    for sweep in (0, 1):
        assert Counter(name for found in ranks for name in found[sweep]) == everything
        assert all(found[sweep] for found in ranks)


@pytest.mark.slow
@pytest.mark.parametrize(("world_size", "workers"), [(1, 1), (2, 1), (2, 2), (1, 3), (13, 0)])
def test_reader__every_record_of_a_indexed_set_once_a_sweep(world_size, workers):
    count = math.ceil(2 * len(UNLABELED) / world_size)
    ranks = [drawn(alone(UNLABELED, rank=rank, world_size=world_size), count, workers) for rank in range(world_size)]
    names = [batch[0][0] for turn in zip(*ranks, strict=True) for batch in turn]
    for sweep in (0, 1):
        assert sorted(names[12 * sweep : 12 * sweep + 12]) == sorted(record["name"] for record in UNLABELED)


def test_reader__mixed_sources_in_worker_processes():
    batches = read(make(LABELED, from_tables(4), (1, 2)), 16, 2)
    assert [batch["stream_position"][0] for batch in batches] == [0, 1] * 8
    unlabeled = [name for batch in batches for name, stream, _ in batch["drawn"] if stream]
    assert Counter(unlabeled) == Counter({record["name"]: 2 for record in generate(range(4))})
    labeled = [name for batch in batches for name, stream, _ in batch["drawn"] if not stream]
    assert sorted(labeled[:5]) == sorted(labeled[5:10]) == sorted(record["name"] for record in LABELED)


def test_reader__blocks_are_shuffled_anew_in_each_sweep():
    names = [batch[0][0] for batch in drawn(alone(from_tables(1), block_size=4), 24)]
    sweeps = [tuple(names[i : i + 4]) for i in range(0, 24, 4)]
    assert {tuple(sorted(sweep)) for sweep in sweeps} == {("u0-0", "u0-1", "u0-2", "u0-3")}
    assert len(set(sweeps)) > 3


def test_reader__blocks_of_a_sweep_are_shuffled_differently():
    names = [batch[0][0] for batch in drawn(alone(from_tables(5), block_size=4), 20)]
    orders = {tuple(name.split("-")[1] for name in names[i : i + 4]) for i in range(0, 20, 4)}
    assert len(orders) > 2
    assert {tuple(sorted(order)) for order in orders} == {("0", "1", "2", "3")}


def test_reader__shards_are_shuffled_anew_in_each_sweep():
    names = [batch[0][0] for batch in drawn(alone(from_tables(5), block_size=1), 60)]
    sweeps = [names[i : i + 20] for i in range(0, 60, 20)]
    orders = {tuple(dict.fromkeys(name.split("-")[0] for name in sweep)) for sweep in sweeps}
    assert len(orders) == 3
    assert {len(order) for order in orders} == {5}


def test_max_workers__is_what_a_process_can_employ():
    assert [max_workers(from_tables(7), world_size) for world_size in (1, 2, 7, 8)] == [7, 3, 1, 7]
    assert max_workers(LABELED, 8) is None


@pytest.mark.parametrize(("world_size", "limit"), [(1, 3), (2, 1), (4, 3)])
def test_read_stream__more_workers_than_shards(world_size, limit):
    share = Share(0, world_size, 0, limit + 1)
    message = f"stream of 3 shards is read by {limit + 1} workers in each of {world_size} processes"
    with pytest.raises(ValueError, match=f"{message}; .* use at most {limit},"):
        next(read_stream(from_tables(3), share, (0, 1), Place(), 4))


def test_share__every_process_has_one_before_any_has_two():
    indices = [Share(rank, 3, worker, 2).index for worker in (0, 1) for rank in (0, 1, 2)]
    assert indices == list(range(6))


# Going on


def resumed_at(make_batches, straight, used, workers, count):
    """What a new run draws after it took over the position, by way of JSON, of a run that used so many batches."""
    position = StreamPosition(make_batches(), workers)
    for batch in straight[:used]:
        position.update(*batch["stream_position"])
    batches = make_batches()
    restored = StreamPosition(batches, workers)
    restored.load_state_dict(json.loads(json.dumps(position.state_dict())))
    batches.resume(restored)
    return drawn(batches, count, workers)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 1, 2, 3])
def test_resume__at_every_batch_gives_what_a_straight_run_gives(workers):
    def batches():
        return make(LABELED, from_tables(3), (1, 2))  # a worker's share: 12 to 4 records, in blocks of 3

    straight = read(batches(), 13, workers)
    for used in range(10):
        assert resumed_at(batches, straight, used, workers, 3) == [b["drawn"] for b in straight[used : used + 3]]


@pytest.mark.slow
@pytest.mark.parametrize("source", [from_generator, from_tables], ids=["objects", "tables"])
@pytest.mark.parametrize("block_size", [1, 3, 100])
@pytest.mark.parametrize("world_size", [1, 2, 3])  # 5 shards: whole ones; 2 shards for 3: every third record
def test_resume__streams_of_all_kinds(source, block_size, world_size):
    def batches():
        rank = world_size - 1
        stream = source(2 if world_size == 3 else 5)
        return make(None, stream, (0, 3), rank=rank, world_size=world_size, block_size=block_size)

    straight = read(batches(), 18)
    for used in range(14):
        assert resumed_at(batches, straight, used, 0, 4) == [b["drawn"] for b in straight[used : used + 4]]


@pytest.mark.slow
def test_resume__again_and_again():
    straight = drawn(make(LABELED, from_tables(4)), 20, 2)
    position = StreamPosition(make(LABELED, from_tables(4)), 2)
    for i in range(0, 20, 5):
        batches = make(LABELED, from_tables(4))
        batches.resume(position)
        read_again = read(batches, 5, 2)
        assert [batch["drawn"] for batch in read_again] == straight[i : i + 5]
        for batch in read_again:
            position.update(*batch["stream_position"])


def test_resume__goes_to_spawned_workers():
    batches = make(LABELED, from_tables(2))
    straight = read(batches, 3)
    position = StreamPosition(batches, 1)
    position.update(*straight[0]["stream_position"])
    batches.resume(position)
    sent, collate = pickle.loads(pickle.dumps((batches, BatchCollator(name_records))))
    assert [collate(batch)["drawn"] for batch in islice(sent.loader(), 2)] == [
        batch["drawn"] for batch in straight[1:]
    ]


def test_stream_position__refuses_other_settings():
    saved = StreamPosition(make(LABELED, from_tables(8), world_size=2), 4).state_dict()
    with pytest.raises(ValueError, match="world_size was 2, is 1; num_workers was 4, is 3") as caught:
        StreamPosition(make(LABELED, from_tables(8)), 3).load_state_dict(saved)
    assert "ignore_data_skip=True" in str(caught.value)
    for settings in ({"rank": 1}, {"seed": 1}, {"batch_sizes": (2, 1)}, {"block_size": 4}):
        with pytest.raises(ValueError, match=f"does not fit: {next(iter(settings))} was"):
            StreamPosition(make(LABELED, from_tables(8), **({"world_size": 2} | settings)), 4).load_state_dict(saved)
    with pytest.raises(ValueError, match=r"sizes was \[5, 8\], is \[5, 9\]"):
        StreamPosition(make(LABELED, from_tables(9), world_size=2), 4).load_state_dict(saved)


def test_stream_position__is_small():
    batches = make(LABELED, from_tables(4), (1, 2))
    position = StreamPosition(batches, 2)
    for batch in read(batches, 9, 2):
        position.update(*batch["stream_position"])
    assert len(json.dumps(position.state_dict())) < 3000


# Data that is refused


def empty(shards):
    yield from ()


def test_reader__stream_without_records():
    stream = datasets.IterableDataset.from_generator(empty, gen_kwargs={"shards": [0]})
    with pytest.raises(ValueError, match="a stream of 1 shards has no records"):
        drawn(alone(stream), 1)


def test_reader__other_iterables():
    class Endless(TorchIterableDataset):
        def __iter__(self):
            return iter(LABELED)

    with pytest.raises(TypeError, match=r"unlabeled_dataset is a Endless.*IterableDataset\.from_generator"):
        make(LABELED, Endless())


def test_reader__stream_split_beforehand():
    split = datasets.distributed.split_dataset_by_node(from_tables(4), 0, 2)
    with pytest.raises(ValueError, match="unlabeled_dataset is split by process already"):
        make(LABELED, split)


def test_reader__no_data():
    with pytest.raises(ValueError, match="no training data"):
        make(None, None)
    with pytest.raises(ValueError, match="train_dataset has 0 records"):
        make([], UNLABELED)


@pytest.mark.parametrize("batch_sizes", [(0, 2), (2, 0), (-1, 2)])
def test_reader__size_does_not_fit(batch_sizes):
    with pytest.raises(ValueError, match=r"batch_sizes \(labeled, unlabeled\) are"):
        make(LABELED, from_tables(2), batch_sizes)


# Records


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """A folder of 3 shards of 4 records, which tell themselves apart by `source` and by their values."""
    folder = tmp_path_factory.mktemp("shards")
    for shard in range(3):
        records = []
        for i in range(4):
            image = np.random.default_rng(4 * shard + i).integers(0, 256, (6, 8, 3), dtype=np.uint8)
            values = np.full((6, 8), 1.0 + 4 * shard + i)
            records.append(encode_record(image, values, space="disparity", source=f"{shard}-{i}"))
        table = datasets.Dataset.from_list(records, features=record_features())
        table.to_parquet(str(folder / "data" / f"part-{shard}.parquet"))
    return folder


def decode_all(records):
    """Decode as the trainer's collator does; at module level for the workers."""
    samples = [decode_record(record) for record in records]
    return {"values": {sample.source: float(sample.values.mean()) for sample in samples}}


def test_reader__parquet_records_decode_in_workers(shards):
    batches = make(None, stream_folder(shards), (0, 2))
    loader = iter(batches.loader(decode_all, num_workers=3))
    values = {}
    for _ in range(6):
        values |= next(loader)["values"]
    assert values == {f"{shard}-{i}": 1.0 + 4 * shard + i for shard in range(3) for i in range(4)}


@pytest.mark.slow
def test_reader__parquet_resumed_at_every_batch(shards):
    def batches():
        return make(None, stream_folder(shards), (0, 3), block_size=5)

    def take(batches, count):
        iterator = iter(batches.loader())
        return [next(iterator) for _ in range(count)]

    def read_off(batch):
        return [
            (record["source"], record["draw_seed"], decode_record(record).values[0, 0]) for record in batch.records
        ]

    straight = take(batches(), 12)
    for used in range(10):
        position, resumed = StreamPosition(batches(), 0), batches()
        for batch in straight[:used]:
            position.update(batch.worker, batch.state)
        resumed.resume(position)
        assert [read_off(batch) for batch in take(resumed, 2)] == [
            read_off(batch) for batch in straight[used : used + 2]
        ]


def test_read_stream__blocks_hold_encoded_images(shards, monkeypatch):
    decoded = []
    decode = RecordImage.decode_example
    monkeypatch.setattr(
        RecordImage, "decode_example", lambda self, value, **more: decoded.append(1) or decode(self, value, **more)
    )
    reader = make(None, stream_folder(shards), (0, 1), block_size=12)
    (record,) = next(iter(reader.loader())).records
    assert record["image"].size == (8, 6)
    assert record["depth_map"].mode == "I;16"
    assert len(decoded) == 2  # of this record alone, not of the block
