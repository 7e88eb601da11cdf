"""A fresh head starts inside its range, and a head that gets no gradient stops the run."""

import warnings

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import Trainer, TrainingArguments

from depth_anything_hf import DepthAnythingForDepthEstimation
from depth_anything_hf.data.records import encode_record
from depth_anything_hf.training.collator import DepthCollator


def large_features(make_model, size=1000.0):
    """A relative model whose neck, as the bundled model's, returns features of thousands."""
    model = make_model(5)
    with torch.no_grad():
        for layer in model.neck.fusion_stage.layers:
            layer.projection.weight *= size
    return model


@pytest.mark.parametrize("max_depth", [None, 10, 80])
@pytest.mark.parametrize("seed", range(4))
def test_from_encoder__fresh_head_on_a_neck_starts_in_its_range(make_model, max_depth, seed):
    source = large_features(make_model)
    torch.manual_seed(seed)
    model = DepthAnythingForDepthEstimation.from_encoder(source, max_depth=max_depth, with_neck=True)
    images = torch.randn(2, 3, 32, 40)
    predicted = model(images).predicted_depth
    low, high = (0.3, 0.7) if max_depth else (0.2, 1.8)
    assert predicted.min() > low * (max_depth or 1)
    assert predicted.max() < high * (max_depth or 1)
    labels = torch.linspace(1, 5, 32)[:, None].expand(2, 32, 40)
    model(images, labels=labels).loss.backward()
    assert model.head.conv3.weight.grad.abs().max() > 0
    for name, values in source.neck.state_dict().items():
        assert torch.equal(values, model.neck.state_dict()[name]), name


def test_from_encoder__head_in_range_stays_as_it_is(make_model):
    source = make_model(5)
    torch.manual_seed(3)
    model = DepthAnythingForDepthEstimation.from_encoder(source, max_depth=10, with_neck=True)
    torch.manual_seed(3)
    plain = DepthAnythingForDepthEstimation(model.config)
    assert torch.equal(model.head.conv3.weight, plain.head.conv3.weight)
    assert model.training == plain.training


@pytest.mark.parametrize("bias", [1e4, -1e4])
def test_train__saturated_sigmoid_stops(make_trainer, make_model, labeled, bias):
    model = make_model(max_depth=20)
    with torch.no_grad():
        model.head.conv3.bias.fill_(bias)
    trainer = make_trainer(model, train_dataset=labeled)
    words = (
        r"0 or max_depth=20 at step 0: the head's sigmoid is saturated" if bias > 0 else "every predicted value is 0"
    )
    with pytest.raises(RuntimeError, match=words):
        trainer.train()


@pytest.mark.parametrize(("max_depth", "bias"), [(20, 1e4), (20, -1e4), (None, -1e4)])
def test_stock_trainer__dead_head_is_said(make_model, processor, labeled, tmp_path, max_depth, bias):
    model = make_model(max_depth=max_depth)
    with torch.no_grad():
        model.head.conv3.bias.fill_(bias)
    settings = {"remove_unused_columns": False, "report_to": "none", "use_cpu": True, "save_strategy": "no"}
    trainer = Trainer(
        model, TrainingArguments(str(tmp_path), max_steps=1, **settings), DepthCollator(processor, model), labeled
    )
    with pytest.warns(UserWarning, match=r"every predicted value is 0.*: the head gets no gradient"):
        trainer.train()


def test_train__teacher_with_constant_labels_stops(make_trainer, make_model, photographs):
    teacher = make_model(4)
    with torch.no_grad():
        teacher.head.conv3.weight.zero_()
    settings = {"feature_alignment_weight": 0.0}
    trainer = make_trainer(make_model(), settings, unlabeled_dataset=photographs, teacher=teacher)
    with pytest.raises(RuntimeError, match="the teacher's label of every image is one constant value at step 0"):
        trainer.train()


@pytest.mark.parametrize(
    ("arguments", "settings", "message"),
    [
        (
            {"unlabeled_weight": 0.0, "feature_alignment_weight": 0.0},
            {},
            "unlabeled_dataset is passed with unlabeled_weight=0 and",
        ),
        (
            {"labeled_weight": 0.0, "feature_alignment_weight": 0.0},
            {},
            "train_dataset is passed with labeled_weight=0:",
        ),
        ({"feature_alignment_weight": 0.0}, {"loss_weights": {"unlabeled": 0.0}}, "unlabeled_dataset is passed with"),
        (
            {"feature_alignment_weight": 0.0},
            {"loss_weights": {"labeled": 0, "unlabeled": 0}},
            "nothing would be learned",
        ),
    ],
)
def test_init__data_that_would_teach_nothing(
    make_trainer, make_model, labeled, pseudo_labeled, arguments, settings, message
):
    with pytest.raises(ValueError, match=message):
        make_trainer(make_model(), arguments, train_dataset=labeled, unlabeled_dataset=pseudo_labeled, **settings)


