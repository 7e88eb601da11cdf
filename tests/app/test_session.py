import json
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import trimesh
from PIL import Image

from depth_anything_hf.app.exports import add_archive, add_point_clouds, copy_session, repaint
from depth_anything_hf.app.files import Limits
from depth_anything_hf.app.look import palette
from depth_anything_hf.app.model_cache import Checkpoints
from depth_anything_hf.app.predict_files import predict_files
from depth_anything_hf.app.session import LONGEST_PREVIEW, preview_size, shown_size
from depth_anything_hf.cli.main import main
from depth_anything_hf.pictures.point_cloud import depth_for_viewing
from depth_anything_hf.pictures.visualization import paint


@pytest.fixture
def photos(tmp_path, noise_image):
    """Two images and what is none."""
    (tmp_path / "photos").mkdir()
    for index, name in enumerate(("a.png", "b.tif")):
        noise_image(60, 80 + index, index).save(tmp_path / "photos" / name)
    (tmp_path / "photos" / "c.png").write_text("text")
    return [tmp_path / "photos" / name for name in ("a.png", "b.tif", "c.png")]


@pytest.fixture
def predict(save_checkpoint, tmp_path):
    """Function that predicts files with a relative model, or with it and a metric one."""
    names = [save_checkpoint("relative"), save_checkpoint("metric", max_depth=20.0)]
    (tmp_path / "root").mkdir()

    def predict(paths, count=1, limits=Limits(), **more):  # noqa: B008 (never changed)
        return predict_files(paths, names[:count], Checkpoints(device="cpu"), tmp_path / "root", limits, **more)

    return predict


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 2])
def test_predict_files__writes_what_the_predict_command_writes(count, predict, photos, tmp_path):
    session, _ = predict(photos[:2], count)
    for index, (checkpoint, label) in enumerate([("relative", "relative"), ("metric", "B_metric")][:count]):
        label = "A_relative" if (index, count) == (0, 2) else label
        out = tmp_path / f"out_{checkpoint}"
        assert main(["predict", *map(str, photos[:2]), "--model", str(tmp_path / checkpoint), "--out", str(out)]) == 0
        rows = [json.loads(line) for line in (out / "depth.jsonl").read_text().splitlines()]
        listed = {row["depth_map_file_name"]: row for row in map(json.loads, (session.folder / "depth.jsonl").open())}
        for photograph, row in zip(session.photographs, rows, strict=True):
            stem = row["depth_map_file_name"].removesuffix(".png")
            for kind, ending in (("png", ".png"), ("npy", ".npy"), ("color", "_color.png")):
                ours = photograph.predictions[index].saved[kind]
                assert ours.name == f"{stem}_{label}{ending}"
                assert ours.read_bytes() == (out / f"{stem}{ending}").read_bytes()
            same = ("depth_scale", "depth_offset", "space")
            assert [listed[f"{stem}_{label}.png"][key] for key in same] == [row[key] for key in same]


def test_predict_files__names_what_it_leaves_out(predict, photos):
    session, problems = predict([photos[2], *photos])
    assert [one.name for one in session.photographs] == ["a.png", "b.tif"]
    assert len(problems) == 2
    assert all("c.png: cannot identify image file" in problem for problem in problems)
    assert session.paths == tuple(map(str, [photos[2], *photos]))


@pytest.mark.parametrize("paths", ["none", "broken"])
def test_predict_files__nothing_to_predict_leaves_no_folder(paths, predict, photos, tmp_path):
    message = "there is no image: drop one" if paths == "none" else r"c.png: cannot identify image file"
    with pytest.raises(ValueError, match=message):
        predict([] if paths == "none" else [photos[2]])
    assert list((tmp_path / "root").iterdir()) == []


def test_predict_files__a_wrong_resolution_leaves_no_folder(predict, photos, tmp_path):
    with pytest.raises(ValueError, match="resolution is 57"):
        predict(photos, resolution=57)
    assert list((tmp_path / "root").iterdir()) == []


def test_predict_files__without_a_checkpoint(photos, tmp_path):
    with pytest.raises(ValueError, match="there is no checkpoint: choose one"):
        predict_files(photos, [], Checkpoints(device="cpu"), tmp_path, Limits())


@pytest.mark.slow
def test_predict_files__stops_at_the_limits(predict, photos, noise_image, tmp_path):
    session, problems = predict([photos[0]] * 5, limits=Limits(images=2))
    assert len(session.photographs) == 2
    assert problems[0].startswith("3 more: this page takes 2 images at once")
    noise_image(100, 100).save(tmp_path / "photos" / "big.png")  # 20 of the limit make up all
    session, problems = predict([tmp_path / "photos" / "big.png"] * 23, limits=Limits(megapixels=0.01))
    assert len(session.photographs) == 20
    assert "3 more" in problems[0]
    assert "0.2 megapixels together" in problems[0]


def test_predict_files__the_same_name_twice(predict, photos, noise_image, tmp_path):
    (tmp_path / "other").mkdir()
    noise_image(30, 40, 7).save(tmp_path / "other" / "a.png")
    session, _ = predict([photos[0], tmp_path / "other" / "a.png"])
    shapes = [one.predictions[0].values().shape for one in session.photographs]
    assert shapes == [(60, 80), (30, 40)]
    assert len({one.predictions[0].saved["png"] for one in session.photographs}) == 2
    assert len((session.folder / "depth.jsonl").read_text().splitlines()) == 2


