import json

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image
from transformers import Dinov2Config, ViTConfig, ViTModel

from depth_anything_hf import DepthAnythingForDepthEstimation, DepthAnythingImageProcessor, config_for_encoder
from depth_anything_hf.cli.main import main
from depth_anything_hf.data.codes import upright_rgb
from depth_anything_hf.prediction.predictor import DepthPredictor, load_model, predict_depth
from depth_anything_hf.prediction.tiling import predict_tiled


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


@pytest.mark.parametrize("resolution", [112, 224])
def test_predict__resolution_changes_the_input_size(resolution, checkpoint, photos, tmp_path):
    photo = photos / "a.png"
    arguments = ["predict", str(photo), "--model", checkpoint, "--out", str(tmp_path / "out")]
    assert main([*arguments, "--resolution", str(resolution)]) == 0
    model, processor = load_model(checkpoint)
    (at_its_own,) = predict_depth(model, processor, [Image.open(photo)])
    processor.size = {"height": resolution, "width": resolution}
    (expected,) = predict_depth(model, processor, [Image.open(photo)])
    found = np.load(tmp_path / "out" / "a_png.npy")
    np.testing.assert_array_equal(found, expected)
    assert np.abs(found - at_its_own.numpy()).max() > 1e-4


@pytest.mark.parametrize(("resolution", "nearest"), [("100", 98), ("0", 14), ("519", 518)])
def test_predict__resolution_that_is_no_multiple(resolution, nearest, checkpoint, photos, tmp_path, capsys):
    arguments = ["predict", str(photos / "a.png"), "--model", checkpoint, "--out", str(tmp_path / "out")]
    assert main([*arguments, "--resolution", resolution]) == 1
    message = f"resolution is {resolution}; it must be a multiple of the patch size 14, such as {nearest}"
    assert message in capsys.readouterr().err


def test_predict__a_video_goes_elsewhere(checkpoint, tmp_path, capsys):
    assert main(["predict", str(tmp_path / "clip.MP4"), "--model", checkpoint, "--out", str(tmp_path / "out")]) == 1
    assert "clip.MP4 is a video, and predict takes images: depth-anything-hf video" in capsys.readouterr().err


def test_predict__tiles(checkpoint, photos, tmp_path, noise_image):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6  # a quarter turn
    photo = photos / "large.png"
    noise_image(150, 230).save(photo, exif=exif)
    out = tmp_path / "out"
    arguments = ["predict", str(photo), "--model", checkpoint, "--out", str(out), "--tile", "100", "--overlap", "40"]
    assert main(arguments) == 0
    model, processor = load_model(checkpoint)
    upright = upright_rgb(Image.open(photo))
    expected = predict_tiled(DepthPredictor.from_model(model, processor), upright, tile=100, overlap=40)
    row = json.loads((out / "depth.jsonl").read_text())
    assert (row["tiles"], row["unfit_tiles"]) == (8, expected.unfit)
    np.testing.assert_array_equal(np.load(out / "large_png.npy"), expected.depth)
    codes = np.array(Image.open(out / row["depth_map_file_name"])).astype(np.float64)
    decoded = codes * row["depth_scale"] + row["depth_offset"]
    np.testing.assert_allclose(decoded, expected.depth, atol=row["depth_scale"])
    assert Image.open(out / "large_png_color.png").size == upright.size == (150, 230)
    assert sorted(path.name for path in out.iterdir()) == [
        "depth.jsonl",
        "large_png.npy",
        "large_png.png",
        "large_png_color.png",
    ]


def test_predict__tiles_that_do_not_agree_are_reported(checkpoint, photos, tmp_path, capsys):
    Image.new("RGB", (150, 100)).save(photos / "black.png")  # constant, so that no tile can be fitted
    DepthAnythingImageProcessor(size={"height": 14, "width": 14}).save_pretrained(checkpoint)  # one patch
    assert (
        main(["predict", str(photos / "black.png"), "--model", checkpoint, "--out", str(tmp_path), "--tile", "60"])
        == 0
    )
    row = json.loads((tmp_path / "depth.jsonl").read_text())
    assert row["unfit_tiles"] > 0
    assert f"{row['unfit_tiles']} of {row['tiles']} tiles were unfit; the whole stands in" in capsys.readouterr().out


