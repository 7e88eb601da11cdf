"""The whole method in minutes on a CPU: render, train a teacher, pseudo-label, train a student, score, prove.

The pieces are plain calls of the library; `benchmarks/self_training_ablation.py` calls the same ones.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tqdm.auto import tqdm
from transformers import Dinov2Config, ProgressCallback
from transformers.utils import logging as transformers_logging

from depth_anything_hf.configuration import config_for_encoder
from depth_anything_hf.data.folder import load_folder, load_images, write_image_folder
from depth_anything_hf.data.records import decode_record, encode_record
from depth_anything_hf.data.synthetic import LABELED_DOMAIN, UNLABELED_DOMAIN, Domain, iter_synthetic_records
from depth_anything_hf.evaluation.dataset import DatasetScores, row_prior, score_dataset
from depth_anything_hf.hub import results_table, write_model_card
from depth_anything_hf.image_processing import DepthAnythingImageProcessor
from depth_anything_hf.inference import predict_depth
from depth_anything_hf.modeling import DepthAnythingForDepthEstimation
from depth_anything_hf.training.arguments import DepthAnythingTrainingArguments
from depth_anything_hf.training.trainer import DepthAnythingTrainer
from depth_anything_hf.visualization import prediction_row, sheet

# Held-out scenes never share a seed with training scenes.
TRAIN_SEED, HELD_OUT_SEED, DOMAIN_STRIDE, RUN_STRIDE = 0, 500_000, 100_000, 1_000_000


@dataclass(frozen=True)
class Plan:
    """Sizes and lengths of a quickstart run: small enough for 2 CPU cores.

    Args:
        height (`int`): Of the training crop, pixels.
        width (`int`): Of the training crop, pixels.
        labeled (`int`): Procedural scenes with labels.
        unlabeled (`int`): Procedural scenes of the second domain, or the most photographs to use.
        held_out (`int`): Scenes of each domain that are only scored.
        teacher_steps (`int`): Optimiser steps of the teacher.
        student_steps (`int`): Optimiser steps of the student.
        seed (`int`): Of data, weights and training.
    """

    height: int = 64
    width: int = 80
    patch_size: int = 16
    hidden_size: int = 128
    layers: int = 4
    labeled: int = 1600
    unlabeled: int = 1600
    held_out: int = 96
    teacher_steps: int = 1500
    student_steps: int = 1500
    teacher_batch: int = 8
    student_batch: tuple[int, int] = (4, 8)  # labelled, unlabelled: 1:2, as V1
    learning_rate: float = 3e-4
    blur_sigma: tuple[float, float] = (0.1, 0.6)  # the authors' range of 0.1 to 2.0 belongs to 518 pixels
    seed: int = 0


class LossBar(ProgressCallback):
    """A progress bar that shows the loss, in place of printing every log."""

    def on_log(self, args, state, control, logs=None, **kwargs):
        if self.training_bar is not None and "loss" in (logs or {}):
            self.training_bar.set_postfix(loss=f"{float(logs['loss']):.3f}")


def procedural_records(count: int, plan: Plan, domain: Domain, held_out: bool = False) -> list[dict]:
    """Render labelled scenes of a domain in the record schema.

    Args:
        count (`int`): How many.
        plan (`Plan`): Size and seed.
        domain (`Domain`): How they look.
        held_out (`bool`): Scenes for scoring, which share no seed with training.

    Returns:
        `list[dict]`: Records with exact depth and sky.
    """
    seed = plan.seed * RUN_STRIDE + (HELD_OUT_SEED if held_out else TRAIN_SEED)
    seed += DOMAIN_STRIDE * (domain is UNLABELED_DOMAIN)
    scenes = iter_synthetic_records(count, plan.height, plan.width, seed=seed, domain=domain)
    kind = "held-out" if held_out else "training"
    return [
        encode_record(
            scene["image"],
            scene["depth"],
            mask=scene["depth"] > 0,
            sky=scene["sky"],
            intrinsics=scene["intrinsics"],
            source=scene["source"],
        )
        for scene in tqdm(scenes, total=count, desc=f"render {kind} scenes, {domain.name}", unit="scene")
    ]


def new_model(plan: Plan, seed: int) -> DepthAnythingForDepthEstimation:
    """Build a tiny Depth Anything with random weights: a DINOv2 encoder and a DPT decoder."""
    encoder = Dinov2Config(
        image_size=plan.width,
        patch_size=plan.patch_size,
        hidden_size=plan.hidden_size,
        num_hidden_layers=plan.layers,
        num_attention_heads=plan.hidden_size // 32,
        initializer_range=0.07,  # 0.02 is made for widths of 384 and more; at 128 it stalls the first hundreds of steps
    )
    config = config_for_encoder(encoder)
    config.head_hidden_size = 16  # half: its convolution runs at full resolution, and is the dearest of all
    torch.manual_seed(seed)
    return DepthAnythingForDepthEstimation(config)


def new_processor(plan: Plan) -> DepthAnythingImageProcessor:
    """Make the processor of a quickstart model."""
    return DepthAnythingImageProcessor(
        size={"height": plan.height, "width": plan.width}, ensure_multiple_of=plan.patch_size
    )


def train(
    plan: Plan,
    output_dir: Path,
    steps: int,
    seed: int,
    labeled: Sequence[dict] | None = None,
    unlabeled=None,
    feature_encoder: str | None = None,
    **arguments,
) -> DepthAnythingForDepthEstimation:
    """Train a fresh tiny model with `DepthAnythingTrainer`, on one stream or two.

    Args:
        plan (`Plan`): Sizes.
        output_dir (`Path`): For the Trainer.
        steps (`int`): Optimiser steps.
        seed (`int`): Of weights and training.
        labeled (*optional*): Labelled records.
        unlabeled (*optional*): Pseudo-labelled records.
        feature_encoder (`str`, *optional*): Id or folder of a frozen encoder to align with; left out, no alignment.
        arguments: Further `DepthAnythingTrainingArguments`, which win.

    Returns:
        `DepthAnythingForDepthEstimation`: The trained model, on the CPU or the accelerator that is there.
    """
    settings = {
        "preset": "v1",
        "labeled_batch_size": plan.student_batch[0] if unlabeled is not None else plan.teacher_batch,
        "unlabeled_batch_size": plan.student_batch[1],
        "max_steps": steps,
        "learning_rate": plan.learning_rate,
        "decoder_lr_multiplier": 2.0,  # 10 is for a pretrained encoder; this one is as fresh as its decoder
        "warmup_steps": steps // 20,
        "lr_scheduler_type": "cosine",
        "feature_alignment_weight": 1.0 if feature_encoder else 0.0,
        "perturbation_kwargs": {"blur_sigma": plan.blur_sigma},
        "seed": seed,
        "logging_steps": max(steps // 40, 1),
        "save_strategy": "no",
        "report_to": "none",
        "dataloader_pin_memory": torch.cuda.is_available(),
    }
    trainer = DepthAnythingTrainer(
        new_model(plan, seed),
        DepthAnythingTrainingArguments(str(output_dir), **(settings | arguments)),
        new_processor(plan),
        train_dataset=labeled,
        unlabeled_dataset=unlabeled,
        feature_encoder=feature_encoder,
    )
    if not trainer.args.disable_tqdm:
        trainer.remove_callback(ProgressCallback)
        trainer.add_callback(LossBar)
    trainer.train()
    return trainer.model


def pseudo_label(teacher: DepthAnythingForDepthEstimation, plan: Plan, images, out_dir: Path, overwrite=False) -> Path:
    """Write the teacher's disparity for each image to disk in the record schema.

    Args:
        teacher (`DepthAnythingForDepthEstimation`): Labels the images as they are.
        plan (`Plan`): Sizes; the images are stored at the size the teacher saw.
        images: Records; only their `image` and `source` are read, never a label.
        out_dir (`Path`): Folder to write.
        overwrite (`bool`): Replace an earlier run's labels.

    Returns:
        `Path`: The folder.
    """
    processor = new_processor(plan)

    def labeled():
        for record in tqdm(images, desc="pseudo-label", unit="image"):
            sample = decode_record({key: record[key] for key in ("image", "source") if key in record})
            height, width = processor.input_size(sample.image.height, sample.image.width)
            image = sample.image.resize((width, height), Image.Resampling.BICUBIC)
            disparity = predict_depth(teacher, processor, [image])[0].numpy()
            yield encode_record(image, disparity, space="disparity", source=sample.source)

    return write_image_folder(labeled(), out_dir, overwrite=overwrite)


def predictor(model: DepthAnythingForDepthEstimation, plan: Plan) -> Callable[[Sequence[Image.Image]], list[torch.Tensor]]:
    """Make the function that predicts full-size depth with a quickstart model."""
    processor = new_processor(plan)
    return lambda images: predict_depth(model, processor, images)


PROOF = """
import json, sys
sys.modules["depth_anything_hf"] = None  # importing it now raises ImportError
try:
    import depth_anything_hf
