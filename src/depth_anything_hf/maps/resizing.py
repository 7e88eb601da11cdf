"""Compute the input size of a model, and resize images, maps and predictions."""

from __future__ import annotations

import math

import torch
from torch.nn import functional as F

RESIZE_METHODS = ("lower_bound", "minimal")


def resized_size(
    height: int,
    width: int,
    target: tuple[int, int],
    multiple: int = 14,
    keep_aspect_ratio: bool = True,
    method: str = "lower_bound",
) -> tuple[int, int]:
    """Compute the size to which an image is resized before the model sees it.

    Args:
        height (`int`): Height of the image, pixels.
        width (`int`): Width of the image, pixels.
        target (`tuple[int, int]`): Height and width to aim at, pixels.
        multiple (`int`): Both sides of the result are multiples of this.
        keep_aspect_ratio (`bool`): False returns the target itself, rounded.
        method (`str`): `"lower_bound"`: the smallest size that covers the target, as the authors' code.
            `"minimal"`: the side that needs the smaller change of scale is resized to the target, as the stock DPT
            processor (and MiDaS) does; the other side may fall below it.

    Returns:
        `tuple[int, int]`: height and width.

    Raises:
        ValueError: Unknown method, or a side below 1.

    Source: `Resize` in the authors' `dpt.py`; `get_resize_output_image_size` in transformers.

    Example:
        >>> resized_size(240, 320, (518, 518)), resized_size(240, 320, (518, 518), method="minimal")
        ((518, 686), (392, 518))
    """
    if method not in RESIZE_METHODS:
        raise ValueError(f"resize_method is {method!r}; it must be one of {RESIZE_METHODS}.")
    if min(height, width, *target, multiple) < 1:
        raise ValueError(f"an image of {height} x {width} cannot be resized to {target} in multiples of {multiple}.")
    scale_height, scale_width = target[0] / height, target[1] / width
    if keep_aspect_ratio and method == "lower_bound":
        scale_height = scale_width = max(scale_height, scale_width)
    elif keep_aspect_ratio:
        nearer = scale_width if abs(1 - scale_width) < abs(1 - scale_height) else scale_height
        scale_height = scale_width = nearer

    def rounded(length: float, least: int) -> int:
        nearest = round(length / multiple) * multiple
        return math.ceil(length / multiple) * multiple if nearest < least else nearest

    covers = keep_aspect_ratio and method == "lower_bound"
    return (
        rounded(scale_height * height, target[0] if covers else multiple),
        rounded(scale_width * width, target[1] if covers else multiple),
    )


def shaped_size(resolution: int, aspect: float, multiple: int) -> tuple[int, int]:
    """Return height and width of the input of a network that takes only one shape, into which every image is squeezed.

    Args:
        resolution (`int`): Shorter side, pixels, a multiple of `multiple`.
        aspect (`float`): Width by height.
        multiple (`int`): The longer side is rounded to a multiple of this.

    Example:
        >>> shaped_size(192, 4 / 3, 8), shaped_size(518, 1.0, 14)
        ((192, 256), (518, 518))
    """
    longer = round(resolution * max(aspect, 1 / aspect) / multiple) * multiple
    return (resolution, longer) if aspect >= 1 else (longer, resolution)


def fixed_aspect(processor) -> float | None:
    """Return the width over the height into which a processor squeezes every image; None if images keep their own."""
    squeezes = getattr(processor, "keep_aspect_ratio", None) is False and "width" in (processor.size or {})
    return processor.size["width"] / processor.size["height"] if squeezes else None


def check_resolution(resolution: int, multiple: int) -> int:
    """Return the resolution, in pixels, if it is a multiple of the patch size, and raise a `ValueError` otherwise.

    Example:
        >>> check_resolution(518, 14)
        518
    """
    if resolution < multiple or resolution % multiple:
        nearest = max(round(resolution / multiple), 1) * multiple
        raise ValueError(
            f"resolution is {resolution}; it must be a multiple of the patch size {multiple}, such as {nearest}."
        )
    return resolution


def covers(size: tuple[int, ...], image_size: tuple[int, int]) -> bool:
    """Return whether a map can show the whole of an image: their aspects agree to one pixel of the map, or to 1 %.

    Args:
        size (`tuple[int, ...]`): Height and width of the map, pixels: a sensor's map has fewer than the photograph.
        image_size (`tuple[int, int]`): Height and width of the image, pixels.

    Example:
        >>> covers((192, 256), (1440, 1920)), covers((480, 640), (968, 1296)), covers((192, 256), (1920, 1440))
        (True, True, False)
    """
    if len(size) != 2:
        return False
    height = size[1] * image_size[0] / image_size[1]  # of a map with this width and the image's aspect
    return abs(size[0] - height) <= max(1.0, 0.01 * height)


def resize_map(values: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Resize maps by nearest neighbor: no new value appears, and none is blended across a hole.

    Args:
        values (`torch.Tensor`): `(batch, height, width)`, float or bool.
        size (`tuple[int, int]`): height and width.

    Returns:
        `torch.Tensor`: `(batch, *size)`, same dtype.
    """
    resized = F.interpolate(values[:, None].float(), size=size, mode="nearest-exact")[:, 0]
    return resized.to(values.dtype)


def resize_pixels(pixels: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Resize photographs on their own device by the bicubic kernel with antialiasing, to whole gray levels.

    Args:
        pixels (`torch.Tensor`): `(batch, height, width, 3)`, uint8.
        size (`tuple[int, int]`): height and width.

    Returns:
        `torch.Tensor`: `(batch, *size, 3)`, uint8. Equal to torchvision's resize, which the stock processor uses where
        it is installed; within a few gray levels of Pillow's.

    Example:
        >>> resize_pixels(torch.full((1, 4, 6, 3), 7, dtype=torch.uint8), (2, 3)).unique().tolist()
        [7]
    """
    if tuple(pixels.shape[1:3]) == tuple(size):
        return pixels
    planes = pixels.movedim(-1, 1)  # channels last in memory, for the fast kernel of the CPU
    if not pixels.is_cuda:
        resized = F.interpolate(planes, size=tuple(size), mode="bicubic", antialias=True)
    else:
        resized = F.interpolate(planes.float(), size=tuple(size), mode="bicubic", antialias=True)
        resized = resized.round().clamp(0, 255).to(torch.uint8)
    return resized.movedim(1, -1)


def resize_prediction(predicted_depth: torch.Tensor, size: tuple[int, int], mode: str = "bilinear") -> torch.Tensor:
    """Resize predictions.

    Args:
        predicted_depth (`torch.Tensor`): `(batch, height, width)`.
        size (`tuple[int, int]`): height and width.
        mode (`str`): `"bilinear"` with aligned corners, as the authors; or `"bicubic"`, as the stock processor, which
            can overshoot below zero.

    Returns:
        `torch.Tensor`: `(batch, *size)`, float32 at least.

    Raises:
        ValueError: Unknown mode.
    """
    if mode not in ("bilinear", "bicubic"):
        raise ValueError(
            f"mode is {mode!r}; it must be 'bilinear' (as the authors) or 'bicubic' (as the stock processor)."
        )
    values = predicted_depth[:, None].to(torch.promote_types(predicted_depth.dtype, torch.float32))
    return F.interpolate(values, size=tuple(size), mode=mode, align_corners=mode == "bilinear")[:, 0]
