"""Depth of images beyond memory: overlapping tiles, each aligned to one prediction of the whole, blended and streamed.

The whole image, made small, is predicted first: it knows what is near and far. Every tile is then predicted at the
model's own resolution: it knows the detail, but has its own scale and shift. Each is brought to the overview by a fit, and
all are blended by smooth weights that add up to one everywhere. Finished rows leave at once, so that the memory of it all
is that of one tile and of the rows which tiles still share.
"""

from __future__ import annotations

import math
import os
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from tqdm.auto import tqdm

from depth_anything_hf.data.codes import GRAY_16, encode_depth_map, orientation_of, upright_rgb, warn_if_coarse
from depth_anything_hf.data.whole_files import replacing
from depth_anything_hf.maps.alignment import apply_fit, fit_scale, fit_scale_shift
from depth_anything_hf.maps.geometry import check_space, disparity_of_prediction
from depth_anything_hf.pictures.visualization import paint, robust_range
from depth_anything_hf.prediction.predictor import DepthPredictor

_STRIP = 64  # rows that are handled at a time
_CELL = 4  # pixels of the overview: a fit compares means over cells, as the overview lacks the tile's detail
_LEAST_AGREEMENT = 0.5  # share of the overview's variance that a tile must explain to be used


class TiledDepth(NamedTuple):
    """Depth `(rows, width)` float32, the number of tiles behind it, and how many of them were left out."""

    depth: torch.Tensor
    tiles: int
    unfit: int


class PixelFile:
    """Store the pixels of a photograph in an unnamed file, so that they take no memory. Use it in `with`.

    Args:
        image (`Image.Image`): As opened, of any mode; its EXIF rotation is applied.
        folder (`str` or `os.PathLike`, *optional*): Where the file lies until it is closed: 3 bytes a pixel.

    Example:
        >>> with PixelFile(Image.new("RGB", (8, 6), "red")) as pixels:
        ...     pixels.size, pixels.crop((2, 1, 4, 5)).size
        ((8, 6), (2, 4))
    """

    def __init__(self, image: Image.Image, folder: str | os.PathLike | None = None):
        if orientation_of(image) != 1 or image.mode in GRAY_16:  # turned, or scaled, as a whole
            image = upright_rgb(image)
        self.size = image.size
        self._file: IO[bytes] = TemporaryFile(dir=None if folder is None else os.fspath(folder))  # noqa: SIM115 - closed by __exit__
        for top in range(0, image.height, _STRIP):
            strip = image.crop((0, top, image.width, min(top + _STRIP, image.height)))
            self._file.write(np.asarray(upright_rgb(strip)).data)

    def crop(self, box: tuple[int, int, int, int]) -> Image.Image:
        """Read the pixels of a box `(left, top, right, bottom)` inside the image, as an RGB image."""
        left, top, right, bottom = box
        rows = []
        for row in range(top, bottom):
            self._file.seek(3 * (row * self.size[0] + left))
            rows.append(self._file.read(3 * (right - left)))
        return Image.frombytes("RGB", (right - left, bottom - top), b"".join(rows))

    def __enter__(self) -> PixelFile:
        return self

    def __exit__(self, *exception) -> None:
        self._file.close()


def tile_overlap(tile: int, overlap: int | None = None) -> int:
    """Return how many pixels neighboring tiles share at least: `overlap`, from 1 to half a tile, or a quarter of a tile.

    Example:
        >>> tile_overlap(518), tile_overlap(518, 100)
        (129, 100)
    """
    if overlap is None and tile < 4:
        raise ValueError(
            f"tile is {tile} pixels; it must be at least 4, so that neighbors overlap by a quarter: 518 gives all detail."
        )
    overlap = tile // 4 if overlap is None else overlap
    if not 1 <= overlap <= tile // 2:
        raise ValueError(
            f"tile is {tile} and overlap {overlap} pixels; the overlap must be from 1 to half a tile: a quarter is usual."
        )
    return overlap


def tile_starts(length: int, tile: int, overlap: int) -> list[int]:
    """Return the first pixels of the fewest tiles along a side whose neighbors share at least `overlap` pixels, evenly.

    Example:
        >>> tile_starts(10, 4, 1), tile_starts(3, 4, 1)
        ([0, 3, 6], [0])
    """
    tile_overlap(tile, overlap)
    if length <= tile:
        return [0]
    count = math.ceil((length - overlap) / (tile - overlap))
    return [round(i * (length - tile) / (count - 1)) for i in range(count)]


