"""Progress of a labelling run: images a second, rejects, and the time left once the number of images is known."""

from __future__ import annotations

import threading
from collections.abc import Mapping

from accelerate import PartialState
from tqdm.auto import tqdm

from depth_anything_hf.labeling.sources import ImageSource


class LabelingBar:
    """A bar over the share of this process.

    Args:
        source (`ImageSource`): Counted beside the work, as a large tree takes minutes to count.
        finished (`Mapping`): Entries of the blocks of earlier runs.
        state (`PartialState`): How many processes share the work.
        disable (`bool`): Show nothing.
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
        """Count images that are through."""
        self.rejected += rejected
        if rejected:
            self.bar.set_postfix(rejected=self.rejected, refresh=False)
        if self.bar.total is not None:  # a share may be a block larger than the others
            self.bar.total = max(self.bar.total, self.bar.n + labeled + rejected)
        self.bar.update(labeled + rejected)

    def _count(self, source: ImageSource) -> None:
        try:
            total = source.count()
        except Exception:  # whatever it is, the run meets it in its turn; the bar goes without a total
            return
        if total is not None:
            self.bar.total = max(total // self.share, self.bar.n)
            self.bar.refresh()
