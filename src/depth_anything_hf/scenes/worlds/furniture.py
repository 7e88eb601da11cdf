"""Build furniture from solids: each piece stands on its place's z = 0, its back toward +y."""

from __future__ import annotations

import math

import numpy as np

from depth_anything_hf.scenes.worlds.objects import thing
from depth_anything_hf.scenes.worlds.solids import BALL, BOX, CONE, ROD, Place, rotation


def _legs(place: Place, half_x: float, half_y: float, height: float, material, shape=BOX) -> None:
    thick = place.world.rng.uniform(0.012, 0.035)
    for x in (-half_x + thick, half_x - thick):
        for y in (-half_y + thick, half_y - thick):
            place.add(shape, (x, y, height / 2), (thick, thick, height / 2), material)


def table(place: Place, half_x: float, half_y: float, height: float) -> bool:
    """Build a table: a top on four legs, on a foot, or on panels; return whether it is round."""
    rng, world = place.world.rng, place.world
    top = world.material("wood", "wood", "plastic", "floor", "paint")
    legs = top if rng.random() < 0.5 else world.material("metal")
    thick = rng.uniform(0.01, 0.04)
    shape = ROD if rng.random() < 0.2 else BOX
    place.add(shape, (0, 0, height - thick), (half_x, half_y, thick), top)
    kind = rng.random()
    if kind < 0.6:
        inset = 0.95 * (0.7 if shape == ROD else 1)
        _legs(place, half_x * inset, half_y * inset, height - 2 * thick, legs)
    elif kind < 0.8:
        place.add(ROD, (0, 0, height / 2), (0.05, 0.05, height / 2 - thick), legs)
        place.add(ROD, (0, 0, 0.02), (half_x * 0.5, half_x * 0.5, 0.02), legs)
    else:
        half = height / 2 - thick
        for side in (-1, 1):
            place.add(BOX, (side * half_x * 0.9, 0, half), (0.02, half_y * 0.9, half), legs)
    return shape == ROD


def chair(place: Place) -> None:
    """Build a chair, with a back of a panel or of slats, and arms now and then."""
    rng, world = place.world.rng, place.world
    seat = world.material("fabric", "wood", "plastic")
    frame = world.material("wood", "metal", "plastic")
    half, height, back = rng.uniform(0.19, 0.27), rng.uniform(0.4, 0.5), rng.uniform(0.35, 0.6)
    place.add(BOX, (0, 0, height), (half, half, rng.uniform(0.015, 0.06)), seat)
    if rng.random() < 0.75:
        _legs(place, half, half, height, frame)
    else:  # an office chair
        place.add(ROD, (0, 0, height / 2), (0.03, 0.03, height / 2), frame)
        for turn in np.arange(5) * math.tau / 5:
            leg = (0.15 * math.cos(turn), 0.15 * math.sin(turn), 0.06)
            place.add(BOX, leg, (0.16, 0.02, 0.02), frame, rotation(turn))
    lean = rotation(0, -rng.uniform(-0.05, 0.25))
    foot, up = np.array([0, half, height]), lean[2]  # of the back, which leans away from who sits
    middle = foot + back * rng.uniform(0.55, 0.65) * up
    if rng.random() < 0.6:
        place.add(BOX, middle, (half, 0.025, back / 2), seat, lean)
    else:
        count = int(rng.integers(2, 6))
        upright = rng.random() < 0.5
        for k in np.linspace(-0.9, 0.9, count):
            where = middle + ((k * half, 0, 0) if upright else k * back / 2 * up)
            place.add(BOX, where, (0.015, 0.012, back / 2) if upright else (half, 0.012, 0.025), frame, lean)
    for side in (-1, 1):
        post = foot + back / 2 * up + (side * half, 0, 0)
        place.add(BOX, post, (0.02, 0.02, back / 2 + 0.05), frame, lean)
        if rng.random() < 0.3:
            place.add(BOX, (side * half, 0, height + 0.22), (0.025, half * 0.9, 0.015), frame)


def sofa(place: Place) -> None:
    """Build a sofa or an armchair with cushions."""
    rng, world = place.world.rng, place.world
    cloth, wide, deep = world.material("fabric"), rng.uniform(0.45, 1.2), rng.uniform(0.4, 0.5)
    seat, back = rng.uniform(0.35, 0.45), rng.uniform(0.7, 1.0)
    place.add(BOX, (0, 0, seat / 2), (wide, deep, seat / 2), cloth)
    place.add(BOX, (0, deep - 0.1, back / 2), (wide, 0.12, back / 2), cloth, rotation(0, -rng.uniform(0, 0.15)))
    for side in (-1, 1):
        place.add(BOX, (side * (wide + 0.08), 0, seat * 0.7), (0.09, deep, seat * 0.7), cloth)
    for _ in range(rng.integers(0, 4)):
        x = rng.uniform(-0.8, 0.8) * wide
        turn = rotation(rng.uniform(-0.4, 0.4), -rng.uniform(0.1, 0.6), rng.uniform(-0.6, 0.6))
        shape = BOX if rng.random() < 0.5 else BALL
        place.add(shape, (x, deep - 0.3, seat + 0.18), (0.2, 0.07, 0.2), world.material("fabric"), turn)


