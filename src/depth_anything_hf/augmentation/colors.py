"""Weak color change of labeled images, and the strong perturbation of the student's view.

The paper names the perturbations and not their strengths (V1, section 3.2). The defaults here come from the first
author's semi-supervised segmentation code (UniMatch, UniMatch-V2), to which he refers for CutMix
(LiheYoung/Depth-Anything#240).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch


@dataclass(frozen=True)
class ColorRanges:
    """Ranges of the weak color change of labeled images, as the authors' metric code of V1 draws it.

    Args:
        gamma (`tuple[float, float]`): Exponent of the image.
        brightness (`tuple[float, float]`): Factor on the whole image. V1: (0.75, 1.25) for NYUv2, (0.9, 1.1) for KITTI.
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
    """Change gamma, brightness and color balance of an image a little, or return it unchanged.

    Args:
        image (`torch.Tensor`): `(3, height, width)`, in [0, 1].
        ranges (`ColorRanges`): Ranges of the change.
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
    """Strengths of the color perturbation of the student's view.

    Args:
        brightness (`float`): Factor drawn from 1 ± this.
        contrast (`float`): Factor drawn from 1 ± this.
        saturation (`float`): Factor drawn from 1 ± this.
        hue (`float`): Turn of the color circle drawn from ± this, at most 0.5 (half a turn).
        jitter_probability (`float`): Share of the images whose colors are changed.
        grayscale_probability (`float`): Share turned gray. The paper names none: 0. UniMatch has 0.2.
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


class ColorDraw(NamedTuple):
    """Store the changes that `perturb_colors` makes to each image of a batch: one row per image."""

    factors: torch.Tensor  # (batch, 4): of brightness, contrast and saturation; turn of the hue in radians
    order: torch.Tensor  # (batch, 4), int64: which of these comes first, second, third and last
    jittered: torch.Tensor  # (batch,), bool: whether any of them is applied
    grayscale: torch.Tensor  # (batch,), bool
    blurred: torch.Tensor  # (batch,), bool
    blur_sigma: torch.Tensor  # (batch,), pixels


_CHANGES = BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)


def draw_colors(batch: int, settings: StrongPerturbation, generator: torch.Generator) -> ColorDraw:
    """Draw each image's own strengths of the perturbation, and the order of the four changes of color.

    Args:
        batch (`int`): Number of images.
        settings (`StrongPerturbation`): Strengths and probabilities.
        generator (`torch.Generator`): On the CPU.

    Returns:
        `ColorDraw`: On the CPU.

    Example:
        >>> drawn = draw_colors(3, StrongPerturbation(hue=0), torch.Generator().manual_seed(0))
        >>> drawn.factors[:, HUE].tolist(), sorted(drawn.order[0].tolist())
        ([0.0, 0.0, 0.0], [0, 1, 2, 3])
    """

    def uniform(low: float, high: float) -> torch.Tensor:
        return torch.rand(batch, generator=generator) * (high - low) + low

    def chosen(probability: float) -> torch.Tensor:
        return torch.rand(batch, generator=generator) < probability

    strengths = (settings.brightness, settings.contrast, settings.saturation)
    factors = [uniform(1 - strength, 1 + strength) for strength in strengths]
    factors.append(uniform(-settings.hue, settings.hue) * (2 * math.pi))
    return ColorDraw(
        factors=torch.stack(factors, dim=1),
        order=torch.rand(batch, len(_CHANGES), generator=generator).argsort(dim=1),
        jittered=chosen(settings.jitter_probability),
        grayscale=chosen(settings.grayscale_probability),
        blurred=chosen(settings.blur_probability),
        blur_sigma=uniform(*settings.blur_sigma),
    )