def tile_weights(length: int, starts: list[int], tile: int) -> torch.Tensor:
    """Compute how much each tile counts along a side: raised cosines, divided by their sum, which makes it 1 everywhere.

    The weights of an image are the products of those along its two sides, and add up to 1 as well.

    Returns:
        `torch.Tensor`: `(tiles, min(tile, length))` float32.

    Example:
        >>> tile_weights(3, [0, 1], 2).tolist()
        [[1.0, 0.5], [0.5, 1.0]]
    """
    side = min(tile, length)
    window = torch.sin(torch.pi * (torch.arange(side, dtype=torch.float64) + 0.5) / side) ** 2
    total = torch.zeros(length, dtype=torch.float64)
    for start in starts:
        total[start : start + side] += window
    return torch.stack([window / total[start : start + side] for start in starts]).float()


def iter_tiled_depth(
    predictor: DepthPredictor, image: Image.Image | PixelFile, tile: int = 1036, overlap: int | None = None
) -> Iterator[TiledDepth]:
    """Predict an image tile by tile, and yield its rows from top to bottom as they are finished.

    Each tile gets the scale and shift of its least-squares fit to the overview, in the model's space; from a metric model
    the scale alone, since a crop looks as if taken by a longer lens, which scales depth and does not shift it. A tile
    that is constant, or whose fit has no positive scale or explains less than half of the overview's variance there, is
    unfit: the overview stands in for it. A sky or a bare wall can be such.

    Args:
        predictor (`DepthPredictor`): Its processor decides at what size the model sees a tile.
        image (`Image.Image` or `PixelFile`): RGB.
        tile (`int`): Side of a tile, pixels of the image. As large as the model's input (518), it gives all the detail
            that the model can; twice as large, a quarter of the work.
        overlap (`int`, *optional*): Least overlap of neighbors, pixels; left out, a quarter of a tile.

    Yields:
        `TiledDepth`: The next rows, a few at a time; the tiles are counted with the first rows that they finish.

    Raises:
        ValueError: The tile or the overlap is out of range.
    """
    overlap = tile_overlap(tile, overlap)
    width, height = image.size
    tops, lefts = tile_starts(height, tile, overlap), tile_starts(width, tile, overlap)
    down, across = tile_weights(height, tops, tile), tile_weights(width, lefts, tile)
    overview = predictor(_shrunk(image, tile))  # its shorter side is a tile's at most
    side = (down.shape[1], across.shape[1])
    rows, columns = (
        max(round(part * small / whole / _CELL), 2)
        for part, small, whole in zip(side, overview.shape, (height, width), strict=True)
    )
    held = torch.zeros(side[0], width)  # the rows from `top` on, of which some tiles are still missing
    with tqdm(total=len(tops) * len(lefts), desc="tiles", unit="tile", leave=False) as bar:
        for i, top in enumerate(tops):
            unfit = 0
            for left, weights in zip(lefts, across, strict=True):
                box = (left, top, left + side[1], top + side[0])
                region = _region(overview, box, (height, width))
                aligned = _aligned(predictor(image.crop(box)), region, (rows, columns), predictor.space)
                unfit += aligned is None
                held[:, left : box[2]] += down[i][:, None] * weights * (region if aligned is None else aligned)
                bar.update()
            finished = (tops[i + 1] if i + 1 < len(tops) else height) - top
            for first in range(0, finished, _STRIP):
                strip = held[first : min(first + _STRIP, finished)].clone()
                yield TiledDepth(strip, *((0, 0) if first else (len(lefts), unfit)))
            held[: side[0] - finished] = held[finished:].clone()
            held[side[0] - finished :] = 0


def predict_tiled(
    predictor: DepthPredictor, image: Image.Image | PixelFile, tile: int = 1036, overlap: int | None = None
) -> TiledDepth:
    """Predict an image tile by tile, as `iter_tiled_depth` with the same arguments, and return all of it.

    Returns:
        `TiledDepth`: `depth` `(height, width)`: disparity of a relative model, meters of a metric one.

    Example:
        >>> predictor = DepthPredictor("mini", device="cpu")
        >>> tiled = predict_tiled(predictor, Image.new("RGB", (150, 100)), tile=80)
        >>> tiled.depth.shape, tiled.tiles
        (torch.Size([100, 150]), 6)
    """
    depth = torch.empty(image.size[::-1])
    top = tiles = unfit = 0
    for rows in iter_tiled_depth(predictor, image, tile, overlap):
        depth[top : top + len(rows.depth)] = rows.depth
        top, tiles, unfit = top + len(rows.depth), tiles + rows.tiles, unfit + rows.unfit
    return TiledDepth(depth, tiles, unfit)


