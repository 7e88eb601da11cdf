"""The checkpoint that comes with the package: `mini`, a small Depth Anything that works offline."""

from __future__ import annotations

from pathlib import Path

MINI = "mini"
_FOLDER = Path(__file__).parent / MINI
BETTER = "depth-anything/Depth-Anything-V2-Small-hf"  # what to take where a download is no matter


def checkpoint_folder(name: str) -> str:
    """Turn "mini" into the folder of the checkpoint that comes with the package, and leave any other name alone.

    Args:
        name (`str`): Hub id, folder or "mini". A folder of yours of that name wins, if it holds a config.json.

    Returns:
        `str`: What transformers' `from_pretrained` and `pipeline` take.

    Example:
        >>> from transformers import AutoConfig
        >>> AutoConfig.from_pretrained(checkpoint_folder("mini")).model_type
        'depth_anything'
        >>> checkpoint_folder("somebody/their-model")
        'somebody/their-model'
    """
    if name != MINI or (Path(MINI) / "config.json").is_file():  # a file or folder of other things is no model
        return name
    return str(_FOLDER)


def checkpoint_name(folder: str) -> str:
    """Turn the folder of the checkpoint that comes with the package back into "mini": it lies elsewhere on other machines.

    Example:
        >>> checkpoint_name(checkpoint_folder("mini")), checkpoint_name("somebody/their-model")
        ('mini', 'somebody/their-model')
    """
    return MINI if Path(folder).resolve() == _FOLDER.resolve() else folder


def hint_at_better(name: str) -> list[str]:
    """Say, where a name means the checkpoint that comes with the package, which one is better: a line, or none.

    Example:
        >>> hint_at_better("somebody/their-model")
        []
    """
    if checkpoint_folder(name) == name:  # a model of the user's, maybe in a folder that has its name
        return []
    return [f"mini sees the layout of a scene and little of its detail; far more accurate: --model {BETTER}"]
