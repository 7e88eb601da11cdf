"""What must be so before a checkpoint is shared: it loads elsewhere, and what was measured was measured on it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import transformers
from safetensors import SafetensorError
from torch import nn
from transformers import AutoConfig, AutoImageProcessor, AutoModelForDepthEstimation

from depth_anything_hf.model.image_processing import DepthAnythingImageProcessor
from depth_anything_hf.prediction.predictor import load_model
from depth_anything_hf.prediction.weights import model_revision
from depth_anything_hf.sharing.licenses import is_hub_id, shown_name

PROCESSOR, ADAPTER = "preprocessor_config.json", "adapter_config.json"
DA2K = {"name": "da2k", "dataset": "da2k", "averaging": "over pairs", "source": "Depth Anything V2, section 6"}


def open_checkpoint(folder: Path) -> tuple[nn.Module, Any]:
    """Load a checkpoint as others will: with the classes of transformers, from what is in the folder.

    Args:
        folder (`Path`): Of a model, or of an adapter (then with its base).

    Returns:
        `tuple[nn.Module, Any]`: Model, in evaluation mode on the CPU, and processor.

    Raises:
        ValueError: Something is missing, cut, or of a class that transformers does not have.
    """
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        raise ValueError(f"{folder} holds no weights (*.safetensors); save the model there with save_pretrained.")
    try:
        return load_model(str(folder)) if (folder / ADAPTER).is_file() else _open_model(folder)
    except SafetensorError as error:
        raise ValueError(f"the weights in {folder} are cut or damaged ({error}); save the model again.") from error
    except RuntimeError as error:  # of shapes
        raise ValueError(
            f"the weights in {folder} do not fit its config.json ({error}); save the model again."
        ) from error


def _open_model(folder: Path) -> tuple[nn.Module, Any]:
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
    """Make an adapter's folder name a base that others can load, and no class of this package.

    Args:
        folder (`Path`): Of the adapter; its `adapter_config.json` is rewritten where needed.
        base (`str`, *optional*): Hub id; left out, the one that is named there.

    Returns:
        `str`: The base.

    Raises:
        ValueError: It is no Hub id.
    """
    path = folder / ADAPTER
    config = json.loads(path.read_text(encoding="utf-8"))
    found = base or config.get("base_model_name_or_path") or ""
    if not is_hub_id(found):
        raise ValueError(
            f"the adapter belongs to {found or 'no model that it names'!r}, which is not on the Hub, so nobody else can "
            "load it: push that first, then the adapter with --base ID. Or merge the two (merge_adapter of "
            "depth_anything_hf.prediction.adapters), and push the merged folder."
        )
    settled = config | {"base_model_name_or_path": found}
    if config.get("auto_mapping"):  # peft's AutoPeftModel would import our module
        settled["auto_mapping"] = config["auto_mapping"] | {"parent_library": "transformers"}
    if settled != config:
        path.write_text(json.dumps(settled, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    return found


def read_results(path: Path, folder: Path, model: nn.Module, repo_id: str) -> dict[str, Any]:
    """Read what `depth-anything-hf evaluate` measured, if it was measured on these weights.

    Args:
        path (`Path`): `results.json`.
        folder (`Path`): Of the checkpoint.
        model (`nn.Module`): Loaded from there.
        repo_id (`str`): Under which it is shared: results of that repository are its own, too.

    Returns:
        `dict[str, Any]`: As in `Provenance.results`; paths are cut to their last part.

    Raises:
        ValueError: The file is another, or none of the models in it has these weights.
        FileNotFoundError: There is none.
    """
    found = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(found, dict) or not {"scores", "revisions"} <= found.keys():
        raise ValueError(f"{path} is no results.json of depth-anything-hf evaluate.")
    own = model_revision(str(folder), model)
    names = [
        name
        for name, revision in found["revisions"].items()
        if revision == own or (name == repo_id and re.fullmatch("[0-9a-f]{40}", revision or ""))
    ]
    if not names:
        scored = ", ".join(f"{name} ({revision})" for name, revision in found["revisions"].items())
        raise ValueError(
            f"{path} has scores of {scored}, and {folder} has other weights ({own}): evaluate what you push."
        )
    short = {name: shown_name(name) for name in found["scores"]}
    short = {name: one if list(short.values()).count(one) == 1 else name for name, one in short.items()}
    scores = {short[name]: one for name, one in found["scores"].items()}
    result = {"protocol": found.get("protocol", DA2K), "scores": scores, "model": short[names[0]]}
    return result | {key: found[key] for key in ("images_found", "versions") if key in found}
