"""Hypersim: rendered rooms, tone-mapped previews with distance maps in HDF5."""

from __future__ import annotations

import csv
import os
from pathlib import Path

import numpy as np

from depth_anything_hf.data.depth_files import planar_from_distance
from depth_anything_hf.data.readers.base import Samples, check_choice, find, make_sample, read_hdf5, read_rgb, reading
from depth_anything_hf.data.records import DepthSample

SPLIT_FILE = "metadata_images_split_scene_v1.csv"
LAYOUT = (
    "Expected: ai_001_001/images/scene_cam_00_final_preview/frame.0000.tonemap.jpg and "
    "ai_001_001/images/scene_cam_00_geometry_hdf5/frame.0000.depth_meters.hdf5, and for splits "
    f"{SPLIT_FILE} beside the scenes, all from https://github.com/apple/ml-hypersim."
)
HEIGHT, WIDTH, FOCAL = 768, 1024, 886.81
_DEPTH_FILES = "ai_*/images/scene_cam_*_geometry_hdf5/frame.*.depth_meters.hdf5"
_SPLITS = ("train", "val", "test", "all")
_OFFICIAL = {"val": 7386}  # the list in the repository of Depth Anything V2

Key = tuple[str, str, int]  # scene, camera, frame


def read_hypersim(
    root: str | os.PathLike, split: str = "all", split_file: str | os.PathLike | None = None
) -> Samples[DepthSample]:
    """Read Hypersim.

    Distances to the camera's center become planar depth with one focal length for all scenes, 886.81 pixels, as Depth
    Anything V2 does; this is not exact for the few scenes with a tilted image plane.

    Args:
        root: Folder of the scenes `ai_001_001`, ...
        split: "train", "val", "test", or "all". With the split file only frames of the public release are taken;
            "all" without it takes every frame in the folder.
        split_file: The official list of frames; default: `metadata_images_split_scene_v1.csv` in `root`.

    Returns:
        Samples of 768 x 1024 pixels, meters; NaN in the file = no label; `group` is the scene. `left_out` counts frames
        of the list that are missing.

    Raises:
        ValueError: Unknown split.
        FileNotFoundError: No frame, or a split without its list.
        OSError: A file is broken.
        ImportError: h5py is not installed.

    Source: Roberts et al., Hypersim, ICCV 2021; DepthAnything/Depth-Anything-V2, metric_depth/dataset/hypersim.py.
    """
    check_choice("split", split, _SPLITS)
    root = Path(root).expanduser()
    here = find(root, _DEPTH_FILES)
    listed = root / SPLIT_FILE if split_file is None else Path(split_file).expanduser()
    left_out = 0
    if split != "all" or split_file is not None or listed.is_file():
        wanted = _frames_of(listed, split)
        here = [name for name in here if _key(name) in wanted]
        left_out = len(wanted) - len(here)
    return Samples("hypersim", split, root, LAYOUT, here, _read, left_out, _OFFICIAL.get(split))


def planar_depth(distance: np.ndarray, focal: float) -> np.ndarray:
    """Convert distances to the camera's center, (height, width) in any unit, to depth along the optical axis, float64.

    `depth = distance / sqrt(1 + (x / focal)^2 + (y / focal)^2)`, x and y in pixels from the image's center to the pixel's.

    Example:
        >>> planar_depth(np.array([[3.0, 3.0, 3.0]]), focal=1.0).round(4).tolist()
        [[2.1213, 3.0, 2.1213]]
    """
    height, width = distance.shape
    return planar_from_distance(distance, (focal, focal, width / 2, height / 2))


def _key(name: str) -> Key:
    """Return the name of a frame as in the split file: ("ai_001_001", "cam_00", 0)."""
    scene, _, folder, file = name.split("/")
    return scene, folder.removeprefix("scene_").removesuffix("_geometry_hdf5"), int(file.split(".")[1])


def _frames_of(split_file: Path, split: str) -> set[Key]:
    if not split_file.is_file():
        raise FileNotFoundError(
            f"{split_file} is missing; it lists the images of split {split!r}. Pass split='all' to read without it. {LAYOUT}"
        )
    with reading(split_file), open(split_file, newline="", encoding="utf-8") as file:
        return {
            (row["scene_name"], row["camera_name"], int(row["frame_id"]))
            for row in csv.DictReader(file)
            if row["included_in_public_release"].strip().lower() == "true"
            and split in ("all", row["split_partition_name"])
        }


def _read(root: Path, name: str) -> DepthSample:
    distance = read_hdf5(root / name, lambda file: file["dataset"][:])
    if distance.shape != (HEIGHT, WIDTH):
        raise ValueError(
            f"{root / name} has shape {distance.shape}; Hypersim's is {(HEIGHT, WIDTH)} (height, width), and the focal "
            "length is known for that size only: use the official files."
        )
    source = name.replace("_geometry_hdf5/", "_final_preview/").replace(".depth_meters.hdf5", ".tonemap.jpg")
    intrinsics = (FOCAL, FOCAL, WIDTH / 2, HEIGHT / 2)
    image = read_rgb(root / source)
    return make_sample(image, planar_depth(distance, FOCAL), source, name.split("/")[0], intrinsics=intrinsics)
