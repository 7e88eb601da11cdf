"""Load a teacher for labeling: its model, what it predicts, and how it wants its images."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn

from depth_anything_hf.maps.resizing import fixed_aspect, resized_size
from depth_anything_hf.prediction.predictor import DepthPredictor, input_multiple, space_of

OFFICIAL_RESOLUTION = 518  # for a processor that has none


class Preparation(NamedTuple):
    """How a teacher wants its images."""

    multiple: int  # of both sides, pixels
    # Width by height of the one shape that the network takes, of which a label then covers the image; None: the image's.
    aspect: float | None
    factor: float  # pixel_values = (pixels * factor - mean) / std
    mean: tuple[float, ...]
    std: tuple[float, ...]


def load_teacher(
    name: str, space: str | None = None, device: str | torch.device = "cpu"
) -> tuple[nn.Module, Preparation, str, int]:
    """Load the model, how it wants its images, the space of its predictions, and its own resolution.

    Args:
        name (`str`): Hub id or folder of a depth model or of a LoRA adapter.
        space (`str`, *optional*): What it predicts, if its config does not say.
        device (`str` or `torch.device`): Where it runs.

    Returns:
        `tuple[nn.Module, Preparation, str, int]`: The model in evaluation mode, in float32.

    Raises:
        ValueError: The space is unknown.
    """
    teacher = DepthPredictor(name, space=space, device=device)
    # Weights that are stored in half precision are computed with in `dtype`, as any others.
    model, processor = teacher.model.float(), teacher.processor
    preparation = preparation_of(processor, model.config)
    network_space = space_of(model, name, space, processed=False)
    return model, preparation, network_space, own_resolution(processor, preparation)


def preparation_of(processor, config=None) -> Preparation:
    """Read from an image processor what labelling needs; padding is left out, as it has no label.

    Args:
        processor: Of transformers.
        config: The model's: some processors (DPT's, ZoeDepth's) do not know the patch size.

    Returns:
        The preparation.

    Example:
        >>> from depth_anything_hf import DepthAnythingImageProcessor
        >>> preparation_of(DepthAnythingImageProcessor()).multiple
        14
    """
    asked = getattr(processor, "ensure_multiple_of", None) or getattr(processor, "size_divisor", None)
    backbone = getattr(config, "backbone_config", None)
    # transformers' DPT takes the patches of its own ViT for a square.
    own_encoder = getattr(config, "model_type", None) == "dpt" and (backbone is None or config.is_hybrid)
    factor = processor.rescale_factor if getattr(processor, "do_rescale", True) else 1.0
    if getattr(processor, "do_normalize", False):
        mean, std = tuple(processor.image_mean), tuple(processor.image_std)
    else:
        mean, std = (0.0,) * 3, (1.0,) * 3
    return Preparation(
        input_multiple(processor, config),
        1.0 if asked is None or own_encoder else fixed_aspect(processor),
        factor,
        mean,
        std,
    )


def own_resolution(processor, preparation: Preparation) -> int:
    """Return the shorter side of the network's input by a checkpoint's own processor.

    It is no part of the `Preparation`, which a folder keeps beside the resolution that was taken.

    Args:
        processor: Of transformers.
        preparation (`Preparation`): Read from it.

    Returns:
        `int`: Pixels; 518 where the processor takes images as large as they are.

    Example:
        >>> from depth_anything_hf import DepthAnythingImageProcessor
        >>> processor = DepthAnythingImageProcessor(size={"height": 392, "width": 518})
        >>> own_resolution(processor, preparation_of(processor))
        392
    """
    size = getattr(processor, "size", None) or {}
    sides = [size[name] for name in ("height", "width", "shortest_edge") if name in size]
    side = min(sides, default=OFFICIAL_RESOLUTION)
    # A side that is no multiple of the patch becomes one as in a prediction, whose user gave no resolution either.
    return (
        resized_size(side, side, (side, side), preparation.multiple, preparation.aspect is None)[0] if sides else side
    )
