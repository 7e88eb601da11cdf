import json

import pytest
import torch
from PIL import Image
from transformers import pipeline

from depth_anything_hf import DepthAnythingForDepthEstimation, DepthAnythingImageProcessor, config_for
from depth_anything_hf.cli.main import main
from depth_anything_hf.model.convert import load_official, to_official


@pytest.fixture(scope="module")
def official_file(tmp_path_factory):
    """A small model of random weights as an official file, under a name that says nothing."""
    torch.manual_seed(0)
    model = DepthAnythingForDepthEstimation(config_for("small"))
    path = tmp_path_factory.mktemp("official") / "weights.pth"
    torch.save(to_official(model.state_dict(), model.config), path)
    return path


@pytest.fixture(scope="module")
def metric_folder(official_file, tmp_path_factory):
    """What `convert` makes of it, read as a metric model."""
    folder = tmp_path_factory.mktemp("converted") / "deep" / "model"
    arguments = ["--size", "small", "--version", "v2", "--max-depth", "20", "--out", str(folder)]
    assert main(["convert", str(official_file), *arguments]) == 0
    return folder


@pytest.mark.slow
def test_convert__folder_loads_in_the_stock_pipeline(metric_folder, noise_image):
    assert {path.name for path in metric_folder.iterdir()} == {
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
    }
    settings = json.loads((metric_folder / "preprocessor_config.json").read_text())
    assert settings["image_processor_type"] == "DPTImageProcessor"
    assert settings["size"] == {"height": 518, "width": 518}
    assert settings["image_mean"] == pytest.approx([0.485, 0.456, 0.406])
    assert settings["image_std"] == pytest.approx([0.229, 0.224, 0.225])
    assert DepthAnythingImageProcessor.from_pretrained(metric_folder).resize_method == "lower_bound"
    estimator = pipeline("depth-estimation", model=str(metric_folder), device="cpu")
    for part in (estimator.model, estimator.image_processor):
        assert type(part).__module__.startswith("transformers.")
    image: Image.Image = noise_image(518, 518)
    found = estimator(image)["predicted_depth"]
    model = DepthAnythingForDepthEstimation.from_pretrained(metric_folder)
    assert (model.config.depth_estimation_type, model.config.max_depth) == ("metric", 20)
    pixels = DepthAnythingImageProcessor()(image, return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        expected = model(pixels).predicted_depth[0]
    assert expected.std() > 1e-3
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("out", "written"),
    [("checkpoints", "checkpoints/depth_anything_v2_metric_vits.pth"), ("new/my.pth", "new/my.pth")],
)
def test_convert__to_official_gives_the_file_back(out, written, metric_folder, official_file, tmp_path, capsys):
    arguments = ["--to-official", "--out", str(tmp_path / out)]
    assert main(["convert", str(metric_folder), *arguments]) == 0
    assert f"small v2 written to {tmp_path / written}; run it with --max-depth 20" in capsys.readouterr().out
    before, after = load_official(official_file), load_official(tmp_path / written)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert main(["convert", str(metric_folder), *arguments]) == 1  # never over a file
    assert "exists; give another --out" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("version", "other", "blocks", "name"),
    [
        ("v1", "v2", [9, 10, 11, 12], "depth_anything_vits14.pth"),
        ("v2", "v1", [3, 6, 9, 12], "depth_anything_v2_vits.pth"),
    ],
)
def test_convert__relative_there_and_back(version, other, blocks, name, official_file, tmp_path, capsys):
    folder = tmp_path / "model"
    arguments = ["--size", "small", "--version", version, "--out", str(folder)]
    assert main(["convert", str(official_file), *arguments]) == 0
    assert f"small {version} (relative: disparity) written to {folder}" in capsys.readouterr().out
    config = json.loads((folder / "config.json").read_text())
    assert config["backbone_config"]["out_indices"] == blocks
    back = ["convert", str(folder), "--to-official", "--out", str(tmp_path)]
    for wrong in (["--version", other], ["--size", "base"], ["--max-depth", "20"]):
        assert main([*back, *wrong]) == 1
        assert f"not {wrong[1]}" in capsys.readouterr().err
    assert main([*back, "--size", "small", "--version", version]) == 0
    assert len(load_official(tmp_path / name)) == 239


def test_convert__to_official_refuses_what_the_authors_code_cannot_load(make_model, tiny_processor, tmp_path, capsys):
    make_model().save_pretrained(tmp_path / "tiny")
    tiny_processor.save_pretrained(tmp_path / "tiny")
    assert main(["convert", str(tmp_path / "tiny"), "--to-official", "--out", str(tmp_path / "out")]) == 1
    assert "is none of the authors'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_convert__to_official_refuses_other_families(save_family, tmp_path, capsys):
    assert main(["convert", save_family("dpt"), "--to-official", "--out", str(tmp_path / "out")]) == 1
    assert "of type 'dpt'; only Depth Anything" in capsys.readouterr().err


@pytest.mark.slow
def test_convert__version_is_required_and_says_why(official_file, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["convert", str(official_file), "--size", "small", "--out", str(tmp_path)])
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert "--version is required: V1 and V2 share all weight names and read different encoder blocks" in error
    with pytest.raises(SystemExit):
        main(["convert", str(official_file), "--version", "v2", "--out", str(tmp_path)])
    assert "--size is required" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"--size": "base"}, "The size asked for is base; the weights are of size small"),
        ({"--max-depth": "9.5"}, "--max-depth is 9.5; it must be a positive whole number"),
        ({"--version": "v1", "--max-depth": "20"}, "V1 has no metric model but ZoeDepth's"),
    ],
)
def test_convert__wrong_arguments_write_nothing(changes, message, official_file, tmp_path, capsys):
    options = {"--size": "small", "--version": "v2", "--out": str(tmp_path / "out")} | changes
    assert main(["convert", str(official_file), *(part for pair in options.items() for part in pair)]) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("option", "wrong", "choices"),
    [("--version", "v3", "'v1', 'v2'"), ("--size", "tiny", "'small', 'base', 'large', 'giant'")],
)
def test_convert__refuses_what_is_no_choice(option, wrong, choices, official_file, tmp_path, capsys):
    options = {"--size": "small", "--version": "v2", "--out": str(tmp_path / "out")} | {option: wrong}
    with pytest.raises(SystemExit) as stop:
        main(["convert", str(official_file), *(part for pair in options.items() for part in pair)])
    assert stop.value.code == 2
    assert f"argument {option}: invalid choice: {wrong!r} (choose from {choices})" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_convert__wrong_paths(official_file, metric_folder, tmp_path, capsys):
    arguments = ["--size", "small", "--version", "v2", "--out"]
    assert main(["convert", str(official_file), *arguments, str(metric_folder)]) == 1
    assert "already holds a checkpoint" in capsys.readouterr().err
    assert main(["convert", str(official_file), *arguments, str(official_file)]) == 1
    assert "exists" in capsys.readouterr().err
    assert main(["convert", str(metric_folder), *arguments, str(tmp_path / "out")]) == 1
    assert "the other way round it goes with --to-official" in capsys.readouterr().err
    assert main(["convert", "none.pth", *arguments, str(tmp_path / "out")]) == 1
    assert "none.pth" in capsys.readouterr().err
