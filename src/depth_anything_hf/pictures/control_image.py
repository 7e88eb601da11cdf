"""Convert depth maps to the pictures that control a diffusion model."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image

from depth_anything_hf.maps.geometry import disparity_of_prediction, normalize_min_max
from depth_anything_hf.maps.resizing import resize_map, resize_prediction


def to_control_image(
    depth: np.ndarray | torch.Tensor,
    space: str = "disparity",
    mask: np.ndarray | torch.Tensor | None = None,
    size: tuple[int, int] | None = None,
) -> Image.Image:
    """Convert a depth map to the picture that depth-conditioned ControlNets take: gray, near is white, far is black.

    Disparity is stretched over the picture's own range and cut to whole gray levels: `floor(255 (d - min) / (max - min))`,
    three times. No percentiles, no gamma. Values within 1/255 of the range become one gray level, which hides the
    relief of a background far behind its foreground.

    Args:
        depth: (height, width), as `predict_depth` returns it: disparity, any scale and shift, or meters. nan and inf are
            no values, nor are meters that are not above zero.
        space: "disparity" (relative models) or "depth" (metric models), which is inverted first.
        mask: (height, width) bool, True where there is a value; default: everywhere.
        size: (height, width) of the picture, for Stable Diffusion multiples of 8; default: the size of the map. Disparity is
            resized before it is stretched, so that the range stays full: bilinearly, or, where it has holes, by the
            nearest neighbor.

    Returns:
        The picture, RGB. Black where there is no value, and all over where all values are equal.

    Raises:
        ValueError: `depth` is not a map, `mask` has another shape, or `space` is unknown.

    Source: The MiDaS annotator of lllyasviel/ControlNet; docs/controlnet.md compares the published checkpoints.

    Example:
        >>> np.asarray(to_control_image(np.array([[1.0, 2.0, 5.0, np.nan]])))[0].tolist()
        [[0, 0, 0], [63, 63, 63], [255, 255, 255], [0, 0, 0]]
    """
    values = _tensor(depth)
    values = values.to(torch.promote_types(values.dtype, torch.float32))
    allowed = torch.ones_like(values, dtype=torch.bool) if mask is None else _tensor(mask).bool()
    if values.ndim != 2 or allowed.shape != values.shape:
        raise ValueError(
            f"depth has shape {tuple(values.shape)} and mask {tuple(allowed.shape)}; both must be one (height, width): "
            "pass one map at a time."
        )
    disparity, valid = disparity_of_prediction(values, space, allowed)
    if size is not None:
        resize = resize_prediction if valid.all() else resize_map
        disparity, valid = resize(disparity[None], size)[0], resize_map(valid[None], size)[0]
    gray = (normalize_min_max(disparity[None], valid[None])[0] * 255).to(torch.uint8)
    return Image.fromarray(gray.numpy()).convert("RGB")


def _tensor(values: np.ndarray | torch.Tensor) -> torch.Tensor:
    if isinstance(values, torch.Tensor):
        return values.detach().cpu()
    return torch.from_numpy(np.array(values))  # a copy: PyTorch takes no mirrored views
