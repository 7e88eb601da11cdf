"""Worlds by kind: rooms, tables seen from near, things before a backdrop, streets, open country, and clutter in the air.

Each layout fills a `World` and says where the camera stands and how the light falls.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from depth_anything_hf.data.worlds import furniture
from depth_anything_hf.data.worlds.solids import BALL, BOX, CONE, ROD, World, rotation


@dataclass
class Shot:
    """Say how a world is seen and lit. Angles in radians, metres, linear RGB."""

    eye: np.ndarray
    heading: float  # clockwise from y
    pitch: float  # up
    roll: float
    fov: float  # along the width
    sun: bool  # light from far away; else lamps in a room
    lamps: list[np.ndarray] = field(default_factory=list)  # places of the lamps
    fog: float = 0.0


def _lens(rng: np.random.Generator, low: float, high: float) -> float:
    return math.radians(rng.uniform(low, high))


def _sun(rng: np.random.Generator) -> list[np.ndarray]:
    rise, turn = math.radians(rng.uniform(8, 75)), rng.uniform(0, math.tau)
    return [2000 * np.array([math.cos(rise) * math.cos(turn), math.cos(rise) * math.sin(turn), math.sin(rise)])]


def _free(taken: list[tuple[float, float, float]], x: float, y: float, radius: float) -> bool:
    if any(math.hypot(x - a, y - b) < radius + r for a, b, r in taken):
        return False
    taken.append((x, y, radius))
    return True


def _walls(world: World, half_x: float, half_y: float, height: float) -> None:
    """Build floor, ceiling and four walls, one of them open now and then, with what hangs on them."""
    rng = world.rng
    wall, far = world.material(rng.choice(["paint", "paint", "wallpaper", "facade"], p=[0.45, 0.25, 0.2, 0.1])), 0.1
    other = wall if rng.random() < 0.7 else world.material("wallpaper")
    ground = world.at(0, 0)
    ground.add(BOX, (0, 0, -far), (half_x * 3, half_y * 3, far), world.material("floor"))
    ground.add(BOX, (0, 0, height + far), (half_x * 3, half_y * 3, far), world.material("paint"))
    skirting = world.material("paint") if rng.random() < 0.6 else None
    for i, (x, y, length) in enumerate(
        ((0, half_y, half_x), (half_x, 0, half_y), (-half_x, 0, half_y), (0, -half_y, half_x))
    ):
        yaw = (0, -math.pi / 2, math.pi / 2, math.pi)[i]
        side = world.at(x, y, 0, yaw)
        material = other if i == 1 else wall
        if i < 3 and rng.random() < 0.2:  # a gap: a doorway, or the way to another room
            gap, at = rng.uniform(0.4, 0.3 * length + 0.5), rng.uniform(-0.5, 0.5) * length
            for start, end in ((-length, at - gap), (at + gap, length)):
                if end > start:
                    side.add(BOX, ((start + end) / 2, far, height / 2), ((end - start) / 2, far, height / 2), material)
            side.add(BOX, (at, far, height - 0.2), (gap, far, max(height - 2.1, 0.1)), material)
            side.add(BOX, (0, rng.uniform(1, 4), height / 2), (half_x * 3, far, height / 2), world.material("paint"))
        else:
            side.add(BOX, (0, far, height / 2), (length * 1.05, far, height / 2), material)
            _on_the_wall(side, length, height)
        if skirting is not None:
            side.add(BOX, (0, -0.01, 0.05), (length, 0.012, 0.05), skirting)


def _on_the_wall(side, length: float, height: float) -> None:
    """Hang pictures, a window with curtains, a door or a radiator on a wall; -y is into the room."""
    world, rng = side.world, side.world.rng
    kind = rng.random()
    if kind < 0.3:  # window
        x, half, low, high = rng.uniform(-0.5, 0.5) * length, *rng.uniform((0.3, 0.3, 1.9), (1.2, 1.0, 2.3))
        high = min(high, height - 0.1)
        side.add(BOX, (x, 0, (low + high) / 2), (half + 0.05, 0.03, (high - low) / 2 + 0.05), world.material("paint"))
        day = world.material("paint", glow=rng.uniform(0, 2.5))
        for k in range(int(rng.integers(1, 4)) + 1):
            panes = 2 * half / 3
            side.add(
                BOX,
                (x - half + panes * (k + 0.5), -0.02, (low + high) / 2),
                (panes * 0.46, 0.02, (high - low) / 2),
                day,
            )
        if rng.random() < 0.6:
            cloth = world.material("fabric")
            for end in (-1, 1):
                for k in range(5):
                    side.add(ROD, (x + end * (half + 0.07 * k), -0.12, high / 2 + 0.05), (0.05, 0.05, high / 2), cloth)
    elif kind < 0.45:  # door
        x, wood = rng.uniform(-0.6, 0.6) * length, world.material(rng.choice(["wood", "paint"]))
        side.add(BOX, (x, -0.01, 1.02), (0.5, 0.03, 1.05), world.material("paint"))
        side.add(BOX, (x, -0.03, 1.0), (0.42, 0.03, 1.0), wood)
        side.add(BALL, (x + 0.35, -0.09, 1.0), (0.04, 0.03, 0.03), world.material("metal"))
    elif kind < 0.8:  # pictures
        for _ in range(rng.integers(1, 4)):
            x, z, a, b = rng.uniform(-0.8, 0.8) * length, rng.uniform(1.2, 1.9), *rng.uniform(0.1, 0.6, 2)
            side.add(BOX, (x, -0.02, z), (a + 0.03, 0.015, b + 0.03), world.material("wood"))
            side.add(BOX, (x, -0.03, z), (a, 0.012, b), world.material(rng.choice(["paper", "any"])))
    if rng.random() < 0.15:
        side.add(BOX, (rng.uniform(-0.5, 0.5) * length, -0.08, 0.4), (0.5, 0.06, 0.3), world.material("paint"))


_ALONG_WALLS = ("shelf", "cabinet", "cabinet", "sofa", "bed", "desk", "plant", "lamp", "boxes")


def _stand(world: World, name: str, x: float, y: float, yaw: float) -> None:
    """Build a piece of furniture whose back looks along +y before it is turned."""
    rng, place = world.rng, world.at(x, y, 0, yaw)
    if name == "desk":
        half_x, half_y, height = rng.uniform((0.4, 0.3, 0.65), (0.9, 0.45, 0.8))
        furniture.table(place, half_x, half_y, height)
        if rng.random() < 0.6:
            furniture.screen(place.at(rng.uniform(-0.3, 0.3) * half_x, 0.1, height, rng.uniform(-0.4, 0.4)))
        _litter(place, half_x, half_y, height, int(rng.integers(0, 9)), (0.05, 0.3))
        furniture.chair(place.at(rng.uniform(-0.3, 0.3), -half_y - 0.2, 0, math.pi + rng.uniform(-0.8, 0.8)))
    elif name == "dining":
        half_x, half_y, height = rng.uniform((0.4, 0.35, 0.68), (1.1, 0.6, 0.8))
        furniture.table(place, half_x, half_y, height)
        _litter(place, half_x, half_y, height, int(rng.integers(0, 8)), (0.06, 0.35))
        for x_of in np.arange(-half_x + 0.3, half_x, 0.65):
            for side in (-1, 1):
                if rng.random() < 0.75:
                    furniture.chair(
                        place.at(x_of, side * (half_y + 0.15), 0, (0 if side > 0 else math.pi) + rng.normal(0, 0.2))
                    )
    elif name in ("plant", "lamp"):
        getattr(furniture, name)(place, rng.uniform(0.5, 1.8))
    elif name == "boxes":
        z = 0.0
        for _ in range(rng.integers(1, 4)):
            half = rng.uniform(0.1, 0.35, 3)
            place.at(0, 0, 0, rng.normal(0, 0.3)).add(BOX, (0, 0, z + half[2]), half, world.material("any"))
            z += 2 * half[2]
    else:
        getattr(furniture, name)(place)


def _litter(place, half_x: float, half_y: float, z: float, count: int, sizes: tuple[float, float]) -> None:
    """Scatter things over a surface."""
    rng, taken = place.world.rng, []
    for _ in range(count):
        size = math.exp(rng.uniform(*np.log(sizes)))
        x, y = rng.uniform(-0.9, 0.9, 2) * (half_x, half_y)
        if _free(taken, x, y, size * 0.45):
            furniture.thing(place.at(x, y, z, rng.uniform(0, math.tau)), size)


def room(world: World) -> Shot:
    """Furnish a room, from a closet to a hall, or a corridor."""
    rng = world.rng
    half_x, half_y, height = rng.uniform((1.3, 1.6, 2.3), (3.5, 4.5, 3.2))
    if (narrow := rng.random()) < 0.12:  # corridor
        half_x, half_y = rng.uniform((0.8, 4), (1.5, 12))
    elif narrow < 0.2:
        half_x, half_y, height = rng.uniform((4, 5, 2.8), (9, 14, 6))
    _walls(world, half_x, half_y, height)
    eye = np.array(
        [rng.uniform(-0.6, 0.6) * half_x, -half_y + rng.uniform(0.2, 0.9), rng.uniform(0.7, min(2.0, height - 0.3))]
    )
    taken = [(eye[0], eye[1], 0.45)]
    for _ in range(rng.integers(2, 10)):
        side = rng.integers(3)
        t = rng.uniform(-0.85, 0.85)
        x, y, yaw = (
            (t * half_x, half_y - 0.45, 0),
            (half_x - 0.45, t * half_y, -math.pi / 2),
            (-half_x + 0.45, t * half_y, math.pi / 2),
        )[side]
        name = str(rng.choice(_ALONG_WALLS))
        if _free(taken, x, y, 0.55):
            _stand(world, name, x, y, yaw)
    for _ in range(rng.integers(0, 4)):
        x, y = rng.uniform(-0.7, 0.7) * half_x, rng.uniform(-0.5, 0.8) * half_y
        name = str(rng.choice(["dining", "dining", "sofa", "boxes", "plant", "chair", "chair", "desk"]))
        if _free(taken, x, y, 0.9 if name == "dining" else 0.5):
            _stand(world, name, x, y, rng.uniform(0, math.tau))
    if rng.random() < 0.3:
        half = rng.uniform(0.5, 1.8, 2)
        world.at(*rng.uniform(-0.4, 0.4, 2) * (half_x, half_y), 0, rng.normal(0, 0.2)).add(
            BOX, (0, 0, 0.006), (*half, 0.006), world.material("fabric")
        )
    if rng.random() < 0.15:
        x, y = rng.uniform(-0.6, 0.6) * half_x, rng.uniform(-0.3, 0.8) * half_y
        if _free(taken, x, y, 0.4):
            furniture.person(world.at(x, y, 0, rng.uniform(0, math.tau)))
    aim = rng.uniform(-0.7, 0.7) * half_x - eye[0]
    lamps = [
        np.array([*rng.uniform(-0.6, 0.6, 2) * (half_x, half_y), height - 0.15]) for _ in range(rng.integers(1, 3))
    ]
    if rng.random() < 0.35:  # daylight from a side
        lamps[0] = np.array([rng.choice([-1, 1]) * half_x * 0.95, rng.uniform(-0.5, 0.5) * half_y, rng.uniform(1, 2)])
    for lamp in lamps:
        world.at(*lamp).add(BOX, (0, 0, 0.12), (0.2, 0.2, 0.02), world.material("paint", glow=2.0))
    return Shot(
        eye,
        math.atan2(aim, half_y * 1.3),
        rng.normal(-0.15, 0.17),
        rng.normal(0, 0.04),
        _lens(rng, 42, 88),
        False,
        lamps,
    )


def tabletop(world: World) -> Shot:
    """Lay things on a table or on the floor, seen from a hand's breadth to two metres away, often steeply from above."""
    rng = world.rng
    half_x, half_y = rng.uniform(0.3, 1.0, 2)
    on_floor = rng.random() < 0.25
    z = 0.0 if on_floor else rng.uniform(0.4, 1.0)
    _walls(world, *rng.uniform((1.5, 1.2), (4, 4)), rng.uniform(2.3, 3.2))
    if not on_floor:
        furniture.table(world.at(0, 0), half_x, half_y, z)
    size = rng.uniform(0.08, 0.3)
    if rng.random() < 0.25:  # a tray or a box without a lid
        a, b, rim, wall = (
            *rng.uniform(0.5, 0.95, 2) * (half_x, half_y),
            rng.uniform(0.02, 0.25),
            world.material("plastic"),
        )
        tray = world.at(0, 0, z)
        tray.add(BOX, (0, 0, 0.008), (a, b, 0.008), wall)
        for x, y, hx, hy in ((a, 0, 0.01, b), (-a, 0, 0.01, b), (0, b, a, 0.01), (0, -b, a, 0.01)):
            tray.add(BOX, (x, y, rim / 2), (hx, hy, rim / 2), wall, rotation(0))
    _litter(world.at(0, 0), half_x, half_y, z + 0.01, int(rng.integers(4, 34)), (size * 0.5, size * 2))
    if rng.random() < 0.3 and not on_floor:
        furniture.screen(world.at(rng.uniform(-0.4, 0.4) * half_x, half_y * 0.6, z, rng.uniform(-0.4, 0.4)))
    if rng.random() < 0.2:
        furniture.plant(
            world.at(rng.uniform(-0.8, 0.8) * half_x, rng.uniform(0, 0.8) * half_y, z), rng.uniform(0.2, 0.6)
        )
    for _ in range(rng.integers(0, 4)):
        furniture.chair(world.at(rng.uniform(-1, 1) * half_x, half_y + rng.uniform(0.1, 1), 0, rng.uniform(-1, 1)))
    down = math.radians(rng.uniform(12, 85))
    distance = math.exp(rng.uniform(math.log(0.4), math.log(1.8)))
    target = np.array([*rng.uniform(-0.4, 0.4, 2) * (half_x, half_y), z])
    turn = rng.uniform(-0.6, 0.6)
    back = np.array([-math.sin(turn) * math.cos(down), -math.cos(turn) * math.cos(down), math.sin(down)])
    lamps = [np.array([*rng.uniform(-1.2, 1.2, 2), z + rng.uniform(0.8, 1.9)]) for _ in range(rng.integers(1, 3))]
    pitch = -down + rng.normal(0, 0.08)
    return Shot(
        target + distance * back,
        turn + rng.normal(0, 0.08),
        pitch,
        rng.normal(0, 0.1),
        _lens(rng, 35, 75),
        False,
        lamps,
    )


