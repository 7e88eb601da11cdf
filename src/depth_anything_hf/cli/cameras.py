"""The cameras of the point clouds that `predict` writes, and whether its options suffice to know them."""

from __future__ import annotations

import argparse
from pathlib import Path


def camera_of(file: Path, size: tuple[int, int], options: argparse.Namespace) -> tuple[list[float], str] | None:
    """Return the intrinsics of an upright image of `size` (height, width), and their source; None if nothing states them."""
    from PIL import Image

    from depth_anything_hf.pictures.point_cloud import intrinsics_from_exif, intrinsics_from_fov

    if options.intrinsics:
        return options.intrinsics, "--intrinsics"
    if options.fov is not None:
        return intrinsics_from_fov(*size, options.fov)[0].tolist(), f"--fov {options.fov:g}"
    with Image.open(file) as image:
        found = intrinsics_from_exif(image)
    return None if found is None else (found[0].tolist(), "EXIF FocalLengthIn35mmFilm")


def check_cameras(files: list[Path], options: argparse.Namespace) -> None:
    """Raise a `ValueError` before any work if the camera of some image is not known."""
    from PIL import ExifTags, Image

    sizes = set()
    for file in files:
        try:
            with Image.open(file) as image:
                turned = image.getexif().get(ExifTags.Base.Orientation, 1) >= 5  # a quarter turn
                sizes.add(image.size[::-1] if turned else image.size)
            camera = camera_of(file, image.size[::-1], options)
        except (OSError, Image.DecompressionBombError):
            continue  # will be named with the unreadable ones
        if camera is None:
            raise ValueError(
                f"{file} does not say with which focal length it was taken; a point cloud needs the camera: pass --fov "
                "DEGREES (horizontal field of view; about 65 for a phone's main camera) or --intrinsics FX FY CX CY."
            )
    if options.intrinsics and len(sizes) > 1:
        raise ValueError(
            f"--intrinsics are pixels of one image size, and the images have {len(sizes)} sizes, such as "
            f"{sorted(sizes)[:2]}; run each size by itself, or pass --fov."
        )


def check_space(space: str, options: argparse.Namespace) -> None:
    """Raise a `ValueError` where a point cloud would lie about what the model knows."""
    if space == "disparity" and not options.view_depth:
        raise ValueError(
            f"{options.model} predicts disparity of unknown scale and shift, which no camera turns into metres. Take a "
            "metric model, such as depth-anything/Depth-Anything-V2-Metric-Indoor-Small-hf; or pass --view-depth 1 10 "
            "for a cloud to look at, whose shape is distorted."
        )
    if space == "depth" and options.view_depth:
        raise ValueError(f"{options.model} predicts metres; --view-depth is for relative models: leave it out.")
