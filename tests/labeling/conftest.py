import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import Dinov2Config

from depth_anything_hf import DepthAnythingForDepthEstimation, DepthAnythingImageProcessor, config_for_encoder
from depth_anything_hf.labeling.arguments import LabelingArguments
from depth_anything_hf.labeling.engine import label_images

SIZES = ((40, 30), (30, 40), (48, 48), (64, 48), (56, 56))  # width and height


@pytest.fixture(scope="module", autouse=True)
def _one_thread(one_thread):
    """All of a module's tests and its shared runs."""


@pytest.fixture(scope="session")
def save_teacher(tmp_path_factory):
    """Function that saves a tiny Depth Anything: `save_teacher(max_depth=None, seed=0)` returns its folder."""

    def save(max_depth=None, seed=0) -> str:
        folder = tmp_path_factory.mktemp("teacher")
        encoder = Dinov2Config(image_size=56, hidden_size=32, num_hidden_layers=4, num_attention_heads=2)
        torch.manual_seed(seed)
        model = DepthAnythingForDepthEstimation(config_for_encoder(encoder, max_depth=max_depth))
        if max_depth is None:
            torch.nn.init.constant_(model.head.conv3.bias, 0.5)  # above zero: labels have pixels
        model.save_pretrained(folder)
        DepthAnythingImageProcessor(size={"height": 56, "width": 56}).save_pretrained(folder)
        return str(folder)

    return save


@pytest.fixture(scope="session")
def teacher(save_teacher) -> str:
    return save_teacher()


@pytest.fixture(scope="session")
def draw():
    """Function that draws a picture with shapes larger than a pixel: `draw(width, height, seed)`."""

    def picture(width: int, height: int, seed: int = 0) -> Image.Image:
        coarse = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), dtype=np.uint8)
        return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)

    return picture


@pytest.fixture(scope="session")
def save_photos(draw):
    """Function that writes pictures of several sizes to a tree: `save_photos(folder, count)`."""

    def save(folder: Path, count: int) -> Path:
        for i in range(count):
            file = folder / f"{i % 3}" / f"{i:03d}.{'png' if i % 4 else 'jpg'}"
            file.parent.mkdir(parents=True, exist_ok=True)
            draw(*SIZES[i % len(SIZES)], seed=i).save(file)
        return folder

    return save


@pytest.fixture(scope="session")
def photos(save_photos, tmp_path_factory) -> Path:
    """Folder tree of 12 pictures."""
    return save_photos(tmp_path_factory.mktemp("photos"), 12)


@pytest.fixture
def label(teacher, photos):
    """Function that labels: `label(out, images=photos, **arguments)` returns the manifest."""

    def run(out, images=photos, model=teacher, **settings):
        defaults = {"resolution": 56, "shard_size": 5, "num_workers": 0, "device": "cpu", "disable_tqdm": True}
        return label_images(LabelingArguments(str(model), str(images), str(out), **(defaults | settings)))

    return run


@pytest.fixture(scope="session")
def contents():
    """Function that gives a digest of each file below a folder, hidden ones too."""

    def read(folder: Path) -> dict[str, str]:
        files = [path for path in Path(folder).rglob("*") if path.is_file()]
        return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}

    return read


@pytest.fixture(scope="session")
def rejects():
    """Function that reads the reasons of a folder's rejects, by key."""

    def read(folder: Path) -> dict[str, str]:
        lines = (Path(folder) / "rejects.jsonl").read_text().splitlines()
        return {entry["key"]: entry["reason"] for entry in map(json.loads, lines)}

    return read


@pytest.fixture(scope="session")
def start_run(start):
    """Function that labels in processes of its own: `start_run(arguments, processes=1, **limits)`."""

    def run(arguments, processes=1, **limits) -> dict:
        return start(arguments=["pseudo-label", *map(str, arguments)], processes=processes, **limits)

    return run
