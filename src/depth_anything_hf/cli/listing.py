"""depth.jsonl: how the 16-bit depth maps of a folder are decoded, a row each, over any number of runs."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

from depth_anything_hf.data.whole_files import replacing

_KEY = "depth_map_file_name"


class Listing:
    """Keep a row of depth.jsonl for each depth map of a folder, true to the files on disk whenever a run ends.

    A row is dropped before its file is written over, and added once the file is there: a file without a row can only be
    predicted again, but the row of another file would decode it to wrong values.
    """

    def __init__(self, folder: Path):
        self.file = folder / "depth.jsonl"
        rows, self._whole = self._read()
        self.names = {name for name, _ in rows}

    def drop(self, name: str) -> None:
        """Take the row of a depth map out, by the map's path below the folder."""
        if name in self.names:
            self._replace([line for other, line in self._read()[0] if other != name])
            self.names.remove(name)

    def add(self, row: dict) -> None:
        """Append a row."""
        if not self._whole:
            self._replace([line for _, line in self._read()[0]])
        with self.file.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(row) + "\n")
        self.names.add(row[_KEY])

    def _read(self) -> tuple[list[tuple[str, str]], bool]:
        """Read names and lines, and whether the last line is whole; one that was cut short is left out."""
        text = self.file.read_text(encoding="utf-8") if self.file.exists() else ""
        *lines, rest = text.split("\n")
        if rest and not _is_cut_short(rest):
            lines.append(rest)
        rows = [(_name_of(line), line) for line in lines if line.strip()]
        for name, line in rows:
            if not isinstance(name, str):
                raise ValueError(
                    f"{self.file} holds {line[:80]!r}, which is no row of predict: each is a JSON object with {_KEY}; "
                    "move the file away, or give another --out."
                )
        return rows, not rest

    def _replace(self, lines: list[str]) -> None:
        """Write other lines; the file is whole whenever the run is killed."""
        with replacing(self.file, flush=False) as partial:
            partial.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        self._whole = True


@functools.cache  # the file is read again for each row that is dropped
def _name_of(line: str) -> Any:
    """Return the depth map that a line describes; None for a line of another origin."""
    try:
        return json.loads(line)[_KEY]
    except (ValueError, KeyError, TypeError):
        return None


def _is_cut_short(line: str) -> bool:
    """Check whether a line is a row that a full disk or a crash cut short, not a line of another origin."""
    try:
        json.loads(line)
    except ValueError:
        return line.startswith("{")
    return False
