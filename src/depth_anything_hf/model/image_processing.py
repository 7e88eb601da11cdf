"""Prepare images and depth maps as batches, and resize predictions to full size."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from transformers import BatchFeature
from transformers.image_processing_utils import get_size_dict
from transformers.image_utils import (
    IMAGENET_DEFAULT_MEAN,
    IMAGENET_DEFAULT_STD,
    get_image_size,
    infer_channel_dimension_format,
    make_flat_list_of_images,
)
from transformers.utils import is_torchvision_available

from depth_anything_hf.maps.geometry import label_from_map
from depth_anything_hf.maps.resizing import RESIZE_METHODS, resize_map, resize_prediction, resized_size
from depth_anything_hf.model.bundled import checkpoint_folder
from depth_anything_hf.model.loading import check_processor, named_damage

if TYPE_CHECKING or is_torchvision_available():
    from transformers import DPTImageProcessor as StockProcessor
else:
    from transformers.models.dpt.image_processing_pil_dpt import DPTImageProcessorPil as StockProcessor


class DepthAnythingImageProcessor(StockProcessor):
    """Prepare images, and depth maps along with them, for Depth Anything.

    A subclass of the stock DPT processor on the backend that is installed (torchvision, else PIL). The saved file names
    the stock class, so that a checkpoint loads without this package.

    Args:
        resize_method (`str`): `"lower_bound"`, like the authors' code, or `"minimal"`, like the stock processor. See
            `resized_size`. It is not saved: the stock class knows only its own.
        kwargs: Arguments of the stock class; the defaults are Depth Anything's: `size` 518 x 518, `ensure_multiple_of` 14,
            `keep_aspect_ratio` True, ImageNet mean and standard deviation.

    Example:
        >>> processor = DepthAnythingImageProcessor(size={"height": 56, "width": 56})
        >>> image, depth = np.zeros((60, 80, 3), dtype=np.uint8), np.full((60, 80), 2.0)
        >>> batch = processor(
        ...     image, depth_maps=depth, space="depth", depth_estimation_type="relative", return_tensors="pt"
        ... )
        >>> batch["pixel_values"].shape, batch["labels"].unique().tolist()
        (torch.Size([1, 3, 56, 70]), [0.5])
    """

    image_mean = IMAGENET_DEFAULT_MEAN
    image_std = IMAGENET_DEFAULT_STD
    size = {"height": 518, "width": 518}  # noqa: RUF012 - never changed: the stock class copies it
    ensure_multiple_of = 14
    keep_aspect_ratio = True
    resize_method = "lower_bound"

    def __init__(self, resize_method: str = "lower_bound", **kwargs):
        super().__init__(**kwargs)
        if resize_method not in RESIZE_METHODS:
            raise ValueError(f"resize_method is {resize_method!r}; it must be one of {RESIZE_METHODS}.")
        self.resize_method = resize_method
        check_processor(self)
        given = {side: length for side, length in dict(self.size or {}).items() if length is not None}
        if not {"height", "width"} <= given.keys():
            raise ValueError(f"size is {given}; it must be {{'height': pixels, 'width': pixels}}.")

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *args, **kwargs):
        """Load a processor as the stock class does; `"mini"` is the processor of the bundled model."""
        name = checkpoint_folder(pretrained_model_name_or_path)
        with named_damage(name, kwargs.get("revision")):
            try:
                return super().from_pretrained(name, *args, **kwargs)
            except ValueError as error:
                raise ValueError(f"{name}, preprocessor_config.json: {error}") from error

    @property
    def normalization(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return mean and standard deviation of the colors, `(3, 1, 1)` each: `pixel_values * std + mean` lies in [0, 1]."""
        mean, std = (torch.tensor(values)[:, None, None] for values in (self.image_mean, self.image_std))
        return mean, std

    def to_dict(self) -> dict:
        """Return the saved settings: those of the stock class, under its name."""
        settings = super().to_dict()
        settings.pop("resize_method", None)
        return settings | {"image_processor_type": "DPTImageProcessor"}

    def input_size(self, height: int, width: int, **overrides) -> tuple[int, int]:
        """Compute the size to which an image of `height` x `width` is resized, with per-call overrides."""
        size = get_size_dict(overrides.get("size") or self.size)
        return resized_size(
            height,
            width,
            (size["height"], size["width"]),
            overrides.get("ensure_multiple_of") or self.ensure_multiple_of,
            self.keep_aspect_ratio if overrides.get("keep_aspect_ratio") is None else overrides["keep_aspect_ratio"],
            overrides.get("resize_method") or self.resize_method,
        )

    def preprocess(
        self,
        images,
        depth_maps=None,
        masks=None,
        space: str | None = None,
        sky_masks=None,
        depth_estimation_type: str | None = None,
        return_tensors: str | None = None,
        **kwargs,
    ) -> BatchFeature:
        """Turn images, and their depth maps, into model inputs. `processor(...)` calls this.

        Args:
            images: One image or a list: PIL, array, tensor, path or URL. Gray is repeated to RGB, alpha is dropped.
            depth_maps (*optional*): For each image a `(height, width)` array of its size: meters or disparity.
            masks (*optional*): For each depth map a bool array: True for valid pixels. Default: finite and positive.
            space (`str`, *optional*): Meaning of the depth maps: `"depth"` or `"disparity"`. Required with them.
            sky_masks (*optional*): For each image a bool array, or None.
            depth_estimation_type (`str`, *optional*): Kind of the model that learns from the labels
                (`model.config.depth_estimation_type`): `"relative"` gets disparity, `"metric"` meters. Required with depth
                maps: a default would be wrong for half of the models.
            return_tensors (`str`, *optional*): `"pt"` or `"np"` for a batch. Default: lists.
            kwargs: Arguments of the stock class, and `resize_method`.

        Returns:
            `BatchFeature`: `pixel_values` `(batch, 3, height, width)`; with depth maps also `labels` float32 and
            `label_mask` bool, `(batch, height, width)`, and `target_space`, their space, for the check in the model.

        Raises:
            ValueError: Sizes or counts do not fit, `space` or `depth_estimation_type` is missing, or a batch would
                have several sizes.
        """
        if kwargs.pop("segmentation_maps", None) is not None:
            raise ValueError(
                "segmentation_maps are not prepared here; pass depth maps as depth_maps, or prepare segmentation maps with "
                "transformers' DPTImageProcessor."
            )
        images = _as_list(self.fetch_images(images))
        images = make_flat_list_of_images(
            [image[None] if getattr(image, "ndim", 3) == 2 else image for image in images]
        )
        if not images:
            raise ValueError("images is empty; pass at least one.")
        resize_method, layout = kwargs.pop("resize_method", None), kwargs.pop("input_data_format", None)
        pixel_values, sizes = [], []
        for image in images:
            image, image_layout = _as_rgb(image, layout)
            original = size = get_image_size(image, image_layout)
            one_size = kwargs | {"input_data_format": image_layout}
            if kwargs.get("do_resize", self.do_resize) is not False:
                size = self.input_size(*original, resize_method=resize_method, **kwargs)
                one_size |= {"size": {"height": size[0], "width": size[1]}}
                one_size |= {"keep_aspect_ratio": False, "ensure_multiple_of": 1}
            pixel_values.append(super().preprocess(image, return_tensors="pt", **one_size)["pixel_values"][0])
            sizes.append((original, size))
        data = {"pixel_values": pixel_values}
        if depth_maps is not None:
            data |= self._labels(depth_maps, masks, sky_masks, space, depth_estimation_type, sizes)
        batch = BatchFeature(_stacked(data), tensor_type=return_tensors) if return_tensors else BatchFeature(data)
        if depth_maps is not None:
            batch["target_space"] = "disparity" if depth_estimation_type == "relative" else "depth"
        return batch

    def _labels(self, depth_maps, masks, sky_masks, space, depth_estimation_type, sizes) -> dict[str, list]:
        """Convert each depth map to the model's space and resize it to its image's input size."""
        if space is None:
            raise ValueError("depth_maps are passed without space; pass space='depth' (meters) or space='disparity'.")
        if depth_estimation_type is None:
            raise ValueError(
                "depth_maps are passed without depth_estimation_type; pass the type of the model that learns from the labels, "
                "model.config.depth_estimation_type: 'relative' (disparity) or 'metric' (meters)."
            )
        depth_maps, masks, sky_masks = (_one_each(maps, len(sizes)) for maps in (depth_maps, masks, sky_masks))
        if any(values is None for values in depth_maps):
            raise ValueError(
                "depth_maps contains None; pass a map for each image, or pass images without one in another call."
            )
        labels, label_masks = [], []
        for (original, resized), values, mask, sky in zip(sizes, depth_maps, masks, sky_masks, strict=True):
            label, valid = label_from_map(
                _as_map(values, original).float(),
                None if mask is None else _as_map(mask, original).bool(),
                space,
                depth_estimation_type,
                None if sky is None else _as_map(sky, original).bool(),
            )
            labels.append(resize_map(label[None], resized)[0])
            label_masks.append(resize_map(valid[None], resized)[0])
        return {"labels": labels, "label_mask": label_masks}

    def post_process_depth_estimation(  # type: ignore[override]  # no tensors of other frameworks
        self, outputs, target_sizes: list[tuple[int, int]] | None = None, mode: str = "bilinear"
    ) -> list[dict[str, torch.Tensor]]:
        """Resize predictions to the sizes of the images.

        Args:
            outputs: Output of the model, with `predicted_depth` `(batch, height, width)`.
            target_sizes (`list[tuple[int, int]]`, *optional*): Height and width of each image.
            mode (`str`): `"bilinear"`, like the authors, or `"bicubic"`, like the stock processor.

        Returns:
            `list[dict[str, torch.Tensor]]`: `predicted_depth` `(height, width)` for each image.

        Raises:
            ValueError: The number of sizes differs from the number of predictions.
        """
        predicted_depth = outputs.predicted_depth
        if target_sizes is not None and len(target_sizes) != len(predicted_depth):
            raise ValueError(
                f"{len(target_sizes)} target_sizes for {len(predicted_depth)} predictions; pass one for each."
            )
        sizes = [depth.shape for depth in predicted_depth] if target_sizes is None else target_sizes
        return [
            {"predicted_depth": resize_prediction(depth[None], (int(size[0]), int(size[1])), mode)[0]}
            for depth, size in zip(predicted_depth, sizes, strict=True)
        ]


