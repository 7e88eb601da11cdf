"""The one way to load weights and processors: what is not as its files say is refused, and a damaged file is named."""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import safe_open
from torch import nn
from transformers.integrations import is_fsdp_enabled
from transformers.utils import cached_file

from depth_anything_hf.data.stand_ins import stand_in

# Never reached by a gradient, nor by an image: the mask token serves DINOv2's own pretraining, and the deepest fusion
# block has no skip connection for its first residual unit. Plain DDP stops at the second step unless they are frozen.
UNUSED_PARAMETERS = (
    "backbone.embeddings.mask_token",
    "neck.fusion_stage.layers.0.residual_layer1.convolution1.weight",
    "neck.fusion_stage.layers.0.residual_layer1.convolution1.bias",
    "neck.fusion_stage.layers.0.residual_layer1.convolution2.weight",
    "neck.fusion_stage.layers.0.residual_layer1.convolution2.bias",
)
_HARMLESS = (
    *UNUSED_PARAMETERS, "embeddings.mask_token", "pooler.dense.weight", "pooler.dense.bias",
    "position_ids", "relative_position_index", "num_batches_tracked",
)  # fmt: skip
_OF_SETTINGS = (AttributeError, IndexError, KeyError, TypeError, ZeroDivisionError, StrictDataclassError)
_STORED = ("F16", "BF16", "F32", "F64")
_PRECISIONS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)  # not those of quantized models


LARGEST_SIDE = 1 << 14  # pixels of a network's input, by a processor's file: more would only fill the memory


def load_checked(from_pretrained: Callable[..., Any], name: str | os.PathLike, *args: Any, **kwargs: Any) -> tuple:
    """Load a model by a `from_pretrained` of transformers, and refuse one that is not what its files say.

    transformers fills weights that the files lack with random numbers, leaves out what it does not know, and takes NaN. With
    `output_loading_info=True` the caller reads which weights do not fit, and only NaN is refused.

    Returns:
        `tuple[PreTrainedModel, dict]`: The model, and the names of weights that do not fit.

    Raises:
        ValueError: Weights are missing, have another shape, are more than the config says, or are not finite; or a file is
            damaged.
    """
    is_read, any_shape = (kwargs.pop(name, False) for name in ("output_loading_info", "ignore_mismatched_sizes"))
    kwargs |= {"output_loading_info": True, "ignore_mismatched_sizes": any_shape or not is_read}
    with named_damage(name, kwargs.get("revision")), _without_report(not is_read):
        model, loading = from_pretrained(name, *args, **kwargs)
    if not is_read:
        _check_names(name, model, loading, any_shape)
    check_finite(model, name)
    folder = _folder_of(name, kwargs.get("revision"))
    if folder is not None and getattr(model.config, "quantization_config", None) is None:
        _check_stored(folder)
    return model, loading


def _check_names(name: str | os.PathLike, model: nn.Module, loading: dict[str, Any], any_shape: bool) -> None:
    """Raise a `ValueError` for weights that are missing, have no place in the model, or have another shape."""
    parts = {key.partition(".")[0] for key in model.state_dict()}
    shapes = {key: (tuple(stored), tuple(built)) for key, stored, built in loading["mismatched_keys"]}
    strange = sorted(loading["unexpected_keys"])
    others = f" (it holds {len(strange)} of other names, such as {strange[0]})" if strange else ""
    not_configured = {key for key in strange if key.partition(".")[0] in parts}
    found = (
        (
            loading["missing_keys"] - shapes.keys(),
            "lacks {} of the model's weights, such as {}; they would be random",
            others,
        ),
        (
            not_configured,
            "holds {} weights that do not fit its config.json, which has no place for them, such as {}",
            "",
        ),
        (set() if any_shape else shapes.keys(), "holds {} weights that do not fit its config.json, such as {}", ""),
    )
    for keys, problem, more in found:
        if keys := sorted(key for key in keys if not key.endswith(_HARMLESS)):
            example = keys[0] + (" {}, not {}".format(*shapes[keys[0]]) if keys[0] in shapes else "")
            raise ValueError(
                f"{name} {problem.format(len(keys), example)}{more}. Its files do not belong together, or were cut: download or "
                "save the model again."
            )


