"""Score predictors on a set of labelled records, an image at a time."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from PIL import Image
from tqdm.auto import tqdm

from depth_anything_hf.data.records import DepthSample, decode_record
from depth_anything_hf.evaluation.protocols import PROTOCOLS, Protocol, crop_mask
from depth_anything_hf.evaluation.scoring import SCORE_NAMES, score_prediction, summarize

Predictor = Callable[[Sequence[Image.Image]], list[torch.Tensor]]


@dataclass(frozen=True)
class Contestant:
    """Hold a model to score.

    Args:
        predict (`Callable`): Takes a list of RGB images, returns a `(height, width)` tensor for each.
        metric (`bool`): Whether it predicts metres; else disparity of unknown scale and shift.
        saved (`Path`, *optional*): Folder of predictions of an earlier run, `000000.npy` for the first image; then nothing
            is predicted.
        revision (`str`, *optional*): Which weights these are, for the result file.
    """

    predict: Predictor | None = None
    metric: bool = False
    saved: Path | None = None
    revision: str | None = None

    def predictions(self, indices: Sequence[int], images: Sequence[Image.Image]) -> list[torch.Tensor]:
        """Predict images, or read what was predicted for them."""
        if self.saved is None:
            return self.predict(images)
        return [torch.from_numpy(np.load(self.saved / f"{index:06d}.npy")).float() for index in indices]


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
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; it must be at least 1.")
    state = PartialState()
    rows, waiting = [], []

    def flush() -> None:
        indices, images = [index for index, _ in waiting], [sample.image for _, sample in waiting]
        predictions = {name: model.predictions(indices, images) for name, model in models.items()}
        for place, (index, sample) in enumerate(waiting):
            scores = {}
            for name, model in models.items():
                if len(predictions[name]) != len(waiting):
                    raise ValueError(
                        f"{name or 'predict'} gave {len(predictions[name])} maps for {len(images)} images."
                    )
                depth = predictions[name][place]
                if keep is not None:
                    keep(name, index, depth)
                scores[name] = score_sample(depth, sample, protocol, model.metric).tolist()
            rows.append((index, sample.group, sample.source, scores))
        waiting.clear()

    for index, record in own_records(dataset, state, description):
        sample = decode_record(record)
        if sample.values is None:
            raise ValueError(f"{sample.source or 'a record'} has no depth_map; evaluation needs ground truth.")
        waiting.append((index, sample))
        if len(waiting) == batch_size:
            flush()
    if waiting:
        flush()
    if state.num_processes > 1:
        rows = gather_object(rows)
    if not rows:
        raise ValueError("the dataset has 0 records; there is nothing to score.")
    rows.sort(key=lambda row: row[0])
    return {name: _table(rows, name) for name in models}


def own_records(dataset: Iterable, state: PartialState, description: str) -> Iterator[tuple[int, Any]]:
    """Yield this process's records with their places in the set; a set with an index is not asked for the others'."""
    bar = tqdm(desc=description, unit="image", total=_share(dataset, state), disable=not state.is_main_process)
    with bar:
        if hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__"):
            found = ((i, dataset[i]) for i in range(state.process_index, len(dataset), state.num_processes))
        else:
            found = itertools.islice(enumerate(dataset), state.process_index, None, state.num_processes)
        for index, record in found:
            yield index, record
            bar.update()


def _share(dataset: Iterable, state: PartialState) -> int | None:
    return math.ceil(len(dataset) / state.num_processes) if hasattr(dataset, "__len__") else None


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


def row_prior(images: Sequence[Image.Image]) -> list[torch.Tensor]:
    """Predict that what stands lower in the image is nearer: the trivial prior that a model has to beat.

    Args:
        images (`Sequence[Image.Image]`): Any images; their content is not looked at.

    Returns:
        `list[torch.Tensor]`: For each image its row numbers, `(height, width)`.

    Example:
        >>> row_prior([Image.new("RGB", (2, 3))])[0].tolist()
        [[0.0, 0.0], [1.0, 1.0], [2.0, 2.0]]
    """
    return [
        torch.arange(image.height, dtype=torch.float32)[:, None].expand(image.height, image.width) for image in images
    ]
