"""What helps in the training of `mini`? The same short training, with one part changed at a time.

    python benchmarks/mini_ablation.py --eval DIR --jobs 2

Every model starts from random weights and trains the same number of steps on the same number of worlds; the second stage
continues from the weights of the first. DIR contains labeled records of real images (docs/mini.md); held-out worlds are
scored too. The runs are much shorter than `examples/mini/train_mini.py`: they rank the parts, but do not show how good the
model becomes. Finished runs are kept in the work folder, so that the same command continues where it was stopped.
"""

from __future__ import annotations

import argparse
import functools
import json
import sys
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace

from jobs import keep_result, run_all

ROOT = Path(__file__).parents[1]
ALL = "all"
QUICKSTART = "the quickstart's renderer"  # three kinds of scenes, some ten solids, plain light


@dataclass(frozen=True)
class Variant:
    """Describe the changed part."""

    part: str
    plan: dict = field(default_factory=dict)  # of `MiniPlan`
    style: dict = field(default_factory=dict)  # of `WorldStyle`
    second_stage: str | None = None  # its data, after `ALL`


VARIANTS = {
    ALL: Variant(""),
    "another seed": Variant("chance", {"seed": 1}),  # differences of this size are chance
    QUICKSTART: Variant("renderer"),
    "plain surfaces": Variant("renderer", style={"textures": False}),
    "no shadows": Variant("renderer", style={"shadows": False}),
    "ideal camera": Variant("renderer", style={"sensor": False}),
    "no squeezed views": Variant("renderer", style={"squeeze": 0.0}),
    "rooms alone": Variant("renderer", style={"kinds": {"room": 1.0}}),
    "no close-ups": Variant("renderer", style={"kinds": {"room": 0.36, "street": 0.2, "country": 0.1}}),
    "a third of the worlds": Variant("renderer", {"small_worlds": 1024}),
    "gradient matching 0": Variant("loss", {"gradient_matching": 0.0}),
    "gradient matching 0.5": Variant("loss", {"gradient_matching": 0.5}),
    "no change of colours": Variant("augmentation", {"color_probability": 0.0}),
    "width 64": Variant("capacity", {"hidden_size": 64}),
    "width 192": Variant("capacity", {"hidden_size": 192}),
    "as long again": Variant("second stage", second_stage="worlds"),
    "at 72 x 96": Variant("second stage", {"beginner_size": (72, 96)}, second_stage="worlds"),
    "at 72 x 96, other worlds with the teacher's labels": Variant(
        "second stage", {"beginner_size": (72, 96)}, second_stage="labels"
    ),
}
# fmt: off
SIZES = {
    "plan": {
        "small_worlds": 3072, "small_world_size": (96, 128), "beginner_size": (48, 64), "beginner_steps": 1000,
        "beginner_batch": 24,
    },
    "second_steps": 300,
    "labelled_worlds": 1024,  # of the last variant, whose true depth is not read
    "held_out_worlds": 16,  # of each kind
}
# fmt: on


@functools.cache
def mini() -> SimpleNamespace:
    """Import the parts of the example when they are needed."""
    sys.path.insert(0, str(ROOT / "examples" / "mini"))
    import mini_card
    import mini_data
    import mini_model
    import train_mini

    return SimpleNamespace(card=mini_card, data=mini_data, model=mini_model, train=train_mini)


def numbered(folder: Path, name: str) -> Path:
    """Return the folder of a variant."""
    return folder / str(list(VARIANTS).index(name))


def style_name(name: str) -> str:
    """Return the variant whose worlds a variant learns from."""
    return name if name == QUICKSTART or VARIANTS[name].style else ALL


def render(names: list[str], work: Path, plan: dict, processes: int) -> None:
    """Render the worlds of every style, in the parent process: its workers use all cores."""
    parts = mini()
    sizes = replace(parts.train.MiniPlan(), **plan)
    for name in dict.fromkeys(style_name(name) for name in names):
        if name != QUICKSTART:
            style = parts.data.WorldStyle(**VARIANTS[name].style)
            worlds = parts.data.Worlds(sizes.small_worlds, sizes.small_world_size, style=style)
            parts.data.render_to(numbered(work / "worlds", name), worlds, "cpu", processes)


def worlds_of(name: str, work: Path, plan):
    """Return the records that a variant learns from."""
    parts, style = mini(), style_name(name)
    if style != QUICKSTART:
        return parts.data.RenderedWorlds(numbered(work / "worlds", style), plan.small_worlds)
    from depth_anything_hf.data.records import DepthSample
    from depth_anything_hf.scenes.simple import iter_synthetic_records

    scenes = iter_synthetic_records(plan.small_worlds, *plan.small_world_size)
    return [DepthSample(one["image"], one["depth"], ~one["sky"], "depth", one["sky"]) for one in scenes]


