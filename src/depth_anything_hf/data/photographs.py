"""Photographs in a folder tree, an imagefolder or a pattern, listed as they are read."""

from __future__ import annotations

import glob
import json
import os
from collections.abc import Iterator
from pathlib import Path

from depth_anything_hf.data.folder import IMAGE_EXTENSIONS, METADATA

EXTENSIONS = (*IMAGE_EXTENSIONS, ".gif", ".jfif", ".avif")


def walk(path: str) -> Iterator[dict]:
    """Yield the photographs of a folder tree, or of a pattern, folder by folder in the order of their names.

    Args:
        path: A folder, a glob pattern or a file; hidden files and folders are left out.

    Returns:
        Rows of `key`, the path below the folder, and `image`, `{"bytes", "path"}`.

    Raises:
        ValueError: The `metadata.jsonl` of an imagefolder names no file.

    Example:
        >>> import tempfile
        >>> folder = tempfile.mkdtemp()
        >>> Path(folder, "a.png").touch()
        >>> [row["key"] for row in walk(folder)]
        ['a.png']
    """
    given = Path(path)
    if glob.has_magic(path) and not given.exists():
        root = next(parent for parent in given.parents if not glob.has_magic(str(parent)))
        found = map(Path, sorted(set(glob.glob(path, recursive=True))))  # "**/**" finds a file twice
        files = (file for file in found if is_photograph(file) and not file.is_dir())
    elif given.is_dir():
        root, files = given, _descend(given, frozenset())
    else:
        root, files = given.parent, iter([given] if is_photograph(given) else [])
    for file in files:
        key = Path(os.path.relpath(file, root)).as_posix()
        yield {"key": key, "image": {"bytes": None, "path": str(file.absolute())}}


def is_photograph(file: Path) -> bool:
    """Tell a photograph by its ending; what is hidden is none.

    Args:
        file: Looked at by name only.

    Returns:
        Whether it is one.

    Example:
        >>> is_photograph(Path("a.JPG")), is_photograph(Path(".a.jpg"))
        (True, False)
    """
    return file.suffix.lower() in EXTENSIONS and not file.name.startswith(".")


def _descend(folder: Path, above: frozenset[str]) -> Iterator[Path]:
    real = os.path.realpath(folder)
    if real in above:  # a link to a folder above would go round for ever
        return
    if (folder / METADATA).is_file():  # an imagefolder: its depth maps and masks are no photographs
        yield from _listed(folder)
        return
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if entry.name.startswith("."):
            continue
        if _is_folder(entry):
            yield from _descend(Path(entry.path), above | {real})
        # A link that leads nowhere is an input too: it is rejected by name.
        elif is_photograph(Path(entry.name)) and (entry.is_symlink() or entry.is_file()):
            yield Path(entry.path)


def _is_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _listed(folder: Path) -> Iterator[Path]:
    """Yield the photographs that an imagefolder lists, each once."""
    seen = set()
    with open(folder / METADATA, encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            name = json.loads(line).get("file_name")
            if not isinstance(name, str):
                raise ValueError(
                    f"{folder / METADATA}, line {number}: file_name is {name!r}; write the photograph's path below "
                    f"that folder there, or label '{folder}/**/*.jpg'."
                )
            if name not in seen:
                seen.add(name)
                yield folder / name
