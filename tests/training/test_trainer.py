import inspect
import json

import numpy as np
import pytest
import torch
from torch import nn
from transformers import (
    AutoImageProcessor,
    AutoModelForDepthEstimation,
    DepthAnythingForDepthEstimation,
    DPTConfig,
    DPTForDepthEstimation,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)
from transformers.modeling_outputs import DepthEstimatorOutput

from depth_anything_hf.data.records import encode_record
from depth_anything_hf.evaluation.compare import score_dataset
from depth_anything_hf.evaluation.scoring import SCORE_NAMES
from depth_anything_hf.losses import (
    LossTerm,
    affine_invariant_loss,
    cutmix_loss_per_image,
    feature_alignment_loss,
    mean_over_labeled,
)
from depth_anything_hf.prediction.predictor import predict_depth
from depth_anything_hf.training import checks
from depth_anything_hf.training.collator import DepthCollator
from depth_anything_hf.training.step import student_view
from depth_anything_hf.training.trainer import DepthAnythingTrainer


class RowTeacher(nn.Module):
    """Predict each pixel's brightness plus its row, which is positive, and keep every image it was shown."""

    def __init__(self, scale=1.0):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(scale))
        self.seen = []

    def forward(self, pixel_values):
        assert not self.training
        self.seen.append(pixel_values.clone())
        rows = torch.linspace(0, 2, pixel_values.shape[-2])[:, None]
        return DepthEstimatorOutput(predicted_depth=self.scale * (pixel_values.mean(dim=1) + rows + 4))


def losses_of(trainer, name="loss"):
    return [logs[name] for logs in trainer.keeper.logs if name in logs]


def first_batch(trainer):
    return next(iter(trainer.get_train_dataloader()))


# Stages


@pytest.mark.slow
def test_train__teacher_stage_lowers_the_loss(make_trainer, make_model, labeled):
    settings = {"max_steps": 30, "learning_rate": 1e-3, "flip_probability": 0.0, "per_device_train_batch_size": 5}
    trainer = make_trainer(make_model(), settings, train_dataset=labeled)
    trainer.train()
    losses = losses_of(trainer)
    assert len(losses) == 30
    assert sum(losses[-5:]) < 0.85 * sum(losses[:5])
    assert "unlabeled_loss" not in trainer.keeper.logs[0]


@pytest.mark.slow
def test_train__student_with_offline_labels_logs_every_loss(make_trainer, make_model, labeled, pseudo_labeled):
    trainer = make_trainer(
        make_model(), {"feature_alignment_weight": 0.0}, train_dataset=labeled, unlabeled_dataset=pseudo_labeled
    )
    trainer.train()
    logs = trainer.keeper.logs[0]
    assert {name for name in logs if "loss" in name} == {
        *("loss", "labeled_loss", "labeled_affine_invariant_loss"),
        *("unlabeled_loss", "unlabeled_affine_invariant_loss"),
    }
    assert logs["loss"] == pytest.approx((logs["labeled_loss"] + logs["unlabeled_loss"]) / 2, abs=1e-6)
    assert 0 <= logs["zero_share"] < 1
    assert trainer.batch_sizes == (2, 4)


