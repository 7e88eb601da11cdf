"""ScanNet++: rooms seen by an iPhone with LiDAR and by a DSLR camera, and maps rendered from a laser scan."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path

import numpy as np

from depth_anything_hf.data.readers.base import (
    Samples,
    check_choice,
    find,
    make_sample,
    matrix_intrinsics,
    read_codes,
    read_json,
    read_rgb,
    reading,
    require,
)
from depth_anything_hf.data.records import DepthSample

LAYOUT = (
    "Expected: data/SCENE/iphone/rgb/frame_000000.jpg with iphone/depth/frame_000000.png and "
    "iphone/pose_intrinsic_imu.json (iphone/prepare_iphone_data.py of the toolbox writes both folders, from depth.bin and "
    "the video), or data/SCENE/dslr/resized_images/DSC00001.JPG with dslr/render_depth/DSC00001.png (common/render.py writes "
    "it); splits/nvs_sem_train.txt; from https://kaldir.vc.in.tum.de/scannetpp and https://github.com/scannetpp/scannetpp."
)
_PHOTOGRAPHS = {"iphone": "rgb", "dslr": "resized_images"}
_MAPS = {"sensor": "depth", "rendered": "render_depth"}


def read_scannetpp(
    root: str | os.PathLike, split: str | None = None, camera: str = "iphone", labels: str | None = None
) -> Samples[DepthSample]:
    """Read ScanNet++.

    Args:
        root: Folder of `data` and `splits`.
        split: A list of scenes in `splits`, such as "nvs_sem_train" or "nvs_sem_val"; default: every scene in `data`.
        camera: "iphone" (1440 x 1920 pixels) or "dslr" (fisheye images, without pinhole intrinsics).
        labels: "sensor" (the iPhone's LiDAR, 192 x 256 pixels of its own) or "rendered" (from the laser scan's mesh, at the
            photograph's size); default: "sensor" for "iphone", "rendered" for "dslr", which has no sensor.

    Returns:
        Samples in meters along the optical axis; code 0 = no label; `group` is the scene. `left_out` counts scenes of the
        list that are missing, and maps without a photograph.

    Raises:
        ValueError: Unknown camera or labels.
        FileNotFoundError: No map, or a file is missing.
        OSError: A file is broken.

    Source: Yeshwanth et al., ScanNet++, ICCV 2023; scannetpp/scannetpp, iphone/prepare_iphone_data.py, common/render.py.
    """
    check_choice("camera", camera, _PHOTOGRAPHS)
    labels = {"iphone": "sensor", "dslr": "rendered"}[camera] if labels is None else labels
    check_choice("labels", labels, _MAPS if camera == "iphone" else ("rendered",))
    root = Path(root).expanduser()
    scenes, left_out = ["*"], 0
    if split is not None:
        listed = require(root / "splits" / f"{split}.txt", LAYOUT)
        with reading(listed):
            wanted = listed.read_text(encoding="utf-8").split()
        scenes = [scene for scene in wanted if (root / "data" / scene).is_dir()]
        left_out = len(wanted) - len(scenes)
    maps = find(root, *(f"data/{scene}/{camera}/{_MAPS[labels]}/*.png" for scene in scenes))
    photographs = {
        name.rsplit(".", 1)[0]: name
        for scene in scenes
        for name in find(root, f"data/{scene}/{camera}/{_PHOTOGRAPHS[camera]}/*.*")
    }
    stems = (f"{Path(name).parents[1].as_posix()}/{_PHOTOGRAPHS[camera]}/{Path(name).stem}" for name in maps)
    entries = [(photographs[stem], name) for stem, name in zip(stems, maps, strict=True) if stem in photographs]
    left_out += len(maps) - len(entries)
    return Samples("scannetpp", split or "all", root, LAYOUT, entries, _read, left_out)


def _read(root: Path, entry: tuple[str, str]) -> DepthSample:
    source, name = entry
    _, scene, camera, _, file = source.split("/")
    numbers = root / "data" / scene / camera / "pose_intrinsic_imu.json"
    intrinsics = None
    if camera == "iphone" and numbers.is_file():
        with reading(numbers):
            intrinsics = _cameras(numbers)[Path(file).stem]
    values = read_codes(root / name) / np.float32(1000)
    return make_sample(read_rgb(root / source), values, source, scene, intrinsics=intrinsics, own_pixels=True)


@lru_cache(maxsize=16)
def _cameras(path: Path) -> dict[str, tuple[float, ...]]:
    """Read fx, fy, cx, cy of each frame; ARKit counts from the image's corner, as this library."""
    return {
        frame: matrix_intrinsics(np.array(entry["intrinsic"]), first_center=0.5)
        for frame, entry in read_json(path).items()
    }
