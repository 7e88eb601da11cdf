"""Whatever a file holds, opening it ends in an image or in one kind of error that names it."""

import contextlib
import io
import os
import socket
import struct
import warnings
import zlib
from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import EpsImagePlugin, ExifTags, Image

from depth_anything_hf.data import image_files
from depth_anything_hf.data.codes import orientation_of, read_photograph, upright_rgb
from depth_anything_hf.data.folder import load_folder, load_images
from depth_anything_hf.data.image_files import ImageFileError, check_image_size, open_regular, opened_image
from depth_anything_hf.data.record_images import with_record_images
from depth_anything_hf.data.records import decode_record, encode_record, record_features

FUZZED = ("PNG", "JPEG", "WEBP", "TIFF", "GIF", "BMP", "PPM", "JPEG2000", "AVIF")
EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 48\n%%EndComments\nshowpage\n%%EOF\n"


def encoded(kind: str, image: Image.Image, **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def with_exif(jpeg: bytes, exif: bytes) -> bytes:
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + jpeg[2:]


def tiff_of_one_tag(tag: int, kind: int, count: int, value: bytes) -> bytes:
    """EXIF data, of one tag, as Pillow does not write it."""
    return b"Exif\0\0II*\0" + struct.pack("<IHHHI", 8, 1, tag, kind, count) + value + struct.pack("<I", 0)


def damaged(seed: int, images: dict[str, bytes]) -> tuple[str, bytes]:
    """A file of some format with flipped, lost, repeated or zeroed bytes; half of the times near its beginning."""
    rng = np.random.default_rng(seed)
    kind = FUZZED[seed % len(FUZZED)]
    data = bytearray(images[kind])
    for _ in range(rng.integers(1, 5)):
        at = int(rng.integers(0, min(len(data), 64 if rng.random() < 0.5 else len(data))))
        how = rng.integers(5)
        if how == 0:
            data[at] = rng.integers(256)
        elif how == 1:
            data = data[: max(at, 1)]
        elif how == 2:
            data[at : at + 4] = rng.bytes(4)
        elif how == 3:
            data[at : at + 8] = bytes(8)
        else:
            data[at:at] = data[at : at + 16]
    return kind, bytes(data)


# --- damage


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of Pillow, about metadata and sizes
def test_read_photograph__of_a_thousand_damaged_files_each_is_read_or_named(noise_image, tmp_path):
    images, read = {kind: encoded(kind, noise_image(24, 32)) for kind in FUZZED}, 0
    file = tmp_path / "photo"
    for seed in range(1000):
        kind, data = damaged(seed, images)
        file.write_bytes(data)
        with contextlib.suppress(ImageFileError):  # any other error fails
            assert read_photograph(file).mode == "RGB", (seed, kind)
            read += 1
    assert 100 < read < 700


def png(*chunks: bytes) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


HEADER = chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 6, 8, 2, 0, 0, 0))
DAMAGED = {
    "nothing": b"",
    "text": b"no image",
    "short header": png(chunk(b"IHDR", b"\0\0")),
    "no pixels": png(HEADER, chunk(b"IEND", b"")),
    "pixels that are none": png(HEADER, chunk(b"IDAT", b"garbage"), chunk(b"IEND", b"")),
    "a chunk of no name": png(HEADER, chunk(b"\xe3\xbb\xfdq", b"x"), chunk(b"IDAT", b"")),
    "a color profile that is none": png(HEADER, chunk(b"iCCP", b"x\0\0garbage"), chunk(b"IDAT", zlib.compress(b""))),
    "a text that fills the memory": png(HEADER, chunk(b"zTXt", b"x\0\0" + zlib.compress(bytes(2**25)))),
    "a bomb": png(chunk(b"IHDR", struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)), chunk(b"IDAT", b"")),
    "a tiff of no pixels": b"II*\0\x08\0\0\0\0\0\0\0\0\0",
    "a jpeg of no size": b"\xff\xd8\xff\xc0\0\x0b\x08\0\0\0\0\x01\x01\x11\0\xff\xd9",
    "EXIF that is none": with_exif(encoded("JPEG", Image.new("RGB", (8, 6))), b"Exif\0\0GARBAGEGARBAGE"),
    "float": encoded("TIFF", Image.new("F", (8, 6))),
    "too narrow": encoded("PNG", Image.new("L", (90, 10))),
    "EPS": EPS,
    "TGA": encoded("TGA", Image.new("RGB", (8, 6))),
    "ICO": encoded("ICO", Image.new("RGB", (16, 16))),
    "SGI": encoded("SGI", Image.new("RGB", (8, 6))),
}


