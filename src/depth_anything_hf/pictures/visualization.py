"""Pictures of depth: a color map, contact sheets that compare models, predictions on disk.

All of them show disparity: far is dark, near is bright.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont

from depth_anything_hf.data.codes import depth_map_to_image, encode_depth_map, upright_rgb
from depth_anything_hf.data.whole_files import replacing
from depth_anything_hf.maps.alignment import apply_fit, fit_scale_shift
from depth_anything_hf.maps.geometry import disparity_of_prediction, label_from_map
from depth_anything_hf.pictures.charts import INK, shorten_text

# Every 17th of the 256 colors of "inferno" by Nathaniel J. Smith and Stefan van der Walt (CC0, as in matplotlib).
_POINTS = "0000040c0826240c4f420a685d126e781c6d932667ae305cc73e4cdd513aed6925f8850ffca50afac62df2e661fcffa4"
_CHANNELS = np.frombuffer(bytes.fromhex(_POINTS), dtype=np.uint8).reshape(16, 3).T
_COLORS = np.stack([np.interp(np.linspace(0, 15, 256), np.arange(16), channel) for channel in _CHANNELS], axis=1)
_NO_VALUE = 128  # gray: inferno has no gray but black
_SPARSE = 0.06  # LiDAR fills at most 4 % of an image

Picture = Image.Image | np.ndarray


def colorize(
    values: np.ndarray,
    mask: np.ndarray | None = None,
    low: float | None = None,
    high: float | None = None,
    colors: np.ndarray | None = None,
) -> np.ndarray:
    """Paint a disparity map: small (far) is dark purple, large (near) bright yellow, no value gray.

    Args:
        values: (height, width) disparity, any scale; nan and inf are no values.
        mask: (height, width) bool, True where there is a value; default: everywhere.
        low, high: Disparity of the darkest and the brightest color; default: 2nd and 98th percentile of the values.
        colors: (256, 3) from far to near, 0 to 255; default: the colors of "inferno".

    Returns:
        (height, width, 3) uint8. A constant map has the one color of the middle.

    Raises:
        ValueError: `values` is not a map, `mask` has another shape, or `low` is above `high`.

    Example:
        >>> colorize(np.array([[0.0, 1.0, np.nan]]), low=0, high=1).tolist()
        [[[0, 0, 4], [252, 255, 164], [128, 128, 128]]]
    """
    if low is not None and high is not None and not low <= high:
        raise ValueError(f"low={low:g} is not below high={high:g}; give low <= high, or leave both out.")
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 2 or (mask is not None and np.shape(mask) != values.shape):
        raise ValueError(
            f"values have shape {values.shape} and mask {None if mask is None else np.shape(mask)}; both must be one "
            "(height, width): pass one map at a time."
        )
    valid = np.isfinite(values) if mask is None else np.isfinite(values) & np.asarray(mask, dtype=bool)
    picture = np.full((*values.shape, 3), _NO_VALUE, dtype=np.uint8)
    if not valid.any():
        return picture
    inside = values[valid]
    robust_low, robust_high = robust_range(inside)
    low, high = robust_low if low is None else float(low), robust_high if high is None else float(high)
    place = (np.clip(inside, low, high) - low) / (high - low) if high > low else np.full(inside.shape, 0.5)
    picture[valid] = np.rint((_COLORS if colors is None else colors)[np.rint(place * 255).astype(np.uint8)])
    return picture


def paint(
    depth: np.ndarray,
    space: str = "disparity",
    low: float | None = None,
    high: float | None = None,
    colors: np.ndarray | None = None,
) -> np.ndarray:
    """Paint a prediction, disparity or meters, by its disparity, as `colorize`: `(height, width, 3)` uint8.

    Args:
        depth: (height, width) disparity or meters; nan and inf are no values.
        space: "disparity" (relative models) or "depth" (metric models).
        low, high, colors: As in `colorize`; the range is in disparity.

    Example:
        >>> paint(np.array([[1.0, 2.0]]), "depth").tolist()
        [[[252, 255, 164], [0, 0, 4]]]
    """
    values = torch.from_numpy(np.array(depth, dtype=np.float64))
    disparity, valid = (each.numpy() for each in disparity_of_prediction(values, space))
    return colorize(disparity, valid, low, high, colors)


def prediction_row(
    image: Picture,
    target: np.ndarray | None,
    target_mask: np.ndarray | None,
    target_space: str,
    predictions: Sequence[np.ndarray],
) -> list[Picture | None]:
    """Make a row of `sheet`: the image, its ground truth, and the aligned predictions, all on one range of colors.

    Each prediction gets the scale and shift of the least-squares fit to the ground truth in disparity; values below the
    range of the ground truth get its darkest color. A fit with a negative scale is not applied, so that a
    prediction with near and far exchanged looks like it. Without ground truth each has its own range. Sparse ground
    truth (LiDAR) is drawn as small squares, the nearer above the farther; the fit sees the measured pixels alone.

    Args:
        image: The photograph.
        target: (height, width) ground truth: meters or disparity; None = there is none.
        target_mask: (height, width) bool, True where `target` may be read; None = everywhere.
        target_space: "depth" or "disparity": the space of `target`.
        predictions: (height, width) disparity at the size of `target`, any scale and shift.

    Returns:
        `[image, ground truth, *predictions]`; maps as (height, width, 3) uint8, no ground truth as None.

    Example:
        >>> depth = np.array([[1.0, 2.0, 4.0]])
        >>> row = prediction_row(Image.new("RGB", (3, 1)), depth, None, "depth", [5 / depth + 7])
        >>> np.array_equal(row[1], row[2])
        True
    """
    predictions = [np.asarray(prediction, dtype=np.float64) for prediction in predictions]
    truth, valid = (None, None) if target is None else _disparity(target, target_mask, target_space)
    if truth is None or valid is None or not valid.any():
        return [image, None, *(colorize(prediction) for prediction in predictions)]
    low, high = robust_range(truth[valid])
    row: list[Picture | None] = [image, colorize(*enlarge_sparse(truth, valid), low, high)]
    for prediction in predictions:
        if prediction.shape != truth.shape:
            raise ValueError(
                f"a prediction has shape {prediction.shape}, the ground truth {truth.shape}; the two must match: "
                "resize the prediction to the size of the ground truth."
            )
        known, batch = (torch.from_numpy(array)[None] for array in (valid & np.isfinite(prediction), prediction))
        scale, shift = fit_scale_shift(batch, torch.from_numpy(truth)[None], known)
        aligned = apply_fit(batch, scale, shift)[0].numpy()
        row.append(colorize(prediction) if scale.item() < 0 else colorize(aligned, None, low, high))
    return row


def sheet(
    rows: Sequence[Sequence[Picture | None]],
    columns: Sequence[str],
    cell: tuple[int, int] = (240, 320),
    title: str | None = None,
    captions: Sequence[str | Sequence[str]] | None = None,
) -> Image.Image:
    """Lay pictures out in a table with headings, on white.

    Args:
        rows: The pictures: PIL images of any mode, uint8 arrays (height, width[, 3]), or None for an empty cell.
        columns: One heading a column; text too long for its cell is cut.
        cell: (height, width) in pixels; pictures are fitted into it and keep their aspect.
        title: A line above it all.
        captions: One entry a row: a text below the row, or one short text (such as a score) below each cell.

    Raises:
        ValueError: No row, or a row or its captions do not fit the columns, or an array is not a picture.

    Example:
        >>> page = sheet([[Image.new("L", (8, 6)), None]], ["image", "model"], cell=(60, 80), captions=[["", "0.93"]])
        >>> page.mode
        'RGB'
    """
    lines = [""] * len(rows) if captions is None else list(captions)
    entries = [row for row in [*rows, *lines] if not isinstance(row, str)]
    if not rows or len(lines) != len(rows) or {len(row) for row in entries} != {len(columns)}:
        raise ValueError(
            f"rows hold {[len(row) for row in rows]} pictures for {len(columns)} columns, and there are {len(lines)} "
            "captions; give one picture (or None) a column, and one text a row or one text a column."
        )
    size = max(13, min(22, cell[1] // 14))
    font, big, gap, line = ImageFont.load_default(size), ImageFont.load_default(round(1.3 * size)), size, 2 * size
    cells = [[None if picture is None else _fit(picture, *cell) for picture in row] for row in rows]
    heights = [max((picture.height for picture in row if picture), default=line) for row in cells]
    top, below = gap + line * (1 if title is None else 3), gap if captions is None else gap + line
    centers = [gap + cell[1] // 2 + index * (cell[1] + gap) for index in range(len(columns))]
    page = Image.new("RGB", (gap + len(columns) * (cell[1] + gap), top + sum(heights) + below * len(rows)), "white")
    draw = ImageDraw.Draw(page)
    draw.text((gap, gap), shorten_text(title or "", big, page.width - 2 * gap), INK, big)
    for x, heading in zip(centers, columns, strict=True):
        draw.text((x, top - line / 2), shorten_text(heading, font, cell[1]), INK, font, "mm")
    for pictures, height, caption in zip(cells, heights, lines, strict=True):
        for x, picture in zip(centers, pictures, strict=True):
            if picture is not None:
                page.paste(picture, (x - picture.width // 2, top + (height - picture.height) // 2))
        spots = [(x, text, cell[1]) for x, text in zip(centers, caption, strict=False)]
        if isinstance(caption, str):
            spots = [(page.width // 2, caption, page.width - 2 * gap)]
        for x, text, room in spots:
            draw.text((x, top + height + line / 2), shorten_text(text, font, room), INK, font, "mm")
        top += height + below
    return page


def save_depth(
    path_stem: str | os.PathLike, depth: np.ndarray, space: str = "disparity", colors: np.ndarray | None = None
) -> dict[str, Path | float]:
    """Write a prediction as a 16-bit PNG, as float32 numbers, and as a picture.

    Args:
        path_stem: Path without ending; folders are made, files replaced.
        depth: (height, width) disparity or meters; nan and inf become code 0 (no label) of the PNG.
        space, colors: As in `paint`, for the picture.

    Returns:
        `png`, `npy`, `color`: the paths `<stem>.png`, `<stem>.npy`, `<stem>_color.png`; `scale`, `offset`: a value is
        `code * scale + offset` where the code is not 0.

    Example:
        >>> import tempfile
        >>> saved = save_depth(tempfile.mkdtemp() + "/a", np.array([[1.0, 3.0]]))
        >>> saved["png"].name, saved["color"].name, saved["scale"] == 2 / 65534
        ('a.png', 'a_color.png', True)
    """
    depth = np.asarray(depth)
    codes, scale, offset = encode_depth_map(depth, name=str(path_stem), space=space)
    picture = paint(depth, space, colors=colors)
    stem = Path(path_stem).expanduser()
    stem.parent.mkdir(parents=True, exist_ok=True)
    # not with_suffix, which would take the "2" of "room.2" for an ending
    png, npy, color = (stem.with_name(stem.name + ending) for ending in (".png", ".npy", "_color.png"))
    with replacing(png, flush=False) as partial:
        depth_map_to_image(codes).save(partial, "PNG")
    with replacing(npy, flush=False) as partial, partial.open("wb") as stream:
        np.save(stream, depth.astype(np.float32))
    with replacing(color, flush=False) as partial:
        Image.fromarray(picture).save(partial, "PNG")
    return {"png": png, "npy": npy, "color": color, "scale": scale, "offset": offset}


def robust_range(values: np.ndarray) -> tuple[float, float]:
    """Return the range of the colors: the 2nd and 98th percentile of at least one value."""
    low, high = np.percentile(values, (2, 98))
    # where nearly all values are one (sky), the percentiles fall together and would hide the rest
    return (float(low), float(high)) if high > low else (float(values.min()), float(values.max()))


def _disparity(values: np.ndarray, mask: np.ndarray | None, space: str) -> tuple[np.ndarray, np.ndarray]:
    tensor = torch.from_numpy(np.array(values, dtype=np.float64))
    allowed = None if mask is None else torch.from_numpy(np.array(mask, dtype=bool))
    disparity, valid = label_from_map(tensor, allowed, space, "relative")
    return disparity.numpy(), valid.numpy()


def enlarge_sparse(disparity: np.ndarray, valid: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Draw the pixels of a sparse map as squares; of two overlapping squares the nearer is on top."""
    if valid.mean() > _SPARSE:
        return disparity, valid
    radius = max(1, round(max(disparity.shape) / 300))
    held = torch.from_numpy(np.where(valid, disparity, -np.inf))[None, None]
    grown = F.max_pool2d(held, 2 * radius + 1, stride=1, padding=radius)[0, 0].numpy()
    return grown, np.isfinite(grown)


def _fit(picture: Picture, height: int, width: int) -> Image.Image:
    if isinstance(picture, np.ndarray):
        if picture.dtype != np.uint8 or picture.shape[2:] not in ((), (3,)):
            raise ValueError(
                f"a picture is {picture.dtype} of shape {picture.shape}; it must be uint8 (height, width[, 3]), or a "
                "PIL image: use colorize for a map."
            )
        picture = Image.fromarray(picture)
    picture = upright_rgb(picture)
    factor = min(height / picture.height, width / picture.width)
    size = (max(1, round(picture.width * factor)), max(1, round(picture.height * factor)))
    # bilinear never overshoots: no color appears that the color map does not have
    return picture.resize(size, Image.Resampling.BILINEAR)