except ImportError:
    pass
else:
    sys.exit("depth_anything_hf could be imported")
import numpy as np
from transformers import pipeline
folder, images, out = sys.argv[1], json.loads(sys.argv[2]), sys.argv[3]
depths = [result["predicted_depth"].numpy() for result in map(pipeline("depth-estimation", model=folder), images)]
np.savez(out, *depths)
"""


def prove_stock_pipeline(folder: Path, images: Sequence[Image.Image], work_dir: Path) -> float:
    """Load a checkpoint in stock `pipeline("depth-estimation")`, in a process that cannot import this package.

    Args:
        folder (`Path`): Checkpoint with model and processor.
        images (`Sequence[Image.Image]`): To predict; any sizes.
        work_dir (`Path`): For the images and the stock predictions.

    Returns:
        `float`: The largest difference between stock depth and ours.

    Raises:
        RuntimeError: The stock pipeline failed; the message has its output.
    """
    work_dir.mkdir(parents=True, exist_ok=True)
    paths = [str(work_dir / f"{i}.png") for i in range(len(images))]
    for image, path in zip(images, paths, strict=True):
        image.save(path)
    out = work_dir / "stock.npz"
    done = subprocess.run(
        [sys.executable, "-c", PROOF, str(folder), json.dumps(paths), str(out)], capture_output=True, text=True
    )
    if done.returncode:
        raise RuntimeError(f"stock transformers could not run {folder}:\n{done.stdout}\n{done.stderr}")
    model = DepthAnythingForDepthEstimation.from_pretrained(folder)
    processor = DepthAnythingImageProcessor.from_pretrained(folder, resize_method="minimal")
    ours = predict_depth(model, processor, [Image.open(path) for path in paths], mode="bicubic")
    with np.load(out) as stock:
        return max(float(np.abs(stock[f"arr_{i}"] - depth.numpy()).max()) for i, depth in enumerate(ours))


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
        unlabeled_dir (`str`, *optional*): Photographs to use as the unlabelled domain.
        eval_dir (`str`, *optional*): Labelled records (real ground truth) to score on as well.
        feature_encoder (`str`, *optional*): Frozen encoder for the alignment loss.

    Returns:
        `dict`: What `metrics.json` holds.

    Raises:
        FileNotFoundError: A folder holds no images.
    """
    started = time.perf_counter()
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    out_dir.mkdir(parents=True, exist_ok=True)
    # The user's folders first: a wrong path must not cost the minutes of training.
    photographs = load_images(unlabeled_dir) if unlabeled_dir else None
    real = load_folder(eval_dir) if eval_dir else None
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

    print(f"[1/3] teacher: {plan.teacher_steps} steps on {len(labeled)} labelled scenes")
    teacher = train(plan, out_dir / "teacher", plan.teacher_steps, plan.seed, labeled)
    _save(teacher, plan, out_dir / "teacher")
    print(f"[2/3] pseudo-labels for {len(unlabeled)} unlabelled images")
    labels = load_folder(pseudo_label(teacher, plan, unlabeled, out_dir / "pseudo_labels", overwrite=True))
    print(f"[3/3] student: {plan.student_steps} steps on both, strong perturbation and CutMix")
    student = train(
        plan, out_dir / "student", plan.student_steps, plan.seed + 1, labeled, labels, feature_encoder=feature_encoder
    )
    predictors = {
        "teacher": predictor(teacher, plan),
        "student": predictor(student, plan),
        "prior (disparity = image row)": row_prior,
    }
    scores = {
        domain: {name: score_dataset(predict, records, description=f"score {name} on {domain}")
                 for name, predict in predictors.items()}
        for domain, records in domains.items()
    }  # fmt: skip
    metrics = {
        "plan": asdict(plan),
        "scores": {domain: {name: one.summary() for name, one in by_name.items()} for domain, by_name in scores.items()},
    }
    draw_predictions(domains, scores, predictors, out_dir / "predictions.png")
    _save(student, plan, out_dir / "student")
    write_model_card(
        out_dir / "student",
        metrics["scores"],
        "student",
        summary="A tiny student of the quickstart of depth_anything_hf: a demonstration, not a model to use.",
        training=f"{plan.student_steps} steps from random weights on {len(labeled)} labelled procedural scenes and "
        f"{len(unlabeled)} images pseudo-labelled by a teacher of the same size (Depth Anything V1 step).",
        limits="Trained for minutes at a resolution of "
        f"{plan.height} x {plan.width}: it sees the layout of a scene and little of its objects.",
    )
    last = list(domains.values())[-1]
    sample_images = [decode_record(last[i]).image for i in range(0, min(len(last), 50), 10)]
    metrics["stock_pipeline_max_difference"] = prove_stock_pipeline(
        out_dir / "student", sample_images, out_dir / "stock_pipeline"
    )
    metrics["seconds"] = round(time.perf_counter() - started, 1)
    (out_dir / "metrics.json").write_text(json.dumps(metrics, indent=2))
    (out_dir / "report.md").write_text(write_report(metrics, len(unlabeled), photographs is not None))
    return metrics


