"""TartanAir: rendered flights through many environments, depth in npy files (V1) or packed into PNG (V2)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from depth_anything_hf.data.depth_files import packed_floats
from depth_anything_hf.data.image_files import opened_image
from depth_anything_hf.data.readers.base import (
    Samples,
    check_choice,
    find_below,
    make_sample,
    read_rgb,
    reading,
)
from depth_anything_hf.data.records import DepthSample

LAYOUT = (
    "Expected: abandonedfactory/Easy/P000/image_left/000000_left.png and depth_left/000000_left_depth.npy, from "
    "https://github.com/castacks/tartanair_tools, or of TartanAir V2 and TartanGround "
    "House/Data_easy/P000/image_lcam_front/000000_lcam_front.png and depth_lcam_front/000000_lcam_front_depth.png, from "
    "https://github.com/castacks/tartanairpy."
)
CAMERAS = (
    *("left", "right"),
    *(f"{side}cam_{view}" for side in "lr" for view in ("front", "back", "left", "right", "top", "bottom")),
)
SKY_METERS = 1000.0  # the sky is a dome, at 10 km in most environments
BROKEN = "amusement"  # its dome is near (castacks/tartanair_tools#46)


def read_tartanair(
    root: str | os.PathLike,
    cameras: Sequence[str] = ("left", "lcam_front"),
    environments: Sequence[str] | None = None,
) -> Samples[DepthSample]:
    """Read TartanAir V1, V2 and TartanGround.

    Args:
        root: Folder of the environments, or one of them.
        cameras: "left", "right" (V1); "lcam_front", "rcam_back", ... (V2: l or r; front, back, left, right, top, bottom).
        environments: Names of folders; default: all but "amusement", whose sky has a depth that looks right and is wrong.

    Returns:
        Samples of 480 x 640 pixels (V2: 640 x 640), meters; 0 has no label; 1000 m and more is sky; `group` is the
        environment. `left_out` counts the frames of "amusement". Many frames of V1 are nearly black.

    Raises:
        ValueError: Unknown camera.
        FileNotFoundError: No frame.
        OSError: A file is broken.

    Source: Wang et al., TartanAir, IROS 2020; castacks/tartanair_tools, data_type.md (its "16-bit" is float32);
    castacks/tartanairpy, docs/modalities.rst. Sky: CUT3R, datasets_preprocess/preprocess_tartanair.py.
    """
    for camera in cameras:
        check_choice("camera", camera, CAMERAS)
    root = Path(root).expanduser()
    names = [
        name
        for camera in cameras
        for ending in ("npy", "png")
        for name in find_below(root, f"depth_{camera}/*_{camera}_depth.{ending}", levels=5)
    ]
    found = [(_environment(root, name), name) for name in names]
    entries = [entry for entry in found if (entry[0] in environments if environments else entry[0] != BROKEN)]
    left_out = 0 if environments else len(found) - len(entries)
    return Samples("tartanair", "all", root, LAYOUT, sorted(entries), _read, left_out)


def _environment(root: Path, name: str) -> str:
    """Return "House" for "House/Data_easy/P000/depth_lcam_front/NAME", whatever of it is the root's own path."""
    return (*root.absolute().parts, *name.split("/"))[-5]


def _read(root: Path, entry: tuple[str, str]) -> DepthSample:
    environment, name = entry
    path = root / name
    if path.suffix == ".npy":
        with reading(path):
            values = np.load(path, allow_pickle=False)
    else:
        with reading(path), opened_image(path) as image:
            if image.mode != "RGBA":
                raise ValueError(f"image mode {image.mode!r} instead of four bytes a pixel, 'RGBA'")
            values = packed_floats(image)
    folder, file = Path(name).parent, Path(name).stem.removesuffix("_depth")
    source = (folder.parent / folder.name.replace("depth_", "image_", 1) / f"{file}.png").as_posix()
    photo = read_rgb(root / source)
    half_width = photo.width / 2  # 90 degrees from left to right
    intrinsics = (half_width, half_width, half_width, photo.height / 2)
    sky = np.isfinite(values) & (values >= SKY_METERS)
    return make_sample(photo, values, source, environment, sky=sky, intrinsics=intrinsics)
