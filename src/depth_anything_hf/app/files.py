"""Read uploaded photographs, and explain what is wrong with other files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from depth_anything_hf.data.codes import upright_rgb
from depth_anything_hf.data.image_files import ImageFileError, opened_image

_PIL_MEGAPIXELS = 178  # 2 * Image.MAX_IMAGE_PIXELS: PIL refuses larger images by itself


@dataclass(frozen=True)
class Limits:
    """Set the largest files that the page accepts.

    Raises:
        ValueError: A limit is not above 0, or larger than PIL's.
    """

    upload_megabytes: int = 50  # largest file
    megapixels: float = 50.0  # largest image, in millions of pixels; PIL's own limit is 178
    images: int = 100  # at once; all together have at most 20 times `megapixels`, to bound the disk space

    def __post_init__(self):
        for name, value in vars(self).items():
            if not value > 0:
                raise ValueError(f"{name} is {value}; it must be above 0, such as {getattr(Limits, name):g}.")
        if self.megapixels > _PIL_MEGAPIXELS:
            raise ValueError(f"megapixels is {self.megapixels:g}; PIL reads {_PIL_MEGAPIXELS} at most: choose less.")

    @property
    def total_megapixels(self) -> float:
        """Return the limit for all images of one upload together, in millions of pixels."""
        return 20 * self.megapixels


def open_photograph(path: str | Path, max_megapixels: float) -> Image.Image:
    """Read an uploaded photograph, upright, as RGB; raise if it is no image, is broken, too large or too narrow.

    The size is checked before any pixel is decoded.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "notes.png"
        >>> _ = file.write_text("not an image")
        >>> open_photograph(file, 1)
        Traceback (most recent call last):
        ...
        depth_anything_hf.data.image_files.ImageFileError: notes.png: cannot identify image file: it is damaged, or none of ...
    """
    name = Path(path).name
    try:
        with opened_image(path, name) as image:
            if (megapixels := image.width * image.height / 1e6) > max_megapixels:
                size = f"{image.width} x {image.height} pixels, {megapixels:.1f} megapixels"
                raise ImageFileError(_too_large(name, size, max_megapixels))
            return upright_rgb(image)
    except FileNotFoundError as error:  # uploads are kept for a day
        raise ValueError(f"{name} is no longer here; drop it again.") from error
    except ImageFileError as error:
        if isinstance(error.__cause__, Image.DecompressionBombError):
            raise ValueError(_too_large(name, f"over {_PIL_MEGAPIXELS} megapixels", max_megapixels)) from error
        raise


def _too_large(name: str, size: str, max_megapixels: float) -> str:
    return (
        f"{name} has {size}; this page takes up to {max_megapixels:g}: make it smaller, or start the page with a "
        "larger `max_megapixels`."
    )
