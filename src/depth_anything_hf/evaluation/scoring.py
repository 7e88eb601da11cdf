"""Score predictions against ground truth in the model's own space: align, floor, invert, measure; all in float64."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch.nn import functional as F

from depth_anything_hf.evaluation.protocols import ALIGNMENTS
from depth_anything_hf.maps.alignment import apply_fit, fit_median, fit_scale, fit_scale_shift
from depth_anything_hf.maps.geometry import invert, masked_mean, off_apple_gpu, valid_mask
from depth_anything_hf.maps.resizing import resize_prediction

METRIC_NAMES = ("abs_rel", "sq_rel", "rmse", "rmse_log", "log10", "silog", "delta1", "delta2", "delta3")
SCORE_NAMES = (*METRIC_NAMES, "disparity_abs_rel", "scale")


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


def align(prediction: torch.Tensor, target: torch.Tensor, mask: torch.Tensor, method: str):
    """Align each prediction with its ground truth, both `(batch, height, width)` in the model's own space, over the mask.

    The method is one of `ALIGNMENTS`: least squares with scale and shift (the papers'), with a scale alone, the ratio of the
    medians, or nothing. Returns the aligned predictions and the scales `(batch,)`, float64.
    """
    if method not in ALIGNMENTS:
        raise ValueError(f"alignment is {method!r}; it must be one of {', '.join(ALIGNMENTS)}.")
    prediction, target, mask = off_apple_gpu(prediction), off_apple_gpu(target), off_apple_gpu(mask)
    prediction = torch.where(mask, prediction.double(), 0.0)
    shift: torch.Tensor | float = 0.0
    if method == "scale_shift":
        scale, shift = fit_scale_shift(prediction, target, mask)
    elif method == "none":
        scale = torch.ones(len(prediction), dtype=torch.float64, device=prediction.device)
    else:
        scale = (fit_scale if method == "scale" else fit_median)(prediction, target, mask)
    return apply_fit(prediction, scale, shift), scale


def _check_prediction(prediction: torch.Tensor, target: torch.Tensor, mask: torch.Tensor) -> None:
    """Raise where a prediction cannot be scored: NaN in the scores is kept for images without labels."""
    if prediction.ndim != 3 or prediction.shape != target.shape:
        raise ValueError(
            f"prediction has shape {tuple(prediction.shape)} and target {tuple(target.shape)}; both must be the same "
            "(batch, height, width). Resize the prediction to the ground truth."
        )
    broken = int((mask & ~torch.isfinite(prediction)).sum())
    if broken:
        raise ValueError(
            f"the prediction is NaN or infinite at {broken} of {int(mask.sum())} scored pixels; every one must be "
            "finite. Check the weights, or predict in float32."
        )


def aligned_disparity(
    prediction: torch.Tensor,
    target: torch.Tensor,
    mask: torch.Tensor | None,
    space: str,
    cap: float | None = None,
    min_depth: float | None = None,
    alignment: str = "scale_shift",
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Align relative predictions as they are scored; arguments as of `score_relative`.

    Returns:
        The aligned disparity, the ground truth's disparity and the mask of the pixels that count, `(batch, height, width)`,
        and the scales `(batch,)`.
    """
    mask = off_apple_gpu(valid_mask(target, mask, space) & (target > 0))
    prediction, target = off_apple_gpu(prediction), off_apple_gpu(target)
    if cap is not None:
        mask = mask & (target <= cap if space == "depth" else target >= 1 / cap)
    if min_depth is not None:
        mask = mask & (target >= min_depth if space == "depth" else target <= 1 / min_depth)
    _check_prediction(prediction, target, mask)
    target = torch.where(mask, target.double(), 1.0)
    disparity = invert(target, mask) if space == "depth" else target
    aligned, scale = align(prediction, disparity, mask, alignment)
    farthest = torch.where(mask, disparity, math.inf).amin(dim=(1, 2))  # (batch,)
    smallest = farthest if cap is None else torch.full_like(scale, 1 / cap)
    aligned = torch.maximum(aligned, smallest[:, None, None])
    if min_depth is not None:
        aligned = aligned.clamp(max=1 / min_depth)
    return aligned, disparity, mask, scale


def score_relative(
    prediction: torch.Tensor,
    target: torch.Tensor,
    mask: torch.Tensor | None,
    space: str,
    cap: float | None = None,
    min_depth: float | None = None,
    alignment: str = "scale_shift",
) -> dict[str, torch.Tensor]:
    """Align each relative prediction with its ground truth in disparity, and score it.

    The aligned disparity is floored at the farthest depth that counts, so that one pixel near zero does not own the
    score. The metrics are those of depth (the inverse, at an unknown scale, for ground truth in disparity).

    Args:
        prediction (`torch.Tensor`): `(batch, height, width)`, the model's disparity at the ground truth's size.
        target (`torch.Tensor`): Same shape: meters or disparity.
        mask (`torch.Tensor`, *optional*): Bool, same shape. Pixels at infinity (disparity 0) are never scored.
        space (`str`): What `target` holds: `"depth"` or `"disparity"`.
        cap (`float`, *optional*): Farthest depth that counts, meters. Left out: the farthest of each image.
        min_depth (`float`, *optional*): Nearest depth that counts, meters.
        alignment (`str`): One of `ALIGNMENTS` but `"none"`: disparity of unknown scale cannot be scored as it is.

    Returns:
        `dict[str, torch.Tensor]`: For each of `SCORE_NAMES` `(batch,)` float64. `scale` is the fitted one: where it is
        not positive, near and far are the wrong way round. NaN for an image without a valid pixel.

    Raises:
        ValueError: `space` or `cap` is out of range, the shapes differ, or the prediction is not finite.

    Source: Depth Anything V1, supplementary section 6 (alignment following MiDaS).

    Example:
        >>> depth = torch.tensor([[[1.0, 2.0, 4.0]]])
        >>> scores = score_relative(5 / depth + 1, depth, None, "depth")
        >>> round(scores["abs_rel"].item(), 6), round(scores["scale"].item(), 6)
        (0.0, 0.2)
    """
    if alignment == "none":
        raise ValueError("alignment is 'none', but a relative model's disparity has no scale; choose 'scale_shift'.")
    for name, limit in (("cap", cap), ("min_depth", min_depth)):
        if limit is not None and not limit > 0:
            raise ValueError(
                f"{name} is {limit}; it must be positive meters, or None. The usual caps: 10 for NYUv2, 80 for KITTI."
            )
    aligned, disparity, mask, scale = aligned_disparity(prediction, target, mask, space, cap, min_depth, alignment)
    error = torch.where(mask, (aligned - disparity).abs() / torch.where(mask, disparity, 1.0), 0.0)
    return _all_scores(invert(aligned, mask), invert(disparity, mask), mask, error, scale)


def _all_scores(depth, target, mask, disparity_error, scale) -> dict[str, torch.Tensor]:
    scores = depth_metrics(depth, target, mask)
    empty = torch.isnan(scores["abs_rel"])
    scores["disparity_abs_rel"] = torch.where(empty, torch.nan, masked_mean(disparity_error, mask))
    scores["scale"] = torch.where(empty, torch.nan, scale)
    return scores


def aligned_depth(
    prediction: torch.Tensor,
    target: torch.Tensor,
    mask: torch.Tensor | None,
    max_depth: float,
    min_depth: float = 1e-3,
    alignment: str = "none",
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Align metric predictions as they are scored; arguments as of `score_metric`.

    Returns:
        The depth, in the range, and the mask of the pixels that count, `(batch, height, width)`, and the scales `(batch,)`.
    """
    if not 0 < min_depth < max_depth:
        raise ValueError(
            f"min_depth is {min_depth} and max_depth {max_depth}; they must be positive, the smaller first."
        )
    mask = off_apple_gpu(valid_mask(target, mask, "depth") & (target >= min_depth) & (target <= max_depth))
    prediction, target = off_apple_gpu(prediction), off_apple_gpu(target)
    _check_prediction(prediction, target, mask)
    aligned, scale = align(prediction, torch.where(mask, target.double(), 0.0), mask, alignment)
    return aligned.clamp(min_depth, max_depth), mask, scale


def score_metric(
    prediction: torch.Tensor,
    target: torch.Tensor,
    mask: torch.Tensor | None,
    max_depth: float,
    min_depth: float = 1e-3,
    alignment: str = "none",
) -> dict[str, torch.Tensor]:
    """Score metric predictions, as they are or aligned in depth.

    Args:
        prediction (`torch.Tensor`): `(batch, height, width)`, meters; clamped to the range before scoring.
        target (`torch.Tensor`): Same shape, meters.
        mask (`torch.Tensor`, *optional*): Bool, same shape. Pixels beyond the range are never scored.
        max_depth, min_depth (`float`): Farthest and nearest depth that counts, meters.
        alignment (`str`): One of `ALIGNMENTS`.

    Returns:
        `dict[str, torch.Tensor]`: For each of `SCORE_NAMES` `(batch,)` float64; `scale` is 1 without alignment.

    Raises:
        ValueError: The range is empty, the shapes differ, or the prediction is not finite.

    Source: the authors' `metric_depth/train.py`.

    Example:
        >>> depth = torch.tensor([[[1.0, 2.0, 90.0]]])
        >>> score_metric(depth, depth, None, max_depth=80.0)["delta1"].item()
        1.0
    """
    prediction, mask, scale = aligned_depth(prediction, target, mask, max_depth, min_depth, alignment)
    target = off_apple_gpu(target)
    # In disparity |1/p - 1/y| / (1/y) = |y - p| / p.
    error = torch.where(mask, (target.double() - prediction).abs() / prediction, 0.0)
    return _all_scores(prediction, target, mask, error, scale)


def score_prediction(
    predicted_depth: torch.Tensor,
    target: torch.Tensor,
    mask: torch.Tensor | None,
    space: str,
    metric: bool = False,
    min_depth: float | None = None,
    max_depth: float | None = None,
    alignment: str = "scale_shift",
) -> torch.Tensor:
    """Bring one prediction, `(height, width)` of any size, to the size of its ground truth and score it as its model's kind asks.

    The arguments are those of `score_relative`, or, if `metric` (then nothing is aligned), of `score_metric`, for one map.

    Returns:
        `torch.Tensor`: One number for each of `SCORE_NAMES`, float64.

    Raises:
        ValueError: A metric model and ground truth in disparity, a map of 8 bits, or one that is not (height, width).
    """
    for name, values in (("prediction", predicted_depth), ("ground truth", target)):
        if values.ndim != 2 or values.dtype == torch.uint8 or not values.numel():
            raise ValueError(
                f"the {name} is {values.dtype} of shape {tuple(values.shape)}; it must be (height, width) and not of 8 bits: a "
                "picture of depth has 256 steps of an unknown unit. Of a pipeline's result take `predicted_depth`."
            )
    height, width = target.shape
    predicted = off_apple_gpu(resize_prediction(predicted_depth[None], (height, width))[0])
    # The valid pixels score the same in any arrangement: here in a row, which for LiDAR is a hundredth of the map.
    mask = valid_mask(target, mask, space).to(predicted.device)
    predicted, target = (
        F.pad(values[mask], (0, 1))[None, None] for values in (predicted, target.to(predicted.device))
    )
    mask = (torch.arange(target.shape[-1], device=predicted.device) < target.shape[-1] - 1)[None, None]
    if not metric:
        scores = score_relative(predicted, target, mask, space, max_depth, min_depth, alignment)
    elif space == "depth":
        scores = score_metric(predicted, target, mask, max_depth or math.inf, min_depth or 1e-3)
    else:
        raise ValueError(
            f"the ground truth is in {space!r} and the model metric; give ground truth in meters ('depth')."
        )
    return torch.stack([scores[name][0] for name in SCORE_NAMES])


def summarize(scores: dict[str, torch.Tensor]) -> dict[str, float]:
    """Average each metric over the images that have labels; NaN where there are none.

    Returns:
        `dict[str, float]`: The means, and the counts `images`, `images_without_labels` and `non_positive_scales`.

    Example:
        >>> scores = dict.fromkeys(SCORE_NAMES, torch.tensor([0.1, 0.3, float("nan")], dtype=torch.float64))
        >>> summary = summarize(scores)
        >>> round(summary["abs_rel"], 6), summary["images"], summary["images_without_labels"]
        (0.2, 2, 1)
    """
    labeled = ~torch.isnan(scores["abs_rel"])
    summary = {name: scores[name][labeled].double().mean().item() for name in SCORE_NAMES if name != "scale"}
    return summary | {
        "images": int(labeled.sum()),
        "images_without_labels": int((~labeled).sum()),
        "non_positive_scales": int((scores["scale"][labeled] <= 0).sum()),
    }


@dataclass(frozen=True)
class DatasetScores:
    """Scores of each image of a set: `(images,)` float64 for each of `SCORE_NAMES`, NaN without labels.

    `groups` has the scene of each image where the records name it; `sources` where the image comes from. `failures` says, by
    place, why images have no score (NaN as well); `constant` has the places where the same value was predicted everywhere.
    """

    scores: dict[str, torch.Tensor]
    groups: list[str | None]
    sources: list[str]
    failures: Mapping[int, str] = field(default_factory=dict)
    constant: frozenset[int] = frozenset()

    def summary(self) -> dict[str, float]:
        """Average over the images; if there are groups, add the mean of the groups' means, and if there are any, the counts
        `images_failed`, which are in no mean, and `constant_predictions`, which are.
        """
        summary = summarize(self.scores)
        summary["images_without_labels"] -= len(self.failures)
        counts = {"images_failed": len(self.failures), "constant_predictions": len(self.constant)}
        summary |= {name: count for name, count in counts.items() if count}
        if any(group is not None for group in self.groups):
            members = defaultdict(list)
            for i, group in enumerate(self.groups):
                members[group].append(i)
            by_group = [
                summarize({name: values[indices] for name, values in self.scores.items()})
                for indices in members.values()
            ]
            by_group = [scores for scores in by_group if scores["images"]]
            summary["groups"] = len(by_group)
            for name in ("abs_rel", "delta1"):
                total = sum(scores[name] for scores in by_group)
                summary[f"group_{name}"] = total / len(by_group) if by_group else math.nan
        return summary