def teacher_labels(folder: Path, teacher: Path, parts: SimpleNamespace, plan, count: int):
    """Let the teacher label worlds that it never saw; return the records."""
    from depth_anything_hf import LabelingArguments, label_images, load_folder

    pictures = folder / "pictures"
    pictures.mkdir(parents=True, exist_ok=True)
    worlds = parts.data.LiveWorlds(
        parts.data.Worlds(count, plan.small_world_size, first=parts.card.HELD_OUT // 2), "cpu"
    )
    for index in range(count):
        worlds[index].image.save(pictures / f"{index}.png")
    settings = (str(teacher), str(pictures), str(folder / "labels"))
    label_images(LabelingArguments(*settings, resolution=plan.beginner_size[0], device="cpu", keep_image="resized"))
    return load_folder(folder / "labels")


def train_one(seed: int, name: str, work: Path, sizes: dict) -> Path:
    """Train one model and return its folder."""
    parts, variant = mini(), VARIANTS[name]
    train = parts.train
    plan = replace(train.MiniPlan(), **({"seed": seed} | sizes["plan"] | variant.plan))
    folder = numbered(work / f"seed{seed}", name)
    data = {"train_dataset": worlds_of(name, work, plan)}
    batch, rate, steps = (plan.beginner_batch, 0), plan.learning_rate, plan.beginner_steps
    if variant.second_stage:
        first = numbered(work / f"seed{seed}", ALL) / "model"
        model = train.DepthAnythingForDepthEstimation.from_pretrained(first)
        rate, steps = rate / 2, sizes["second_steps"]
        if variant.second_stage == "labels":
            batch = (plan.beginner_batch // 2, plan.beginner_batch // 2)
            data["unlabeled_dataset"] = teacher_labels(folder, first, parts, plan, sizes["labelled_worlds"])
    else:
        model = parts.model.new_model(plan.hidden_size, plan.layers, plan.patch_size, plan.seed)
    stage = train.Stage(plan.beginner_size, steps, batch, rate)
    train.train(model, folder, plan, stage, train.Deadline(float("inf")), **data)
    parts.model.new_processor(plan.beginner_size, plan.patch_size).save_pretrained(folder / "model")
    return folder / "model"


def run_one(seed: int, name: str, work: Path, real: str | None, sizes: dict) -> None:
    """Train and score one model, and keep its scores."""
    from depth_anything_hf.data.folder import load_folder

    started = time.perf_counter()
    folder = train_one(seed, name, work, sizes)
    summaries, *_ = mini().card.measure(
        {"mini": folder}, load_folder(real) if real else None, sizes["held_out_worlds"]
    )
    log = json.loads((folder.parent / "log.json").read_text())
    scores = {on: found["mini"] for on, found in summaries.items()}
    scores["loss"] = [row["labeled_affine_invariant_loss"] for row in log if "labeled_affine_invariant_loss" in row]
    keep_result(work, list(VARIANTS), seed, name, scores, started)


def table(results: list[dict]) -> str:
    """Write a row for every run; two seeds of one variant show the effect of chance."""
    import numpy as np

    sets = [name for name in results[0]["scores"] if name != "loss"]
    held_out = [name for name in sets if name.startswith("worlds")]
    columns = [(name, [name], "group_") for name in sets if name.startswith("real")]
    columns.append(("held-out worlds", held_out, ""))
    head = ["changed", "variant", "seed", "loss at the end", *(name for name, _, _ in columns)]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for one in results:
        scores, loss = one["scores"], np.mean(one["scores"]["loss"][-8:])
        variant = VARIANTS[one["variant"]]
        cells = [variant.part, one["variant"], str(variant.plan.get("seed", one["seed"])), f"{loss:.3f}"]
        for _, members, prefix in columns:
            pair = (np.mean([scores[on][prefix + metric] for on in members]) for metric in ("abs_rel", "delta1"))
            cells.append(" / ".join(f"{value:.3f}" for value in pair))
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--eval", metavar="DIR", help="labeled records of real images")
    parser.add_argument(
        "--variants",
        nargs="+",
        choices=list(VARIANTS),
        default=list(VARIANTS),
        help=f"some of them; {ALL!r} is always run",
    )
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=2, help="models trained at once, one thread each")
    parser.add_argument("--work", type=Path, default=Path("mini-ablation"), help="work folder, resumed from")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "mini_ablation.json")
    parser.add_argument("--sizes", type=json.loads, default={}, metavar="JSON", help="other lengths than those above")
    parser.add_argument("--one", nargs=2, metavar=("SEED", "VARIANT"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    sizes = SIZES | options.sizes
    if options.one:
        return run_one(int(options.one[0]), options.one[1], options.work, options.eval, sizes)
    names = list(dict.fromkeys([ALL, *options.variants]))
    render(names, options.work, sizes["plan"], options.jobs)
    passed = ["--sizes", json.dumps(options.sizes), *(["--eval", options.eval] if options.eval else [])]
    results = run_all(list(VARIANTS), options.seeds, options.jobs, options.work, passed, names)

    from reporting import report_table

    protocol = f"AbsRel ↓ / δ1 ↑ after {sizes['plan']['beginner_steps']} steps (a second stage: {sizes['second_steps']} more)."
    result = {"sizes": sizes, "results": results}
    report_table(options.out, "What pays in the training of mini", protocol, table(results), result)


if __name__ == "__main__":
    main()
