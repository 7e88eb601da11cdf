"""DDAD: drives with six cameras and a long-range LiDAR, in the DGP layout of TRI."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from depth_anything_hf.data.readers.base import (
    Samples,
    check_choice,
    listed,
    make_sample,
    nearest_depth,
    read_json,
    read_rgb,
    reading,
    require,
)
from depth_anything_hf.data.records import DepthSample

INDEX = "ddad.json"
LAYOUT = (
    f"Expected: {INDEX}, and in each scene's folder 000150/scene_HASH.json, calibration/KEY.json, "
    "rgb/CAMERA_01/TIME.png and point_cloud/LIDAR/TIME.npz, from https://github.com/TRI-ML/DDAD."
)
CAMERAS = ("CAMERA_01", "CAMERA_05", "CAMERA_06", "CAMERA_07", "CAMERA_08", "CAMERA_09")
_SPLITS = {"train": "0", "val": "1"}  # DGP's numbers


class _Frame(NamedTuple):
    scene: str  # folder, relative to the root
    calibration: str
    camera: str
    image: str  # relative to the scene
    camera_pose: dict
    cloud: str  # relative to the scene
    axes: tuple[int, int, int]  # columns of x, y, z in the cloud
    cloud_pose: dict


def read_ddad(root: str | os.PathLike, split: str = "val", camera: str = "CAMERA_01") -> Samples[DepthSample]:
    """Read DDAD: the LiDAR sweep of each sample, moved by the two poses and projected into a camera.

    The points are not filtered: points behind an obstacle and points on the ego car stay. Opening reads the scenes' JSON files.

    Args:
        root: Folder of `ddad.json`.
        split: "train" or "val"; the test split has no LiDAR.
        camera: "CAMERA_01" (ahead), "CAMERA_05", "CAMERA_06", "CAMERA_07", "CAMERA_08" or "CAMERA_09".

    Returns:
        Samples of 1216 x 1936 pixels, sparse planar depth in meters; `group` is the scene. `left_out` counts samples
        without the camera or the LiDAR.

    Raises:
        ValueError: Unknown split or camera.
        FileNotFoundError: A file is missing.
        OSError: A file is broken.

    Source: Guizilini et al., 3D Packing for Self-Supervised Monocular Depth Estimation, CVPR 2020; layout: TRI-ML/dgp.
    """
    check_choice("split", split, _SPLITS)
    check_choice("camera", camera, CAMERAS)
    root = Path(root).expanduser()
    index = read_json(require(root / INDEX, LAYOUT))
    with reading(root / INDEX):
        names = [str(name) for name in index["scene_splits"][_SPLITS[split]]["filenames"]]
    scenes = [listed(name, root / INDEX) for name in names]
    found = [frame for scene in scenes for frame in _frames(root, scene, camera)]
    frames = [frame for frame in found if frame is not None]
    return Samples("ddad", split, root, LAYOUT, frames, _read, left_out=len(found) - len(frames))


def _frames(root: Path, scene: str, camera: str) -> Iterator[_Frame | None]:
    """Yield the frames of a scene, None for a sample without the camera or the LiDAR."""
    path = require(root / scene, LAYOUT)
    content = read_json(path)
    with reading(path):
        data = {datum["key"]: datum for datum in content["data"]}
        for sample in content["samples"]:
            by_name = {
                data[key]["id"]["name"].upper(): data[key]["datum"] for key in sample["datum_keys"] if key in data
            }
            if camera not in by_name or "LIDAR" not in by_name:
                yield None
                continue
            image, cloud = by_name[camera]["image"], by_name["LIDAR"]["point_cloud"]
            x, y, z = (cloud["point_format"].index(axis) for axis in "XYZ")
            yield _Frame(
                scene=Path(scene).parent.as_posix(),
                calibration=sample["calibration_key"],
                camera=camera,
                image=image["filename"],
                camera_pose=image["pose"],
                cloud=cloud["filename"],
                axes=(x, y, z),
                cloud_pose=cloud["pose"],
            )


def _read(root: Path, frame: _Frame) -> DepthSample:
    folder = root / frame.scene
    for name in (frame.image, frame.cloud, frame.calibration):
        listed(name, folder)
    source = f"{frame.scene}/{frame.image}"
    image = read_rgb(root / source)
    cloud_file, calibration_file = folder / frame.cloud, folder / "calibration" / f"{frame.calibration}.json"
    with reading(cloud_file), np.load(cloud_file, allow_pickle=False) as cloud:
        points = cloud["data"][:, list(frame.axes)].astype(np.float64)
    calibration = read_json(calibration_file)
    with reading(calibration_file):
        numbers = calibration["intrinsics"][calibration["names"].index(frame.camera)]
        fx, fy, cx, cy = intrinsics = tuple(float(numbers[key]) for key in ("fx", "fy", "cx", "cy"))
    to_camera = np.linalg.inv(pose_matrix(frame.camera_pose)) @ pose_matrix(frame.cloud_pose)
    x, y, z = (points @ to_camera[:3, :3].T + to_camera[:3, 3]).T
    ahead = z > 0
    x, y, z = x[ahead], y[ahead], z[ahead]
    # TRI's code cuts the fraction off, so that a pixel covers [column, column + 1), as in this library.
    columns, rows = np.floor(fx * x / z + cx), np.floor(fy * y / z + cy)
    values = nearest_depth(columns, rows, z, image.height, image.width)
    return make_sample(image, values, source, frame.scene, intrinsics=intrinsics)


def pose_matrix(pose: dict[str, dict[str, float]]) -> np.ndarray:
    """Convert a pose of DGP (unit quaternion and translation, sensor to world) to a matrix, (4, 4) float64.

    Example:
        >>> half_turn = {"qw": 0.0, "qx": 0.0, "qy": 0.0, "qz": 1.0}
        >>> pose_matrix({"rotation": half_turn, "translation": {"x": 5.0, "y": 0.0, "z": 0.0}})[:2].tolist()
        [[-1.0, 0.0, 0.0, 5.0], [0.0, -1.0, 0.0, 0.0]]
    """
    quaternion = np.array([pose["rotation"][key] for key in ("qw", "qx", "qy", "qz")], dtype=np.float64)
    w, x, y, z = quaternion / np.linalg.norm(quaternion)
    matrix = np.eye(4)
    matrix[:3, :3] = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    matrix[:3, 3] = [pose["translation"][key] for key in "xyz"]
    return matrix
