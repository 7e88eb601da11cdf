"""Stream undecoded images, in parts, from a folder tree, parquet, tar files, LMDB databases or the Hub.

A part is read on its own: a file of a sharded dataset, or a whole folder tree. Nothing is listed or read
before it is needed.
"""

from __future__ import annotations

import collections
import contextlib
import glob
import hashlib
import itertools
import os
import tarfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pyarrow import ArrowInvalid

from depth_anything_hf.data.archives import (
    TAR_ENDINGS,
    count_entries,
    find_databases,
    is_image,
    read_database,
    read_tar,
)
from depth_anything_hf.data.opening import is_address, own_file
from depth_anything_hf.data.photographs import IMAGE_EXTENSIONS, Photographs

if TYPE_CHECKING:
    import datasets

_FILE_TYPES = ("binary", "large_binary", "string", "large_string")  # the bytes of a file, or its path
_BROKEN = (ArrowInvalid, EOFError, tarfile.TarError)
_ARCHIVES = ("zip://", "tar://", "gzip://", "xz://", "bz2://", "zstd://")  # in an address, before that of the file
_SHARDS = (".parquet", *TAR_ENDINGS)
_FIRST = 5  # groups of files in a tar file that tell which columns it has


class Item(NamedTuple):
    """One input, not decoded."""

    key: str  # unique within the source, and the same in every run
    image: dict[str, Any] | None  # {"bytes", "path"}; None where the record has no image
    refused: str | None = None  # why its file is not opened


@dataclass(frozen=True)
class ImageSource:
    """Store a stream of images.

    Attributes:
        name: The path, pattern or id that was passed.
        revision: Commit of a Hub dataset, or a digest of the files' names and sizes; None for a tree of photographs.
        dataset: The stream; its shards are the parts.
        column: Column of the images.
        parts: Names of the parts, in order.
        whole_files: Whether each part is a file; then its name is unique and its content fixed.
        count: Counts the images, if that can be done without reading them.
        archives: The tar file of each part, if it lies here: `tarfile` takes a cut file for a whole one.
        describe_skipped: Describes in a line which files of a folder are no inputs; "" if there are none.
        folders: Below them lie the files that records name; with a Hub dataset, its address. None: anywhere.
    """

    name: str
    revision: str | None
    dataset: datasets.IterableDataset
    column: str
    parts: tuple[str, ...]
    whole_files: bool
    count: Callable[[], int | None] = lambda: None
    archives: tuple[Path, ...] = ()
    describe_skipped: Callable[[], str] = lambda: ""
    folders: tuple[Path, ...] | str | None = None

    def read(self, part: int) -> Iterator[Item]:
        """Yield the inputs of a part, always in the same order; a key is the path below the folder, or part and row.

        Raises:
            ValueError, EOFError, OSError or tarfile.TarError: The part cannot be read further.
        """
        rows = self.dataset.shard(num_shards=len(self.parts), index=part) if len(self.parts) > 1 else self.dataset
        for row, example in enumerate(rows):
            image = example[self.column]
            named = (image or {}).get("path") or ""
            own = example.get("key") or example.get("__key__") or _short(named, self.folders)
            refused = None
            if image and named and image.get("bytes") is None and self.folders is not None:
                image, refused = _located(named, self.folders)
            key = f"{self.parts[part]}/{row:07d}/{own}".rstrip("/") if self.whole_files else own
            yield Item(key, image, refused)
        if self.archives:
            _check_end(self.archives[part])


