"""How fast is an exported file in onnxruntime, against PyTorch, on a CPU?

    python benchmarks/export.py                                           # ViT-S, 266 and 518 pixels, batches of 1 and 4
    python benchmarks/export.py --model my-checkpoint --resolutions 518 --batch-sizes 1

PyTorch runs in float32 with transformers' own attention, in inference mode; onnxruntime runs on the CPU with as many threads as
PyTorch. Without `--model` the weights are random, which takes the same time. The repeats alternate, so that a busy minute affects
all equally; on a shared machine only ratios within a repeat are meaningful. A ratio above 1: onnxruntime is faster.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import onnxruntime
import torch
from reporting import RESULTS, report

from depth_anything_hf import DepthAnythingForDepthEstimation, config_for
from depth_anything_hf.export.check import relative_errors, run_session
from depth_anything_hf.export.graph import write_graph, write_int8
from depth_anything_hf.prediction.predictor import DepthPredictor

DTYPES = ("float32", "float16", "int8")


def open_model(options) -> DepthAnythingForDepthEstimation:
    torch.manual_seed(0)
    if options.model:
        return DepthPredictor(options.model, device="cpu").model.float()
    return DepthAnythingForDepthEstimation(config_for(options.size)).eval()


def open_sessions(model, dtypes: list[str], folder: Path) -> dict[str, onnxruntime.InferenceSession]:
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = torch.get_num_threads()
    write_graph(model, folder / "float32.onnx")
    if "float16" in dtypes:
        write_graph(model, folder / "float16.onnx", half=True)
    if "int8" in dtypes:
        write_int8(folder / "float32.onnx", folder / "int8.onnx")
    paths = {dtype: folder / f"{dtype}.onnx" for dtype in dtypes}
    return {
        dtype: onnxruntime.InferenceSession(path, settings, providers=["CPUExecutionProvider"])
        for dtype, path in paths.items()
    }


def time_calls(call: Callable[[], object], options) -> float:
    """Measure the seconds of a call, after warming up."""
    for _ in range(options.warmup):
        call()
    started = time.perf_counter()
    for _ in range(options.steps):
        call()
    return (time.perf_counter() - started) / options.steps


@torch.inference_mode()
def measure_size(model, sessions, resolution: int, batch_size: int, options) -> dict:
    """Time PyTorch and each file on one batch of square images, repeat by repeat."""
    pixels = torch.randn(batch_size, 3, resolution, resolution, generator=torch.Generator().manual_seed(0))
    calls = {"PyTorch": lambda: model(pixel_values=pixels).predicted_depth}
    calls |= {dtype: lambda session=session: run_session(session, pixels) for dtype, session in sessions.items()}
    expected = calls["PyTorch"]()
    errors = {
        dtype: max(relative_errors(*pair)[0] for pair in zip(calls[dtype](), expected, strict=True))
        for dtype in sessions
    }
    rows = []
    for repeat in range(options.repeats):
        rows.append({name: time_calls(call, options) for name, call in calls.items()})
        print(f"{resolution} x {batch_size}, repeat {repeat + 1}:", rows[-1], flush=True)
    ratios = {dtype: [row["PyTorch"] / row[dtype] for row in rows] for dtype in sessions}
    return {
        "resolution": resolution,
        "batch_size": batch_size,
        "seconds_per_batch": {name: statistics.median(row[name] for row in rows) for name in calls},
        "ratios": {dtype: statistics.median(values) for dtype, values in ratios.items()},
        "largest_errors": errors,
        "repeats": rows,
        "ratio_repeats": ratios,
    }


def measure(options) -> dict:
    """Measure every size."""
    model = open_model(options)
    with tempfile.TemporaryDirectory() as name:
        sessions = open_sessions(model, options.dtypes, Path(name))
        megabytes = {dtype: (Path(name) / f"{dtype}.onnx").stat().st_size / 1e6 for dtype in options.dtypes}
        sizes = [
            measure_size(model, sessions, resolution, batch_size, options)
            for resolution in options.resolutions
            for batch_size in options.batch_sizes
        ]
    versions = {"onnxruntime": onnxruntime.__version__, "threads": torch.get_num_threads()}
    return {"settings": vars(options)} | versions | {"megabytes": megabytes, "sizes": sizes}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="Hub id or folder (default: random weights)")
    parser.add_argument(
        "--size", default="small", choices=("small", "base", "large"), help="size of the model with random weights"
    )
    parser.add_argument("--resolutions", type=int, nargs="+", default=[266, 518])
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--dtypes", nargs="+", default=list(DTYPES), choices=DTYPES)
    parser.add_argument("--steps", type=int, default=4, help="steps timed in each repeat")
    parser.add_argument("--warmup", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    report("export_cpu", measure(options), options.out)


if __name__ == "__main__":
    main()
