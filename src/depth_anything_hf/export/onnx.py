"""Export a checkpoint as an ONNX file that was checked against PyTorch."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from PIL import Image

from depth_anything_hf.data.codes import upright_rgb
from depth_anything_hf.data.folder import IMAGE_EXTENSIONS, find_files, load_folder
from depth_anything_hf.evaluation.compare import score_models
from depth_anything_hf.evaluation.contestants import Contestant
from depth_anything_hf.evaluation.protocols import PROTOCOLS
from depth_anything_hf.export.check import Agreement, compare_with_pytorch, predict_onnx
from depth_anything_hf.export.graph import annotate, check_installed, open_session, write_graph, write_int8
from depth_anything_hf.prediction.predictor import DepthPredictor, input_multiple
from depth_anything_hf.scenes.simple import iter_synthetic_records
from depth_anything_hf.version import __version__

if TYPE_CHECKING:
    import datasets
    from onnxruntime import InferenceSession

# Largest error that is written, as a share of the prediction's spread. Float16 rounds to 5e-4, a hundredth of its bound;
# what 8 bits lose is measured and said.
LARGEST_ERROR = {"float32": 1e-3, "float16": 5e-2, "int8": math.inf}
_MEANS = ("mean_error", "abs_rel", "delta1")
CHECKED_IMAGES = 8  # at most, spread evenly over those that are given


@dataclass(frozen=True)
class ExportReport:
    """Say what was written, and how far it is from PyTorch.

    Args:
        path (`Path`): The ONNX file.
        dtype (`str`): One of `LARGEST_ERROR`.
        photographs (`bool`): Whether the check ran on given images; else on rendered scenes.
        agreements (`list[Agreement]`): An entry for each image and aspect ratio.
        labeled (`dict[str, dict[str, float]]`): Scores of PyTorch and of the file on labelled images, where given.
    """

    path: Path
    dtype: str
    photographs: bool
    agreements: list[Agreement]
    labeled: dict[str, dict[str, float]]

    @property
    def size(self) -> int:
        """Bytes on disk, with the weights beside the file where there are some."""
        return sum(path.stat().st_size for path in _files_of(self.path) if path.exists())

    def summary(self) -> dict[str, float]:
        """Reduce the check to the largest errors and the mean scores over images and aspect ratios."""
        worst = {name: max(getattr(one, name) for one in self.agreements) for name in ("difference", "max_error")}
        count = len(self.agreements)
        return worst | {name: sum(getattr(one, name) for one in self.agreements) / count for name in _MEANS}

    def table(self) -> str:
        """Lay the check out, a line an aspect ratio with its worst image, and below it the scores on labelled images."""
        lines = ["| crop | worst image | input | largest error | mean error | AbsRel | δ1 |", "|---" * 7 + "|"]
        for ratio in dict.fromkeys(one.aspect_ratio for one in self.agreements):
            members = [one for one in self.agreements if one.aspect_ratio == ratio]
            worst = max(members, key=lambda one: one.max_error)
            mean_error, abs_rel, delta1 = (
                sum(getattr(one, name) for one in members) / len(members) for name in _MEANS
            )
            lines.append(
                f"| {ratio} | {worst.image} | {worst.height} x {worst.width} | {worst.max_error:.1e} | {mean_error:.1e} "
                f"| {abs_rel:.4f} | {delta1:.4f} |"
            )
        if self.labeled:
            lines += ["", "| against ground truth | AbsRel | δ1 | images |", "|---|---|---|---|"]
            lines += [
                f"| {name} | {scores['abs_rel']:.4f} | {scores['delta1']:.4f} | {scores['images']} |"
                for name, scores in self.labeled.items()
            ]
        return "\n".join(lines)


def export_onnx(
    name: str,
    out: str | os.PathLike,
    dtype: str = "float32",
    images: str | os.PathLike | None = None,
    labeled: str | os.PathLike | None = None,
) -> ExportReport:
    """Export a Depth Anything as one ONNX file for any batch, height and width, once it agrees with PyTorch.

    The file takes `pixel_values` `(batch, 3, height, width)` float32, normalised, both sides multiples of the patch, and gives
    `predicted_depth` `(batch, height, width)` float32: disparity or metres, as the checkpoint. Its metadata hold what is
    needed to prepare images, and the result of the check.

    Args:
        name (`str`): Hub id or folder of a Depth Anything, or of a LoRA adapter, which is merged.
        out (`str` or `os.PathLike`): File to write, ending in .onnx. Weights beyond 1.9 GB lie beside it, in `out` + ".data".
        dtype (`str`): `"float32"`; `"float16"`; or `"int8"`, the encoder's matrix products alone.
        images (`str` or `os.PathLike`, *optional*): Photographs to check on: a file, a folder or a glob. Left out: rendered
            scenes.
        labeled (`str` or `os.PathLike`, *optional*): Folder in the record schema, to score PyTorch and the file on.

    Returns:
        `ExportReport`: What was measured. Nothing is written when the check fails.

    Raises:
        ValueError: Another model than Depth Anything, an unknown dtype, a name that does not end in .onnx, or a file that does
            not compute the same.
        FileExistsError: `out` is there already.
        FileNotFoundError: `images` holds no image.

    Example:
        >>> report = export_onnx("depth-anything/Depth-Anything-V2-Small-hf", "depth.onnx")  # doctest: +SKIP
    """
    check_installed()
    out = _check_target(Path(out))
    if dtype not in LARGEST_ERROR:
        raise ValueError(f"dtype is {dtype!r}; it must be one of {', '.join(LARGEST_ERROR)}.")
    photographs = _rendered_scenes() if images is None else _open_photographs(images)
    records = None if labeled is None else load_folder(labeled)
    predictor = DepthPredictor(name, device="cpu")
    model, processor = predictor.model, predictor.processor
    if model.config.model_type != "depth_anything":
        raise ValueError(
            f"{name} is of type {model.config.model_type!r}; export takes Depth Anything ('depth_anything') alone: no other "
            "graph was ever checked. For other families see Optimum, https://huggingface.co/docs/optimum-onnx."
        )
    metadata = _metadata(name, predictor) | {"dtype": dtype}
    model.float()
    out.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as folder:
        path = Path(folder, "checked", out.name)
        path.parent.mkdir()
        if dtype == "int8":
            write_graph(model, source := Path(folder, "float32.onnx"))
            write_int8(source, path)
        else:
            write_graph(model, path, half=dtype == "float16")
        session = open_session(path)
        agreements = compare_with_pytorch(model, processor, session, photographs)
        scores = {} if records is None else _score_labeled(predictor, session, dtype, records)
        report = ExportReport(out, dtype, images is not None, agreements, scores)
        _check_errors(name, report)
        checked = {"photographs": report.photographs, "images": len(photographs)} | report.summary()
        annotate(path, metadata | {"checked": json.dumps(checked), "labeled": json.dumps(scores)})
        del session  # Windows moves no open file
        for file in sorted(path.parent.iterdir(), reverse=True):  # the weights first: never a graph without them
            os.replace(file, out.parent / file.name)
    return report


def _files_of(path: Path) -> tuple[Path, Path]:
    """Name an ONNX file and its weights, where those lie beside it."""
    return path, Path(f"{path}.data")


def _check_target(out: Path) -> Path:
    """Raise where a file cannot be written, before anything is computed."""
    if out.suffix != ".onnx":
        raise ValueError(f"out is {out}; it must end in .onnx, such as {out.with_suffix('.onnx')}.")
    for path in _files_of(out):
        if path.exists():
            raise FileExistsError(f"{path} exists; give another name, or remove it.")
    return out


def _open_photographs(images: str | os.PathLike) -> dict[str, Image.Image]:
    """Open some of the photographs that are given, by their paths inside the folder."""
    root, files = find_files(images, IMAGE_EXTENSIONS)
    if not files:
        raise FileNotFoundError(
            f"{images} holds no image ({', '.join(IMAGE_EXTENSIONS)}); give a file, a folder or a glob in quotes."
        )
    chosen = files[:: math.ceil(len(files) / CHECKED_IMAGES)]
    return {str(file.relative_to(root)): upright_rgb(Image.open(file)) for file in chosen}


def _rendered_scenes() -> dict[str, Image.Image]:
    """Render what stands in for photographs."""
    return {f"scene {i}": scene["image"] for i, scene in enumerate(iter_synthetic_records(2, 480, 640))}


def _metadata(name: str, predictor: DepthPredictor) -> dict[str, str]:
    """List what a user of the file needs to know; numbers and lists as JSON."""
    config, processor = predictor.model.config, predictor.processor
    settings = {
        "model": Path(name).resolve().name if Path(name).exists() else name,  # no path of this machine
        "revision": predictor.revision,
        "library": f"depth_anything_hf {__version__}",
        "depth_estimation_type": config.depth_estimation_type,
        "space": predictor.space,
        "max_depth": config.max_depth if config.depth_estimation_type == "metric" else None,
        "multiple": input_multiple(processor, config),
        "size": [processor.size["height"], processor.size["width"]],
        "image_mean": list(processor.image_mean),
        "image_std": list(processor.image_std),
    }
    return {key: value if isinstance(value, str) else json.dumps(value) for key, value in settings.items()}


def _score_labeled(
    predictor: DepthPredictor, session: InferenceSession, dtype: str, records: datasets.Dataset
) -> dict[str, dict[str, float]]:
    """Score PyTorch and the file on labeled images: `abs_rel`, `delta1` and `images` of each."""
    metric = predictor.space == "depth"
    models: Mapping[str, Contestant] = {
        "PyTorch float32": Contestant(predictor, metric),
        f"ONNX {dtype}": Contestant(partial(predict_onnx, session, predictor.processor), metric),
    }
    protocol = replace(PROTOCOLS["folder"], max_depth=predictor.model.config.max_depth if metric else None)
    scores = score_models(models, records, protocol, description="score on ground truth")
    summaries = {name: one.summary() for name, one in scores.items()}
    return {name: {key: one[key] for key in ("abs_rel", "delta1", "images")} for name, one in summaries.items()}


def _check_errors(name: str, report: ExportReport) -> None:
    """Raise where the file does not compute what PyTorch computes."""
    worst = max(report.agreements, key=lambda one: one.max_error)
    bound = LARGEST_ERROR[report.dtype]
    if worst.max_error > bound:
        raise ValueError(
            f"{name} in {report.dtype} is off by {worst.max_error:.1e} of the prediction's spread on {worst.image}, "
            f"{worst.aspect_ratio} ({worst.height} x {worst.width}); at most {bound:g} is allowed, so no file was written. "
            + ("Export as float32." if report.dtype != "float32" else "Report this with your version of torch.")
        )
