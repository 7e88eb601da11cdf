"""Count the labels that teach something while batches are made, and stop a run in which (nearly) none does."""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Sequence

import torch

from depth_anything_hf.data.records import DepthSample
from depth_anything_hf.losses import has_label, labeled_pixels

FEW, MANY = 6, 32  # labels after which a run stops if none of them, or if half of them, cannot be learned


class LabelWatch:
    """Count a process's labels: those to learn from, and those that are empty, constant or beyond `max_depth`.

    Args:
        max_depth (`float`, *optional*): Largest depth of a metric model, meters. Default: the model is relative.
        name (`str`): Argument of the records, for the message.
    """

    def __init__(self, max_depth: float | None, name: str = "train_dataset"):
        self.max_depth, self.name = max_depth, name
        self.batches = self.images = self.maps = 0
        self.useless: Counter[str] = Counter()
        self.low, self.high = math.inf, -math.inf
        self.first = ""  # source of the first label that teaches nothing
        self._said = False

    def look(self, batch: Sequence[tuple[DepthSample, torch.Tensor, torch.Tensor]]) -> None:
        """Count the labels of a batch: samples, and for each its label and mask, `(height, width)`.

        Raises:
            ValueError: No label so far teaches anything, or at least half of them lie beyond `max_depth`.
        """
        for sample, label, mask in batch:
            self.images += 1
            if sample.values is None:
                continue
            self.maps += 1
            labeled = labeled_pixels(label, mask)
            usable = labeled_pixels(label, mask, self.max_depth)
            if labeled.any():
                self.low = min(self.low, float(label[labeled].min()))
                self.high = max(self.high, float(label[labeled].max()))
            if not has_label(label[None], usable[None], self.max_depth):
                kind = "empty" if not labeled.any() else "constant" if usable.any() else "beyond max_depth"
                self.useless[kind] += 1
                self.first = self.first or sample.source or "(unnamed)"
        self.batches += bool(batch)
        if batch:
            self._judge()

    def _judge(self) -> None:
        useless = self.useless.total()
        nothing = useless == self.maps and self.maps >= FEW and self.batches > 1
        half = 2 * self.useless["beyond max_depth"] >= self.maps >= MANY
        if nothing or half:
            raise ValueError(self.describe())
        if useless and not self._said and (2 * useless >= self.maps >= 2 or self.maps >= MANY):
            warnings.warn(self.describe(), stacklevel=4)
            self._said = True

    def describe(self) -> str:
        """Return counts, range and the next step in one line."""
        kinds = ", ".join(f"{count} {kind}" for kind, count in self.useless.items())
        unit = "disparity" if self.max_depth is None else f"meters; max_depth is {self.max_depth:g}"
        values = f"{self.low:g} to {self.high:g}" if self.low <= self.high else "none"
        return (
            f"{self.useless.total()} of the first {self.maps} depth maps of {self.name} teach nothing ({kinds}); the values "
            f"are {values} ({unit}). First: {self.first}. Check depth_scale (0.001 for millimeters), depth_offset and space."
        )
