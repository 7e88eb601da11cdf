"""The one rule for the device of a model. PyTorch is imported when a device is chosen, not before."""

from __future__ import annotations

DEVICES = ("auto", "cpu", "cuda", "mps")


def choose_device(name: str | None = None) -> str:
    """Return the device to run on: the one that is named, or else CUDA, else MPS, else the CPU.

    Args:
        name (`str`, *optional*): One of `DEVICES`; None is `"auto"`.

    Returns:
        `str`: `"cpu"`, `"cuda"` or `"mps"`.

    Raises:
        ValueError: PyTorch does not see the device.

    Example:
        >>> choose_device("cpu")
        'cpu'
    """
    import torch

    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name in (None, "auto"):
        return next(device for device, found in there.items() if found)
    if not there.get(name):
        raise ValueError(f"device is {name!r}, and PyTorch finds no such device here; use 'auto' or 'cpu'.")
    return name
