"""Depth metrics, an image at a time, in float64."""

from __future__ import annotations

import torch

from depth_anything_hf.maps.geometry import masked_mean, off_apple_gpu

METRIC_NAMES = ("abs_rel", "sq_rel", "rmse", "rmse_log", "log10", "silog", "delta1", "delta2", "delta3")


def depth_metrics(prediction: torch.Tensor, target: torch.Tensor, mask: torch.Tensor) -> dict[str, torch.Tensor]:
    r"""Compute the standard depth metrics of each image over its valid pixels.

    | name | formula | better |
    |---|---|---|
    | `abs_rel` | mean of \(|d - d^*| / d^*\) | lower |
    | `sq_rel` | mean of \((d - d^*)^2 / d^*\), meters | lower |
    | `rmse` | root of the mean of \((d - d^*)^2\), meters | lower |
    | `rmse_log` | root of the mean of \(g^2\), \(g = \ln d - \ln d^*\) | lower |
    | `log10` | mean of \(|\log_{10} d - \log_{10} d^*|\) | lower |
    | `silog` | \(100 \sqrt{\mathrm{Var}(g)}\) | lower |
    | `delta1` to `delta3` | share of pixels with \(\max(d/d^*, d^*/d) < 1.25^k\) | higher |

    Args:
        prediction (`torch.Tensor`): `(batch, height, width)`, meters, positive inside the mask.
        target (`torch.Tensor`): Same shape, meters, positive inside the mask.
        mask (`torch.Tensor`): Bool, same shape.

    Returns:
        `dict[str, torch.Tensor]`: For each name `(batch,)` float64; NaN for an image without a valid pixel.

    Source: Eigen et al., 2014; Depth Anything V1, section 4.2.

    Example:
        >>> meters = torch.tensor([[[1.0, 2.0]]])
        >>> scores = depth_metrics(2 * meters, meters, torch.ones(1, 1, 2, dtype=torch.bool))
        >>> scores["abs_rel"].item(), scores["delta1"].item(), scores["silog"].item()
        (1.0, 0.0, 0.0)
    """
    prediction, target, mask = off_apple_gpu(prediction), off_apple_gpu(target), off_apple_gpu(mask)
    prediction = torch.where(mask, prediction.double(), 1.0)
    target = torch.where(mask, target.double(), 1.0)
    difference = prediction - target
    log_ratio = prediction.log() - target.log()
    ratio = torch.maximum(prediction / target, target / prediction)
    mean_log = masked_mean(log_ratio, mask)
    scores = {
        "abs_rel": masked_mean(difference.abs() / target, mask),
        "sq_rel": masked_mean(difference.square() / target, mask),
        "rmse": masked_mean(difference.square(), mask).sqrt(),
        "rmse_log": masked_mean(log_ratio.square(), mask).sqrt(),
        "log10": masked_mean(log_ratio.abs(), mask) / torch.tensor(10.0, dtype=torch.float64).log().item(),
        "silog": 100 * masked_mean((log_ratio - mean_log[:, None, None]).square(), mask).sqrt(),
    }
    scores |= {f"delta{k}": masked_mean((ratio < 1.25**k).double(), mask) for k in (1, 2, 3)}
    empty = ~mask.flatten(1).any(dim=1)
    return {name: torch.where(empty, torch.nan, score) for name, score in scores.items()}
