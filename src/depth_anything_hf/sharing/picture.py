"""The picture in a model's card."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from PIL import Image
from torch import nn

from depth_anything_hf.data.whole_files import replacing
from depth_anything_hf.pictures.visualization import prediction_row, sheet
from depth_anything_hf.prediction.predictor import predict_depth, space_of
from depth_anything_hf.scenes.simple import iter_synthetic_records

SCENES, SCENE_HEIGHT, SCENE_WIDTH = 3, 240, 320
WIDEST = 1600  # pixels


def put_picture(target: Path, picture: Path | None, model: nn.Module, processor: Any) -> None:
    """Put a picture beside the card: the given one, or rendered scenes with what the model predicts of them.

    Scenes are rendered, as a photograph would have an owner, and a licence.

    Args:
        target (`Path`): File to write.
        picture (`Path`, *optional*): To copy.
        model (`nn.Module`): Predicts the scenes, on its device.
        processor: Its own.
    """
    if picture is None:
        page = draw_scenes(model, processor)
    else:
        with Image.open(picture) as opened:
            page = opened.convert("RGB")
    page.thumbnail((WIDEST, 4 * WIDEST))
    with replacing(target) as partial:
        page.save(partial, "PNG")


def draw_scenes(model: nn.Module, processor: Any) -> Image.Image:
    """Draw rendered scenes, their depth, and what a model predicts of them."""
    metric = space_of(model, "the model") == "depth"
    scenes = list(iter_synthetic_records(SCENES, SCENE_HEIGHT, SCENE_WIDTH))
    predictions = predict_depth(model, processor, [scene["image"] for scene in scenes])
    rows = []
    for scene, predicted in zip(scenes, predictions, strict=True):
        shown = 1 / predicted.clamp(min=1e-6) if metric else predicted
        rows.append(prediction_row(scene["image"], scene["depth"], scene["depth"] > 0, "depth", [shown.numpy()]))
    return sheet(rows, ["rendered scene", "its depth", "prediction"], cell=(SCENE_HEIGHT, SCENE_WIDTH))
