"""Open the files that data names: only those of its own set, with errors that name the file."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from depth_anything_hf.data.whole_files import file_digest

MANIFEST = "manifest.json"  # of a set of pseudo-labels: it has the checksum of every shard


@contextmanager
def reading(path: str | os.PathLike) -> Iterator[None]:
    """Make every failure of a decoder inside the block an `OSError` that names the file."""
    try:
        yield
    except FileNotFoundError as error:
        raise FileNotFoundError(error.errno, "no such file", str(path)) from error
    except MemoryError:
        raise
    except Exception as error:  # each decoder has its own: PIL, numpy, HDF5, scipy, JSON
        raise OSError(
            f"{path} cannot be read ({type(error).__name__}: {error}): copy or download the file again."
        ) from error


def own_file(named: str | os.PathLike, folders: Sequence[Path], follow_links: bool = False) -> Path:
    """Return the file that a record names, if it lies below one of the folders of its set.

    A relative name counts from the folder. A folder of the Hub's cache also has the files of its own repository, to which
    it links.

    Args:
        named: As the data writes it; from strangers it may be anything.
        folders: Folders of the set, at least one.
        follow_links: Trust links inside the folders, whatever they point to.

    Raises:
        ValueError: An address (`https://`, `file://`, `zip://a::b`), or a file elsewhere, also by `..` or by a link.

    Example:
        >>> own_file("images/a.png", [Path("set")]).as_posix()
        'set/images/a.png'
        >>> own_file("../../home/me/a.png", [Path("set")])
        Traceback (most recent call last):
        ...
        ValueError: '../../home/me/a.png' lies outside of the set's folder; a record names files below it.
    """
    name = os.fspath(named)
    if "\0" in name:
        raise ValueError(f"{name!r} is no name of a file.")
    if is_address(name):
        raise ValueError(f"{name!r} is an address; a record names files below its set's folder.")
    inside = [folder for folder in folders if _is_below(os.path.abspath(folder / name), os.path.abspath(folder))]
    # Links are looked up below the folder alone: elsewhere it may be a share of another machine.
    own = [one / name for one in inside if follow_links or _leads_inside(one / name, one)]
    if own:
        return next(filter(os.path.lexists, own), own[0])
    link = " through a link" if inside else ""
    raise ValueError(f"{name!r} lies outside of the set's folder{link}; a record names files below it.")


def is_address(name: str) -> bool:
    """Return whether a name is a URL, or a chain of them as fsspec opens it.

    Example:
        >>> is_address("https://example.org/a.png"), is_address("zip://a.png::b.zip"), is_address("a:b.png")
        (True, True, False)
    """
    return "://" in name or "::" in name


def _is_below(path: str, folder: str) -> bool:
    return os.path.normcase(path).startswith(os.path.join(os.path.normcase(folder), ""))


def _leads_inside(file: Path, folder: Path) -> bool:
    """Return whether a file, its links followed, lies in the folder, or among the files of its repository in the Hub's cache."""
    real = Path(os.path.realpath(folder))
    blobs = [parent.parent / "blobs" for parent in real.parents if parent.name == "snapshots"]
    return any(_is_below(os.path.realpath(file), str(home)) for home in (real, *blobs))


def check_shard(file: str | os.PathLike) -> None:
    """Compare a shard with the checksum in the manifest of its set, once in a process; without a manifest do nothing.

    Raises:
        ValueError: The shard has other bytes.
    """
    path = Path(file)
    for folder in (path.parent, path.parent.parent):
        if (folder / MANIFEST).is_file():
            state = path.stat()
            return _compare(path, folder / MANIFEST, state.st_size, state.st_mtime_ns)


@functools.cache
def _compare(path: Path, manifest: Path, size: int, modified: int) -> None:
    with reading(manifest):
        shards = json.loads(manifest.read_text(encoding="utf-8")).get("shards", [])
        known = {manifest.parent / shard["file"]: shard["sha256"] for shard in shards}
    if path in known and file_digest(path) != known[path]:
        raise ValueError(
            f"{path} is damaged: its SHA-256 is not the one in {manifest.name}. Copy the file again, or remove it and "
            "repeat the pseudo-label command, which labels its images anew."
        )
