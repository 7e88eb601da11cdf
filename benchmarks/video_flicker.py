"""How much does the depth of a video flicker, before and after the alignment with earlier frames, and what does it cost?

    python benchmarks/video_flicker.py                               # predictions made from the truth
    python benchmarks/video_flicker.py --model quickstart/student    # and those of a model

A camera stands still, moves sideways, walks forward or turns in procedural scenes of known depth, or stands still while
an object crosses; a last clip cuts from one scene to another. These predictions are aligned:

| predictions | |
|---|---|
| jittered | the true disparity, each frame with its own scale (10 %) and shift (5 % of the spread), and noise (3 %) |
| exact | the true disparity: the error that alignment adds if there is nothing to gain |
| metric, jittered / exact | the same in meters: scale (10 %) and noise (3 %) |
| model | the predictions of `--model`, on the unchanged frames, and with flickering exposure (10 %) and noise (2 %) |

Methods: `before` has single frames; `chain` fits each frame to the aligned one before by least squares, the obvious way;
`blind` is the aligner without the detection of cuts; `after` is the aligner.

Scores, each with ONE scale and shift (meters: one scale) for the whole clip, fitted to the truth:

| score | |
|---|---|
| temporal error | mean of |change of the prediction - change of the truth| from frame to frame, over the mean of the truth |
| jitter | standard deviation of the change, from frame to frame, of a frame's own log scale against the truth |
| AbsRel | in meters, without the sky |
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from PIL import Image
from reporting import RESULTS, report

from depth_anything_hf.maps.alignment import apply_fit, fit_scale, fit_scale_shift
from depth_anything_hf.pictures.charts import curves
from depth_anything_hf.prediction.temporal import TemporalAligner
from depth_anything_hf.scenes import simple
from depth_anything_hf.scenes.simple_layout import draw_scene

# Of each frame: meters forward and to the right, radians to the right, meters that the thing goes to the right.
MOTIONS = {
    "standing": (0.0, 0.0, 0.0, 0.0),
    "sideways": (0.0, 0.02, 0.0, 0.0),
    "forward": (0.02, 0.0, 0.0, 0.0),
    "turning": (0.0, 0.0, math.radians(0.5), 0.0),
    "thing crosses": (0.0, 0.0, 0.0, 0.04),
}
CUT = "cut"
SIZE = (48, 64)
METHODS = ("before", "chain", "blind", "after")


def moved_scenes(seed: int, motion: str, frames: int) -> Iterator:
    """Draw a scene once for each frame; the camera or an object moves one step each time."""
    forward, right, turn, thing = MOTIONS[motion]
    for i in range(frames):
        scene = draw_scene(seed, simple.LABELED_DOMAIN.outdoors)
        ahead = np.array([math.sin(scene.heading), math.cos(scene.heading), 0.0])
        beside = np.array([ahead[1], -ahead[0], 0.0])
        scene.eye = tuple(np.array(scene.eye) + i * (forward * ahead + right * beside))
        shape, x, y, *rest = scene.solids[-1]
        scene.solids[-1] = (shape, *(np.array([x, y]) + (i - frames / 2) * thing * beside[:2]), *rest)
        scene.heading += i * turn
        yield scene


def render_clip(seed: int, motion: str, frames: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Render images (frames, 3, height, width) uint8 and depth (frames, height, width) in meters, 0 at sky."""
    # `render_scenes` draws the scene of a seed itself, one after another.
    with mock.patch.object(simple, "draw_scene", side_effect=moved_scenes(seed, motion, frames)):
        scenes = simple.render_scenes([seed] * frames, *SIZE)
    return scenes.images, scenes.depth


