"""Which checkpoint a run goes on from, and whether there is anything left to train."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

from transformers import Trainer
from transformers.trainer import TRAINER_STATE_NAME

_NAME = re.compile(r"checkpoint-(\d+)")


def last_whole_checkpoint(folder: str | os.PathLike) -> str | None:
    """Find the last checkpoint that was written to its end.

    A Trainer writes its state last. A process that was killed while it wrote leaves a folder without that file, or with
    half of it, and `get_last_checkpoint` would take it.

    Args:
        folder: The run's `output_dir`.

    Returns:
        `str`, *optional*: The checkpoint's folder; None where there is none.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> for step in (2, 10):
        ...     (folder / f"checkpoint-{step}").mkdir()
        >>> _ = (folder / "checkpoint-2" / "trainer_state.json").write_text("{}")
        >>> _ = (folder / "checkpoint-10" / "trainer_state.json").write_text('{"epoch": 1.')
        >>> Path(last_whole_checkpoint(folder)).name
        'checkpoint-2'
    """
    steps = {path: _NAME.fullmatch(path.name) for path in Path(folder).glob("checkpoint-*")}
    found = sorted((int(match[1]), path) for path, match in steps.items() if match)
    return next((str(path) for _, path in reversed(found) if _read_state(path) is not None), None)


class ResumingTrainer(Trainer):
    """Train as the stock Trainer, but nothing where the checkpoint stands at the last step.

    The stock one asks only after a step whether it is done. Unless a run ended with an epoch, each repetition would take
    one more step, beyond the last one, and save it.
    """

    _resumed: dict | None = None  # state in the checkpoint that this run goes on from

    def train(self, resume_from_checkpoint: str | None = None, *args, **kwargs):
        """Train, from a checkpoint on where its folder is given."""
        self._resumed = _read_state(resume_from_checkpoint) if resume_from_checkpoint else None
        return super().train(resume_from_checkpoint, *args, **kwargs)

    def set_initial_training_values(self, *args, **kwargs):
        """Count epochs and steps as the stock Trainer does; where all steps are done, no epoch is left."""
        epochs, updates, *others, max_steps = super().set_initial_training_values(*args, **kwargs)
        if self._resumed and self._resumed["global_step"] >= max_steps:
            epochs = self._resumed["global_step"] // updates  # the one that the stock Trainer would begin with
        return epochs, updates, *others, max_steps

    def log(self, logs: dict[str, float], *args, **kwargs) -> None:
        """Log; at the end of a run that trained nothing, what was said of its training when it was done."""
        if "train_runtime" in logs and self._resumed and self.state.global_step == self._resumed["global_step"]:
            for name in ("train_loss", "train_samples_per_second", "train_steps_per_second"):
                logs.pop(name, None)  # of no step
            logs |= self._told_when_done()  # in place: `train` returns these
        super().log(logs, *args, **kwargs)

    def _told_when_done(self) -> dict[str, float]:
        """Find the metrics with which the training ended, in the state that `save_state` left in `output_dir`."""
        last = _read_state(self.args.output_dir) or {"log_history": []}
        before, step = self._resumed["log_history"], self._resumed["global_step"]
        if last["log_history"][: len(before)] != before:  # another run's
            return {}
        ends = [entry for entry in last["log_history"] if "train_runtime" in entry and entry.get("step") == step]
        return {name: value for name, value in (ends or [{}])[-1].items() if name not in ("step", "epoch")}


def _read_state(folder: str | os.PathLike) -> dict | None:
    """Read a Trainer's state; None where there is none, or half of one."""
    try:
        return json.loads((Path(folder) / TRAINER_STATE_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
