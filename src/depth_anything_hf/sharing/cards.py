"""The cards of models and datasets: templates, filled with what was measured and what is known, and nothing else."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from huggingface_hub import DatasetCard, DatasetCardData, ModelCard, ModelCardData
from PIL import Image
from torch import nn
from transformers import AutoConfig, PretrainedConfig

from depth_anything_hf.data.image_files import opened_image
from depth_anything_hf.data.markdown import escaped, table
from depth_anything_hf.data.whole_files import replacing, write_whole
from depth_anything_hf.pictures.visualization import prediction_row, sheet
from depth_anything_hf.prediction.predictor import predict_depth, space_of
from depth_anything_hf.prediction.weights import files_digest
from depth_anything_hf.scenes.simple import iter_synthetic_records
from depth_anything_hf.sharing.eval_results import eval_results, results_section, versions_text
from depth_anything_hf.sharing.licenses import (
    UNKNOWN,
    Source,
    is_hub_id,
    license_id,
    license_of,
    license_text,
    on_card,
    settle_license,
    shown_name,
)
from depth_anything_hf.version import __version__

TEMPLATES = Path(__file__).parent / "templates"
PROVENANCE, CARD, PICTURE = "provenance.json", "README.md", "card_image.png"
SETTINGS, MANIFEST, REJECTS, SHARDS = "settings.json", "manifest.json", "rejects.jsonl", "data"  # of pseudo-labels
_WRITTEN = "<!-- Written by depth_anything_hf"  # both cards begin with it, also those of older versions
MARKER = (
    f"{_WRITTEN} from provenance.json; its push command writes it again. Remove this line to keep your own words. -->"
)
BASE, TEACHER, ENCODER, DATA = "base weights", "teacher", "feature encoder", "training data"
OUTPUT_MEANING = {
    "relative": "The output is disparity: larger is nearer. Its scale and shift are unknown; ratios of values mean nothing.",
    "metric": "The output is depth in meters, up to {max_depth} m.",
}
NOT_STATED = "Not stated."
SCENES, SCENE_HEIGHT, SCENE_WIDTH = 3, 240, 320
WIDEST = 1600  # pixels
_GENERATED = (  # cards that other programs write, before anyone fills them in
    "# Model Card for Model ID",
    "This model card has been generated automatically according to the information the Trainer had access to",
)


@dataclass
class Provenance:
    """Record how a checkpoint came to be; saved as `provenance.json` beside its weights."""

    sources: list[Source] = field(default_factory=list)  # base weights, teacher and data: it inherits their licenses
    license: str | None = None  # stated by the user; None: the inherited one
    losses: dict[str, float] = field(default_factory=dict)  # name and weight of each loss
    recipe: dict[str, Any] = field(default_factory=dict)  # all other training settings
    # Like `results.json` of `depth-anything-hf evaluate`; the added key `model` is the name of this checkpoint there.
    results: list[dict[str, Any]] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)  # of the libraries that trained it
    weights: str | None = None  # digest of the weights that this record describes
    summary: str = ""  # what the model is, in one or two sentences
    training: str = ""  # what it was trained on and how, in words
    limits: str = NOT_STATED  # where it fails

    @classmethod
    def load(cls, folder: Path) -> Provenance:
        """Read the record of a checkpoint folder; an empty one if the folder has none.

        Raises:
            ValueError: The record describes other weights.
        """
        path = folder / PROVENANCE
        if not path.is_file():
            return cls()
        found = json.loads(path.read_text(encoding="utf-8"))
        try:
            record = cls(**found | {"sources": [Source(*source) for source in found["sources"]]})
        except (KeyError, TypeError) as error:
            raise ValueError(
                f"{path} is no record of how a checkpoint came to be ({type(error).__name__}: {error}); remove it to share the "
                "weights without one."
            ) from error
        if record.weights != files_digest(folder):
            raise ValueError(
                f"{path} describes other weights than those beside it. Call the trainer's create_model_card after saving "
                "the weights, or remove the file to share them without a record."
            )
        return record

    def save(self, folder: Path) -> None:
        """Write the record to a checkpoint folder."""
        write_whole(folder / PROVENANCE, json.dumps(asdict(self), indent=1) + "\n")

    def replace_sources(self, role: str, sources: Sequence[Source]) -> None:
        """Replace the sources of one role."""
        self.sources = [*(one for one in self.sources if one.role != role), *sources]


def library_versions() -> dict[str, str]:
    """Return the versions of the libraries that decide what a run computes."""
    names = ("torch", "transformers", "datasets", "accelerate", "peft")
    return {"depth_anything_hf": __version__} | {name: version(name) for name in names}


def write_model_card(
    folder: str | Path, provenance: Provenance, model_id: str | None = None, config: PretrainedConfig | None = None
) -> Path:
    """Write the card of a checkpoint or adapter, with its measured results in the model index, and `provenance.json`.

    A card that the user wrote stays unchanged. `model_id` is an id of the Hub (default: the folder's name), `config` the
    model's (default: the one in the folder; an adapter has none).

    Raises:
        ValueError: The stated license allows what a source forbids, or results lack this model's scores.
    """
    folder = Path(folder)
    config = AutoConfig.from_pretrained(folder) if config is None else config
    adapter = (folder / "adapter_config.json").is_file()
    model_id = model_id or folder.resolve().name
    license = settle_license(provenance.license and license_id(provenance.license), provenance.sources)
    card = ModelCard.from_template(
        _metadata(provenance, model_id.split("/")[-1], license, adapter),
        template_path=str(TEMPLATES / "model_card.md"),
        marker=MARKER,
        model_name=escaped(model_id.split("/")[-1]),
        model_id=escaped(model_id),
        summary=provenance.summary,
        picture=PICTURE if (folder / PICTURE).is_file() else "",
        adapter=adapter,
        output_meaning=_output_meaning(config),
        results=results_section(provenance.results),
        training=_training_text(provenance),
        license_text=license_text(license, provenance.sources),
        limits=provenance.limits,
        versions=versions_text(provenance.versions) or NOT_STATED,
    )
    provenance.weights = files_digest(folder)
    provenance.save(folder)
    if may_write_card(folder):
        write_whole(folder / CARD, str(card))
    return folder / CARD


def may_write_card(folder: Path) -> bool:
    """Return True if a folder has no card, or one that a program wrote and no user took over."""
    path = folder / CARD
    if not path.is_file():
        return True
    text = path.read_text(encoding="utf-8")
    return any(mark in text for mark in (_WRITTEN, *_GENERATED))


def _metadata(provenance: Provenance, name: str, license: str, adapter: bool) -> ModelCardData:
    hub_ids = {
        role: [one.name for one in provenance.sources if one.role == role and is_hub_id(one.name)]
        for role in (BASE, DATA)
    }
    base = hub_ids[BASE][0] if hub_ids[BASE] else None
    more = [f"base_model:adapter:{base}", "lora"] if adapter and base else ["lora"] if adapter else []
    results = [one for result in provenance.results for one in eval_results(result)]
    return ModelCardData(
        library_name="peft" if adapter else "transformers",
        pipeline_tag="depth-estimation",
        tags=["depth-anything", "depth-estimation", "depth_anything_hf", *more],
        license=on_card(license),
        base_model=base,
        datasets=hub_ids[DATA] or None,
        model_name=name if results else None,
        eval_results=results or None,
    )


def _training_text(provenance: Provenance) -> str:
    parts = [provenance.training] if provenance.training else []
    if provenance.losses:
        terms = ", ".join(f"{name} × {weight:g}" for name, weight in provenance.losses.items())
        parts.append(f"Losses, with their weights: {terms}.")
    if provenance.recipe:
        parts.append("\n".join(table(("recipe", ""), provenance.recipe.items())))
    return "\n\n".join(parts) or NOT_STATED


def _output_meaning(config: PretrainedConfig) -> str:
    kind = getattr(config, "depth_estimation_type", None)
    return OUTPUT_MEANING[kind].format(max_depth=config.max_depth) if kind else NOT_STATED


def put_picture(target: Path, picture: Path | None, model: nn.Module, processor: Any) -> None:
    """Write the card's picture: a copy of `picture`, or rendered scenes with the predictions of `model`, on its device.

    Scenes are rendered because a photograph has an owner and a license.
    """
    if picture is None:
        page = draw_scenes(model, processor)
    else:
        with opened_image(picture, any_shape=True) as opened:
            page = opened.convert("RGB")
    page.thumbnail((WIDEST, 4 * WIDEST))
    with replacing(target) as partial:
        page.save(partial, "PNG")


def draw_scenes(model: nn.Module, processor: Any) -> Image.Image:
    """Draw rendered scenes, their depth, and a model's predictions."""
    metric = space_of(model, "the model") == "depth"
    scenes = list(iter_synthetic_records(SCENES, SCENE_HEIGHT, SCENE_WIDTH))
    predictions = predict_depth(model, processor, [scene["image"] for scene in scenes])
    rows = []
    for scene, predicted in zip(scenes, predictions, strict=True):
        shown = 1 / predicted.clamp(min=1e-6) if metric else predicted
        rows.append(prediction_row(scene["image"], scene["depth"], scene["depth"] > 0, "depth", [shown.numpy()]))
    return sheet(rows, ["rendered scene", "its depth", "prediction"], cell=(SCENE_HEIGHT, SCENE_WIDTH))


def set_licenses(model: str, images: str, commit: str | None) -> dict[str, str]:
    """Return the licenses of what a pseudo-labeled set is made from, while their folders are at hand."""
    known = Path(images).is_dir() or re.fullmatch("[0-9a-f]{40}", commit or "")  # a folder, or a dataset of the Hub
    return {"teacher": license_of(model), "images": license_of(images, "dataset") if known else UNKNOWN}


def dataset_card(name: str, manifest: dict[str, Any], license: str | None = None) -> DatasetCard:
    """Fill the card of a finished pseudo-labeled dataset from its `manifest.json`.

    Without a stated license it inherits one from the teacher and the images; a stated one that allows what those forbid
    is a `ValueError`.
    """
    images, commit = manifest["source"], manifest["source_revision"]
    licenses = manifest.get("licenses") or set_licenses(manifest["model"], images, commit)  # not in those of 0.1.0
    sources = [
        Source(role, manifest[key], licenses[role]) for role, key in (("teacher", "model"), ("images", "source"))
    ]
    license = settle_license(license and license_id(license), sources)
    sizes = (("n<1K", 1e3), ("1K<n<10K", 1e4), ("10K<n<100K", 1e5), ("100K<n<1M", 1e6), ("1M<n<10M", 1e7),
             ("10M<n<100M", 1e8), ("100M<n<1B", float("inf")))  # fmt: skip
    data = DatasetCardData(
        license=on_card(license),
        task_categories=["depth-estimation"],
        size_categories=[next(label for label, limit in sizes if manifest["labeled"] < limit)],
        tags=["depth-anything", "pseudo-labels", "depth_anything_hf"],
        configs=[{"config_name": "default", "data_files": f"{SHARDS}/*.parquet"}],
        pretty_name=name,
    )
    shown = ("inputs", "labeled", "rejected", "model", "model_revision", "source", "resolution", "dtype")
    return DatasetCard.from_template(
        data,
        template_path=str(TEMPLATES / "dataset_card.md"),
        name=escaped(name),
        # 0.1.0 wrote whole paths
        **{key: escaped(shown_name(manifest[key]) if key in ("model", "source") else manifest[key]) for key in shown},
        shards=len(manifest["shards"]),
        source_revision=manifest["source_revision"] or "local files",
        space="meters" if manifest["space"] == "depth" else "disparity: larger is nearer, of unknown scale and shift",
        license_text=license_text(license, sources),
        versions=versions_text(manifest["versions"]),
    )
