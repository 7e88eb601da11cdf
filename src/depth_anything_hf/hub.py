"""The model card: filled from `MODEL_CARD.md` with what was measured, and with nothing else."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from transformers import AutoConfig

TEMPLATE = Path(__file__).parent / "templates" / "model_card.md"
OUTPUT_MEANING = {
    "relative": "The output is disparity: larger is nearer. Its scale and shift are unknown; ratios of values mean nothing.",
    "metric": "The output is depth in metres, up to {max_depth} m.",
}
UNKNOWN = "Not stated."


def write_model_card(
    folder: str | Path,
    scores: dict[str, dict[str, dict[str, float]]],
    model: str,
    summary: str = "",
    training: str = UNKNOWN,
    limits: str = UNKNOWN,
    model_id: str | None = None,
    license: str = "unknown",
) -> Path:
    """Write the card of a checkpoint folder, with its measured results in the model index.

    Args:
        folder (`str` or `Path`): Checkpoint folder with `config.json`.
        scores (`dict`): data set, then model, then metric names and values, as `DatasetScores.summary` gives them.
        model (`str`): Which model of `scores` this is; the others stand beside it in the table.
        summary (`str`): What the model is, in a sentence or two.
        training (`str`): What it was trained on, and how.
        limits (`str`): Where it fails.
        model_id (`str`, *optional*): Hub id; left out, the folder's name.
        license (`str`): Of the weights; the base weights' and the data's licence bind. "unknown" is said as such.

    Returns:
        `Path`: The card.

    Raises:
        ValueError: `model` has no scores.
    """
    if any(model not in by_name for by_name in scores.values()):
        raise ValueError(f"model is {model!r}; every data set must have its scores. Found: {scores}.")
    folder = Path(folder)
    config = AutoConfig.from_pretrained(folder)
    results = [
        EvalResult("depth-estimation", domain.replace(" ", "-"), domain, metric, round(by_name[model][metric], 4))
        for domain, by_name in scores.items()
        for metric in ("abs_rel", "delta1")
    ]
    data = ModelCardData(
        library_name="transformers",
        pipeline_tag="depth-estimation",
        tags=["depth-anything", "depth-estimation", "depth_anything_hf"],
        license=license,
        model_name=folder.name,
        eval_results=results,
    )
    card = ModelCard.from_template(
        data,
        template_path=str(TEMPLATE),
        model_name=model_id or folder.name,
        model_id=model_id or folder.name,
        summary=summary,
        library_version=version("depth_anything_hf"),
        output_meaning=OUTPUT_MEANING[config.depth_estimation_type].format(max_depth=config.max_depth),
        results_table=results_table(scores),
        protocol=(
            "AbsRel and δ1 of each image, averaged over images (where stated, over the means of groups of images of one "
            "scene). Relative predictions are aligned with the ground truth by scale and shift in disparity."
        ),
        training=training,
        limits=limits,
        versions=", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "datasets", "accelerate")),
    )
    path = folder / "README.md"
    card.save(path)
    return path


def results_table(scores: dict[str, dict[str, dict[str, float]]]) -> str:
    """Write scores as a Markdown table: AbsRel and delta1, by means of groups where there are groups.

    Args:
        scores (`dict`): data set, then model, then metric names and values.

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