def bed(place: Place) -> None:
    """Build a bed with pillows."""
    rng, world = place.world.rng, place.world
    wide, height = rng.uniform(0.45, 1.0), rng.uniform(0.35, 0.6)
    place.add(BOX, (0, 0, height / 2), (wide, 1.0, height / 2), world.material("wood"))
    place.add(BOX, (0, -0.15, height), (wide * 1.02, 0.87, 0.07), world.material("fabric"))
    place.add(BOX, (0, 1.02, height), (wide, 0.04, rng.uniform(0.3, 0.7)), world.material("wood"))
    for x in (-0.45, 0.45):
        place.add(BALL, (x * wide, 0.75, height + 0.1), (0.4 * wide, 0.22, 0.1), world.material("fabric"))


def shelf(place: Place) -> None:
    """Build a shelf with boards full of books and things."""
    rng, world = place.world.rng, place.world
    wood = world.material("wood", "paint", "metal")
    wide, deep, height = rng.uniform((0.3, 0.12, 0.7), (0.8, 0.22, 2.1))
    for side in (-1, 1):
        place.add(BOX, (side * wide, 0, height / 2), (0.015, deep, height / 2), wood)
    place.add(BOX, (0, deep, height / 2), (wide, 0.01, height / 2), wood)
    levels = int(rng.integers(2, 6))
    for z in np.linspace(0.05, height, levels):
        place.add(BOX, (0, 0, z), (wide, deep, 0.012), wood)
        if z < height - 0.1:
            _row_of_things(place.at(-wide, 0, z + 0.012), 2 * wide, deep, (height - 0.05) / (levels - 1) - 0.04)


def _row_of_things(place: Place, length: float, deep: float, tall: float) -> None:
    rng, x = place.world.rng, 0.03
    while x < length - 0.1:
        if rng.random() < 0.7:  # books
            thick, high = rng.uniform(0.012, 0.05), tall * rng.uniform(0.55, 0.95)
            lean = rotation(0, 0, rng.uniform(-0.2, 0.2) if rng.random() < 0.2 else 0)
            half = (thick, deep * 0.8, high / 2)
            place.add(BOX, (x + thick, -0.02, high / 2), half, place.world.material("paper"), lean)
            x += 2 * thick + 0.003
        else:
            size = rng.uniform(0.04, 0.1)
            thing(place.at(x + size, 0, 0, rng.uniform(0, 6)), min(size * 2, tall))
            x += 2.4 * size
        x += rng.exponential(0.06) if rng.random() < 0.15 else 0


def cabinet(place: Place) -> None:
    """Build a cabinet with doors or drawers that have handles."""
    rng, world = place.world.rng, place.world
    wide, deep, height = rng.uniform((0.2, 0.2, 0.4), (0.9, 0.35, 2.1))
    body, front = world.material("wood", "paint", "metal", "plastic"), world.material("wood", "paint")
    place.add(BOX, (0, 0, height / 2), (wide, deep, height / 2), body)
    columns, rows = int(rng.integers(1, 4)), int(rng.integers(1, 5))
    knob, gap = world.material("metal"), rng.uniform(0.005, 0.03)
    half_x, half_z = wide / columns - gap, height / 2 / rows - gap
    for i, j in np.ndindex(columns, rows):
        x, z = -wide + (2 * i + 1) * wide / columns, (j + 0.5) * height / rows
        place.add(BOX, (x, -deep - 0.008, z), (half_x, 0.01, half_z), front if rng.random() < 0.9 else body)
        place.add(BOX if gap < 0.015 else BALL, (x, -deep - 0.03, z), (0.04, 0.012, 0.012), knob)
    for _ in range(rng.integers(0, 4)):
        x, y = rng.uniform(-0.8, 0.8) * wide, rng.uniform(-0.5, 0.5) * deep
        thing(place.at(x, y, height, rng.uniform(0, 6)), rng.uniform(0.1, 0.4))


def lamp(place: Place, height: float) -> None:
    """Build a lamp with a shade that may shine."""
    rng, world = place.world.rng, place.world
    metal, size = world.material("metal"), height * rng.uniform(0.1, 0.2)
    place.add(ROD, (0, 0, 0.01 * height), (size * 0.8, size * 0.8, 0.01 * height), metal)
    place.add(ROD, (0, 0, height * 0.42), (0.008 * height, 0.008 * height, height * 0.42), metal)
    shade = world.material("paint", glow=rng.choice([0.0, 1.5]))
    place.add(rng.choice([ROD, CONE, BALL]), (0, 0, height * 0.9), (size, size, size * rng.uniform(0.7, 1.1)), shade)


def screen(place: Place) -> None:
    """Build a screen on its foot."""
    rng, world = place.world.rng, place.world
    half, black = rng.uniform(0.15, 0.4), world.material("lacquer")
    tall = half * rng.uniform(0.55, 0.75)
    place.add(BOX, (0, 0, tall + 0.08), (half, 0.015, tall), black)
    picture = world.material(rng.choice(["paper", "lacquer", "any"]), glow=rng.choice([0, 0.5]))
    place.add(BOX, (0, -0.014, tall + 0.08), (half * 0.94, 0.004, tall * 0.92), picture)
    place.add(BOX, (0, 0.03, 0.06), (0.03, 0.015, 0.08), black)
    place.add(BOX, (0, 0.02, 0.008), (half * 0.45, 0.1, 0.008), black)
