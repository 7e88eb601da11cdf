import pytest
import torch
from safetensors.torch import load_file
from transformers import Trainer, TrainingArguments

from depth_anything_hf.training.collator import DepthCollator

pytestmark = pytest.mark.slow

SETTINGS = {
    "max_steps": 7,  # an epoch is 4 batches of 2 unlabelled records = 2 updates: three epochs and a half
    "gradient_accumulation_steps": 2,
    "labeled_batch_size": 1,
    "unlabeled_batch_size": 2,
    "learning_rate": 1e-3,
    "cutmix_probability": 0.7,
    "save_strategy": "steps",
    "save_steps": 1,
}


@pytest.fixture
def run(make_trainer, make_model, make_encoder, labeled, pseudo_labeled):
    """Train a student with everything switched on, dropout included; give its trainer."""

    def train(output_dir, resume=None, seed=0, **settings):
        trainer = make_trainer(
            make_model(seed, hidden_dropout_prob=0.1, drop_path_rate=0.1),
            {**SETTINGS, "output_dir": str(output_dir), **settings},
            train_dataset=labeled,
            unlabeled_dataset=pseudo_labeled,
            feature_encoder=make_encoder(48),
        )
        trainer.train(resume_from_checkpoint=None if resume is None else str(resume))
        return trainer

    return train


def state(trainer):
    """Everything that training changes, by name."""
    found = {f"model.{name}": values for name, values in trainer.model.state_dict().items()}
    found |= {f"projector.{name}": values for name, values in trainer.feature_projector.state_dict().items()}
    for i, moments in trainer.optimizer.state_dict()["state"].items():
        found |= {f"optimizer.{i}.{name}": values for name, values in moments.items()}
    return found


def assert_equal(one, other):
    one, other = state(one), state(other)
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


@pytest.mark.parametrize(
    ("step", "workers"),
    [(1, 0), (2, 0), (3, 0), (3, 2)],
    ids=["middle of the first epoch", "boundary of epochs", "middle of the second epoch", "two workers"],
)
def test_train__resumed_run_equals_the_straight_one_bit_for_bit(run, tmp_path, step, workers):
    straight = run(tmp_path / "straight", dataloader_num_workers=workers)
    checkpoint = tmp_path / "straight" / f"checkpoint-{step}"
    # Another seed of the weights: all of them must come from the checkpoint.
    resumed = run(tmp_path / "resumed", checkpoint, seed=8, dataloader_num_workers=workers)
    assert resumed.state.global_step == straight.state.global_step == 7
    assert_equal(straight, resumed)
    logs = [[log["loss"] for log in trainer.keeper.logs if "loss" in log] for trainer in (straight, resumed)]
    assert logs[0][step:] == logs[1]
    assert len(set(logs[0])) == 7


def test_train__stopped_run_resumes_where_it_stopped(run, tmp_path):
    straight = run(tmp_path / "straight", lr_scheduler_type="constant")
    run(tmp_path / "stopped", lr_scheduler_type="constant", max_steps=3)  # in the middle of the second epoch
    resumed = run(tmp_path / "stopped", tmp_path / "stopped" / "checkpoint-3", lr_scheduler_type="constant")
    assert_equal(straight, resumed)


def test_train__epoch_with_a_remainder(run, tmp_path):
    settings = {"gradient_accumulation_steps": 3, "max_steps": 5}  # 4 batches an epoch: updates of 3 and of 1
    straight = run(tmp_path / "straight", **settings)
    resumed = run(tmp_path / "resumed", tmp_path / "straight" / "checkpoint-3", seed=8, **settings)
    assert_equal(straight, resumed)


@pytest.mark.parametrize("step", [1, 2, 3, 4], ids=lambda step: f"{step} of 2 an epoch")
def test_train__done_to_its_last_step_trains_nothing(run, tmp_path, step):
    straight = run(tmp_path / "straight", max_steps=step)
    again = run(tmp_path / "again", tmp_path / "straight" / f"checkpoint-{step}", seed=8, max_steps=step)
    assert again.state.global_step == step
    assert again.keeper.rates == []  # no step began
    assert not list((tmp_path / "again").glob("checkpoint-*"))
    assert_equal(straight, again)


def test_train__workers_do_not_change_the_result(run, tmp_path):
    weights = []
    for workers in (0, 2):
        settings = {"dataloader_num_workers": workers, "save_strategy": "no", "max_steps": 3}
        weights.append(run(tmp_path / str(workers), **settings))
    assert_equal(*weights)


# Files hold other names than memory: what a Trainer loads must be all of the weights.


@pytest.mark.parametrize("swiglu", [False, True])
def test_load_state_dict__takes_the_names_on_disk(make_model, tmp_path, swiglu):
    saved, other = (make_model(seed, use_swiglu_ffn=swiglu) for seed in (1, 2))
    saved.save_pretrained(tmp_path)
    missing, unexpected = other.load_state_dict(load_file(tmp_path / "model.safetensors"))
    assert not missing
    assert not unexpected
    for name, values in saved.state_dict().items():
        assert torch.equal(values, other.state_dict()[name]), name
    frozen = [name for name, parameter in other.named_parameters() if not parameter.requires_grad]
    assert len(frozen) == 5
    other.load_state_dict(saved.state_dict())  # and those in memory


def test_train__stock_trainer_resumes_with_all_weights(make_model, processor, labeled, tmp_path):
    finals = []
    for seed, resume in ((0, None), (5, str(tmp_path / "checkpoint-2"))):
        arguments = TrainingArguments(
            str(tmp_path), max_steps=4, save_steps=2, remove_unused_columns=False, report_to="none", use_cpu=True
        )
        model = make_model(seed)
        collate = DepthCollator(processor, model)
        trainer = Trainer(model, arguments, data_collator=collate, train_dataset=labeled[:2])
        trainer.train(resume_from_checkpoint=resume)
        finals.append(trainer.model.state_dict())
    assert [name for name in finals[0] if not torch.equal(finals[0][name], finals[1][name])] == []
