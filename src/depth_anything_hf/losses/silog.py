r"""Scale-invariant logarithmic loss (SiLog): the loss of metric models.

Formula, for one image, with \(g = \log p - \log y\) over the valid pixels:

\(L = c\,\sqrt{\overline{g^2} - \lambda\,\bar g^2} = c\,\sqrt{\mathrm{Var}(g) + (1 - \lambda)\,\bar g^2}\).

| convention | \(\lambda\) | \(c\) | source |
|---|---|---|---|
| V2 | 0.5 | 1 | `metric_depth/util/loss.py` of the authors |
| V1 (ZoeDepth) | 0.85 | 10 | \(\beta = 0.15 = 1 - \lambda\); `metric_depth/zoedepth/trainers/loss.py` of the authors |

The right-hand form cannot turn negative by rounding. The variance is the population's, not the sample's, so that one
valid pixel is no special case. Relations: for relative models use `affine_invariant`.
"""

from __future__ import annotations

import torch

from depth_anything_hf.losses.reduction import in_full_precision, mean_over_labeled
from depth_anything_hf.maps.geometry import masked_mean

SMALLEST_DEPTH = 1e-6  # meters; a sigmoid in half precision reaches 0, and its logarithm would be infinite


def silog_loss_per_image(
    prediction: torch.Tensor,
    target: torch.Tensor,
    mask: torch.Tensor,
    variance_focus: float = 0.5,
    weight: float = 1.0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute the SiLog loss of each image: the losses `(batch,)` and which images have labels."""
    if not 0 <= variance_focus <= 1:
        raise ValueError(f"variance_focus is {variance_focus}; it must lie in [0, 1]: 0.5 is V2's, 0.85 V1's.")
    prediction, target = in_full_precision(prediction, target, mask)
    ratio = torch.where(mask, prediction.clamp(min=SMALLEST_DEPTH), 1.0).log()
    ratio = ratio - torch.where(mask, target.clamp(min=SMALLEST_DEPTH), 1.0).log()
    mean = masked_mean(ratio, mask)
    variance = masked_mean((ratio - mean[:, None, None]).square(), mask)
    inside = variance + (1 - variance_focus) * mean.square()
    # The root has an infinite slope at 0; the limit of the whole expression's gradient there is 0.
    positive = inside > 0
    losses = weight * torch.where(positive, torch.where(positive, inside, 1.0).sqrt(), inside)
    return losses, mask.flatten(1).any(dim=1)


def silog_loss(
    prediction: torch.Tensor,
    target: torch.Tensor,
    mask: torch.Tensor,
    variance_focus: float = 0.5,
    weight: float = 1.0,
) -> torch.Tensor:
    """Compute the SiLog loss: the mean over the images that have labels.

    Args:
        prediction (`torch.Tensor`): `(batch, height, width)`, meters.
        target (`torch.Tensor`): Same shape, meters, positive inside the mask.
        mask (`torch.Tensor`): Bool, same shape: labeled pixels within the model's range.
        variance_focus (`float`): Share of a common factor that is ignored, in [0, 1]: 0 is the RMSE of the logarithm,
            1 ignores it completely. V2: 0.5; V1: 0.85.
        weight (`float`): Factor on the loss. V2: 1; V1: 10.

    Returns:
        `torch.Tensor`: Scalar, float32 (float64 for float64 input). Value and gradient are 0 at an exact fit and on an
        empty mask.

    Raises:
        ValueError: Shapes differ, the mask is not boolean, or `variance_focus` is outside [0, 1].

    Source: Eigen et al., 2014, eq. 4; conventions as in the table above.

    Example:
        >>> meters = torch.tensor([[[1.0, 2.0]]])
        >>> everywhere = torch.ones_like(meters, dtype=torch.bool)
        >>> round(silog_loss(meters * torch.e, meters, everywhere).item(), 6)  # a common factor e: sqrt(1 - 0.5)
        0.707107
    """
    return mean_over_labeled(*silog_loss_per_image(prediction, target, mask, variance_focus, weight))
