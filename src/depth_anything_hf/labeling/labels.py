"""Batches of pictures to 16-bit labels, on the model's device."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple, cast

import torch
from torch import nn

from depth_anything_hf.data.codes import MAX_CODE
from depth_anything_hf.labeling.teacher import Preparation
from depth_anything_hf.maps.resizing import resize_pixels, resize_prediction, resized_size, shaped_size

# Aspect ratios of cameras and phones. Only their shapes are compiled, because each shape costs a compilation. The choice
# must not depend on the order of the images, or a resumed run would differ in the last bit. At 518, 3 : 2 lies between
# two sizes: 640 x 427 and 1920 x 1280 get different ones.
_COMMON = ((1, 1), (3, 4), (2, 3), (427, 640), (9, 16), (4, 3), (3, 2), (640, 427), (16, 9))


def common_sizes(resolution: int, multiple: int, aspect: float | None = None) -> frozenset[tuple[int, int]]:
    """List the network's input sizes for pictures of the common aspect ratios; a network with one input shape has one size.

    Example:
        >>> sorted(common_sizes(518, 14))[:3]
        [(518, 518), (518, 686), (518, 770)]
    """
    if aspect is not None:
        return frozenset([shaped_size(resolution, aspect, multiple)])
    target = (resolution, resolution)
    return frozenset(resized_size(1000 * height, 1000 * width, target, multiple) for height, width in _COMMON)


class Labels(NamedTuple):
    """The labels of a batch; on CUDA wait for `ready` before you read them."""

    codes: torch.Tensor  # (batch, height, width) uint16, 0 = no label
    scale: torch.Tensor  # (batch,) float32, units per code
    low: torch.Tensor  # (batch,) float32, value of code 1
    finite: torch.Tensor  # (batch,) bool: whether the model's output is finite
    pixels: torch.Tensor | None  # (batch, height, width, 3) uint8, as the network saw them
    ready: torch.cuda.Event | None


def _to_cpu(labels: Labels) -> Labels:
    """Copy labels from a CUDA GPU without waiting for it; `ready` is set once they are there."""
    codes, scale, low, finite = (part.to("cpu", non_blocking=True) for part in labels[:4])
    pixels = None if labels.pixels is None else labels.pixels.to("cpu", non_blocking=True)
    ready = torch.cuda.Event()
    ready.record()
    return Labels(codes, scale, low, finite, pixels, ready)


def quantize(values: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Quantize maps to 16 bits, each over its own range, on their device: `data.codes.encode_depth_map` in float32.

    Args:
        values, mask: `(batch, height, width)`, float32 and bool.

    Returns:
        Codes uint16, 0 = no label; scale and lowest value `(batch,)` float32. A value is `(code - 1) * scale + low` within
        0.51 codes.

    Example:
        >>> codes, scale, low = quantize(torch.tensor([[[1.0, 2.0, 3.0]]]), torch.tensor([[[True, True, True]]]))
        >>> codes.tolist()
        [[[1, 32768, 65535]]]
    """
    spread = (1, 2)
    low = torch.where(mask, values, torch.inf).amin(spread)
    high = torch.where(mask, values, -torch.inf).amax(spread)
    labeled = low <= high  # has at least one label
    low, high = torch.where(labeled, low, 1.0), torch.where(labeled, high, 1.0)
    # A scale below the smallest normal number would be imprecise.
    scale = ((high - low) / (MAX_CODE - 1)).clamp_min(torch.finfo(torch.float32).tiny)
    scale = torch.where(low == high, torch.where(low != 0, low.abs(), 1.0), scale)
    steps = ((values - low[:, None, None]) / scale[:, None, None]).round() + 1
    codes = torch.where(mask, steps, 0.0).clamp(0, MAX_CODE).to(torch.int32).to(torch.uint16)
    return codes, scale, low


class Labeler:
    """Label batches of pictures of one input size.

    Args:
        model: Any depth model whose output has `predicted_depth`, on its device.
        preparation: Its mean, standard deviation and factor are used.
        space: Space of the predictions: `"disparity"` or `"depth"`.
        batch_size: Size of full batches; batches of compiled shapes are filled up to it.
        dtype: Number format of autocast; float32 switches it off.
        compiled_sizes: Input sizes for which the network is compiled.
        return_pixels: Return the pixels that the network saw.
    """

    def __init__(
        self,
        model: nn.Module,
        preparation: Preparation,
        space: str,
        batch_size: int,
        dtype: torch.dtype = torch.float32,
        compiled_sizes: frozenset[tuple[int, int]] = frozenset(),
        return_pixels: bool = False,
    ):
        # Channels last makes the decoder's convolutions faster: 3 % on a CPU.
        self.model: nn.Module = cast(Any, model.eval()).to(memory_format=torch.channels_last)
        self.device = next(model.parameters()).device
        self.space, self.batch_size, self.dtype, self.return_pixels = space, batch_size, dtype, return_pixels
        mean, std = (torch.tensor(x, device=self.device)[:, None, None] for x in (preparation.mean, preparation.std))
        self.gain, self.shift = preparation.factor / std, -mean / std
        self.compiled_sizes = compiled_sizes
        limits = torch._dynamo.config  # otherwise PyTorch would not compile all of the sizes
        limits.recompile_limit = max(limits.recompile_limit, len(compiled_sizes))
        self.compiled = torch.compile(self._depth, dynamic=False) if compiled_sizes else None

    @torch.inference_mode()
    def __call__(self, pixels: Sequence[torch.Tensor], size: tuple[int, int]) -> Labels:
        """Label pictures, each `(height, width, 3)` uint8, of any size, at the network's input size (height, width)."""
        seen = self._resized(pixels, size)
        values = self._predict(seen.movedim(-1, 1) * self.gain + self.shift)
        finite = torch.isfinite(values)
        codes, scale, low = quantize(values, finite & (values >= 0 if self.space == "disparity" else values > 0))
        labels = Labels(codes, scale, low, finite.flatten(1).all(1), seen if self.return_pixels else None, None)
        return labels if self.device.type != "cuda" else _to_cpu(labels)

    def _resized(self, pixels: Sequence[torch.Tensor], size: tuple[int, int]) -> torch.Tensor:
        """Resize pictures to the input size, in one call if their sizes are equal."""
        pixels = [picture.to(self.device, non_blocking=True) for picture in pixels]
        if len({picture.shape for picture in pixels}) == 1:
            return resize_pixels(torch.stack(pixels), size)
        return torch.cat([resize_pixels(picture[None], size) for picture in pixels])

    def _predict(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Run the network at the pictures' size, compiled for the chosen sizes: the batch is then filled up."""
        size = tuple(pixel_values.shape[-2:])
        if self.compiled is None or size not in self.compiled_sizes:
            return self._depth(pixel_values)
        missing = self.batch_size - len(pixel_values)
        filled = torch.cat([pixel_values, pixel_values[-1:].expand(missing, -1, -1, -1)]) if missing else pixel_values
        return self.compiled(filled)[: len(pixel_values)]

    def _depth(self, pixel_values: torch.Tensor) -> torch.Tensor:
        low = self.dtype != torch.float32
        with torch.autocast(self.device.type, self.dtype) if low else nullcontext():
            values = self.model(pixel_values=pixel_values).predicted_depth.float()
        height, width = pixel_values.shape[-2:]
        return values if values.shape[-2:] == (height, width) else resize_prediction(values, (height, width))
