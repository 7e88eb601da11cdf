"""Shared by all readers of benchmarks: the sequence of samples, and reading one file with errors that name it.

A reader lists files when it is opened and decodes nothing; a sample is decoded when it is indexed. Every reader returns
planar depth in meters as float32, never quantized, and intrinsics in this library's convention: the center of the first
pixel is at (0.5, 0.5), as `depth_anything_hf.maps.geometry.unproject` expects.
"""

from __future__ import annotations

import copy
import dataclasses
import importlib
import json
import warnings
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Generic, TypeVar, cast

import numpy as np
from PIL import Image

from depth_anything_hf.data.codes import bool_map, image_to_codes
from depth_anything_hf.data.image_files import opened_image
from depth_anything_hf.data.opening import own_file, reading
from depth_anything_hf.data.records import DepthSample
from depth_anything_hf.maps.resizing import covers

Item = TypeVar("Item")


class Samples(Sequence, Generic[Item]):
    """Store the samples of a split of a benchmark, decoded when they are indexed (a map-style set for a `DataLoader`).

    It is picklable and keeps no file open, so that worker processes may read from it. A slice is again a `Samples`.

    Example:
        >>> squares = Samples("squares", "all", Path("."), "none", [1, 2, 3], lambda root, entry: entry**2)
        >>> len(squares), squares[-1], list(squares[:2])
        (3, 9, [1, 4])
    """

    def __init__(
        self,
        name: str,  # the benchmark, "nyuv2"
        split: str,  # or the part of the benchmark
        root: Path,  # folder of the official layout
        layout: str,  # the layout and the download page, for messages
        entries: Sequence[Any],  # argument of `read` for each sample: paths, numbers
        read: Callable[[Path, Any], Item],  # function of a module
        left_out: int = 0,  # samples of the split without a label or a file, which are not in `entries`
        official: int | None = None,  # samples that the split is known to have; another number is a warning
    ):
        self.name, self.split, self.root, self.layout = name, split, root, layout
        self.left_out, self.official = left_out, official
        self._entries, self._read = tuple(entries), read
        if not self._entries:
            raise FileNotFoundError(
                f"{root}: no sample of {name}, {split}"
                + (f" ({left_out} left out)" if left_out else "")
                + f". {layout}"
            )
        if official is not None and len(self._entries) != official:
            warnings.warn(
                f"{name}, {split}: {len(self._entries)} samples at {root}, {official} in the official split; numbers "
                "measured on a part of it do not compare with published ones.",
                stacklevel=3,
            )

    def __len__(self) -> int:
        return len(self._entries)

    def __getitem__(self, index):
        if isinstance(index, slice):
            part = copy.copy(self)
            part._entries = self._entries[index]
            return part
        try:
            return self._read(self.root, self._entries[index])
        except FileNotFoundError as error:
            raise FileNotFoundError(f"{self.name}: {error.filename or error} is missing. {self.layout}") from error

    def __repr__(self) -> str:
        return f"Samples({self.name}, {self.split}, {len(self)} samples, {self.left_out} left out, root={self.root})"


def check_choice(what: str, value: Any, choices: Collection[Any]) -> None:
    """Raise a `ValueError` that lists the choices, unless `value` is one of them."""
    if value not in choices:
        raise ValueError(f"{what} is {value!r}; it must be one of {tuple(choices)}.")


def require(path: Path, layout: str) -> Path:
    """Return `path` if it exists, and raise a `FileNotFoundError` with the expected layout otherwise."""
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing. {layout}")
    return path


