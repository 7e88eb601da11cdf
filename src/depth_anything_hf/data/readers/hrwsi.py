"""HR-WSI: photographs from the web with disparity from stereo pairs, 8-bit, of unknown scale and shift."""

from __future__ import annotations

import os
from pathlib import Path

from depth_anything_hf.data.readers.base import Samples, check_choice, find, make_sample, read_gray, read_rgb
from depth_anything_hf.data.records import DepthSample

LAYOUT = (
    "Expected: train/imgs/NAME.jpg, train/gts/NAME.png and train/valid_masks/NAME.png, and val likewise, from "
    "https://github.com/KexianHust/Structure-Guided-Ranking-Loss."
)


def read_hrwsi(root: str | os.PathLike, split: str = "all") -> Samples[DepthSample]:
    """Read HR-WSI.

    Stereo gives the sky near values in some images: add sky masks of a segmentation model, as V1 does.

    Args:
        root: Folder of `train` and `val`.
        split: "train" (20,378 images), "val" (400), or "all".

    Returns:
        Samples in space "disparity", 0 to 255 as stored, larger = nearer, valid where the set's mask is not 0. `group` is
        None.

    Raises:
        ValueError: Unknown split.
        FileNotFoundError: No map, or an image or a mask is missing.
        OSError: A file is broken.

    Source: Xian et al., Structure-Guided Ranking Loss for Single Image Depth Prediction, CVPR 2020.
    """
    check_choice("split", split, ("train", "val", "all"))
    root = Path(root).expanduser()
    entries = find(root, *(f"{part}/gts/*.png" for part in (("train", "val") if split == "all" else (split,))))
    return Samples("hrwsi", split, root, LAYOUT, entries, _read)


def _read(root: Path, name: str) -> DepthSample:
    split, _, file = name.split("/")
    source = f"{split}/imgs/{Path(file).stem}.jpg"
    mask = read_gray(root / split / "valid_masks" / file) > 0
    return make_sample(read_rgb(root / source), read_gray(root / name), source, None, mask=mask, space="disparity")
