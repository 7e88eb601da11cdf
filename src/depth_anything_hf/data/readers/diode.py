"""DIODE: laser-scanned indoor and outdoor scenes, npy depth with a validity mask."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from depth_anything_hf.data.readers.base import Samples, check_choice, find, make_sample, read_rgb, reading
from depth_anything_hf.data.records import DepthSample

LAYOUT = (
    "Expected: val/indoors/scene_00019/scan_00183/NAME.png with NAME_depth.npy and NAME_depth_mask.npy, and val/outdoor "
    "likewise, from https://diode-dataset.org."
)
INTRINSICS = (886.81, 927.06, 512.0, 384.0)  # intrinsics.txt of diode-dataset/diode-devkit; the middle of 1024 x 768
_FOLDERS = {"all": ("indoors", "outdoor"), "indoors": ("indoors",), "outdoor": ("outdoor",)}
_OFFICIAL = {"all": 771, "indoors": 325, "outdoor": 446}  # of "val"


def read_diode(root: str | os.PathLike, split: str = "val", domain: str = "all") -> Samples[DepthSample]:
    """Read DIODE.

    Args:
        root: Folder of `train` or `val`.
        split: "train" or "val" (771 images: 325 indoors, 446 outdoor).
        domain: "indoors", "outdoor", or "all". The published numbers of Depth Anything look like "indoors" alone.

    Returns:
        Samples of 768 x 1024 pixels, meters, valid where the dataset's mask is set; `group` is the scene.

    Raises:
        ValueError: Unknown split or domain.
        FileNotFoundError: No image.
        OSError: A file is broken.

    Source: Vasiljevic et al., DIODE, arXiv 1908.00463; diode-dataset/diode-devkit.
    """
    check_choice("split", split, ("train", "val"))
    check_choice("domain", domain, _FOLDERS)
    root = Path(root).expanduser()
    entries = find(root, *(f"{split}/{folder}/scene_*/scan_*/*_depth.npy" for folder in _FOLDERS[domain]))
    official = _OFFICIAL[domain] if split == "val" else None
    name = split if domain == "all" else f"{split} {domain}"
    return Samples("diode", name, root, LAYOUT, entries, _read, official=official)


def _read(root: Path, name: str) -> DepthSample:
    stem = name.removesuffix("_depth.npy")
    values, mask = _plane(root / name), _plane(root / f"{stem}_depth_mask.npy")
    image, scene = read_rgb(root / f"{stem}.png"), name.split("/")[2]
    return make_sample(image, values, f"{stem}.png", scene, mask=mask > 0, intrinsics=INTRINSICS)


def _plane(path: Path) -> np.ndarray:
    """Read (height, width) or (height, width, 1)."""
    with reading(path):
        array = np.load(path, allow_pickle=False)
        return array.reshape(array.shape[:2]) if array.ndim == 3 else array
