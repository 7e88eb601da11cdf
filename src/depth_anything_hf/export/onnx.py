"""Export a checkpoint as an ONNX file that was checked against PyTorch."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from depth_anything_hf.data.codes import read_photograph
from depth_anything_hf.data.folder import load_folder
from depth_anything_hf.data.markdown import escaped
from depth_anything_hf.data.photographs import IMAGE_EXTENSIONS, Photographs
from depth_anything_hf.data.whole_files import filling
from depth_anything_hf.evaluation.compare import check_records, score_models
from depth_anything_hf.evaluation.contestants import Contestant, Failure, attempt
from depth_anything_hf.evaluation.protocols import PROTOCOLS
from depth_anything_hf.export import LARGEST_ERROR
from depth_anything_hf.export.check import Agreement, compare_with_pytorch, predict_onnx
from depth_anything_hf.export.graph import annotate, check_installed, open_session, write_graph, write_int8
from depth_anything_hf.prediction.predictor import DepthPredictor, input_multiple, load_model
from depth_anything_hf.prediction.weights import model_revision
from depth_anything_hf.scenes.simple import iter_synthetic_records
from depth_anything_hf.version import __version__

if TYPE_CHECKING:
    import datasets
    from onnxruntime import InferenceSession

_MEANS = ("mean_error", "abs_rel", "delta1")
CHECKED_IMAGES = 8  # at most, spread evenly over the given ones


@dataclass(frozen=True)
class ExportReport:
    """Report which file was written, and how far it is from PyTorch."""

    path: Path
    dtype: str  # one of `LARGEST_ERROR`
    photographs: bool  # whether the check ran on given images; else on rendered scenes
    agreements: list[Agreement]  # for each image and aspect ratio
    labeled: dict[str, dict[str, float]]  # scores of PyTorch and of the file on labeled images, if given
    left_out: tuple[str, ...] = ()  # a line for each photograph and labeled image that could not be used

    @property
    def size(self) -> int:
        """Return the bytes on disk, with the weights beside the file if there are any."""
        return sum(path.stat().st_size for path in _files_of(self.path) if path.exists())

    def summary(self) -> dict[str, float]:
        """Return the largest errors and the mean scores over all images and aspect ratios."""
        worst = {name: max(getattr(one, name) for one in self.agreements) for name in ("difference", "max_error")}
        count = len(self.agreements)
        return worst | {name: sum(getattr(one, name) for one in self.agreements) / count for name in _MEANS}

    def table(self) -> str:
        """Return a Markdown table: a row per aspect ratio with its worst image, and below it the scores on labeled images."""
        lines = ["| crop | worst image | input | largest error | mean error | AbsRel | δ1 |", "|---" * 7 + "|"]
        for ratio in dict.fromkeys(one.aspect_ratio for one in self.agreements):
            members = [one for one in self.agreements if one.aspect_ratio == ratio]
            worst = max(members, key=lambda one: one.max_error)
            mean_error, abs_rel, delta1 = (
                sum(getattr(one, name) for one in members) / len(members) for name in _MEANS
            )
            lines.append(
                f"| {ratio} | {escaped(worst.image)} | {worst.height} x {worst.width} | {worst.max_error:.1e} | {mean_error:.1e} "
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
    """Export a Depth Anything as one ONNX file for any batch, height and width, if the file agrees with PyTorch.

    The input is `pixel_values` `(batch, 3, height, width)` float32, normalized, both sides multiples of the patch size. The
    output is `predicted_depth` `(batch, height, width)` float32: disparity or meters, as for the checkpoint. The metadata
    store all that `export.preparation` needs to prepare images and to resize the depth, and the result of the check.

    Args:
        name (`str`): Hub id or folder of a Depth Anything, or of a LoRA adapter, which is merged.
        out (`str` or `os.PathLike`): File to write, ending in .onnx. Weights beyond 1.9 GB go to `out` + ".data".
        dtype (`str`): `"float32"`; `"float16"`; or `"int8"` for the matrix products of the encoder only.
        images (`str` or `os.PathLike`, *optional*): Photographs for the check: a file, a folder or a glob. Default:
            rendered scenes.
        labeled (`str` or `os.PathLike`, *optional*): Folder in the record schema, to score both PyTorch and the file.

    Returns:
        `ExportReport`: The result of the check. If the check fails, nothing is written.

    Raises:
        ValueError: The model is no Depth Anything, `dtype` is unknown, `out` does not end in .onnx, or the file disagrees with
            PyTorch.
        FileExistsError: `out` exists.
        FileNotFoundError: There is no image in `images`.
        OSError: No image in `images` can be read; single ones are listed in `left_out` of the report.

    Example:
        >>> report = export_onnx("depth-anything/Depth-Anything-V2-Small-hf", "depth.onnx")  # doctest: +SKIP
    """
    check_installed()
    out = _check_target(Path(out))
    if dtype not in LARGEST_ERROR:
        raise ValueError(f"dtype is {dtype!r}; it must be one of {', '.join(LARGEST_ERROR)}.")
    photographs, left_out = (_rendered_scenes(), list[str]()) if images is None else _open_photographs(images)
    records = None if labeled is None else load_folder(labeled)
    if records is not None:
        usable, broken = check_records(records)
        records = records.select(usable)
        left_out += broken
    model: Any  # one of ours, after this check
    model, processor = load_model(name)
    if model.config.model_type != "depth_anything":
        raise ValueError(
            f"{name} is of type {model.config.model_type!r}; export accepts only Depth Anything ('depth_anything'): no "
            "other graph was checked. For other families see Optimum, https://huggingface.co/docs/optimum-onnx."
        )
    predictor = DepthPredictor.from_model(model, processor)
    metadata = _metadata(name, predictor) | {"dtype": dtype}
    model.float()
    out.parent.mkdir(parents=True, exist_ok=True)
    with filling(out.parent) as folder:
        path = folder / out.name
        if dtype == "int8":
            write_graph(model, source := folder / "float32.onnx")
            write_int8(source, path)
            for file in _files_of(source):
                file.unlink(missing_ok=True)
        else:
            write_graph(model, path, half=dtype == "float16")
        annotate(path, metadata)  # before the check, which prepares images as the file says
        session = open_session(path)
        agreements = compare_with_pytorch(model, processor, session, photographs)
        scores = {} if records is None else _score_labeled(predictor, session, dtype, records)
        report = ExportReport(out, dtype, images is not None, agreements, scores, tuple(left_out))
        _check_errors(name, report)
        checked = {"photographs": report.photographs, "images": len(photographs)} | report.summary()
        annotate(path, metadata | {"checked": json.dumps(checked), "labeled": json.dumps(scores)})
        del session  # Windows cannot move an open file
    return report


def _files_of(path: Path) -> tuple[Path, Path]:
    """Return the paths of an ONNX file and of the weights beside it, which exist only for large models."""
    return path, Path(f"{path}.data")


def _check_target(out: Path) -> Path:
    """Raise if the file cannot be written, before anything is computed."""
    if out.suffix != ".onnx":
        raise ValueError(f"out is {out}; it must end in .onnx, such as {out.with_suffix('.onnx')}.")
    for path in _files_of(out):
        if path.exists():
            raise FileExistsError(f"{path} exists; choose another name, or remove it.")
    return out


def _open_photographs(images: str | os.PathLike) -> tuple[dict[str, Image.Image], list[str]]:
    """Open some of the given photographs, by their paths inside the folder; with a line for each that cannot be read."""
    photographs = Photographs(images)
    files = list(photographs)
    if not files:
        raise FileNotFoundError(
            f"{images} holds no image ({', '.join(IMAGE_EXTENSIONS)}); pass a file, a folder or a glob in quotes."
        )
    photographs.log_skipped()
    opened = {
        photographs.name(f): attempt(partial(read_photograph, f), True)
        for f in files[:: math.ceil(len(files) / CHECKED_IMAGES)]
    }
    left_out = [one.message for one in opened.values() if isinstance(one, Failure)]
    found = {name: one for name, one in opened.items() if not isinstance(one, Failure)}
    if not found:
        raise OSError(f"none of the images in {images} that were tried can be read; the first: {left_out[0]}")
    return found, left_out


def _rendered_scenes() -> dict[str, Image.Image]:
    return {f"scene {i}": scene["image"] for i, scene in enumerate(iter_synthetic_records(2, 480, 640))}


def _metadata(name: str, predictor: DepthPredictor) -> dict[str, str]:
    """Return the metadata for users of the file; numbers and lists as JSON."""
    config, processor = predictor.model.config, predictor.processor
    normalizes, rescales = processor.do_normalize, processor.do_rescale
    settings = {
        "model": Path(name).resolve().name if Path(name).exists() else name,  # no path of this machine
        "revision": model_revision(name, predictor.model),
        "library": f"depth_anything_hf {__version__}",
        "depth_estimation_type": config.depth_estimation_type,
        "space": predictor.space,
        "max_depth": config.max_depth if config.depth_estimation_type == "metric" else None,
        "multiple": input_multiple(processor, config),
        "size": [processor.size["height"], processor.size["width"]],
        "keep_aspect_ratio": bool(processor.keep_aspect_ratio),
        "resize_method": processor.resize_method,
        "resample": Image.Resampling(processor.resample).name.lower(),
        "rescale_factor": processor.rescale_factor if rescales else 1.0,
        "image_mean": list(processor.image_mean) if normalizes else [0.0] * 3,
        "image_std": list(processor.image_std) if normalizes else [1.0] * 3,
        "channels": "RGB",
        "output_resize": "bilinear, aligned corners",
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
    """Raise if the file disagrees with PyTorch."""
    worst = max(report.agreements, key=lambda one: one.max_error)
    bound = LARGEST_ERROR[report.dtype]
    if worst.max_error > bound:
        raise ValueError(
            f"{name} in {report.dtype} is off by {worst.max_error:.1e} of the prediction's spread on {worst.image}, "
            f"{worst.aspect_ratio} ({worst.height} x {worst.width}); at most {bound:g} is allowed, so no file was written. "
            + ("Export as float32." if report.dtype != "float32" else "Report this with your version of torch.")
        )
