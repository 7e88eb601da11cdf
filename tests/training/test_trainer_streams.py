"""`DepthAnythingTrainer` on streams: the same promises as on sets with an index."""

import pytest
import torch
from datasets import Dataset

from depth_anything_hf.data.records import record_features


@pytest.fixture(scope="module")
def stream(pseudo_labeled):
    """Stream of the seven pseudo-labeled records, in four shards."""

    def make():
        return Dataset.from_list(pseudo_labeled, features=record_features()).to_iterable_dataset(num_shards=4)

    return make


@pytest.fixture
def run(make_trainer, make_model, labeled, stream):
    """Function that trains on a labeled set and a stream, and returns the trainer and the images that it saw."""

    def run(name, resume=None, **arguments):
        settings = {"output_dir": str(name), "max_steps": 5, "feature_alignment_weight": 0.0, "adam_epsilon": 1e-4}
        settings |= {"save_strategy": "steps", "save_steps": 2, "stream_block_size": 2}
        trainer = make_trainer(make_model(), settings | arguments, train_dataset=labeled, unlabeled_dataset=stream())
        seen, compute_loss = [], trainer.compute_loss

        def watched(model, inputs, **kwargs):
            seen.append(list(inputs["sources"]))
            return compute_loss(model, inputs, **kwargs)

        trainer.compute_loss = watched
        trainer.train(resume_from_checkpoint=resume)
        return trainer, seen

    return run


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_train__stream_goes_on_at_the_record_where_it_stopped(run, tmp_path, workers):
    settings = {"dataloader_num_workers": workers, "gradient_accumulation_steps": 2}
    straight, seen = run(tmp_path / "straight", **settings)
    assert [len(batch) for batch in seen] == [6] * 10
    resumed, later = run(tmp_path / "resumed", str(tmp_path / "straight" / "checkpoint-2"), **settings)
    assert later == seen[4:]
    for name, values in straight.model.state_dict().items():
        assert torch.equal(values, resumed.model.state_dict()[name]), name
    assert resumed.state.epoch == 1.0
    assert resumed.args.ignore_data_skip is False


@pytest.mark.slow
@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2)])
def test_train__stream_goes_on_with_another_accumulation(run, tmp_path, before, after):
    """The records come from where the streams stand, not from the number of updates."""
    _, seen = run(tmp_path / "straight", gradient_accumulation_steps=2)
    run(tmp_path / "first", gradient_accumulation_steps=before, max_steps=2)
    checkpoint = str(tmp_path / "first" / "checkpoint-2")
    trainer, later = run(tmp_path / "resumed", checkpoint, gradient_accumulation_steps=after)
    assert later == seen[2 * before :][: 3 * after]
    assert trainer.state.global_step == 5


@pytest.mark.slow
def test_train__stream_alone_is_swept_record_by_record(make_trainer, make_model, stream):
    trainer = make_trainer(
        make_model(),
        {"preset": "v2", "feature_alignment_weight": 0.0, "per_device_train_batch_size": 7, "max_steps": 2},
        unlabeled_dataset=stream(),
    )
    seen, compute_loss = [], trainer.compute_loss
    trainer.compute_loss = lambda model, inputs, **kwargs: (
        seen.append(inputs["sources"]) or compute_loss(model, inputs, **kwargs)
    )
    trainer.train()
    assert [len(set(batch)) for batch in seen] == [7, 7]


@pytest.mark.slow
def test_train__streams_anew_when_told_to_skip_nothing(run, tmp_path):
    _, seen = run(tmp_path / "straight")
    _, anew = run(tmp_path / "anew", str(tmp_path / "straight" / "checkpoint-2"), ignore_data_skip=True)
    assert anew == seen[:3]


@pytest.mark.slow
def test_train__checkpoint_of_another_number_of_workers(run, tmp_path):
    run(tmp_path / "straight", max_steps=2)
    checkpoint = tmp_path / "straight" / "checkpoint-2"
    with pytest.raises(ValueError, match="num_workers was 1, is 2"):
        run(tmp_path / "other", str(checkpoint), dataloader_num_workers=2)
    (checkpoint / "stream_position_0.json").unlink()
    with pytest.raises(ValueError, match=r"stream_position_0\.json is missing"):
        run(tmp_path / "other", str(checkpoint))


@pytest.mark.slow
def test_train__workers_are_no_more_than_shards(run, tmp_path):
    with pytest.warns(UserWarning, match="dataloader_num_workers is 9, but a process has only 4 shards"):
        trainer, _ = run(tmp_path / "run", max_steps=1, dataloader_num_workers=9)
    assert trainer.batches.num_workers == 4


def test_init__stream_needs_max_steps(make_trainer, make_model, stream):
    with pytest.raises(ValueError, match="max_steps"):
        make_trainer(make_model(), {"max_steps": -1, "feature_alignment_weight": 0.0}, unlabeled_dataset=stream())


@pytest.mark.slow
def test_train__resume_true_takes_the_last_whole_checkpoint(run, tmp_path):
    straight, _ = run(tmp_path / "run", max_steps=4)
    (tmp_path / "run" / "checkpoint-4" / "trainer_state.json").write_text('{"epoch"')
    resumed, seen = run(tmp_path / "run", True, max_steps=4)
    assert len(seen) == 2
    for name, values in straight.model.state_dict().items():
        assert torch.equal(values, resumed.model.state_dict()[name]), name
    with pytest.raises(ValueError, match="has no complete checkpoint"):
        run(tmp_path / "nothing", True)


@pytest.mark.slow
def test_create_model_card__says_what_was_streamed(run, tmp_path):
    trainer, _ = run(tmp_path / "run", max_steps=2)
    trainer.save_model()
    trainer.create_model_card()
    card = (tmp_path / "run" / "README.md").read_text()
    assert "2 steps on 5 labeled images and a stream of unlabeled images in 4 shards" in card
