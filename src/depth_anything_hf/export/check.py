"""Compare the predictions of an ONNX file with those of PyTorch, image by image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

import torch
from PIL import Image
from tqdm.auto import tqdm

from depth_anything_hf.evaluation.scoring import SCORE_NAMES, score_prediction
from depth_anything_hf.export.graph import INPUT, OUTPUT
from depth_anything_hf.export.preparation import prepare
from depth_anything_hf.maps.resizing import resize_prediction
from depth_anything_hf.model.image_processing import DepthAnythingImageProcessor
from depth_anything_hf.model.modeling import DepthAnythingForDepthEstimation
from depth_anything_hf.prediction.predictor import space_of

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

ASPECT_RATIOS = {"4:3": (4, 3), "3:4": (3, 4), "16:9": (16, 9), "1:1": (1, 1)}  # width to height


@dataclass(frozen=True)
class Agreement:
    """Store how far an ONNX file is from PyTorch on one crop of one image."""

    image: str
    aspect_ratio: str  # of the crop, one of `ASPECT_RATIOS`
    height: int  # of the network's input, pixels
    width: int
    difference: float  # largest absolute one, in the model's own unit: meters for a metric model
    max_error: float  # the same, divided by the spread of PyTorch's prediction
    mean_error: float  # mean absolute difference, divided by that spread
    abs_rel: float  # with PyTorch's prediction as the ground truth, as is delta1
    delta1: float


def crop_to_ratio(image: Image.Image, width: int, height: int) -> Image.Image:
    """Cut the largest crop of an aspect ratio, `width` to `height`, out of the middle of an image.

    Example:
        >>> crop_to_ratio(Image.new("RGB", (640, 480)), 16, 9).size
        (640, 360)
        >>> crop_to_ratio(Image.new("RGB", (640, 480)), 3, 4).size
        (360, 480)
    """
    wide = max(min(image.width, image.height * width // height), 1)
    high = max(min(image.height, image.width * height // width), 1)
    left, top = (image.width - wide) // 2, (image.height - high) // 2
    return image.crop((left, top, left + wide, top + high))


def relative_errors(found: torch.Tensor, expected: torch.Tensor) -> tuple[float, float]:
    r"""Compute the largest and the mean of \(|f - e| / (\max e - \min e)\) over an image.

    The error of a relative model does not change when its prediction is scaled or shifted.

    Args:
        found (`torch.Tensor`): `(height, width)`, disparity or meters.
        expected (`torch.Tensor`): Same shape; not constant.

    Returns:
        `tuple[float, float]`: Largest and mean error, computed in float64.

    Raises:
        ValueError: The shapes differ, a value is not finite, or `expected` is constant.

    Example:
        >>> relative_errors(torch.tensor([[1.0, 2.5]]), torch.tensor([[1.0, 3.0]]))
        (0.25, 0.125)
    """
    if found.shape != expected.shape:
        raise ValueError(
            f"the ONNX file predicts {tuple(found.shape)} and PyTorch {tuple(expected.shape)}: a size was written into the "
            "graph. Report this with your versions of torch and transformers."
        )
    for name, values in (("the ONNX file", found), ("PyTorch", expected)):
        broken = int((~torch.isfinite(values)).sum())
        if broken:
            raise ValueError(
                f"{name} predicts {broken} of {values.numel()} values as NaN or infinite. Check the weights; if `dtype` is "
                "float16, export as float32."
            )
    spread = (expected.max() - expected.min()).item()
    if spread == 0:
        raise ValueError(
            f"PyTorch predicts {expected.max().item():g} everywhere, so that nothing can be checked. Check the weights, or "
            "pass other images."
        )
    error = (found.double() - expected.double()).abs() / spread
    return error.max().item(), error.mean().item()


def run_session(session: InferenceSession, pixel_values: torch.Tensor) -> torch.Tensor:
    """Run an ONNX file: `(batch, 3, height, width)` float32 in, `(batch, height, width)` float32 out."""
    (depth,) = session.run([OUTPUT], {INPUT: pixel_values.numpy()})
    return torch.from_numpy(depth)


def predict_onnx(
    session: InferenceSession, processor: DepthAnythingImageProcessor, images: Sequence[Image.Image]
) -> list[torch.Tensor]:
    """Predict depth at full size with an ONNX file, as `predict_depth` does with a model.

    Args:
        session (`InferenceSession`): Result of `open_session`.
        processor (`DepthAnythingImageProcessor`): Processor of the exported checkpoint.
        images (`Sequence[Image.Image]`): RGB images of any sizes.

    Returns:
        `list[torch.Tensor]`: `(height, width)` float32 for each image.
    """
    inputs = (processor(image, return_tensors="pt")["pixel_values"] for image in images)
    return [
        resize_prediction(run_session(session, pixels), image.size[::-1])[0]
        for pixels, image in zip(inputs, images, strict=True)
    ]


LARGEST_SHIFT = 0.02  # mean difference of prepared pixels, about one gray level: torchvision and Pillow resize apart


def prepare_as_said(
    session: InferenceSession, processor: DepthAnythingImageProcessor, image: Image.Image
) -> torch.Tensor:
    """Prepare an image with the processor, `(1, 3, height, width)`, if the file's own metadata make the same of it.

    Raises:
        ValueError: The metadata make an input of another size or other colors: their readers would predict something else.
    """
    expected = processor(image, return_tensors="pt")["pixel_values"]
    found = torch.from_numpy(prepare(image, session.get_modelmeta().custom_metadata_map))
    same_size = found.shape == expected.shape
    if not same_size or not (found - expected).abs().mean() <= LARGEST_SHIFT:
        other = "other colors" if same_size else f"{tuple(found.shape[2:])} pixels, not {tuple(expected.shape[2:])},"
        raise ValueError(
            f"the file's metadata make {other} of an image of {image.height} x {image.width}: the checkpoint's processor "
            "does what they do not say. Check ensure_multiple_of, do_resize and do_pad in its preprocessor_config.json."
        )
    return expected


def compare_with_pytorch(
    model: DepthAnythingForDepthEstimation,
    processor: DepthAnythingImageProcessor,
    session: InferenceSession,
    images: Mapping[str, Image.Image],
) -> list[Agreement]:
    """Run four crops of each image through PyTorch (float32, on the CPU) and through an ONNX file.

    The square and its mirror image are a batch of two; at the checkpoint's own resolution the square is the only size at
    which transformers does not resize the position embeddings. `relative_errors` and `prepare_as_said` describe what is
    refused.
    """
    rows = []
    crops = list(product(images.items(), ASPECT_RATIOS.items()))
    for (name, image), (ratio, sides) in tqdm(crops, desc="check against PyTorch", unit="crop"):
        pixel_values = prepare_as_said(session, processor, crop_to_ratio(image, *sides))
        if ratio == "1:1":
            pixel_values = torch.cat([pixel_values, pixel_values.flip(-1)])
        with torch.inference_mode():
            expected = model(pixel_values=pixel_values).predicted_depth  # (batch, height, width)
        found = run_session(session, pixel_values)
        height, width = pixel_values.shape[-2:]
        rows.append(Agreement(name, ratio, height, width, **_compare(found, expected, model)))
    return rows


def _compare(found: torch.Tensor, expected: torch.Tensor, model: DepthAnythingForDepthEstimation) -> dict[str, float]:
    """Reduce two batches `(batch, height, width)` to the measures of an `Agreement`."""
    space, metric = space_of(model, "the model"), model.config.depth_estimation_type == "metric"
    pairs = list(zip(found, expected, strict=True))
    largest, mean = torch.tensor([relative_errors(*pair) for pair in pairs], dtype=torch.float64).unbind(dim=1)
    scores = torch.stack([score_prediction(*pair, None, space, metric) for pair in pairs]).mean(dim=0)
    return {
        "difference": (found - expected).abs().max().item(),
        "max_error": largest.max().item(),
        "mean_error": mean.mean().item(),
        "abs_rel": scores[SCORE_NAMES.index("abs_rel")].item(),
        "delta1": scores[SCORE_NAMES.index("delta1")].item(),
    }
