"""Recipes: one YAML file that names model, data and arguments of a training run."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import yaml
from peft import get_peft_model
from torch.utils.data import ConcatDataset
from transformers import HfArgumentParser, set_seed
from transformers.utils import IMAGE_PROCESSOR_NAME

from depth_anything_hf.data.folder import load_folder, load_images, stream_folder
from depth_anything_hf.data.readers import READERS, open_reader
from depth_anything_hf.model.bundled import checkpoint_folder
from depth_anything_hf.model.image_processing import DepthAnythingImageProcessor
from depth_anything_hf.model.modeling import DepthAnythingForDepthEstimation
from depth_anything_hf.prediction.adapters import depth_lora_config, describe_adapter
from depth_anything_hf.prediction.predictor import input_multiple, load_model
from depth_anything_hf.prediction.weights import adapter_base, find_file
from depth_anything_hf.training.arguments import DepthAnythingTrainingArguments
from depth_anything_hf.training.checkpoints import last_whole_checkpoint
from depth_anything_hf.training.trainer import DepthAnythingTrainer


@dataclass
class RecipeArguments:
    """What a recipe trains and on what; everything else is in `DepthAnythingTrainingArguments`.

    Raises:
        ValueError: Neither or both of `model` and `encoder` are given, or no data.
    """

    model: str | None = field(default=None, metadata={"help": "Checkpoint to go on from: Hub id or folder."})
    encoder: str | None = field(
        default=None,
        metadata={
            "help": "Start from this encoder with a fresh decoder: DINOv2, or a Depth Anything (Hub id or folder), of "
            "which the encoder alone is taken."
        },
    )
    with_neck: bool = field(
        default=False, metadata={"help": "With encoder: take the neck of that Depth Anything, too; the head is fresh."}
    )
    version: str | None = field(
        default=None,
        metadata={
            "help": "With encoder: which blocks the decoder reads, 'v1' or 'v2'. Left out: those of the Depth Anything, "
            "or V2's."
        },
    )
    max_depth: float | None = field(
        default=None, metadata={"help": "With encoder: metres, for a metric model. Left out: relative."}
    )
    labeled: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Folders of labelled records (docs/data_format.md), or benchmarks in their official layout as "
            "NAME:FOLDER (nyuv2:/data/nyu). Concatenated."
        },
    )
    unlabeled: list[str] = field(
        default_factory=list,
        metadata={"help": "Folders of pseudo-labelled records; or of photographs, with teacher. Concatenated."},
    )
    stream: bool = field(
        default=False,
        metadata={
            "help": "Read the folders of unlabeled, parquet shards, as one stream: nothing is copied or listed first. "
            "Needs max_steps."
        },
    )
    eval: list[str] = field(
        default_factory=list, metadata={"help": "What to score on: folders or benchmarks, as for labeled."}
    )
    reader_options: dict | str | None = field(
        default=None,
        metadata={
            "help": "JSON of the benchmarks' options for labeled, such as "
            '\'{"kitti": {"split_file": "eigen_train_files.txt"}}\'.'
        },
    )
    eval_reader_options: dict | str | None = field(
        default=None, metadata={"help": 'The same for eval, such as \'{"nyuv2": {"split": "test"}}\'.'}
    )
    teacher: str | None = field(default=None, metadata={"help": "Model that labels the photographs during training."})
    feature_encoder: str | None = field(
        default=None, metadata={"help": "Frozen encoder to align with. Default: the DINOv2 of the student's size."}
    )
    image_height: int | None = field(
        default=None,
        metadata={
            "help": "Height of the training crop, a multiple of the patch. Default: that of model's processor; with encoder "
            "518."
        },
    )
    image_width: int | None = field(default=None, metadata={"help": "Width of the training crop, likewise."})
    lora_rank: int = field(default=0, metadata={"help": "Train LoRA adapters of this rank; 0 trains all weights."})
    lora_decoder: str = field(default="full", metadata={"help": "With lora_rank: decoder 'full', 'lora' or 'frozen'."})
    restart: bool = field(default=False, metadata={"help": "Start anew, though output_dir has checkpoints."})

    def __post_init__(self):
        for name in ("labeled", "unlabeled", "eval"):
            value = getattr(self, name)
            setattr(self, name, [value] if isinstance(value, str) else list(value))
        for name in ("reader_options", "eval_reader_options"):
            setattr(self, name, _options(name, getattr(self, name)))
        if (self.model is None) == (self.encoder is None):
            raise ValueError(
                f"model is {self.model!r} and encoder {self.encoder!r}; give one: model to go on from a checkpoint, encoder "
                "to start with a fresh decoder."
            )
        if self.lora_rank and self.model is None:
            raise ValueError(
                "lora_rank needs model, a checkpoint that the adapter is added to again when it is loaded; a fresh "
                "decoder is in none. Train without lora_rank first."
            )
        if self.stream and not self.unlabeled:
            raise ValueError("stream is given and unlabeled is not; only pseudo-labelled folders are streamed.")
        if not self.labeled and not self.unlabeled:
            raise ValueError("the recipe names no data; give --labeled DIR, --unlabeled DIR, or both.")


def make_parser() -> HfArgumentParser:
    """Build the parser of a recipe's fields."""
    return HfArgumentParser(
        (RecipeArguments, DepthAnythingTrainingArguments), prog="depth-anything-hf train RECIPE.yaml"
    )


