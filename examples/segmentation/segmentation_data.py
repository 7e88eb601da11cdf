"""Read ADE20K and Cityscapes in their official layouts, with the authors' augmentation, for the stock `Trainer`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset

from depth_anything_hf.data.image_files import opened_image

IGNORE = 255  # label of pixels that neither train nor count
MEAN, DEVIATION = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])  # ImageNet's, as DINOv2
# The official labelIds of the 19 classes that are scored, in the order of their trainIds.
_CITYSCAPES = {
    7: "road",
    8: "sidewalk",
    11: "building",
    12: "wall",
    13: "fence",
    17: "pole",
    19: "traffic light",
    20: "traffic sign",
    21: "vegetation",
    22: "terrain",
    23: "sky",
    24: "person",
    25: "rider",
    26: "car",
    27: "truck",
    28: "bus",
    31: "train",
    32: "motorcycle",
    33: "bicycle",
}


@dataclass(frozen=True)
class Layout:
    """Describe the layout of a data set on disk.

    Args:
        pairs (`Callable`): Returns image and label files for `(root, split)`; `split` is `"train"` or `"val"`.
        names (`Callable`): Returns the names of the classes for `root`.
        classes (`np.ndarray`): `(256,)` uint8, the class of each value in a label file.
    """

    pairs: Callable[[Path, str], list[tuple[Path, Path]]]
    names: Callable[[Path], list[str]]
    classes: np.ndarray


def _ade20k_pairs(root: Path, split: str) -> list[tuple[Path, Path]]:
    folder = {"train": "training", "val": "validation"}[split]
    labels = sorted((root / "annotations" / folder).glob("*.png"))
    return [(root / "images" / folder / f"{label.stem}.jpg", label) for label in labels]


def _ade20k_names(root: Path) -> list[str]:
    """Read the names and their synonyms from the official file, if it is there."""
    file = root / "objectInfo150.txt"  # index, ratio, train, val, names; tabs between, one line of heads
    if not file.is_file():
        return [f"class_{i}" for i in range(1, 151)]
    return [line.split("\t")[-1].strip() for line in file.read_text().splitlines()[1:]]


def _cityscapes_pairs(root: Path, split: str) -> list[tuple[Path, Path]]:
    images = sorted((root / "leftImg8bit" / split).glob("*/*_leftImg8bit.png"))
    stems = [(image, image.name.removesuffix("_leftImg8bit.png")) for image in images]
    return [
        (image, root / "gtFine" / split / image.parent.name / f"{stem}_gtFine_labelIds.png") for image, stem in stems
    ]


def _table(classes: dict[int, int]) -> np.ndarray:
    table = np.full(256, IGNORE, np.uint8)
    table[list(classes)] = list(classes.values())
    return table


LAYOUTS = {
    # 0 is "other objects", which the benchmark does not score.
    "ade20k": Layout(_ade20k_pairs, _ade20k_names, _table({value: value - 1 for value in range(1, 151)})),
    "cityscapes": Layout(
        _cityscapes_pairs,
        lambda root: list(_CITYSCAPES.values()),
        _table({value: i for i, value in enumerate(_CITYSCAPES)}),
    ),
}


class SegmentationDataset(Dataset):
    """Read images and class maps of one split.

    Args:
        layout (`Layout`): A value of `LAYOUTS`.
        root (`Path`): Folder of the data set: `ADEChallengeData2016`, or the parent of `leftImg8bit` and `gtFine`.
        split (`str`): `"train"` or `"val"`.
        transform (`Callable`): Turns a uint8 RGB image and a uint8 class map of its size into a sample.

    Raises:
        ValueError: There are no pairs in this layout, or a file has no partner.
    """

    def __init__(self, layout: Layout, root: Path, split: str, transform: Callable[[Image.Image, Image.Image], dict]):
        self.layout, self.transform = layout, transform
        self.pairs = layout.pairs(root, split)
        alone = [file for pair in self.pairs for file in pair if not file.is_file()]
        if alone or not self.pairs:
            raise ValueError(
                f"{root} has no {alone[0].relative_to(root) if alone else split + ' images'}; pass the folder of the "
                "official archive, as docs/segmentation.md shows it."
            )

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> dict:
        """Read one pair and transform it."""
        image, labels = self.pairs[index]
        with opened_image(labels) as picture:
            values = np.asarray(picture)
        if values.ndim != 2:
            raise ValueError(f"{labels} has the shape {values.shape}; labels are images of one channel.")
        with opened_image(image) as picture:
            photograph = picture.convert("RGB")
        return self.transform(photograph, Image.fromarray(self.layout.classes[values]))


def resize_shorter_side(image: Image.Image, side: int, resample: Image.Resampling) -> Image.Image:
    """Resize in proportion; no image of the two data sets reaches the authors' limit for the longer side (4 x side)."""
    scale = side / min(image.size)
    return image.resize([max(round(scale * length), side) for length in image.size], resample)


