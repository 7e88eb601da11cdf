"""What version 0.1.0 wrote still loads, resumes and means the same.

`files_of_0_1_0/` was written by that version (commit 57c14e5) on the CPU: tiny checkpoints, an adapter, a folder of
records, a finished and an unfinished set of pseudo-labels, two runs stopped after 2 of 4 steps with the weights of the
straight run beside them, and every recipe of its `examples/`.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import pipeline

from depth_anything_hf import load_folder, stream_folder
from depth_anything_hf.cli.main import main
from depth_anything_hf.cli.train import parse_recipe
from depth_anything_hf.data.records import decode_record
from depth_anything_hf.model.convert import published_names
from depth_anything_hf.prediction.predictor import load_model, predict_depth

WRITTEN = Path(__file__).parent / "files_of_0_1_0"


@pytest.fixture
def files(one_thread, tmp_path, monkeypatch):
    """A copy of the files, as the working directory: they name each other by relative paths."""
    folder = tmp_path / "files"
    shutil.copytree(WRITTEN, folder)
    monkeypatch.chdir(folder)
    return folder


def photographs():
    return [Image.open(file).convert("RGB") for file in sorted(Path("photos").glob("*.jpg"))]


@pytest.mark.parametrize("name", ["teacher", "metric", "run", "adapter"])
def test_checkpoints__predict_as_they_did(files, name):
    model, processor = load_model(name)
    predictions = torch.stack(predict_depth(model, processor, photographs())).numpy()
    np.testing.assert_allclose(predictions, np.load("expected.npz")[name], rtol=1e-4, atol=1e-5)


def test_checkpoints__load_in_the_stock_pipeline(files):
    assert pipeline("depth-estimation", "run")("photos/0.jpg")["predicted_depth"].shape == (36, 48)


@pytest.mark.slow
@pytest.mark.parametrize("run", ["run", "stream_run"])
def test_runs__go_on_where_they_stopped(files, run):
    assert main(["train", f"{run}.yaml"]) == 0
    assert json.loads(Path(run, "trainer_state.json").read_text())["global_step"] == 4
    trained = published_names(load_file(f"{run}/model.safetensors"))  # that version wrote the published names
    straight = load_file(f"{run}/straight.safetensors")
    assert trained.keys() == straight.keys()
    for name in straight:
        torch.testing.assert_close(trained[name], straight[name], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("folder", ["records", "labels"])
def test_records__are_read(files, folder):
    samples = [decode_record(record) for record in load_folder(folder)]
    assert len(samples) == 4
    assert all(np.isfinite(sample.values[sample.mask]).all() and sample.mask.any() for sample in samples)
    assert {sample.space for sample in samples} == {"depth" if folder == "records" else "disparity"}


def test_streams__are_read(files):
    assert sorted(record["source"] for record in stream_folder("labels")) == ["0.jpg", "1.jpg", "2.jpg", "3.jpg"]


def label(out):
    """Repeat the command that began the folder."""
    command = ["pseudo-label", "--model", "teacher", "--images", "photos", "--out", out, "--shard_size", "2"]
    return main([*command, "--num_workers", "0", "--device", "cpu", "--disable_tqdm"])


def test_pseudo_labels__a_finished_set_is_left_as_it_is(files):
    before = {file: file.stat().st_mtime_ns for file in Path("labels", "data").iterdir()}
    assert label("labels") == 0
    assert {file: file.stat().st_mtime_ns for file in Path("labels", "data").iterdir()} == before


def test_pseudo_labels__an_unfinished_set_goes_on(files):
    begun = {file.name: file.read_bytes() for file in Path("unfinished", "data").iterdir()}
    assert len(begun) == 1
    assert label("unfinished") == 0
    for name, content in begun.items():
        assert Path("unfinished", "data", name).read_bytes() == content
    whole, finished = (load_folder(folder) for folder in ("labels", "unfinished"))
    for old, new in zip(whole, finished, strict=True):
        assert old["source"] == new["source"]
        np.testing.assert_allclose(decode_record(old).values, decode_record(new).values, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("recipe", sorted(path.name for path in (WRITTEN / "recipes").glob("*.yaml")))
def test_recipes__are_read(recipe):
    parsed, arguments = parse_recipe(
        WRITTEN / "recipes" / recipe, ["--labeled", "a", "--unlabeled", "b", "--use_cpu", "true", "--bf16", "false"]
    )
    assert parsed.labeled == ["a"]
    assert arguments.max_steps > 0 or arguments.num_train_epochs > 0
