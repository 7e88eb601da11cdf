"""What makes a step fast, and what it must not change: no graph breaks, no waiting for the host, the same numbers."""

import pytest
import torch
from torch._dynamo.utils import counters

from depth_anything_hf.training import checks
from depth_anything_hf.training.checks import HealthCheck


@pytest.fixture
def student(make_trainer, make_model, make_encoder, labeled, photographs):
    """Function that makes a trainer with everything switched on: two streams, a teacher, a projector."""

    def make(**arguments):
        return make_trainer(
            make_model(),
            {"preset": "v1", "cutmix_probability": 1.0, "trim_fraction": 0.1, "gradient_matching_weight": 2.0}
            | arguments,
            train_dataset=labeled,
            unlabeled_dataset=photographs,
            teacher=make_model(seed=1),
            feature_encoder=make_encoder(width=48),
        )

    return make


def weights(trainer):
    return {name: values.clone() for name, values in trainer.model.state_dict().items()}


def on(device, batch):
    if isinstance(batch, dict):
        return {name: on(device, values) for name, values in batch.items()}
    return batch.to(device) if isinstance(batch, torch.Tensor) else batch


@pytest.mark.slow
def test_train__compiled_without_graph_breaks_and_with_the_same_weights(student):
    plain = student(adam_epsilon=1e-3)  # else the sign of a gradient that is nothing but rounding moves a weight
    plain.train()
    torch._dynamo.reset()
    counters.clear()
    compiled = student(adam_epsilon=1e-3, torch_compile=True, torch_compile_backend="eager")
    compiled.train()
    assert counters["stats"]["unique_graphs"] == 3  # student, teacher, feature encoder, once each
    assert dict(counters["graph_break"]) == {}
    torch.testing.assert_close(weights(compiled), weights(plain), rtol=0, atol=1e-5)
    torch._dynamo.reset()


def test_evaluate__images_of_many_sizes_are_not_compiled(make_trainer, make_model, labeled):
    torch._dynamo.reset()
    counters.clear()
    trainer = make_trainer(
        make_model(),
        {"torch_compile": True, "torch_compile_backend": "eager"},
        train_dataset=labeled,
        eval_dataset=labeled[:2],
    )
    trainer.evaluate()
    assert counters["stats"]["unique_graphs"] == 0


@pytest.mark.slow
@pytest.mark.parametrize("max_depth", [None, 20.0])
def test_compute_loss__never_waits_for_the_device(
    max_depth, monkeypatch, make_trainer, make_model, make_encoder, labeled, photographs
):
    # A tensor on the meta device has no value: whatever would read one on the host raises.
    monkeypatch.setattr(checks, "_to_host", lambda values: (values, None))
    trainer = make_trainer(
        make_model(max_depth=max_depth),
        {"preset": "v1", "trim_fraction": 0.1, "gradient_matching_weight": 2.0},
        train_dataset=labeled,
        unlabeled_dataset=photographs,
        teacher=make_model(seed=1, max_depth=max_depth),
        feature_encoder=make_encoder(width=48),
    )
    batch = on("meta", next(iter(trainer.get_train_dataloader())))
    for module in (trainer.model, trainer.teacher, trainer.feature_encoder, trainer.feature_projector):
        module.to("meta")
    trainer.normalization = tuple(values.to("meta") for values in trainer.normalization)
    trainer.health = HealthCheck(delayed=True)
    trainer.compute_loss(trainer.model, batch).backward()
    trainer.health = HealthCheck(delayed=False)  # which reads the loss at once
    with pytest.raises(RuntimeError, match="meta"):
        trainer.compute_loss(trainer.model, batch)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_train__never_waits_for_the_gpu(student):
    trainer = student(use_cpu=False, dataloader_pin_memory=True, max_steps=6, logging_steps=100)
    step = trainer.training_step

    def watched(*args, **kwargs):
        # The first steps allocate, and choose algorithms.
        torch.cuda.set_sync_debug_mode("error" if trainer.state.global_step >= 3 else "default")
        try:
            return step(*args, **kwargs)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    trainer.training_step = watched
    trainer.train()
    assert trainer.state.global_step == 6


@pytest.mark.slow
def test_train__gradient_checkpointing_changes_no_weight(student):
    trained = []
    for checkpointing in (False, True):
        trainer = student(gradient_checkpointing=checkpointing)
        trainer.train()
        assert trainer.model.is_gradient_checkpointing == checkpointing
        trained.append(weights(trainer))
    torch.testing.assert_close(*trained, rtol=0, atol=1e-6)


@pytest.mark.slow
def test_train__bfloat16_in_the_networks_and_float32_in_the_losses(student):
    trainer = student(bf16=True, max_steps=1, gradient_matching_weight=0.0)
    seen = []
    for name in ("teacher", "feature_encoder"):
        linear = next(module for module in getattr(trainer, name).modules() if isinstance(module, torch.nn.Linear))
        linear.register_forward_hook(lambda module, given, output: seen.append(output.dtype))
    trainer.train()
    assert seen == [torch.bfloat16, torch.bfloat16]
    assert {values.dtype for values in trainer.model.parameters()} == {torch.float32}
    assert {values[0].dtype for values in trainer._logged.values()} <= {torch.float32}
    precise = student(max_steps=1, gradient_matching_weight=0.0)
    precise.train()
    losses = [run.keeper.logs[0]["loss"] for run in (trainer, precise)]
    assert losses[0] != losses[1]
    assert losses[0] == pytest.approx(losses[1], rel=0.1)


def test_log__share_of_the_time_spent_waiting_for_data(student):
    trainer = student()
    trainer.train()
    shares = [log["data_wait_share"] for log in trainer.keeper.logs if "loss" in log]
    assert len(shares) == 2
    assert all(0 < share < 1 for share in shares)


# Health, read one step late


def findings(step, loss=1.0, predicted=1.0):
    return torch.tensor(loss), torch.full((1, 2, 2), predicted), None, [f"image of step {step}"], step


def test_health_check__delayed_raises_at_the_next_step_and_names_the_right_one():
    health = HealthCheck(delayed=True)
    health.check(*findings(0))
    health.check(*findings(1, loss=torch.inf))
    with pytest.raises(FloatingPointError, match=r"inf at step 1; .*image of step 1.*last checkpoint is sound"):
        health.check(*findings(2))


def test_health_check__finish_reads_the_last_step():
    health = HealthCheck(delayed=True)
    health.check(*findings(7, predicted=0.0))
    with pytest.raises(RuntimeError, match="every predicted value is 0 at step 7"):
        health.finish()
    health.finish()  # told once


def test_train__delayed_check_saves_no_spoilt_checkpoint(student, tmp_path):
    trainer = student(save_strategy="steps", save_steps=1, max_steps=3, learning_rate=0.0)
    trainer.health = HealthCheck(delayed=True)
    spoil = trainer.model.head.conv3.bias

    def compute_loss(*args, **kwargs):
        if trainer.state.global_step == 1:
            spoil.data.fill_(torch.nan)
        return type(trainer).compute_loss(trainer, *args, **kwargs)

    trainer.compute_loss = compute_loss
    with pytest.raises(FloatingPointError, match="nan at step 1"):
        trainer.train()
    assert [path.name for path in (tmp_path / "run").glob("checkpoint-*")] == ["checkpoint-1"]
