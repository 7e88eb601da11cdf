"""ETH3D, high-resolution multi-view training scenes: photographs with laser depth as raw floats."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from depth_anything_hf.data.readers.base import Samples, find, make_sample, read_rgb, reading
from depth_anything_hf.data.records import DepthSample

LAYOUT = (
    "Expected: courtyard/images/dslr_images/DSC_0286.JPG and courtyard/ground_truth_depth/dslr_images/DSC_0286.JPG, "
    "from https://www.eth3d.net/datasets (high-res multi-view training data: *_dslr_jpg.7z and *_dslr_depth.7z)."
)
_OFFICIAL = 454


def read_eth3d(root: str | os.PathLike) -> Samples[DepthSample]:
    """Read the training scenes of ETH3D, the only ones with depth maps (454 images of 13 scenes).

    Images and labels are of the original, distorted photographs, so there are no pinhole intrinsics.

    Args:
        root: Folder of the scenes.

    Returns:
        Samples in meters, of the image's size (most are 4032 x 6048 pixels); infinity in the file = no label; `group` is
        the scene.

    Raises:
        FileNotFoundError: No depth map, or an image is missing.
        OSError: A file is broken, or does not have the image's number of pixels.

    Source: Schöps et al., A Multi-View Stereo Benchmark with High-Resolution Images and Multi-Camera Videos, CVPR 2017;
    https://www.eth3d.net/documentation.
    """
    root = Path(root).expanduser()
    entries = find(root, "*/ground_truth_depth/dslr_images/*.JPG")
    return Samples("eth3d", "train", root, LAYOUT, entries, _read, official=_OFFICIAL)


def _read(root: Path, name: str) -> DepthSample:
    scene, _, folder, file = name.split("/")
    source = f"{scene}/images/{folder}/{file}"
    image = read_rgb(root / source)
    with reading(root / name):
        values = np.fromfile(root / name, dtype="<f4").reshape(image.height, image.width)
    return make_sample(image, values, source, scene)
