"""Shared parts of the benchmarks: photographs, and reports with command, machine and versions."""

from __future__ import annotations

import json
import os
import platform
import sys
from pathlib import Path

import numpy as np
import torch
import transformers
from PIL import Image
from transformers import ProgressCallback, Trainer
from transformers.trainer_callback import PrinterCallback

from depth_anything_hf.data.whole_files import write_whole
from depth_anything_hf.scenes.simple import UNLABELED_DOMAIN, render_scenes

RESULTS = Path(__file__).parent / "results"
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
KIND = "gpu" if DEVICE == "cuda" else "cpu"  # in the names of results
PEAK_FLOPS = {"H100": 989e12, "H200": 989e12, "A100": 312e12}  # dense bf16, the makers' data sheets


def machine() -> str:
    """Return the name of the machine."""
    if DEVICE == "cuda":
        return f"{torch.cuda.get_device_name()}, {os.cpu_count()} CPU cores"
    return f"{os.cpu_count()} CPU cores, {platform.machine()}"


def peak_flops() -> float | None:
    """Return the peak FLOP/s of the GPU; None on a CPU or an unknown GPU."""
    if DEVICE != "cuda":
        return None
    name = torch.cuda.get_device_name()
    return next((flops for kind, flops in PEAK_FLOPS.items() if kind in name), None)


def synchronize() -> None:
    """Wait for the GPU, if there is one."""
    if DEVICE == "cuda":
        torch.cuda.synchronize()


def make_photos(folder: Path, count: int, height: int, width: int) -> None:
    """Write JPEG files of the size of photographs: a few rendered scenes, shifted so that no two files are equal."""
    folder.mkdir(parents=True)
    scenes = render_scenes(range(8), height, width, UNLABELED_DOMAIN).images.permute(0, 2, 3, 1).numpy()
    for i in range(count):
        Image.fromarray(np.roll(scenes[i % 8], 7 * i, axis=1)).save(folder / f"{i:06d}.jpg", quality=92)


def silence(trainer: Trainer) -> Trainer:
    """Remove the progress bar and the printed logs of a trainer."""
    for callback in (ProgressCallback, PrinterCallback):
        trainer.remove_callback(callback)
    return trainer


def stamp() -> dict:
    """Return the command, the machine and the versions of a measurement."""
    command = " ".join([f"python benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]])
    versions = {"torch": torch.__version__, "transformers": transformers.__version__, "numpy": np.__version__}
    return {"command": command, "machine": machine(), "versions": versions}


def report(name: str, result: dict, out: Path = RESULTS) -> None:
    """Write a result with its stamp to `OUT/NAME.json`, without folders of this machine, and print it."""
    out.mkdir(exist_ok=True)
    if "settings" in result:
        kept = {name: value for name, value in result["settings"].items() if not isinstance(value, Path)}
        result = result | {"settings": kept}
    text = json.dumps(stamp() | result, indent=1, default=str)
    write_whole(out / f"{name}.json", text + "\n")
    print(text)


def report_table(path: Path, title: str, protocol: str, table: str, result: dict) -> None:
    """Write scores of models that were each trained with one thread, to `path` and as a table beside it; print the table."""
    made = stamp()
    made["machine"] += ", one thread per model"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps(made | result, indent=1))
    head = (
        f"{protocol} Machine: {made['machine']}; torch {made['versions']['torch']}, transformers "
        f"{made['versions']['transformers']}. Command: `{made['command']}`."
    )
    write_whole(path.with_suffix(".md"), f"# {title}\n\n{head}\n\n{table}\n")
    print(table)
