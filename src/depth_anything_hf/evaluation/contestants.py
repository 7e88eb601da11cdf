"""What is scored: models, or the predictions that were kept of them, over the images of this process."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from PIL import Image
from tqdm.auto import tqdm

from depth_anything_hf.data.whole_files import replacing, write_whole

Predictor = Callable[[Sequence[Image.Image]], list[torch.Tensor]]
CARD = "contestant.json"


@dataclass(frozen=True)
class Contestant:
    """Hold a model to score.

    Args:
        predict (`Callable`): Takes a list of RGB images, returns a `(height, width)` tensor for each.
        metric (`bool`): Whether it predicts metres; else disparity of unknown scale and shift.
        revision (`str`, *optional*): Which weights these are, for the result file.
    """

    predict: Predictor
    metric: bool = False
    revision: str | None = None

    def predictions(self, indices: Sequence[int], samples: Sequence[Any]) -> list[torch.Tensor]:
        """Predict the images of samples."""
        return self.predict([sample.image for sample in samples])


class KeptPredictions:
    """Stand for a model by the predictions that were kept of it.

    Args:
        folder (`Path`): Of the model, as `keep_prediction` and `finish_predictions` wrote it.

    Raises:
        FileNotFoundError: No complete set of predictions there.
    """

    def __init__(self, folder: Path):
        path = folder / CARD
        if not path.exists():
            raise FileNotFoundError(
                f"{path} does not exist: {folder} holds no complete predictions. Make them with `save_predictions`, "
                "under the same name of the model."
            )
        card = json.loads(path.read_text(encoding="utf-8"))
        self.folder, self.sources = folder, card["sources"]
        self.metric, self.revision = card["metric"], card["revision"]

    def predictions(self, indices: Sequence[int], samples: Sequence[Any]) -> list[torch.Tensor]:
        """Read what was predicted for samples.

        Raises:
            ValueError: The predictions are of other images.
        """
        for index, sample in zip(indices, samples, strict=True):
            kept = self.sources[index] if index < len(self.sources) else "no image"
            if kept != sample.source:
                raise ValueError(
                    f"prediction {index} in {self.folder} is of {kept}, and the image is {sample.source}; "
                    "score them on the data set and split they were made on."
                )
        return [torch.from_numpy(np.load(_kept(self.folder, index))).float() for index in indices]


def keep_prediction(folder: Path, index: int, depth: torch.Tensor) -> None:
    """Keep what a model gave for an image."""
    with replacing(_kept(folder, index), flush=False) as partial, partial.open("wb") as stream:
        np.save(stream, depth.float().numpy())


def finish_predictions(folder: Path, model: Contestant | KeptPredictions, sources: Sequence[str]) -> None:
    """Write down whose predictions a folder holds, when all are there.

    Args:
        folder: Of the model.
        model: Whose they are.
        sources: Where each image comes from, in order.
    """
    card = {"metric": model.metric, "revision": model.revision, "sources": list(sources)}
    write_whole(folder / CARD, json.dumps(card, indent=1) + "\n")


def _kept(folder: Path, index: int) -> Path:
    return folder / f"{index:06d}.npy"


def predict_all(
    models: Mapping[str, Contestant],
    samples: Iterable[Any],
    batch_size: int,
    description: str,
    decode: Callable[[Any], Any] = lambda sample: sample,
) -> Iterator[tuple[int, Any, dict[str, torch.Tensor]]]:
    """Predict this process's share of the samples with every model; each image is decoded once.

    Args:
        models (`Mapping[str, Contestant]`): By name.
        samples (`Iterable`): Where it has an index, the other processes' samples are not asked for.
        batch_size (`int`): Images handed to a model at once.
        description (`str`): Of the progress bar.
        decode (`Callable`): Makes of each something with an `image`.

    Yields:
        `tuple[int, Any, dict[str, torch.Tensor]]`: Place in the whole set, sample, and each model's prediction as it
        gave it.

    Raises:
        ValueError: `batch_size` is below 1, or a model gave another number of maps than it was given images.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; it must be at least 1.")
    found = _own_share(samples, description)
    while batch := list(itertools.islice(found, batch_size)):
        indices, held = [index for index, _ in batch], [decode(sample) for _, sample in batch]
        predictions = {name: model.predictions(indices, held) for name, model in models.items()}
        for name, maps in predictions.items():
            if len(maps) != len(held):
                raise ValueError(f"{name or 'predict'} gave {len(maps)} maps for {len(held)} images.")
        for place, (index, sample) in enumerate(zip(indices, held, strict=True)):
            yield index, sample, {name: maps[place] for name, maps in predictions.items()}


def gather_rows(rows: list[tuple], what: str) -> list[tuple]:
    """Bring the rows of all processes together, in the order of their first entry, the place in the set.

    Args:
        rows: Of this process.
        what: What a row is of, for the message.

    Returns:
        Those of all processes.

    Raises:
        ValueError: There is none.
    """
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


def _own_share(samples: Iterable, description: str) -> Iterator[tuple[int, Any]]:
    state = PartialState()
    first, step = state.process_index, state.num_processes
    total = math.ceil(len(samples) / step) if hasattr(samples, "__len__") else None
    with tqdm(desc=description, unit="image", total=total, disable=not state.is_main_process) as bar:
        if hasattr(samples, "__getitem__") and total is not None:
            found = ((i, samples[i]) for i in range(first, len(samples), step))
        else:
            found = itertools.islice(enumerate(samples), first, None, step)
        for index, sample in found:
            yield index, sample
            bar.update()