def open_source(
    images: str | os.PathLike,
    column: str | None = None,
    split: str = "train",
    limit: int | None = None,
    allow_outside: bool = False,
) -> ImageSource:
    """Open a stream of images from a path, a pattern or the id of a dataset.

    Args:
        images: A folder (a tree of photographs, one that holds `*.parquet`, `*.tar` or `*.tar.gz`, there or in `data/`, or
            LMDB databases), a file, a glob pattern, or the id of a dataset on the Hub.
        column: Column of the images; default: the only column of type image. In tar files the ending, "jpg".
        split: Of a Hub dataset.
        limit: Take only the first `limit` inputs.
        allow_outside: Open files that records name outside of their set, and URLs; else they are refused.

    Raises:
        FileNotFoundError: Neither a path nor a dataset that the Hub knows.
        ValueError: Several image columns or none, files of different kinds, files that can all not be read, or a
            limit below 1.

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
    if files and files[0].suffix != ".parquet":
        source = _open_tars(str(given), files, column)
    elif files:
        source = _open_files(given, files, column)
    elif databases := [] if given.suffix.lower() in IMAGE_EXTENSIONS else find_databases(given):
        source = _open_databases(str(given), databases)
    elif given.exists() or glob.has_magic(str(given)):
        source = _open_photographs(str(given), given)
    else:
        source = _open_hub(str(images), column, split)
    if allow_outside:
        source = replace(source, folders=None)
    if source.whole_files and given.is_dir() and (beside := _folders_beside(given, source.parts)):
        noun = "folder" if beside == 1 else "folders"
        source = replace(
            source, describe_skipped=lambda: f"skipped: {beside} {noun} beside the files: label each alone"
        )
    if limit is None:
        return source
    total = source.count
    return replace(
        source,
        dataset=source.dataset.take(limit),
        parts=(f"first-{limit}",),
        count=lambda: min(total() or limit, limit),
        archives=(),
        describe_skipped=lambda: "",
    )


def digest_of(names: list[str]) -> str:
    """Compute the digest of a list of names: the SHA-256 of the names, one per line.

    Example:
        >>> digest_of(["a", "b"])[:8]
        '911169dd'
    """
    return hashlib.sha256("".join(f"{name}\n" for name in names).encode("utf-8", "surrogateescape")).hexdigest()


def _shard_files(given: Path) -> list[Path]:
    """List the parquet or tar files at a path; none if it holds photographs."""
    if given.is_dir():
        found = [path for pattern in ("*", "data/*") for end in _SHARDS for path in given.glob(pattern + end)]
        files = [path for path in found if not path.name.startswith(".")]
    elif given.name.endswith(_SHARDS):
        by_pattern = glob.has_magic(str(given)) and not given.exists()
        files = [Path(file) for file in glob.glob(str(given))] if by_pattern else [given]
    else:
        return []
    kinds = {file.suffix for file in files}
    if files and given.is_dir():
        kinds |= {
            path.suffix
            for path in given.iterdir()
            if not path.name.startswith(".") and path.suffix.lower() in IMAGE_EXTENSIONS
        }
    if len(kinds) > 1:
        raise ValueError(
            f"{given} holds files of the kinds {sorted(kinds)}; name one kind, such as {given}/*{files[0].suffix}."
        )
    missing = [str(file) for file in files if not file.is_file()]
    if missing or (given.name.endswith(_SHARDS) and not files and not given.is_dir()):
        raise FileNotFoundError(f"{(missing or [str(given)])[0]}: no such file; check the path.")
    return sorted(files)


def _folders_beside(given: Path, parts: tuple[str, ...]) -> int:
    """Count the folders beside shards and databases, which are not searched."""
    return sum(path.is_dir() and path.name not in ("data", *parts) and path.name[0] != "." for path in given.iterdir())


def _open_files(given: Path, files: list[Path], column: str | None) -> ImageSource:
    from datasets import load_dataset

    name, folders = str(given), (given,) if given.is_dir() else tuple({file.parent: None for file in files})
    data_files = {"train": [glob.escape(str(file.absolute())) for file in files]}
    options = {"data_files": data_files, "split": "train", "streaming": True}
    try:
        stream = load_dataset("parquet", **options)
    except _BROKEN:  # the first file, from which the column types are read
        stream = load_dataset("parquet", features=_first_features(name, data_files["train"]), **options)
    column = _image_column(stream.features or {}, column, name)
    parts, revision = _parts(name, files)
    undecoded = _undecoded(stream, column)
    return ImageSource(name, revision, undecoded, column, parts, True, lambda: _count_rows(files), folders=folders)


def _parts(name: str, files: list[Path]) -> tuple[tuple[str, ...], str]:
    """Return the names of files as parts, and their revision: a file that was replaced is noticed by its size."""
    parts = tuple(file.name for file in files)
    twice = [part for part, count in collections.Counter(parts).items() if count > 1]
    if twice:
        raise ValueError(f"{name} holds two files called {twice[0]}; rename one of them.")
    return parts, digest_of([f"{file.name} {file.stat().st_size}" for file in files])[:16]


def _open_tars(name: str, files: list[Path], column: str | None) -> ImageSource:
    from datasets import Image, IterableDataset, Value

    groups = _first_groups(name, files, column)
    features = {ending: Image() if is_image(ending) else Value("binary") for group in groups for ending in group}
    several = any(sum(map(is_image, group)) > 1 for group in groups)
    images = [ending for ending in features if is_image(ending)]
    found = images[0] if column is None and images and not several else _image_column(features, column, name)
    parts, revision = _parts(name, files)
    arguments = {"files": list(map(str, files)), "column": found, "exact": column is not None or several}
    stream = IterableDataset.from_generator(_tar_rows, gen_kwargs=arguments)
    whole = tuple(files) if files[0].suffix == ".tar" else ()  # a cut gzip file says so itself
    return ImageSource(name, revision, stream, found, parts, True, archives=whole)


def _first_groups(name: str, files: list[Path], column: str | None) -> list[dict[str, bytes | None]]:
    """Read the first groups of the first file that is not broken; a broken one is named once its turn comes."""
    reasons = []
    for file in files:
        try:
            return [group for _, group in itertools.islice(read_tar(file, column), _FIRST)]
        except (*_BROKEN, OSError) as error:
            reasons.append(f"{file}: {error}")
    raise ValueError(f"{name}: none of its {len(files)} files can be read ({reasons[0]}); copy them again.")


def _tar_rows(files: list[str], column: str, exact: bool) -> Iterator[dict[str, Any]]:
    """Yield the image of each group, the file with the ending `column`; unless `exact`, all of its images."""
    for file in files:
        for key, group in read_tar(Path(file), column):
            taken = [ending for ending in group if ending == column or (not exact and is_image(ending))]
            for ending in taken:
                yield {"__key__": key, column: {"bytes": group[ending], "path": f"{key}.{ending}"}}
            if not taken:
                yield {"__key__": key, column: None}


def _open_databases(name: str, folders: list[Path]) -> ImageSource:
    from datasets import IterableDataset

    parts = tuple(folder.resolve().name for folder in folders)
    revision = digest_of([f"{folder.name} {(folder / 'data.mdb').stat().st_size}" for folder in folders])[:16]
    stream = IterableDataset.from_generator(_database_rows, gen_kwargs={"folders": list(map(str, folders))})
    total = sum(map(count_entries, folders))  # now: a database is open only once at a time
    return ImageSource(name, revision, stream, "image", parts, True, lambda: total)


def _database_rows(folders: list[str]) -> Iterator[dict[str, Any]]:
    for folder in folders:
        for key, value in read_database(Path(folder)):
            yield {"__key__": key, "image": {"bytes": value, "path": None}}


def _first_features(name: str, files: list[str]) -> datasets.Features:
    """Read the column types from the first file that is not broken; a broken one is named once its turn comes."""
    from datasets import load_dataset

    reasons = []
    for file in files:
        try:
            return load_dataset("parquet", data_files={"train": [file]}, split="train", streaming=True).features
        except _BROKEN as error:
            reasons.append(f"{file}: {error}")
    raise ValueError(f"{name}: none of its {len(files)} files can be read ({reasons[0]}); copy them again.")


def _count_rows(files: list[Path]) -> int:
    import pyarrow.parquet as pq

    count = 0
    for file in files:
        with contextlib.suppress(ArrowInvalid):  # a broken file has no rows to read
            count += pq.read_metadata(file).num_rows
    return count


def _check_end(archive: Path) -> None:
    """Refuse a tar file whose headers do not lead to its end mark: it is cut, or a header is broken."""
    with tarfile.open(archive) as opened:
        for _ in opened:
            pass
        opened.fileobj.seek(opened.offset)
        if opened.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise tarfile.ReadError(f"no end mark at byte {opened.offset}; the file is cut or damaged there")


def _open_hub(name: str, column: str | None, split: str) -> ImageSource:
    from datasets import load_dataset
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

    try:
        revision = HfApi().dataset_info(name).sha
    except (HfHubHTTPError, HFValidationError, OfflineModeIsEnabled, OSError) as error:
        raise FileNotFoundError(
            f"{name} is no file, folder or pattern here, and no dataset that the Hub returns ({type(error).__name__}): "
            "check the path, or log in with `hf auth login` for a private one."
        ) from error
    stream = load_dataset(name, split=split, streaming=True, revision=revision)
    column = _image_column(stream.features or {}, column, name)
    parts = tuple(f"{split}-{part:05d}" for part in range(stream.num_shards))
    splits = stream.info.splits or {}
    count = splits[split].num_examples if split in splits else None
    own = f"hf://datasets/{name}@{revision}/"
    return ImageSource(name, revision, _undecoded(stream, column), column, parts, True, lambda: count, folders=own)


def _located(named: str, folders: tuple[Path, ...] | str) -> tuple[dict[str, Any], str | None]:
    """Return the image that a record names, and why its file must not be opened, if it is not of its own set."""
    image = {"bytes": None, "path": named}
    if isinstance(folders, str):  # zip://member::hf://datasets/...
        *archives, last = named.split("::")
        own = last.startswith(folders) and ".." not in named.split("/")
        own &= all(archive.startswith(_ARCHIVES) for archive in archives)
    else:
        try:
            return image | {"path": str(own_file(named, folders))}, None
        except ValueError:
            own = False
    where = "an address" if is_address(named) else "a file outside of its set's folder"
    return image, None if own else f"the record names {where}; `allow_outside` opens it"


def _short(named: str, folders: tuple[Path, ...] | str | None) -> str:
    """Return a path as others may see it: below its set's folder, or else only the name."""
    if not os.path.isabs(named):
        return Path(named).name if named.startswith(("file:", "local:")) else named
    below = [os.path.relpath(named, folder) for folder in (folders if isinstance(folders, tuple) else ())]
    return next((Path(one).as_posix() for one in below if not one.startswith("..")), Path(named).name)


