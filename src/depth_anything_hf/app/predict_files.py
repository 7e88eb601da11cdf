"""Predict uploaded files, into a new session."""

from __future__ import annotations

import glob
import json
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from depth_anything_hf.app.files import Limits, open_photograph
from depth_anything_hf.app.look import palette
from depth_anything_hf.app.model_cache import Checkpoints
from depth_anything_hf.app.session import LISTING, Photograph, Prediction, Session, shrunk
from depth_anything_hf.data.whole_files import replacing
from depth_anything_hf.pictures.visualization import save_depth
from depth_anything_hf.prediction.predictor import PredictionError


def predict_files(
    paths: Sequence[str | Path],
    names: Sequence[str],
    checkpoints: Checkpoints,
    root: Path,
    limits: Limits,
    resolution: int | None = None,
    colormap: str = "inferno",
    progress: Callable[[Iterable], Iterable] = iter,
) -> tuple[Session, list[str]]:
    """Predict uploaded files into a new session below `root`; return it, and a reason for each file that is left out.

    `names` are one or two checkpoints; `resolution` is the shorter side of the network's input in pixels (None: each
    checkpoint's own); `progress` wraps the loop over the files.

    Raises:
        ValueError: There is no readable file or no checkpoint, or an argument is unknown.
    """
    if not paths:
        raise ValueError("there is no image: drop one, or choose a folder.")
    if not names:
        raise ValueError("there is no checkpoint: choose one.")
    colors = palette(colormap)
    folder = Path(tempfile.mkdtemp(dir=root))
    try:
        photographs, problems = [], []
        megapixels = 0.0
        for index, path in enumerate(progress(paths)):
            if index >= limits.images or megapixels >= limits.total_megapixels:
                problems.append(
                    f"{len(paths) - index} more: this page takes {limits.images} images at once, and "
                    f"{limits.total_megapixels:g} megapixels together; depth-anything-hf predict takes any number."
                )
                break
            try:
                image = open_photograph(path, limits.megapixels)
            except (OSError, ValueError) as error:
                problems.append(str(error))
                continue
            megapixels += image.width * image.height / 1e6
            try:
                predictions = {name: checkpoints.predict(name, image, resolution) for name in names}
            except PredictionError as error:
                problems.append(f"{Path(path).name}: {error}")
                continue
            photographs.append(_save(image, Path(path).name, predictions, folder, index, colors))
        if not photographs:
            raise ValueError(" ".join(problems))
        session = Session(folder, tuple(photographs), tuple(map(str, paths)))
        _write_listing(session)
        return session, problems
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _save(
    image: Image.Image, name: str, predictions: dict, folder: Path, index: int, colors: np.ndarray
) -> Photograph:
    """Write the predictions `{checkpoint: (depth, space)}` of an image, and a preview of the image."""
    stem = _shortened(name.replace(".", "_"))
    if list(folder.glob(f"{glob.escape(stem)}_*")):  # a file of the same name from another folder of the upload
        stem = f"{stem}_{index}"
    made = []
    for (depth, space), label in zip(predictions.values(), _labels(list(predictions)), strict=True):
        slug = _shortened(re.sub(r"[^\w-]+", "_", label))
        made.append(Prediction(label, space, save_depth(folder / f"{stem}_{slug}", depth, space, colors)))
    preview = folder / "previews" / f"{index}.png"
    preview.parent.mkdir(exist_ok=True)
    shrunk(image).save(preview)
    return Photograph(name, image.size[::-1], preview, tuple(made))


def _shortened(name: str) -> str:
    """Cut a part of a file name: a disk takes 255 bytes for all of it."""
    return name.encode(errors="ignore")[:100].decode(errors="ignore")


def _labels(names: Sequence[str]) -> list[str]:
    """Shorten checkpoint names to their last part; two checkpoints get the letters A and B in front."""
    short = [name.rstrip("/").rsplit("/", 1)[-1] for name in names]
    return short if len(short) == 1 else [f"{letter} {name}" for letter, name in zip("AB", short, strict=True)]


def _write_listing(session: Session) -> None:
    """Write scale, offset and space of each 16-bit PNG, one line per file, as `depth-anything-hf predict` does."""
    with replacing(session.folder / LISTING, flush=False) as partial, partial.open("w", encoding="utf-8") as listing:
        for photograph in session.photographs:
            for prediction in photograph.predictions:
                saved = prediction.saved
                row = {"file_name": photograph.name, "depth_map_file_name": saved["png"].name}
                row |= {"depth_scale": saved["scale"], "depth_offset": saved["offset"], "space": prediction.space}
                listing.write(json.dumps(row) + "\n")