@pytest.mark.filterwarnings("ignore:Image size")
@pytest.mark.parametrize("name", DAMAGED)
def test_opened_image__one_error_that_begins_with_the_name(name, tmp_path, monkeypatch):
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *_, **__: pytest.fail("a program is started"))
    (tmp_path / "photo.jpg").write_bytes(DAMAGED[name])
    with pytest.raises(ImageFileError) as error:
        read_photograph(tmp_path / "photo.jpg")
    assert str(error.value).startswith(f"{tmp_path / 'photo.jpg'}: ")
    with pytest.raises(ImageFileError, match=r"^here: "), opened_image(DAMAGED[name], "here") as image:
        upright_rgb(image)


def test_opened_image__a_memory_that_is_full_is_of_the_file(tmp_path, monkeypatch):
    Image.new("L", (8, 6)).save(tmp_path / "a.png")
    with pytest.raises(ImageFileError, match=r"a\.png: it needs more memory"), opened_image(tmp_path / "a.png"):
        raise MemoryError


def test_opened_image__errors_of_the_disk_keep_their_kind_and_have_the_name(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"gone\.png"):
        read_photograph(tmp_path / "gone.png")
    with pytest.raises(OSError, match=r"Input/output error: 'a\.png'") as error, opened_image(EXAMPLE, "a.png"):
        raise OSError(5, "Input/output error")
    assert not isinstance(error.value, ImageFileError)


EXAMPLE = encoded("PNG", Image.new("L", (8, 6)))


@pytest.mark.parametrize(
    ("kind", "ending"),
    [
        *(("JPEG", ending) for ending in (".jpg", ".JFIF", ".jpe", ".mpo", "")),
        ("MPO", ".mpo"),
        ("GIF", ".gif"),
        ("JPEG2000", ".jp2"),
        ("AVIF", ".avif"),
        ("PPM", ".pnm"),
        ("TIFF", ".TIF"),
        ("BMP", ".bmp"),
        ("WEBP", ".png"),  # of another ending
    ],
)
def test_read_photograph__every_format_of_photographs(kind, ending, tmp_path):
    frames = [Image.new("RGB", (8, 6), "white"), Image.new("RGB", (8, 6), "black")]
    more = {"save_all": True, "append_images": frames[1:]} if kind in ("MPO", "GIF", "TIFF", "WEBP") else {}
    (tmp_path / f"a{ending}").write_bytes(encoded(kind, frames[0], **more))
    image = read_photograph(tmp_path / f"a{ending}")
    assert (image.mode, image.size) == ("RGB", (8, 6))
    assert min(image.getpixel((4, 3))) > 250  # the first frame


# --- limits


@pytest.mark.parametrize("size", [(8, 1), (1, 8), (1, 1), (800, 100), (13377, 13377)])
def test_check_image_size__takes(size):
    check_image_size(*size)


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ((9, 1), "1 x 9 pixels: sides of 1 to 9, at most 1 to 8"),
        ((6, 6000), "6000 x 6 pixels: sides of 1 to 1000, at most 1 to 8.*: crop it"),
        ((20000, 20000), "400000000 pixels.* exceeds limit of 178956970 pixels: make it smaller"),
    ],
)
def test_check_image_size__refuses(size, message):
    with pytest.raises(ValueError, match=message):
        check_image_size(*size)


# --- only regular files


def test_open_regular__never_waits(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "linked.png").symlink_to("pipe.png")
    (tmp_path / "zero.png").symlink_to("/dev/zero")
    here = os.getcwd()
    with socket.socket(socket.AF_UNIX) as listening:
        os.chdir(tmp_path)  # the path of a socket has 108 bytes at most
        listening.bind("socket.png")
        os.chdir(here)
        for name in ("pipe.png", "linked.png", "zero.png", "socket.png"):
            for opening in (open_regular, read_photograph):
                with pytest.raises(ImageFileError, match=rf"{name}: it is no regular file"):
                    opening(tmp_path / name)
    with pytest.raises(IsADirectoryError):
        open_regular(tmp_path)


# --- which side is up


@pytest.mark.parametrize(
    ("kind", "count", "value", "turned"),
    [
        (3, 1, struct.pack("<HH", 6, 0), True),
        (3, 1, struct.pack("<HH", 0, 0), False),
        (3, 1, struct.pack("<HH", 9, 0), False),
        (2, 4, b"six\0", False),
        (7, 4, b"\xff\0\xff\0", False),
        (8, 1, struct.pack("<hH", -6, 0), False),
        (5, 1, struct.pack("<I", 8), False),  # a fraction, at a place of its own
    ],
)
def test_upright_rgb__an_orientation_of_no_meaning_is_upright(kind, count, value, turned):
    exif = tiff_of_one_tag(ExifTags.Base.Orientation, kind, count, value)
    with opened_image(with_exif(encoded("JPEG", Image.new("RGB", (8, 6))), exif)) as image:
        assert (orientation_of(image) != 1) == turned
        assert upright_rgb(image).size == ((6, 8) if turned else (8, 6))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "WEBP"])