def _image_column(features: Mapping[str, Any], column: str | None, name: str) -> str:
    from datasets import Image, Value

    found = [key for key, feature in features.items() if isinstance(feature, Image)]
    if column is None and len(found) == 1:
        return found[0]
    asked = features.get(column or "")
    is_image = isinstance(asked, Image) or asked in [Value(kind) for kind in _FILE_TYPES]
    is_image |= isinstance(asked, dict) and {"bytes"} <= asked.keys() <= {"bytes", "path"}
    if column is None or not is_image:
        state = "no column is named" if column is None else f"column {column!r} is {asked}"
        raise ValueError(
            f"{name} has the image columns {found} (of {sorted(features)}), and {state}; name one with `image_column`."
        )
    return column


def _undecoded(stream: datasets.IterableDataset, column: str) -> datasets.IterableDataset:
    """Select the column without decoding its files, and the key of a WebDataset."""
    from datasets import Image

    kept = [name for name in (column, "__key__") if name in stream.features]
    return stream.select_columns(kept).cast_column(column, Image(decode=False))


def _open_photographs(name: str, given: Path) -> ImageSource:
    from datasets import IterableDataset

    photographs = Photographs(given, keep_missing=True)  # missing files are rejected by name
    if next(iter(photographs), None) is None:
        raise FileNotFoundError(
            f"{given} holds no photograph; looked for files ending in {', '.join(IMAGE_EXTENSIONS)}, parquet and tar."
        )
    stream = IterableDataset.from_generator(_rows, gen_kwargs={"path": str(given)})

    def count() -> int:
        return sum(1 for _ in Photographs(given, keep_missing=True))

    def describe_skipped() -> str:
        collections.deque(photographs, maxlen=0)
        return photographs.describe_skipped()

    return ImageSource(name, None, stream, "image", ("photographs",), False, count, (), describe_skipped)


def _rows(path: str) -> Iterator[dict[str, Any]]:
    photographs = Photographs(path, keep_missing=True)
    for file in photographs:
        yield {"key": photographs.name(file), "image": {"bytes": None, "path": str(file.absolute())}}
