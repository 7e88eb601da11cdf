"""One bad input or output is named, the others are predicted, and the exit code is 1."""

import importlib.util
import json
import os
import struct
import threading
import zlib
from pathlib import Path

import pytest
from PIL import Image

from depth_anything_hf.cli import inputs
from depth_anything_hf.cli.main import main
from depth_anything_hf.cli.predict import _Listing, _predict_together
from depth_anything_hf.data.whole_files import alone_in
from depth_anything_hf.prediction.predictor import DepthPredictor


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def header(width: int, height: int) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))


BAD = {
    "empty.jpg": b"",
    "chunk.png": header(8, 6) + chunk(b"\xe3\xbb\xfdq", b"x"),
    "struct.png": b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", b"\0\0"),
    "pixels.png": header(8, 6) + chunk(b"IDAT", b"garbage"),
    "text.png": header(8, 6) + chunk(b"zTXt", b"x\0\0" + zlib.compress(bytes(2**25))),
    "bomb.png": header(60000, 60000) + chunk(b"IDAT", b""),
    "eps.jpg": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 48\n%%EndComments\nshowpage\n%%EOF\n",
}


@pytest.fixture
def photos(noise_image, tmp_path):
    """A folder of two good images around many bad ones."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("a.png", "z.png"):
        noise_image(30, 40).save(folder / name)
    for name, content in BAD.items():
        (folder / name).write_bytes(content)
    noise_image(6, 600).save(folder / "strip.png")
    noise_image(30, 40).save(folder / "exif.jpg", exif=b"Exif\0\0GARBAGEGARBAGE")
    return folder


def rows(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "depth.jsonl").read_text().splitlines()]


@pytest.mark.filterwarnings("ignore:Image size")
@pytest.mark.parametrize("options", [[], ["--tile", "20"], ["--point-cloud", "ply"]], ids=["whole", "tiles", "clouds"])
def test_predict__names_every_bad_image_and_goes_on(options, checkpoint, photos, tmp_path, capsys):
    cloud = "--point-cloud" in options
    more = ["--fov", "60", "--view-depth", "1", "10"] if cloud else []
    assert main(["predict", str(photos), "--model", checkpoint, "--out", str(tmp_path / "out"), *options, *more]) == 1
    printed = capsys.readouterr()
    assert "2 of 11 images written" in printed.out
    for name in (*BAD, "strip.png", "exif.jpg"):
        assert f"could not read {photos / name}: " in printed.err
    assert "600 x 6 pixels: sides of 1 to 100, at most 1 to 8" in printed.err
    assert "raise --max-megapixels if you trust it" in printed.err
    assert {row["depth_map_file_name"] for row in rows(tmp_path / "out")} == {"a_png.png", "z_png.png"}
    assert len(list((tmp_path / "out").glob("*.ply"))) == 2 * cloud


def test_predict__files_that_are_named_and_no_files(checkpoint, photos, tmp_path, capsys):
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "zero").symlink_to("/dev/zero")
    names = [tmp_path / "pipe.png", photos / "a.png", tmp_path / "zero"]
    assert main(["predict", *map(str, names), "--model", checkpoint, "--out", str(tmp_path / "out")]) == 1
    printed = capsys.readouterr()
    assert "1 of 3 images written" in printed.out
    for name in ("pipe.png", "zero"):
        assert f"could not read {tmp_path / name}: it is no regular file" in printed.err


@pytest.mark.parametrize("length", [246, 247, 255])
def test_predict__a_name_that_becomes_too_long(length, checkpoint, photos, tmp_path, capsys):
    file = tmp_path / ("x" * (length - 4) + ".png")
    (photos / "a.png").rename(file)
    arguments = [str(file), str(photos / "z.png"), "--model", checkpoint, "--out", str(tmp_path / "out")]
    assert main(["predict", *arguments]) == (length > 245)  # _color.png is 10 bytes
    assert ("x... would have a name of 2" in capsys.readouterr().err) == (length > 245)
    assert "z_png.png" in {row["depth_map_file_name"] for row in rows(tmp_path / "out")}


def test_predict__a_name_that_cannot_be_printed(checkpoint, photos, tmp_path):
    name = os.fsdecode(b"caf\xe9.png")
    (photos / "a.png").rename(tmp_path / name)
    assert main(["predict", str(tmp_path / name), "--model", checkpoint, "--out", str(tmp_path / "out")]) == 0
    assert rows(tmp_path / "out")[0]["file_name"] == str(tmp_path / name)


def test_predict__an_image_that_vanishes(checkpoint, photos, tmp_path, monkeypatch, capsys):
    def vanish(options):
        (photos / "a.png").unlink()
        return open_predictor(options)

    open_predictor = inputs.open_predictor
    monkeypatch.setattr(inputs, "open_predictor", vanish)
    arguments = [str(photos / "a.png"), str(photos / "z.png"), "--model", checkpoint, "--out", str(tmp_path / "out")]
    assert main(["predict", *arguments]) == 1
    assert "could not read" in (error := capsys.readouterr().err)
    assert f"No such file or directory: '{photos / 'a.png'}'" in error
    assert len(rows(tmp_path / "out")) == 1


def test_predict__a_full_disk_ends_the_run(checkpoint, photos, tmp_path, monkeypatch, capsys):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("depth_anything_hf.pictures.visualization.save_depth", full)
    arguments = [str(photos / "a.png"), str(photos / "z.png"), "--model", checkpoint, "--out", str(tmp_path / "out")]
    assert main(["predict", *arguments]) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("depth-anything-hf predict: [Errno 28] No space left on device; the disk is full")


# --- cameras


def exif_of(orientation: tuple[int, bytes], focal: tuple[int, bytes]) -> bytes:
    """EXIF data as no writer makes them, from the kind and the 4 bytes of two values; a fraction has its own place."""

    def entry(tag: int, kind: int, value: bytes) -> bytes:
        return struct.pack("<HHI", tag, kind, 4 if kind == ASCII else 1) + value

    first = struct.pack("<H", 2) + entry(0x0112, *orientation) + entry(0x8769, LONG, struct.pack("<I", 38))
    second = struct.pack("<H", 1) + entry(0xA405, *focal)
    return b"Exif\0\0II*\0" + struct.pack("<I", 8) + first + bytes(4) + second + bytes(4) + struct.pack("<II", 1, 0)


ASCII, SHORT, LONG, FRACTION, SIGNED = 2, 3, 4, 5, 9
FOCALS = {
    "a text": (ASCII, b"30m\0"),
    "negative": (SIGNED, struct.pack("<i", -30)),
    "unknown": (SHORT, bytes(4)),
    "1 / 0": (FRACTION, struct.pack("<I", 56)),
    "beyond the data": (FRACTION, struct.pack("<I", 5000)),
}
UPRIGHT, TURNED, A_TEXT = (SHORT, b"\1\0\0\0"), (SHORT, b"\6\0\0\0"), (ASCII, b"six\0")


@pytest.mark.filterwarnings("ignore")  # of Pillow, about the EXIF data
@pytest.mark.parametrize("focal", FOCALS)
@pytest.mark.parametrize("orientation", [UPRIGHT, A_TEXT], ids=["upright", "a text"])
def test_predict__a_camera_that_is_none_ends_no_run(focal, orientation, make_model, tiny_processor, tmp_path, capsys):
    make_model(max_depth=20.0).save_pretrained(tmp_path / "metric")
    tiny_processor.save_pretrained(tmp_path / "metric")
    (tmp_path / "photos").mkdir()
    for name, exif in (("a", exif_of(orientation, FOCALS[focal])), ("b", exif_of(TURNED, (SHORT, b"\x1e\0\0\0")))):
        Image.new("RGB", (36, 24)).save(tmp_path / "photos" / f"{name}.jpg", exif=exif)
    arguments = [str(tmp_path / "photos"), "--model", str(tmp_path / "metric"), "--out", str(tmp_path / "out")]
    assert main(["predict", *arguments, "--point-cloud", "ply"]) == 1
    printed = capsys.readouterr()
    assert "1 of 2 images written" in printed.out
    assert f"{tmp_path / 'photos' / 'a.jpg'} does not say with which focal length it was taken" in printed.err
    found = {row["depth_map_file_name"]: row.get("intrinsics") for row in rows(tmp_path / "out")}
    assert found["a_jpg.png"] is None  # the depth map is there
    assert found["b_jpg.png"] == pytest.approx([30.0, 30.0, 12.0, 18.0])


# --- several processes


def test_listing__two_processes_neither_lose_nor_double_rows(tmp_path):
    def add(listing, name, scale):
        with listing.changed():
            listing.drop(name)
            listing.add({"depth_map_file_name": name, "depth_scale": scale})

    first, second = _Listing(tmp_path), _Listing(tmp_path)
    add(first, "a.png", 1)
    add(second, "b.png", 2)
    add(first, "b.png", 3)  # which it has not seen
    add(second, "c.png", 4)
    add(first, "a.png", 5)
    assert {row["depth_map_file_name"]: row["depth_scale"] for row in rows(tmp_path)} == {
        "a.png": 5,
        "b.png": 3,
        "c.png": 4,
    }
    assert len(rows(tmp_path)) == 3


def test_listing__of_two_rows_the_last_counts(tmp_path):
    doubled = [{"depth_map_file_name": name, "n": n} for n, name in enumerate(["a.png", "b.png", "a.png"])]
    (tmp_path / "depth.jsonl").write_text("".join(json.dumps(row) + "\n" for row in doubled))
    listing = _Listing(tmp_path)
    with listing.changed():
        listing.drop("b.png")
    assert rows(tmp_path) == [doubled[2]]


@pytest.mark.skipif(importlib.util.find_spec("fcntl") is None, reason="there are no locks")
def test_alone_in__the_second_waits_for_the_first(tmp_path):
    entered = threading.Event()

    def enter():
        with alone_in(tmp_path):
            entered.set()

    other = threading.Thread(target=enter, daemon=True)
    with alone_in(tmp_path):
        other.start()
        assert not entered.wait(0.2)
    assert entered.wait(10)


def test_predict__names_stay_on_their_lines(checkpoint, tmp_path, capsys):
    (tmp_path / "a\nb\x1b[31m.jpg").write_bytes(b"")
    assert (
        main(["predict", str(tmp_path / "a\nb\x1b[31m.jpg"), "--model", checkpoint, "--out", str(tmp_path / "out")])
        == 1
    )
    error = capsys.readouterr().err
    assert "a\\nb\\x1b[31m.jpg: cannot identify image file" in error
    assert "\x1b[31m" not in error


def test_predict__no_name_is_not_this_folder(checkpoint, photos, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(photos)
    assert main(["predict", "", "--model", checkpoint, "--out", str(tmp_path / "out")]) == 1
    assert "'' does not exist; check the path" in capsys.readouterr().err


def test_predict__model_that_is_a_file(photos, tmp_path, capsys):
    (tmp_path / "depth_anything_v2_vits.pth").write_bytes(b"x")
    options = ["--model", str(tmp_path / "depth_anything_v2_vits.pth"), "--out", str(tmp_path / "out")]
    assert main(["predict", str(photos / "a.png"), *options]) == 1
    assert "vits.pth is a file; a checkpoint is a folder with config.json" in capsys.readouterr().err


@pytest.mark.slow
def test_predict__image_that_the_network_cannot_take_is_named(checkpoint, noise_image, tmp_path, capsys):
    settings = Path(checkpoint) / "preprocessor_config.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"do_resize": False}))
    files = {tmp_path / name: noise_image(side, 56) for name, side in (("a.png", 56), ("odd.png", 57), ("z.png", 70))}
    for file, image in files.items():
        image.save(file)
    assert main(["predict", *map(str, files), "--model", checkpoint, "--out", str(tmp_path / "out")]) == 1
    printed = capsys.readouterr()
    assert "2 of 3 images written" in printed.out
    assert f"could not predict {tmp_path}/odd.png: " in printed.err

    problems: dict[Path, str] = {}
    together = _predict_together(list(files.items()), DepthPredictor(checkpoint), problems)
    assert [None if depth is None else tuple(depth.shape) for depth in together] == [(56, 56), None, (70, 56)]
    assert list(problems) == [tmp_path / "odd.png"]
