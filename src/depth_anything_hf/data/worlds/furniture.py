"""Assemblies of solids: furniture, clutter, people, plants, cars, houses. Each is built standing on its place's z = 0."""

from __future__ import annotations

import math

import numpy as np

from depth_anything_hf.data.worlds.solids import BALL, BOX, CONE, ROD, Place, rotation


def _legs(place: Place, half_x: float, half_y: float, height: float, material, shape=BOX) -> None:
    thick = place.world.rng.uniform(0.012, 0.035)
    for x in (-half_x + thick, half_x - thick):
        for y in (-half_y + thick, half_y - thick):
            place.add(shape, (x, y, height / 2), (thick, thick, height / 2), material)


def table(place: Place, half_x: float, half_y: float, height: float) -> None:
    """Build a table: a top on four legs, on a foot, or on panels."""
    rng, world = place.world.rng, place.world
    top = world.material(rng.choice(["wood", "wood", "plastic", "floor", "paint"]))
    legs = top if rng.random() < 0.5 else world.material("metal")
    thick = rng.uniform(0.01, 0.04)
    shape = ROD if rng.random() < 0.2 else BOX
    place.add(shape, (0, 0, height - thick), (half_x, half_y, thick), top)
    kind = rng.random()
    if kind < 0.6:
        _legs(
            place,
            half_x * 0.95 * (0.7 if shape == ROD else 1),
            half_y * 0.95 * (0.7 if shape == ROD else 1),
            height - 2 * thick,
            legs,
        )
    elif kind < 0.8:
        place.add(ROD, (0, 0, height / 2), (0.05, 0.05, height / 2 - thick), legs)
        place.add(ROD, (0, 0, 0.02), (half_x * 0.5, half_x * 0.5, 0.02), legs)
    else:
        for side in (-1, 1):
            place.add(
                BOX, (side * half_x * 0.9, 0, height / 2 - thick), (0.02, half_y * 0.9, height / 2 - thick), legs
            )


def chair(place: Place) -> None:
    """Build a chair, with a back of a panel or of slats, and arms now and then."""
    rng, world = place.world.rng, place.world
    seat, frame = (
        world.material(rng.choice(["fabric", "wood", "plastic"])),
        world.material(rng.choice(["wood", "metal", "plastic"])),
    )
    half, height, back = rng.uniform(0.19, 0.27), rng.uniform(0.4, 0.5), rng.uniform(0.35, 0.6)
    place.add(BOX, (0, 0, height), (half, half, rng.uniform(0.015, 0.06)), seat)
    if rng.random() < 0.75:
        _legs(place, half, half, height, frame)
    else:  # an office chair
        place.add(ROD, (0, 0, height / 2), (0.03, 0.03, height / 2), frame)
        for turn in np.arange(5) * math.tau / 5:
            place.add(
                BOX, (0.15 * math.cos(turn), 0.15 * math.sin(turn), 0.06), (0.16, 0.02, 0.02), frame, rotation(turn)
            )
    lean = rotation(0, rng.uniform(-0.05, 0.25))
    middle = (0, half + 0.12 * lean[1, 2] * back, height + back * rng.uniform(0.55, 0.65))
    if rng.random() < 0.6:
        place.add(BOX, middle, (half, 0.025, back / 2), seat, lean)
    else:
        count = int(rng.integers(2, 6))
        upright = rng.random() < 0.5
        for k in np.linspace(-0.9, 0.9, count):
            where = (k * half, middle[1], middle[2]) if upright else (0, middle[1], middle[2] + k * back / 2)
            place.add(BOX, where, (0.015, 0.012, back / 2) if upright else (half, 0.012, 0.025), frame, lean)
    for side in (-1, 1):
        place.add(BOX, (side * half, half - 0.02, height + back / 2), (0.02, 0.02, back / 2 + 0.05), frame)
        if rng.random() < 0.3:
            place.add(BOX, (side * half, 0, height + 0.22), (0.025, half * 0.9, 0.015), frame)


