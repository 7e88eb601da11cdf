import pytest
import torch
from accelerate.data_loader import BatchSamplerShard
from torch.utils.data import DataLoader, IterableDataset

from depth_anything_hf.training.streams import LABELED, UNLABELED, StreamBatchSampler, TrainingStreams

LABELED_RECORDS = [{"name": f"l{i}"} for i in range(5)]
UNLABELED_RECORDS = [{"name": f"u{i}"} for i in range(7)]


def sampler(batch_sizes=(1, 2), seed=0, labeled=LABELED_RECORDS, unlabeled=UNLABELED_RECORDS):
    return StreamBatchSampler(TrainingStreams(labeled, unlabeled), batch_sizes, seed)


def epoch(source, number):
    source.set_epoch(number)
    return list(source)


def names(batch):
    """Keep the records' names and seeds; at module level, so that worker processes find it."""
    return [(record["name"], record["stream"], record["draw_seed"]) for record in batch]


def test_stream_batch_sampler__ratio_and_order_in_each_batch():
    batches = list(sampler((2, 3)))
    assert len(batches) == 3  # ceil(7 / 3)
    for batch in batches:
        assert [draw.stream for draw in batch] == [LABELED, LABELED, UNLABELED, UNLABELED, UNLABELED]


@pytest.mark.parametrize("number", [0, 1, 4])
def test_stream_batch_sampler__an_epoch_reaches_every_unlabelled_record(number):
    drawn = [draw.index for batch in epoch(sampler((1, 1)), number) for draw in batch if draw.stream == UNLABELED]
    assert sorted(drawn) == list(range(7))


def test_stream_batch_sampler__sweeps_follow_one_another_across_epochs():
    source = sampler((1, 2))  # 4 batches = 8 unlabelled draws an epoch, of 7 records
    draws = [draw for number in range(7) for batch in epoch(source, number) for draw in batch]
    unlabeled = [draw.index for draw in draws if draw.stream == UNLABELED]
    labeled = [draw.index for draw in draws if draw.stream == LABELED]
    assert len(unlabeled) == 56
    assert len(labeled) == 28
    for sweep in range(8):
        assert sorted(unlabeled[7 * sweep : 7 * sweep + 7]) == list(range(7))
    for sweep in range(5):
        assert sorted(labeled[5 * sweep : 5 * sweep + 5]) == list(range(5))
    assert unlabeled[:7] != unlabeled[7:14]


def test_stream_batch_sampler__last_batch_is_full():
    assert {len(batch) for batch in sampler((2, 4))} == {6}


def test_stream_batch_sampler__one_stream_sweeps_itself():
    only_labeled = sampler((2, 0), unlabeled=None)
    assert len(only_labeled) == 3
    assert {draw.stream for batch in only_labeled for draw in batch} == {LABELED}
    only_unlabeled = sampler((0, 7), labeled=None)
    assert [sorted(draw.index for draw in batch) for batch in only_unlabeled] == [list(range(7))]


@pytest.mark.parametrize("processes", [1, 2, 3, 4])
def test_stream_batch_sampler__processes_together_draw_what_one_draws_with_a_larger_batch(processes):
    alone = sampler((2 * processes, 3 * processes))
    shared = StreamBatchSampler(TrainingStreams(LABELED_RECORDS, UNLABELED_RECORDS), (2, 3), 0, processes)
    for number in range(3):
        whole, shares = epoch(alone, number), epoch(shared, number)
        assert len(shares) == processes * len(whole)
        for i, batch in enumerate(whole):
            turn = shares[processes * i : processes * (i + 1)]
            assert batch == [draw for share in turn for draw in share[:2]] + [d for share in turn for d in share[2:]]


def test_stream_batch_sampler__batch_larger_than_its_stream_goes_round():
    (batch,) = sampler((12, 7))
    drawn = [draw.index for draw in batch if draw.stream == LABELED]
    assert sorted(drawn[:5]) == sorted(drawn[5:10]) == list(range(5))
    assert len({draw.seed for draw in batch}) == 19


def test_stream_batch_sampler__same_seed_same_draws():
    assert epoch(sampler(), 1) == epoch(sampler(), 1)
    assert epoch(sampler(seed=0), 1) != epoch(sampler(seed=1), 1)


def test_stream_batch_sampler__other_epoch_other_order_and_other_seeds():
    first, second = epoch(sampler((1, 1)), 0), epoch(sampler((1, 1)), 1)
    assert [draw.index for batch in first for draw in batch] != [draw.index for batch in second for draw in batch]
    seeds = [draw.seed for batch in first + second for draw in batch]
    assert len(set(seeds)) == len(seeds) == 28


