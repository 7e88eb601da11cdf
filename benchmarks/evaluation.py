"""How fast is the batched alignment of a set of predictions, against a loop of `numpy.linalg.lstsq`?

    OMP_NUM_THREADS=1 python benchmarks/evaluation.py

Both fit scale and shift of the same 64 predictions of 480 x 640 to the same ground truth under the same random masks,
in float64. Their repeats alternate, so that a busy minute affects both equally; on a shared machine only their ratio is
meaningful.
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np
import torch
from reporting import report

from depth_anything_hf.maps.alignment import fit_scale_shift


def make_case(maps: int, height: int, width: int, kept: float):
    """Draw predictions, ground truth and masks."""
    generator = torch.Generator().manual_seed(0)
    shape = (maps, height, width)
    prediction = torch.rand(shape, generator=generator) * 5
    scale, shift = (torch.rand(maps, 1, 1, generator=generator) + 0.5 for _ in range(2))
    target = scale * prediction + shift + 0.1 * torch.randn(shape, generator=generator)
    return prediction, target, torch.rand(shape, generator=generator) < kept


def loop(prediction: torch.Tensor, target: torch.Tensor, mask: torch.Tensor) -> np.ndarray:
    """Fit each image with numpy: `(maps, 2)`, scale and shift."""
    fits = []
    for x, y, valid in zip(prediction.numpy(), target.numpy(), mask.numpy(), strict=True):
        x, y = x[valid].astype(np.float64), y[valid].astype(np.float64)
        fits.append(np.linalg.lstsq(np.stack([x, np.ones_like(x)], axis=1), y, rcond=None)[0])
    return np.stack(fits)


def batched(prediction: torch.Tensor, target: torch.Tensor, mask: torch.Tensor) -> np.ndarray:
    """Fit all images at once with this package: `(maps, 2)`, scale and shift."""
    return torch.stack(fit_scale_shift(prediction, target, mask), dim=1).numpy()


def measure(options) -> dict:
    """Time both, alternately."""
    case = make_case(options.maps, *options.image_size, options.kept)
    seconds: dict[str, list[float]] = {"lstsq loop": [], "fit_scale_shift": []}
    fits = {}
    for repeat in range(options.repeats + 1):  # the first warms up
        for name, fit in (("lstsq loop", loop), ("fit_scale_shift", batched)):
            started = time.perf_counter()
            fits[name] = fit(*case)
            if repeat:
                seconds[name].append(time.perf_counter() - started)
    slow, fast = seconds.values()
    difference = np.abs(fits["fit_scale_shift"] / fits["lstsq loop"] - 1).max(axis=0)
    return {
        "maps": options.maps,
        "image_size": options.image_size,
        "kept": options.kept,
        "threads": torch.get_num_threads(),
        "seconds": seconds,
        "median_seconds": {name: statistics.median(values) for name, values in seconds.items()},
        "ratio": statistics.median(a / b for a, b in zip(slow, fast, strict=True)),
        "largest_relative_difference": {"scale": difference[0], "shift": difference[1]},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--maps", type=int, default=64)
    parser.add_argument("--image-size", type=int, nargs=2, default=[480, 640], help="height and width")
    parser.add_argument("--kept", type=float, default=0.5, help="share of the pixels under the mask")
    parser.add_argument("--repeats", type=int, default=7)
    result = measure(parser.parse_args())
    report("evaluation_cpu", result)


if __name__ == "__main__":
    main()
