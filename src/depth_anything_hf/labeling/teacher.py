"""Load a teacher for labeling: the model, the space of its predictions, and the preparation of its images."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn

from depth_anything_hf.maps.resizing import fixed_aspect, resized_size
from depth_anything_hf.prediction.predictor import DepthPredictor, input_multiple, space_of

OFFICIAL_RESOLUTION = 518  # for a processor that has none


class Preparation(NamedTuple):
    """Rules for preparing images for a teacher."""

    multiple: int  # of both sides, pixels
    # Width by height if the network takes only one shape (a label covers the whole image); None: the image's aspect.
    aspect: float | None
    factor: float  # pixel_values = (pixels * factor - mean) / std
    mean: tuple[float, ...]
    std: tuple[float, ...]


def load_teacher(
    name: str, space: str | None = None, device: str | torch.device = "cpu"
) -> tuple[nn.Module, Preparation, str, int]:
    """Load the model, the preparation of its images, the space of its predictions, and its resolution.

    Args:
        name (`str`): Hub id or folder of a depth model or of a LoRA adapter.
        space (`str`, *optional*): Space of the predictions, if its config does not say.
        device (`str` or `torch.device`): Device of the model.

    Returns:
        `tuple[nn.Module, Preparation, str, int]`: The model in evaluation mode, in float32.

    Raises:
        ValueError: The space is unknown.
    """
    teacher = DepthPredictor(name, space=space, device=device)
    # Weights stored in half precision become float32 too; `dtype` decides the precision of the computation.
    model, processor = teacher.model.float(), teacher.processor
    preparation = preparation_of(processor, model.config)
    network_space = space_of(model, name, space, processed=False)
    return model, preparation, network_space, own_resolution(processor, preparation)


def preparation_of(processor, config=None) -> Preparation:
    """Read the preparation of images from an image processor; padding is left out, because it has no label.

    Args:
        processor: Image processor of transformers.
        config: Config of the model: some processors (DPT's, ZoeDepth's) do not know the patch size.

    Returns:
        The preparation.

    Example:
        >>> from depth_anything_hf import DepthAnythingImageProcessor
        >>> preparation_of(DepthAnythingImageProcessor()).multiple
        14
    """
    asked = getattr(processor, "ensure_multiple_of", None) or getattr(processor, "size_divisor", None)
    backbone = getattr(config, "backbone_config", None)
    # transformers' DPT assumes that the patches of its own ViT form a square.
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
    """Return the shorter side of the network's input according to the checkpoint's processor.

    It is not part of the `Preparation`: a folder stores the resolution of its run separately.

    Args:
        processor: Image processor of transformers.
        preparation (`Preparation`): Preparation read from the processor.

    Returns:
        `int`: Pixels; 518 if the processor does not resize.

    Example:
        >>> from depth_anything_hf import DepthAnythingImageProcessor
        >>> processor = DepthAnythingImageProcessor(size={"height": 392, "width": 518})
        >>> own_resolution(processor, preparation_of(processor))
        392
    """
    size = getattr(processor, "size", None) or {}
    sides = [size[name] for name in ("height", "width", "shortest_edge") if name in size]
    side = min(sides, default=OFFICIAL_RESOLUTION)
    # A side that is no multiple of the patch is rounded as in a prediction without `resolution`.
    return (
        resized_size(side, side, (side, side), preparation.multiple, preparation.aspect is None)[0] if sides else side
    )
