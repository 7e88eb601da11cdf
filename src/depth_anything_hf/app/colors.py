"""Pictures of depth in the colour map that the visitor chooses."""

from __future__ import annotations

import numpy as np
import torch
from kornia.color import ColorMap

from depth_anything_hf.geometry import label_from_map
from depth_anything_hf.visualization import colorize

COLORMAPS = ("inferno", "viridis", "turbo", "cividis", "grey")
_STEPS = np.arange(256)
_INFERNO = colorize(_STEPS[None] / 255, low=0, high=1)[0]  # (256, 3) uint8, all different


def palette(colormap: str) -> np.ndarray:
    """Give a colour map's 256 colours, far to near.

    Args:
        colormap: One of `COLORMAPS`.

    Returns:
        (256, 3) uint8.

    Raises:
        ValueError: Unknown name.

    Example:
        >>> palette("grey")[[0, 255]].tolist(), palette("viridis")[0].tolist()
        ([[0, 0, 0], [255, 255, 255]], [68, 1, 84])
    """
    if colormap not in COLORMAPS:
        raise ValueError(f"colormap is {colormap!r}; it must be one of {COLORMAPS}.")
    if colormap == "inferno":
        return _INFERNO
    if colormap == "grey":
        return np.stack([_STEPS] * 3, axis=1).astype(np.uint8)
    return np.rint(255 * ColorMap(colormap, 256).colors.numpy().T).astype(np.uint8)


def paint(depth: np.ndarray, space: str, colormap: str = "inferno") -> np.ndarray:
    """Paint a prediction by its disparity, as `visualization.save_depth` does, in any colour map.

    Args:
        depth: (height, width) disparity or metres.
        space: "disparity" or "depth".
        colormap: One of `COLORMAPS`.

    Returns:
        (height, width, 3) uint8; grey where there is no value.

    Raises:
        ValueError: Unknown name, or `depth` is not a map.

    Example:
        >>> paint(np.array([[1.0, 2.0]]), "depth", "grey").tolist()
        [[[255, 255, 255], [0, 0, 0]]]
    """
    colors = palette(colormap)
    if space == "disparity":
        picture = colorize(depth)
    else:
        metres = torch.from_numpy(np.array(depth, dtype=np.float64))
        disparity, valid = label_from_map(metres, None, space, "relative")
        picture = colorize(disparity.numpy(), valid.numpy())
    if colormap == "inferno":
        return picture
    known, order = np.unique(_packed(_INFERNO), return_index=True)
    place = np.searchsorted(known, _packed(picture)).clip(max=255)
    has_color = known[place] == _packed(picture)
    return np.where(has_color[..., None], colors[order[place]], picture)


def _packed(colors: np.ndarray) -> np.ndarray:
    """Make one number of the three channels, (..., 3) to (...)."""
    return colors.astype(np.int64) @ (65536, 256, 1)
