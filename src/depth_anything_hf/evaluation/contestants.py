"""What is scored: models, or predictions that were saved, over the images of this process."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from PIL import Image
from tqdm.auto import tqdm

from depth_anything_hf.data.opening import reading
from depth_anything_hf.data.record_images import with_record_images
from depth_anything_hf.data.whole_files import replacing, write_whole
from depth_anything_hf.prediction.predictor import DepthPredictor
from depth_anything_hf.prediction.stream import read_ahead

Predictor = Callable[[Sequence[Image.Image]], list[torch.Tensor]]
Result = TypeVar("Result")
CARD = "contestant.json"


@dataclass(frozen=True)
class Failure:
    """Why an image, or one model's prediction of it, could not be scored: it counts in no mean, and is named."""

    message: str


class OtherImagesError(ValueError):
    """Predictions that were kept belong to other images: none of them can be scored."""


def attempt(call: Callable[[], Result], go_on: bool) -> Result | Failure:
    """Return the result of a call; with `go_on`, an error that concerns one image is returned as a `Failure`."""
    if not go_on:
        return call()
    try:
        return call()
    except (OtherImagesError, ImportError, MemoryError):
        raise
    except Exception as error:  # every decoder and every model has its own
        known = isinstance(error, (ValueError, OSError)) and str(error)
        return Failure(str(error) if known else f"{type(error).__name__}: {error}")


@dataclass(frozen=True)
class Contestant:
    """A model to score.

    `predict`, such as a `DepthPredictor`, takes a list of RGB images and returns a `(height, width)` tensor for each: meters
    if `metric`, else disparity of unknown scale and shift. `revision` names the weights in the result file.
    """

    predict: Predictor
    metric: bool = False
    revision: str | None = None

    def predictions(self, indices: Sequence[int], samples: Sequence[Any]) -> list[torch.Tensor]:
        """Predict the images of samples."""
        return self.predict([sample.image for sample in samples])


class KeptPredictions:
    """The predictions that `compare` saved of the model `name` in its folder `predictions`, in place of the model."""

    def __init__(self, name: str, predictions: Path):
        folder = predictions / file_name_of(name)
        path = folder / CARD
        if not path.exists():
            raise FileNotFoundError(
                f"{path} does not exist: {folder} holds no complete predictions. Make them with `save_predictions`, "
                "under the same name of the model."
            )
        card = json.loads(path.read_text(encoding="utf-8"))
        try:
            self.folder, self.sources = folder, card["sources"]
            self.metric, self.revision = card["metric"], card["revision"]
        except (KeyError, TypeError) as error:
            raise ValueError(
                f"{path} is no card of kept predictions; make them again with `save_predictions`."
            ) from error

    def predictions(self, indices: Sequence[int], samples: Sequence[Any]) -> list[torch.Tensor]:
        """Read the predictions of samples; raise a `ValueError` if they are of other images, or broken."""
        for index, sample in zip(indices, samples, strict=True):
            kept = self.sources[index] if index < len(self.sources) else "no image"
            if kept not in (None, sample.source):  # None: its prediction failed
                raise OtherImagesError(
                    f"prediction {index} in {self.folder} is of {kept}, and the image is {sample.source}; "
                    "score them on the dataset and split they were made on."
                )
        return [self._read(_kept(self.folder, i), sample.image) for i, sample in zip(indices, samples, strict=True)]

    def _read(self, path: Path, image: Image.Image) -> torch.Tensor:
        if not path.is_file():
            raise FileNotFoundError(f"{path} is no file; the prediction was not kept, or was removed.")
        with reading(path):
            values = np.load(path, allow_pickle=False)
        if values.ndim != 2 or values.dtype.kind != "f" or not values.size:
            raise ValueError(
                f"{path} has {values.dtype} of shape {values.shape}; a prediction is float (height, width)."
            )
        height, width = values.shape
        if not 0.9 < (height * image.width) / (width * image.height) < 1.1:
            raise ValueError(
                f"{path} is {width} x {height}, and its image {image.width} x {image.height} (width x height): it is of another "
                "image, or turned."
            )
        return torch.from_numpy(values).float()


AnyContestant = Contestant | KeptPredictions


def open_contestant(name: str, **options: Any) -> Contestant:
    """Open a model to score; the options are those of `DepthPredictor`."""
    predictor = DepthPredictor(name, **options)
    return Contestant(predictor, predictor.space == "depth", predictor.revision)


def file_name_of(model: str) -> str:
    """Turn a model's name into the name of a folder: `"org/model"` becomes `"org__model"`."""
    return model.strip("/").replace("/", "__")