def perturb_colors(images: torch.Tensor, drawn: ColorDraw) -> torch.Tensor:
    """Change brightness, contrast, saturation, hue and sharpness of each image, as drawn by `draw_colors`.

    Args:
        images (`torch.Tensor`): `(batch, 3, height, width)`, float RGB in [0, 1].
        drawn (`ColorDraw`): On the images' device.

    Returns:
        `torch.Tensor`: Same shape, in [0, 1].

    Source: Depth Anything V1, section 3.2; strengths: UniMatch-V2 `dataset/semi.py`.

    Example:
        >>> images = torch.rand(2, 3, 8, 8)
        >>> perturb_colors(images, draw_colors(2, StrongPerturbation(), torch.Generator().manual_seed(0))).shape
        torch.Size([2, 3, 8, 8])
    """
    jittered = images
    for change in drawn.order.unbind(dim=1):
        jittered = _change_colors(jittered, change, drawn.factors.to(images.dtype))
    images = torch.where(_each(drawn.jittered), jittered, images)
    images = torch.where(_each(drawn.grayscale), _luminance(images), images)
    return torch.where(_each(drawn.blurred), _gaussian_blur(images, drawn.blur_sigma.to(images.dtype)), images)


def _each(values: torch.Tensor) -> torch.Tensor:
    """Reshape one value per image to `(batch, 1, 1, 1)`."""
    return values[:, None, None, None]


def _change_colors(images: torch.Tensor, change: torch.Tensor, factors: torch.Tensor) -> torch.Tensor:
    """Apply to each image one of the four changes, `change` `(batch,)`, with its strength in `factors` `(batch, 4)`."""
    luminance = _luminance(images)  # (batch, 1, height, width)
    # Brightness moves away from black, contrast from the mean gray, saturation from each pixel's gray.
    center = torch.where(_each(change == CONTRAST), luminance.mean(dim=(1, 2, 3), keepdim=True), luminance)
    center = torch.where(_each(change == BRIGHTNESS), 0.0, center)
    factor = _each(factors.gather(1, change[:, None])[:, 0])
    blended = (center + factor * (images - center)).clamp(0, 1)
    return torch.where(_each(change == HUE), _turn_hue(images, factors[:, HUE]), blended)


def _turn_hue(images: torch.Tensor, angle: torch.Tensor) -> torch.Tensor:
    """Turn each image's hue by its own angle, `(batch,)` radians, in the HSV model.

    Equal to `kornia.enhance.adjust_hue`, in a third of its time: it is needed four times a step, as each image has its
    own order of changes.
    """
    red, green, blue = images.unbind(dim=1)  # (batch, height, width) each
    value = images.amax(dim=1)
    chroma = value - images.amin(dim=1)
    scale = torch.where(chroma > 0, chroma, 1.0).reciprocal()
    hue = torch.where(value == green, 2 + (blue - red) * scale, 4 + (red - green) * scale)
    hue = torch.where(value == red, (green - blue) * scale, hue) + angle[:, None, None] * (3 / math.pi)  # in sixths
    channels = []
    for offset in (5, 3, 1):  # red, green, blue
        place = (hue + offset).remainder(6)
        channels.append(value - chroma * torch.minimum(place, 4 - place).clamp(0, 1))
    return torch.stack(channels, dim=1)


def _luminance(images: torch.Tensor) -> torch.Tensor:
    """Compute the luminance: `(batch, 1, height, width)`."""
    from kornia.color import rgb_to_grayscale

    return rgb_to_grayscale(images)


def _gaussian_blur(images: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    """Blur each image by its own standard deviation, `(batch,)` pixels."""
    # Not `gaussian_blur2d`, which reads sigma on the host and makes an accelerator wait.
    from kornia.filters import filter2d_separable, get_gaussian_kernel1d

    reach = min(9, (min(images.shape[-2:]) - 1) // 2)  # 4 sigma at the largest default, and within a small image
    if reach < 1:
        return images
    kernel = get_gaussian_kernel1d(2 * reach + 1, sigma[:, None])  # (batch, 2 * reach + 1)
    blurred = filter2d_separable(images, kernel, kernel)
    return blurred.clamp(0, 1)  # the kernel sums to 1 within rounding only
