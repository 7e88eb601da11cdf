"""Measure the model of `train_mini.py`, and write its card.

    python examples/mini/mini_card.py mini_run --eval DIR

DIR contains labeled records of real images (docs/data_format.md); a column `scene`, if there is one, begins with "outdoor" for
outdoor images. Worlds of each kind that were not used in training are scored too. The card, `provenance.json`, the picture and
the curves of the training go to `mini_run/mini`, and the numbers to `mini_run/scores.json`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from mini_plan import STAGES
from PIL import Image

from depth_anything_hf.data.folder import load_folder
from depth_anything_hf.data.records import DepthSample
from depth_anything_hf.evaluation.compare import score_models
from depth_anything_hf.evaluation.contestants import Contestant, row_prior
from depth_anything_hf.evaluation.protocols import PROTOCOLS
from depth_anything_hf.pictures.charts import curves
from depth_anything_hf.pictures.visualization import prediction_row, sheet
from depth_anything_hf.prediction.predictor import DepthPredictor
from depth_anything_hf.scenes.worlds.rendering import LAYOUTS, WorldStyle, render_worlds
from depth_anything_hf.sharing.cards import BASE, DATA, PICTURE, Provenance, library_versions, write_model_card
from depth_anything_hf.sharing.licenses import Source

HELD_OUT = 10_000_000  # first seed of the worlds that nothing was trained on
PRIOR = "prior (disparity = image row)"
LIMITS = """\
It is small, has seen {count:,} rendered worlds and no photograph, and works at {height} x {width} pixels: expect the layout of
a scene (ground, walls, sky, objects in front) and no fine detail. It fails on thin objects, mirrors and glass, on pictures
without ground or perspective (close-ups, tilted cameras, a wall seen from the front), on animals and people (it has only seen
figures of a few solids), and at night. The last row of each kind in the picture is the worst of the scored worlds.
Use a larger checkpoint, such as depth-anything/Depth-Anything-V2-Small-hf, if a download is possible."""


def held_out_worlds(kind: str, count: int) -> list[DepthSample]:
    """Render worlds of one kind that were not used in training."""
    style, samples = WorldStyle(kinds={kind: 1.0}), []
    for seed in range(HELD_OUT, HELD_OUT + count):
        scene = render_worlds([seed], 240, 320, style)
        image = torch.movedim(scene.images[0], 0, -1).numpy()
        seen, sky = ~scene.sky[0].numpy(), scene.sky[0].numpy()
        depth = scene.depth[0].numpy()
        samples.append(DepthSample(Image.fromarray(image), depth, seen, "depth", sky, source=f"{kind}:{seed}"))
    return samples


def draw(rows_of: dict[str, list[DepthSample]], errors: dict[str, np.ndarray], predict: Callable, path: Path) -> None:
    """Draw the median and the worst world of each kind, with the model's prediction."""
    rows, captions = [], []
    for kind, samples in rows_of.items():
        order = np.argsort(errors[kind])
        for name, index in (("typical", order[len(order) // 2]), ("worst", order[-1])):
            sample = samples[index]
            predicted = predict([sample.image])[0].numpy()
            rows.append(prediction_row(sample.image, sample.values, sample.mask, sample.space, [predicted]))
            captions.append([f"{kind}, {name}", "", f"AbsRel {errors[kind][index]:.3f}"])
    sheet(rows, ["rendered world", "its depth", "mini"], cell=(150, 200), captions=captions).save(path)


def measure(folders: Mapping[str, Path], real: Sequence | None, count: int) -> tuple[dict, dict, dict]:
    """Score models and the prior; return summaries by set, the worlds, and the first model's errors on them."""
    models = {name: Contestant(DepthPredictor(str(folder), device="cpu")) for name, folder in folders.items()}
    models |= {PRIOR: Contestant(row_prior)}
    first = next(iter(models))
    sets: dict[str, Sequence] = {f"worlds: {kind}": held_out_worlds(kind, count) for kind in LAYOUTS}
    worlds = {name.removeprefix("worlds: "): samples for name, samples in sets.items()}
    if real is not None:
        sets |= {"real images": real}
        outdoor = [
            str(scene).startswith("outdoor") for scene in (real["scene"] if "scene" in real.column_names else ())
        ]
        for name, chosen in (("real images, indoors", False), ("real images, outdoors", True)):
            if rows := [i for i, one in enumerate(outdoor) if one == chosen]:
                sets[name] = real.select(rows)
    scores = {name: score_models(models, records, description=name) for name, records in sets.items()}
    errors = {kind: scores[f"worlds: {kind}"][first].scores["abs_rel"].numpy() for kind in worlds}
    summaries = {
        name: {model: table.summary() for model, table in by_model.items()} for name, by_model in scores.items()
    }
    return summaries, worlds, errors


def main(arguments: list[str] | None = None) -> int:
    """Parse, measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of train_mini.py")
    parser.add_argument("--eval", metavar="DIR", help="labeled records of real images")
    parser.add_argument("--worlds", type=int, default=40, help="held-out worlds of each kind (default: %(default)s)")
    parser.add_argument("--machine", default="2 CPU cores", help="that trained, for the card (default: %(default)s)")
    options = parser.parse_args(arguments)
    run, mini = options.run, options.run / "mini"
    plan = json.loads((run / "plan.json").read_text())
    if (other := plan["start"] or plan["photographs"]) is not None:
        parser.error(
            f"{run} learned from {other}, but the card would not mention that; measure {mini} with depth-anything-hf evaluate, "
            "and have depth-anything-hf push write its card."
        )
    real = load_folder(options.eval) if options.eval else None
    summaries, worlds, errors = measure({"mini": mini, "teacher": run / "teacher" / "model"}, real, options.worlds)
    (run / "scores.json").write_text(json.dumps(summaries, indent=1))
    draw(worlds, errors, DepthPredictor(str(mini), device="cpu"), mini / PICTURE)
    logs = {name: json.loads((run / name / "log.json").read_text()) for name in STAGES}
    series = {
        name: [
            (one["step"], one["labeled_affine_invariant_loss"])
            for one in log
            if "labeled_affine_invariant_loss" in one
        ]
        for name, log in logs.items()
    }
    curves(series, "Affine-invariant loss on rendered worlds", "step", "loss").save(run / "training.png")
    (mini / "README.md").unlink(missing_ok=True)
    write_model_card(mini, _provenance(plan, summaries, options.machine), model_id="path/to/mini")
    return 0


def _stages(plan: dict) -> list[str]:
    """Describe the length and the data of each stage."""
    batches = [plan["beginner_batch"], plan["teacher_batch"], sum(plan["student_batch"])]
    return [
        f"{plan[f'{name}_steps']:,} steps of {batch} crops of {' x '.join(map(str, plan[f'{name}_size']))} pixels"
        for name, batch in zip(STAGES, batches, strict=True)
    ]


def _provenance(plan: dict, summaries: dict, machine: str) -> Provenance:
    """Record the origin of mini."""
    facts = {"source": "real images that nothing was trained on; group: the mean of the means of their scenes"}
    (height, width), count = plan["student_size"], plan["small_worlds"] + plan["worlds"]
    facts["resize"] = f"squeezed into {height} x {width}, bicubic"
    protocols = {
        name: {"name": name}
        | facts
        | ({} if name.startswith("real") else {"source": f"worlds from seed {HELD_OUT} on"})
        for name in summaries
    }
    return Provenance(
        sources=[
            Source(BASE, "random weights of depth_anything_hf", "apache-2.0"),
            Source(DATA, "rendered worlds of depth_anything_hf", "apache-2.0"),
        ],
        license="apache-2.0",
        losses={"affine-invariant": 1.0, "gradient matching": plan["gradient_matching"]},
        recipe=plan,
        results=[
            {"protocol": PROTOCOLS["folder"].as_json() | protocols[name], "scores": by_model, "model": "mini"}
            for name, by_model in summaries.items()
        ],
        versions=library_versions(),
        summary="The small Depth Anything in the package depth_anything_hf: it works offline and may be used for anything.",
        training=f"From random weights, on {count:,} worlds rendered by depth_anything_hf with exact depth (rooms, table tops, "
        f"objects in front of a backdrop, streets, country, clutter), and nothing else: no photograph, no weights of others. "
        f"{', then '.join(_stages(plan))}, on {machine}: `python examples/mini/train_mini.py --out mini_run`.",
        limits=LIMITS.format(count=count, height=height, width=width),
    )


if __name__ == "__main__":
    raise SystemExit(main())
