"""Predict depth at full size for a list of images."""

from __future__ import annotations

import hashlib
import inspect
import json
import math
import re
from collections import defaultdict
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import torch
from huggingface_hub import try_to_load_from_cache
from PIL import Image
from safetensors import safe_open
from torch import nn
from transformers import AutoConfig, AutoImageProcessor, AutoModelForDepthEstimation
from transformers.utils import cached_file, is_torchvision_available
from transformers.utils.hub import extract_commit_hash

from depth_anything_hf.maps.geometry import check_space
from depth_anything_hf.maps.resizing import check_resolution, fixed_aspect, resize_prediction, shaped_size
from depth_anything_hf.model.bundled import checkpoint_folder
from depth_anything_hf.model.image_processing import DepthAnythingImageProcessor
from depth_anything_hf.model.modeling import NAMES_ON_DISK, DepthAnythingForDepthEstimation

FINGERPRINT = "base_model_fingerprint"  # stands in an adapter's auto_mapping, which PEFT and transformers read past


def load_model(name: str, **kwargs) -> tuple[nn.Module, DepthAnythingImageProcessor]:
    """Load a depth model and its processor: Depth Anything as our classes, any other as transformers' own.

    Args:
        name (`str`): Hub id or folder, or "mini", which comes with the package; of a LoRA adapter, too, which is merged
            into its base model.
        kwargs: Passed to `from_pretrained` of the model.

    Returns:
        `tuple[nn.Module, DepthAnythingImageProcessor]`: The model, in evaluation mode on the CPU, and its processor.

    Raises:
        ValueError: The checkpoint is no depth model, or an adapter that names no base model, or one that does not fit
            it, or was trained on other weights.
    """
    name = checkpoint_folder(name)
    base = adapter_base(name)
    if base is not None:
        return _load_merged(name, base, **kwargs)
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


def input_multiple(processor, config=None) -> int:
    """Find out what the sides of a model's input must be multiples of.

    Args:
        processor: Of transformers.
        config: The model's: some processors (DPT's, ZoeDepth's) do not know the patch size.

    Returns:
        `int`: Pixels.

    Example:
        >>> input_multiple(DepthAnythingImageProcessor())
        14
    """
    asked = getattr(processor, "ensure_multiple_of", None) or getattr(processor, "size_divisor", None)
    backbone = getattr(config, "backbone_config", None)
    patch = getattr(backbone, "patch_size", None) or getattr(config, "patch_size", None)
    return math.lcm(max(int(asked or 1), 1), patch if isinstance(patch, int) else 1)


def set_resolution(processor, config, resolution: int) -> None:
    """Make a processor bring images to another resolution than its checkpoint's; one that squeezes them keeps its shape.

    Args:
        processor: Of transformers; changed.
        config: The model's.
        resolution (`int`): Shorter side of the network's input, pixels.

    Raises:
        ValueError: No multiple of the patch size, or a processor that takes images as large as they are.
    """
    if not getattr(processor, "size", None):
        raise ValueError(
            f"resolution is {resolution}, but {type(processor).__name__} takes images as large as they are; leave it out, "
            "or resize the images."
        )
    check_resolution(resolution, multiple := input_multiple(processor, config))
    height, width = shaped_size(resolution, fixed_aspect(processor) or 1.0, multiple)
    processor.size = {"height": height, "width": width}


def adapter_base(name: str) -> str | None:
    """Find the base model of a folder or Hub repository that holds an adapter alone; None for a whole model."""
    found = _adapter_config(name)
    if found is None:
        return None
    path, config = found
    if not config.get("base_model_name_or_path"):
        raise ValueError(
            f"{path} does not say which model the adapter belongs to; write its Hub id or folder there, as "
            "base_model_name_or_path."
        )
    return config["base_model_name_or_path"]


def _adapter_config(name: str) -> tuple[str, dict] | None:
    """Read adapter_config.json and say where it lies; None for a whole model."""
    from transformers.utils.peft_utils import find_adapter_config_file

    if find_file(name, "config.json") is not None:
        return None
    path = find_adapter_config_file(name)
    return None if path is None else (path, json.loads(Path(path).read_text(encoding="utf-8")))


def find_file(name: str, file: str) -> str | None:
    """Find a file of a folder or Hub repository; None if it has no such file."""
    return cached_file(checkpoint_folder(name), file, _raise_exceptions_for_missing_entries=False)


