"""Whether what the layouts build stands as things stand."""

import math

import numpy as np
import pytest
import torch

from depth_anything_hf.scenes.worlds import furniture, landscapes, objects, outdoor_objects, rooms
from depth_anything_hf.scenes.worlds.closeups import tabletop
from depth_anything_hf.scenes.worlds.landscapes import street
from depth_anything_hf.scenes.worlds.rendering import LAYOUTS, WorldStyle, _build, _develop, render_worlds
from depth_anything_hf.scenes.worlds.solids import BALL, COLUMNS, ROD, World

pytestmark = pytest.mark.usefixtures("one_thread")
PLAIN = {"textures": False, "shadows": False, "sensor": False}


def built(assembly, seed, *sizes):
    """The table of what one assembly adds at the origin."""
    world = World(np.random.default_rng(seed))
    assembly(world.at(0, 0), *sizes)
    return np.array(world.rows)


def axis(table, which):
    """One of the solids' own axes, `(solids, 3)`."""
    return table[:, 6 + 3 * which : 9 + 3 * which]


def test_leaves_rise_from_the_pot():
    for seed in range(60):
        table = built(objects.plant, seed, 1.0)
        leaves = table[table[:, COLUMNS["shape"]] == BALL]
        tips = leaves[:, 2] + leaves[:, 4] * axis(leaves, 1)[:, 2]
        assert (tips > 0.2).all()
        assert (axis(leaves, 1)[:, 2] >= 0).all()


def test_backs_of_chairs_lean_away_from_the_sitter():
    leaning = []
    for seed in range(60):
        table = built(furniture.chair, seed)
        turned = table[np.abs(axis(table, 2)[:, 1]) > 1e-6]  # pitched: not the legs, not the foot
        leaning += list(axis(turned, 2)[:, 1])
    assert min(leaning) >= -math.sin(0.05) - 1e-6
    assert np.mean(leaning) > 0.05


def test_backs_and_cushions_of_sofas_lean_away_from_the_sitter():
    cushions = []
    for seed in range(60):
        table = built(furniture.sofa, seed)
        upright = axis(table, 0)[:, 0] == 1  # all but the cushions, which are turned any way
        assert (axis(table[upright], 2)[:, 1] >= 0).all()
        cushions += list(axis(table[~upright], 2)[:, 1])
    assert np.mean(cushions) > 0.2


def test_houses_face_the_street(monkeypatch):
    fronts = []
    monkeypatch.setattr(
        outdoor_objects, "house", lambda place, *sizes: fronts.append((place.origin[0], -place.axes[1][0]))
    )
    for seed in range(10):
        landscapes.street(World(np.random.default_rng(seed)))
    places, looks = np.array(fronts).T
    assert len(places) > 20
    assert (np.sign(places) == -np.sign(looks)).all()


def test_no_piece_along_a_wall_stands_in_it():
    for name, deep in rooms._ALONG_WALLS.items():
        for seed in range(20):
            world = World(np.random.default_rng(seed))
            rooms._stand(world, name, 0, -deep, 0)  # with its back to a wall at y = 0
            table = np.array(world.rows)
            if name in ("plant", "lamp"):  # their leaves and shades may touch it
                table = table[:1]
            reach = (np.abs(table[:, COLUMNS["axes"]].reshape(-1, 3, 3)[:, :, 1]) * table[:, COLUMNS["half"]]).sum(1)
            assert (table[:, 1] + reach).max() < 0.12, (name, seed)


def test_panes_lie_within_their_window():
    seen = 0
    for seed in range(200):
        world = World(np.random.default_rng(seed))
        rooms._on_the_wall(world.at(0, 0), 3.0, 2.6)
        table = np.array(world.rows).reshape(-1, 28)
        panes = table[table[:, COLUMNS["glow"]] > 0]
        if len(panes):
            seen += 1
            assert (np.abs(panes[:, 0] - table[0, 0]) + panes[:, 3] <= table[0, 3]).all()
    assert seen > 20


def test_things_lie_on_the_table(monkeypatch):
    places = []
    monkeypatch.setattr(objects, "thing", lambda place, size: places.append(place.origin))
    for round_one in (False, True):
        places.clear()
        for seed in range(30):
            objects.litter(World(np.random.default_rng(seed)).at(0, 0), 0.8, 0.4, 0.7, 30, (0.05, 0.1), round_one)
        x, y, z = np.array(places).T
        assert (z == 0.7).all()
        beyond = (x / 0.8) ** 2 + (y / 0.4) ** 2 > 1
        assert beyond.any() != round_one


