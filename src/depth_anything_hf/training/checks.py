"""Checks before a training run and after each step: stop a run that cannot succeed, and explain why."""

from __future__ import annotations

import json
import math
import os
import warnings
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn
from transformers.utils import IMAGE_PROCESSOR_NAME

from depth_anything_hf.data.records import DepthSample
from depth_anything_hf.evaluation.scoring import SCORE_NAMES
from depth_anything_hf.losses import LossTerm
from depth_anything_hf.losses.terms import Weight
from depth_anything_hf.model.image_processing import DepthAnythingImageProcessor
from depth_anything_hf.model.modeling import DepthAnythingForDepthEstimation
from depth_anything_hf.prediction.weights import find_file
from depth_anything_hf.training.arguments import DepthAnythingTrainingArguments
from depth_anything_hf.training.batches import SOURCE_NAMES, as_record
from depth_anything_hf.training.collator import DepthCollator, check_processor


def check_stock_arguments(
    args, data_collator, processing_class, compute_loss_func, compute_metrics, preprocess_logits_for_metrics
) -> DepthAnythingImageProcessor:
    """Return the processor; raise an error for stock arguments that would have no effect here, or a different one.

    Raises:
        TypeError: `args` are stock arguments, or the collator or the processor is of another class.
        ValueError: A function that would never be called, or a setting of `args` that the given collator does not have.
    """
    if not isinstance(args, DepthAnythingTrainingArguments):
        raise TypeError(f"args is a {type(args).__name__}; pass DepthAnythingTrainingArguments.")
    hint = ""
    if hasattr(data_collator, "image_processor_type") or hasattr(data_collator, "image_mean"):
        hint = f" data_collator is a {type(data_collator).__name__}: the third one is data_collator, as in the stock Trainer."
    if not isinstance(processing_class, DepthAnythingImageProcessor):
        own = ".from_pretrained(the same folder or id)" if hasattr(processing_class, "save_pretrained") else "(...)"
        raise TypeError(
            f"processing_class is a {type(processing_class).__name__}; pass processing_class=DepthAnythingImageProcessor{own}."
            f"{hint}"
        )
    check_processor(processing_class)
    if data_collator is not None and not isinstance(data_collator, DepthCollator):
        raise TypeError(
            f"data_collator is a {type(data_collator).__name__}; pass a DepthCollator or a subclass of it, or leave it out: "
            f"one is made from args.{hint}"
        )
    if data_collator is not None:
        for name, default in {"flip_probability": 0.5, "zoom": 1.0, "color_ranges": None}.items():
            asked, own = getattr(args, {"color_ranges": "colors"}.get(name, name)), getattr(data_collator, name)
            if asked not in (default, own):
                raise ValueError(
                    f"{name} is {asked} in args and {own} in data_collator, which is used: pass it to the DepthCollator, or "
                    "leave data_collator out."
                )
    instead = {
        "compute_loss_func": "pass losses=[LossTerm(...)] for losses of your own",
        "compute_metrics": "the trainer scores each image itself; score predictions otherwise with score_models",
        "preprocess_logits_for_metrics": "the trainer scores each image itself and keeps no predictions",
    }
    given = (compute_loss_func, compute_metrics, preprocess_logits_for_metrics)
    for (name, advice), value in zip(instead.items(), given, strict=True):
        if value is not None:
            raise ValueError(
                f"{name} is passed, but DepthAnythingTrainer would never call it: {advice}, and leave it out."
            )
    return processing_class


