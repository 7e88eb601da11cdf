"""Train by a recipe: a YAML file with the model, data and arguments of a run (`depth-anything-hf train` reads it)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from peft import get_peft_model
from torch.utils.data import ConcatDataset, Subset
from transformers import set_seed
from transformers.utils import IMAGE_PROCESSOR_NAME

from depth_anything_hf.data.folder import load_folder, load_images, stream_folder
from depth_anything_hf.data.readers import READERS, open_reader
from depth_anything_hf.data.sound_records import SoundRecords
from depth_anything_hf.losses import LOSSES, LossTerm
from depth_anything_hf.model.bundled import checkpoint_folder
from depth_anything_hf.model.image_processing import DepthAnythingImageProcessor
from depth_anything_hf.model.modeling import DepthAnythingForDepthEstimation
from depth_anything_hf.prediction.adapters import depth_lora_config, describe_adapter
from depth_anything_hf.prediction.predictor import input_multiple, load_model
from depth_anything_hf.prediction.weights import adapter_base, find_file
from depth_anything_hf.training.arguments import DepthAnythingTrainingArguments
from depth_anything_hf.training.batches import is_stream
from depth_anything_hf.training.fields import RecipeArguments
from depth_anything_hf.training.resuming import last_whole_checkpoint
from depth_anything_hf.training.trainer import DepthAnythingTrainer


def run_recipe(recipe: RecipeArguments, args: DepthAnythingTrainingArguments) -> dict[str, float]:
    """Train by a recipe, from the last checkpoint if there is one, save the model, and score it.

    Args:
        recipe (`RecipeArguments`): Model and data.
        args (`DepthAnythingTrainingArguments`): All other settings.

    Returns:
        `dict[str, float]`: Training and evaluation metrics.

    Raises:
        ValueError: Data and model do not fit.
        FileNotFoundError: A folder is missing or empty.
    """
    terms = loss_terms(cast(dict, recipe.losses))  # before any data is read
    options, eval_options = cast(dict, recipe.reader_options), cast(dict, recipe.eval_reader_options)
    outside = recipe.allow_outside
    labeled = _concatenated([_labeled(path, options, outside) for path in recipe.labeled])
    if recipe.stream:
        unlabeled = stream_folder(*recipe.unlabeled, seed=args.seed, allow_outside=outside)
    else:
        unlabeled = _concatenated([_unlabeled(path, recipe.teacher, outside) for path in recipe.unlabeled])
    evaluated = _concatenated([_labeled(path, eval_options, outside) for path in recipe.eval])
    if recipe.skip_broken:
        labeled, unlabeled, evaluated = map(_sound, (labeled, unlabeled, evaluated))
        if evaluated is not None:  # there a record must not count twice
            sound = [place for place, sample in enumerate(evaluated) if place not in evaluated.broken]
            evaluated = Subset(evaluated, sound)
    set_seed(args.seed)  # for a fresh decoder
    model = _start_model(recipe)
    trainer = DepthAnythingTrainer(
        model,
        args,
        train_dataset=labeled,
        eval_dataset=evaluated,
        processing_class=start_processor(recipe, model.config),
        unlabeled_dataset=unlabeled,
        teacher=None if recipe.teacher is None else load_model(recipe.teacher)[0],
        feature_encoder=recipe.feature_encoder,
        losses=terms,
    )
    checkpoint = None if recipe.restart else last_whole_checkpoint(args.output_dir or ".")
    metrics = trainer.train(resume_from_checkpoint=checkpoint).metrics
    if recipe.lora_rank:
        metrics |= {
            f"adapter_{name.removeprefix('adapter_')}": value for name, value in describe_adapter(model).items()
        }
    trainer.save_model(_internal_call=True)  # otherwise it would push before the scores are known
    trainer.save_state()
    if evaluated is not None:
        metrics |= trainer.evaluate()
    trainer.save_metrics("all", metrics)
    facts: dict[str, Any] = {
        "finetuned_from": recipe.model or recipe.encoder,
        "dataset": [*recipe.labeled, *recipe.unlabeled],
    }
    trainer.push_to_hub(**facts) if args.push_to_hub else trainer.create_model_card(**facts)
    return metrics


def _start_model(recipe: RecipeArguments):
    """Load the checkpoint, or put a fresh decoder on the encoder; with adapters if asked for."""
    if recipe.model is not None:
        if adapter_base(recipe.model) is not None:
            raise ValueError(
                f"model {recipe.model} is an adapter; merge it first (depth_anything_hf.prediction.adapters.merge_adapter) and pass "
                "the merged folder."
            )
        model = DepthAnythingForDepthEstimation.from_pretrained(recipe.model)
        if recipe.max_depth is not None and model.config.max_depth != recipe.max_depth:
            raise ValueError(
                f"max_depth is {recipe.max_depth:g}, but {recipe.model} is {model.config.depth_estimation_type} with a "
                f"range of {model.config.max_depth}; a head is made for one range. Pass the model as `encoder`, to get a "
                "fresh head, or leave max_depth out."
            )
    else:
        model = DepthAnythingForDepthEstimation.from_encoder(
            checkpoint_folder(cast(str, recipe.encoder)), recipe.version, recipe.max_depth, recipe.with_neck
        )
    if not recipe.lora_rank:
        return model
    return get_peft_model(model, depth_lora_config(recipe.lora_rank, recipe.lora_decoder))


def start_processor(recipe: RecipeArguments, config) -> DepthAnythingImageProcessor:
    """Make the processor of a run: the processor of the start model, with the crop of the recipe.

    A model has learned one shape of its inputs, squeezed or with the aspect of the image: the processor keeps it.

    Args:
        recipe (`RecipeArguments`): A fresh decoder, or a model without a processor, gets the official one.
        config: Config of the model.

    Returns:
        `DepthAnythingImageProcessor`: Its `size` is the crop.

    Raises:
        ValueError: A side is no multiple of the patch size.
    """
    processor, has_own = DepthAnythingImageProcessor(), False
    if recipe.model is not None and find_file(recipe.model, IMAGE_PROCESSOR_NAME) is not None:
        processor, has_own = DepthAnythingImageProcessor.from_pretrained(recipe.model), True
    processor.ensure_multiple_of = multiple = input_multiple(processor if has_own else None, config)
    size = {}
    for side, given in (("height", recipe.image_height), ("width", recipe.image_width)):
        own = processor.size[side]
        size[side] = length = own if given is None else given
        if length < multiple or length % multiple:
            fits = has_own and own >= multiple and own % multiple == 0
            better = own if fits else max(round(length / multiple), 1) * multiple
            raise ValueError(
                f"image_{side} is {length}; it must be a multiple of the patch size {multiple}, such as {better}"
                f"{f', the size of {recipe.model}' if fits else ''}."
            )
    processor.size = size
    return processor


def loss_terms(given: Mapping[str, Any] | None) -> list[LossTerm]:
    """Read the loss terms of a recipe.

    Args:
        given (`Mapping`, *optional*): Names from `LOSSES`, each with a weight or a mapping with `weight` and `on`.

    Returns:
        `list[LossTerm]`: In the order of `given`.

    Raises:
        ValueError: A loss or one of its options is unknown.

    Example:
        >>> [(term.name, term.weight, term.on) for term in loss_terms({"silog": {"weight": 0.5, "on": "both"}})]
        [('silog', 0.5, 'both')]
    """
    terms = []
    for name, value in (given or {}).items():
        if name not in LOSSES:
            raise ValueError(
                f"losses names {name!r}; a recipe can name {', '.join(sorted(LOSSES))}. Pass a loss of your own in Python: "
                "DepthAnythingTrainer(..., losses=[LossTerm(name, function)])."
            )
        options = value if isinstance(value, Mapping) else {"weight": value}
        strange = sorted(options.keys() - {"weight", "on"})
        if strange:
            raise ValueError(
                f"losses has {strange[0]!r} for {name!r}; it takes a weight, or a mapping of weight and on."
            )
        terms.append(LossTerm(name, LOSSES[name], **options))
    return terms


def _labeled(path: str, options: dict[str, dict], allow_outside: bool):
    """Load a folder of records, or a benchmark named as NAME:FOLDER."""
    name, separator, folder = path.partition(":")
    if separator and name in READERS:
        return open_reader(name, folder, **options.get(name, {}))
    return load_folder(path, allow_outside)


def _unlabeled(path: str, teacher: str | None, allow_outside: bool):
    """Load pseudo-labeled records, or photographs for the teacher to label."""
    folder = Path(path)
    if (folder / "metadata.jsonl").is_file() or any(folder.glob("*.parquet")) or any(folder.glob("data/*.parquet")):
        return load_folder(path, allow_outside)
    if teacher is None:
        raise ValueError(
            f"{path} holds no pseudo-labels (no metadata.jsonl, no parquet); set a `teacher` to label the photographs in it "
            "during training, or label them first."
        )
    return load_images(path)


def _sound(records):
    """Pass over broken records; a stream is left as it is."""
    return records if records is None or is_stream(records) else SoundRecords(records)


def _concatenated(datasets: list):
    """Concatenate data sets without re-balancing, as both papers do."""
    return None if not datasets else datasets[0] if len(datasets) == 1 else ConcatDataset(datasets)
