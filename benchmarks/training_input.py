"""Do reading, decoding and augmentation keep up with the step?

    python benchmarks/training_input.py                          # a tiny model, then ViT-S at 266, on 2 cores
    python benchmarks/training_input.py --models large --resolution 518 --batch-size 16 --num-workers 16      # GPU

Images per second, on pseudo-labeled JPEG photographs of 640 x 480 with V2's student recipe (one data set):

| | |
|---|---|
| loader | only the training data loader: decode, resize, crop, mirror, collate |
| step | only steps, on batches in memory |
| run | both together, as in training, and the share of the time in which the step waited for data |

If loader and step share the same cores, a run is slower than the slower of the two by itself.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from reporting import DEVICE, KIND, RESULTS, make_photos, report, silence, synchronize
from torch.utils.data import DataLoader

from depth_anything_hf import (
    DepthAnythingForDepthEstimation,
    DepthAnythingImageProcessor,
    DepthAnythingTrainer,
    DepthAnythingTrainingArguments,
    config_for,
    load_folder,
)
from depth_anything_hf.data.folder import write_image_folder
from depth_anything_hf.data.records import encode_record
from depth_anything_hf.quickstart.experiment import Plan, new_model, new_processor


def make_records(folder: Path, count: int) -> None:
    """Write photographs, each with a smooth label."""
    make_photos(folder / "photos", count, 480, 640)
    label = np.linspace(0.1, 1, 480)[:, None] + 0.1 * np.sin(np.arange(640) / 50)
    photos = sorted((folder / "photos").iterdir())
    records = (encode_record(Image.open(path), label, space="disparity", source=path.name) for path in photos)
    write_image_folder(records, folder / "records", jpeg_quality=92)


def make_trainer(model_name: str, folder: Path, options) -> DepthAnythingTrainer:
    """Build a trainer of the tiny model, or of a size of encoder."""
    torch.manual_seed(0)
    if model_name == "tiny":
        model, processor = new_model(Plan(), seed=0), new_processor(Plan())
    else:
        size = {"height": options.resolution, "width": options.resolution}
        model, processor = (
            DepthAnythingForDepthEstimation(config_for(model_name)),
            DepthAnythingImageProcessor(size=size),
        )
    batch_size = options.tiny_batch_size if model_name == "tiny" else options.batch_size
    args = DepthAnythingTrainingArguments(
        str(folder / "run"), preset="v2", feature_alignment_weight=0.0, per_device_train_batch_size=batch_size,
        max_steps=options.steps, logging_steps=options.steps, save_strategy="no", report_to="none", disable_tqdm=True,
        dataloader_num_workers=options.num_workers, dataloader_pin_memory=DEVICE == "cuda", use_cpu=DEVICE == "cpu",
    )  # fmt: skip
    records = load_folder(folder / "records")
    trainer = DepthAnythingTrainer(model, args, processing_class=processor, unlabeled_dataset=records)
    return silence(trainer)


def loader_rate(trainer: DepthAnythingTrainer, options) -> float:
    """Measure only the loader, without the start of its workers."""
    loader = iter(trainer.get_train_dataloader())
    next(loader)
    started = time.perf_counter()
    for _ in range(options.steps):
        next(loader)
    return options.steps * sum(trainer.batch_sizes) / (time.perf_counter() - started)


def run_rate(trainer: DepthAnythingTrainer, options) -> tuple[float, float]:
    """Measure a run: images per second, and the share of time that it waited for data."""
    started = time.perf_counter()
    trainer.train()
    synchronize()
    seconds = time.perf_counter() - started
    share = next(log["data_wait_share"] for log in trainer.state.log_history if "data_wait_share" in log)
    return options.steps * sum(trainer.batch_sizes) / seconds, share


def step_rate(trainer: DepthAnythingTrainer, options) -> float:
    """Measure only the steps."""
    loader = iter(trainer.get_train_dataloader())
    batches = [trainer._prepare_inputs(next(loader)) for _ in range(2)]
    trainer.get_train_dataloader = lambda: DataLoader(batches * options.steps, batch_size=None)
    rate, _ = run_rate(trainer, options)
    del trainer.get_train_dataloader
    return rate


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["tiny", "small"], help="tiny, small, base, large or giant")
    parser.add_argument("--resolution", type=int, default=266)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--tiny-batch-size", type=int, default=16)
    parser.add_argument("--num-workers", type=int, default=2)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    rows = {}
    with tempfile.TemporaryDirectory() as name:
        make_records(Path(name), options.images)
        for model_name in options.models:
            trainer = make_trainer(model_name, Path(name), options)
            rates = {"loader": loader_rate(trainer, options), "step": step_rate(trainer, options)}
            rates["run"], rates["data_wait_share"] = run_rate(trainer, options)
            rows[model_name] = rates
            print(model_name, rates, flush=True)
    report(f"training_input_{KIND}", {"settings": vars(options), "images_per_second": rows}, options.out)


if __name__ == "__main__":
    main()
