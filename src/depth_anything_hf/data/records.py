"""The record schema of labelled images: encoding, decoding, and the label a model is trained on.

A record is a mapping with `image`, `depth_map` (16-bit, 0 = no label), `depth_scale`, `depth_offset`, `space` and,
optionally, `sky_mask`, `intrinsics`, `source`, `group`; real value = `code * depth_scale + depth_offset`.
`docs/data_format.md` specifies it exactly; `folder.py` reads and writes it on disk.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from PIL import Image, ImageOps

if TYPE_CHECKING:
    import datasets

SPACES = ("depth", "disparity")
MAX_CODE = 65535
_ORIENTATION = 0x0112  # the EXIF tag
_GREY_16 = ("I;16", "I;16B", "I;16L", "I;16N", "I")  # "I" (int32) is how some PNG readers give 16-bit grey


def encode_depth_map(values: np.ndarray, mask: np.ndarray | None = None) -> tuple[np.ndarray, float, float]:
    """Quantise a map to 16-bit codes on a linear scale over its own range.

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
    mask = np.isfinite(values) if mask is None else _bool_map(mask, values.shape, "mask")
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
    """Turn codes into values: `code * scale + offset` where the code is not 0.

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
    """Wrap codes in the 16-bit grey image that a record carries.

    Args:
        codes: (height, width) uint16.

    Returns:
        An image of mode "I;16" whose `format` is "PNG": without a format `datasets` would store it as TIFF.

    Raises:
        ValueError: Not a two-dimensional uint16 array.

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
    """Read the codes of a 16-bit grey image.

    Args:
        image: Mode I;16, I;16B, or I (int32, as some PNG readers give 16-bit grey).

    Returns:
        (height, width) uint16.

    Raises:
        ValueError: 8-bit, colour or float image, or codes outside 0..65535.

    Example:
        >>> image_to_codes(Image.fromarray(np.array([[7]], dtype=np.int32))).tolist()
        [[7]]
    """
    if image.mode not in _GREY_16:
        kind = "float" if image.mode == "F" else "8-bit"
        raise ValueError(
            f"{kind} depth map: image mode {image.mode!r}; a depth map is 16-bit grey (mode 'I;16'), 0 = no label: "
            "write it with depth_map_to_image, or encode float values with encode_record(image, values)."
        )
    codes = np.asarray(image)
    if image.mode == "I" and codes.size and (codes.min() < 0 or codes.max() > MAX_CODE):
        raise ValueError(f"codes from {codes.min()} to {codes.max()}; a depth map holds 16-bit codes, 0..{MAX_CODE}.")
    return codes.astype(np.uint16)


@dataclass(frozen=True)
class DepthSample:
    """Hold one decoded record.

    Attributes:
        image: RGB, upright.
        values: (height, width) float32 in `space`, 0 where not valid; None = a photograph without label.
        mask: (height, width) bool, True where `values` is a valid label; None with `values`.
        space: "depth" (metres), "disparity" (any positive scale, larger = nearer), or None with `values`.
        sky: (height, width) bool, True = sky; None = not known.
        intrinsics: (fx, fy, cx, cy) in pixels of `image`, or None.
        source: Where the record comes from; "" = unknown.
        group: Name of the scene that the record shares with others, or None.
    """

    image: Image.Image
    values: np.ndarray | None = None
    mask: np.ndarray | None = None
    space: str | None = None
    sky: np.ndarray | None = None
    intrinsics: tuple[float, ...] | None = None
    source: str = ""
    group: str | None = None


