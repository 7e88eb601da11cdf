"""Scores while training: one row of numbers an image, so that no prediction is kept."""

from __future__ import annotations

from collections import defaultdict

import torch
from torch import nn
from transformers import EvalPrediction

from depth_anything_hf.evaluation.scoring import SCORE_NAMES, score_prediction, summarize


def score_batch(model: nn.Module, batch: dict, max_depth: float | None) -> torch.Tensor:
    """Predict the images of a batch of `EvaluationCollator`, those of equal size together, and score each.

    Args:
        model (`nn.Module`): Relative, or metric with `max_depth`.
        batch (`dict`): On the model's device.
        max_depth (`float`, *optional*): The model's, if it is metric.

    Returns:
        `torch.Tensor`: `(batch, scores)`, in the order of `SCORE_NAMES`.
    """
    rows = [None] * len(batch["targets"])
    by_shape = defaultdict(list)
    for i, image in enumerate(batch["pixel_values"]):
        by_shape[image.shape].append(i)
    for members in by_shape.values():
        predicted = model(pixel_values=torch.stack([batch["pixel_values"][i] for i in members])).predicted_depth
        for i, depth in zip(members, predicted, strict=True):
            truth = (batch[name][i] for name in ("targets", "target_masks", "spaces"))
            rows[i] = score_prediction(depth, *truth, max_depth is not None, max_depth=max_depth)
    return torch.stack(rows)


def mean_scores(prediction: EvalPrediction) -> dict[str, float]:
    """Average the rows of `score_batch`."""
    rows = torch.as_tensor(prediction.predictions, dtype=torch.float64)
    return summarize({name: rows[:, i] for i, name in enumerate(SCORE_NAMES)})
