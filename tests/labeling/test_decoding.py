import errno
import io
import re
import resource
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from depth_anything_hf.labeling.decoding import Decoder, Picture, RefusedError, Rejected, read_file
from depth_anything_hf.labeling.plan import BlockEnd, BlockId, Work
from depth_anything_hf.labeling.sources import Item
from depth_anything_hf.maps.resizing import resize_pixels

ORIENTATION = 0x0112
RAMP = np.arange(6 * 8 * 3, dtype=np.uint8).reshape(6, 8, 3)  # 8 wide, 6 high


def work(data: bytes | None = None, path: str | None = None, key: str = "a") -> Work:
    return Work(BlockId(0, 0), 0, Item(key, {"bytes": data, "path": path}))


def decode(data: bytes | None = None, path: str | None = None, **options):
    return Decoder(56, 14, **options)[work(data, path)]


def written(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def png_header(width: int, height: int) -> bytes:
    """A PNG that promises so many pixels and holds none."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


# --- pixels


def test_decoder__gives_pixels_and_the_input_size():
    data = written(Image.fromarray(RAMP))
    picture = decode(data)
    assert isinstance(picture, Picture)
    assert picture.pixels.dtype == torch.uint8
    assert np.array_equal(picture.pixels, RAMP)
    assert picture.input_size == (56, 70)  # 74.7 wide, to the nearest multiple of 14
    assert picture.file is None
    assert decode(data, keep_file=True).file == data
    assert decode(data, aspect=1.0).input_size == (56, 56)
    assert decode(data, aspect=3 / 4).input_size == (70, 56)  # 74.7, to the nearest multiple of 14


def test_decoder__reads_files(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(written(Image.fromarray(RAMP)))
    assert np.array_equal(decode(path=str(path)).pixels, RAMP)
    assert decode(path=str(path), keep_file=True).file == path.read_bytes()


def test_decoder__reads_addresses():
    import fsspec

    with fsspec.open("memory://photos/a.png", "wb") as file:
        file.write(written(Image.fromarray(RAMP)))
    assert np.array_equal(decode(path="memory://photos/a.png").pixels, RAMP)
    assert "FileNotFoundError" in decode(path="memory://photos/gone.png").reason


def test_decoder__resizes_where_asked():
    picture = decode(written(Image.fromarray(RAMP)), resize=True)
    assert torch.equal(picture.pixels, resize_pixels(torch.from_numpy(RAMP)[None], (56, 70))[0])


def test_decoder__passes_block_ends_on():
    assert Decoder(56, 14)[BlockEnd(BlockId(0, 0), 0, True, "")] is None


@pytest.mark.parametrize(
    ("orientation", "turn"), [(1, lambda x: x), (3, lambda x: np.rot90(x, 2)), (6, lambda x: np.rot90(x, -1))]
)
def test_decoder__turns_photographs_upright(orientation, turn):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    picture = decode(written(Image.fromarray(RAMP), exif=exif))
    assert np.array_equal(picture.pixels, turn(RAMP))
    assert picture.input_size == ((70, 56) if orientation == 6 else (56, 70))


def grey_16() -> tuple[bytes, list]:
    return written(Image.fromarray(np.array([[0, 257, 65535]], dtype=np.uint16))), [0, 1, 255]


def palette() -> tuple[bytes, list]:
    image = Image.new("P", (3, 1))
    image.putpalette([0, 0, 0, 9, 9, 9, 70, 70, 70])
    image.putdata([0, 1, 2])
    return written(image), [0, 9, 70]


def transparent_palette() -> tuple[bytes, list]:
    image = Image.new("P", (3, 1))
    image.putpalette([0, 0, 0, 9, 9, 9, 70, 70, 70])
    image.putdata([2, 1, 0])
    return written(image, transparency=1), [70, 9, 0]


def alpha() -> tuple[bytes, list]:
    return written(Image.fromarray(np.array([[[5, 5, 5, 0], [6, 6, 6, 128], [7, 7, 7, 255]]], np.uint8))), [5, 6, 7]


def grey_alpha() -> tuple[bytes, list]:
    return written(Image.fromarray(np.array([[[5, 0], [6, 128], [7, 255]]], np.uint8))), [5, 6, 7]


def one_bit() -> tuple[bytes, list]:
    return written(Image.fromarray(np.array([[True, False, True]]))), [255, 0, 255]


def animation() -> tuple[bytes, list]:
    frames = [Image.new("L", (3, 1), grey) for grey in (10, 200)]
    return written(frames[0], "GIF", save_all=True, append_images=frames[1:]), [10, 10, 10]


@pytest.mark.parametrize("make", [grey_16, palette, transparent_palette, alpha, grey_alpha, one_bit, animation])
def test_decoder__gives_every_kind_as_rgb(make):
    data, greys = make()
    assert decode(data).pixels.tolist() == [[[grey] * 3 for grey in greys]]


def test_decoder__gives_cmyk_as_rgb():
    image = Image.new("CMYK", (16, 16), (0, 255, 255, 0))  # no cyan, all magenta and yellow: red
    pixels = decode(written(image, "JPEG", quality=100)).pixels
    assert (pixels.int() - torch.tensor([255, 0, 0])).abs().max() <= 3


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "BMP", "TIFF", "GIF", "AVIF"])
def test_decoder__reads_the_formats_that_sources_list(kind):
    pixels = decode(written(Image.new("RGB", (16, 16), (0, 0, 0)), kind)).pixels
    assert pixels.shape == (16, 16, 3)
    assert pixels.max() <= 2


def test_decoder__one_pixel_is_a_picture():
    picture = decode(written(Image.new("RGB", (1, 1), (1, 2, 3))), resize=True)
    assert picture.pixels.shape == (56, 56, 3)
    assert picture.pixels[5, 7].tolist() == [1, 2, 3]


@pytest.mark.parametrize(("long", "ok"), [(80, True), (81, False)])
def test_decoder__refuses_long_shapes(long, ok):
    for size in ((long, 10), (10, long)):
        result = decode(written(Image.new("RGB", size)))
        reason = f"{size[0]} x {size[1]} pixels: sides of 1 to 8.1, at most 1 to 8"
        assert isinstance(result, Picture) if ok else result == Rejected(reason)


# --- rejections


def test_decoder__rejects_a_strip():
    result = decode(written(Image.new("L", (30000, 8))))
    assert result == Rejected("30000 x 8 pixels: sides of 1 to 3750, at most 1 to 8")


def test_decoder__rejects_a_cut_jpeg():
    data = written(Image.effect_noise((64, 64), 50), "JPEG")
    assert re.fullmatch(r"OSError: image file is truncated \(\d+ bytes not processed\)", decode(data[:-200]).reason)


def test_decoder__rejects_what_is_no_image(tmp_path):
    path = tmp_path / "page.jpg"
    path.write_bytes(b"<html>404 not found</html>")
    result = decode(path=str(path))
    assert result == Rejected("no image of a known format; it begins with b'<html>404 no'")
    assert decode(path=str(path)) == result  # no address in memory


@pytest.mark.parametrize("record", [None, {"bytes": None, "path": None}, {"bytes": None, "path": ""}, {}])
def test_decoder__rejects_a_record_without_image(record):
    assert Decoder(56, 14)[Work(BlockId(0, 0), 0, Item("a", record))] == Rejected("the record has no image")


def test_decoder__rejects_an_empty_file(tmp_path):
    (tmp_path / "a.jpg").touch()
    assert decode(path=str(tmp_path / "a.jpg")) == decode(b"") == Rejected("empty file")


def test_decoder__rejects_files_that_are_not_there(tmp_path):
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "loop.jpg").symlink_to("loop.jpg")
    reasons = {name: decode(path=str(tmp_path / name)).reason for name in ("gone.jpg", "folder.jpg", "loop.jpg")}
    assert re.match(r"FileNotFoundError: .*gone\.jpg", reasons["gone.jpg"])
    assert re.match(r"IsADirectoryError: .*folder\.jpg", reasons["folder.jpg"])
    assert re.match(r"OSError: .*Too many levels.*loop\.jpg", reasons["loop.jpg"])
    assert "File name too long" in decode(path=str(tmp_path / ("x" * 300))).reason


def test_decoder__rejects_float_images():
    image = Image.fromarray(np.zeros((4, 4), np.float32))
    assert "float image (mode 'F')" in decode(written(image, "TIFF")).reason


def test_decoder__rejects_a_bomb_before_it_takes_memory():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    data = png_header(60000, 60000)  # 10 GB of pixels
    result = decode(data)
    assert len(data) < 100
    assert re.match(r"DecompressionBombError: Image size \(3600000000 pixels\) exceeds limit", result.reason)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**17  # in KiB: 128 MiB


def test_decoder__rejects_names_that_no_shard_can_hold(tmp_path):
    path = str(tmp_path / "caf\udce9.png")  # a byte that is not UTF-8
    with open(path, "wb") as file:
        file.write(written(Image.fromarray(RAMP)))
    rejected = Rejected("the name of the file is not UTF-8; rename it")
    assert decode(path=path) == rejected
    assert Decoder(56, 14)[work(written(Image.fromarray(RAMP)), key="caf\udce9")] == rejected


# --- errors of the machine


class Failing(io.BytesIO):
    def __init__(self, error):
        super().__init__()
        self.error = error

    def read(self, *_):
        raise self.error


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.EIO, "Input/output error"),
        OSError(errno.ESTALE, "Stale file handle"),
        OSError(errno.EMFILE, "Too many open files"),
        ConnectionError("server disconnected"),  # without a number, as network libraries raise it
        TimeoutError("slow"),
    ],
)
def test_decoder__raises_errors_that_may_pass(monkeypatch, error):
    monkeypatch.setattr("builtins.open", lambda *_: Failing(error))
    with pytest.raises(type(error)):
        decode(path="/photos/a.jpg")


def test_decoder__raises_real_errors_of_the_disk():
    with pytest.raises(OSError, match="Input/output error") as caught:
        decode(path="/proc/self/mem")  # address 0 cannot be read
    assert caught.value.errno == errno.EIO


def test_read_file__prefers_the_bytes():
    assert read_file({"bytes": b"x", "path": "/gone"}) == b"x"
    with pytest.raises(RefusedError, match="empty file"):
        read_file({"bytes": b"", "path": "/gone"})