def _as_rgb(image, layout: str | None) -> tuple:
    """Convert an image to three channels; return it and its layout. Alpha is dropped, like in the stock pipeline."""
    if isinstance(image, Image.Image):
        return np.array(image.convert("RGB")), "channels_last"
    layout = layout or infer_channel_dimension_format(image, num_channels=(1, 3, 4))
    last = layout == "channels_last"
    channels = [0, 0, 0] if image.shape[-1 if last else 0] == 1 else [0, 1, 2]
    return image[..., channels] if last else image[channels], layout


def _as_list(values) -> list:
    """Return a list unchanged, and any other value as a list with one entry."""
    return list(values) if isinstance(values, (list, tuple)) else [values]


def _one_each(maps, count: int) -> list:
    """Return a list with the map of each image: from a list, a batch `(count, height, width)`, one map, or None for all."""
    if maps is None:
        return [None] * count
    if isinstance(maps, (list, tuple)) and maps and isinstance(maps[0], (list, tuple)):
        maps = np.array(maps)  # lists of numbers
    ndim = getattr(maps, "ndim", 0)
    one_with_channels = count == 1 and ndim == 3 and maps.shape[0] != 1
    if (one_with_channels or ndim == 4) and maps.shape[-1] == 1:
        maps = maps[..., 0]
    maps = list(maps) if ndim > 2 and not one_with_channels else _as_list(maps)
    if len(maps) != count:
        raise ValueError(f"{len(maps)} maps for {count} images; pass one for each image.")
    return maps


def _as_map(values, size: tuple[int, int]) -> torch.Tensor:
    """Check a map's shape against its image's and make it a tensor."""
    array = np.array(values)
    if array.dtype.kind not in "fiub":
        raise ValueError(f"a depth map or mask has dtype {array.dtype}; its values must be real numbers or bool.")
    values = torch.as_tensor(array)
    if tuple(values.shape) != size:
        raise ValueError(
            f"a depth map or mask has shape {tuple(values.shape)} and its image {size}; both must be (height, width) "
            "of the same image. Take one channel of a map that has several, or pass the image at the map's size."
        )
    return values


def _stacked(data: dict[str, list]) -> dict[str, torch.Tensor]:
    """Stack each list into a batch."""
    shapes = sorted({tuple(values.shape[-2:]) for values in data["pixel_values"]})
    if len(shapes) > 1:
        raise ValueError(
            f"the images have the input sizes {shapes}; a batch needs one. Pass keep_aspect_ratio=False, one image "
            "at a time, or train with DepthCollator, which crops."
        )
    return {key: torch.stack(values) for key, values in data.items()}