def test_train__v2_with_unlabeled_images_only(make_trainer, make_model, make_encoder, pseudo_labeled):
    trainer = make_trainer(
        make_model(),
        {"preset": "v2", "per_device_train_batch_size": 4, "feature_alignment_margin": 1.0},
        unlabeled_dataset=pseudo_labeled,
        feature_encoder=make_encoder(),
    )
    trainer.train()
    logs = trainer.keeper.logs[0]
    names = {name for name in logs if "loss" in name} - {"loss"}
    terms = {"unlabeled_affine_invariant_loss", "unlabeled_gradient_matching_loss"}
    assert names == {"unlabeled_loss", "feature_alignment_loss", *terms}
    affine_invariant, gradient_matching = (logs[name] for name in sorted(terms))
    assert logs["unlabeled_loss"] == pytest.approx(affine_invariant + 2 * gradient_matching, abs=3e-6)
    assert logs["loss"] == pytest.approx((logs["unlabeled_loss"] + logs["feature_alignment_loss"]) / 2, abs=2e-6)
    assert logs["feature_alignment_loss"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("with_teacher", [False, True])
def test_train__metric_model(make_trainer, make_model, labeled, with_teacher):
    teacher = make_model(seed=5, max_depth=80.0) if with_teacher else None
    trainer = make_trainer(
        make_model(max_depth=80.0),
        {"max_steps": 40, "learning_rate": 1e-3, "feature_alignment_weight": 0.0, "silog_variance_focus": 0.15},
        train_dataset=labeled,
        unlabeled_dataset=labeled if with_teacher else None,
        teacher=teacher,
    )
    trainer.train()
    silog = losses_of(trainer, "labeled_silog_loss")
    assert sum(silog[-10:]) < 0.9 * sum(silog[:10])
    assert ("unlabeled_silog_loss" in trainer.keeper.logs[0]) == with_teacher
    scores = trainer.evaluate(labeled)
    assert scores["eval_abs_rel"] > 0
    assert scores["eval_non_positive_scales"] == 0


def test_train__accumulated_micro_batches_are_averaged(make_trainer, make_model, labeled):
    trainer = make_trainer(
        make_model(),
        {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 2, "max_steps": 1},
        train_dataset=labeled,
    )
    trainer.train()
    logs = trainer.keeper.logs[0]
    assert logs["loss"] == pytest.approx(logs["labeled_loss"], abs=1e-6)


# The step


def test_compute_loss__teacher_sees_clean_images_and_labels_are_mixed_after(
    make_trainer, make_model, labeled, photographs
):
    teacher = RowTeacher()
    student = make_model()
    seen = []
    student.register_forward_pre_hook(lambda _, args, kwargs: seen.append(kwargs["pixel_values"]), with_kwargs=True)
    trainer = make_trainer(
        student,
        {"feature_alignment_weight": 0.0, "cutmix_probability": 1.0},
        train_dataset=labeled,
        unlabeled_dataset=photographs,
        teacher=teacher,
    )
    batch = first_batch(trainer)
    loss = trainer.compute_loss(student, dict(batch))
    clean = batch["pixel_values"][2:]
    assert torch.equal(teacher.seen[0], clean)
    view = student_view(
        clean,
        teacher(clean).predicted_depth,
        torch.ones(4, 32, 40, dtype=torch.bool),
        batch["view"],
        trainer.normalization,
    )
    assert view.boxes.any()
    assert torch.equal(seen[0], torch.cat([batch["pixel_values"][:2], view.pixel_values]))
    predicted = student(pixel_values=seen[0]).predicted_depth
    supervised = affine_invariant_loss(predicted[:2], batch["labels"][:2], batch["label_mask"][:2])
    terms = cutmix_loss_per_image(predicted[2:], view.labels, view.label_mask, view.boxes, 0.0, False)
    expected = (supervised + mean_over_labeled(terms.affine_invariant, terms.labeled)) / 2
    assert loss.item() == pytest.approx(expected.item(), abs=1e-6)


def test_compute_loss__does_not_see_the_teachers_scale(make_trainer, make_model, labeled, photographs):
    losses = []
    for scale in (1.0, 7.0):
        trainer = make_trainer(
            make_model(),
            {"feature_alignment_weight": 0.0, "cutmix_probability": 1.0},
            train_dataset=labeled,
            unlabeled_dataset=photographs,
            teacher=RowTeacher(scale),
        )
        losses.append(trainer.compute_loss(trainer.model, dict(first_batch(trainer))).item())
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)


@pytest.mark.slow
def test_compute_loss__is_the_mean_of_the_three_logged_terms(
    make_trainer, make_model, make_encoder, labeled, pseudo_labeled
):
    model, encoder = make_model(), make_encoder()
    trainer = make_trainer(
        model,
        {"max_steps": 1, "strong_perturbation": False, "cutmix_probability": 0.0},
        train_dataset=labeled,
        unlabeled_dataset=pseudo_labeled,
        feature_encoder=encoder,
    )
    batch = first_batch(trainer)
    with torch.no_grad():
        outputs = model(pixel_values=batch["pixel_values"], output_features=True)
        frozen = encoder(pixel_values=batch["pixel_values"][2:]).last_hidden_state[:, 1:]  # the unlabelled ones only
        by_hand = {
            "labeled_loss": affine_invariant_loss(
                outputs.predicted_depth[:2], batch["labels"][:2], batch["label_mask"][:2]
            ),
            "unlabeled_loss": affine_invariant_loss(
                outputs.predicted_depth[2:], batch["labels"][2:], batch["label_mask"][2:]
            ),
            "feature_alignment_loss": feature_alignment_loss(outputs.features[2:], frozen, 0.85),
        }
    trainer.train()
    logs = trainer.keeper.logs[0]
    for name, value in by_hand.items():
        assert logs[name] == pytest.approx(value.item(), abs=1e-6), name
        assert value > 0
    assert logs["loss"] == pytest.approx(sum(by_hand.values()).item() / 3, abs=1e-6)


def test_compute_loss__weights_of_the_average(make_trainer, make_model, labeled, pseudo_labeled):
    settings = {"feature_alignment_weight": 0.0, "labeled_weight": 1.0, "unlabeled_weight": 3.0, "max_steps": 1}
    trainer = make_trainer(make_model(), settings, train_dataset=labeled, unlabeled_dataset=pseudo_labeled)
    trainer.train()
    logs = trainer.keeper.logs[0]
    assert logs["loss"] == pytest.approx((logs["labeled_loss"] + 3 * logs["unlabeled_loss"]) / 4, abs=2e-6)


