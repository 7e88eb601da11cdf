"""Load a depth model onto a device, with the space of its predictions, and predict images at full size."""

from __future__ import annotations

import copy
import inspect
import math
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, cast, overload

import torch
from PIL import Image
from torch import nn
from transformers import AutoConfig, AutoImageProcessor, AutoModelForDepthEstimation, PreTrainedModel
from transformers.utils import is_torchvision_available

from depth_anything_hf.data.codes import upright_rgb
from depth_anything_hf.data.image_files import check_image_size
from depth_anything_hf.maps.geometry import check_space
from depth_anything_hf.maps.resizing import check_resolution, fixed_aspect, resize_prediction, shaped_size
from depth_anything_hf.model.bundled import checkpoint_folder
from depth_anything_hf.model.image_processing import DepthAnythingImageProcessor
from depth_anything_hf.model.loading import check_finite, check_input, check_processor, load_checked, named_damage
from depth_anything_hf.model.modeling import NAMES_ON_DISK, DepthAnythingForDepthEstimation
from depth_anything_hf.prediction.devices import choose_device
from depth_anything_hf.prediction.stream import ShapeBatches
from depth_anything_hf.prediction.weights import (
    adapter_base,
    adapter_config,
    digest_of_model,
    model_revision,
    weights_fingerprint,
)

FINGERPRINT = "base_model_fingerprint"  # stands in an adapter's auto_mapping, which PEFT and transformers read past


class DepthPredictor:
    """Predict the depth of images with one model, on one device, in a known space.

    Args:
        name (`str`): Hub id or folder of a depth model or of a LoRA adapter, or "mini", which comes with the package.
        resolution (`int`, *optional*): Shorter side of the network's input, pixels, a multiple of its patch size;
            default: the checkpoint's.
        space (`str`, *optional*): `"disparity"` or `"depth"`: what the model predicts, if its config does not say.
        device (`str` or `torch.device`, *optional*): Where it runs; default: CUDA, else MPS, else the CPU.
        dtype (`torch.dtype` or `str`, *optional*): Of the weights, such as `torch.bfloat16`; default: as stored in the files,
            and float32 on a CPU, where half precision is several times slower.
        revision (`str`, *optional*): Branch, tag or commit on the Hub; of an adapter, its own, not its base's.

    Attributes:
        model (`nn.Module`): In evaluation mode.
        processor: Its image processor.
        space (`str`): `"disparity"` (larger is nearer, unknown scale) or `"depth"` (meters).
        revision (`str`): The commit on the Hub, or a digest of the weights; see `model_revision`.
        device (`torch.device`): Where the model is now.

    Raises:
        ValueError: No depth model, its space is unknown, or a resolution that it does not take.

    Example:
        >>> predict = DepthPredictor("mini", device="cpu")
        >>> photo = Image.new("RGB", (80, 60))
        >>> predict(photo).shape, len(predict([photo, photo])), predict.space
        (torch.Size([60, 80]), 2, 'disparity')
    """

    model: Any  # any depth model of transformers
    processor: Any
    space: str

    def __init__(
        self,
        name: str,
        *,
        resolution: int | None = None,
        space: str | None = None,
        device: str | torch.device | None = None,
        dtype: torch.dtype | str | None = None,
        revision: str | None = None,
    ):
        chosen = choose_device(device)
        model, processor = load_model(name, revision=revision, dtype=dtype or "auto")
        self._source: tuple[str, str | None, torch.dtype] | None = (name, revision, cast(PreTrainedModel, model).dtype)
        self._take(model, processor, name, resolution, space)
        self.model.to(chosen, torch.float32 if dtype is None and chosen.type == "cpu" else None)

    @classmethod
    def from_model(
        cls, model: nn.Module, processor: Any, *, resolution: int | None = None, space: str | None = None
    ) -> DepthPredictor:
        """Wrap a model in memory; it stays where it is, and no argument is changed.

        Args:
            model (`nn.Module`): Any depth model whose output has `predicted_depth`.
            processor: Its image processor.
            resolution, space: As of the class.
        """
        predictor = cls.__new__(cls)
        predictor._source = None
        predictor._take(model, processor, type(model).__name__, resolution, space)
        return predictor

    def _take(self, model: nn.Module, processor: Any, name: str, resolution: int | None, space: str | None) -> None:
        self.model, self.processor = model, processor
        if resolution is not None:
            self.processor = copy.deepcopy(processor)
            set_resolution(self.processor, model.config, resolution)
        self.space = space_of(model, name, space)

    @property
    def device(self) -> torch.device:
        """Where the model is now."""
        return next(self.model.parameters()).device

    @cached_property
    def revision(self) -> str:
        """The commit on the Hub, or a digest of the weights."""
        if self._source is None:
            return digest_of_model(self.model)
        name, revision, dtype = self._source
        return model_revision(name, self.model, revision, dtype)

    @overload
    def __call__(self, images: Image.Image) -> torch.Tensor: ...

    @overload
    def __call__(self, images: Sequence[Image.Image]) -> list[torch.Tensor]: ...

    def __call__(self, images: Image.Image | Sequence[Image.Image]) -> torch.Tensor | list[torch.Tensor]:
        """Predict one image, or several, of any sizes; those of one input size go through the model together.

        Returns:
            `torch.Tensor`: `(height, width)` of the upright image, float32 on the CPU, in `space`; for several images a list of them.

        Raises:
            ValueError: `images` is empty.
        """
        if isinstance(images, Image.Image):
            return predict_depth(self.model, self.processor, [images])[0]
        return predict_depth(self.model, self.processor, images)


