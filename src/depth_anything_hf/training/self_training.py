r"""The self-training step: teacher's view, student's view, three losses.

\(L = \mathrm{mean}(L_l, L_u, L_{feat})\): labelled images, unlabelled images with the teacher's labels under strong
perturbation and CutMix, and feature alignment on the unlabelled ones (Depth Anything V1, section 3.3). With one stream
alone the same step trains the teacher (labelled only) or V2's student (unlabelled only).
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

from depth_anything_hf.augmentation import (
    ColorDraw,
    StrongPerturbation,
    cutmix,
    cutmix_boxes,
    draw_colors,
    perturb_colors,
)
from depth_anything_hf.losses import (
    cutmix_loss_per_image,
    feature_alignment_loss,
    mean_over_labeled,
    relative_loss_per_image,
    silog_loss,
)
from depth_anything_hf.maps.geometry import valid_mask
from depth_anything_hf.training.arguments import DepthAnythingTrainingArguments


class View(NamedTuple):
    """What the student sees of the unlabelled images, and what it is compared with."""

    pixel_values: torch.Tensor  # (batch, 3, height, width)
    labels: torch.Tensor  # (batch, height, width)
    label_mask: torch.Tensor  # (batch, height, width), bool
    boxes: torch.Tensor | None  # (batch, height, width), bool: from the partner; None for labelled images


def teacher_labels(teacher: nn.Module, pixel_values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Label clean images with the teacher: the labels and their mask, `(batch, height, width)`."""
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
    """Draw how one unlabelled image is shown to the student.

    Args:
        height (`int`): Of the crop, pixels.
        width (`int`): Of the crop, pixels.
        perturbation (`StrongPerturbation`, *optional*): None leaves the colours alone.
        cutmix_probability (`float`): Share of the images that get a CutMix box.
        generator (`torch.Generator`): Source of all random numbers, on the CPU.

    Returns:
        `dict[str, torch.Tensor]`: What `student_view` takes, one row: `boxes`, and the fields of `ColorDraw`.
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
    """Perturb each image's colours, then mix each with its partner in a random box, labels and masks along with it.

    Args:
        pixel_values (`torch.Tensor`): `(batch, 3, height, width)`, normalised, clean.
        labels (`torch.Tensor`): `(batch, height, width)`, of the clean images.
        label_mask (`torch.Tensor`): Bool, same shape as the labels.
        drawn (`Mapping[str, torch.Tensor]`): Of `draw_view`, one row an image, on the images' device.
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


def supervised_loss(
    predicted_depth: torch.Tensor,
    view: View,
    args: DepthAnythingTrainingArguments,
    trim_fraction: float,
    max_depth=None,
) -> dict[str, torch.Tensor]:
    """Compute the terms of one stream's loss by name, unweighted, and their weighted sum as `total`.

    Args:
        predicted_depth (`torch.Tensor`): `(batch, height, width)`.
        view (`View`): What the images were and what they are compared with.
        args (`DepthAnythingTrainingArguments`): The weights.
        trim_fraction (`float`): Share of the worst pixels to ignore.
        max_depth (`float`, *optional*): The model's, if it is metric.

    Returns:
        `dict[str, torch.Tensor]`: Scalars.
    """
    if max_depth is not None:
        mask = valid_mask(view.labels, view.label_mask, "depth") & (view.labels <= max_depth)
        total = silog_loss(predicted_depth, view.labels, mask, args.silog_variance_focus, args.silog_weight)
        return {"silog": total.detach(), "total": total}
    mask = valid_mask(view.labels, view.label_mask, "disparity")
    with_gradient_matching = args.gradient_matching_weight > 0
    if args.cutmix_probability > 0 and view.boxes is not None:
        terms = cutmix_loss_per_image(
            predicted_depth, view.labels, mask, view.boxes, trim_fraction, with_gradient_matching
        )
    else:
        terms = relative_loss_per_image(predicted_depth, view.labels, mask, trim_fraction, with_gradient_matching)
    affine_invariant = mean_over_labeled(terms.affine_invariant, terms.labeled)
    named = {"affine_invariant": affine_invariant.detach()}
    if not with_gradient_matching:
        return named | {"total": affine_invariant}
    gradient_matching = mean_over_labeled(terms.gradient_matching, terms.labeled)
    named["gradient_matching"] = gradient_matching.detach()
    return named | {"total": affine_invariant + args.gradient_matching_weight * gradient_matching}


def frozen_patch_features(encoder: nn.Module, pixel_values: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
    """Read a frozen encoder's last patch tokens on the student's patch grid.

    Args:
        encoder (`nn.Module`): Any vision model with `config.patch_size` and `last_hidden_state` whose last tokens are
            the patches, row by row (DINOv2, DINOv3, CLIP, SigLIP, ViT).
        pixel_values (`torch.Tensor`): `(batch, 3, height, width)`.
        grid (`tuple[int, int]`): The student's patch rows and columns; another grid is resized to it.

    Returns:
        `torch.Tensor`: `(batch, rows * columns, channels)`.
    """
    patch = encoder.config.patch_size
    # DINOv2 fits its positions to any image size by itself; the others do when asked.
    asks = "interpolate_pos_encoding" in inspect.signature(encoder.forward).parameters
    sizing = {"interpolate_pos_encoding": True} if asks else {}
    rows, columns = pixel_values.shape[-2] // patch, pixel_values.shape[-1] // patch
    with torch.inference_mode():
        tokens = encoder(pixel_values=pixel_values, **sizing).last_hidden_state[:, -rows * columns :]
        if (rows, columns) != grid:
            maps = tokens.transpose(1, 2).unflatten(2, (rows, columns))  # (batch, channels, rows, columns)
            maps = F.interpolate(maps.float(), size=grid, mode="bilinear", align_corners=False)
            tokens = maps.flatten(2).transpose(1, 2)
    return tokens.clone()  # a tensor of the inference mode cannot take part in a backward pass


def combine(weighted: list[tuple[float, torch.Tensor]]) -> torch.Tensor:
    """Average losses by weight: equal weights give V1's plain average of the terms that are in use."""
    return sum(weight * loss for weight, loss in weighted) / sum(weight for weight, _ in weighted)


def align_features(
    features: torch.Tensor, frozen: torch.Tensor, projector: nn.Module | None, margin: float
) -> torch.Tensor:
    """Compute the alignment loss, through the projector where the widths differ."""
    return feature_alignment_loss(features if projector is None else projector(features), frozen, margin)
