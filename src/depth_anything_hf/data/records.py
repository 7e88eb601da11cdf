"""The record schema of labeled images: encoding, decoding, column types.

A record is a mapping with `image`, `depth_map` (16-bit, 0 = no label), `depth_scale`, `depth_offset`, `space` and,
optionally, `sky_mask`, `intrinsics`, `source`, `group`, `own_size`, `sensor_map`;
real value = `code * depth_scale + depth_offset`.
`docs/data_format.md` specifies it exactly; `codes.py` reads its images, `folder.py` reads and writes it on disk, and
`depth_anything_hf.maps.geometry.label_from_map` makes the label that a model is trained on.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from depth_anything_hf.data.codes import (
    as_plane,
    bool_map,
    decode_depth_map,
    depth_map_to_image,
    encode_depth_map,
    image_to_codes,
    image_to_sky,
    open_image,
    sky_to_image,
    upright_rgb,
)
from depth_anything_hf.maps.geometry import check_space
from depth_anything_hf.maps.resizing import covers

_PATCHES = (8, 14, 16, 32)  # pixels; the sides of a network's input are multiples

if TYPE_CHECKING:
    import datasets


@dataclass(frozen=True)
class DepthSample:
    """Store one decoded record.

    Attributes:
        image: RGB, upright.
        values: (height, width) float32 in `space`, 0 where not valid; None = a photograph without label. Of the image's
            size, or a sensor's map at its own pixels, which covers the whole image.
        mask: (height, width) bool, True where `values` is a valid label; None with `values`.
        space: "depth" (meters), "disparity" (any positive scale, larger = nearer), or None with `values`.
        sky: (height, width) bool, True = sky, of the size of `values`; None = not known.
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

    def __post_init__(self):
        if self.values is None:
            return
        size = (self.image.height, self.image.width)
        if not covers(self.values.shape, size):
            raise ValueError(
                f"the depth map has shape {self.values.shape}, the upright image {size} (height, width); a map of another "
                "size covers the whole image, so that their aspects must agree: turn both alike, or crop the image."
            )