# Losses of the user


def edge_loss(prediction, target, mask):
    """Mean difference of horizontal steps: the loss of each image."""
    steps, pairs = (prediction.diff(dim=-1) - target.diff(dim=-1)).abs(), mask[..., 1:] & mask[..., :-1]
    return (steps * pairs).sum((1, 2)) / pairs.sum((1, 2)).clamp(min=1)


@pytest.mark.slow
@pytest.mark.parametrize("on", ["labeled", "unlabeled", "both"])
def test_losses__a_term_is_weighted_and_logged_like_ours(make_trainer, make_model, labeled, pseudo_labeled, on):
    settings = {"feature_alignment_weight": 0.0, "max_steps": 1, "cutmix_probability": 0.0}
    data = {"train_dataset": labeled, "unlabeled_dataset": pseudo_labeled}
    plain = make_trainer(make_model(), settings, **data)
    plain.train()
    trainer = make_trainer(make_model(), settings, losses=[LossTerm("edges", edge_loss, weight=0.5, on=on)], **data)
    trainer.train()
    before, after = plain.keeper.logs[0], trainer.keeper.logs[0]
    for images in ("labeled", "unlabeled"):
        term = 0.5 * after.get(f"{images}_edges_loss", 0.0)
        assert (term > 0) == (on in (images, "both"))
        assert after[f"{images}_loss"] == pytest.approx(before[f"{images}_loss"] + term, abs=2e-6)
    assert after["loss"] == pytest.approx((after["labeled_loss"] + after["unlabeled_loss"]) / 2, abs=2e-6)


def test_losses__a_term_sees_labels_and_mask_of_the_model(make_trainer, make_model, labeled):
    seen = []

    def watch(prediction, target, mask):
        seen.append((prediction.detach(), target, mask))
        return prediction.sum() * 0

    trainer = make_trainer(
        make_model(max_depth=6.0), {"max_steps": 1}, train_dataset=labeled, losses=[LossTerm("watch", watch)]
    )
    batch = first_batch(trainer)
    trainer.compute_loss(trainer.model, dict(batch))
    prediction, target, mask = seen[0]
    assert prediction.shape == target.shape == mask.shape == batch["labels"].shape
    within = batch["label_mask"] & (batch["labels"] > 0) & (batch["labels"] <= 6)
    assert torch.equal(mask, within)
    assert within.any()
    assert not within.all()
    assert torch.equal(target[mask], batch["labels"][mask])
    assert target[~mask].abs().max() == 0


@pytest.mark.slow
def test_losses__are_on_the_card(make_trainer, make_model, labeled, tmp_path):
    terms = [LossTerm("edges", edge_loss, 0.25), LossTerm("ramp", edge_loss, lambda step: step / 4)]
    trainer = make_trainer(make_model(), {"max_steps": 2}, train_dataset=labeled, losses=terms)
    trainer.train()
    trainer.save_model()
    trainer.create_model_card()
    card = (tmp_path / "run" / "README.md").read_text()
    assert "affine-invariant × 1, edges (labeled images) × 0.25, ramp (labeled images) × 0.5" in card


def test_losses__a_schedule_follows_the_step_and_moves_nothing_else(make_trainer, make_model, labeled, pseudo_labeled):
    settings = {"feature_alignment_weight": 0.0, "max_steps": 3, "learning_rate": 0.0, "logging_steps": 1}
    trainer = make_trainer(
        make_model(),
        settings,
        train_dataset=labeled,
        unlabeled_dataset=pseudo_labeled,
        losses=[LossTerm("edges", edge_loss, weight=lambda step: float(step), on="labeled")],
        loss_weights={"unlabeled": lambda step: 1 - step / 2},
    )
    trainer.train()
    for step, logs in enumerate(log for log in trainer.keeper.logs if "labeled_loss" in log):
        ours = logs["labeled_affine_invariant_loss"] + step * logs["labeled_edges_loss"]
        assert logs["labeled_loss"] == pytest.approx(ours, abs=3e-6)
        assert logs["loss"] == pytest.approx((ours + (1 - step / 2) * logs["unlabeled_loss"]) / 2, abs=3e-6)


