"""Compare the ways to finer depth on one photograph: larger inputs, and tiles.

    python examples/high_resolution.py photo.jpg --out detail.png --resolutions 518 1036 2072 --tiles 1036 518

Writes a sheet with a part of the photograph and of each prediction. Choose the cheapest setting with the details you need, and
use it for many images with `depth-anything-hf predict --resolution` or `--tile`. More: docs/high_resolution.md.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

from depth_anything_hf.data.codes import read_photograph
from depth_anything_hf.pictures.visualization import prediction_row, sheet
from depth_anything_hf.prediction.predictor import DepthPredictor
from depth_anything_hf.prediction.tiling import predict_tiled


def make_parser() -> argparse.ArgumentParser:
    """Build the parser."""
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0],
        epilog="example:\n  python examples/high_resolution.py photo.jpg --out detail.png --crop 800 600 1400 1000",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("image", type=Path, help="the photograph")
    parser.add_argument(
        "--model",
        default="depth-anything/Depth-Anything-V2-Small-hf",
        help="Hub id or folder, relative or metric (default: %(default)s)",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.png", help="sheet to write")
    parser.add_argument(
        "--resolutions",
        type=int,
        nargs="*",
        default=[518, 1036],
        help="shorter sides of the input (default: 518 1036)",
    )
    parser.add_argument("--tiles", type=int, nargs="*", default=[518], help="sides of tiles in pixels (default: 518)")
    parser.add_argument(
        "--crop",
        type=int,
        nargs=4,
        metavar=("LEFT", "TOP", "RIGHT", "BOTTOM"),
        help="part to show, pixels (default: the middle third)",
    )
    return parser


def predict_each(
    predictor: DepthPredictor, image: Image.Image, resolutions: list[int], tiles: list[int]
) -> dict[str, np.ndarray]:
    """Return names of all settings and their predictions `(height, width)`; tiles have the checkpoint's own input size."""
    found = {}
    for tile in tiles:
        tiled = predict_tiled(predictor, image, tile)
        note = f", {tiled.unfit} unfit" if tiled.unfit else ""
        found[f"{tiled.tiles} tiles of {tile}{note}"] = tiled.depth.numpy()
    whole = {}
    for resolution in resolutions:
        own = DepthPredictor.from_model(
            predictor.model, predictor.processor, resolution=resolution, space=predictor.space
        )
        whole[f"input {resolution}"] = own(image).numpy()
    return whole | found


def main(arguments: list[str] | None = None) -> int:
    """Parse and run."""
    options = make_parser().parse_args(arguments)
    image = read_photograph(options.image)
    predictor = DepthPredictor(options.model)
    found = predict_each(predictor, image, options.resolutions, options.tiles)
    width, height = image.size
    left, top, right, bottom = options.crop or (width // 3, height // 3, 2 * width // 3, 2 * height // 3)
    parts = [depth[top:bottom, left:right] for depth in found.values()]
    if predictor.space == "depth":  # pictures show disparity
        parts = [1 / np.maximum(part, 1e-6) for part in parts]
    row = prediction_row(image.crop((left, top, right, bottom)), None, None, "disparity", parts)
    del row[1]  # there is no ground truth
    options.out.parent.mkdir(parents=True, exist_ok=True)
    sheet([row], ["photograph", *found], cell=(360, 480)).save(options.out)
    print(f"{options.out}: {', '.join(found)}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
