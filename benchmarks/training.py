"""How fast is a training step, against the sum of its bare parts and against the common step?

    python benchmarks/training.py                                             # ViT-S at 266, batch 4
    python benchmarks/training.py --size large --resolution 518 --batch-size 16 --compile --largest-batch     # GPU

Seconds per step, in one run, on batches in memory:

| | |
|---|---|
| student | `DepthAnythingTrainer`'s whole step with V1's recipe: a teacher in the step, strong perturbation, CutMix, feature alignment, three losses, logging |
| a | the sum of its bare parts: student forward and backward, teacher forward, encoder forward, optimizer |
| supervised | `DepthAnythingTrainer`'s step with labeled images only, SiLog |
| b | the same work as in the authors' metric code: float32, eager, plain attention, one model, `.item()` in every step |
| b, sdpa | the same with transformers' own attention |
| medians and trimming | the part of the student's losses that sorts, on a CPU that selects |

The weights are random, which takes the same time. The repeats alternate, so that a busy minute affects all equally; on a
shared machine only ratios within a repeat are meaningful.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from reporting import DEVICE, KIND, RESULTS, machine, peak_flops, report, silence, synchronize
from torch.utils.data import DataLoader
from torch.utils.flop_counter import FlopCounterMode
from transformers import DepthAnythingForDepthEstimation as StockDepthAnything
from transformers import Dinov2Model, TrainerCallback

from depth_anything_hf import DepthAnythingForDepthEstimation, DepthAnythingImageProcessor, config_for
from depth_anything_hf.data.records import encode_record
from depth_anything_hf.losses.affine_invariant import trim_mask
from depth_anything_hf.maps.geometry import masked_median
from depth_anything_hf.pictures.charts import bars
from depth_anything_hf.scenes.simple import UNLABELED_DOMAIN, iter_synthetic_records
from depth_anything_hf.training.arguments import DepthAnythingTrainingArguments
from depth_anything_hf.training.trainer import DepthAnythingTrainer

LEARNING_RATE = 5e-6


class Clock(TrainerCallback):
    """Time the steps after the first ones."""

    def __init__(self, warmup: int):
        self.warmup, self.seconds = warmup, 0.0

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step in (self.warmup, state.max_steps):
            synchronize()
            self.seconds = time.perf_counter() - self.seconds


class InMemoryTrainer(DepthAnythingTrainer):
    """Train on two collated batches on the device, in turn: reading is measured separately."""

    def get_train_dataloader(self) -> DataLoader:
        loader = iter(super().get_train_dataloader())
        self.collated = getattr(self, "collated", None) or [self._prepare_inputs(next(loader)) for _ in range(2)]
        return DataLoader(self.collated * self.args.max_steps, batch_size=None)


def scenes(count: int, resolution: int, labeled: bool) -> list[dict]:
    size = (resolution * 3 // 4, resolution)
    return [
        encode_record(scene["image"], scene["depth"].clip(0.5, 60) if labeled else None, source=scene["source"])
        for scene in iter_synthetic_records(count, *size, domain=UNLABELED_DOMAIN)
    ]


def make_trainer(options, out: Path, supervised: bool) -> DepthAnythingTrainer:
    torch.manual_seed(0)
    config = config_for(options.size, max_depth=80.0 if supervised else None)
    both = (options.batch_size // 3, options.batch_size - options.batch_size // 3)
    args = DepthAnythingTrainingArguments(
        str(out), preset="v1", max_steps=options.warmup + options.steps, per_device_train_batch_size=options.batch_size,
        learning_rate=LEARNING_RATE, logging_steps=50, save_strategy="no", report_to="none", disable_tqdm=True,
        bf16=None if options.dtype is None else options.dtype == "bfloat16", torch_compile=options.compile,
        gradient_checkpointing=options.gradient_checkpointing,
        dataloader_pin_memory=DEVICE == "cuda", use_cpu=DEVICE == "cpu",
    )  # fmt: skip
    labeled = scenes(2 * (options.batch_size if supervised else both[0]), options.resolution, labeled=True)
    students = {}
    if not supervised:
        students["unlabeled_dataset"] = scenes(2 * both[1], options.resolution, labeled=False)
        students["teacher"] = DepthAnythingForDepthEstimation(config_for(options.teacher_size))
        students["feature_encoder"] = Dinov2Model(config_for(options.size).backbone_config)
    trainer = InMemoryTrainer(
        DepthAnythingForDepthEstimation(config),
        args,
        train_dataset=labeled,
        processing_class=processor(options.resolution),
        **students,
    )
    return silence(trainer)


def processor(resolution: int) -> DepthAnythingImageProcessor:
    return DepthAnythingImageProcessor(size={"height": resolution, "width": resolution})


def time_trainer(trainer: DepthAnythingTrainer, options) -> float:
    """Measure the seconds of a whole step of the trainer."""
    clock = Clock(options.warmup)
    trainer.add_callback(clock)
    trainer.train()
    trainer.remove_callback(clock)
    return clock.seconds / options.steps


def time_calls(call: Callable[[], object], options) -> float:
    """Measure the seconds of a call, after warming up."""
    for _ in range(options.warmup):
        call()
    synchronize()
    started = time.perf_counter()
    for _ in range(options.steps):
        call()
    synchronize()
    return (time.perf_counter() - started) / options.steps


def time_bare_parts(trainer: DepthAnythingTrainer, options) -> dict[str, float]:
    """Measure a: each part alone, on the trainer's own models, in its own precision."""
    batch = trainer.collated[0]
    images, unlabeled = batch["pixel_values"], batch["pixel_values"][batch["num_labeled"] :]
    model = torch.compile(trainer.model) if options.compile else trainer.model
    model.train()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=LEARNING_RATE, fused=True)

    def student():
        with trainer.accelerator.autocast():
            predicted = model(pixel_values=images).predicted_depth
        predicted.float().mean().backward()
        return predicted

    def forward(helper, values):
        with torch.inference_mode(), trainer.accelerator.autocast():
            helper(pixel_values=values)

    parts = {
        "student": time_calls(lambda: (student(), optimizer.zero_grad()), options),
        "teacher": time_calls(lambda: forward(trainer.teacher, unlabeled), options),
        "encoder": time_calls(lambda: forward(trainer.feature_encoder, unlabeled), options),
    }
    student()
    parts["optimizer"] = time_calls(optimizer.step, options)
    return parts


