"""The facts about a trained model that its trainer knows, for the model's card."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from depth_anything_hf.losses.terms import Weight, weight_at
from depth_anything_hf.sharing.cards import (
    BASE,
    DATA,
    ENCODER,
    PICTURE,
    TEACHER,
    Provenance,
    library_versions,
    put_picture,
    write_model_card,
)
from depth_anything_hf.sharing.licenses import UNKNOWN, Source, source_of
from depth_anything_hf.training.batches import is_stream

_RECIPE = (  # fields of the arguments, as named on the card
    "preset", "learning_rate", "decoder_lr_multiplier", "weight_decay", "adam_beta1", "adam_beta2", "max_grad_norm",
    "lr_scheduler_type", "warmup_steps", "one_cycle_warmup", "gradient_accumulation_steps", "bf16", "fp16",
    "flip_probability", "zoom", "color_ranges", "seed",
)  # fmt: skip
_STUDENT = ("trim_fraction", "strong_perturbation", "perturbation_kwargs", "cutmix_probability")


def write_trainer_card(
    trainer: Any,
    license: str | None = None,
    model_name: str | None = None,
    finetuned_from: str | None = None,
    dataset: str | Sequence[str] | None = None,
    dataset_tags: str | Sequence[str] | None = None,
    **others: Any,
) -> Path:
    """Write the card of the model that a trainer saved in its `output_dir`.

    Args:
        trainer (`DepthAnythingTrainer`): After training.
        license (`str`, *optional*): Default: the inherited one.
        model_name (`str`, *optional*): Default: the name on the Hub or of the folder.
        finetuned_from (`str`, *optional*): Base weights, Hub id or folder. Default: the name from which the model was loaded.
        dataset (`str` or `Sequence[str]`, *optional*): Training data: Hub ids, folders, `NAME:FOLDER` of benchmarks, or
            free text; the card must respect their licenses.
        dataset_tags (`str` or `Sequence[str]`, *optional*): The same, under the name of the stock method.
        others: Further arguments of the stock `create_model_card`, not used here.

    Returns:
        `Path`: The card.

    Raises:
        ValueError: The stated license allows more than a source does.
    """
    data = dataset or dataset_tags
    provenance = Provenance(
        sources=_sources(trainer, finetuned_from, [data] if isinstance(data, str) else data),
        license=license,
        losses=_losses(trainer),
        recipe=_recipe(trainer),
        results=_results(trainer),
        versions=library_versions(),
        training=_training(trainer),
    )
    folder = Path(trainer.args.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    if not (trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled):  # with these a single process cannot predict
        put_picture(folder / PICTURE, None, trainer.model, trainer.processing_class)
    model_id = trainer.hub_model_id if isinstance(trainer.hub_model_id, str) else model_name
    return write_model_card(folder, provenance, model_id, trainer.model.config)


def _sources(trainer: Any, base: str | None, data: Sequence[str] | None) -> list[Source]:
    """List the sources of the weights, with their licenses."""
    config = trainer.model.config
    base = base or config.name_or_path or config.backbone_config.name_or_path
    found = [source_of(BASE, base) if base else Source(BASE, "not stated", UNKNOWN)]
    for role, helper in ((TEACHER, trainer.teacher), (ENCODER, trainer.feature_encoder)):
        if helper is not None:
            name = helper.config.name_or_path
            found.append(source_of(role, name) if name else Source(role, "not stated", UNKNOWN))
    return [*found, *(source_of(DATA, name, "dataset") for name in data or ["not stated"])]


def _losses(trainer: Any) -> dict[str, float]:
    args = trainer.args
    losses: dict[str, Weight] = {"SiLog": args.silog_weight}
    if trainer.max_depth is None:
        losses = {"affine-invariant": 1.0, "gradient matching": args.gradient_matching_weight}
        if trainer.feature_encoder is not None:
            losses["feature alignment"] = trainer.loss_weights.get("feature_alignment", args.feature_alignment_weight)
    losses |= {f"{term.name} ({term.on} images)": term.weight for term in trainer.losses}
    # If a weight follows a schedule, the card states its value at the last step.
    weights = {name: weight_at(weight, trainer.state.global_step) for name, weight in losses.items()}
    return {name: weight for name, weight in weights.items() if weight}


def _recipe(trainer: Any) -> dict[str, Any]:
    args, size = trainer.args, trainer.processing_class.size
    labeled, unlabeled = trainer.batch_sizes
    names = _RECIPE + (_STUDENT if unlabeled else ())
    values = {name: getattr(args, name) for name in names}
    values = {name: getattr(value, "value", value) for name, value in values.items()}  # the value of an enum
    values = {name: value for name, value in values.items() if value is not None and value is not False}
    batch = f"{labeled} labeled, {unlabeled} unlabeled" if unlabeled else labeled
    return values | {
        "batch of a device": batch,
        "devices": args.world_size,
        "image size": f"{size['height']} x {size['width']}",
    }


def _training(trainer: Any) -> str:
    """Describe the length of the training and the amount of data."""
    state = trainer.state
    sources = getattr(trainer.train_dataset, "sources", (None, None))
    counts = [
        f"a stream of {kind} images in {source.num_shards} shards"
        if is_stream(source)
        else f"{len(source)} {kind} images"
        for source, kind in zip(sources, ("labeled", "unlabeled"), strict=True)
        if source is not None
    ]
    if not state.global_step:
        return ""
    taught = ", which a teacher labeled in every step" if trainer.teacher is not None else ""
    # A stream's epoch is the run itself.
    epochs = "" if any(map(is_stream, sources)) else f" ({state.epoch or 0:.1f} epochs)"
    return f"{state.global_step} steps{epochs} on {' and '.join(counts)}{taught}."


def _results(trainer: Any) -> list[dict[str, Any]]:
    """Collect the scores of the current weights on each evaluation set; older scores belong to other weights."""
    history, state = trainer.state.log_history, trainer.state
    trained = max((i for i, entry in enumerate(history) if "train_runtime" in entry), default=-1)
    since = [entry for entry in history[trained + 1 :] if trained >= 0 or entry.get("step") == state.global_step]
    if not any(key.startswith("eval_") for entry in since for key in entry):
        best = trainer.args.load_best_model_at_end and state.best_global_step
        since = [entry for entry in history if entry.get("step") == (best or state.global_step)]
    scores: dict[str, dict[str, float]] = {}
    for entry in since:
        for key in entry:
            prefix = key.removesuffix("abs_rel")
            if key.startswith("eval_") and prefix + "delta1" in entry and key != prefix:
                name = prefix.removeprefix("eval_").strip("_") or "evaluation set"
                scores[name] = {k.removeprefix(prefix): v for k, v in entry.items() if k.startswith(prefix)}
    protocol = {
        "dataset": "folder",
        "max_depth": trainer.max_depth,
        "alignment": "none" if trainer.max_depth is not None else "scale_shift",
        "averaging": "mean over images with labels",
        "source": "the trainer's own evaluation",
    }
    return [
        {"protocol": {"name": name} | protocol, "scores": {"this model": one}, "model": "this model"}
        for name, one in scores.items()
    ]
