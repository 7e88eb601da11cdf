"""The color maps that a visitor may choose."""

from __future__ import annotations

import numpy as np
from kornia.color import ColorMap

from depth_anything_hf.pictures.visualization import colorize

COLORMAPS = ("inferno", "viridis", "turbo", "cividis", "gray")
_STEPS = np.arange(256)


def palette(colormap: str) -> np.ndarray:
    """Return the 256 colors of one of `COLORMAPS`, from far to near: `(256, 3)` uint8.

    Example:
        >>> palette("gray")[[0, 255]].tolist(), palette("viridis")[0].tolist()
        ([[0, 0, 0], [255, 255, 255]], [68, 1, 84])
    """
    if colormap not in COLORMAPS:
        raise ValueError(f"colormap is {colormap!r}; it must be one of {COLORMAPS}.")
    if colormap == "inferno":
        return colorize(_STEPS[None] / 255, low=0, high=1)[0]
    if colormap == "gray":
        return np.stack([_STEPS] * 3, axis=1).astype(np.uint8)
    return np.rint(255 * ColorMap(colormap, 256).colors.numpy().T).astype(np.uint8)