def backdrop(world: World) -> Shot:
    """Pile large things before a wall or a cloth, so that they fill the picture."""
    rng = world.rng
    ground = world.at(0, 0)
    depth = rng.uniform(0.5, 2.5)
    ground.add(BOX, (0, 0, -0.1), (9, 9, 0.1), world.material(rng.choice(["floor", "fabric", "any"])))
    lean = rotation(rng.normal(0, 0.25), rng.normal(0, 0.1))
    ground.add(
        BOX, (0, depth + 0.5, 0), (9, 0.1, 9), world.material(rng.choice(["wallpaper", "fabric", "any", "wood"])), lean
    )
    scale = rng.uniform(0.2, 0.6)
    for _ in range(rng.integers(6, 30)):
        x, y = rng.uniform(-0.7, 0.7) * (depth + 0.6), rng.uniform(-0.4, 1.0) * depth
        kind = rng.random()
        if kind < 0.5:
            furniture.thing(world.at(x, y, 0, rng.uniform(0, math.tau)), scale * rng.uniform(0.5, 2))
        elif kind < 0.62:
            furniture.plant(world.at(x, y), scale * rng.uniform(1, 2.5))
        elif kind < 0.8:  # a board or a cloth, leaning
            half = scale * rng.uniform(0.3, 1.5, 2)
            turn = rotation(rng.normal(0, 0.5), rng.normal(0, 0.3), rng.normal(0, 0.5))
            ground.add(
                BOX,
                (x, y, half[1] * 0.8),
                (half[0], 0.015, half[1]),
                world.material(rng.choice(["any", "wood", "fabric"])),
                turn,
            )
        else:  # a fold or a heap
            half = scale * rng.uniform(0.4, 1.3, 3)
            ground.add(
                BALL,
                (x, y, half[2] * 0.5),
                half,
                world.material(rng.choice(["fabric", "any"])),
                rotation(*rng.uniform(-1, 1, 3)),
            )
    for k in range(int(rng.integers(0, 9))):  # laths
        turn = rotation(0, 0, rng.choice([-0.8, 0.8]))
        ground.add(BOX, (-1.5 + 0.4 * k, depth + 0.3, 0.8), (0.02, 0.01, 2), world.material("wood"), turn)
    eye = np.array([rng.uniform(-0.3, 0.3), -rng.uniform(0.5, 1.6) - 0.4 * depth, rng.uniform(0.15, 0.9)])
    lamps = [
        np.array([*rng.uniform(-2, 2, 1), rng.uniform(-3, -1), rng.uniform(1, 3)]) for _ in range(rng.integers(1, 3))
    ]
    return Shot(
        eye, rng.normal(0, 0.15), rng.normal(-0.08, 0.12), rng.normal(0, 0.05), _lens(rng, 30, 65), False, lamps
    )