def time_todays_step(trainer: DepthAnythingTrainer, attention: str, options) -> float:
    """Measure b: the loop of the authors' metric code (`metric_depth/train.py` of Depth Anything V2)."""
    torch.manual_seed(0)
    model = StockDepthAnything(config_for(options.size, max_depth=80.0)).to(DEVICE).train()
    model.backbone.set_attn_implementation(attention)
    encoder = [p for name, p in model.named_parameters() if "backbone" in name]
    rest = [p for name, p in model.named_parameters() if "backbone" not in name]
    groups = [{"params": encoder, "lr": LEARNING_RATE}, {"params": rest, "lr": 10 * LEARNING_RATE}]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.999), weight_decay=0.01, foreach=False, fused=False)
    batch = trainer.collated[0]
    images, depth, mask = batch["pixel_values"], batch["labels"], batch["label_mask"] & (batch["labels"] <= 80)
    total = 0.0

    def step():
        nonlocal total
        optimizer.zero_grad()
        predicted = model(pixel_values=images).predicted_depth
        ratio = torch.log(depth[mask]) - torch.log(predicted[mask])
        loss = torch.sqrt((ratio**2).mean() - 0.5 * ratio.mean() ** 2)
        loss.backward()
        optimizer.step()
        total += loss.item()

    return time_calls(step, options)


def time_medians(trainer: DepthAnythingTrainer, options) -> float:
    """Measure the masked medians and the trimming of a student step, a part of the losses.

    Labeled images have one of prediction and label; unlabeled ones have them for both regions of a CutMix box.
    """
    batch = trainer.collated[0]
    labels, mask, count = batch["labels"], torch.ones_like(batch["label_mask"]), batch["num_labeled"]
    values = torch.rand_like(labels)
    box = batch["view"]["boxes"]

    def medians():
        for maps in (values[:count], labels[:count]):
            masked_median(maps, mask[:count])
        for region in (box, ~box):
            for _ in range(2):  # prediction and label
                masked_median(values[count:], region)
            trim_mask(values[count:], region, 0.1)

    return time_calls(medians, options)


def largest_batch(options, out: Path) -> int:
    """Double the batch of a student step until the GPU is full; return the largest that fitted."""
    fitted = 0
    while DEVICE == "cuda":
        tried = argparse.Namespace(**vars(options) | {"batch_size": 2 * fitted or options.batch_size, "steps": 1})
        try:
            time_trainer(make_trainer(tried, out, supervised=False), tried)
        except torch.OutOfMemoryError:
            break
        fitted = tried.batch_size
        torch.cuda.empty_cache()
    return fitted


