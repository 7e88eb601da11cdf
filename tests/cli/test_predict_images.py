"""Which images `predict` takes, and what the files that it writes of them are called."""

import json

import numpy as np
import pytest
from PIL import Image

from depth_anything_hf.cli.main import main
from depth_anything_hf.prediction.predictor import load_model, predict_depth


@pytest.fixture
def save_photo(noise_image, tmp_path):
    """Function that saves a picture of noise, another one each time: `save_photo("A/1.png")`."""
    count = iter(range(100))

    def save(name: str, **options):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        noise_image(30, 40, seed=next(count)).save(file, **options)
        return file

    return save


@pytest.fixture
def run(checkpoint, tmp_path, monkeypatch):
    """Function that predicts in the folder of the test: `run("A", "B", "--out", "out")` gives the exit code."""
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: main(["predict", *map(str, arguments), "--model", checkpoint])


def listed(out):
    """Rows of the listing, by the depth map's name; every name stands there once."""
    rows = [json.loads(line) for line in (out / "depth.jsonl").read_text().splitlines()]
    names = [row["depth_map_file_name"] for row in rows]
    assert len(set(names)) == len(names)
    return dict(zip(names, rows, strict=True))


def assert_decodes(out, row, checkpoint):
    """The depth map of a row holds the prediction of the image that the row names."""
    model, processor = load_model(checkpoint)
    expected = predict_depth(model, processor, [Image.open(row["file_name"]).convert("RGB")])[0].numpy()
    codes = np.array(Image.open(out / row["depth_map_file_name"])).astype(np.float64)
    np.testing.assert_allclose(codes * row["depth_scale"] + row["depth_offset"], expected, atol=row["depth_scale"])


def test_predict__says_that_a_path_does_not_exist(run, tmp_path, capsys):
    for name in ("nothere.jpg", "nowhere/", "photo"):
        assert run(name, "--out", "out") == 1
        assert f"{name} does not exist; check the path" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_predict__says_where_no_image_is(run, save_photo, tmp_path, capsys):
    save_photo("photos/a.heic", format="PNG")
    assert run("photos", "--out", "out") == 1
    assert "photos holds no image (.jpg, .jpeg" in capsys.readouterr().err
    assert run("photos/*.jpg", "--out", "out") == 1
    assert "photos/*.jpg matches no image (.jpg, .jpeg" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("tile", [[], ["--tile", "20"]], ids=["whole", "tiles"])
def test_predict__tries_a_named_file_whatever_its_name(tile, run, checkpoint, save_photo, tmp_path, capsys):
    save_photo("photo", format="JPEG")
    save_photo("x.gif")
    (tmp_path / "notes.txt").write_text("no image")
    assert run("photo", "notes.txt", "x.gif", "--out", "out", *tile) == 1
    printed = capsys.readouterr()
    assert "2 of 3 images written" in printed.out
    assert "could not read notes.txt: cannot identify image file" in printed.err
    rows = listed(tmp_path / "out")
    assert {name: row["file_name"] for name, row in rows.items()} == {"photo.png": "photo", "x_gif.png": "x.gif"}
    if not tile:
        for row in rows.values():
            assert_decodes(tmp_path / "out", row, checkpoint)


@pytest.mark.slow
def test_predict__folders_whose_images_are_called_alike_get_subfolders(run, checkpoint, save_photo, tmp_path):
    for name in ("A/1.png", "B/1.png", "B/deep/2.png", "C/3.png"):
        save_photo(name)
    assert run("A", "B", "C", "--out", "out") == 0
    rows = listed(tmp_path / "out")
    assert {name: row["file_name"] for name, row in rows.items()} == {
        "A/1_png.png": "A/1.png",
        "B/1_png.png": "B/1.png",
        "B/deep/2_png.png": "B/deep/2.png",
        "3_png.png": "C/3.png",
    }
    for row in rows.values():
        assert_decodes(tmp_path / "out", row, checkpoint)


@pytest.mark.slow
@pytest.mark.parametrize(
    "given",
    [("day1/images", "day2/images"), ("day1/images/1.png", "day2/images/1.png"), ("day1/images/*.*", "day2/images")],
    ids=["folders", "files", "pattern"],
)
def test_predict__folders_called_alike_take_as_much_of_their_paths_as_tells_them_apart(
    given, run, save_photo, tmp_path
):
    save_photo("day1/images/1.png")
    save_photo("day2/images/1.png")
    assert run(*given, "--out", "out") == 0
    assert set(listed(tmp_path / "out")) == {"day1/images/1_png.png", "day2/images/1_png.png"}


def test_predict__names_that_differ_in_case_alone_are_called_alike(run, save_photo, tmp_path):
    save_photo("A/IMG.png")
    save_photo("B/img.png")
    assert run("A", "B", "--out", "out") == 0
    assert set(listed(tmp_path / "out")) == {"A/IMG_png.png", "B/img_png.png"}


def test_predict__names_that_differ_stay_without_subfolders(run, save_photo, tmp_path):
    save_photo("A/1.png")
    save_photo("B/2.png")
    assert run("A", "B", "--out", "out") == 0
    assert set(listed(tmp_path / "out")) == {"1_png.png", "2_png.png"}


