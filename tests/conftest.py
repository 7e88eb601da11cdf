import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import Dinov2Config

from depth_anything_hf import DepthAnythingForDepthEstimation, DepthAnythingImageProcessor, config_for_encoder


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of the 52 real labelled images; the test skips where it is missing."""
    default = Path(__file__).parents[2] / "shared" / "data"
    folder = Path(os.environ.get("DEPTH_ANYTHING_HF_REAL_DATA") or default)
    if not (folder / "metadata.jsonl").is_file():
        pytest.skip(f"no real data at {folder}: set DEPTH_ANYTHING_HF_REAL_DATA to the folder of the labelled images")
    return folder


@pytest.fixture
def tiny_encoder_config() -> Dinov2Config:
    """A DINOv2 encoder of 4 blocks for images of 56 x 56 pixels: 16 patches."""
    return Dinov2Config(image_size=56, hidden_size=32, num_hidden_layers=4, num_attention_heads=2)


@pytest.fixture
def make_model(tiny_encoder_config) -> Callable[..., DepthAnythingForDepthEstimation]:
    """Function that makes a tiny model: `make_model(version="v2", max_depth=None, seed=0)`."""

    def make(version: str = "v2", max_depth: float | None = None, seed: int = 0) -> DepthAnythingForDepthEstimation:
        torch.manual_seed(seed)
        return DepthAnythingForDepthEstimation(config_for_encoder(tiny_encoder_config, version, max_depth))

    return make


@pytest.fixture
def tiny_processor() -> DepthAnythingImageProcessor:
    """Processor of the tiny models: `lower_bound` of 56 x 56 pixels."""
    return DepthAnythingImageProcessor(size={"height": 56, "width": 56})


@pytest.fixture
def noise_image() -> Callable[..., Image.Image]:
    """Function that draws an RGB image of noise: `noise_image(height, width, seed=0)`."""

    def draw(height: int, width: int, seed: int = 0) -> Image.Image:
        return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))

    return draw
