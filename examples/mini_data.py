"""Data of `train_mini.py`: rendered worlds, kept on disk."""

from __future__ import annotations

import math
import multiprocessing
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset
from tqdm.auto import tqdm

from depth_anything_hf.data.records import DepthSample
from depth_anything_hf.data.worlds.rendering import WorldStyle, render_worlds

CHUNK = 256  # worlds of a file


class RenderedWorlds(Dataset):
    """Read the worlds that `render_to` wrote, as labelled records.

    Args:
        folder: Where they lie.
        count: How many to use.
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
        images, disparity = (np.load(path, mmap_mode="r") for path in files_of(self.folder, index // CHUNK))
        values = disparity[index % CHUNK].astype(np.float32)
        image = Image.fromarray(images[index % CHUNK])
        return DepthSample(image, values, np.ones(values.shape, bool), "disparity", source=f"world:{index}")


def files_of(folder: Path, part: int) -> tuple[Path, Path]:
    """Name the files of a part: images `(worlds, height, width, 3)` uint8, disparity `(worlds, height, width)` float16."""
    return folder / f"{part:05d}_images.npy", folder / f"{part:05d}_disparity.npy"


def _render_part(task: tuple) -> None:
    """Render one part and write it whole."""
    folder, part, size, style, device, batch = task
    torch.set_num_threads(1)
    images, disparity = [], []
    for start in range(part * CHUNK, (part + 1) * CHUNK, batch):
        scenes = render_worlds(range(start, start + batch), *size, style, device)
        images.append(scenes.images.permute(0, 2, 3, 1).numpy())
        disparity.append(torch.where(scenes.sky, 0, 1 / scenes.depth).numpy().astype(np.float16))
    for path, arrays in zip(files_of(folder, part), (images, disparity), strict=True):
        with tempfile.NamedTemporaryFile(dir=folder, suffix=".partial", delete=False) as file:
            np.save(file, np.concatenate(arrays))
        Path(file.name).replace(path)


def render_to(
    folder: Path,
    count: int,
    size: tuple[int, int],
    style: WorldStyle,
    device: str,
    processes: int,
    until: float = math.inf,
) -> bool:
    """Render worlds 0 to `count` into a folder, part by part; what is there already stays.

    Args:
        folder: Where.
        count: How many, rounded up to whole files.
        size: Height and width, pixels.
        style: What is rendered.
        device: Of the renderer; on a GPU one process renders large batches.
        processes: On a CPU.
        until: `time.monotonic()` after which no part is waited for.

    Returns:
        Whether all are there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    batch = 1 if device == "cpu" else 64
    parts = [part for part in range(-(-count // CHUNK)) if not all(path.is_file() for path in files_of(folder, part))]
    tasks = [(folder, part, size, style, device, batch) for part in parts]
    with tqdm(total=len(tasks) * CHUNK, desc=f"render {folder.name}", unit="world") as bar:
        if device != "cpu" or processes < 2:
            return all(_in_time(bar, until) for _ in map(_render_part, tasks))
        with multiprocessing.get_context("spawn").Pool(processes) as pool:
            return all(_in_time(bar, until) for _ in pool.imap_unordered(_render_part, tasks))


def _in_time(bar: tqdm, until: float) -> bool:
    """Count a part, and say whether there is time for another, or it was the last."""
    bar.update(CHUNK)
    return bar.n >= bar.total or time.monotonic() < until
