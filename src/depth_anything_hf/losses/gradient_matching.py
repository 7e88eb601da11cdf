r"""Multi-scale gradient matching: the sharpness half of V2's loss.

Formula (MiDaS; V2, section 5 and B.7), for one image, with \(R = \hat d - \hat d^*\) the residual of the
affine-invariant loss, and \(R^k\) that residual at every \(2^k\)-th pixel:

\(L_{gm} = \sum_{k<K} \big(\mathrm{mean}\,|\nabla_x R^k| + \mathrm{mean}\,|\nabla_y R^k|\big)\), \(K = 4\),

each mean taken over the pairs of neighbors that are both valid. Dividing by the pairs, and not by the pixels, keeps
the term at full strength on sparse labels. In V2 its weight is twice the weight of the affine-invariant loss.

Relations: it needs exact, dense labels. V2 found it useless on coarse labels of real sensors.
"""

from __future__ import annotations

import torch

from depth_anything_hf.losses.affine_invariant import normalized_residual
from depth_anything_hf.losses.reduction import mean_over_labeled


def _mean_difference(residual: torch.Tensor, mask: torch.Tensor, dim: int) -> torch.Tensor:
    """Average the absolute difference of neighbors along `dim` over the pairs that are both valid, `(batch,)`."""
    pair = mask.narrow(dim, 1, mask.shape[dim] - 1) & mask.narrow(dim, 0, mask.shape[dim] - 1)
    difference = residual.diff(dim=dim).abs()
    return torch.where(pair, difference, 0.0).sum(dim=(1, 2)) / pair.sum(dim=(1, 2)).clamp(min=1)


def multi_scale_gradient(residual: torch.Tensor, mask: torch.Tensor, scales: int = 4) -> torch.Tensor:
    """Sum, over scales, the mean absolute differences between neighboring valid pixels of a residual.

    Args:
        residual (`torch.Tensor`): `(batch, height, width)`, finite everywhere.
        mask (`torch.Tensor`): Bool, same shape.
        scales (`int`): Number of scales: scale k looks at every `2**k`-th pixel. A scale without a valid pair adds nothing.

    Returns:
        `torch.Tensor`: `(batch,)`.

    Raises:
        ValueError: `scales` is below 1.

    Example:
        >>> step = torch.tensor([[[0.0, 0.0, 1.0, 1.0]]])
        >>> multi_scale_gradient(step, torch.ones_like(step, dtype=torch.bool), scales=1).item()
        0.3333333432674408
    """
    if scales < 1:
        raise ValueError(f"scales is {scales}; it must be at least 1. The papers use 4.")
    total = residual.new_zeros(residual.shape[0])
    for k in range(scales):
        stride = 2**k
        coarse, coarse_mask = residual[:, ::stride, ::stride], mask[:, ::stride, ::stride]
        total = total + _mean_difference(coarse, coarse_mask, 1) + _mean_difference(coarse, coarse_mask, 2)
    return total


def gradient_matching_loss_per_image(
    prediction: torch.Tensor, target: torch.Tensor, mask: torch.Tensor, scales: int = 4
) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute the gradient matching loss of each image: the losses `(batch,)` and which images have labels."""
    residual, labeled = normalized_residual(prediction, target, mask)
    return multi_scale_gradient(residual, mask, scales), labeled


def gradient_matching_loss(
    prediction: torch.Tensor, target: torch.Tensor, mask: torch.Tensor, scales: int = 4
) -> torch.Tensor:
    """Compute the multi-scale gradient matching loss: the mean over the images that have labels.

    Args:
        prediction (`torch.Tensor`): `(batch, height, width)`, disparity at any scale and shift.
        target (`torch.Tensor`): Same shape, disparity at any positive scale and any shift.
        mask (`torch.Tensor`): Bool, same shape.
        scales (`int`): Number of scales, each half as fine as the one before.

    Returns:
        `torch.Tensor`: Scalar, float32 (float64 for float64 input). 0, with its graph, if no image has labels.

    Raises:
        ValueError: Shapes differ, the mask is not boolean, or `scales` is below 1.

    Source: MiDaS (Ranftl et al., 2020), eq. 11; Depth Anything V2, section 5 and appendix B.7.

    Example:
        >>> disparity = torch.rand(2, 16, 16)
        >>> everywhere = torch.ones_like(disparity, dtype=torch.bool)
        >>> gradient_matching_loss(3 * disparity + 1, disparity, everywhere).item() < 1e-4
        True
    """
    return mean_over_labeled(*gradient_matching_loss_per_image(prediction, target, mask, scales))
