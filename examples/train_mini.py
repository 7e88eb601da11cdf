"""Train `mini`, the small model that comes with the package, from nothing: rendered worlds and free photographs.

    python examples/train_mini.py --out mini_run                       # two hours on 2 CPU cores
    python examples/train_mini.py --out mini_run --max-minutes 9       # a piece of it; the same command goes on
    python examples/train_mini.py --out mini_run --worlds 400000 --teacher-steps 100000 --student-steps 50000   # a GPU

Depth Anything V2's recipe: a teacher learns from rendered worlds, whose depth is exact; it labels photographs; the
student learns from both, its photographs under strong perturbation. Seeded, and resumed where it was stopped: every
stage keeps what it finished. What came out: docs/mini.md.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from mini_data import RenderedWorlds, fetch_photographs, render_to
from mini_model import MuonAndAdamW, new_model, new_processor
from transformers import TrainerCallback
from transformers.optimization import get_scheduler

from depth_anything_hf import (
    DepthAnythingForDepthEstimation,
    DepthAnythingTrainer,
    DepthAnythingTrainingArguments,
    LabelingArguments,
    label_images,
    load_folder,
)
from depth_anything_hf.data.worlds.rendering import WorldStyle
from depth_anything_hf.training.checkpoints import last_whole_checkpoint

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@dataclass(frozen=True)
class MiniPlan:
    """Sizes and lengths of a run; the defaults are those of the model that comes with the package."""

    worlds: int = 20_000
    hidden_size: int = 192
    layers: int = 8
    patch_size: int = 16
    teacher_size: tuple[int, int] = (144, 192)  # of its crops, pixels
    student_size: tuple[int, int] = (192, 256)
    teacher_steps: int = 3000
    student_steps: int = 1000
    teacher_batch: int = 32
    student_batch: tuple[int, int] = (16, 8)  # worlds, photographs
    learning_rate: float = 2e-3
    weight_decay: float = 0.05
    gradient_matching: float = 2.0
    seed: int = 0


class Deadline(TrainerCallback):
    """Save and stop when the time of this piece of a run is up.

    Args:
        at: `time.monotonic()` of the end.
    """

    def __init__(self, at: float):
        self.at, self.passed = at, False

    def on_step_end(self, args, state, control, **kwargs):
        """Look at the clock."""
        if time.monotonic() > self.at and state.global_step < state.max_steps:
            self.passed = control.should_save = control.should_training_stop = True


def has_bf16() -> bool:
    """Say whether this machine has instructions for bfloat16: without them it is emulated, and slow."""
    if DEVICE == "cuda":
        return torch.cuda.is_bf16_supported()
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def train(model, out: Path, plan: MiniPlan, size: tuple[int, int], steps: int, rate: float, deadline: Deadline, **data):
    """Train one model, or go on with it; return it, or None where the time was up.

    Args:
        model: Fresh, or the student's start.
        out: Folder of the stage; `out / "model"` holds what came out.
        plan: Of the run.
        size: Of the crops.
        steps: Optimizer steps.
        rate: Learning rate.
        deadline: When to stop.
        data: For `DepthAnythingTrainer`.
    """
    finished = out / "model"
    if finished.is_dir():
        return DepthAnythingForDepthEstimation.from_pretrained(finished)
    batch = plan.student_batch if "unlabeled_dataset" in data else (plan.teacher_batch, 0)
    arguments = DepthAnythingTrainingArguments(
        str(out / "checkpoints"), preset="v2", max_steps=steps, labeled_batch_size=batch[0],
        unlabeled_batch_size=batch[1] or None, per_device_train_batch_size=sum(batch), zoom=1.3, bf16=has_bf16(),
        gradient_matching_weight=plan.gradient_matching, feature_alignment_weight=0.0, strong_perturbation=True,
        cutmix_probability=0.5 if batch[1] else 0.0, perturbation_kwargs={"blur_sigma": (0.1, 1.0)},
        color_ranges={"gamma": (0.7, 1.4), "brightness": (0.7, 1.3), "color": (0.9, 1.1), "probability": 0.5},
        max_grad_norm=1.0, save_steps=500, save_total_limit=1, logging_steps=25, seed=plan.seed, report_to="none",
        dataloader_num_workers=1 if DEVICE == "cpu" else 12, dataloader_pin_memory=DEVICE == "cuda", disable_tqdm=False,
    )  # fmt: skip
    optimizer = MuonAndAdamW(model, rate, 1.0, plan.weight_decay)
    schedule = get_scheduler("cosine", optimizer, num_warmup_steps=steps // 30, num_training_steps=steps)
    trainer = DepthAnythingTrainer(
        model, arguments, new_processor(size, plan.patch_size), optimizers=(optimizer, schedule),
        callbacks=[deadline], **data,
    )  # fmt: skip
    trainer.train(resume_from_checkpoint=last_whole_checkpoint(out / "checkpoints"))
    if deadline.passed:
        return None
    (out / "log.json").write_text(json.dumps(trainer.state.log_history))
    trainer.save_model(str(finished))
    shutil.rmtree(out / "checkpoints")
    return trainer.model


def run(out: Path, plan: MiniPlan, photographs: Path | None, processes: int, max_minutes: float) -> bool:
    """Go through the stages; say whether all are done."""
    deadline = Deadline(time.monotonic() + 60 * max_minutes)
    out.mkdir(parents=True, exist_ok=True)
    (out / "plan.json").write_text(json.dumps(asdict(plan), indent=1))
    render_to(out / "worlds", plan.worlds, plan.student_size, WorldStyle(), DEVICE, processes)
    worlds = RenderedWorlds(out / "worlds", plan.worlds)
    fresh = new_model(plan.hidden_size, plan.layers, plan.patch_size, plan.seed)
    teacher = train(
        fresh, out / "teacher", plan, plan.teacher_size, plan.teacher_steps, plan.learning_rate, deadline,
        train_dataset=worlds,
    )  # fmt: skip
    if teacher is None:
        return False
    if not (out / "labels" / "manifest.json").is_file():
        new_processor(plan.student_size, plan.patch_size).save_pretrained(out / "teacher" / "model")
        source = photographs or fetch_photographs(out / "photographs")
        label_images(LabelingArguments(str(out / "teacher" / "model"), str(source), str(out / "labels"), device=DEVICE))
    student = train(
        teacher, out / "student", plan, plan.student_size, plan.student_steps, plan.learning_rate / 2, deadline,
        train_dataset=worlds, unlabeled_dataset=load_folder(out / "labels"),
    )  # fmt: skip
    if student is None:
        return False
    student.half().save_pretrained(out / "mini")
    new_processor(plan.student_size, plan.patch_size).save_pretrained(out / "mini")
    return True


def make_parser() -> argparse.ArgumentParser:
    """Build the parser: every size of `MiniPlan` is an option."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="everything goes there")
    parser.add_argument("--photographs", type=Path, metavar="DIR", help="label these instead of those of Debian's packages")
    parser.add_argument("--processes", type=int, default=2, help="that render on a CPU (default: %(default)s)")
    parser.add_argument("--max-minutes", type=float, default=1e9, metavar="N", help="save and stop after so many of training")
    for name, value in asdict(MiniPlan()).items():
        option = f"--{name.replace('_', '-')}"
        if isinstance(value, (tuple, list)):
            parser.add_argument(option, type=int, nargs=2, default=value, help="default: %(default)s")
        else:
            parser.add_argument(option, type=type(value), default=value, help="default: %(default)s")
    return parser


def main() -> int:
    """Parse and run."""
    options = make_parser().parse_args()
    sizes = {name: getattr(options, name) for name in asdict(MiniPlan())}
    plan = MiniPlan(**{name: tuple(value) if isinstance(value, list) else value for name, value in sizes.items()})
    done = run(options.out, plan, options.photographs, options.processes, options.max_minutes)
    print(f"{options.out / 'mini'} is ready." if done else "Stopped in time; the same command goes on.")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