def test_losses__weights_are_rescaled_when_asked(make_trainer, make_model, labeled, pseudo_labeled):
    settings = {"feature_alignment_weight": 0.0, "max_steps": 1, "rescale_losses": True}
    data = {"train_dataset": labeled, "unlabeled_dataset": pseudo_labeled}
    trainer = make_trainer(make_model(), settings, loss_weights={"unlabeled": 3}, **data)
    trainer.train()
    logs = trainer.keeper.logs[0]
    assert logs["loss"] == pytest.approx((logs["labeled_loss"] + 3 * logs["unlabeled_loss"]) / 4, abs=2e-6)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"losses": [LossTerm("silog", edge_loss)]}, "losses has the name 'silog' twice, or it is one of the papers'"),
        ({"losses": [LossTerm("a", edge_loss)] * 2}, "losses has the name 'a' twice"),
        (
            {"losses": [LossTerm("a", edge_loss, on="unlabeled")]},
            "loss 'a' is on unlabeled images, but there are none",
        ),
        (
            {"loss_weights": {"edges": 1.0}},
            "loss_weights names 'edges'; it takes labeled, unlabeled, feature_alignment",
        ),
        (
            {"loss_weights": {"labeled": -1.0}},
            r"loss_weights\['labeled'\] is -1\.0; it must be a finite number of at least 0",
        ),
        ({"loss_weights": {"labeled": float("nan")}}, r"loss_weights\['labeled'\] is nan"),
        ({"arguments": {"labeled_weight": 0.0}}, "are 0 for the images that are passed: nothing would be learned"),
    ],
)
def test_init__losses_that_mean_nothing(make_trainer, make_model, labeled, settings, message):
    with pytest.raises(ValueError, match=message):
        make_trainer(make_model(), train_dataset=labeled, **settings)
    with pytest.raises(TypeError, match="losses holds a function; pass LossTerm"):
        make_trainer(make_model(), train_dataset=labeled, losses=[edge_loss])


@pytest.mark.slow
def test_train__teacher_and_encoder_stay_as_they_were(make_trainer, make_model, make_encoder, labeled, photographs):
    teacher, encoder = make_model(seed=4), make_encoder()
    before = [values.clone() for module in (teacher, encoder) for values in module.state_dict().values()]
    trainer = make_trainer(
        make_model(),
        {"learning_rate": 1e-2},
        train_dataset=labeled,
        unlabeled_dataset=photographs,
        teacher=teacher,
        feature_encoder=encoder,
    )
    trainer.train()
    after = [values for module in (teacher, encoder) for values in module.state_dict().values()]
    assert all(torch.equal(*pair) for pair in zip(before, after, strict=True))
    assert trainer.feature_projector is None
    assert trainer.optimizer.optimizer.param_groups[0]["params"]


# Projector


@pytest.mark.slow
def test_train__projector_learns_with_the_gradients_of_its_own_step(
    make_trainer, make_model, make_encoder, labeled, pseudo_labeled
):
    trainer = make_trainer(
        make_model(),
        {"max_steps": 3, "optim": "sgd", "learning_rate": 0.01, "lr_scheduler_type": "constant", "weight_decay": 0.0},
        train_dataset=labeled,
        unlabeled_dataset=pseudo_labeled,
        feature_encoder=make_encoder(48),
    )
    projector, weights, slopes = trainer.feature_projector, [], []
    assert (projector.in_features, projector.out_features) == (32, 48)
    align = trainer.compute_loss

    def compute_loss(*args, **kwargs):
        weights.append(projector.weight.detach().clone())
        loss = align(*args, **kwargs)
        slopes.append(torch.autograd.grad(loss, projector.weight, retain_graph=True)[0])
        return loss

    trainer.compute_loss = compute_loss
    trainer.train()
    weights.append(projector.weight.detach().clone())
    for i, slope in enumerate(slopes):
        assert slope.abs().max() > 0
        torch.testing.assert_close(weights[i + 1], weights[i] - 0.1 * slope)  # plain descent: nothing is left over


@pytest.mark.slow
def test_train__projector_in_the_optimizer_and_not_in_the_model(
    make_trainer, make_model, make_encoder, labeled, pseudo_labeled, tmp_path
):
    trainer = make_trainer(
        make_model(),
        {"max_steps": 2, "save_strategy": "steps", "save_steps": 1, "learning_rate": 1e-3},
        train_dataset=labeled,
        unlabeled_dataset=pseudo_labeled,
        feature_encoder=make_encoder(48),
    )
    start = {name: values.clone() for name, values in trainer.feature_projector.state_dict().items()}
    trainer.train()
    groups = {id(p): group for group in trainer.optimizer.param_groups for p in group["params"]}
    weight, bias = trainer.feature_projector.parameters()
    assert (groups[id(weight)]["initial_lr"], groups[id(weight)]["weight_decay"]) == (pytest.approx(1e-2), 0.01)
    assert (groups[id(bias)]["initial_lr"], groups[id(bias)]["weight_decay"]) == (pytest.approx(1e-2), 0.0)
    checkpoint = tmp_path / "run" / "checkpoint-1"
    saved = torch.load(checkpoint / "feature_projector.pt", weights_only=True)
    assert not torch.equal(saved["weight"], start["weight"])
    assert not torch.equal(saved["weight"], weight)  # of step 1, not of the end
    trainer.save_model(str(tmp_path / "final"))
    assert not (tmp_path / "final" / "feature_projector.pt").exists()
    _, info = AutoModelForDepthEstimation.from_pretrained(tmp_path / "final", output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]