def street(world: World) -> Shot:
    """Build a street, from an alley to a highway, with houses or trees, cars, people, posts and wires."""
    rng = world.rng
    road, paving = rng.uniform(2.5, 9), rng.uniform(0.8, 4)
    ground, far = world.at(0, 0), 400
    ground.add(BOX, (0, 0, -0.5), (far, far, 0.35), world.material(rng.choice(["grass", "earth", "pavement"])))
    ground.add(BOX, (0, 0, -0.2), (road, far, 0.2), world.material("asphalt"))
    paint = world.material("paint")
    paint[3:7] = (*paint[3:4], 0.8, 0.8, 0.75)
    for x in rng.choice([-0.92, -0.5, -0.02, 0.02, 0.5, 0.92], rng.integers(0, 4), replace=False) * road:
        if rng.random() < 0.5:
            ground.add(BOX, (x, 0, 0), (0.06, far, 0.012), paint)
        else:
            for y in np.arange(1, 70, 7):
                ground.add(BOX, (x, y, 0), (0.07, 1.5, 0.012), paint)
    if rng.random() < 0.2:
        for x in np.arange(-road, road, 1.0):
            ground.add(BOX, (x, rng.uniform(6, 7), 0), (0.25, 1.5, 0.012), paint)
    town, green = rng.random(), rng.random()
    for side in (-1, 1):
        pave = world.material("pavement")
        ground.add(BOX, (side * (road + paving / 2), 0, -0.05), (paving / 2, far, 0.17), pave)
        _roadside(world, side, road + paving, town, green)
    taken: list = []
    _traffic(world, road, taken)
    for _ in range(int(rng.poisson(1.5))):
        x, y = rng.choice([-1, 1]) * rng.uniform(0.8, 1.2) * road, 3 * 12 ** rng.random()
        if _free(taken, x, y, 0.6):
            furniture.person(world.at(x, y, 0.1, rng.uniform(0, math.tau)))
    step, side = rng.uniform(10, 30), rng.choice([-1, 1])
    tall, wired = rng.uniform(3.5, 9), rng.random() < 0.5
    for y in np.arange(rng.uniform(2, 12), 100, step):
        furniture.post(world.at(side * (road + 0.5), y, 0, 0 if side < 0 else math.pi), tall)
    for k in range(int(rng.integers(1, 5)) if wired else 0):
        ground.add(
            BOX,
            (side * (road + 0.5) + 0.3 * k, 60, tall - 0.2 - 0.25 * k),
            (0.015, 90, 0.015),
            world.material("lacquer"),
        )
    driver = rng.random() < 0.65
    eye = np.array(
        [
            rng.uniform(-0.6, 0.6) * road if driver else rng.choice([-1, 1]) * (road + 0.5 * paving),
            0.0,
            rng.uniform(1.1, 2.4) if driver else rng.uniform(1.3, 4),
        ]
    )
    heading = rng.normal(0, 0.1) if rng.random() < 0.6 else rng.uniform(-1.3, 1.3)
    if rng.random() < 0.12:  # the own bonnet
        ground.add(
            BALL,
            (eye[0] + rng.uniform(-0.3, 0.3), 0.9, eye[2] - 0.75),
            (0.9, 0.7, 0.3),
            world.material("lacquer"),
            rotation(-heading),
        )
    return Shot(
        eye,
        heading,
        rng.normal(-0.03, 0.06),
        rng.normal(0, 0.025),
        _lens(rng, 32, 100),
        True,
        _sun(rng),
        rng.choice([0, 0, 0.001, 0.004, 0.015]),
    )


