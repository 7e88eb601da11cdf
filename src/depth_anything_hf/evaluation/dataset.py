"""Score predictors on a set of labelled records, an image at a time."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

import torch

from depth_anything_hf.data.records import DepthSample, decode_record
from depth_anything_hf.evaluation.contestants import Contestant, Predictor, gather_rows, predict_all
from depth_anything_hf.evaluation.protocols import PROTOCOLS, Protocol, crop_mask
from depth_anything_hf.evaluation.scoring import SCORE_NAMES, score_prediction, summarize


@dataclass(frozen=True)
class DatasetScores:
    """Scores of each image of a set.

    Args:
        scores (`dict[str, torch.Tensor]`): `(images,)` float64 for each of `SCORE_NAMES`; NaN without labels.
        groups (`list[str | None]`): The scene of each image, where the records say it.
        sources (`list[str]`): Where each image comes from.
    """

    scores: dict[str, torch.Tensor]
    groups: list[str | None]
    sources: list[str]

    def summary(self) -> dict[str, float]:
        """Average over the images; where there are groups, add the mean of the groups' means."""
        summary = summarize(self.scores)
        if any(group is not None for group in self.groups):
            members = defaultdict(list)
            for i, group in enumerate(self.groups):
                members[group].append(i)
            by_group = [
                summarize({name: values[indices] for name, values in self.scores.items()})
                for indices in members.values()
            ]
            by_group = [scores for scores in by_group if scores["images"]]
            summary["groups"] = len(by_group)
            for name in ("abs_rel", "delta1"):
                total = sum(scores[name] for scores in by_group)
                summary[f"group_{name}"] = total / len(by_group) if by_group else math.nan
        return summary


def score_dataset(
    predict: Predictor,
    dataset: Iterable[Mapping | DepthSample],
    max_depth: float | None = None,
    batch_size: int = 8,
    description: str = "scoring",
) -> DatasetScores:
    """Score one predictor on every record of a set; `score_models` scores several while decoding each record once.

    Args:
        predict (`Callable`): Takes a list of RGB images, returns a `(height, width)` tensor for each.
        dataset (`Iterable`): Records or samples with ground truth.
        max_depth (`float`, *optional*): Of a metric model; None for a relative one.
        batch_size (`int`): Images handed to `predict` at once.
        description (`str`): Of the progress bar.

    Returns:
        `DatasetScores`: One entry an image.

    Raises:
        ValueError: A record has no ground truth, there are no records, or `batch_size` is below 1.
    """
    model = Contestant(predict, metric=max_depth is not None)
    protocol = replace(PROTOCOLS["folder"], max_depth=max_depth)
    return score_models({"": model}, dataset, protocol, batch_size, description)[""]


def score_models(
    models: Mapping[str, Contestant],
    dataset: Iterable[Mapping | DepthSample],
    protocol: Protocol = PROTOCOLS["folder"],
    batch_size: int = 8,
    description: str = "scoring",
    keep: Callable[[str, int, torch.Tensor], None] | None = None,
) -> dict[str, DatasetScores]:
    """Score models side by side on every record of a set, each image aligned by itself in the model's own space.

    In several processes (Accelerate) each scores every so-many-th image, and all get all the scores: no image is scored
    twice to fill a batch.

    Args:
        models (`Mapping[str, Contestant]`): By name.
        dataset (`Iterable`): Records or samples with ground truth.
        protocol (`Protocol`): Crop, range, alignment.
        batch_size (`int`): Images handed to a predictor at once.
        description (`str`): Of the progress bar.
        keep (`Callable`, *optional*): Called with model, index and prediction, as the model gave it.

    Returns:
        `dict[str, DatasetScores]`: For each model, one entry an image, in order.

    Raises:
        ValueError: A record has no ground truth, there are no records, or `batch_size` is below 1.
    """
    rows = []
    for index, sample, predictions in predict_all(models, dataset, batch_size, description, _labeled_sample):
        scores = {}
        for name, depth in predictions.items():
            if keep is not None:
                keep(name, index, depth)
            scores[name] = score_sample(depth, sample, protocol, models[name].metric).tolist()
        rows.append((index, sample.group, sample.source, scores))
    rows = gather_rows(rows, "records")
    return {name: _table(rows, name) for name in models}


def _labeled_sample(record: Mapping | DepthSample) -> DepthSample:
    sample = decode_record(record)
    if sample.values is None:
        raise ValueError(f"{sample.source or 'a record'} has no depth_map; evaluation needs ground truth.")
    return sample


def _table(rows: list[tuple], name: str) -> DatasetScores:
    values = torch.tensor([scores[name] for *_, scores in rows], dtype=torch.float64)
    columns = {metric: values[:, i] for i, metric in enumerate(SCORE_NAMES)}
    return DatasetScores(columns, [group for _, group, _, _ in rows], [source for _, _, source, _ in rows])


def score_sample(predicted_depth: torch.Tensor, sample: DepthSample, protocol: Protocol, metric: bool) -> torch.Tensor:
    """Bring one prediction to its ground truth's size and score it by a protocol.

    Args:
        predicted_depth (`torch.Tensor`): `(height, width)`, of any size.
        sample (`DepthSample`): With ground truth.
        protocol (`Protocol`): Crop, range, alignment.
        metric (`bool`): Whether the model predicts metres; then nothing is aligned.

    Returns:
        `torch.Tensor`: One number for each of `SCORE_NAMES`, float64.
    """
    target = torch.from_numpy(sample.values)
    mask = torch.from_numpy(sample.mask) & crop_mask(protocol.crop, *target.shape)
    limits = {"min_depth": protocol.min_depth, "max_depth": protocol.max_depth, "alignment": protocol.alignment}
    return score_prediction(predicted_depth, target, mask, sample.space, metric=metric, **limits)
