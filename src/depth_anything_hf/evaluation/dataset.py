"""Score a predictor on a set of labelled records, an image at a time."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from tqdm.auto import tqdm

from depth_anything_hf.data.records import decode_record
from depth_anything_hf.evaluation.scoring import SCORE_NAMES, score_prediction, summarize

Predictor = Callable[[Sequence[Image.Image]], list[torch.Tensor]]


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
    dataset: Iterable[dict],
    max_depth: float | None = None,
    batch_size: int = 8,
    description: str = "scoring",
) -> DatasetScores:
    """Score a predictor on every record of a set, aligned image by image in the model's own space.

    Args:
        predict (`Callable`): Takes a list of RGB images, returns a `(height, width)` tensor for each.
        dataset (`Iterable[dict]`): Records with depth maps.
        max_depth (`float`, *optional*): Of a metric model; None for a relative one.
        batch_size (`int`): Images handed to `predict` at once.
        description (`str`): Of the progress bar.

    Returns:
        `DatasetScores`: One entry an image.

    Raises:
        ValueError: A record has no ground truth, there are no records, or `batch_size` is below 1.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; it must be at least 1.")
    rows, groups, sources, waiting = [], [], [], []

    def flush() -> None:
        for sample, depth in zip(waiting, predict([sample.image for sample in waiting]), strict=True):
            truth = torch.from_numpy(sample.values), torch.from_numpy(sample.mask)
            rows.append(score_prediction(depth, *truth, sample.space, max_depth))
            groups.append(sample.group)
            sources.append(sample.source)
        waiting.clear()

    for record in tqdm(dataset, desc=description, unit="image"):
        sample = decode_record(record)
        if sample.values is None:
            raise ValueError(f"{sample.source or 'a record'} has no depth_map; evaluation needs ground truth.")
        waiting.append(sample)
        if len(waiting) == batch_size:
            flush()
    if waiting:
        flush()
    if not rows:
        raise ValueError("the dataset has 0 records; there is nothing to score.")
    table = torch.stack(rows)
    return DatasetScores({name: table[:, i] for i, name in enumerate(SCORE_NAMES)}, groups, sources)


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