def test_a_table_says_whether_it_is_round():
    for seed in range(40):
        world = World(np.random.default_rng(seed))
        assert furniture.table(world.at(0, 0), 0.6, 0.5, 0.7) == (world.rows[0][COLUMNS["shape"]] == ROD)


@pytest.mark.parametrize("seed", [1779, 1860, 1914, 2256, 2529, 2652])
def test_who_looks_at_a_table_is_in_its_room(seed, monkeypatch):
    monkeypatch.setattr(
        "depth_anything_hf.scenes.worlds.closeups.walls", lambda world, *half: setattr(world, "half", half)
    )
    for other in range(20):
        world = World(np.random.default_rng([seed, other]))
        eye = tabletop(world).eye
        assert (np.abs(eye[:2]) < np.array(world.half[:2])).all()
        assert 0 < eye[2] < world.half[2]


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "seed"), [("room", 215), ("room", 607), ("room", 1360), ("backdrop", 308)])
def test_no_sky_is_seen_past_walls(kind, seed):
    style = WorldStyle(kinds={kind: 1.0}, **PLAIN)
    assert not render_worlds([seed], 96, 128, style).sky.any()


@pytest.mark.slow
def test_no_backdrop_ends_in_view():
    style = WorldStyle(kinds={"backdrop": 1.0}, **PLAIN)
    assert not render_worlds(range(280, 340), 12, 16, style).sky.any()


@pytest.mark.slow
def test_the_own_bonnet_is_seen_from_a_car_and_before_it():
    seen = 0
    for seed in range(300):
        world = World(np.random.default_rng(seed))
        shot = street(world)
        table = np.array(world.rows)
        own = table[
            (table[:, COLUMNS["shape"]] == BALL) & np.isclose(table[:, COLUMNS["half"]], (0.9, 0.7, 0.3)).all(1)
        ]
        if len(own):
            seen += 1
            ahead = own[0, :2] - shot.eye[:2]
            angle = math.atan2(ahead[0], ahead[1]) - shot.heading
            assert abs(math.sin(angle)) < 0.5
            assert math.cos(angle) > 0
            assert shot.eye[2] < 2.4
    assert seen > 15


@pytest.mark.slow
def test_kinds_keep_their_shares(monkeypatch):
    """Also of country, whose camera often stands within a hill's bounding box, and sometimes in the hill."""
    calls, counted = [], 0
    for kind, layout in list(LAYOUTS.items()):
        monkeypatch.setitem(
            LAYOUTS, kind, lambda world, kind=kind, layout=layout: (calls.append(kind), layout(world))[1]
        )
    for seed in range(600):
        calls.clear()
        _build(seed, WorldStyle(), 4 / 3)
        assert len(set(calls)) == 1  # what was drawn is drawn again until the camera stands free
        counted += calls[0] == "country"
    assert 0.07 < counted / 600 < 0.13


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"kinds": {"rooms": 1.0}}, r"rooms.*room, tabletop"),
        ({"kinds": {}}, "kinds"),
        ({"kinds": {"room": -1.0}}, "kinds"),
        ({"kinds": {"room": 0.0}}, "kinds"),
        ({"kinds": {"room": math.nan}}, "kinds"),
        ({"squeeze": 1.0}, "squeeze is 1.0; it must be 0 or at least 1.6"),
        ({"squeeze": -1.0}, "squeeze"),
        ({"squeeze": math.inf}, "squeeze"),
    ],
)
def test_wrong_styles_are_refused(given, message):
    with pytest.raises(ValueError, match=message):
        WorldStyle(**given)


@pytest.mark.slow
def test_a_flat_picture_keeps_its_level():
    """The stretch to full contrast must not blacken what has none."""
    flat = 0.2 + 0.002 * torch.randn(3, 24, 32, generator=torch.Generator().manual_seed(0))
    levels = torch.stack([_develop(flat, seed, True).float().mean() for seed in range(200)])
    assert levels.median() > 90  # of 255; it was 41


@pytest.mark.slow
def test_pictures_do_not_depend_on_the_number_of_threads():
    linear = torch.rand(3, 192, 256, generator=torch.Generator().manual_seed(0))
    one = [_develop(linear, seed, True) for seed in range(8)]
    torch.set_num_threads(2)
    try:
        assert all(torch.equal(_develop(linear, seed, True), one[seed]) for seed in range(8))
    finally:
        torch.set_num_threads(1)


def test_lamps_of_a_room_are_unlike():
    unlike = 0
    for seed in range(40):
        _, numbers = _build(seed, WorldStyle(kinds={"room": 1.0}), 4 / 3)
        strength = numbers["colors"].sum(1)
        unlike += len(set(strength.round(6))) == 3
    assert unlike > 30
