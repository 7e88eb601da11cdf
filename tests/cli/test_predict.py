import json

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import Dinov2Config, ViTConfig, ViTModel

from depth_anything_hf import DepthAnythingForDepthEstimation, DepthAnythingImageProcessor, config_for_encoder
from depth_anything_hf.cli.main import main
from depth_anything_hf.inference import load_model, predict_depth


@pytest.fixture
def checkpoint(tmp_path):
    encoder = Dinov2Config(image_size=56, hidden_size=32, num_hidden_layers=4, num_attention_heads=2)
    torch.manual_seed(0)
    DepthAnythingForDepthEstimation(config_for_encoder(encoder)).save_pretrained(tmp_path / "model")
    DepthAnythingImageProcessor(size={"height": 56, "width": 56}).save_pretrained(tmp_path / "model")
    return str(tmp_path / "model")


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos" / "deep"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name in ("photos/a.png", "photos/a.jpg", "photos/deep/b.png"):
        Image.fromarray(rng.integers(0, 255, (60, 80, 3), np.uint8)).save(tmp_path / name)
    return tmp_path / "photos"


def test_predict__writes_depth_of_every_image_at_its_size(checkpoint, photos, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["predict", str(photos), "--model", checkpoint, "--out", str(out)]) == 0
    rows = [json.loads(line) for line in (out / "depth.jsonl").read_text().splitlines()]
    assert len({row["depth_map_file_name"] for row in rows}) == 3
    model, processor = load_model(checkpoint)
    for row in rows:
        expected = predict_depth(model, processor, [Image.open(row["file_name"]).convert("RGB")])[0].numpy()
        codes = np.array(Image.open(out / row["depth_map_file_name"])).astype(np.float64)
        assert codes.shape == (60, 80)
        np.testing.assert_allclose(codes * row["depth_scale"] + row["depth_offset"], expected, atol=row["depth_scale"])
        stem = str(out / row["depth_map_file_name"]).removesuffix(".png")
        np.testing.assert_array_equal(np.load(stem + ".npy"), expected)
        assert Image.open(stem + "_color.png").size == (80, 60)
    assert "3 of 3 images" in capsys.readouterr().out


def test_predict__names_broken_images_and_goes_on(checkpoint, photos, tmp_path, capsys):
    (photos / "broken.jpg").write_bytes(b"not an image")
    assert main(["predict", str(photos), "--model", checkpoint, "--out", str(tmp_path / "out")]) == 1
    captured = capsys.readouterr()
    assert "3 of 4 images" in captured.out
    assert "broken.jpg" in captured.err


def test_predict__resolution_changes_the_input_size(checkpoint, photos, tmp_path, capsys):
    arguments = ["predict", str(photos / "a.png"), "--model", checkpoint, "--out", str(tmp_path / "out")]
    assert main([*arguments, "--resolution", "112"]) == 0
    assert main([*arguments, "--resolution", "100"]) == 1
    assert "resolution is 100; it must be a multiple of the patch size 14, such as 98" in capsys.readouterr().err


def test_predict__no_image_and_wrong_model(checkpoint, photos, tmp_path, capsys):
    assert main(["predict", str(tmp_path / "none"), "--model", checkpoint, "--out", str(tmp_path / "out")]) == 1
    assert "holds no image" in capsys.readouterr().err
    ViTModel(
        ViTConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)
    ).save_pretrained(tmp_path / "vit")
    assert main(["predict", str(photos), "--model", str(tmp_path / "vit"), "--out", str(tmp_path / "out")]) == 1
    assert "is of type 'vit', which estimates no depth" in capsys.readouterr().err


@pytest.mark.parametrize(("family", "space"), [("glpn", "depth"), ("dpt", "disparity")])
def test_predict__other_families_say_what_they_predict(family, space, save_family, photos, tmp_path):
    arguments = ["predict", str(photos / "a.png"), "--model", save_family(family), "--out", str(tmp_path / "out")]
    assert main(arguments) == 0
    assert json.loads((tmp_path / "out" / "depth.jsonl").read_text())["space"] == space


def test_predict__resolution_of_a_processor_that_has_none(save_family, photos, tmp_path, capsys):
    arguments = ["predict", str(photos / "a.png"), "--model", save_family("glpn"), "--out", str(tmp_path / "out")]
    assert main([*arguments, "--resolution", "64"]) == 1
    assert "resolution is 64, but GLPNImageProcessor" in (error := capsys.readouterr().err)
    assert "leave it out" in error
