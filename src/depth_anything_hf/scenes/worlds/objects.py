"""Build small things, plants and people from solids: each stands on its place's z = 0."""

from __future__ import annotations

import math

import numpy as np

from depth_anything_hf.scenes.worlds.solids import BALL, BOX, CONE, ROD, Place, rotation


def _packet(place: Place, s: float) -> None:
    rng, world = place.world.rng, place.world
    half = (s * rng.uniform(0.3, 1), s * rng.uniform(0.2, 0.8), s)
    place.add(BOX, (0, 0, s), half, world.material("paper", "paper", "plastic", "wood"))


def _bottle(place: Place, s: float) -> None:
    rng, world = place.world.rng, place.world
    body = world.material(rng.choice(["plastic", "any", "lacquer"]), clear=rng.choice([0, 0, 0.7]))
    r = s * rng.uniform(0.25, 0.45)
    place.add(ROD, (0, 0, s * 0.65), (r, r, s * 0.65), body)
    place.add(CONE, (0, 0, s * 1.3 + r * 0.6), (r, r, r * 0.6), body)
    place.add(ROD, (0, 0, s * 1.6), (r * 0.35, r * 0.35, s * 0.4), world.material("plastic"))


def _can(place: Place, s: float) -> None:
    rng, world = place.world.rng, place.world
    r = s * rng.uniform(0.4, 0.8)
    place.add(ROD, (0, 0, s), (r, r, s), world.material("paper", "metal", "plastic"))


def _mug(place: Place, s: float) -> None:
    cup, r = place.world.material("plastic"), s * 0.7
    place.add(ROD, (0, 0, s * 0.8), (r, r, s * 0.8), cup)
    place.add(BOX, (r * 1.2, 0, s * 0.8), (r * 0.35, r * 0.12, s * 0.45), cup)
    place.add(ROD, (0, 0, s * 1.56), (r * 0.85, r * 0.85, s * 0.05), place.world.material("lacquer"))


def _bowl(place: Place, s: float) -> None:
    """Build a bowl or a plate: flat, with a darker hollow."""
    rng, world = place.world.rng, place.world
    r, tall = s * rng.uniform(0.8, 1.6), s * rng.uniform(0.05, 0.6)
    place.add(ROD, (0, 0, tall), (r, r, tall), world.material("plastic"))
    place.add(ROD, (0, 0, 2 * tall), (r * 0.9, r * 0.9, tall * 0.1), world.material("any"))


def _ball(place: Place, s: float) -> None:
    high = s * place.world.rng.uniform(0.5, 0.8)
    place.add(BALL, (0, 0, s * 0.7), (s * 0.7, s * 0.7, high), place.world.material("any"))


def _lying_books(place: Place, s: float) -> None:
    rng, world = place.world.rng, place.world
    z = 0.0
    for _ in range(rng.integers(1, 5)):
        thick = s * rng.uniform(0.06, 0.2)
        half = (s * rng.uniform(0.6, 1), s * rng.uniform(0.45, 0.75), thick)
        place.add(BOX, (0, 0, z + thick), half, world.material("paper"), rotation(rng.normal(0, 0.2)))
        z += 2 * thick


def _tool(place: Place, s: float) -> None:
    """Build a pen, a stick or a tool: long and thin, lying."""
    rng, world = place.world.rng, place.world
    thin = s * rng.uniform(0.03, 0.12)
    turn = rotation(0, math.pi / 2)
    place.add(ROD, (0, 0, thin), (thin, thin, s), world.material("any"), turn)
    if rng.random() < 0.5:
        place.add(BOX, (0, s * 0.8, thin * 1.5), (thin * 3, s * 0.3, thin * 1.5), world.material("any"))


def _cone(place: Place, s: float) -> None:
    rng, world = place.world.rng, place.world
    half = (s * rng.uniform(0.3, 0.7),) * 2 + (s,)
    place.add(CONE, (0, 0, s), half, world.material("any", "paper", "plastic"))


def _glass(place: Place, s: float) -> None:
    rng, world = place.world.rng, place.world
    r = s * rng.uniform(0.3, 0.6)
    place.add(ROD, (0, 0, s), (r, r, s), world.material("plastic", clear=rng.uniform(0.5, 0.85)))