def sofa(place: Place) -> None:
    """Build a sofa or an armchair with cushions."""
    rng, world = place.world.rng, place.world
    cloth, wide, deep = world.material("fabric"), rng.uniform(0.45, 1.2), rng.uniform(0.4, 0.5)
    seat, back = rng.uniform(0.35, 0.45), rng.uniform(0.7, 1.0)
    place.add(BOX, (0, 0, seat / 2), (wide, deep, seat / 2), cloth)
    place.add(BOX, (0, deep - 0.1, back / 2), (wide, 0.12, back / 2), cloth, rotation(0, rng.uniform(0, 0.15)))
    for side in (-1, 1):
        place.add(BOX, (side * (wide + 0.08), 0, seat * 0.7), (0.09, deep, seat * 0.7), cloth)
    for _ in range(rng.integers(0, 4)):
        x = rng.uniform(-0.8, 0.8) * wide
        turn = rotation(rng.uniform(-0.4, 0.4), rng.uniform(0.1, 0.6), rng.uniform(-0.6, 0.6))
        place.add(
            BOX if rng.random() < 0.5 else BALL,
            (x, deep - 0.3, seat + 0.18),
            (0.2, 0.07, 0.2),
            world.material("fabric"),
            turn,
        )


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
    wood, wide, deep, height = (
        world.material(rng.choice(["wood", "paint", "metal"])),
        *rng.uniform((0.3, 0.12, 0.7), (0.8, 0.22, 2.1)),
    )
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
            place.add(
                BOX, (x + thick, -0.02, high / 2), (thick, deep * 0.8, high / 2), place.world.material("paper"), lean
            )
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
    body, front = (
        world.material(rng.choice(["wood", "paint", "metal", "plastic"])),
        world.material(rng.choice(["wood", "paint"])),
    )
    place.add(BOX, (0, 0, height / 2), (wide, deep, height / 2), body)
    columns, rows = int(rng.integers(1, 4)), int(rng.integers(1, 5))
    knob, gap = world.material("metal"), rng.uniform(0.005, 0.03)
    half_x, half_z = wide / columns - gap, height / 2 / rows - gap
    for i, j in np.ndindex(columns, rows):
        x, z = -wide + (2 * i + 1) * wide / columns, (j + 0.5) * height / rows
        place.add(BOX, (x, -deep - 0.008, z), (half_x, 0.01, half_z), front if rng.random() < 0.9 else body)
        place.add(BOX if gap < 0.015 else BALL, (x, -deep - 0.03, z), (0.04, 0.012, 0.012), knob)
    for _ in range(rng.integers(0, 4)):
        thing(
            place.at(rng.uniform(-0.8, 0.8) * wide, rng.uniform(-0.5, 0.5) * deep, height, rng.uniform(0, 6)),
            rng.uniform(0.1, 0.4),
        )


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


def plant(place: Place, height: float) -> None:
    """Build a pot with long leaves that arch, or with a crown."""
    rng, world = place.world.rng, place.world
    pot = height * rng.uniform(0.12, 0.25)
    place.add(ROD, (0, 0, pot), (pot, pot, pot), world.material(rng.choice(["paint", "plastic", "earth"])))
    leaf = world.material("leaf")
    if rng.random() < 0.25:
        place.add(
            BALL, (0, 0, 2 * pot + height * 0.35), (height * 0.3, height * 0.3, height * 0.4), world.material("leaves")
        )
        return
    slim = rng.uniform(0.04, 0.3)
    for _ in range(rng.integers(5, 18)):
        length, rise = height * rng.uniform(0.25, 0.5), rng.uniform(0.1, 1.4)
        axes = (
            rotation(rng.uniform(0, math.tau)) if rise > 9 else rotation(0, -rise) @ rotation(rng.uniform(0, math.tau))
        )
        middle = np.array([0, 0, 2 * pot]) + axes[1] * length * np.array([1, 1, 1])
        place.add(BALL, middle, (length * slim, length, max(length * 0.03, 0.002)), leaf, axes)


