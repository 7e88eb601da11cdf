"""ARKitScenes: rooms seen by an iPad, with the maps of its LiDAR and maps rendered from laser scans."""

from __future__ import annotations

import csv
import os
from bisect import bisect_left
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from depth_anything_hf.data.image_files import opened_image
from depth_anything_hf.data.readers.base import Samples, check_choice, find, make_sample, read_codes, read_rgb, reading
from depth_anything_hf.data.records import DepthSample

LAYOUT = (
    "Expected: Training/47333462/lowres_depth/47333462_21.5.png with confidence, wide (or color) and wide_intrinsics "
    "(47333462_21.5.pincam), Validation likewise, and metadata.csv beside them, as download_data.py of "
    "https://github.com/apple/ARKitScenes writes them to raw or upsampling."
)
_FOLDERS = {"train": ("Training",), "val": ("Validation",), "all": ("Training", "Validation")}
_PHOTOGRAPHS = {"wide": ("wide", "color"), "vga_wide": ("vga_wide",), "lowres_wide": ("lowres_wide",)}
_LABELS = ("lowres_depth", "highres_depth")
_LAG = 0.002  # seconds: the names of frames that belong together differ by a millisecond at times
_TURNS = {"up": 0, "right": 1, "down": 2, "left": 3}  # quarter turns, counterclockwise, that bring the sky up


class _Frame(NamedTuple):
    photograph: str
    depth: str
    confidence: str | None
    camera: str | None
    least: int


def read_arkitscenes(
    root: str | os.PathLike,
    split: str = "train",
    images: str = "wide",
    labels: str = "lowres_depth",
    min_confidence: int = 1,
) -> Samples[DepthSample]:
    """Read ARKitScenes. The photograph and the sensor's map (192 x 256 pixels) each keep their own pixels.

    Where `metadata.csv` says that a video lies on its side (`sky_direction`), photograph, map and intrinsics are turned
    upright.

    Args:
        root: Folder of `Training` and `Validation`: `raw` or `upsampling` of the download, or the folder of `raw`.
        split: "train", "val" or "all".
        images: "wide" (1440 x 1920 pixels, at most 10 a second; `color` in the upsampling set), "vga_wide" (480 x 640) or
            "lowres_wide" (192 x 256).
        labels: "lowres_depth" (LiDAR) or "highres_depth" (rendered from laser scans, 1440 x 1920).
        min_confidence: Least confidence of a LiDAR pixel that is a label: 0 takes all, 1 leaves out "low", 2 keeps "high" alone.

    Returns:
        Samples in meters; code 0 = no label; `group` is the video; `intrinsics` is None where the photograph has no
        `.pincam`. `left_out` counts maps without a photograph of the same time, or without their confidence.

    Raises:
        ValueError: Unknown split, images, labels or confidence.
        FileNotFoundError: No map, or a file is missing.
        OSError: A file is broken.

    Source: Baruch et al., ARKitScenes, NeurIPS Datasets 2021; apple/ARKitScenes, DATA.md; least confidence 1 as in
    strayrobots/StrayVisualizer.
    """
    for what, value, choices in (
        ("split", split, _FOLDERS),
        ("images", images, _PHOTOGRAPHS),
        ("labels", labels, _LABELS),
        ("min_confidence", min_confidence, (0, 1, 2)),
    ):
        check_choice(what, value, choices)
    root = Path(root).expanduser()
    base = "raw/" if (root / "raw").is_dir() else ""
    maps = find(root, *(f"{base}{folder}/*/{labels}/*.png" for folder in _FOLDERS[split]))
    needs_confidence = labels == "lowres_depth" and min_confidence > 0
    frames = []
    _listing.cache_clear()
    for name in maps:
        video, _, file = name.rsplit("/", 2)
        photographs = (_at_time(root, f"{video}/{folder}", file) for folder in _PHOTOGRAPHS[images])
        photograph = next(filter(None, photographs), None)
        confidence = _at_time(root, f"{video}/confidence", file) if needs_confidence else None
        if photograph is not None and (confidence is not None or not needs_confidence):
            camera = _at_time(root, f"{Path(photograph).parent.as_posix()}_intrinsics", file)
            frames.append(_Frame(photograph, name, confidence, camera, min_confidence))
    return Samples("arkitscenes", split, root, LAYOUT, frames, _read, len(maps) - len(frames))


def _time(name: str) -> float:
    """Return the seconds in a name such as 47333462_21.503.png."""
    return float(name.rsplit("_", 1)[1].rsplit(".", 1)[0])


@lru_cache(maxsize=8)
def _listing(folder: Path) -> tuple[list[float], list[str]]:
    names = sorted((path.name for path in folder.glob("[!.]*_*.*")), key=_time)
    return [_time(name) for name in names], names


def _at_time(root: Path, folder: str, file: str) -> str | None:
    """Find the file of the same time in a folder."""
    times, names = _listing(root / folder)
    place = bisect_left(times, _time(file) - _LAG)
    near = [i for i in range(place, min(place + 3, len(times))) if abs(times[i] - _time(file)) <= _LAG]
    if not near:
        return None
    return f"{folder}/{names[min(near, key=lambda i: abs(times[i] - _time(file)))]}"


def _read(root: Path, frame: _Frame) -> DepthSample:
    image, values, mask = np.asarray(read_rgb(root / frame.photograph)), read_codes(root / frame.depth) / 1000, None
    if frame.confidence is not None:
        with reading(root / frame.confidence), opened_image(root / frame.confidence) as opened:
            mask = np.asarray(opened) >= frame.least
    video = Path(frame.photograph).parents[1]
    intrinsics = None if frame.camera is None else _pincam(root / frame.camera)
    turns = _turns(root / video.parents[1]).get(video.name, 0)
    for _ in range(turns):  # the width becomes the height, counted from below
        if intrinsics is not None:
            fx, fy, cx, cy = intrinsics
            intrinsics = (fy, fx, cy, image.shape[1] - cx)
        image, values = np.rot90(image), np.rot90(values)
        mask = None if mask is None else np.rot90(mask)
    photograph = Image.fromarray(np.ascontiguousarray(image))
    return make_sample(
        photograph, values, frame.photograph, video.name, mask=mask, intrinsics=intrinsics, own_pixels=True
    )


def _pincam(path: Path) -> tuple[float, ...]:
    """Read fx, fy, cx, cy after width and height; ARKit counts from the image's corner, as this library."""
    with reading(path):
        _, _, fx, fy, cx, cy = map(float, path.read_text(encoding="utf-8").split())
    return fx, fy, cx, cy


@lru_cache(maxsize=8)
def _turns(folder: Path) -> dict[str, int]:
    """Read video -> quarter turns from `metadata.csv`; videos without a sky direction stay as they are."""
    table = folder / "metadata.csv"
    if not table.is_file():
        return {}
    with reading(table), open(table, newline="", encoding="utf-8") as file:
        return {
            row["video_id"]: _TURNS.get((row.get("sky_direction") or "").lower(), 0) for row in csv.DictReader(file)
        }
