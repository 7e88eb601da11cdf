"""A world as a table of solids (boxes, balls, rods and cones of any size and turn, with their materials), and its view.

Meters: x right, y forward, z up. A row of the table is a solid; `COLUMNS` names its columns.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from depth_anything_hf.scenes.worlds.textures import FAMILIES

BOX, BALL, ROD, CONE = range(4)  # rods and cones stand along their own z; a cone's tip is up
COLUMNS: dict[str, Any] = {  # a column, or a slice of columns
    "center": slice(0, 3),
    "half": slice(3, 6),  # half sizes along the solid's own axes
    "axes": slice(6, 15),  # its own axes, one after the other, in the world's coordinates
    "shape": 15,
    "texture": 16,  # row of the atlas
    "period": 17,  # meters of one tile of the texture
    "phase": slice(18, 20),
    "tint": slice(20, 23),  # linear RGB
    "contrast": 23,  # of the texture, 0 = plain
    "gloss": 24,  # strength of the highlight, 0 = matt
    "clear": 25,  # share of the light that passes, 0 = opaque
    "glow": 26,  # light of its own
    "holes": 27,  # meters from hole to hole, 0 = whole
}
WIDTH = 28

Vector = Sequence[float] | np.ndarray


def rotation(yaw: float = 0.0, pitch: float = 0.0, roll: float = 0.0) -> np.ndarray:
    """Return the axes, one a row, of a solid that was rolled about y, pitched about x and then turned about z."""
    (a, b, c), (i, j, k) = np.cos([yaw, pitch, roll]), np.sin([yaw, pitch, roll])
    about_z = np.array([[a, i, 0], [-i, a, 0], [0, 0, 1]])
    about_x = np.array([[1, 0, 0], [0, b, j], [0, -j, b]])
    about_y = np.array([[c, 0, -k], [0, 1, 0], [k, 0, c]])
    return about_y @ about_x @ about_z


@dataclass(frozen=True)
class Finish:
    """Describe which textures a kind of material draws from, and the ranges of its other properties."""

    families: tuple[str, ...]
    period: tuple[float, float]  # meters
    contrast: tuple[float, float]
    dark: tuple[float, float, float]  # linear RGB of the darkest tint
    light: tuple[float, float, float]  # and of the lightest; where `free`, each channel is drawn by itself
    free: bool = False
    gloss: float = 0.0  # the largest
    holes: tuple[float, float] = (0.0, 0.0)


FINISHES = {
    "paint": Finish(("noise", "plain", "plain"), (0.5, 4), (0, 0.3), (0.25, 0.22, 0.18), (0.9, 0.9, 0.85)),
    "wallpaper": Finish(("floral", "stripes", "noise", "brick", "wood"), (0.2, 1.5), (0.1, 1), (0.1, 0.1, 0.1), (0.8, 0.8, 0.7), True),
    "wood": Finish(("wood",), (0.3, 2), (0.2, 1), (0.06, 0.03, 0.015), (0.7, 0.45, 0.25), gloss=0.4),
    "floor": Finish(("wood", "brick", "noise", "checks", "grain", "plain"), (0.3, 2), (0.1, 1), (0.05, 0.04, 0.03), (0.7, 0.65, 0.6), gloss=0.5),
    "fabric": Finish(("floral", "stripes", "checks", "noise", "plain", "grain"), (0.05, 0.8), (0, 1), (0.02, 0.02, 0.02), (0.8, 0.8, 0.8), True),
    "metal": Finish(("plain", "grain"), (0.1, 1), (0, 0.4), (0.1, 0.1, 0.1), (0.7, 0.7, 0.7), gloss=1.0),
    "plastic": Finish(("plain", "plain", "print"), (0.1, 0.6), (0, 0.6), (0.01, 0.01, 0.01), (0.9, 0.9, 0.9), True, gloss=0.9),
    "paper": Finish(("print", "print", "floral", "noise"), (0.1, 0.5), (0.3, 1), (0.1, 0.1, 0.1), (0.95, 0.95, 0.95), True, gloss=0.3),
    "any": Finish(tuple(FAMILIES), (0.05, 1), (0, 1), (0.01, 0.01, 0.01), (0.9, 0.9, 0.9), True, gloss=0.6),
    "asphalt": Finish(("grain", "noise"), (0.5, 6), (0.1, 0.7), (0.06, 0.06, 0.06), (0.35, 0.34, 0.33)),
    "pavement": Finish(("brick", "grain", "noise"), (0.4, 3), (0.1, 0.8), (0.12, 0.11, 0.1), (0.55, 0.52, 0.48)),
    "grass": Finish(("grain", "foliage", "noise"), (0.5, 4), (0.3, 1), (0.04, 0.07, 0.01), (0.3, 0.35, 0.12)),
    "earth": Finish(("noise", "grain"), (1, 8), (0.3, 1), (0.1, 0.07, 0.04), (0.6, 0.5, 0.35)),
    "leaves": Finish(("foliage",), (0.3, 1.5), (0.5, 1), (0.015, 0.035, 0.008), (0.2, 0.3, 0.08), holes=(0.06, 0.3)),
    "leaf": Finish(("foliage", "plain", "grain"), (0.1, 0.6), (0, 0.6), (0.02, 0.06, 0.01), (0.3, 0.5, 0.15), gloss=0.4),
    "bark": Finish(("wood", "grain"), (0.2, 1), (0.3, 1), (0.04, 0.03, 0.02), (0.3, 0.23, 0.17)),
    "facade": Finish(("facade", "facade", "facade", "brick"), (5, 14), (0.4, 1), (0.12, 0.1, 0.08), (0.8, 0.75, 0.65)),
    "roof": Finish(("brick", "grain", "stripes"), (0.5, 3), (0.2, 0.8), (0.05, 0.04, 0.04), (0.5, 0.25, 0.18)),
    "lacquer": Finish(("plain",), (1, 1), (0, 0.1), (0.005, 0.005, 0.005), (0.8, 0.8, 0.8), True, gloss=1.0),
    "skin": Finish(("plain",), (1, 1), (0, 0.1), (0.12, 0.06, 0.04), (0.75, 0.5, 0.38)),
}  # fmt: skip


class World:
    """Collect solids; `at` returns a place to build an assembly in its own coordinates."""

    def __init__(self, rng: np.random.Generator):
        self.rng = rng
        self.rows: list[np.ndarray] = []

    def at(self, x: float, y: float, z: float = 0.0, yaw: float = 0.0) -> Place:
        """Return the place at a point, turned about the vertical."""
        return Place(self, np.array([x, y, z], float), rotation(yaw))

    def material(self, *kinds: str, clear: float = 0.0, glow: float = 0.0) -> np.ndarray:
        """Draw a material of one of the kinds: the columns of a row from "texture" on."""
        rng, finish = self.rng, FINISHES[kinds[0] if len(kinds) == 1 else self.rng.choice(kinds)]
        family = FAMILIES[finish.families[rng.integers(len(finish.families))]]
        dark, light = np.array(finish.dark), np.array(finish.light)
        shade = rng.random(3) if finish.free else np.clip(rng.random() + rng.normal(0, 0.06, 3), 0, 1)
        if finish.free:  # pure colors are rare
            shade = shade.mean() + rng.random() * (shade - shade.mean())
            if rng.random() < 0.4:
                shade = np.clip(rng.random() + rng.normal(0, 0.03, 3), 0, 1)
        period = math.exp(rng.uniform(*np.log(finish.period)))
        holes = rng.uniform(*finish.holes)
        gloss = finish.gloss * rng.random() ** 2
        numbers = (rng.uniform(*finish.contrast), gloss, clear, glow, holes)
        return np.array([rng.integers(*family), period, *rng.random(2), *(dark + (light - dark) * shade), *numbers])

    def table(self) -> np.ndarray:
        """Return the solids, `(solids, WIDTH)` float32, ordered by shape."""
        table = np.array(self.rows, np.float32)
        return table[np.argsort(table[:, COLUMNS["shape"]], kind="stable")]


@dataclass(frozen=True)
class Place:
    """A point of the world with axes: assemblies are built in its coordinates."""

    world: World
    origin: np.ndarray
    axes: np.ndarray

    def add(self, shape: int, center: Vector, half: Vector, material: np.ndarray, turn=None) -> None:
        """Add a solid; `turn` (3 x 3) are its axes in the place's coordinates."""
        axes = self.axes if turn is None else turn @ self.axes
        middle = self.origin + np.asarray(center, float) @ self.axes
        size = np.maximum(np.asarray(half, float), 1e-4)
        self.world.rows.append(np.concatenate([middle, size, axes.ravel(), [shape], material]))

    def at(self, x: float, y: float, z: float = 0.0, yaw: float = 0.0) -> Place:
        """Return a place within this one."""
        return Place(self.world, self.origin + np.array([x, y, z], float) @ self.axes, rotation(yaw) @ self.axes)


@dataclass
class Shot:
    """Store the view and the light of a world. Angles in radians, lengths in meters, linear RGB."""

    eye: np.ndarray
    heading: float  # clockwise from y
    pitch: float  # up
    roll: float
    fov: float  # along the longer side
    sun: bool  # light from far away; else lamps in a room
    lamps: list[np.ndarray] = field(default_factory=list)  # places of the lamps
    fog: float = 0.0


def lens(rng: np.random.Generator, low: float, high: float) -> float:
    """Draw an angle of view between two, degrees; return radians."""
    return math.radians(rng.uniform(low, high))


def sun(rng: np.random.Generator) -> list[np.ndarray]:
    """Draw where the sun stands, as the place of a far lamp."""
    rise, turn = math.radians(rng.uniform(8, 75)), rng.uniform(0, math.tau)
    return [2000 * np.array([math.cos(rise) * math.cos(turn), math.cos(rise) * math.sin(turn), math.sin(rise)])]
