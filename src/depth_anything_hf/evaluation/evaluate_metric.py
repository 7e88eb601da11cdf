"""The depth metrics as a module of `evaluate`, and for the stock `Trainer`.

`evaluate.load` copies this file, reads its imports line by line, and takes the first of its metrics that it finds:
one import a line, absolute, and no class of `evaluate` by name.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import datasets
import evaluate
import torch

from depth_anything_hf.evaluation.protocols import PROTOCOLS, crop_mask
from depth_anything_hf.evaluation.scoring import SCORE_NAMES, score_prediction, summarize

_DESCRIPTION = "Monocular depth estimation: abs_rel, delta1 and their kin, each image aligned by itself."
_CITATION = "Eigen et al., 2014; Ranftl et al., 2020 (alignment); Yang et al., 2024 (Depth Anything)."
_INPUTS = """
Args:
    predictions: Maps `(height, width)` of any sizes: disparity of a relative model, meters of a metric one.
    references: Ground truth, a map for each prediction; predictions are brought to its size.
    masks: Optional, bool maps of the references' sizes: which pixels count. Holes (0, NaN) never do.
Returns:
    The means over the images with labels, and the counts images, images_without_labels, non_positive_scales.
"""


class DepthEstimationMetric(evaluate.Metric):
    """Score predictions as they come; only one row of numbers an image is kept, never a map.

    Args:
        config_name (`str`, *optional*): A protocol of `evaluation.protocols`, for its range, crop and alignment.
        space (`str`): Space of the references: `"depth"` (meters) or `"disparity"`.
        metric (`bool`): Whether the model predicts meters, which are scored as they are; else disparity of unknown
            scale and shift.
        min_depth, max_depth, alignment: In place of the protocol's, as of `score_relative`.
        kwargs: Passed to `evaluate.Metric`.

    Raises:
        ValueError: Unknown protocol, or more than one process: gather what they predict, or call `score_models`.

    Example:
        >>> depth = torch.tensor([[1.0, 2.0, 4.0]])
        >>> scorer = DepthEstimationMetric()
        >>> scorer.add_batch(predictions=[3 / depth + 1], references=[depth])
        >>> scores = scorer.compute()
        >>> round(scores["abs_rel"], 6), scores["images"]
        (0.0, 1)
    """

    def __init__(
        self,
        config_name: str | None = None,
        space: str = "depth",
        metric: bool = False,
        min_depth: float | None = None,
        max_depth: float | None = None,
        alignment: str | None = None,
        **kwargs,
    ):
        if (config_name or "folder") not in PROTOCOLS:
            raise ValueError(f"config_name is {config_name!r}; it must be a protocol: {', '.join(PROTOCOLS)}.")
        if kwargs.get("num_process", 1) != 1:
            raise ValueError("num_process must be 1: gather the predictions, or score with score_models.")
        asked = {"min_depth": min_depth, "max_depth": max_depth, "alignment": alignment}
        given: dict[str, Any] = {name: value for name, value in asked.items() if value is not None}
        self.protocol = replace(PROTOCOLS[config_name or "folder"], **given)
        self.space, self.metric = space, metric
        self._rows: list[torch.Tensor] = []
        super().__init__(config_name=config_name, **kwargs)

    def _info(self) -> evaluate.MetricInfo:
        maps = datasets.List(datasets.List(datasets.Value("float32")))
        features = datasets.Features({"predictions": maps, "references": maps})
        return evaluate.MetricInfo(
            description=_DESCRIPTION, citation=_CITATION, inputs_description=_INPUTS, features=features
        )

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, *, prediction=None, reference=None, mask=None, **kwargs) -> None:
        """Score one image."""
        self.add_batch(
            predictions=[prediction], references=[reference], masks=None if mask is None else [mask], **kwargs
        )

    def add_batch(self, *, predictions=None, references=None, masks: Sequence | None = None, **kwargs) -> None:
        """Score a batch of images."""
        if kwargs:
            raise ValueError(f"unknown inputs: {', '.join(kwargs)}; there are predictions, references and masks.")
        if predictions is None or references is None:
            raise ValueError("predictions and references are both needed, a map an image.")
        if len(predictions) != len(references) or (masks is not None and len(masks) != len(references)):
            counts = f"{len(predictions)} predictions, {len(references)} references"
            counts += "" if masks is None else f", {len(masks)} masks"
            raise ValueError(f"{counts}; each image needs one of each.")
        rows = []
        for i, reference in enumerate(references):
            target = torch.as_tensor(reference)
            keep = crop_mask(self.protocol.crop, *target.shape).to(target.device)
            if masks is not None:
                keep = keep & torch.as_tensor(masks[i], device=target.device).bool()
            try:
                row = score_prediction(
                    torch.as_tensor(predictions[i], device=target.device),
                    target,
                    keep,
                    self.space,
                    self.metric,
                    self.protocol.min_depth,
                    self.protocol.max_depth,
                    self.protocol.alignment,
                )
            except ValueError as error:
                raise ValueError(
                    f"image {len(self._rows) + i}, counted from the first that was added: {error}"
                ) from error
            rows.append(row.cpu())
        self._rows += rows

    def compute(self, *, predictions=None, references=None, masks: Sequence | None = None, **kwargs) -> dict:
        """Average over the images that were added, and forget them."""
        if predictions is not None or references is not None:
            self.add_batch(predictions=predictions, references=references, masks=masks, **kwargs)
        if not self._rows:
            raise ValueError("there are no images; call add_batch before compute.")
        columns = torch.stack(self._rows).unbind(dim=1)
        self._rows = []
        return summarize(dict(zip(SCORE_NAMES, columns, strict=True)))


def compute_metrics_fn(depth_estimation_type: str, **options) -> Callable[..., dict]:
    """Make the `compute_metrics` of a stock `Trainer`, for batches of `DepthCollator`.

    With `batch_eval_metrics=True` each batch is scored at once. The labels are those of training, at the model's size.

    Args:
        depth_estimation_type (`str`): The model's: `"relative"` (labels are disparity) or `"metric"` (meters).
        options: Passed to `DepthEstimationMetric`: `max_depth`, ...

    Returns:
        `Callable`: `compute_metrics(eval_pred, compute_result=True)`.
    """
    metric = depth_estimation_type == "metric"
    scorer = DepthEstimationMetric(space="depth" if metric else "disparity", metric=metric, **options)

    def compute_metrics(eval_pred, compute_result: bool = True) -> dict:
        predictions, labels = eval_pred.predictions, eval_pred.label_ids
        predictions = predictions[0] if isinstance(predictions, tuple) else predictions
        labels, masks = labels if isinstance(labels, tuple) else (labels, None)
        scorer.add_batch(predictions=predictions, references=labels, masks=masks)
        return scorer.compute() if compute_result else {}

    return compute_metrics
