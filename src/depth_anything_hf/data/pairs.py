"""Read pairs of files, an image and its depth map with the same stem, as records; `depth_files.py` has the formats."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from depth_anything_hf.data.codes import depth_map_to_image, open_image
from depth_anything_hf.data.depth_files import DEPTH_EXTENSIONS, METERS, read_depth_file
from depth_anything_hf.data.photographs import IMAGE_EXTENSIONS, Photographs
from depth_anything_hf.data.records import decode_record, encode_record
from depth_anything_hf.maps.geometry import check_space


def load_pairs(
    images_dir: str | os.PathLike,
    depth_dir: str | os.PathLike,
    space: str,
    depth_scale: float | None = None,
    unit: str | None = None,
    key: str | None = None,
    invalid: float | Iterable[float] = (),
    sensor_map: bool = False,
) -> PairedFolder:
    """Read plain pairs: an image and a depth file with the same stem (subfolders included).

    Depth files are OpenEXR, PFM, TIFF, HDF5, npy, npz and 16-bit PNG (`depth_files.read_depth_file`). Stored values <= 0, NaN
    and infinity are not labels; a renderer's background is sky. 16-bit codes are kept; other values are quantized to 16 bits
    over their own range (`encode_depth_map`).

    Args:
        images_dir: Folder of the images.
        depth_dir: Folder of the labels.
        space: "depth" or "disparity".
        depth_scale: Meters (or disparity units) per stored unit, > 0.
        unit: Stored unit of depth, "m", "cm" or "mm"; with space="depth" give exactly one of `depth_scale` and `unit`.
        key: Channel (OpenEXR), dataset (HDF5) or array (npz); default: the only one, or one with a usual name.
        invalid: Stored values that mean "no label", such as 65535.
        sensor_map: Allow maps of another size, which cover the whole image, such as a LiDAR's; else another size is an error.

    Returns:
        A map-style set that reads one record at a time.

    Raises:
        ValueError: Unknown space or unit, an image or a label without partner, or two files with one stem.
        FileNotFoundError: No image in `images_dir`.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> folder = tempfile.mkdtemp()
        >>> os.makedirs(folder + "/rgb"), os.makedirs(folder + "/depth")
        (None, None)
        >>> Image.new("RGB", (2, 1)).save(folder + "/rgb/a.png")
        >>> np.save(folder + "/depth/a.npy", np.array([[1500, 0]]))
        >>> pairs = load_pairs(folder + "/rgb", folder + "/depth", "depth", unit="mm")
        >>> decode_record(pairs[0]).values.tolist()
        [[1.5, 0.0]]
    """
    scale = _pair_scale(space, depth_scale, unit)
    images, depths = _by_stem(images_dir, IMAGE_EXTENSIONS), _by_stem(depth_dir, DEPTH_EXTENSIONS)
    if not images:
        raise FileNotFoundError(f"no photograph in {images_dir}; looked for {', '.join(IMAGE_EXTENSIONS)}.")
    for have, other, place, kind in (
        (images, depths, depth_dir, f"label ({', '.join(DEPTH_EXTENSIONS)})"),
        (depths, images, images_dir, "image"),
    ):
        alone = sorted(have.keys() - other.keys())
        if alone:
            raise ValueError(
                f"{len(alone)} of {len(have)} files have no {kind} with the same stem in {place}, first {alone[:3]}: "
                "rename or remove them, so that every stem is in both folders."
            )
    pairs = [(stem, images[stem], depths[stem]) for stem in sorted(images)]
    return PairedFolder(pairs, space, scale, key, invalid, sensor_map)


class PairedFolder:
    """Read the records of image and label files when they are indexed (a map-style dataset for a `DataLoader`).

    Each of `pairs` is a stem, an image file and a label file; the other arguments are those of `load_pairs`.

    Example:
        >>> len(PairedFolder([], "depth", 1.0))
        0
    """

    def __init__(
        self,
        pairs: Sequence[tuple[str, Path, Path]],
        space: str,
        scale: float,
        key: str | None = None,
        invalid: float | Iterable[float] = (),
        sensor_map: bool = False,
    ):
        self.pairs, self.space, self.scale = list(pairs), space, scale
        self.key, self.invalid, self.sensor_map = key, invalid, sensor_map

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> dict[str, Any]:
        stem, image_file, depth_file = self.pairs[index]
        try:
            image = open_image({"path": str(image_file)}, "image")
            depth = read_depth_file(depth_file, self.space, self.scale, self.key, self.invalid)
            extra: dict[str, Any] = {"sensor_map": True} if self.sensor_map else {}
            sky = depth.far if depth.far is not None and depth.far.any() else None
            if depth.codes is None:
                return encode_record(image, depth.values, depth.mask, depth.space, sky, source=stem, **extra)
            record = encode_record(image, source=stem, **extra)
            label = {"depth_map": depth_map_to_image(depth.codes), "depth_scale": depth.scale, "depth_offset": 0.0}
            record |= label | {"space": depth.space}
            decode_record(record)
            return record
        except (OSError, ValueError) as error:
            kind = OSError if isinstance(error, OSError) else ValueError
            raise kind(f"record {stem}, {image_file} with {depth_file}: {error}") from error


def _by_stem(folder: str | os.PathLike, extensions: Sequence[str]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for file in (files := Photographs(folder, extensions)):
        stem = Path(files.name(file)).with_suffix("").as_posix()
        if stem in found:
            raise ValueError(f"{found[stem]} and {file} share one stem; a pair needs it once: move one away.")
        found[stem] = file
    return found


def _pair_scale(space: str, depth_scale: float | None, unit: str | None) -> float:
    check_space(space)
    if space == "depth" and (depth_scale is None) == (unit is None):
        raise ValueError(
            f"depth_scale={depth_scale!r}, unit={unit!r}; stored depth has no unit of its own: give exactly one, "
            f"unit in {tuple(METERS)} or depth_scale in meters per stored unit."
        )
    if space == "disparity" and unit is not None:
        raise ValueError(f"unit={unit!r} with space='disparity', which has no unit: leave it out.")
    if unit is not None and unit not in METERS:
        raise ValueError(f"unit={unit!r}; it must be one of {tuple(METERS)}, or give depth_scale.")
    scale = METERS[unit] if unit is not None else 1.0 if depth_scale is None else float(depth_scale)
    if not (np.isfinite(scale) and scale > 0):
        raise ValueError(f"depth_scale={depth_scale!r}; it must be finite and > 0.")
    return scale
