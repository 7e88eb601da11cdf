"""Find photographs in a folder tree, in an imagefolder or by a pattern, and count the files that are skipped."""

from __future__ import annotations

import fnmatch
import glob
import json
import logging
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path

from depth_anything_hf.data.opening import own_file

# Of the formats that `image_files` reads; HEIC with its plugin. The search of every command takes these.
_HEIC = (".heic", ".heif", ".hif") if find_spec("pillow_heif") else ()
IMAGE_EXTENSIONS = (
    *(".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".jfif", ".jpe", ".mpo", ".dib", ".apng"),
    *(".jp2", ".j2k", ".jpx", ".ppm", ".pgm", ".pbm", ".pnm", *_HEIC, ".avif"),
)
METADATA = "metadata.jsonl"
_SHOWN = 6  # kinds of skipped files in one line
_logger = logging.getLogger(__name__)


class Photographs:
    """Find photographs, lazily, folder by folder in the order of their names.

    - Hidden files and folders are skipped, and so are pipes and devices.
    - A folder with `metadata.jsonl` is an imagefolder: the files that it lists are taken, each once; all other files
      there, such as depth maps and masks, are skipped.
    - Links are followed, except a link to a folder above it, which would never end; each folder is searched once.

    Iterating again searches again.

    Args:
        path: A folder, which is searched with all its subfolders, a glob pattern ("photos/**/*.png"), or a file.
        extensions: Endings to take, in lower or upper case. With the default, a file that `metadata.jsonl` lists
            is taken whatever its ending.
        keep_missing: Also yield files that are listed but missing, and links that lead nowhere.

    Attributes:
        root: The folder, or the part of the pattern before the first wildcard; every file is below it.
        skipped: After a search, how many files it skipped, by ending or by reason.

    Raises:
        ValueError: While iterating: a line of `metadata.jsonl` is no JSON object or names no file.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> for name in ("b.JPG", "a.png", "c.heic"):
        ...     (folder / name).touch()
        >>> photographs = Photographs(folder)
        >>> [file.name for file in photographs], photographs.describe_skipped()
        (['a.png', 'b.JPG'], 'skipped: 1 .heic')
    """

    def __init__(
        self, path: str | os.PathLike, extensions: Sequence[str] = IMAGE_EXTENSIONS, keep_missing: bool = False
    ):
        self.given = Path(path).expanduser()
        self.extensions = tuple(extension.lower() for extension in extensions)
        self.keep_missing = keep_missing
        self.skipped: Counter[str] = Counter()
        self._searched: set[tuple[str, ...]] = set()  # real paths, each with the rest of the pattern
        self._pattern: tuple[str, ...] = ()
        self.root = self.given if self.given.is_dir() else self.given.parent
        if glob.has_magic(str(self.given)) and not self.given.exists():
            self.root = next(parent for parent in self.given.parents if not glob.has_magic(str(parent)))
            self._pattern = self.given.parts[len(self.root.parts) :]

    def __iter__(self) -> Iterator[Path]:
        self.skipped = Counter()
        self._searched = set()
        if self._pattern:
            # A pattern such as "**/a/**" may match a file twice.
            for file in map(Path, sorted(set(map(str, self._match(self.root, self._pattern, frozenset()))))):
                if not file.is_dir():
                    yield from self._check(file, file)
        elif self.given.is_dir():
            yield from self._search(self.given, frozenset())
        else:
            yield from self._check(self.given, self.given)

    def name(self, file: Path) -> str:
        """Return the path of a file below `root`, with "/"; one that an imagefolder lists may begin with "..".

        Example:
            >>> Photographs("photos/*.jpg").name(Path("photos/a.jpg"))
            'a.jpg'
        """
        return Path(os.path.relpath(file, self.root)).as_posix()

    def describe_skipped(self) -> str:
        """Return in one line which files the last search skipped; "" if none.

        Example:
            >>> photographs = Photographs(".")
            >>> photographs.skipped = Counter({".heic": 12, "depth maps of a record folder": 1})
            >>> photographs.describe_skipped()
            'skipped: 12 .heic, 1 depth map of a record folder'
        """
        kinds = sorted(self.skipped.items(), key=lambda kind: (-kind[1], kind[0]))
        shown = [f"{count} {_singular(name) if count == 1 else name}" for name, count in kinds[:_SHOWN]]
        if rest := sum(count for _, count in kinds[_SHOWN:]):
            shown.append(f"{rest} more")
        return f"skipped: {', '.join(shown)}" if shown else ""

    def log_skipped(self) -> None:
        """Log a warning with the files that the last search skipped, if any."""
        if self.skipped:
            _logger.warning("%s: %s", self.given, self.describe_skipped())

    def _search(self, folder: Path, above: frozenset[str]) -> Iterator[Path]:
        """Yield the photographs of a folder tree; `above` has the real paths of the folders on the way to it."""
        entries = self._entries(folder)
        if any(entry.name == METADATA and _holds(entry.is_file) for entry in entries):
            yield from self._listed(folder)
            return
        for entry in entries:
            if not _holds(entry.is_dir):
                yield from self._check(entry, Path(entry.path))
            elif inside := self._enter(folder, entry, above):
                yield from self._search(Path(entry.path), inside)

    def _entries(self, folder: Path, hidden: bool = False) -> list[os.DirEntry[str]]:
        """List a folder by name. Hidden entries are left out, except photographs, which are counted as skipped."""
        try:
            with os.scandir(folder) as entries:
                found = sorted(entries, key=lambda entry: entry.name)
        except PermissionError:
            self.skipped["folders without permission"] += 1
            return []
        except OSError:  # it is gone, its path is too long, or the disk fails
            self.skipped["folders that cannot be read"] += 1
            return []
        photograph = lambda entry: entry.name.lower().endswith(self.extensions) and not _holds(entry.is_dir)  # noqa: E731
        return [entry for entry in found if hidden or entry.name[0] != "." or photograph(entry)]

    def _enter(
        self, folder: Path, entry: os.DirEntry[str], above: frozenset[str], *pattern: str
    ) -> frozenset[str] | None:
        """Return the real paths above a subfolder; None if it is a link to one of them, or was searched for the pattern."""
        above |= {os.path.realpath(folder)}
        place = os.path.realpath(entry.path)
        if place in above:
            self.skipped["links to a folder above"] += 1
        elif (place, *pattern) in self._searched:  # folders full of links to each other have endless ways through them
            self.skipped["folders found twice by links"] += 1
        else:
            self._searched.add((place, *pattern))
            return above
        return None

    def _check(self, entry: os.DirEntry[str] | Path, file: Path, listed: bool = False) -> Iterator[Path]:
        """Yield a file if it is to be taken, and count it otherwise."""
        if reason := self._reason(entry, file.name, listed):
            self.skipped[reason] += 1
        else:
            yield file

    def _reason(self, entry: os.DirEntry[str] | Path, name: str, listed: bool = False) -> str | None:
        """Return why a file is skipped, None if it is taken."""
        ending = os.path.splitext(name)[1].lower()
        if not (ending in self.extensions or (listed and self.extensions == IMAGE_EXTENSIONS)):
            return ending or "files without an ending"
        if name.startswith(".") and not listed:
            return "hidden files"
        if _holds(entry.is_file):
            return None
        if os.path.exists(entry):
            return "special files"  # reading a pipe or a device may never end
        return None if self.keep_missing else "missing files" if listed else "broken links"

    def _listed(self, folder: Path) -> Iterator[Path]:
        """Yield the photographs that an imagefolder lists, and count the other files there."""
        seen, others = set(), {}
        with open(folder / METADATA, encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                if not line.strip():
                    continue
                row = _parse(line, folder, number)
                for column, value in row.items():
                    if column.endswith("_file_name") and isinstance(value, str):
                        others[value] = f"{column.removesuffix('_file_name').replace('_', ' ')}s of a record folder"
                if (name := row["file_name"]) not in seen:
                    seen.add(name)
                    try:
                        yield from self._check(file := own_file(name, [folder]), file, listed=True)
                    except ValueError:
                        self.skipped["files outside of the record folder"] += 1
        self._count_rest(folder, folder, seen | {METADATA}, others, frozenset())

    def _count_rest(
        self, top: Path, folder: Path, seen: set[str], others: dict[str, str], above: frozenset[str]
    ) -> None:
        """Count the files of an imagefolder that are not listed as photographs."""
        for entry in self._entries(folder):
            if _holds(entry.is_dir):
                if inside := self._enter(folder, entry, above):
                    self._count_rest(top, Path(entry.path), seen, others, inside)
            elif (name := Path(entry.path).relative_to(top).as_posix()) not in seen:
                reason = others.get(name) or self._reason(entry, entry.name) or f"files not listed in {METADATA}"
                self.skipped[reason] += 1

    def _match(self, folder: Path, pattern: Sequence[str], above: frozenset[str]) -> Iterator[Path]:
        """Yield what a pattern matches below a folder, as `glob` does, except for links that never end."""
        if not pattern:
            yield folder
            return
        while pattern[:2] == ("**", "**"):
            pattern = pattern[1:]
        first, rest = pattern[0], pattern[1:]
        if not glob.has_magic(first):
            if os.path.lexists(folder / first):
                yield from self._match(folder / first, rest, frozenset())
            return
        if first == "**":
            yield from self._match(folder, rest, frozenset())
        for entry in self._entries(folder, hidden=first[0] == ".") if folder.is_dir() else []:
            if first != "**":
                if fnmatch.fnmatch(entry.name, first):
                    yield from self._match(Path(entry.path), rest, frozenset())
            elif not _holds(entry.is_dir):
                if not rest:
                    yield Path(entry.path)
            elif inside := self._enter(folder, entry, above, *pattern):
                yield from self._match(Path(entry.path), pattern, inside)


def _parse(line: str, folder: Path, number: int) -> dict:
    where = f"{folder / METADATA}, line {number}"
    hint = f"write the photograph's path below that folder there, or take '{folder}/**/*.jpg'."
    try:
        row = json.loads(line)
    except ValueError as error:
        raise ValueError(f"{where} is no JSON ({error}); {hint}") from error
    if not isinstance(row, dict):
        raise ValueError(f"{where} is no JSON object; {hint}")
    if not isinstance(row.get("file_name"), str):
        raise ValueError(f"{where}: file_name is {row.get('file_name')!r}; {hint}")
    return row


def _singular(reason: str) -> str:
    return reason if reason.startswith(".") else re.sub(r"s\b", "", reason, count=1)


def _holds(question: Callable[[], bool]) -> bool:
    try:
        return question()
    except OSError:  # a link to itself
        return False
