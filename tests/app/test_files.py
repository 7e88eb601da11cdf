import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from depth_anything_hf.app.files import Limits, open_photograph


def png_header(width, height):
    """PNG that claims a size and holds no pixel."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("mode", "name"),
    [
        ("RGB", "a.jpg"),
        ("CMYK", "a.jpg"),
        ("L", "a.bmp"),
        ("RGBA", "a.webp"),
        ("RGBA", "a.png"),
        ("LA", "a.png"),
        ("P", "a.png"),
        ("1", "a.png"),
        ("I;16", "a.png"),
        ("I;16", "a.tif"),
    ],
)
def test_open_photograph__any_kind_becomes_rgb(mode, name, tmp_path):
    Image.new(mode, (8, 6)).save(tmp_path / name)
    image = open_photograph(tmp_path / name, 1)
    assert (image.mode, image.size) == ("RGB", (8, 6))


def test_open_photograph__sixteen_bits_keep_their_gray(tmp_path):
    Image.fromarray(np.full((6, 8), 257 * 100, dtype=np.uint16)).save(tmp_path / "a.png")
    assert open_photograph(tmp_path / "a.png", 1).getpixel((0, 0)) == (100, 100, 100)


def test_open_photograph__turns_it_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (8, 6)).save(tmp_path / "a.jpg", exif=exif)
    assert open_photograph(tmp_path / "a.jpg", 1).size == (6, 8)


@pytest.mark.parametrize(
    ("name", "content"), [("a.png", b"text"), ("a.jpg", b""), ("a.png", b"%!PS-Adobe-3.0 EPSF-3.0")]
)
def test_open_photograph__what_is_no_image_says_so(name, content, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=rf"^{name}: cannot identify image file: it is damaged, or none of JPEG, PNG"):
        open_photograph(tmp_path / name, 1)


def test_open_photograph__formats_that_are_not_asked_for_are_not_read(tmp_path):
    Image.new("L", (8, 6)).save(tmp_path / "a.tga")
    with pytest.raises(ValueError, match="cannot identify image file"):
        open_photograph(tmp_path / "a.tga", 1)


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.tif", "a.webp"])
def test_open_photograph__half_a_file_is_broken(name, tmp_path, noise_image):
    noise_image(60, 80).save(tmp_path / name)
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=name):
        open_photograph(tmp_path / name, 1)


@pytest.mark.parametrize(
    ("width", "height", "message"),
    [
        (1001, 1000, "has 1001 x 1000 pixels, 1.0 megapixels; this page takes up to 1"),
        (9000, 9000, "has 9000 x 9000 pixels, 81.0 megapixels"),
        (60000, 60000, "has over 178 megapixels"),
    ],
)
def test_open_photograph__too_many_pixels_are_refused_before_they_are_decoded(width, height, message, tmp_path):
    (tmp_path / "a.png").write_bytes(png_header(width, height))
    with pytest.raises(ValueError, match=message):
        open_photograph(tmp_path / "a.png", 1)


def test_open_photograph__the_limit_itself_is_taken(tmp_path):
    Image.new("L", (1000, 1000)).save(tmp_path / "a.png")
    assert open_photograph(tmp_path / "a.png", 1).size == (1000, 1000)


@pytest.mark.parametrize("turned", [False, True])
def test_open_photograph__long_and_thin_is_refused(turned, tmp_path):
    for long, refused in ((80, False), (81, True)):
        Image.new("L", (10, long) if turned else (long, 10)).save(tmp_path / "a.png")
        if refused:
            with pytest.raises(ValueError, match=r"sides of 1 to 8\.1, at most 1 to 8.*crop it"):
                open_photograph(tmp_path / "a.png", 1)
        else:
            open_photograph(tmp_path / "a.png", 1)


def test_open_photograph__deleted_uploads_and_float_images(tmp_path):
    with pytest.raises(ValueError, match=r"gone.png is no longer here; drop it again"):
        open_photograph(tmp_path / "gone.png", 1)
    Image.new("F", (4, 4)).save(tmp_path / "a.tif")
    with pytest.raises(ValueError, match=r"a.tif: float image"):
        open_photograph(tmp_path / "a.tif", 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"images": 0}, "images is 0; it must be above 0, such as 100"),
        ({"megapixels": -1.0}, "megapixels is -1.0; it must be above 0, such as 50"),
        ({"megapixels": 179.0}, "PIL reads 178 at most"),
    ],
)
def test_limits__impossible_ones_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Limits(**arguments)


def test_limits__all_images_together():
    assert Limits(megapixels=2.0).total_megapixels == 40.0
