"""Build trees, cars, houses and roadside objects from solids: each stands on its place's z = 0."""

from __future__ import annotations

import math

import numpy as np

from depth_anything_hf.scenes.worlds.solids import BALL, BOX, CONE, ROD, Place, rotation


def tree(place: Place, height: float) -> None:
    """Build a tree: broad-leaved, a conifer, or bare."""
    rng, world = place.world.rng, place.world
    bark, thick, kind = world.material("bark"), height * rng.uniform(0.012, 0.03), rng.random()
    trunk = height * rng.uniform(0.15, 0.4)
    place.add(ROD, (0, 0, height * 0.4), (thick, thick, height * 0.4), bark, rotation(0, *rng.normal(0, 0.03, 2)))
    if kind < 0.15:
        leaves = world.material("leaves")
        for k in range(int(rng.integers(2, 5))):
            r = height * (0.22 - 0.04 * k)
            place.add(CONE, (0, 0, trunk + height * (0.2 + 0.18 * k)), (r, r, height * 0.2), leaves)
        return
    for _ in range(rng.integers(3, 7)):  # branches
        axes = rotation(0, rng.uniform(0.3, 1.1)) @ rotation(rng.uniform(0, math.tau))
        where = np.array([0, 0, trunk + height * rng.uniform(0, 0.3)]) + axes[2] * height * 0.13
        place.add(ROD, where, (thick * 0.4, thick * 0.4, height * 0.15), bark, axes)
    if kind < 0.92:
        leaves = world.material("leaves")
        for _ in range(rng.integers(4, 10)):
            r = height * rng.uniform(0.1, 0.22)
            where = rng.normal(0, 0.16, 3) * height * (1, 1, 0.8) + (0, 0, trunk + height * 0.4)
            place.add(BALL, where, r * rng.uniform(0.8, 1.3, 3), leaves)


def bush(place: Place, size: float) -> None:
    """Build a bush."""
    rng, leaves = place.world.rng, place.world.material("leaves")
    for _ in range(rng.integers(1, 5)):
        where = rng.normal(0, 0.5, 3) * size * (1, 1, 0.2) + (0, 0, size * 0.45)
        place.add(BALL, where, size * rng.uniform(0.4, 0.8, 3), leaves)


def car(place: Place) -> None:
    """Build a car, a van or a truck; its length lies along y."""
    rng, world = place.world.rng, place.world
    paint, glass, black = world.material("lacquer"), world.material("lacquer"), world.material("plastic")
    glass[4:7] = rng.uniform(0.01, 0.12)  # tint
    black[4:7] = 0.02
    kind = rng.random()
    size = (0.85, 2.1, 0.85, 1.45) if kind < 0.75 else (0.98, 2.6, 1.1, 2.2) if kind < 0.9 else (1.2, 4, 1.2, 3.2)
    wide, long, belt, roof = size * rng.uniform(0.9, 1.1, 4)
    place.add(BOX, (0, 0, (belt + 0.25) / 2), (wide, long, (belt - 0.25) / 2), paint)
    place.add(BALL, (0, 0, belt * 0.62), (wide * 1.02, long * 1.05, belt * 0.36), paint)
    cabin, shift = (long * 0.55, -0.15 * long) if kind < 0.75 else (long * 0.85, -0.1 * long)
    place.add(BOX, (0, shift, (belt + roof) / 2), (wide * 0.86, cabin, (roof - belt) / 2), glass)
    place.add(BOX, (0, shift, roof), (wide * 0.84, cabin * 0.85, 0.04), paint)
    for side in (-1, 1):
        screen = (0, shift + side * cabin, (belt + roof) / 2 - 0.02)
        place.add(BOX, screen, (wide * 0.8, 0.15, (roof - belt) / 1.7), glass, rotation(0, side * 0.6))
        for end in (-1, 1):
            wheel = (side * wide * 0.93, end * long * 0.62, 0.32)
            place.add(ROD, wheel, (0.32, 0.32, 0.12), black, rotation(0, 0, math.pi / 2))
            lamp_of = world.material("lacquer", glow=rng.choice([0.0, 0.6]))
            place.add(BOX, (side * wide * 0.75, end * long, belt * 0.75), (0.16, 0.03, 0.08), lamp_of)
    for end in (-1, 1):
        place.add(BOX, (0, end * long * 1.01, belt * 0.55), (0.25, 0.02, 0.06), world.material("paper"))