def test_init__weights_of_absent_images_and_of_a_metric_loss(make_trainer, make_model, labeled):
    with pytest.raises(ValueError, match="loss_weights names 'unlabeled', but no such images are passed"):
        make_trainer(make_model(), train_dataset=labeled, loss_weights={"unlabeled": 1.0})
    with pytest.raises(ValueError, match="silog_weight is 0, and it weights the only loss of a metric model"):
        make_trainer(make_model(max_depth=20), {"silog_weight": 0.0}, train_dataset=labeled)


def test_train__nothing_that_learns_is_refused(make_trainer, make_model, labeled):
    frozen = make_model().requires_grad_(False)
    with pytest.raises(ValueError, match="the model has no parameter that learns: all are frozen"):
        make_trainer(frozen, train_dataset=labeled).train()
    decoder = make_model()
    decoder.backbone.requires_grad_(False)
    with pytest.raises(ValueError, match="decoder_lr_multiplier is 0 and only the decoder learns"):
        make_trainer(decoder, {"decoder_lr_multiplier": 0.0}, train_dataset=labeled).train()


def test_train__nothing_is_float64(make_trainer, make_model, labeled, photographs, make_encoder):
    """An Apple GPU has no float64: none may appear between the batch and the step."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class NoDouble(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            out = function(*args, **(kwargs or {}))
            assert not (isinstance(out, torch.Tensor) and out.dtype == torch.float64 and out.ndim), function
            return out

    trainer = make_trainer(
        make_model(),
        train_dataset=labeled,
        unlabeled_dataset=photographs,
        teacher=make_model(3),
        feature_encoder=make_encoder(48),
    )
    metric = make_trainer(
        make_model(max_depth=20), train_dataset=[encode_record(labeled[0]["image"], np.ones((36, 48)))] * 4
    )
    for one in (trainer, metric):
        one.current_gradient_accumulation_steps = 1
        batches, counts = one.get_batch_samples(iter(one.get_train_dataloader()), 1, one.args.device)
        assert not [name for name, v in batches[0].items() if isinstance(v, torch.Tensor) and v.dtype == torch.float64]
        with NoDouble():
            one.compute_loss(one.model, batches[0], num_items_in_batch=counts).backward()


@pytest.mark.parametrize("labeled", [0, 2, 3])
def test_evaluate__images_without_a_label_in_range_are_said(make_trainer, make_model, labeled):
    image, near, far = Image.new("RGB", (40, 32)), np.linspace(1, 9, 32 * 40).reshape(32, 40), np.full((32, 40), 500.0)
    records = [encode_record(image, near if place < labeled else far) for place in range(3)]
    trainer = make_trainer(make_model(max_depth=20), eval_dataset=records)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert trainer.evaluate()["eval_images"] == labeled
    said = [
        str(one.message) for one in caught if "images of the evaluation have no label in range" in str(one.message)
    ]
    assert [one.split(".")[0] for one in said] == {
        0: ["3 of 3 images of the evaluation have no label in range and do not count: the scores are NaN"],
        2: ["1 of 3 images of the evaluation have no label in range and do not count"],
        3: [],
    }[labeled]


def test_init__an_eval_set_without_labels(make_trainer, make_model, labeled, photographs):
    for data in (photographs, {"a": labeled, "b": photographs}):
        with pytest.raises(ValueError, match="the first record of eval_dataset has no depth_map"):
            make_trainer(make_model(), train_dataset=labeled, eval_dataset=data)


@pytest.mark.parametrize(("warmup", "said"), [(4, 1), (2, 1), (0.9, 1), (1, 0), (0, 0)])
def test_train__a_warmup_longer_than_the_run_is_said(make_trainer, make_model, labeled, warmup, said):
    trainer = make_trainer(make_model(), {"max_steps": 2, "warmup_steps": warmup}, train_dataset=labeled)
    trainer.create_optimizer()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer.create_scheduler(2)
    assert len([one for one in caught if "never reaches learning_rate" in str(one.message)]) == said


def test_train__arguments_that_the_schedule_does_not_take(make_trainer, make_model, labeled):
    trainer = make_trainer(make_model(), {"lr_scheduler_kwargs": {"bogus": 1}}, train_dataset=labeled)
    with pytest.raises(
        ValueError, match=r"lr_scheduler_kwargs is \{'bogus': 1\}, which lr_scheduler_type does not take"
    ):
        trainer.train()
