"""depth.jsonl, which `predict` keeps true over several runs into one folder, finished or not."""

import json
import signal

import numpy as np
import pytest
from PIL import Image

from depth_anything_hf.cli.main import main
from depth_anything_hf.prediction.predictor import DepthPredictor, load_model, predict_depth
from depth_anything_hf.prediction.tiling import predict_tiled


@pytest.fixture
def models(make_model, tiny_processor, tmp_path):
    """Folders of two models: a relative and a metric one."""
    for name, max_depth in (("relative", None), ("metric", 20.0)):
        make_model(max_depth=max_depth).save_pretrained(tmp_path / name)
        tiny_processor.save_pretrained(tmp_path / name)
    return tmp_path / "relative", tmp_path / "metric"


@pytest.fixture
def photos(noise_image, tmp_path):
    (tmp_path / "photos").mkdir()
    for seed, name in enumerate("abc"):
        noise_image(30, 40, seed=seed).save(tmp_path / "photos" / f"{name}.png")
    return tmp_path / "photos"


def predict(files, model, out, *options):
    return main(["predict", *map(str, files), "--model", str(model), "--out", str(out), *options])


def listed(out):
    rows = [json.loads(line) for line in (out / "depth.jsonl").read_text().splitlines()]
    names = [row["depth_map_file_name"] for row in rows]
    assert len(set(names)) == len(names)
    return dict(zip(names, rows, strict=True))


def decodes(out, row, model, photo, tile=None):
    """Whether a depth map, decoded by its row, is what a model predicts of a photograph."""
    model, image = load_model(str(model)), Image.open(photo)
    expected = (
        predict_tiled(DepthPredictor.from_model(*model), image, tile).depth
        if tile
        else predict_depth(*model, [image])[0]
    )
    codes = np.array(Image.open(out / row["depth_map_file_name"])).astype(np.float64)
    decoded = codes * row["depth_scale"] + row["depth_offset"]
    return np.allclose(decoded, expected.numpy(), atol=row["depth_scale"], rtol=0)


@pytest.mark.slow
def test_predict__a_later_run_keeps_the_rows_of_others_and_replaces_its_own(models, photos, tmp_path):
    relative, metric = models
    assert predict([photos / "a.png", photos / "b.png"], relative, tmp_path / "out") == 0
    assert predict([photos / "b.png", photos / "c.png"], metric, tmp_path / "out") == 0
    rows = listed(tmp_path / "out")
    assert {name: row["space"] for name, row in rows.items()} == {
        "a_png.png": "disparity",
        "b_png.png": "depth",
        "c_png.png": "depth",
    }
    for name, row in rows.items():
        model = relative if name == "a_png.png" else metric
        assert decodes(tmp_path / "out", row, model, photos / name.replace("_png", ""))


def test_predict__an_image_that_cannot_be_read_any_more_keeps_its_row(models, photos, tmp_path):
    assert predict([photos], models[0], tmp_path / "out") == 0
    before = listed(tmp_path / "out")
    (photos / "b.png").write_bytes(b"no image")
    assert predict([photos], models[0], tmp_path / "out") == 1
    assert listed(tmp_path / "out") == before


@pytest.mark.slow
@pytest.mark.parametrize("tile", [[], ["--tile", "20"]], ids=["whole", "tiles"])
def test_predict__a_file_that_cannot_be_written_costs_no_row_but_its_own(tile, models, photos, tmp_path, capsys):
    out = tmp_path / "out"
    assert predict([photos], models[0], out, *tile) == 0
    before = listed(out)
    (out / "b_png_color.png").unlink()
    (out / "b_png_color.png").mkdir()  # in the way of the last file that is written of b; its codes are new by then
    assert predict([photos], models[1], out, *tile) == 1
    assert "b_png_color.png" in capsys.readouterr().err
    rows = listed(out)
    assert before.keys() - rows.keys() == {"b_png.png"}
    assert [rows[name]["space"] for name in ("a_png.png", "c_png.png")] == ["depth", "depth"]


def test_predict__a_point_cloud_that_cannot_be_written_costs_no_row(models, photos, tmp_path):
    out = tmp_path / "out"
    (out / "a_png.ply").mkdir(parents=True)
    assert predict([photos / "a.png"], models[1], out, "--point-cloud", "ply", "--fov", "60") == 1
    (row,) = listed(out).values()
    assert "point_cloud_file_name" not in row
    assert decodes(out, row, models[1], photos / "a.png")


@pytest.mark.slow
@pytest.mark.parametrize("tile", [None, 20], ids=["whole", "tiles"])
def test_predict__a_killed_run_leaves_rows_that_decode(tile, models, photos, noise_image, start, tmp_path):
    out, options = tmp_path / "out", [] if tile is None else ["--tile", str(tile)]
    noise_image(30, 40).save(tmp_path / "other.png")
    assert predict([photos, tmp_path / "other.png"], models[0], out, *options) == 0
    for seed in range(300):
        noise_image(30, 40, seed=seed).save(photos / f"z{seed}.png")
    command = ["predict", str(photos / "b.png"), str(photos), "--model", str(models[1]), "--out", str(out), *options]
    done = start(arguments=command, until=str(out / "depth.jsonl"), kill_after=0)
    assert done["codes"] == [-signal.SIGKILL], done["output"]  # it was not finished
    rows = listed(out)
    photo_of = {f"{file.stem}_png.png": file for file in [*photos.iterdir(), tmp_path / "other.png"]}
    for name, row in rows.items():
        assert any(decodes(out, row, model, photo_of[name], tile) for model in models), name
    assert {"other_png.png"} <= rows.keys()
    assert len({f"{name}_png.png" for name in "abc"} - rows.keys()) <= 1  # the one that was being written


@pytest.mark.parametrize("end", ['{"file_name": "d.p', ""], ids=["cut short", "without its line break"])
def test_predict__a_last_line_that_was_not_finished_is_mended(end, models, photos, tmp_path):
    out = tmp_path / "out"
    assert predict([photos / "a.png", photos / "b.png"], models[0], out) == 0
    before = listed(out)
    text = (out / "depth.jsonl").read_text()
    (out / "depth.jsonl").write_text(text + end if end else text.removesuffix("\n"))
    assert predict([photos / "c.png"], models[0], out) == 0
    rows = listed(out)
    assert rows.keys() == {"a_png.png", "b_png.png", "c_png.png"}
    assert before.items() <= rows.items()


@pytest.mark.parametrize("end", ["\n", ""], ids=["ended", "not ended"])
@pytest.mark.parametrize("line", ["not a row", "[1]", '{"file_name": "a.png"}', '{"depth_map_file_name": null}'])
def test_predict__a_listing_of_another_origin_is_left_alone(line, end, photos, tmp_path, capsys):
    (tmp_path / "depth.jsonl").write_text(line + end)
    assert predict([photos], "no model", tmp_path) == 1
    assert f"{tmp_path / 'depth.jsonl'} holds {line!r}, which is no row of predict" in (
        error := capsys.readouterr().err
    )
    assert "give another --out" in error
    assert (tmp_path / "depth.jsonl").read_text() == line + end


def test_predict__the_listing_is_text_of_any_language(models, photos, noise_image, tmp_path):
    noise_image(30, 40).save(photos / "höhle.png")
    for _ in range(2):
        assert predict([photos / "höhle.png"], models[0], tmp_path / "out") == 0
    assert listed(tmp_path / "out").keys() == {"höhle_png.png"}