def test_projector__weights_follow_the_seed_and_leave_the_global_state(
    make_trainer, make_model, make_encoder, pseudo_labeled
):
    weights = []
    for seed in (0, 0, 1):
        torch.manual_seed(len(weights))
        trainer = make_trainer(
            make_model(), {"seed": seed}, unlabeled_dataset=pseudo_labeled, feature_encoder=make_encoder(48)
        )
        weights.append(trainer.feature_projector.weight.detach())
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


# Optimisation


def test_create_optimizer__two_learning_rates_and_no_decay_on_norms_and_biases(make_trainer, make_model, labeled):
    model = make_model()
    trainer = make_trainer(model, {"learning_rate": 5e-6, "weight_decay": 0.02}, train_dataset=labeled)
    groups = {id(p): group for group in trainer.create_optimizer().param_groups for p in group["params"]}
    assert len(trainer.optimizer.param_groups) == 4
    frozen = 0
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            frozen += 1
            assert id(parameter) not in groups, name
            continue
        group = groups[id(parameter)]
        assert group["lr"] == pytest.approx(5e-6 if name.startswith("backbone.") else 5e-5), name
        plain = parameter.ndim > 1 and "bias" not in name
        if name.endswith("bias") or "norm" in name:
            assert group["weight_decay"] == 0.0, name
        elif plain:
            assert group["weight_decay"] == 0.02, name
    assert frozen == 5
    assert len(groups) == len(list(model.parameters())) - 5


@pytest.mark.slow
@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ({"lr_scheduler_type": "linear"}, lambda step: 1 - step / 4),
        (
            {"lr_scheduler_type": "polynomial", "lr_scheduler_kwargs": {"power": 0.9, "lr_end": 0.0}},
            lambda step: (1 - step / 4) ** 0.9,
        ),
    ],
)
def test_train__schedule_scales_both_learning_rates(make_trainer, make_model, labeled, schedule, expected):
    settings = {"max_steps": 4, "per_device_train_batch_size": 2, "learning_rate": 1e-5, **schedule}
    trainer = make_trainer(make_model(), settings, train_dataset=labeled)
    trainer.train()
    for step, rates in enumerate(trainer.keeper.rates):
        assert sorted(rates) == pytest.approx([1e-5 * expected(step)] * 2 + [1e-4 * expected(step)] * 2), step
    assert len(trainer.keeper.rates) == 4
    assert max(group["lr"] for group in trainer.optimizer.param_groups) == pytest.approx(0, abs=1e-12)


def test_create_optimizer__takes_the_users_class(make_trainer, make_model, labeled):
    trainer = make_trainer(
        make_model(),
        train_dataset=labeled,
        optimizer_cls_and_kwargs=(torch.optim.SGD, {"momentum": 0.5}),
    )
    optimizer = trainer.create_optimizer()
    assert type(optimizer) is torch.optim.SGD
    assert {group["momentum"] for group in optimizer.param_groups} == {0.5}
    assert len({group["lr"] for group in optimizer.param_groups}) == 2


@pytest.mark.slow
def test_train__twice_gives_the_same_perturbations(make_trainer, make_model, labeled, pseudo_labeled):
    trainer = make_trainer(
        make_model(),
        {"max_steps": 1, "feature_alignment_weight": 0.0, "learning_rate": 0.0},
        train_dataset=labeled,
        unlabeled_dataset=pseudo_labeled,
    )
    trainer.train()
    trainer.train()
    first, second = losses_of(trainer, "unlabeled_loss")
    assert first == second


# Evaluation


def mixed_sizes(labeled):
    """Six records of three sizes, one of them without a single label."""
    records = []
    for i, size in enumerate([(36, 48), (48, 36), (36, 48), (40, 60), (48, 36)]):
        generator = np.random.default_rng(i)
        image = generator.integers(0, 255, (*size, 3)).astype(np.uint8)
        records.append(encode_record(image, generator.random(size) * 9 + 1, source=f"scene {i}"))
    empty = encode_record(np.zeros((36, 48, 3), np.uint8), np.full((36, 48), np.nan), source="empty")
    return [*records[:2], empty, *records[2:]]


