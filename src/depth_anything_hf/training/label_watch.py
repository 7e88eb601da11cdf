"""Count the labels that teach something while batches are made, and stop a run in which (nearly) none does."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence

import torch

from depth_anything_hf.data.records import DepthSample
from depth_anything_hf.losses import has_label, labeled_pixels

FEW, MANY = 6, 32  # labels after which a run stops if none of them, or if half of them, cannot be learned
KINDS = ("empty", "constant", "beyond max_depth")


class LabelWatch:
    """Count labels: those to learn from, and those that are empty, constant or beyond `max_depth`.

    The worker processes of a data loader count together.

    Args:
        max_depth (`float`, *optional*): Largest depth of a metric model, meters. Default: the model is relative.
        name (`str`): Argument of the records, for the message.
    """

    def __init__(self, max_depth: float | None, name: str = "train_dataset"):
        self.max_depth, self.name = max_depth, name
        self._counts = torch.zeros(3 + len(KINDS), dtype=torch.int64).share_memory_()  # batches, images, maps, kinds
        self._range = torch.tensor([math.inf, -math.inf], dtype=torch.float64).share_memory_()
        self._first = ""  # source of the first label that teaches nothing
        self._said = False

    def look(self, batch: Sequence[tuple[DepthSample, torch.Tensor, torch.Tensor]]) -> None:
        """Count the labels of a batch: samples, and for each its label and mask, `(height, width)`.

        Raises:
            ValueError: No label so far teaches anything, or at least half of them lie beyond `max_depth`.
        """
        if not batch:
            return
        self._counts[0] += 1
        for sample, label, mask in batch:
            self._counts[1] += 1
            if sample.values is None:
                continue
            self._counts[2] += 1
            labeled = labeled_pixels(label, mask)
            usable = labeled_pixels(label, mask, self.max_depth)
            if labeled.any():
                self._range[0] = min(self._range[0], label[labeled].min())
                self._range[1] = max(self._range[1], label[labeled].max())
            if not has_label(label[None], usable[None], self.max_depth):
                self._counts[3 + (0 if not labeled.any() else 1 if usable.any() else 2)] += 1
                self._first = self._first or sample.source or "(unnamed)"
        batches, images, maps, *kinds = self._counts.tolist()
        useless = sum(kinds)
        if maps == 0 and self.name == "train_dataset":
            found = f"none of the first {images} records of {self.name} has a depth map: the supervised loss learns nothing."
            nothing, doubt = images >= MANY, images >= FEW and batches > 1
        else:
            found = self._describe(maps, kinds)
            nothing = (useless == maps >= FEW and batches > 1) or 2 * kinds[2] >= maps >= MANY
            doubt = useless > 0 and (2 * useless >= maps >= 4 or maps >= MANY)
        if nothing:
            raise ValueError(found)
        if doubt and not self._said:
            warnings.warn(found, stacklevel=3)
            self._said = True

    def _describe(self, maps: int, kinds: Sequence[int]) -> str:
        """Return counts, range and the next step in one line."""
        counts = ", ".join(f"{count} {kind}" for count, kind in zip(kinds, KINDS, strict=True) if count)
        unit = "disparity" if self.max_depth is None else f"meters; max_depth is {self.max_depth:g}"
        low, high = self._range.tolist()
        values = f"{low:g} to {high:g}" if low <= high else "none"
        return (
            f"{sum(kinds)} of the first {maps} depth maps of {self.name} teach nothing ({counts}); the values are {values} "
            f"({unit}). First: {self._first}. Check depth_scale (0.001 for millimeters), depth_offset and space."
        )
