"""iBims-1: 100 photographs of rooms with laser-scanned depth, as PNG files or as Matlab files."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from PIL import Image

from depth_anything_hf.data.image_files import opened_image
from depth_anything_hf.data.readers.base import (
    Samples,
    find,
    import_extra,
    make_sample,
    matrix_intrinsics,
    read_codes,
    read_intrinsics,
    read_rgb,
    reading,
)
from depth_anything_hf.data.records import DepthSample

LIST = "imagelist.txt"
LAYOUT = (
    "Expected: rgb/corridor_01.png with depth, mask_invalid and mask_transp of the same name and calib/corridor_01.txt "
    f"(ibims1_core_raw.zip), or corridor_01.mat (ibims1_core_mat.zip), and {LIST} if not all are wanted, from "
    "https://mediatum.ub.tum.de/1455541."
)
METERS_PER_CODE = 50 / 65535
_OFFICIAL = 100


def read_ibims1(root: str | os.PathLike) -> Samples[DepthSample]:
    """Read iBims-1, from the folder of either of its two forms.

    Args:
        root: Folder of `rgb`, `depth`, `mask_invalid` and `mask_transp`, or of the `.mat` files. With `imagelist.txt` in it
            only the images named there are taken.

    Returns:
        Samples of 480 x 640 pixels, meters, up to 50. A pixel is a label where both masks are nonzero and depth is above 0:
        `mask_invalid` is set where depth is *valid*, `mask_transp` where nothing is transparent. `intrinsics` is None where
        `calib` is missing. `left_out` counts images that are listed but missing. Of repacked files in millimeters the values
        would be 24 % too small, which nothing in a file shows: take the official ones.

    Raises:
        FileNotFoundError: No image, or a file is missing.
        OSError: A file is broken.
        ImportError: scipy is not installed, which the Matlab files need.

    Source: Koch et al., Evaluation of CNN-based Single-Image Depth Estimation Methods, ECCV Workshops 2018; its evaluation
    scripts.
    """
    root = Path(root).expanduser()
    here = find(root, "depth/*.png") or find(root, "*.mat")
    missing = 0
    if (root / LIST).is_file():
        with reading(root / LIST):
            wanted = set((root / LIST).read_text(encoding="utf-8").split())
        here = [name for name in here if Path(name).stem in wanted]
        missing = len(wanted) - len(here)
    return Samples("ibims1", "core", root, LAYOUT, here, _read, missing, _OFFICIAL)


def _read(root: Path, name: str) -> DepthSample:
    return _read_matlab(root, name) if name.endswith(".mat") else _read_raw(root, name)


def _read_raw(root: Path, name: str) -> DepthSample:
    source = name.replace("depth/", "rgb/")
    valid, opaque = (
        _nonzero(root / name.replace("depth/", f"{folder}/")) for folder in ("mask_invalid", "mask_transp")
    )
    values = read_codes(root / name) * METERS_PER_CODE
    calibration = (root / name.replace("depth/", "calib/")).with_suffix(".txt")
    intrinsics = read_intrinsics(calibration, first_center=1) if calibration.is_file() else None
    return make_sample(read_rgb(root / source), values, source, None, mask=valid & opaque, intrinsics=intrinsics)


def _nonzero(path: Path) -> np.ndarray:
    with reading(path), opened_image(path) as image:
        return np.asarray(image) != 0


def _read_matlab(root: Path, name: str) -> DepthSample:
    scipy_io = import_extra("scipy.io")
    with reading(root / name), open(root / name, "rb") as file:
        data = scipy_io.loadmat(file)["data"][0, 0]
        image, values, valid, opaque, matrix = (
            data[key] for key in ("rgb", "depth", "mask_invalid", "mask_transp", "calib")
        )
        mask = (valid != 0) & (opaque != 0)
        intrinsics = matrix_intrinsics(matrix, first_center=1)  # the evaluation scripts count from 1
    return make_sample(Image.fromarray(image), values, name, None, mask=mask, intrinsics=intrinsics)
