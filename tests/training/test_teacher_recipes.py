"""The recipes of both teachers learn from the sets of the papers, each in its official layout."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import Dinov2Config, Dinov2Model

from depth_anything_hf.cli.main import main
from depth_anything_hf.data.readers import open_reader
from depth_anything_hf.data.records import decode_record, encode_sample
from depth_anything_hf.maps.geometry import label_from_map
from tests.official_trees import WRITERS, write_tree

ROOT = Path(__file__).parents[2]
RECIPES = ROOT / "examples" / "recipes"
ROWS = re.findall(r"^\| `(\w+)` \|(.*)\|$", (ROOT / "docs" / "datasets.md").read_text(), re.MULTILINE)
SKY = ("hrwsi", "tartanair", "vkitti2")  # the sets whose sky is a label of a relative model


@pytest.fixture(scope="module")
def trees(tmp_path_factory):
    """Folder with a tree of each set: a slope from 2 to 20 m under a sky."""
    root, random = tmp_path_factory.mktemp("sets"), np.random.default_rng(0)
    image = Image.fromarray(random.integers(0, 256, (60, 80, 3), dtype=np.uint8))
    depth = np.repeat(np.linspace(20, 2, 60)[:, None], 80, axis=1)
    depth[:10] = np.inf
    for name in WRITERS:
        write_tree(name, root / name, image, depth)
    return root, depth


@pytest.mark.parametrize("name", WRITERS)
def test_sets__all_become_the_same_label_of_a_relative_model(trees, name):
    root, depth = trees
    for sample in open_reader(name, root / name):
        values, mask = torch.from_numpy(sample.values), torch.from_numpy(sample.mask)
        sky = None if sample.sky is None else torch.from_numpy(sample.sky)
        label, used = (x.numpy() for x in label_from_map(values, mask, sample.space, "relative", sky))
        assert used[0].all() == (name in SKY)
        expected = 1 / depth  # 0 in the sky
        if name == "hypersim":  # read at its own size, and along the optical axis
            expected = 1 / depth[np.linspace(0, 59.99, 768).astype(int)][:, :1] * np.ones((1, 1024))
        one = np.corrcoef(label[used], expected[used])[0, 1]
        assert one > (0.97 if name == "hypersim" else 0.9999)
        assert (label[used & (expected == 0)] == 0).all()


@pytest.mark.parametrize("name", WRITERS)
def test_sets__survive_being_written_as_records(trees, name):
    root, _ = trees
    sample = open_reader(name, root / name)[0]
    again = decode_record(encode_sample(sample))
    assert (again.space, again.source, again.group) == (sample.space, sample.source, sample.group)
    assert np.array_equal(again.mask, sample.mask)
    assert np.abs(again.values - sample.values).max() <= np.ptp(sample.values[sample.mask]) / 65534 / 2 * 1.01


@pytest.mark.parametrize(("name", "row"), ROWS)
def test_table__says_what_the_reader_returns(trees, name, row):
    papers, _, _, _, space, _, sky = (cell.strip() for cell in row.split("|"))
    sample = open_reader(name, trees[0] / name)[0]
    assert sample.space == space
    assert (sample.sky is None) == (sky == "not told")
    for paper in ("V1", "V2"):
        assert (paper in papers) == (name in (RECIPES / f"{paper.lower()}_teacher.yaml").read_text())


def test_table__has_every_set():
    assert [name for name, _ in ROWS] == sorted(WRITERS)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["v1_teacher", "v2_teacher"])
def test_teacher_recipe__runs_on_all_its_sets(trees, tmp_path, name):
    root, _ = trees
    torch.manual_seed(0)
    encoder = Dinov2Config(image_size=56, hidden_size=32, num_hidden_layers=4, num_attention_heads=2)
    Dinov2Model(encoder).save_pretrained(tmp_path / "encoder")
    path = RECIPES / f"{name}.yaml"
    sets = [one for one in WRITERS if re.search(rf"\b{one}\b", path.read_text())]
    assert len(sets) == (6 if name == "v1_teacher" else 5)
    command = ["train", str(path), "--encoder", str(tmp_path / "encoder"), "--out", str(tmp_path / "out")]
    command += ["--labeled", *(f"{one}:{root / one}" for one in sets), "--max-steps", "3"]
    command += ["--per-device-train-batch-size", "3", "--gradient-checkpointing", "false", "--bf16", "false"]
    command += ["--use-cpu", "true", "--image-height", "56", "--image-width", "56", "--report-to", "none"]
    assert main(command) == 0
    card = (tmp_path / "out" / "README.md").read_text()
    assert all(one in card for one in sets)
