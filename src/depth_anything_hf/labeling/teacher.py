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
    """Load the model (in evaluation mode, float32), the preparation of its images, the space of its output, and its resolution.

    `name` is a Hub id or a folder, of an adapter too; `space` is for a config that does not say what the model predicts.

    Raises:
        ValueError: The space is unknown, or not the one in the config.
    """
    teacher = DepthPredictor(name, space=space, device=device)
    # Weights stored in half precision become float32 too; `dtype` decides the precision of the computation.
    model, processor = teacher.model.float(), teacher.processor
    preparation = preparation_of(processor, model.config)
    network_space = space_of(model, name, space, processed=False)
    return model, preparation, network_space, own_resolution(processor, preparation)


def preparation_of(processor, config=None) -> Preparation:
    """Read the preparation of images from an image processor of transformers; padding is left out: it has no label.

    Some processors (DPT's, ZoeDepth's) do not know the patch size: it is in the model's config.

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

    It is in pixels, 518 if the processor does not resize. It is not part of the `Preparation`: a folder stores the resolution
    of its run separately.

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
