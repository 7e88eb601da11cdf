r"""The loss of a relative model: affine-invariant plus gradient matching, from one shared residual.

\(L = L_{ssi} + w\,L_{gm}\): \(w = 0\) is V1's labeled loss, \(w = 2\) V2's (section 5 and appendix B.7).
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from depth_anything_hf.losses.affine_invariant import normalized_residual, trim_mask
from depth_anything_hf.losses.gradient_matching import multi_scale_gradient
from depth_anything_hf.maps.geometry import masked_mean


class RelativeLoss(NamedTuple):
    """Loss of each image, `(batch,)`: its two terms unweighted, and which images have labels (bool)."""

    affine_invariant: torch.Tensor
    gradient_matching: torch.Tensor
    labeled: torch.Tensor


def relative_loss_per_image(
    prediction: torch.Tensor,
    target: torch.Tensor,
    mask: torch.Tensor,
    trim_fraction: float = 0.0,
    with_gradient_matching: bool = True,
) -> RelativeLoss:
    """Compute both terms of each image's loss, normalizing prediction and target once.

    Args:
        prediction (`torch.Tensor`): `(batch, height, width)`, disparity.
        target (`torch.Tensor`): Same shape, disparity.
        mask (`torch.Tensor`): Bool, same shape.
        trim_fraction (`float`): Share of each image's worst pixels that the affine-invariant term leaves out. The
            gradient term sees all pixels; the papers do not say (unpublished).
        with_gradient_matching (`bool`): False saves its time and returns zeros.

    Returns:
        `RelativeLoss`: Both terms and the images that have labels, `(batch,)` each.

    Raises:
        ValueError: Shapes differ, the mask is not boolean, or `trim_fraction` is outside [0, 1).

    Example:
        >>> disparity = torch.rand(2, 8, 8)
        >>> terms = relative_loss_per_image(disparity, disparity, torch.ones(2, 8, 8, dtype=torch.bool))
        >>> terms.affine_invariant.tolist(), terms.labeled.tolist()
        ([0.0, 0.0], [True, True])
    """
    residual, labeled = normalized_residual(prediction, target, mask)
    errors = residual.abs()
    affine_invariant = masked_mean(errors, trim_mask(errors, mask, trim_fraction))
    gradient_matching = (
        multi_scale_gradient(residual, mask) if with_gradient_matching else torch.zeros_like(affine_invariant)
    )
    return RelativeLoss(affine_invariant, gradient_matching, labeled)