def clips(seeds: list[int], frames: int) -> Iterator[tuple[str, torch.Tensor, torch.Tensor]]:
    """Yield name, images and depth of every clip; the last ones have two halves with a cut between."""
    for motion in MOTIONS:
        for seed in seeds:
            yield motion, *render_clip(seed, motion, frames)
    for first, second in pairwise(seeds):
        halves = [render_clip(seed, "sideways", frames // 2) for seed in (first, second)]
        yield CUT, *(torch.cat(parts) for parts in zip(*halves, strict=True))


def to_disparity(depth: torch.Tensor) -> torch.Tensor:
    return torch.where(depth > 0, 1 / depth.clamp(min=1e-3), 0.0)


def jittered(truth: torch.Tensor, space: str, generator: torch.Generator) -> torch.Tensor:
    """Apply to each frame its own scale and shift (meters: its own scale), and noise."""
    scale = torch.exp(0.1 * torch.randn(len(truth), 1, 1, generator=generator))
    noise = 0.03 * torch.randn(truth.shape, generator=generator)
    if space == "depth":
        return truth * scale * noise.exp()
    spread = truth.std()
    return truth * scale + spread * (0.05 * torch.randn(len(truth), 1, 1, generator=generator) + noise)


def disturbed(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Add flickering exposure and sensor noise."""
    gain = torch.exp(0.1 * torch.randn(len(images), 1, 1, 1, generator=generator))
    noise = 255 * 0.02 * torch.randn(images.shape, generator=generator)
    return (images * gain + noise).clamp(0, 255).round().to(torch.uint8)


def predict(predictor, images: torch.Tensor) -> torch.Tensor:
    return torch.stack([predictor(Image.fromarray(image.permute(1, 2, 0).numpy())) for image in images])


def follow(predictions: torch.Tensor, images: torch.Tensor, space: str, method: str) -> tuple[torch.Tensor, list[int]]:
    """Align a clip by one of the methods; return also the frames before which it starts again."""
    if method == "before":
        return predictions, []
    if method == "chain":
        aligned = [predictions[:1]]
        for frame in predictions[1:, None]:
            mask = (frame > 0) if space == "depth" else torch.ones_like(frame, dtype=torch.bool)
            fit = fit_scale if space == "depth" else fit_scale_shift
            found = fit(frame, aligned[-1], mask)
            aligned.append(apply_fit(frame, *(found if isinstance(found, tuple) else (found,))).float())
        return torch.cat(aligned), []
    align = TemporalAligner(space)
    seen = images if method == "after" else images[:1].expand_as(images)
    frames = [align(prediction, image) for prediction, image in zip(predictions, seen, strict=True)]
    return torch.stack([frame.values for frame in frames]), [i for i, frame in enumerate(frames) if frame.cut and i]


def score(aligned: torch.Tensor, depth: torch.Tensor, space: str) -> tuple[dict[str, float], list[float]]:
    """Score a clip; return also each frame's scale against the truth."""
    known = depth > 0
    truth = depth if space == "depth" else to_disparity(depth)
    mask = known if space == "depth" else torch.ones_like(known)
    whole = [values.reshape(1, -1, depth.shape[-1]) for values in (aligned, truth, mask)]  # one image of all frames
    found = (fit_scale(*whole), 0.0) if space == "depth" else fit_scale_shift(*whole)
    fitted = apply_fit(whole[0], *found).reshape(depth.shape)
    both = mask[1:] & mask[:-1]
    error = (fitted.diff(dim=0) - truth.diff(dim=0)).abs()[both].mean() / truth[mask].mean()
    own = fit_scale(fitted, truth, mask) if space == "depth" else fit_scale_shift(fitted, truth, mask)[0]
    meters = fitted if space == "depth" else 1 / fitted.clamp(min=1 / simple.FAR)
    abs_rel = ((meters - depth).abs() / depth.clamp(min=1e-3))[known].mean()
    scales = 1 / own.clamp(min=1e-3)
    scores = {"temporal_error": error.item(), "jitter": scales.log().diff().std().item(), "abs_rel": abs_rel.item()}
    return scores, scales.tolist()


def measure(seeds: list[int], frames: int, model_name: str | None) -> tuple[dict, dict[str, list]]:
    """Return scores by predictions, clip and method, means over the scenes, and the scales of the frames around a cut."""
    if model_name:
        from depth_anything_hf.prediction.predictor import DepthPredictor

        predictor = DepthPredictor(model_name)
    generator, rows, chart = torch.Generator().manual_seed(0), {}, {}
    for clip, images, depth in clips(seeds, frames):
        disparity = to_disparity(depth)
        kinds = {
            "jittered": ("disparity", jittered(disparity, "disparity", generator), images),
            "exact": ("disparity", disparity, images),
            "metric, jittered": ("depth", jittered(depth, "depth", generator), images),
            "metric, exact": ("depth", depth, images),
        }
        if model_name:
            rough = disturbed(images, generator)
            kinds["model"] = (predictor.space, predict(predictor, images), images)
            kinds["model, flickering frames"] = (predictor.space, predict(predictor, rough), rough)
        for kind, (space, predictions, seen) in kinds.items():
            for method in METHODS:
                aligned, cuts = follow(predictions, seen, space, method)
                scores, scales = score(aligned, depth, space)
                expected = [frames // 2] if clip == CUT else []
                found = {"found_cuts": len(set(cuts) & set(expected)), "false_cuts": len(set(cuts) - set(expected))}
                rows.setdefault(kind, {}).setdefault(clip, {}).setdefault(method, []).append(scores | found)
                if (kind, clip) == ("jittered", CUT) and method in ("before", "after"):
                    chart.setdefault(method, list(enumerate(scales)))
    means = {
        kind: {
            clip: {
                method: {name: round(float(np.mean([one[name] for one in scores])), 5) for name in scores[0]}
                for method, scores in methods.items()
            }
            for clip, methods in by_clip.items()
        }
        for kind, by_clip in rows.items()
    }
    return means, chart


def table(means: dict) -> str:
    lines = [
        "| predictions | clip | temporal error, %: before | chain | after | AbsRel: before | chain | after |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for kind, by_clip in means.items():
        for clip, methods in by_clip.items():
            errors = [f"{100 * methods[method]['temporal_error']:.2f}" for method in ("before", "chain", "after")]
            rels = [f"{methods[method]['abs_rel']:.3f}" for method in ("before", "chain", "after")]
            lines.append("| " + " | ".join([kind, clip, *errors, *rels]) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="Hub id or folder of a depth model to measure as well")
    parser.add_argument("--frames", type=int, default=48, help="frames per clip (default: %(default)s)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[3, 7], help="seeds of the scenes, at least two")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for video_flicker.json, .md and .png")
    options = parser.parse_args()
    means, chart = measure(options.seeds, options.frames, options.model)
    report("video_flicker", {"frames": options.frames, "seeds": options.seeds, "scores": means}, options.out)
    (options.out / "video_flicker.md").write_text(f"# Flicker before and after\n\n{table(means)}\n")
    curves(chart, "Scale of each frame against the truth; a cut in the middle", "frame", "scale", (300, 800)).save(
        options.out / "video_flicker.png"
    )


if __name__ == "__main__":
    main()
