"""Measure metric depth on a few real images: the gain of fine-tuning on scenes that were not used in training.

    depth-anything-hf quickstart --out quickstart
    python benchmarks/metric_real.py --model quickstart/student --data ../shared/data

The metric rows of a folder of records are split into folds by their group, one scene per group. For each fold a metric
model is made from the relative one (from its encoder only, like the authors, or from encoder and neck), fine-tuned on the
other folds, and scored on the fold without alignment: no model saw the scenes on which it is scored. For comparison there
are the model before fine-tuning, and the constant depth with the smallest AbsRel on the training images. Writes
metric_real.json, metric_real.md and metric_real.png (the training loss).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from reporting import stamp

from depth_anything_hf import DepthAnythingForDepthEstimation, DepthAnythingImageProcessor, load_folder
from depth_anything_hf.data.records import DepthSample, decode_record
from depth_anything_hf.evaluation.compare import score_models
from depth_anything_hf.evaluation.contestants import Contestant
from depth_anything_hf.evaluation.protocols import Protocol
from depth_anything_hf.evaluation.scoring import DatasetScores
from depth_anything_hf.pictures.charts import curves
from depth_anything_hf.prediction.predictor import DepthPredictor
from depth_anything_hf.training.arguments import DepthAnythingTrainingArguments
from depth_anything_hf.training.trainer import DepthAnythingTrainer

PROTOCOL = Protocol("metric rows", "folder", max_depth=80.0)
STARTS = {"encoder": False, "encoder and neck": True}


def fold_samples(records: Sequence[dict], folds: int) -> list[list[DepthSample]]:
    """Assign whole groups, indoor and outdoor ones alternately, the largest first, to the fold with the fewest images."""
    groups: dict[tuple[str, str], list[DepthSample]] = {}
    for record in records:
        groups.setdefault((record["scene"], record["group"]), []).append(decode_record(record))
    dealt: list[list[DepthSample]] = [[] for _ in range(folds)]
    for scene in sorted({scene for scene, _ in groups}):
        held = [0] * folds
        for key in sorted((key for key in groups if key[0] == scene), key=lambda key: (-len(groups[key]), key)):
            place = held.index(min(held))
            dealt[place].extend(groups[key])
            held[place] += len(groups[key])
    return dealt


def best_constant(samples: list[DepthSample]) -> float:
    """Find the constant depth with the smallest AbsRel; each image counts equally."""
    candidates = np.geomspace(0.3, 80, 300)
    errors = []
    for sample in samples:
        depths = sample.values[sample.mask]
        depths = depths[:: max(len(depths) // 2000, 1)]
        errors.append([np.abs(candidate / depths - 1).mean() for candidate in candidates])
    return float(candidates[np.mean(errors, axis=0).argmin()])


def fine_tune(
    args: argparse.Namespace, training: list[DepthSample], fold: list[DepthSample], with_neck: bool
) -> tuple[dict, list]:
    """Return the untrained and the trained model as contestants, and the log."""
    size = {"height": args.height, "width": args.width}
    torch.manual_seed(args.seed)
    model = DepthAnythingForDepthEstimation.from_encoder(args.model, max_depth=80, with_neck=with_neck)
    processor = DepthAnythingImageProcessor(size=size, ensure_multiple_of=model.config.patch_size)

    predict = DepthPredictor.from_model(model, processor)
    untrained = score_models({"": Contestant(predict, metric=True)}, fold, PROTOCOL)[""]
    settings = DepthAnythingTrainingArguments(
        str(args.out / "run"), per_device_train_batch_size=args.batch_size, max_steps=args.steps, warmup_steps=20,
        learning_rate=args.learning_rate, decoder_lr_multiplier=args.decoder_lr_multiplier, seed=args.seed, zoom=1.5,
        lr_scheduler_type="cosine", color_ranges={"brightness": [0.75, 1.25]}, logging_steps=max(args.steps // 40, 1),
        save_strategy="no", report_to="none", disable_tqdm=True, use_cpu=True, dataloader_pin_memory=False,
    )  # fmt: skip
    trainer = DepthAnythingTrainer(model, settings, train_dataset=training, processing_class=processor)
    trainer.train()
    trained = score_models({"": Contestant(predict, metric=True)}, fold, PROTOCOL)[""]
    return {"before fine-tuning": untrained, "fine-tuned": trained}, trainer.state.log_history


def constant_scores(fold: list[DepthSample], depth: float) -> DatasetScores:
    """Score a constant depth."""

    def predict(images):
        return [torch.full((image.height, image.width), depth) for image in images]

    return score_models({"": Contestant(predict, metric=True)}, fold, PROTOCOL)[""]


def joined(parts: list[DatasetScores]) -> dict[str, float]:
    """Summarize the folds as one set."""
    names = parts[0].scores
    scores = {name: torch.cat([part.scores[name] for part in parts]) for name in names}
    groups = [group for part in parts for group in part.groups]
    sources = [source for part in parts for source in part.sources]
    return DatasetScores(scores, groups, sources).summary()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="relative Depth Anything to start from")
    parser.add_argument("--data", required=True, help="folder of labeled records; rows in meters are used")
    parser.add_argument("--folds", type=int, default=4)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--learning-rate", type=float, default=2e-4, help="learning rate of the encoder")
    parser.add_argument("--decoder-lr-multiplier", type=float, default=3.0)
    parser.add_argument("--height", type=int, default=64)
    parser.add_argument("--width", type=int, default=80)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    folds = fold_samples([record for record in load_folder(args.data) if record["space"] == "depth"], args.folds)
    found: dict[str, list[DatasetScores]] = {}
    losses: dict[str, list[tuple[float, float]]] = {}
    for number, fold in enumerate(folds):
        training = [sample for other in folds if other is not fold for sample in other]
        constant = best_constant(training)
        found.setdefault("best constant depth", []).append(constant_scores(fold, constant))
        for start, with_neck in STARTS.items():
            scores, log = fine_tune(args, training, fold, with_neck)
            for name, one in scores.items():
                found.setdefault(f"{start}: {name}", []).append(one)
            losses[f"fold {number + 1}, {start}"] = [(row["step"], row["loss"]) for row in log if "loss" in row]
        print(f"fold {number + 1} of {len(folds)}: {len(fold)} images held out, constant {constant:.2f} m", flush=True)
    summaries = {name: joined(parts) for name, parts in found.items()}
    curves(losses, "Training loss (SiLog)", "step", "loss").save(args.out / "metric_real.png")
    settings = {name: value for name, value in vars(args).items() if name != "out"}
    written = stamp() | {"settings": settings, "scores": summaries}
    (args.out / "metric_real.json").write_text(json.dumps(written | {"losses": losses}, indent=1) + "\n")
    lines = ["| model | AbsRel ↓ | δ1 ↑ | RMSE, m ↓ |", "|---|---|---|---|"]
    for name, one in summaries.items():
        lines.append(f"| {name} | {one['group_abs_rel']:.3f} | {one['group_delta1']:.3f} | {one['rmse']:.2f} |")
    (args.out / "metric_real.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