@pytest.mark.parametrize("batch_size", [1, 4, 8])
def test_evaluate__equals_score_dataset_for_any_batch_size(make_trainer, make_model, processor, labeled, batch_size):
    records, model = mixed_sizes(labeled), make_model()
    expected = score_dataset(lambda images: predict_depth(model, processor, images), records).summary()
    trainer = make_trainer(model, {"per_device_eval_batch_size": batch_size}, eval_dataset=records)
    scores = trainer.evaluate()
    for name, value in expected.items():
        assert scores[f"eval_{name}"] == pytest.approx(value, rel=1e-5), name
    assert (scores["eval_images"], scores["eval_images_without_labels"]) == (5, 1)


def test_predict__keeps_one_row_of_numbers_an_image(make_trainer, make_model, labeled):
    records = mixed_sizes(labeled)
    output = make_trainer(make_model(), {"per_device_eval_batch_size": 4}).predict(records)
    assert output.predictions.shape == (6, len(SCORE_NAMES))
    assert np.isnan(output.predictions[2]).all()
    assert output.label_ids.shape == (6,)


def test_evaluate__dict_of_sets(make_trainer, make_model, labeled):
    sets = {"small": labeled[:2], "rest": labeled[2:]}
    trainer = make_trainer(make_model(), eval_dataset=sets)
    scores = trainer.evaluate()
    assert (scores["eval_small_images"], scores["eval_rest_images"]) == (2, 3)
    alone = trainer.evaluate(labeled[:2], metric_key_prefix="alone")
    assert scores["eval_small_abs_rel"] == pytest.approx(alone["alone_abs_rel"])


def test_evaluate__no_records(make_trainer, make_model):
    with pytest.raises(ValueError, match="eval_dataset is missing or has 0 records"):
        make_trainer(make_model()).evaluate([])


@pytest.mark.slow
def test_train__keeps_the_best_model(make_trainer, make_model, labeled):
    best = []

    class Spoil(TrainerCallback):
        """After the first step keep the weights; in the second, turn near and far round."""

        def on_step_begin(self, args, state, control, model=None, **kwargs):
            if state.global_step == 1:
                best.append({name: values.clone() for name, values in model.state_dict().items()})
                with torch.no_grad():
                    for name, parameter in model.named_parameters():
                        parameter += 0.3 * torch.randn_like(parameter) * ("backbone" in name)
                    model.head.conv3.bias += 10
                    model.head.conv3.weight *= -1

    trainer = make_trainer(
        make_model(),
        {
            **{"max_steps": 2, "eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps", "save_steps": 1},
            **{"load_best_model_at_end": True, "metric_for_best_model": "eval_abs_rel", "greater_is_better": False},
        },
        train_dataset=labeled,
        eval_dataset=labeled,
        callbacks=[Spoil()],
    )
    trainer.train()
    first, last = losses_of(trainer, "eval_abs_rel")
    assert trainer.state.best_metric == first < last
    for name, values in trainer.model.state_dict().items():
        assert torch.equal(values, best[0][name]), name
    assert trainer.evaluate()["eval_abs_rel"] == pytest.approx(first, rel=1e-6)


# Saving


@pytest.mark.slow
def test_save_model__loads_in_stock_transformers_with_its_processor(make_trainer, make_model, labeled, tmp_path):
    model = make_model()
    trainer = make_trainer(model, {"max_steps": 1}, train_dataset=labeled)
    trainer.train()
    trainer.save_model(str(tmp_path / "final"))
    stock = AutoModelForDepthEstimation.from_pretrained(tmp_path / "final").eval()
    assert type(stock) is DepthAnythingForDepthEstimation
    images = torch.randn(1, 3, 32, 40)
    with torch.no_grad():
        expected = model.eval()(pixel_values=images).predicted_depth
        torch.testing.assert_close(stock(pixel_values=images).predicted_depth, expected, rtol=0, atol=0)
    loaded = AutoImageProcessor.from_pretrained(tmp_path / "final")
    assert type(loaded).__module__.startswith("transformers.")
    assert dict(loaded.size) == {"height": 32, "width": 40}
    assert json.loads((tmp_path / "final" / "config.json").read_text())["model_type"] == "depth_anything"
    arguments = torch.load(tmp_path / "final" / "training_args.bin", weights_only=False)
    assert arguments.perturbation == trainer.args.perturbation


@pytest.mark.slow
def test_collator__serves_the_stock_trainer(make_model, processor, labeled, tmp_path):
    arguments = TrainingArguments(
        str(tmp_path), max_steps=2, remove_unused_columns=False, report_to="none", use_cpu=True, save_strategy="no"
    )
    model = make_model()
    trainer = Trainer(model, arguments, data_collator=DepthCollator(processor, model), train_dataset=labeled)
    assert trainer.train().training_loss > 0


# What stops a run