def _shrunk(image: Image.Image | PixelFile, shortest: int) -> Image.Image:
    """Average an image, strip by strip, down to a picture whose shorter side has at most `shortest` pixels."""
    factor = min(1.0, shortest / min(image.size))
    width, height = (max(round(side * factor), 1) for side in image.size)
    picture = Image.new("RGB", (width, height))
    step = height / image.size[1]
    rows = max(int(_STRIP * step), 1)
    for first in range(0, height, rows):
        last = min(first + rows, height)
        top, bottom = first / step, min(last / step, image.size[1])
        strip = image.crop((0, int(top), image.size[0], math.ceil(bottom)))
        box = (0, top - int(top), strip.width, min(bottom - int(top), strip.height))
        picture.paste(strip.resize((width, last - first), Image.Resampling.BOX, box), (0, first))
    return picture


def _region(overview: torch.Tensor, box: tuple[int, int, int, int], size: tuple[int, int]) -> torch.Tensor:
    """Enlarge the overview's part under a tile to the tile's pixels: `(bottom - top, right - left)`."""
    left, top, right, bottom = box
    v, u = (
        (2 * (torch.arange(first, end, dtype=torch.float64) + 0.5) / length - 1).float()
        for first, end, length in zip((top, left), (bottom, right), size, strict=True)
    )
    places = torch.stack(torch.meshgrid(u, v, indexing="xy"), dim=-1)  # (rows, columns, 2), in [-1, 1]
    return F.grid_sample(overview[None, None], places[None], padding_mode="border", align_corners=False)[0, 0]


def _aligned(
    prediction: torch.Tensor, region: torch.Tensor, cells: tuple[int, int], space: str
) -> torch.Tensor | None:
    """Bring a tile to the overview's scale and shift by means over cells; None if it does not agree with it."""
    mean, wanted = (F.interpolate(one[None, None], cells, mode="area")[0].double() for one in (prediction, region))
    everywhere = torch.ones_like(mean, dtype=torch.bool)
    if space == "disparity":
        scale, shift = fit_scale_shift(mean, wanted, everywhere)
    else:
        scale = fit_scale(mean, wanted, everywhere)
        shift = torch.zeros_like(scale)
    missed = (apply_fit(mean, scale, shift) - wanted).square().mean()
    if not (scale > 0 and missed <= (1 - _LEAST_AGREEMENT) * wanted.var(correction=0)):  # False for NaN, too
        return None
    return apply_fit(prediction[None], scale, shift)[0].clamp(min=0).float()


def save_tiled_depth(
    path_stem: str | os.PathLike, rows: Iterable[TiledDepth], size: tuple[int, int], space: str = "disparity"
) -> dict[str, Any]:
    """Write a prediction as its rows come: the files of `save_depth`, without ever holding the map.

    Args:
        path_stem: Path without ending; folders are made, files replaced.
        rows: From `iter_tiled_depth`.
        size: height and width.
        space: "disparity" or "depth".

    Returns:
        As `save_depth`: `png`, `npy`, `color`, `scale`, `offset`; and the numbers of `tiles` and of `unfit` ones.

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
    with replacing(npy, flush=False) as partial, partial.open("wb") as stream:
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
    _, scale, offset = encode_depth_map(ends)
    sample = []

    def codes() -> Iterator[np.ndarray]:
        for strip in strips():
            found = encode_depth_map(np.concatenate([strip, ends]))[0][:-2]
            sample.append(found[::16, ::16])
            yield found

    _write_png(png, size, 16, codes())
    warn_if_coarse(np.concatenate(sample), scale, offset, str(png), space)
    _write_png(color, size, 8, _painted(strips, size, space))
    return {"png": png, "npy": npy, "color": color, "scale": scale, "offset": offset} | count


def _painted(strips: Callable[[], Iterator[np.ndarray]], size: tuple[int, int], space: str) -> Iterator[np.ndarray]:
    """Color a map strip by strip, `(rows, width, 3)` uint8, on the range of at most a megapixel of it."""
    step = math.ceil(math.sqrt(size[0] * size[1] / 10**6))
    sample = torch.from_numpy(np.concatenate([strip[::step, ::step] for strip in strips()]))
    disparity, known = disparity_of_prediction(sample, space)
    low, high = robust_range(disparity[known].numpy()) if known.any() else (0.0, 1.0)
    for strip in strips():
        yield paint(strip, space, low, high)


def _write_png(path: Path, size: tuple[int, int], bits: int, strips: Iterable[np.ndarray]) -> None:
    """Write a PNG strip by strip, which Pillow cannot: 16-bit gray `(rows, width)` or 8-bit RGB `(rows, width, 3)`."""
    pixel, color_type = (2, 0) if bits == 16 else (3, 2)  # bytes; gray or RGB

    with replacing(path, flush=False) as partial, partial.open("wb") as stream:

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
