"""Uploaded files: read the photographs among them, and say what is wrong with the others."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from depth_anything_hf.data.codes import upright_rgb

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF")  # none whose reader starts another program, as EPS does
MAX_ASPECT = 4  # the shorter side goes to the model's resolution, so its input grows with the aspect
_PIL_MEGAPIXELS = 2 * Image.MAX_IMAGE_PIXELS // 1e6  # above, PIL refuses by itself


@dataclass(frozen=True)
class Limits:
    """Hold what the page accepts.

    Args:
        upload_megabytes (`int`): Largest file.
        megapixels (`float`): Largest image; PIL's own limit is 178.
        images (`int`): Most images at once; together they may have 20 times `megapixels`, which bounds the disk.

    Raises:
        ValueError: A limit is not above 0, or above PIL's.
    """

    upload_megabytes: int = 50
    megapixels: float = 50.0
    images: int = 100

    def __post_init__(self):
        for name, value in vars(self).items():
            if not value > 0:
                raise ValueError(f"{name} is {value}; it must be above 0, such as {getattr(Limits, name):g}.")
        if self.megapixels > _PIL_MEGAPIXELS:
            raise ValueError(f"megapixels is {self.megapixels:g}; PIL reads {_PIL_MEGAPIXELS:.0f} at most: give less.")

    @property
    def total_megapixels(self) -> float:
        """All images of one go."""
        return 20 * self.megapixels


def open_photograph(path: str | Path, max_megapixels: float) -> Image.Image:
    """Read an uploaded photograph; its size is checked before a pixel is decoded.

    Args:
        path (`str` or `Path`): The file.
        max_megapixels (`float`): Width times height in millions, at most.

    Returns:
        `Image.Image`: Upright, 8-bit RGB.

    Raises:
        ValueError: No image that is read here, a broken one, or one of a size that the page does not take.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "notes.png"
        >>> _ = file.write_text("not an image")
        >>> open_photograph(file, 1)
        Traceback (most recent call last):
        ...
        ValueError: notes.png is no image that this page reads; give JPEG, PNG, WEBP, BMP or TIFF.
    """
    name = Path(path).name
    try:
        image = Image.open(path, formats=FORMATS)
    except FileNotFoundError as error:  # uploads are kept for a day
        raise ValueError(f"{name} is not here any more; drop it again.") from error
    except Image.UnidentifiedImageError as error:
        formats = f"{', '.join(FORMATS[:-1])} or {FORMATS[-1]}"
        raise ValueError(f"{name} is no image that this page reads; give {formats}.") from error
    except Image.DecompressionBombError as error:
        raise ValueError(_too_large(name, f"over {_PIL_MEGAPIXELS:.0f} megapixels", max_megapixels)) from error
    except Exception as error:  # decoders raise whatever their parsers do
        raise ValueError(f"{name} cannot be read: {error}") from error
    with image:
        _check_size(name, *image.size, max_megapixels)
        try:
            return upright_rgb(image)
        except Exception as error:
            raise ValueError(f"{name} cannot be read: {error}") from error


def _check_size(name: str, width: int, height: int, max_megapixels: float) -> None:
    if (megapixels := width * height / 1e6) > max_megapixels:
        size = f"{width} x {height} pixels, {megapixels:.1f} megapixels"
        raise ValueError(_too_large(name, size, max_megapixels))
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise ValueError(
            f"{name} has {width} x {height} pixels; one side may be {MAX_ASPECT} times the other at most: crop it."
        )


def _too_large(name: str, size: str, max_megapixels: float) -> str:
    return (
        f"{name} has {size}; this page takes up to {max_megapixels:g}: make it smaller, or start the page with a "
        "larger `max_megapixels`."
    )
