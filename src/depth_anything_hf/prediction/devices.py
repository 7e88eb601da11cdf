"""The one rule for the device of a model. PyTorch is imported when a device is chosen, not before."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

DEVICES = ("auto", "cpu", "cuda", "mps")


def choose_device(device: str | torch.device | None = None) -> torch.device:
    """Return the device that a model runs on: the given one, or else this process's CUDA GPU, else MPS, else the CPU.

    `device` is one of `DEVICES`, or any device of PyTorch; None is `"auto"`. A CUDA GPU has the number `LOCAL_RANK`, which
    launchers set. A `ValueError` is raised for a device that PyTorch does not find.

    Example:
        >>> choose_device("cpu")
        device(type='cpu')
    """
    import torch

    found = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if device in (None, "auto"):
        device = next(name for name, is_there in found.items() if is_there)
    chosen = torch.device(device)  # type: ignore[arg-type]  # no longer None
    if not found.get(chosen.type, True):
        raise ValueError(f"device is {str(device)!r}, and PyTorch finds no such device here; use 'auto' or 'cpu'.")
    own_gpu = chosen.type == "cuda" and chosen.index is None
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0))) if own_gpu else chosen