@pytest.mark.slow
def test_predict_files__a_large_image_has_a_small_preview_and_full_values(predict, noise_image, tmp_path):
    noise_image(400, 1600).save(tmp_path / "large.png")
    session, _ = predict([tmp_path / "large.png"])
    assert session.picture(0).size == session.picture(1).size == (LONGEST_PREVIEW, 320)
    assert session.photograph.predictions[0].values().shape == session.photograph.size == (400, 1600)


def test_preview_size__never_enlarges_nor_vanishes():
    assert preview_size(60, 80) == (60, 80)
    assert preview_size(1280, 1281) == (1279, 1280)
    assert preview_size(1, 40000) == (1, 1280)


def test_shown_size__is_never_enlarged_by_the_browser():
    for size in ((60, 80), (639, 10), (640, 480), (641, 480), (5000, 3000), (1, 1)):
        height, width = shown_size(*size)
        assert 640 <= max(height, width) <= 1280
        assert (height % preview_size(*size)[0], width % preview_size(*size)[1]) == (0, 0)


def test_repaint__changes_the_color_pictures_alone(predict, photos):
    session, _ = predict(photos[:1], colormap="viridis")
    made = session.photograph.predictions[0]
    np.testing.assert_array_equal(
        np.asarray(Image.open(made.saved["color"])), paint(made.values(), made.space, colors=palette("viridis"))
    )
    before = made.saved["png"].read_bytes(), made.saved["npy"].read_bytes()
    session = add_archive(add_point_clouds(session, 65.0))
    again = repaint(session, "gray")
    gray = np.asarray(Image.open(made.saved["color"]))
    assert np.array_equal(gray[..., 0], gray[..., 1])
    assert (made.saved["png"].read_bytes(), made.saved["npy"].read_bytes()) == before
    assert [file.suffix for file in again.extras] == [".ply"]  # the archive holds the old colors


def test_repaint__a_picture_is_whole_at_every_moment(predict, photos, monkeypatch):
    session, _ = predict(photos[:1])
    color = session.photograph.predictions[0].saved["color"]
    before, save = color.read_bytes(), Image.Image.save

    def look_and_save(image, path, **settings):
        save(image, path, **settings)
        assert color.read_bytes() == before  # as someone would who downloads it now

    monkeypatch.setattr(Image.Image, "save", look_and_save)
    repaint(session, "gray")
    assert color.read_bytes() != before
    assert {file.name for file in color.parent.iterdir() if "color" in file.name} == {color.name}


def test_add_point_clouds__meters_of_a_metric_model_and_a_shape_of_a_relative_one(predict, photos):
    session, _ = predict(photos[:1], count=2)
    session = add_point_clouds(add_point_clouds(session, 30.0), 90.0)
    assert [file.name for file in session.extras] == ["a_png_A_relative.ply", "a_png_B_metric.ply"]
    relative, metric = (made.values() for made in session.photograph.predictions)
    for file, meters in zip(session.extras, (depth_for_viewing(relative), metric), strict=True):
        cloud = trimesh.load(file)
        np.testing.assert_allclose(cloud.vertices[:, 2], meters.ravel(), rtol=1e-6)
        # 90 degrees over 80 columns: a focal length of 40, and the last pixel's centre 39.5 from the axis
        assert cloud.vertices[79, 0] == pytest.approx(39.5 / 40 * meters[0, 79], rel=1e-5)
        image = np.asarray(Image.open(photos[0]))
        np.testing.assert_array_equal(cloud.colors[:, :3], image.reshape(-1, 3))
    assert str(session.extras[0]) in session.downloads()
    with pytest.raises(ValueError, match=r"fov is 180"):
        add_point_clouds(session, 180.0)


def test_add_archive__holds_every_file(predict, photos):
    session, _ = predict(photos[:2], count=2)
    session = add_archive(add_archive(session))
    assert len(session.extras) == 1
    with zipfile.ZipFile(session.extras[0]) as archive:
        assert archive.testzip() is None
        assert len(archive.namelist()) == 2 * 2 * 3 + 1
        made = session.photographs[1].predictions[1]
        assert archive.read(made.saved["npy"].name) == made.saved["npy"].read_bytes()
        assert len(archive.read("depth.jsonl").splitlines()) == 4


def test_copy_session__is_independent(predict, photos, tmp_path):
    session, _ = predict(photos[:1])
    twin = copy_session(replace(session, points=((1, 2),)), tmp_path / "root")
    before = session.photograph.predictions[0].saved["color"].read_bytes()
    repaint(twin, "gray")
    assert session.photograph.predictions[0].saved["color"].read_bytes() == before
    assert all(
        twin.folder in made.saved[kind].parents for made in twin.photograph.predictions for kind in ("png", "npy")
    )
    assert twin.photograph.preview.is_file()
    assert twin.folder in twin.photograph.preview.parents
    assert twin.points == ((1, 2),)
    np.testing.assert_array_equal(twin.photograph.predictions[0].values(), session.photograph.predictions[0].values())
