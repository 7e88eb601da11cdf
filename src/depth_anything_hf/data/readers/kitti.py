"""KITTI: raw recordings with the annotated depth maps, or with single LiDAR sweeps, listed by a split file."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from depth_anything_hf.data.readers.base import (
    Samples,
    check_choice,
    half_integer_intrinsics,
    listed,
    make_sample,
    nearest_depth,
    read_codes,
    read_rgb,
    reading,
    require,
)
from depth_anything_hf.data.records import DepthSample

LAYOUT = (
    "Expected: the raw data as 2011_09_26/2011_09_26_drive_0002_sync/image_02/data/0000000069.png with "
    "2011_09_26/calib_cam_to_cam.txt, from https://www.cvlibs.net/datasets/kitti/raw_data.php, and the annotated depth "
    "maps as train|val/2011_09_26_drive_0002_sync/proj_depth/groundtruth/image_02/0000000069.png, from "
    "https://www.cvlibs.net/datasets/kitti/eval_depth.php (give their folder as depth_root if it is another)."
)
CODES_PER_METER = 256.0
KB_CROP = (352, 1216)  # "kb" as in the authors' metric code of V1: the size of the depth benchmark's images
# Lists of other people have paths of their machines: what is in every KITTI is the end.
_IMAGE = re.compile(r"\d{4}_\d\d_\d\d/[^/]+/image_0[23]/data/\d+(\.\w+)?$")
_DEPTH = re.compile(r"[^/]+/proj_depth/groundtruth/image_0[23]/\d+\.png$")
_SIDES = {"l": "image_02", "r": "image_03"}
_LABELS = ("annotated", "raw")


class _Frame(NamedTuple):
    image: str  # relative to the root, without its ending if the split file has none
    depth: str | None  # annotated map, relative to the folder of the annotated maps or to its train, val


def read_kitti(
    root: str | os.PathLike,
    split_file: str | os.PathLike | None = None,
    labels: str = "annotated",
    depth_root: str | os.PathLike | None = None,
    kb_crop: bool = False,
) -> Samples[DepthSample]:
    """Read the frames of KITTI in a split file.

    Two forms of lines are read: `folder frame l|r` (monodepth) and `image depth focal` (BTS; depth may be `None`, and the
    authors of V2 leave the focal length out). Of absolute paths only the end counts, from the date or the drive on. With
    annotated labels, frames without an annotated map are left out and counted in `left_out`: of the Eigen test
    split's 697 frames 652 remain.

    Args:
        root: Folder of the raw data, with `2011_09_26`, ... in it.
        split_file: Text file of the frames, one a line. It does not come with KITTI and must be given.
        labels: "annotated" (accumulated sweeps, the official depth benchmark) or "raw" (one LiDAR sweep, projected the
            way Eigen's evaluation does it, but always planar depth: that code also has a variant with the distance
            ahead of the LiDAR).
        depth_root: Folder of the annotated maps, with `train`, `val` or the drives in it; default: `root`.
        kb_crop: Crop to the part that the depth benchmark scores and metric training uses: 352 x 1216 pixels, at the
            bottom and in the middle.

    Returns:
        Samples in meters; `group` is the drive, `split` the split file's name, `intrinsics` None where
        `calib_cam_to_cam.txt` is missing.

    Raises:
        ValueError: Unknown labels, no list, or a line of another form.
        FileNotFoundError: The split file, or every frame's label, is missing.
        OSError: A file is broken.

    Source: Geiger et al., Vision meets Robotics, IJRR 2013; Uhrig et al., Sparsity Invariant CNNs, 3DV 2017; Eigen et
    al., Depth Map Prediction from a Single Image, NeurIPS 2014.
    """
    check_choice("labels", labels, _LABELS)
    if split_file is None:
        raise ValueError(
            "split_file is None; KITTI's list of images does not come with it, so it must be given: "
            "eigen_test_files.txt or eigen_train_files.txt of monodepth, BTS' lists, or those of the authors' metric_depth."
        )
    root, split_file = Path(root).expanduser(), Path(split_file).expanduser()
    depth_root = root if depth_root is None else Path(depth_root).expanduser()
    frames = list(_frames(require(split_file, "Expected: a text file of frames, one a line.")))
    if labels == "raw":
        entries: list[tuple[str, Path | None, bool]] = [(frame.image, None, kb_crop) for frame in frames]
    else:
        found = [(frame.image, _annotated(depth_root, frame.depth)) for frame in frames]
        entries = [(image, depth, kb_crop) for image, depth in found if depth is not None]
    return Samples("kitti", split_file.stem, root, LAYOUT, entries, _read, left_out=len(frames) - len(entries))


def project_sweep(points: np.ndarray, velo_to_image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Project a LiDAR sweep into an image the way Eigen's evaluation does.

    Points behind the LiDAR are dropped, pixel = round(projection) - 1 as in KITTI's Matlab code, the nearest point of a
    pixel wins.

    Args:
        points: (points, 3 or more) meters in the LiDAR's frame: forward, left, up.
        velo_to_image: (3, 4), `P_rect_0x @ R_rect_00 @ Tr_velo_to_cam`.
        height, width: Of the image, pixels.

    Returns:
        (height, width) float32, planar depth in meters, 0 = none.

    Example:
        >>> ahead = np.array([[0.0, -1.0, 0.0, 0.0], [0.0, 0.0, -1.0, 0.0], [1.0, 0.0, 0.0, 0.0]])  # u = -y / x, v = -z / x
        >>> project_sweep(np.array([[4.0, -8.0, -4.0]]), ahead, 1, 2).tolist()
        [[0.0, 4.0]]
    """
    ahead = points[points[:, 0] >= 0, :3].astype(np.float64)
    projected = ahead @ velo_to_image[:, :3].T + velo_to_image[:, 3]
    projected = projected[projected[:, 2] > 0]
    columns, rows = (np.rint(projected[:, axis] / projected[:, 2]) - 1 for axis in (0, 1))
    return nearest_depth(columns, rows, projected[:, 2], height, width)