@pytest.mark.slow
def test_predict__too_many_pixels(checkpoint, photos, tmp_path, capsys):
    arguments = ["predict", str(photos), "--model", checkpoint, "--out", str(tmp_path / "out"), "--tile", "60"]
    Image.new("RGB", (100, 100)).save(photos / "bomb.png")
    before = Image.MAX_IMAGE_PIXELS
    assert main([*arguments, "--max-megapixels", "0.006"]) == 1
    captured = capsys.readouterr()
    assert "3 of 4 images written" in captured.out
    assert "bomb.png: Image size (10000 pixels) exceeds limit of 6000 pixels" in captured.err
    assert "raise --max-megapixels if you trust it" in captured.err
    assert before == Image.MAX_IMAGE_PIXELS
    assert main([*arguments, "--max-megapixels", "0.01"]) == 0


@pytest.fixture
def metric(tmp_path, make_model, tiny_processor):
    make_model(max_depth=20.0).save_pretrained(tmp_path / "metric")
    tiny_processor.save_pretrained(tmp_path / "metric")
    return str(tmp_path / "metric")


@pytest.mark.parametrize("tile", [[], ["--tile", "50"]], ids=["whole", "tiles"])
@pytest.mark.parametrize(
    ("camera", "intrinsics", "source"),
    [
        (["--fov", "90"], [40.0, 40.0, 40.0, 30.0], "--fov 90"),
        (["--intrinsics", "50", "60", "41", "29"], [50.0, 60.0, 41.0, 29.0], "--intrinsics"),
    ],
)
def test_predict__point_cloud_of_a_metric_model(camera, intrinsics, source, tile, metric, photos, tmp_path, capsys):
    trimesh = pytest.importorskip("trimesh")
    out = tmp_path / "out"
    arguments = ["predict", str(photos / "deep"), "--model", metric, "--out", str(out), *tile]
    for kind, axes in (("ply", [1, 1, 1]), ("glb", [1, -1, -1])):
        assert main([*arguments, "--point-cloud", kind, *camera]) == 0
        row = json.loads((out / "depth.jsonl").read_text())
        assert row["intrinsics"] == intrinsics
        assert row["intrinsics_source"] == source
        assert f"that of {source}" in capsys.readouterr().out
        cloud = trimesh.load(out / row["point_cloud_file_name"])
        if kind == "glb":
            (cloud,) = cloud.geometry.values()
        points = cloud.vertices * axes
        depth = np.load(out / "b_png.npy")
        np.testing.assert_allclose(points[:, 2].reshape(60, 80), depth, rtol=1e-6)
        u = points[:, 0] / points[:, 2] * intrinsics[0] + intrinsics[2]
        np.testing.assert_allclose(u.reshape(60, 80), np.tile(np.arange(80) + 0.5, (60, 1)), atol=1e-3)
        expected = np.asarray(Image.open(photos / "deep" / "b.png")).reshape(-1, 3)
        np.testing.assert_array_equal(cloud.colors[:, :3], expected)


def test_predict__point_cloud_takes_the_camera_from_the_file(metric, photos, tmp_path, capsys):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.FocalLengthIn35mmFilm] = 30
    Image.new("RGB", (36, 24)).save(photos / "deep" / "b.png", exif=exif)
    out = tmp_path / "out"
    arguments = ["predict", str(photos / "deep"), "--model", metric, "--out", str(out), "--point-cloud", "ply"]
    assert main(arguments) == 0
    row = json.loads((out / "depth.jsonl").read_text())
    assert row["intrinsics"] == pytest.approx([30.0, 30.0, 12.0, 18.0])
    assert row["intrinsics_source"] == "EXIF FocalLengthIn35mmFilm"


def test_predict__point_cloud_without_a_camera_fails_before_any_work(metric, photos, tmp_path, capsys):
    out = tmp_path / "out"
    (photos / "broken.jpg").write_bytes(b"no image")
    arguments = ["predict", str(photos), "--model", metric, "--out", str(out), "--point-cloud", "ply"]
    assert main(arguments) == 1
    assert "a.jpg does not say with which focal length it was taken" in (error := capsys.readouterr().err)
    assert "pass --fov DEGREES" in error
    assert not out.exists()
    Image.new("RGB", (10, 20)).save(photos / "c.png")
    assert main([*arguments, "--intrinsics", "1", "1", "1", "1"]) == 1
    assert "the images have 2 sizes, such as [(10, 20), (80, 60)]" in capsys.readouterr().err
    assert main([*arguments, "--fov", "190"]) == 1
    assert "fov is 190.0" in capsys.readouterr().err
    assert not out.exists()


