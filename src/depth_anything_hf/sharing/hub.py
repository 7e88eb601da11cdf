"""Share a model, an adapter or a pseudo-labeled set on the Hub; everything is checked before anything is sent."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
import transformers
from huggingface_hub import HfApi, ModelCard
from huggingface_hub.errors import RepositoryNotFoundError
from huggingface_hub.utils import validate_repo_id
from transformers import AutoConfig, AutoImageProcessor, AutoModelForDepthEstimation, PreTrainedModel

from depth_anything_hf.data.opening import check_shard
from depth_anything_hf.data.whole_files import write_whole
from depth_anything_hf.model.image_processing import DepthAnythingImageProcessor
from depth_anything_hf.model.loading import load_checked, named_damage
from depth_anything_hf.prediction.predictor import load_model
from depth_anything_hf.sharing.cards import (
    BASE,
    CARD,
    DATA,
    MANIFEST,
    PICTURE,
    PROVENANCE,
    REJECTS,
    SETTINGS,
    SHARDS,
    Provenance,
    dataset_card,
    may_write_card,
    put_picture,
    write_model_card,
)
from depth_anything_hf.sharing.eval_results import read_results
from depth_anything_hf.sharing.licenses import (
    UNKNOWN,
    Source,
    check_base,
    is_hub_id,
    license_id,
    settle_license,
    source_of,
    stated_license,
)
from depth_anything_hf.sharing.upload import check_token, plain_errors, upload_files

PROCESSOR, ADAPTER = "preprocessor_config.json", "adapter_config.json"
# The files of a checkpoint. Nothing else is sent: no optimizer and random states, no logs, and no training_args.bin, a
# pickle with this machine's paths and, if the user passed it as an argument, the token.
CHECKPOINT_FILES = (
    "config.json", ADAPTER, "*.safetensors", "*.safetensors.index.json", PROCESSOR, "all_results.json", PROVENANCE,
    "LICENSE*", "*.md", "*.png", "*.jpg",
)  # fmt: skip


@dataclass(frozen=True)
class Shipment:
    """Store a checked folder, with its card, that is ready to be sent."""

    folder: Path
    repo_id: str
    kind: str  # "model", "adapter" or "dataset"
    license: str  # on its card
    files: list[str]  # that are sent
    left: list[str]  # files and folders that are not sent
    private: bool | None = None
    message: str | None = None  # of the commit

    def send(self) -> str:
        """Send the folder and return the repository's address; files that are on the Hub already are not sent again.

        Raises:
            OSError: The Hub refuses, or the connection broke; repeat the call to continue.
            ValueError: `private` is asked for, and the repository exists and is public.
        """
        if self.private:
            with plain_errors(self.repo_id, self.folder):
                _check_private(self.repo_id, "dataset" if self.kind == "dataset" else "model")
        if self.kind == "dataset":
            return push_folder(self.folder, self.repo_id, self.private, self.message)
        return upload_files(self.folder, self.repo_id, "model", self.files, self.private, self.message)


def push_to_hub(folder: str | Path, repo_id: str, **options: Any) -> str:
    """Share a model, an adapter or a pseudo-labeled set on the Hub; a repeated call sends only what changed.

    Args:
        folder (`str` or `Path`): Folder that `save_pretrained`, `Trainer.save_model` or `pseudo-label` wrote.
        repo_id (`str`): `owner/name`; created if it does not exist.
        options: Further arguments of `prepare_push`.

    Returns:
        `str`: The repository's address.

    Raises:
        ValueError: The folder would not load, or the card would contradict the folder.
        PermissionError: There is no token.
        OSError: The Hub refuses, or the connection broke; repeat the call to continue.

    Example:
        >>> push_to_hub("student", "me/depth-student", private=True)  # doctest: +SKIP
    """
    check_token()  # before the work
    return prepare_push(folder, repo_id, **options).send()


def prepare_push(
    folder: str | Path,
    repo_id: str,
    private: bool | None = None,
    license: str | None = None,
    base: str | None = None,
    training_data: Sequence[str] = (),
    results: Sequence[str | Path] = (),
    picture: str | Path | None = None,
    message: str | None = None,
) -> Shipment:
    """Check a folder and write its card, without sending anything.

    Args:
        folder (`str` or `Path`): Folder that `save_pretrained`, `Trainer.save_model` or `pseudo-label` wrote.
        repo_id (`str`): `owner/name`.
        private (`bool`, *optional*): Whether the repository is private. Default: the owner's settings decide.
        license (`str`, *optional*): License id of the Hub. Default: the strictest license of base weights, teacher and
            data.
        base (`str`, *optional*): Base model, if the folder does not record it. For an adapter, the model it belongs to.
        training_data (`Sequence[str]`): Training data, if the folder does not record it: Hub ids, folders or words.
        results (`Sequence[str or Path]`): Files `results.json` of `depth-anything-hf evaluate`, for the card.
        picture (`str` or `Path`, *optional*): Picture for the card. Default: the one in the folder, else a few rendered
            scenes.
        message (`str`, *optional*): Commit message.

    Returns:
        `Shipment`: Ready to `send`.

    Raises:
        ValueError: The folder would not load, or the card would contradict the folder.
        FileNotFoundError: A file is missing.
    """
    validate_repo_id(repo_id)
    folder = Path(folder).expanduser()
    kind = kind_of(folder)
    given = {"base": base, "training_data": training_data, "results": results, "picture": picture}
    if kind == "dataset":
        files, license = set_files(folder), _prepare_set(folder, license, given)
    else:
        license = _prepare_checkpoint(folder, repo_id, license, given)
        files = sorted({path.name for pattern in CHECKPOINT_FILES for path in folder.glob(pattern) if path.is_file()})
    sent = {Path(file).parts[0] for file in files}
    left = sorted(
        path.name + "/" * path.is_dir() for path in folder.iterdir() if path.name not in sent and path.name[0] != "."
    )
    return Shipment(folder, repo_id, kind, license, files, left, private, message)


def kind_of(folder: Path) -> str:
    """Return the kind of a folder: `"model"`, `"adapter"` or `"dataset"`.

    Raises:
        ValueError: The folder holds nothing to share, an unfinished set, or two kinds at once.
        FileNotFoundError: There is no such folder.
    """
    if not folder.is_dir():
        raise FileNotFoundError(
            f"{folder} is no folder; pass the one that the model, adapter or labels were saved in."
        )
    names = ((MANIFEST, "dataset"), ("config.json", "model"), (ADAPTER, "adapter"))
    found = [kind for name, kind in names if (folder / name).is_file()]
    if len(found) > 1:
        raise ValueError(f"{folder} holds a {' and a '.join(found)}; push them from folders of their own.")
    if found:
        return found[0]
    if (folder / SETTINGS).is_file():
        raise ValueError(f"{folder} is not labeled to its end; repeat the pseudo-label command, then push it.")
    inside = sorted(path.parent.name for path in folder.glob("*/*config.json"))
    hint = f" Did you mean {folder / inside[-1]}?" if inside else ""
    raise ValueError(
        f"{folder} holds no config.json (model), {ADAPTER} (LoRA adapter) or {MANIFEST} (pseudo-labels).{hint}"
    )


def _prepare_set(folder: Path, license: str | None, given: dict[str, Any]) -> str:
    """Check a pseudo-labeled set, write its card, and return the license."""
    refused = [name for name, value in given.items() if value]
    if refused:
        raise ValueError(
            f"`{refused[0]}` does not apply to pseudo-labels: their {MANIFEST} says what they are. Leave it out."
        )
    manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    for shard in manifest["shards"]:
        path = folder / shard["file"]
        if not path.is_file() or path.stat().st_size != shard["bytes"]:
            raise ValueError(f"{path} is missing or cut; repeat the pseudo-label command to label its images again.")
        check_shard(path)
    if manifest["keep_image"] == "reference":
        raise ValueError(
            f"{folder} holds the paths of photographs on this machine, no photographs; label them into a new folder with "
            "keep_image 'original' or 'resized' to share them."
        )
    if not may_write_card(folder) and license is not None:
        raise ValueError(f"{folder / CARD} is your own: state the license there, and leave `license` out.")
    card = dataset_card(folder.resolve().name, manifest, license)
    if may_write_card(folder):
        write_whole(folder / CARD, str(card))
    return ModelCard.load(folder / CARD, ignore_metadata_errors=True).data.get("license") or UNKNOWN


def _prepare_checkpoint(folder: Path, repo_id: str, license: str | None, given: dict[str, Any]) -> str:
    """Check a model or adapter, write its card, and return the license."""
    base, license = given["base"], license and license_id(license)
    if base:
        check_base(base)
    if (folder / ADAPTER).is_file():
        base = settle_adapter(folder, base)
    model, processor = open_checkpoint(folder)
    provenance = Provenance.load(folder)
    if not may_write_card(folder):
        return _check_own_card(folder, provenance, [license, *given.values()])
    results = [read_results(Path(path), folder, model, repo_id) for path in given["results"]]
    replaced = [result["protocol"]["name"] for result in results]
    provenance.results = [one for one in provenance.results if one["protocol"]["name"] not in replaced] + results
    provenance.license = license or provenance.license
    if base:
        provenance.replace_sources(BASE, [source_of(BASE, base)])
    if given["training_data"]:
        provenance.replace_sources(DATA, [source_of(DATA, name, "dataset") for name in given["training_data"]])
    for role in (BASE, DATA):
        if role not in {source.role for source in provenance.sources}:
            provenance.replace_sources(role, [Source(role, "not stated", UNKNOWN)])
    license = settle_license(provenance.license, provenance.sources)
    if given["picture"] or not (folder / PICTURE).is_file():
        put_picture(folder / PICTURE, given["picture"] and Path(given["picture"]), model.float(), processor)
    write_model_card(folder, provenance, repo_id, model.config)
    return license


def open_checkpoint(folder: Path) -> tuple[PreTrainedModel, Any]:
    """Load a checkpoint as others will: from the files in its folder, if all its classes are in transformers.

    An adapter is loaded with its base. The model is in evaluation mode, on the CPU; the processor comes with it.

    Raises:
        ValueError: A file is missing or cut, or needs a class that transformers does not have.
    """
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        raise ValueError(f"{folder} holds no weights (*.safetensors); save the model there with save_pretrained.")
    if (folder / ADAPTER).is_file():
        model, processor = load_model(str(folder), dtype="auto")
        return cast(PreTrainedModel, model), processor
    return _open_model(folder)


def _open_model(folder: Path) -> tuple[PreTrainedModel, Any]:
    with named_damage(folder):
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
    model, _ = load_checked(AutoModelForDepthEstimation.from_pretrained, folder)
    if model.dtype == torch.bfloat16:
        raise ValueError(
            f'{folder} holds bfloat16 weights, with which pipeline("depth-estimation") fails on a CPU, because numpy has no '
            "bfloat16: save the model in float32 or float16 (model.half().save_pretrained), and push that."
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


def _check_own_card(folder: Path, provenance: Provenance, given: Sequence[Any]) -> str:
    """Return the license on a card that the user wrote, if the sources allow it; the card stays unchanged."""
    if any(given):
        raise ValueError(
            f"{folder / CARD} is your own, so nothing is written into it. Write there what you passed as arguments, and "
            "leave them out; or remove the card to have one written."
        )
    data = ModelCard.load(folder / CARD, ignore_metadata_errors=True).data
    names = data.get("base_model") or []
    bases = [source_of(BASE, str(name)) for name in (names if isinstance(names, list) else [names])]
    return settle_license(stated_license(data), [*bases, *provenance.sources])


def _check_private(repo_id: str, repo_type: str) -> None:
    """Refuse a repository that others can read: creating it as private has no effect if it exists."""
    try:
        info = HfApi().repo_info(repo_id, repo_type=repo_type)
    except RepositoryNotFoundError:
        return
    if not info.private:
        raise ValueError(
            f"{repo_id} exists and is public; nothing was sent. Make it private in its settings, choose another id, or "
            "leave `private` out."
        )


def set_files(folder: Path) -> list[str]:
    """List the files of a finished pseudo-labeled set: shards, settings, rejects, card and manifest."""
    shards = sorted(path.relative_to(folder).as_posix() for path in (folder / SHARDS).glob("*.parquet"))
    return [*shards, SETTINGS, REJECTS, CARD, MANIFEST]


def push_folder(folder: Path, repo_id: str, private: bool | None = True, message: str | None = None) -> str:
    """Upload a finished pseudo-labeled dataset as `upload_files` does, and remove older shards."""
    return upload_files(
        folder, repo_id, "dataset", set_files(folder), private, message, outdated=[f"{SHARDS}/*.parquet"]
    )