def load_model(
    name: str, *, revision: str | None = None, dtype: torch.dtype | str | None = None, **kwargs
) -> tuple[nn.Module, Any]:
    """Load a depth model and its processor: Depth Anything as our classes, any other as transformers' own.

    Args:
        name (`str`): Hub id or folder, or "mini", which comes with the package; of a LoRA adapter, too, which is merged
            into its base model.
        revision (`str`, *optional*): Branch, tag or commit on the Hub; of an adapter, its own, not its base's.
        dtype (`torch.dtype` or `str`, *optional*): Of the weights; "auto": as stored in the files. Default: float32, because
            half precision is several times slower on the CPU.
        kwargs: Passed to `from_pretrained` of the model.

    Returns:
        `tuple[nn.Module, DepthAnythingImageProcessor]`: The model, in evaluation mode on the CPU, and its processor.

    Raises:
        ValueError: The checkpoint is no depth model, or not what its files say (see `load_checked`); or an adapter that names
            no base model or itself, does not fit its base, or was trained on other weights; or a revision of a folder.
    """
    name = checkpoint_folder(name)
    if revision is not None and Path(name).is_dir():
        raise ValueError(f"revision is {revision!r}, but {name} is a folder, which has no revisions; leave it out.")
    with named_damage(name, revision):
        model, processor = _load_named(name, revision, (), dtype=dtype or torch.float32, **kwargs)
    return model.eval(), processor


def _load_named(name: str, revision: str | None, on_top: tuple[str, ...], **kwargs) -> tuple[Any, Any]:
    """Load a model, or an adapter merged into its base; `on_top` are the adapters that lie on this one."""
    name = checkpoint_folder(name)
    if not os.path.exists(name) and (name.startswith(("/", ".", "~")) or name.count("/") > 1):
        raise FileNotFoundError(f"{name} does not exist; give a folder, or the id of a model on the Hub.")
    if os.path.isfile(name):
        raise NotADirectoryError(
            f"{name} is a file; a checkpoint is a folder with config.json. One of the authors' files becomes such a folder by "
            "depth-anything-hf convert."
        )
    base = adapter_base(name, revision)
    if base is not None:
        return _load_merged(name, base, revision, on_top, **kwargs)
    config = AutoConfig.from_pretrained(name, revision=revision)
    if config.model_type == "depth_anything":
        model = DepthAnythingForDepthEstimation.from_pretrained(name, revision=revision, **kwargs)
        processor = DepthAnythingImageProcessor.from_pretrained(name, revision=revision or "main")
        with _named_settings(name):
            check_input(processor, config)
        return model, processor
    if type(config) not in AutoModelForDepthEstimation._model_mapping:
        raise ValueError(
            f"{name} is of type {config.model_type!r}, which estimates no depth; choose a checkpoint that "
            "AutoModelForDepthEstimation loads, such as depth-anything/Depth-Anything-V2-Small-hf."
        )
    model, _ = load_checked(AutoModelForDepthEstimation.from_pretrained, name, revision=revision, **kwargs)
    processor = AutoImageProcessor.from_pretrained(name, revision=revision)
    with _named_settings(name):
        check_processor(processor)
        check_input(processor, config)
    return model, processor


@contextmanager
def _named_settings(name: str) -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{name}, preprocessor_config.json: {error}") from error


