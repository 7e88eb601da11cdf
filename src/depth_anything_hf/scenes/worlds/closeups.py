"""Things seen from near: on tables, before a backdrop, and floating in the air."""

from __future__ import annotations

import math

import numpy as np

from depth_anything_hf.scenes.worlds import furniture
from depth_anything_hf.scenes.worlds.objects import litter, plant, thing
from depth_anything_hf.scenes.worlds.rooms import walls
from depth_anything_hf.scenes.worlds.solids import BALL, BOX, Shot, World, lens, rotation, sun


def tabletop(world: World) -> Shot:
    """Lay things on a table or on the floor, seen from a hand's breadth to two meters away, often steeply from above."""
    rng = world.rng
    half_x, half_y = rng.uniform(0.3, 1.0, 2)
    on_floor = rng.random() < 0.25
    z = 0.0 if on_floor else rng.uniform(0.4, 1.0)
    half_room = np.array([*rng.uniform((1.5, 1.2), (4, 4)), rng.uniform(2.3, 3.2)])
    walls(world, *half_room)
    is_round = not on_floor and furniture.table(world.at(0, 0), half_x, half_y, z)
    size, bottom = rng.uniform(0.08, 0.3), z
    if rng.random() < 0.25:  # a tray or a box without a lid
        a, b = rng.uniform(0.5, 0.95, 2) * (half_x, half_y)
        rim, wall = rng.uniform(0.02, 0.25), world.material("plastic")
        tray, bottom = world.at(0, 0, z), z + 0.016
        tray.add(BOX, (0, 0, 0.008), (a, b, 0.008), wall)
        for x, y, hx, hy in ((a, 0, 0.01, b), (-a, 0, 0.01, b), (0, b, a, 0.01), (0, -b, a, 0.01)):
            tray.add(BOX, (x, y, rim / 2), (hx, hy, rim / 2), wall)
    litter(world.at(0, 0), half_x, half_y, bottom, int(rng.integers(4, 34)), (size * 0.5, size * 2), is_round)
    if rng.random() < 0.3 and not on_floor:
        furniture.screen(world.at(rng.uniform(-0.4, 0.4) * half_x, half_y * 0.6, z, rng.uniform(-0.4, 0.4)))
    if rng.random() < 0.2:
        plant(world.at(rng.uniform(-0.8, 0.8) * half_x, rng.uniform(0, 0.8) * half_y, z), rng.uniform(0.2, 0.6))
    for _ in range(rng.integers(0, 4)):
        furniture.chair(world.at(rng.uniform(-1, 1) * half_x, half_y + rng.uniform(0.1, 1), 0, rng.uniform(-1, 1)))
    down = math.radians(rng.uniform(12, 85))
    distance = math.exp(rng.uniform(math.log(0.4), math.log(1.8)))
    target = np.array([*rng.uniform(-0.4, 0.4, 2) * (half_x, half_y), z])
    turn = rng.uniform(-0.6, 0.6)
    back = np.array([-math.sin(turn) * math.cos(down), -math.cos(turn) * math.cos(down), math.sin(down)])
    # An eye behind a wall moves nearer.
    free = np.where(back > 0, half_room - target, target + half_room * (1, 1, 0)) - 0.15
    distance = min(distance, *(free / np.maximum(np.abs(back), 1e-6)))
    lamps = [np.array([*rng.uniform(-1.2, 1.2, 2), z + rng.uniform(0.8, 1.9)]) for _ in range(rng.integers(1, 3))]
    pitch = -down + rng.normal(0, 0.08)
    heading, roll = turn + rng.normal(0, 0.08), rng.normal(0, 0.1)
    return Shot(target + distance * back, heading, pitch, roll, lens(rng, 35, 75), False, lamps)


