"""Undecoded images from a folder tree, parquet, WebDataset shards or the Hub, streamed by `datasets`, in parts.

A part is what can be read on its own: a file of a sharded set, or all of a folder tree. Nothing is listed or read
before it is needed.
"""

from __future__ import annotations

import glob
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from depth_anything_hf.data.folder import IMAGE_EXTENSIONS, METADATA

if TYPE_CHECKING:
    import datasets

EXTENSIONS = (*IMAGE_EXTENSIONS, ".gif", ".jfif", ".avif")
_SHARDS = {".parquet": "parquet", ".tar": "webdataset"}


class Item(NamedTuple):
    """One input, not decoded."""

    key: str  # unique within the source, and the same in every run
    image: dict[str, Any] | None  # {"bytes", "path"}; None where the record has no image


@dataclass(frozen=True)
class ImageSource:
    """Hold a stream of images.

    Attributes:
        name: What was asked for.
        revision: Commit of a Hub data set, else None.
        dataset: The stream; its shards are the parts.
        column: Which column holds the images.
        parts: Names of the parts, in order.
        whole_files: Whether each part is a file; then its name is unique and its content fixed.
        count: Counts the images, if that can be done without reading them.
    """

    name: str
    revision: str | None
    dataset: datasets.IterableDataset
    column: str
    parts: tuple[str, ...]
    whole_files: bool
    count: Callable[[], int | None] = lambda: None

    def read(self, part: int) -> Iterator[Item]:
        """Yield the inputs of a part, always in the same order.

        Args:
            part: From 0.

        Returns:
            Items; a key is the path below the folder, or part and row.
        """
        rows = self.dataset.shard(num_shards=len(self.parts), index=part) if len(self.parts) > 1 else self.dataset
        for row, example in enumerate(rows):
            image = example[self.column]
            own = example.get("key") or example.get("__key__") or ((image or {}).get("path") or "")
            yield Item(f"{self.parts[part]}/{row:07d}/{own}".rstrip("/") if self.whole_files else own, image)


def open_source(
    images: str | os.PathLike, column: str | None = None, split: str = "train", limit: int | None = None
) -> ImageSource:
    """Open a stream of images by what its name means.

    Args:
        images: A folder (a tree of photographs, or one that holds `*.parquet` or `*.tar`, there or in `data/`), a
            file, a glob pattern, or the id of a data set on the Hub.
        column: Which column holds the images; left out, the only one of type image.
        split: Of a Hub data set.
        limit: Take so many inputs, the first ones.

    Returns:
        The source.

    Raises:
        FileNotFoundError: Neither a path nor a data set that the Hub knows.
        ValueError: Several image columns or none, files of different kinds, or a limit below 1.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> folder = tempfile.mkdtemp()
        >>> Image.new("RGB", (4, 3)).save(folder + "/a.png")
        >>> [item.key for item in open_source(folder).read(0)]
        ['a.png']
    """
    if limit is not None and limit < 1:
        raise ValueError(f"limit is {limit}; it must be at least 1. Leave it out to label everything.")
    given = Path(images).expanduser()
    files = _shard_files(given)
    if files:
        source = _open_files(str(images), files, column)
    elif given.exists() or glob.has_magic(str(given)):
        source = _open_photographs(str(images), given)
    else:
        source = _open_hub(str(images), column, split)
    if limit is None:
        return source
    total = source.count
    return replace(
        source,
        dataset=source.dataset.take(limit),
        parts=(f"first-{limit}",),
        count=lambda: min(total() or limit, limit),
    )


def _shard_files(given: Path) -> list[Path]:
    """List the parquet or tar files that are meant, none if it is photographs."""
    if given.suffix in _SHARDS:
        files = [Path(file) for file in glob.glob(str(given))] if glob.has_magic(str(given)) else [given]
    elif given.is_dir():
        files = [path for pattern in ("*", "data/*") for end in _SHARDS for path in given.glob(pattern + end)]
    else:
        return []
    kinds = {file.suffix for file in files}
    if len(kinds) > 1:
        raise ValueError(f"{given} holds files of the kinds {sorted(kinds)}; name one, such as {given}/*.tar.")
    missing = [str(file) for file in files if not file.is_file()]
    if missing or (given.suffix in _SHARDS and not files):
        raise FileNotFoundError(f"{(missing or [str(given)])[0]}: no such file; check the path.")
    return sorted(files)


