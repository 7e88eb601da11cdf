"""Fine-tune the encoder of a Depth Anything for semantic segmentation, on ADE20K or Cityscapes.

    python examples/segmentation/segmentation_transfer.py examples/segmentation/ade20k.yaml \
        --encoder depth-anything/Depth-Anything-V2-Small-hf --data ADEChallengeData2016 --output-dir segmenter
    python examples/segmentation/segmentation_transfer.py examples/segmentation/ade20k.yaml \
        --model segmenter --data ADEChallengeData2016 --output-dir scores

The first command trains and scores; repeated, it continues from the last checkpoint. The second only scores. The scores are
single-scale: sliding windows over the whole image, resized to its ground truth. Needs SciPy, for Mask2Former's matching.
More: docs/segmentation.md.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import evaluate
import numpy as np
import torch
import yaml
from segmentation_data import LAYOUTS, CenterTransform, SegmentationDataset, TrainTransform, collate
from segmentation_models import DECODERS, build_model, class_scores, encoder_of, load_model, predict_classes
from torch import nn
from tqdm.auto import tqdm
from transformers import AutoConfig, HfArgumentParser, Trainer, TrainingArguments, set_seed

from depth_anything_hf.export.encoder import export_encoder
from depth_anything_hf.prediction.weights import adapter_base
from depth_anything_hf.training.resuming import last_whole_checkpoint

METRIC = str(Path(__file__).parent / "mean_iou.py")


@dataclass
class SegmentationArguments:
    """Choose the model and the data; everything else is in `TrainingArguments`.

    Raises:
        ValueError: Neither or both of `encoder` and `model` are given, or a size breaks a rule.
    """

    dataset: str = field(metadata={"help": "Layout of the data.", "choices": list(LAYOUTS)})
    data: str = field(metadata={"help": "Folder of the data set, as its archive unpacks."})
    encoder: str | None = field(
        default=None,
        metadata={"help": "A Depth Anything, an adapter of one, or a DINOv2 (export_encoder): Hub id or folder."},
    )
    model: str | None = field(default=None, metadata={"help": "A fine-tuned folder: score it, train nothing."})
    decoder: str = field(
        default="mask2former", metadata={"help": "Or upernet, which is light.", "choices": list(DECODERS)}
    )
    decoder_width: int | None = field(
        default=None, metadata={"help": "Multiple of 32. Left out: the encoder's for Mask2Former, 512 for UperNet."}
    )
    num_queries: int = field(default=200, metadata={"help": "Of Mask2Former."})
    train_num_points: int = field(default=12544, metadata={"help": "Points at which Mask2Former compares masks."})
    crop_size: int = field(default=896, metadata={"help": "Pixels, a multiple of the patch; also the windows' side."})
    window_stride: int = field(default=426, metadata={"help": "From one window of the scoring to the next, pixels."})
    encoder_lr_multiplier: float = field(
        default=0.1, metadata={"help": "The encoder's learning rate is this times learning_rate, the decoder's."}
    )

    def __post_init__(self):
        if (self.encoder is None) == (self.model is None):
            raise ValueError("set either encoder (to train) or model (a fine-tuned folder, to score).")
        if not 0 < self.window_stride <= self.crop_size:
            raise ValueError(
                f"window_stride is {self.window_stride}; it must be in [1, crop_size {self.crop_size}], or pixels are missed."
            )


def make_parser() -> HfArgumentParser:
    """Build the parser."""
    parser = HfArgumentParser((SegmentationArguments, TrainingArguments), description=__doc__.split("\n\n")[0])
    parser.epilog = "Example: " + " ".join(
        __doc__.split("\n\n")[1].split("\n    python")[0].replace("\\\n", "").split()
    )
    parser.add_argument("recipe", type=Path, help="YAML of fields below, such as examples/segmentation/ade20k.yaml")
    return parser


def parse(arguments: list[str]) -> tuple[SegmentationArguments, TrainingArguments]:
    """Read recipe and command line; the command line overrides the recipe."""
    parser = make_parser()
    if arguments and not arguments[0].startswith("-"):
        recipe = yaml.safe_load(Path(arguments[0]).read_text())
        unknown = sorted(set(recipe) - {action.dest for action in parser._actions})
        if unknown:
            raise ValueError(f"{arguments[0]} names unknown fields {unknown}; --help lists those there are.")
        parser.set_defaults(**recipe)
        for action in parser._actions:
            action.required = action.required and action.dest not in recipe
    return parser.parse_args_into_dataclasses(arguments)[:2]


def make_optimizer(model: nn.Module, args: TrainingArguments, encoder_lr_multiplier: float) -> torch.optim.AdamW:
    """Return AdamW with two learning rates; norms and position, query and level embeddings do not decay, like the authors'."""
    in_encoder = {id(p) for name, p in encoder_of(model).named_parameters() if not name.startswith("pyramid.")}
    norms = (nn.LayerNorm, nn.GroupNorm, nn.BatchNorm2d, nn.SyncBatchNorm)
    still = {id(p) for module in model.modules() if isinstance(module, norms) for p in module.parameters()}
    embeddings = ("position_embeddings", "queries_embedder", "queries_features", "level_embed")
    still |= {id(p) for name, p in model.named_parameters() if any(part in name for part in embeddings)}
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for parameter in model.parameters():
        groups.setdefault((id(parameter) in in_encoder, id(parameter) in still), []).append(parameter)
    return torch.optim.AdamW(
        [
            {
                "params": parameters,
                "lr": args.learning_rate * (encoder_lr_multiplier if of_encoder else 1),
                "weight_decay": 0.0 if undecayed else args.weight_decay,
            }
            for (of_encoder, undecayed), parameters in groups.items()
        ],
        betas=(args.adam_beta1, args.adam_beta2),
        eps=args.adam_epsilon,
    )


