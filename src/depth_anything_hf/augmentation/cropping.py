"""Random crops and mirrored images: the same for image, label and mask."""

from __future__ import annotations

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
