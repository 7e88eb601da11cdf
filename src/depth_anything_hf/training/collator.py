"""Records to batches: for training with resize, crop and flip; for evaluation at full size."""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from PIL import Image
from torch import nn
from torch.utils.data import get_worker_info
from transformers import PretrainedConfig

from depth_anything_hf.augmentation import (
    ColorRanges,
    StrongPerturbation,
    crop_and_flip,
    random_crop_box,
    scale_colors,
)
from depth_anything_hf.data.records import DepthSample, decode_record
from depth_anything_hf.maps.geometry import label_from_map
from depth_anything_hf.maps.resizing import resize_map
from depth_anything_hf.model.image_processing import DepthAnythingImageProcessor
from depth_anything_hf.training.batches import LABELED, SOURCE_NAMES, as_record, generator_at, hand_over
from depth_anything_hf.training.label_watch import LabelWatch
from depth_anything_hf.training.step import draw_view


class DepthCollator:
    """Turn records into a training batch for the stock `Trainer` or for `DepthAnythingTrainer`.

    Each image is resized so that it covers the processor's size, cropped to it at a random place, and mirrored half of
    the time; its label and mask are transformed in the same way. A record without a depth map is a photograph:
    its mask is empty.

    Under `DepthAnythingTrainer` the random values follow from the place of a record in the run. The stock Trainer tells
    a collator no place: there they follow from the records of the batch. A shuffled epoch therefore has new ones, a
    resumed run has those of the straight one, and an evaluation always has the same. A batch of one record would
    repeat in each epoch: while the model is in training mode, it takes them from PyTorch's generator.

    Args:
        processor (`DepthAnythingImageProcessor`): Its `size`, height and width, is the crop.
        model (`nn.Module` or `PretrainedConfig`): The model that learns from the batches, or its config: it decides
            whether labels are disparity or meters.
        flip_probability (`float`): Share of the images that are mirrored.
        zoom (`float`): Each image is enlarged by a random factor from 1 to this one before it is cropped. An
            enlarged object looks nearer, as through a longer lens: labels in meters are divided by the factor.
        color_ranges (`ColorRanges`, *optional*): Weak change of the colors.
        perturbation (`StrongPerturbation`, *optional*): Perturbation of the student's view of unlabeled images.
        cutmix_probability (`float`): Share of the unlabeled images that get a CutMix box.

    Raises:
        TypeError: The processor or the model is of another kind.
        ValueError: A setting is out of range; or, when called, no label teaches anything (`LabelWatch`).

    Example:
        >>> from PIL import Image
        >>> from depth_anything_hf.model.configuration import config_for
        >>> from depth_anything_hf.data.records import encode_record
        >>> import numpy as np
        >>> record = encode_record(Image.new("RGB", (80, 60)), np.full((60, 80), 2.0), space="depth")
        >>> processor = DepthAnythingImageProcessor(size={"height": 56, "width": 56})
        >>> batch = DepthCollator(processor, config_for("small", max_depth=20))([record])
        >>> batch["pixel_values"].shape, batch["labels"].unique().tolist(), batch["target_space"]
        (torch.Size([1, 3, 56, 56]), [2.0], 'depth')
    """

    def __init__(
        self,
        processor: DepthAnythingImageProcessor,
        model: nn.Module | PretrainedConfig,
        flip_probability: float = 0.5,
        zoom: float = 1.0,
        color_ranges: ColorRanges | None = None,
        perturbation: StrongPerturbation | None = None,
        cutmix_probability: float = 0.0,
    ):
        check_processor(processor)
        if not 0 <= flip_probability <= 1:
            raise ValueError(f"flip_probability is {flip_probability}; it must lie in [0, 1].")
        if not zoom >= 1:
            raise ValueError(f"zoom is {zoom}; it must be at least 1: a smaller image would not cover the crop.")
        self.zoom, self.color_ranges = zoom, color_ranges
        self.perturbation, self.cutmix_probability = perturbation, cutmix_probability
        self.processor = processor
        self.depth_estimation_type = depth_estimation_type_of(model)
        self.label_space = {"relative": "disparity", "metric": "depth"}[self.depth_estimation_type]
        self._model = model  # whether it is in training mode
        config: Any = model if isinstance(model, PretrainedConfig) else model.config
        max_depth = config.max_depth if self.depth_estimation_type == "metric" else None
        self._watches = {part: LabelWatch(max_depth, name) for part, name in enumerate(SOURCE_NAMES)}
        self.flip_probability = flip_probability
        self.crop = processor.input_size(1, 1, keep_aspect_ratio=False)

    def __call__(self, records: Sequence[dict | DepthSample]) -> dict:
        """Collate records into `pixel_values`, `labels`, `label_mask` and `target_space`, the space of the labels.

        For records of a `BatchReader` the batch also has `num_labeled`, `sources`, and `view`: the random values of the
        student's view of the unlabeled images.
        """
        drawn = [as_record(record) for record in records]
        _check_columns(drawn)
        samples = [decode_record(record.get("sample", record)) for record in drawn]
        generators = self._generators(drawn, samples)
        views = [self._crop(*pair) for pair in zip(samples, generators, strict=True)]
        for part, watch in self._watches.items():
            watch.look(
                [
                    (sample, *view[1:])
                    for record, sample, view in zip(drawn, samples, views, strict=True)
                    if record.get("part", LABELED) == part
                ]
            )
        batch: dict[str, Any] = {
            name: torch.stack(values)
            for name, values in zip(("pixel_values", "labels", "label_mask"), zip(*views, strict=True), strict=True)
        }
        batch["target_space"] = self.label_space  # checked by the model
        if "part" in drawn[0]:
            batch["num_labeled"] = sum(record["part"] == LABELED for record in drawn)
            batch["sources"] = [sample.source for sample in samples]
            draws = [
                draw_view(*self.crop, self.perturbation, self.cutmix_probability, generator)
                for generator in generators[batch["num_labeled"] :]
            ]
            if draws:
                batch["view"] = {name: torch.cat([draw[name] for draw in draws]) for name in draws[0]}
        return hand_over(batch)

    def __getstate__(self) -> dict:
        """Pickle for a worker process without the model."""
        return self.__dict__ | {"_model": nn.Identity().train(getattr(self._model, "training", False))}

    def _generators(self, drawn: Sequence[Mapping], samples: Sequence[DepthSample]) -> list[torch.Generator]:
        """Return the source of each record's random values: seeded by its own `draw_seed`, else by the whole batch."""
        if all("draw_seed" in record for record in drawn):
            return [torch.Generator().manual_seed(record["draw_seed"]) for record in drawn]
        if len(drawn) == 1 and getattr(self._model, "training", False):
            return [torch.default_generator]
        content = 0
        for sample in samples:
            content = zlib.crc32(sample.image.resize((16, 16), Image.Resampling.NEAREST).tobytes(), content)
        # A data loader seeds its workers anew in each epoch, and in a resumed run with another seed.
        seed = torch.initial_seed() if get_worker_info() is None else 0
        return [generator_at(seed, content, i) for i in range(len(drawn))]

    def _crop(
        self, sample: DepthSample, generator: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Draw one crop: image `(3, height, width)`, label and mask `(height, width)`."""
        cover = {"resize_method": "lower_bound", "keep_aspect_ratio": True}
        enlarged = cover
        if self.zoom > 1:
            zoom = 1 + (self.zoom - 1) * float(torch.rand((), generator=generator))
            enlarged = cover | {"size": {"height": zoom * self.crop[0], "width": zoom * self.crop[1]}}
        pixel_values, label, mask = prepare_sample(self.processor, sample, self.depth_estimation_type, **enlarged)
        if self.zoom > 1 and self.depth_estimation_type == "metric":
            plain = self.processor.input_size(sample.image.height, sample.image.width, **cover)
            label = label / math.sqrt(label.numel() / (plain[0] * plain[1]))  # the factor after rounding to patches
        if self.color_ranges is not None:
            mean, std = self.processor.normalization
            pixel_values = (scale_colors(pixel_values * std + mean, self.color_ranges, generator) - mean) / std
        height, width = pixel_values.shape[-2:]
        box = random_crop_box((height, width), self.crop, generator)
        flip = bool(torch.rand((), generator=generator) < self.flip_probability)
        pixel_values, label, mask = (crop_and_flip(values, box, flip) for values in (pixel_values, label, mask))
        return pixel_values, label, mask


def check_processor(processor: Any) -> DepthAnythingImageProcessor:
    """Return the processor of a run; raise an error unless it is this library's."""
    if not isinstance(processor, DepthAnythingImageProcessor):
        raise TypeError(
            f"processor is a {type(processor).__name__}; it must be a DepthAnythingImageProcessor, which prepares depth maps "
            "along with images: DepthAnythingImageProcessor.from_pretrained(the same folder or id)."
        )
    return processor


def _check_columns(drawn: Sequence[Mapping]) -> None:
    """Raise an error for records without an image, or for a batch of the stock Trainer none of which has a label column."""
    plain = [record for record in drawn if "sample" not in record]
    columns = sorted({str(name) for record in plain for name in record} - {"part", "draw_seed"})
    if any("image" not in record for record in plain):
        raise ValueError(
            f"a record has the columns {', '.join(columns) or '(none)'} and no image. Under the stock Trainer set "
            "remove_unused_columns=False: else it removes the columns that the collator reads."
        )
    if plain and len(plain) == len(drawn) and not any({"part", "depth_map"} & set(record) for record in plain):
        raise ValueError(
            f"no record has a depth_map; labels are read from that column, and the columns are {', '.join(columns)}. "
            "Rename the column of the depth maps, and add depth_scale, depth_offset and space (docs/data_format.md); "
            "encode_record makes such records."
        )


def depth_estimation_type_of(model: nn.Module | PretrainedConfig) -> str:
    """Return the kind of depth in a model's config: `"relative"` or `"metric"`.

    Raises:
        TypeError: Neither a model nor a config with `depth_estimation_type`.
    """
    config = model if isinstance(model, PretrainedConfig) else getattr(model, "config", None)
    kind = getattr(config, "depth_estimation_type", None)
    if kind not in ("relative", "metric"):
        raise TypeError(
            f"model is {model if isinstance(model, str) else type(model).__name__!r}; pass the model that learns from the "
            "batches, or its config: it decides whether labels are disparity or meters. DepthCollator(processor, model)"
        )
    return kind


def prepare_sample(
    processor: DepthAnythingImageProcessor, sample: DepthSample, depth_estimation_type: str, **resize
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Resize a sample to the model's input: return image `(3, height, width)`, label and mask `(height, width)`.

    The image and its map are resized apart, each from its own pixels: a sensor's map may have fewer than the photograph.
    """
    pixel_values = processor(sample.image, return_tensors="pt", **resize)["pixel_values"][0]
    size = pixel_values.shape[-2:]
    if sample.values is None:
        return pixel_values, torch.zeros(size), torch.zeros(size, dtype=torch.bool)
    mask, sky = (None if plane is None else torch.tensor(plane) for plane in (sample.mask, sample.sky))
    label, valid = label_from_map(
        torch.tensor(sample.values), mask, cast(str, sample.space), depth_estimation_type, sky
    )
    return pixel_values, resize_map(label[None], size)[0], resize_map(valid[None], size)[0]


class EvaluationCollator:
    """Turn records into an evaluation batch: resized images, and ground truth at full size.

    Args:
        processor (`DepthAnythingImageProcessor`): Resizes the image, keeping its aspect; nothing is cropped.
    """

    def __init__(self, processor: DepthAnythingImageProcessor):
        self.processor = processor

    def __call__(self, records: Sequence[dict]) -> dict:
        """Collate records into lists, one entry per image: sizes may differ."""
        samples = [decode_record(record.get("sample", record)) for record in map(as_record, records)]
        for sample in samples:
            if sample.values is None:
                raise ValueError(f"{sample.source or 'a record'} has no depth_map; evaluation needs ground truth.")
        return hand_over(
            {
                # First, because the Trainer reads the batch size from the first entry.
                "num_in_batch": torch.arange(len(samples)),
                "pixel_values": [
                    self.processor(sample.image, return_tensors="pt")["pixel_values"][0] for sample in samples
                ],
                "targets": [torch.from_numpy(sample.values) for sample in samples],
                "target_masks": [torch.from_numpy(sample.mask) for sample in samples],
                "spaces": [sample.space for sample in samples],
            }
        )
