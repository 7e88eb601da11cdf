"""MegaDepth v1: photographs of landmarks with depth from multi-view stereo, in HDF5 files."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from depth_anything_hf.data.readers.base import (
    Samples,
    find_below,
    make_sample,
    of_unknown_scale,
    read_hdf5,
    read_rgb,
)
from depth_anything_hf.data.records import DepthSample

LAYOUT = (
    "Expected: 0000/dense0/imgs/NAME.jpg and 0000/dense0/depths/NAME.h5, or above them phoenix/S6/zl548/MegaDepth_v1, from "
    "https://www.cs.cornell.edu/projects/megadepth."
)
SMALLEST = 1e-8  # of a depth that counts, as in the official evaluation
MOST_LEVELS = 8  # distinct whole numbers in an ordinal map


def read_megadepth(root: str | os.PathLike, trim: float = 0.0) -> Samples[DepthSample]:
    """Read MegaDepth v1.

    The unit of depth is another one in each reconstruction, so labels are inverse depth, in space "disparity": a metric model
    refuses them. Sky and what was not reconstructed are 0 in the file and have no label.

    About 30 % of the maps are ordinal: they only say what is in front of what. They lie among the others under the same
    names; such an image comes without a label.

    Args:
        root: Folder of the scenes `0000`, ..., or the unpacked archive's.
        trim: Percent of the depths of each map that are left out at the near and at the far end, 0 to 50; the official
            evaluation leaves out 1 below and 2 above.

    Returns:
        Samples of their image's size; `group` is the scene.

    Raises:
        FileNotFoundError: No depth map, or an image is missing.
        OSError: A file is broken.
        ImportError: h5py is not installed.

    Source: Li and Snavely, MegaDepth, CVPR 2018; zhengqili/MegaDepth, data/image_folder.py. Ordinal maps: its issues 1, 38.
    """
    root = Path(root).expanduser()
    names = find_below(root, "dense*/depths/*.h5", levels=6)
    images = {
        (folder, path.stem): f"{folder.as_posix()}/imgs/{path.name}"
        for folder in {Path(name).parent.parent for name in names}
        for path in (root / folder / "imgs").glob("*")
    }
    entries = []
    for name in names:
        folder, stem = Path(name).parent.parent, Path(name).stem
        entries.append((name, images.get((folder, stem), f"{folder.as_posix()}/imgs/{stem}.jpg"), trim))
    return Samples("megadepth", "all", root, LAYOUT, entries, _read)


def is_ordinal(depth: np.ndarray) -> bool:
    """Return whether a map, (height, width), tells an order only: it has negative values, or few whole numbers.

    Example:
        >>> is_ordinal(np.array([[-1.0, 2.5]])), is_ordinal(np.array([[0, 1, 2]])), is_ordinal(np.array([[0, 1.5]]))
        (True, True, False)
    """
    return bool(depth.min() < 0 or ((depth == np.rint(depth)).all() and len(np.unique(depth)) <= MOST_LEVELS))


def _read(root: Path, entry: tuple[str, str, float]) -> DepthSample:
    name, source, trim = entry
    depth = read_hdf5(root / name, lambda file: file["depth"][:])
    mask = np.isfinite(depth) & (depth > SMALLEST) & (not is_ordinal(depth))
    if trim and mask.any():
        near, far = np.percentile(depth[mask], (trim, 100 - trim))
        mask &= (depth >= near) & (depth <= far)
    image, scene = read_rgb(root / source), (root / name).parts[-4]
    return of_unknown_scale(make_sample(image, depth, source, scene, mask=mask))