def test_stream_batch_sampler__epoch_does_not_depend_on_the_ones_before():
    straight = sampler((2, 3))
    for number in range(4):
        last = epoch(straight, number)
    assert epoch(sampler((2, 3)), 3) == last
    torch.manual_seed(5)
    torch.rand(3)
    assert epoch(straight, 3) == last


def test_stream_batch_sampler__independent_of_workers():
    streams = TrainingStreams(LABELED_RECORDS, UNLABELED_RECORDS)
    drawn = []
    for workers in (0, 2):
        source = StreamBatchSampler(streams, (1, 2), 3)
        drawn.append(list(DataLoader(streams, batch_sampler=source, collate_fn=names, num_workers=workers)))
    assert drawn[0] == drawn[1]
    assert drawn[0][0][0][0].startswith("l")
    assert [name[0] for name, _, _ in drawn[0][0]] == ["l", "u", "u"]


def test_stream_batch_sampler__two_processes_share_out_the_batches_of_one():
    alone = list(sampler((1, 2)))
    shards = [list(BatchSamplerShard(sampler((1, 2)), 2, rank)) for rank in (0, 1)]
    assert [batch for pair in zip(*shards, strict=True) for batch in pair] == alone
    seeds = [{draw.seed for batch in shard for draw in batch} for shard in shards]
    assert not seeds[0] & seeds[1]


def test_stream_batch_sampler__two_processes_and_an_odd_number_of_batches():
    alone = list(sampler((1, 3)))  # 3 batches
    shards = [list(BatchSamplerShard(sampler((1, 3)), 2, rank)) for rank in (0, 1)]
    drawn = [batch for pair in zip(*shards, strict=True) for batch in pair]
    assert drawn[:3] == alone
    assert drawn[3] == alone[0]  # accelerate goes round, with whole batches


@pytest.mark.parametrize("batch_sizes", [(0, 2), (2, 0), (-1, 2), (1, -2)])
def test_stream_batch_sampler__size_does_not_fit(batch_sizes):
    with pytest.raises(ValueError, match=r"batch_sizes \(labelled, unlabelled\) are"):
        sampler(batch_sizes)
    with pytest.raises(ValueError, match="0 where it is not"):
        sampler((1, 2), unlabeled=None)


def test_training_streams__gives_the_record_its_stream_and_seed():
    streams = TrainingStreams(LABELED_RECORDS, UNLABELED_RECORDS)
    (batch,) = sampler((1, 7))
    for draw in batch:
        record = streams[draw]
        assert record["name"] == "lu"[draw.stream] + str(draw.index)
        assert (record["stream"], record["draw_seed"]) == (draw.stream, draw.seed)
    assert "stream" not in LABELED_RECORDS[0]
    assert len(streams) == 12


class AtOnce(list):
    """Records that a batch reads together."""

    def __init__(self, records):
        super().__init__(records)
        self.asked = []

    def __getitems__(self, indices):
        self.asked.append(indices)
        return [self[index] for index in indices]


def test_training_streams__reads_a_batch_at_once_where_the_source_can():
    at_once = AtOnce(UNLABELED_RECORDS)
    streams, plain = TrainingStreams(LABELED_RECORDS, at_once), TrainingStreams(LABELED_RECORDS, UNLABELED_RECORDS)
    (batch,) = sampler((3, 7))
    mixed = [*batch[5:], *batch[:5]]  # any order, as a sampler of another kind may give
    assert streams.__getitems__(mixed) == [plain[draw] for draw in mixed]
    assert at_once.asked == [[draw.index for draw in mixed if draw.stream == UNLABELED]]
    (loaded,) = DataLoader(streams, batch_sampler=[batch], collate_fn=names)
    assert loaded == [(plain[draw]["name"], draw.stream, draw.seed) for draw in batch]
    assert len(at_once.asked) == 2
    assert streams.__getitems__(batch[:2]) == [plain[draw] for draw in batch[:2]]
    assert len(at_once.asked) == 2  # none of its records was wanted


def test_training_streams__no_data():
    with pytest.raises(ValueError, match="no training data"):
        TrainingStreams(None, None)


@pytest.mark.parametrize(("given", "name"), [(([], None), "train_dataset"), ((None, []), "unlabeled_dataset")])
def test_training_streams__empty(given, name):
    with pytest.raises(ValueError, match=f"{name} has 0 records"):
        TrainingStreams(*given)


def test_training_streams__iterable():
    class Endless(IterableDataset):
        def __iter__(self):
            return iter(LABELED_RECORDS)

    with pytest.raises(TypeError, match="unlabeled_dataset is a Endless without a length"):
        TrainingStreams(LABELED_RECORDS, Endless())
