"""DA-2K: photographs with pairs of pixels; in each pair one pixel is known to be closer."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from PIL import Image

from depth_anything_hf.data.readers.base import Samples, listed, read_json, read_rgb, reading, require

ANNOTATIONS = "annotations.json"
LAYOUT = (
    f"Expected: {ANNOTATIONS} and images/indoor/NAME.jpg, from https://huggingface.co/datasets/depth-anything/DA-2K."
)
_POINTS = ("point1", "point2")


@dataclass(frozen=True, eq=False)
class PointPairs:
    """Store a photograph of DA-2K and its pairs of pixels."""

    image: Image.Image  # RGB
    pairs: np.ndarray  # (pairs, 2, 2) int64: pair, point, (row, column)
    closer: np.ndarray  # (pairs,) int64: 0 where the first point of the pair is closer, 1 where the second is
    source: str  # the image, relative to the root
    scene: str  # kind of scene: "indoor", "outdoor", "non_real", ...


def read_da2k(root: str | os.PathLike) -> Samples[PointPairs]:
    """Read DA-2K.

    Args:
        root: Folder of `annotations.json` and `images`.

    Returns:
        One `PointPairs` a photograph, in the order of the file. Which point is closer is read, never assumed.

    Raises:
        FileNotFoundError: The annotations or an image is missing.
        ValueError: An annotation of another form, or a point outside its image.
        OSError: A file is broken.

    Source: Depth Anything V2, section 6; DA-2K.md of its repository.
    """
    root = Path(root).expanduser()
    path = require(root / ANNOTATIONS, LAYOUT)
    annotations = read_json(path)
    with reading(path):
        entries = [(PurePosixPath(name).as_posix(), tuple(pairs)) for name, pairs in annotations.items()]
    for name in annotations:
        listed(name, path)
    for name, pairs in entries:
        for pair in pairs:
            _check(pair, f"{path}: {name}")
    return Samples("da2k", "all", root, LAYOUT, entries, _read)


def _check(pair: Any, where: str) -> None:
    try:
        usable = pair["closer_point"] in _POINTS and all(
            len(pair[point]) == 2 and all(isinstance(number, int) for number in pair[point]) for point in _POINTS
        )
    except (TypeError, KeyError):
        usable = False
    if not usable:
        raise ValueError(
            f"{where} has the pair {pair!r}; needed: point1 and point2 as [row, column], and closer_point, one of "
            f"{_POINTS}."
        )


def _read(root: Path, entry: tuple[str, tuple[dict, ...]]) -> PointPairs:
    name, annotated = entry
    image = read_rgb(root / name)
    pairs = np.array([[pair[point] for point in _POINTS] for pair in annotated], dtype=np.int64).reshape(-1, 2, 2)
    closer = np.array([_POINTS.index(pair["closer_point"]) for pair in annotated], dtype=np.int64)
    if pairs.size and not ((pairs >= 0) & (pairs < (image.height, image.width))).all():
        raise ValueError(
            f"{root / name}: a point lies outside the image of {image.height} x {image.width} (height x width); points "
            "are (row, column) of the full-size image: use the official images."
        )
    parts = PurePosixPath(name).parts
    scene = parts[parts.index("images") + 1] if "images" in parts[:-2] else parts[0]
    return PointPairs(image, pairs, closer, name, scene)