def count_flops(trainer: DepthAnythingTrainer, supervised: bool) -> float:
    """Count the floating point operations of a step: three times the student's forward pass, once the helpers'."""
    images = trainer.collated[0]["pixel_values"][:1]
    parts = [(trainer.model, len(trainer.collated[0]["pixel_values"]), 3)]
    if not supervised:
        unlabeled = parts[0][1] - trainer.collated[0]["num_labeled"]
        parts += [(trainer.teacher, unlabeled, 1), (trainer.feature_encoder, unlabeled, 1)]
    total = 0.0
    for model, count, passes in parts:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            model(pixel_values=images)
        total += passes * count * counter.get_total_flops()
    return total


def measure(options) -> dict:
    """Measure everything, repeat by repeat."""
    with tempfile.TemporaryDirectory() as name:
        student = make_trainer(options, Path(name) / "student", supervised=False)
        supervised = make_trainer(options, Path(name) / "supervised", supervised=True)
        rows: list[dict[str, float]] = []
        for repeat in range(options.repeats):
            row = {"student": time_trainer(student, options)}
            parts = time_bare_parts(student, options)
            row |= {f"part: {part}": seconds for part, seconds in parts.items()} | {"a": sum(parts.values())}
            row["medians and trimming"] = time_medians(student, options)
            row["supervised"] = time_trainer(supervised, options)
            row["b"] = time_todays_step(supervised, "eager", options)
            row["b, sdpa"] = time_todays_step(supervised, "sdpa", options)
            rows.append(row)
            print(f"repeat {repeat + 1}:", {key: round(value, 4) for key, value in row.items()}, flush=True)
        memory = torch.cuda.max_memory_allocated() / 2**30 if DEVICE == "cuda" else None
        largest = largest_batch(options, Path(name) / "largest") if options.largest_batch else None
        flops = {"student": count_flops(student, False), "supervised": count_flops(supervised, True)}
    ratios = {
        f"{one}/{other}": [row[one] / row[other] for row in rows]
        for one, other in (
            ("a", "student"),
            ("b", "supervised"),
            ("b, sdpa", "supervised"),
            ("medians and trimming", "student"),
        )
    }
    medians = {key: statistics.median(row[key] for row in rows) for key in rows[0]}
    result = {"settings": vars(options)}
    result |= {"precision": "bfloat16" if student.args.bf16 else "float32"}
    result |= {"seconds_per_step": medians, "ratios": {name: statistics.median(of) for name, of in ratios.items()}}
    result |= {"repeats": rows, "ratio_repeats": ratios, "flops_per_step": flops}
    if (peak := peak_flops()) is not None:
        result["model_flop_utilisation"] = {name: count / medians[name] / peak for name, count in flops.items()}
        result |= {"gpu_memory_gib": memory, "largest_batch": largest}
    return result


def picture(result: dict, options) -> None:
    """Draw the seconds of a step beside the JSON."""
    seconds = result["seconds_per_step"]
    parts = {name.removeprefix("part: "): value for name, value in seconds.items() if name.startswith("part: ")}
    rows = {
        "student, whole step": {"whole step": seconds["student"]},
        "a: its bare parts": parts,
        "supervised, whole step": {"whole step": seconds["supervised"]},
        "b: today's step": {"whole step": seconds["b"]},
        "b, fused attention": {"whole step": seconds["b, sdpa"]},
    }
    title = f"A training step, ViT-{options.size[0].upper()} at {options.resolution}, batch {options.batch_size}"
    label = f"seconds, median of {options.repeats}; {result['precision']}; {machine()}"
    bars(rows, title, label).save(options.out / f"{name_of(options)}.png")


def name_of(options) -> str:
    precision = f"_{options.dtype}" if options.dtype else ""
    return f"training_{KIND}_{options.size}_{options.resolution}{precision}{'_compiled' if options.compile else ''}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="small", choices=("small", "base", "large", "giant"))
    parser.add_argument("--teacher-size", default="small", choices=("small", "base", "large", "giant"))
    parser.add_argument("--resolution", type=int, default=266)
    parser.add_argument("--batch-size", type=int, default=4, help="batch size of a device; a third of it is labeled")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), help="default: bfloat16 if the GPU has it")
    parser.add_argument("--compile", action="store_true", help="torch.compile student, teacher and encoder")
    parser.add_argument("--gradient-checkpointing", action="store_true")
    parser.add_argument("--steps", type=int, default=4, help="steps timed in each repeat")
    parser.add_argument("--warmup", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument(
        "--largest-batch", action="store_true", help="on a GPU: also double the batch until it is full"
    )
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    result = measure(options)
    report(name_of(options), result, options.out)
    picture(result, options)


if __name__ == "__main__":
    main()
