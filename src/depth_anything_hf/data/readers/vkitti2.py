"""Virtual KITTI 2: rendered drives in ten variations, 16-bit depth in centimeters."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np

from depth_anything_hf.data.readers.base import (
    Samples,
    check_choice,
    find,
    half_integer_intrinsics,
    make_sample,
    read_codes,
    read_rgb,
    reading,
)
from depth_anything_hf.data.records import DepthSample

LAYOUT = (
    "Expected: Scene01/clone/frames/rgb/Camera_0/rgb_00000.jpg and Scene01/clone/frames/depth/Camera_0/depth_00000.png, "
    "and for intrinsics Scene01/clone/intrinsic.txt, from "
    "https://europe.naverlabs.com/research/computer-vision/proxy-virtual-worlds-vkitti-2/ (rgb, depth, textgt)."
)
SKY_CODE = 65535
SCENES = ("Scene01", "Scene02", "Scene06", "Scene18", "Scene20")
VARIATIONS = (
    *("15-deg-left", "15-deg-right", "30-deg-left", "30-deg-right"),
    *("clone", "fog", "morning", "overcast", "rain", "sunset"),
)


def read_vkitti2(
    root: str | os.PathLike, scenes: Sequence[str] = SCENES, variations: Sequence[str] = VARIATIONS, camera: int = 0
) -> Samples[DepthSample]:
    """Read Virtual KITTI 2, which has no official split.

    Args:
        root: Folder of `Scene01`, ...
        scenes: Drives to take, of "Scene01", "Scene02", "Scene06", "Scene18", "Scene20".
        variations: Weathers and views to take: "clone", "fog", "morning", "overcast", "rain", "sunset",
            "15-deg-left", "15-deg-right", "30-deg-left", "30-deg-right".
        camera: 0 (left) or 1 (right).

    Returns:
        Samples in meters; code 65535 (655.35 m, the end of the range) is sky; `group` is the drive. `intrinsics` is None
        where `intrinsic.txt` is missing.

    Raises:
        ValueError: Unknown scene, variation or camera.
        FileNotFoundError: No frame.
        OSError: A file is broken.

    Source: Cabon et al., Virtual KITTI 2, arXiv 2001.10773.
    """
    for what, values, choices in (
        ("scene", scenes, SCENES),
        ("variation", variations, VARIATIONS),
        ("camera", (camera,), (0, 1)),
    ):
        for value in values:
            check_choice(what, value, choices)
    root = Path(root).expanduser()
    folders = (f"{scene}/{variation}/frames/depth" for scene in scenes for variation in variations)
    entries = find(root, *(f"{folder}/Camera_{camera}/depth_*.png" for folder in folders))
    return Samples("vkitti2", "all", root, LAYOUT, entries, _read)


def _read(root: Path, name: str) -> DepthSample:
    scene, variation, _, _, camera, file = name.split("/")
    source = f"{scene}/{variation}/frames/rgb/{camera}/{file.replace('depth_', 'rgb_').replace('.png', '.jpg')}"
    codes = read_codes(root / name)
    text = root / scene / variation / "intrinsic.txt"
    intrinsics = None
    if text.is_file():
        frame = int(Path(file).stem.removeprefix("depth_"))
        with reading(text):
            fx, fy, cx, cy = _camera_table(text)[frame, int(camera[-1])]
            intrinsics = half_integer_intrinsics(fx, fy, cx, cy, first_center=0)
    values = codes / np.float32(100)
    return make_sample(read_rgb(root / source), values, source, scene, sky=codes == SKY_CODE, intrinsics=intrinsics)


@lru_cache(maxsize=128)
def _camera_table(path: Path) -> dict[tuple[int, int], tuple[float, ...]]:
    """Read (frame, camera) -> fx, fy, cx, cy of one variation."""
    rows = [line.split() for line in path.read_text(encoding="utf-8").splitlines()[1:] if line.strip()]
    return {(int(row[0]), int(row[1])): tuple(map(float, row[2:6])) for row in rows}
