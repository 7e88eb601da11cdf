"""Read one depth file of a camera, a renderer or a tool: OpenEXR, PFM, TIFF, HDF5, npy, npz or PNG.

`read_depth_file` is the one function; `read_exr`, `read_pfm` and `packed_floats` are also used by the readers of data sets
whose files are of these forms.
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
from PIL import Image

from depth_anything_hf.data.codes import image_to_codes
from depth_anything_hf.data.image_files import opened_image
from depth_anything_hf.data.readers.base import check_choice, import_extra, read_hdf5, reading

METERS = {"m": 1.0, "cm": 0.01, "mm": 0.001}
FILE_SPACES = ("depth", "distance", "disparity", "inverse")
BLENDER_BACKGROUND = 1e10
HALF_MAX = 65504.0  # a half float ends here; what is farther is stored as this or as infinity
_GDAL_NODATA = 42113  # the TIFF tag
_KEYS = {
    "depth": ("depth", "depths", "depth_map"),
    "distance": ("distance", "depth", "depths", "depth_map"),
    "disparity": ("disparity", "disp", "inverse_depth"),
}
_ANY_KEYS = ("dataset", "data", "pred", "arr_0")
_LAYERS = ("depth.z", "depth.v", "worlddepth.r", "imagedepth.r")  # Blender, Blender, Unreal, Unreal; ends of a name
_CHANNELS = {"Z": "XY", "depth": "", "Depth": "", "D": "", "V": "U", "Y": ("X", "RY", "BY")}  # not beside the second


@dataclass(frozen=True)
class DepthFile:
    """Store one depth map and what is known about it.

    Attributes:
        values: (height, width) float64 in `space`, 0 where not valid.
        mask: (height, width) bool, True where `values` is a label.
        space: "depth" (meters along the optical axis) or "disparity" (any positive scale, larger = nearer).
        far: (height, width) bool, True = nothing there, infinitely far away (a renderer's background); None = the file
            does not tell.
        codes: (height, width) uint16 as stored, 0 = no label, where `values = codes * scale`; else None.
        scale: Meters (or disparity units) per stored unit.
        name: The channel or array that was read; "" where the file has one only.
    """

    values: np.ndarray
    mask: np.ndarray
    space: str
    far: np.ndarray | None
    codes: np.ndarray | None
    scale: float
    name: str = ""


def read_depth_file(
    path: str | os.PathLike,
    space: str,
    unit: str | float | None = None,
    key: str | None = None,
    invalid: float | Iterable[float] = (),
    intrinsics: Sequence[float] | None = None,
) -> DepthFile:
    """Read a depth map. Values <= 0, NaN and infinity are no labels, whatever the file.

    - .exr: half or float, in any part; the channel is found by its name. 1e10 and more (Blender), infinity, and from 65504
      on in half floats and in Unreal's channels is background.
    - .pfm: values as stored, whatever the scale in the header (another than 1 is a warning).
    - .tif, .tiff: float or 16-bit gray; GDAL's "no data" value is no label.
    - .npy, .npz, .h5, .hdf5: (height, width), (height, width, 1) or (1, height, width).
    - .png: 16-bit gray, MoGe's logarithmic codes (text chunks `near` and `far`), or float32 in the four bytes of a pixel,
      as TartanAir V2 packs it.

    Args:
        path: The file.
        space: What it holds: "depth" along the optical axis, "distance" along the ray to the camera's center, or
            "disparity" ("inverse" is the same: larger = nearer, at any scale).
        unit: Of stored depth and distance: "m", "cm", "mm", or meters per stored unit; needed, as files do not tell. Of
            disparity: a number or None.
        key: Channel (OpenEXR), dataset (HDF5) or array (npz). Default: the only one, or the one with a usual name.
        invalid: Stored values that mean "no label", such as 65535 or -9999.
        intrinsics: (fx, fy, cx, cy) in pixels of the map, needed for "distance"; pixel centers lie at half-integers.

    Returns:
        The map, in space "depth" or "disparity".

    Raises:
        ValueError: An option is missing or unknown, or the file is no depth map.
        FileNotFoundError: No such file.
        OSError: The file is broken.
        ImportError: h5py or OpenEXR is not installed.

    Example:
        >>> import tempfile
        >>> path = tempfile.mkdtemp() + "/a.npy"
        >>> np.save(path, np.array([[1500, 0, 65535]], dtype=np.uint16))
        >>> read = read_depth_file(path, "depth", unit="mm", invalid=65535)
        >>> read.values.tolist(), read.mask.tolist()
        ([[1.5, 0.0, 0.0]], [[True, False, False]])
    """
    path = Path(path)
    scale = meters_per_unit(space, unit)
    if space == "distance" and intrinsics is None:
        raise ValueError(
            "space='distance' needs intrinsics=(fx, fy, cx, cy) in pixels of the map, to find depth along the optical axis."
        )
    if path.suffix.lower() not in _READ:
        raise ValueError(
            f"{path} ends in {path.suffix!r}; depth is read from {', '.join(_READ)}: convert it to one of these."
        )
    stored, name, far, no_data = _READ[path.suffix.lower()](path, key, space)
    if stored.ndim == 3 and 1 in stored.shape[::2]:  # (height, width, 1) or (1, height, width)
        stored = stored[..., 0] if stored.shape[-1] == 1 else stored[0]
    if stored.ndim != 2 or stored.dtype.kind not in "fiu":
        raise ValueError(
            f"{path}: {name or 'the map'} is {stored.dtype} of shape {stored.shape}; needed: numbers of shape "
            "(height, width): one map a file, and key= the name of the map where a file holds more."
        )
    marks = np.concatenate([np.atleast_1d(np.asarray(invalid, np.float64)), no_data])
    with np.errstate(over="ignore"):
        marks = marks.astype(stored.dtype).astype(np.float64) if stored.dtype.kind == "f" else marks
    values = stored.astype(np.float64)
    mask = np.isfinite(values) & (values > 0) & ~np.isin(values, marks)
    if far is not None:
        mask &= ~far
    codes = np.where(mask, stored, 0).astype(np.uint16) if stored.dtype == np.uint16 and space != "distance" else None
    if space == "distance":
        values = planar_from_distance(values, cast(Sequence[float], intrinsics))
    values = np.where(mask, values * scale, 0.0)
    inverse = space in ("disparity", "inverse")
    return DepthFile(values, mask, "disparity" if inverse else "depth", None if inverse else far, codes, scale, name)


def meters_per_unit(space: str, unit: str | float | None) -> float:
    """Return the factor of stored values, and raise a `ValueError` if `unit` does not fit `space`.

    Example:
        >>> meters_per_unit("depth", "mm"), meters_per_unit("disparity", None)
        (0.001, 1.0)
    """
    check_choice("space", space, FILE_SPACES)
    if space in ("disparity", "inverse"):
        if unit in METERS:
            raise ValueError(f"unit={unit!r} with space={space!r}, which has no unit: leave it out, or pass a number.")
        unit = 1.0 if unit is None else unit
    rule = f"it must be one of {tuple(METERS)}, or a number > 0: meters per stored unit"
    try:
        factor = float(METERS.get(unit, unit))  # type: ignore[arg-type]
    except (TypeError, ValueError):
        raise ValueError(f"unit={unit!r}; a depth file does not tell its unit: {rule}.") from None
    if not (np.isfinite(factor) and factor > 0):
        raise ValueError(f"unit={unit!r}; {rule}.")
    return factor


def planar_from_distance(distance: np.ndarray, intrinsics: Sequence[float]) -> np.ndarray:
    """Convert distances to the camera's center, (height, width) in any unit, to depth along the optical axis, float64.

    `depth = distance / sqrt(1 + ((u - cx) / fx)^2 + ((v - cy) / fy)^2)`, (u, v) the center of a pixel: (0.5, 0.5) of the
    first. `intrinsics` are (fx, fy, cx, cy).

    Example:
        >>> planar_from_distance(np.array([[3.0, 3.0, 3.0]]), (1.0, 1.0, 1.5, 0.5)).round(4).tolist()
        [[2.1213, 3.0, 2.1213]]
    """
    height, width = distance.shape
    fx, fy, cx, cy = intrinsics
    x = (np.arange(width) + 0.5 - cx) / fx
    y = (np.arange(height)[:, None] + 0.5 - cy) / fy
    return np.asarray(distance, dtype=np.float64) / np.sqrt(1 + x**2 + y**2)


def read_exr(path: Path, key: str | None = None) -> tuple[np.ndarray, str]:
    """Read the depth channel of an OpenEXR file over its display window: (height, width) half, float or uint32, and its name.

    The only channel; else the one of Blender's or Unreal's depth layer; else Z, depth, Depth, D, V or Y; else R where R, G
    and B are equal. Pixels of the display window outside the data window are NaN.

    Raises:
        ValueError: No channel is sure to be depth, or none is called `key`; the message has the names.
        OSError: The file is broken.
    """
    channels: dict[str, np.ndarray] = {}
    windows: dict[str, list[tuple[int, ...]]] = {}  # corners of the display window and of the data window
    openexr = import_extra("OpenEXR")
    with reading(path):
        path.stat()  # OpenEXR has no error of its own for a missing file
        with openexr.File(str(path), separate_channels=True) as file:
            for part in file.parts:
                layer = f"{part.name()}." if len(file.parts) > 1 and part.name() else ""
                for name, channel in part.channels.items():
                    label = name if name.startswith(layer) else layer + name
                    channels[label] = channel.pixels
                    # read now: the header is emptied when the file closes
                    corners = (*part.header["displayWindow"], *part.header["dataWindow"])
                    windows[label] = [tuple(map(int, corner)) for corner in corners]
    name = _depth_channel(path, channels, key)
    return _in_display_window(channels[name], *windows[name]), name


def _depth_channel(path: Path, channels: dict[str, np.ndarray], key: str | None) -> str:
    """Return the name of the depth channel; see `read_exr`."""
    if key is not None:
        return _pick(path, key, channels, (), "channels")
    if len(channels) == 1:
        return next(iter(channels))
    found = [name for name in channels if name.lower().endswith(_LAYERS)]
    for usual, others in _CHANNELS.items():
        if not found:
            layers = [name[: -len(usual)] for name in channels if name.rpartition(".")[2] == usual]
            found = [layer + usual for layer in layers if not any(layer + other in channels for other in others)]
    colors = [
        name[:-1] for name in channels if name[-1] == "R" and {f"{name[:-1]}G", f"{name[:-1]}B"} <= channels.keys()
    ]
    if not found and len(colors) == 1:
        red, green, blue = (channels[colors[0] + color] for color in "RGB")
        if np.array_equal(red, green, equal_nan=True) and np.array_equal(red, blue, equal_nan=True):
            found = [f"{colors[0]}R"]
    if len(found) != 1:
        differ = " R, G and B differ, so this may be a picture." if colors and not found else ""
        raise ValueError(
            f"{path}: an OpenEXR file with channels {sorted(channels)}, {'none' if not found else 'more than one'} of which is sure "
            f"to be depth.{differ} Pass key= the name of the channel."
        )
    return found[0]


def _in_display_window(pixels: np.ndarray, start, end, data_start, data_end) -> np.ndarray:
    if (start, end) == (data_start, data_end):
        return pixels
    (left, top), (right, bottom), (x, y), (x_end, y_end) = start, end, data_start, data_end
    whole = np.full((bottom - top + 1, right - left + 1), np.nan, np.promote_types(pixels.dtype, np.float16))
    rows, columns = slice(max(y, top), min(y_end, bottom) + 1), slice(max(x, left), min(x_end, right) + 1)
    if rows.start < rows.stop and columns.start < columns.stop:
        inside = pixels[rows.start - y : rows.stop - y, columns.start - x : columns.stop - x]
        whole[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left] = inside
    return whole


def read_pfm(path: Path) -> tuple[np.ndarray, float]:
    """Read a PFM file: (height, width) float32 as stored, the first row on top, and the scale of the header without sign.

    Pillow reads neither color files nor a scale of more than ten characters, and OpenCV divides by the scale.

    Raises:
        ValueError: Three channels that differ.
        OSError: The file is broken.
    """
    with reading(path):
        content = path.read_bytes()
        header = re.match(rb"(P[fF])\s+(\d+)\s+(\d+)\s+([-+.\deE]+)\s", content)
        if header is None:
            raise ValueError("it does not start as a PFM file")
        width, height, scale = int(header[2]), int(header[3]), float(header[4])
        planes = 3 if header[1] == b"PF" else 1
        count, start = width * height * planes, header.end()
        if content[start - 1 : start + 1] == b"\r\n" and len(content) - start == 4 * count + 1:
            start += 1  # a line end of two bytes
        values = np.frombuffer(content, "<f4" if scale < 0 else ">f4", count, start).reshape(height, width, planes)
    first = values[::-1, :, 0].astype(np.float32)  # the last row is stored first
    if not all(np.array_equal(first, values[::-1, :, plane], equal_nan=True) for plane in range(1, planes)):
        raise ValueError(
            f"{path}: a PFM file of three channels that differ, a picture and no depth map: convert it to one channel."
        )
    return first, abs(scale)


def packed_floats(image: Image.Image) -> np.ndarray:
    """Return (height, width) float32 from an RGBA image whose bytes B, G, R, A are those of a little-endian float.

    Example:
        >>> blue, green, red, alpha = np.array([2.5], "<f4").tobytes()
        >>> packed_floats(Image.new("RGBA", (1, 1), (red, green, blue, alpha))).tolist()
        [[2.5]]
    """
    return np.ascontiguousarray(np.asarray(image)[..., [2, 1, 0, 3]]).view("<f4")[..., 0].astype(np.float32)


def _pick(path: Path, key: str | None, names: Iterable[str], usual: Sequence[str], kind: str) -> str:
    """Return `key`, the only name, or the first usual one."""
    names = list(names)
    wanted = usual if key is None else (key,)
    found = next((name for name in wanted if name in names), names[0] if key is None and len(names) == 1 else None)
    if found is None:
        looked = f"{path}: {kind} {names}; none is called {' or '.join(map(repr, wanted))}"
        raise ValueError(f"{looked}: pass key= the name of the depth map.")
    return found


def _usual(space: str) -> tuple[str, ...]:
    return _KEYS["disparity" if space == "inverse" else space] + _ANY_KEYS


# Each returns the stored array, the name of what was read, where there is background, and stored values that are no labels.
Read = tuple[np.ndarray, str, np.ndarray | None, Sequence[float]]


def _from_exr(path: Path, key: str | None, space: str) -> Read:
    stored, name = read_exr(path, key)
    unreal = name.lower().endswith(_LAYERS[2:])
    start = HALF_MAX if unreal or stored.dtype == np.float16 else BLENDER_BACKGROUND
    return stored, name, stored >= start, ()


def _from_pfm(path: Path, key: str | None, space: str) -> Read:
    stored, scale = read_pfm(path)
    if scale != 1:
        warnings.warn(
            f"PFM file with scale {scale:g} in its header: values are taken as stored, as research code does; OpenCV divides "
            "by the scale. Pass unit= meters per stored value.",
            stacklevel=4,
        )
    return stored, "", None, ()


def _from_tiff(path: Path, key: str | None, space: str) -> Read:
    with reading(path), opened_image(path) as image:
        stored = np.asarray(image)
        no_data = getattr(image, "tag_v2", {}).get(_GDAL_NODATA)
        marks = () if no_data is None else (float(str(no_data).strip("\0 ")),)
    if image.mode != "F" and not image.mode.startswith("I"):
        raise ValueError(f"{path}: a TIFF file of mode {image.mode!r}; needed: float or 16-bit gray, one channel.")
    return stored, "", None, marks


def _from_png(path: Path, key: str | None, space: str) -> Read:
    with reading(path), opened_image(path) as image:
        image.load()
    if image.mode == "RGBA":
        values = packed_floats(image)
        if not ((values == 0) | (values > 1e-6)).all():  # in a picture the alpha of 255 is the sign and the exponent
            raise ValueError(f"{path}: an RGBA picture, not depth packed as float32: write 16-bit gray PNG, or npy.")
        return values, "", None, ()
    try:
        codes = image_to_codes(image)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    if not {"near", "far"} <= image.info.keys():
        return codes, "", None, ()
    with reading(path):
        near, far, unit = (float(image.info.get(name, 1)) for name in ("near", "far", "unit"))
    values = unit * np.exp(np.log(near) + (codes - 1.0) / 65533 * np.log(far / near))
    return np.where(codes == 0, np.nan, values), "", codes == 65535, ()


def _from_npy(path: Path, key: str | None, space: str) -> Read:
    with reading(path):
        return np.load(path, allow_pickle=False), "", None, ()


def _from_npz(path: Path, key: str | None, space: str) -> Read:
    with reading(path):
        arrays = np.load(path, allow_pickle=False)
    with arrays:
        name = _pick(path, key, arrays.files, _usual(space), "arrays")
        with reading(path):
            return arrays[name], name, None, ()


def _from_hdf5(path: Path, key: str | None, space: str) -> Read:
    def maps(file) -> list[str]:
        names: list[str] = []
        file.visititems(lambda name, item: names.append(name) if hasattr(item, "dtype") else None)
        return names

    name = _pick(path, key, read_hdf5(path, maps), _usual(space), "HDF5 datasets")
    return read_hdf5(path, lambda file: file[name][()]), name, None, ()


_READ = {
    ".exr": _from_exr,
    ".pfm": _from_pfm,
    **dict.fromkeys((".tif", ".tiff"), _from_tiff),
    **dict.fromkeys((".h5", ".hdf5"), _from_hdf5),
    ".npy": _from_npy,
    ".npz": _from_npz,
    ".png": _from_png,
}
DEPTH_EXTENSIONS = tuple(_READ)
