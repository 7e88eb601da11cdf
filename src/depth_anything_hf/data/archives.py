"""Read the images of tar files and of LMDB databases as they lie: in order, not decoded, and without unpacking them.

`datasets` reads tar files of the WebDataset form alone: it parses every JSON file in them (those of SA-1B have no one
type), and takes neither a tar file of tar files (ImageNet-21K) nor two kinds of images in one file.
"""

from __future__ import annotations

import contextlib
import glob
import gzip
import os
import re
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

from depth_anything_hf.data.photographs import IMAGE_EXTENSIONS

TAR_ENDINGS = (".tar", ".tar.gz", ".tgz")
_NAME = re.compile(r"((?:.*/|)[^.]+)[.]([^/]*)")  # as WebDataset: the key, and all endings as the name of the column


def read_tar(path: Path, column: str | None = None) -> Iterator[tuple[str, dict[str, bytes | None]]]:
    """Yield the files of a tar file in groups of one name, such as `a/1.jpg` with `a/1.json`; also of tar files inside it.

    Args:
        path: A tar file, compressed by gzip or not.
        column: An ending whose files are read beside those of images.

    Returns:
        Pairs: the key, without the ending, below the name of the inner tar file; and ending to content, None where it is
        neither an image nor `column`.

    Raises:
        EOFError, OSError or tarfile.TarError: The file cannot be read further.
    """
    try:
        with _unpacked(path, path.name) as file:
            yield from _groups(file, "", column)
    except zlib.error as error:
        raise tarfile.ReadError(str(error)) from error


def is_image(ending: str) -> bool:
    """Return whether an ending, such as "jpg" or "mask.png", is that of an image.

    Example:
        >>> is_image("JPEG"), is_image("json")
        (True, False)
    """
    return f".{ending.rsplit('.', 1)[-1].lower()}" in IMAGE_EXTENSIONS


def _groups(file: BinaryIO, above: str, column: str | None) -> Iterator[tuple[str, dict[str, bytes | None]]]:
    last, fields = "", cast(dict[str, bytes | None], {})
    with tarfile.open(fileobj=file, mode="r|") as archive:
        for member in archive:
            archive.members = []  # type: ignore[attr-defined]  # it would keep every name: 14 million in ImageNet's
            name, content = _NAME.fullmatch(member.name), archive.extractfile(member) if member.isreg() else None
            if name is None or content is None or os.path.basename(member.name).startswith((".", "__")):
                continue
            key, ending = f"{above}{name[1]}", name[2]
            if fields and key != last:
                yield last, fields
                fields = {}
            if member.name.endswith(TAR_ENDINGS):
                with _unpacked(content, member.name) as inner:
                    yield from _groups(inner, f"{key}/", column)
                continue
            last, fields[ending] = key, content.read() if is_image(ending) or ending == column else None
    if fields:
        yield last, fields
    while isinstance(file, gzip.GzipFile) and file.read(1 << 20):
        pass  # to the end, where the checksum stands


def _unpacked(file: Any, name: str) -> Any:
    """Open a path, or take a file that is open, and unpack it where its name is that of a gzip file."""
    if not name.endswith(".tar"):
        return gzip.open(file)
    return open(file, "rb") if isinstance(file, Path) else contextlib.nullcontext(file)


def find_databases(path: Path) -> list[Path]:
    """Return the folders of LMDB databases at a path: itself, those in it, or those that a pattern matches.

    Example:
        >>> find_databases(Path("nowhere"))
        []
    """
    if (path / "data.mdb").is_file():
        return [path]
    pattern = glob.has_magic(str(path)) and not path.exists()
    files = map(Path, glob.glob(f"{path}/data.mdb")) if pattern else path.glob("*/data.mdb")
    return sorted(file.parent for file in files if not file.parent.name.startswith("."))


def read_database(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Yield key and value of each entry of an LMDB database, by key; nothing is written or locked.

    A process, and one that it forks, may open a database only once at a time.

    Raises:
        OSError: The database is broken.
        ImportError: lmdb is not installed.
    """
    with _database(folder) as environment, environment.begin() as transaction:
        for key, value in transaction.cursor():
            yield key.decode("utf-8", "backslashreplace"), value


def count_entries(folder: Path) -> int:
    """Count the entries of an LMDB database, without reading them."""
    with _database(folder) as environment:
        return environment.stat()["entries"]


@contextlib.contextmanager
def _database(folder: Path) -> Iterator[Any]:
    try:
        import lmdb
    except ImportError as error:
        raise ImportError(
            f"{folder} is an LMDB database, read with lmdb, which is not installed: pip install 'depth_anything_hf[lmdb]'."
        ) from error
    try:
        with lmdb.open(str(folder), readonly=True, lock=False, readahead=False) as environment:
            yield environment
    except lmdb.Error as error:
        raise OSError(f"{folder} cannot be read ({error}): download it again.") from error
