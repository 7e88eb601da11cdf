"""What `datasets` needs to read records safely: a column of images that opens only own files, and checked shards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import fsspec
from datasets.packaged_modules.parquet.parquet import Parquet
from PIL import Image

from depth_anything_hf.data.codes import open_image, upright
from depth_anything_hf.data.opening import check_shard, is_address


class RecordImage(datasets.Image):
    """A column of images that are opened by this library's rule: own files only, and errors that name the file.

    It is stored as `datasets.Image`, and equals it.

    Args:
        folders: Folders below which a file must lie; None opens any file and any address.
        squeezed: The images are labels of a network that squeezes every photograph into one shape.
    """

    def __init__(self, folders: Sequence[Path] | None = None, squeezed: bool = False):
        super().__init__()
        self.folders, self.squeezed = folders, squeezed

    def __eq__(self, other: object) -> bool:
        return isinstance(other, datasets.Image) and (other.mode, other.decode) == (self.mode, self.decode)

    def decode_example(self, value: Any, token_per_repo_id=None) -> Image.Image:
        """Open an image, upright."""
        if not (self.decode and isinstance(value, Mapping)):
            return value
        if self.folders is None and value.get("bytes") is None and is_address(value.get("path") or ""):
            with fsspec.open(value["path"], "rb") as file:
                value = {"bytes": file.read(), "path": value["path"]}
        image = upright(open_image(value, "image", self.folders))
        # Named by errors; `datasets` would write an image's `filename` in its place.
        image.info["file"] = value.get("path")
        if self.squeezed:
            image.info["squeezed"] = True
        return image


def record_image(feature: datasets.Image) -> RecordImage:
    """Return a column of images as this library opens them."""
    return feature if isinstance(feature, RecordImage) else RecordImage()


def with_record_images(source: Any) -> Any:
    """Return a set of `datasets` whose images this library opens; any other set, or one with a format, unchanged.

    Opened by `datasets`, a file may be of any format that Pillow knows, and an error does not name it.

    Args:
        source: A `datasets.Dataset`, or something else.

    Example:
        >>> source = datasets.Dataset.from_dict({"image": []}, features=datasets.Features({"image": datasets.Image()}))
        >>> type(with_record_images(source).features["image"]).__name__
        'RecordImage'
    """
    if not isinstance(source, datasets.Dataset) or source.format["type"] is not None:
        return source
    for name, feature in source.features.items():
        if isinstance(feature, datasets.Image) and feature.decode:
            source = source.cast_column(name, record_image(feature))
    return source


class CheckedParquet(Parquet):
    """Read parquet shards; one that is not as its manifest says is an error before any of its records."""

    def _generate_tables(self, files, row_groups_list):
        for file in dict.fromkeys(files):
            check_shard(file)
        yield from super()._generate_tables(files, row_groups_list)
