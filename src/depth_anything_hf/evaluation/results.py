"""What a comparison writes: the table, the scores of each image, and a sheet of the worst and best images."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from depth_anything_hf.data.markdown import escaped, table
from depth_anything_hf.data.records import DepthSample, decode_record
from depth_anything_hf.data.whole_files import replacing
from depth_anything_hf.evaluation.contestants import AnyContestant
from depth_anything_hf.evaluation.protocols import Protocol, crop_mask
from depth_anything_hf.evaluation.scoring import DatasetScores, aligned_depth, aligned_disparity
from depth_anything_hf.maps.resizing import resize_prediction
from depth_anything_hf.pictures.visualization import colorize, enlarge_sparse, prediction_row, sheet

SHOWN = 4  # best and worst images each, in the sheet
RED = 0.5  # relative error of the brightest color
COLUMNS = {
    "abs_rel": "AbsRel ↓", "disparity_abs_rel": "AbsRel in disparity ↓", "delta1": "δ1 ↑", "delta2": "δ2 ↑",
    "rmse": "RMSE ↓", "rmse_log": "RMSE log ↓", "log10": "log10 ↓", "silog": "SILog ↓",
}  # fmt: skip
GROUPED = {"group_abs_rel": "AbsRel, mean of groups ↓", "group_delta1": "δ1, mean of groups ↑"}


def write_results(results: dict[str, Any]) -> str:
    """Write the table of a comparison, as `compare` returns it, and below it the protocol, in Markdown."""
    protocol = results["protocol"]
    if any("accuracy" in one for one in results["scores"].values()):
        return _write_pairs(results)
    grouped = any("group_abs_rel" in one for one in results["scores"].values())
    columns = COLUMNS | GROUPED if grouped else COLUMNS
    rows = []
    for name, one in results["scores"].items():
        count = f"{one['images']} in {one['groups']} groups" if "groups" in one else one["images"]
        rows.append([name, *(f"{one[key]:.4f}" if key in one else "" for key in columns), count])
    notes = [
        f"- {escaped(name)}: {one['images_without_labels']} images without labels, {one['non_positive_scales']} "
        "where near and far are the wrong way round."
        for name, one in results["scores"].items()
        if one["images_without_labels"] or one["non_positive_scales"]
    ]
    notes += [
        f"- **{escaped(name)}: {one['constant_predictions']} predictions are constant**."
        for name, one in results["scores"].items()
        if "constant_predictions" in one and name in results["revisions"]
    ]
    notes += _failed(results)
    if protocol["images"] not in (None, results["images_found"]):
        notes.append(f"- **{results['images_found']} of {protocol['images']} images**: not the benchmark's score.")
    settings = [f"| {key} | {escaped(value)} |" for key, value in protocol.items()]
    table = _table(protocol["name"], ["model", *columns.values(), "images"], rows)
    return "\n".join([*table, "", *notes, "", "| protocol | |", "|---|---|", *settings, ""])


def _table(title: str, columns: list[str], rows: list[list]) -> list[str]:
    """Return the lines of a Markdown table with a title."""
    return [f"# {escaped(title)}", "", *table(columns, rows)]


def _failed(results: Mapping[str, Any]) -> list[str]:
    """Return a line for each model with images that could not be scored."""
    return [
        f"- **{escaped(name)}: {len(messages)} images could not be scored** and are in no mean. The first: "
        + escaped(messages[0])
        for name, messages in results.get("failures", {}).items()
    ]


def _write_pairs(results: Mapping[str, Any]) -> str:
    """Write the table of pairs of points, in percent."""
    title, scores = results["protocol"]["name"], results["scores"]
    scenes = sorted({key for one in scores.values() for key in one if key.startswith("scene/")})
    columns = {"accuracy": "accuracy over pairs", "mean_of_scenes": "mean of scenes"}
    columns |= {key: key.removeprefix("scene/") for key in scenes}
    rows = [
        [name, *(f"{100 * one.get(key, math.nan):.1f}" for key in columns), one["pairs"]]
        for name, one in scores.items()
    ]
    ties = [
        f"- {escaped(name)}: {one['ties']} ties, which count as wrong" for name, one in scores.items() if one["ties"]
    ]
    table = _table(title, ["model", *columns.values(), "pairs"], rows)
    return "\n".join([*table, "", *ties, *_failed(results), ""])


def write_rows(scores: Mapping[str, DatasetScores]) -> str:
    """Write `scores.jsonl`: a line for each image and model."""
    lines = []
    for name, one in scores.items():
        for i, source in enumerate(one.sources):
            row = {metric: values[i].item() for metric, values in one.scores.items()}
            lines.append(json.dumps({"model": name, "image": i, "source": source, "group": one.groups[i]} | row))
    return "".join(f"{line}\n" for line in lines)


def draw_extremes(
    models: Mapping[str, AnyContestant],
    scores: Mapping[str, DatasetScores],
    samples: Sequence,
    protocol: Protocol,
    path: Path,
) -> None:
    """Draw the first model's worst and best images, predicted once more, with every model's error map below one another.

    Nothing is drawn if no image has a score of every model.
    """
    names = list(models)
    errors = torch.stack([scores[name].scores["abs_rel"] for name in names])  # (models, images)
    order = errors[0].nan_to_num(-1).argsort(descending=True).tolist()
    order = [i for i in order if not errors[:, i].isnan().any()]
    chosen = order[:SHOWN] + [i for i in order[-SHOWN:] if i not in order[:SHOWN]]
    if not chosen:
        return
    rows, captions = [], []
    for i in chosen:
        sample = decode_record(samples[i])
        truth, space = cast(np.ndarray, sample.values), cast(str, sample.space)
        depths = [
            resize_prediction(models[name].predictions([i], [sample])[0][None], (truth.shape[0], truth.shape[1]))[0]
            for name in names
        ]
        shown = [1 / d.clamp(min=1e-6) if models[n].metric else d for n, d in zip(names, depths, strict=True)]
        row = prediction_row(sample.image, truth, sample.mask, space, [d.numpy() for d in shown])
        maps = [error_map(d, sample, protocol, models[n].metric) for n, d in zip(names, depths, strict=True)]
        rows.append([*row[:2], *(picture for pair in zip(row[2:], maps, strict=True) for picture in pair)])
        notes = [text for n in names for text in (f"AbsRel {scores[n].scores['abs_rel'][i]:.3f}", "")]
        captions.append([sample.source or str(i), "", *notes])
    headings = ["image", "ground truth", *(text for n in names for text in (n, f"error, {RED:.0%} is bright"))]
    title = f"{protocol.name}: the worst images of {names[0]}, then its best"
    with replacing(path) as partial:
        sheet(rows, headings, cell=(180, 240), title=title, captions=captions).save(partial, "PNG")


def error_map(predicted: torch.Tensor, sample: DepthSample, protocol: Protocol, metric: bool) -> np.ndarray:
    """Paint the relative error of depth at each scored pixel: `(height, width, 3)` uint8, gray where nothing is scored."""
    target, mask = torch.from_numpy(sample.values)[None], torch.from_numpy(sample.mask)[None]
    mask = mask & crop_mask(protocol.crop, *target.shape[1:])[None]
    if metric:
        limits = protocol.max_depth or math.inf, protocol.min_depth or 1e-3
        depth, mask, _ = aligned_depth(predicted[None], target, mask, *limits)
        error = (depth - target).abs() / torch.where(mask, target, 1.0)
    else:
        aligned, disparity, mask, _ = aligned_disparity(
            predicted[None],
            target,
            mask,
            cast(str, sample.space),
            protocol.max_depth,
            protocol.min_depth,
            protocol.alignment,
        )
        error = (disparity / aligned.clamp(min=1e-12) - 1).abs()  # |z - z*| / z* = |d* / d - 1|
    return colorize(*enlarge_sparse(error[0].numpy(), mask[0].numpy()), 0.0, RED)