def _check_stored(folder: Path) -> None:
    """Raise a `ValueError` for weights stored as integers, which transformers takes for weights, or in another folder."""
    index = folder / "model.safetensors.index.json"
    shards = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values() if index.is_file() else ()
    for shard in set(shards):
        if os.path.isabs(shard) or ".." in Path(shard).parts:
            raise ValueError(
                f"{index} names {shard}, outside of its folder; copy the file there, and correct the name."
            )
    for path in sorted(folder.glob("model*.safetensors")):
        with safe_open(path, "pt") as file:
            names = [key for key in file.keys() if not key.endswith(_HARMLESS)]  # noqa: SIM118
            kinds = {key: file.get_slice(key).get_dtype() for key in names}
        if strange := min((key for key, kind in kinds.items() if kind not in _STORED), default=None):
            raise ValueError(
                f"{path} stores {strange} as {kinds[strange]}, and weights are one of {', '.join(_STORED)}: its values were "
                "rounded, or it belongs to a quantized model. Save or download the model again."
            )


def check_finite(model: nn.Module, name: str | os.PathLike) -> None:
    """Raise a `ValueError` if a weight of a model is NaN or infinite."""
    if is_fsdp_enabled() and os.environ.get("LOCAL_RANK", "0") != "0":  # filled from the first process, later
        return
    for key, values in model.state_dict().items():
        if values.dtype in _PRECISIONS and values.numel() and not values.is_meta:
            low, high = torch.aminmax(values)  # both are NaN if one value is; needs no memory
            if not math.isfinite(low) or not math.isfinite(high):
                raise ValueError(
                    f"{name} holds NaN or infinite weights, in {key}; it predicts nothing. Take an earlier checkpoint, or "
                    "download it again."
                )


def check_processor(processor: Any) -> None:
    """Raise a `ValueError` if the settings of an image processor would make NaN, or no image at all."""

    def refuse(setting: str, value: Any, rule: str) -> None:
        raise ValueError(f"{setting} is {value!r}; it must be {rule}.")

    for setting in ("image_mean", "image_std"):
        values = getattr(processor, setting, None)
        if values is None:
            continue
        rule = "three finite numbers" + (" above 0" if setting == "image_std" else "")
        numbers = values if isinstance(values, (list, tuple)) else ()
        if len(numbers) != 3 or not all(_is_finite(one) and (setting == "image_mean" or one > 0) for one in numbers):
            refuse(setting, values, rule)
    factor = getattr(processor, "rescale_factor", None)
    if factor is not None and not (_is_finite(factor) and factor > 0):
        refuse("rescale_factor", factor, "a number above 0, such as 1/255")
    multiple = getattr(processor, "ensure_multiple_of", None)
    if multiple is not None and not (_is_finite(multiple) and multiple > 0):  # ZoeDepth's is a fraction
        refuse("ensure_multiple_of", multiple, "above 0, such as the patch size 14")
    sides = {
        side: length for side, length in dict(getattr(processor, "size", None) or {}).items() if length is not None
    }
    if any(not (_is_finite(length) and 1 <= length <= LARGEST_SIDE) for length in sides.values()):
        refuse("size", sides, f"of positive numbers of pixels, at most {LARGEST_SIDE}")


