"""Depth and disparity: conversion, valid masks, per-image normalization, unprojection.

Every function takes float tensors `(batch, height, width)` and bool masks of the same shape. Values under a false mask
are never read into a result: they may be NaN or infinite.
"""

from __future__ import annotations

import numpy as np
import torch

from depth_anything_hf.maps.spaces import check_space

SMALLEST_SPREAD = 1e-6  # below this mean absolute deviation a prediction is constant in float32 (MiDaS reference code)


def valid_mask(values: torch.Tensor, mask: torch.Tensor | None = None, space: str = "depth") -> torch.Tensor:
    """Mark the values that are labels: finite, inside `mask`, and above zero.

    In disparity zero itself is a label: the sky, infinitely far away.

    Args:
        values (`torch.Tensor`): Any shape; meters (`space="depth"`) or disparity.
        mask (`torch.Tensor`, *optional*): Bool, same shape. Left out, every pixel may be a label.
        space (`str`): `"depth"` or `"disparity"`.

    Returns:
        `torch.Tensor`: Bool, same shape.

    Raises:
        ValueError: `space` is unknown.

    Example:
        >>> valid_mask(torch.tensor([2.0, 0.0, float("nan")])).tolist()
        [True, False, False]
        >>> valid_mask(torch.tensor([2.0, 0.0, float("nan")]), space="disparity").tolist()
        [True, True, False]
    """
    positive = values >= 0 if check_space(space) == "disparity" else values > 0
    valid = torch.isfinite(values) & positive
    return valid if mask is None else valid & mask


