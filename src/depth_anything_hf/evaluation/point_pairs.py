"""Which of two pixels is closer, counted over pairs: how DA-2K is scored."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch


@dataclass(frozen=True)
class PairScores:
    """The answers of a model, one entry a pair in every field but the last; a tie is never correct.

    `failures` says, by place, why photographs have no answers.
    """

    correct: torch.Tensor
    ties: torch.Tensor
    scenes: list[str]
    sources: list[str]
    failures: Mapping[int, str] = field(default_factory=dict)

    def summary(self) -> dict[str, float]:
        """Compute the shares of correct pairs, in [0, 1]; NaN without pairs.

        Returns:
            `accuracy`, pooled over the pairs (the number in the paper); `mean_of_scenes`, each scene with the same weight; the
            counts `pairs` and `ties`, and `images_failed` if there are any; and `scene/NAME` for each scene.
        """
        members: dict[str, list[bool]] = defaultdict(list)
        for right, scene in zip(self.correct.tolist(), self.scenes, strict=True):
            members[scene].append(right)
        by_scene = {f"scene/{scene}": sum(rights) / len(rights) for scene, rights in sorted(members.items())}
        pairs = len(self.correct)
        return {
            "accuracy": int(self.correct.sum()) / pairs if pairs else math.nan,
            "mean_of_scenes": sum(by_scene.values()) / len(by_scene) if by_scene else math.nan,
            "pairs": pairs,
            "ties": int(self.ties.sum()),
            **({"images_failed": len(self.failures)} if self.failures else {}),
        } | by_scene


def score_pairs(
    predicted_depth: torch.Tensor,
    pairs: torch.Tensor | np.ndarray,
    closer: torch.Tensor | np.ndarray,
    metric: bool = False,
) -> torch.Tensor:
    """Check for which pairs of pixels the prediction puts the right one closer; a tie is wrong.

    Args:
        predicted_depth (`torch.Tensor`): `(height, width)` at the image's size.
        pairs (`torch.Tensor` or `np.ndarray`): `(pairs, 2, 2)`, int64: pair, point, (row, column).
        closer (`torch.Tensor` or `np.ndarray`): `(pairs,)`, int64: 0 where the first point is closer, 1 the second.
        metric (`bool`): Whether the prediction is in meters, where smaller is closer; else larger is (disparity).

    Returns:
        `torch.Tensor`: `(pairs,)`, bool.

    Raises:
        ValueError: A point lies outside the prediction, or the prediction is not finite there.

    Source: Depth Anything V2, section 6; DA-2K.md of its repository.

    Example:
        >>> score_pairs(torch.tensor([[3.0, 1.0, 1.0]]), [[[0, 0], [0, 1]], [[0, 1], [0, 2]]], [0, 0]).tolist()
        [True, False]
    """
    return pair_leads(predicted_depth, pairs, closer, metric) > 0


def pair_leads(
    predicted_depth: torch.Tensor,
    pairs: torch.Tensor | np.ndarray,
    closer: torch.Tensor | np.ndarray,
    metric: bool = False,
) -> torch.Tensor:
    """Compute by how much the closer point of each pair is predicted closer; arguments as of `score_pairs`.

    Returns:
        `torch.Tensor`: `(pairs,)` float64: positive where the prediction is right, 0 for a tie.
    """
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


def pair_scores(rows: Sequence[tuple], name: str, failures: Mapping[int, str]) -> PairScores:
    """Make the table of a model from rows, which begin with place, scene and source, and end with the leads by model."""
    flat = [
        (lead, scene, source)
        for place, scene, source, *_, leads in rows
        if place not in failures
        for lead in leads[name]
    ]
    leads = torch.tensor([lead for lead, _, _ in flat], dtype=torch.float64)
    scenes, sources = ([row[column] for row in flat] for column in (1, 2))
    return PairScores(leads > 0, leads == 0, scenes, sources, failures)
