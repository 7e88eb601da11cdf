"""The fields of a training run that are this library's own, by groups; the rest are transformers' `TrainingArguments`.

The classes that check and use them import PyTorch; this file does not, so the command line shows and checks the fields
at once. A group is a dataclass; `GROUPS` lists them in the order of `train --help`.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from depth_anything_hf.model.choices import ADAPTED_DECODERS, VERSIONS

# Each value's source: V1 sections 3.1 to 3.3; V2 sections 5 and B.7, and Depth-Anything-V2#207 (no perturbation).
PRESETS = {
    "v1": {
        "gradient_matching_weight": 0.0,
        "trim_fraction": 0.0,
        "strong_perturbation": True,
        "cutmix_probability": 0.5,
        "feature_alignment_weight": 1.0,
    },
    "v2": {
        "gradient_matching_weight": 2.0,
        "trim_fraction": 0.1,
        "strong_perturbation": False,
        "cutmix_probability": 0.0,
        "feature_alignment_weight": 1.0,
    },
}


@dataclass
class ModelFields:
    """Models of a run: the trained one, and its helpers."""

    model: str | None = field(
        default=None, metadata={"metavar": "ID|DIR", "help": "Checkpoint to start from: Hub id or folder."}
    )
    encoder: str | None = field(
        default=None,
        metadata={
            "metavar": "ID|DIR",
            "help": "Start from this encoder with a fresh decoder: a DINOv2, or the encoder of a Depth Anything (Hub id "
            "or folder).",
        },
    )
    with_neck: bool = field(
        default=False,
        metadata={"help": "With encoder: also take the neck of that Depth Anything; only the head is fresh."},
    )
    version: str | None = field(
        default=None,
        metadata={
            "choices": VERSIONS,
            "help": "With encoder: the version, which decides which blocks the decoder reads. Default: the version of "
            "the Depth Anything, or v2.",
        },
    )
    max_depth: float | None = field(
        default=None,
        metadata={
            "metavar": "METERS",
            "help": "With encoder: largest depth of a metric model, in meters. Default: a relative model.",
        },
    )
    teacher: str | None = field(
        default=None, metadata={"metavar": "ID|DIR", "help": "Model that labels the photographs during training."}
    )
    feature_encoder: str | None = field(
        default=None,
        metadata={
            "metavar": "ID|DIR",
            "help": "Frozen encoder to align with. Default: the DINOv2 of the student's size.",
        },
    )


@dataclass
class DataFields:
    """Data of a run, and the size of the training crop."""

    labeled: list[str] = field(
        default_factory=list,
        metadata={
            "metavar": "DIR",
            "help": "Folders of labeled records (docs/data_format.md), or benchmarks in their official layout as "
            "NAME:FOLDER (nyuv2:/data/nyu). They are concatenated.",
        },
    )
    unlabeled: list[str] = field(
        default_factory=list,
        metadata={
            "metavar": "DIR",
            "help": "Folders of pseudo-labeled records; or of photographs, with teacher. They are concatenated.",
        },
    )
    skip_broken: bool = field(
        default=False,
        metadata={
            "help": "Go on where a record is broken: name it in the log, and take the next one. Not of a stream."
        },
    )
    allow_outside: bool = field(
        default=False,
        metadata={
            "help": "Let records name files outside of their folder, and URLs; for sets that you trust, such as pseudo-labels "
            "that keep only references to the photographs."
        },
    )
    stream: bool = field(
        default=False,
        metadata={
            "help": "Read the folders of unlabeled, parquet shards, as one stream, without copying or listing them first. "
            "Needs max_steps."
        },
    )
    eval: list[str] = field(
        default_factory=list,
        metadata={"metavar": "DIR", "help": "Folders or benchmarks to score on, named as for labeled."},
    )
    reader_options: dict | str | None = field(
        default=None,
        metadata={
            "metavar": "JSON",
            "help": "JSON of the benchmarks' options for labeled, such as "
            '\'{"kitti": {"split_file": "eigen_train_files.txt"}}\'.',
        },
    )
    eval_reader_options: dict | str | None = field(
        default=None,
        metadata={"metavar": "JSON", "help": 'The same for eval, such as \'{"nyuv2": {"split": "test"}}\'.'},
    )
    image_height: int | None = field(
        default=None,
        metadata={
            "metavar": "PIXELS",
            "help": "Height of the training crop in pixels, a multiple of the patch size. Default: the size of model's "
            "processor; with encoder 518.",
        },
    )
    image_width: int | None = field(
        default=None,
        metadata={"metavar": "PIXELS", "help": "Width of the training crop in pixels, by the same rules."},
    )


@dataclass
class LossFields:
    """Losses and their weights."""

    preset: str = field(
        default="v1",
        metadata={
            "choices": tuple(PRESETS),
            "help": "v1: strong perturbation, CutMix, no gradient matching. v2: plain view, gradient matching with "
            "weight 2, the worst tenth of each pseudo-label trimmed. A field that you set overrides the preset.",
        },
    )
    gradient_matching_weight: float | None = field(
        default=None, metadata={"help": "Weight of gradient matching beside the affine-invariant loss. V1: 0, V2: 2."}
    )
    trim_fraction: float | None = field(
        default=None, metadata={"help": "Share of each pseudo-label's worst pixels to ignore. V1: 0, V2: 0.1."}
    )
    feature_alignment_weight: float | None = field(
        default=None,
        metadata={"help": "Weight of the alignment with the frozen encoder, on unlabeled images. Both: 1; 0 is off."},
    )
    feature_alignment_margin: float = field(
        default=0.85, metadata={"help": "Patches with a larger cosine do not count. V1: 0.85."}
    )
    labeled_weight: float = field(default=1.0, metadata={"help": "Weight of the labeled loss in the average."})
    unlabeled_weight: float = field(default=1.0, metadata={"help": "Weight of the unlabeled loss in the average."})
    rescale_losses: bool = field(
        default=False,
        metadata={
            "help": "If loss_weights (in Python) follows a schedule: divide the weighted losses by the weights of the "
            "step, not by the weights set here."
        },
    )
    silog_variance_focus: float = field(
        default=0.5,
        metadata={"help": "Metric models: how much of a common factor SiLog forgives. V2: 0.5, V1: 0.85."},
    )
    silog_weight: float = field(default=1.0, metadata={"help": "Metric models: factor on SiLog. V2: 1, V1: 10."})


@dataclass
class TermFields:
    """Losses beside those of the papers."""

    losses: dict | str | None = field(
        default=None,
        metadata={
            "metavar": "JSON",
            "help": 'JSON of further losses by name and weight, such as \'{"silog": 0.5}\', or \'{"silog": {"weight": 0.5, '
            '"on": "unlabeled"}}\'. Default: none.',
        },
    )


@dataclass
class ViewFields:
    """How the student sees the training images."""

    flip_probability: float = field(default=0.5, metadata={"help": "Share of the training images that are mirrored."})
    zoom: float = field(
        default=1.0,
        metadata={
            "help": "Enlarge each training image by up to this factor before cropping. Meters are divided by the factor: "
            "an enlarged object looks nearer."
        },
    )
    color_ranges: dict | str | None = field(
        default=None,
        metadata={
            "metavar": "JSON",
            "help": "JSON of ColorRanges, a weak change of colors, such as '{\"brightness\": [0.75, 1.25]}'. V1's metric "
            "code uses it. Default: none.",
        },
    )
    strong_perturbation: bool | None = field(
        default=None, metadata={"help": "Perturb colors and sharpness of the student's unlabeled view. V1: yes."}
    )
    perturbation_kwargs: dict | str | None = field(
        default=None,
        metadata={"metavar": "JSON", "help": "JSON of StrongPerturbation's strengths, such as '{\"hue\": 0.1}'."},
    )
    cutmix_probability: float | None = field(
        default=None, metadata={"help": "Share of the unlabeled images that get a CutMix box. V1: 0.5, V2: 0."}
    )


@dataclass
class OptimizationFields:
    """Batches, learning rates and precision."""

    learning_rate: float = field(default=5e-6, metadata={"help": "Learning rate of the encoder. Both papers: 5e-6."})
    decoder_lr_multiplier: float = field(
        default=10.0, metadata={"help": "The decoder learns at learning_rate times this. Both papers: 10."}
    )
    weight_decay: float = field(
        default=0.01, metadata={"help": "Weight decay. Unpublished; the metric code uses 0.01."}
    )
    one_cycle_warmup: float | None = field(
        default=None,
        metadata={
            "help": "Use a one-cycle schedule that stays at learning_rate for this share of the steps and then falls "
            "along a cosine. V1's metric code: 0.7. Default: the schedule of lr_scheduler_type."
        },
    )
    bf16: bool | None = field(
        default=None,
        metadata={
            "help": "Train in bfloat16 autocast, losses in float32. Default: yes on a GPU that supports it, no on a CPU."
        },
    )
    labeled_batch_size: int | None = field(
        default=None,
        metadata={
            "help": "Labeled images in a batch of one device. Default: a third of per_device_train_batch_size "
            "when there are unlabeled images (V1: 1:2), else all of it."
        },
    )
    unlabeled_batch_size: int | None = field(
        default=None, metadata={"help": "Unlabeled images in a batch of one device. Default: the rest of the batch."}
    )
    stream_block_size: int = field(
        default=256,
        metadata={"help": "Records of a stream that each worker keeps, encoded, and shuffles together."},
    )


@dataclass
class AdapterFields:
    """LoRA adapters."""

    lora_rank: int = field(default=0, metadata={"help": "Train LoRA adapters of this rank; 0 trains all weights."})
    lora_decoder: str = field(
        default="full",
        metadata={
            "choices": ADAPTED_DECODERS,
            "help": "With lora_rank: train the whole decoder, adapters of it, or nothing of it.",
        },
    )


@dataclass
class RunFields:
    """Whether a run starts from the beginning."""

    restart: bool = field(
        default=False, metadata={"help": "Start from the beginning, even if output_dir contains checkpoints."}
    )


@dataclass
class OutputFields:
    """Output of a run."""

    output_dir: str | None = field(
        default=None,
        metadata={
            "metavar": "DIR",
            "help": "Folder for checkpoints and the model. Default: trainer_output.",
            "aliases": ["--out"],
        },
    )


GROUPS: dict[str, tuple[type, ...]] = {
    "model": (ModelFields,),
    "data": (DataFields,),
    "losses": (LossFields, TermFields),
    "student's view": (ViewFields,),
    "optimization": (OptimizationFields,),
    "adapters": (AdapterFields,),
    "run": (OutputFields, RunFields),
}


def check_choices(cls: type, values: Mapping[str, Any]) -> None:
    """Raise an error for the first value that is not among the choices of its field; None is not checked.

    Args:
        cls: A dataclass whose fields list their choices in `metadata`.
        values: Values by the names of the fields.

    Raises:
        ValueError: A value is not among the choices; the message names the field, its value and the choices.

    Example:
        >>> check_choices(LossFields, {"preset": "v3"})
        Traceback (most recent call last):
        ...
        ValueError: preset is 'v3'; it must be one of 'v1', 'v2'.
    """
    for one in fields(cls):
        choices, value = one.metadata.get("choices"), values.get(one.name)
        if choices and value is not None and value not in choices:
            raise ValueError(f"{one.name} is {value!r}; it must be one of {', '.join(map(repr, choices))}.")


@dataclass
class RecipeArguments(ModelFields, DataFields, TermFields, AdapterFields, RunFields):
    """Model and data of a recipe; everything else is in `DepthAnythingTrainingArguments`.

    Raises:
        ValueError: Neither or both of `model` and `encoder` are set, there is no data, or a choice is unknown.
    """

    def __post_init__(self):
        check_choices(type(self), vars(self))
        for name in ("labeled", "unlabeled", "eval"):
            value = getattr(self, name)
            setattr(self, name, [value] if isinstance(value, str) else list(value))
        for name in ("reader_options", "eval_reader_options"):
            setattr(self, name, _options(name, getattr(self, name)))
        with contextlib.suppress(json.JSONDecodeError):
            self.losses = json.loads(self.losses) if isinstance(self.losses, str) else self.losses or {}
        if not isinstance(self.losses, dict):
            raise ValueError(
                f"losses is {self.losses!r}; it must map names to weights, such as {{silog: 0.5}} in a recipe or "
                "'{\"silog\": 0.5}' as an option."
            )
        if (self.model is None) == (self.encoder is None):
            raise ValueError(
                f"model is {self.model!r} and encoder {self.encoder!r}; set one: `model` to start from a checkpoint, "
                "`encoder` to start with a fresh decoder."
            )
        if self.lora_rank and self.model is None:
            raise ValueError(
                "`lora_rank` needs `model`, a checkpoint to which the adapter is added when it is loaded; a fresh "
                "decoder is in no checkpoint. Train without `lora_rank` first."
            )
        if self.stream and not self.unlabeled:
            raise ValueError("`stream` is set and `unlabeled` is not; only pseudo-labeled folders are streamed.")
        if not self.labeled and not self.unlabeled:
            raise ValueError("the recipe names no data; set folders as `labeled`, `unlabeled`, or both.")


def _options(name: str, given: dict | str | None) -> dict[str, dict]:
    """Parse the options of the benchmarks' readers."""
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
