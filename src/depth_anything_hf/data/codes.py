"""The images of a record: 16-bit codes of a depth map, the sky mask, and photographs as upright RGB.

A code is 0 where there is no label; elsewhere `value = code * scale + offset`. `docs/data_format.md` specifies it.
"""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image

from depth_anything_hf.data.image_files import opened_image
from depth_anything_hf.data.opening import own_file, reading

MAX_CODE = 65535
_TOPS = (255, 1023, 4095, 16383, 65535)  # white of 8, 10, 12, 14 and 16 bits
_TURNS = {  # by EXIF orientation; 1 is upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_TURNED = (
    "exif",
    "xmp",
    "XML:com.adobe.xmp",
    "Raw profile type exif",
)  # where an image's `info` keeps the orientation
GRAY_16 = ("I;16", "I;16B", "I;16L", "I;16N", "I")  # some PNG readers return 16-bit gray as "I" (int32)
_FINE_STEPS = 500  # a value of so many steps changes by 0.1 % when it is rounded
_COARSE_SHARE = {"depth": 0.01, "disparity": 0.5}


def as_plane(values: Any) -> np.ndarray:
    """Return a map as an array (height, width); an axis of length 1 before or after the two is dropped.

    Raises:
        ValueError: Another shape, or 8-bit values, of which there are too few.

    Example:
        >>> as_plane([[[1.5], [2.5]]]).tolist()
        [[1.5, 2.5]]
    """
    array = np.asarray(values)
    if array.ndim == 3 and 1 in (array.shape[0], array.shape[-1]):
        array = array.squeeze(-1 if array.shape[-1] == 1 else 0)
    if array.ndim != 2:
        raise ValueError(f"values has shape {array.shape}; a map is (height, width): pass one map at a time.")
    if array.dtype.itemsize == 1:
        raise ValueError(
            f"8-bit depth map: values of type {array.dtype}; 256 steps are too few: pass the map as it was before it "
            "was made for viewing, in 16-bit integers or floats."
        )
    return array


def warn_if_coarse(codes: np.ndarray, scale: float, offset: float, name: str, space: str = "depth") -> None:
    """Warn if a map's steps are coarse beside its small values: a far background takes the codes from what is near.

    A step counts as coarse if rounding to it changes a value by more than 0.1 %. In depth, 1 % of such pixels are a
    warning; in disparity, where the smallest values are the farthest, half of them.

    Args:
        codes: (height, width) uint16, 0 = no label.
        scale: Units per code.
        offset: Value of code 0, in units.
        name: Of the record or file, for the message.
        space: "depth" or "disparity".
    """
    labeled = np.count_nonzero(codes)
    limit = _FINE_STEPS - offset / scale  # code * scale + offset < _FINE_STEPS * scale
    if labeled == 0 or limit <= 1 or codes.max() == 1:  # one code: a constant map, which is exact
        return
    low, high = scale + offset, float(codes.max()) * scale + offset
    exact = int(space == "disparity" and low < 1e-12 * scale)  # code 1 is 0, as of the sky
    share = np.count_nonzero((codes > exact) & (codes < limit)) / labeled
    if share >= _COARSE_SHARE[space]:
        warnings.warn(
            f"{name or 'a map'}: 16 bits over its range, {low:g} to {high:g}, make steps of {scale:g}, so that {share:.0%} of "
            "its values change by more than 0.1 %. Leave out what is far (a mask, 0, inf or sky where a renderer wrote "
            "its background); npy files and a DepthSample keep floats.",
            stacklevel=3,
        )


def encode_depth_map(
    values: np.ndarray, mask: np.ndarray | None = None, name: str | None = None, space: str = "depth"
) -> tuple[np.ndarray, float, float]:
    """Quantize a map to 16-bit codes on a linear scale over its own range.

    `scale = (max - min) / 65534`, `offset = min - scale`, `code = 1 + round((value - min) / scale)`, in float64.
    Decoding returns every valid value within half a code (`scale / 2`), and the smallest and the largest exactly
    (up to the rounding of the float64 offset).

    Args:
        values: (height, width), any unit, within the range of float32 where valid.
        mask: (height, width) bool, True where there is a label; default: where `values` is finite.
        name: Of the record or file: with it `warn_if_coarse` checks the codes.
        space: "depth" or "disparity", for that warning.

    Returns:
        codes: (height, width) uint16, 0 = no label, valid values on 1..65535.
        scale: Units per code, finite and > 0.
        offset: Value of code 0, in units.

    Raises:
        ValueError: Wrong shape, or a value under `mask` that is not finite or overflows float32.

    Example:
        >>> codes, scale, offset = encode_depth_map(np.array([[1.0, 2.0], [3.0, np.nan]]))
        >>> codes.tolist()
        [[1, 32768], [65535, 0]]
    """
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 2:
        raise ValueError(f"values has shape {values.shape}; a map is (height, width): pass one map at a time.")
    mask = np.isfinite(values) if mask is None else bool_map(mask, values.shape, "mask")
    valid = values[mask]
    codes = np.zeros(values.shape, dtype=np.uint16)
    if valid.size == 0:
        return codes, 1.0, 0.0
    bad = int(np.count_nonzero(~(np.abs(valid) <= np.finfo(np.float32).max)))
    if bad:
        raise ValueError(
            f"{bad} of {valid.size} values under the mask are not finite (or overflow float32); a label is a finite "
            "number: set the mask to False there, or leave it out to use np.isfinite(values)."
        )
    low, high = float(valid.min()), float(valid.max())
    scale = (high - low) / (MAX_CODE - 1)
    if scale == 0.0:  # a constant map; this scale makes `scale + (low - scale)` exact
        codes[mask] = 1
        scale = abs(low) or 1.0
    else:
        codes[mask] = np.clip(np.rint((valid - low) / scale) + 1, 1, MAX_CODE).astype(np.uint16)
    if name is not None:
        warn_if_coarse(codes, scale, low - scale, name, space)
    return codes, scale, low - scale


