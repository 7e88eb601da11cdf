"""How fast is pseudo-labeling, against the bare model and against the stock pipeline?

    python benchmarks/labeling.py                                     # ViT-S at 518, on what this machine has
    python benchmarks/labeling.py --size large --images 4000 --repeats 2      # on a data-center GPU
    python benchmarks/labeling.py --memory                            # peak memory for 1,000, 5,000 and 20,000 images

Three figures of one run, in images per second, on the same files and at the same input size:

| | |
|---|---|
| a | bare forward passes: same model, dtype and batch, on tensors in memory |
| b | the stock `pipeline("depth-estimation")` over the files, at its best batch size |
| c | this package's engine, from the files to finished shards |

The weights are random, which takes the same time. The start-up (loading, starting workers) would favor long runs: so c
is the difference between a long and a short run, and a and b are warmed up. Figures are medians over the repeats; on a
shared machine only their ratios are meaningful.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from reporting import make_photos, peak_flops, report, synchronize

SHORT_RUN = 2  # batches


def save_model(folder: Path, size: str) -> None:
    import torch

    from depth_anything_hf import DepthAnythingForDepthEstimation, DepthAnythingImageProcessor, config_for

    torch.manual_seed(0)
    DepthAnythingForDepthEstimation(config_for(size)).save_pretrained(folder)
    DepthAnythingImageProcessor().save_pretrained(folder)


def bare_forward(model_folder: Path, files: list[Path], options) -> tuple[float, float]:
    """Measure a: images per second, and FLOPs per image."""
    import torch
    from PIL import Image
    from torch.utils.flop_counter import FlopCounterMode

    from depth_anything_hf.prediction.predictor import DepthPredictor

    predictor = DepthPredictor(str(model_folder))
    model, processor, device = predictor.model, predictor.processor, predictor.device.type
    batch = torch.cat(
        [processor(Image.open(file), return_tensors="pt")["pixel_values"] for file in files[: options.batch_size]]
    ).to(device)

    def forward(images):
        with torch.autocast(device, getattr(torch, options.dtype), enabled=options.dtype != "float32"):
            return model(pixel_values=images).predicted_depth

    with torch.inference_mode():
        with FlopCounterMode(display=False) as counter:
            forward(batch[:1])
        run = torch.compile(forward, dynamic=False) if device == "cuda" else forward
        for _ in range(3 if device == "cuda" else 1):
            run(batch)
        synchronize()
        rounds = max(len(files) // len(batch), 1)
        started = time.perf_counter()
        for _ in range(rounds):
            run(batch)
        synchronize()
    return rounds * len(batch) / (time.perf_counter() - started), counter.get_total_flops()


def stock_pipeline(model_folder: Path, files: list[Path], options, batch_size: int) -> float:
    """Measure b."""
    import torch
    from transformers import pipeline

    device = 0 if torch.cuda.is_available() else -1
    depth = pipeline("depth-estimation", model=str(model_folder), device=device, dtype=options.pipeline_dtype)
    names = [str(file) for file in files]
    for _ in depth(names[:batch_size], batch_size=batch_size):
        pass
    started = time.perf_counter()
    count = sum(1 for _ in depth(names, batch_size=batch_size, num_workers=options.pipeline_workers))
    return count / (time.perf_counter() - started)


def engine(model_folder: Path, files: list[Path], options, work: Path) -> float:
    """Measure c."""
    from depth_anything_hf.labeling.arguments import LabelingArguments
    from depth_anything_hf.labeling.engine import label_images

    def run(limit: int) -> float:
        out = work / "labels"
        shutil.rmtree(out, ignore_errors=True)
        started = time.perf_counter()
        manifest = label_images(
            LabelingArguments(
                str(model_folder), str(files[0].parent), str(out), batch_size=options.batch_size, dtype=options.dtype,
                limit=limit, disable_tqdm=True,
            )
        )  # fmt: skip
        assert manifest["labeled"] == limit, manifest
        return time.perf_counter() - started

    short = SHORT_RUN * options.batch_size
    return (len(files) - short) / (run(len(files)) - run(short))


def measure(options) -> dict:
    """Measure everything, repeat by repeat, so that a busy minute affects all three equally."""
    import torch

    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        make_photos(work / "photos", options.images, 480, 640)
        files = sorted((work / "photos").iterdir())
        save_model(work / "model", options.size)
        trial = files[: max(len(files) // 8, 4)]
        best = max(options.pipeline_batches, key=lambda size: stock_pipeline(work / "model", trial, options, size))
        rates: dict[str, list[float]] = {"a": [], "b": [], "c": []}
        for repeat in range(options.repeats):
            rate, flops = bare_forward(work / "model", files, options)
            rates["a"].append(rate)
            rates["b"].append(stock_pipeline(work / "model", files, options, best))
            rates["c"].append(engine(work / "model", files, options, work))
            print(f"repeat {repeat + 1}:", {key: round(values[-1], 3) for key, values in rates.items()}, flush=True)
    medians = {key: statistics.median(values) for key, values in rates.items()}
    ratios = {
        f"c/{key}": statistics.median(c / x for c, x in zip(rates["c"], rates[key], strict=True)) for key in "ab"
    }
    result = {"size": options.size, "dtype": options.dtype, "pipeline_dtype": options.pipeline_dtype}
    result |= {"batch_size": options.batch_size, "pipeline_batch_size": best, "images": options.images}
    result |= {"image_size": [480, 640], "rates": rates, "images_per_second": medians, "ratios": ratios}
    if torch.cuda.is_available():
        peak = peak_flops()
        result |= {"model_flop_utilisation": peak and {key: medians[key] * flops / peak for key in "ac"}}
        result |= {"gpu_memory_gib": torch.cuda.max_memory_allocated() / 2**30}
    return result


def measure_memory(counts=(1000, 5000, 20000)) -> dict:
    """Measure the peak memory of the engine and of its workers, each run in its own process."""
    peaks = {}
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        make_photos(work / "photos", max(counts), 96, 128)
        for count in counts:
            command = [sys.executable, __file__, "--memory-of", str(count), str(work)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            peaks[str(count)] = json.loads(done.stdout.splitlines()[-1])
            print(count, "images:", peaks[str(count)], flush=True)
    return {"peak_mib": peaks}


def memory_of(count: int, work: Path) -> None:
    """Label a number of images with a tiny model, and print the peak memory in MiB."""
    import torch
    from transformers import Dinov2Config

    from depth_anything_hf import DepthAnythingForDepthEstimation, DepthAnythingImageProcessor, config_for_encoder
    from depth_anything_hf.labeling.arguments import LabelingArguments
    from depth_anything_hf.labeling.engine import label_images

    torch.set_num_threads(1)
    encoder = Dinov2Config(image_size=56, hidden_size=32, num_hidden_layers=4, num_attention_heads=2)
    DepthAnythingForDepthEstimation(config_for_encoder(encoder)).save_pretrained(work / "tiny")
    DepthAnythingImageProcessor(size={"height": 56, "width": 56}).save_pretrained(work / "tiny")
    arguments = LabelingArguments(
        str(work / "tiny"), str(work / "photos"), str(work / f"out{count}"), resolution=56, limit=count, batch_size=16,
        num_workers=1, disable_tqdm=True,
    )  # fmt: skip
    started = time.perf_counter()
    label_images(arguments)
    seconds = time.perf_counter() - started
    own, workers = (
        resource.getrusage(who).ru_maxrss / 1024 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    print(json.dumps({"main": round(own), "worker": round(workers), "seconds": round(seconds)}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="small", choices=("small", "base", "large"))
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--batch-size", type=int, help="batch size of a and c (default: 32 on a GPU, 1 on a CPU)")
    parser.add_argument("--dtype", help="dtype of a and c (default: bfloat16 on a GPU, float32 on a CPU)")
    parser.add_argument("--pipeline-dtype", default="float32", help="dtype of b")
    parser.add_argument("--pipeline-batches", type=int, nargs="+", help="batch sizes that b tries")
    parser.add_argument("--pipeline-workers", type=int, default=0, help="processes that read for b")
    parser.add_argument("--memory", action="store_true", help="measure the memory instead of the speed")
    parser.add_argument("--memory-of", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.memory_of:
        return memory_of(int(options.memory_of[0]), Path(options.memory_of[1]))

    import torch

    gpu = torch.cuda.is_available()
    if options.memory:
        return report("labeling_memory", measure_memory())
    options.batch_size = options.batch_size or (32 if gpu else 1)
    options.dtype = options.dtype or ("bfloat16" if gpu else "float32")
    options.pipeline_batches = options.pipeline_batches or ([1, 8, 32] if gpu else [1, 2, 4])
    kind = "gpu" if gpu else "cpu"
    report(f"labeling_{kind}_{options.size}_{options.dtype}", measure(options))


if __name__ == "__main__":
    main()