def invert(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Convert depth to disparity, or disparity to depth: `1 / values` inside the mask, 0 outside.

    Args:
        values (`torch.Tensor`): Any shape; positive inside `mask`.
        mask (`torch.Tensor`): Bool, same shape.

    Returns:
        `torch.Tensor`: Same shape and dtype.

    Example:
        >>> invert(torch.tensor([4.0, 0.0]), torch.tensor([True, False])).tolist()
        [0.25, 0.0]
    """
    return torch.where(mask, 1.0 / torch.where(mask, values, 1.0), 0.0)


def masked_median(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Compute each image's median over its valid pixels (the lower of the two middle values, as `torch.median`).

    Masked-out pixels are ignored: zeros in their place would pull the median down, a known fault of the MiDaS
    reference code.

    Args:
        values (`torch.Tensor`): `(batch, height, width)`, float.
        mask (`torch.Tensor`): Bool, same shape.

    Returns:
        `torch.Tensor`: `(batch,)`; 0 where an image has no valid pixel.

    Example:
        >>> masked_median(torch.tensor([[[5.0, 1.0, 9.0, 7.0]]]), torch.tensor([[[True, True, True, False]]])).tolist()
        [5.0]
    """
    flat, valid = values.flatten(1), mask.flatten(1)  # (batch, pixels)
    count = valid.sum(dim=1)
    middle = kth_smallest(torch.where(valid, flat.detach(), torch.nan), (count - 1).clamp(min=0) // 2)
    # The gradient goes to the first pixel of that value, on any device; `nanmedian` on CUDA picks any of them, and
    # refuses to run under `torch.use_deterministic_algorithms`.
    place = (valid & (flat.detach() == middle[:, None])).max(dim=1).indices
    median = torch.where(middle.isnan(), middle, flat.gather(1, place[:, None])[:, 0])
    return torch.where(count > 0, median, 0.0)


def kth_smallest(values: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
    """Return each row's `k`-th smallest value, counted from 0. NaN is larger than all.

    Args:
        values (`torch.Tensor`): `(batch, n)`, float. No gradient flows.
        k (`torch.Tensor`): `(batch,)`, int64, in [0, n).

    Returns:
        `torch.Tensor`: `(batch,)`.

    Example:
        >>> kth_smallest(torch.tensor([[5.0, 1.0, 9.0], [2.0, torch.nan, 1.0]]), torch.tensor([1, 2])).tolist()
        [5.0, nan]
    """
    values = values.detach()
    if values.device.type != "cpu" or torch.compiler.is_compiling():
        return values.sort(dim=1).values.gather(1, k[:, None])[:, 0]
    # Selection instead of sorting: forty times faster for a row of 266 x 266.
    rows = (values.float() if values.dtype == torch.bfloat16 else values).numpy()
    found = [np.partition(row, i)[i] for row, i in zip(rows, k.tolist(), strict=True)]
    return torch.from_numpy(np.array(found, dtype=rows.dtype)).to(values.dtype)


def off_apple_gpu(values: torch.Tensor) -> torch.Tensor:
    """Bring values from an Apple GPU to the CPU, and leave any others where they are: that GPU has no float64.

    Args:
        values (`torch.Tensor`): Of any shape and type, before it becomes float64.

    Example:
        >>> off_apple_gpu(torch.ones(2)).double().device
        device(type='cpu')
    """
    return values.cpu() if values.device.type == "mps" else values


def masked_mean(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Average each image over its valid pixels.

    Args:
        values (`torch.Tensor`): `(batch, height, width)`, float.
        mask (`torch.Tensor`): Bool, same shape.

    Returns:
        `torch.Tensor`: `(batch,)`, float32 (float64 for float64 input): a sum over an image overflows float16. 0, with
        its graph, where an image has no valid pixel.

    Example:
        >>> masked_mean(torch.tensor([[[1.0, 3.0, 100.0]]]), torch.tensor([[[True, True, False]]])).tolist()
        [2.0]
    """
    dtype = torch.promote_types(values.dtype, torch.float32)
    total = torch.where(mask, values, 0.0).flatten(1).sum(dim=1, dtype=dtype)
    return total / mask.flatten(1).sum(dim=1).clamp(min=1)


def normalize_robust(
    values: torch.Tensor, mask: torch.Tensor, smallest_spread: float | torch.Tensor = SMALLEST_SPREAD
) -> tuple[torch.Tensor, torch.Tensor]:
    """Remove each image's own shift (median) and scale (mean absolute deviation from it).

    Args:
        values (`torch.Tensor`): `(batch, height, width)`, float32 or float64.
        mask (`torch.Tensor`): Bool, same shape.
        smallest_spread (`float` or `torch.Tensor`): The scale is never taken smaller than this; one number, or
            `(batch,)`, above 0.

    Returns:
        `tuple[torch.Tensor, torch.Tensor]`: The normalized values, 0 outside the mask, `(batch, height, width)`; and
        the scale before the clamp, `(batch,)`.

    Source: Depth Anything V1, section 3.1, eq. 2 and 3.

    Example:
        >>> everywhere = torch.ones(1, 1, 3, dtype=torch.bool)
        >>> normalized, spread = normalize_robust(torch.tensor([[[1.0, 2.0, 6.0]]]), everywhere)
        >>> spread.item(), (normalized * spread).tolist()
        (1.6666666269302368, [[[-1.0, 0.0, 4.0]]])
    """
    centered = torch.where(mask, values - masked_median(values, mask)[:, None, None], 0.0)
    spread = masked_mean(centered.abs(), mask)
    return centered / spread.clamp(min=smallest_spread)[:, None, None], spread


def normalize_min_max(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Stretch each image's valid values to [0, 1], as V1 does with its disparity labels.

    Args:
        values (`torch.Tensor`): `(batch, height, width)`, float; the range of half precision is computed in float32.
        mask (`torch.Tensor`): Bool, same shape.

    Returns:
        `torch.Tensor`: Same shape and dtype; 0 outside the mask and for an image whose valid values are all equal.

    Source: Depth Anything V1, section 3.1.

    Example:
        >>> normalize_min_max(torch.tensor([[[2.0, 4.0, 6.0]]]), torch.ones(1, 1, 3, dtype=torch.bool)).tolist()
        [[[0.0, 0.5, 1.0]]]
    """
    dtype = values.dtype
    values = values.to(torch.promote_types(dtype, torch.float32))
    low = torch.where(mask, values, torch.inf).amin(dim=(1, 2), keepdim=True)
    high = torch.where(mask, values, -torch.inf).amax(dim=(1, 2), keepdim=True)
    spread = high - low
    usable = mask & (spread > 0)
    stretched = (torch.where(mask, values, 0.0) - low) / torch.where(spread > 0, spread, 1.0)
    return torch.where(usable, stretched, 0.0).to(dtype)


def camera_of(intrinsics: torch.Tensor) -> torch.Tensor:
    """Return fx, fy, cx, cy, `(..., 4)`, of pinhole matrices `(..., 3, 3)`; other tensors come back unchanged.

    Example:
        >>> camera_of(torch.tensor([[500.0, 0.0, 40.0], [0.0, 510.0, 30.0], [0.0, 0.0, 1.0]])).tolist()
        [500.0, 510.0, 40.0, 30.0]
    """
    if tuple(intrinsics.shape[-2:]) != (3, 3):
        return intrinsics
    return intrinsics.flatten(-2)[..., [0, 4, 2, 5]]


def unproject(depth: torch.Tensor, intrinsics: torch.Tensor) -> torch.Tensor:
    """Lift planar depth to points in the camera's frame (x right, y down, z forward).

    Args:
        depth (`torch.Tensor`): `(batch, height, width)`, meters along the optical axis.
        intrinsics (`torch.Tensor`): `(batch, 4)`: fx, fy, cx, cy in pixels, or matrices `(batch, 3, 3)`; pixel centers lie
            at half-integers.

    Returns:
        `torch.Tensor`: `(batch, height, width, 3)`, meters.

    Raises:
        ValueError: The shapes do not fit together.

    Example:
        >>> unproject(torch.full((1, 1, 1), 2.0), torch.tensor([[4.0, 4.0, 0.0, 0.5]])).tolist()
        [[[[0.25, 0.0, 2.0]]]]
    """
    intrinsics = camera_of(intrinsics)
    if depth.ndim != 3 or intrinsics.shape != (depth.shape[0], 4):
        raise ValueError(
            f"depth has shape {tuple(depth.shape)} and intrinsics {tuple(intrinsics.shape)}; they must be "
            "(batch, height, width) and (batch, 4). Add the batch dimension with unsqueeze(0)."
        )
    _, height, width = depth.shape
    fx, fy, cx, cy = (value[:, None, None] for value in intrinsics.unbind(dim=1))
    v = torch.arange(height, device=depth.device, dtype=depth.dtype)[None, :, None] + 0.5
    u = torch.arange(width, device=depth.device, dtype=depth.dtype)[None, None, :] + 0.5
    return torch.stack([(u - cx) / fx * depth, (v - cy) / fy * depth, depth], dim=-1)


def label_from_map(
    values: torch.Tensor,
    mask: torch.Tensor | None,
    space: str,
    depth_estimation_type: str,
    sky: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Convert a depth map to the space that a model predicts: disparity for relative models, meters for metric ones.

    Sky is a label of disparity 0 for a relative model, and no label for a metric one.

    Args:
        values (`torch.Tensor`): Any shape: meters or disparity.
        mask (`torch.Tensor`, *optional*): Bool, same shape: where `values` may be read.
        space (`str`): Space of `values`: `"depth"` or `"disparity"`.
        depth_estimation_type (`str`): The model's: `"relative"` or `"metric"`.
        sky (`torch.Tensor`, *optional*): Bool, same shape.

    Returns:
        `tuple[torch.Tensor, torch.Tensor]`: The label, 0 where there is none, and the mask; same shape.

    Raises:
        ValueError: Unknown names, or a disparity map for a metric model: its scale is unknown.

    Source: Depth Anything V1, section 3.1; sky: DepthAnything/Depth-Anything-V2#181 (relative), #109 (metric).

    Example:
        >>> values, sky = torch.tensor([2.0, 0.0, 0.0]), torch.tensor([False, True, False])
        >>> [x.tolist() for x in label_from_map(values, None, "depth", "relative", sky)]
        [[0.5, 0.0, 0.0], [True, True, False]]
    """
    if depth_estimation_type not in ("relative", "metric"):
        raise ValueError(f"depth_estimation_type is {depth_estimation_type!r}; it must be 'relative' or 'metric'.")
    valid = valid_mask(values, mask, space)
    if depth_estimation_type == "metric":
        if space == "disparity":
            raise ValueError(
                "space is 'disparity' and the model is metric; disparity of unknown scale cannot be turned into "
                "meters. Train a relative model on it, or give depth in meters."
            )
        valid = valid if sky is None else valid & ~sky
        return torch.where(valid, values, 0.0), valid
    disparity = torch.where(valid, values, 0.0) if space == "disparity" else invert(values, valid)
    finite = torch.isfinite(disparity)  # 1 / depth overflows for a depth of almost nothing
    disparity, valid = torch.where(finite, disparity, 0.0), valid & finite
    if sky is None:
        return disparity, valid
    return torch.where(sky, 0.0, disparity), valid | sky


def disparity_of_prediction(
    values: torch.Tensor, space: str, mask: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Convert a prediction to disparity, for pictures: near is large.

    Unlike a label, a prediction in disparity may lie below zero.

    Args:
        values (`torch.Tensor`): Any shape: disparity, or meters; meters that are not above zero are no values.
        space (`str`): `"disparity"` or `"depth"`.
        mask (`torch.Tensor`, *optional*): Bool, same shape: where `values` may be read.

    Returns:
        `tuple[torch.Tensor, torch.Tensor]`: Disparity, and bool, where there is a value; same shape.

    Raises:
        ValueError: `space` is unknown.

    Example:
        >>> values = torch.tensor([4.0, -1.0, torch.nan])
        >>> [disparity_of_prediction(values, space)[1].tolist() for space in ("disparity", "depth")]
        [[True, True, False], [True, False, False]]
    """
    if check_space(space) == "depth":
        return label_from_map(values, mask, space, "relative")
    finite = torch.isfinite(values)
    return values, finite if mask is None else finite & mask
