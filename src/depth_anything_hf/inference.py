"""Predict depth at full size for a list of images."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import nn
from transformers import AutoConfig, AutoImageProcessor, AutoModelForDepthEstimation
from transformers.utils import is_torchvision_available

from depth_anything_hf.geometry import check_space
from depth_anything_hf.image_processing import DepthAnythingImageProcessor
from depth_anything_hf.modeling import DepthAnythingForDepthEstimation
from depth_anything_hf.resizing import resize_prediction


def load_model(name: str, **kwargs) -> tuple[nn.Module, DepthAnythingImageProcessor]:
    """Load a depth model and its processor: Depth Anything as our classes, any other as transformers' own.

    Args:
        name (`str`): Hub id or folder; of a LoRA adapter, too, which is merged into its base model.
        kwargs: Passed to `from_pretrained` of the model.

    Returns:
        `tuple[nn.Module, DepthAnythingImageProcessor]`: The model, in evaluation mode on the CPU, and its processor.

    Raises:
        ValueError: The checkpoint is no depth model, or an adapter that names no base model.
    """
    base = adapter_base(name)
    if base is not None:
        from peft import PeftModel

        model, processor = load_model(base, **kwargs)
        return PeftModel.from_pretrained(model, name).merge_and_unload().eval(), processor
    config = AutoConfig.from_pretrained(name)
    if config.model_type == "depth_anything":
        model = DepthAnythingForDepthEstimation.from_pretrained(name, **kwargs)
        return model.eval(), DepthAnythingImageProcessor.from_pretrained(name)
    if type(config) not in AutoModelForDepthEstimation._model_mapping:
        raise ValueError(
            f"{name} is of type {config.model_type!r}, which estimates no depth; choose a checkpoint that "
            "AutoModelForDepthEstimation loads, such as depth-anything/Depth-Anything-V2-Small-hf."
        )
    model = AutoModelForDepthEstimation.from_pretrained(name, **kwargs)
    return model.eval(), AutoImageProcessor.from_pretrained(name)


_SPACE_OF = {"dpt": "disparity", "zoedepth": "depth", "glpn": "depth", "depth_pro": "depth", "tipsv2_dpt": "depth"}
_SPACE_OF_NETWORK = {"depth_pro": "disparity"}  # its processor makes metres of it


def space_of(model: nn.Module, name: str, space: str | None = None, processed: bool = True) -> str:
    """Find out what a model predicts.

    Args:
        model (`nn.Module`): A depth model of transformers.
        name (`str`): For the message.
        space (`str`, *optional*): What the user says; wins.
        processed (`bool`): Whether its processor has a hand in it, as in `predict_depth`; else the network's own output.

    Returns:
        `str`: `"disparity"` or `"depth"`.

    Raises:
        ValueError: Neither the user nor the config says it.
    """
    kind = getattr(model.config, "depth_estimation_type", None)
    spaces = _SPACE_OF if processed else _SPACE_OF | _SPACE_OF_NETWORK
    known = {"relative": "disparity", "metric": "depth"}.get(kind) or spaces.get(model.config.model_type)
    if (space or known) is None:
        raise ValueError(
            f"{name} ({model.config.model_type}) does not say whether it predicts disparity or depth; pass "
            "space='disparity' or space='depth'."
        )
    return check_space(space or known)


def adapter_base(name: str) -> str | None:
    """Find the base model of a folder or Hub repository that holds an adapter alone; None for a whole model."""
    from transformers.utils import cached_file
    from transformers.utils.peft_utils import find_adapter_config_file

    if cached_file(name, "config.json", _raise_exceptions_for_missing_entries=False) is not None:
        return None
    found = find_adapter_config_file(name)
    if found is None:
        return None
    base = json.loads(Path(found).read_text(encoding="utf-8")).get("base_model_name_or_path")
    if not base:
        raise ValueError(
            f"{found} does not say which model the adapter belongs to; write its Hub id or folder there, as "
            "base_model_name_or_path."
        )
    return base


def model_revision(name: str, model: nn.Module) -> str:
    """Identify a model: its commit on the Hub, or a digest of its weights.

    Args:
        name (`str`): Hub id or folder.
        model (`nn.Module`): Loaded from there.

    Returns:
        `str`: The commit, or "sha256:" and 16 hexadecimal digits of the weights.
    """
    commit = getattr(model.config, "_commit_hash", None)
    if commit and not Path(name).exists() and adapter_base(name) is None:  # an adapter's commit is not its base's
        return commit
    digest = hashlib.sha256()
    for key, values in sorted(model.state_dict().items()):
        digest.update(key.encode())
        digest.update(values.detach().cpu().flatten().view(torch.uint8).numpy().tobytes())
    return f"sha256:{digest.hexdigest()[:16]}"


@torch.no_grad()
def predict_depth(
    model: nn.Module,
    processor: DepthAnythingImageProcessor,
    images: Sequence[Image.Image],
    mode: str = "bilinear",
    full_size: bool = True,
) -> list[torch.Tensor]:
    """Predict the depth of images of any sizes; those of one input size go through the model together.

    Args:
        model (`nn.Module`): Any depth model whose output has `predicted_depth`.
        processor (`DepthAnythingImageProcessor`): Its `resize_method` decides the input size.
        images (`Sequence[Image.Image]`): RGB.
        mode (`str`): How the prediction is brought to the image's size: `"bilinear"` as the authors, `"bicubic"` as
            the stock pipeline.
        full_size (`bool`): False leaves the predictions at the model's input size.

    Returns:
        `list[torch.Tensor]`: For each image `(height, width)` float32 on the CPU: disparity, larger when nearer, for a
        relative model; metres for a metric one.

    Raises:
        ValueError: `images` is empty.

    Example:
        >>> from transformers import Dinov2Config
        >>> from depth_anything_hf import DepthAnythingForDepthEstimation, config_for_encoder
        >>> encoder = Dinov2Config(image_size=56, hidden_size=32, num_hidden_layers=4, num_attention_heads=2)
        >>> model = DepthAnythingForDepthEstimation(config_for_encoder(encoder))
        >>> processor = DepthAnythingImageProcessor(size={"height": 56, "width": 56})
        >>> predict_depth(model, processor, [Image.new("RGB", (80, 60))])[0].shape
        torch.Size([60, 80])
    """
    if len(images) == 0:
        raise ValueError("images is empty; pass at least one.")
    device = next(model.parameters()).device
    inputs = [processor(image, return_tensors="pt")["pixel_values"][0] for image in images]
    by_shape = defaultdict(list)
    for i, pixel_values in enumerate(inputs):
        by_shape[pixel_values.shape].append(i)
    predictions: list[torch.Tensor] = [None] * len(images)
    was_training = model.training
    model.eval()
    try:
        for members in by_shape.values():
            batch = torch.stack([inputs[i] for i in members]).to(device)
            sizes = [images[i].size[::-1] if full_size else None for i in members]
            for i, depth in zip(members, _full_size(model(pixel_values=batch), processor, sizes, mode), strict=True):
                predictions[i] = depth.cpu()
    finally:
        model.train(was_training)
    return predictions


def _full_size(outputs, processor, sizes: list[tuple[int, int] | None], mode: str) -> list[torch.Tensor]:
    """Bring a batch's predictions to the images' sizes; other families than Depth Anything by their own rules."""
    if not isinstance(processor, DepthAnythingImageProcessor) and None not in sizes:
        if type(processor).__name__.startswith("ZoeDepth") and not is_torchvision_available():
            raise ImportError("transformers needs torchvision for ZoeDepth's predictions: pip install torchvision.")
        rules = inspect.signature(processor.post_process_depth_estimation).parameters
        known = {"source_sizes": sizes, "target_sizes": sizes}
        known = {name: value for name, value in known.items() if name in rules}
        return [one["predicted_depth"].float() for one in processor.post_process_depth_estimation(outputs, **known)]
    return [
        resize_prediction(depth[None], tuple(depth.shape) if size is None else size, mode)[0]
        for depth, size in zip(outputs.predicted_depth, sizes, strict=True)
    ]
