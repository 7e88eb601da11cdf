"""A tiled prediction on disk, written as its rows come: numbers, 16-bit PNG and picture, without holding the map."""

from __future__ import annotations

import math
import os
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import torch

from depth_anything_hf.data.codes import encode_depth_map
from depth_anything_hf.geometry import check_space, disparity_of_prediction
from depth_anything_hf.tiling.prediction import TiledDepth
from depth_anything_hf.visualization import paint, robust_range

_STRIP = 64  # rows that are handled at a time


def save_tiled_depth(
    path_stem: str | os.PathLike, rows: Iterable[TiledDepth], size: tuple[int, int], space: str = "disparity"
) -> dict[str, Path | float | int]:
    """Write a prediction as its rows come: the files of `save_depth`, without ever holding the map.

    Args:
        path_stem: Path without ending; folders are made, files replaced.
        rows: Of `iter_tiled_depth`.
        size: height and width.
        space: "disparity" or "depth".

    Returns:
        As of `save_depth`: `png`, `npy`, `color`, `scale`, `offset`; and the numbers of `tiles` and of `unfit` ones.

    Raises:
        ValueError: `space` is unknown, or there are more or fewer rows than `size` says.

    Example:
        >>> import tempfile
        >>> rows = [TiledDepth(torch.tensor([[1.0, 3.0]]), 1, 0)]
        >>> saved = save_tiled_depth(tempfile.mkdtemp() + "/a", rows, (1, 2))
        >>> saved["npy"].name, saved["scale"] == 2 / 65534, saved["tiles"]
        ('a.npy', True, 1)
    """
    check_space(space)
    height, width = size
    stem = Path(path_stem).expanduser()
    stem.parent.mkdir(parents=True, exist_ok=True)
    png, npy, color = (stem.with_name(stem.name + ending) for ending in (".png", ".npy", "_color.png"))
    low, high, count = np.inf, -np.inf, {"tiles": 0, "unfit": 0}
    with npy.open("wb") as stream:
        np.lib.format.write_array_header_1_0(
            stream, {"descr": "<f4", "fortran_order": False, "shape": (height, width)}
        )
        start = stream.tell()
        for depth, tiles, unfit in rows:
            values = np.ascontiguousarray(depth.numpy(), dtype="<f4")
            stream.write(values.data)
            finite = np.isfinite(values)
            low, high = (values.min(where=finite, initial=low), values.max(where=finite, initial=high))
            count = {"tiles": count["tiles"] + tiles, "unfit": count["unfit"] + unfit}
        if stream.tell() - start != 4 * height * width:
            raise ValueError(
                f"{(stream.tell() - start) // (4 * width)} rows of {width} pixels came for an image of {size}; pass the "
                "rows of iter_tiled_depth and the height and width of its image."
            )

    def strips() -> Iterator[np.ndarray]:
        for top in range(0, height, _STRIP):
            held = min(_STRIP, height - top) * width
            yield np.fromfile(npy, "<f4", held, offset=start + 4 * top * width).reshape(-1, width)

    ends = np.repeat([[low], [high]], width, axis=1)  # two rows under a strip give it the range of the whole map
    _write_png(png, size, 16, (encode_depth_map(np.concatenate([strip, ends]))[0][:-2] for strip in strips()))
    _write_png(color, size, 8, _painted(strips, size, space))
    _, scale, offset = encode_depth_map(ends)
    return {"png": png, "npy": npy, "color": color, "scale": scale, "offset": offset} | count


def _painted(strips: Callable[[], Iterator[np.ndarray]], size: tuple[int, int], space: str) -> Iterator[np.ndarray]:
    """Colour a map strip by strip, `(rows, width, 3)` uint8, on the range of at most a megapixel of it."""
    step = math.ceil(math.sqrt(size[0] * size[1] / 10**6))
    sample = torch.from_numpy(np.concatenate([strip[::step, ::step] for strip in strips()]))
    disparity, known = disparity_of_prediction(sample, space)
    low, high = robust_range(disparity[known].numpy()) if known.any() else (0.0, 1.0)
    for strip in strips():
        yield paint(strip, space, low, high)


def _write_png(path: Path, size: tuple[int, int], bits: int, strips: Iterable[np.ndarray]) -> None:
    """Write a PNG strip by strip, which Pillow cannot: 16-bit grey `(rows, width)` or 8-bit RGB `(rows, width, 3)`."""
    pixel, color_type = (2, 0) if bits == 16 else (3, 2)  # bytes; grey or RGB

    with path.open("wb") as stream:

        def write_chunk(kind: bytes, data: bytes) -> None:
            stream.write(struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)))

        stream.write(b"\x89PNG\r\n\x1a\n")
        write_chunk(b"IHDR", struct.pack(">IIBBBBB", size[1], size[0], bits, color_type, 0, 0, 0))
        squeeze = zlib.compressobj()
        for strip in strips:
            lines = np.ascontiguousarray(strip, dtype=">u2" if bits == 16 else "u1").view("u1").reshape(len(strip), -1)
            filtered = np.ones((len(lines), 1 + lines.shape[1]), dtype="u1")  # filter 1: the difference to the left
            filtered[:, 1:] = lines
            filtered[:, 1 + pixel :] -= lines[:, :-pixel]
            write_chunk(b"IDAT", squeeze.compress(filtered.data))
        write_chunk(b"IDAT", squeeze.flush())
        write_chunk(b"IEND", b"")
