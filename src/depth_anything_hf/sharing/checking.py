"""What must hold before a checkpoint is shared: stock transformers loads it, and an adapter names a base on the Hub."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import transformers
from safetensors import SafetensorError
from transformers import AutoConfig, AutoImageProcessor, AutoModelForDepthEstimation, PreTrainedModel

from depth_anything_hf.data.whole_files import write_whole
from depth_anything_hf.model.image_processing import DepthAnythingImageProcessor
from depth_anything_hf.prediction.predictor import load_model
from depth_anything_hf.sharing.licenses import is_hub_id

PROCESSOR, ADAPTER = "preprocessor_config.json", "adapter_config.json"


def open_checkpoint(folder: Path) -> tuple[PreTrainedModel, Any]:
    """Load a checkpoint as others will: from the files in its folder, if all its classes are in transformers.

    An adapter is loaded with its base. The model is in evaluation mode, on the CPU; the processor comes with it.

    Raises:
        ValueError: A file is missing or cut, or needs a class that transformers does not have.
    """
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        raise ValueError(f"{folder} holds no weights (*.safetensors); save the model there with save_pretrained.")
    try:
        if (folder / ADAPTER).is_file():
            model, processor = load_model(str(folder))
            return cast(PreTrainedModel, model), processor
        return _open_model(folder)
    except SafetensorError as error:
        raise ValueError(f"the weights in {folder} are cut or damaged ({error}); save the model again.") from error
    except RuntimeError as error:  # the shapes differ
        raise ValueError(
            f"the weights in {folder} do not fit its config.json ({error}); save the model again."
        ) from error


def _open_model(folder: Path) -> tuple[PreTrainedModel, Any]:
    config = AutoConfig.from_pretrained(folder)
    if type(config) not in AutoModelForDepthEstimation._model_mapping:
        raise ValueError(f"{folder} is of type {config.model_type!r}, which estimates no depth.")
    if not (folder / PROCESSOR).is_file():
        raise ValueError(
            f'{folder} has no {PROCESSOR}, without which pipeline("depth-estimation") does not load it: save the '
            "processor there with save_pretrained."
        )
    kind = json.loads((folder / PROCESSOR).read_text(encoding="utf-8")).get("image_processor_type", "")
    for name in (*(config.architectures or [""]), kind):
        if not hasattr(transformers, name or "?"):
            raise ValueError(
                f"{folder} names the class {name!r}, which transformers does not have: others could not load it."
            )
    model, loading = AutoModelForDepthEstimation.from_pretrained(folder, output_loading_info=True)
    missing = sorted(loading["missing_keys"])
    if missing:
        raise ValueError(
            f"{folder} lacks {len(missing)} of the model's weights, such as {missing[0]}; they would be random. Save the "
            "model again."
        )
    ours = config.model_type == "depth_anything"
    return model.eval(), (DepthAnythingImageProcessor if ours else AutoImageProcessor).from_pretrained(folder)


def settle_adapter(folder: Path, base: str | None = None) -> str:
    """Make an adapter's `adapter_config.json` name a base that others can load, and no class of this package.

    Returns the Hub id of the base: `base`, or the one in the config. Without such an id a `ValueError` is raised.
    """
    path = folder / ADAPTER
    config = json.loads(path.read_text(encoding="utf-8"))
    found = base or config.get("base_model_name_or_path") or ""
    if not is_hub_id(found):
        raise ValueError(
            f"the adapter belongs to {found or 'no model that it names'!r}, which is not on the Hub, so nobody else can "
            "load it: push that first, then the adapter with its id as `base`. Or merge the two (merge_adapter of "
            "depth_anything_hf.prediction.adapters) and push the merged folder."
        )
    settled = config | {"base_model_name_or_path": found}
    if config.get("auto_mapping"):  # peft's AutoPeftModel would import our module
        settled["auto_mapping"] = config["auto_mapping"] | {"parent_library": "transformers"}
    if settled != config:
        write_whole(path, json.dumps(settled, indent=2, sort_keys=True) + "\n")
    return found
