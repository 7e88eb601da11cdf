"""COLMAP: the dense workspace that its undistorter and its stereo write, one depth map an image."""

from __future__ import annotations

import os
import struct
from functools import lru_cache
from pathlib import Path

import numpy as np

from depth_anything_hf.data.readers.base import (
    Samples,
    check_choice,
    find,
    make_sample,
    of_unknown_scale,
    read_rgb,
    reading,
)
from depth_anything_hf.data.records import DepthSample

LAYOUT = (
    "Expected: images/NAME.jpg, stereo/depth_maps/NAME.jpg.geometric.bin and, for intrinsics, sparse/cameras.bin and "
    "sparse/images.bin, as `colmap image_undistorter` and `colmap patch_match_stereo` write them: "
    "https://colmap.github.io/format.html."
)
_KINDS = ("geometric", "photometric")
# The models of undistorted cameras: number, and where fx, fy, cx, cy are among the parameters.
_MODELS = {0: (3, (0, 0, 1, 2)), 1: (4, (0, 1, 2, 3))}


def read_colmap(
    root: str | os.PathLike, labels: str = "geometric", percentiles: tuple[float, float] = (0.0, 100.0)
) -> Samples[DepthSample]:
    """Read a dense workspace of COLMAP.

    The scale of a reconstruction is unknown, so the labels are disparity, 1 / depth: a relative model learns from it,
    and a metric one refuses it.

    Args:
        root: Folder of `images`, `stereo` and `sparse`.
        labels: "geometric" (after the geometric consistency check) or "photometric".
        percentiles: Lowest and highest depth of an image that is kept, in percent of its labels. Stereo leaves outliers at
            both ends: COLMAP's own viewer shows 5 to 95.

    Returns:
        Samples in disparity, at the map's own pixels where `max_image_size` of the stereo made it smaller than the image;
        depth <= 0 = no label. `intrinsics` is None where `sparse` is missing; `group` is None.

    Raises:
        ValueError: Unknown labels, or percentiles out of range or order.
        FileNotFoundError: No depth map, or an image is missing.
        OSError: A file is broken.

    Source: Schönberger et al., Pixelwise View Selection for Unstructured Multi-View Stereo, ECCV 2016; colmap/colmap,
    doc/format.rst.
    """
    check_choice("labels", labels, _KINDS)
    low, high = percentiles
    if not 0 <= low < high <= 100:
        raise ValueError(f"percentiles is {percentiles}; needed: 0 <= low < high <= 100, such as (5, 95).")
    root = Path(root).expanduser()
    names = find(root, f"stereo/depth_maps/**/*.{labels}.bin")
    return Samples("colmap", labels, root, LAYOUT, [(name, (low, high)) for name in names], _read)


def read_array(path: Path) -> np.ndarray:
    """Read a map of COLMAP, (height, width) float32: the text `width&height&1&`, then the rows, little-endian."""
    with reading(path):
        content = path.read_bytes()
        width, height, channels, values = content.split(b"&", 3)
        if int(channels) != 1:
            raise ValueError(f"it has {int(channels)} channels, a depth map has 1")
        return np.frombuffer(values, "<f4").reshape(int(height), int(width))


def _read(root: Path, entry: tuple[str, tuple[float, float]]) -> DepthSample:
    name, percentiles = entry
    file = name.removeprefix("stereo/depth_maps/").rsplit(".", 2)[0]
    image, depth = read_rgb(root / "images" / file), read_array(root / name)
    mask = np.isfinite(depth) & (depth > 0)
    if mask.any():
        low, high = np.percentile(depth[mask], percentiles)
        mask &= (depth >= low) & (depth <= high)
    intrinsics = _cameras(root / "sparse").get(file)
    sample = make_sample(image, depth, f"images/{file}", None, mask=mask, intrinsics=intrinsics, own_pixels=True)
    return of_unknown_scale(sample)


@lru_cache(maxsize=8)
def _cameras(folder: Path) -> dict[str, tuple[float, ...]]:
    """Read the intrinsics of each image of a reconstruction; COLMAP counts from the image's corner, as this library."""
    cameras, images = folder / "cameras.bin", folder / "images.bin"
    if not (cameras.is_file() and images.is_file()):
        return {}
    by_number, found = {}, {}
    with reading(cameras), open(cameras, "rb") as file:
        for _ in range(*struct.unpack("<Q", file.read(8))):
            number, model, _, _ = struct.unpack("<2i2Q", file.read(24))
            if model not in _MODELS:
                raise ValueError(f"camera {number} has model {model}; undistorted cameras have 0 or 1")
            count, order = _MODELS[model]
            parameters = struct.unpack(f"<{count}d", file.read(8 * count))
            by_number[number] = tuple(parameters[i] for i in order)
    with reading(images), open(images, "rb") as file:
        for _ in range(*struct.unpack("<Q", file.read(8))):
            *_, number = struct.unpack("<i7di", file.read(64))
            letters = iter(lambda: file.read(1), b"\0")
            found[b"".join(letters).decode()] = by_number[number]
            file.seek(24 * struct.unpack("<Q", file.read(8))[0], os.SEEK_CUR)
    return found
