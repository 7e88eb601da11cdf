"""Rooms and corridors, furnished."""

from __future__ import annotations

import math

import numpy as np

from depth_anything_hf.scenes.worlds import furniture
from depth_anything_hf.scenes.worlds.objects import is_free, litter, person, plant
from depth_anything_hf.scenes.worlds.solids import BALL, BOX, ROD, Shot, World, lens


def walls(world: World, half_x: float, half_y: float, height: float) -> None:
    """Build floor, ceiling and four walls, one of them open now and then, with what hangs on them."""
    rng = world.rng
    wall, far = world.material(rng.choice(["paint", "paint", "wallpaper", "facade"], p=[0.45, 0.25, 0.2, 0.1])), 0.1
    other = wall if rng.random() < 0.7 else world.material("wallpaper")
    ground = world.at(0, 0)
    reach = max(half_x, half_y) * 3 + 5  # beyond what is seen through a gap
    ground.add(BOX, (0, 0, -far), (reach, reach, far), world.material("floor"))
    ground.add(BOX, (0, 0, height + far), (reach, reach, far), world.material("paint"))
    skirting = world.material("paint") if rng.random() < 0.6 else None
    sides = ((0, half_y, half_x, 0), (half_x, 0, half_y, -math.pi / 2), (-half_x, 0, half_y, math.pi / 2))
    for i, (x, y, length, yaw) in enumerate((*sides, (0, -half_y, half_x, math.pi))):
        side = world.at(x, y, 0, yaw)
        material = other if i == 1 else wall
        if i < 3 and rng.random() < 0.2:  # a gap: a doorway, or the way to another room
            gap, at = rng.uniform(0.4, 0.3 * length + 0.5), rng.uniform(-0.5, 0.5) * length
            for start, end in ((-length, at - gap), (at + gap, length)):
                if end > start:
                    side.add(BOX, ((start + end) / 2, far, height / 2), ((end - start) / 2, far, height / 2), material)
            side.add(BOX, (at, far, height - 0.2), (gap, far, max(height - 2.1, 0.1)), material)
            deep, paint = rng.uniform(1, 4), world.material("paint")
            side.add(BOX, (0, deep, height / 2), (reach, far, height / 2), paint)
            for end in (-reach, reach):  # who looks along the wall sees no end
                side.add(BOX, (end, deep / 2, height / 2), (far, deep / 2 + far, height / 2), paint)
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
        x = rng.uniform(-0.5, 0.5) * length
        half, low, high = rng.uniform((0.3, 0.3, 1.9), (1.2, 1.0, 2.3))
        high = min(high, height - 0.1)
        side.add(BOX, (x, 0, (low + high) / 2), (half + 0.05, 0.03, (high - low) / 2 + 0.05), world.material("paint"))
        day = world.material("paint", glow=rng.uniform(0, 2.5))
        count = int(rng.integers(2, 5))
        panes = 2 * half / count
        for k in range(count):
            middle = (x - half + panes * (k + 0.5), -0.02, (low + high) / 2)
            side.add(BOX, middle, (panes * 0.46, 0.02, (high - low) / 2), day)
        if rng.random() < 0.6:
            cloth = world.material("fabric")
            for end in (-1, 1):
                for k in range(5):
                    side.add(ROD, (x + end * (half + 0.07 * k), -0.12, high / 2 + 0.05), (0.05, 0.05, high / 2), cloth)
    elif kind < 0.45:  # door
        x, wood = rng.uniform(-0.6, 0.6) * length, world.material("wood", "paint")
        side.add(BOX, (x, -0.01, 1.02), (0.5, 0.03, 1.05), world.material("paint"))
        side.add(BOX, (x, -0.03, 1.0), (0.42, 0.03, 1.0), wood)
        side.add(BALL, (x + 0.35, -0.09, 1.0), (0.04, 0.03, 0.03), world.material("metal"))
    elif kind < 0.8:  # pictures
        for _ in range(rng.integers(1, 4)):
            x, z = rng.uniform(-0.8, 0.8) * length, rng.uniform(1.2, 1.9)
            a, b = rng.uniform(0.1, 0.6, 2)
            side.add(BOX, (x, -0.02, z), (a + 0.03, 0.015, b + 0.03), world.material("wood"))
            side.add(BOX, (x, -0.03, z), (a, 0.012, b), world.material("paper", "any"))
    if rng.random() < 0.15:
        side.add(BOX, (rng.uniform(-0.5, 0.5) * length, -0.08, 0.4), (0.5, 0.06, 0.3), world.material("paint"))


_ALONG_WALLS = {  # meters from the middle of a piece to the wall behind it
    "shelf": 0.25, "cabinet": 0.38, "sofa": 0.6, "bed": 1.08, "desk": 0.48, "plant": 0.45, "lamp": 0.45, "boxes": 0.5,
}  # fmt: skip
_IN_THE_MIDDLE = ("dining", "dining", "sofa", "boxes", "plant", "chair", "chair", "desk")


