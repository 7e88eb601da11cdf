"""The models behind the page: loaded on first use, the last few kept in memory, one prediction at a time."""

from __future__ import annotations

import copy
import threading
from collections import OrderedDict
from typing import Any

import numpy as np
from PIL import Image
from torch import nn

from depth_anything_hf.prediction.devices import choose_device
from depth_anything_hf.prediction.predictor import load_model, predict_depth, set_resolution, space_of

MAX_RESOLUTION = 1036  # twice the resolution of training


class Checkpoints:
    """Load checkpoints on first use and predict with them, from any thread.

    Args:
        keep (`int`): Number of checkpoints that stay in memory; the page compares two.
        device (`str`, *optional*): Device that computes. Default: the GPU, if there is one.
        space (`str`, *optional*): "disparity" or "depth", for checkpoints whose config does not say.

    Example:
        >>> Checkpoints().predict("no/such/folder/here", Image.new("RGB", (80, 60)))
        Traceback (most recent call last):
        ...
        ValueError: the checkpoint no/such/folder/here cannot be loaded: name a folder on the machine that runs this page, or a Hub id...
    """

    def __init__(self, keep: int = 2, device: str | None = None, space: str | None = None):
        self.keep = keep
        self.device, self.space = choose_device(device), space
        self._loaded: OrderedDict[str, tuple[nn.Module, Any, str]] = OrderedDict()  # last used: last
        self._lock = threading.Lock()

    def predict(self, name: str, image: Image.Image, resolution: int | None = None) -> tuple[np.ndarray, str]:
        """Predict one image.

        Args:
            name (`str`): Hub id or folder.
            image (`Image.Image`): RGB.
            resolution (`int`, *optional*): Shorter side of the network's input, pixels. Default: the checkpoint's own.

        Returns:
            `tuple[np.ndarray, str]`: `(height, width)` float32 at the image's size, and its space, "disparity" or "depth".

        Raises:
            ValueError: The checkpoint cannot be loaded, its space is unknown, or it does not accept the resolution.
        """
        if resolution is not None and resolution > MAX_RESOLUTION:
            raise ValueError(f"resolution is {resolution}; this page takes up to {MAX_RESOLUTION}: choose less.")
        with self._lock:
            model, processor, space = self._load(name)
            if resolution is not None:
                processor = copy.deepcopy(processor)
                set_resolution(processor, model.config, resolution)
            return predict_depth(model, processor, [image])[0].numpy(), space

    def _load(self, name: str) -> tuple[nn.Module, Any, str]:
        if name in self._loaded:
            self._loaded.move_to_end(name)
            return self._loaded[name]
        while len(self._loaded) >= self.keep:  # before the next one takes memory
            self._loaded.popitem(last=False)
        try:
            model, processor = load_model(name)
            entry = model.to(self.device), processor, space_of(model, name, self.space)
        except (OSError, ValueError) as error:  # transformers adds pages of advice
            raise ValueError(
                f"the checkpoint {name} cannot be loaded: name a folder on the machine that runs this page, or a Hub id "
                f"while it has a network. ({str(error).partition(chr(10))[0]})"
            ) from error
        self._loaded[name] = entry
        return entry
