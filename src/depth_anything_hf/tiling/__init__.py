"""Tiled prediction: depth of images beyond memory."""

from depth_anything_hf.tiling.prediction import (
    PixelFile,
    TiledDepth,
    iter_tiled_depth,
    predict_tiled,
    tile_overlap,
    tile_starts,
    tile_weights,
)
from depth_anything_hf.tiling.writing import save_tiled_depth

__all__ = [
    "PixelFile",
    "TiledDepth",
    "iter_tiled_depth",
    "predict_tiled",
    "save_tiled_depth",
    "tile_overlap",
    "tile_starts",
    "tile_weights",
]
