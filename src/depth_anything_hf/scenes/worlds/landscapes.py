"""Streets and open country."""

from __future__ import annotations

import math

import numpy as np

from depth_anything_hf.scenes.worlds import outdoor_objects
from depth_anything_hf.scenes.worlds.objects import is_free, person
from depth_anything_hf.scenes.worlds.solids import BALL, BOX, CONE, Shot, World, lens, rotation, sun

FAR = 400  # meters to which a road goes


def street(world: World) -> Shot:
    """Build a street, from an alley to a highway, with houses or trees, cars, people, posts and wires."""
    rng = world.rng
    road, paving = rng.uniform(2.5, 9), rng.uniform(0.8, 4)
    _carriageway(world, road)
    town, green = rng.random(), rng.random()
    for side in (-1, 1):
        pave = world.material("pavement")
        world.at(side * (road + paving / 2), 0).add(BOX, (0, 0, -0.05), (paving / 2, FAR, 0.17), pave)
        _roadside(world, side, road + paving, town, green)
    taken: list = []
    _traffic(world, road, taken)
    for _ in range(int(rng.poisson(1.5))):
        x, y = rng.choice([-1, 1]) * rng.uniform(0.8, 1.2) * road, 3 * 12 ** rng.random()
        if is_free(taken, x, y, 0.6):
            person(world.at(x, y, 0.1, rng.uniform(0, math.tau)))
    _posts_and_wires(world, road + 0.5)
    if driven := rng.random() < 0.65:
        eye = np.array([rng.uniform(-0.6, 0.6) * road, 0.0, rng.uniform(1.1, 2.4)])
    else:
        eye = np.array([rng.choice([-1, 1]) * (road + 0.5 * paving), 0.0, rng.uniform(1.3, 4)])
    heading = rng.normal(0, 0.1) if rng.random() < 0.6 else rng.uniform(-1.6, 1.6)
    if driven and rng.random() < 0.3:  # the hood of the car that drives
        x, y, z = eye
        car = world.at(x, y, z, -heading)
        car.add(BALL, (rng.uniform(-0.3, 0.3), 0.9, -0.75), (0.9, 0.7, 0.3), world.material("lacquer"))
    pitch, roll, fov = rng.normal(-0.03, 0.06), rng.normal(0, 0.025), lens(rng, 32, 100)
    return Shot(eye, heading, pitch, roll, fov, True, sun(rng), rng.choice([0, 0, 0, 0.001, 0.004]))


def _carriageway(world: World, road: float) -> None:
    """Lay the ground and the road with its markings."""
    rng, ground = world.rng, world.at(0, 0)
    ground.add(BOX, (0, 0, -0.5), (FAR, FAR, 0.35), world.material("grass", "earth", "pavement"))
    ground.add(BOX, (0, 0, -0.2), (road, FAR, 0.2), world.material("asphalt"))
    paint = world.material("paint")
    paint[3:7] = (*paint[3:4], 0.8, 0.8, 0.75)
    for x in rng.choice([-0.92, -0.5, -0.02, 0.02, 0.5, 0.92], rng.integers(0, 4), replace=False) * road:
        if rng.random() < 0.5:
            ground.add(BOX, (x, 0, 0), (0.06, FAR, 0.012), paint)
        else:
            for y in range(1, 70, 7):
                ground.add(BOX, (x, y, 0), (0.07, 1.5, 0.012), paint)
    if rng.random() < 0.2:  # a crossing
        for x in np.arange(-road, road, 1.0):
            ground.add(BOX, (x, rng.uniform(6, 7), 0), (0.25, 1.5, 0.012), paint)


def _posts_and_wires(world: World, edge: float) -> None:
    rng = world.rng
    step, side = rng.uniform(10, 30), rng.choice([-1, 1])
    tall, wired = rng.uniform(3.5, 9), rng.random() < 0.5
    for y in np.arange(rng.uniform(2, 12), 100, step):
        outdoor_objects.post(world.at(side * edge, y, 0, 0 if side < 0 else math.pi), tall)
    for k in range(int(rng.integers(1, 5)) if wired else 0):
        middle = (side * edge + 0.3 * k, 60, tall - 0.2 - 0.25 * k)
        world.at(0, 0).add(BOX, middle, (0.015, 90, 0.015), world.material("lacquer"))


def _roadside(world: World, side: int, edge: float, town: float, green: float) -> None:
    rng = world.rng
    y = rng.uniform(-15, 5)
    back = edge + rng.uniform(0.5, 8) * (1.2 - town)
    while y < 110:
        if rng.random() < 0.25 + 0.7 * town:
            half, deep = rng.uniform(3, 12), rng.uniform(3, 8)
            tall = rng.uniform(3, 8) if town < 0.6 else rng.uniform(6, 35)
            outdoor_objects.house(world.at(side * (back + deep), y + half, 0, -side * math.pi / 2), half, deep, tall)
            y += 2 * half + rng.exponential(6) * (1.1 - town)
        else:
            y += rng.uniform(4, 15)
    for _ in range(int(rng.poisson(20 * green))):
        x = side * (edge + rng.exponential(5) - 0.6)
        y = 3 * 30 ** rng.random()
        if rng.random() < 0.65:
            outdoor_objects.tree(world.at(x + side, y), rng.uniform(4, 18))
        else:
            outdoor_objects.bush(world.at(x + side * 0.5, y), rng.uniform(0.4, 1.5))
    if rng.random() < 0.5:
        outdoor_objects.fence(world.at(side * (edge + 0.2), rng.uniform(5, 40), 0, math.pi / 2), rng.uniform(10, 60))
    if green > 0.5:  # a line of wood behind it all
        for y in range(20, 150, 12):
            r = rng.uniform(5, 9)
            place = world.at(side * (edge + rng.uniform(12, 25)), y)
            place.add(BALL, (0, 0, r * 0.6), (r, r, r), world.material("leaves"))


