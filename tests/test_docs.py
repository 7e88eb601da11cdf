"""Runs the Python examples of README and docs, in order, in a folder that holds what they name."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import Dinov2Config, Dinov2Model

from depth_anything_hf import DepthAnythingForDepthEstimation, DepthAnythingImageProcessor, config_for_encoder
from depth_anything_hf.data.folder import write_image_folder
from depth_anything_hf.data.records import encode_record
from depth_anything_hf.scenes.simple import iter_synthetic_records

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
# There is no Hub here: the examples' ids stand for small checkpoints on disk, loaded by the same code.
STAND_INS = {
    "depth-anything/Depth-Anything-V2-Small-hf": "checkpoint",
    "facebook/dinov2-small": "encoder",
    'size={"height": 518, "width": 518}': 'size={"height": 56, "width": 56}',
    "model.config, 1036)": "model.config, 84)",
}


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    encoder = Dinov2Config(image_size=56, hidden_size=32, num_hidden_layers=4, num_attention_heads=2)
    torch.manual_seed(0)
    Dinov2Model(encoder).save_pretrained(tmp_path / "encoder")
    DepthAnythingForDepthEstimation(config_for_encoder(encoder)).save_pretrained(tmp_path / "checkpoint")
    DepthAnythingImageProcessor(size={"height": 56, "width": 56}).save_pretrained(tmp_path / "checkpoint")
    scenes = list(iter_synthetic_records(6, 60, 80))
    records = [encode_record(s["image"], s["depth"], mask=s["depth"] > 0, sky=s["sky"]) for s in scenes]
    write_image_folder(records, tmp_path / "my_labelled_images")
    (tmp_path / "my_photos").mkdir()
    for i, scene in enumerate(scenes):
        scene["image"].save(tmp_path / "my_photos" / f"{i}.png")
    Image.fromarray(np.zeros((60, 80, 3), np.uint8)).save(tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_examples__run_as_they_stand(page, workplace):
    names = {"__name__": "__main__"}
    for block in BLOCK.findall(page.read_text(encoding="utf-8")):
        for written, stand_in in STAND_INS.items():
            block = block.replace(written, stand_in)
        exec(compile(block, str(page), "exec"), names)


def test_readme__has_examples_for_every_first_line():
    blocks = "\n".join(BLOCK.findall((ROOT / "README.md").read_text(encoding="utf-8")))
    for line in ("DepthAnythingTrainer(", "Trainer(", 'pipeline("depth-estimation"'):
        assert line in blocks


def test_docs__links_lead_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"
