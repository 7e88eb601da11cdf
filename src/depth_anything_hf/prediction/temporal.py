r"""Depth of a video that does not flicker: each frame's prediction is aligned with those before it.

A model that sees one frame at a time gives each its own scale and shift (in disparity) or scale (in meters). They are
fitted to the frame before, already corrected, and taken out. Two things keep that from going wrong over many frames:

- The fit is symmetric. Least squares from a noisy prediction to a noisy past finds too small a scale, always, and a
  chain of such fits fades to a constant.
- The correction leaks: of what the chain says, \(1 - 1/n\) is kept at each frame, with \(n\) the smoothing in frames,
  or the frame's number in its scene as long as that is smaller. If the model's own log scale is \(j_t\), that of the
  output is \(x_t = (1 - 1/n)\,x_{t-1} + j_t / n\), its moving average: steps shrink to about \(1/n\), errors of the
  fits do not add up for ever, and what really changes, as when the camera walks up to something, arrives after some
  \(n\) frames.

At a scene cut all starts anew.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F

from depth_anything_hf.maps.alignment import fit_scale_shift
from depth_anything_hf.maps.geometry import check_space, kth_smallest, masked_mean, masked_median, off_apple_gpu

SMOOTHING = 20  # frames
_TRIMMED = 0.2  # share of the pixels that a fit leaves out: those that moved
_ROUNDS = 4  # of fitting and trimming; further ones changed scales by 0.02 % in the median, 0.8 % at most
_LARGEST_SCALE = 2.0  # a correction beyond this, or below its inverse, is no jitter
_PIXELS = 2**15  # that a fit looks at, at most
# Chosen on photographs and procedural scenes: a pan keeps the colors, another exposure the layout, a cut neither.
_OTHER_COLORS = 0.25  # share of the pixels that would have to change color
_SAME_LAYOUT = 0.7  # correlation of the brightness


def check_smoothing(smoothing: float) -> float:
    """Return `smoothing` if it is a number of frames, 1 or more, and raise a `ValueError` otherwise."""
    if not smoothing >= 1:
        raise ValueError(f"smoothing is {smoothing}; it must be at least 1 frame, which leaves every frame as it is.")
    return smoothing


class AlignedFrame(NamedTuple):
    """A frame's aligned prediction: `values = scale * prediction + shift`."""

    values: torch.Tensor  # (height, width) float32
    scale: float
    shift: float
    cut: bool  # the alignment starts anew here: scale 1, shift 0


class TemporalAligner:
    """Align the predictions of a video with their past, frame by frame.

    State: the last frame's aligned prediction and its image, on coarse grids, and its number in its scene.

    Args:
        space (`str`): What the model predicts: `"disparity"` (a relative model: scale and shift are aligned) or
            `"depth"` (a metric one: scale alone).
        smoothing (`float`): Frames after which a correction has faded to 1/e; 1 corrects nothing.

    Raises:
        ValueError: Unknown space, or `smoothing` below 1.

    Example:
        >>> truth = torch.rand(30, 40, generator=torch.Generator().manual_seed(0))
        >>> image = torch.zeros(3, 30, 40, dtype=torch.uint8)
        >>> align = TemporalAligner()
        >>> first = align(truth, image)
        >>> first.cut, align(2 / 3 * truth - 0.1, image).cut
        (True, False)
        >>> align(1.25 * truth + 0.2, image).scale < 0.9
        True
    """

    def __init__(self, space: str = "disparity", smoothing: float = SMOOTHING):
        self.space, self.smoothing = check_space(space), check_smoothing(smoothing)
        self._past: torch.Tensor | None = None  # (rows, columns)
        self._image: torch.Tensor | None = None  # (3, rows, columns)
        self._number = 0

    def __call__(self, prediction: torch.Tensor, image: torch.Tensor) -> AlignedFrame:
        """Align a frame's prediction, `(height, width)` disparity or meters; NaN and infinity are no values.

        `image` is the frame, `(3, any height, any width)` uint8. A first frame, a cut, and a frame that the past does not explain
        (by a scale between 1/2 and 2) are left as they are.
        """
        if prediction.ndim != 2:
            raise ValueError(f"prediction has shape {tuple(prediction.shape)}; pass one (height, width) at a time.")
        grid, small = _thin_out(prediction.float()), _thin_out(image)
        correction = self._correction(grid, small)
        scale, shift = correction or (1.0, 0.0)
        self._number = 1 if correction is None else self._number + 1
        self._past, self._image = scale * grid + shift, small
        return AlignedFrame(scale * prediction.float() + shift, scale, shift, correction is None)

    def _correction(self, grid: torch.Tensor, small: torch.Tensor) -> tuple[float, float] | None:
        if self._past is None or self._image is None or grid.shape != self._past.shape:
            return None
        if is_scene_cut(self._image, small):
            return None
        mask = torch.isfinite(grid) & torch.isfinite(self._past)
        scale, shift = fit_to_past(grid, self._past, mask, self.space)
        if not 1 / _LARGEST_SCALE <= scale <= _LARGEST_SCALE:
            return None
        # About the median, so that the shift that fades is one of the values and not of some far-off zero.
        center = 0.0 if self.space == "depth" else masked_median(grid[None], mask[None]).item()
        kept = 1 - 1 / min(self.smoothing, self._number + 1)
        offset = kept * (scale * center + shift - center)
        scale = scale**kept
        return scale, center + offset - scale * center


