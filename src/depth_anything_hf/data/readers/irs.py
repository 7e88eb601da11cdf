"""IRS: rendered homes, offices, restaurants and stores, stereo disparity in OpenEXR files."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import numpy as np

from depth_anything_hf.data.depth_files import read_exr
from depth_anything_hf.data.readers.base import (
    Samples,
    check_choice,
    find_below,
    make_sample,
    read_rgb,
    reading,
)
from depth_anything_hf.data.records import DepthSample

LAYOUT = (
    "Expected: Home/SCENE/l_00001.png and d_00001.exr beside it, likewise Office, Restaurant and Store, and for splits "
    "lists/irs_train.list and lists/irs_test.list, from https://github.com/HKBU-HPML/IRS."
)
FOCAL, BASELINE = 480.0, 0.1  # pixels, meters

Key = tuple[str, str, int]  # set, scene, frame


def read_irs(
    root: str | os.PathLike, split: str = "all", list_file: str | os.PathLike | None = None
) -> Samples[DepthSample]:
    """Read the left images of IRS. `depth = 480 * 0.1 / disparity`, meters.

    Some frames in the download are leftovers that are on no list: have the official lists there. Some disparity maps are
    not of their image's size; these frames come without a label, with a warning.

    Args:
        root: Folder of `Home`, `Office`, ..., or of a folder that holds them.
        split: "train" (88,554), "test" (14,762), or "all": the frames of both lists, or without lists every frame.
        list_file: An official list to read in place of the split's, in the old or the new form of its names.

    Returns:
        Samples of 540 x 960 pixels; disparity <= 0 or not finite has no label; `group` is the scene. `left_out` counts
        frames of the list that are missing.

    Raises:
        ValueError: Unknown split.
        FileNotFoundError: No frame, or a split without its list.
        OSError: A file is broken.
        ImportError: OpenEXR is not installed.

    Source: Wang et al., IRS, arXiv 1912.09678; HKBU-HPML/IRS, dataloader. Focal length and baseline: its README.
    """
    check_choice("split", split, ("train", "test", "all"))
    root = Path(root).expanduser()
    here = {_key(name): name for name in find_below(root, "*/*/d_*.exr", levels=2)}
    lists = [root / "lists" / f"irs_{part}.list" for part in (("train", "test") if split == "all" else (split,))]
    if list_file is not None:
        lists = [Path(list_file).expanduser()]
    left_out = 0
    if split != "all" or list_file is not None or all(path.is_file() for path in lists):
        wanted = set().union(*map(_listed, lists))
        left_out = len(wanted - here.keys())
        here = {key: name for key, name in here.items() if key in wanted}
    return Samples("irs", split, root, LAYOUT, sorted(here.values()), _read, left_out)


def _key(name: str) -> Key:
    """Return what a frame is called in all lists: ("Home", "SCENE", 1) for "IRSDataset/Home/SCENE/d_00001.exr"."""
    *_, part, scene, file = name.split("/")
    return part, scene, int(Path(file).stem.removeprefix("d_"))


def _listed(path: Path) -> set[Key]:
    """Read a list, one line a frame: left image, right image, disparity, normals."""
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is missing; it lists the frames. Pass split='all' to read without it. {LAYOUT}"
        )
    with reading(path):
        lines = [line.split() for line in path.read_text(encoding="utf-8").splitlines()]
        return {_key(columns[2]) for columns in lines if columns}


def _read(root: Path, name: str) -> DepthSample:
    source = (Path(name).parent / Path(name).name.replace("d_", "l_", 1)).with_suffix(".png").as_posix()
    disparity = read_exr(root / name)[0]
    image = read_rgb(root / source)
    if disparity.shape != (image.height, image.width):
        warnings.warn(f"irs: {name} has shape {disparity.shape}, not its image's: read without a label.", stacklevel=2)
        disparity = np.zeros((image.height, image.width))
    with np.errstate(divide="ignore", invalid="ignore"):
        values = FOCAL * BASELINE / np.asarray(disparity, dtype=np.float64)  # of 0: infinite, and no label
    intrinsics = (FOCAL, FOCAL, image.width / 2, image.height / 2)
    return make_sample(image, values, source, Path(name).parent.name, intrinsics=intrinsics)