def _roadside(world: World, side: int, edge: float, town: float, green: float) -> None:
    rng = world.rng
    y = rng.uniform(-15, 5)
    back = edge + rng.uniform(0.5, 8) * (1.2 - town)
    while y < 110:
        if rng.random() < 0.25 + 0.7 * town:
            half, deep = rng.uniform(3, 12), rng.uniform(3, 8)
            tall = rng.uniform(3, 8) if town < 0.6 else rng.uniform(6, 35)
            furniture.house(world.at(side * (back + deep), y + half, 0, side * math.pi / 2), half, deep, tall)
            y += 2 * half + rng.exponential(6) * (1.1 - town)
        else:
            y += rng.uniform(4, 15)
    for _ in range(int(rng.poisson(14 * green))):
        x = side * (edge + rng.exponential(5) - 0.6)
        y = 3 * 30 ** rng.random()
        if rng.random() < 0.65:
            furniture.tree(world.at(x + side, y), rng.uniform(3, 13))
        else:
            furniture.bush(world.at(x + side * 0.5, y), rng.uniform(0.4, 1.5))
    if rng.random() < 0.5:
        furniture.fence(world.at(side * (edge + 0.2), rng.uniform(5, 40), 0, math.pi / 2), rng.uniform(10, 60))
    if green > 0.5:  # a line of wood behind it all
        for y in np.arange(20, 150, 12):
            r = rng.uniform(5, 9)
            world.at(side * (edge + rng.uniform(12, 25)), y).add(
                BALL, (0, 0, r * 0.6), (r, r, r), world.material("leaves")
            )