def _save(model: DepthAnythingForDepthEstimation, plan: Plan, folder: Path) -> None:
    model.save_pretrained(folder)
    new_processor(plan).save_pretrained(folder)


def draw_predictions(domains: dict, scores: dict[str, dict[str, DatasetScores]], predictors: dict, path: Path) -> None:
    """Draw image, ground truth, teacher and student for a few images of each domain, with their AbsRel."""
    rows, captions = [], []
    for domain, records in domains.items():
        count = 6 if domain == "real images" else 4
        for i in np.linspace(0, len(records) - 1, min(count, len(records))).round().astype(int).tolist():
            sample = decode_record(records[i])
            depths = [predictors[name]([sample.image])[0].numpy() for name in ("teacher", "student")]
            rows.append(prediction_row(sample.image, sample.values, sample.mask, sample.space, depths))
            errors = (scores[domain][name].scores["abs_rel"][i].item() for name in ("teacher", "student"))
            captions.append([domain, "", *(f"AbsRel {error:.3f}" for error in errors)])
    sheet(rows, ["image", "ground truth", "teacher", "student"], cell=(150, 200), captions=captions).save(path)


def write_report(metrics: dict, unlabeled: int, photographs: bool) -> str:
    """Write the report of a run in Markdown."""
    plan = metrics["plan"]
    kind = "photographs of yours" if photographs else "procedural scenes of a second domain"
    return f"""# Quickstart report

A teacher of {plan["teacher_steps"]} steps on {plan["labeled"]} labelled procedural scenes labelled {unlabeled} {kind};
a fresh student learnt from both in {plan["student_steps"]} steps (Depth Anything V1: 1:2 batch, strong colour
perturbation, CutMix by region). Both models are tiny and started from random weights: minutes of training, not a model
to use.

{results_table(metrics["scores"])}

Each prediction is aligned with its ground truth by scale and shift in disparity; scores are means over images, or over
the means of groups of images of one scene. `predictions.png` shows some of them.

Stock `transformers.pipeline("depth-estimation", model="student")`, in a process without this package, agrees with our
own prediction to {metrics["stock_pipeline_max_difference"]:.1e}. The run took {metrics["seconds"]:.0f} s.

| file | what it is |
|---|---|
| `student/` | checkpoint with processor and card, loads in plain transformers |
| `teacher/` | the teacher's checkpoint |
| `pseudo_labels/` | the teacher's labels, `load_dataset("imagefolder", data_dir=...)` |
| `predictions.png` | image, ground truth, teacher, student |
| `metrics.json` | all numbers |
"""
