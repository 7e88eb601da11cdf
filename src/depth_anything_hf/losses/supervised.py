r"""The loss of a model on labels in its own space: one function for `model(labels=...)` and for both parts of a step.

Relative: affine-invariant plus \(w\) times gradient matching, region by region under CutMix. Metric: SiLog on the labels
up to `max_depth`.
"""

from __future__ import annotations

import torch

from depth_anything_hf.losses.affine_invariant import SMALLEST_RELATIVE_SPREAD
from depth_anything_hf.losses.cutmix import cutmix_loss_per_image
from depth_anything_hf.losses.reduction import mean_over_labeled
from depth_anything_hf.losses.relative import relative_loss_per_image
from depth_anything_hf.losses.silog import silog_loss
from depth_anything_hf.maps.geometry import valid_mask


def labeled_pixels(
    labels: torch.Tensor, label_mask: torch.Tensor | None = None, max_depth: float | None = None
) -> torch.Tensor:
    """Return the pixels whose labels count: finite, in the model's range, and in the mask.

    Args:
        labels (`torch.Tensor`): `(batch, height, width)`, disparity, or meters with `max_depth`.
        label_mask (`torch.Tensor`, *optional*): Bool, same shape.
        max_depth (`float`, *optional*): Largest depth of a metric model, meters.

    Returns:
        `torch.Tensor`: Bool, same shape.
    """
    if max_depth is None:
        return valid_mask(labels, label_mask, space="disparity")
    return valid_mask(labels, label_mask, space="depth") & (labels <= max_depth)


def has_label(labels: torch.Tensor, mask: torch.Tensor, max_depth: float | None = None) -> torch.Tensor:
    """Return which images have a label to learn from: a pixel (metric), or two of different value (relative).

    Args:
        labels (`torch.Tensor`): `(batch, height, width)`: disparity, or meters with `max_depth`.
        mask (`torch.Tensor`): Bool, same shape, from `labeled_pixels`.
        max_depth (`float`, *optional*): Largest depth of a metric model, meters. Default: the model is relative.

    Returns:
        `torch.Tensor`: `(batch,)`, bool.

    Example:
        >>> flat, ramp = torch.ones(1, 4), torch.arange(4.0)[None]
        >>> has_label(torch.stack([flat, ramp]), torch.ones(2, 1, 4, dtype=torch.bool)).tolist()
        [False, True]
    """
    if max_depth is not None:
        return mask.flatten(1).any(dim=1)
    low = torch.where(mask, labels, torch.inf).flatten(1).amin(dim=1)
    high = torch.where(mask, labels, -torch.inf).flatten(1).amax(dim=1)
    return high - low > SMALLEST_RELATIVE_SPREAD * high


def supervised_loss(
    prediction: torch.Tensor,
    labels: torch.Tensor,
    mask: torch.Tensor,
    max_depth: float | None = None,
    boxes: torch.Tensor | None = None,
    gradient_matching_weight: float = 2.0,
    trim_fraction: float = 0.0,
    silog_variance_focus: float = 0.5,
    silog_weight: float = 1.0,
) -> dict[str, torch.Tensor]:
    """Compute the terms of a supervised loss by name, and their weighted sum as `total`.

    Args:
        prediction (`torch.Tensor`): `(batch, height, width)`: disparity, or meters with `max_depth`.
        labels (`torch.Tensor`): Same shape and space.
        mask (`torch.Tensor`): Bool, same shape, from `labeled_pixels`.
        max_depth (`float`, *optional*): Largest depth of a metric model, meters. Default: the model is relative.
        boxes (`torch.Tensor`, *optional*): Bool, same shape: the pixels that CutMix took from the partner.
        gradient_matching_weight (`float`): Weight of gradient matching. V1: 0, V2: 2.
        trim_fraction (`float`): Share of each image's worst pixels that the affine-invariant term leaves out, in [0, 1).
        silog_variance_focus (`float`): Variance focus of SiLog, for a metric model: V2 0.5, V1 0.85.
        silog_weight (`float`): Factor on SiLog, for a metric model: V2 1, V1 10.

    Returns:
        `dict[str, torch.Tensor]`: Scalars, float32: the unweighted terms (detached), then `total`: means over the images
        that have labels.

    Raises:
        ValueError: Shapes differ, or a mask is not boolean.

    Source: Depth Anything V1, sections 3.1 to 3.3; V2, section 5 and appendix B.7; metric: V2's `metric_depth`.

    Example:
        >>> disparity = torch.rand(2, 8, 8)
        >>> terms = supervised_loss(disparity, disparity, labeled_pixels(disparity))
        >>> {name: value.item() for name, value in terms.items()}
        {'affine_invariant': 0.0, 'gradient_matching': 0.0, 'total': 0.0}
    """
    if max_depth is not None:
        total = silog_loss(prediction, labels, mask, silog_variance_focus, silog_weight)
        return {"silog": total.detach(), "total": total}
    with_gradients = gradient_matching_weight > 0
    if boxes is None:
        terms = relative_loss_per_image(prediction, labels, mask, trim_fraction, with_gradients)
    else:
        terms = cutmix_loss_per_image(prediction, labels, mask, boxes, trim_fraction, with_gradients)
    total = mean_over_labeled(terms.affine_invariant, terms.labeled)
    named = {"affine_invariant": total.detach()}
    if with_gradients:
        gradient_matching = mean_over_labeled(terms.gradient_matching, terms.labeled)
        named["gradient_matching"] = gradient_matching.detach()
        total = total + gradient_matching_weight * gradient_matching
    return named | {"total": total}
