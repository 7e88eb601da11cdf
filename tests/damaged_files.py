"""Image files, each damaged in its own way, drawn from a seed."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from itertools import pairwise

import numpy as np
from PIL import Image

FORMATS = {
    "png": {},
    "jpg": {"format": "JPEG"},
    "webp": {"lossless": True},
    "tif": {"format": "TIFF", "compression": "tiff_lzw"},
    "bmp": {},
    "gif": {},
    "ppm": {},
}


def encode(draw: np.random.Generator, ending: str, turned: bool = True) -> bytes:
    """Return the bytes of a random photograph, 32 x 24 pixels; `turned` by a random EXIF orientation."""
    pixels = draw.integers(0, 256, (6, 8, 3), dtype=np.uint8).repeat(4, 0).repeat(4, 1)
    exif = Image.Exif()
    exif[0x0112] = int(draw.integers(1, 9)) if turned else 1
    exif[0x010F] = "maker"
    stream = io.BytesIO()
    settings = {"format": ending.upper()} | FORMATS[ending]
    Image.fromarray(pixels).save(stream, **settings, **({"exif": exif} if ending in ("png", "jpg", "webp") else {}))
    return stream.getvalue()


def damage(draw: np.random.Generator, data: bytes) -> bytes:
    """Return the bytes damaged in one of ten ways."""
    broken = bytearray(data)
    at = int(draw.integers(len(broken)))
    span = int(draw.integers(1, 64))
    match int(draw.integers(10)):
        case 0:  # cut anywhere
            return data[:at]
        case 1:  # cut in the header
            return data[: int(draw.integers(64))]
        case 2:  # bits flipped
            for place in draw.integers(len(broken), size=int(draw.integers(1, 20))):
                broken[place] ^= 1 << int(draw.integers(8))
        case 3:  # bits of the header flipped
            for place in draw.integers(min(64, len(broken)), size=int(draw.integers(1, 6))):
                broken[place] ^= 1 << int(draw.integers(8))
        case 4:  # a hole
            broken[at : at + span] = bytes(len(broken[at : at + span]))
        case 5:  # bytes lost
            del broken[at : at + span]
        case 6:  # bytes put in
            broken[at:at] = draw.bytes(span)
        case 7:  # random bytes behind the first ones
            return data[: int(draw.integers(4, 64))] + draw.bytes(len(data))
        case 8:  # sizes of chunks, directories and images: a number of four bytes that is far too large
            broken[at : at + 4] = struct.pack("<I" if draw.integers(2) else ">I", int(draw.integers(1 << 20, 1 << 32)))
        case 9:  # no image at all
            return (b"", b"<html>not found</html>", b"version https://git-lfs.github.com/spec/v1\n", b"\0" * 512)[
                at % 4
            ]
    return bytes(broken)


CHUNKS = (b"IHDR", b"IDAT", b"IEND", b"PLTE", b"tRNS", b"gAMA", b"pHYs", b"iCCP", b"eXIf", b"sRGB", b"cHRM", b"tEXt", b"zTXt", b"iTXt", b"acTL", b"fcTL", b"fdAT", b"\xe3\xbb\xfdq")  # fmt: skip


def damaged_png_chunks(draw: np.random.Generator, turned: bool = True) -> Iterator[bytes]:
    """Yield PNG files with a chunk too much, wrong or missing before and behind each of their own."""
    data = encode(draw, "png", turned)
    ends = [8]
    while ends[-1] < len(data):
        ends.append(ends[-1] + 12 + struct.unpack(">I", data[ends[-1] : ends[-1] + 4])[0])
    for start, end in pairwise(ends):
        yield data[:start] + data[end:]  # missing
        yield data[: end - 4] + bytes(4) + data[end:]  # a wrong checksum
        for kind in CHUNKS:
            for body in (b"", b"\xff", draw.bytes(40)):
                check = struct.pack(">I", zlib.crc32(kind + body))
                yield data[:start] + struct.pack(">I", len(body)) + kind + body + check + data[start:]


def damaged_images(count: int, seed: int = 0) -> Iterator[tuple[str, bytes]]:
    """Yield names and bytes: every damage of a PNG's chunks, then `count` files of the formats in turn."""
    draw = np.random.default_rng(seed)
    for number, data in enumerate(damaged_png_chunks(draw)):
        yield f"chunk_{number:03}.png", data
    for number in range(count):
        ending = tuple(FORMATS)[number % len(FORMATS)]
        yield f"photo_{number:04}.{ending}", damage(draw, encode(draw, ending))
