"""What is wrong with pictures in the wild: each is labeled rightly, or stands in `rejects.jsonl`."""

import io
import json
import struct
import tarfile
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps

from depth_anything_hf.cli.main import main
from depth_anything_hf.data.folder import load_folder
from depth_anything_hf.data.records import decode_record
from depth_anything_hf.prediction.predictor import load_model, predict_depth

RIGHT_TURN = 6  # EXIF: the camera was held so that the top of the scene is at the right


def jpeg(image, **options):
    file = io.BytesIO()
    image.save(file, "JPEG", **options)
    return file.getvalue()


def png_of_size(width, height):
    """A PNG that claims a size, and holds no pixels to speak of."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


@pytest.fixture(scope="module")
def wild(tmp_path_factory, draw):
    """A folder of them, and the upright RGB pictures that those of them are which can be labeled."""
    folder = tmp_path_factory.mktemp("wild")
    picture = draw(60, 40, seed=3)
    grey = np.asarray(picture.convert("L"), dtype=np.uint16)
    exif = Image.Exif()
    exif[0x0112] = RIGHT_TURN
    turned = jpeg(picture, exif=exif, quality=95)
    (folder / "rotated.jpg").write_bytes(turned)
    cmyk = jpeg(picture.convert("CMYK"), quality=95)
    (folder / "cmyk.jpg").write_bytes(cmyk)
    Image.fromarray(grey * 257).save(folder / "grey16.png")
    palette = picture.quantize(16)
    palette.save(folder / "palette.png")
    alpha = picture.copy()
    alpha.putalpha(Image.linear_gradient("L").resize(picture.size))
    alpha.save(folder / "alpha.png")
    frames = [draw(60, 40, seed=i).quantize(64) for i in (3, 4, 5)]
    frames[0].save(folder / "animated.gif", save_all=True, append_images=frames[1:])
    Image.new("RGB", (1, 1), (200, 100, 0)).save(folder / "pixel.png")
    Image.new("1", (50, 40), 1).save(folder / "bilevel.png")
    (folder / "truncated.jpg").write_bytes(jpeg(draw(200, 150))[:1500])
    (folder / "empty.jpg").touch()
    (folder / "text.jpg").write_text("404 not found")
    Image.new("RGB", (30000, 8)).save(folder / "strip.png")
    (folder / "bomb.png").write_bytes(png_of_size(40000, 40000))
    (folder / "gone.jpg").symlink_to("nowhere.jpg")
    upright = {
        "rotated.jpg": ImageOps.exif_transpose(Image.open(io.BytesIO(turned))),
        "cmyk.jpg": Image.open(io.BytesIO(cmyk)).convert("RGB"),
        "grey16.png": Image.fromarray(grey.astype(np.uint8)).convert("RGB"),
        "palette.png": palette.convert("RGB"),
        "alpha.png": picture,
        "animated.gif": frames[0].convert("RGB"),
        "pixel.png": Image.new("RGB", (1, 1), (200, 100, 0)),
        "bilevel.png": Image.new("RGB", (50, 40), (255, 255, 255)),
    }
    return folder, upright


@pytest.mark.slow
@pytest.mark.parametrize("keep", ["original", "resized"])
def test_label_images__each_is_labeled_rightly_or_rejected(keep, wild, label, teacher, rejects, tmp_path):
    folder, upright = wild
    manifest = label(tmp_path / "out", folder, keep_image=keep, num_workers=1)
    model, processor = load_model(teacher)
    processor.size = {"height": 56, "width": 56}
    records = {record["source"]: decode_record(record) for record in load_folder(tmp_path / "out")}
    assert records.keys() == upright.keys()
    for name, sample in records.items():
        values = predict_depth(model, processor, [upright[name]], full_size=False)[0].numpy()
        assert sample.image.size == values.shape[::-1]
        np.testing.assert_allclose(sample.values[sample.mask], values[sample.mask], atol=2e-4, err_msg=name)
        seen = np.float32(upright[name].resize(sample.image.size, Image.Resampling.BICUBIC))
        assert np.abs(np.float32(sample.image) - seen).mean() < 8, name  # JPEG, and a palette's dots
    assert records["rotated.jpg"].values.shape == (84, 56)  # upright, and it was 60 x 40 pixels
    reasons = rejects(tmp_path / "out")
    expected = {
        "truncated.jpg": "truncated",
        "empty.jpg": "empty file",
        "text.jpg": "no image of a known format",
        "strip.png": "30000 x 8 pixels",
        "bomb.png": "DecompressionBombError",
        "gone.jpg": "FileNotFoundError",
    }
    assert reasons.keys() == expected.keys()
    for name, words in expected.items():
        assert words in reasons[name]
    assert (manifest["inputs"], manifest["labeled"], manifest["rejected"]) == (14, 8, 6)
    assert {path.name for path in folder.iterdir()} == records.keys() | reasons.keys()


def test_label_images__parquet_rows_without_image(label, photos, rejects, tmp_path):
    import datasets

    good = next(photos.rglob("*.png")).read_bytes()
    images = [{"bytes": good, "path": None}, None, {"bytes": b"", "path": "x.jpg"}, {"bytes": good, "path": "x.jpg"}]
    features = datasets.Features({"image": datasets.Image()})
    datasets.Dataset.from_dict({"image": images}, features=features).to_parquet(tmp_path / "a.parquet")
    manifest = label(tmp_path / "out", tmp_path / "a.parquet", shard_size=2)
    assert (manifest["inputs"], manifest["labeled"], manifest["rejected"]) == (4, 2, 2)
    reasons = rejects(tmp_path / "out")
    assert list(reasons) == ["a.parquet/0000001", "a.parquet/0000002/x.jpg"]
    assert list(reasons.values()) == ["the record has no image", "empty file"]


def test_label_images__nothing_but_rejects(label, rejects, tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.jpg").touch()
    manifest = label(tmp_path / "out", tmp_path / "in")
    assert (manifest["inputs"], manifest["rejected"], manifest["shards"]) == (1, 1, [])
    assert list(rejects(tmp_path / "out")) == ["a.jpg"]


def test_label_images__output_that_is_not_finite(label, photos, teacher, rejects, tmp_path):
    import torch

    model, processor = load_model(teacher)
    with torch.no_grad():
        model.head.conv2.bias.fill_(10.0)  # finite weights, whose products are beyond the largest number
        model.head.conv3.weight.fill_(3e38)
    model.save_pretrained(tmp_path / "broken")
    processor.save_pretrained(tmp_path / "broken")
    manifest = label(tmp_path / "out", model=tmp_path / "broken", limit=3)
    assert (manifest["labeled"], manifest["rejected"]) == (0, 3)
    assert all("not finite" in reason for reason in rejects(tmp_path / "out").values())


def test_pseudo_label__cut_tar_file_is_named_and_the_exit_code_says_so(photos, teacher, rejects, tmp_path, capsys):
    (tmp_path / "in").mkdir()
    for shard in range(2):
        with tarfile.open(tmp_path / "in" / f"{shard}.tar", "w") as tar:
            for file in sorted(photos.rglob("*.jpg")):
                tar.add(file, f"{shard}{file.stem}.jpg")
    whole = (tmp_path / "in" / "0.tar").read_bytes()
    (tmp_path / "in" / "0.tar").write_bytes(whole[: len(whole) // 2 + 700])
    command = ["pseudo-label", "--model", teacher, "--images", str(tmp_path / "in"), "--out", str(tmp_path / "out")]
    command += ["--resolution", "56", "--device", "cpu", "--num_workers", "0", "--disable_tqdm", "true"]
    assert main(command) == 1
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["unreadable_files"] == 1
    assert manifest["labeled"] + manifest["rejected"] == manifest["inputs"] >= 3  # all of the sound file
    assert "0.tar" in rejects(tmp_path / "out")
    assert "1 files could not be read to their end" in capsys.readouterr().err
