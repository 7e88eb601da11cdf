"""Points on a photograph: read the depth there, and decide which of two is nearer."""

from __future__ import annotations

import base64
import html
from dataclasses import replace

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from depth_anything_hf.app.session import Photograph, Prediction, Session, shown_size
from depth_anything_hf.data.codes import encode_depth_map
from depth_anything_hf.evaluation.point_pairs import score_pairs

LONGEST_HOVER = 320  # pixels: the grid that the cursor reads in the browser
_COLORS = ("#ff2d78", "#00a3ff")  # of the two points: seen on any photograph, also by color-blind people
_HINT = "Click the picture on the right to read its depth there; click a second point to ask which is nearer."


def mark_shown(session: Session, x: float, y: float) -> Session:
    """Mark the pixel under a click at `x`, `y` (pixels of the picture as shown); a third click starts over."""
    height, width = session.photograph.size
    shown_height, shown_width = shown_size(height, width)
    row, column = int((y + 0.5) * height / shown_height), int((x + 0.5) * width / shown_width)
    return mark_pixel(session, min(max(row, 0), height - 1), min(max(column, 0), width - 1))


def mark_pixel(session: Session, row: int, column: int) -> Session:
    """Mark a pixel of the photograph; a third one starts over."""
    height, width = session.photograph.size
    if not (0 <= row < height and 0 <= column < width):
        raise ValueError(
            f"row {row}, column {column} lies outside the image of {height} rows and {width} columns; rows go from 0 to "
            f"{height - 1}, columns from 0 to {width - 1}."
        )
    before = session.points if len(session.points) == 1 else ()
    return replace(session, points=(*before, (int(row), int(column))))


def draw_points(session: Session) -> Image.Image:
    """Draw the marked points on the picture that is read; returns RGB."""
    image = session.picture(session.seen).convert("RGB")
    height, width = session.photograph.size
    radius = max(image.size) / 45
    font = ImageFont.load_default(1.8 * radius)
    draw = ImageDraw.Draw(image)
    for number, ((row, column), color) in enumerate(zip(session.points, _COLORS, strict=False), start=1):
        x, y = (column + 0.5) * image.width / width, (row + 0.5) * image.height / height
        draw.circle((x, y), radius, outline="white", width=max(2, round(radius / 3)))
        draw.circle((x, y), radius * 0.8, outline=color, width=max(2, round(radius / 3)))
        draw.circle((x, y), max(1, radius / 8), fill=color)
        right = x + 3 * radius < image.width
        place = (x + (1.3 if right else -1.3) * radius, y)
        draw.text(place, str(number), "white", font, "lm" if right else "rm", stroke_width=2, stroke_fill="black")
    return image


def nearer(first: float, second: float, space: str) -> int | None:
    """Return which of two values is nearer, 1 or 2, by the rule of DA-2K: no threshold, and None for equal values.

    Raises:
        ValueError: A value is not finite.

    Source: Depth Anything V2, section 6.

    Example:
        >>> nearer(2.0, 1.0, "disparity"), nearer(2.0, 1.0, "depth"), nearer(1.0, 1.0, "depth")
        (1, 2, None)
    """
    pairs = torch.tensor([[[0, 0], [0, 1]]] * 2)
    answers = score_pairs(torch.tensor([[first, second]]), pairs, torch.tensor([0, 1]), metric=space == "depth")
    return {(True, False): 1, (False, True): 2}.get(tuple(answers.tolist()))


def describe_points(session: Session) -> str:
    """Write as HTML what each checkpoint predicts at the points, and which of two is nearer; without points, a hint."""
    if not session.points:
        return f"<p>{_HINT}</p>"
    heads = "".join(
        f'<th scope="col"><span class="dot" style="background:{color}"></span>point {number}'
        f"<small>row {row}, column {column}</small></th>"
        for number, ((row, column), color) in enumerate(zip(session.points, _COLORS, strict=False), start=1)
    )
    if len(session.points) == 2:
        heads += '<th scope="col">nearer</th>'
    rows = "".join(_row(prediction, session.points) for prediction in session.photograph.predictions)
    after = "" if len(session.points) == 2 else "<p>Click a second point to ask which is nearer.</p>"
    return f'<table><thead><tr><th scope="col">checkpoint</th>{heads}</tr></thead><tbody>{rows}</tbody></table>{after}'


def _row(prediction: Prediction, points: tuple[tuple[int, int], ...]) -> str:
    values = [float(prediction.values()[point]) for point in points]
    written = "{:.4g} m" if prediction.space == "depth" else "{:.4g} <small>disparity, no unit</small>"
    cells = "".join(f"<td>{written.format(value)}</td>" for value in values)
    if len(values) == 2:
        answer = nearer(values[0], values[1], prediction.space) if np.isfinite(values).all() else 0
        words = {1: "point 1 is nearer", 2: "point 2 is nearer", None: "a tie", 0: "no answer"}
        cells += f"<td><strong>{words[answer]}</strong></td>"
    return f'<tr><th scope="row">{html.escape(prediction.label)}</th>{cells}</tr>'


def hover_maps(photograph: Photograph) -> dict:
    """Return the data from which the browser reads the depth under the cursor by itself.

    `size` is height and width of the photograph, `grid` of the maps. `maps` has one entry per checkpoint: its `label`,
    `unit`, and 16-bit codes of the nearest pixels (little-endian, base64) with their `scale` and `offset`.
    """
    height, width = photograph.size
    factor = min(1.0, LONGEST_HOVER / max(height, width))
    grid = max(1, round(height * factor)), max(1, round(width * factor))
    maps = []
    for prediction in photograph.predictions:
        codes, scale, offset = encode_depth_map(prediction.sampled(*grid))
        maps.append(
            {
                "label": prediction.label,
                "unit": "m" if prediction.space == "depth" else "",
                "codes": base64.b64encode(codes.astype("<u2").tobytes()).decode("ascii"),
                "scale": scale,
                "offset": offset,
            }
        )
    return {"size": [height, width], "grid": list(grid), "maps": maps}