def decode_record(record: Mapping[str, Any]) -> DepthSample:
    """Check a record and decode it.

    Valid labels: codes other than 0 whose value is > 0 and not under the sky (depth), or >= 0 (disparity).

    Args:
        record: A row of a data set; images as PIL images or as `{"bytes", "path"}` (`datasets.Image(decode=False)`).

    Returns:
        The sample; `values` and `mask` are None when the record has no `depth_map`.

    Raises:
        ValueError: The record breaks a rule of the schema; the message names the record.
        OSError: An image file is missing or broken.

    Example:
        >>> record = encode_record(np.zeros((1, 2, 3), np.uint8), values=[[2.0, np.nan]])
        >>> decode_record(record).values.tolist()
        [[2.0, 0.0]]
    """
    name = _record_name(record)
    try:
        raw = open_image(record.get("image"), "image")
        image, sky, values, mask = _upright_rgb(raw), None, None, None
        if record.get("sky_mask") is not None:
            sky = _sky_of(open_image(record["sky_mask"], "sky_mask"))
            _check_size(sky, image, raw, "sky_mask")
        space = record.get("space")
        if record.get("depth_map") is not None:
            codes = image_to_codes(open_image(record["depth_map"], "depth_map"))
            _check_size(codes, image, raw, "depth_map")
            values, mask = _decode_values(codes, record, sky)
        intrinsics = _intrinsics(record.get("intrinsics"))
    except FileNotFoundError:
        raise  # its message already names the file
    except OSError as error:
        raise OSError(f"{name}: an image cannot be read ({error}): replace the file or drop the record.") from error
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
    group = record.get("group")
    source = str(record.get("source") or "")
    return DepthSample(image, values, mask, space, sky, intrinsics, source, None if group is None else str(group))


def labels_for(sample: DepthSample, target: Literal["relative", "metric"]) -> tuple[np.ndarray, np.ndarray]:
    """Give the label in the model's own space; it is not normalised.

    "relative": disparity. A depth record gives `1 / depth`, and its sky is disparity 0 and valid; a disparity record
    is given as it is. "metric": metres; the sky is not valid.

    Args:
        sample: A decoded record with a label.
        target: What the model predicts (`config.depth_estimation_type`).

    Returns:
        labels: (height, width) float32, 0 where the mask is False.
        label_mask: (height, width) bool.

    Raises:
        ValueError: No label, unknown target, or a disparity record for a metric model.

    Example:
        >>> sample = decode_record(encode_record(np.zeros((1, 2, 3), np.uint8), [[4.0, 0.0]], sky=[[False, True]]))
        >>> labels_for(sample, "relative")[0].tolist(), labels_for(sample, "relative")[1].tolist()
        ([[0.25, 0.0]], [[True, True]])
        >>> labels_for(sample, "metric")[1].tolist()
        [[True, False]]
    """
    name = sample.source or "record"
    if target not in ("relative", "metric"):
        raise ValueError(f"target={target!r}; it must be 'relative' or 'metric' (config.depth_estimation_type).")
    if sample.values is None or sample.mask is None:
        raise ValueError(f"{name}: a photograph without depth_map has no labels: use it as unlabelled data.")
    if target == "metric" and sample.space == "disparity":
        raise ValueError(
            f"{name}: space='disparity' has an unknown scale; a metric model learns from space='depth' (metres): drop "
            "the record, convert it with its focal length and baseline, or train a relative model."
        )
    values, mask = sample.values, sample.mask
    if target == "metric" or sample.space == "disparity":
        return values.copy(), mask.copy()
    with np.errstate(over="ignore"):
        labels = np.divide(1.0, values, out=np.zeros_like(values), where=mask)
    mask = mask & np.isfinite(labels)
    labels[~mask] = 0.0
    return labels, mask if sample.sky is None else mask | sample.sky