def decode_depth_map(codes: np.ndarray, scale: float, offset: float) -> tuple[np.ndarray, np.ndarray]:
    """Convert codes to values: `code * scale + offset` where the code is not 0.

    Args:
        codes: (height, width) uint16, 0 = no label.
        scale: Units per code.
        offset: Value of code 0, in units.

    Returns:
        values: (height, width) float32, 0 where there is no label.
        mask: (height, width) bool, True where there is a label.

    Example:
        >>> values, mask = decode_depth_map(np.array([[0, 1500]], dtype=np.uint16), 0.001, 0.0)
        >>> values.tolist(), mask.tolist()
        ([[0.0, 1.5]], [[False, True]])
    """
    mask = codes != 0
    values = codes.astype(np.float64) * float(scale) + float(offset)
    return np.where(mask, values, 0.0).astype(np.float32), mask


def depth_map_to_image(codes: np.ndarray) -> Image.Image:
    """Return codes, (height, width) uint16, as the 16-bit gray image of a record.

    Its mode is "I;16" and its `format` "PNG": without a format `datasets` would store it as TIFF.

    Example:
        >>> depth_map_to_image(np.array([[1, 2]], dtype=np.uint16)).mode
        'I;16'
    """
    codes = np.asarray(codes)
    if codes.ndim != 2 or codes.dtype != np.uint16:
        raise ValueError(f"codes are {codes.dtype} of shape {codes.shape}; needed: uint16 (height, width).")
    image = Image.fromarray(codes)
    image.format = "PNG"
    return image


def image_to_codes(image: Image.Image) -> np.ndarray:
    """Return the codes of a 16-bit gray image, (height, width) uint16.

    Raises:
        ValueError: 8-bit, color or float image, or codes outside 0..65535.

    Example:
        >>> image_to_codes(Image.fromarray(np.array([[7]], dtype=np.int32))).tolist()
        [[7]]
    """
    if image.mode not in GRAY_16:
        kind = "float" if image.mode == "F" else "8-bit"
        raise ValueError(
            f"{kind} depth map: image mode {image.mode!r}; a depth map is 16-bit gray (mode 'I;16'), 0 = no label: "
            "write it with depth_map_to_image, or encode float values with encode_record(image, values)."
        )
    codes = np.asarray(image)
    if image.mode == "I" and codes.size and (codes.min() < 0 or codes.max() > MAX_CODE):
        raise ValueError(f"codes from {codes.min()} to {codes.max()}; a depth map holds 16-bit codes, 0..{MAX_CODE}.")
    return codes.astype(np.uint16)


def image_to_sky(image: Image.Image) -> np.ndarray:
    """Return a sky mask, (height, width) bool, from an image of one channel of 1, 8 or 16 bits: nonzero = sky.

    Example:
        >>> image_to_sky(Image.new("L", (2, 1), 255)).tolist()
        [[True, True]]
    """
    if image.mode not in ("1", "L", "P", *GRAY_16):
        raise ValueError(f"sky_mask has image mode {image.mode!r}; needed: one 8-bit channel ('L'), nonzero = sky.")
    return np.asarray(image) != 0


def sky_to_image(sky: np.ndarray) -> Image.Image:
    """Return a sky mask, (height, width) bool, as the 8-bit PNG of a record: 255 = sky.

    Example:
        >>> sky_to_image(np.array([[True, False]])).getpixel((0, 0))
        255
    """
    image = Image.fromarray(sky.astype(np.uint8) * 255)
    image.format = "PNG"
    return image


