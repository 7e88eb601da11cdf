r"""Affine-invariant loss: the labeled loss of Depth Anything V1, and the first half of V2's.

Formula (V1, eq. 1 to 3), for one image, over its valid pixels:

\(\hat d = (d - t(d)) / s(d)\), with \(t\) the median and \(s\) the mean absolute deviation from it, and
\(\rho(d, d^*) = \mathrm{mean}_i\,|\hat d_i - \hat d^*_i|\).

Relations: `gradient_matching` takes the same residual \(\hat d - \hat d^*\) and compares its edges; `cutmix` takes
this loss by region. For metric depth use `silog`.
"""

from __future__ import annotations

import torch

from depth_anything_hf.losses.reduction import in_full_precision, mean_over_labeled
from depth_anything_hf.maps.geometry import SMALLEST_SPREAD, kth_smallest, masked_mean, normalize_robust

# A target whose spread is within float32 rounding of its own size has no depth order to learn from.
SMALLEST_RELATIVE_SPREAD = 1e-6
# A float16 prediction whose spread is within float16 rounding of its own size has no depth order either; its gradient, which
# grows as 1 / spread and returns in float16, would leave that range.
FLOAT16 = torch.finfo(torch.float16)


def normalized_residual(
    prediction: torch.Tensor, target: torch.Tensor, mask: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Normalize prediction and target each by its own median and deviation, and subtract.

    Args:
        prediction (`torch.Tensor`): `(batch, height, width)`, disparity at any scale and shift.
        target (`torch.Tensor`): Same shape, disparity at any positive scale and any shift.
        mask (`torch.Tensor`): Bool, same shape: the labeled pixels.

    Returns:
        `tuple[torch.Tensor, torch.Tensor]`: The residual, 0 outside the mask, `(batch, height, width)`; and which
        images have a label to learn from, `(batch,)` bool: at least two labeled pixels of different value.

    Raises:
        ValueError: The shapes differ, or the mask is not boolean.
    """
    relative, smallest = (FLOAT16.eps, FLOAT16.tiny) if prediction.dtype == torch.float16 else (0.0, SMALLEST_SPREAD)
    prediction, target = in_full_precision(prediction, target, mask)
    # In proportion to the label's own size, so that its unit does not matter.
    smallest_target_spread = SMALLEST_RELATIVE_SPREAD * target.detach().abs().amax(dim=(1, 2))  # (batch,)
    tiny = torch.finfo(target.dtype).tiny
    target, target_spread = normalize_robust(target, mask, smallest_target_spread.clamp(min=tiny))
    labeled = target_spread > smallest_target_spread
    # A prediction without a label to learn from is not read: if it were infinite, its gradient would be NaN.
    mask = mask & labeled[:, None, None]
    size = torch.where(mask, prediction.detach().abs(), 0.0).amax(dim=(1, 2))  # (batch,)
    prediction, _ = normalize_robust(prediction, mask, (relative * size).clamp(min=smallest))
    return torch.where(mask, prediction - target, 0.0), labeled


def trim_mask(errors: torch.Tensor, mask: torch.Tensor, fraction: float) -> torch.Tensor:
    """Drop each image's worst valid pixels: the `floor(fraction * valid)` with the largest error.

    The threshold is a constant: no gradient flows through the choice of pixels.

    Args:
        errors (`torch.Tensor`): `(batch, height, width)`, non-negative.
        mask (`torch.Tensor`): Bool, same shape.
        fraction (`float`): Share of the valid pixels to drop, in [0, 1). Ties with the threshold stay.

    Returns:
        `torch.Tensor`: Bool, same shape: the pixels that stay.

    Raises:
        ValueError: `fraction` is outside [0, 1).

    Source: Depth Anything V2, section 5.2; per pixel by the author's answer in DepthAnything/Depth-Anything-V2#108.

    Example:
        >>> errors = torch.tensor([[[1.0, 4.0, 2.0, 3.0]]])
        >>> trim_mask(errors, torch.ones_like(errors, dtype=torch.bool), 0.25).tolist()
        [[[True, False, True, True]]]
    """
    if not 0 <= fraction < 1:
        raise ValueError(
            f"trim_fraction is {fraction}; it must lie in [0, 1). 0.1 drops the worst tenth of the pixels."
        )
    if fraction == 0:
        return mask
    flat_mask = mask.flatten(1)
    count = flat_mask.sum(dim=1)
    kept = count - count * round(fraction * 10**6) // 10**6  # whole numbers: a tenth of 30 must be 3, not 2.9999
    valid_errors = torch.where(flat_mask, errors.detach().flatten(1), torch.inf)
    threshold = kth_smallest(valid_errors, (kept - 1).clamp(min=0))[:, None]  # (batch, 1)
    return mask & ~(errors.detach() > threshold[:, :, None])  # NaN stays, and shows


def affine_invariant_loss_per_image(
    prediction: torch.Tensor, target: torch.Tensor, mask: torch.Tensor, trim_fraction: float = 0.0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute the affine-invariant loss of each image.

    Args:
        prediction (`torch.Tensor`): `(batch, height, width)`, disparity.
        target (`torch.Tensor`): Same shape, disparity.
        mask (`torch.Tensor`): Bool, same shape.
        trim_fraction (`float`): Share of each image's worst pixels to leave out, in [0, 1).

    Returns:
        `tuple[torch.Tensor, torch.Tensor]`: The losses, `(batch,)`, 0 if there is nothing to learn from; and the
        images that have labels, `(batch,)` bool.

    Raises:
        ValueError: Shapes differ, the mask is not boolean, or `trim_fraction` is outside [0, 1).
    """
    residual, labeled = normalized_residual(prediction, target, mask)
    errors = residual.abs()
    return masked_mean(errors, trim_mask(errors, mask, trim_fraction)), labeled


def affine_invariant_loss(
    prediction: torch.Tensor, target: torch.Tensor, mask: torch.Tensor, trim_fraction: float = 0.0
) -> torch.Tensor:
    """Compute the affine-invariant loss: the mean over the images that have labels.

    Args:
        prediction (`torch.Tensor`): `(batch, height, width)`, disparity at any scale and shift.
        target (`torch.Tensor`): Same shape, disparity at any positive scale and any shift.
        mask (`torch.Tensor`): Bool, same shape: the labeled pixels. Pixels outside are never read.
        trim_fraction (`float`): Share of each image's worst pixels to leave out, in [0, 1): 0.1 on V2's pseudo-labels.

    Returns:
        `torch.Tensor`: Scalar, float32 (float64 for float64 input). 0, with its graph, if no image has labels.

    Raises:
        ValueError: Shapes differ, the mask is not boolean, or `trim_fraction` is outside [0, 1).

    Source: Depth Anything V1, section 3.1, eq. 1 to 3; trimming: V2, section 5.2.

    Example:
        >>> disparity = torch.tensor([[[0.0, 1.0, 2.0, 5.0]]])
        >>> everywhere = torch.ones_like(disparity, dtype=torch.bool)
        >>> affine_invariant_loss(10 * disparity + 3, disparity, everywhere).item() < 1e-6
        True
    """
    return mean_over_labeled(*affine_invariant_loss_per_image(prediction, target, mask, trim_fraction))