_SPACE_OF = {"dpt": "disparity", "zoedepth": "depth", "glpn": "depth", "depth_pro": "depth", "tipsv2_dpt": "depth"}
_SPACE_OF_NETWORK = {"depth_pro": "disparity"}  # its processor turns that into meters


def space_of(model: nn.Module, name: str, space: str | None = None, processed: bool = True) -> str:
    """Return what a model predicts, `"disparity"` or `"depth"`: the user's `space`, or else by its config.

    With `processed` it is the space after the processor's own rules, as `predict_depth` returns predictions; without, that of
    the network's own output. `name` is for the error message.

    Raises:
        ValueError: Neither the user nor the config says what it predicts, or they contradict each other.
    """
    config: Any = model.config
    kind = getattr(config, "depth_estimation_type", "")
    spaces = _SPACE_OF if processed else _SPACE_OF | _SPACE_OF_NETWORK
    stated = {"relative": "disparity", "metric": "depth"}.get(kind)
    if space is not None and stated not in (None, check_space(space)):
        raise ValueError(
            f"space is {space!r}, but the config of {name} says that it is {kind} and predicts {stated}; leave space out, or "
            "correct depth_estimation_type in its config.json."
        )
    found = space or stated or spaces.get(config.model_type)
    if found is None:
        raise ValueError(
            f"{name} ({config.model_type}) does not say whether it predicts disparity or depth; pass "
            "space='disparity' or space='depth'."
        )
    return check_space(found)


def input_multiple(processor, config=None) -> int:
    """Return the number of pixels that the sides of a model's input must be multiples of.

    Some processors (DPT's, ZoeDepth's) do not know the patch size: it is in the model's `config`.

    Example:
        >>> input_multiple(DepthAnythingImageProcessor())
        14
    """
    asked = getattr(processor, "ensure_multiple_of", None) or getattr(processor, "size_divisor", None)
    backbone = getattr(config, "backbone_config", None)
    patch = getattr(backbone, "patch_size", None) or getattr(config, "patch_size", None)
    return math.lcm(max(int(asked or 1), 1), patch if isinstance(patch, int) else 1)


