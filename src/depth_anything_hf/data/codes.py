"""The images of a record: 16-bit codes of a depth map, the sky mask, and photographs as upright RGB.

A code is 0 where there is no label; elsewhere `value = code * scale + offset`. `docs/data_format.md` specifies it.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image, ImageOps

MAX_CODE = 65535
_ORIENTATION = 0x0112  # the EXIF tag
_GRAY_16 = ("I;16", "I;16B", "I;16L", "I;16N", "I")  # some PNG readers return 16-bit gray as "I" (int32)


def encode_depth_map(values: np.ndarray, mask: np.ndarray | None = None) -> tuple[np.ndarray, float, float]:
    """Quantize a map to 16-bit codes on a linear scale over its own range.

    `scale = (max - min) / 65534`, `offset = min - scale`, `code = 1 + round((value - min) / scale)`, in float64.
    Decoding returns every valid value within half a code (`scale / 2`), and the smallest and the largest exactly
    (up to the rounding of the float64 offset).

    Args:
        values: (height, width), any unit, within the range of float32 where valid.
        mask: (height, width) bool, True where there is a label; default: where `values` is finite.

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
    if image.mode not in _GRAY_16:
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
    if image.mode not in ("1", "L", "P", *_GRAY_16):
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


def open_image(value: Any, column: str) -> Image.Image:
    """Load an image of a record as stored: a PIL image, or `{"bytes", "path"}` (`datasets.Image(decode=False)`).

    Raises:
        ValueError: Another type; the message names `column`.

    Example:
        >>> open_image(Image.new("L", (4, 3)), "sky_mask").size
        (4, 3)
    """
    if isinstance(value, Mapping) and (value.get("bytes") is not None or value.get("path")):
        data = value.get("bytes")
        image: Image.Image = Image.open(value["path"] if data is None else io.BytesIO(data))
    elif isinstance(value, Image.Image):
        image = value
    else:
        values = column == "depth_map" and not isinstance(value, (str, bytes))
        advice = "encode_record(image, values, space='depth') makes a record of an array. " if values else ""
        raise ValueError(
            f"column {column!r} is {type(value).__name__}; needed: a PIL image or {{'bytes', 'path'}}: {advice}"
            f"{'For images in a data set cast' if values else 'cast'} the column to datasets.Image() and call with_format(None)."
        )
    image.load()
    return image


def upright_rgb(image: Image.Image) -> Image.Image:
    """Convert a photograph to 8-bit RGB: EXIF rotation applied, alpha dropped, 16-bit gray scaled to 8 bits.

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
    if image.getexif().get(_ORIENTATION, 1) != 1:
        image = ImageOps.exif_transpose(image)
    if image.mode in _GRAY_16:  # PIL would clip at 255
        image = Image.fromarray(np.rint(image_to_codes(image) / 257.0).astype(np.uint8))
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
