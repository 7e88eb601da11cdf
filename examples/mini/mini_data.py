"""Data of `train_mini.py`: rendered worlds, stored on disk or rendered for each batch."""

from __future__ import annotations

import functools
import json
import math
import multiprocessing
import signal
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset
from tqdm.auto import tqdm

from depth_anything_hf.data.records import DepthSample
from depth_anything_hf.scenes.worlds.rendering import WorldStyle, render_worlds

CHUNK = 256  # worlds of a file


@dataclass(frozen=True)
class Worlds:
    """Describe a set of worlds.

    Args:
        count: Number of different worlds.
        size: Height and width, pixels.
        first: Seed of the first world.
        style: Style of the worlds.
    """

    count: int
    size: tuple[int, int]
    first: int = 0
    style: WorldStyle = field(default_factory=WorldStyle)


class RenderedWorlds(Dataset):
    """Read the worlds that `render_to` wrote, as labeled records.

    Args:
        folder: Folder of the worlds.
        count: Number of worlds to use.
    """

    def __init__(self, folder: Path, count: int):
        self.folder, self.count = Path(folder), count
        missing = [path.name for part in self._parts() for path in files_of(self.folder, part) if not path.is_file()]
        if missing:
            raise FileNotFoundError(f"{folder} lacks {missing[:3]}; render the worlds again with the same command.")

    def _parts(self) -> range:
        return range(-(-self.count // CHUNK))

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> DepthSample:
        images, disparity = (_opened(path, path.stat().st_mtime_ns) for path in files_of(self.folder, index // CHUNK))
        return as_sample(images[index % CHUNK], disparity[index % CHUNK], index)


class LiveWorlds(Dataset):
    """Render the worlds of each batch together when it is needed, as labeled records, and keep none.

    The records equal those of `render_to`, except for the last bits on a GPU.

    Args:
        worlds: Worlds to render.
        device: Device of the renderer.
    """

    def __init__(self, worlds: Worlds, device: str):
        self.worlds, self.device = worlds, device

    def __len__(self) -> int:
        return self.worlds.count

    def __getitems__(self, indices: list[int]) -> list[DepthSample]:
        arrays = render_arrays(self.worlds, indices, self.device)
        return [as_sample(*one) for one in zip(*arrays, indices, strict=True)]

    def __getitem__(self, index: int) -> DepthSample:
        return self.__getitems__([index])[0]


def as_sample(image: np.ndarray, disparity: np.ndarray, index: int) -> DepthSample:
    """Return the record of a world; the sky has disparity 0."""
    values = disparity.astype(np.float32)
    mask = np.ones(values.shape, bool)
    return DepthSample(Image.fromarray(image), values, mask, "disparity", source=f"world:{index}")


def render_arrays(worlds: Worlds, indices: Sequence[int], device: str) -> tuple[np.ndarray, np.ndarray]:
    """Render some worlds together: images `(worlds, height, width, 3)` uint8, disparity `(worlds, height, width)` float16."""
    scenes = render_worlds([worlds.first + index for index in indices], *worlds.size, worlds.style, device)
    disparity = torch.where(scenes.sky, 0, 1 / scenes.depth)
    return scenes.images.permute(0, 2, 3, 1).numpy(), disparity.numpy().astype(np.float16)


def files_of(folder: Path, part: int) -> tuple[Path, Path]:
    """Return the files of a part, one for each array of `render_arrays`: images and disparity."""
    return folder / f"{part:05d}_images.npy", folder / f"{part:05d}_disparity.npy"


@functools.cache
def _opened(path: Path, written: int) -> np.ndarray:
    """Open a file once per process, and again if it was rewritten."""
    return np.load(path, mmap_mode="r")


def _start_worker() -> None:
    """Use one thread, and leave Ctrl-C to the parent process."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _render_part(task: tuple[Path, Worlds, int, str, int]) -> None:
    """Render one part and write it under its final name when complete."""
    folder, worlds, part, device, batch = task
    starts = range(part * CHUNK, (part + 1) * CHUNK, batch)
    rendered = [render_arrays(worlds, range(start, start + batch), device) for start in starts]
    for path, arrays in zip(files_of(folder, part), zip(*rendered, strict=True), strict=True):
        with tempfile.NamedTemporaryFile(dir=folder, suffix=".partial", delete=False) as file:
            np.save(file, np.concatenate(arrays))
        Path(file.name).replace(path)


def render_to(folder: Path, worlds: Worlds, device: str, processes: int, until: float = math.inf) -> bool:
    """Render worlds into a folder, part by part, rounded up to whole files; existing files stay.

    Args:
        folder: Output folder.
        worlds: Worlds to render.
        device: Device of the renderer; on a GPU one process renders large batches.
        processes: Number of processes on a CPU.
        until: `time.monotonic()` after which no further part is started.

    Returns:
        Whether all worlds are there.

    Raises:
        ValueError: The folder has worlds of another size, seed or style.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _check_kept(folder / "worlds.json", worlds)
    batch = 1 if device == "cpu" else 64
    parts = range(-(-worlds.count // CHUNK))
    missing = [part for part in parts if not all(path.is_file() for path in files_of(folder, part))]
    tasks = [(folder, worlds, part, device, batch) for part in missing]
    with tqdm(total=len(tasks) * CHUNK, desc=f"render {folder.name}", unit="world") as bar:
        if device != "cpu" or min(processes, len(tasks)) < 2:
            return all(_in_time(bar, until) for _ in map(_render_part, tasks))
        with multiprocessing.get_context("spawn").Pool(processes, _start_worker) as pool:
            return all(_in_time(bar, until) for _ in pool.imap_unordered(_render_part, tasks))


def _check_kept(path: Path, worlds: Worlds) -> None:
    """Write the description of the files beside them, and raise a `ValueError` if another one is there."""
    asked = json.dumps({name: value for name, value in asdict(worlds).items() if name != "count"})
    if path.is_file() and path.read_text() != asked:
        raise ValueError(
            f"{path.parent} holds other worlds: {path.read_text()} instead of {asked}. Delete it, or use another --out."
        )
    path.write_text(asked)


def _in_time(bar: tqdm, until: float) -> bool:
    """Count a part; return True if it was the last, or if there is time for another."""
    bar.update(CHUNK)
    return bar.n >= bar.total or time.monotonic() < until