def import_extra(module: str) -> ModuleType:
    """Import a module of the extra `benchmarks` ("h5py", "scipy.io", "OpenEXR"), or say how to install it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f"such files are read with {module.split('.')[0]}, which is not installed: "
            "pip install 'depth_anything_hf[benchmarks]'."
        ) from error


def find(root: Path, *patterns: str) -> list[str]:
    """Return the files that match a pattern, relative to the root, by name."""
    return sorted(path.relative_to(root).as_posix() for pattern in patterns for path in root.glob(pattern))


def read_json(path: Path) -> Any:
    """Read a JSON file."""
    with reading(path):
        return json.loads(path.read_text(encoding="utf-8"))


def read_rgb(path: Path) -> Image.Image:
    """Read a photograph as RGB in the pixel grid it is stored in: labels cover that grid, whatever EXIF says."""
    with reading(path), opened_image(path) as image:
        return Image.fromarray(np.asarray(image.convert("RGB")))  # a plain image, without EXIF


def read_codes(path: Path) -> np.ndarray:
    """Read a 16-bit gray PNG as (height, width) uint16."""
    with reading(path), opened_image(path) as image:
        return image_to_codes(image)


def read_hdf5(path: Path, pick: Callable[[Any], Item]) -> Item:
    """Open an HDF5 file, return `pick(file)`, and close it."""
    h5py = import_extra("h5py")
    with reading(path), h5py.File(path, "r") as file:
        return pick(file)


def half_integer_intrinsics(
    fx: float, fy: float, cx: float, cy: float, first_center: float
) -> tuple[float, float, float, float]:
    """Move a principal point to this library's convention, in which the center of the first pixel is at 0.5.

    All numbers are in pixels. `first_center` is the coordinate of the center of the first pixel in the benchmark: 1
    (Matlab), 0 (OpenCV) or 0.5.

    Example:
        >>> half_integer_intrinsics(500, 500, 320.5, 240.5, first_center=1)
        (500.0, 500.0, 320.0, 240.0)
    """
    shift = 0.5 - first_center
    return float(fx), float(fy), float(cx) + shift, float(cy) + shift


def nearest_depth(columns: np.ndarray, rows: np.ndarray, depth: np.ndarray, height: int, width: int) -> np.ndarray:
    """Draw points into a depth map, (height, width) float32 meters; the nearest point on a pixel wins, 0 where there is none.

    Args:
        columns: (points,) pixel indices, whole numbers of any dtype.
        rows: (points,) pixel indices.
        depth: (points,) meters; points with depth <= 0 or outside the image are dropped.
        height, width: Of the map, pixels.

    Example:
        >>> nearest_depth(np.array([1, 1, 9]), np.array([0, 0, 0]), np.array([5.0, 4.0, 3.0]), 1, 2).tolist()
        [[0.0, 4.0]]
    """
    inside = (columns >= 0) & (columns < width) & (rows >= 0) & (rows < height) & (depth > 0)
    drawn = np.full((height, width), np.inf)
    np.minimum.at(drawn, (rows[inside].astype(np.int64), columns[inside].astype(np.int64)), depth[inside])
    return np.where(np.isfinite(drawn), drawn, 0.0).astype(np.float32)


def make_sample(
    image: Image.Image,
    values: np.ndarray,
    source: str,
    group: str | None,
    mask: np.ndarray | None = None,
    sky: np.ndarray | None = None,
    intrinsics: tuple[float, ...] | None = None,
    space: str = "depth",
    own_pixels: bool = False,
) -> DepthSample:
    """Make a sample: labels are finite, above 0 (in disparity also 0), inside `mask` and not under the sky.

    Args:
        image: RGB.
        values: (height, width) meters along the optical axis, or disparity at any scale.
        source: The file, relative to the root.
        group: The scene.
        mask, sky: (height, width) bool; where a label of the benchmark is valid, and where there is sky.
        intrinsics: (fx, fy, cx, cy) in pixels of the image.
        space: "depth" or "disparity".
        own_pixels: Allow a sensor's map of another size, which covers the whole image.

    Raises:
        ValueError: The map is not of the image's size, or with `own_pixels` not of its aspect.

    Example:
        >>> sample = make_sample(Image.new("RGB", (2, 1)), np.array([[2.0, np.inf]]), "a.png", None)
        >>> sample.values.tolist(), sample.mask.tolist()
        ([[2.0, 0.0]], [[True, False]])
    """
    shape = (image.height, image.width)
    if own_pixels and covers(values.shape, shape):
        shape = values.shape
    if values.shape != shape:
        raise ValueError(
            f"{source}: the depth map has shape {values.shape}, the image {shape} (height, width); the two must match: "
            "take both from the same download, not resized."
        )
    values = np.asarray(values, dtype=np.float32)
    valid = np.isfinite(values) & (values > 0 if space == "depth" else values >= 0)
    if mask is not None:
        valid &= bool_map(mask, shape, "mask")
    if sky is not None:
        valid &= ~sky
    return DepthSample(image, np.where(valid, values, np.float32(0)), valid, space, sky, intrinsics, source, group)


def find_below(root: Path, pattern: str, levels: int = 4) -> list[str]:
    """Return the files that match `pattern` in the root or below up to `levels` folders, relative to the root, by name."""
    return find(root, *("*/" * level + pattern for level in range(levels + 1)))


def read_gray(path: Path) -> np.ndarray:
    """Read an 8-bit gray image as (height, width) uint8; black and white become 0 and 255."""
    with reading(path), opened_image(path) as image:
        if image.mode not in ("1", "L"):
            raise ValueError(f"image mode {image.mode!r} instead of 8-bit gray, 'L'")
        return np.asarray(image.convert("L"))


def matrix_intrinsics(matrix: np.ndarray, first_center: float) -> tuple[float, float, float, float]:
    """Take fx, fy, cx, cy out of a camera matrix, (3, 3) or (4, 4); one with cx in its last row is transposed (Matlab's form).

    Example:
        >>> matrix_intrinsics(np.array([[500, 0, 0], [0, 510, 0], [320, 240, 1]]), first_center=0.5)
        (500.0, 510.0, 320.0, 240.0)
    """
    fx, fy, cx, cy = (matrix.T if matrix[2, 0] else matrix)[[0, 1, 0, 1], [0, 1, 2, 2]]
    return half_integer_intrinsics(fx, fy, cx, cy, first_center)


def read_intrinsics(path: Path, first_center: float) -> tuple[float, float, float, float]:
    """Read intrinsics from a text file: a camera matrix in one line or several, or fx, fy, cx, cy; blanks or commas between."""
    with reading(path):
        numbers = np.array(path.read_text(encoding="utf-8").replace(",", " ").split(), dtype=np.float64)
        if numbers.size == 4:
            fx, fy, cx, cy = numbers
            return half_integer_intrinsics(fx, fy, cx, cy, first_center)
        return matrix_intrinsics(numbers.reshape((3, 3) if numbers.size == 9 else (4, 4)), first_center)


def of_unknown_scale(sample: DepthSample) -> DepthSample:
    """Turn depth whose unit is unknown, such as a reconstruction's, into disparity, which relative models alone learn from.

    Example:
        >>> sample = make_sample(Image.new("RGB", (2, 1)), np.array([[4.0, 0.0]]), "a.png", None)
        >>> of_unknown_scale(sample).values.tolist(), of_unknown_scale(sample).space
        ([[0.25, 0.0]], 'disparity')
    """
    depth = np.where(cast(np.ndarray, sample.mask), cast(np.ndarray, sample.values), np.float32(np.inf))
    return dataclasses.replace(sample, values=1 / depth, space="disparity")


def listed(name: str, where: Path) -> str:
    """Return a name that a list or an annotation file has, and raise a `ValueError` if it leads out of the folder.

    Example:
        >>> listed("images/a.png", Path("list.txt"))
        'images/a.png'
    """
    try:
        own_file(name, [Path()], follow_links=True)  # people link the folders of a benchmark to where there is room
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    return name