def test_predict__point_cloud_of_a_relative_model_is_for_looking(checkpoint, metric, photos, tmp_path, capsys):
    out = tmp_path / "out"
    arguments = ["predict", str(photos / "deep"), "--out", str(out), "--point-cloud", "ply", "--fov", "60"]
    assert main([*arguments, "--model", checkpoint]) == 1
    assert "predicts disparity of unknown scale and shift" in (error := capsys.readouterr().err)
    assert "--view-depth 1 10" in error
    assert main([*arguments, "--model", metric, "--view-depth", "1", "10"]) == 1
    assert "predicts meters; --view-depth is for relative models" in capsys.readouterr().err
    assert main([*arguments, "--model", checkpoint, "--view-depth", "2", "5"]) == 0
    data = (out / "b_png.ply").read_bytes().split(b"end_header\n")[1]
    z = np.frombuffer(data, dtype=[("x", "<f4"), ("y", "<f4"), ("z", "<f4"), ("color", "u1", 3)])["z"]
    assert (z.min(), z.max()) == pytest.approx((2.0, 5.0))
    assert len(z) == 60 * 80


def test_predict__edge_threshold_drops_points(metric, photos, tmp_path):
    arguments = ["predict", str(photos / "deep"), "--model", metric, "--out", str(tmp_path), "--point-cloud", "ply"]
    counts = []
    for more in ([], ["--edge-threshold", "1e-4"]):
        assert main([*arguments, "--fov", "60", *more]) == 0
        header = (tmp_path / "b_png.ply").read_bytes().split(b"end_header")[0].decode()
        counts.append(int(header.split("element vertex ")[1].split()[0]))
    assert counts[0] == 4800
    assert counts[1] < 4800


@pytest.mark.parametrize(
    ("option", "needed"),
    [
        (["--overlap", "5"], "--overlap does nothing without --tile"),
        (["--fov", "60"], "--fov does nothing without --point-cloud"),
        (["--intrinsics", "1", "1", "1", "1"], "--intrinsics does nothing without --point-cloud"),
        (["--edge-threshold", "0.1"], "--edge-threshold does nothing without --point-cloud"),
        (["--view-depth", "1", "2"], "--view-depth does nothing without --point-cloud"),
    ],
)
def test_predict__options_that_would_do_nothing(option, needed, tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["predict", "a.jpg", "--out", str(tmp_path), *option])
    assert needed in capsys.readouterr().err


def test_predict__wrong_model(photos, tmp_path, capsys):
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


@pytest.mark.parametrize("tile", [[], ["--tile", "56"]])
def test_predict__a_prediction_that_is_not_finite_fails_that_image_alone(
    tile, checkpoint, tmp_path, noise_image, capsys, monkeypatch
):
    forward = DepthAnythingForDepthEstimation.forward

    def overflow(self, pixel_values, **kwargs):
        output = forward(self, pixel_values, **kwargs)
        if pixel_values.max() > 2:  # a white pixel
            output.predicted_depth = output.predicted_depth / 0
        return output

    monkeypatch.setattr(DepthAnythingForDepthEstimation, "forward", overflow)
    noise_image(60, 80).point(lambda value: value // 2).save(tmp_path / "a.png")
    noise_image(60, 80).save(tmp_path / "b.png")
    images = [str(tmp_path / name) for name in ("b.png", "a.png")]
    assert main(["predict", *images, "--model", checkpoint, "--out", str(tmp_path / "out"), *tile]) == 1
    printed = capsys.readouterr()
    assert "1 of 2 images written" in printed.out
    assert f"could not predict {tmp_path}/b.png: the prediction is NaN or infinite in " in printed.err
    assert (tmp_path / "out" / "a_png.npy").exists()
    assert not (tmp_path / "out" / "b_png.npy").exists()


def test_predict__a_constant_prediction_is_said(checkpoint, tmp_path, capsys, monkeypatch):
    from depth_anything_hf.model.modeling import StockDepthAnything

    Image.new("RGB", (80, 60)).save(tmp_path / "black.png")
    head = StockDepthAnything(DepthAnythingForDepthEstimation.from_pretrained(checkpoint).config).head
    monkeypatch.setattr(
        type(head), "forward", lambda self, maps, height, width: torch.ones(1, 14 * height, 14 * width)
    )
    assert main(["predict", str(tmp_path / "black.png"), "--model", checkpoint, "--out", str(tmp_path / "out")]) == 0
    assert "black.png: the prediction is the same everywhere (1)" in capsys.readouterr().out
