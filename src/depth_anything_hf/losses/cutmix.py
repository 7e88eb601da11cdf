r"""The unlabeled loss under CutMix: each region is compared with its own teacher map, by itself.

Formula (V1, eq. 6 to 8): the student sees \(u_{ab} = u_a \odot M + u_b \odot (1 - M)\), and

\(L_u = \frac{\sum M}{HW}\,\rho(S(u_{ab}), T(u_a))_{M} + \frac{\sum (1 - M)}{HW}\,\rho(S(u_{ab}), T(u_b))_{1-M}\).

Shift and scale are computed inside each region, for student and teacher: the two teacher maps have unrelated unknown
scales, and normalized together the loss would punish a correct student. For an image without a box it is the plain loss.
"""

from __future__ import annotations

import torch

from depth_anything_hf.losses.relative import RelativeLoss, relative_loss_per_image


def cutmix_loss_per_image(
    prediction: torch.Tensor,
    target: torch.Tensor,
    mask: torch.Tensor,
    box: torch.Tensor,
    trim_fraction: float = 0.0,
    with_gradient_matching: bool = True,
) -> RelativeLoss:
    """Compute both loss terms of each mixed image, region by region, weighted with the regions' areas.

    Args:
        prediction (`torch.Tensor`): `(batch, height, width)`, the student's disparity on the mixed images.
        target (`torch.Tensor`): Same shape: the teacher's disparity, mixed by the same boxes.
        mask (`torch.Tensor`): Bool, same shape: labeled pixels, mixed by the same boxes.
        box (`torch.Tensor`): Bool, same shape: the pixels that came from the partner; all false where not mixed.
        trim_fraction (`float`): Share of each region's worst pixels to leave out, in [0, 1).
        with_gradient_matching (`bool`): False saves its time and returns zeros.

    Returns:
        `RelativeLoss`: Both terms, and the images in which at least one region has labels, `(batch,)` each.

    Raises:
        ValueError: Shapes differ, a mask is not boolean, or `trim_fraction` is outside [0, 1).

    Source: Depth Anything V1, section 3.2, eq. 5 to 8.

    Example:
        >>> teacher = torch.rand(1, 8, 8)
        >>> box = torch.zeros(1, 8, 8, dtype=torch.bool)
        >>> box[:, 2:6, 2:6] = True
        >>> mixed = torch.where(box, 7 * teacher + 3, teacher)  # a partner with another scale and shift
        >>> terms = cutmix_loss_per_image(teacher, mixed, torch.ones_like(box), box)
        >>> terms.affine_invariant.item() < 1e-5
        True
    """
    if box.dtype != torch.bool or box.shape != mask.shape:
        raise ValueError(
            f"box has dtype {box.dtype} and shape {tuple(box.shape)}; it must be torch.bool of the mask's shape "
            f"{tuple(mask.shape)}. Make one with depth_anything_hf.augmentation.cutmix_boxes."
        )
    inside, outside = (
        relative_loss_per_image(prediction, target, mask & region, trim_fraction, with_gradient_matching)
        for region in (box, ~box)
    )
    area = box.flatten(1).to(inside.affine_invariant.dtype).mean(dim=1)  # (batch,)
    return RelativeLoss(
        area * inside.affine_invariant + (1 - area) * outside.affine_invariant,
        area * inside.gradient_matching + (1 - area) * outside.gradient_matching,
        inside.labeled | outside.labeled,
    )
