"""Read the source in a thread and decode it in processes, ahead of the device."""

from __future__ import annotations

import collections
import errno
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from torch.utils.data import DataLoader, Dataset

from depth_anything_hf.labeling.decoding import Decoder, Picture, Rejected
from depth_anything_hf.labeling.plan import BlockEnd, Work
from depth_anything_hf.prediction.stream import SHARED_MEMORY_FULL, read_ahead, share


def decoded(
    feed: Iterable[Work | BlockEnd], decoder: Decoder, num_workers: int, on_cpu: bool
) -> Iterator[tuple[Work | BlockEnd, Picture | Rejected | None]]:
    """Yield each piece of work with its decoded result, in order; the workers decode ahead.

    Args:
        feed: Iterated in a thread.
        decoder: Copied into each worker.
        num_workers: Processes that decode; 0 decodes in this process.
        on_cpu: Whether the model is on the CPU; for a GPU, pixels are in pinned memory.

    Returns:
        Pairs of work and result; the result of a block end is None.

    Raises:
        OSError: The disk or the network fails, or a worker died.
    """
    under_way: collections.deque[Work | BlockEnd] = collections.deque()

    def handed_out():
        for work in read_ahead(feed, 4 * max(num_workers, 1), patience=2):
            under_way.append(work)
            yield work

    loader = DataLoader(
        _Reporting(decoder),
        sampler=handed_out(),  # each piece of work is an index into the data set
        batch_size=None,
        collate_fn=_as_it_is,
        num_workers=num_workers,
        prefetch_factor=8 if num_workers else None,
        pin_memory=not on_cpu,
    )
    try:
        for result in _begun(loader):
            work = under_way.popleft()
            if isinstance(result, _Failure) and result.errno == 0:
                raise OSError(f"{result.message}. Repeat the same command, with another `num_workers`, to continue.")
            if isinstance(result, _Failure) and isinstance(work, Work):
                raise OSError(
                    result.errno,
                    f"{work.item.key} cannot be read ({result.message}). Check the disk or the network, and repeat the "
                    "same command to continue.",
                )
            if num_workers and on_cpu and result is not None and not isinstance(result, Rejected):
                # Copy, to release the worker's shared memory and its scarce file handle.
                result = result._replace(pixels=result.pixels.clone())
            yield work, result
    except (RuntimeError, ConnectionError, EOFError) as error:  # the latter if it dies while a picture is on its way
        if not num_workers or (isinstance(error, RuntimeError) and "DataLoader worker" not in str(error)):
            raise
        short = SHARED_MEMORY_FULL if "Bus error" in str(error) else "Memory may be short"
        raise OSError(
            f"a process that decodes died ({error}). {short}: repeat the same command to continue, with a smaller "
            "`num_workers`."
        ) from error


def _begun(loader: DataLoader) -> Iterator[Any]:
    """Start the workers; their locks are in shared memory, too."""
    try:
        return iter(loader)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        raise OSError(f"{SHARED_MEMORY_FULL} (`num_workers`).") from error


class _Failure(NamedTuple):
    """A failure to read, or to pass on what was read; the input may be intact."""

    errno: int  # 0: shared memory is full
    message: str


class _Reporting(Dataset):
    """Return a failure to read as a value: an exception would lose its error number on the way from a worker."""

    def __init__(self, decoder: Decoder):
        self.decoder = decoder

    def __getitem__(self, work: Work | BlockEnd) -> Picture | Rejected | _Failure | None:
        try:
            result = self.decoder[work]
        except OSError as error:
            return _Failure(error.errno or errno.EIO, error.strerror or str(error))
        try:
            return share(result)
        except OSError as error:
            return _Failure(0, str(error))


def _as_it_is(result):
    return result
