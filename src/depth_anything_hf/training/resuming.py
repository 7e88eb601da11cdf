"""Which checkpoint a run continues from."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

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
    return next((str(path) for _, path in reversed(found) if read_state(path) is not None), None)


def read_state(folder: str | os.PathLike) -> dict | None:
    """Read a Trainer's state; None where there is none, or half of one."""
    try:
        return json.loads((Path(folder) / TRAINER_STATE_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