def backdrop(world: World) -> Shot:
    """Pile large things before a wall or a cloth, so that they fill the picture."""
    rng = world.rng
    ground = world.at(0, 0)
    depth = rng.uniform(0.5, 2.5)
    ground.add(BOX, (0, 0, -0.1), (60, 60, 0.1), world.material("floor", "fabric", "any"))
    lean = rotation(rng.normal(0, 0.25), rng.normal(0, 0.1))
    cloth = world.material("wallpaper", "fabric", "any", "wood")
    ground.add(BOX, (0, depth + 0.5, 0), (60, 0.1, 60), cloth, lean)
    scale = rng.uniform(0.2, 0.6)
    for _ in range(rng.integers(6, 30)):
        x, y = rng.uniform(-0.7, 0.7) * (depth + 0.6), rng.uniform(-0.4, 1.0) * depth
        kind = rng.random()
        if kind < 0.5:
            thing(world.at(x, y, 0, rng.uniform(0, math.tau)), scale * rng.uniform(0.5, 2))
        elif kind < 0.62:
            plant(world.at(x, y), scale * rng.uniform(1, 2.5))
        elif kind < 0.8:  # a board or a cloth, leaning
            half = scale * rng.uniform(0.3, 1.5, 2)
            turn = rotation(rng.normal(0, 0.5), rng.normal(0, 0.3), rng.normal(0, 0.5))
            board = world.material("any", "wood", "fabric")
            ground.add(BOX, (x, y, half[1] * 0.8), (half[0], 0.015, half[1]), board, turn)
        else:  # a fold or a heap
            half = scale * rng.uniform(0.4, 1.3, 3)
            cloth = world.material("fabric", "any")
            ground.add(BALL, (x, y, half[2] * 0.5), half, cloth, rotation(*rng.uniform(-1, 1, 3)))
    for k in range(int(rng.integers(0, 9))):  # laths
        turn = rotation(0, 0, rng.choice([-0.8, 0.8]))
        ground.add(BOX, (-1.5 + 0.4 * k, depth + 0.3, 0.8), (0.02, 0.01, 2), world.material("wood"), turn)
    eye = np.array([rng.uniform(-0.3, 0.3), -rng.uniform(0.5, 1.6) - 0.4 * depth, rng.uniform(0.15, 0.9)])
    lamps = [rng.uniform((-2, -3, 1), (2, -1, 3)) for _ in range(rng.integers(1, 3))]
    heading, pitch, roll = rng.normal((0, -0.08, 0), (0.15, 0.12, 0.05))
    return Shot(eye, heading, pitch, roll, lens(rng, 30, 65), False, lamps)


def clutter(world: World) -> Shot:
    """Place floating solids of all sizes before a slanted ground or a far wall: shapes and shading without a meaning."""
    rng = world.rng
    ground = world.at(0, 0)
    if rng.random() < 0.7:
        ground.add(BOX, (0, 0, -1.2), (200, 200, 0.2), world.material("any"), rotation(0, *rng.normal(0, 0.12, 2)))
    if rng.random() < 0.6:
        far, wall = rng.uniform(4, 15), world.material("any")
        ground.add(BOX, (0, far, 0), (200, 0.3, 200), wall, rotation(*rng.normal(0, 0.35, 2)))
    for _ in range(rng.integers(5, 60)):
        distance = 0.7 * 14 ** rng.random()
        x, z = rng.uniform(-0.7, 0.7, 2) * distance
        half = distance * math.exp(rng.uniform(math.log(0.02), math.log(0.22))) * rng.uniform((0.2, 0.2, 0.2), 1)
        if rng.random() < 0.3:
            half[rng.integers(3)] *= 4
        shape, material = int(rng.integers(4)), world.material("any")
        ground.add(shape, (x, distance, z), half, material, rotation(*rng.uniform(0, math.tau, 3)))
    return Shot(np.zeros(3), 0.0, rng.normal(0, 0.05), rng.normal(0, 0.1), lens(rng, 35, 80), True, sun(rng))
