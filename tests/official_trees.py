"""Small folders in the official layout of each set that the papers' teachers learn from, one photograph with depth each.

Written with the packages that users of the formats have, never with the readers' own code.
"""

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import OpenEXR
from PIL import Image


def write_tree(name: str, root: Path, image: Image.Image, depth: np.ndarray) -> Path:
    """Write one sample of the set `name`: an RGB image and (height, width) float meters, infinity = sky."""
    WRITERS[name](root, image, depth)
    return root


def _place(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _without_sky(depth: np.ndarray) -> np.ndarray:
    return np.where(np.isfinite(depth), depth, 0)


def _save_millimeters(path: Path, depth: np.ndarray) -> None:
    Image.fromarray(np.rint(_without_sky(depth) * 1000).clip(0, 65535).astype(np.uint16)).save(_place(path))


def _blendedmvs(root: Path, image: Image.Image, depth: np.ndarray) -> None:
    scene = root / "5a3ca9cb270f0e3f14d0eddb"
    image.save(_place(scene / "blended_images" / "00000000.jpg"))
    planes = Image.fromarray((_without_sky(depth) / 3.7).astype(np.float32))  # in the scene's own unit
    planes.save(_place(scene / "rendered_depth_maps" / "00000000.pfm"))


def _diml(root: Path, image: Image.Image, depth: np.ndarray) -> None:
    indoor, outdoor = root / "indoor/1. Kitchen/170310/1", root / "outdoor/170721_C0/A"
    image.save(_place(indoor / "col" / "a_c.png"))
    _save_millimeters(indoor / "up_png" / "a_ud.png", depth)
    image.save(_place(outdoor / "left" / "a_left.png"))
    _save_millimeters(outdoor / "depth" / "a_depth.png", depth)
    Image.new("L", image.size, 255).save(_place(outdoor / "conf" / "a_conf.png"))


def _hrwsi(root: Path, image: Image.Image, depth: np.ndarray) -> None:
    image.save(_place(root / "train/imgs/a.jpg"))
    disparity = 1 / depth  # 0 in the sky
    Image.fromarray(np.rint(disparity / disparity.max() * 255).astype(np.uint8)).save(_place(root / "train/gts/a.png"))
    Image.new("L", image.size, 255).save(_place(root / "train/valid_masks/a.png"))


def _irs(root: Path, image: Image.Image, depth: np.ndarray) -> None:
    image.save(_place(root / "Home/House1/l_00001.png"))
    disparity = OpenEXR.File({}, {"G": (48 / depth).astype(np.float32)})
    disparity.write(str(root / "Home/House1/d_00001.exr"))


def _megadepth(root: Path, image: Image.Image, depth: np.ndarray) -> None:
    image.save(_place(root / "0000/dense0/imgs/a.jpg"))
    with h5py.File(_place(root / "0000/dense0/depths/a.h5"), "w") as file:
        file["depth"] = (_without_sky(depth) / 2.9).astype(np.float32)


def _tartanair(root: Path, image: Image.Image, depth: np.ndarray) -> None:
    folder = root / "abandonedfactory/Easy/P000"
    image.save(_place(folder / "image_left/000000_left.png"))
    dome = np.where(np.isfinite(depth), depth, 10000).astype("<f4")
    np.save(_place(folder / "depth_left/000000_left_depth.npy"), dome)


def _hypersim(root: Path, image: Image.Image, depth: np.ndarray) -> None:
    images = root / "ai_001_001/images"
    image.resize((1024, 768)).save(_place(images / "scene_cam_00_final_preview/frame.0000.tonemap.jpg"))
    distance = np.where(np.isfinite(depth), depth, np.nan).astype(np.float32)
    distance = np.asarray(Image.fromarray(distance).resize((1024, 768), Image.Resampling.NEAREST))
    with h5py.File(_place(images / "scene_cam_00_geometry_hdf5/frame.0000.depth_meters.hdf5"), "w") as file:
        file["dataset"] = distance.astype(np.float16)


def _vkitti2(root: Path, image: Image.Image, depth: np.ndarray) -> None:
    frames = root / "Scene01/clone/frames"
    image.save(_place(frames / "rgb/Camera_0/rgb_00000.jpg"))
    codes = np.rint(np.minimum(depth * 100, 65535)).astype(np.uint16)
    Image.fromarray(codes).save(_place(frames / "depth/Camera_0/depth_00000.png"))


WRITERS: dict[str, Callable[[Path, Image.Image, np.ndarray], None]] = {
    "blendedmvs": _blendedmvs,
    "diml": _diml,
    "hrwsi": _hrwsi,
    "hypersim": _hypersim,
    "irs": _irs,
    "megadepth": _megadepth,
    "tartanair": _tartanair,
    "vkitti2": _vkitti2,
}
