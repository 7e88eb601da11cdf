"""SUN RGB-D: rooms seen by four depth cameras, one folder a frame, 16-bit depth with rotated bits."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np

from depth_anything_hf.data.readers.base import (
    Samples,
    check_choice,
    find,
    import_extra,
    make_sample,
    read_codes,
    read_intrinsics,
    read_rgb,
    reading,
    require,
)
from depth_anything_hf.data.records import DepthSample

SPLITS = "SUNRGBDtoolbox/traintestSUNRGBD/allsplit.mat"
LAYOUT = (
    "Expected: SUNRGBD/kv1/NYUdata/NYU0001 with image/*.jpg, depth_bfx/*.png, depth/*.png and intrinsics.txt, and for "
    f"splits {SPLITS}, from https://rgbd.cs.princeton.edu (SUNRGBD.zip, SUNRGBDtoolbox.zip)."
)
_LISTS = {"train": "alltrain", "test": "alltest"}
_OFFICIAL = {"train": 5285, "test": 5050, "all": 10335}
_DEPTHS = {"filled": "depth_bfx", "raw": "depth"}


def read_sunrgbd(root: str | os.PathLike, split: str = "test", labels: str = "filled") -> Samples[DepthSample]:
    """Read SUN RGB-D. Its frames of `kv1/NYUdata` are those of NYU Depth V2.

    Args:
        root: Folder of `SUNRGBD` and `SUNRGBDtoolbox`.
        split: "test" (5,050 frames), "train" (5,285), or "all", which needs no toolbox.
        labels: "filled" (`depth_bfx`, the toolbox' own choice) or "raw" (`depth`, the sensor's values).

    Returns:
        Samples in meters; code 0 = no label. Sizes differ by sensor. Values from 8.192 m on are kept, where the toolbox cuts
        them to 8 m: score with a cap. `left_out` counts frames of the split that are missing.

    Raises:
        ValueError: Unknown split or labels.
        FileNotFoundError: No frame, or a file is missing.
        OSError: A file is broken.
        ImportError: scipy is not installed, which a split needs.

    Source: Song et al., SUN RGB-D, CVPR 2015; read3dPoints.m of the toolbox.
    """
    check_choice("split", split, _OFFICIAL)
    check_choice("labels", labels, _DEPTHS)
    root = Path(root).expanduser()
    if split == "all":
        frames = [str(Path(name).parent) for name in find(root, "SUNRGBD/**/intrinsics.txt")]
    else:
        frames = _frames(require(root / SPLITS, LAYOUT), _LISTS[split])
    here = [(frame, _DEPTHS[labels]) for frame in frames if (root / frame).is_dir()]
    return Samples("sunrgbd", split, root, LAYOUT, here, _read, len(frames) - len(here), _OFFICIAL[split])


def decode_codes(codes: np.ndarray) -> np.ndarray:
    """Convert uint16 codes to meters, float32: a code is the millimeters with their bits rotated to the left by 3.

    Below 8.192 m this is `code / 8000`, as other readers have it; above it is not.

    Example:
        >>> decode_codes(np.array([8000, 8 * 9000 % 65536 + 8 * 9000 // 65536], dtype=np.uint16)).tolist()
        [1.0, 9.0]
    """
    return ((codes >> 3) | (codes << 13)) / np.float32(1000)


def _frames(split_file: Path, name: str) -> list[str]:
    """Read the folders of a split, listed with the authors' root and at times a slash at the end."""
    scipy_io = import_extra("scipy.io")
    with reading(split_file):
        paths = [str(np.squeeze(cell)) for cell in scipy_io.loadmat(split_file)[name].ravel()]
        return ["SUNRGBD/" + path.rstrip("/").split("/SUNRGBD/")[1] for path in paths]


def _read(root: Path, entry: tuple[str, str]) -> DepthSample:
    frame, depths = entry
    source, depth = (_only_file(root, f"{frame}/{folder}") for folder in ("image", depths))
    intrinsics = read_intrinsics(root / frame / "intrinsics.txt", first_center=1)  # Matlab's
    values = decode_codes(read_codes(root / depth))
    return make_sample(read_rgb(root / source), values, source, None, intrinsics=intrinsics)


def _only_file(root: Path, folder: str) -> str:
    """Find the file of a folder: its name differs from frame to frame."""
    found = [name for name in find(root, f"{folder}/*.*") if not Path(name).name.startswith(".")]
    if not found:
        raise FileNotFoundError(errno.ENOENT, "no such file", str(root / folder / "*"))
    if len(found) > 1:
        raise OSError(f"{root / folder} holds {len(found)} files, a frame has one: download it again.")
    return found[0]
