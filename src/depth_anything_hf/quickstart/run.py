"""The quickstart from beginning to end."""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from PIL import Image
from transformers.utils import logging as transformers_logging

from depth_anything_hf.data.codes import upright_rgb
from depth_anything_hf.data.folder import load_folder, load_images
from depth_anything_hf.data.records import decode_record
from depth_anything_hf.data.whole_files import replacing, write_whole
from depth_anything_hf.evaluation.compare import check_records, score_models
from depth_anything_hf.evaluation.contestants import Contestant, Failure, attempt, row_prior
from depth_anything_hf.evaluation.protocols import PROTOCOLS
from depth_anything_hf.export.stock import prove_stock_pipeline
from depth_anything_hf.model.bundled import MINI
from depth_anything_hf.model.modeling import DepthAnythingForDepthEstimation
from depth_anything_hf.quickstart.experiment import (
    Plan,
    predictor,
    procedural_records,
    pseudo_label,
    save_checkpoint,
    train,
)
from depth_anything_hf.quickstart.report import draw_losses, draw_predictions, write_report
from depth_anything_hf.scenes.simple import LABELED_DOMAIN, UNLABELED_DOMAIN
from depth_anything_hf.sharing.cards import (
    BASE,
    DATA,
    ENCODER,
    PICTURE,
    Provenance,
    library_versions,
    write_model_card,
)
from depth_anything_hf.sharing.licenses import Source, source_of
from depth_anything_hf.training.encoders import load_feature_encoder

if TYPE_CHECKING:
    import datasets


def run(
    out_dir: Path,
    plan: Plan,
    unlabeled_dir: str | None = None,
    eval_dir: str | None = None,
    feature_encoder: str | None = None,
) -> dict:
    """Run the quickstart and write report, metrics, sheet, pseudo-labels and checkpoints.

    Args:
        out_dir (`Path`): Folder for everything; an earlier run in it is replaced.
        plan (`Plan`): Sizes, lengths and seed.
        unlabeled_dir (`str`, *optional*): Folder of photographs to use as the unlabeled domain.
        eval_dir (`str`, *optional*): Folder of labeled records (real ground truth) to score as well.
        feature_encoder (`str`, *optional*): Id or folder of a frozen encoder for the feature alignment.

    Returns:
        `dict`: Content of `metrics.json`; `left_out` has a line for each record, and for the photographs, that could not
        be used.

    Raises:
        FileNotFoundError: A folder contains no images.
        ValueError: No photograph can be read, or no record can be scored.
        OSError: `out_dir` cannot be written.
    """
    started = time.perf_counter()
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    out_dir.mkdir(parents=True, exist_ok=True)
    # All that the user gave first: what is wrong must fail before minutes of training.
    with tempfile.TemporaryFile(dir=out_dir):
        pass  # the folder can be written
    encoder = load_feature_encoder(feature_encoder, 0) if feature_encoder else None
    photographs = load_images(unlabeled_dir) if unlabeled_dir else None
    if photographs is not None:
        _check_photographs(photographs)
    real, left_out = (load_folder(eval_dir), list[str]()) if eval_dir else (None, [])
    if real is not None:
        usable, left_out = check_records(real)
        real = real.select(usable)
        for line in left_out:
            print(f"left out of {eval_dir}: {line}", file=sys.stderr)
    if photographs is not None and len(photographs) > plan.unlabeled:
        print(f"using the first {plan.unlabeled} of {len(photographs)} photographs (raise it with --images)")
        photographs = photographs.select(range(plan.unlabeled))

    labeled = procedural_records(plan.labeled, plan, LABELED_DOMAIN)
    unlabeled = photographs if photographs is not None else procedural_records(plan.unlabeled, plan, UNLABELED_DOMAIN)
    domains = {"labelled domain": procedural_records(plan.held_out, plan, LABELED_DOMAIN, held_out=True)}
    if photographs is None:
        domains["unlabelled domain"] = procedural_records(plan.held_out, plan, UNLABELED_DOMAIN, held_out=True)
    if real is not None:
        domains["real images"] = real

    print(f"[1/3] teacher: {plan.teacher_steps} steps on {len(labeled)} labeled scenes")
    teaching = train(plan, out_dir / "teacher", plan.teacher_steps, plan.seed, labeled)
    teacher = cast(DepthAnythingForDepthEstimation, teaching.model)
    save_checkpoint(teacher, plan, out_dir / "teacher")
    print(f"[2/3] pseudo-labels for {len(unlabeled)} unlabeled images")
    images = unlabeled_dir or unlabeled
    labels = load_folder(pseudo_label(out_dir / "teacher", plan, images, out_dir / "pseudo_labels"))
    if rejected := len(unlabeled) - len(labels):
        left_out.append(
            f"{rejected} of {len(unlabeled)} photographs were not labeled; pseudo_labels/rejects.jsonl names them"
        )
        print(left_out[-1], file=sys.stderr)
    print(f"[3/3] student: {plan.student_steps} steps on both, strong perturbation and CutMix")
    learning = train(
        plan, out_dir / "student", plan.student_steps, plan.seed + 1, labeled, labels, feature_encoder=encoder
    )
    student = cast(DepthAnythingForDepthEstimation, learning.model)
    save_checkpoint(student, plan, out_dir / "student")
    predictors: dict[str, Callable] = {
        "teacher": predictor(teacher, plan),
        "student": predictor(student, plan),
        "prior (disparity = image row)": row_prior,
    }
    scores = {
        domain: score_models(
            {name: Contestant(predict) for name, predict in predictors.items()},
            records,
            description=f"score {domain}",
            go_on=True,
        )
        for domain, records in domains.items()
    }
    failures = [
        f"{domain}, {name}: {why}"
        for domain, by_name in scores.items()
        for name, one in by_name.items()
        for why in one.failures.values()
    ]
    metrics: dict[str, Any] = {
        "plan": asdict(plan),
        "scores": {
            domain: {name: one.summary() for name, one in by_name.items()} for domain, by_name in scores.items()
        },
        **({"left_out": left_out + failures} if left_out or failures else {}),
    }
    write_whole(out_dir / "metrics.json", json.dumps(metrics, indent=2))
    draw_losses({"teacher": teaching, "student": learning}, out_dir / "training.png")
    draw_predictions(domains, scores, predictors, out_dir / "predictions.png")
    (out_dir / "student" / PICTURE).unlink(missing_ok=True)
    if real is None:  # pictures of the user are not for the card
        with replacing(out_dir / "student" / PICTURE) as partial_file:
            shutil.copy(out_dir / "predictions.png", partial_file)
    provenance = _provenance(plan, metrics["scores"], len(labeled), len(labels), unlabeled_dir, feature_encoder)
    write_model_card(out_dir / "student", provenance)
    last = list(domains.values())[-1]
    sample_images = [decode_record(last[i]).image for i in range(0, min(len(last), 50), 10)]
    with tempfile.TemporaryDirectory() as work_dir:
        difference = prove_stock_pipeline(out_dir / "student", sample_images, Path(work_dir))
    metrics["stock_pipeline_max_difference"] = difference
    metrics["seconds"] = round(time.perf_counter() - started, 1)
    write_whole(out_dir / "metrics.json", json.dumps(metrics, indent=2))
    write_whole(out_dir / "report.md", write_report(metrics, len(labels), photographs is not None))
    return metrics


