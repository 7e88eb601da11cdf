"""Paired geometry, strong colour perturbation and CutMix: per sample, batched, on the images' own device.

Every random number comes from the `torch.Generator` that is passed, on the CPU, so that a step can be repeated exactly
whatever the device.

The paper names the perturbations and not their strengths (V1, section 3.2). The defaults here are those of the first
author's semi-supervised segmentation code (UniMatch, UniMatch-V2), to which he refers for CutMix
(LiheYoung/Depth-Anything#240).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch


def random_crop_box(
    size: tuple[int, int], crop: tuple[int, int], generator: torch.Generator
) -> tuple[int, int, int, int]:
    """Draw where to crop: top, left, height, width, every corner equally likely.

    Args:
        size (`tuple[int, int]`): height and width of the image.
        crop (`tuple[int, int]`): height and width of the crop, no larger.
        generator (`torch.Generator`): Source of the random numbers.

    Returns:
        `tuple[int, int, int, int]`: top, left, height, width, pixels.

    Raises:
        ValueError: The crop is larger than the image.

    Source: Depth Anything V2, section 7.1; V1, supplementary section 6.

    Example:
        >>> random_crop_box((5, 8), (5, 8), torch.Generator())
        (0, 0, 5, 8)
    """
    if crop[0] > size[0] or crop[1] > size[1]:
        raise ValueError(
            f"crop {crop} is larger than the image {size}; resize with 'lower_bound' to cover the crop first."
        )
    top = int(torch.randint(size[0] - crop[0] + 1, (), generator=generator))
    left = int(torch.randint(size[1] - crop[1] + 1, (), generator=generator))
    return top, left, *crop


def crop_and_flip(values: torch.Tensor, box: tuple[int, int, int, int], flip: bool) -> torch.Tensor:
    """Crop the last two dimensions, and mirror the last if asked: the same call serves image, label and mask.

    Args:
        values (`torch.Tensor`): `(..., height, width)`.
        box (`tuple[int, int, int, int]`): top, left, height, width.
        flip (`bool`): Mirror left and right.

    Returns:
        `torch.Tensor`: `(..., box height, box width)`.

    Example:
        >>> crop_and_flip(torch.arange(6).reshape(2, 3), (0, 1, 2, 2), flip=True).tolist()
        [[2, 1], [5, 4]]
    """
    top, left, height, width = box
    cropped = values[..., top : top + height, left : left + width]
    return cropped.flip(-1) if flip else cropped


@dataclass(frozen=True)
class ColorRanges:
    """Ranges of the weak colour change of labelled images, as the authors' metric code of V1 draws it.

    Args:
        gamma (`tuple[float, float]`): Exponent of the image.
        brightness (`tuple[float, float]`): Factor on all of it. V1: (0.75, 1.25) for NYUv2, (0.9, 1.1) for KITTI.
        color (`tuple[float, float]`): Factor on each of red, green and blue.
        probability (`float`): Share of the images that are changed.

    Raises:
        ValueError: A range that is empty or not positive, or a probability outside [0, 1].
    """

    gamma: tuple[float, float] = (0.9, 1.1)
    brightness: tuple[float, float] = (0.9, 1.1)
    color: tuple[float, float] = (0.9, 1.1)
    probability: float = 0.5

    def __post_init__(self):
        for name in ("gamma", "brightness", "color"):
            low, high = getattr(self, name)
            if not 0 < low <= high:
                raise ValueError(
                    f"{name} is {getattr(self, name)}; it must be two positive numbers, the smaller first."
                )
        if not 0 <= self.probability <= 1:
            raise ValueError(f"probability is {self.probability}; it must lie in [0, 1].")


def scale_colors(image: torch.Tensor, ranges: ColorRanges, generator: torch.Generator) -> torch.Tensor:
    """Change gamma, brightness and colour balance of an image a little, or leave it.

    Args:
        image (`torch.Tensor`): `(3, height, width)`, in [0, 1].
        ranges (`ColorRanges`): Of the change.
        generator (`torch.Generator`): On the CPU.

    Returns:
        `torch.Tensor`: Same shape, in [0, 1].

    Source: `metric_depth/zoedepth/data/data_mono.py` of Depth Anything V1, `augment_image`.

    Example:
        >>> twice = ColorRanges(gamma=(1, 1), brightness=(2, 2), color=(1, 1), probability=1.0)
        >>> scale_colors(torch.full((3, 1, 1), 0.25), twice, torch.Generator()).flatten().tolist()
        [0.5, 0.5, 0.5]
    """
    chance, *drawn = torch.rand(6, generator=generator).tolist()
    if chance >= ranges.probability:
        return image
    limits = (ranges.gamma, ranges.brightness, *[ranges.color] * 3)
    gamma, brightness, *color = (low + (high - low) * one for (low, high), one in zip(limits, drawn, strict=True))
    factors = brightness * torch.tensor(color, dtype=image.dtype, device=image.device)[:, None, None]
    return (image.clamp(min=0) ** gamma * factors).clamp(0, 1)


@dataclass(frozen=True)
class StrongPerturbation:
    """Strengths of the colour perturbation of the student's view.

    Args:
        brightness (`float`): Factor drawn from 1 ± this.
        contrast (`float`): Factor drawn from 1 ± this.
        saturation (`float`): Factor drawn from 1 ± this.
        hue (`float`): Turn of the colour circle drawn from ± this, at most 0.5 (half a turn).
        jitter_probability (`float`): Share of the images whose colours are changed.
        grayscale_probability (`float`): Share turned grey. The paper names none: 0. UniMatch has 0.2.
        blur_probability (`float`): Share blurred.
        blur_sigma (`tuple[float, float]`): Range of the Gaussian's standard deviation, pixels.

    Raises:
        ValueError: A probability outside [0, 1], a strength outside its range.
    """

    brightness: float = 0.5
    contrast: float = 0.5
    saturation: float = 0.5
    hue: float = 0.25
    jitter_probability: float = 0.8
    grayscale_probability: float = 0.0
    blur_probability: float = 0.5
    blur_sigma: tuple[float, float] = (0.1, 2.0)

    def __post_init__(self):
        limits = {"brightness": 1, "contrast": 1, "saturation": 1, "hue": 0.5}
        limits |= dict.fromkeys(("jitter_probability", "grayscale_probability", "blur_probability"), 1)
        for name, limit in limits.items():
            if not 0 <= getattr(self, name) <= limit:
                raise ValueError(f"{name} is {getattr(self, name)}; it must lie in [0, {limit}]. 0 switches it off.")
        if not 0 < self.blur_sigma[0] <= self.blur_sigma[1]:
            raise ValueError(f"blur_sigma is {self.blur_sigma}; it must be two positive numbers, the smaller first.")


def perturb_colors(images: torch.Tensor, settings: StrongPerturbation, generator: torch.Generator) -> torch.Tensor:
    """Change brightness, contrast, saturation, hue and sharpness of each image by its own random amounts.

    Args:
        images (`torch.Tensor`): `(batch, 3, height, width)`, float RGB in [0, 1].
        settings (`StrongPerturbation`): Strengths and probabilities.
        generator (`torch.Generator`): On the CPU.

    Returns:
        `torch.Tensor`: Same shape, in [0, 1].

    Source: Depth Anything V1, section 3.2; strengths: UniMatch-V2 `dataset/semi.py`.

    Example:
        >>> images = torch.rand(2, 3, 8, 8)
        >>> perturb_colors(images, StrongPerturbation(), torch.Generator().manual_seed(0)).shape
        torch.Size([2, 3, 8, 8])
    """
    batch = len(images)

    def uniform(low: float, high: float) -> torch.Tensor:
        return (torch.rand(batch, generator=generator) * (high - low) + low).to(images.device, images.dtype)

    def chosen(probability: float) -> torch.Tensor:
        return (torch.rand(batch, generator=generator) < probability).to(images.device)[:, None, None, None]

    jittered = images
    for step in _color_steps(settings, uniform, generator):
        jittered = step(jittered).clamp(0, 1)
    images = torch.where(chosen(settings.jitter_probability), jittered, images)
    grayscale = _luminance(images).expand_as(images)
    images = torch.where(chosen(settings.grayscale_probability), grayscale, images)
    sigma = uniform(*settings.blur_sigma)
    return torch.where(chosen(settings.blur_probability), _gaussian_blur(images, sigma), images)


def _color_steps(
    settings: StrongPerturbation, uniform: Callable[[float, float], torch.Tensor], generator: torch.Generator
) -> list[Callable[[torch.Tensor], torch.Tensor]]:
    """Draw the four colour changes with a factor for each image, in an order drawn anew for each batch."""
    from kornia import enhance

    brightness = uniform(1 - settings.brightness, 1 + settings.brightness)
    contrast = uniform(1 - settings.contrast, 1 + settings.contrast)
    saturation = uniform(1 - settings.saturation, 1 + settings.saturation)
    hue = uniform(-settings.hue, settings.hue) * (2 * math.pi)
    steps = [
        lambda images: enhance.adjust_brightness_accumulative(images, brightness),
        lambda images: enhance.adjust_contrast_with_mean_subtraction(images, contrast),
        lambda images: enhance.adjust_saturation_with_gray_subtraction(images, saturation),
        lambda images: enhance.adjust_hue(images, hue),
    ]
    return [steps[i] for i in torch.randperm(len(steps), generator=generator).tolist()]


def _luminance(images: torch.Tensor) -> torch.Tensor:
    """Weigh the colours as the eye does: `(batch, 1, height, width)`."""
    from kornia.color import rgb_to_grayscale

    return rgb_to_grayscale(images)


def _gaussian_blur(images: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    """Blur each image by its own standard deviation, `(batch,)` pixels."""
    from kornia.filters import gaussian_blur2d

    reach = min(9, (min(images.shape[-2:]) - 1) // 2)  # 4 sigma at the largest default, and within a small image
    if reach < 1:
        return images
    blurred = gaussian_blur2d(images, 2 * reach + 1, torch.stack([sigma, sigma], dim=1))
    return blurred.clamp(0, 1)  # the kernel sums to 1 within rounding only


def cutmix_boxes(
    batch: int,
    height: int,
    width: int,
    generator: torch.Generator,
    probability: float = 0.5,
    area: tuple[float, float] = (0.02, 0.4),
    aspect: tuple[float, float] = (0.3, 1 / 0.3),
) -> torch.Tensor:
    """Draw one CutMix box an image, or none.

    The area is drawn once; aspect and corner are drawn again until the box lies inside the image. Where no box of the
    area and aspect fits, as in a narrow strip, the aspect gives way.

    Args:
        batch (`int`): Number of images.
        height (`int`): Pixels.
        width (`int`): Pixels.
        generator (`torch.Generator`): On the CPU.
        probability (`float`): Share of the images that get a box.
        area (`tuple[float, float]`): Range of the box's share of the image, within (0, 1).
        aspect (`tuple[float, float]`): Range of the box's height over width.

    Returns:
        `torch.Tensor`: `(batch, height, width)`, bool, on the CPU: true inside the box.

    Raises:
        ValueError: A number outside its range.

    Source: probability: Depth Anything V1, section 3.2; area and aspect: UniMatch-V2 `dataset/transform.py`.

    Example:
        >>> boxes = cutmix_boxes(4, 20, 30, torch.Generator().manual_seed(0), probability=1.0)
        >>> bool((boxes.float().mean(dim=(1, 2)) <= 0.4).all())
        True
    """
    if not 0 <= probability <= 1 or not 0 < area[0] <= area[1] < 1 or not 0 < aspect[0] <= aspect[1]:
        raise ValueError(
            f"probability {probability}, area {area} and aspect {aspect} must lie in [0, 1], (0, 1) and above 0, the "
            "smaller number first. The authors' are 0.5, (0.02, 0.4) and (0.3, 1 / 0.3)."
        )

    def uniform(low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand((), generator=generator))

    boxes = torch.zeros(batch, height, width, dtype=torch.bool)
    for box in boxes:
        if uniform(0, 1) >= probability:
            continue
        pixels = uniform(*area) * height * width
        for _ in range(1000):
            ratio = uniform(*aspect)
            box_height, box_width = int(math.sqrt(pixels * ratio)), int(math.sqrt(pixels / ratio))
            top, left = int(uniform(0, height)), int(uniform(0, width))
            if top + box_height <= height and left + box_width <= width:
                break
        else:
            box_height = min(max(box_height, math.ceil(pixels / width)), height)
            box_width = int(pixels / box_height)
            top, left = int(uniform(0, height - box_height + 1)), int(uniform(0, width - box_width + 1))
        box[top : top + box_height, left : left + box_width] = True
    return boxes


def cutmix(tensors: Sequence[torch.Tensor], boxes: torch.Tensor) -> list[torch.Tensor]:
    """Paste each box from the partner: the batch in reverse order. Images, labels and masks get the same box.

    Args:
        tensors (`Sequence[torch.Tensor]`): Each `(batch, height, width)` or `(batch, channels, height, width)`.
        boxes (`torch.Tensor`): `(batch, height, width)`, bool.

    Returns:
        `list[torch.Tensor]`: The mixed tensors.

    Source: Depth Anything V1, section 3.2, eq. 5; the partner: UniMatch.

    Example:
        >>> boxes = torch.tensor([[[True, False]], [[False, False]]])
        >>> cutmix([torch.tensor([[[1, 2]], [[3, 4]]])], boxes)[0].tolist()
        [[[3, 2]], [[3, 4]]]
    """
    return [torch.where(boxes if values.ndim == 3 else boxes[:, None], values.flip(0), values) for values in tensors]
