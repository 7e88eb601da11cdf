"""The models behind the page: loaded on first use, the last few kept in memory, one prediction at a time."""

from __future__ import annotations

import threading
from collections import OrderedDict

import numpy as np
import torch
from PIL import Image

from depth_anything_hf.prediction.predictor import DepthPredictor, check_prediction

MAX_RESOLUTION = 1036  # twice the resolution of training


class Checkpoints:
    """Load checkpoints on first use and predict with them, from any thread.

    Args:
        keep (`int`): Number of checkpoints that stay in memory; the page compares two.
        device (`str` or `torch.device`, *optional*): Device that computes. Default: by `choose_device`.
        space (`str`, *optional*): "disparity" or "depth", for checkpoints whose config does not say.

    Example:
        >>> Checkpoints().predict("no/such/folder/here", Image.new("RGB", (80, 60)))
        Traceback (most recent call last):
        ...
        ValueError: the checkpoint no/such/folder/here cannot be loaded: name a folder on the machine that runs this page, or a Hub id...
    """

    def __init__(self, keep: int = 2, device: str | torch.device | None = None, space: str | None = None):
        self.keep, self.device, self.space = keep, device, space
        self._loaded: OrderedDict[str, DepthPredictor] = OrderedDict()  # last used: last
        self._lock = threading.Lock()

    def predict(self, name: str, image: Image.Image, resolution: int | None = None) -> tuple[np.ndarray, str]:
        """Predict an RGB image: `(height, width)` float32 at its size, and the space of the values.

        `resolution` is the shorter side of the network's input in pixels. Default: the checkpoint's own.

        Raises:
            ValueError: The checkpoint cannot be loaded, its space is unknown, or it does not accept the resolution.
        """
        if resolution is not None and resolution > MAX_RESOLUTION:
            raise ValueError(f"resolution is {resolution}; this page takes up to {MAX_RESOLUTION}: choose less.")
        with self._lock:
            own = self._load(name)
            predict = DepthPredictor.from_model(own.model, own.processor, resolution=resolution, space=own.space)
            depth = predict(image)
            check_prediction(depth)
            return depth.numpy(), predict.space

    def _load(self, name: str) -> DepthPredictor:
        if name in self._loaded:
            self._loaded.move_to_end(name)
            return self._loaded[name]
        while len(self._loaded) >= self.keep:  # before the next one takes memory
            self._loaded.popitem(last=False)
        try:
            predictor = DepthPredictor(name, space=self.space, device=self.device)
        except (OSError, ValueError) as error:  # transformers adds pages of advice
            raise ValueError(
                f"the checkpoint {name} cannot be loaded: name a folder on the machine that runs this page, or a Hub id "
                f"while it has a network. ({str(error).partition(chr(10))[0]})"
            ) from error
        self._loaded[name] = predictor
        return predictor
