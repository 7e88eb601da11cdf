"""Shared by all losses: precision, shape checks, and the mean over images that have labels."""

from __future__ import annotations

import torch


def in_full_precision(
    prediction: torch.Tensor, target: torch.Tensor, mask: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Check the shapes and bring prediction and target to float32 (float64 stays), 0 where the mask is false.

    Selecting before any arithmetic keeps the pixels outside the mask, NaN and infinity included, out of values and
    gradients.

    Args:
        prediction (`torch.Tensor`): `(batch, height, width)`, any float dtype.
        target (`torch.Tensor`): Same shape.
        mask (`torch.Tensor`): Bool, same shape.

    Returns:
        `tuple[torch.Tensor, torch.Tensor]`: Prediction and target, in the wider dtype of float32 and their own.

    Raises:
        ValueError: The shapes differ, the rank is not 3, or the mask is not boolean.
    """
    if prediction.ndim != 3 or prediction.shape != target.shape or prediction.shape != mask.shape:
        raise ValueError(
            f"prediction, target and mask have shapes {tuple(prediction.shape)}, {tuple(target.shape)} and "
            f"{tuple(mask.shape)}; all three must be the same (batch, height, width). Resize the prediction to the "
            "label, or squeeze a channel dimension of 1."
        )
    if mask.dtype != torch.bool:
        raise ValueError(f"mask has dtype {mask.dtype}; it must be torch.bool. Write mask > 0.5 or mask.bool().")
    dtype = torch.promote_types(torch.promote_types(prediction.dtype, target.dtype), torch.float32)
    return torch.where(mask, prediction.to(dtype), 0.0), torch.where(mask, target.to(dtype), 0.0)


def mean_over_labeled(losses: torch.Tensor, labeled: torch.Tensor) -> torch.Tensor:
    """Average the losses of the images that have labels.

    An image without labels neither adds to the sum nor counts in the denominator. A batch without any returns 0 and
    keeps the graph, so that `backward` works in every process of a distributed run.

    Args:
        losses (`torch.Tensor`): `(batch,)`.
        labeled (`torch.Tensor`): `(batch,)`, bool.

    Returns:
        `torch.Tensor`: Scalar.

    Example:
        >>> mean_over_labeled(torch.tensor([2.0, 4.0, 9.0]), torch.tensor([True, True, False])).item()
        3.0
    """
    return torch.where(labeled, losses, 0.0).sum() / labeled.sum().clamp(min=1)