def check_input(processor: Any, config: Any) -> None:
    """Raise a `ValueError` if a processor makes colors of images that no model was trained with, or sides that its patches do
    not fill.

    Example:
        >>> from transformers import DPTImageProcessorPil
        >>> check_input(DPTImageProcessorPil(do_rescale=False), None)
        Traceback (most recent call last):
        ...
        ValueError: black and white are 510 apart in the network's input, and mostly 1 to 5: check do_rescale, ...
    """
    factor = getattr(processor, "rescale_factor", 1) if getattr(processor, "do_rescale", False) else 1
    std = getattr(processor, "image_std", None) if getattr(processor, "do_normalize", False) else None
    for one in std or (1,):
        if not 0.2 <= (span := 255 * factor / one) <= 25:
            raise ValueError(
                f"black and white are {span:.3g} apart in the network's input, and mostly 1 to 5: check do_rescale, "
                "rescale_factor, do_normalize and image_std."
            )
    patch: Any = getattr(config, "patch_size", None)
    multiple = getattr(processor, "ensure_multiple_of", None)
    if getattr(config, "model_type", "") == "depth_anything" and not (
        isinstance(multiple, int) and multiple % patch == 0
    ):
        raise ValueError(f"ensure_multiple_of is {multiple}; it must be a multiple of the model's patch size {patch}.")


@contextmanager
def named_damage(name: str | os.PathLike, revision: str | None = None) -> Iterator[None]:
    """If loading a checkpoint fails, and a file of it is damaged, raise a `ValueError` that names the file."""
    try:
        yield
    except Exception as error:  # a damaged file raises a dozen kinds
        folder = _folder_of(name, revision)
        problem = _damage(folder) if folder is not None else None
        if problem is None and isinstance(error, _OF_SETTINGS):
            what = " ".join(str(error).split())
            problem = (
                f"the settings of {name} describe no model ({type(error).__name__}: {what}): correct its config.json"
            )
        if problem is None and type(error) is ValueError and os.fspath(name) not in str(error):
            raise ValueError(f"{name}: {error}") from error
        if problem is None:
            raise
        raise ValueError(f"{problem}.") from error


def _folder_of(name: str | os.PathLike, revision: str | None) -> Path | None:
    """Find the folder of a checkpoint, or of its files in the cache; None if it has none."""
    path = os.fspath(name)
    if not os.path.isdir(path):
        with suppress(OSError, ValueError):
            path = os.path.dirname(cached_file(path, "config.json", revision=revision, local_files_only=True) or "")
    return Path(path) if os.path.isdir(path) else None


def _damage(folder: Path) -> str | None:
    """Find the first damaged file of a checkpoint: its path and what is wrong with it."""
    for path in sorted(path for path in folder.iterdir() if path.suffix in (".json", ".safetensors", ".bin")):
        if not path.is_file():
            return f"{path} is no file: put the file there"
        if problem := stand_in(path):
            return f"{path} {problem}"
        try:
            if path.suffix == ".safetensors":
                safe_open(path, "pt")
            elif path.suffix == ".bin":
                torch.load(path, map_location="meta", weights_only=True)
            else:
                content = json.loads(path.read_text(encoding="utf-8"))
                if not isinstance(content, dict):
                    return f"{path} holds a {type(content).__name__}, not names and values: download it again"
                if path.name.endswith(".index.json") and not isinstance(content.get("weight_map"), dict):
                    return f"{path} has no weight_map, the names of weights and their files: download it again"
                lost = {shard for shard in content.get("weight_map", {}).values() if not (folder / shard).is_file()}
                if lost:
                    return f"{path} names {min(lost)}, which is not there: download or copy the missing file"
        except Exception as error:
            first = str(error).partition("\n")[0]
            return f"{path} is cut or damaged ({type(error).__name__}: {first[:200]}): download it again"
    return None


def _is_finite(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)


@contextmanager
def _without_report(silent: bool) -> Iterator[None]:
    """Keep transformers from logging its table of the weights that do not fit, where one line says it."""
    logger = logging.getLogger("transformers.modeling_utils")
    if silent:
        logger.addFilter(_is_no_report)
    try:
        yield
    finally:
        logger.removeFilter(_is_no_report)


def _is_no_report(record: logging.LogRecord) -> bool:
    return "LOAD REPORT" not in record.getMessage()
