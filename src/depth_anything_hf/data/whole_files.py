"""Write files so that each is either whole or not there, even if the process is killed."""

from __future__ import annotations

import errno
import functools
import hashlib
import os
import re
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType

fcntl: ModuleType | None
try:
    import fcntl
except ImportError:  # Windows
    fcntl = None


def write_whole(file: Path, content: bytes | str) -> None:
    """Write a file so that it is either whole or not there; text is written as UTF-8.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> write_whole(folder / "a.json", "{}")
        >>> [file.name for file in folder.iterdir()]
        ['a.json']
    """
    with replacing(file) as partial:
        partial.write_bytes(content.encode() if isinstance(content, str) else content)


@contextmanager
def replacing(file: Path, flush: bool = True) -> Iterator[Path]:
    """Return a hidden name to write under, and rename when the block ends; after an error nothing is left behind.

    What a killed process of this machine left of the same file is removed.

    Args:
        file: The final name; its folder exists.
        flush: Force the content to the disk before it gets its name, so that it survives a power failure. Without,
            it survives the end of the process, at any time, and thousands of small files are written much faster.

    Returns:
        The hidden path, `.<name>.<machine>-<process>.partial`; formats that go by the ending must be named.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "a.txt"
        >>> with replacing(file) as partial:
        ...     _ = partial.write_text("all of it")
        >>> file.read_text()
        'all of it'
    """
    partial = _hidden(file)
    try:
        yield partial
        put_in_place(partial, file, flush)
    except OSError as error:
        if error.errno is None and re.search(
            r"requested and \d+ written", str(error)
        ):  # NumPy's words for a full disk
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(file)) from error
        raise
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def filling(folder: str | os.PathLike) -> Iterator[Path]:
    """Return a hidden folder inside `folder` to write files in; when the block ends, the files move to `folder`.

    The names move in reverse order: `config.json`, which marks a checkpoint, comes after its weights. After an error
    nothing is left behind. What a killed process of this machine left is removed.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> with filling(folder) as hidden:
        ...     _ = (hidden / "config.json").write_text("{}")
        >>> [file.name for file in folder.iterdir()]
        ['config.json']
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    hidden = _hidden(folder / folder.resolve().name)
    try:
        hidden.mkdir()
        yield hidden
        for file in sorted(hidden.iterdir(), reverse=True):
            put_in_place(file, folder / file.name)
    finally:
        shutil.rmtree(hidden, ignore_errors=True)


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Wait until no other process is in such a block of this folder; a process that ends, however, has left it.

    On Windows, and on file systems without locks, nobody waits.

    Example:
        >>> import tempfile
        >>> with alone_in(Path(tempfile.mkdtemp())):
        ...     pass
    """
    if fcntl is None:
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def put_in_place(partial: Path, file: Path, flush: bool = True) -> None:
    """Rename a whole file to its final name, in the same file system; `flush` forces both to the disk."""
    if flush:
        _flush(partial)
    os.replace(partial, file)
    if flush:
        _flush(file.parent)


def file_digest(file: Path) -> str:
    """Compute a file's SHA-256."""
    with open(file, "rb") as opened:
        digest = hashlib.sha256()
        while piece := opened.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def _hidden(file: Path) -> Path:
    """Return the hidden name of a file."""
    _remove_left(os.path.realpath(file.parent))
    long = len(os.fsencode(file.name)) > 200  # file systems take 255 bytes
    name = hashlib.sha256(os.fsencode(file.name)).hexdigest()[:32] if long else file.name
    return file.with_name(f".{name}.{_machine()}-{os.getpid()}.partial")


@functools.cache
def _remove_left(folder: str) -> None:
    """Remove what killed processes of this machine left half written in a folder."""
    for left in Path(folder).glob(f".*.{_machine()}-*.partial"):
        process = left.name.removesuffix(".partial").rpartition("-")[2]
        if process.isdecimal() and not _is_running(int(process)):
            shutil.rmtree(left, ignore_errors=True) if left.is_dir() else left.unlink(missing_ok=True)


@functools.cache
def _machine() -> str:
    """Return a mark of the machine, or the container, whose process numbers are known here."""
    try:
        space = os.readlink("/proc/self/ns/pid")
    except OSError:  # not Linux
        space = ""
    return hashlib.sha256(f"{socket.gethostname()} {space}".encode()).hexdigest()[:6]


def _is_running(process: int) -> bool:
    if os.name != "posix":  # on Windows `os.kill` would end it
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        return True
    return True


def _flush(path: Path) -> None:
    if os.name != "posix":  # Windows opens no folder, and flushes no file that is open for reading
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:  # some network file systems flush files alone
        if not (path.is_dir() and error.errno in (errno.EINVAL, errno.ENOTSUP)):
            raise
    finally:
        os.close(handle)
