import json
import re

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import Dinov2Config

from depth_anything_hf import DepthAnythingForDepthEstimation, DepthAnythingImageProcessor, config_for_encoder
from depth_anything_hf.cli.main import main
from depth_anything_hf.data.folder import load_folder
from depth_anything_hf.labeling import engine
from depth_anything_hf.labeling.arguments import LabelingArguments


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    folder = tmp_path_factory.mktemp("teacher")
    encoder = Dinov2Config(image_size=56, hidden_size=32, num_hidden_layers=4, num_attention_heads=2)
    torch.manual_seed(0)
    DepthAnythingForDepthEstimation(config_for_encoder(encoder)).save_pretrained(folder)
    DepthAnythingImageProcessor(size={"height": 56, "width": 56}).save_pretrained(folder)
    return str(folder)


@pytest.fixture
def command(teacher, tmp_path):
    (tmp_path / "photos").mkdir()
    for i in range(5):
        pixels = np.random.default_rng(i).integers(0, 255, (40, 60, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{i}.png")
    (tmp_path / "photos" / "broken.jpg").write_bytes(b"no image")
    plain = ["--resolution", "56", "--device", "cpu", "--num_workers", "0"]
    return [
        "pseudo-label",
        "--model",
        teacher,
        "--images",
        str(tmp_path / "photos"),
        "--out",
        str(tmp_path / "out"),
        *plain,
    ]


def test_pseudo_label__labels_and_says_what_it_did(command, tmp_path, capsys):
    assert main(command) == 0
    captured = capsys.readouterr()
    assert f"6 images: 5 labeled, 1 rejected (rejects.jsonl), 1 shards in {tmp_path / 'out'}" in captured.out
    bar = captured.err.split("\r")[-1]
    assert re.search(r"pseudo-label.* 6/6? .*image.*rejected=1", bar), bar
    assert load_folder(tmp_path / "out")["source"] == [f"{i}.png" for i in range(5)]


def test_pseudo_label__options_reach_the_settings(command, tmp_path):
    options = [
        "--batch_size",
        "3",
        "--limit",
        "4",
        "--keep_image",
        "resized",
        "--space",
        "disparity",
        "--dtype",
        "bfloat16",
    ]
    assert main([*command, *options, "--shard_size", "2", "--compiled", "false", "--disable_tqdm"]) == 0
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    wanted = {"batch_size": 3, "limit": 4, "keep_image": "resized", "space": "disparity", "dtype": "bfloat16"}
    wanted |= {"shard_size": 2, "compiled": False, "resolution": 56, "inputs": 4}
    assert wanted.items() <= manifest.items()
    assert len(manifest["shards"]) == 2


def test_pseudo_label__at_the_teachers_own_resolution_goes_on_where_it_was(command, tmp_path):
    """Left out or given, it is one setting: neither makes another set of a folder that was begun with it."""
    plain = [word for word in command if word not in ("--resolution", "56")]
    assert main([*plain, "--shard_size", "2"]) == 0
    manifest = tmp_path / "out" / "manifest.json"
    first = manifest.read_bytes()
    assert json.loads(first)["resolution"] == 56
    manifest.unlink()
    (tmp_path / "out" / "data" / json.loads(first)["shards"][0]["file"].split("/")[-1]).unlink()
    assert main([*command, "--shard_size", "2"]) == 0
    assert manifest.read_bytes() == first


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--resolution", "57"], "--resolution is 57; it must be a multiple of the patch size 14, such as 56"),
        (["--shard_size", "0"], "--shard-size is 0; it must be at least 1"),
        (["--limit", "0"], "--limit is 0; it must be at least 1"),
        (["--num_workers", "-1"], "--num-workers is -1; it must be at least 0"),
        (["--push_to_hub", "a/b/c"], "a/b/c"),
        (["--images", "nowhere/*.jpg"], "nowhere"),
    ],
)
def test_pseudo_label__refuses(options, message, command, tmp_path, capsys):
    assert main([*command, *options]) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("option", "wrong", "choices"),
    [
        ("--keep-image", "copy", "'original', 'resized', 'reference'"),
        ("--space", "metres", "'depth', 'disparity'"),
        ("--device", "cuda:1", "'auto', 'cpu', 'cuda', 'mps'"),
        ("--dtype", "int8", "'float32', 'bfloat16', 'float16'"),
    ],
)
def test_pseudo_label__refuses_what_is_no_choice(option, wrong, choices, command, tmp_path, capsys):
    with pytest.raises(SystemExit) as end:
        main([*command, option, wrong])
    assert end.value.code == 2
    assert f"argument {option}: invalid choice: {wrong!r} (choose from {choices})" in capsys.readouterr().err
    name = option.removeprefix("--").replace("-", "_")
    with pytest.raises(ValueError, match=re.escape(f"{name} is {wrong!r}; it must be one of {choices}.")):
        LabelingArguments("teacher", "photos", "out", **{name: wrong})
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_pseudo_label__refuses_a_device_that_is_not_there(command, tmp_path, capsys):
    assert main([*command, "--device", "cuda"]) == 1
    assert "--device is 'cuda', and PyTorch finds no such device here; use 'auto' or 'cpu'." in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_pseudo_label__stopped_from_the_keyboard(command, monkeypatch, capsys):
    def stop(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(engine._Run, "take", stop)
    assert main(command) == 130
    assert "pseudo-label: stopped." in capsys.readouterr().err


def test_pseudo_label__help_has_examples_and_every_option(capsys):
    with pytest.raises(SystemExit):
        main(["pseudo-label", "--help"])
    text = capsys.readouterr().out
    assert "depth-anything-hf pseudo-label --model depth-anything/" in text
    assert "accelerate launch -m depth_anything_hf pseudo-label" in text
    assert "torchrun" in text
    assert all(len(line) <= 119 for line in text.split("examples:")[1].splitlines())
