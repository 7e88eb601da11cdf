"""The checkpoint that comes with the package: it is stock, small, and better than a guess."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from transformers import DepthAnythingForDepthEstimation as StockDepthAnything
from transformers import pipeline

from depth_anything_hf import DepthAnythingForDepthEstimation, DepthAnythingImageProcessor
from depth_anything_hf.data.folder import load_folder
from depth_anything_hf.evaluation.compare import score_models
from depth_anything_hf.evaluation.contestants import Contestant, row_prior
from depth_anything_hf.model.bundled import MINI, checkpoint_folder
from depth_anything_hf.prediction.predictor import load_model, predict_depth
from depth_anything_hf.prediction.weights import model_revision
from depth_anything_hf.sharing.cards import Provenance

FOLDER = Path(checkpoint_folder(MINI))


def test_weights__are_float16_and_fit_into_the_package():
    path = FOLDER / "model.safetensors"
    assert path.stat().st_size <= 12e6
    with safe_open(path, "pt") as file:
        assert {file.get_slice(name).get_dtype() for name in file.keys()} == {"F16"}  # noqa: SIM118 - no dict


def test_network__is_stock_and_has_at_most_six_million_parameters():
    model, loading = StockDepthAnything.from_pretrained(FOLDER, output_loading_info=True)
    assert not any(loading[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert sum(parameter.numel() for parameter in model.parameters()) <= 6e6
    assert json.loads((FOLDER / "preprocessor_config.json").read_text())["image_processor_type"] == "DPTImageProcessor"


def test_load_model__takes_its_name_and_computes_in_float32(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model, _ = load_model(MINI)
    assert next(model.parameters()).dtype == torch.float32
    assert model_revision(MINI, model).startswith("sha256:")


def test_from_pretrained__takes_its_name(tmp_path, monkeypatch, noise_image):
    monkeypatch.chdir(tmp_path)
    model, processor = (
        kind.from_pretrained(MINI) for kind in (DepthAnythingForDepthEstimation, DepthAnythingImageProcessor)
    )
    ours, theirs = (predict_depth(*pair, [noise_image(60, 80)])[0] for pair in ((model, processor), load_model(MINI)))
    assert torch.equal(ours, theirs)
    assert not all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.slow
def test_half_precision__is_finite_and_close(noise_image):
    images = [noise_image(120, 160, seed=seed) for seed in range(3)]
    whole, half = (predict_depth(*load_model(MINI, dtype=dtype), images) for dtype in (torch.float32, torch.float16))
    for one, other in zip(whole, half, strict=True):
        assert other.isfinite().all()
        torch.testing.assert_close(other.float(), one, rtol=0.05, atol=0.02 * one.max().item())


def test_checkpoint_folder__a_model_of_yours_of_that_name_wins(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / MINI).mkdir()
    (tmp_path / MINI / "config.json").write_text("{}")
    assert checkpoint_folder(MINI) == MINI


@pytest.mark.parametrize("kind", ["a file", "an empty folder", "a folder of other things"])
def test_checkpoint_folder__nothing_else_of_that_name_stands_in_the_way(kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if kind == "a file":
        (tmp_path / MINI).write_text("notes on a small car")
    else:
        (tmp_path / MINI).mkdir()
    if kind == "a folder of other things":
        Image.new("RGB", (4, 4)).save(tmp_path / MINI / "photo.jpg")
    assert checkpoint_folder(MINI) == str(FOLDER)
    model, _ = load_model(MINI)
    assert model_revision(MINI, model) == model_revision(str(FOLDER), model)


def test_pipeline__agrees_with_our_own_prediction(noise_image):
    image = noise_image(120, 200)
    model, processor = load_model(MINI)
    ours = predict_depth(model, processor, [image], mode="bicubic")[0]
    theirs = pipeline("depth-estimation", model=str(FOLDER))(image)["predicted_depth"]
    torch.testing.assert_close(ours, theirs, atol=2e-4, rtol=2e-4)


@pytest.mark.slow
def test_predict__needs_neither_a_model_nor_a_folder_nor_a_network(tmp_path, noise_image):
    noise_image(60, 80).save(tmp_path / "photo.jpg")
    offline = "import sys, socket; socket.socket.connect = None; from depth_anything_hf.cli.main import main; sys.exit(main(['predict', 'photo.jpg']))"
    done = subprocess.run(
        [sys.executable, "-c", offline], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert Image.open(tmp_path / "depth" / "photo_jpg_color.png").size == (80, 60)
    assert "--model depth-anything/Depth-Anything-V2-Small-hf" in done.stdout


def test_provenance__is_of_these_weights():
    assert Provenance.load(FOLDER).license == "apache-2.0"  # raises where it is of others


def test_card__names_its_license_and_its_data():
    card = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert "license: apache-2.0" in card
    assert "rendered" in card


@pytest.mark.slow
@pytest.mark.parametrize("where", ["indoor", "outdoor"])
def test_real_images__it_is_clearly_ahead_of_the_prior(real_data, where):
    outdoors = ("kitti", "argoverse_like", "ddad_dgp")
    records = [record for record in load_folder(real_data) if (record["dataset"] in outdoors) == (where == "outdoor")]
    model, processor = load_model(MINI)
    models = {
        "mini": Contestant(lambda images: predict_depth(model, processor, images)),
        "prior": Contestant(row_prior),
    }
    scores = {name: table.summary() for name, table in score_models(models, records).items()}
    assert scores["mini"]["group_abs_rel"] < 0.95 * scores["prior"]["group_abs_rel"]
    assert scores["mini"]["group_delta1"] > scores["prior"]["group_delta1"] + 0.03
