"""Find the checkpoint from which a run continues."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

from transformers.trainer import TRAINER_STATE_NAME

_NAME = re.compile(r"checkpoint-(\d+)")


def last_whole_checkpoint(folder: str | os.PathLike) -> str | None:
    """Find the last complete checkpoint.

    A Trainer writes its state last. If a process is killed while it writes, the folder has no such file, or half of one;
    `get_last_checkpoint` would return that folder.

    Args:
        folder: `output_dir` of the run.

    Returns:
        `str`, *optional*: The checkpoint's folder; None if there is none.

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
    """Read a Trainer's state; return None if the file is missing or incomplete."""
    try:
        return json.loads((Path(folder) / TRAINER_STATE_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
