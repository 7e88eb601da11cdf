"""The plan of a run of `train_mini.py`."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from mini_data import Worlds

STAGES = ("beginner", "teacher", "student")


@dataclass(frozen=True)
class MiniPlan:
    """Set the sizes and lengths of a run.

    Raises:
        ValueError: A length is below 1, or a size is no multiple of the patch size.
    """

    hidden_size: int = 128
    layers: int = 8
    patch_size: int = 8
    small_worlds: int = 20_480
    worlds: int = 10_240
    small_world_size: tuple[int, int] = (96, 128)  # as rendered, pixels
    world_size: tuple[int, int] = (192, 256)
    beginner_size: tuple[int, int] = (48, 64)  # of its crops
    teacher_size: tuple[int, int] = (72, 96)
    student_size: tuple[int, int] = (96, 128)
    beginner_steps: int = 5000
    teacher_steps: int = 3500
    student_steps: int = 2400
    beginner_batch: int = 48
    teacher_batch: int = 32
    student_batch: tuple[int, int] = (24, 8)  # worlds, photographs
    learning_rate: float = 1e-3  # of the beginner; half of it for each stage that continues another
    weight_decay: float = 0.05
    gradient_matching: float = 2.0
    color_probability: float = 0.8  # share of the worlds whose exposure, contrast and colors are changed
    seed: int = 0

    def __post_init__(self):
        counts = ("layers", "patch_size", "small_worlds", "worlds", *(f"{name}_steps" for name in STAGES))
        for name in (*counts, "beginner_batch", "teacher_batch"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1.")
        if min(self.student_batch) < 0 or self.student_batch[0] < 1:
            raise ValueError(f"student_batch is {self.student_batch}; it needs a world, and photographs or 0 of them.")
        if self.hidden_size < 64 or self.hidden_size % 64:
            raise ValueError(f"hidden_size is {self.hidden_size}; it must be a multiple of 64.")
        for name in (f"{name}_size" for name in STAGES):
            if any(side < self.patch_size or side % self.patch_size for side in getattr(self, name)):
                raise ValueError(
                    f"{name} is {getattr(self, name)}; both sides must be multiples of patch_size, {self.patch_size}."
                )

    def beginners_worlds(self) -> Worlds:
        """Return the worlds of the beginner."""
        return Worlds(self.small_worlds, self.small_world_size)

    def later_worlds(self) -> Worlds:
        """Return the worlds of teacher and student."""
        return Worlds(self.worlds, self.world_size, first=self.small_worlds)


def keep_plan(path: Path, plan: MiniPlan, start: str | None, photographs: Path | None) -> None:
    """Write the plan of a new run, or check that it equals the plan of the run in this folder.

    Args:
        path: File `plan.json`.
        plan: Sizes and lengths.
        start: Checkpoint that replaces the teacher.
        photographs: Folder of the photographs that the teacher labels.

    Raises:
        ValueError: The folder has another run; its finished stages would be taken for stages of this one.
    """
    folder = None if photographs is None else str(photographs.resolve())
    asked = json.loads(json.dumps(asdict(plan) | {"start": start, "photographs": folder}))
    if path.is_file():
        kept = json.loads(path.read_text())
        unlike = [f"{name} {kept.get(name)}, not {asked.get(name)}" for name in asked if kept.get(name) != asked[name]]
        if unlike:
            raise ValueError(
                f"{path.parent} holds a run with {'; '.join(unlike)}. Use the same options, or another --out."
            )
    path.write_text(json.dumps(asked, indent=1))
