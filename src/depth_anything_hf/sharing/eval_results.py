"""Measured scores on a card: read from `results.json`, as tables, and as entries of the Hub's model index."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult
from torch import nn

from depth_anything_hf.data.markdown import table
from depth_anything_hf.prediction.weights import model_revision
from depth_anything_hf.sharing.licenses import shown_name

DA2K = {"name": "da2k", "dataset": "da2k", "averaging": "over pairs", "source": "Depth Anything V2, section 6"}
METRICS = {
    "abs_rel": "AbsRel", "delta1": "δ1", "rmse": "RMSE", "group_abs_rel": "AbsRel, mean of groups",
    "group_delta1": "δ1, mean of groups", "accuracy": "accuracy over pairs",
}  # fmt: skip


def read_results(path: Path, folder: Path, model: nn.Module, repo_id: str) -> dict[str, Any]:
    """Read a `results.json` of `depth-anything-hf evaluate`, if it was measured on these weights or on `repo_id`.

    `model` was loaded from `folder`.

    Returns:
        `dict[str, Any]`: An entry of `Provenance.results`; paths are cut to their last part.

    Raises:
        ValueError: It is another kind of file, or no model in it has these weights.
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


def eval_results(result: Mapping[str, Any]) -> list[EvalResult]:
    """Turn an entry of `Provenance.results` into entries of the model index, one per metric, each with its protocol.

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
    """Write scores (dataset, then model, then metrics) as a Markdown table; means of groups if there are groups.

    Example:
        >>> print(results_table({"rooms": {"student": {"abs_rel": 0.1, "delta1": 0.9, "images": 4}}}))
        | scored on | model | AbsRel ↓ | δ1 ↑ | images |
        |---|---|---|---|---|
        | rooms | student | 0.100 | 0.900 | 4 |
    """
    rows = []
    for domain, by_name in scores.items():
        for name, one in by_name.items():
            grouped = "group_abs_rel" in one
            abs_rel, delta1 = (one[f"group_{key}" if grouped else key] for key in ("abs_rel", "delta1"))
            count = f"{one['images']} in {one['groups']} groups" if grouped else one["images"]
            rows.append((domain, name, f"{abs_rel:.3f}", f"{delta1:.3f}", count))
    return "\n".join(table(("scored on", "model", "AbsRel ↓", "δ1 ↑", "images"), rows))


def pairs_table(scores: Mapping[str, Mapping[str, Mapping[str, float]]]) -> str:
    """Write the accuracy over pairs of points (DA-2K) as a Markdown table; arguments as in `results_table`."""
    rows = [
        (domain, name, f"{one['accuracy']:.3f}", one["pairs"])
        for domain, by_name in scores.items()
        for name, one in by_name.items()
    ]
    return "\n".join(table(("scored on", "model", "accuracy ↑", "pairs"), rows))


def results_section(results: Sequence[Mapping[str, Any]]) -> str:
    """Write the tables of all results (entries of `Provenance.results`), and below them how each was measured."""
    if not results:
        return "Not measured."
    written = []
    for write, pairs in ((results_table, False), (pairs_table, True)):
        table = {
            _result_name(result): {
                "this model" if key == result["model"] else shown_name(key): one
                for key, one in result["scores"].items()
            }
            for result in results
            if ("accuracy" in _own_scores(result)) is pairs
        }
        written += [write(table)] if table else []
    return "\n\n".join([*written, "How it was measured:", _protocols_table(results)])


def versions_text(versions: Mapping[str, str]) -> str:
    """Write library versions in one line."""
    return ", ".join(f"{library} {number}" for library, number in versions.items())


def _protocols_table(results: Sequence[Mapping[str, Any]]) -> str:
    """Write the protocols side by side, one setting per row."""
    columns = []
    for result in results:
        settings = {key: value for key, value in result["protocol"].items() if key not in ("name", "dataset")}
        settings |= settings.pop("options", {})
        settings["measured with"] = versions_text(result.get("versions", {}))
        columns.append({key: value for key, value in settings.items() if value not in (None, "")})
    head = ["", *(_result_name(result) for result in results)]
    rows = [
        [key, *(column.get(key, "") for column in columns)] for key in dict.fromkeys(k for one in columns for k in one)
    ]
    first, _, *others = table(head, rows)
    return "\n".join([first, "|" + " --- |" * len(head), *others])


def _own_scores(result: Mapping[str, Any]) -> Mapping[str, float]:
    if result["model"] not in result["scores"]:
        raise ValueError(
            f"model is {result['model']!r}; it must be one of those scored: {', '.join(result['scores'])}."
        )
    return result["scores"][result["model"]]


def _result_name(result: Mapping[str, Any]) -> str:
    """Return the name of the benchmark, and the share of its images if some were missing."""
    protocol, found = result["protocol"], result.get("images_found")
    whole = protocol.get("images")
    return protocol["name"] + (f" ({found} of {whole} images)" if whole and found not in (None, whole) else "")
