"""Where the solids of a procedural scene stand: streets and plains, rooms, and table-tops seen from near.

Meters and radians: x right, y forward, z up, floor at z = 0, heading clockwise from y.
"""

import math
from types import SimpleNamespace

import numpy as np

BOX, BALL, ROD = range(3)
SHAPES = np.repeat((BOX, BALL, ROD), (17, 5, 5))  # slots of a scene's solids: shape, center, half sizes, yaw
CLASSES = ("floor", "wall", "ceiling", "table", "pavement", "building", "box", "ball", "rod", "sky")  # of the pixels
_FLOOR, EMPTY = (BOX, 0, 0, -50, 1e3, 1e3, 50, 0), (BOX, 0, 0, -1e4, 1, 1, 1, 0)  # empty slots lie underground
# Shape and half sizes of furniture in meters; the same, smaller or larger, litters tables and streets.
_THINGS = ((0, 0.4, 0.4, 0.4), (0, 0.4, 0.7, 0.3), (1, 0.35, 0.35, 0.3), (2, 0.25, 0.25, 0.45), (2, 0.05, 0.05, 0.7))


def _scatter(rng, scene: SimpleNamespace, count: int, scale: float, reach, low, high, base=0.0) -> SimpleNamespace:
    """Place up to `count` piles of solids in the view, within low..high, apart from one another and the eye."""
    taken = [(*scene.eye[:2], reach[0] / 2)]
    for _ in range(4 * count):
        shape, *half = _THINGS[rng.integers(len(_THINGS))]
        half, yaw, bottom = half * rng.uniform(0.7, 1.4, 3) * scale, rng.uniform(0, math.pi), base
        radius = math.hypot(*half[:2])
        distance = radius + reach[0] * (reach[1] / reach[0]) ** rng.random()  # log-uniform: near ones are not rare
        bearing = scene.heading + scene.fov * rng.uniform(-0.5, 0.5)
        x, y = scene.eye[0] + distance * math.sin(bearing), scene.eye[1] + distance * math.cos(bearing)
        inside = max(low[0] - x, x - high[0], low[1] - y, y - high[1]) < -radius
        if inside and len(taken) <= count and all(math.hypot(x - u, y - v) > radius + r for u, v, r in taken):
            taken.append((x, y, radius))
            while sum(solid[0] == shape for solid in scene.solids) < np.count_nonzero(shape == SHAPES):
                scene.solids.append((shape, x, y, bottom + half[2], *half, yaw))
                if shape == BALL or rng.random() < 0.4:
                    break
                # Something on top: a ball on a thin rod is a lamp or a tree, a slab a table, a box on a box a car.
                shape, bottom, wide = rng.integers(3), bottom + 2 * half[2], max(0.8 * half[:2].min(), 0.4 * half[2])
                half = wide * rng.uniform((0.6, 0.6, 0.1), 1.1)
    return scene


def camera_axes(heading: float, pitch: float, roll: float) -> np.ndarray:
    """Return right, down and forward of a camera, one a row; the angles in radians."""
    (sh, sp, sr), (ch, cp, cr) = (wave([heading, pitch, roll]) for wave in (np.sin, np.cos))
    forward, level, below = np.array([[sh * cp, ch * cp, sp], [ch, -sh, 0], [sh * sp, ch * sp, -cp]])
    return np.stack([cr * level + sr * below, cr * below - sr * level, forward])


def draw_scene(seed: int, outdoors: float) -> SimpleNamespace:
    """Draw a geometry, in meters and radians: x right, y forward, z up, floor at z = 0, heading clockwise from y.

    `built` names the class of each of the first solids; those behind them are things, of the class of their shape.
    """
    rng = np.random.default_rng([seed, 0])
    scene = SimpleNamespace(fov=math.radians(rng.uniform(45, 90)), roll=rng.normal(0, 0.035), solids=[_FLOOR])
    if rng.random() < outdoors:
        road, x, z, scene.heading, scene.pitch = rng.uniform((3, -2, 1.1, -0.4, -0.25), (5, 2, 3.5, 0.4, 0.12))
        edge = road + 2 * 12 ** rng.random()  # from a street to houses scattered around a plain
        scene.built = ["floor", *2 * ["pavement", *3 * ["building"]]]
        for side in (-1, 1):
            scene.solids.append((BOX, side * (road + 50), 40.0, 0.07, 50.0, 60.0, 0.07, 0.0))  # the pavement
            y = rng.uniform(-6, 8)
            for deep, long, tall, gap in rng.uniform((3, 3, 2, 0), (7, 9, 8, 7), (3, 4)):
                scene.solids.append((BOX, side * (edge + gap + deep), y + long, tall, deep, long, tall, 0.0))
                y += 2 * long + gap
        # The last two are the scales of the haze and of the lamp's place.
        scene.eye, scene.extent, scene.span = (x, 0.0, z), 20.0, np.full(3, 200.0)
        return _scatter(rng, scene, int(rng.integers(4, 9)), 2.0, (2, 35), (-edge, 0), (edge, 75))
    a, b, _ = scene.span = rng.uniform((1.8, 2.2, 2.3), (4.5, 6.0, 3.4))
    scene.built = ["floor", *4 * ["wall"], "ceiling"]
    for side in np.array([(-1, 0, 0), (1, 0, 0), (0, -1, 0), (0, 1, 0), (0, 0, 1)]):  # walls and ceiling
        scene.solids.append((BOX, *side * (scene.span + 50), *np.where(side, 50, 1e3), 0.0))
    x, y, z, aim, scene.pitch = rng.uniform((-0.7, 0.15, 0.9, -0.6, -0.4), (0.7, 0.8, 1.9, 0.6, 0.07))
    scene.eye, scene.heading, scene.extent = (x * a, y - b, z), (aim - x) * a / (1.2 * b), b + 1
    if rng.random() < 0.65:
        return _scatter(rng, scene, int(rng.integers(4, 9)), 1.0, (0.8, 2 * b), (-a, -b), (a, b))
    a, b, x, y, z, scene.pitch = rng.uniform((0.6, 0.5, -0.4, -0.1, 1.0, -0.73), (1.2, 1.0, 0.4, 0.3, 1.4, -0.28))
    scene.eye, scene.heading, scene.extent = (x, -b - y, z), -x / b, 1.5
    scene.solids.append((BOX, 0.0, 0.0, 0.35, a, b, 0.35, 0.0))
    scene.built.append("table")
    return _scatter(rng, scene, int(rng.integers(4, 10)), 0.22, (0.3, 2 * b), (-a, -b), (a, b), base=0.7)
