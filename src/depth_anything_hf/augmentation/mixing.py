"""CutMix: a box of each image comes from its partner."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch


def cutmix_boxes(
    batch: int,
    height: int,
    width: int,
    generator: torch.Generator,
    probability: float = 0.5,
    area: tuple[float, float] = (0.02, 0.4),
    aspect: tuple[float, float] = (0.3, 1 / 0.3),
) -> torch.Tensor:
    """Draw one CutMix box for each image, or none.

    The area is drawn once; aspect and corner are drawn again until the box lies inside the image. Where no box of the
    area and aspect fits, as in a narrow strip, the aspect changes.

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
    """Paste each box from the partner: images 0 and 1, 2 and 3, ... Images, labels and masks get the same box.

    The last image of an odd number takes its box from the one before it. Pairs of neighbors stay together when a batch
    is divided among processes.

    Args:
        tensors (`Sequence[torch.Tensor]`): Each `(batch, height, width)` or `(batch, channels, height, width)`.
        boxes (`torch.Tensor`): `(batch, height, width)`, bool.

    Returns:
        `list[torch.Tensor]`: The mixed tensors.

    Source: Depth Anything V1, section 3.2, eq. 5. Which images are partners is unpublished.

    Example:
        >>> boxes = torch.tensor([[[True, False]], [[False, False]]])
        >>> cutmix([torch.tensor([[[1, 2]], [[3, 4]]])], boxes)[0].tolist()
        [[[3, 2]], [[3, 4]]]
    """
    return [
        torch.where(boxes if values.ndim == 3 else boxes[:, None], _partners(values), values) for values in tensors
    ]


def _partners(values: torch.Tensor) -> torch.Tensor:
    """Exchange neighboring images: each is replaced by its partner."""
    if len(values) < 2:
        return values
    paired = values[: len(values) // 2 * 2].unflatten(0, (-1, 2)).flip(1).flatten(0, 1)
    return paired if len(paired) == len(values) else torch.cat([paired, values[-2:-1]])