def encode_record(
    image: Image.Image | np.ndarray,
    values: np.ndarray | None = None,
    mask: np.ndarray | None = None,
    space: str = "depth",
    sky: np.ndarray | None = None,
    intrinsics: Sequence[float] | None = None,
    source: str = "",
    **extra: Any,
) -> dict[str, Any]:
    """Make a record, the row of a data set.

    Args:
        image: Any photograph, or uint8 (height, width, 3) or (height, width).
        values: (height, width) in `space`, of the upright image; None = no label.
        mask: (height, width) bool; default: finite and > 0 (depth), >= 0 (disparity). In depth space, not the sky.
        space: "depth" (metres) or "disparity".
        sky: (height, width) bool, True = sky.
        intrinsics: fx, fy, cx, cy in pixels of the upright image.
        source: Where the record comes from.
        **extra: Further columns (`group`, ...), kept as they are.

    Returns:
        The record, which holds no reference to a file; `sky_mask` is a key only where `sky` is given.

    Raises:
        ValueError: A size, a space, intrinsics, or a value under an explicit mask that breaks a rule.

    Example:
        >>> record = encode_record(np.zeros((1, 2, 3), np.uint8), [[1.0, 3.0]], group="room")
        >>> record["depth_map"].mode, record["space"], record["group"]
        ('I;16', 'depth', 'room')
    """
    reserved = sorted({"depth_map", "depth_scale", "depth_offset", "sky_mask"} & extra.keys())
    if reserved:
        raise ValueError(f"extra columns {reserved} are written from `values` and `sky`: pass these instead.")
    picture = _upright_rgb(image if isinstance(image, Image.Image) else Image.fromarray(np.asarray(image)))
    shape = (picture.height, picture.width)
    sky = None if sky is None else _bool_map(sky, shape, "sky")
    codes, scale, offset = None, None, None
    if values is not None:
        codes, scale, offset = _encode_values(np.asarray(values, dtype=np.float64), mask, space, sky, shape)
    return {
        "image": picture,
        "depth_map": None if codes is None else depth_map_to_image(codes),
        "depth_scale": scale,
        "depth_offset": offset,
        "space": None if codes is None else space,
        **({} if sky is None else {"sky_mask": _sky_image(sky)}),
        "intrinsics": None if intrinsics is None else list(_intrinsics(intrinsics) or ()),
        "source": source,
        **extra,
    }


def record_features(with_sky: bool = False, with_group: bool = False, **extra: Any) -> datasets.Features:
    """Give the column types of the schema, for `datasets.Dataset.from_generator(..., features=...)`.

    Args:
        with_sky: Add `sky_mask`.
        with_group: Add `group`.
        **extra: Further columns, name to feature. A key of a record that has no feature is dropped by `datasets`.

    Returns:
        The features.

    Example:
        >>> record_features()["depth_scale"]
        Value('float64')
    """
    from datasets import Features, Image, List, Value

    return Features(
        {
            "image": Image(),
            "depth_map": Image(),
            "depth_scale": Value("float64"),
            "depth_offset": Value("float64"),
            "space": Value("string"),
            **({"sky_mask": Image()} if with_sky else {}),
            "intrinsics": List(Value("float64")),
            "source": Value("string"),
            **({"group": Value("string")} if with_group else {}),
            **extra,
        }
    )


def _record_name(record: Mapping[str, Any]) -> str:
    image = record.get("image")
    path = image.get("path") if isinstance(image, Mapping) else getattr(image, "filename", None)
    parts = [str(part) for part in (record.get("source"), path) if part]
    return f"record {' '.join(parts)}" if parts else "record without source"


def open_image(value: Any, column: str) -> Image.Image:
    """Load an image of a record.

    Args:
        value: A PIL image, or `{"bytes", "path"}` (`datasets.Image(decode=False)`).
        column: Its column, for the message.

    Returns:
        The loaded image, as stored.

    Raises:
        ValueError: Another type.

    Example:
        >>> open_image(Image.new("L", (4, 3)), "sky_mask").size
        (4, 3)
    """
    if isinstance(value, Mapping) and (value.get("bytes") is not None or value.get("path")):
        data = value.get("bytes")
        image = Image.open(value["path"] if data is None else io.BytesIO(data))
    elif isinstance(value, Image.Image):
        image = value
    else:
        raise ValueError(
            f"column {column!r} is {type(value).__name__}; needed: a PIL image or {{'bytes', 'path'}}: cast the "
            "column to datasets.Image() and call with_format(None)."
        )
    image.load()
    return image


