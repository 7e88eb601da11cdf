"""Compare models on a benchmark: predict, score, and write what a person wants to see."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState

from depth_anything_hf.data.folder import load_folder
from depth_anything_hf.data.readers import open_reader
from depth_anything_hf.data.records import DepthSample, decode_record
from depth_anything_hf.data.whole_files import replacing, write_whole
from depth_anything_hf.evaluation.contestants import (
    Contestant,
    KeptPredictions,
    finish_predictions,
    keep_prediction,
    row_prior,
)
from depth_anything_hf.evaluation.da2k import score_da2k
from depth_anything_hf.evaluation.dataset import DatasetScores, score_models
from depth_anything_hf.evaluation.protocols import Protocol, crop_mask
from depth_anything_hf.evaluation.scoring import aligned_depth, aligned_disparity
from depth_anything_hf.maps.resizing import resize_prediction
from depth_anything_hf.pictures.visualization import colorize, enlarge_sparse, prediction_row, sheet
from depth_anything_hf.prediction.predictor import load_model, model_revision, predict_depth, set_resolution, space_of
from depth_anything_hf.version import __version__

PRIOR = "prior (disparity = image row)"
SHOWN = 4  # best and worst images each, in the sheet
RED = 0.5  # relative error of the brightest colour


def open_contestant(
    name: str, resolution: int | None = None, space: str | None = None, device: str | None = None
) -> Contestant:
    """Load a model to be scored.

    Args:
        name: Hub id or folder of any depth model, or of an adapter.
        resolution: Shorter side of the network's input; left out, the checkpoint's.
        space: "disparity" or "depth", for a model whose config does not tell.
        device: Where it runs; left out, the device of this process.

    Returns:
        The contestant.

    Raises:
        ValueError: No depth model, its space is unknown, or a resolution that is not a multiple of its patch.
    """
    model, processor = load_model(name)
    metric = space_of(model, name, space) == "depth"
    if resolution is not None:
        set_resolution(processor, model.config, resolution)
    revision = model_revision(name, model)
    model.to(device or PartialState().device)
    return Contestant(lambda images: predict_depth(model, processor, images), metric, revision)


def open_kept(name: str, folder: Path) -> KeptPredictions:
    """Open the predictions that `compare` kept of a model; the model itself is not needed.

    Args:
        name: The model, as it was named then.
        folder: The `predictions` of an earlier comparison.

    Returns:
        What stands for the model.

    Raises:
        FileNotFoundError: No complete predictions of that model there.
    """
    return KeptPredictions(folder / file_name_of(name))


def open_samples(protocol: Protocol, root: str, allow_partial: bool = False, **options: Any) -> Sequence:
    """Open the images of a protocol.

    Args:
        protocol: Which benchmark, and how many images it must have.
        root: Its folder, in the official layout or in the record schema.
        allow_partial: Go on where images are missing; the scores are then not those of the benchmark.
        **options: Of the reader, beside the protocol's.

    Returns:
        Samples or records.

    Raises:
        ValueError: Another number of images than the protocol's.
        FileNotFoundError: A file of the layout is missing.
    """
    if protocol.dataset == "folder":
        return load_folder(root)
    samples = open_reader(protocol.dataset, root, **protocol.options, **options)
    if protocol.images is not None and len(samples) != protocol.images and not allow_partial:
        raise ValueError(
            f"{root} holds {len(samples)} images of {protocol.name}, which has {protocol.images}: the scores would not be "
            "those of the benchmark. Complete it, or pass `allow_partial` to score what is there."
        )
    return samples


def compare(
    models: Mapping[str, Contestant],
    samples: Sequence,
    protocol: Protocol,
    out_dir: Path,
    save_predictions: bool = False,
    batch_size: int = 8,
) -> dict[str, Any]:
    """Score models on a benchmark and write `results.json`, `results.md`, `scores.jsonl` and `worst.png`.

    Args:
        models: By name.
        samples: Of `open_samples`.
        protocol: How to score.
        out_dir: Folder to write.
        save_predictions: Keep each prediction as `predictions/MODEL/000000.npy`; `open_kept` scores them again without the
            model.
        batch_size: Images handed to a model at once.

    Returns:
        What `results.json` holds.

    Raises:
        ValueError: A sample cannot be scored.
    """
    out_dir.mkdir(parents=True, exist_ok=True)
    kept = {name: out_dir / "predictions" / file_name_of(name) for name in models if save_predictions}
    contestants = dict(models) | {PRIOR: Contestant(row_prior)}
    scores = score_models(contestants, samples, protocol, batch_size, f"score on {protocol.name}", _keeper(kept))
    results = {"protocol": protocol.as_json(), "images_found": len(samples)} | _results(models, scores)
    if PartialState().is_main_process:
        for name, folder in kept.items():
            finish_predictions(folder, models[name], scores[name].sources)
        write_whole(out_dir / "results.json", json.dumps(results, indent=1) + "\n")
        write_whole(out_dir / "results.md", write_results(results))
        write_whole(out_dir / "scores.jsonl", "".join(_rows(scores)))
        draw_extremes(models, scores, samples, protocol, out_dir / "worst.png")
    PartialState().wait_for_everyone()
    return results


def compare_pairs(models: Mapping[str, Contestant], root: str, out_dir: Path, batch_size: int = 8) -> str:
    """Score models on DA-2K and write `results.json` and `results.md`.

    Args:
        models: By name.
        root: Folder with `annotations.json` and `images/`.
        out_dir: Folder to write.
        batch_size: Images handed to a model at once.

    Returns:
        The table.
    """
    out_dir.mkdir(parents=True, exist_ok=True)
    scores = score_da2k(dict(models) | {PRIOR: Contestant(row_prior)}, open_reader("da2k", root), batch_size)
    results = _results(models, scores)
    scenes = sorted({key for one in results["scores"].values() for key in one if key.startswith("scene/")})
    columns = {"accuracy": "accuracy over pairs", "mean_of_scenes": "mean of scenes"}
    columns |= {key: key.removeprefix("scene/") for key in scenes}
    lines = [
        "# da2k",
        "",
        "| model | " + " | ".join(columns.values()) + " | pairs |",
        "|---" * (len(columns) + 2) + "|",
    ]
    for name, one in results["scores"].items():
        lines.append(f"| {name} | " + " | ".join(f"{100 * one[key]:.1f}" for key in columns) + f" | {one['pairs']} |")
    ties = [
        f"- {name}: {one['ties']} ties, which count as wrong" for name, one in results["scores"].items() if one["ties"]
    ]
    table = "\n".join([*lines, "", *ties, ""])
    if PartialState().is_main_process:
        write_whole(out_dir / "results.json", json.dumps(results, indent=1) + "\n")
        write_whole(out_dir / "results.md", table)
    return table


def file_name_of(model: str) -> str:
    """Turn a model's name into that of a folder.

    Example:
        >>> file_name_of("depth-anything/Depth-Anything-V2-Small-hf")
        'depth-anything__Depth-Anything-V2-Small-hf'
    """
    return model.strip("/").replace("/", "__")


def _results(models: Mapping[str, Contestant], scores: Mapping[str, Any]) -> dict[str, Any]:
    versions = {name: version(name) for name in ("torch", "transformers", "datasets")}
    return {
        "revisions": {name: model.revision for name, model in models.items()},
        "versions": {"depth_anything_hf": __version__} | versions,
        "scores": {name: one.summary() for name, one in scores.items()},
    }


def _keeper(folders: Mapping[str, Path]) -> Callable[[str, int, torch.Tensor], None]:
    for folder in folders.values():
        folder.mkdir(parents=True, exist_ok=True)

    def keep(name: str, index: int, depth: torch.Tensor) -> None:
        if name in folders:
            keep_prediction(folders[name], index, depth)

    return keep


def _rows(scores: dict[str, DatasetScores]):
    for name, one in scores.items():
        for i, source in enumerate(one.sources):
            row = {metric: values[i].item() for metric, values in one.scores.items()}
            yield json.dumps({"model": name, "image": i, "source": source, "group": one.groups[i]} | row) + "\n"


def write_results(results: dict[str, Any]) -> str:
    """Write the table of a comparison, and below it the protocol, in Markdown.

    Args:
        results: As `compare` gives them.

    Returns:
        The text.
    """
    protocol = results["protocol"]
    columns = {
        "abs_rel": "AbsRel ↓", "disparity_abs_rel": "AbsRel in disparity ↓", "delta1": "δ1 ↑", "delta2": "δ2 ↑",
        "rmse": "RMSE ↓", "rmse_log": "RMSE log ↓", "log10": "log10 ↓", "silog": "SILog ↓",
    }  # fmt: skip
    grouped = any("group_abs_rel" in one for one in results["scores"].values())
    if grouped:
        columns |= {"group_abs_rel": "AbsRel, mean of groups ↓", "group_delta1": "δ1, mean of groups ↑"}
    lines = [f"# {protocol['name']}", "", "| model | " + " | ".join(columns.values()) + " | images |"]
    lines.append("|---" * (len(columns) + 2) + "|")
    for name, one in results["scores"].items():
        cells = [f"{one[key]:.4f}" if key in one else "" for key in columns]
        count = f"{one['images']} in {one['groups']} groups" if "groups" in one else str(one["images"])
        lines.append(f"| {name} | " + " | ".join(cells) + f" | {count} |")
    notes = [
        f"- {name}: {one['images_without_labels']} images without labels, {one['non_positive_scales']} where near and far "
        "are the wrong way round."
        for name, one in results["scores"].items()
        if one["images_without_labels"] or one["non_positive_scales"]
    ]
    if protocol["images"] not in (None, results["images_found"]):
        notes.append(f"- **{results['images_found']} of {protocol['images']} images**: not the benchmark's score.")
    settings = [f"| {key} | {value} |" for key, value in protocol.items()]
    return "\n".join([*lines, "", *notes, "", "| protocol | |", "|---|---|", *settings, ""])


def draw_extremes(
    models: Mapping[str, Contestant],
    scores: Mapping[str, DatasetScores],
    samples: Sequence,
    protocol: Protocol,
    path: Path,
) -> None:
    """Draw the first model's worst and best images, with every model's error map below one another.

    Args:
        models: By name; they predict the shown images once more.
        scores: Theirs.
        samples: What was scored.
        protocol: Crop, range, alignment.
        path: Of the picture.
    """
    names = list(models)
    errors = scores[names[0]].scores["abs_rel"]
    order = [i for i in errors.nan_to_num(-1).argsort(descending=True).tolist() if not torch.isnan(errors[i])]
    chosen = order[:SHOWN] + [i for i in order[-SHOWN:] if i not in order[:SHOWN]]
    rows, captions = [], []
    for i in chosen:
        sample = decode_record(samples[i])
        depths = [
            resize_prediction(models[name].predictions([i], [sample])[0][None], sample.values.shape)[0]
            for name in names
        ]
        shown = [1 / d.clamp(min=1e-6) if models[n].metric else d for n, d in zip(names, depths, strict=True)]
        row = prediction_row(sample.image, sample.values, sample.mask, sample.space, [d.numpy() for d in shown])
        maps = [error_map(d, sample, protocol, models[n].metric) for n, d in zip(names, depths, strict=True)]
        rows.append([*row[:2], *(picture for pair in zip(row[2:], maps, strict=True) for picture in pair)])
        notes = [text for n in names for text in (f"AbsRel {scores[n].scores['abs_rel'][i]:.3f}", "")]
        captions.append([sample.source or str(i), "", *notes])
    headings = ["image", "ground truth", *(text for n in names for text in (n, f"error, {RED:.0%} is bright"))]
    title = f"{protocol.name}: the worst images of {names[0]}, then its best"
    with replacing(path) as partial:
        sheet(rows, headings, cell=(180, 240), title=title, captions=captions).save(partial, "PNG")


def error_map(predicted: torch.Tensor, sample: DepthSample, protocol: Protocol, metric: bool) -> np.ndarray:
    """Paint the relative error of depth at each scored pixel.

    Args:
        predicted: (height, width) at the ground truth's size.
        sample: With ground truth.
        protocol: Crop, range, alignment.
        metric: Whether the model predicts metres.

    Returns:
        (height, width, 3) uint8; grey where nothing is scored.
    """
    target, mask = torch.from_numpy(sample.values)[None], torch.from_numpy(sample.mask)[None]
    mask = mask & crop_mask(protocol.crop, *target.shape[1:])[None]
    if metric:
        limits = protocol.max_depth or math.inf, protocol.min_depth or 1e-3
        depth, mask, _ = aligned_depth(predicted[None], target, mask, *limits)
        error = (depth - target).abs() / torch.where(mask, target, 1.0)
    else:
        aligned, disparity, mask, _ = aligned_disparity(
            predicted[None], target, mask, sample.space, protocol.max_depth, protocol.min_depth, protocol.alignment
        )
        error = (disparity / aligned.clamp(min=1e-12) - 1).abs()  # |z - z*| / z* = |d* / d - 1|
    return colorize(*enlarge_sparse(error[0].numpy(), mask[0].numpy()), 0.0, RED)


def with_changes(protocol: Protocol, resolution: int | None, alignment: str | None) -> Protocol:
    """Note in a protocol what the user asked for otherwise."""
    changes = {"resolution": resolution, "alignment": alignment}
    return replace(protocol, **{name: value for name, value in changes.items() if value is not None})
