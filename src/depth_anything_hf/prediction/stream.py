"""Keep the model busy: read and decode ahead of it, batch by shape, write behind it.

The parts are small and know nothing of depth: `predict`, `evaluate`, `video` and the labeling engine put them together.
"""

from __future__ import annotations

import collections
import contextlib
import multiprocessing.queues
import os
import queue
import threading
import traceback
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from typing import Any, Generic, TypeVar

T = TypeVar("T")
Result = TypeVar("Result")
Shape = tuple[int, ...]

SHARED_MEMORY_FULL = (
    "/dev/shm, through which worker processes pass what they decoded, is full: give the container more (docker run "
    "--shm-size=8g or --ipc=host), or use fewer workers, 0 for none"
)
MOST_BYTES = 2**31  # that batches which are not full may hold


def read_ahead(items: Iterable[T], size: int, patience: float | None = None) -> Generator[T, None, None]:
    """Iterate in a thread, `size` items ahead: reading a file or the network must not stop the device.

    `items` is used by that thread only, which has ended when the iterator is closed. An error of `items` is raised where it
    would have been.

    Args:
        items (`Iterable`): What to iterate.
        size (`int`): Most items that wait, at least 1.
        patience (`float`, *optional*): Seconds for which closing waits for a read that is under way, for example on a network
            that does not answer; the thread may then still run, and does not hold up the end of the process. Default: until
            the read has ended.

    Example:
        >>> list(read_ahead(range(3), 2))
        [0, 1, 2]
    """
    ready: queue.Queue = queue.Queue(size)
    stopped, end = threading.Event(), object()

    def put(value) -> None:
        while not stopped.is_set():
            with contextlib.suppress(queue.Full):
                return ready.put(value, timeout=0.1)

    def run() -> None:
        try:
            for item in items:
                put((item, None))
                if stopped.is_set():
                    return
            put((end, None))
        except BaseException as error:  # it is raised again where the items are used
            put((end, error))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        while (entry := ready.get())[0] is not end:
            yield entry[0]
        if entry[1] is not None:
            raise entry[1]
    finally:
        stopped.set()
        thread.join(patience)


def decode_ahead(
    items: Iterable[T], decode: Callable[[T], Result], workers: int, ahead: int
) -> Generator[Result, None, None]:
    """Decode in threads, at most `ahead` results early, and yield the results in the order of the items.

    The items are read in the caller's thread. An error of `decode` is raised where its result would have been.

    Example:
        >>> list(decode_ahead("abc", str.upper, workers=2, ahead=2))
        ['A', 'B', 'C']
    """
    waiting: collections.deque[Future[Result]] = collections.deque()
    pool = ThreadPoolExecutor(workers, "decode")
    try:
        for item in items:
            waiting.append(pool.submit(decode, item))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def share(batch: Result) -> Result:
    """In a worker process of a `DataLoader`, move a batch's tensors to shared memory; elsewhere do nothing.

    PyTorch would do so in a thread whose errors nobody sees: the batch would be lost, and the loader would wait for it for
    ever. Whatever else fails in that thread ends the worker, which the loader notices within seconds.

    Args:
        batch: A tensor, or dicts and sequences of them.

    Raises:
        OSError: Shared memory is full.
    """
    import torch
    from torch.utils.data import get_worker_info

    if get_worker_info() is None:
        return batch
    multiprocessing.queues.Queue._on_queue_feeder_error = staticmethod(_end_process)  # type: ignore[attr-defined]
    parts: list[Any] = [batch]
    try:
        for part in parts:
            if isinstance(part, torch.Tensor):
                part.share_memory_()
            elif isinstance(part, (Mapping, list, tuple)):
                parts.extend(part.values() if isinstance(part, Mapping) else part)
    except RuntimeError as error:
        raise OSError(f"{SHARED_MEMORY_FULL} ({error})") from error
    return batch


def _end_process(error: Exception, batch: Any) -> None:
    traceback.print_exception(error)
    os._exit(0)  # a failure would be raised in the main process at any place; an end is noticed at the next batch


def decode_workers(device_type: str) -> int:
    """Return the number of threads that decode: one beside a model on the CPU, which leaves the cores to PyTorch."""
    return 1 if device_type == "cpu" else min(os.cpu_count() or 1, 8)


class ShapeBatches(Generic[T]):
    """Collect items into batches of one shape; beyond `most_bytes` the largest batch goes before it is full.

    Example:
        >>> batches = ShapeBatches(batch_size=2)
        >>> batches.add((3, 4), "a"), batches.add((5, 6), "b"), batches.add((3, 4), "c")
        (None, None, ((3, 4), ['a', 'c']))
        >>> list(batches.flush())
        [((5, 6), ['b'])]
    """

    def __init__(self, batch_size: int, most_bytes: int = MOST_BYTES):
        self.batch_size, self.most_bytes = batch_size, most_bytes
        self._items: dict[Shape, list[T]] = {}
        self._bytes: collections.Counter[Shape] = collections.Counter()

    def add(self, shape: Shape, item: T, nbytes: int = 0) -> tuple[Shape, list[T]] | None:
        """Add an item of `nbytes` bytes, and return a batch with its shape if one has to go."""
        self._items.setdefault(shape, []).append(item)
        self._bytes[shape] += nbytes
        if len(self._items[shape]) == self.batch_size:
            return self._take(shape)
        if self._bytes.total() > self.most_bytes:
            return self._take(max(self._items, key=lambda one: len(self._items[one])))
        return None

    def flush(self) -> Iterator[tuple[Shape, list[T]]]:
        """Yield the remaining items, by shape."""
        for shape in sorted(self._items):
            yield self._take(shape)

    def _take(self, shape: Shape) -> tuple[Shape, list[T]]:
        del self._bytes[shape]
        return shape, self._items.pop(shape)


class WriteBehind:
    """Run jobs in threads behind the device, a bounded number at a time. Use it in a `with` statement.

    At the end of the statement all jobs are done, and an error of a job is raised. If the statement ends by an error,
    jobs that were not begun are dropped. With one worker the jobs run in order, and none after one that failed.

    Example:
        >>> done = []
        >>> with WriteBehind(workers=1, waiting=2) as writer:
        ...     for number in range(4):
        ...         _ = writer.submit(done.append, number)
        >>> done
        [0, 1, 2, 3]
    """

    def __init__(self, workers: int, waiting: int):
        self.workers, self.waiting = workers, waiting
        self._pool = ThreadPoolExecutor(workers, "write")
        self._jobs: collections.deque[Future] = collections.deque()
        self._failed = False

    def __enter__(self) -> WriteBehind:
        return self

    def __exit__(self, kind, error, trace) -> None:
        try:
            if error is None:
                self._settle(0)
        finally:
            self._pool.shutdown(wait=True, cancel_futures=True)

    def submit(self, job: Callable[..., Result], *args: Any) -> Future[Result]:
        """Run `job(*args)` once few enough others are unfinished; an error of an earlier job is raised here."""
        self._settle(self.waiting)
        future = self._pool.submit(self._run, job, *args)
        self._jobs.append(future)
        return future

    def _run(self, job: Callable[..., Result], *args: Any) -> Result:
        if self._failed and self.workers == 1:
            raise CancelledError
        try:
            return job(*args)
        except BaseException:
            self._failed = True
            raise

    def _settle(self, most: int) -> None:
        while self._jobs and (len(self._jobs) > most or self._jobs[0].done()):
            self._jobs.popleft().result()
