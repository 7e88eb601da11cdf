r"""The self-training step: teacher's view, student's view, three losses.

\(L = \mathrm{mean}(L_l, L_u, L_{feat})\): labeled images, unlabeled images with the teacher's labels under strong
perturbation and CutMix, and feature alignment on the unlabeled ones (Depth Anything V1, section 3.3). With one kind of images
the same step trains the teacher (labeled images) or the student of V2 (unlabeled images).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import nn

from depth_anything_hf.augmentation import (
    ColorDraw,
    StrongPerturbation,
    cutmix,
    cutmix_boxes,
    draw_colors,
    perturb_colors,
)
from depth_anything_hf.losses import LossTerm, has_label, labeled_pixels, supervised_loss
from depth_anything_hf.losses.terms import weight_at
from depth_anything_hf.training.arguments import DepthAnythingTrainingArguments


class View(NamedTuple):
    """Images as the student sees them, and the labels for its prediction."""

    pixel_values: torch.Tensor  # (batch, 3, height, width)
    labels: torch.Tensor  # (batch, height, width)
    label_mask: torch.Tensor  # (batch, height, width), bool
    boxes: torch.Tensor | None  # (batch, height, width), bool: from the partner; None for labeled images


def teacher_labels(teacher: nn.Module, pixel_values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Label clean images with the teacher: return the labels and their mask, `(batch, height, width)`."""
    with torch.inference_mode():
        labels = teacher(pixel_values=pixel_values).predicted_depth.float()
    labels = labels.clone()  # a tensor of the inference mode cannot take part in a backward pass
    return labels, torch.isfinite(labels)


def draw_view(
    height: int,
    width: int,
    perturbation: StrongPerturbation | None,
    cutmix_probability: float,
    generator: torch.Generator,
) -> dict[str, torch.Tensor]:
    """Draw the random values of the student's view of one unlabeled image.

    Args:
        height (`int`): Height of the crop, pixels.
        width (`int`): Width of the crop, pixels.
        perturbation (`StrongPerturbation`, *optional*): None leaves the colors unchanged.
        cutmix_probability (`float`): Share of the images that get a CutMix box.
        generator (`torch.Generator`): Source of all random numbers, on the CPU.

    Returns:
        `dict[str, torch.Tensor]`: One row of `drawn` for `student_view`: `boxes`, and the fields of `ColorDraw`.
    """
    colors = {} if perturbation is None else draw_colors(1, perturbation, generator)._asdict()
    return {**colors, "boxes": cutmix_boxes(1, height, width, generator, cutmix_probability)}


@torch.no_grad()
def student_view(
    pixel_values: torch.Tensor,
    labels: torch.Tensor,
    label_mask: torch.Tensor,
    drawn: Mapping[str, torch.Tensor],
    normalization: tuple[torch.Tensor, torch.Tensor],
) -> View:
    """Perturb each image's colors, then mix each with its partner in a random box, with labels and masks.

    Args:
        pixel_values (`torch.Tensor`): `(batch, 3, height, width)`, normalized, clean.
        labels (`torch.Tensor`): `(batch, height, width)`, for the clean images.
        label_mask (`torch.Tensor`): Bool, same shape as the labels.
        drawn (`Mapping[str, torch.Tensor]`): From `draw_view`, one row per image, on the images' device.
        normalization (`tuple[torch.Tensor, torch.Tensor]`): Mean and standard deviation, `(3, 1, 1)` each.

    Returns:
        `View`: The student's view. Source: Depth Anything V1, section 3.2.
    """
    boxes = drawn["boxes"]
    if "factors" in drawn:
        mean, std = normalization
        draw = ColorDraw(**{name: drawn[name] for name in ColorDraw._fields})
        colors = perturb_colors((pixel_values * std + mean).clamp(0, 1), draw)
        pixel_values = (colors - mean) / std
    pixel_values, labels, label_mask = cutmix([pixel_values, labels, label_mask], boxes)
    return View(pixel_values, labels, label_mask, boxes)


def count_labels(batch: Mapping, max_depth: float | None, with_teacher: bool) -> torch.Tensor:
    """Count a batch's labeled and unlabeled images that have a label to learn from, after CutMix: `(2,)` float.

    A teacher labels all of them: one that does not stops the run.
    """
    count, labels, mask = batch["num_labeled"], batch["labels"], batch["label_mask"]
    mask = labeled_pixels(labels, mask, max_depth)
    counts = [has_label(labels[:count], mask[:count], max_depth).sum()]
    labels, mask = labels[count:], mask[count:]
    if with_teacher or not len(labels):
        counts.append(torch.full_like(counts[0], len(labels)))
    else:
        boxes = batch["view"]["boxes"]
        labels, mask = cutmix([labels, mask], boxes)
        regions = (has_label(labels, mask & region, max_depth) for region in (boxes, ~boxes))
        counts.append(torch.stack(list(regions)).any(dim=0).sum())
    return torch.stack(counts).float()


def view_loss(
    predicted_depth: torch.Tensor,
    view: View,
    args: DepthAnythingTrainingArguments,
    trim_fraction: float,
    max_depth: float | None = None,
    terms: Sequence[LossTerm] = (),
    step: int = 0,
) -> dict[str, torch.Tensor]:
    """Compute the terms of the loss on labeled or on unlabeled images by name, and their weighted sum as `total`.

    Args:
        predicted_depth (`torch.Tensor`): `(batch, height, width)`.
        view (`View`): The images and their labels.
        args (`DepthAnythingTrainingArguments`): The weights.
        trim_fraction (`float`): Share of the worst pixels to ignore.
        max_depth (`float`, *optional*): Largest depth of a metric model, meters.
        terms (`Sequence[LossTerm]`): Losses of the user for these images.
        step (`int`): Training step, for weights that follow a schedule.

    Returns:
        `dict[str, torch.Tensor]`: Scalars; all but `total` are unweighted and detached.
    """
    mask = labeled_pixels(view.labels, view.label_mask, max_depth)
    boxes = view.boxes if args.cutmix_probability else None
    losses = supervised_loss(
        predicted_depth,
        view.labels,
        mask,
        max_depth,
        boxes,
        args.gradient_matching_weight or 0.0,
        trim_fraction,
        args.silog_variance_focus,
        args.silog_weight,
    )
    for term in terms:
        value = term.compute(predicted_depth, view.labels, mask, boxes)
        losses[term.name] = value.detach()
        losses["total"] = losses["total"] + weight_at(term.weight, step) * value
    return losses


def combine(weighted: list[tuple[float, torch.Tensor]], divisor: float | None = None) -> torch.Tensor:
    """Average losses by weight: with equal weights it is V1's plain average of the terms in use.

    Args:
        weighted (`list[tuple[float, torch.Tensor]]`): Weights, and losses (scalars).
        divisor (`float`, *optional*): Divisor of the weighted sum. Default: the sum of the weights.

    Returns:
        `torch.Tensor`: Scalar.
    """
    weights, losses = zip(*weighted, strict=True)
    total = sum((weight * loss for weight, loss in weighted), start=torch.zeros_like(losses[0]))
    return total / (sum(weights) if divisor is None else divisor)
