"""Compare models on a benchmark: predict, score, and write tables and pictures."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import torch
from accelerate import PartialState

from depth_anything_hf.data.folder import load_folder, undecoded
from depth_anything_hf.data.readers import open_reader
from depth_anything_hf.data.readers.da2k import PointPairs
from depth_anything_hf.data.records import DepthSample, decode_record
from depth_anything_hf.data.whole_files import write_whole
from depth_anything_hf.evaluation.contestants import (
    AnyContestant,
    Contestant,
    Predictor,
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

    Returns:
        `dict[str, DatasetScores]`: For each model, one entry an image, in order; `dict[str, PairScores]`, one entry a
        pair, for DA-2K.

    Raises:
        ValueError: A record has no ground truth, a point lies outside its image, a prediction is broken, there are no
            records, or `batch_size` is below 1.

    Source: Depth Anything V1, section 4; V2, section 6 (DA-2K: no alignment, prediction at the image's size).
    """
    pairs, rows = protocol.counts_pairs, []
    for index, sample, predictions in predict_all(models, dataset, batch_size, description, _with_ground_truth):
        scores = {}
        for name, depth in predictions.items():
            if keep is not None:
                keep(name, index, depth)
            scores[name] = score_sample(depth, sample, protocol, models[name].metric).tolist()
        rows.append((index, sample.scene if pairs else sample.group, sample.source, scores))
    rows = gather_rows(rows, "images" if pairs else "records")
    table = pair_scores if pairs else _table
    return {name: table(rows, name) for name in models}


def _with_ground_truth(record: Mapping | DepthSample | PointPairs) -> DepthSample | PointPairs:
    if isinstance(record, PointPairs):
        return record
    sample = decode_record(record)
    if sample.values is None:
        raise ValueError(f"{sample.source or 'a record'} has no depth_map; evaluation needs ground truth.")
    return sample


def _table(rows: list[tuple], name: str) -> DatasetScores:
    values = torch.tensor([scores[name] for *_, scores in rows], dtype=torch.float64)
    columns = {metric: values[:, i] for i, metric in enumerate(SCORE_NAMES)}
    return DatasetScores(columns, [group for _, group, _, _ in rows], [source for _, _, source, _ in rows])


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


def open_samples(protocol: Protocol, root: str, allow_partial: bool = False, **options: Any) -> Sequence:
    """Open the images of a benchmark in its official layout; `options` go to its reader.

    Raises:
        ValueError: The protocol has another number of images; `allow_partial` scores the images that are there.
        FileNotFoundError: A file of the layout is missing.
    """
    if protocol.dataset == "folder":
        return undecoded(load_folder(root))
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
    `scores.jsonl` and `worst.png`.

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

    def keep(name: str, index: int, depth: torch.Tensor) -> None:
        if name in kept:
            keep_prediction(kept[name], index, depth)

    contestants = dict(models) | {PRIOR: Contestant(row_prior)}
    scores = score_models(contestants, samples, protocol, batch_size, f"score on {protocol.name}", keep)
    results = {
        "protocol": protocol.as_json(),
        "images_found": len(samples),
        "revisions": {name: model.revision for name, model in models.items()},
        "versions": {"depth_anything_hf": __version__}
        | {name: version(name) for name in ("torch", "transformers", "datasets")},
        "scores": {name: one.summary() for name, one in scores.items()},
    }
    if PartialState().is_main_process:
        for name, folder in kept.items():
            finish_predictions(folder, models[name], scores[name].sources)
        write_whole(out_dir / "results.json", json.dumps(results, indent=1) + "\n")
        write_whole(out_dir / "results.md", write_results(results))
        if not protocol.counts_pairs:
            write_whole(out_dir / "scores.jsonl", write_rows(scores))
            draw_extremes(models, scores, samples, protocol, out_dir / "worst.png")
    PartialState().wait_for_everyone()
    return results