def _load_merged(name: str, base: str, **kwargs) -> tuple[nn.Module, DepthAnythingImageProcessor]:
    """Merge an adapter into its base model, after checks that it belongs there: on other weights it makes noise."""
    from peft import PeftModel, get_peft_model_state_dict, load_peft_weights

    path, config = _adapter_config(name)
    trained_on = (config.get("auto_mapping") or {}).get(FINGERPRINT)
    if trained_on is not None and trained_on != (found := weights_fingerprint(base)):
        raise ValueError(
            f"{name} was trained on a base model with the weights {trained_on}, and {base} holds {found}: another model, "
            f"or another version of it. Write the right Hub id or folder in {path}, as base_model_name_or_path."
        )
    model, processor = load_model(base, **kwargs)
    names = _adapter_names(model)
    try:
        adapted = PeftModel.from_pretrained(model, name, key_mapping=names)
        strangers = get_peft_model_state_dict(adapted, save_embedding_layers=False).keys()
        strangers ^= load_peft_weights(name, device="cpu", key_mapping=names).keys()
    except (KeyError, RuntimeError, ValueError) as error:
        raise ValueError(f"the adapter {name} does not fit {base}: {error}") from error
    if strangers:
        raise ValueError(
            f"the adapter {name} does not fit {base}: {len(strangers)} of their weights have no counterpart, such as "
            f"{min(strangers)}. Write the right Hub id or folder in {path}, as base_model_name_or_path."
        )
    merged = adapted.merge_and_unload().eval()
    merged.name_or_path = name  # these are not the weights of the base any more: an adapter on top must not name it
    return merged, processor


def _adapter_names(model: nn.Module) -> dict[str, str]:
    """Map the attention's names of another transformers version, in which an adapter was saved, to this one's."""
    pairs = {old.strip("."): new.strip(".") for old, new in NAMES_ON_DISK.items()}
    if not any(name.endswith(".q_proj") for name, _ in model.named_modules()):
        pairs = {new: old for old, new in pairs.items()}
    return {rf"\.{re.escape(one)}\.(?=lora_)": f".{other}." for one, other in pairs.items()}


def weights_fingerprint(name: str) -> str | None:
    """Identify the weights of a checkpoint as they lie in its files, by names and values.

    Args:
        name (`str`): Hub id or folder.

    Returns:
        `str`, *optional*: "sha256:" and 16 hexadecimal digits; None where there are no safetensors files.
    """
    paths = [find_file(name, "model.safetensors")]
    if paths == [None]:
        index = find_file(name, "model.safetensors.index.json")
        if index is None:
            return None
        shards = set(json.loads(Path(index).read_text(encoding="utf-8"))["weight_map"].values())
        paths = [find_file(name, shard) for shard in sorted(shards)]
    digest = hashlib.sha256()
    with ExitStack() as stack:
        owners = {}
        for path in paths:
            file = stack.enter_context(safe_open(path, "pt"))
            owners |= dict.fromkeys(file.keys(), file)
        for key, file in sorted(owners.items(), key=lambda owner: owner[0]):
            digest.update(key.encode())
            digest.update(file.get_tensor(key).flatten().view(torch.uint8).numpy())
    return f"sha256:{digest.hexdigest()[:16]}"


def model_revision(name: str, model: nn.Module) -> str:
    """Identify a model: its commit on the Hub, or a digest of its weights.

    Args:
        name (`str`): Hub id or folder.
        model (`nn.Module`): Loaded from there.

    Returns:
        `str`: The commit, or "sha256:" and 16 hexadecimal digits of the weights.
    """
    if not Path(checkpoint_folder(name)).exists():
        commit = getattr(model.config, "_commit_hash", None) or _commit_on_hub(name)
        if commit and adapter_base(name) is None:  # an adapter's commit is not its base's
            return commit
    digest = hashlib.sha256()
    for key, values in sorted(model.state_dict().items()):
        digest.update(key.encode())
        digest.update(values.detach().cpu().flatten().view(torch.uint8).numpy().tobytes())
    return f"sha256:{digest.hexdigest()[:16]}"


def _commit_on_hub(name: str) -> str | None:
    """Read off the cache which commit was loaded: transformers' config does not keep it any more."""
    try:
        path = try_to_load_from_cache(name, "config.json")
    except ValueError:  # no id of the Hub
        return None
    return extract_commit_hash(path, None) if isinstance(path, str) else None


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
