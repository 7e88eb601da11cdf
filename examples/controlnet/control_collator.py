"""Turn records into batches for a depth-conditioned ControlNet: photographs, control images and prompts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageOps

from depth_anything_hf.augmentation.cropping import crop_and_flip, random_crop_box
from depth_anything_hf.data.codes import open_image, upright_rgb
from depth_anything_hf.data.records import decode_record
from depth_anything_hf.maps.geometry import label_from_map
from depth_anything_hf.pictures.control_image import to_control_image


class ControlCollator:
    """Turn labeled records into square crops, and mirror half of them.

    The values of a control image are stretched over its crop, as over the whole picture during generation. If a label has
    its own size, the photograph keeps its full resolution. All random values follow the `draw_seed` of the record.

    Args:
        resolution (`int`): Side of the crops, pixels.
        prompt (`str`): Prompt of every record, if there is no `caption_column`.
        caption_column (`str`, *optional*): Column of the prompts; null is no prompt.
        empty_prompts (`float`): Share of the prompts that are left out, so that the network reads the control image.

    Raises:
        ValueError: `empty_prompts` is not from 0 to 1.

    Source: Adding Conditional Control to Text-to-Image Diffusion Models, section 3.3 (half of the prompts are left
    out). SDXL, section 2.2 (sizes and crops as conditions).

    Example:
        >>> from depth_anything_hf.data.records import encode_record
        >>> record = encode_record(Image.new("RGB", (80, 60)), np.full((60, 80), 2.0)) | {"draw_seed": 0}
        >>> batch = ControlCollator(32, prompt="a room")([record])
        >>> {name: tuple(values.shape) for name, values in batch.items() if name != "prompts"}
        {'pixel_values': (1, 3, 32, 32), 'control': (1, 3, 32, 32), 'time_ids': (1, 6)}
    """

    def __init__(
        self, resolution: int, prompt: str = "", caption_column: str | None = None, empty_prompts: float = 0.5
    ):
        if not 0 <= empty_prompts <= 1:
            raise ValueError(f"empty_prompts is {empty_prompts}; it is a share of the prompts, from 0 to 1.")
        self.resolution, self.prompt = resolution, prompt
        self.caption_column, self.empty_prompts = caption_column, empty_prompts

    def __call__(self, records: Sequence[dict]) -> dict:
        """Collate records.

        Args:
            records (`Sequence[dict]`): Records with `draw_seed`.

        Returns:
            `dict`: `pixel_values` in [-1, 1] and `control` in [0, 1], `(batch, 3, side, side)`; `prompts`, a list of
            text; `time_ids`, `(batch, 6)`: for SDXL, height and width of the photograph, top and left of the crop in the
            resized and mirrored one, height and width of the crop.

        Raises:
            ValueError: A record has no label, or no column of captions.
        """
        photos, controls, time_ids, prompts = zip(*map(self._crop, records), strict=True)
        return {
            "pixel_values": torch.stack([_planes(photo) for photo in photos]) * 2 - 1,
            "control": torch.stack([_planes(control) for control in controls]),
            "prompts": list(prompts),
            "time_ids": torch.tensor(time_ids, dtype=torch.float32),
        }

    def _crop(self, record: dict) -> tuple[Image.Image, Image.Image, tuple[int, ...], str]:
        disparity, valid = _disparity(record)
        photo = upright_rgb(open_image(record["image"], "image"))
        generator = torch.Generator().manual_seed(record["draw_seed"])
        height, width = disparity.shape
        side, size = min(height, width), (self.resolution, self.resolution)
        box = random_crop_box((height, width), (side, side), generator)
        flip, silent = (torch.rand(2, generator=generator) < torch.tensor([0.5, self.empty_prompts])).tolist()
        crop, crop_valid = (crop_and_flip(values, box, flip) for values in (disparity, valid))
        top, left = box[:2]
        down, across = photo.height / height, photo.width / width
        corners = (left * across, top * down, (left + side) * across, (top + side) * down)
        picture = photo.resize(size, Image.Resampling.BICUBIC, box=corners)
        corner = [round(start * self.resolution / side) for start in (top, width - side - left if flip else left)]
        return (
            ImageOps.mirror(picture) if flip else picture,
            to_control_image(crop, mask=crop_valid, size=size),
            (photo.height, photo.width, *corner, *size),
            "" if silent else self._prompt(record),
        )

    def _prompt(self, record: dict) -> str:
        if self.caption_column is None:
            return self.prompt
        if self.caption_column not in record:
            raise ValueError(
                f"{record.get('source') or 'a record'} has no column {self.caption_column!r}, but {sorted(record)}; pass "
                "the one with the captions."
            )
        return record[self.caption_column] or ""


def _disparity(record: dict) -> tuple[torch.Tensor, torch.Tensor]:
    """Read a record's label as disparity, the sky at 0, and its mask: `(height, width)`."""
    sample = decode_record(record)
    if sample.values is None:
        raise ValueError(
            f"{sample.source or 'a record'} has no depth_map; label the photographs with `depth-anything-hf pseudo-label`."
        )
    values, mask = torch.from_numpy(sample.values), torch.from_numpy(sample.mask)
    sky = None if sample.sky is None else torch.from_numpy(sample.sky)
    return label_from_map(values, mask, sample.space, "relative", sky)


def _planes(picture: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(picture)).movedim(-1, 0) / 255
