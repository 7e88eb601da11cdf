"""Per-image fits of scale and shift between a prediction and its ground truth, batched and masked.

The fits run in float64 and return plain numbers an image: `scale * prediction + shift` is the aligned prediction. A
scale that is not positive means that near and far are exchanged in the prediction; it is returned unchanged, for the
caller to report, and never made positive.
"""

from __future__ import annotations

import torch

from depth_anything_hf.maps.geometry import masked_mean, masked_median, off_apple_gpu


def fit_scale_shift(
    prediction: torch.Tensor, target: torch.Tensor, mask: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    r"""Fit \(\arg\min_{s,b} \sum_m (s\,d_i + b - d^*_i)^2\) in closed form for each image.

    Args:
        prediction (`torch.Tensor`): `(batch, height, width)`, float.
        target (`torch.Tensor`): Same shape, in the same space (disparity for a relative model).
        mask (`torch.Tensor`): Bool, same shape: the pixels to fit on.

    Returns:
        `tuple[torch.Tensor, torch.Tensor]`: scale and shift, `(batch,)`, float64. A constant prediction gets scale 0
        and the mean of the target as its shift; so does an image without valid pixels, with shift 0. A value under
        the mask that is not finite makes both NaN.

    Source: MiDaS (Ranftl et al., 2020), section 5; Depth Anything V1, supplementary section 6.

    Example:
        >>> prediction = torch.tensor([[[1.0, 2.0, 4.0]]])
        >>> scale, shift = fit_scale_shift(prediction, 3 * prediction + 5, torch.ones(1, 1, 3, dtype=torch.bool))
        >>> round(scale.item(), 6), round(shift.item(), 6)
        (3.0, 5.0)
    """
    prediction, target, mask = off_apple_gpu(prediction), off_apple_gpu(target), off_apple_gpu(mask)
    if prediction.device.type != "cpu" or prediction.requires_grad or target.requires_grad or not len(prediction):
        return _fit_centered(prediction, target, mask)
    # An image at a time, its float64 copies stay in the cache.
    sums = torch.stack([_sums(*image) for image in zip(prediction, target, mask, strict=True)])  # (batch, 6)
    mean_x, mean_y, mean_xx, mean_yy, mean_xy = (sums[:, 1:] / sums[:, :1]).unbind(dim=1)
    variance_x, variance_y = mean_xx - mean_x.square(), mean_yy - mean_y.square()
    scale = (mean_xy - mean_x * mean_y) / variance_x
    shift = mean_y - scale * mean_x
    kept = (variance_x > _SMALLEST_SHARE * mean_xx) & (variance_y > _SMALLEST_SHARE * mean_yy)
    again = ~kept  # nearly constant, empty, or not finite
    if again.any():
        scale[again], shift[again] = _fit_centered(prediction[again], target[again], mask[again])
    return scale, shift


_SMALLEST_SHARE = 1e-4  # of the variance in the mean square: their difference then keeps 12 digits of 16


def _sums(prediction: torch.Tensor, target: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Sum 1, x, y, x*x, y*y and x*y over one image's mask, in as few passes over memory as there can be."""
    keep = mask.view(torch.int8).neg()  # all bits, or none: NaN outside the mask becomes 0, far faster than by `where`
    x, y = (
        keep.to(bits).bitwise_and_(values.view(bits)).view(values.dtype).flatten().double()
        for values, bits in ((values, _INTEGERS[values.element_size()]) for values in (prediction, target))
    )
    return torch.stack([torch.count_nonzero(mask).double(), x.sum(), y.sum(), x @ x, y @ y, x @ y])


_INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}  # by bytes


def _fit_centered(prediction: torch.Tensor, target: torch.Tensor, mask: torch.Tensor):
    """Fit from the centered values, which keeps the normal equations well conditioned far from zero."""
    prediction, target = prediction.double(), target.double()
    mean_prediction, mean_target = masked_mean(prediction, mask), masked_mean(target, mask)  # (batch,)
    centered_prediction = prediction - mean_prediction[:, None, None]
    centered_target = target - mean_target[:, None, None]
    variance = masked_mean(centered_prediction.square(), mask)
    covariance = masked_mean(centered_prediction * centered_target, mask)
    constant = variance <= torch.finfo(torch.float32).eps ** 2 * mean_prediction.square()
    scale = torch.where(constant, 0.0, covariance / torch.where(constant, 1.0, variance))
    return scale, mean_target - scale * mean_prediction


def fit_scale(prediction: torch.Tensor, target: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    r"""Fit \(\arg\min_s \sum_m (s\,d_i - d^*_i)^2\) for each image.

    Args:
        prediction (`torch.Tensor`): `(batch, height, width)`, float.
        target (`torch.Tensor`): Same shape.
        mask (`torch.Tensor`): Bool, same shape.

    Returns:
        `torch.Tensor`: `(batch,)`, float64; 0 where the prediction is zero or nothing is valid.

    Example:
        >>> prediction = torch.tensor([[[1.0, 2.0]]])
        >>> fit_scale(prediction, 3 * prediction, torch.ones(1, 1, 2, dtype=torch.bool)).item()
        3.0
    """
    prediction, target, mask = off_apple_gpu(prediction).double(), off_apple_gpu(target).double(), off_apple_gpu(mask)
    energy = masked_mean(prediction.square(), mask)
    zero = energy == 0
    return torch.where(zero, 0.0, masked_mean(prediction * target, mask) / torch.where(zero, 1.0, energy))


def fit_median(prediction: torch.Tensor, target: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Fit the ratio of the medians of target and prediction for each image (self-supervised convention).

    Args:
        prediction (`torch.Tensor`): `(batch, height, width)`, float.
        target (`torch.Tensor`): Same shape.
        mask (`torch.Tensor`): Bool, same shape.

    Returns:
        `torch.Tensor`: `(batch,)`, float64; 0 where the prediction's median is zero or nothing is valid.

    Source: Zhou et al., 2017, "Unsupervised Learning of Depth and Ego-Motion from Video", section 4.1.

    Example:
        >>> prediction = torch.tensor([[[1.0, 2.0, 50.0]]])
        >>> fit_median(prediction, torch.tensor([[[3.0, 6.0, 7.0]]]), torch.ones(1, 1, 3, dtype=torch.bool)).item()
        3.0
    """
    prediction, target, mask = off_apple_gpu(prediction).double(), off_apple_gpu(target).double(), off_apple_gpu(mask)
    middle = masked_median(prediction, mask)
    return torch.where(middle != 0, masked_median(target, mask) / torch.where(middle != 0, middle, 1.0), 0.0)


def apply_fit(prediction: torch.Tensor, scale: torch.Tensor, shift: torch.Tensor | float = 0.0) -> torch.Tensor:
    """Apply one scale and shift an image: `scale * prediction + shift`, in float64.

    Args:
        prediction (`torch.Tensor`): `(batch, height, width)`.
        scale (`torch.Tensor`): `(batch,)`.
        shift (`torch.Tensor` or `float`): `(batch,)`, or one number for all.

    Returns:
        `torch.Tensor`: `(batch, height, width)`, float64.

    Example:
        >>> apply_fit(torch.ones(1, 1, 2), torch.tensor([2.0]), torch.tensor([0.5])).tolist()
        [[[2.5, 2.5]]]
    """
    prediction, scale = off_apple_gpu(prediction), off_apple_gpu(scale)
    shift = off_apple_gpu(torch.as_tensor(shift)).to(prediction.device, torch.float64).expand_as(scale)
    return prediction.double() * scale.double()[:, None, None] + shift[:, None, None]
