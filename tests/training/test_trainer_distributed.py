"""Two processes on the CPU, about 40 seconds in all."""

from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).parent / "two_processes.py"


@pytest.fixture(scope="module")
def alone(tmp_path_factory, run_script):
    (rank,) = run_script(SCRIPT, tmp_path_factory.mktemp("alone"), 1)
    assert rank["world"] == 1
    return rank


@pytest.fixture(scope="module")
def ranks(tmp_path_factory, run_script):
    found = run_script(SCRIPT, tmp_path_factory.mktemp("two"), 2)
    assert [rank["world"] for rank in found] == [2, 2]
    return found


def test_train__ranks_end_with_the_same_weights(ranks):
    first, second = (rank["state"] for rank in ranks)
    assert [name for name in first if not torch.equal(first[name], second[name])] == []


def test_train__ranks_see_different_images(ranks, alone):
    # An epoch is 9 batches of 2 unlabelled records: 5 a process, where accelerate repeats one.
    seen = [[name for batch in rank["seen"][:4] for name in batch[1:]] for rank in ranks]
    assert not set(seen[0]) & set(seen[1])
    assert all(len(set(names)) == 8 for names in seen)
    together = [batch for pair in zip(*(rank["seen"][:4] for rank in ranks), strict=True) for batch in pair]
    assert together == alone["seen"][:8]


def test_train__projector_moves_along_the_mean_of_the_ranks(ranks):
    for i in range(5):
        slopes = [sum(rank["slopes"][j] for j in micro_batches(i)) for rank in ranks]
        scale = 2 / len(micro_batches(i))  # the last update of an epoch may hold one micro-batch
        assert not torch.allclose(*slopes)
        for rank in ranks:
            torch.testing.assert_close(rank["applied"][i], scale * (slopes[0] + slopes[1]) / 2)


def micro_batches(update):
    """Name the micro-batches of an update: an epoch's 5 make updates of 2, 2 and 1."""
    epoch, place = divmod(update, 3)
    return range(5 * epoch + 2 * place, min(5 * epoch + 2 * place + 2, 5 * epoch + 5))


def test_train__logs_the_mean_over_the_ranks(ranks):
    # One log, at the end: of five updates, thus of nine micro-batches (2, 2, 1, 2, 2).
    logs = [next(log for log in rank["logs"] if "loss" in log) for rank in ranks]
    for name in ("labeled_loss", "unlabeled_loss", "feature_alignment_loss"):
        own = [sum(values[name] for values in rank["terms"]) / 9 for rank in ranks]
        assert own[0] != own[1]
        for log in logs:
            assert log[name] == pytest.approx(sum(own) / 2, abs=2e-6), name


def test_train__resumed_run_equals_the_straight_one(ranks, tmp_path, run_script):
    # In the middle of the second epoch, whose number accelerate's wrappers hide from the Trainer.
    resumed = run_script(SCRIPT, tmp_path, 2, f"{ranks[0]['output_dir']}/checkpoint-4")
    for before, after in zip(ranks, resumed, strict=True):
        assert before["seen"][-2:] == after["seen"]
        assert [name for name in before["state"] if not torch.equal(before["state"][name], after["state"][name])] == []


@pytest.mark.parametrize("when", ["before", "after"])
def test_evaluate__counts_every_image_once(ranks, when):
    # 7 images in batches of 2 on 2 processes.
    assert [rank[when]["eval_images"] for rank in ranks] == [7, 7]


def test_evaluate__same_numbers_as_one_process(ranks, alone):
    for name, value in alone["before"].items():
        if not any(word in name for word in ("runtime", "per_second", "preparation")):
            for rank in ranks:
                assert rank["before"][name] == pytest.approx(value, rel=1e-5), name
    trained = [rank["after"]["eval_abs_rel"] for rank in ranks]
    assert trained[0] == trained[1] != ranks[0]["before"]["eval_abs_rel"]
