"""Files that are either whole or not there, and their digests."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def write_whole(file: Path, content: bytes) -> None:
    """Write a file so that it is either whole or not there.

    Args:
        file: Its final name.
        content: All of it.
    """
    with replacing(file) as partial:
        partial.write_bytes(content)


def file_digest(file: Path) -> str:
    """Compute a file's SHA-256."""
    with open(file, "rb") as opened:
        digest = hashlib.sha256()
        while piece := opened.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


@contextmanager
def replacing(file: Path) -> Iterator[Path]:
    """Give a name to write under; then flush to the disk and rename, or leave nothing behind."""
    partial = file.with_name(f".{file.name}.{os.getpid()}.partial")
    try:
        yield partial
        _flush(partial)
        os.replace(partial, file)
        _flush(file.parent)
    finally:
        partial.unlink(missing_ok=True)


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