def house(place: Place, half_x: float, half_y: float, height: float) -> None:
    """Build a house whose front faces -y: textured or with windows in relief, with a flat or a gabled roof."""
    rng, world = place.world.rng, place.world
    wall = world.material("facade")
    place.add(BOX, (0, 0, height / 2), (half_x, half_y, height / 2), wall)
    if rng.random() < 0.5 and height < 14:
        angle = rng.uniform(0.35, 0.9)
        roof, slope = world.material("roof"), half_y / math.cos(angle)
        for side in (-1, 1):
            turn = rotation(0, -side * angle)
            middle = (0, side * half_y / 2, height + half_y / 2 * math.tan(angle))
            place.add(BOX, middle, (half_x * 1.04, slope / 2 + 0.15, 0.1), roof, turn)
        rise = half_y * math.tan(angle) * 0.25
        place.add(BOX, (0, 0, height + rise), (half_x * 0.98, half_y * 0.5, rise), wall)
    if rng.random() < 0.5:
        pane, frame = world.material("lacquer"), world.material("paint")
        columns, rows = max(int(half_x / 1.5), 1), max(min(int(height / 3), 5), 1)
        for i, j in np.ndindex(min(columns, 6), rows):
            x, z = -half_x + (i + 0.5) * 2 * half_x / min(columns, 6), (j + 0.55) * height / rows
            place.add(BOX, (x, -half_y - 0.02, z), (0.6, 0.06, 0.8), frame)
            place.add(BOX, (x, -half_y - 0.06, z), (0.5, 0.04, 0.7), pane)
    place.add(BOX, (rng.uniform(-0.6, 0.6) * half_x, -half_y, 1.05), (0.55, 0.1, 1.05), world.material("wood"))
    if rng.random() < 0.3:
        middle = (0, -half_y - 0.8, rng.uniform(2.3, 3))
        place.add(BOX, middle, (half_x * rng.uniform(0.3, 0.9), 0.8, 0.08), world.material("any"))


def post(place: Place, height: float) -> None:
    """Build a lamp post, a traffic light or a sign."""
    rng, world = place.world.rng, place.world
    metal, thin = world.material("metal"), rng.uniform(0.03, 0.12)
    place.add(ROD, (0, 0, height / 2), (thin, thin, height / 2), metal)
    kind = rng.random()
    if kind < 0.4:
        arm = rng.uniform(0.5, 2)
        place.add(BOX, (arm, 0, height), (arm, 0.04, 0.04), metal)
        place.add(BOX, (2 * arm, 0, height - 0.05), (0.3, 0.12, 0.06), metal)
    elif kind < 0.7:
        shape, size = (BOX, rng.uniform(0.25, 0.5)) if rng.random() < 0.5 else (BALL, 0.35)
        place.add(shape, (0, -thin, height - 0.3), (size, 0.02, size), world.material("paper"))
    else:
        place.add(BOX, (0, -0.1, height - 0.4), (0.15, 0.12, 0.42), world.material("plastic"))


def fence(place: Place, length: float) -> None:
    """Build a fence, a hedge or a low wall along x."""
    rng, world = place.world.rng, place.world
    kind, height = rng.random(), rng.uniform(0.6, 1.8)
    if kind < 0.3:
        place.add(BOX, (0, 0, height / 2), (length / 2, 0.35, height / 2), world.material("leaves"))
    elif kind < 0.55:
        place.add(BOX, (0, 0, height / 2), (length / 2, 0.12, height / 2), world.material("pavement"))
    else:
        wood = world.material("wood", "metal", "paint")
        for z in (0.3, 0.85):
            place.add(BOX, (0, 0, z * height), (length / 2, 0.02, 0.04), wood)
        step = max(rng.uniform(0.15, 1.5), length / 24)
        for x in np.arange(-length / 2, length / 2, step):
            place.add(BOX, (x, 0, height / 2), (min(0.05, step / 4), 0.03, height / 2), wood)
