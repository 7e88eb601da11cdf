"""The one place that turns an error of another library into one line: the file, what is wrong with it, the next step."""

from __future__ import annotations

import errno
import linecache
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from depth_anything_hf.data.stand_ins import stand_in

_OURS = str(Path(__file__).parents[1]) + os.sep
_FULL_DISK = "the disk is full; free some space and repeat the command"
_NO_MEMORY = (
    "there is not enough memory: use smaller batches or a lower resolution, a smaller model, or another device"
)
_BY_NUMBER = {
    errno.ENOENT: "check the path",
    errno.ENOSPC: _FULL_DISK,
    errno.EDQUOT: _FULL_DISK,
    errno.EEXIST: "a file has the name of a folder that is to be made: give another name",
    errno.EROFS: "choose a folder that can be written",
    errno.EACCES: "choose a file or folder that you may read and write, or change its permissions",
    errno.EPERM: "choose a file or folder that you may read and write, or change its permissions",
    errno.ENAMETOOLONG: "give a shorter name",
    errno.EISDIR: "it is a folder, and a file is needed",
    errno.ENOTDIR: "a part of the path is a file, not a folder",
    errno.EMFILE: "raise the limit of open files (ulimit -n), or use fewer workers",
    errno.ENOMEM: _NO_MEMORY,
}


def explain(error: BaseException) -> str:
    """Describe an error in one line, with the next step.

    A message of this library is returned as it is. Of an error of a cause that is not known the line names the kind.

    Example:
        >>> explain(MemoryError()).partition(":")[0]
        'there is not enough memory'
        >>> explain(KeyError("depth"))
        "unexpected KeyError: 'depth'; run again with --debug for the traceback"
    """
    if isinstance(error, OSError) and error.errno in _BY_NUMBER:
        return _numbered(error, error.errno)
    for one in _chain(error):
        if _is_of_ours(one):
            return str(one)
        if known := _known(one):
            return known
    message = _first_line(error)
    if isinstance(error, (OSError, ValueError, ImportError)) and message:  # these are mostly meant for the user
        return message
    return f"unexpected {type(error).__name__}: {message}; run again with --debug for the traceback"


def _known(error: BaseException) -> str | None:
    """Describe an error whose kind, number or message is known."""
    message = _first_line(error)
    number = getattr(error, "errno", None)
    if found := re.search(
        r"\[Errno (\d+)\]|\(os error (\d+)\)", message
    ):  # what a worker, or another language, passed on
        number = int(found[1] or found[2])
    if number in _BY_NUMBER:
        return _numbered(error, number)
    for kind in type(error).__mro__:
        if kind.__name__ in _BY_KIND:
            return _BY_KIND[kind.__name__](error, message)
    frames = traceback.extract_tb(error.__traceback__)
    if frames and frames[-1].filename.endswith(("torch/serialization.py", "torch/_weights_only_unpickler.py")):
        return _weights(error, message)  # of a dozen kinds
    return next((text for pattern, text in _BY_MESSAGE.items() if re.search(pattern, message)), None)


def _numbered(error: BaseException, number: int) -> str:
    file = getattr(error, "filename", None)
    what = (
        f"{os.fsdecode(file)}: {os.strerror(number)}" if isinstance(file, (str, bytes, Path)) else _first_line(error)
    )
    return f"{what}; {_BY_NUMBER[number]}"


def _damaged(what: str, endings: tuple[str, ...]) -> Callable[[BaseException, str], str]:
    """Make the rule for files that are damaged: it names the file, and what lies in its place."""

    def describe(error: BaseException, message: str) -> str:
        file = _file_of(error, endings)
        if file and (instead := stand_in(file)):
            return f"{file} {instead}"
        return f"{file or 'a file'} is {what} ({type(error).__name__}: {message}): correct it, or download or write it again"

    return describe


def _of_repository(text: str) -> Callable[[BaseException, str], str]:
    """Make the rule for what the Hub refuses or cannot be asked: it names the repository."""

    def describe(error: BaseException, message: str) -> str:
        found = re.search(r"https?://[^/\s]+/(?:api/)?(?:models/|datasets/)?([\w.-]+/[\w.-]+)", str(error))
        names = [value for name, value in _variables(error) if name in ("repo_id", "path_or_repo_id") and value]
        return text.format(names[0] if names else found[1].rstrip(".") if found else "what is asked for")

    return describe


def _as_it_says(error: BaseException, message: str) -> str:
    return message


def _of_cause(error: BaseException, message: str) -> str:
    return message if error.__cause__ is None else explain(error.__cause__)


_no_hub = _of_repository(
    "{} is not in the cache, and the Hub is out of reach: check the network (and HF_HUB_OFFLINE), or give a folder on this machine"
)
_weights = _damaged("no file of weights, or damaged or cut", (".safetensors", ".bin", ".pt", ".pth", ".ckpt"))
_child = "a process that was started failed ({}); its own message stands above"

