"""NYU Depth V2, the labeled set: one HDF5 file of 1,449 images and the official split."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from depth_anything_hf.data.readers.base import (
    Samples,
    check_choice,
    half_integer_intrinsics,
    import_extra,
    make_sample,
    read_hdf5,
    reading,
    require,
)
from depth_anything_hf.data.records import DepthSample

IMAGES, SPLITS = "nyu_depth_v2_labeled.mat", "splits.mat"
LAYOUT = (
    f"Expected: {IMAGES} and {SPLITS} in one folder, from "
    "https://cs.nyu.edu/~fergus/datasets/nyu_depth_v2.html (labeled dataset; train/test split)."
)
# Of the RGB camera, from camera_params.m of the NYU toolbox, which counts pixels from 1.
INTRINSICS = half_integer_intrinsics(
    5.1885790117450188e02, 5.1946961112127485e02, 3.2558244941119034e02, 2.5373616633400465e02, first_center=1
)
_INDICES = {"train": "trainNdxs", "test": "testNdxs"}
_OFFICIAL = {"train": 795, "test": 654}
_DEPTHS = {"raw": "rawDepths", "filled": "depths"}


def read_nyuv2(root: str | os.PathLike, split: str = "test", labels: str = "raw") -> Samples[DepthSample]:
    """Read NYU Depth V2.

    Args:
        root: Folder of `nyu_depth_v2_labeled.mat` and `splits.mat`.
        split: "train" (795 images) or "test" (654).
        labels: "raw" (the sensor's values, projected into the RGB camera; 0 = none) or "filled" (inpainted, dense).

    Returns:
        Samples of 480 x 640 pixels, meters; `group` is the scene, `source` counts images from 1 as `splits.mat` does.

    Raises:
        ValueError: Unknown split or labels.
        FileNotFoundError: A file is missing.
        OSError: A file is broken.
        ImportError: h5py or scipy is not installed.

    Source: Silberman et al., Indoor Segmentation and Support Inference from RGBD Images, ECCV 2012.
    """
    check_choice("split", split, _INDICES)
    check_choice("labels", labels, _DEPTHS)
    root = Path(root).expanduser()
    count = read_hdf5(require(root / IMAGES, LAYOUT), lambda file: len(file["images"]))
    split_file = require(root / SPLITS, LAYOUT)
    scipy_io = import_extra("scipy.io")
    with reading(split_file):
        numbers = scipy_io.loadmat(split_file)[_INDICES[split]].ravel().astype(int)  # from 1
    if numbers.size and not (numbers.min() >= 1 and numbers.max() <= count):
        raise ValueError(
            f"{split_file} names images {numbers.min()} to {numbers.max()}; {IMAGES} has 1 to {count}: the two files "
            "must be of one download."
        )
    entries = [(int(number) - 1, _DEPTHS[labels]) for number in numbers]
    return Samples("nyuv2", split, root, LAYOUT, entries, _read, official=_OFFICIAL[split])


def _read(root: Path, entry: tuple[int, str]) -> DepthSample:
    index, depths = entry
    pixels, values, group = read_hdf5(
        root / IMAGES, lambda file: (file["images"][index], file[depths][index], _scene(file, index))
    )
    # Matlab stores columns first: (3, width, height) and (width, height).
    image = Image.fromarray(np.ascontiguousarray(pixels.transpose(2, 1, 0)))
    return make_sample(image, values.T, f"{IMAGES}#{index + 1}", group, intrinsics=INTRINSICS)


def _scene(file: Any, index: int) -> str | None:
    """Follow the reference of a cell array to its text."""
    if "scenes" not in file:
        return None
    text = file[np.asarray(file["scenes"]).ravel()[index]]
    return "".join(map(chr, np.asarray(text).ravel()))