def set_resolution(processor, config, resolution: int) -> None:
    """Set the resolution to which a processor resizes images; one that squeezes them into one shape keeps that shape.

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


def _load_merged(
    name: str, base: str, revision: str | None, on_top: tuple[str, ...], **kwargs
) -> tuple[nn.Module, Any]:
    """Merge an adapter into its base model, after checks that it belongs there: on other weights it makes noise."""
    from peft import PeftModel, get_peft_model_state_dict, load_peft_weights

    path, config = adapter_config(name, revision) or (name, {})
    on_top = (*on_top, os.path.realpath(name))
    if os.path.realpath(checkpoint_folder(base)) in on_top:
        raise ValueError(
            f"{path} names {base} as base_model_name_or_path, which is the adapter itself, or one that lies on it; write the "
            "Hub id or folder of the model that it was trained on."
        )
    if os.path.isabs(base) and not os.path.isdir(base):
        raise FileNotFoundError(
            f"{path} names {base} as base_model_name_or_path, which is no folder here; write the Hub id or folder of the model "
            "that it was trained on."
        )
    if os.path.isdir(name) and not list(Path(name).glob("adapter_model.*")):
        raise FileNotFoundError(
            f"{name} holds {os.path.basename(path)} and no adapter_model.safetensors; copy that, too."
        )
    trained_on = (config.get("auto_mapping") or {}).get(FINGERPRINT)
    if trained_on is not None and trained_on != (found := weights_fingerprint(base)):
        raise ValueError(
            f"{name} was trained on a base model with the weights {trained_on}, and {base} holds {found}: another model, "
            f"or another version of it. Write the right Hub id or folder in {path}, as base_model_name_or_path."
        )
    with named_damage(base):
        model, processor = _load_named(base, None, on_top, **kwargs)
    names = _adapter_names(model)
    try:
        adapted = PeftModel.from_pretrained(model, name, key_mapping=names, revision=revision)
        strangers = get_peft_model_state_dict(adapted, save_embedding_layers=False).keys()
        strangers ^= load_peft_weights(name, device="cpu", key_mapping=names, revision=revision).keys()
    except (AttributeError, KeyError, RuntimeError, TypeError, ValueError, re.error) as error:
        raise ValueError(f"the adapter {name} does not fit {base}: {' '.join(str(error).split())[:300]}") from error
    if strangers:
        raise ValueError(
            f"the adapter {name} does not fit {base}: {len(strangers)} of their weights have no counterpart, such as "
            f"{min(strangers)}. Write the right Hub id or folder in {path}, as base_model_name_or_path."
        )
    merged = adapted.merge_and_unload()
    check_finite(merged, name)
    merged.name_or_path = name  # these are not the weights of the base any more: an adapter on top must not name it
    return merged, processor


def _adapter_names(model: nn.Module) -> dict[str, str]:
    """Map the attention's names of another transformers version, in which an adapter was saved, to this one's."""
    pairs = {old.strip("."): new.strip(".") for old, new in NAMES_ON_DISK.items()}
    if not any(name.endswith(".q_proj") for name, _ in model.named_modules()):
        pairs = {new: old for old, new in pairs.items()}
    return {rf"\.{re.escape(one)}\.(?=lora_)": f".{other}." for one, other in pairs.items()}


@torch.no_grad()
def predict_depth(
    model: nn.Module,
    processor: Any,
    images: Sequence[Image.Image],
    mode: str = "bilinear",
    full_size: bool = True,
) -> list[torch.Tensor]:
    """Predict the depth of images of any sizes; those of one input size go through the model together.

    Args:
        model (`nn.Module`): Any depth model whose output has `predicted_depth`.
        processor (`DepthAnythingImageProcessor`): Its `resize_method` decides the input size.
        images (`Sequence[Image.Image]`): Photographs; they are turned upright by their EXIF data first.
        mode (`str`): How the prediction is brought to the image's size: `"bilinear"` as the authors, `"bicubic"` as
            the stock pipeline.
        full_size (`bool`): False leaves the predictions at the model's input size.

    Returns:
        `list[torch.Tensor]`: For each image `(height, width)` float32 on the CPU: disparity, larger when nearer, for a
        relative model; meters for a metric one.

    Raises:
        ValueError: `images` is empty, or one is too narrow or too large (`data.image_files.check_image_size`).

    Example:
        >>> model, processor = load_model("mini")
        >>> predict_depth(model, processor, [Image.new("RGB", (80, 60))])[0].shape
        torch.Size([60, 80])
    """
    if len(images) == 0:
        raise ValueError("images is empty; pass at least one.")
    device = next(model.parameters()).device
    batches: ShapeBatches[tuple[int, torch.Tensor]] = ShapeBatches(len(images))
    predictions: dict[int, torch.Tensor] = {}

    def predict(members: list[tuple[int, torch.Tensor]]) -> None:
        sizes = [images[i].size[::-1] if full_size else None for i, _ in members]
        outputs = model(pixel_values=torch.stack([pixel_values for _, pixel_values in members]).to(device))
        for (i, _), depth in zip(members, _full_size(outputs, processor, sizes, mode), strict=True):
            predictions[i] = depth.cpu()

    was_training = model.training
    model.eval()
    try:
        images = [_upright(image) for image in images]
        for i, image in enumerate(images):
            pixel_values = processor(image, return_tensors="pt")["pixel_values"][0]
            if full := batches.add(tuple(pixel_values.shape), (i, pixel_values), pixel_values.nbytes):
                predict(full[1])
        for _, members in batches.flush():
            predict(members)
    finally:
        model.train(was_training)
    return [predictions[i] for i in range(len(images))]


def _upright(image: Image.Image) -> Image.Image:
    check_image_size(image.height, image.width)
    return upright_rgb(image) if image.mode != "RGB" or image.getexif() else image


class PredictionError(ValueError):
    """A prediction that is no depth map, though the image could be read."""


def check_prediction(depth: torch.Tensor) -> str | None:
    """Check the prediction of one image, `(height, width)`; return what should be said of it, or None.

    A constant one is right for an image without anything in it, such as a black one.

    Raises:
        PredictionError: It holds NaN or infinite values.

    Example:
        >>> check_prediction(torch.zeros(2, 3))
        'the prediction is the same everywhere (0)'
        >>> check_prediction(torch.tensor([[0.0, 1.0]]))
    """
    if depth.numel() == 0:
        return None
    low, high = torch.aminmax(depth)  # both are NaN if one value is
    if not (low.isfinite() and high.isfinite()):
        share = 1 - depth.isfinite().float().mean().item()
        raise PredictionError(
            f"the prediction is NaN or infinite in {share:.1%} of its pixels; check the weights, or predict in float32"
        )
    return f"the prediction is the same everywhere ({low.item():g})" if low == high and depth.numel() > 1 else None


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
