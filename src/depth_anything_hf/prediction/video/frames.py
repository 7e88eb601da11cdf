"""Predict the depth of frames as they come, aligned with their past."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from itertools import islice

import numpy as np
import torch
from PIL import Image

from depth_anything_hf.maps.geometry import disparity_of_prediction
from depth_anything_hf.pictures.visualization import paint
from depth_anything_hf.prediction.predictor import DepthPredictor
from depth_anything_hf.prediction.temporal import SMOOTHING, RunningRange, TemporalAligner
from depth_anything_hf.prediction.video.reading import Frame


@dataclass(frozen=True)
class DepthFrame:
    """A frame and its depth."""

    image: np.ndarray  # (height, width, 3) uint8 RGB
    time: Fraction  # seconds
    depth: np.ndarray  # (height, width) float32: disparity or meters, aligned with the past
    space: str  # "disparity" or "depth"
    scale: float  # of the alignment: depth = scale * prediction + shift
    shift: float
    cut: bool  # whether a scene begins here, and the alignment anew
    color_range: tuple[float, float]  # disparity of the darkest and of the brightest color

    @cached_property
    def picture(self) -> np.ndarray:
        """The depth in colors, on the range that runs through the video: (height, width, 3) uint8."""
        return paint(self.depth, self.space, *self.color_range)


def iter_video_depth(
    frames: Iterable[Frame], predictor: DepthPredictor, smoothing: float = SMOOTHING, batch_size: int = 1
) -> Iterator[DepthFrame]:
    """Predict the depth of a video's frames, with one batch of them in memory, however many there are.

    Args:
        frames (`Iterable[Frame]`): In order, such as a `VideoReader`.
        predictor (`DepthPredictor`): Predicts the frames.
        smoothing (`float`): Frames over which alignment and colors follow the video; 1 leaves every frame as it is.
        batch_size (`int`): Frames that go through the model together.

    Yields:
        `DepthFrame`: One for each frame, in order.

    Raises:
        ValueError: `smoothing` or `batch_size` below 1, or an image is not `(height, width, 3)` uint8.

    Example:
        >>> image = np.arange(48 * 64 * 3, dtype=np.uint8).reshape(48, 64, 3)
        >>> frames = (Frame(image, Fraction(i, 25)) for i in range(3))
        >>> predictor = DepthPredictor("mini", device="cpu")
        >>> [(frame.depth.shape, frame.cut) for frame in iter_video_depth(frames, predictor)]
        [((48, 64), True), ((48, 64), False), ((48, 64), False)]
    """
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; it must be at least 1 frame.")
    space = predictor.space
    align, follow = TemporalAligner(space, smoothing), RunningRange(smoothing)
    for frame, prediction in _predict(iter(frames), predictor, batch_size):
        aligned = align(prediction, torch.from_numpy(frame.image).movedim(2, 0))
        color_range = follow(*disparity_of_prediction(aligned.values, space), restart=aligned.cut)
        yield DepthFrame(frame.image, frame.time, aligned.values.numpy(), space, *aligned[1:], color_range)


def _predict(
    frames: Iterator[Frame], predictor: DepthPredictor, batch_size: int
) -> Iterator[tuple[Frame, torch.Tensor]]:
    """Yield frames with their predictions, and let go of each before the next batch is read."""
    while batch := deque(islice(frames, batch_size)):
        predictions = deque(predictor([Image.fromarray(frame.image) for frame in batch]))
        while batch:
            yield batch.popleft(), predictions.popleft()