def test_upright_rgb__turns_as_pillow_does_and_keeps_the_focal_length(kind, orientation, noise_image):
    from PIL import ImageOps

    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    if kind != "TIFF":
        exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.FocalLengthIn35mmFilm] = 30
    data = encoded(kind, noise_image(6, 8), exif=exif)
    with opened_image(data) as image:
        expected = ImageOps.exif_transpose(image).convert("RGB")
        found = upright_rgb(image)
        assert np.array_equal(np.asarray(found), np.asarray(expected))
        assert np.array_equal(np.asarray(upright_rgb(found)), np.asarray(expected))
        assert np.array_equal(np.asarray(upright_rgb(image)), np.asarray(expected))  # the image is as it was
    if kind != "TIFF":
        assert found.getexif().get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.FocalLengthIn35mmFilm] == 30


# --- gray of more bits


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
def test_upright_rgb__gray_of_any_bits_in_16_keeps_its_tones(bits, kind, tmp_path):
    top = 2**bits - 1
    codes = np.linspace(0, top, 48).astype(np.uint16).reshape(6, 8)
    Image.fromarray(codes).save(tmp_path / "a", kind)
    found = np.asarray(read_photograph(tmp_path / "a"))
    np.testing.assert_allclose(found[..., 0], codes / top * 255, atol=0.51)


@pytest.mark.parametrize("low", [-1, 0])
def test_upright_rgb__codes_outside_16_bits_are_refused(low):
    with pytest.raises(ValueError, match="codes from"):
        upright_rgb(Image.fromarray(np.array([[low, 70000 if low == 0 else 3]], dtype=np.int32)))


# --- records, which `datasets` would decode


def eps_records(folder: Path, values=((1.0, 2.0),)) -> Path:
    """A parquet file of a labeled record whose image is EPS."""
    from datasets import Dataset

    record = encode_record(Image.new("RGB", (2, 1)), values)
    record["image"] = {"bytes": EPS, "path": "photo.jpg"}
    folder.mkdir()
    Dataset.from_list([record], features=record_features()).to_parquet(str(folder / "part-0.parquet"))
    return folder


def test_images_of_sets__no_program_is_started_and_the_file_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *_, **__: pytest.fail("a program is started"))
    with pytest.raises(OSError, match=r"photo\.jpg: cannot identify image file"):
        decode_record(load_folder(eps_records(tmp_path / "set"))[0])
    (tmp_path / "photo.jpg").write_bytes(EPS)
    with pytest.raises(OSError, match=r"photo\.jpg: cannot identify image file"):
        decode_record(load_images(tmp_path / "photo.jpg")[0])
    features = datasets.Features({"image": datasets.Image()})
    strangers = datasets.Dataset.from_dict({"image": [{"bytes": EPS, "path": "photo.jpg"}]}, features=features)
    with pytest.raises(OSError, match=r"photo\.jpg: cannot identify image file"):
        with_record_images(strangers)[0]


def test_images_of_sets__an_address_is_opened_by_the_same_rule(tmp_path, monkeypatch):
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *_, **__: pytest.fail("a program is started"))
    (tmp_path / "photo.jpg").write_bytes(EPS)
    Image.new("RGB", (8, 6), "red").save(tmp_path / "good.png")
    names = [f"file://{tmp_path}/{name}" for name in ("photo.jpg", "good.png")]
    features = datasets.Features({"image": datasets.Image()})
    data = datasets.Dataset.from_dict({"image": [{"bytes": None, "path": name} for name in names]}, features=features)
    opened = with_record_images(data)
    with pytest.raises(OSError, match=r"photo\.jpg: cannot identify image file"):
        opened[0]
    assert opened[1]["image"].getpixel((0, 0)) == (255, 0, 0)


def test_with_record_images__leaves_other_sets_alone(tmp_path):
    records = [{"image": 1}]
    assert with_record_images(records) is records
    shown = load_folder(eps_records(tmp_path / "set")).with_transform(lambda rows: rows)
    assert with_record_images(shown) is shown


# --- one place


OWN = (
    "app/exports.py",
    "app/session.py",
    "export/stock.py",
    "scenes/worlds/rendering.py",
)  # they open what they wrote


def test_image_files__are_opened_nowhere_else():
    package = Path(image_files.__file__).parents[1]
    opening = [
        f"{file.relative_to(package).as_posix()}: {line.strip()}"
        for file in sorted(package.rglob("*.py"))
        for line in file.read_text(encoding="utf-8").splitlines()
        if "Image.open(" in line and "formats=" not in line and not line.strip().startswith(">>>")
    ]
    assert [one for one in opening if not one.startswith(OWN)] == []


@pytest.mark.parametrize(("largest", "bits"), [(255, 0), (1023, 10), (4000, 12), (16383, 14), (65535, 0)])
def test_upright_rgb__gray_of_fewer_bits_is_stretched_with_a_word(largest, bits):
    image = Image.fromarray(np.array([[0, largest]], dtype=np.uint16))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        white = upright_rgb(image).getpixel((1, 0))[0]
    assert white >= 248
    assert [f"is taken for {bits} bits" in str(one.message) for one in caught] == [True] * bool(bits)