def _check_photographs(photographs: datasets.Dataset) -> None:
    """Raise a `ValueError` if no photograph can be read; labeling names each that cannot."""
    first = None
    for i in range(len(photographs)):
        opened = attempt(partial(_open_photograph, photographs, i), go_on=True)
        if not isinstance(opened, Failure):
            return
        first = first or f"{photographs['source'][i]}: {opened.message}"
    raise ValueError(f"none of {len(photographs)} photographs can be read; the first is {first}")


def _open_photograph(photographs: datasets.Dataset, i: int) -> Image.Image:
    return upright_rgb(photographs[i]["image"])


def _provenance(
    plan: Plan,
    scores: dict[str, dict],
    labeled: int,
    pseudo_labeled: int,
    unlabeled_dir: str | None,
    feature_encoder: str | None,
) -> Provenance:
    """Record how the student came to be."""
    scenes = "procedural scenes of depth_anything_hf"
    start = (
        source_of(BASE, MINI) if plan.warm_start else Source(BASE, "random weights of depth_anything_hf", "apache-2.0")
    )
    sources = [start, Source(DATA, scenes, "apache-2.0")]
    losses = {"affine-invariant": 1.0}
    if unlabeled_dir:
        sources.append(source_of(DATA, unlabeled_dir, "dataset"))
    if feature_encoder:
        sources.append(source_of(ENCODER, feature_encoder))
        losses["feature alignment"] = 1.0
    protocols = {
        domain: {"name": domain, "source": "your records" if domain == "real images" else f"held-out {scenes}"}
        for domain in scores
    }
    return Provenance(
        sources=sources,
        losses=losses,
        results=[
            {"protocol": PROTOCOLS["folder"].as_json() | protocols[domain], "scores": by_name, "model": "student"}
            for domain, by_name in scores.items()
        ],
        versions=library_versions(),
        summary="A tiny student of the quickstart of depth_anything_hf: a demonstration, not a model to use.",
        training=f"{plan.student_steps} steps from {start.name} on {labeled} labeled procedural scenes and "
        f"{pseudo_labeled} images pseudo-labeled by a teacher of the same size (Depth Anything V1 step).",
        limits="Trained for minutes at a resolution of "
        f"{plan.height} x {plan.width}: it sees the layout of a scene and little of its objects.",
    )
