"""Decode an input to pixels, or return the reason of its rejection. Runs in worker processes, ahead of the device."""

from __future__ import annotations

import errno
import io
import warnings
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch.utils.data import Dataset

from depth_anything_hf.data.codes import upright_rgb
from depth_anything_hf.data.image_files import LARGEST_ASPECT, ImageFileError, open_regular, readable_formats
from depth_anything_hf.data.opening import is_address
from depth_anything_hf.labeling.plan import BlockEnd, Work
from depth_anything_hf.labeling.sources import Item
from depth_anything_hf.maps.resizing import resize_pixels, resized_size, shaped_size

_OF_THE_FILE = (errno.ENOENT, errno.EACCES, errno.EPERM, errno.ELOOP, errno.EISDIR, errno.ENAMETOOLONG, errno.ENOTDIR)


class Picture(NamedTuple):
    """An input that can be labeled."""

    pixels: torch.Tensor  # (height, width, 3) uint8, upright
    input_size: tuple[int, int]  # height and width of the network's input
    file: bytes | None  # the original file, with `keep_file`


class Rejected(NamedTuple):
    """An input that cannot be labeled, and why."""

    reason: str


class Decoder(Dataset):
    """Decode inputs; return None for block ends.

    Args:
        resolution: Shorter side of the network's input, pixels, a multiple of `multiple`, the patch size.
        aspect: Width by height of the network's input for all images; None: the aspect of the image.
        keep_file: Also return the bytes of the file.
        resize: Resize here to the network's input: for a model on the CPU, where this costs nothing extra.

    Example:
        >>> from depth_anything_hf.labeling.sources import Item
        >>> Decoder(56, 14)[Work(None, 0, Item("a", {"bytes": b"", "path": None}))].reason
        'empty file'
    """

    def __init__(self, resolution: int, multiple: int, aspect=None, keep_file=False, resize=False):
        self.resolution, self.multiple, self.aspect = resolution, multiple, aspect
        self.keep_file, self.resize = keep_file, resize

    def __getitem__(self, work: Work | BlockEnd) -> Picture | Rejected | None:
        if isinstance(work, BlockEnd):
            return None
        if work.item.refused:
            return Rejected(work.item.refused)
        try:
            _check_names(work.item)
            data = read_file(work.item.image)
            pixels, size = self._decode(data)
        except RefusedError as refusal:
            return Rejected(str(refusal))
        if self.resize:
            pixels = resize_pixels(pixels[None], size)[0]
        return Picture(pixels, size, data if self.keep_file else None)

    def input_size(self, height: int, width: int) -> tuple[int, int]:
        """Compute the network's input size for an image; raise a `RefusedError` if it is too narrow."""
        aspect = max(height, width) / min(height, width)
        if aspect > LARGEST_ASPECT:
            raise RefusedError(f"{width} x {height} pixels: sides of 1 to {aspect:.4g}, at most 1 to {LARGEST_ASPECT}")
        if self.aspect is not None:
            return shaped_size(self.resolution, self.aspect, self.multiple)
        return resized_size(height, width, (self.resolution, self.resolution), self.multiple)

    def _decode(self, data: bytes) -> tuple[torch.Tensor, tuple[int, int]]:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # Pillow itself refuses images that are too large; the other warnings concern metadata
            try:
                opened = Image.open(io.BytesIO(data), formats=readable_formats())
                self.input_size(opened.height, opened.width)  # before the pixels are decoded
                opened.load()
                image = upright_rgb(opened)
            except RefusedError:
                raise
            except UnidentifiedImageError as error:  # its message is an address in memory
                raise RefusedError(f"no image of a known format; it begins with {data[:12]!r}") from error
            except Exception as error:  # a decoder raises many kinds for a broken file
                raise RefusedError(f"{type(error).__name__}: {error}") from error
        return torch.from_numpy(np.array(image)), self.input_size(image.height, image.width)


def read_file(image: dict[str, Any] | None) -> bytes:
    """Read the bytes, not empty, of an undecoded image `{"bytes", "path"}`, from memory, disk or the Hub.

    Raises:
        RefusedError: The file is missing or empty.
        OSError: The disk or the network fails: another run may succeed.
    """
    if image is None or (image.get("bytes") is None and not image.get("path")):
        raise RefusedError("the record has no image")
    data = image.get("bytes")
    if data is None:
        try:
            with _opened(image["path"]) as file:
                data = file.read()
        except OSError as error:
            if isinstance(error, FileNotFoundError) or error.errno in _OF_THE_FILE:
                reason = error.strerror or "No such file or directory"  # without the folder on this machine
                raise RefusedError(f"{type(error).__name__}: {reason}: {Path(image['path']).name}") from error
            if isinstance(error, ImageFileError):
                raise RefusedError("no regular file, but a pipe, a socket or a device") from error
            raise
    if not data:
        raise RefusedError("empty file")
    return data


def _opened(path: str) -> BinaryIO:
    if not is_address(path):
        return open_regular(path)
    import fsspec

    return fsspec.open(path, "rb")


def _check_names(item: Item) -> None:
    """Raise a `RefusedError` for names that JSON and parquet cannot store."""
    try:
        f"{item.key}{(item.image or {}).get('path')}".encode()
    except UnicodeEncodeError as error:
        raise RefusedError("the name of the file is not UTF-8; rename it") from error


class RefusedError(Exception):
    """The reason why an input is not labeled; users see the message."""
