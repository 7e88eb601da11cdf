"""Show the progress of a labeling run: images per second, rejects, and the time left once the images are counted."""

from __future__ import annotations

import threading
from collections.abc import Mapping

from accelerate import PartialState
from tqdm.auto import tqdm

from depth_anything_hf.labeling.sources import ImageSource


class LabelingBar:
    """Show a bar over the share of this process; a thread counts the images, because a large tree takes minutes.

    `finished` has the entries of the blocks of earlier runs.
    """

    def __init__(self, source: ImageSource, finished: Mapping, state: PartialState, disable: bool = False):
        self.share = state.num_processes
        done = sum(entry["inputs"] for entry in finished.values()) // self.share
        self.rejected = sum(len(entry["rejects"]) for entry in finished.values()) // self.share
        name = "pseudo-label" if self.share == 1 else f"pseudo-label (process 1 of {self.share})"
        self.bar = tqdm(desc=name, unit="image", initial=done, disable=disable, smoothing=0.05)
        if not disable:
            threading.Thread(target=self._count, args=(source,), daemon=True).start()

    def __enter__(self) -> LabelingBar:
        return self

    def __exit__(self, *error) -> None:
        self.bar.close()

    def update(self, labeled: int = 0, rejected: int = 0) -> None:
        """Add images that are done."""
        self.rejected += rejected
        if rejected:
            self.bar.set_postfix(rejected=self.rejected, refresh=False)
        if self.bar.total is not None:  # a share may have one block more than the others
            self.bar.total = max(self.bar.total, self.bar.n + labeled + rejected)
        self.bar.update(labeled + rejected)

    def _count(self, source: ImageSource) -> None:
        try:
            total = source.count()
        except Exception:  # the run itself will raise it; the bar has no total
            return
        if total is not None:
            self.bar.total = max(total // self.share, self.bar.n)
            self.bar.refresh()
