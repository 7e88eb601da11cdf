"""Data of `train_mini.py`: rendered worlds kept on disk, and photographs out of Debian packages."""

from __future__ import annotations

import multiprocessing
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset
from tqdm.auto import tqdm

from depth_anything_hf.data.records import DepthSample
from depth_anything_hf.data.worlds.rendering import WorldStyle, render_worlds

CHUNK = 256  # worlds of a file
# Photographs with free licences; the file copyright in each package says whose each is.
PACKAGES = ("gnome-backgrounds", "mate-backgrounds", "plasma-workspace-wallpapers", "ukui-wallpapers", "gcompris-qt-data")


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


def render_to(folder: Path, count: int, size: tuple[int, int], style: WorldStyle, device: str, processes: int) -> None:
    """Render worlds 0 to `count` into a folder, part by part; what is there already stays.

    Args:
        folder: Where.
        count: How many, rounded up to whole files.
        size: Height and width, pixels.
        style: What is rendered.
        device: Of the renderer; on a GPU one process renders large batches.
        processes: On a CPU.
    """
    folder.mkdir(parents=True, exist_ok=True)
    batch = 2 if device == "cpu" else 64
    parts = [part for part in range(-(-count // CHUNK)) if not all(path.is_file() for path in files_of(folder, part))]
    tasks = [(folder, part, size, style, device, batch) for part in parts]
    with tqdm(total=len(tasks) * CHUNK, desc=f"render {folder.name}", unit="world") as bar:
        if device != "cpu" or processes < 2:
            for task in tasks:
                _render_part(task)
                bar.update(CHUNK)
            return
        with multiprocessing.get_context("spawn").Pool(processes) as pool:
            for _ in pool.imap_unordered(_render_part, tasks):
                bar.update(CHUNK)


def fetch_photographs(folder: Path, packages: tuple[str, ...] = PACKAGES, longest: int = 768) -> Path:
    """Fetch photographs with apt-get, as JPEG files of at most `longest` pixels; what is there already stays.

    Args:
        folder: Where.
        packages: Of Debian.
        longest: Of a picture's sides, pixels.

    Returns:
        The folder. A package that cannot be had is left out, and said so.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for package in packages:
        done = folder / f".{package}"
        if done.exists():
            continue
        with tempfile.TemporaryDirectory() as work:
            try:
                subprocess.run(["apt-get", "download", "-qq", package], cwd=work, check=True, capture_output=True)
                archive = next(Path(work).glob("*.deb"))
                subprocess.run(["dpkg-deb", "-x", str(archive), work], check=True, capture_output=True)
            except (OSError, subprocess.CalledProcessError, StopIteration) as error:
                print(f"{package} cannot be had ({error}); going on without its photographs.")
                continue
            _keep_photographs(Path(work), folder, package, longest)
        done.touch()
    return folder


def _keep_photographs(unpacked: Path, folder: Path, package: str, longest: int) -> None:
    """Keep what looks like a photograph: large, of many colours, grainy as no drawing is; each picture once."""
    seen = set()
    for path in sorted(unpacked.rglob("*")):
        if path.suffix.lower() not in (".jpg", ".jpeg", ".png", ".webp") or path.is_symlink():
            continue
        try:
            image = Image.open(path)
            if min(image.size) < 240:
                continue
            image.draft("RGB", (longest, longest))
            image = image.convert("RGB")
        except (OSError, ValueError, Image.DecompressionBombError):
            continue
        image.thumbnail((longest, longest))
        thumb = np.asarray(image.resize((16, 16)))
        key = (thumb // 48).tobytes()
        if key in seen or not looks_photographic(image):
            continue
        seen.add(key)
        image.save(folder / f"{package}_{len(seen):03d}.jpg", quality=92)


def looks_photographic(image: Image.Image) -> bool:
    """Say whether a picture has the grain and the colours of a photograph: drawings have flat areas."""
    pixels = np.asarray(image.resize((256, 192)), np.float32)
    flat = (np.abs(np.diff(pixels, axis=1)).max(-1) < 0.5).mean()
    colors = len(np.unique((pixels // 8).astype(np.int64) @ (1, 32, 1024)))
    return bool(flat < 0.25 and colors > 400)
