"""The view and the light of a world."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np


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
