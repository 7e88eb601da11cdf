"""BlendedMVS, BlendedMVS+ and ++: photographs blended with renderings of their reconstruction, depth in PFM files."""

from __future__ import annotations

import os
import re
from pathlib import Path

from depth_anything_hf.data.depth_files import read_pfm
from depth_anything_hf.data.readers.base import (
    Samples,
    find_below,
    make_sample,
    of_unknown_scale,
    read_rgb,
    reading,
)
from depth_anything_hf.data.records import DepthSample

LAYOUT = (
    "Expected: SCENE/blended_images/00000000.jpg, SCENE/rendered_depth_maps/00000000.pfm and for intrinsics "
    "SCENE/cams/00000000_cam.txt, of one or all three downloads, from https://github.com/YoYo000/BlendedMVS."
)


def read_blendedmvs(root: str | os.PathLike, scene_list: str | os.PathLike | None = None) -> Samples[DepthSample]:
    """Read BlendedMVS and its extensions.

    The unit of depth is another one in each scene, so labels are inverse depth, in space "disparity": a metric model refuses
    them. Holes and background are 0 in the file and have no label; a sky has none either. A few maps are wholly empty.

    Args:
        root: Folder of the scenes, or of the unpacked downloads.
        scene_list: One of the official lists (`BlendedMVS_training.txt`), one name of a scene a line; default: all scenes.

    Returns:
        Samples of 576 x 768 pixels (1536 x 2048 in the high-resolution download); `group` is the scene; `intrinsics` is
        None where `cams` is missing.

    Raises:
        FileNotFoundError: No depth map, or the list is missing.
        OSError: A file is broken.

    Source: Yao et al., BlendedMVS, CVPR 2020; io.py of YoYo000/MVSNet. The scale in the header of a PFM is not used.
    """
    root = Path(root).expanduser()
    entries = find_below(root, "rendered_depth_maps/*.pfm")
    if scene_list is not None:
        with reading(Path(scene_list)):
            scenes = set(Path(scene_list).expanduser().read_text(encoding="utf-8").split())
        entries = [name for name in entries if scenes.intersection(name.split("/"))]
    return Samples("blendedmvs", "all", root, LAYOUT, entries, _read)


def _read(root: Path, name: str) -> DepthSample:
    scene, stem = Path(name).parent.parent, Path(name).stem
    source = (scene / "blended_images" / f"{stem}.jpg").as_posix()
    camera = root / scene / "cams" / f"{stem}_cam.txt"
    intrinsics = _intrinsics(camera) if camera.is_file() else None
    values = read_pfm(root / name)[0]
    return of_unknown_scale(
        make_sample(read_rgb(root / source), values, source, (root / scene).name, intrinsics=intrinsics)
    )


def _intrinsics(path: Path) -> tuple[float, ...]:
    """Read the matrix after the word `intrinsic`; the authors' code has the center of the first pixel at 0.5."""
    with reading(path):
        numbers = re.split(r"\bintrinsic\b", path.read_text(encoding="utf-8"))[1].split()[:9]
        fx, _, cx, _, fy, cy, *_ = map(float, numbers)
    return fx, fy, cx, cy
