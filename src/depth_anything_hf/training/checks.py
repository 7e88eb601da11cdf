"""Checks before a training run and after each step: stop a run that cannot succeed, and explain why."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn
from transformers.utils import IMAGE_PROCESSOR_NAME

from depth_anything_hf.data.records import DepthSample
from depth_anything_hf.losses import LossTerm
from depth_anything_hf.losses.terms import Weight
from depth_anything_hf.model.image_processing import DepthAnythingImageProcessor
from depth_anything_hf.model.modeling import DepthAnythingForDepthEstimation
from depth_anything_hf.prediction.weights import find_file
from depth_anything_hf.training.arguments import DepthAnythingTrainingArguments
from depth_anything_hf.training.collator import DepthCollator


def check_stock_arguments(
    args, data_collator, processing_class, compute_loss_func, compute_metrics, preprocess_logits_for_metrics
) -> DepthAnythingImageProcessor:
    """Return the processor; raise an error for stock arguments that would have no effect here, or a different one.

    Raises:
        TypeError: `args` are stock arguments, or the collator or the processor is of another class.
        ValueError: A function that would never be called, or `auto_find_batch_size`.
    """
    if not isinstance(args, DepthAnythingTrainingArguments):
        raise TypeError(f"args is a {type(args).__name__}; pass DepthAnythingTrainingArguments.")
    if not isinstance(processing_class, DepthAnythingImageProcessor):
        raise TypeError(
            f"processing_class is a {type(processing_class).__name__}; pass processing_class=DepthAnythingImageProcessor(...). "
            "(The arguments have the stock Trainer's order: the third one is data_collator.)"
        )
    if data_collator is not None and not isinstance(data_collator, DepthCollator):
        raise TypeError(
            f"data_collator is a {type(data_collator).__name__}; pass a DepthCollator or a subclass of it, or leave it out: "
            "one is made from args."
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
    if args.auto_find_batch_size:
        raise ValueError(
            "auto_find_batch_size is True, but the batch is divided between labeled and unlabeled images beforehand: set "
            "per_device_train_batch_size, and leave it out."
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
    weights = [args.labeled_weight * has_labeled, args.unlabeled_weight * has_unlabeled]
    weights.append((args.feature_alignment_weight or 0.0) * has_unlabeled)
    if (has_labeled or has_unlabeled) and not any(weights):
        raise ValueError(
            "labeled_weight, unlabeled_weight and feature_alignment_weight are 0 for the images that are passed: nothing "
            "would be learned. Set one above 0."
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
    """Raise a `ValueError` if a launcher started several processes and each would train its own model.

    Args:
        world_size (`int`): Number of processes that are connected.
    """
    started = int(os.environ.get("WORLD_SIZE", "1"))
    if started > 1 and world_size == 1:
        raise ValueError(
            f"{started} processes were started, but they are not connected; each would train its own model into the "
            "same folder. On a CPU pass use_cpu=True; on GPUs check that each process finds its GPU."
        )


def check_teacher(teacher: nn.Module | None, depth_estimation_type: str, unlabeled_dataset) -> nn.Module | None:
    """Return the teacher; raise an error if unlabeled images would get no labels, or labels of the wrong kind.

    Args:
        teacher (`nn.Module`, *optional*): Labels the unlabeled images.
        depth_estimation_type (`str`): Kind of the student: "relative" or "metric".
        unlabeled_dataset (*optional*): Records, map-style or streamed.

    Raises:
        ValueError: A teacher without images, photographs without a teacher, or a teacher of the other kind.
    """
    if teacher is None:
        if unlabeled_dataset is not None and not _has_label(next(iter(unlabeled_dataset), {})):
            raise ValueError(
                "the first record of unlabeled_dataset has no depth_map and there is no teacher; pass teacher=a model, or "
                "pseudo-labeled records."
            )
        return None
    if unlabeled_dataset is None:
        raise ValueError("a teacher is passed without unlabeled_dataset; pass the images that it will label.")
    teacher_config = getattr(teacher, "config", None)
    teacher_type = getattr(teacher_config, "depth_estimation_type", depth_estimation_type)
    if teacher_type != depth_estimation_type:
        raise ValueError(
            f"the teacher is {teacher_type!r} and the student {depth_estimation_type!r}; both must predict the same. "
            "Label offline and convert, or choose another teacher."
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
                f"the {role} {name} was trained with {key} {asked}, and the student's images have {list(given) if isinstance(given, tuple) else given}: it would see wrong "
                f"colors. {advice}."
            )


def check_labels(train_dataset, records: int = 32) -> None:
    """Raise an error if no record among the first ones has a label: the loss would be 0 and nothing would be learned.

    Args:
        train_dataset (*optional*): Records, map-style or streamed.
        records (`int`): Number of records to check.

    Raises:
        ValueError: None of them has a label.
    """
    if train_dataset is None:
        return
    looked_at = 0
    for record in islice(train_dataset, records):
        if _has_label(record):
            return
        looked_at += 1
    if looked_at:
        raise ValueError(
            f"none of the first {looked_at} records of train_dataset has a depth_map; labels are read from that column "
            "(encode_record makes it). Pass photographs as unlabeled_dataset, with a teacher."
        )


def _has_label(record: Mapping | DepthSample) -> bool:
    return (record.values if isinstance(record, DepthSample) else record.get("depth_map")) is not None


class _Findings(NamedTuple):
    """Values of a step, on their way from the device."""

    values: torch.Tensor  # (4,): loss is not finite, teacher labels nothing, share of zeros, loss
    arrived: torch.cuda.Event | None
    sources: Sequence[str]
    step: int


class HealthCheck:
    """Stop at a non-finite loss, an all-zero prediction, or a teacher that labels nothing.

    Reading a number with `.item()` leaves an accelerator idle until the host continues. On an accelerator the values of a
    step are therefore read when the next step is checked: by then they have arrived.

    Args:
        delayed (`bool`): Read each step one step late. Otherwise at once, before its update is applied.
    """

    def __init__(self, delayed: bool):
        self.delayed = delayed
        self._pending: _Findings | None = None

    def check(
        self,
        loss: torch.Tensor,
        predicted_depth: torch.Tensor,
        teacher_mask: torch.Tensor | None,
        sources: Sequence[str],
        step: int,
    ) -> torch.Tensor:
        """Check a step, or with `delayed` the step before it.

        Args:
            loss (`torch.Tensor`): Scalar.
            predicted_depth (`torch.Tensor`): `(batch, height, width)`.
            teacher_mask (`torch.Tensor`, *optional*): `(batch, height, width)` bool: True if the teacher's label is
                finite.
            sources (`Sequence[str]`): Origins of the images, for the message.
            step (`int`): Number of the step, for the message.

        Returns:
            `torch.Tensor`: Share of zeros in the prediction, scalar.

        Raises:
            FloatingPointError: The loss is NaN or infinite, or the teacher's label of an image has no finite value.
            RuntimeError: Every predicted value is 0.
        """
        loss = loss.detach().float()
        zero_share = (predicted_depth.detach() == 0).float().mean()
        blind = zero_share.new_zeros(()) if teacher_mask is None else ~teacher_mask.flatten(1).any(dim=1).all()
        found = torch.stack([(~torch.isfinite(loss)).float(), blind.float(), zero_share, loss])
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
        broken, blind, zero_share, loss = values.tolist()
        named = ", ".join(source or "(unnamed)" for source in sources)
        applied = "Its update is applied in memory" if self.delayed else "Nothing of this step was applied"
        # A broken teacher masks all of its labels: the loss would be 0, as if everything were learned.
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


def _to_host(values: torch.Tensor) -> tuple[torch.Tensor, torch.cuda.Event | None]:
    """Copy values to the CPU without waiting: return the copy, and an event that is set when it has arrived."""
    if values.device.type != "cuda":
        return values.cpu(), None
    copy = torch.empty(values.shape, dtype=values.dtype, pin_memory=True).copy_(values, non_blocking=True)
    arrived = torch.cuda.Event()
    arrived.record()
    return copy, arrived
