"""The steps of a small self-training experiment; the ablation benchmark uses them too."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from tqdm.auto import tqdm
from transformers import Dinov2Config, ProgressCallback

from depth_anything_hf.data.records import encode_record
from depth_anything_hf.data.whole_files import filling
from depth_anything_hf.labeling.arguments import LabelingArguments
from depth_anything_hf.labeling.engine import label_images
from depth_anything_hf.model.bundled import MINI, checkpoint_folder
from depth_anything_hf.model.configuration import config_for_encoder
from depth_anything_hf.model.image_processing import DepthAnythingImageProcessor
from depth_anything_hf.model.modeling import DepthAnythingForDepthEstimation
from depth_anything_hf.prediction.predictor import DepthPredictor
from depth_anything_hf.scenes.simple import UNLABELED_DOMAIN, Domain, iter_synthetic_records
from depth_anything_hf.training.arguments import DepthAnythingTrainingArguments
from depth_anything_hf.training.trainer import DepthAnythingTrainer

# Held-out scenes never share a seed with training scenes.
TRAIN_SEED, HELD_OUT_SEED, DOMAIN_STRIDE, RUN_STRIDE = 0, 500_000, 100_000, 1_000_000


@dataclass(frozen=True)
class Plan:
    """Sizes and lengths of a quickstart run: small enough for 2 CPU cores.

    Args:
        height (`int`): Height of the training crop, pixels.
        width (`int`): Width of the training crop, pixels.
        patch_size (`int`): Patch size of the encoder, pixels; both sides of the crop are multiples of it.
        hidden_size (`int`): Width of the encoder, a multiple of 32.
        layers (`int`): Number of blocks of the encoder.
        labeled (`int`): Number of procedural scenes with labels.
        unlabeled (`int`): Number of procedural scenes of the second domain, or the most photographs to use.
        held_out (`int`): Number of scenes of each domain that are only scored.
        teacher_steps (`int`): Optimizer steps of the teacher.
        student_steps (`int`): Optimizer steps of the student.
        teacher_batch (`int`): Labeled images in a step of the teacher.
        student_batch (`tuple[int, int]`): Labeled and unlabeled images in a step of the student.
        learning_rate (`float`): Learning rate of the encoder; the decoder's is twice as high.
        blur_sigma (`tuple[float, float]`): Range of the strong view's blur, pixels.
        seed (`int`): Seed of data, weights and training.
        warm_start (`bool`): Start from `mini`, which comes with the package, instead of random weights; the sizes must be
            those of `warm_plan`.
    """

    height: int = 64
    width: int = 80
    patch_size: int = 16
    hidden_size: int = 128
    layers: int = 4
    labeled: int = 1600
    unlabeled: int = 1600
    held_out: int = 96
    teacher_steps: int = 1200
    student_steps: int = 1200
    teacher_batch: int = 8
    student_batch: tuple[int, int] = (4, 8)  # labeled, unlabeled: 1:2, as in V1
    learning_rate: float = 3e-4
    blur_sigma: tuple[float, float] = (0.1, 0.6)  # the authors' range of 0.1 to 2.0 is for 518 pixels
    seed: int = 0
    warm_start: bool = False


def warm_plan(**sizes) -> Plan:
    """Plan a quickstart that starts from `mini`: its sizes, fewer steps and a lower learning rate.

    Args:
        sizes: Fields of `Plan` to override.

    Returns:
        `Plan`: The plan.
    """
    processor = DepthAnythingImageProcessor.from_pretrained(checkpoint_folder(MINI))
    own: dict[str, Any] = {"height": processor.size["height"], "width": processor.size["width"]}
    own |= {"patch_size": processor.ensure_multiple_of, "labeled": 800, "unlabeled": 800}
    own |= {"teacher_steps": 300, "student_steps": 300, "learning_rate": 5e-5}
    return Plan(**(own | sizes), warm_start=True)


class LossBar(ProgressCallback):
    """Show the loss in the progress bar instead of printing every log."""

    def on_log(self, args, state, control, logs=None, **kwargs):
        """Update the loss in the bar."""
        if self.training_bar is not None and "loss" in (logs or {}):
            self.training_bar.set_postfix(loss=f"{float(logs['loss']):.3f}")


def procedural_records(count: int, plan: Plan, domain: Domain, held_out: bool = False) -> list[dict]:
    """Render labeled scenes of a domain in the record schema.

    Args:
        count (`int`): Number of scenes.
        plan (`Plan`): Size and seed.
        domain (`Domain`): Look of the scenes.
        held_out (`bool`): Whether they are for scoring and share no seed with training.

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
    """Build a tiny Depth Anything with random weights; or load `mini`, for a plan with `warm_start`."""
    if plan.warm_start:
        model = DepthAnythingForDepthEstimation.from_pretrained(checkpoint_folder(MINI))
        return model.to(memory_format=torch.channels_last)
    encoder = Dinov2Config(
        image_size=plan.width,
        patch_size=plan.patch_size,
        hidden_size=plan.hidden_size,
        num_hidden_layers=plan.layers,
        num_attention_heads=plan.hidden_size // 32,
        initializer_range=0.07,  # 0.02 is for widths of 384 and more; at 128 the first hundreds of steps would learn nothing
    )
    config = config_for_encoder(encoder)
    # A decoder of half the width halves the time of a step, and is as good at this size of encoder.
    config.neck_hidden_sizes, config.fusion_hidden_size, config.head_hidden_size = [24, 48, 96, 96], 32, 16
    torch.manual_seed(seed)
    model = DepthAnythingForDepthEstimation(config)
    # Channels last saves a sixth of a step on a CPU.
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-arg]  # transformers wraps `to` without types