def check_losses(
    losses: Sequence[LossTerm],
    loss_weights: Mapping[str, Weight],
    args: DepthAnythingTrainingArguments,
    has_labeled: bool,
    has_unlabeled: bool,
) -> None:
    """Raise an error for losses with equal names, losses that are never computed, and weights that are all 0.

    Raises:
        TypeError: An entry of `losses` is no `LossTerm`.
        ValueError: A name is used twice, images of a loss are missing, a weight has an unknown name, or all are 0.
    """
    taken = {"affine_invariant", "gradient_matching", "silog"}
    for term in losses:
        if not isinstance(term, LossTerm):
            raise TypeError(
                f"losses holds a {type(term).__name__}; pass LossTerm(name, function, weight=..., on=...)."
            )
        if term.name in taken:
            raise ValueError(
                f"losses has the name {term.name!r} twice, or it is one of the papers' losses; choose another."
            )
        taken.add(term.name)
        if not {"labeled": has_labeled, "unlabeled": has_unlabeled, "both": True}[term.on]:
            raise ValueError(
                f"loss {term.name!r} is on {term.on} images, but there are none; pass some, or change on."
            )
    known = ("labeled", "unlabeled", "feature_alignment")
    strange = sorted(set(loss_weights) - set(known))
    if strange:
        raise ValueError(
            f"loss_weights names {strange[0]!r}; it takes {', '.join(known)}. A LossTerm has its own weight."
        )
    for name, weight in loss_weights.items():
        if not callable(weight) and not 0 <= weight < math.inf:
            raise ValueError(
                f"loss_weights[{name!r}] is {weight}; it must be a finite number of at least 0, or a function of the step."
            )
    present = {"labeled": has_labeled, "unlabeled": has_unlabeled, "feature_alignment": has_unlabeled}
    for name in loss_weights:
        if not present[name]:
            raise ValueError(
                f"loss_weights names {name!r}, but no such images are passed; pass some, or leave it out."
            )
    # The weights in args divide the sum, so they must not all be 0 either.
    configured = {name: getattr(args, f"{name}_weight") or 0.0 for name in known if present[name]}
    weights = configured | dict(loss_weights)
    if weights and not (any(weights.values()) and any(configured.values())):
        raise ValueError(
            "labeled_weight, unlabeled_weight and feature_alignment_weight are 0 for the images that are passed: nothing "
            "would be learned. Set one above 0."
        )
    for argument, names in (("train_dataset", known[:1]), ("unlabeled_dataset", known[1:])):
        if present[names[0]] and not any(weights[name] for name in names):
            raise ValueError(
                f"{argument} is passed with {' and '.join(f'{name}_weight=0' for name in names)}: it would teach nothing. Set "
                "one above 0, or leave it out."
            )