def _open_files(name: str, files: list[Path], column: str | None) -> ImageSource:
    from datasets import load_dataset

    data_files = {"train": [glob.escape(str(file.absolute())) for file in files]}
    stream = load_dataset(_SHARDS[files[0].suffix], data_files=data_files, split="train", streaming=True)
    column = _image_column(stream, column, name)
    names = [file.name for file in files]
    if len(set(names)) < len(names):
        raise ValueError(f"{name} holds two files called {max(names, key=names.count)}; give them names of their own.")
    return ImageSource(name, None, _undecoded(stream, column), column, tuple(names), True, lambda: _count_rows(files))


def _count_rows(files: list[Path]) -> int | None:
    import pyarrow.parquet as pq

    return None if files[0].suffix == ".tar" else sum(pq.read_metadata(file).num_rows for file in files)


def _open_hub(name: str, column: str | None, split: str) -> ImageSource:
    from datasets import load_dataset
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

    try:
        revision = HfApi().dataset_info(name).sha
    except (HfHubHTTPError, HFValidationError, OfflineModeIsEnabled, OSError) as error:
        raise FileNotFoundError(
            f"{name} is no file, folder or pattern here, and no data set that the Hub gives ({type(error).__name__}): "
            "check the path, or log in with `hf auth login` for a private one."
        ) from error
    stream = load_dataset(name, split=split, streaming=True, revision=revision)
    column = _image_column(stream, column, name)
    parts = tuple(f"{split}-{part:05d}" for part in range(stream.num_shards))
    splits = stream.info.splits or {}
    count = splits[split].num_examples if split in splits else None
    return ImageSource(name, revision, _undecoded(stream, column), column, parts, True, lambda: count)


def _image_column(stream: datasets.IterableDataset, column: str | None, name: str) -> str:
    from datasets import Image, Value

    features = stream.features or {}
    found = [key for key, feature in features.items() if isinstance(feature, Image)]
    if column is None and len(found) == 1:
        return found[0]
    is_image = isinstance(features.get(column), Image) or features.get(column) in (Value("binary"), Value("string"))
    if column is None or not is_image:
        asked = "no column is named" if column is None else f"column {column!r} is {features.get(column)}"
        raise ValueError(
            f"{name} has the image columns {found} (of {sorted(features)}), and {asked}; name one with --image-column."
        )
    return column


def _undecoded(stream: datasets.IterableDataset, column: str) -> datasets.IterableDataset:
    """Keep the column's files as they are, and the key of a WebDataset beside it."""
    from datasets import Image

    kept = [name for name in (column, "__key__") if name in stream.features]
    return stream.select_columns(kept).cast_column(column, Image(decode=False))


def _open_photographs(name: str, given: Path) -> ImageSource:
    from datasets import IterableDataset

    stream = IterableDataset.from_generator(_walk, gen_kwargs={"path": str(given)})
    if next(iter(_walk(str(given))), None) is None:
        raise FileNotFoundError(
            f"{given} holds no photograph; looked for files ending in {', '.join(EXTENSIONS)}, parquet and tar."
        )
    return ImageSource(name, None, stream, "image", ("photographs",), False, lambda: sum(1 for _ in _walk(str(given))))


def _walk(path: str) -> Iterator[dict]:
    """Yield the photographs of a folder tree, or of a pattern, folder by folder in the order of their names."""
    given = Path(path)
    if glob.has_magic(path) and not given.exists():
        root = next(parent for parent in given.parents if not glob.has_magic(str(parent)))
        files = (Path(file) for file in sorted(glob.glob(path, recursive=True)) if not os.path.isdir(file))
    elif given.is_file():
        root, files = given.parent, iter([given])
    elif (given / METADATA).is_file():  # an imagefolder: its depth maps and masks are no photographs
        root, files = given, _listed(given)
    else:
        root, files = given, _descend(given, frozenset())
    for file in files:
        if file.suffix.lower() in EXTENSIONS:
            yield {"key": file.relative_to(root).as_posix(), "image": {"bytes": None, "path": str(file.absolute())}}


def _listed(folder: Path) -> Iterator[Path]:
    with open(folder / METADATA, encoding="utf-8") as lines:
        for line in lines:
            if line.strip():
                yield folder / json.loads(line)["file_name"]


def _descend(folder: Path, above: frozenset[str]) -> Iterator[Path]:
    real = os.path.realpath(folder)
    if real in above:  # a link to a folder above would go round for ever
        return
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            yield from _descend(Path(entry.path), above | {real})
        elif (
            entry.is_file() or entry.is_symlink()
        ):  # a link that leads nowhere is an input too: it is rejected by name
            yield Path(entry.path)