def new_processor(plan: Plan) -> DepthAnythingImageProcessor:
    """Build the processor of a quickstart model."""
    return DepthAnythingImageProcessor(
        size={"height": plan.height, "width": plan.width},
        ensure_multiple_of=plan.patch_size,
        keep_aspect_ratio=not plan.warm_start,  # mini squeezes every image into its one shape
    )


def train(
    plan: Plan,
    output_dir: Path,
    steps: int,
    seed: int,
    labeled: Sequence[dict] | None = None,
    unlabeled=None,
    feature_encoder: str | nn.Module | None = None,
    **arguments,
) -> DepthAnythingTrainer:
    """Train a fresh tiny model with `DepthAnythingTrainer`, on labeled images, with or without pseudo-labeled ones.

    Args:
        plan (`Plan`): Sizes.
        output_dir (`Path`): Folder of the Trainer.
        steps (`int`): Optimizer steps.
        seed (`int`): Seed of weights and training.
        labeled (*optional*): Labeled records.
        unlabeled (*optional*): Pseudo-labeled records.
        feature_encoder (`str` or `nn.Module`, *optional*): A frozen encoder for the feature alignment, its id or folder.
            Default: no alignment.
        arguments: `DepthAnythingTrainingArguments` to override.

    Returns:
        `DepthAnythingTrainer`: The trainer after training, with `model` and `state.log_history`.
    """
    settings: dict[str, Any] = {
        "preset": "v1",
        "labeled_batch_size": plan.student_batch[0] if unlabeled is not None else plan.teacher_batch,
        "unlabeled_batch_size": plan.student_batch[1],
        "max_steps": steps,
        "learning_rate": plan.learning_rate,
        "decoder_lr_multiplier": 2.0,  # 10 is for a pretrained encoder; here both parts are new
        "warmup_steps": steps // 20,
        "lr_scheduler_type": "cosine",
        "feature_alignment_weight": 0.0 if feature_encoder is None else 1.0,
        "perturbation_kwargs": {"blur_sigma": plan.blur_sigma},
        "seed": seed,
        "logging_steps": max(steps // 40, 1),
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": False,  # the stock default follows the log level
        "dataloader_pin_memory": torch.cuda.is_available(),
    }
    trainer = DepthAnythingTrainer(
        new_model(plan, seed),
        DepthAnythingTrainingArguments(str(output_dir), **(settings | arguments)),
        train_dataset=labeled,
        processing_class=new_processor(plan),
        unlabeled_dataset=unlabeled,
        feature_encoder=feature_encoder,
    )
    if not trainer.args.disable_tqdm:
        trainer.remove_callback(ProgressCallback)
        trainer.add_callback(LossBar)
    trainer.train()
    return trainer


def save_checkpoint(model: DepthAnythingForDepthEstimation, plan: Plan, folder: Path) -> None:
    """Save a quickstart model with its processor."""
    with filling(folder) as hidden:
        model.save_pretrained(hidden)
        new_processor(plan).save_pretrained(hidden)


def pseudo_label(teacher: Path, plan: Plan, images: str | Sequence[dict], out_dir: Path) -> Path:
    """Label images with a saved teacher and the labeling engine; labels of an earlier run are replaced.

    Args:
        teacher (`Path`): Checkpoint folder.
        plan (`Plan`): Sizes, and the largest number of images.
        images (`str` or `Sequence[dict]`): Folder of photographs, or records; only `image` and `source` of a record are
            read, never a label.
        out_dir (`Path`): Output folder.

    Returns:
        `Path`: The folder.
    """
    shutil.rmtree(out_dir, ignore_errors=True)
    keep_image = "resized"  # photographs are large
    if not isinstance(images, str):
        images, keep_image = str(_save_images(images, out_dir.parent / "unlabeled")), "original"
    settings = LabelingArguments(
        str(teacher),
        images,
        str(out_dir),
        resolution=plan.height,
        limit=plan.unlabeled,
        keep_image=keep_image,
        batch_size=32,
        device="cpu",
        num_workers=1,
    )
    label_images(settings)
    return out_dir


def _save_images(records: Sequence[dict], folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for record in records:
        record["image"].save(folder / f"{record['source'].replace(':', '-')}.png")
    return folder


def predictor(model: DepthAnythingForDepthEstimation, plan: Plan) -> DepthPredictor:
    """Return a predictor with a quickstart model."""
    return DepthPredictor.from_model(model, new_processor(plan))