def _traffic(world: World, road: float, taken: list) -> None:
    rng = world.rng
    lanes = np.array([-0.75, -0.3, 0.3, 0.75]) * road
    for _ in range(int(rng.poisson(rng.choice([1, 5, 10])))):
        x, y = rng.choice(lanes) + rng.normal(0, 0.2), 4.5 * 16 ** rng.random()
        if _free(taken, x, y, 2.4):
            furniture.car(world.at(x, y, 0, rng.choice([0, math.pi]) + rng.normal(0, 0.06)))
    if rng.random() < 0.6:  # parked
        side = rng.choice([-1, 1])
        for y in np.arange(rng.uniform(2, 8), 60, rng.uniform(5.5, 9)):
            if rng.random() < 0.7 and _free(taken, side * (road - 0.9), y, 2.3):
                furniture.car(world.at(side * (road - 0.9), y, 0, rng.choice([0, math.pi])))


def country(world: World) -> Shot:
    """Build open country: a plain or hills, woods, rocks, a path, a house, sometimes water."""
    rng = world.rng
    ground = world.at(0, 0)
    ground.add(
        BOX, (0, 0, -0.5), (3000, 3000, 0.5), world.material(rng.choice(["grass", "earth", "pavement", "grass"]))
    )
    for _ in range(rng.integers(0, 12)):  # hills and mountains
        distance, size = 25 * 60 ** rng.random(), rng.uniform(0.3, 1.2)
        x = rng.uniform(-1.3, 1.3) * distance
        half = distance * size * rng.uniform((0.5, 0.4, 0.05), (1.5, 1, 0.4))
        ground.add(
            BALL if rng.random() < 0.75 else CONE,
            (x, distance, -0.3 * half[2]),
            half,
            world.material(rng.choice(["grass", "earth", "leaves"])),
            rotation(rng.uniform(0, math.pi)),
        )
    if rng.random() < 0.5:  # path
        ground.add(
            BOX,
            (rng.uniform(-4, 4), 0, 0),
            (rng.uniform(0.4, 2.5), 500, 0.01),
            world.material(rng.choice(["earth", "asphalt"])),
            rotation(rng.normal(0, 0.3)),
        )
    taken: list = [(0, 0, 1.2)]
    for _ in range(int(rng.poisson(rng.choice([3, 12, 30])))):
        distance = 2.5 * 40 ** rng.random()
        x = rng.uniform(-0.9, 0.9) * distance
        kind = rng.random()
        if not _free(taken, x, distance, 0.5):
            continue
        if kind < 0.5:
            furniture.tree(world.at(x, distance), rng.uniform(3, 15))
        elif kind < 0.7:
            furniture.bush(world.at(x, distance), rng.uniform(0.3, 1.5))
        elif kind < 0.85:  # rock
            half = rng.uniform(0.2, 1.2) * rng.uniform(0.5, 1, 3)
            world.at(x, distance).add(
                rng.choice([BALL, BOX]),
                (0, 0, half[2] * 0.4),
                half,
                world.material("earth"),
                rotation(*rng.uniform(-1, 1, 3)),
            )
        elif kind < 0.92:
            furniture.person(world.at(x, distance, 0, rng.uniform(0, math.tau)))
        else:
            furniture.car(world.at(x, distance + 3, 0, rng.uniform(0, math.tau)))
    if rng.random() < 0.3:
        distance = rng.uniform(10, 60)
        furniture.house(
            world.at(rng.uniform(-0.5, 0.5) * distance, distance, 0, rng.uniform(-0.8, 0.8)),
            *rng.uniform((3, 3, 2.5), (9, 6, 8)),
        )
    if rng.random() < 0.35:
        furniture.fence(world.at(rng.uniform(-6, 6), rng.uniform(4, 20), 0, rng.uniform(-1, 1)), rng.uniform(6, 40))
    eye = np.array([0, 0, math.exp(rng.uniform(math.log(0.4), math.log(6)))])
    pitch = rng.normal(-0.08, 0.12)
    return Shot(
        eye,
        rng.normal(0, 0.2),
        pitch,
        rng.normal(0, 0.04),
        _lens(rng, 32, 88),
        True,
        _sun(rng),
        rng.choice([0, 0.0005, 0.003, 0.01]),
    )