def thing(place: Place, size: float) -> None:
    """Build one of the small things that lie on tables and shelves, about `size` metres high or long."""
    rng, world = place.world.rng, place.world
    s, kind = size / 2, rng.integers(12)
    if kind == 0:  # box or packet
        place.add(
            BOX,
            (0, 0, s),
            (s * rng.uniform(0.3, 1), s * rng.uniform(0.2, 0.8), s),
            world.material(rng.choice(["paper", "paper", "plastic", "wood"])),
        )
    elif kind == 1:  # bottle
        body = world.material(rng.choice(["plastic", "any", "lacquer"]), clear=rng.choice([0, 0, 0.7]))
        r = s * rng.uniform(0.25, 0.45)
        place.add(ROD, (0, 0, s * 0.65), (r, r, s * 0.65), body)
        place.add(CONE, (0, 0, s * 1.3 + r * 0.6), (r, r, r * 0.6), body)
        place.add(ROD, (0, 0, s * 1.6), (r * 0.35, r * 0.35, s * 0.4), world.material("plastic"))
    elif kind == 2:  # can or jar, with a label
        r = s * rng.uniform(0.4, 0.8)
        place.add(ROD, (0, 0, s), (r, r, s), world.material(rng.choice(["paper", "metal", "plastic"])))
    elif kind == 3:  # mug
        cup, r = world.material("plastic"), s * 0.7
        place.add(ROD, (0, 0, s * 0.8), (r, r, s * 0.8), cup)
        place.add(BOX, (r * 1.2, 0, s * 0.8), (r * 0.35, r * 0.12, s * 0.45), cup)
        place.add(ROD, (0, 0, s * 1.56), (r * 0.85, r * 0.85, s * 0.05), world.material("lacquer"))
    elif kind == 4:  # bowl or plate: flat, with a darker hollow
        r, tall = s * rng.uniform(0.8, 1.6), s * rng.uniform(0.05, 0.6)
        place.add(ROD, (0, 0, tall), (r, r, tall), world.material("plastic"))
        place.add(ROD, (0, 0, 2 * tall), (r * 0.9, r * 0.9, tall * 0.1), world.material("any"))
    elif kind == 5:  # fruit, ball
        place.add(BALL, (0, 0, s * 0.7), (s * 0.7, s * 0.7, s * rng.uniform(0.5, 0.8)), world.material("any"))
    elif kind == 6:  # lying books
        z = 0.0
        for _ in range(rng.integers(1, 5)):
            thick = s * rng.uniform(0.06, 0.2)
            place.add(
                BOX,
                (0, 0, z + thick),
                (s * rng.uniform(0.6, 1), s * rng.uniform(0.45, 0.75), thick),
                world.material("paper"),
                rotation(rng.normal(0, 0.2)),
            )
            z += 2 * thick
    elif kind == 7:  # pen, stick, tool: long and thin, lying
        thin = s * rng.uniform(0.03, 0.12)
        turn = rotation(0, math.pi / 2)
        place.add(ROD, (0, 0, thin), (thin, thin, s), world.material("any"), turn)
        if rng.random() < 0.5:
            place.add(BOX, (0, s * 0.8, thin * 1.5), (thin * 3, s * 0.3, thin * 1.5), world.material("any"))
    elif kind == 8:  # cone
        place.add(
            CONE,
            (0, 0, s),
            (s * rng.uniform(0.3, 0.7),) * 2 + (s,),
            world.material(rng.choice(["any", "paper", "plastic"])),
        )
    elif kind == 9:  # glass
        r = s * rng.uniform(0.3, 0.6)
        place.add(ROD, (0, 0, s), (r, r, s), world.material("plastic", clear=rng.uniform(0.5, 0.85)))
    elif kind == 10:  # toy: a heap of balls and boxes
        cloth = world.material("any")
        for _ in range(rng.integers(3, 7)):
            where = rng.normal(0, 0.35, 3) * s + np.array([0, 0, s * 0.7])
            place.add(
                rng.choice([BALL, BALL, BOX]),
                where,
                s * rng.uniform(0.2, 0.5, 3),
                cloth,
                rotation(*rng.uniform(-1, 1, 3)),
            )
    else:  # machine
        case = world.material("plastic")
        place.add(BOX, (0, 0, s * 0.5), (s, s * 0.7, s * 0.5), case)
        place.add(BOX, (0, -s * 0.3, s), (s * 0.8, s * 0.35, s * 0.15), world.material("any"))