def open_image(value: Any, column: str, folders: Sequence[Path] | None = None) -> Image.Image:
    """Load an image of a record as stored: a PIL image, or `{"bytes", "path"}` (`datasets.Image(decode=False)`).

    Args:
        value: The image.
        column: For messages.
        folders: Folders below which a file must lie that the record names; None: anywhere.

    Raises:
        ValueError: Another type, or a file elsewhere.
        OSError: The image is missing or broken; the message names the file.

    Example:
        >>> open_image(Image.new("L", (4, 3)), "sky_mask").size
        (4, 3)
    """
    if isinstance(value, Mapping) and (value.get("bytes") is not None or value.get("path")):
        data: Any = value.get("bytes")
        path: Any = value.get("path")
        if data is None and folders is not None:
            try:
                path = own_file(path, folders)
            except ValueError as error:
                raise ValueError(
                    f"{str(error).rstrip('.')}; if you trust the set, pass allow_outside=True."
                ) from error
        with opened_image(path if data is None else data, path or f"column {column!r}") as image:
            image.load()
            orientation_of(image)  # here an error has the name
            return image
    if isinstance(value, Image.Image):
        with reading(getattr(value, "filename", "") or f"column {column!r}"):
            value.load()
        return value
    array = np.asarray(value) if isinstance(value, (list, tuple)) or hasattr(value, "shape") else None
    kind = type(value).__name__ + ("" if array is None else f" ({array.dtype}, {array.shape})")
    advice = "an array becomes one by encode_record(image, values=array, space=...)"
    if column != "depth_map":
        advice = "an array becomes one by PIL.Image.fromarray"
    raise ValueError(
        f"column {column!r} is {kind}; needed: a PIL image or {{'bytes', 'path'}}: {advice}; of a data set, cast the "
        "column to datasets.Image() and call with_format(None)."
    )


def read_photograph(file: str | os.PathLike) -> Image.Image:
    """Read a photograph, upright, as RGB.

    Raises:
        ImageFileError: It cannot be decoded, or is too large or too narrow; the message names it.
        OSError: There is no such file, or it may not be read.

    Example:
        >>> import tempfile
        >>> Image.new("L", (4, 3)).save(file := tempfile.mkdtemp() + "/a.png")
        >>> read_photograph(file).mode
        'RGB'
    """
    with opened_image(file) as image:
        return upright_rgb(image)


def orientation_of(image: Image.Image) -> int:
    """Return the EXIF orientation, 1 to 8; 1, upright, where there is none or one of no meaning, such as a text.

    Raises:
        ValueError: The EXIF data cannot be read: the image may lie on any side.

    Example:
        >>> orientation_of(Image.new("L", (4, 3)))
        1
    """
    try:
        if data := image.info.get("exif"):
            Image.Exif().load(data)  # of damaged data `image.getexif` complains once, and Pillow itself may have asked
        found = image.getexif().get(ExifTags.Base.Orientation, 1)
        return found if found in _TURNS else 1
    except Exception as error:  # what the parser raises
        raise ValueError(
            f"it is damaged ({error}), and with its EXIF data which side is up; write it again without them"
        ) from error


def upright(image: Image.Image) -> Image.Image:
    """Turn an image by its EXIF orientation; the turned one has none."""
    if (orientation := orientation_of(image)) != 1:
        image = image.transpose(_TURNS[orientation])
        exif = image.getexif()
        for key in _TURNED:
            image.info.pop(key, None)
        with contextlib.suppress(Exception):  # values that cannot be written, and are lost
            exif.pop(ExifTags.Base.Orientation, None)
            image.info["exif"] = exif.tobytes()
    return image


def upright_rgb(image: Image.Image) -> Image.Image:
    """Convert a photograph to 8-bit RGB: EXIF rotation applied, alpha dropped, 16-bit gray scaled to 8 bits.

    16-bit gray whose largest value is that of 8, 10, 12 or 14 bits is taken for such: 4095 of a 12-bit camera is white.

    Args:
        image: Any mode but "F".

    Returns:
        An RGB image; its width and height are exchanged where the EXIF rotation is a quarter turn.

    Raises:
        ValueError: A float image.

    Example:
        >>> upright_rgb(Image.new("I;16", (4, 3), 65535)).getpixel((0, 0))
        (255, 255, 255)
    """
    if image.mode == "F":
        raise ValueError("float image (mode 'F'): its range is unknown; convert it to 8 or 16 bits first.")
    image.load()
    image = upright(image)
    if image.mode in GRAY_16:  # PIL would clip at 255
        codes = image_to_codes(image)
        top = next(top for top in _TOPS if codes.max() <= top)
        if 255 < top < MAX_CODE:
            warnings.warn(
                f"16-bit gray without a value above {top} is taken for {top.bit_length()} bits: its white is {top}.",
                stacklevel=2,
            )
        grays = np.rint(np.minimum(np.arange(MAX_CODE + 1) / (top / 255), 255)).astype(np.uint8)
        image = Image.fromarray(grays[codes])
    if image.mode == "La":
        image = image.convert("LA")
    if image.mode in ("P", "PA", "RGBa"):  # by way of RGBA: the palette's own transparency, premultiplied colors
        image = image.convert("RGBA")
    return image.convert("RGB")


def bool_map(value: Any, shape: tuple[int, ...], name: str) -> np.ndarray:
    """Return `value` as an array if it is a bool map of the given shape; else raise a `ValueError` that has `name`.

    Example:
        >>> bool_map([[True, False]], (1, 2), "mask").shape
        (1, 2)
    """
    array = np.asarray(value)
    if array.shape != tuple(shape) or array.dtype != np.bool_:
        raise ValueError(
            f"{name} is {array.dtype} of shape {array.shape}; needed: bool of shape {tuple(shape)} (height, width)."
        )
    return array