def compute_metrics_with(metric: evaluate.Metric) -> Callable[..., dict]:
    """Return the `compute_metrics` of the Trainer, which scores each batch as it comes."""

    def compute_metrics(found, compute_result: bool) -> dict:
        metric.add_batch(predictions=found.predictions, references=found.label_ids)
        if not compute_result:
            return {}
        return {name: value for name, value in metric.compute().items() if isinstance(value, float)}

    return compute_metrics


def start_model(options: SegmentationArguments, args: TrainingArguments, names: list[str]) -> nn.Module:
    """Build the model around the encoder, which is exported first if it belongs to a Depth Anything."""
    encoder = options.encoder
    if adapter_base(encoder) is not None or AutoConfig.from_pretrained(encoder).model_type == "depth_anything":
        with args.main_process_first(local=False, desc="the export of the encoder"):
            if args.process_index == 0:
                export_encoder(encoder, Path(args.output_dir) / "encoder")
        encoder = Path(args.output_dir) / "encoder"
    sizes = (options.decoder_width, options.num_queries, options.train_num_points)
    return build_model(encoder, options.decoder, names, *sizes)


def train(options: SegmentationArguments, args: TrainingArguments) -> nn.Module | None:
    """Fine-tune with the stock Trainer, from the last checkpoint if there is one, and save; None on all processes but one."""
    layout, root = LAYOUTS[options.dataset], Path(options.data)
    data = [
        SegmentationDataset(layout, root, split, transform(options.crop_size))
        for split, transform in (("train", TrainTransform), ("val", CenterTransform))
    ]
    set_seed(args.seed)
    names = layout.names(root)
    model = start_model(options, args, names)
    if args.world_size > 1 and args.device.type == "cuda":
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)  # a batch of 1 on each GPU has no statistics
    # Mask2Former's loss takes masks; both have class maps to be scored against. Columns that no signature names stay.
    args.label_names, args.remove_unused_columns, args.batch_eval_metrics = ["labels"], False, True
    trainer = Trainer(
        model,
        args,
        partial(collate, as_masks=options.decoder == "mask2former"),
        *data,
        compute_metrics=compute_metrics_with(evaluate.load(METRIC, num_labels=len(names))),
        preprocess_logits_for_metrics=lambda raw, labels: (
            class_scores(raw, labels.shape[-2:]).argmax(1).to(torch.uint8)
        ),
        optimizers=(make_optimizer(model, args, options.encoder_lr_multiplier), None),
    )
    trainer.train(resume_from_checkpoint=last_whole_checkpoint(args.output_dir))
    trainer.save_model()
    return model.eval() if trainer.is_world_process_zero() else None


def score(model: nn.Module, options: SegmentationArguments) -> dict:
    """Score on whole validation images: sliding windows, single scale, at the size of the ground truth.

    Source: the authors' `semseg/config` (shorter side of one crop, windows of a crop, ground truth never resized).
    """
    layout, root = LAYOUTS[options.dataset], Path(options.data)
    names = layout.names(root)
    metric = evaluate.load(METRIC, num_labels=len(names))
    images = SegmentationDataset(layout, root, "val", lambda image, labels: (image, np.array(labels)))
    for i in tqdm(range(len(images)), desc=f"score on {options.dataset}", unit="image"):
        image, labels = images[i]
        metric.add(
            prediction=predict_classes(model, image, options.crop_size, options.window_stride), reference=labels
        )
    scores = metric.compute()
    by_class = zip(names, scores["per_category_iou"], strict=True)
    scores["per_category_iou"] = {name: None if math.isnan(iou) else iou for name, iou in by_class}
    settings = {"dataset": options.dataset, "images": len(images), "crop_size": options.crop_size}
    return settings | {"window_stride": options.window_stride} | scores


def main(arguments: list[str] | None = None) -> int:
    """Train and score, or only score."""
    options, args = parse(sys.argv[1:] if arguments is None else arguments)
    model = train(options, args) if options.model is None else load_model(options.model).to(args.device)
    if model is not None:
        out = Path(args.output_dir)
        out.mkdir(parents=True, exist_ok=True)
        result = score(model, options)
        (out / "segmentation_scores.json").write_text(json.dumps(result, indent=1) + "\n")
        print(
            f"mean IoU {100 * result['mean_iou']:.2f} % on {result['images']} images; {out}/segmentation_scores.json"
        )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
