"""An atlas of tileable textures of many families, with mipmaps, made from one seed."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch

SIDE = 128  # texels of a texture's side; its mipmaps halve it down to 1
LEVELS = SIDE.bit_length()
TEXELS = sum((SIDE >> level) ** 2 for level in range(LEVELS))
_COUNTS = {
    "plain": 4, "noise": 32, "grain": 12, "stripes": 16, "checks": 10, "brick": 16, "wood": 16, "floral": 24,
    "print": 20, "facade": 16, "foliage": 12,
}  # fmt: skip
_STARTS = np.cumsum([0, *_COUNTS.values()])
FAMILIES = {name: (int(_STARTS[i]), int(_STARTS[i + 1])) for i, name in enumerate(_COUNTS)}  # rows of the atlas
TEXTURES = int(_STARTS[-1])
_GRID = np.mgrid[0:SIDE, 0:SIDE] / SIDE  # y and x of each texel


def _fractal(
    rng: np.random.Generator, slope: float, stretch: tuple[float, float] = (1, 1), low: int = 0
) -> np.ndarray:
    """Return tileable noise with a spectrum of 1 / frequency^slope, spread over [0, 1]."""
    fy, fx = np.fft.fftfreq(SIDE)[:, None] * SIDE * stretch[0], np.fft.rfftfreq(SIDE)[None] * SIDE * stretch[1]
    frequency = np.hypot(fy, fx)
    amplitude = np.where(frequency > low, np.maximum(frequency, 1) ** -slope, 0)
    noise = np.fft.irfft2(np.fft.rfft2(rng.standard_normal((SIDE, SIDE))) * amplitude, (SIDE, SIDE))
    return np.clip(0.5 + noise / (4 * noise.std() + 1e-9), 0, 1)


def _colored(rng: np.random.Generator, mix: np.ndarray, spread: float = 0.6) -> np.ndarray:
    """Turn a mix in [0, 1] into RGB between two random colors around gray."""
    first, second = rng.uniform(0.5 - spread / 2, 0.5 + spread / 2, (2, 3))
    if np.abs(first - second).mean() < 0.15:
        second = 1 - first
    return first + (second - first) * mix[..., None]


def _plain(rng):
    return np.full((SIDE, SIDE, 3), 0.5) + 0.05 * (_fractal(rng, 1.5)[..., None] - 0.5)


def _noise(rng):
    mix = _fractal(rng, rng.uniform(0.6, 2.0))
    if rng.random() < 0.4:  # blotches
        mix = np.clip((mix - 0.5) * rng.uniform(2, 8) + 0.5, 0, 1)
    if rng.random() < 0.3:
        return np.stack([_fractal(rng, rng.uniform(0.8, 1.8)) for _ in range(3)], -1)
    return _colored(rng, mix)


def _grain(rng):
    return _colored(rng, 0.3 * _fractal(rng, 1.2) + 0.7 * _fractal(rng, rng.uniform(0, 0.5), low=4), 0.4)


def _stripes(rng):
    y, x = _GRID
    along = x if rng.random() < 0.5 else y
    edges = np.sort(rng.random(rng.integers(2, 14)))
    colors = rng.uniform(0.05, 0.95, (len(edges) + 1, 3))
    colors[-1] = colors[0]
    return colors[np.searchsorted(edges, along)] + 0.08 * (_fractal(rng, 1)[..., None] - 0.5)


def _checks(rng):
    y, x = _GRID
    n, m = rng.integers(1, 8, 2) * 2
    mix = ((x * n).astype(int) + (y * m).astype(int)) % 2
    if rng.random() < 0.5:  # plaid
        mix = 0.5 * ((x * n).astype(int) % 2) + 0.5 * ((y * m).astype(int) % 2)
    return _colored(rng, 0.9 * mix + 0.1 * _fractal(rng, 1))


def _brick(rng):
    y, x = _GRID
    rows, columns = int(rng.integers(2, 10)), int(rng.integers(1, 6))
    row = (y * rows).astype(int)
    x = (x + 0.5 * (row % 2) / columns * (rng.random() < 0.7) * (rows % 2 == 0)) % 1
    column = (x * columns).astype(int)
    joint = rng.uniform(0.02, 0.12)
    edge = (np.abs(y * rows % 1 - 0.5) > 0.5 - joint) | (np.abs(x * columns % 1 - 0.5) > 0.5 - joint * columns / rows)
    own = rng.random((rows, columns))[row, column] * rng.random()
    return _colored(rng, np.where(edge, 1, 0.4 * own + 0.2 * _fractal(rng, 1)))


def _wood(rng):
    slope = rng.uniform(1, 1.6)
    fiber = _fractal(rng, slope, (1, rng.uniform(8, 24)) if rng.random() < 0.5 else (rng.uniform(8, 24), 1))
    planks = int(rng.integers(0, 7))
    y, x = _GRID
    own = rng.random(planks + 1)[(y * planks).astype(int)] if planks else 0.5
    seam = (y * planks % 1 < 0.04) if planks else np.zeros_like(x, bool)
    return _colored(rng, np.where(seam, 0, 0.3 + 0.35 * own + 0.5 * (fiber - 0.5)), 0.4)


def _floral(rng):
    y, x = _GRID
    out = np.ones((SIDE, SIDE, 3)) * rng.uniform(0.1, 0.95, 3)
    for _ in range(rng.integers(6, 60)):
        cy, cx = rng.random(2)
        radius, squeeze, turn = rng.uniform(0.015, 0.14), rng.uniform(0.4, 1), rng.uniform(0, np.pi)
        dy, dx = (y - cy + 0.5) % 1 - 0.5, (x - cx + 0.5) % 1 - 0.5
        a, b = dx * np.cos(turn) + dy * np.sin(turn), dy * np.cos(turn) - dx * np.sin(turn)
        out[np.hypot(a, b / squeeze) < radius * (1 + 0.3 * np.sin(5 * np.arctan2(b, a)))] = rng.uniform(0.05, 0.95, 3)
    return out


def _print(rng):
    paper, ink = rng.uniform(0.6, 1, 3), rng.uniform(0, 0.4, 3)
    out = np.ones((SIDE, SIDE, 3)) * paper
    for _ in range(rng.integers(0, 4)):  # pictures and colored fields
        y, x = rng.integers(0, SIDE - 20, 2)
        h, w = rng.integers(10, 70, 2)
        out[y : y + h, x : x + w] = _noise(rng)[y : y + h, x : x + w] if rng.random() < 0.5 else rng.uniform(0, 1, 3)
    height = int(rng.integers(2, 12))
    for top in range(2, SIDE - height, int(height * rng.uniform(1.4, 2.2)) + 1):
        x = int(rng.integers(2, 12))
        end = SIDE * rng.uniform(0.4, 1)
        while x < end:
            word = int(rng.integers(1, 6) * height * 0.5) + 1
            strokes = rng.random((height, word)) < 0.55
            out[top : top + height, x : x + word][strokes[:, : max(min(word, SIDE - x), 0)]] = ink
            x += word + max(height // 2, 1)
    return out


def _facade(rng):
    wall, pane, frame = rng.uniform(0.4, 0.8, 3), rng.uniform(0, 0.3, 3), rng.uniform(0.2, 1, 3)
    out = np.ones((SIDE, SIDE, 3)) * wall * (0.85 + 0.3 * _fractal(rng, 1)[..., None])
    rows, columns = rng.integers(2, 6, 2)
    wide, tall = rng.uniform(0.3, 0.8, 2)
    for i, j in np.ndindex(int(rows), int(columns)):
        y, x = (i + 0.5) / rows * SIDE, (j + 0.5) / columns * SIDE
        half_y, half_x = 0.5 * tall * SIDE / rows, 0.5 * wide * SIDE / columns
        for grow, color in ((1.5, frame), (0, pane * rng.uniform(0.5, 2.5))):
            spans = (slice(int(c - h - grow), int(c + h + grow) + 1) for c, h in ((y, half_y), (x, half_x)))
            out[tuple(spans)] = color
        if rng.random() < 0.5:
            out[int(y - half_y) : int(y + half_y), int(x) : int(x) + 2] = frame
    return out


def _foliage(rng):
    mix = _fractal(rng, rng.uniform(0.3, 0.9), low=2)
    return _colored(rng, np.clip((mix - 0.5) * rng.uniform(1.5, 4) + 0.4, 0, 1), 0.3) * (0.4 + 0.9 * mix[..., None])


@lru_cache(maxsize=2)
def atlas(device: str = "cpu") -> torch.Tensor:
    """Make the atlas: `(TEXTURES * TEXELS, 3)` float32, around 0.5, to be multiplied with twice a tint.

    It has of each texture the mipmaps from the finest to one texel, row by row.
    """
    draw = {name: globals()[f"_{name}"] for name in _COUNTS}
    parts = []
    for family, (start, stop) in FAMILIES.items():
        for row in range(start, stop):
            level = np.clip(draw[family](np.random.default_rng([7, row])), 0, 1.2)
            while True:
                parts.append(level.reshape(-1, 3).astype(np.float32))
                if len(level) == 1:
                    break
                level = level.reshape(len(level) // 2, 2, -1, 2, 3).mean((1, 3))
    return torch.from_numpy(np.concatenate(parts)).to(device)
