"""Runs the Python examples of README and docs, in order, in a folder that holds what they name."""

import importlib
import inspect
import re
from dataclasses import fields
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
from depth_anything_hf.training.arguments import DepthAnythingTrainingArguments
from depth_anything_hf.training.recipe import RecipeArguments

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
TEXTS = [
    *PAGES,
    *sorted((ROOT / "docs/api").glob("*.md")),
    *(ROOT / name for name in ("CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md")),
]
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
    Dinov2Model(encoder).save_pretrained(tmp_path / "encoder")
    torch.manual_seed(0)  # the model that other tests trace too
    DepthAnythingForDepthEstimation(config_for_encoder(encoder)).save_pretrained(tmp_path / "checkpoint")
    DepthAnythingImageProcessor(size={"height": 56, "width": 56}).save_pretrained(tmp_path / "checkpoint")
    scenes = list(iter_synthetic_records(6, 60, 80))
    records = [encode_record(s["image"], s["depth"], mask=s["depth"] > 0, sky=s["sky"]) for s in scenes]
    write_image_folder(records, tmp_path / "my_labeled_images")
    (tmp_path / "my_photos").mkdir()
    for i, scene in enumerate(scenes):
        scene["image"].save(tmp_path / "my_photos" / f"{i}.png")
    Image.fromarray(np.zeros((60, 80, 3), np.uint8)).save(tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_examples__run_as_they_stand(page, workplace, trace_once):
    names = {"__name__": "__main__"}
    for block in BLOCK.findall(page.read_text(encoding="utf-8")):
        for written, stand_in in STAND_INS.items():
            block = block.replace(written, stand_in)
        with trace_once():
            exec(compile(block, str(page), "exec"), names)


def test_readme__has_examples_for_every_first_line():
    blocks = "\n".join(BLOCK.findall((ROOT / "README.md").read_text(encoding="utf-8")))
    for line in ("DepthAnythingTrainer(", "Trainer(", 'pipeline("depth-estimation"'):
        assert line in blocks


def test_docs__links_lead_somewhere():
    for page in TEXTS:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


# Names in the paper index and the reading list: a move or a new name must not leave them behind.

ROOMS = sorted(path.name for path in (ROOT / "src/depth_anything_hf").iterdir() if (path / "__init__.py").is_file())
NAME = re.compile(rf"`(?:depth_anything_hf\.)?((?:{'|'.join(ROOMS)})(?:\.\w+)+)(?<!\.onnx)(?<!\.py)`")  # no files
PAPER_ROWS = re.findall(r"^\|.*`.*$", (ROOT / "docs/papers.md").read_text(encoding="utf-8"), re.MULTILINE)


def resolve(name):
    """Return the object at a dotted name below the package, as `from ... import ...` and attributes find it."""
    parts, found = name.split("."), importlib.import_module("depth_anything_hf")
    for i, part in enumerate(parts):
        try:
            found = importlib.import_module(".".join(["depth_anything_hf", *parts[: i + 1]]))
        except ModuleNotFoundError:
            found = getattr(found, part)
    return found


def test_docs__names_of_the_package_exist():
    # The change log also has the names of older versions.
    names = {
        name
        for page in TEXTS
        if page.name != "CHANGELOG.md"
        for name in NAME.findall(page.read_text(encoding="utf-8"))
    }
    assert len(names) > 30
    for name in sorted(names):
        resolve(name)


def test_api_reference__has_a_page_for_every_room():
    asked = {
        path.stem: "help of every subcommand" if path.stem == "cli" else f"::: depth_anything_hf.{path.stem}\n"
        for path in (ROOT / "docs/api").glob("*.md")
        if path.stem != "index"
    }
    assert asked.keys() == set(ROOMS)
    for room, line in asked.items():
        assert line in (ROOT / f"docs/api/{room}.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("row", PAPER_ROWS, ids=lambda row: row.split("|")[2].strip()[:40])
def test_paper_index__names_arguments_of_the_code(row):
    _, _, _, code, arguments, _ = row.split("|")
    known = {field.name for owner in (DepthAnythingTrainingArguments, RecipeArguments) for field in fields(owner)}
    functions = NAME.findall(code)
    assert functions
    for function in map(resolve, functions):
        known |= set(inspect.signature(function).parameters) if callable(function) else set()
    assert set(re.findall(r"`(\w+)`", arguments)) <= known


def test_resolve__finds_what_is_missing():
    assert resolve("maps.geometry.invert").__name__ == "invert"
    for name in ("maps.geometry.no_such_name", "maps.no_such_module.invert", "losses.no_such_name"):
        with pytest.raises(AttributeError):
            resolve(name)