def check_model(model: Any) -> None:
    """Raise a `TypeError` unless the model is a Depth Anything of this package, bare or in PEFT's wrapper."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    if not isinstance(base, DepthAnythingForDepthEstimation):
        raise TypeError(
            f"model is a {type(base).__module__}.{type(base).__name__}; DepthAnythingTrainer trains "
            "depth_anything_hf.DepthAnythingForDepthEstimation, which loads every Depth Anything checkpoint. Other "
            "depth models can be the teacher."
        )


def check_processes(world_size: int) -> None:
    """Raise a `ValueError` if a launcher started more processes than are connected: each would train its own model."""
    started = int(os.environ.get("WORLD_SIZE", "1"))
    if started > 1 and world_size == 1:
        raise ValueError(
            f"{started} processes were started, but they are not connected; each would train its own model into the "
            "same folder. On a CPU pass use_cpu=True; on GPUs check that each process finds its GPU."
        )


def check_data(train_dataset, unlabeled_dataset, eval_dataset) -> None:
    """Raise an error for data of another kind: several splits at once, or an evaluation on a stream.

    Raises:
        TypeError: A mapping of splits, such as a `DatasetDict`, or records that are no mappings.
        ValueError: The first records of `train_dataset` have no label, or the first one of `eval_dataset` has none.
    """
    for name, data in zip(SOURCE_NAMES, (train_dataset, unlabeled_dataset), strict=True):
        if isinstance(data, Mapping):
            splits = ", ".join(map(repr, data)) or "none"
            raise TypeError(
                f"{name} is a {type(data).__name__} with the splits {splits}; pass one of them: {name}=data[...]."
            )
    for data in eval_dataset.values() if isinstance(eval_dataset, Mapping) else [eval_dataset]:
        if data is not None and not (hasattr(data, "__len__") and hasattr(data, "__getitem__")):
            raise TypeError(
                f"eval_dataset is a {type(data).__name__}, a stream; evaluation needs a set with a length and an index: "
                "list(stream.take(500)), or load_dataset without streaming."
            )
        if data is not None and len(data) and not _has_label(as_record(data[0])):
            raise ValueError(
                "the first record of eval_dataset has no depth_map; evaluation needs ground truth for each. Pass labeled records "
                "with the columns of docs/data_format.md."
            )
    _check_labels(train_dataset)


def check_best_metric(args: DepthAnythingTrainingArguments, eval_dataset) -> None:
    """Raise a `ValueError` if `metric_for_best_model` will not be among the scores of an evaluation."""
    if args.metric_for_best_model is None or eval_dataset is None:
        return
    sets = [f"{name}_" for name in eval_dataset] if isinstance(eval_dataset, Mapping) else [""]
    scores = [name for name in SCORE_NAMES if name != "scale"]
    known = [f"{start}{score}" for score in scores for start in sets]
    if args.metric_for_best_model.removeprefix("eval_") not in known:
        raise ValueError(
            f"metric_for_best_model is {args.metric_for_best_model!r}, which no evaluation returns; set it to one of "
            f"{', '.join(known)}."
        )


def check_teacher(teacher: nn.Module | None, config: Any, unlabeled_dataset) -> nn.Module | None:
    """Return the teacher; raise an error if unlabeled images would get no labels, or labels of the student's other kind.

    Args:
        teacher (`nn.Module`, *optional*): Its config, if it has one, says what it predicts.
        config: The student's config.
        unlabeled_dataset: The images to label.

    Raises:
        TypeError: The teacher is no model.
        ValueError: A teacher without images, photographs without a teacher, or a teacher of the other kind.
    """
    if teacher is None:
        if unlabeled_dataset is not None and not _has_label(as_record(next(iter(unlabeled_dataset), {}))):
            raise ValueError(
                "the first record of unlabeled_dataset has no depth_map and there is no teacher; pass teacher=a model, or "
                "pseudo-labeled records."
            )
        return None
    if unlabeled_dataset is None:
        raise ValueError("a teacher is passed without unlabeled_dataset; pass the images that it will label.")
    if not isinstance(teacher, nn.Module):
        raise TypeError(
            f"teacher is {teacher!r}; pass a model: load_model({teacher!r})[0] of depth_anything_hf.prediction.predictor."
        )
    depth_estimation_type, teacher_config = config.depth_estimation_type, getattr(teacher, "config", None)
    teacher_type = getattr(teacher_config, "depth_estimation_type", depth_estimation_type)
    if teacher_type != depth_estimation_type:
        raise ValueError(
            f"the teacher is {teacher_type!r} and the student {depth_estimation_type!r}; both must predict the same. "
            "Label offline and convert, or choose another teacher."
        )
    reach = getattr(teacher_config, "max_depth", None)
    if depth_estimation_type == "metric" and reach is not None and reach > config.max_depth:
        warnings.warn(
            f"the teacher's max_depth is {reach:g} and the student's {config.max_depth:g}: what the teacher sees beyond it "
            "teaches nothing, and if that is all, no unlabeled image does. Choose a teacher of the student's range.",
            stacklevel=3,
        )
    return teacher


def check_helper(helper: nn.Module, role: str, processor: DepthAnythingImageProcessor) -> None:
    """Raise an error if a helper expects images prepared otherwise than the student's, which it is given.

    Args:
        helper (`nn.Module`): Teacher or feature encoder. What it expects is read from the processor beside its weights; a
            model made in memory is taken as it is.
        role (`str`): For the message, and whether it must predict depth: "teacher" or "feature encoder".
        processor (`DepthAnythingImageProcessor`): The student's.

    Raises:
        ValueError: Another mean, deviation or factor; or a teacher of another family, whose output has a rule of its own.
    """
    config = getattr(helper, "config", None)
    family, name = getattr(config, "model_type", "depth_anything"), getattr(config, "name_or_path", "")
    label = "Label the images with it first, by depth-anything-hf pseudo-label, which prepares them as it needs them"
    if role == "teacher" and family != "depth_anything":
        raise ValueError(
            f"the teacher is of type {family!r}; during training the student's images are passed on, and other families need "
            f"their own size and normalization. {label}."
        )
    try:
        path = find_file(name, IMAGE_PROCESSOR_NAME) if name else None
    except (OSError, ValueError):  # its folder is gone, or the Hub out of reach
        path = None
    if path is None:
        return
    own = json.loads(Path(path).read_text(encoding="utf-8"))
    ours = processor.to_dict()
    for key in ("image_mean", "image_std", "rescale_factor"):
        asked, given = own.get(key), ours.get(key)
        if asked is not None and given is not None and not np.allclose(asked, given, atol=1e-4):
            advice = label if role == "teacher" else "Choose an encoder with the student's normalization"
            raise ValueError(
                f"the {role} {name} was trained with {key} {asked}, and the student's images have "
                f"{np.asarray(given).tolist()}: it would see wrong "
                f"colors. {advice}."
            )


def _check_labels(train_dataset) -> None:
    """Raise a `ValueError` if no record among the first 32 has a label: the loss would be 0."""
    looked_at: list[Mapping] = []
    for record in map(as_record, islice(() if train_dataset is None else train_dataset, 32)):
        if _has_label(record):
            return
        looked_at.append(record)
    if looked_at:
        raise ValueError(
            f"none of the first {len(looked_at)} records of train_dataset has a depth_map; labels are read from that column "
            f"(encode_record makes it), and the columns are {', '.join(map(str, looked_at[0]))}. Rename the column of the "
            "depth maps, and add depth_scale, depth_offset and space; pass photographs as unlabeled_dataset, with a teacher."
        )


def _has_label(record: Mapping) -> bool:
    sample = record.get("sample")
    return (sample.values if isinstance(sample, DepthSample) else record.get("depth_map")) is not None


def check_learned(images: int, labels: int, name: str) -> None:
    """Raise a `RuntimeError` if none of a training's images had a label to learn from; warn if some had none."""
    said = (
        f"{images - labels} of {images} images of {name} had no label to learn from (empty, constant or out of the model's "
        "range after the crop)"
    )
    if images and not labels:
        raise RuntimeError(f"{said}: nothing was learned. Check depth_scale, depth_offset, space and max_depth.")
    if labels < images:
        warnings.warn(f"{said}; the others taught as usual.", stacklevel=3)