def decode_record(record: Mapping[str, Any] | DepthSample) -> DepthSample:
    """Check a record and decode it; a sample that is decoded already comes back unchanged.

    Valid labels: codes other than 0 whose value is > 0 and not under the sky (depth), or >= 0 (disparity). Where the
    record says `own_size`, the label covers the whole image at another size, and the image is resized to that size.
    Where it says `sensor_map`, the label covers the whole image with pixels of its own, and both keep their size.

    Args:
        record: A row of a dataset; images as PIL images or as `{"bytes", "path"}` (`datasets.Image(decode=False)`). Or a
            `DepthSample`, as the readers of benchmarks return it (`depth_anything_hf.data.readers`).

    Returns:
        The sample; `values` and `mask` are None when the record has no `depth_map`.

    Raises:
        TypeError: Neither of the two, such as a pair (image, depth).
        ValueError: The record breaks a rule of the schema; the message names the record.
        OSError: An image file is missing or broken.

    Example:
        >>> record = encode_record(np.zeros((1, 2, 3), np.uint8), values=[[2.0, np.nan]])
        >>> decode_record(record).values.tolist()
        [[2.0, 0.0]]
    """
    if isinstance(record, DepthSample):
        return record
    if not isinstance(record, Mapping):
        raise TypeError(
            f"a record is a {type(record).__name__}; needed: a mapping with image, depth_map, depth_scale, depth_offset and "
            "space: make it with encode_record(image, values, space=...)."
        )
    check_one_split(record, "record")
    name = _record_name(record)
    try:
        raw = open_image(record.get("image"), "image")
        image, sky, values, mask = upright_rgb(raw), None, None, None
        if record.get("sky_mask") is not None:
            sky = image_to_sky(open_image(record["sky_mask"], "sky_mask"))
            if not record.get("sensor_map"):
                _check_size(sky, image, raw, "sky_mask")
            if record.get("own_size"):
                raise ValueError(
                    "sky_mask with own_size: a label of its own size has its sky as disparity 0: drop it."
                )
        space = record.get("space")
        if record.get("depth_map") is not None:
            label = open_image(record["depth_map"], "depth_map")
            codes = image_to_codes(label)
            if record.get("sensor_map"):
                sky = None if sky is None else _sky_at(sky, codes.shape)
            elif not record.get("own_size"):
                _check_size(codes, image, raw, "depth_map")
            elif not label.info.get("squeezed"):
                _check_aspect(codes, image)
            values, mask = _decode_values(codes, record, sky)
        intrinsics = _intrinsics(record.get("intrinsics"))
        if values is not None and record.get("own_size"):
            image, intrinsics = _resized_to_label(image, intrinsics, values.shape)
        group = record.get("group")
        source = str(record.get("source") or "")
        return DepthSample(image, values, mask, space, sky, intrinsics, source, None if group is None else str(group))
    except FileNotFoundError as error:
        raise FileNotFoundError(error.errno, f"{name}: no such file", error.filename) from error
    except OSError as error:
        raise OSError(f"{name}: {error}") from error
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


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
    """Make a record, the row of a dataset.

    Args:
        image: Any photograph, or uint8 (height, width, 3) or (height, width).
        values: (height, width) in `space`, of the upright image, not of 8 bits; with `sensor_map=True` at the sensor's own
            pixels, which cover the whole image. None = no label.
        mask: (height, width) bool; default: finite and > 0 (depth), >= 0 (disparity). In depth space, not the sky.
        space: "depth" (meters) or "disparity".
        sky: (height, width) bool, True = sky.
        intrinsics: fx, fy, cx, cy in pixels of the upright image, or the 3 x 3 matrix.
        source: Where the record comes from.
        **extra: Further columns (`group`, `sensor_map`, ...), kept as they are.

    Returns:
        The record, without a reference to a file; `sky_mask` is a key only where `sky` is given.

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
    picture = upright_rgb(image if isinstance(image, Image.Image) else Image.fromarray(np.asarray(image)))
    shape = (picture.height, picture.width)
    if values is not None and extra.get("sensor_map"):
        DepthSample(picture, np.asarray(values))  # checks the aspect
        shape = np.asarray(values).shape
    sky = None if sky is None else bool_map(sky, shape, "sky")
    codes, scale, offset = None, None, None
    if values is not None:
        codes, scale, offset = _encode_values(as_plane(values), mask, space, sky, shape, source)
    return {
        "image": picture,
        "depth_map": None if codes is None else depth_map_to_image(codes),
        "depth_scale": scale,
        "depth_offset": offset,
        "space": None if codes is None else space,
        **({} if sky is None else {"sky_mask": sky_to_image(sky)}),
        "intrinsics": None if intrinsics is None else list(_intrinsics(intrinsics) or ()),
        "source": source,
        **extra,
    }


def encode_sample(sample: DepthSample) -> dict[str, Any]:
    """Make the 16-bit record of a sample, for writing; `group` and `sensor_map` are keys only where the sample has them.

    Example:
        >>> sample = decode_record(encode_record(np.zeros((1, 2, 3), np.uint8), [[1.0, 3.0]], group="room"))
        >>> decode_record(encode_sample(sample)).values.tolist()
        [[1.0, 3.0]]
    """
    at_own_pixels = sample.values is not None and sample.values.shape != (sample.image.height, sample.image.width)
    return encode_record(
        sample.image,
        sample.values,
        sample.mask,
        sample.space or "depth",
        sample.sky,
        sample.intrinsics,
        sample.source,
        **({} if sample.group is None else {"group": sample.group}),
        **({"sensor_map": True} if at_own_pixels else {}),
    )


def record_features(with_sky: bool = False, with_group: bool = False, **extra: Any) -> datasets.Features:
    """Return the column types of the schema, for `datasets.Dataset.from_generator(..., features=...)`.

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
    if isinstance(image, Mapping):
        path = image.get("path")
    else:
        path = getattr(image, "filename", None) or getattr(image, "info", {}).get("file")
    parts = [str(part) for part in (record.get("source"), path) if part]
    return f"record {' '.join(parts)}" if parts else "record without source"


def _check_size(plane: np.ndarray, image: Image.Image, raw: Image.Image, column: str) -> None:
    height, width = plane.shape
    if (width, height) != image.size:
        turned = " (after its EXIF rotation)" if raw.size != image.size else ""
        raise ValueError(
            f"{column} is {width} x {height} and the image{turned} {image.width} x {image.height} (width x height); "
            "the two must match: export both at one size, and resize a depth map by nearest neighbor only."
        )


