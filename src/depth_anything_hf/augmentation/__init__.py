"""Paired geometry, color perturbation and CutMix: per sample, batched, on the images' own device.

Every random number comes from the `torch.Generator` that is passed, on the CPU, so that a step can be repeated exactly
whatever the device. The draws are plain tensors with one row per image: drawn where the images are read, applied where
the model is.
"""

from depth_anything_hf.augmentation.colors import (
    ColorDraw,
    ColorRanges,
    StrongPerturbation,
    draw_colors,
    perturb_colors,
    scale_colors,
)
from depth_anything_hf.augmentation.cropping import crop_and_flip, random_crop_box
from depth_anything_hf.augmentation.mixing import cutmix, cutmix_boxes

__all__ = [
    "ColorDraw",
    "ColorRanges",
    "StrongPerturbation",
    "crop_and_flip",
    "cutmix",
    "cutmix_boxes",
    "draw_colors",
    "perturb_colors",
    "random_crop_box",
    "scale_colors",
]