def fit_to_past(
    prediction: torch.Tensor, past: torch.Tensor, mask: torch.Tensor, space: str = "disparity"
) -> tuple[float, float]:
    r"""Fit scale and shift of a prediction to the frame before, whatever moves in the picture.

    In disparity: \(s = \sqrt{\sigma^2_{past} / \sigma^2_{prediction}}\), the geometric mean of the slopes of past on
    prediction and, inverted, of prediction on past, with the shift that makes the means equal. The fifth of the pixels
    with the largest residuals is left out and the rest is fitted again, four times (the concentration steps of least
    trimmed squares). In meters: the median of the pixels' ratios, without a shift.

    Args:
        prediction (`torch.Tensor`): `(height, width)`, float.
        past (`torch.Tensor`): Same shape: the frame before.
        mask (`torch.Tensor`): Bool, same shape: where both have values.
        space (`str`): `"disparity"` or `"depth"`.

    Returns:
        `tuple[float, float]`: Scale and shift. The scale is 0 or below where one of the two is constant or empty, or
        runs against the other.

    Source: Rousseeuw and Van Driessen, 2006, "Computing LTS Regression for Large Data Sets", section 3 (trimming).

    Example:
        >>> past = torch.tensor([[1.0, 2.0, 4.0, 8.0]])
        >>> everywhere = torch.ones(1, 4, dtype=torch.bool)
        >>> fit_to_past(past / 2, past, everywhere, "depth")
        (2.0, 0.0)
        >>> [round(number, 6) for number in fit_to_past(past / 2 + 3, past, everywhere)]
        [2.0, -6.0]
    """
    prediction, past, mask = (off_apple_gpu(one)[None] for one in (prediction, past, mask))  # (1, height, width)
    prediction, past = prediction.double(), past.double()
    if check_space(space) == "depth":
        mask = mask & (prediction > 0)
        return masked_median(past / torch.where(mask, prediction, 1.0), mask).item(), 0.0
    scale, shift = _fit_symmetric(prediction, past, mask)
    keep = ((1 - _TRIMMED) * mask.sum()).long().clamp(min=1)
    for _ in range(_ROUNDS):
        residual = torch.where(mask, (scale * prediction + shift - past).abs(), torch.nan)
        inside = residual <= kth_smallest(residual.flatten(1), keep[None] - 1)
        scale, shift = _fit_symmetric(prediction, past, inside)
    return scale, shift


def _fit_symmetric(prediction: torch.Tensor, past: torch.Tensor, mask: torch.Tensor) -> tuple[float, float]:
    forward, backward = (fit_scale_shift(*pair, mask)[0].item() for pair in ((prediction, past), (past, prediction)))
    scale = math.sqrt(forward / backward) if forward > 0 and backward > 0 else min(forward, 0.0)
    return scale, (masked_mean(past, mask) - scale * masked_mean(prediction, mask)).item()