def _traffic(world: World, road: float, taken: list) -> None:
    rng = world.rng
    lanes = np.array([-0.75, -0.3, 0.3, 0.75]) * road
    for _ in range(int(rng.poisson(rng.choice([1, 5, 10])))):
        x, y = rng.choice(lanes) + rng.normal(0, 0.2), 4.5 * 16 ** rng.random()
        if is_free(taken, x, y, 2.4):
            outdoor_objects.car(world.at(x, y, 0, rng.choice([0, math.pi]) + rng.normal(0, 0.06)))
    for side in (-1, 1):
        if rng.random() >= 0.45:  # nobody parks here
            continue
        for y in np.arange(rng.uniform(1, 6), 60, rng.uniform(5, 8)):
            if rng.random() < 0.8 and is_free(taken, side * (road - 0.9), y, 2.3):
                outdoor_objects.car(world.at(side * (road - 0.9), y, 0, rng.choice([0, math.pi])))


def country(world: World) -> Shot:
    """Build open country: a plain or hills, woods, rocks, a path, a house, sometimes water."""
    rng = world.rng
    _hills(world)
    taken: list = [(0, 0, 1.2)]
    for _ in range(int(rng.poisson(rng.choice([3, 12, 30])))):
        distance = 2.5 * 40 ** rng.random()
        x = rng.uniform(-0.9, 0.9) * distance
        kind = rng.random()
        if is_free(taken, x, distance, 0.5):
            _stand(world, kind, x, distance)
    if rng.random() < 0.3:
        distance = rng.uniform(10, 60)
        place = world.at(rng.uniform(-0.5, 0.5) * distance, distance, 0, rng.uniform(-0.8, 0.8))
        outdoor_objects.house(place, *rng.uniform((3, 3, 2.5), (9, 6, 8)))
    if rng.random() < 0.35:
        place = world.at(rng.uniform(-6, 6), rng.uniform(4, 20), 0, rng.uniform(-1, 1))
        outdoor_objects.fence(place, rng.uniform(6, 40))
    eye = np.array([0, 0, math.exp(rng.uniform(math.log(0.4), math.log(6)))])
    pitch, heading, roll = rng.normal(-0.08, 0.12), rng.normal(0, 0.2), rng.normal(0, 0.04)
    return Shot(eye, heading, pitch, roll, lens(rng, 32, 88), True, sun(rng), rng.choice([0, 0, 0.0005, 0.003]))


def _hills(world: World) -> None:
    """Lay the ground, with hills and mountains, and a path now and then."""
    rng, ground = world.rng, world.at(0, 0)
    soil = world.material("grass", "earth", "pavement", "grass")
    ground.add(BOX, (0, 0, -0.5), (3000, 3000, 0.5), soil)
    for _ in range(rng.integers(0, 12)):
        distance, size = 25 * 60 ** rng.random(), rng.uniform(0.3, 1.2)
        x = rng.uniform(-1.3, 1.3) * distance
        half = distance * size * rng.uniform((0.5, 0.4, 0.05), (1.5, 1, 0.4))
        shape = BALL if rng.random() < 0.75 else CONE
        soil = world.material("grass", "earth", "leaves")
        ground.add(shape, (x, distance, -0.3 * half[2]), half, soil, rotation(rng.uniform(0, math.pi)))
    if rng.random() < 0.5:
        x, half = rng.uniform(-4, 4), (rng.uniform(0.4, 2.5), 500, 0.01)
        soil = world.material("earth", "asphalt")
        ground.add(BOX, (x, 0, 0), half, soil, rotation(rng.normal(0, 0.3)))


def _stand(world: World, kind: float, x: float, distance: float) -> None:
    """Place a tree, a bush, a rock, a person or a car in the country; `kind` in [0, 1) chooses."""
    rng = world.rng
    if kind < 0.5:
        outdoor_objects.tree(world.at(x, distance), rng.uniform(3, 15))
    elif kind < 0.7:
        outdoor_objects.bush(world.at(x, distance), rng.uniform(0.3, 1.5))
    elif kind < 0.85:  # rock
        half = rng.uniform(0.2, 1.2) * rng.uniform(0.5, 1, 3)
        shape, stone = rng.choice([BALL, BOX]), world.material("earth")
        world.at(x, distance).add(shape, (0, 0, half[2] * 0.4), half, stone, rotation(*rng.uniform(-1, 1, 3)))
    elif kind < 0.92:
        person(world.at(x, distance, 0, rng.uniform(0, math.tau)))
    else:
        outdoor_objects.car(world.at(x, distance + 3, 0, rng.uniform(0, math.tau)))