def _upright_rgb(image: Image.Image) -> Image.Image:
    """Apply the EXIF rotation, drop alpha, scale 16-bit grey to 8 bits."""
    if image.mode == "F":
        raise ValueError("float image (mode 'F'): its range is unknown; convert it to 8 or 16 bits first.")
    if image.getexif().get(_ORIENTATION, 1) != 1:
        image = ImageOps.exif_transpose(image)
    if image.mode in _GREY_16:  # PIL would clip at 255
        image = Image.fromarray(np.rint(image_to_codes(image) / 257.0).astype(np.uint8))
    if image.mode == "La":
        image = image.convert("LA")
    if image.mode in ("P", "PA", "RGBa"):  # by way of RGBA: the palette's own transparency, premultiplied colours
        image = image.convert("RGBA")
    return image.convert("RGB")


def _check_size(plane: np.ndarray, image: Image.Image, raw: Image.Image, column: str) -> None:
    height, width = plane.shape
    if (width, height) != image.size:
        turned = " (after its EXIF rotation)" if raw.size != image.size else ""
        raise ValueError(
            f"{column} is {width} x {height} and the image{turned} {image.width} x {image.height} (width x height); "
            "the two must match: export both at one size, and resize a depth map by nearest neighbour only."
        )


def _decode_values(codes: np.ndarray, record: Mapping[str, Any], sky: np.ndarray | None):
    space, scale, offset = record.get("space"), record.get("depth_scale"), record.get("depth_offset")
    _check_space(space)
    if scale is None or not (math.isfinite(scale) and scale > 0):
        raise ValueError(f"depth_scale={scale!r}; it must be finite and > 0: units per code, 0.001 for millimetres.")
    if offset is None or not math.isfinite(offset):
        raise ValueError(f"depth_offset={offset!r}; it must be finite: write 0.0 where codes start at zero.")
    with np.errstate(over="ignore"):
        values, mask = decode_depth_map(codes, scale, offset)
    mask &= np.isfinite(values) & (values > 0 if space == "depth" else values >= 0)
    if sky is not None and space == "depth":
        mask &= ~sky
    values[~mask] = 0.0
    return values, mask


def _encode_values(values: np.ndarray, mask, space: str, sky, shape: tuple[int, int]):
    _check_space(space)
    if values.shape != shape:
        raise ValueError(
            f"values have shape {values.shape}, the upright image {shape} (height, width); the two must match: resize "
            "the map by nearest neighbour, or pass the image it was made for."
        )
    allowed = values > 0 if space == "depth" else values >= 0
    mask = np.isfinite(values) & allowed if mask is None else _bool_map(mask, shape, "mask")
    if sky is not None and space == "depth":
        mask = mask & ~sky
    bad = int(np.count_nonzero(mask & np.isfinite(values) & ~allowed))
    if bad:
        rule = "> 0" if space == "depth" else ">= 0"
        raise ValueError(f"{bad} values under the mask break the rule {rule} of space={space!r}: mask them out.")
    return encode_depth_map(values, mask)


def _check_space(space: Any) -> None:
    if space not in SPACES:
        raise ValueError(f"space={space!r}; it must be one of {SPACES}: 'depth' is metres, larger = farther.")


def _bool_map(value: Any, shape: tuple[int, ...], name: str) -> np.ndarray:
    array = np.asarray(value)
    if array.shape != tuple(shape) or array.dtype != np.bool_:
        raise ValueError(
            f"{name} is {array.dtype} of shape {array.shape}; needed: bool of shape {tuple(shape)} (height, width)."
        )
    return array


def _sky_of(image: Image.Image) -> np.ndarray:
    if image.mode not in ("1", "L", "P", *_GREY_16):
        raise ValueError(f"sky_mask has image mode {image.mode!r}; needed: one 8-bit channel ('L'), nonzero = sky.")
    return np.asarray(image) != 0


def _sky_image(sky: np.ndarray) -> Image.Image:
    image = Image.fromarray(sky.astype(np.uint8) * 255)
    image.format = "PNG"
    return image


def _intrinsics(value: Any) -> tuple[float, ...] | None:
    if value is None:
        return None
    numbers = tuple(float(number) for number in value)
    if len(numbers) != 4 or not all(map(math.isfinite, numbers)) or min(numbers[:2]) <= 0:
        raise ValueError(f"intrinsics={numbers}; needed: [fx, fy, cx, cy] in image pixels, fx and fy > 0, or null.")
    return numbers