def keep_prediction(folder: Path, index: int, depth: torch.Tensor) -> None:
    """Save the prediction of an image."""
    with replacing(_kept(folder, index), flush=False) as partial, partial.open("wb") as stream:
        np.save(stream, depth.float().numpy())


def finish_predictions(folder: Path, model: AnyContestant, sources: Sequence[str | None]) -> None:
    """Write the card of a model's folder, once the predictions of all images (`sources`, in order) are there; a source is None
    where there is no prediction.
    """
    card = {"metric": model.metric, "revision": model.revision, "sources": list(sources)}
    write_whole(folder / CARD, json.dumps(card, indent=1) + "\n")


def _kept(folder: Path, index: int) -> Path:
    return folder / f"{index:06d}.npy"


def predict_all(
    models: Mapping[str, AnyContestant],
    samples: Iterable[Any],
    batch_size: int,
    description: str,
    decode: Callable[[Any], Any],
    go_on: bool = False,
) -> Iterator[tuple[int, Any, dict[str, torch.Tensor | Failure]]]:
    """Predict this process's share of the samples with every model; each image is decoded once, ahead of the models.

    If `samples` has an index, those of other processes are not read. `decode` turns each into an object with an `image`.
    With `go_on`, a sample that cannot be read, and a prediction that fails, is a `Failure`.

    Yields:
        Place in the whole set, sample, and each model's prediction as the model returned it.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; it must be at least 1.")
    share, total = _own_share(with_record_images(samples))
    opened = ((index, attempt(partial(_decode, decode, get), go_on)) for index, get in share)
    silent = not PartialState().is_main_process
    with (
        closing(read_ahead(opened, batch_size)) as ahead,
        tqdm(desc=description, unit="image", total=total, disable=silent) as bar,
    ):
        while batch := list(itertools.islice(ahead, batch_size)):
            held = [(index, sample) for index, sample in batch if not isinstance(sample, Failure)]
            predictions = {name: _predict(name, model, held, go_on) for name, model in models.items()}
            for index, sample in batch:
                known = not isinstance(sample, Failure)
                yield index, sample, {name: maps[index] for name, maps in predictions.items() if known}
                bar.update()


def _decode(decode: Callable[[Any], Any], get: Callable[[], Any]) -> Any:
    return decode(get())


def _predict(name: str, model: AnyContestant, held: list[tuple[int, Any]], go_on: bool) -> dict[int, Any]:
    """Predict samples by their places; where a batch fails, image by image."""
    if not held:
        return {}
    indices, samples = zip(*held, strict=True)
    maps = attempt(lambda: model.predictions(indices, samples), go_on)
    if isinstance(maps, Failure):
        if len(held) == 1:
            return {indices[0]: maps}
        return {index: found for one in held for index, found in _predict(name, model, [one], go_on).items()}
    if len(maps) != len(held):
        raise ValueError(f"{name or 'predict'} gave {len(maps)} maps for {len(held)} images.")
    return dict(zip(indices, maps, strict=True))


def gather_rows(rows: list[tuple], what: str) -> list[tuple]:
    """Gather the rows of all processes in the order of their first entry, the place in the set; `what` names the samples in errors."""
    if PartialState().num_processes > 1:
        rows = gather_object(rows)
    if not rows:
        raise ValueError(f"the dataset has 0 {what}; there is nothing to score.")
    return sorted(rows, key=lambda row: row[0])


def row_prior(images: Sequence[Image.Image]) -> list[torch.Tensor]:
    """Predict that what stands lower in the image is nearer: the trivial prior that a model has to beat.

    Args:
        images (`Sequence[Image.Image]`): Any images; their content is not looked at.

    Returns:
        `list[torch.Tensor]`: For each image its row numbers, `(height, width)`.

    Example:
        >>> row_prior([Image.new("RGB", (2, 3))])[0].tolist()
        [[0.0, 0.0], [1.0, 1.0], [2.0, 2.0]]
    """
    return [
        torch.arange(image.height, dtype=torch.float32)[:, None].expand(image.height, image.width) for image in images
    ]


def _own_share(samples: Iterable) -> tuple[Iterator[tuple[int, Callable[[], Any]]], int | None]:
    """List this process's samples, each with its place and a function that reads it, and count them if that is possible."""
    first, step = PartialState().process_index, PartialState().num_processes
    total = math.ceil(len(samples) / step) if isinstance(samples, Sized) else None
    if isinstance(samples, Sized) and hasattr(samples, "__getitem__"):
        return ((i, partial(samples.__getitem__, i)) for i in range(first, len(samples), step)), total
    return ((i, partial(_itself, item)) for i, item in itertools.islice(enumerate(samples), first, None, step)), total


def _itself(item: Any) -> Any:
    return item
