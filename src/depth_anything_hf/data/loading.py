"""What `datasets` needs to read records safely: a column of images that opens only own files, and checked shards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
from datasets.packaged_modules.parquet.parquet import Parquet
from PIL import Image, ImageOps

from depth_anything_hf.data.codes import ORIENTATION, open_image
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
            return super().decode_example(value, token_per_repo_id)
        image = open_image(value, "image", self.folders)
        if image.getexif().get(ORIENTATION) in range(2, 9):
            image = ImageOps.exif_transpose(image)
        if self.squeezed:
            image.info["squeezed"] = True
        return image


class CheckedParquet(Parquet):
    """Read parquet shards; one that is not as its manifest says is an error before any of its records."""

    def _generate_tables(self, files, row_groups_list):
        for file in dict.fromkeys(files):
            check_shard(file)
        yield from super()._generate_tables(files, row_groups_list)