def _toy(place: Place, s: float) -> None:
    """Build a heap of balls and boxes."""
    rng, cloth = place.world.rng, place.world.material("any")
    for _ in range(rng.integers(3, 7)):
        where = rng.normal(0, 0.35, 3) * s + np.array([0, 0, s * 0.7])
        shape, half = rng.choice([BALL, BALL, BOX]), s * rng.uniform(0.2, 0.5, 3)
        place.add(shape, where, half, cloth, rotation(*rng.uniform(-1, 1, 3)))


def _machine(place: Place, s: float) -> None:
    place.add(BOX, (0, 0, s * 0.5), (s, s * 0.7, s * 0.5), place.world.material("plastic"))
    place.add(BOX, (0, -s * 0.3, s), (s * 0.8, s * 0.35, s * 0.15), place.world.material("any"))


_THINGS = (_packet, _bottle, _can, _mug, _bowl, _ball, _lying_books, _tool, _cone, _glass, _toy, _machine)


def thing(place: Place, size: float) -> None:
    """Build one of the small things that lie on tables and shelves, about `size` meters high or long."""
    _THINGS[place.world.rng.integers(len(_THINGS))](place, size / 2)


def is_free(taken: list[tuple[float, float, float]], x: float, y: float, radius: float) -> bool:
    """Return whether a circle overlaps none of the taken ones; if so, take it."""
    if any(math.hypot(x - a, y - b) < radius + r for a, b, r in taken):
        return False
    taken.append((x, y, radius))
    return True


def litter(
    place: Place, half_x: float, half_y: float, z: float, count: int, sizes: tuple[float, float], is_round=False
) -> None:
    """Scatter things over a surface."""
    rng = place.world.rng
    taken: list[tuple[float, float, float]] = []
    for _ in range(count):
        size = math.exp(rng.uniform(*np.log(sizes)))
        x, y = rng.uniform(-0.9, 0.9, 2) * (half_x, half_y)
        if is_round and math.hypot(x / half_x, y / half_y) > 0.9:
            continue
        if is_free(taken, x, y, size * 0.45):
            thing(place.at(x, y, z, rng.uniform(0, math.tau)), size)


def plant(place: Place, height: float) -> None:
    """Build a pot with long leaves that rise from it, or with a crown."""
    rng, world = place.world.rng, place.world
    pot = height * rng.uniform(0.12, 0.25)
    place.add(ROD, (0, 0, pot), (pot, pot, pot), world.material("paint", "plastic", "earth"))
    leaf = world.material("leaf")
    if rng.random() < 0.25:
        crown = (height * 0.3, height * 0.3, height * 0.4)
        place.add(BALL, (0, 0, 2 * pot + height * 0.35), crown, world.material("leaves"))
        return
    slim = rng.uniform(0.04, 0.3)
    for _ in range(rng.integers(5, 18)):
        length, rise = height * rng.uniform(0.25, 0.5), rng.uniform(0.1, 1.4)
        axes = rotation(0, rise) @ rotation(rng.uniform(0, math.tau))
        middle = np.array([0, 0, 2 * pot]) + axes[1] * length * np.array([1, 1, 1])
        place.add(BALL, middle, (length * slim, length, max(length * 0.03, 0.002)), leaf, axes)


def person(place: Place) -> None:
    """Build a standing or walking person of about 1.7 m."""
    rng, world = place.world.rng, place.world
    coat, pants, skin = world.material("fabric"), world.material("fabric"), world.material("skin")
    for side in (-1, 1):
        stride = rotation(0, side * rng.uniform(0, 0.35))
        place.add(ROD, (side * 0.1, 0.43 * stride[1, 2], 0.42), (0.08, 0.09, 0.43), pants, stride)
        swing = rotation(0, -side * rng.uniform(-0.1, 0.6), side * rng.uniform(0, 0.3))
        place.add(BALL, (side * 0.25, 0.15 * swing[1, 2], 1.1), (0.06, 0.06, 0.35), coat, swing)
    place.add(BALL, (0, 0, 1.12), (0.22, 0.15, 0.4), coat)
    place.add(BOX, (0, 0, 1.05), (0.18, 0.11, 0.25), coat)
    place.add(BALL, (0, 0, 1.6), (0.09, 0.11, 0.13), skin)
    place.add(BALL, (0, 0.02, 1.65), (0.1, 0.11, 0.11), world.material("bark"))
