"""ScanNet: RGB-D video of rooms, as `.sens` files or as the frames that its reader exports."""

from __future__ import annotations

import os
import struct
import zlib
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from depth_anything_hf.data.image_files import opened_image
from depth_anything_hf.data.readers.base import (
    Samples,
    find,
    make_sample,
    matrix_intrinsics,
    read_codes,
    read_intrinsics,
    read_rgb,
    reading,
    require,
)
from depth_anything_hf.data.records import DepthSample

LAYOUT = (
    "Expected: scene0000_00/scene0000_00.sens, or the frames that SensReader exports: scene0000_00/color/0.jpg, "
    "scene0000_00/depth/0.png and scene0000_00/intrinsic/intrinsic_color.txt; the scenes in the folder or in its scans; from "
    "https://github.com/ScanNet/ScanNet."
)
_FRAME = struct.Struct("<64x2Q2Q")  # pose, two times, bytes of the photograph, bytes of the map


def read_scannet(root: str | os.PathLike, split_file: str | os.PathLike | None = None) -> Samples[DepthSample]:
    """Read ScanNet. A scene that has exported frames is read from these, another one from its `.sens` file.

    The depth camera (640 x 480 pixels) has fewer pixels than the photograph (1296 x 968), and each keeps its own. The
    map is taken to cover the photograph, as by most users: their cameras differ by less than 1 % of the height.

    Args:
        root: Folder of the scenes, or of `scans`.
        split_file: List of scenes, one a line, such as `scannetv2_train.txt`; default: every scene in the folder.

    Returns:
        Samples in meters; code 0 = no label; `group` is the scene without the number of its scan, `intrinsics` are the
        photograph's. A scene has frames at 30 a second: `samples[::30]` takes one of each second. `left_out` counts scenes
        of the list that are missing and exported maps without a photograph.

    Raises:
        FileNotFoundError: No frame, or a file is missing.
        OSError: A file is broken, or a `.sens` file has another version or coding.

    Source: Dai et al., ScanNet, CVPR 2017; ScanNet/ScanNet, SensReader/python/SensorData.py.
    """
    root = Path(root).expanduser()
    scenes = sorted(
        path for pattern in ("scene*_*", "scans*/scene*_*") for path in root.glob(pattern) if path.is_dir()
    )
    left_out = 0
    if split_file is not None:
        listed = require(Path(split_file).expanduser(), "Expected: a text file of scenes, one a line.")
        with reading(listed):
            wanted = set(listed.read_text(encoding="utf-8").split())
        scenes = [scene for scene in scenes if scene.name in wanted]
        left_out = len(wanted) - len(scenes)
    entries: list[tuple[str, int]] = []
    for scene in scenes:
        maps = find(root, f"{scene.relative_to(root)}/depth/*.png")
        photographs = {path.stem for path in (scene / "color").glob("*.jpg")} if maps else set()
        frames = sorted((int(Path(name).stem), name) for name in maps if Path(name).stem in photographs)
        left_out += len(maps) - len(frames)
        entries += [(name, -1) for _, name in frames]
        for name in [] if maps else find(root, f"{scene.relative_to(root)}/*.sens"):
            entries += [(name, frame) for frame in range(_header(root / name)["frames"])]
    return Samples("scannet", "all" if split_file is None else listed.stem, root, LAYOUT, entries, _read, left_out)


def _read(root: Path, entry: tuple[str, int]) -> DepthSample:
    name, frame = entry
    return _read_exported(root, name) if frame < 0 else _read_sens(root, name, frame)


def _read_exported(root: Path, name: str) -> DepthSample:
    source = name.replace("/depth/", "/color/").replace(".png", ".jpg")
    image, values = read_rgb(root / source), read_codes(root / name) / np.float32(1000)
    scene = (root / name).parents[1]
    # Photographs that were exported at the size of the maps have the depth camera's numbers.
    camera = "depth" if image.size == values.shape[::-1] else "color"
    texts = (scene / "intrinsic" / f"intrinsic_{camera}.txt", scene / f"intrinsics_{camera}.txt")
    intrinsics = next((read_intrinsics(text, first_center=0) for text in texts if text.is_file()), None)
    return make_sample(image, values, source, _place(scene.name), intrinsics=intrinsics, own_pixels=True)


def _read_sens(root: Path, name: str, frame: int) -> DepthSample:
    path = root / name
    header = _header(path)
    with reading(path), open(path, "rb") as file:
        file.seek(_starts(path)[frame])
        _, _, photograph_bytes, map_bytes = _FRAME.unpack(file.read(_FRAME.size))
        with opened_image(file.read(photograph_bytes), str(path)) as opened:
            image = Image.fromarray(np.asarray(opened.convert("RGB")))
        codes = np.frombuffer(zlib.decompress(file.read(map_bytes)), dtype="<u2").reshape(header["shape"])
    values = (codes / np.float64(header["depth_shift"])).astype(np.float32)
    return make_sample(
        image, values, f"{name}#{frame}", _place(path.stem), intrinsics=header["intrinsics"], own_pixels=True
    )


def _place(scene: str) -> str:
    """Return the room of a scan: scene0000_00 and scene0000_01 show one."""
    return scene.split("_")[0]


@lru_cache(maxsize=64)
def _header(path: Path) -> dict[str, Any]:
    with reading(path), open(path, "rb") as file:
        version, name_bytes = struct.unpack("<IQ", file.read(12))
        if version != 4:
            raise ValueError(f"version is {version}, needed 4")
        file.seek(name_bytes, os.SEEK_CUR)
        color = np.frombuffer(file.read(64), "<f4").reshape(4, 4)  # then its pose, and both of the depth camera
        file.seek(192, os.SEEK_CUR)
        color_coding, depth_coding, _, _, width, height, depth_shift, frames = struct.unpack("<2i4IfQ", file.read(36))
        if color_coding not in (1, 2) or depth_coding != 1:
            raise ValueError(f"coded as {color_coding} and {depth_coding}, needed PNG or JPEG (1, 2) and zlib (1)")
        intrinsics = matrix_intrinsics(color, first_center=0)
        return {
            "frames": frames,
            "shape": (height, width),
            "depth_shift": depth_shift,
            "intrinsics": intrinsics,
            "end": file.tell(),
        }


@lru_cache(maxsize=64)
def _starts(path: Path) -> list[int]:
    """Find where each frame starts, by its predecessors' sizes."""
    header = _header(path)
    starts = [header["end"]]
    with open(path, "rb") as file:
        for _ in range(header["frames"] - 1):
            file.seek(starts[-1])
            _, _, photograph_bytes, map_bytes = _FRAME.unpack(file.read(_FRAME.size))
            starts.append(starts[-1] + _FRAME.size + photograph_bytes + map_bytes)
    return starts