_BY_KIND: dict[str, Callable[[BaseException, str], str]] = {
    "SafetensorError": _weights,
    "UnpicklingError": _weights,
    "BadZipFile": _weights,
    "JSONDecodeError": _damaged("no JSON", (".json", ".jsonl")),
    "YAMLError": _damaged("no YAML", (".yaml", ".yml")),
    "UnicodeDecodeError": _damaged("no text in UTF-8", (".json", ".jsonl", ".yaml", ".yml", ".md", ".txt", ".csv")),
    "UnicodeEncodeError": lambda error, message: (
        f"a name cannot be written in this encoding ({message}); rename the file"
    ),
    "GatedRepoError": _of_repository(
        "{0} is gated: accept its terms on https://huggingface.co/{0}, and log in with `hf auth login`"
    ),
    "RepositoryNotFoundError": _of_repository(
        "{} is not on the Hub, or is private: check its spelling, and for a private one log in with `hf auth login`"
    ),
    "RevisionNotFoundError": _of_repository("{} has no such revision: check the branch, tag or commit"),
    "LocalEntryNotFoundError": _no_hub,
    "OfflineModeIsEnabled": _no_hub,
    "ConnectError": _no_hub,
    "ConnectTimeout": _no_hub,
    "ReadTimeout": _no_hub,
    "ConnectionError": _no_hub,
    "EntryNotFoundError": _as_it_says,
    "HfHubHTTPError": lambda error, message: f"the Hub refuses: {message}; log in with `hf auth login`, or try later",
    "HFValidationError": lambda error, message: (
        f"{message} Give an existing folder, or an id of the Hub such as owner/name"
    ),
    "DatasetNotFoundError": _as_it_says,
    "DatasetGenerationError": _of_cause,
    "ArrowException": _damaged("no table that pyarrow reads, or damaged or cut", (".parquet", ".arrow")),
    "DecompressionBombError": lambda error, message: f"an image is too large ({message}): shrink it, or leave it out",
    "DecompressionBombWarning": lambda error, message: (
        f"an image is too large ({message}): shrink it, or leave it out"
    ),
    "MemoryError": lambda error, message: _NO_MEMORY,
    "OutOfMemoryError": lambda error, message: _NO_MEMORY,
    "ChildFailedError": lambda error, message: _child.format(message),
    "ProcessRaisedException": lambda error, message: _child.format(message),
    "CalledProcessError": lambda error, message: _child.format(message),
}
_BY_MESSAGE = {
    r"PytorchStreamWriter|inline_container|No space left on device|file write failed": _FULL_DISK,
    r"(?i)out of memory|can't allocate memory|cannot allocate memory": _NO_MEMORY,
    r"DataLoader worker .*(killed|exited)|unable to (open|allocate) shared memory|Bus error": (
        "a worker process died, mostly of too little memory or a full /dev/shm: use fewer dataloader_num_workers, or give "
        "the container more shared memory (docker run --shm-size 8g)"
    ),
    r"PytorchStreamReader|zip archive": "a file of weights is no file of PyTorch, or damaged or cut: download or write it again",
}


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error, and those that led to it."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        yield error
        seen.add(id(error))
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _is_of_ours(error: BaseException) -> bool:
    """Return True for an error that a `raise` of this library raised: its message is for the user."""
    frames = traceback.extract_tb(error.__traceback__)
    if not frames or not frames[-1].filename.startswith(_OURS):
        return False
    return linecache.getline(frames[-1].filename, frames[-1].lineno or 0).lstrip().startswith("raise ")


def _first_line(error: BaseException) -> str:
    """Return the first line of a message; of one that a worker process passed on, the line of the error itself."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if "Original Traceback" in str(error):
        return re.sub(r"^[\w.]+(Error|Exception): ", "", lines[-1])
    return lines[0] if lines else ""


def _file_of(error: BaseException, endings: tuple[str, ...]) -> str | None:
    """Find the file that was read when an error was raised: one with an ending of its kind, or else any."""
    names = [os.fspath(value) for _, value in _variables(error) if isinstance(value, (str, Path))]
    names = [name for name in names if len(name) < 4096 and "\0" not in name and os.path.isfile(name)]
    names = [name for name in names if not os.path.abspath(name).startswith((sys.prefix, sys.base_prefix, _OURS))]
    return next((name for name in names if name.lower().endswith(endings)), names[0] if names else None)


def _variables(error: BaseException) -> list[tuple[str, Any]]:
    """List the variables of the functions in which an error was raised, the innermost function first."""
    trace = error.__traceback__
    found: list[tuple[str, Any]] = []
    while trace is not None:
        found[:0] = list(trace.tb_frame.f_locals.items())
        trace = trace.tb_next
    return found
