"""Mean intersection over union as a module of `evaluate`: `evaluate.load("examples/segmentation/mean_iou.py", num_labels=19)`.

It counts predictions as they come and keeps one table of classes x classes instead of all maps, like the Hub's `mean_iou`, with
the same names of scores. `evaluate.load` copies this file and reads its imports line by line: write one import per line.
"""

from __future__ import annotations

import datasets
import evaluate
import torch

_DESCRIPTION = "Semantic segmentation: intersection over union, each class counted over the whole data set."
_CITATION = "Everingham et al., 2010 (Pascal VOC)."
_INPUTS = """
Args:
    predictions: Class maps `(height, width)` of any sizes, integers in [0, num_labels).
    references: Ground truth, a map of the same size for each prediction; pixels of ignore_index do not count.
Returns:
    mean_iou and mean_accuracy, means over the classes that occur; overall_accuracy; per_category_iou, NaN where a class
    is neither predicted nor there; all in [0, 1].
"""


class MeanIoU(evaluate.Metric):
    """Count which class was predicted as which, and score the counts.

    Args:
        config_name (`str`, *optional*): Ignored; `evaluate.load` passes it.
        num_labels (`int`): Number of classes.
        ignore_index (`int`): Label of pixels to ignore.
        kwargs: Passed to `evaluate.Metric`.

    Raises:
        ValueError: There is more than one process; gather their predictions instead.

    Example:
        >>> metric = MeanIoU(num_labels=2)
        >>> metric.add_batch(predictions=[torch.tensor([[0, 1, 1, 1]])], references=[torch.tensor([[0, 0, 1, 255]])])
        >>> metric.compute()["per_category_iou"]
        [0.5, 0.5]
    """

    def __init__(self, config_name: str | None = None, *, num_labels: int, ignore_index: int = 255, **kwargs):
        if kwargs.get("num_process", 1) != 1:
            raise ValueError("num_process must be 1: gather the predictions, as the Trainer does.")
        self.num_labels, self.ignore_index = num_labels, ignore_index
        self._counts = torch.zeros(num_labels, num_labels, dtype=torch.int64)  # truth x prediction
        super().__init__(config_name=config_name, **kwargs)

    def _info(self) -> evaluate.MetricInfo:
        maps = datasets.List(datasets.List(datasets.Value("int64")))
        features = datasets.Features({"predictions": maps, "references": maps})
        return evaluate.MetricInfo(
            description=_DESCRIPTION, citation=_CITATION, inputs_description=_INPUTS, features=features
        )

    def add(self, *, prediction=None, reference=None, **kwargs) -> None:
        """Count one image."""
        self.add_batch(predictions=[prediction], references=[reference], **kwargs)

    def add_batch(self, *, predictions=None, references=None, **kwargs) -> None:
        """Count a batch of images."""
        if kwargs or predictions is None or references is None or len(predictions) != len(references):
            raise ValueError("pass as many predictions as references, one class map per image, and nothing else.")
        for prediction, reference in zip(predictions, references, strict=True):
            found = torch.as_tensor(prediction)
            truth = torch.as_tensor(reference, device=found.device)
            if found.shape != truth.shape:
                raise ValueError(
                    f"a prediction has shape {tuple(found.shape)} and its reference {tuple(truth.shape)}; bring the "
                    "prediction to the size of its ground truth first."
                )
            counted = truth != self.ignore_index
            found, truth = found[counted].long(), truth[counted].long()
            for name, values in (("prediction", found), ("reference", truth)):
                if ((values < 0) | (values >= self.num_labels)).any():
                    raise ValueError(
                        f"a {name} holds the class {values[(values < 0) | (values >= self.num_labels)][0].item()}; classes "
                        f"must be in [0, {self.num_labels}), or ignore_index {self.ignore_index} in the reference."
                    )
            counts = torch.bincount(truth * self.num_labels + found, minlength=self.num_labels**2)
            self._counts += counts.view(self.num_labels, self.num_labels).cpu()

    def compute(self, *, predictions=None, references=None, **kwargs) -> dict:
        """Return the scores of the counts, and reset them."""
        if predictions is not None or references is not None:
            self.add_batch(predictions=predictions, references=references, **kwargs)
        if not self._counts.any():
            raise ValueError("no labeled pixel was counted; call add_batch before compute.")
        counts, self._counts = self._counts.double(), torch.zeros_like(self._counts)
        hits, truth, found = counts.diag(), counts.sum(1), counts.sum(0)
        iou = hits / (truth + found - hits)  # NaN where a class is neither there nor predicted
        return {
            "mean_iou": iou.nanmean().item(),
            "mean_accuracy": (hits / truth).nanmean().item(),
            "overall_accuracy": (hits.sum() / counts.sum()).item(),
            "per_category_iou": iou.tolist(),
        }
