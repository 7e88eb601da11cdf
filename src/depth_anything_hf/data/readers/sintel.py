"""MPI Sintel: frames of an animated film with rendered depth."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from depth_anything_hf.data.readers.base import (
    Samples,
    check_choice,
    half_integer_intrinsics,
    make_sample,
    read_rgb,
    reading,
    require,
)
from depth_anything_hf.data.records import DepthSample

LAYOUT = (
    "Expected: training/final/alley_1/frame_0001.png (or clean), training/depth/alley_1/frame_0001.dpt and "
    "training/camdata_left/alley_1/frame_0001.cam, from http://sintel.is.tue.mpg.de/depth and /downloads."
)
TAG = 202021.25
_OFFICIAL = 1064


def read_sintel(root: str | os.PathLike, render_pass: str = "final") -> Samples[DepthSample]:
    """Read the training frames of Sintel, the only ones with depth (1,064 of 23 scenes).

    Args:
        root: Folder that holds `training`.
        render_pass: "final" (blur, fog) or "clean".

    Returns:
        Samples of 436 x 1024 pixels, in the film's own unit, which is taken for meters by convention; every pixel has a
        depth, however far. `group` is the scene; `intrinsics` is None where `camdata_left` is missing.

    Raises:
        ValueError: Unknown pass.
        FileNotFoundError: No depth map, or an image is missing.
        OSError: A file is broken.

    Source: Butler et al., A Naturalistic Open Source Movie for Optical Flow Evaluation, ECCV 2012; `sintel_io.py` of the
    depth download.
    """
    check_choice("render_pass", render_pass, ("final", "clean"))
    root = Path(root).expanduser()
    depth = require(root / "training" / "depth", LAYOUT)
    entries = sorted((render_pass, path.parent.name, path.stem) for path in depth.glob("*/frame_*.dpt"))
    return Samples("sintel", f"training {render_pass}", root, LAYOUT, entries, _read, official=_OFFICIAL)


def _read(root: Path, entry: tuple[str, str, str]) -> DepthSample:
    render_pass, scene, stem = entry
    source = f"training/{render_pass}/{scene}/{stem}.png"
    values = _depth(root / "training" / "depth" / scene / f"{stem}.dpt")
    camera = root / "training" / "camdata_left" / scene / f"{stem}.cam"
    intrinsics = _intrinsics(camera) if camera.is_file() else None
    return make_sample(read_rgb(root / source), values, source, scene, intrinsics=intrinsics)


def _tagged(path: Path) -> bytes:
    """Return the content of a file after its tag."""
    content = path.read_bytes()
    tag = np.frombuffer(content, "<f4", count=1)[0]
    if tag != TAG:
        raise ValueError(f"it starts with {tag} instead of {TAG}")
    return content[4:]


def _depth(path: Path) -> np.ndarray:
    with reading(path):
        content = _tagged(path)
        width, height = np.frombuffer(content, "<i4", count=2)
        return np.frombuffer(content, "<f4", offset=8).reshape(height, width)


def _intrinsics(path: Path) -> tuple[float, ...]:
    with reading(path):
        matrix = np.frombuffer(_tagged(path), "<f8", count=9).reshape(3, 3)
    # cx = 511.5 of 1024 columns: the first pixel's center is at 0.
    fx, fy, cx, cy = matrix[[0, 1, 0, 1], [0, 1, 2, 2]]
    return half_integer_intrinsics(fx, fy, cx, cy, first_center=0)
