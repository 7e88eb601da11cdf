"""`predict` says what is wrong with its options before it does any work."""

import json
import sys

import pytest

from depth_anything_hf.cli.main import main


@pytest.fixture
def refused(noise_image, tmp_path, monkeypatch, capsys):
    """Function that predicts with options that are refused, and gives the message; nothing has been written then.

    The model does not exist: to load it would be work.
    """
    monkeypatch.chdir(tmp_path)
    noise_image(30, 40).save("photo.png")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "depth.jsonl").write_text(json.dumps({"depth_map_file_name": "a.png"}) + "\n")

    def run(*options, out="out"):
        before = {file: file.is_file() and file.read_bytes() for file in tmp_path.rglob("*")}
        assert main(["predict", "photo.png", "--model", "no/model", "--out", out, *options]) == 1
        assert {file: file.is_file() and file.read_bytes() for file in tmp_path.rglob("*")} == before
        return capsys.readouterr().err

    return run


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--tile", "0"], "tile is 0 pixels; it must be at least 4, so that neighbors overlap by a quarter: 518"),
        (
            ["--tile", "100", "--overlap", "60"],
            "tile is 100 and overlap 60 pixels; the overlap must be from 1 to half",
        ),
    ],
)
def test_predict__tiles_that_cannot_be(options, message, refused):
    assert message in refused(*options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--fov", "190"], "fov is 190"),
        (["--fov", "60", "--edge-threshold", "0"], "--edge-threshold is 0.0; it must be above 0"),
        (["--fov", "60", "--view-depth", "5", "2"], "near is 5 and far 2; they must be 0 < near < far"),
        (["--intrinsics", "1", "1", "inf", "1"], "intrinsics are [1.0, 1.0, inf, 1.0]; they must be"),
        (["--intrinsics", "0", "1", "1", "1"], "intrinsics are [0.0, 1.0, 1.0, 1.0]; they must be fx, fy, cx, cy"),
    ],
)
def test_predict__point_clouds_that_cannot_be(options, message, refused):
    assert message in refused("--point-cloud", "ply", *options)


def test_predict__glb_without_trimesh(refused, monkeypatch):
    monkeypatch.setitem(sys.modules, "trimesh", None)  # as where it is not installed
    message = refused("--point-cloud", "glb", "--fov", "60")
    assert 'GLB files need trimesh: pip install "depth_anything_hf[point-cloud]", or write PLY files' in message


@pytest.mark.parametrize("out", ["photo.png", "photo.png/deep"])
def test_predict__out_that_is_a_file(out, refused):
    assert f"--out is {out}, but photo.png is a file; it must be a folder" in refused(out=out)


def test_predict__out_below_the_home_folder(make_model, tiny_processor, noise_image, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    make_model().save_pretrained(tmp_path / "model")
    tiny_processor.save_pretrained(tmp_path / "model")
    noise_image(30, 40).save(tmp_path / "photo.png")
    # as a shell passes it on
    assert main(["predict", "~/photo.png", "--model", str(tmp_path / "model"), "--out=~/out"]) == 0
    assert (tmp_path / "out" / "photo_png.png").exists()


@pytest.mark.parametrize("number", ["nan", "inf", "0", "-1"])
def test_predict__megapixels_that_cannot_be(number, capsys):
    with pytest.raises(SystemExit):
        main(["predict", "photo.png", "--max-megapixels", number])
    assert f"argument --max-megapixels: {number} is no number above 0" in capsys.readouterr().err