def _stand(world: World, name: str, x: float, y: float, yaw: float) -> None:
    """Build a piece of furniture whose back looks along +y before it is turned."""
    rng, place = world.rng, world.at(x, y, 0, yaw)
    if name == "desk":
        half_x, half_y, height = rng.uniform((0.4, 0.3, 0.65), (0.9, 0.45, 0.8))
        is_round = furniture.table(place, half_x, half_y, height)
        if rng.random() < 0.6:
            furniture.screen(place.at(rng.uniform(-0.3, 0.3) * half_x, 0.1, height, rng.uniform(-0.4, 0.4)))
        litter(place, half_x, half_y, height, int(rng.integers(0, 9)), (0.05, 0.3), is_round)
        furniture.chair(place.at(rng.uniform(-0.3, 0.3), -half_y - 0.2, 0, math.pi + rng.uniform(-0.8, 0.8)))
    elif name == "dining":
        half_x, half_y, height = rng.uniform((0.4, 0.35, 0.68), (1.1, 0.6, 0.8))
        is_round = furniture.table(place, half_x, half_y, height)
        litter(place, half_x, half_y, height, int(rng.integers(0, 8)), (0.06, 0.35), is_round)
        for x_of in np.arange(-half_x + 0.3, half_x, 0.65):
            for side in (-1, 1):
                if rng.random() < 0.75:
                    turn = (0 if side > 0 else math.pi) + rng.normal(0, 0.2)
                    furniture.chair(place.at(x_of, side * (half_y + 0.15), 0, turn))
    elif name in ("plant", "lamp"):
        (plant if name == "plant" else furniture.lamp)(place, rng.uniform(0.5, 1.8))
    elif name == "boxes":
        z = 0.0
        for _ in range(rng.integers(1, 4)):
            half = rng.uniform(0.1, 0.35, 3)
            place.at(0, 0, 0, rng.normal(0, 0.3)).add(BOX, (0, 0, z + half[2]), half, world.material("any"))
            z += 2 * half[2]
    else:
        getattr(furniture, name)(place)


def room(world: World) -> Shot:
    """Furnish a room, from a closet to a hall, or a corridor."""
    rng = world.rng
    half_x, half_y, height = rng.uniform((1.3, 1.6, 2.3), (3.5, 4.5, 3.2))
    if (narrow := rng.random()) < 0.12:  # corridor
        half_x, half_y = rng.uniform((0.8, 4), (1.5, 12))
    elif narrow < 0.2:
        half_x, half_y, height = rng.uniform((4, 5, 2.8), (9, 14, 6))
    walls(world, half_x, half_y, height)
    x, y = rng.uniform(-0.6, 0.6) * half_x, -half_y + rng.uniform(0.2, 0.9)
    eye = np.array([x, y, rng.uniform(0.7, min(2.0, height - 0.3))])
    _furnish(world, half_x, half_y, [(x, y, 0.45)])
    aim = rng.uniform(-0.7, 0.7) * half_x - x
    half = (half_x, half_y)
    lamps = [np.array([*rng.uniform(-0.6, 0.6, 2) * half, height - 0.15]) for _ in range(rng.integers(1, 3))]
    if rng.random() < 0.35:  # daylight from a side
        lamps[0] = np.array([rng.choice([-1, 1]) * half_x * 0.95, rng.uniform(-0.5, 0.5) * half_y, rng.uniform(1, 2)])
    for lamp in lamps:
        world.at(*lamp).add(BOX, (0, 0, 0.12), (0.2, 0.2, 0.02), world.material("paint", glow=2.0))
    pitch, roll = rng.normal(-0.15, 0.17), rng.normal(0, 0.04)
    return Shot(eye, math.atan2(aim, half_y * 1.3), pitch, roll, lens(rng, 42, 88), False, lamps)


def _furnish(world: World, half_x: float, half_y: float, taken: list[tuple[float, float, float]]) -> None:
    """Place furniture along three walls and in free places in the middle; perhaps a carpet and a person."""
    rng = world.rng
    for _ in range(rng.integers(2, 10)):
        side = rng.integers(3)
        t = rng.uniform(-0.85, 0.85)
        name = str(rng.choice([*_ALONG_WALLS, "cabinet"]))
        deep = _ALONG_WALLS[name]
        x, y = ((t * half_x, half_y - deep), (half_x - deep, t * half_y), (-half_x + deep, t * half_y))[side]
        yaw = (0, -math.pi / 2, math.pi / 2)[side]
        if is_free(taken, x, y, 0.9 if name == "bed" else 0.55):
            _stand(world, name, x, y, yaw)
    for _ in range(rng.integers(0, 4)):
        x, y = rng.uniform(-0.7, 0.7) * half_x, rng.uniform(-0.5, 0.8) * half_y
        name = str(rng.choice(_IN_THE_MIDDLE))
        if is_free(taken, x, y, 0.9 if name == "dining" else 0.5):
            _stand(world, name, x, y, rng.uniform(0, math.tau))
    if rng.random() < 0.3:
        half = rng.uniform(0.5, 1.8, 2)
        x, y = rng.uniform(-0.4, 0.4, 2) * (half_x, half_y)
        place = world.at(x, y, 0, rng.normal(0, 0.2))
        place.add(BOX, (0, 0, 0.006), (*half, 0.006), world.material("fabric"))
    if rng.random() < 0.15:
        x, y = rng.uniform(-0.6, 0.6) * half_x, rng.uniform(-0.3, 0.8) * half_y
        if is_free(taken, x, y, 0.4):
            person(world.at(x, y, 0, rng.uniform(0, math.tau)))
