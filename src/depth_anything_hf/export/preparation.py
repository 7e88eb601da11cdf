"""Use an exported file by its own metadata, without PyTorch: docs/export.md prints these functions for others to copy."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping

import numpy as np
from PIL import Image


def prepare(image: Image.Image, about: Mapping[str, str]) -> np.ndarray:
    """Turn an upright RGB photograph into `pixel_values` (1, 3, height, width), as the file's metadata say."""
    settings = ("size", "multiple", "keep_aspect_ratio", "rescale_factor", "image_mean", "image_std")
    size, multiple, keep_aspect_ratio, factor, mean, std = (json.loads(about[name]) for name in settings)
    scales = size[0] / image.height, size[1] / image.width
    if keep_aspect_ratio:
        scales = (max(scales),) * 2  # cover the size
    sides = []
    for length, least, scale in zip((image.height, image.width), size, scales, strict=True):
        side = round(scale * length / multiple) * multiple
        if side < (least if keep_aspect_ratio else multiple):
            side = math.ceil(scale * length / multiple) * multiple
        sides.append(side)
    resized = image.resize((sides[1], sides[0]), Image.Resampling[about["resample"].upper()])
    colors = (np.asarray(resized, dtype=np.float64) * factor).astype(np.float32)
    pixels = (colors - np.array(mean, dtype=np.float32)) / np.array(std, dtype=np.float32)
    return np.ascontiguousarray(pixels.transpose(2, 0, 1)[None])


def enlarge(depth: np.ndarray, width: int, height: int) -> np.ndarray:
    """Resize a prediction (rows, columns) to (height, width): bilinear, with the corners of both grids on each other."""
    for axis, length in enumerate((height, width)):
        places = np.linspace(0, depth.shape[axis] - 1, length)
        before = np.floor(places).astype(int)
        after = np.minimum(before + 1, depth.shape[axis] - 1)
        share = (places - before).astype(np.float32)
        share = share[:, None] if axis == 0 else share
        depth = depth.take(before, axis) * (1 - share) + depth.take(after, axis) * share
    return depth
