"""Compare models on a benchmark: predict, score, and write tables and pictures."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from accelerate import PartialState

from depth_anything_hf.data.folder import load_folder
from depth_anything_hf.data.readers import open_reader
from depth_anything_hf.data.readers.da2k import PointPairs
from depth_anything_hf.data.records import DepthSample, decode_record
from depth_anything_hf.data.whole_files import write_whole
from depth_anything_hf.evaluation.contestants import (
    CARD,
    AnyContestant,
    Contestant,
    Failure,
    Predictor,
    attempt,
    file_name_of,
    finish_predictions,
    gather_rows,
    keep_prediction,
    predict_all,
    row_prior,
)
from depth_anything_hf.evaluation.point_pairs import pair_leads, pair_scores
from depth_anything_hf.evaluation.protocols import PROTOCOLS, Protocol, crop_mask
from depth_anything_hf.evaluation.results import draw_extremes, write_results, write_rows
from depth_anything_hf.evaluation.scoring import SCORE_NAMES, DatasetScores, score_prediction
from depth_anything_hf.maps.resizing import resize_prediction
from depth_anything_hf.version import __version__

PRIOR = "prior (disparity = image row)"
MOST_NEAR, LEAST_FAR = 0.02, 100.0  # meters: an image with all labels below or above is hardly in meters
_logger = logging.getLogger(__name__)


def score_dataset(
    predict: Predictor,
    dataset: Iterable[Mapping | DepthSample],
    max_depth: float | None = None,
    batch_size: int = 8,
    description: str = "scoring",
) -> DatasetScores:
    """Score one predictor on every record of a set, as `score_models`: of a metric model up to `max_depth` meters; None is for
    a relative one.
    """
    model = Contestant(predict, metric=max_depth is not None)
    protocol = replace(PROTOCOLS["folder"], max_depth=max_depth)
    return score_models({"": model}, dataset, protocol, batch_size, description)[""]


def score_models(
    models: Mapping[str, AnyContestant],
    dataset: Iterable[Mapping | DepthSample | PointPairs],
    protocol: Protocol = PROTOCOLS["folder"],
    batch_size: int = 8,
    description: str = "scoring",
    keep: Callable[[str, int, torch.Tensor], None] | None = None,
    go_on: bool = False,
) -> dict[str, Any]:
    """Score models side by side on every record of a set, each image by itself, as the protocol says.

    In several processes (Accelerate) process i of n scores every n-th image, and all get all the scores: no image is
    scored twice to fill a batch.

    Args:
        models (`Mapping[str, Contestant]`): By name.
        dataset (`Iterable`): Records or samples with ground truth; for DA-2K the photographs of its reader.
        protocol (`Protocol`): Crop, range and alignment; or pairs of points.
        batch_size (`int`): Images handed to a predictor at once.
        description (`str`): Of the progress bar.
        keep (`Callable`, *optional*): Called with model, index and prediction, as the model returned it.
        go_on (`bool`): Score the others where a record, a photograph or a prediction is broken, and list the broken ones in
            `failures` of the result. Default: raise an error at the first.

    Returns:
        `dict[str, DatasetScores]`: For each model, one entry an image, in order; `dict[str, PairScores]`, one entry a
        pair, for DA-2K.

    Raises:
        ValueError: A record has no ground truth, a point lies outside its image, a prediction is broken, there are no
            records, or `batch_size` is below 1. With `go_on`: nothing could be scored.

    Source: Depth Anything V1, section 4; V2, section 6 (DA-2K: no alignment, prediction at the image's size).
    """
    pairs, rows = protocol.counts_pairs, list[tuple]()
    for index, sample, predictions in predict_all(models, dataset, batch_size, description, _with_ground_truth, go_on):
        if isinstance(sample, Failure):
            rows.append((index, None, "", None, dict.fromkeys(models, sample)))
            continue
        scores: dict[str, Any] = {}
        for name, depth in predictions.items():
            if isinstance(depth, Failure):
                scores[name] = depth
                continue
            if keep is not None:
                keep(name, index, depth)
            scores[name] = attempt(partial(_score_list, depth, sample, protocol, models[name].metric), go_on)
        scene, limits = (sample.scene, None) if pairs else (sample.group, _label_range(sample) if go_on else None)
        rows.append((index, scene, sample.source, limits, scores))
    rows = gather_rows(rows, "images" if pairs else "records")
    failures = {name: _failures(rows, name) for name in models}
    if all(len(found) == len(rows) for found in failures.values()):
        raise ValueError(
            f"none of {len(rows)} images could be scored; the first: {next(iter(failures.values()))[rows[0][0]]}"
        )
    if go_on and not pairs:
        _check_labels(rows, protocol)
    table = pair_scores if pairs else _table
    return {name: table(rows, name, failures[name]) for name in models}


def check_records(records: Sequence[Mapping | DepthSample]) -> tuple[list[int], list[str]]:
    """Decode every record before a long work whose result is scored on them.

    Returns:
        The places of the records that can be scored, and for each of the others a line that says why it cannot.

    Raises:
        ValueError: None can be scored, or none has a labeled pixel.
    """
    places, failures, labeled = [], [], False
    for i in range(len(records)):
        sample = attempt(partial(_record_at, records, i), go_on=True)
        if isinstance(sample, Failure):
            failures.append(f"record {i}: {sample.message}")
            continue
        places.append(i)
        labeled = labeled or bool(sample.mask.any())
    if not labeled:
        why = f"the first that cannot be used is {failures[0]}" if failures else "no pixel has a label"
        raise ValueError(f"none of {len(records)} records can be scored: {why}")
    return places, failures


def _record_at(records: Sequence[Mapping | DepthSample], i: int) -> Any:
    return _with_ground_truth(records[i])


def _score_list(
    depth: torch.Tensor, sample: DepthSample | PointPairs, protocol: Protocol, metric: bool
) -> list[float]:
    """Score one prediction; for depth, the last number is 1 where the prediction is constant."""
    scores = score_sample(depth, sample, protocol, metric).tolist()
    return scores if protocol.counts_pairs else [*scores, float(depth.min() == depth.max())]


def _failures(rows: list[tuple], name: str) -> dict[int, str]:
    """Return why images have no score of a model, by their places."""
    return {
        index: f"image {index}{f' ({source})' if source else ''}: {scores[name].message}"
        for index, _, source, _, scores in rows
        if isinstance(scores[name], Failure)
    }


def _label_range(sample: DepthSample) -> tuple[float, float] | None:
    """Return the nearest and the farthest label, meters; None without a label in meters."""
    labels = cast(np.ndarray, sample.values)[sample.mask] if sample.space == "depth" else np.empty(0)
    return (labels.min().item(), labels.max().item()) if labels.size else None


def _check_labels(rows: list[tuple], protocol: Protocol) -> None:
    """Raise a `ValueError` if no label counts, and warn if the unit of the labels is hardly meters."""
    limits = [row[3] for row in rows if row[3] is not None]
    nearest, farthest = min((near for near, _ in limits), default=0), max((far for _, far in limits), default=0)
    found = f"they reach from {nearest:g} to {farthest:g} m" if limits else "no pixel has one in meters"
    if all(isinstance(one, Failure) or math.isnan(one[0]) for *_, scores in rows for one in scores.values()):
        raise ValueError(
            f"no label of {len(rows)} images counts: {found}, and what counts is from {protocol.min_depth or 0:g} to "
            f"{protocol.max_depth or math.inf:g} m. Check depth_scale, meters per code, and where labels are."
        )
    odd = sum(near > LEAST_FAR or far < MOST_NEAR for near, far in limits)
    if odd:
        _logger.warning(
            f"{odd} of {len(rows)} images have no label between {MOST_NEAR:g} and {LEAST_FAR:g} m, all labels together reach "
            f"from {nearest:g} to {farthest:g} m: are they meters? depth_scale is 0.001 for millimeters."
        )


def _with_ground_truth(record: Mapping | DepthSample | PointPairs) -> DepthSample | PointPairs:
    if isinstance(record, PointPairs):
        return record
    sample = decode_record(record)
    if sample.values is None:
        raise ValueError(f"{sample.source or 'a record'} has no depth_map; evaluation needs ground truth.")
    return sample


def _table(rows: list[tuple], name: str, failures: dict[int, str]) -> DatasetScores:
    none = [math.nan] * (len(SCORE_NAMES) + 1)
    found = [none if isinstance(scores[name], Failure) else scores[name] for *_, scores in rows]
    values = torch.tensor(found, dtype=torch.float64)  # (images, metrics and whether it is constant)
    columns = {metric: values[:, i] for i, metric in enumerate(SCORE_NAMES)}
    constant = frozenset((values[:, -1] == 1).nonzero().flatten().tolist())
    groups, sources = ([row[column] for row in rows] for column in (1, 2))
    return DatasetScores(columns, groups, sources, failures, constant)


def score_sample(
    predicted_depth: torch.Tensor, sample: DepthSample | PointPairs, protocol: Protocol, metric: bool
) -> torch.Tensor:
    """Bring one prediction, of any size, to the size of its ground truth and score it by a protocol.

    Returns:
        `torch.Tensor`: One number for each of `SCORE_NAMES`, float64; for pairs of points the lead of each, `(pairs,)`.
    """
    if isinstance(sample, PointPairs):
        depth = resize_prediction(predicted_depth[None], (sample.image.height, sample.image.width))[0]
        try:
            return pair_leads(depth, sample.pairs, sample.closer, metric)
        except ValueError as error:
            raise ValueError(f"{sample.source}: {error}") from error
    target, mask = torch.from_numpy(sample.values), torch.from_numpy(sample.mask)
    mask = mask & crop_mask(protocol.crop, *target.shape)
    space = cast(str, sample.space)  # it has ground truth
    return score_prediction(
        predicted_depth, target, mask, space, metric, protocol.min_depth, protocol.max_depth, protocol.alignment
    )


def open_samples(
    protocol: Protocol, root: str, allow_partial: bool = False, allow_outside: bool = False, **options: Any
) -> Sequence:
    """Open the images of a benchmark in its official layout; `options` go to its reader, `allow_outside` to `load_folder`.

    Raises:
        ValueError: The protocol has another number of images; `allow_partial` scores the images that are there.
        FileNotFoundError: A file of the layout is missing.
    """
    if protocol.dataset == "folder":
        return load_folder(root, allow_outside)
    samples = open_reader(protocol.dataset, root, **protocol.options, **options)
    if protocol.images is not None and len(samples) != protocol.images and not allow_partial:
        raise ValueError(
            f"{root} holds {len(samples)} images of {protocol.name}, which has {protocol.images}: the scores would not be "
            "those of the benchmark. Complete it, or pass `allow_partial` to score what is there."
        )
    return samples


def compare(
    models: Mapping[str, AnyContestant],
    samples: Sequence,
    protocol: Protocol,
    out_dir: Path,
    save_predictions: bool = False,
    batch_size: int = 8,
) -> dict[str, Any]:
    """Score models on a benchmark and write `results.json` and `results.md`; unless pairs of points are counted, also
    `scores.jsonl` and `worst.png`. What cannot be scored is named in `failures`, and the rest is scored.

    Args:
        models: By name.
        samples: From `open_samples`.
        protocol: How to score.
        out_dir: Folder to write.
        save_predictions: Save each prediction as `predictions/MODEL/000000.npy`, for `KeptPredictions`.
        batch_size: Images that a model takes at once.

    Returns:
        The content of `results.json`.
    """
    out_dir.mkdir(parents=True, exist_ok=True)
    kept = {name: out_dir / "predictions" / file_name_of(name) for name in models if save_predictions}
    for folder in kept.values():
        folder.mkdir(parents=True, exist_ok=True)
        (folder / CARD).unlink(missing_ok=True)  # until all predictions are of this run

    def keep(name: str, index: int, depth: torch.Tensor) -> None:
        if name in kept:
            keep_prediction(kept[name], index, depth)

    contestants = dict(models) | {PRIOR: Contestant(row_prior)}
    description = f"score on {protocol.name}"
    scores = score_models(contestants, samples, protocol, batch_size, description, keep, go_on=True)
    failures = {name: list(one.failures.values()) for name, one in scores.items() if one.failures}
    results = {
        "protocol": protocol.as_json(),
        "images_found": len(samples),
        "revisions": {name: model.revision for name, model in models.items()},
        "versions": {"depth_anything_hf": __version__}
        | {name: version(name) for name in ("torch", "transformers", "datasets")},
        "scores": {name: one.summary() for name, one in scores.items()},
        **({"failures": failures} if failures else {}),
    }
    if PartialState().is_main_process:
        for name, folder in kept.items():
            failed = scores[name].failures
            sources = [None if i in failed else source for i, source in enumerate(scores[name].sources)]
            finish_predictions(folder, models[name], sources)
        write_whole(out_dir / "results.json", json.dumps(results, indent=1) + "\n")
        write_whole(out_dir / "results.md", write_results(results))
        if not protocol.counts_pairs:
            write_whole(out_dir / "scores.jsonl", write_rows(scores))
            draw_extremes(models, scores, samples, protocol, out_dir / "worst.png")
    PartialState().wait_for_everyone()
    return results