def person(place: Place) -> None:
    """Build a standing or walking person of about 1.7 m."""
    rng, world = place.world.rng, place.world
    coat, trousers, skin = world.material("fabric"), world.material("fabric"), world.material("skin")
    for side in (-1, 1):
        stride = rotation(0, side * rng.uniform(0, 0.35))
        place.add(ROD, (side * 0.1, 0.1 * stride[1, 2], 0.42), (0.08, 0.09, 0.43), trousers, stride)
        swing = rotation(0, -side * rng.uniform(-0.1, 0.6), side * rng.uniform(0, 0.3))
        place.add(BALL, (side * 0.25, 0.15 * swing[1, 2], 1.1), (0.06, 0.06, 0.35), coat, swing)
    place.add(BALL, (0, 0, 1.12), (0.22, 0.15, 0.4), coat)
    place.add(BOX, (0, 0, 1.05), (0.18, 0.11, 0.25), coat)
    place.add(BALL, (0, 0, 1.6), (0.09, 0.11, 0.13), skin)
    place.add(BALL, (0, 0.02, 1.65), (0.1, 0.11, 0.11), world.material("bark"))


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
    """Build a car, a van or a lorry; its length lies along y."""
    rng, world = place.world.rng, place.world
    paint, glass, black = world.material("lacquer"), world.material("lacquer"), world.material("plastic")
    glass[4:7] = rng.uniform(0.01, 0.12)  # tint
    black[4:7] = 0.02
    kind = rng.random()
    wide, long, belt, roof = (
        (0.85, 2.1, 0.85, 1.45) if kind < 0.75 else (0.98, 2.6, 1.1, 2.2) if kind < 0.9 else (1.2, 4, 1.2, 3.2)
    )
    wide, long, belt, roof = np.array([wide, long, belt, roof]) * rng.uniform(0.9, 1.1, 4)
    place.add(BOX, (0, 0, (belt + 0.25) / 2), (wide, long, (belt - 0.25) / 2), paint)
    place.add(BALL, (0, 0, belt * 0.62), (wide * 1.02, long * 1.05, belt * 0.36), paint)
    cabin, shift = (long * 0.55, -0.15 * long) if kind < 0.75 else (long * 0.85, -0.1 * long)
    place.add(BOX, (0, shift, (belt + roof) / 2), (wide * 0.86, cabin, (roof - belt) / 2), glass)
    place.add(BOX, (0, shift, roof), (wide * 0.84, cabin * 0.85, 0.04), paint)
    for side in (-1, 1):
        slope = rotation(0, side * 0.6)
        place.add(
            BOX,
            (0, shift + side * cabin, (belt + roof) / 2 - 0.02),
            (wide * 0.8, 0.15, (roof - belt) / 1.7),
            glass,
            slope,
        )
        for end in (-1, 1):
            place.add(
                ROD,
                (side * wide * 0.93, end * long * 0.62, 0.32),
                (0.32, 0.32, 0.12),
                black,
                rotation(0, 0, math.pi / 2),
            )
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
        place.add(
            BOX,
            (0, 0, height + half_y * math.tan(angle) * 0.25),
            (half_x * 0.98, half_y * 0.5, half_y * math.tan(angle) * 0.25),
            wall,
        )
    if rng.random() < 0.5:
        pane, frame = world.material("lacquer"), world.material("paint")
        columns, rows = max(int(half_x / 1.5), 1), max(min(int(height / 3), 5), 1)
        for i, j in np.ndindex(min(columns, 6), rows):
            x, z = -half_x + (i + 0.5) * 2 * half_x / min(columns, 6), (j + 0.55) * height / rows
            place.add(BOX, (x, -half_y - 0.02, z), (0.6, 0.06, 0.8), frame)
            place.add(BOX, (x, -half_y - 0.06, z), (0.5, 0.04, 0.7), pane)
    place.add(BOX, (rng.uniform(-0.6, 0.6) * half_x, -half_y, 1.05), (0.55, 0.1, 1.05), world.material("wood"))
    if rng.random() < 0.3:
        place.add(
            BOX,
            (0, -half_y - 0.8, rng.uniform(2.3, 3)),
            (half_x * rng.uniform(0.3, 0.9), 0.8, 0.08),
            world.material("any"),
        )


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
        wood = world.material(rng.choice(["wood", "metal", "paint"]))
        for z in (0.3, 0.85):
            place.add(BOX, (0, 0, z * height), (length / 2, 0.02, 0.04), wood)
        step = max(rng.uniform(0.15, 1.5), length / 24)
        for x in np.arange(-length / 2, length / 2, step):
            place.add(BOX, (x, 0, height / 2), (min(0.05, step / 4), 0.03, height / 2), wood)
