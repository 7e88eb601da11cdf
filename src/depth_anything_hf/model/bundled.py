"""The checkpoint that comes with the package: `mini`, a small Depth Anything that works offline."""

from __future__ import annotations

from pathlib import Path

MINI = "mini"
_FOLDER = Path(__file__).parent / MINI
BETTER = "depth-anything/Depth-Anything-V2-Small-hf"  # the better choice if a download is possible


def checkpoint_folder(name: str) -> str:
    """Replace "mini" by the folder of the checkpoint that comes with the package; return any other name unchanged.

    Args:
        name (`str`): Hub id, folder or "mini". If your own folder "mini" has a config.json, it is used.

    Returns:
        `str`: Name for `from_pretrained` and `pipeline` of transformers.

    Example:
        >>> from transformers import AutoConfig
        >>> AutoConfig.from_pretrained(checkpoint_folder("mini")).model_type
        'depth_anything'
        >>> checkpoint_folder("somebody/their-model")
        'somebody/their-model'
    """
    if name != MINI or (Path(MINI) / "config.json").is_file():  # other files and folders of that name are no model
        return name
    return str(_FOLDER)


def checkpoint_name(folder: str) -> str:
    """Replace the folder of the checkpoint that comes with the package by "mini": the path differs between machines.

    Example:
        >>> checkpoint_name(checkpoint_folder("mini")), checkpoint_name("somebody/their-model")
        ('mini', 'somebody/their-model')
    """
    return MINI if Path(folder).resolve() == _FOLDER.resolve() else folder


def hint_at_better(name: str) -> list[str]:
    """Return a line that names a better model if `name` is the bundled one; else an empty list.

    Example:
        >>> hint_at_better("somebody/their-model")
        []
    """
    if checkpoint_folder(name) == name:  # the user's own model, maybe in a folder named mini
        return []
    return [f"mini sees the layout of a scene and little of its detail; far more accurate: --model {BETTER}"]