def _frames(split_file: Path) -> Iterator[_Frame]:
    with reading(split_file):
        lines = split_file.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines, start=1):
        words = line.replace("\\", "/").split()
        if not words:
            continue
        if len(words) == 3 and words[2] in _SIDES and words[1].isdigit():
            folder, frame, camera = words[0].rstrip("/"), f"{int(words[1]):010d}", _SIDES[words[2]]
            depth = f"{Path(folder).name}/proj_depth/groundtruth/{camera}/{frame}.png"
            yield _Frame(listed(f"{folder}/{camera}/data/{frame}", split_file), depth)
        elif (image := _IMAGE.search(words[0])) and len(words) in (2, 3) and words[1] == "None":
            yield _Frame(listed(image[0], split_file), None)
        elif image and len(words) in (2, 3) and (depth_map := _DEPTH.search(words[1])):
            yield _Frame(listed(image[0], split_file), listed(depth_map[0], split_file))
        else:
            raise ValueError(
                f"{split_file}, line {number} is {line!r}; needed: 'folder frame l|r' or 'image depth focal' (depth: a "
                "path with proj_depth, or None; focal may be left out)."
            )


def _annotated(depth_root: Path, depth: str | None) -> Path | None:
    if depth is None:
        return None
    candidates = (depth_root / part / depth for part in ("val", "train", ""))
    return next((path for path in candidates if path.is_file()), None)


def _read(root: Path, entry: tuple[str, Path | None, bool]) -> DepthSample:
    name, depth_file, kb_crop = entry
    path = root / name
    if path.suffix not in (".png", ".jpg"):  # monodepth's instructions convert the images to JPEG
        png, jpg = root / f"{name}.png", root / f"{name}.jpg"
        path = jpg if jpg.is_file() and not png.is_file() else png
    image = read_rgb(path)
    drive, camera = path.parents[2], path.parents[1].name.removeprefix("image_")
    calibration_file = drive.parent / "calib_cam_to_cam.txt"
    calibration = _calibration(calibration_file) if depth_file is None or calibration_file.is_file() else None
    intrinsics = None
    if calibration is not None:
        with reading(calibration_file):
            camera_matrix = calibration[f"P_rect_{camera}"].reshape(3, 4)
            fx, fy, cx, cy = camera_matrix[[0, 1, 0, 1], [0, 1, 2, 2]]
            intrinsics = half_integer_intrinsics(fx, fy, cx, cy, first_center=0)
    if depth_file is None:
        sweep = drive / "velodyne_points" / "data" / f"{path.stem}.bin"
        with reading(sweep):
            points = np.fromfile(sweep, dtype="<f4").reshape(-1, 4)
        values = project_sweep(points, _velo_to_image(calibration_file, camera), image.height, image.width)
    else:
        values = read_codes(depth_file) / np.float32(CODES_PER_METER)
    sample = make_sample(image, values, path.relative_to(root).as_posix(), drive.name, intrinsics=intrinsics)
    return _benchmark_crop(sample) if kb_crop else sample


def _benchmark_crop(sample: DepthSample) -> DepthSample:
    height, width = KB_CROP
    top, left = sample.image.height - height, (sample.image.width - width) // 2
    if top < 0 or left < 0:
        raise ValueError(
            f"{sample.source} is {sample.image.height} x {sample.image.width} pixels; kb_crop needs at least {height} x "
            f"{width} (height x width)."
        )
    part = (slice(top, top + height), slice(left, left + width))
    intrinsics = sample.intrinsics
    if intrinsics is not None:
        fx, fy, cx, cy = intrinsics
        intrinsics = (fx, fy, cx - left, cy - top)
    image = sample.image.crop((left, top, left + width, top + height))
    values, mask = (None if plane is None else plane[part] for plane in (sample.values, sample.mask))
    return replace(sample, image=image, values=values, mask=mask, intrinsics=intrinsics)


def _calibration(path: Path) -> dict[str, np.ndarray]:
    """Read the lines `key: numbers` of a calibration file; lines of other text are left out."""
    with reading(path):
        lines = [line.partition(":") for line in path.read_text(encoding="utf-8").splitlines()]
    numbers = {}
    for key, _, text in lines:
        try:
            numbers[key] = np.array([float(word) for word in text.split()])
        except ValueError:  # calib_time
            continue
    return numbers


def _velo_to_image(calibration_file: Path, camera: str) -> np.ndarray:
    velo_file = calibration_file.with_name("calib_velo_to_cam.txt")
    cameras, velo = _calibration(calibration_file), _calibration(velo_file)
    rectify, velo_to_camera = np.eye(4), np.eye(4)
    with reading(velo_file):
        velo_to_camera[:3, :3], velo_to_camera[:3, 3] = velo["R"].reshape(3, 3), velo["T"]
    with reading(calibration_file):
        rectify[:3, :3] = cameras["R_rect_00"].reshape(3, 3)
        return cameras[f"P_rect_{camera}"].reshape(3, 4) @ rectify @ velo_to_camera
