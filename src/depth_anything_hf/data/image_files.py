"""Open the image files of other people: which formats, how large, and one error for whatever a decoder raises.

Every room opens photographs and depth maps here, never by `Image.open` alone.
"""

from __future__ import annotations

import contextlib
import functools
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from PIL import Image, UnidentifiedImageError

# Pillow reads more, but some of those decoders start programs (EPS: Ghostscript) or open further files. JPEG includes MPO;
# AVIF needs Pillow 11.3, HEIF pillow-heif. Of several frames the first is taken.
FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "PPM", "JPEG2000", "AVIF", "HEIF")
# The shorter side is resized to the model's resolution: the network's input has that many times the patches of a square, and
# attention is quadratic in them. A 360-degree panorama is 2, the longest phone panorama about 5.
LARGEST_ASPECT = 8
RAISE_LIMIT = "raise PIL.Image.MAX_IMAGE_PIXELS"  # in messages; a command with an option for it puts that there


class ImageFileError(OSError, ValueError):
    """A file is no image that is read here; the message begins with its name."""


@contextlib.contextmanager
def opened_image(
    source: str | os.PathLike | bytes, name: str | os.PathLike | None = None, any_shape: bool = False
) -> Iterator[Image.Image]:
    """Open an image in a `with` statement, and make each failure to decode it, there or inside the block, an `ImageFileError`.

    Size and aspect are checked before a pixel is decoded.

    Args:
        source: A regular file, or the bytes of one.
        name: For messages; default: the file.
        any_shape: Allow any ratio of the sides, for an image that no network sees.

    Raises:
        ImageFileError: It is no regular file, none of `FORMATS`, broken, too large or too narrow.
        OSError: The disk fails, or there is no such file; with its name.

    Example:
        >>> with opened_image(b"no image", name="a.png") as image:
        ...     pass
        Traceback (most recent call last):
        ...
        depth_anything_hf.data.image_files.ImageFileError: a.png: cannot identify image file: it is damaged, or none of JPEG, ...
    """
    if name is None:
        name = "image" if isinstance(source, bytes) else os.fspath(source)
    try:
        with (
            io.BytesIO(source) if isinstance(source, bytes) else open_regular(source) as stream,
            Image.open(stream, formats=readable_formats()) as image,
        ):
            if not any_shape:
                check_image_size(image.height, image.width)
            yield image
    except ImageFileError:
        raise
    except UnidentifiedImageError as error:
        hint = "install pillow-heif, or convert" if Path(name).suffix.lower() in (".heic", ".heif") else "convert"
        known = ", ".join(readable_formats())
        raise ImageFileError(
            f"{name}: cannot identify image file: it is damaged, or none of {known}; {hint} it"
        ) from error
    except OSError as error:
        if error.errno is None:  # of a decoder
            raise ImageFileError(f"{name}: {error}") from error
        if error.filename:
            raise
        raise OSError(error.errno, error.strerror, os.fspath(name)) from error
    except MemoryError as error:
        raise ImageFileError(
            f"{name}: it needs more memory than there is; it is damaged, or make it smaller"
        ) from error
    except Image.DecompressionBombError as error:
        raise ImageFileError(f"{name}: {error}; make it smaller, or {RAISE_LIMIT} if you trust it") from error
    except (
        Exception
    ) as error:  # SyntaxError, struct.error, zlib.error, OverflowError, ...: decoders raise what their parsers do
        reason = str(error) if isinstance(error, ValueError) else f"it is damaged ({type(error).__name__}: {error})"
        raise ImageFileError(f"{name}: {reason}") from error


def check_image_size(height: int, width: int) -> None:
    """Raise a `ValueError` if an image is too narrow for a network, or has more pixels than Pillow's limit.

    That limit is `2 * PIL.Image.MAX_IMAGE_PIXELS`, 179 megapixels unless a program sets another: an image of a few
    bytes may claim any size.

    Example:
        >>> check_image_size(6, 6000)
        Traceback (most recent call last):
        ...
        ValueError: 6000 x 6 pixels: sides of 1 to 1000, at most 1 to 8, as the network's input grows with it: crop it
    """
    aspect = max(height, width) / max(min(height, width), 1)
    if aspect > LARGEST_ASPECT:
        raise ValueError(
            f"{width} x {height} pixels: sides of 1 to {aspect:.4g}, at most 1 to {LARGEST_ASPECT}, as the network's input "
            "grows with it: crop it"
        )
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and height * width > 2 * limit:
        raise ValueError(f"Image size ({height * width} pixels) exceeds limit of {2 * limit} pixels: make it smaller")


def open_regular(path: str | os.PathLike) -> BinaryIO:
    """Open a file for reading, unless it is a pipe, a socket or a device: reading those may never end.

    Raises:
        ImageFileError: It is no regular file.
        OSError: There is no such file, or it may not be read.

    Example:
        >>> open_regular(os.devnull)
        Traceback (most recent call last):
        ...
        depth_anything_hf.data.image_files.ImageFileError: /dev/null: it is no regular file, but a pipe, a socket or a device
    """
    if os.path.exists(path) and not (os.path.isfile(path) or os.path.isdir(path)):
        raise ImageFileError(f"{os.fspath(path)}: it is no regular file, but a pipe, a socket or a device")
    return open(path, "rb")


@functools.cache
def readable_formats() -> tuple[str, ...]:
    """Return those of `FORMATS` that this installation reads, for `Image.open(formats=...)`."""
    with contextlib.suppress(ImportError):
        from pillow_heif import register_heif_opener

        register_heif_opener()
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)