def clutter(world: World) -> Shot:
    """Let solids of all sizes float before a slanted ground or a far wall: shapes and shading without a meaning."""
    rng = world.rng
    ground = world.at(0, 0)
    if rng.random() < 0.7:
        ground.add(BOX, (0, 0, -1.2), (200, 200, 0.2), world.material("any"), rotation(0, *rng.normal(0, 0.12, 2)))
    if rng.random() < 0.6:
        ground.add(
            BOX, (0, rng.uniform(4, 15), 0), (200, 0.3, 200), world.material("any"), rotation(*rng.normal(0, 0.35, 2))
        )
    for _ in range(rng.integers(5, 60)):
        distance = 0.7 * 14 ** rng.random()
        x, z = rng.uniform(-0.7, 0.7, 2) * distance
        half = distance * math.exp(rng.uniform(math.log(0.02), math.log(0.22))) * rng.uniform((0.2, 0.2, 0.2), 1)
        if rng.random() < 0.3:
            half[rng.integers(3)] *= 4
        ground.add(
            rng.integers(4), (x, distance, z), half, world.material("any"), rotation(*rng.uniform(0, math.tau, 3))
        )
    return Shot(np.zeros(3), 0.0, rng.normal(0, 0.05), rng.normal(0, 0.1), _lens(rng, 35, 80), True, _sun(rng))


LAYOUTS = {
    "room": room,
    "tabletop": tabletop,
    "backdrop": backdrop,
    "street": street,
    "country": country,
    "clutter": clutter,
}