def _check_aspect(codes: np.ndarray, image: Image.Image) -> None:
    """Refuse a label of its own size whose shape is not the image's: it is turned, cropped, or of another image.

    Each side may be rounded by a pixel, or to a multiple of a patch as the input of a network is.
    """
    height, width = codes.shape
    patch = max((side for side in _PATCHES if height % side == width % side == 0), default=1)
    rounding = max(patch / 2, 1)

    def fits(across: int, down: int) -> bool:  # some scale brings both sides of the image to the label's
        return max((width - rounding) / across, (height - rounding) / down) <= min(
            (width + rounding) / across, (height + rounding) / down
        )

    if fits(*image.size):
        return
    turned = fits(*image.size[::-1])
    how = " It fits the image turned by a quarter, as a photograph lies before its EXIF rotation." if turned else ""
    advice = "turn it as the photograph is turned" if turned else "export it for the whole photograph"
    raise ValueError(
        f"depth_map is {width} x {height} and the upright image {image.width} x {image.height} (width x height); with "
        f"own_size the two may differ in size, not in shape.{how} Is the map of this image? Then {advice}."
    )


def _sky_at(sky: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Return a sky mask, of the image's or of the map's size, at the size of the map."""
    return np.asarray(Image.fromarray(sky).resize(shape[::-1], Image.Resampling.NEAREST))


def _resized_to_label(image: Image.Image, intrinsics: tuple[float, ...] | None, shape: tuple[int, int]):
    """Resize an image and its intrinsics to the size of its label, which covers the whole image."""
    across, down = shape[1] / image.width, shape[0] / image.height
    if intrinsics is not None:
        intrinsics = tuple(number * factor for number, factor in zip(intrinsics, (across, down) * 2, strict=True))
    return image.resize(shape[::-1], Image.Resampling.BICUBIC), intrinsics


def _decode_values(codes: np.ndarray, record: Mapping[str, Any], sky: np.ndarray | None):
    space, scale, offset = record.get("space"), record.get("depth_scale"), record.get("depth_offset")
    check_space(space)
    if scale is None or not (math.isfinite(scale) and scale > 0):
        raise ValueError(f"depth_scale={scale!r}; it must be finite and > 0: units per code, 0.001 for millimeters.")
    if offset is None or not math.isfinite(offset):
        raise ValueError(f"depth_offset={offset!r}; it must be finite: write 0.0 where codes start at zero.")
    with np.errstate(over="ignore"):
        values, mask = decode_depth_map(codes, scale, offset)
    mask &= np.isfinite(values) & (values > 0 if space == "depth" else values >= 0)
    if sky is not None and space == "depth":
        mask &= ~sky
    values[~mask] = 0.0
    return values, mask


def _encode_values(values: np.ndarray, mask, space: str, sky, shape: tuple[int, int], source: str):
    check_space(space)
    if values.shape != shape:
        raise ValueError(
            f"values have shape {values.shape}, the upright image {shape} (height, width); the two must match: resize "
            "the map by nearest neighbor, or pass the image it was made for."
        )
    allowed = values > 0 if space == "depth" else values >= 0
    mask = np.isfinite(values) & allowed if mask is None else bool_map(mask, shape, "mask")
    if sky is not None and space == "depth":
        mask = mask & ~sky
    bad = int(np.count_nonzero(mask & np.isfinite(values) & ~allowed))
    if bad:
        rule = "> 0" if space == "depth" else ">= 0"
        raise ValueError(f"{bad} values under the mask break the rule {rule} of space={space!r}: mask them out.")
    return encode_depth_map(values, mask, f"record {source or 'without source'}", space)


def _intrinsics(value: Any) -> tuple[float, ...] | None:
    """Read fx, fy, cx, cy, also from a pinhole matrix of 3 x 3."""
    if value is None:
        return None
    array = np.asarray(value, dtype=np.float64)
    if array.shape == (3, 3) and np.array_equal(array[[1, 2, 2, 2], [0, 0, 1, 2]], [0, 0, 0, 1]):
        array = array[[0, 1, 0, 1], [0, 1, 2, 2]]
    numbers = tuple(array.ravel().tolist())
    if array.shape != (4,) or not all(map(math.isfinite, numbers)) or min(numbers[:2]) <= 0:
        raise ValueError(
            f"intrinsics={numbers}; needed: [fx, fy, cx, cy] in image pixels, or the matrix [[fx, 0, cx], [0, fy, cy], "
            "[0, 0, 1]], fx and fy > 0, or null."
        )
    return numbers


def check_one_split(data: Any, name: str) -> None:
    """Raise a `ValueError` for a mapping of splits, such as a `datasets.DatasetDict`, where one set is needed."""
    if isinstance(data, Mapping) and data and all(hasattr(split, "features") for split in data.values()):
        first = next(iter(data))
        raise ValueError(
            f"{name} is a {type(data).__name__} of the splits {list(data)}; pass one of them, such as {name}[{first!r}]."
        )