def is_scene_cut(before: torch.Tensor, after: torch.Tensor) -> bool:
    """Check whether a frame shows another scene than the one before: other colors, and another layout.

    More than a quarter of the pixels would have to change their color (8 levels a channel) for the histograms to be
    equal, and the brightness of 6 x 8 fields correlates by less than 0.7. Each alone also happens within a scene: the
    first by exposure or a flash, the second by a fast pan. Dissolves and fades are no cuts.

    Args:
        before (`torch.Tensor`): `(3, height, width)`, uint8.
        after (`torch.Tensor`): `(3, any height, any width)`, uint8.

    Example:
        >>> ramp = torch.arange(64, dtype=torch.uint8).mul(4).expand(3, 48, 64)
        >>> is_scene_cut(ramp, ramp // 2), is_scene_cut(ramp, 128 + ramp.flip(2) // 2)
        (False, True)
    """
    (colors, layout), (other_colors, other_layout) = (_signature(image) for image in (before, after))
    changed = (colors - other_colors).abs().sum() / 2
    norm = (layout.square().mean() * other_layout.square().mean()).sqrt()
    alike = torch.where(norm > 0, (layout * other_layout).mean() / norm, 0.0)
    return bool((changed > _OTHER_COLORS) & (alike < _SAME_LAYOUT))


def _signature(image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a frame's histogram of colors (512,), which sums to 1, and its brightness (6, 8), less the mean."""
    red, green, blue = (image >> 5).long().flatten(1)
    colors = torch.bincount(64 * red + 8 * green + blue, minlength=512) / red.numel()
    layout = F.adaptive_avg_pool2d(image.float().mean(0)[None, None], (6, 8))[0, 0]
    return colors, layout - layout.mean()


def _thin_out(values: torch.Tensor) -> torch.Tensor:
    """Take every n-th row and column of (..., height, width), so that few enough pixels are left."""
    step = max(1, math.ceil(math.sqrt(values.shape[-2] * values.shape[-1] / _PIXELS)))
    return values[..., ::step, ::step].clone()


class RunningRange:
    """Follow the range of a video's values slowly, so that its colors do not flicker.

    Each end is the moving average of the frames' 2nd or 98th percentile: of all frames until there are as many as
    `smoothing` (at least 1, which takes each frame's own range), an exponential one from there on.

    Example:
        >>> follow, everywhere = RunningRange(smoothing=4), torch.ones(1, 3, dtype=torch.bool)
        >>> follow(torch.tensor([[0.0, 2.0, 8.0]]), everywhere), follow(torch.tensor([[4.0, 5.0, 8.0]]), everywhere)
        ((0.0, 8.0), (2.0, 8.0))
    """

    def __init__(self, smoothing: float = SMOOTHING):
        self.smoothing = check_smoothing(smoothing)
        self._range, self._number = (0.0, 0.0), 0

    def __call__(self, values: torch.Tensor, mask: torch.Tensor, restart: bool = False) -> tuple[float, float]:
        """Take in a frame, `(height, width)`, and return the running range, low and high; both 0 if there was no value yet.

        `mask` marks the values; without any, the range stays. `restart` forgets the past, as at a cut.
        """
        inside = _thin_out(values)[_thin_out(mask)]
        if restart:
            self._range, self._number = (0.0, 0.0), 0
        if inside.numel():
            self._number += 1
            share = 1 / min(self.smoothing, self._number)
            (old_low, old_high), (low, high) = self._range, _robust_ends(inside)
            self._range = old_low + share * (low - old_low), old_high + share * (high - old_high)
        return self._range


def _robust_ends(values: torch.Tensor) -> tuple[float, float]:
    """Return the 2nd and 98th percentile of (n,), or, where these fall together, as in much sky, the extremes."""
    last = len(values) - 1
    low, high = (kth_smallest(values[None], torch.tensor([round(share * last)])).item() for share in (0.02, 0.98))
    return (low, high) if high > low else (values.min().item(), values.max().item())
