"""Share on the Hub: a model, an adapter or a pseudo-labelled set, checked before anything is sent."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, ModelCard
from huggingface_hub.errors import RepositoryNotFoundError
from huggingface_hub.utils import validate_repo_id

from depth_anything_hf.sharing.card import (
    BASE,
    CARD,
    DATA,
    PICTURE,
    PROVENANCE,
    Provenance,
    may_write_card,
    results_table,
    write_model_card,
)
from depth_anything_hf.sharing.checkpoints import (
    ADAPTER,
    PROCESSOR,
    open_checkpoint,
    read_results,
    settle_adapter,
)
from depth_anything_hf.sharing.dataset_card import MANIFEST, SETTINGS, dataset_card, push_folder, set_files
from depth_anything_hf.sharing.licenses import UNKNOWN, Source, settle_license, source_of
from depth_anything_hf.sharing.picture import put_picture
from depth_anything_hf.sharing.upload import check_token, told_plainly, upload_files

__all__ = ["Shipment", "prepare_push", "push_to_hub", "results_table", "write_model_card"]

# What makes up a checkpoint. All else stays: optimizer and random states, logs, and training_args.bin, a pickle that
# holds this machine's paths and, where it was given there, the token.
CHECKPOINT_FILES = (
    "config.json", ADAPTER, "*.safetensors", "*.safetensors.index.json", PROCESSOR, "all_results.json", PROVENANCE,
    "LICENSE*", "*.md", "*.png", "*.jpg",
)  # fmt: skip


@dataclass(frozen=True)
class Shipment:
    """Hold a folder that is ready to be sent.

    Args:
        folder (`Path`): Checked; its card is written.
        repo_id (`str`): Where to.
        kind (`str`): `"model"`, `"adapter"` or `"dataset"`.
        license (`str`): As its card states it.
        files (`list[str]`): What is sent.
        left (`list[str]`): What is not: names of files and folders in `folder`.
        private (`bool`, *optional*): Whether the repository is private.
        message (`str`, *optional*): Of the commit.
    """

    folder: Path
    repo_id: str
    kind: str
    license: str
    files: list[str]
    left: list[str]
    private: bool | None = None
    message: str | None = None

    def send(self) -> str:
        """Send it; what is there already is not sent again.

        Returns:
            `str`: The repository's address.

        Raises:
            OSError: The Hub refuses, or the connection broke; the same call goes on.
            ValueError: A repository of that name is public, and a private one is wanted.
        """
        if self.private:
            with told_plainly(self.repo_id, self.folder):
                _check_private(self.repo_id, "dataset" if self.kind == "dataset" else "model")
        if self.kind == "dataset":
            return push_folder(self.folder, self.repo_id, self.private, self.message)
        return upload_files(self.folder, self.repo_id, "model", self.files, self.private, self.message)


def push_to_hub(folder: str | Path, repo_id: str, **options: Any) -> str:
    """Share a model, an adapter or a pseudo-labelled set on the Hub; again, and only what changed is sent.

    Args:
        folder (`str` or `Path`): Of `save_pretrained`, `Trainer.save_model` or `pseudo-label`.
        repo_id (`str`): `owner/name`; made if it does not exist.
        options: As of `prepare_push`.

    Returns:
        `str`: The repository's address.

    Raises:
        ValueError: The folder would not load, or its card would say what is not so.
        PermissionError: No token.
        OSError: The Hub refuses, or the connection broke; the same call goes on.
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
        folder (`str` or `Path`): Of `save_pretrained`, `Trainer.save_model` or `pseudo-label`.
        repo_id (`str`): `owner/name`.
        private (`bool`, *optional*): Whether the repository is private; left out, as the owner's settings are.
        license (`str`, *optional*): Id of the Hub. Left out: what base weights, teacher and data leave open.
        base (`str`, *optional*): Model that the weights come from, where the folder does not say it. Of an adapter, the
            model it belongs to.
        training_data (`Sequence[str]`): Hub ids, folders or words, where the folder does not say it.
        results (`Sequence[str or Path]`): `results.json` of `depth-anything-hf evaluate`, for the card.
        picture (`str` or `Path`, *optional*): For the card. Left out: the one that is there, else a few rendered scenes.
        message (`str`, *optional*): Of the commit.

    Returns:
        `Shipment`: Ready to `send`.

    Raises:
        ValueError: The folder would not load, or its card would say what is not so.
        FileNotFoundError: A file is missing.
    """
    validate_repo_id(repo_id)
    folder = Path(folder).expanduser()
    kind = kind_of(folder)
    told = {"base": base, "training_data": training_data, "results": results, "picture": picture}
    if kind == "dataset":
        files, license = set_files(folder), _prepare_set(folder, license, told)
    else:
        license = _prepare_checkpoint(folder, repo_id, license, told)
        files = sorted({path.name for pattern in CHECKPOINT_FILES for path in folder.glob(pattern) if path.is_file()})
    sent = {Path(file).parts[0] for file in files}
    left = sorted(
        path.name + "/" * path.is_dir() for path in folder.iterdir() if path.name not in sent and path.name[0] != "."
    )
    return Shipment(folder, repo_id, kind, license, files, left, private, message)


def kind_of(folder: Path) -> str:
    """Tell what a folder holds: `"model"`, `"adapter"` or `"dataset"`.

    Raises:
        ValueError: Nothing that can be shared, nothing finished, or two things at once.
        FileNotFoundError: There is no such folder.
    """
    if not folder.is_dir():
        raise FileNotFoundError(
            f"{folder} is no folder; give the one that the model, adapter or labels were saved in."
        )
    names = ((MANIFEST, "dataset"), ("config.json", "model"), (ADAPTER, "adapter"))
    found = [kind for name, kind in names if (folder / name).is_file()]
    if len(found) > 1:
        raise ValueError(f"{folder} holds a {' and a '.join(found)}; push them from folders of their own.")
    if found:
        return found[0]
    if (folder / SETTINGS).is_file():
        raise ValueError(f"{folder} is not labelled to its end; repeat the pseudo-label command, then push it.")
    inside = sorted(path.parent.name for path in folder.glob("*/*config.json"))
    hint = f" Did you mean {folder / inside[-1]}?" if inside else ""
    raise ValueError(
        f"{folder} holds no config.json (model), {ADAPTER} (LoRA adapter) or {MANIFEST} (pseudo-labels).{hint}"
    )


def _prepare_set(folder: Path, license: str | None, told: dict[str, Any]) -> str:
    """Check a pseudo-labelled set, and state the licence in its card."""
    given = [f"`{name}`" for name, value in told.items() if value]
    if given:
        raise ValueError(
            f"{given[0]} means nothing for pseudo-labels, whose {MANIFEST} says what they are; leave it out."
        )
    manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    for shard in manifest["shards"]:
        path = folder / shard["file"]
        if not path.is_file() or path.stat().st_size != shard["bytes"]:
            raise ValueError(f"{path} is missing or cut; repeat the pseudo-label command to label its images again.")
    if not may_write_card(folder) and license is not None:
        raise ValueError(f"{folder / CARD} is your own: state the license there, and leave `license` out.")
    card = dataset_card(folder.resolve().name, manifest, license)
    if may_write_card(folder):
        (folder / CARD).write_text(str(card), encoding="utf-8")
    return ModelCard.load(folder / CARD, ignore_metadata_errors=True).data.get("license") or UNKNOWN


def _prepare_checkpoint(folder: Path, repo_id: str, license: str | None, told: dict[str, Any]) -> str:
    """Check a model or adapter, and write its card."""
    base = told["base"]
    if (folder / ADAPTER).is_file():
        base = settle_adapter(folder, base)
    model, processor = open_checkpoint(folder)
    provenance = Provenance.load(folder)
    if not may_write_card(folder):
        return _check_own_card(folder, provenance, [license, *told.values()])
    results = [read_results(Path(path), folder, model, repo_id) for path in told["results"]]
    replaced = [result["protocol"]["name"] for result in results]
    provenance.results = [one for one in provenance.results if one["protocol"]["name"] not in replaced] + results
    provenance.license = license or provenance.license
    if base:
        provenance.replace_sources(BASE, [source_of(BASE, base)])
    if told["training_data"]:
        provenance.replace_sources(DATA, [source_of(DATA, name, "dataset") for name in told["training_data"]])
    for role in (BASE, DATA):
        if role not in {source.role for source in provenance.sources}:
            provenance.replace_sources(role, [Source(role, "not stated", UNKNOWN)])
    license = settle_license(provenance.license, provenance.sources)
    if told["picture"] or not (folder / PICTURE).is_file():
        put_picture(folder / PICTURE, told["picture"] and Path(told["picture"]), model.float(), processor)
    write_model_card(folder, provenance, repo_id, model.config)
    return license


def _check_own_card(folder: Path, provenance: Provenance, given: Sequence[Any]) -> str:
    """Leave a card of the user's own as it is, if its licence may be stated."""
    if any(given):
        raise ValueError(
            f"{folder / CARD} is your own, so nothing is written into it: say there what you gave as options, and leave "
            "them out; or remove it, and one is written."
        )
    data = ModelCard.load(folder / CARD, ignore_metadata_errors=True).data
    names = data.get("base_model") or []
    bases = [source_of(BASE, name) for name in ([names] if isinstance(names, str) else names)]
    return settle_license(data.get("license") or UNKNOWN, [*bases, *provenance.sources])


def _check_private(repo_id: str, repo_type: str) -> None:
    """Refuse a repository that others can read: making one private does nothing where it exists."""
    try:
        info = HfApi().repo_info(repo_id, repo_type=repo_type)
    except RepositoryNotFoundError:
        return
    if not info.private:
        raise ValueError(
            f"{repo_id} exists and is public; nothing was sent. Make it private in its settings, choose another id, or "
            "leave `private` out."
        )
