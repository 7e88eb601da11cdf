"""Two processes on the CPU against one."""

from pathlib import Path

import pytest
import torch

from depth_anything_hf.training.resuming import last_whole_checkpoint

pytestmark = pytest.mark.slow

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


def test_train__stock_trainer_equals_one_process_with_twice_the_batch(ranks, alone):
    for rank in ranks:
        assert rank["stock_losses"] == pytest.approx(alone["stock_losses"], rel=1e-5)
        torch.testing.assert_close(rank["stock_state"], alone["stock_state"], rtol=0, atol=1e-5)
    assert alone["stock_losses"][0] != alone["stock_losses"][-1]


def test_train__equals_one_process_with_twice_the_batch(ranks, alone):
    # Both streams, perturbation, CutMix, feature alignment through a projector, a teacher in the step.
    for rank in ranks:
        torch.testing.assert_close(rank["state"], alone["state"], rtol=0, atol=1e-5)
    for i, values in enumerate(alone["terms"]):
        for name, value in values.items():
            assert sum(rank["terms"][i][name] for rank in ranks) / 2 == pytest.approx(value, abs=1e-5), name


def test_train__ranks_see_different_images(ranks, alone):
    # An epoch is 10 batches of 2 of the 18 unlabelled records, 5 a process; the last batch begins the next round.
    seen = [[name for batch in rank["seen"][:5] for name in batch[1:]] for rank in ranks]
    assert [len(set(names)) for names in seen] == [10, 10]
    assert len(set(seen[0]) | set(seen[1])) == 18
    for i, batch in enumerate(alone["seen"]):
        shares = [rank["seen"][i] for rank in ranks]
        assert batch == [shares[0][0], shares[1][0], *shares[0][1:], *shares[1][1:]]


def test_train__ranks_share_a_stream_without_repetition(ranks, alone):
    assert [len(rank["streamed"]) for rank in ranks] == [6, 6]
    everything = {f"image {i}" for i in range(12)}
    assert set(ranks[0]["streamed"]) | set(ranks[1]["streamed"]) == set(alone["streamed"]) == everything


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


def test_train__killed_run_goes_on_and_equals_the_straight_one(ranks, tmp_path, run_script):
    # Killed in the second epoch, whose number accelerate's wrappers hide from the Trainer: by one process, while the
    # other may still be writing the checkpoint of step 4.
    saved = f"{ranks[0]['output_dir']}/checkpoint-2"
    with pytest.raises(AssertionError, match="SIGKILL"):
        run_script(SCRIPT, tmp_path, 2, saved, "kill")
    assert list(tmp_path.glob("rank*.pt")) == []
    resumed = run_script(SCRIPT, tmp_path, 2, last_whole_checkpoint(tmp_path / "run") or saved)
    for before, after in zip(ranks, resumed, strict=True):
        assert before["seen"][-len(after["seen"]) :] == after["seen"]
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
