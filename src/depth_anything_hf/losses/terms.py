"""A loss of your own beside the papers': its name, weight and images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from depth_anything_hf.losses.reduction import mean_over_labeled

Loss = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
Weight = float | Callable[[int], float]

IMAGES = ("labeled", "unlabeled", "both")


def weight_at(weight: Weight, step: int) -> float:
    """Return a weight at a step: the number itself, or what the schedule returns for the step."""
    return float(weight(step)) if callable(weight) else float(weight)


@dataclass(frozen=True)
class LossTerm:
    """A loss that `DepthAnythingTrainer` adds to the losses of the papers.

    The weighted term is added to the loss of its images, as gradient matching is, before the average over labeled
    images, unlabeled images and feature alignment. Changing this weight therefore rescales nothing else.

    Args:
        name (`str`): Name in the logs (`labeled_NAME_loss`, unweighted) and on the model card.
        loss (`Callable`): Takes prediction and target `(batch, height, width)`, float, in the model's space (disparity or
            meters; the target is 0 outside the mask), and mask, bool, of the same shape: the labeled pixels. Returns the loss of each image `(batch,)`, or
            their mean, a scalar. Under CutMix it is called once for each region, with the region's mask.
        weight (`float` or `Callable`): Factor; or a schedule, a function of the training step.
        on (`str`): `"labeled"`, `"unlabeled"` or `"both"`: the images for which it is computed.

    Raises:
        TypeError: `loss` is not callable.
        ValueError: The name is no identifier, `on` is unknown, or the weight is not a finite number of at least 0.

    Example:
        >>> def edge_loss(prediction, target, mask):
        ...     steps, pairs = (prediction - target).diff(dim=-1).abs(), mask[..., 1:] & mask[..., :-1]
        ...     return (steps * pairs).sum((1, 2)) / pairs.sum((1, 2)).clamp(min=1)
        >>> term = LossTerm("edges", edge_loss, weight=lambda step: min(step / 1000, 1))
        >>> weight_at(term.weight, 500)
        0.5
        >>> disparity, everywhere = torch.tensor([[[0.0, 2.0]]]), torch.ones(1, 1, 2, dtype=torch.bool)
        >>> term.compute(disparity, torch.zeros(1, 1, 2), everywhere).item()
        2.0
    """

    name: str
    loss: Loss
    weight: Weight = 1.0
    on: str = "labeled"

    def __post_init__(self):
        if not callable(self.loss):
            raise TypeError(
                f"loss {self.name!r} is a {type(self.loss).__name__}; pass a function of prediction, target and mask."
            )
        if not self.name.isidentifier():
            raise ValueError(
                f"name is {self.name!r}; it must be an identifier, as it names the logs: edges, edges_2, ..."
            )
        if self.on not in IMAGES:
            raise ValueError(f"on is {self.on!r}; it must be one of {', '.join(IMAGES)}.")
        number = isinstance(self.weight, (int, float)) and 0 <= self.weight < float("inf")
        if not callable(self.weight) and not number:
            raise ValueError(
                f"weight is {self.weight!r}; it must be a finite number of at least 0, or a function of the step."
            )

    def compute(
        self, prediction: torch.Tensor, target: torch.Tensor, mask: torch.Tensor, boxes: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Compute the unweighted term: the mean over the images that have labels.

        Args:
            prediction (`torch.Tensor`): `(batch, height, width)`.
            target (`torch.Tensor`): Same shape.
            mask (`torch.Tensor`): Bool, same shape: the labeled pixels.
            boxes (`torch.Tensor`, *optional*): Bool, same shape: the pixels that CutMix took from the partner. The loss is
                then computed for each region separately and weighted with the region's area (V1, eq. 8).

        Returns:
            `torch.Tensor`: Scalar.

        Raises:
            ValueError: The loss returned another shape.
        """
        if boxes is None:
            return self._mean(self._call(prediction, target, mask), mask)
        inside, outside = (self._call(prediction, target, mask & region) for region in (boxes, ~boxes))
        area = boxes.flatten(1).to(inside.dtype).mean(dim=1)  # (batch,)
        if inside.ndim == 0:  # means over the images: weighted with the mean areas
            return area.mean() * inside + (1 - area.mean()) * outside
        return self._mean(area * inside + (1 - area) * outside, mask)

    def _call(self, prediction: torch.Tensor, target: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        values = self.loss(prediction.float(), torch.where(mask, target.float(), 0.0), mask)
        if not isinstance(values, torch.Tensor) or values.shape not in ((), prediction.shape[:1]):
            found = tuple(values.shape) if isinstance(values, torch.Tensor) else type(values).__name__
            raise ValueError(
                f"loss {self.name!r} returned {found}; it must return a tensor of shape ({len(prediction)},), the loss of "
                "each image, or a scalar."
            )
        return values

    def _mean(self, losses: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return losses if losses.ndim == 0 else mean_over_labeled(losses, mask.flatten(1).any(dim=1))
