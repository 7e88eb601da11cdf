"""The results of a quickstart run: charts of the losses, a sheet of predictions and a report."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from depth_anything_hf.data.markdown import escaped
from depth_anything_hf.data.records import decode_record
from depth_anything_hf.data.whole_files import replacing
from depth_anything_hf.evaluation.scoring import DatasetScores
from depth_anything_hf.pictures.charts import curves
from depth_anything_hf.pictures.visualization import prediction_row, sheet
from depth_anything_hf.sharing.eval_results import results_table
from depth_anything_hf.training.trainer import DepthAnythingTrainer


def draw_losses(trainers: dict[str, DepthAnythingTrainer], path: Path) -> None:
    """Draw the training loss of each model over its steps."""
    series = {
        name: [(log["step"], log["loss"]) for log in trainer.state.log_history if "loss" in log]
        for name, trainer in trainers.items()
    }
    with replacing(path) as partial:
        curves(series, "Training loss", "step", "loss").save(partial, "PNG")


def draw_predictions(domains: dict, scores: dict[str, dict[str, DatasetScores]], predictors: dict, path: Path) -> None:
    """Draw image, ground truth, teacher and student for a few images of each domain, with their AbsRel."""
    rows, captions = [], []
    for domain, records in domains.items():
        count = 6 if domain == "real images" else 4
        for i in np.linspace(0, len(records) - 1, min(count, len(records))).round().astype(int).tolist():
            sample = decode_record(records[i])
            assert sample.space is not None  # records to score have labels
            depths = [predictors[name]([sample.image])[0].numpy() for name in ("teacher", "student")]
            rows.append(prediction_row(sample.image, sample.values, sample.mask, sample.space, depths))
            errors = (scores[domain][name].scores["abs_rel"][i].item() for name in ("teacher", "student"))
            captions.append([domain, "", *(f"AbsRel {error:.3f}" for error in errors)])
    page = sheet(rows, ["image", "ground truth", "teacher", "student"], cell=(150, 200), captions=captions)
    with replacing(path) as partial:
        page.save(partial, "PNG")


def write_report(metrics: dict, pseudo_labeled: int, photographs: bool) -> str:
    """Write the report of a run in Markdown."""
    plan = metrics["plan"]
    start = "mini, which comes with the package" if plan["warm_start"] else "random weights"
    kind = "of your photographs" if photographs else "procedural scenes of a second domain"
    left_out = "".join(f"- {escaped(line)}\n" for line in metrics.get("left_out", ()))
    left_out = f"\nLeft out, and in no score:\n\n{left_out}" if left_out else ""
    return f"""# Quickstart report

A teacher, trained for {plan["teacher_steps"]} steps on {plan["labeled"]} labeled procedural scenes, labeled {pseudo_labeled} {kind};
a new student learned from both in {plan["student_steps"]} steps (Depth Anything V1: 1:2 batch, strong color
perturbation, CutMix by region). Both models are tiny and started from {start}: after minutes of training they
are not for use.

{results_table(metrics["scores"])}

Each prediction is aligned with its ground truth by scale and shift in disparity. Scores are means over images, or over
the means of scenes if images are grouped by scene. `predictions.png` shows some of them.
{left_out}
Stock `transformers.pipeline("depth-estimation", model="student")`, in a process without this package, agrees with our
own prediction to {metrics["stock_pipeline_max_difference"]:.1e}. The run took {metrics["seconds"]:.0f} s.

| file | what it is |
|---|---|
| `student/` | checkpoint with processor and card, loads in plain transformers |
| `teacher/` | checkpoint of the teacher |
| `pseudo_labels/` | labels of the teacher: parquet, `load_dataset("parquet", data_files="pseudo_labels/data/*.parquet")` |
| `predictions.png` | image, ground truth, teacher, student |
| `training.png` | the losses |
| `metrics.json` | all numbers |
"""