@pytest.mark.slow
def test_train__nan_weight_stops_with_the_sources(make_trainer, make_model, labeled):
    model = make_model()
    with torch.no_grad():
        model.head.conv2.weight[0, 0, 0, 0] = torch.nan
    trainer = make_trainer(model, {"per_device_train_batch_size": 5}, train_dataset=labeled)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    with pytest.raises(FloatingPointError, match="the loss is nan at step 0") as error:
        trainer.train()
    for record in labeled:
        assert record["source"] in str(error.value)
    for old, new in zip(before, model.parameters(), strict=True):
        assert torch.equal(old.nan_to_num(), new.nan_to_num())


@pytest.mark.slow
def test_train__infinite_loss_stops_before_the_step_is_applied(make_trainer, make_model, labeled):
    trainer = make_trainer(make_model(), {"max_steps": 3}, train_dataset=labeled)
    compute = trainer.model.forward

    def forward(*args, **kwargs):
        outputs = compute(*args, **kwargs)
        if trainer.state.global_step == 1:
            outputs.predicted_depth = outputs.predicted_depth * torch.inf
        return outputs

    trainer.model.forward = forward
    with pytest.raises(FloatingPointError, match="at step 1; it must be finite"):
        trainer.train()
    assert all(torch.isfinite(parameter).all() for parameter in trainer.model.parameters())


@pytest.mark.slow
@pytest.mark.parametrize("broken", [torch.nan, torch.inf])
def test_train__broken_teacher_stops_with_the_sources(make_trainer, make_model, labeled, photographs, broken):
    trainer = make_trainer(
        make_model(),
        {"feature_alignment_weight": 0.0},
        train_dataset=labeled,
        unlabeled_dataset=photographs,
        teacher=RowTeacher(broken),
    )
    with pytest.raises(FloatingPointError, match=r"the teacher's label of an image has no finite value.*bad-weather"):
        trainer.train()


def test_train__nan_in_a_label_is_not_a_label(make_trainer, make_model, labeled):
    trainer = make_trainer(make_model(), train_dataset=labeled)
    batch = first_batch(trainer)
    clean = trainer.compute_loss(trainer.model, dict(batch)).item()
    holes = batch["labels"].clone()
    holes[~batch["label_mask"]] = torch.nan
    assert trainer.compute_loss(trainer.model, {**batch, "labels": holes}).item() == clean


def test_train__dead_head_stops_with_the_sources(make_trainer, make_model, labeled):
    model = make_model()
    with torch.no_grad():
        model.head.conv3.bias.fill_(-100)
    trainer = make_trainer(model, train_dataset=labeled)
    with pytest.raises(RuntimeError, match=r"every predicted value is 0 at step 0.*dead.*synthetic:rendered"):
        trainer.train()


def test_train__zero_share_is_logged(make_trainer, make_model, labeled):
    trainer = make_trainer(make_model(), {"max_steps": 1}, train_dataset=labeled)
    batch = first_batch(trainer)
    with torch.no_grad():
        predicted = trainer.model(pixel_values=batch["pixel_values"]).predicted_depth
        trainer.model.head.conv3.bias -= predicted.median()
        expected = (trainer.model(pixel_values=batch["pixel_values"]).predicted_depth == 0).float().mean().item()
    trainer.train()
    assert trainer.keeper.logs[0]["zero_share"] == pytest.approx(expected, abs=1e-6)
    assert 0.1 < expected < 0.9


# Errors before a run


def test_init__stock_arguments(make_model, processor, labeled, tmp_path):
    with pytest.raises(TypeError, match="args is a TrainingArguments; pass DepthAnythingTrainingArguments"):
        DepthAnythingTrainer(
            make_model(), TrainingArguments(str(tmp_path)), processing_class=processor, train_dataset=labeled
        )


def test_init__other_model(make_trainer, make_model, labeled):
    config = DPTConfig(hidden_size=32, num_hidden_layers=4, num_attention_heads=2, intermediate_size=32, image_size=32)
    with pytest.raises(TypeError, match=r"DPTForDepthEstimation; DepthAnythingTrainer trains"):
        make_trainer(DPTForDepthEstimation(config), train_dataset=labeled)
    with pytest.raises(TypeError, match=r"transformers.*DepthAnythingForDepthEstimation; DepthAnythingTrainer"):
        make_trainer(DepthAnythingForDepthEstimation(make_model().config), train_dataset=labeled)


def test_check_processes__that_do_not_know_of_each_other(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match=r"2 processes were started, but they are not connected.*use_cpu"):
        checks.check_processes(1)
    checks.check_processes(2)


def test_init__teacher_without_images(make_trainer, make_model, labeled):
    with pytest.raises(ValueError, match="a teacher is passed without unlabeled_dataset"):
        make_trainer(make_model(), train_dataset=labeled, teacher=make_model())


