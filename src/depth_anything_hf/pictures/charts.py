"""Line charts and bars, drawn with Pillow alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
INK, _PALE = (40, 40, 40), (222, 222, 222)
# Okabe and Ito (2008), distinct with any color vision, without their yellow, which is too pale for lines.
_LINES = ((0, 114, 178), (213, 94, 0), (0, 158, 115), (204, 121, 167), (86, 180, 233), (230, 159, 0), (0, 0, 0))


def curves(
    series: Mapping[str, Sequence[tuple[float, float]]],
    title: str = "",
    x_label: str = "",
    y_label: str = "",
    size: tuple[int, int] = (480, 800),
) -> Image.Image:
    """Draw line charts of named series into one frame, such as losses over the steps of a training run.

    Args:
        series: Name to points (x, y), joined in the order given; a point that is not finite is a gap in the line.
        title: A line above the chart.
        x_label, y_label: Quantity on each axis, with its unit.
        size: (height, width) in pixels.

    Raises:
        ValueError: No series has a finite point.

    Example:
        >>> curves({"loss": [(0, 1.0), (100, 0.4)]}, "Training", "step", "loss").size
        (800, 480)
    """
    lines = [np.array(points, dtype=np.float64).reshape(-1, 2) for points in series.values()]
    finite = [line[np.isfinite(line).all(axis=1)] for line in lines]
    if not any(map(len, finite)):
        raise ValueError(f"{len(series)} series without a finite point; a chart needs one: check what was logged.")
    points = np.concatenate(finite)
    x_ticks, y_ticks = _ticks(points[:, 0]), _ticks(points[:, 1])
    height, width = (2 * side for side in size)
    chart, draw, font = _canvas(height, width, title)
    draw.text((40, 116), shorten_text(y_label, font, width - 80), INK, font, "lm")
    names = [shorten_text(name, font, width / 4) for name in series]
    left, right = 64 + max(map(font.getlength, y_ticks.values())), width - 160 - max(map(font.getlength, names))
    corner, far = np.array([left, height - 130]), np.array([right, 160])  # of the frame: lower left, upper right
    low, high = np.array([min(x_ticks), min(y_ticks)]), np.array([max(x_ticks), max(y_ticks)])
    place = lambda point: tuple(corner + (point - low) / (high - low) * (far - corner))  # noqa: E731
    for value, text in y_ticks.items():
        _, y = place((low[0], value))
        draw.line([(left, y), (right, y)], _PALE, 2)
        draw.text((left - 16, y), text, INK, font, "rm")
    for value, text in x_ticks.items():
        x, y = place((value, low[1]))
        draw.line([(x, y), (x, y + 12)], INK, 2)
        draw.text((x, y + 22), text, INK, font, "ma")
    draw.line([tuple(corner), (right, corner[1])], INK, 3)
    draw.text(((left + right) / 2, height - 40), shorten_text(x_label, font, right - left), INK, font, "mm")
    for index, (name, line) in enumerate(zip(names, lines, strict=True)):
        color, key = _LINES[index % len(_LINES)], 174 + 44 * index
        draw.line([(right + 40, key), (right + 90, key)], color, 7)
        draw.text((right + 104, key), name, INK, font, "lm")
        radius = 7 if len(line) <= 30 else 2  # marks where there is room for them, else smooth joints
        places = [place(point) if np.isfinite(point).all() else None for point in line]
        for start, end in zip(places, [*places[1:], None], strict=True):
            if start and end:
                draw.line([start, end], color, 5)
            if start:
                draw.ellipse([start[0] - radius, start[1] - radius, start[0] + radius, start[1] + radius], color)
    return chart.resize((size[1], size[0]), Image.Resampling.LANCZOS)


def bars(
    rows: Mapping[str, Mapping[str, float]],
    title: str = "",
    x_label: str = "",
    width: int = 800,
) -> Image.Image:
    """Draw horizontal bars, each a sum of named parts, such as the seconds of a training step.

    Args:
        rows: Name of a bar to its parts and their sizes, at least 0; equal names have equal colors in all bars.
        title: A line above the chart.
        x_label: Quantity of the bars, with its unit.
        width: Pixels; the height follows from the number of bars.

    Raises:
        ValueError: There is no bar, or a part is negative or not finite.

    Example:
        >>> bars({"ours": {"student": 2.0, "teacher": 0.5}, "theirs": {"student": 3.0}}, "A step", "seconds").size
        (800, 244)
    """
    sizes = [size for parts in rows.values() for size in parts.values()]
    if not sizes or not all(math.isfinite(size) and size >= 0 for size in sizes):
        raise ValueError(f"rows are {rows}; a chart needs a bar, and parts that are finite and at least 0.")
    names = list(dict.fromkeys(name for parts in rows.values() for name in parts))
    ticks = _ticks(np.array([0.0, *(sum(parts.values()) for parts in rows.values())]))
    width, height = 2 * width, 2 * (144 + 50 * len(rows))
    chart, draw, font = _canvas(height, width, title)
    x = 40.0
    for index, name in enumerate(names):
        draw.rectangle([x, 104, x + 28, 132], _LINES[index % len(_LINES)])
        draw.text((x + 40, 118), name, INK, font, "lm")
        x += 100 + font.getlength(name)
    left, right = 72 + max(map(font.getlength, rows)), width - 180
    scale = (right - left) / max(ticks)
    bottom = 170 + 100 * len(rows)
    for value, text in ticks.items():
        draw.line([(left + value * scale, 164), (left + value * scale, bottom)], _PALE, 2)
        draw.text((left + value * scale, bottom + 12), text, INK, font, "ma")
    for row, (name, parts) in enumerate(rows.items()):
        top, x = 180 + 100 * row, float(left)
        draw.text((left - 24, top + 35), name, INK, font, "rm")
        for part, size in parts.items():
            draw.rectangle([x, top, x + size * scale, top + 70], _LINES[names.index(part) % len(_LINES)])
            x += size * scale
        draw.text((x + 16, top + 35), f"{sum(parts.values()):.3g}", INK, font, "lm")
    draw.text(((left + right) / 2, height - 36), shorten_text(x_label, font, right - left), INK, font, "mm")
    return chart.resize((width // 2, height // 2), Image.Resampling.LANCZOS)


def _canvas(height: int, width: int, title: str) -> tuple[Image.Image, ImageDraw.ImageDraw, Font]:
    """Make a chart with its title at twice its size; reduced, its lines are smooth."""
    chart, big = Image.new("RGB", (width, height), "white"), ImageFont.load_default(36)
    draw = ImageDraw.Draw(chart)
    draw.text((40, 28), shorten_text(title, big, width - 80), INK, big)
    return chart, draw, ImageFont.load_default(28)


def shorten_text(text: str, font: Font, width: float) -> str:
    """Shorten a text to `width` pixels, with dots at its end."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "...") > width:
        text = text[:-1]
    return text.rstrip() + "..."


def _ticks(values: np.ndarray) -> dict[float, str]:
    """Return about five round numbers that enclose the values, with their text."""
    low, high = float(values.min()), float(values.max())
    rough = ((high - low) or abs(high) or 1.0) / 5
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * unit for factor in (1, 2, 5, 10) if factor * unit >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    if first >= last:
        first, last = first - 1, first + 1
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    kind = f",.{digits}f" if digits <= 5 and max(abs(low), abs(high)) < 1e7 else ".4g"
    return {index * step: f"{index * step:{kind}}" for index in range(first, last + 1)}
