"""Measure the peak memory of `predict`, whole and by tiles, for images from 4 to 64 megapixels.

    python benchmarks/tiling.py

The network has the shape of V2-Small and random weights, on the CPU. Each run is a separate process that reads a JPEG file
and writes all files of `predict`; the report has its peak memory (VmHWM of Linux), including decoder and libraries. `small`
is the same process with an image of a tenth of a megapixel: the memory of the libraries, the network and its activations.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from PIL import Image
from reporting import RESULTS, report

from depth_anything_hf import DepthAnythingForDepthEstimation, DepthAnythingImageProcessor, config_for
from depth_anything_hf.scenes.simple import UNLABELED_DOMAIN, render_scenes

CHILD = """
import sys
from depth_anything_hf.cli.main import main
code = main(sys.argv[1:])
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
print("PEAK", int(peak.split()[1]) / 1024)
sys.exit(code)
"""


def make_photo(path: Path, megapixels: float) -> tuple[int, int]:
    """Write a rendered scene, enlarged to 4:3 and a number of pixels, and return its width and height."""
    size = (round((megapixels * 1e6 * 4 / 3) ** 0.5), round((megapixels * 1e6 * 3 / 4) ** 0.5))
    pixels = render_scenes([0], 240, 320, UNLABELED_DOMAIN).images[0].permute(1, 2, 0).numpy()
    Image.fromarray(pixels).resize(size).save(path, quality=92)
    return size


def peak_memory(photo: Path, model: Path, out: Path, *options: str) -> dict:
    """Run `predict` in a process and return its peak memory in MiB, and the number of tiles."""
    command = [sys.executable, "-c", CHILD, "predict", str(photo), "--model", str(model), "--out", str(out), *options]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"CUDA_VISIBLE_DEVICES": ""})
    if done.returncode:
        raise RuntimeError(done.stderr[-4000:])
    mebibytes = float(done.stdout.split("PEAK")[1])
    row = json.loads((out / "depth.jsonl").read_text())
    return {"peak_mib": round(mebibytes)} | {name: row[name] for name in ("tiles",) if name in row}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megapixels", type=float, nargs="+", default=[4, 16, 64])
    parser.add_argument("--tile", type=int, default=2072)
    parser.add_argument("--size", default="small", help="size of the network: small, base or large")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    runs = {}
    with tempfile.TemporaryDirectory() as folder:
        model, photo, out = Path(folder, "model"), Path(folder, "photo.jpg"), Path(folder, "out")
        torch.manual_seed(0)
        DepthAnythingForDepthEstimation(config_for(options.size)).save_pretrained(model)
        DepthAnythingImageProcessor().save_pretrained(model)
        for megapixels in (0.1, *options.megapixels):
            width, height = make_photo(photo, megapixels)
            run = {"size": [width, height], "whole": peak_memory(photo, model, out)}
            run["tiles"] = peak_memory(photo, model, out, "--tile", str(options.tile))
            runs["small" if megapixels == 0.1 else f"{megapixels:g} MP"] = run
            print(run, flush=True)
    settings = {"tile": options.tile, "network": options.size}
    report("tiling", {"settings": settings, "runs": runs}, options.out)


if __name__ == "__main__":
    main()
