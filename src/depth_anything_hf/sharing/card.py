"""The model card: filled from `MODEL_CARD.md` with what was measured and what is known, and with nothing else."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from transformers import AutoConfig, PretrainedConfig

from depth_anything_hf.prediction.weights import files_digest
from depth_anything_hf.sharing.licenses import Source, is_hub_id, license_text, settle_license, shown_name
from depth_anything_hf.version import __version__

TEMPLATE = Path(__file__).parent / "templates" / "model_card.md"
PROVENANCE, CARD, PICTURE = "provenance.json", "README.md", "card_image.png"
_WRITTEN = "<!-- Written by depth_anything_hf"  # the data sets' card begins so, too
MARKER = f"{_WRITTEN} from provenance.json, and anew by its push. To keep words of your own, remove this line. -->"
BASE, TEACHER, ENCODER, DATA = "base weights", "teacher", "feature encoder", "training data"
OUTPUT_MEANING = {
    "relative": "The output is disparity: larger is nearer. Its scale and shift are unknown; ratios of values mean nothing.",
    "metric": "The output is depth in metres, up to {max_depth} m.",
}
NOT_STATED = "Not stated."
METRICS = {
    "abs_rel": "AbsRel", "delta1": "δ1", "rmse": "RMSE", "group_abs_rel": "AbsRel, mean of groups",
    "group_delta1": "δ1, mean of groups", "accuracy": "accuracy over pairs",
}  # fmt: skip
_GENERATED = (  # cards that other programs write of themselves, and nobody has filled in
    "# Model Card for Model ID",
    "This model card has been generated automatically according to the information the Trainer had access to",
)


@dataclass
class Provenance:
    """Say how a checkpoint came to be; kept as `provenance.json` beside it.

    Args:
        sources (`list[Source]`): What it was made of: base weights, teacher, data; their licences bind.
        license (`str`, *optional*): As the user states it; left out, the inherited one.
        losses (`dict[str, float]`): Their weights, by name.
        recipe (`dict[str, Any]`): Everything else that training was told.
        results (`list[dict]`): Scores, each as `results.json` of `depth-anything-hf evaluate` has them, with `model`:
            under which name this checkpoint stands there.
        versions (`dict[str, str]`): Of the libraries that trained it.
        weights (`str`, *optional*): Digest of the weights of which all this is said.
        summary (`str`): What the model is, in a sentence or two.
        training (`str`): What it was trained on and how, in words.
        limits (`str`): Where it fails.
    """

    sources: list[Source] = field(default_factory=list)
    license: str | None = None
    losses: dict[str, float] = field(default_factory=dict)
    recipe: dict[str, Any] = field(default_factory=dict)
    results: list[dict[str, Any]] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)
    weights: str | None = None
    summary: str = ""
    training: str = ""
    limits: str = NOT_STATED

    @classmethod
    def load(cls, folder: Path) -> Provenance:
        """Read what a checkpoint folder says of its weights; nothing, where it says nothing.

        Raises:
            ValueError: It says it of other weights.
        """
        path = folder / PROVENANCE
        if not path.is_file():
            return cls()
        found = json.loads(path.read_text(encoding="utf-8"))
        if found["weights"] != files_digest(folder):
            raise ValueError(
                f"{path} was written of other weights than those beside it: call the trainer's create_model_card after "
                "it saved them, or remove the file, and nothing is said of these."
            )
        return cls(**found | {"sources": [Source(*source) for source in found["sources"]]})

    def save(self, folder: Path) -> None:
        """Write it to a checkpoint folder."""
        (folder / PROVENANCE).write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")

    def replace_sources(self, role: str, sources: Sequence[Source]) -> None:
        """Put sources in the place of those of a role."""
        self.sources = [*(one for one in self.sources if one.role != role), *sources]


def library_versions() -> dict[str, str]:
    """Give the versions of the libraries that decide what a run does."""
    names = ("torch", "transformers", "datasets", "accelerate", "peft")
    return {"depth_anything_hf": __version__} | {name: version(name) for name in names}


def write_model_card(
    folder: str | Path,
    provenance: Provenance,
    model_id: str | None = None,
    config: PretrainedConfig | None = None,
) -> Path:
    """Write the card of a checkpoint folder, with its measured results in the model index, and `provenance.json`.

    A card that is the user's own stays as it is.

    Args:
        folder (`str` or `Path`): Checkpoint or adapter.
        provenance (`Provenance`): What is known of it.
        model_id (`str`, *optional*): Hub id; left out, the folder's name.
        config (`PretrainedConfig`, *optional*): Of the model; left out, the folder's. An adapter's folder has none.

    Returns:
        `Path`: The card.

    Raises:
        ValueError: The stated licence allows what a source forbids, or results without this model's scores.
    """
    folder = Path(folder)
    config = AutoConfig.from_pretrained(folder) if config is None else config
    adapter = (folder / "adapter_config.json").is_file()
    model_id = model_id or folder.resolve().name
    license = settle_license(provenance.license, provenance.sources)
    card = ModelCard.from_template(
        _metadata(provenance, model_id.split("/")[-1], license, adapter),
        template_path=str(TEMPLATE),
        marker=MARKER,
        model_name=model_id.split("/")[-1],
        model_id=model_id,
        summary=provenance.summary,
        picture=PICTURE if (folder / PICTURE).is_file() else "",
        adapter=adapter,
        output_meaning=_output_meaning(config),
        results=_results_text(provenance.results),
        training=_training_text(provenance),
        license_text=license_text(license, provenance.sources),
        limits=provenance.limits,
        versions=", ".join(f"{name} {number}" for name, number in provenance.versions.items()) or NOT_STATED,
    )
    provenance.weights = files_digest(folder)
    provenance.save(folder)
    if may_write_card(folder):
        card.save(folder / CARD)
    return folder / CARD


def may_write_card(folder: Path) -> bool:
    """Tell whether a folder has no card, or one that a program wrote and nobody has made their own."""
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
        license=license,
        base_model=base,
        datasets=hub_ids[DATA] or None,
        model_name=name if results else None,
        eval_results=results or None,
    )


def eval_results(result: Mapping[str, Any]) -> list[EvalResult]:
    """Turn one set of scores into entries of the model index, with the protocol they were measured by.

    Args:
        result (`Mapping`): As in `Provenance.results`.

    Returns:
        `list[EvalResult]`: One a metric.

    Raises:
        ValueError: `model` has no scores.
    """
    scores, protocol = _own_scores(result), result["protocol"]
    dataset = protocol["dataset"] if protocol["dataset"] != "folder" else protocol["name"]
    settings = {key: value for key, value in protocol.items() if value not in (None, "", {}) and key != "name"}
    return [
        EvalResult(
            task_type="depth-estimation",
            task_name="depth estimation",
            dataset_type=re.sub(r"[^\w.-]+", "-", dataset),
            dataset_name=_result_name(result),
            dataset_config=protocol["name"],
            dataset_split=protocol.get("options", {}).get("split"),
            dataset_args=settings,
            metric_type=metric,
            metric_name=METRICS[metric],
            metric_value=round(scores[metric], 4),
        )
        for metric in METRICS
        if metric in scores and not math.isnan(scores[metric])
    ]


def results_table(scores: Mapping[str, Mapping[str, Mapping[str, float]]]) -> str:
    """Write scores as a Markdown table: AbsRel and delta1, by means of groups where there are groups.

    Args:
        scores (`Mapping`): data set, then model, then metric names and values.

    Returns:
        `str`: The table.

    Example:
        >>> print(results_table({"rooms": {"student": {"abs_rel": 0.1, "delta1": 0.9, "images": 4}}}))
        | scored on | model | AbsRel ↓ | δ1 ↑ | images |
        |---|---|---|---|---|
        | rooms | student | 0.100 | 0.900 | 4 |
    """
    lines = ["| scored on | model | AbsRel ↓ | δ1 ↑ | images |", "|---|---|---|---|---|"]
    for domain, by_name in scores.items():
        for name, one in by_name.items():
            grouped = "group_abs_rel" in one
            abs_rel, delta1 = (one[f"group_{key}" if grouped else key] for key in ("abs_rel", "delta1"))
            count = f"{one['images']} in {one['groups']} groups" if grouped else one["images"]
            lines.append(f"| {domain} | {name} | {abs_rel:.3f} | {delta1:.3f} | {count} |")
    return "\n".join(lines)


def pairs_table(scores: Mapping[str, Mapping[str, Mapping[str, float]]]) -> str:
    """Write the accuracy over pairs of points (DA-2K) as a Markdown table; arguments as of `results_table`."""
    lines = ["| scored on | model | accuracy ↑ | pairs |", "|---|---|---|---|"]
    for domain, by_name in scores.items():
        lines += [f"| {domain} | {name} | {one['accuracy']:.3f} | {one['pairs']} |" for name, one in by_name.items()]
    return "\n".join(lines)


def _own_scores(result: Mapping[str, Any]) -> Mapping[str, float]:
    if result["model"] not in result["scores"]:
        raise ValueError(
            f"model is {result['model']!r}; it must be one of those scored: {', '.join(result['scores'])}."
        )
    return result["scores"][result["model"]]


def _result_name(result: Mapping[str, Any]) -> str:
    """Name what was scored on; of a benchmark that was not complete, how much of it."""
    protocol, found = result["protocol"], result.get("images_found")
    whole = protocol.get("images")
    return protocol["name"] + (f" ({found} of {whole} images)" if whole and found not in (None, whole) else "")


def _results_text(results: Sequence[Mapping[str, Any]]) -> str:
    """Write the tables, and below them how each was measured."""
    if not results:
        return "Not measured."
    tables = {results_table: {}, pairs_table: {}}
    for result in results:
        table = tables[pairs_table if "accuracy" in _own_scores(result) else results_table]
        table[_result_name(result)] = {
            "this model" if key == result["model"] else shown_name(key): one for key, one in result["scores"].items()
        }
    written = [write(scores) for write, scores in tables.items() if scores]
    return "\n\n".join([*written, "How it was measured:", _protocols_table(results)])


def _protocols_table(results: Sequence[Mapping[str, Any]]) -> str:
    """Lay the protocols side by side, a setting a row."""
    columns = []
    for result in results:
        settings = {key: value for key, value in result["protocol"].items() if key not in ("name", "dataset")}
        settings |= settings.pop("options", {})
        settings["measured with"] = ", ".join(
            f"{name} {number}" for name, number in result.get("versions", {}).items()
        )
        columns.append({key: value for key, value in settings.items() if value not in (None, "")})
    head = ["", *(_result_name(result) for result in results)]
    rows = [
        [key, *(str(column.get(key, "")) for column in columns)]
        for key in dict.fromkeys(k for one in columns for k in one)
    ]
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows))


def _training_text(provenance: Provenance) -> str:
    parts = [provenance.training] if provenance.training else []
    if provenance.losses:
        terms = ", ".join(f"{name} × {weight:g}" for name, weight in provenance.losses.items())
        parts.append(f"Losses, with their weights: {terms}.")
    if provenance.recipe:
        rows = [f"| {name} | {value} |" for name, value in provenance.recipe.items()]
        parts.append("\n".join(["| recipe | |", "|---|---|", *rows]))
    return "\n\n".join(parts) or NOT_STATED


def _output_meaning(config: PretrainedConfig) -> str:
    kind = getattr(config, "depth_estimation_type", None)
    return OUTPUT_MEANING[kind].format(max_depth=config.max_depth) if kind else NOT_STATED
