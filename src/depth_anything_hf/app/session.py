"""The state of a visitor's page: predictions, stored as files, and the points marked on them; never changed in place."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from depth_anything_hf.maps.resizing import resize_map

LONGEST_PREVIEW = 1280  # pixels: of the pictures sent to a browser, and of the grid of a point cloud
WIDEST_COLUMN = 640  # pixels: the widest picture on the page
LISTING = "depth.jsonl"


@dataclass(frozen=True)
class Prediction:
    """Store the prediction of one checkpoint for a photograph."""

    label: str  # short name of the checkpoint, different for two checkpoints
    space: str  # "disparity" or "depth"
    saved: dict  # result of `save_depth`: files, scale and offset

    def values(self) -> np.ndarray:
        """Return the values, `(height, width)` float32, memory-mapped: read from the disk on access."""
        return np.load(self.saved["npy"], mmap_mode="r")

    def sampled(self, height: int, width: int) -> np.ndarray:
        """Return the values of the nearest pixels at another size, `(height, width)` float32."""
        return resize_map(torch.from_numpy(np.array(self.values()))[None], (height, width))[0].numpy()


@dataclass(frozen=True)
class Photograph:
    """Store one uploaded image and its predictions."""

    name: str  # of the file
    size: tuple[int, int]  # height and width, upright
    preview: Path  # PNG whose longer side has at most `LONGEST_PREVIEW` pixels
    predictions: tuple[Prediction, ...]  # one per checkpoint


@dataclass(frozen=True)
class Session:
    """Store what one visitor sees."""

    folder: Path  # of all files of this visitor; deleted with the session
    photographs: tuple[Photograph, ...]  # in the order of the upload
    paths: tuple[str, ...]  # uploaded files
    shown: int = 0  # index of the photograph that is shown
    seen: int = 0  # picture on which points are marked: 0 the photograph, 1 and 2 the predictions
    points: tuple[tuple[int, int], ...] = ()  # (row, column) of up to two pixels of the shown photograph
    extras: tuple[Path, ...] = ()  # point clouds and archives made on request

    @property
    def photograph(self) -> Photograph:
        """Return the photograph that is shown."""
        return self.photographs[self.shown]

    def picture(self, seen: int) -> Image.Image:
        """Return a picture at its size on the page: 0 the photograph, 1 and 2 the colored predictions."""
        photograph = self.photograph
        image: Image.Image = Image.open(
            photograph.predictions[seen - 1].saved["color"] if seen else photograph.preview
        )
        height, width = shown_size(*photograph.size)
        return shrunk(image).resize((width, height), Image.Resampling.NEAREST)

    def downloads(self) -> list[str]:
        """List the files of the shown photograph, and those made on request."""
        files = [p.saved[kind] for p in self.photograph.predictions for kind in ("png", "npy", "color")]
        return [str(file) for file in (*files, self.folder / LISTING, *self.extras)]


def shrunk(image: Image.Image) -> Image.Image:
    """Resize a picture to the size of previews; bilinear, which adds no new colors to a color map."""
    height, width = preview_size(image.height, image.width)
    return image if image.size == (width, height) else image.resize((width, height), Image.Resampling.BILINEAR)


def preview_size(height: int, width: int) -> tuple[int, int]:
    """Return height and width of an image's preview, pixels.

    Example:
        >>> preview_size(3000, 4000), preview_size(60, 80)
        ((960, 1280), (60, 80))
    """
    factor = min(1.0, LONGEST_PREVIEW / max(height, width))
    return max(1, round(height * factor)), max(1, round(width * factor))


def shown_size(height: int, width: int) -> tuple[int, int]:
    """Return height and width of a picture on the page, multiples of its preview's: pixels of small ones are repeated.

    gradio returns wrong coordinates for a click on a picture that the browser enlarges.

    Example:
        >>> shown_size(3000, 4000), shown_size(60, 80)
        ((960, 1280), (480, 640))
    """
    height, width = preview_size(height, width)
    times = math.ceil(WIDEST_COLUMN / max(height, width))
    return height * times, width * times
