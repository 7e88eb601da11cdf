"""Make a point cloud of a room from one photograph, and measure in it.

    python examples/point_cloud.py room.jpg --fov 65 --out room.ply --measure 410 620 980 655

A metric model predicts meters, and the field of view gives each pixel a direction; together they give each pixel a place in
space. The measured distance is the one between two such places. Its limits: docs/point_clouds.md.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

from depth_anything_hf.data.codes import read_photograph
from depth_anything_hf.maps.geometry import unproject
from depth_anything_hf.pictures.point_cloud import (
    intrinsics_from_exif,
    intrinsics_from_fov,
    point_cloud,
    save_glb,
    save_ply,
)
from depth_anything_hf.prediction.predictor import DepthPredictor


def make_parser() -> argparse.ArgumentParser:
    """Build the parser."""
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0],
        epilog="example:\n  python examples/point_cloud.py room.jpg --fov 65 --out room.glb",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("image", type=Path, help="the photograph")
    parser.add_argument(
        "--model",
        default="depth-anything/Depth-Anything-V2-Metric-Indoor-Small-hf",
        help="metric model: Hub id or folder (default: %(default)s)",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="FILE.ply or FILE.glb")
    parser.add_argument("--fov", type=float, help="horizontal field of view, degrees (default: from the EXIF data)")
    parser.add_argument(
        "--edge-threshold",
        type=float,
        default=0.05,
        help="largest jump of depth on a surface, as a share (default: 0.05)",
    )
    parser.add_argument(
        "--measure",
        type=int,
        nargs=4,
        metavar=("X1", "Y1", "X2", "Y2"),
        help="print the distance between two pixels, in meters",
    )
    return parser


def distance(depth: torch.Tensor, intrinsics: torch.Tensor, pixels: list[int]) -> float:
    """Measure the distance in meters between two pixels `[x1, y1, x2, y2]` of a depth map `(height, width)`."""
    x1, y1, x2, y2 = pixels
    height, width = depth.shape
    if not (0 <= x1 < width and 0 <= x2 < width and 0 <= y1 < height and 0 <= y2 < height):
        raise ValueError(
            f"pixels {pixels} are not all inside an image of {width} x {height}; count from the top left."
        )
    places = unproject(depth[None], intrinsics)[0]
    return (places[y1, x1] - places[y2, x2]).norm().item()


def main(arguments: list[str] | None = None) -> int:
    """Parse and run."""
    options = make_parser().parse_args(arguments)
    saves = {".ply": save_ply, ".glb": save_glb}
    if options.out.suffix not in saves:
        raise ValueError(f"--out is {options.out}; it must end in .ply or .glb.")
    image = read_photograph(options.image)
    if options.fov is not None:
        intrinsics = intrinsics_from_fov(image.height, image.width, options.fov)
    else:
        intrinsics = intrinsics_from_exif(image)
    if intrinsics is None:
        raise ValueError(f"{options.image} does not say its focal length; pass --fov DEGREES (a phone: about 65).")
    predictor = DepthPredictor(options.model)
    if predictor.space != "depth":
        raise ValueError(
            f"{options.model} predicts relative disparity, in which nothing can be measured; take a metric model."
        )
    depth = predictor(image)
    points, colors = point_cloud(depth.numpy(), intrinsics, image, edge_threshold=options.edge_threshold)
    saves[options.out.suffix](options.out, points, colors)
    across = np.ptp(points, axis=0) if len(points) else np.zeros(3)
    print(f"{options.out}: {len(points)} points in {across[0]:.2f} x {across[1]:.2f} x {across[2]:.2f} m")
    if options.measure:
        print(f"distance: {distance(depth, intrinsics, options.measure):.3f} m")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