class _Findings(NamedTuple):
    """Values of a step, on their way from the device."""

    values: torch.Tensor  # (5,): loss is not finite, teacher labels nothing, shares of zeros and of max_depth, loss
    arrived: torch.cuda.Event | None
    sources: Sequence[str]
    step: int


class HealthCheck:
    """Stop at a non-finite loss, a dead or saturated head, or a teacher that labels nothing.

    Reading a number with `.item()` leaves an accelerator idle until the host continues. On an accelerator the values of a
    step are therefore read when the next step is checked: by then they have arrived.

    Args:
        delayed (`bool`): Read each step one step late. Otherwise at once, before its update is applied.
        max_depth (`float`, *optional*): Largest depth of a metric model, meters.
    """

    def __init__(self, delayed: bool, max_depth: float | None = None):
        self.delayed, self.max_depth = delayed, max_depth
        self._pending: _Findings | None = None

    def check(
        self,
        loss: torch.Tensor,
        predicted_depth: torch.Tensor,
        teacher: tuple[torch.Tensor, torch.Tensor] | None,
        sources: Sequence[str],
        step: int,
    ) -> torch.Tensor:
        """Check a step, or with `delayed` the step before it.

        Args:
            loss (`torch.Tensor`): Scalar.
            predicted_depth (`torch.Tensor`): `(batch, height, width)`.
            teacher (`tuple[torch.Tensor, torch.Tensor]`, *optional*): The teacher's labels and where they are finite,
                `(batch, height, width)` each.
            sources (`Sequence[str]`): Origins of the images, for the message.
            step (`int`): Number of the step, for the message.

        Returns:
            `torch.Tensor`: Share of zeros in the prediction, scalar.

        Raises:
            FloatingPointError: The loss is NaN or infinite, or the teacher's label of an image has no finite value.
            RuntimeError: Every predicted value is 0 or `max_depth`, or all labels of the teacher are constant.
        """
        loss = loss.detach().float()
        zero_share = (predicted_depth.detach() == 0).float().mean()
        full_share = zero_share.new_zeros(())
        if self.max_depth is not None:
            full_share = (predicted_depth.detach() >= self.max_depth).float().mean()
        blind = zero_share.new_zeros(())  # 1: no finite value in an image; 2: one value in each image
        if teacher is not None:
            labels, finite = (values.flatten(1) for values in teacher)
            constant = (labels == labels[:, :1]).all()
            blind = torch.where(finite.any(dim=1).all(), 2.0 * constant, 1.0)
        found = torch.stack([(~torch.isfinite(loss)).float(), blind, zero_share, full_share, loss])
        self.finish()
        self._pending = _Findings(*_to_host(found), sources, step)
        if not self.delayed:
            self.finish()
        return zero_share

    def finish(self) -> None:
        """Check the last step: before a checkpoint is written, and at the end."""
        if self._pending is None:
            return
        (values, arrived, sources, step), self._pending = self._pending, None
        if arrived is not None:
            arrived.synchronize()
        broken, blind, zero_share, full_share, loss = values.tolist()
        named = ", ".join(source or "(unnamed)" for source in sources)
        applied = "Its update is applied in memory" if self.delayed else "Nothing of this step was applied"
        # A broken teacher masks all of its labels: the loss would be 0, as if everything were learned.
        if blind == 2:
            raise RuntimeError(
                f"the teacher's label of every image is one constant value at step {step}: there is nothing to learn from it. "
                f"Batch: {named}. Check the teacher's weights, its max_depth and its processor."
            )
        if blind:
            raise FloatingPointError(
                f"the teacher's label of an image has no finite value at step {step}. Batch: {named}. Check the "
                "teacher's weights and precision; its labels must be finite."
            )
        if broken:
            raise FloatingPointError(
                f"the loss is {loss} at step {step}; it must be finite. Batch: {named}. Look at these labels, lower "
                f"learning_rate, or set max_grad_norm=1. {applied}; the last checkpoint is sound."
            )
        if zero_share == 1:
            raise RuntimeError(
                f"every predicted value is 0 at step {step}: the head's final ReLU is dead and will not recover. "
                f"Batch: {named}. Start again with a lower learning_rate or decoder_lr_multiplier, or from a "
                "pretrained encoder."
            )
        if full_share > 0 and zero_share + full_share == 1:
            raise RuntimeError(
                f"every predicted value is 0 or max_depth={self.max_depth:g} at step {step}: the head's sigmoid is saturated, "
                f"its gradient is 0 and it will not recover. Batch: {named}. Start again with a lower learning_rate or "
                "decoder_lr_multiplier, or with a fresh head (from_encoder)."
            )


def _to_host(values: torch.Tensor) -> tuple[torch.Tensor, torch.cuda.Event | None]:
    """Copy values to the CPU without waiting: return the copy, and an event that is set when it has arrived."""
    if values.device.type != "cuda":
        return values.cpu(), None
    copy = torch.empty(values.shape, dtype=values.dtype, pin_memory=True).copy_(values, non_blocking=True)
    arrived = torch.cuda.Event()
    arrived.record()
    return copy, arrived
