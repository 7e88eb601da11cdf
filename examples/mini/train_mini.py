"""Train `mini`, the small model in the package, on rendered worlds only.

    python examples/mini/train_mini.py --out mini_run                       # an hour and a half on 2 CPU cores
    python examples/mini/train_mini.py --out mini_run --max-minutes 9       # a piece of it; repeat to continue
    python examples/mini/train_mini.py --out mini_run --small-worlds 5000000 --worlds 4000000 --teacher-steps 100000   # a GPU
    python examples/mini/train_mini.py --out mini_run --photographs DIR     # with your photographs too
    python examples/mini/train_mini.py --out more --start mini --student-steps 750 --worlds 2560   # continue from mini
    python examples/mini/mini_card.py mini_run --eval DIR                   # measure it and write its card

The recipe follows Depth Anything V2: a teacher learns from rendered worlds with exact depth, and labels photographs; the
student continues from the teacher's weights, at a higher resolution, on worlds and photographs, the latter under strong
perturbation. Without photographs it learns only from the worlds; `mini` was made in this way, without anyone's pictures.
Before the teacher a "beginner" is trained at a low resolution, where a step costs half and teaches as much.
On a GPU every batch is rendered when it is needed; on a CPU, where that costs more than a step, all worlds are rendered once
before. The run is seeded, and resumes where it was stopped: every finished stage is saved. Needs PyTorch 2.9 or newer (Muon).
Results: docs/mini.md.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
from mini_data import LiveWorlds, RenderedWorlds, Worlds, render_to
from mini_model import MuonAndAdamW, new_model, new_processor, quiet_head
from mini_plan import MiniPlan, keep_plan
from transformers import TrainerCallback
from transformers.optimization import get_scheduler

from depth_anything_hf import (
    DepthAnythingForDepthEstimation,
    DepthAnythingTrainer,
    DepthAnythingTrainingArguments,
    LabelingArguments,
    label_images,
    load_folder,
    load_images,
)
from depth_anything_hf.prediction.predictor import load_model
from depth_anything_hf.training.resuming import last_whole_checkpoint

COLORS = {"gamma": (0.5, 2.0), "brightness": (0.5, 2.0), "color": (0.8, 1.25)}  # far beyond those of V1
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


class Deadline(TrainerCallback):
    """Save and stop when the time of this piece of a run is over, or at Ctrl-C; a second Ctrl-C stops at once.

    Args:
        at: `time.monotonic()` of the end.
    """

    def __init__(self, at: float):
        self.at, self.passed = at, False

    def end(self, *_) -> None:
        """End the time; a handler of signals."""
        print("Stopping after this step or file; once more stops at once.")
        self.at = -math.inf
        signal.signal(signal.SIGINT, signal.default_int_handler)

    def on_step_end(self, args, state, control, **kwargs):
        """Check the clock."""
        if time.monotonic() > self.at and state.global_step < state.max_steps:
            self.passed = control.should_save = control.should_training_stop = True


def has_bf16() -> bool:
    """Return True if this machine has instructions for bfloat16; without them it is emulated, and slow."""
    if DEVICE == "cuda":
        return torch.cuda.is_bf16_supported()
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


@dataclass(frozen=True)
class Stage:
    """Set how one model is trained."""

    size: tuple[int, int]  # of its crops, pixels
    steps: int
    batch: tuple[int, int]  # worlds, photographs
    learning_rate: float


def train(model, out: Path, plan: MiniPlan, stage: Stage, deadline: Deadline, **data):
    """Train one model, or continue its training; return it, or None if the time is over.

    Args:
        model: New model, or the start of the student.
        out: Folder of the stage; the result is in `out / "model"`.
        plan: Plan of the run.
        stage: Length and sizes of the stage.
        deadline: Time to stop.
        data: Data sets for `DepthAnythingTrainer`.
    """
    finished = out / "model"
    if finished.is_dir():
        return DepthAnythingForDepthEstimation.from_pretrained(finished)
    partial = out / "model.partial"  # a kill while it is written leaves no half of a finished stage
    model.to(memory_format=torch.channels_last)  # saves a sixth of a step on a CPU
    worlds, photographs = stage.batch
    arguments = DepthAnythingTrainingArguments(
        str(out / "checkpoints"), preset="v2", max_steps=stage.steps, per_device_train_batch_size=worlds + photographs,
        labeled_batch_size=worlds, unlabeled_batch_size=photographs or None, zoom=1.3, max_grad_norm=1.0,
        gradient_matching_weight=plan.gradient_matching, feature_alignment_weight=0.0,
        strong_perturbation=photographs > 0, cutmix_probability=0.5 if photographs else 0.0,
        perturbation_kwargs={"blur_sigma": (0.1, 1.0)}, color_ranges=COLORS | {"probability": plan.color_probability},
        bf16=has_bf16(), use_cpu=DEVICE == "cpu", seed=plan.seed, report_to="none", disable_tqdm=False,
        save_steps=500, save_total_limit=1, logging_steps=min(25, -(-stage.steps // 40)),
        # On two cores a worker slows the step down: 4.8 steps of the beginner per second without a worker, 3.6 with one.
        dataloader_num_workers=0 if DEVICE == "cpu" else 12, dataloader_pin_memory=DEVICE == "cuda",
    )  # fmt: skip
    if DEVICE == "cpu":  # with so few patches the fused kernel, whose backward pass is slow there, costs more
        model.backbone.set_attn_implementation("eager")
    optimizer = MuonAndAdamW(model, stage.learning_rate, 1.0, plan.weight_decay)
    schedule = get_scheduler("cosine", optimizer, stage.steps // 30, stage.steps)
    processor = new_processor(stage.size, plan.patch_size)
    trainer = DepthAnythingTrainer(
        model, arguments, processing_class=processor, optimizers=(optimizer, schedule), callbacks=[deadline], **data
    )
    trainer.train(resume_from_checkpoint=last_whole_checkpoint(out / "checkpoints"))
    if deadline.passed:
        return None
    (out / "log.json").write_text(json.dumps(trainer.state.log_history))
    trainer.save_model(str(partial))
    partial.rename(finished)
    shutil.rmtree(out / "checkpoints")
    return DepthAnythingForDepthEstimation.from_pretrained(finished)  # as a later piece of the run will find it


def label(photographs: Path, out: Path, plan: MiniPlan):
    """Label photographs with the teacher, once; return the records."""
    if not (out / "labels" / "manifest.json").is_file():
        new_processor(plan.student_size, plan.patch_size).save_pretrained(out / "teacher" / "model")
        settings = (str(out / "teacher" / "model"), str(photographs), str(out / "labels"))
        label_images(
            LabelingArguments(*settings, resolution=plan.student_size[0], device=DEVICE, keep_image="resized")
        )
    return load_folder(out / "labels")


def seen(worlds, plan: MiniPlan) -> torch.Tensor:
    """Return a few worlds as the student sees them, `(worlds, 3, height, width)`."""
    processor = new_processor(plan.student_size, plan.patch_size)
    count = min(len(worlds), 32)
    return processor([worlds[index].image for index in range(count)], return_tensors="pt")["pixel_values"]


def worlds_in(folder: Path, worlds: Worlds, *, live: bool, processes: int, deadline: Deadline):
    """Return the records of worlds, rendered live or stored in a folder; None if the time is over."""
    if live:
        return LiveWorlds(worlds, DEVICE)
    done = render_to(folder, worlds, DEVICE, processes, deadline.at)
    return RenderedWorlds(folder, worlds.count) if done else None


def given_teacher(start: str, folder: Path, plan: MiniPlan):
    """Copy a checkpoint to the place of the trained teacher, and return it."""
    if folder.is_dir():
        return DepthAnythingForDepthEstimation.from_pretrained(folder)
    model, _ = load_model(start)
    if model.config.patch_size != plan.patch_size:
        raise ValueError(
            f"{start} has patches of {model.config.patch_size} pixels and the run of {plan.patch_size}; pass --patch-size "
            f"{model.config.patch_size}, and --student-size in multiples of it."
        )
    partial = folder.with_name("model.partial")
    model.save_pretrained(partial)
    partial.rename(folder)
    return model


def new_teacher(out: Path, plan: MiniPlan, deadline: Deadline, render: Callable):
    """Train the beginner and, from its weights, the teacher; return the teacher, or None if the time is over."""
    if (worlds := render(out / "small_worlds", plan.beginners_worlds())) is None:
        return None
    fresh = new_model(plan.hidden_size, plan.layers, plan.patch_size, plan.seed)
    stage = Stage(plan.beginner_size, plan.beginner_steps, (plan.beginner_batch, 0), plan.learning_rate)
    beginner = train(fresh, out / "beginner", plan, stage, deadline, train_dataset=worlds)
    if beginner is None or (worlds := render(out / "worlds", plan.later_worlds())) is None:
        return None
    stage = Stage(plan.teacher_size, plan.teacher_steps, (plan.teacher_batch, 0), plan.learning_rate / 2)
    return train(beginner, out / "teacher", plan, stage, deadline, train_dataset=worlds)


def run(
    out: Path, plan: MiniPlan, photographs: Path | None, start: str | None, deadline: Deadline, render: Callable
) -> bool:
    """Run the stages; return True if all are done.

    Args:
        out: Folder of the run.
        plan: Sizes and lengths.
        photographs: Folder of the photographs that the teacher labels.
        start: Checkpoint that replaces the teacher.
        deadline: Time to stop.
        render: Returns the records of worlds, or None if the time is over: `worlds_in`, for a folder and its worlds.
    """
    out.mkdir(parents=True, exist_ok=True)
    keep_plan(out / "plan.json", plan, start, photographs)
    if start is None:
        teacher = new_teacher(out, plan, deadline, render)
    else:
        teacher = given_teacher(start, out / "teacher" / "model", plan)
    if teacher is None or (worlds := render(out / "worlds", plan.later_worlds())) is None:
        return False
    data = {"train_dataset": worlds}
    batch = plan.student_batch
    if photographs is None:
        batch = (sum(batch), 0)
    else:
        data["unlabeled_dataset"] = label(photographs, out, plan)
    stage = Stage(plan.student_size, plan.student_steps, batch, plan.learning_rate / 2)
    student = train(teacher, out / "student", plan, stage, deadline, **data)
    if student is None:
        return False
    quiet_head(student, seen(worlds, plan))
    # The file is half as large; the configuration says float32, which any machine supports.
    student.save_pretrained(out / "mini", state_dict={name: v.half() for name, v in student.state_dict().items()})
    new_processor(plan.student_size, plan.patch_size).save_pretrained(out / "mini")
    return True


def make_parser() -> argparse.ArgumentParser:
    """Build the parser: every size of `MiniPlan` is an option."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="output folder")
    parser.add_argument("--photographs", type=Path, metavar="DIR", help="photographs to label for the student")
    parser.add_argument(
        "--start",
        metavar="MODEL",
        help="mini, a Hub id or a folder: the student continues from it, without the stages before",
    )
    parser.add_argument(
        "--render", choices=("ahead", "live"), default="live" if DEVICE == "cuda" else "ahead",
        help="store the worlds on disk, or render each batch when it is needed (default here: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--processes", type=int, default=2, help="processes that render on a CPU (default: %(default)s)"
    )
    parser.add_argument(
        "--max-minutes", type=float, default=1e9, metavar="N", help="save and stop after this many minutes of training"
    )
    for name, value in asdict(MiniPlan()).items():
        option = f"--{name.replace('_', '-')}"
        if isinstance(value, (tuple, list)):
            parser.add_argument(option, type=int, nargs=2, default=value, help="default: %(default)s")
        else:
            parser.add_argument(option, type=type(value), default=value, help="default: %(default)s")
    return parser


def main() -> int:
    """Parse and run."""
    parser = make_parser()
    options = parser.parse_args()
    if not options.max_minutes >= 0:
        parser.error(f"--max-minutes is {options.max_minutes}; it must be at least 0.")
    sizes = {name: getattr(options, name) for name in asdict(MiniPlan())}
    try:
        plan = MiniPlan(**{name: tuple(value) if isinstance(value, list) else value for name, value in sizes.items()})
        if options.photographs is not None:
            load_images(options.photographs)  # before the hour that comes first
    except (ValueError, FileNotFoundError) as error:
        parser.error(str(error))
    if DEVICE == "cuda":  # so that the data loader's workers can render there
        torch.multiprocessing.set_start_method("spawn", force=True)
    deadline = Deadline(time.monotonic() + 60 * options.max_minutes)
    before = signal.signal(signal.SIGINT, deadline.end)
    live = options.render == "live"
    render = partial(worlds_in, live=live, processes=options.processes, deadline=deadline)
    try:
        done = run(options.out, plan, options.photographs, options.start, deadline, render)
    finally:
        signal.signal(signal.SIGINT, before)
    print(f"{options.out / 'mini'} is ready." if done else "Stopped in time; the same command continues.")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
