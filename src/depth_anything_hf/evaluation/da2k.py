"""DA-2K: which of two pixels is closer, counted over pairs."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch

from depth_anything_hf.data.readers.da2k import PointPairs
from depth_anything_hf.evaluation.contestants import Contestant, gather_rows, predict_all
from depth_anything_hf.maps.resizing import resize_prediction


@dataclass(frozen=True)
class PairScores:
    """Hold the answers of a model, one entry a pair in every field.

    Args:
        correct (`torch.Tensor`): `(pairs,)` bool.
        ties (`torch.Tensor`): `(pairs,)` bool: both pixels were given the same depth. A tie is never correct.
        scenes (`list[str]`): Kind of scene.
        sources (`list[str]`): The image.
    """

    correct: torch.Tensor
    ties: torch.Tensor
    scenes: list[str]
    sources: list[str]

    def summary(self) -> dict[str, float]:
        """Give the shares of correct pairs, in [0, 1]; NaN without pairs.

        Returns:
            `dict[str, float]`: `accuracy`, pooled over the pairs (the number that the paper prints); `mean_of_scenes`,
            each scene counting alike; the counts `pairs` and `ties`; and `scene/NAME` for each scene.
        """
        members = defaultdict(list)
        for right, scene in zip(self.correct.tolist(), self.scenes, strict=True):
            members[scene].append(right)
        by_scene = {f"scene/{scene}": sum(rights) / len(rights) for scene, rights in sorted(members.items())}
        pairs = len(self.correct)
        return {
            "accuracy": int(self.correct.sum()) / pairs if pairs else math.nan,
            "mean_of_scenes": sum(by_scene.values()) / len(by_scene) if by_scene else math.nan,
            "pairs": pairs,
            "ties": int(self.ties.sum()),
        } | by_scene


def score_pairs(
    predicted_depth: torch.Tensor,
    pairs: torch.Tensor | np.ndarray,
    closer: torch.Tensor | np.ndarray,
    metric: bool = False,
) -> torch.Tensor:
    """Say for which pairs of pixels the prediction puts the right one closer; a tie is wrong.

    Args:
        predicted_depth (`torch.Tensor`): `(height, width)` at the image's size.
        pairs (`torch.Tensor` or `np.ndarray`): `(pairs, 2, 2)`, int64: pair, point, (row, column).
        closer (`torch.Tensor` or `np.ndarray`): `(pairs,)`, int64: 0 where the first point is closer, 1 the second.
        metric (`bool`): Whether the prediction is in metres, where smaller is closer; else larger is (disparity).

    Returns:
        `torch.Tensor`: `(pairs,)`, bool.

    Raises:
        ValueError: A point lies outside the prediction, or the prediction is not finite there.

    Source: Depth Anything V2, section 6; DA-2K.md of its repository.

    Example:
        >>> score_pairs(torch.tensor([[3.0, 1.0, 1.0]]), [[[0, 0], [0, 1]], [[0, 1], [0, 2]]], [0, 0]).tolist()
        [True, False]
    """
    return _lead(predicted_depth, pairs, closer, metric) > 0


def _lead(predicted_depth: torch.Tensor, pairs, closer, metric: bool) -> torch.Tensor:
    """Compute by how much the closer point of each pair is predicted closer, `(pairs,)`."""
    pairs, closer = torch.as_tensor(pairs).reshape(-1, 2, 2), torch.as_tensor(closer).reshape(-1)
    size = torch.tensor(predicted_depth.shape)
    outside = ((pairs < 0) | (pairs >= size)).flatten(1).any(dim=1)
    if outside.any():
        raise ValueError(
            f"points {pairs[outside][0].tolist()} (row, column) lie outside the image of {size[0]} x {size[1]} (height "
            "x width); points belong to the full-size image."
        )
    values = predicted_depth.cpu()[pairs[..., 0], pairs[..., 1]]  # (pairs, 2)
    if not torch.isfinite(values).all():
        raise ValueError("the prediction is NaN or infinite at a point; check the weights, or predict in float32.")
    first, second = values.double().unbind(dim=1)
    lead = torch.where(closer == 0, first - second, second - first)
    return -lead if metric else lead


def score_da2k(
    models: Mapping[str, Contestant],
    samples: Iterable[PointPairs],
    batch_size: int = 8,
    description: str = "scoring",
) -> dict[str, PairScores]:
    """Score models side by side on DA-2K; each image is decoded once.

    In several processes (Accelerate) each scores every so-many-th image, and all get all the scores.

    Args:
        models (`Mapping[str, Contestant]`): By name.
        samples (`Iterable[PointPairs]`): As `data.readers.da2k.read_da2k` gives them.
        batch_size (`int`): Images handed to a predictor at once.
        description (`str`): Of the progress bar.

    Returns:
        `dict[str, PairScores]`: For each model, one entry a pair, in order.

    Raises:
        ValueError: A point lies outside its image, a prediction is broken, there are no samples, or `batch_size` is
            below 1.

    Source: Depth Anything V2, section 6: no alignment, prediction at the image's size.
    """
    rows = []
    for index, sample, predictions in predict_all(models, samples, batch_size, description):
        leads = {}
        for name, depth in predictions.items():
            depth = resize_prediction(depth[None], (sample.image.height, sample.image.width))[0]
            try:
                leads[name] = _lead(depth, sample.pairs, sample.closer, models[name].metric).tolist()
            except ValueError as error:
                raise ValueError(f"{sample.source}: {error}") from error
        rows.append((index, sample.scene, sample.source, leads))
    rows = gather_rows(rows, "images")
    return {name: _table(rows, name) for name in models}


def _table(rows: list[tuple], name: str) -> PairScores:
    flat = [(lead, scene, source) for _, scene, source, leads in rows for lead in leads[name]]
    leads = torch.tensor([lead for lead, _, _ in flat], dtype=torch.float64)
    return PairScores(leads > 0, leads == 0, [scene for _, scene, _ in flat], [source for _, _, source in flat])
