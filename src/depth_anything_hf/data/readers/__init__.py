"""Readers of benchmarks and training sets in their official layouts, one file each; `open_reader` finds one by its name."""

from __future__ import annotations

import importlib
import os
from typing import Any

from depth_anything_hf.data.readers.base import Samples, check_choice

READERS = {
    name: f"depth_anything_hf.data.readers.{name}:read_{name}"
    for name in (
        "nyuv2",
        "kitti",
        "hypersim",
        "vkitti2",
        "diode",
        "eth3d",
        "sintel",
        "ddad",
        "blendedmvs",
        "diml",
        "hrwsi",
        "irs",
        "megadepth",
        "tartanair",
        "sunrgbd",
        "ibims1",
        "arkitscenes",
        "scannet",
        "scannetpp",
        "colmap",
        "da2k",
    )
}


def open_reader(name: str, root: str | os.PathLike, **options: Any) -> Samples:
    """Open a benchmark by its name.

    Args:
        name: One of `READERS`.
        root: Folder of the benchmark's official layout.
        **options: Arguments of the benchmark's own function: `split`, `labels`, ...

    Returns:
        The samples: `PointPairs` for "da2k", `DepthSample` for the others. Sets whose depth has no known unit
        ("blendedmvs", "megadepth") or no known scale and shift ("hrwsi") are in space "disparity".

    Raises:
        ValueError: No such benchmark, or a value that the reader does not know.
        TypeError: An option that the reader does not have.
        FileNotFoundError: A file of the layout is missing.

    Example:
        >>> READERS["sintel"]
        'depth_anything_hf.data.readers.sintel:read_sintel'
    """
    check_choice("benchmark", name, READERS)
    module, function = READERS[name].split(":")
    return getattr(importlib.import_module(module), function)(root, **options)