def test_init__photographs_without_a_teacher(make_trainer, make_model, labeled, photographs):
    with pytest.raises(ValueError, match="first record of unlabeled_dataset has no depth_map and there is no teacher"):
        make_trainer(make_model(), train_dataset=labeled, unlabeled_dataset=photographs)


def test_init__labeled_records_without_a_label(make_trainer, make_model, labeled, photographs):
    with pytest.raises(
        ValueError, match=rf"none of the first {len(photographs)} records of train_dataset has a depth_map"
    ):
        make_trainer(make_model(), train_dataset=photographs)
    make_trainer(make_model(), train_dataset=[photographs[0], labeled[0]])  # some may be missing


@pytest.mark.parametrize(("teacher", "student"), [(80.0, None), (None, 80.0)])
def test_init__teacher_of_the_other_kind(make_trainer, make_model, photographs, teacher, student):
    with pytest.raises(ValueError, match=r"the teacher is '\w+' and the student '\w+'; both must predict the same"):
        make_trainer(
            make_model(max_depth=student), unlabeled_dataset=photographs, teacher=make_model(max_depth=teacher)
        )


def test_init__no_released_encoder_of_the_width(make_trainer, make_model, pseudo_labeled):
    with pytest.raises(
        ValueError, match=r"no released DINOv2 has the student's width 32.*set feature_alignment_weight=0"
    ):
        make_trainer(make_model(), unlabeled_dataset=pseudo_labeled)


def test_train__no_data(make_trainer, make_model):
    with pytest.raises(ValueError, match="no training data; pass train_dataset"):
        make_trainer(make_model()).train()


@pytest.mark.parametrize("name", ["compute_loss_func", "compute_metrics", "preprocess_logits_for_metrics"])
def test_init__functions_that_would_never_be_called(make_trainer, make_model, labeled, name):
    with pytest.raises(
        ValueError, match=rf"^{name} is passed, but DepthAnythingTrainer would never call it.*leave it out"
    ):
        make_trainer(make_model(), train_dataset=labeled, **{name: lambda *values: values})


def test_init__stock_order_of_the_arguments():
    ours, stock = (list(inspect.signature(kind.__init__).parameters) for kind in (DepthAnythingTrainer, Trainer))
    assert ours[: len(stock)] == stock
    own = [p for p in inspect.signature(DepthAnythingTrainer.__init__).parameters.values() if p.name not in stock]
    assert {p.kind for p in own} == {inspect.Parameter.KEYWORD_ONLY}


def test_init__processor_where_the_collator_stands(make_args, make_model, processor, labeled):
    with pytest.raises(
        TypeError, match=r"processing_class is a NoneType; pass processing_class=.*third one is data_coll"
    ):
        DepthAnythingTrainer(make_model(), make_args(), processor, train_dataset=labeled)
    with pytest.raises(TypeError, match=r"data_collator is a function; pass a DepthCollator"):
        DepthAnythingTrainer(make_model(), make_args(), lambda records: records, processing_class=processor)


def test_init__auto_find_batch_size(make_trainer, make_model, labeled):
    with pytest.raises(ValueError, match=r"auto_find_batch_size is True.*set per_device_train_batch_size"):
        make_trainer(make_model(), {"auto_find_batch_size": True}, train_dataset=labeled)


def test_data_collator__is_used(make_trainer, make_model, processor, labeled):
    class Counting(DepthCollator):
        calls = 0

        def __call__(self, records):
            Counting.calls += 1
            return super().__call__(records)

    model = make_model()
    make_trainer(model, train_dataset=labeled, data_collator=Counting(processor, model)).train()
    assert Counting.calls == 2
    with pytest.raises(ValueError, match="data_collator makes labels for a metric model, and the model is relative"):
        make_trainer(model, train_dataset=labeled, data_collator=DepthCollator(processor, make_model(max_depth=9)))


def test_model_init__is_called_for_every_training(make_trainer, make_model, labeled):
    made = []

    def model_init():
        made.append(make_model())
        return made[-1]

    trainer = make_trainer(None, {"max_steps": 1}, train_dataset=labeled, model_init=model_init)
    trainer.train()
    assert trainer.model is made[-1]
    assert len(made) == 2  # of the stock Trainer: one at the start, one for the training
    weights = [model.head.conv1.weight for model in made]
    assert not torch.equal(*weights)


def test_init__batch_too_small_for_two_streams(make_trainer, make_model, labeled, pseudo_labeled):
    with pytest.raises(ValueError, match="per_device_train_batch_size is 2, which leaves"):
        make_trainer(
            make_model(),
            {"per_device_train_batch_size": 2},
            train_dataset=labeled,
            unlabeled_dataset=pseudo_labeled,
        )