def parse_recipe(path: Path, overrides: list[str]) -> tuple[RecipeArguments, DepthAnythingTrainingArguments]:
    """Read a recipe; what is given in `overrides` wins.

    Args:
        path (`Path`): YAML file of field names and values.
        overrides (`list[str]`): Command-line arguments, such as `["--max_steps", "10"]`.

    Returns:
        `tuple[RecipeArguments, DepthAnythingTrainingArguments]`: Both parts.

    Raises:
        FileNotFoundError: There is no such recipe.
        ValueError: It is no mapping, names an unknown field, or a value breaks a rule.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; give a recipe, such as examples/recipes/v2_student.yaml.")
    recipe = yaml.safe_load(path.read_text()) or {}
    if not isinstance(recipe, dict):
        raise ValueError(f"{path} holds a {type(recipe).__name__}; a recipe is a mapping of field names to values.")
    parser = make_parser()
    known = {action.dest for action in parser._actions}
    unknown = sorted(set(recipe) - known)
    if unknown:
        raise ValueError(
            f"{path} names unknown fields {unknown}; depth-anything-hf train --help lists those there are."
        )
    given = {word.split("=")[0].lstrip("-") for word in overrides if word.startswith("--")}
    for name, other in (("model", "encoder"), ("encoder", "model")):  # two answers to one question: where to start
        if name in given and other not in given:
            recipe.pop(other, None)
    parser.set_defaults(**recipe)
    return parser.parse_args_into_dataclasses(overrides)


def run_recipe(recipe: RecipeArguments, args: DepthAnythingTrainingArguments) -> dict[str, float]:
    """Train by a recipe, from the last checkpoint if there is one, save the model, and score it.

    Args:
        recipe (`RecipeArguments`): Model and data.
        args (`DepthAnythingTrainingArguments`): Everything else.

    Returns:
        `dict[str, float]`: Training and evaluation metrics.

    Raises:
        ValueError: Data and model do not fit.
        FileNotFoundError: A folder is missing or empty.
    """
    labeled = _concatenated([_labeled(path, recipe.reader_options) for path in recipe.labeled])
    if recipe.stream:
        unlabeled = stream_folder(*recipe.unlabeled, seed=args.seed)
    else:
        unlabeled = _concatenated([_unlabeled(path, recipe.teacher) for path in recipe.unlabeled])
    evaluated = _concatenated([_labeled(path, recipe.eval_reader_options) for path in recipe.eval])
    set_seed(args.seed)  # of a fresh decoder
    model = _start_model(recipe)
    trainer = DepthAnythingTrainer(
        model,
        args,
        start_processor(recipe, model.config),
        train_dataset=labeled,
        unlabeled_dataset=unlabeled,
        teacher=None if recipe.teacher is None else load_model(recipe.teacher)[0],
        feature_encoder=recipe.feature_encoder,
        eval_dataset=evaluated,
    )
    checkpoint = None if recipe.restart else last_whole_checkpoint(args.output_dir)
    metrics = trainer.train(resume_from_checkpoint=checkpoint).metrics
    if recipe.lora_rank:
        metrics |= {
            f"adapter_{name.removeprefix('adapter_')}": value for name, value in describe_adapter(model).items()
        }
    trainer.save_model(_internal_call=True)  # without it a first push would go out before the scores are known
    trainer.save_state()
    if evaluated is not None:
        metrics |= trainer.evaluate()
    trainer.save_metrics("all", metrics)
    told = {"finetuned_from": recipe.model or recipe.encoder, "dataset": [*recipe.labeled, *recipe.unlabeled]}
    trainer.push_to_hub(**told) if args.push_to_hub else trainer.create_model_card(**told)
    return metrics


def _start_model(recipe: RecipeArguments):
    """Load the checkpoint, or put a fresh decoder on the encoder; with adapters if asked for."""
    if recipe.model is not None:
        if adapter_base(recipe.model) is not None:
            raise ValueError(
                f"model {recipe.model} is an adapter; merge it first (depth_anything_hf.prediction.adapters.merge_adapter) and give "
                "the merged folder."
            )
        model = DepthAnythingForDepthEstimation.from_pretrained(checkpoint_folder(recipe.model))
        if recipe.max_depth is not None and model.config.max_depth != recipe.max_depth:
            raise ValueError(
                f"max_depth is {recipe.max_depth:g}, and {recipe.model} is {model.config.depth_estimation_type} with "
                f"max_depth {model.config.max_depth}; a head is made for one range. Give it as --encoder, which makes a "
                "fresh head, or leave max_depth out."
            )
    else:
        model = DepthAnythingForDepthEstimation.from_encoder(
            checkpoint_folder(recipe.encoder), recipe.version, recipe.max_depth, recipe.with_neck
        )
    if not recipe.lora_rank:
        return model
    return get_peft_model(model, depth_lora_config(recipe.lora_rank, recipe.lora_decoder))


def start_processor(recipe: RecipeArguments, config) -> DepthAnythingImageProcessor:
    """Make the processor of a run: that of the model it goes on from, with the crop that the recipe gives.

    How the model sees images, squeezed or in their own shape, is a part of what it has learnt.

    Args:
        recipe (`RecipeArguments`): A fresh decoder, or a model without a processor, gets the official one.
        config: The model's.

    Returns:
        `DepthAnythingImageProcessor`: Its `size` is the crop.

    Raises:
        ValueError: A side that is no multiple of the patch size.
    """
    has_own = recipe.model is not None and find_file(recipe.model, IMAGE_PROCESSOR_NAME) is not None
    processor = DepthAnythingImageProcessor()
    if has_own:
        processor = DepthAnythingImageProcessor.from_pretrained(checkpoint_folder(recipe.model))
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
                f"{f', the own of {recipe.model}' if fits else ''}: give --image_{side} {better}."
            )
    processor.size = size
    return processor


def _options(name: str, given: dict | str | None) -> dict[str, dict]:
    """Read the options of benchmarks' readers."""
    try:
        found = json.loads(given) if isinstance(given, str) else given or {}
    except json.JSONDecodeError:
        found = None
    if not isinstance(found, dict) or not all(isinstance(options, dict) for options in found.values()):
        raise ValueError(
            f"{name} is {given!r}; it must be JSON of a benchmark's name and its options, in quotes: "
            '\'{"kitti": {"split_file": "eigen_train_files.txt"}}\'.'
        )
    return found


def _labeled(path: str, options: dict[str, dict]):
    """Load a folder of records, or a benchmark given as NAME:FOLDER."""
    name, separator, folder = path.partition(":")
    if separator and name in READERS:
        return open_reader(name, folder, **options.get(name, {}))
    return load_folder(path)


def _unlabeled(path: str, teacher: str | None):
    """Load pseudo-labelled records, or photographs for the teacher to label."""
    folder = Path(path)
    if (folder / "metadata.jsonl").is_file() or any(folder.glob("*.parquet")) or any(folder.glob("data/*.parquet")):
        return load_folder(path)
    if teacher is None:
        raise ValueError(
            f"{path} holds no pseudo-labels (no metadata.jsonl, no parquet); give --teacher to label the photographs in it "
            "during training, or label them first."
        )
    return load_images(path)


def _concatenated(datasets: list):
    """Join data sets plainly, without re-balancing, as both papers do."""
    return None if not datasets else datasets[0] if len(datasets) == 1 else ConcatDataset(datasets)
