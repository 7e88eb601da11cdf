"""Recognize what often lies in the place of a file: a pointer of Git LFS, a web page, or nothing."""

from __future__ import annotations

import os
from pathlib import Path

_WEB_PAGE = (b"<!doctype", b"<html", b"<head", b"<?xml")


def stand_in(path: str | os.PathLike) -> str | None:
    """Describe what lies in the place of a file, with the next step; None for a file that may be what it should.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "model.safetensors"
        >>> _ = file.write_text("version https://git-lfs.github.com/spec/v1")
        >>> stand_in(file)
        'is a pointer of Git LFS, not the file itself: run `git lfs pull`, or download the file'
    """
    with Path(path).open("rb") as file:
        start = file.read(512).lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start.startswith(b"version https://git-lfs"):
        return "is a pointer of Git LFS, not the file itself: run `git lfs pull`, or download the file"
    if start.startswith(_WEB_PAGE):
        return "is a web page (of a login or an error), not the file: download it again"
    if not start:
        return "is empty: download or write it again"
    return None