@dataclass(frozen=True)
class TrainTransform:
    """Apply a random scale, crop, flip and change of colors.

    Args:
        crop_size (`int`): Side of the square crop, pixels.

    Source: the authors' `semseg/config`: shorter side of 0.5 to 2.0 crops in steps of 0.1, at most 75 % of a crop in one
    class where ten draws can reach that, flip, MMSegmentation's PhotoMetricDistortion.
    """

    crop_size: int

    def __call__(self, image: Image.Image, labels: Image.Image) -> dict:
        """Draw one crop; each process of a data loader has its own seed of PyTorch."""
        rng = np.random.default_rng(torch.randint(2**62, ()).item())
        side = int(rng.integers(5, 21) * 0.1 * self.crop_size)
        image = np.asarray(resize_shorter_side(image, side, Image.Resampling.BILINEAR))
        labels = np.asarray(resize_shorter_side(labels, side, Image.Resampling.NEAREST))
        for _ in range(10):
            top, left = (rng.integers(max(length - self.crop_size, 0) + 1) for length in labels.shape)
            area = (slice(top, top + self.crop_size), slice(left, left + self.crop_size))
            counts = np.bincount(labels[area].ravel(), minlength=IGNORE + 1)[:IGNORE]
            if (counts > 0).sum() > 1 and counts.max() < 0.75 * counts.sum():
                break
        image, labels = distort_colors(image[area], rng), labels[area]
        if rng.random() < 0.5:
            image, labels = image[:, ::-1], labels[:, ::-1]
        missing = [(0, self.crop_size - length) for length in labels.shape]
        pixels = np.pad(
            (image / 255 - MEAN) / DEVIATION, (*missing, (0, 0))
        )  # the mean color, as 0 after normalization
        return as_sample(pixels, np.pad(labels, missing, constant_values=IGNORE))


@dataclass(frozen=True)
class CenterTransform:
    """Take the central crop at the scale of the evaluation: one size for all, for the scores during training."""

    crop_size: int

    def __call__(self, image: Image.Image, labels: Image.Image) -> dict:
        """Crop."""
        sample = whole_image(image, self.crop_size)
        labels = np.asarray(resize_shorter_side(labels, self.crop_size, Image.Resampling.NEAREST))
        area = tuple(slice(start := (n - self.crop_size) // 2, start + self.crop_size) for n in labels.shape)
        return as_sample(sample[area], labels[area])


def whole_image(image: Image.Image, side: int) -> np.ndarray:
    """Resize the shorter side to `side` and normalize: `(height, width, 3)` float."""
    return (np.asarray(resize_shorter_side(image, side, Image.Resampling.BILINEAR)) / 255 - MEAN) / DEVIATION


def as_sample(pixels: np.ndarray, labels: np.ndarray) -> dict[str, torch.Tensor]:
    """Return tensors: `pixel_values` (3, height, width) float32, `labels` (height, width) int64."""
    pixel_values = torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1), np.float32))
    return {"pixel_values": pixel_values, "labels": torch.from_numpy(labels.astype(np.int64))}


def distort_colors(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Change brightness, contrast, saturation and hue, each in half of the images.

    Args:
        image (`np.ndarray`): `(height, width, 3)` uint8 RGB.
        rng (`np.random.Generator`): Source of the random values.

    Source: MMSegmentation's PhotoMetricDistortion with its defaults.
    """

    def clip(values: np.ndarray) -> np.ndarray:
        return values.clip(0, 255).astype(np.uint8)

    contrast_first, contrast = rng.random() < 0.5, rng.uniform(0.5, 1.5) if rng.random() < 0.5 else 1
    if rng.random() < 0.5:
        image = clip(image + rng.uniform(-32, 32))
    if contrast_first:
        image = clip(image * contrast)
    hsv = np.asarray(Image.fromarray(image).convert("HSV")).astype(float)
    if rng.random() < 0.5:
        hsv[..., 1] = (hsv[..., 1] * rng.uniform(0.5, 1.5)).clip(0, 255)
    if rng.random() < 0.5:
        hsv[..., 0] = (hsv[..., 0] + rng.integers(-18, 18) / 180 * 256) % 256  # 18 of OpenCV's 180 steps of the circle
    image = np.asarray(Image.fromarray(hsv.astype(np.uint8), "HSV").convert("RGB"))
    return image if contrast_first else clip(image * contrast)


def collate(samples: list[dict], as_masks: bool) -> dict:
    """Stack samples; for Mask2Former also add each image's classes as masks for its loss.

    Args:
        samples (`list[dict]`): Results of `as_sample`, of one size.
        as_masks (`bool`): Whether to add `mask_labels` (classes, height, width) and `class_labels` for each image.
    """
    batch = {name: torch.stack([sample[name] for sample in samples]) for name in samples[0]}
    if as_masks:
        present = [labels.unique() for labels in batch["labels"]]
        batch["class_labels"] = [classes[classes != IGNORE] for classes in present]
        pairs = zip(batch["labels"], batch["class_labels"], strict=True)
        batch["mask_labels"] = [(labels == classes[:, None, None]).float() for labels, classes in pairs]
    return batch
