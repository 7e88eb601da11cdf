"""What a visitor's page shows: predictions, kept as files, and the points marked on them. No state is changed in place."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from depth_anything_hf.maps.resizing import resize_map

LONGEST_PREVIEW = 1280  # pixels: what a browser gets to see, and the grid of a point cloud
WIDEST_COLUMN = 640  # pixels: a picture on the page is shown no larger
LISTING = "depth.jsonl"


@dataclass(frozen=True)
class Prediction:
    """Hold what one checkpoint made of a photograph.

    Args:
        label (`str`): Of the checkpoint; differs from that of the other one.
        space (`str`): "disparity" or "depth".
        saved (`dict`): What `save_depth` returned: files, scale and offset.
    """

    label: str
    space: str
    saved: dict

    def values(self) -> np.ndarray:
        """Map the values: (height, width) float32, read from the disk where they are looked at."""
        return np.load(self.saved["npy"], mmap_mode="r")

    def sampled(self, height: int, width: int) -> np.ndarray:
        """Take the values of the nearest pixels at another size: (height, width) float32."""
        return resize_map(torch.from_numpy(np.array(self.values()))[None], (height, width))[0].numpy()


@dataclass(frozen=True)
class Photograph:
    """Hold one uploaded image and its predictions.

    Args:
        name (`str`): Of the file.
        size (`tuple[int, int]`): Height and width, upright.
        preview (`Path`): PNG, its longer side `LONGEST_PREVIEW` at most.
        predictions (`tuple[Prediction, ...]`): One a checkpoint.
    """

    name: str
    size: tuple[int, int]
    preview: Path
    predictions: tuple[Prediction, ...]


@dataclass(frozen=True)
class Session:
    """Hold what one visitor sees.

    Args:
        folder (`Path`): Everything of this visitor's; deleted with the session.
        photographs (`tuple[Photograph, ...]`): In the order of the upload.
        paths (`tuple[str, ...]`): The uploaded files.
        shown (`int`): The one that is looked at.
        seen (`int`): The picture that points are marked on: 0 the photograph, 1 and 2 the predictions.
        points (`tuple[tuple[int, int], ...]`): (row, column) of up to two pixels of that one.
        extras (`tuple[Path, ...]`): Point clouds and archives made on request.
    """

    folder: Path
    photographs: tuple[Photograph, ...]
    paths: tuple[str, ...]
    shown: int = 0
    seen: int = 0
    points: tuple[tuple[int, int], ...] = ()
    extras: tuple[Path, ...] = ()

    @property
    def photograph(self) -> Photograph:
        """The one that is looked at."""
        return self.photographs[self.shown]

    def picture(self, seen: int) -> Image.Image:
        """Give a picture at its shown size: 0 the photograph, 1 and 2 the predictions' colours."""
        photograph = self.photograph
        image = Image.open(photograph.predictions[seen - 1].saved["color"] if seen else photograph.preview)
        height, width = shown_size(*photograph.size)
        return shrunk(image).resize((width, height), Image.Resampling.NEAREST)

    def downloads(self) -> list[str]:
        """List the files of the photograph that is looked at, and what was made on request."""
        files = [p.saved[kind] for p in self.photograph.predictions for kind in ("png", "npy", "color")]
        return [str(file) for file in (*files, self.folder / LISTING, *self.extras)]


def shrunk(image: Image.Image) -> Image.Image:
    """Bring a picture to the size that browsers get to see; bilinear, which gives a colour map no new colours."""
    height, width = preview_size(image.height, image.width)
    return image if image.size == (width, height) else image.resize((width, height), Image.Resampling.BILINEAR)


def preview_size(height: int, width: int) -> tuple[int, int]:
    """Compute the size that browsers get to see.

    Args:
        height (`int`): Of the image, pixels.
        width (`int`): Of the image, pixels.

    Returns:
        `tuple[int, int]`: Height and width.

    Example:
        >>> preview_size(3000, 4000), preview_size(60, 80)
        ((960, 1280), (60, 80))
    """
    factor = min(1.0, LONGEST_PREVIEW / max(height, width))
    return max(1, round(height * factor)), max(1, round(width * factor))


def shown_size(height: int, width: int) -> tuple[int, int]:
    """Compute the size of the pictures on the page: previews, small ones with their pixels repeated.

    gradio takes a picture that the browser enlarges for one that it does not, and gives wrong coordinates for a click.

    Args:
        height (`int`): Of the image, pixels.
        width (`int`): Of the image, pixels.

    Returns:
        `tuple[int, int]`: Height and width, multiples of the preview's.

    Example:
        >>> shown_size(3000, 4000), shown_size(60, 80)
        ((960, 1280), (480, 640))
    """
    height, width = preview_size(height, width)
    times = math.ceil(WIDEST_COLUMN / max(height, width))
    return height * times, width * times
