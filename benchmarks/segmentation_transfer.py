"""Does an encoder that learned depth help in semantic segmentation? A comparison with the same encoder from a random start.

    python benchmarks/segmentation_transfer.py --seeds 3 --jobs 2

For each seed a small Depth Anything learns depth on procedural scenes. Its encoder is exported. Then UperNet learns the exact
classes of other, fewer scenes, once with this encoder and once with a new one of the same shape: with the same scenes in the
same order, the same new decoder, equal steps, and one learning rate for all parts, as a new encoder needs. Held-out scenes are
scored. Finished runs are kept in the work folder, so that the same command continues where it was stopped.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from jobs import keep_result, run_all

ROOT = Path(__file__).parents[1]
DEPTH = "depth"  # the run whose encoder is transferred
TRANSFERRED = "after depth"
VARIANTS = ("random start", TRANSFERRED)
SETTINGS = {
    "depth_scenes": 1600,
    "depth_steps": 1200,
    "depth_batch": 8,
    "labelled_scenes": 200,
    "held_out_scenes": 200,
    "steps": 400,
    "batch": 8,
    "learning_rate": 5e-4,
    "decoder_width": 32,
}
SEGMENTATION_SEED = 700_000  # scenes that were not used to learn depth


def scenes_of(seed: int, count: int, plan) -> list[dict]:
    """Render scenes as inputs of the model, with their classes."""
    from torch import from_numpy

    from depth_anything_hf.quickstart.experiment import new_processor
    from depth_anything_hf.scenes.simple import iter_synthetic_records

    processor = new_processor(plan)
    return [
        {
            "pixel_values": processor(scene["image"], return_tensors="pt")["pixel_values"][0],
            "labels": from_numpy(scene["classes"]).long(),
        }
        for scene in iter_synthetic_records(count, plan.height, plan.width, seed=seed)
    ]


def train_segmentation(seed: int, variant: str, encoder: Path, plan, settings: dict, out: Path) -> dict:
    """Fine-tune UperNet with the stock Trainer and score it on held-out scenes."""
    import evaluate
    import torch
    from reporting import silence
    from segmentation_models import build_model, class_scores
    from transformers import Dinov2Backbone, Trainer, TrainingArguments

    from depth_anything_hf.quickstart.experiment import HELD_OUT_SEED, RUN_STRIDE, new_model
    from depth_anything_hf.scenes.simple_layout import CLASSES

    if variant == TRANSFERRED:
        backbone = Dinov2Backbone.from_pretrained(encoder)
    else:
        backbone = new_model(
            plan, seed + 50
        ).backbone  # other random weights than the start of the model that learned depth
    torch.manual_seed(seed)
    model = build_model(backbone, "upernet", list(CLASSES), width=settings["decoder_width"])
    arguments = TrainingArguments(
        str(out),
        max_steps=settings["steps"],
        per_device_train_batch_size=settings["batch"],
        per_device_eval_batch_size=50,
        learning_rate=settings["learning_rate"],
        warmup_steps=settings["steps"] // 20,
        lr_scheduler_type="cosine",
        seed=seed,
        save_strategy="no",
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
        batch_eval_metrics=True,
    )
    metric = evaluate.load(str(ROOT / "examples" / "segmentation" / "mean_iou.py"), num_labels=len(CLASSES))

    def compute_metrics(found, compute_result: bool) -> dict:
        metric.add_batch(predictions=found.predictions, references=found.label_ids)
        return metric.compute() if compute_result else {}

    first = seed * RUN_STRIDE
    trainer = Trainer(
        model,
        arguments,
        train_dataset=scenes_of(first + SEGMENTATION_SEED, settings["labelled_scenes"], plan),
        eval_dataset=scenes_of(first + HELD_OUT_SEED, settings["held_out_scenes"], plan),
        compute_metrics=compute_metrics,
        preprocess_logits_for_metrics=lambda logits, labels: class_scores(logits, labels.shape[-2:]).argmax(1),
    )
    silence(trainer).train()
    scores = trainer.evaluate()
    return {name.removeprefix("eval_"): value for name, value in scores.items() if "iou" in name or "accuracy" in name}


def run_one(seed: int, name: str, work: Path, settings: dict) -> None:
    """Train one model of one seed, and keep its scores."""
    from dataclasses import replace

    import torch

    from depth_anything_hf.export.encoder import export_encoder
    from depth_anything_hf.quickstart.experiment import Plan, procedural_records, train
    from depth_anything_hf.scenes.simple import LABELED_DOMAIN

    sys.path.insert(0, str(ROOT / "examples" / "segmentation"))
    torch.set_num_threads(1)
    plan = replace(Plan(), seed=seed, labeled=settings["depth_scenes"], teacher_batch=settings["depth_batch"])
    folder, started = work / f"seed{seed}", time.perf_counter()
    if name == DEPTH:
        records = procedural_records(plan.labeled, plan, LABELED_DOMAIN)
        trained = train(plan, folder / "depth", settings["depth_steps"], seed, records, disable_tqdm=True)
        export_encoder(trained.model, folder / "encoder")
        scores = {"loss": trained.state.log_history[-1]["train_loss"]}
    else:
        scores = train_segmentation(seed, name, folder / "encoder", plan, settings, folder / name.replace(" ", "-"))
    keep_result(work, [DEPTH, *VARIANTS], seed, name, scores, started)


def table(results: list[dict], seeds: int) -> str:
    """Write the mIoU of each seed and the mean, in percent."""

    def scores(name: str, score: str) -> list[float]:
        return [100 * r["scores"][score] for r in results if r["variant"] == name]

    header = ["encoder", *(f"mIoU, seed {seed}" for seed in range(seeds)), "mean mIoU", "mean pixel accuracy"]
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    for name in VARIANTS:
        found, right = scores(name, "mean_iou"), scores(name, "overall_accuracy")
        cells = [name, *(f"{value:.1f}" for value in (*found, sum(found) / seeds, sum(right) / seeds))]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=2, help="models trained at once, one thread each")
    parser.add_argument("--work", type=Path, default=Path("segmentation-transfer"), help="work folder, resumed from")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results", help="folder of the figures")
    parser.add_argument("--shrink", type=int, default=1, help="divide scenes and steps by this, to test the code")
    parser.add_argument("--one", nargs=2, metavar=("SEED", "NAME"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    kept = ("depth_batch", "batch", "learning_rate", "decoder_width")
    settings = {name: value if name in kept else value // options.shrink for name, value in SETTINGS.items()}
    if options.one:
        return run_one(int(options.one[0]), options.one[1], options.work, settings)
    results = run_all([DEPTH, *VARIANTS], options.seeds, options.jobs, options.work, ["--shrink", str(options.shrink)])

    from reporting import report, stamp

    report("segmentation_transfer", {"settings": settings, "results": results}, options.out)
    made, text = stamp(), table(results, options.seeds)
    head = (
        f"mIoU in percent on {settings['held_out_scenes']} held-out scenes, 10 classes, UperNet, {settings['steps']} steps "
        f"on {settings['labelled_scenes']} labeled scenes; the encoder learned depth for {settings['depth_steps']} steps "
        f"on {settings['depth_scenes']} others. Machine: {made['machine']}, one thread per model; torch "
        f"{made['versions']['torch']}, transformers {made['versions']['transformers']}. Command: `{made['command']}`."
    )
    (options.out / "segmentation_transfer.md").write_text(f"# Segmentation transfer\n\n{head}\n\n{text}\n")
    print(text)


if __name__ == "__main__":
    main()
