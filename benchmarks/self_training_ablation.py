"""Does self-training help, and which part of it? A comparison of students with their teacher on the unlabeled domain.

    python benchmarks/self_training_ablation.py --seeds 3 --jobs 2

For each seed a teacher learns on the labeled procedural domain and labels the images of the second one. Then students
of equal size and equal steps learn, each from new weights:

| variant | learns from |
|---|---|
| labeled only | the labeled images, as long as the students |
| naive pseudo-labels | labeled and pseudo-labeled images, no perturbation |
| + strong perturbation | the same, colors and sharpness perturbed |
| + CutMix | the same, and CutMix by region (Depth Anything V1) |
| V2 | only pseudo-labeled images, gradient matching, the worst tenth trimmed |
| true labels | as naive, but with the true labels of the second domain: the upper limit |

Held-out images of the unlabeled domain are scored; no model sees their ground truth. Finished runs are kept in the work
folder, so that the same command continues where it was stopped.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import asdict, replace
from pathlib import Path

from jobs import keep_result, run_all

VARIANTS = {
    "labelled only": None,
    "naive pseudo-labels": {"strong_perturbation": False, "cutmix_probability": 0.0},
    "+ strong perturbation": {"cutmix_probability": 0.0},
    "+ CutMix": {},
    "V2 (pseudo only, trimmed)": {"preset": "v2"},
    "true labels (ceiling)": {"strong_perturbation": False, "cutmix_probability": 0.0},
}
TEACHER, CEILING = "teacher", "true labels (ceiling)"
# A student's step has as many labeled images as its teacher's, and twice as many others.
PLAN = {"held_out": 200, "teacher_steps": 1200, "student_steps": 1200, "student_batch": (8, 16)}


def run_one(seed: int, variant: str, work: Path) -> None:
    """Train and score one model of one seed, and keep its scores."""
    import torch

    from depth_anything_hf.data.folder import load_folder
    from depth_anything_hf.evaluation.compare import score_dataset
    from depth_anything_hf.quickstart.experiment import (
        Plan,
        predictor,
        procedural_records,
        pseudo_label,
        save_checkpoint,
        train,
    )
    from depth_anything_hf.scenes.simple import LABELED_DOMAIN, UNLABELED_DOMAIN

    torch.set_num_threads(1)
    plan = replace(Plan(), seed=seed, **PLAN)
    folder = work / f"seed{seed}"
    started = time.perf_counter()
    labeled = procedural_records(plan.labeled, plan, LABELED_DOMAIN)
    if variant == TEACHER:
        model = train(plan, folder / "run", plan.teacher_steps, seed, labeled, disable_tqdm=True).model
        save_checkpoint(model, plan, folder / "teacher")
        unlabeled = procedural_records(plan.unlabeled, plan, UNLABELED_DOMAIN)
        pseudo_label(folder / "teacher", plan, unlabeled, folder / "pseudo_labels")
    else:
        settings = VARIANTS[variant]
        if variant == CEILING:
            pseudo = procedural_records(plan.unlabeled, plan, UNLABELED_DOMAIN)
        else:
            pseudo = None if settings is None else load_folder(folder / "pseudo_labels")
        alone = (settings or {}).get("preset") == "v2"
        if settings is None:
            settings = {"labeled_batch_size": sum(plan.student_batch)}
        elif alone:
            settings = settings | {"unlabeled_batch_size": sum(plan.student_batch)}
        model = train(
            plan, folder / "run", plan.student_steps, seed + 1, None if alone else labeled, pseudo,
            disable_tqdm=True, **settings,
        ).model  # fmt: skip
    scores = {}
    for name, domain in (("labelled domain", LABELED_DOMAIN), ("unlabelled domain", UNLABELED_DOMAIN)):
        held_out = procedural_records(plan.held_out, plan, domain, held_out=True)
        scores[name] = score_dataset(predictor(model, plan), held_out).summary()
    keep_result(work, [TEACHER, *VARIANTS], seed, variant, scores, started)


def table(results: list[dict], seeds: int) -> str:
    """Write mean and standard deviation over the seeds, and the change against the teacher of the same seed."""
    import numpy as np

    def values(variant: str, domain: str, metric: str) -> np.ndarray:
        return np.array([r["scores"][domain][metric] for r in results if r["variant"] == variant])

    lines = [
        "| model | AbsRel ↓ | against its teacher | AbsRel in disparity ↓ | against its teacher | δ1 ↑ | labelled domain: "
        "AbsRel ↓ | δ1 ↑ |",
        "|---|---|---|---|---|---|---|---|",
    ]
    columns = [("unlabelled domain", metric) for metric in ("abs_rel", "disparity_abs_rel", "delta1")]
    columns += [("labelled domain", metric) for metric in ("abs_rel", "delta1")]
    for variant in [TEACHER, *VARIANTS]:
        cells = [variant]
        for domain, metric in columns:
            found, teacher = values(variant, domain, metric), values(TEACHER, domain, metric)
            cells.append(f"{found.mean():.3f} ± {found.std(ddof=1) if seeds > 1 else 0:.3f}")
            if domain == "unlabelled domain" and metric != "delta1":
                cells.append(f"{(found / teacher - 1).mean():+.1%}")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=2, help="models trained at once, one thread each")
    parser.add_argument("--work", type=Path, default=Path("self-training-ablation"), help="work folder, resumed from")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "self_training_ablation.json")
    parser.add_argument("--one", nargs=2, metavar=("SEED", "VARIANT"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        return run_one(int(options.one[0]), options.one[1], options.work)
    results = run_all([TEACHER, *VARIANTS], options.seeds, options.jobs, options.work)

    from reporting import report_table

    from depth_anything_hf.quickstart.experiment import Plan

    protocol = f"Held-out images of the unlabeled domain, {options.seeds} seeds, mean ± standard deviation."
    result = {"plan": asdict(replace(Plan(), **PLAN)), "results": results}
    report_table(options.out, "Self-training ablation", protocol, table(results, options.seeds), result)


if __name__ == "__main__":
    main()