def test_predict__an_image_that_is_given_twice_is_predicted_once(run, save_photo, tmp_path, capsys):
    save_photo("A/1.png")
    save_photo("A/deep/1.png")
    (tmp_path / "link").symlink_to("A")
    assert run("A", "A/1.png", "A/deep", "link", "A/**/*.png", "--out", "out") == 0
    assert "2 of 2 images written" in capsys.readouterr().out
    assert set(listed(tmp_path / "out")) == {"1_png.png", "deep/1_png.png"}


@pytest.mark.parametrize(
    ("names", "given", "file"),
    [
        (["photos/a.b.png", "photos/a_b.png"], ["photos"], "a_b_png.png"),
        (["a.png", "a.png_color"], ["a.png", "a.png_color"], "a_png_color.png"),
        (["A/1.png", "B/1.png", "C/A/1.png"], ["A", "B", "C"], "A/1_png.png"),
    ],
    ids=["dots", "colours", "subfolder"],
)
def test_predict__of_two_images_of_one_name_the_second_is_named(names, given, file, run, save_photo, tmp_path, capsys):
    for name in [*names, "other.png"]:
        save_photo(name, format="PNG")
    assert run(*given, "other.png", "--out", "out") == 1
    printed = capsys.readouterr()
    assert f"{names[0]} and {names[-1]} would both be written to out/{file}; rename one" in printed.err
    assert "different --out" in printed.err
    assert f"{len(names)} of {len(names) + 1} images written" in printed.out
    rows = listed(tmp_path / "out")
    assert {row["file_name"] for row in rows.values()} == {*names[:-1], "other.png"}


def test_predict__writes_over_no_image_that_it_reads(run, save_photo, tmp_path, capsys):
    photo, other = save_photo("photos/a.jpg"), save_photo("photos/a_jpg.png")
    before = photo.read_bytes(), other.read_bytes()
    assert run("photos", "--out", "photos") == 1
    assert "photos/a.jpg would be written over photos/a_jpg.png, which is to be read" in capsys.readouterr().err
    assert (photo.read_bytes(), other.read_bytes()) == before
    assert set(listed(photo.parent)) == {"a_jpg_png.png"}


@pytest.mark.parametrize("given", [".", "*", "**/*.png"])
def test_predict__a_second_run_leaves_its_own_output_out(given, run, save_photo, tmp_path, monkeypatch, capsys):
    save_photo("photos/1.png")
    save_photo("photos/deep/2.png")
    monkeypatch.chdir(tmp_path / "photos")
    names = [given] if given != "*" else ["1.png", "deep"]
    assert run(*names) == 0
    first = listed(tmp_path / "photos" / "depth")
    assert len(first) == 2
    names = [given] if given != "*" else ["1.png", "deep", "depth"]  # as a shell expands it
    capsys.readouterr()
    assert run(*names) == 0
    printed = capsys.readouterr().out
    assert "2 of 2 images written to depth" in printed
    assert "images under --out are left out of a search: 4, such as depth/" in printed
    assert listed(tmp_path / "photos" / "depth") == first


def test_predict__what_lies_under_out_is_left_out_whoever_wrote_it(run, save_photo, tmp_path):
    save_photo("photos/1.png")
    save_photo("photos/out/deep/other.png")
    (tmp_path / "link").symlink_to("photos")
    assert run("link", "--out", "photos/out") == 0
    assert set(listed(tmp_path / "photos" / "out")) == {"1_png.png"}


@pytest.mark.parametrize("given", ["photos", "photos/deep"])
def test_predict__a_folder_that_is_written_itself_is_searched_but_for_the_output(given, run, save_photo, tmp_path):
    save_photo("photos/deep/1.png")
    for _ in range(2):
        assert run(given, "--out", "photos") == 0
    name = "1_png.png" if given == "photos/deep" else "deep/1_png.png"
    assert set(listed(tmp_path / "photos")) == {name}


@pytest.mark.slow
def test_predict__a_named_file_is_taken_wherever_it_lies(run, checkpoint, save_photo, tmp_path, capsys):
    save_photo("1.png")
    assert run("1.png") == 0
    (tmp_path / "1.png").rename(tmp_path / "2.png")
    capsys.readouterr()
    assert run(".", "depth/1_png_color.png") == 0
    assert "left out of a search: 1, such as depth/1_png.png" in capsys.readouterr().out
    rows = listed(tmp_path / "depth")
    assert set(rows) == {"1_png.png", "1_png_color_png.png", "2_png.png"}
    for name in ("1_png_color_png.png", "2_png.png"):
        assert_decodes(tmp_path / "depth", rows[name], checkpoint)


def test_predict__says_when_there_is_nothing_but_its_own_output(run, save_photo, tmp_path, capsys):
    save_photo("1.png")
    assert run("1.png") == 0
    (tmp_path / "1.png").unlink()
    before = listed(tmp_path / "depth")
    for given in (".", "depth"):
        assert run(given) == 1
        assert f"{given}: no image but those under --out, depth; give another --out" in capsys.readouterr().err
    assert listed(tmp_path / "depth") == before
