import base64
from dataclasses import replace

import numpy as np
import pytest
import torch

from depth_anything_hf.app.points import (
    describe_points,
    draw_points,
    hover_maps,
    mark_pixel,
    mark_shown,
    nearer,
)
from depth_anything_hf.evaluation.point_pairs import score_pairs

RAMP = np.arange(12, dtype=np.float32).reshape(3, 4) + 0.5


def test_mark_shown__full_size_pixels(make_session):
    session = make_session([("m", np.zeros((48, 2560), np.float32), "disparity")])
    for clicked, pixel in {(0, 0): (1, 1), (640, 10): (21, 1281), (1279, 23): (47, 2559)}.items():
        assert mark_shown(session, *clicked).points == (pixel,)
    assert mark_shown(session, -3, 5000).points == ((47, 0),)  # a click at the very edge


def test_mark_shown__a_small_image_is_shown_enlarged(make_session):
    session = make_session([("m", RAMP, "disparity")])
    assert session.picture(0).size == session.picture(1).size == (640, 480)
    for clicked, pixel in {(0, 0): (0, 0), (160, 159): (0, 1), (639, 479): (2, 3)}.items():
        assert mark_shown(session, *clicked).points == (pixel,)


def test_mark_pixel__the_third_starts_anew(make_session):
    session = make_session([("m", RAMP, "disparity")])
    for row in range(3):
        session = mark_pixel(session, row, 0)
        assert session.points == {0: ((0, 0),), 1: ((0, 0), (1, 0)), 2: ((2, 0),)}[row]


@pytest.mark.parametrize("pixel", [(-1, 0), (3, 0), (0, 4), (0, -1)])
def test_mark_pixel__outside(pixel, make_session):
    with pytest.raises(ValueError, match="outside the image of 3 rows and 4 columns; rows go from 0 to 2, columns"):
        mark_pixel(make_session([("m", RAMP, "disparity")]), *pixel)


@pytest.mark.parametrize("space", ["disparity", "depth"])
def test_nearer__is_the_answer_of_da2k(space):
    values = torch.rand(20, generator=torch.Generator().manual_seed(0))
    values[7] = values[3]
    for i in range(20):
        for j in range(20):
            pair = [[0, i], [0, j]]
            right = [score_pairs(values[None], [pair], [k], space == "depth").item() for k in (0, 1)]
            assert (
                nearer(values[i].item(), values[j].item(), space) == {(1, 0): 1, (0, 1): 2, (0, 0): None}[tuple(right)]
            )
    assert nearer(values[3].item(), values[7].item(), space) is None


def test_nearer__refuses_what_is_no_number():
    with pytest.raises(ValueError, match="NaN or infinite"):
        nearer(float("nan"), 1.0, "depth")


def test_describe_points__values_units_and_answers(make_session):
    meters = 20 - RAMP
    session = make_session([("A <b>", RAMP, "disparity"), ("B m", meters, "depth")])
    assert "Click the picture" in describe_points(session)
    session = mark_pixel(session, 0, 1)
    one = describe_points(session)
    assert "1.5 <small>disparity, no unit</small>" in one
    assert "18.5 m" in one
    assert "row 0, column 1" in one
    assert "A &lt;b&gt;" in one
    assert "nearer</strong>" not in one
    two = describe_points(mark_pixel(session, 2, 3))
    assert two.count("point 2 is nearer") == 2  # larger disparity, smaller depth
    assert "11.5 <small>" in two
    assert "8.5 m" in two
    assert describe_points(replace(session, points=((2, 3), (0, 1)))).count("point 1 is nearer") == 2


def test_describe_points__a_tie_and_no_value(make_session):
    depth = np.array([[1.0, 1.0, np.nan]], dtype=np.float32)
    session = make_session([("m", depth, "disparity")])
    assert "a tie" in describe_points(replace(session, points=((0, 0), (0, 1))))
    assert "no answer" in describe_points(replace(session, points=((0, 0), (0, 2))))


def test_draw_points__marks_where_they_are(make_session):
    session = make_session([("m", np.ones((640, 640), np.float32), "disparity")])
    plain = np.asarray(draw_points(session))
    assert (plain == 255).all()
    marked = np.asarray(draw_points(replace(session, points=((140, 210), (430, 500)))))
    changed = np.argwhere((marked != plain).any(-1))
    near = [np.abs(changed - point).max(1) < 60 for point in ((140, 210), (430, 500))]
    assert near[0].any()
    assert near[1].any()
    assert (near[0] | near[1]).all()
    assert marked[140, 210].tolist() != marked[430, 500].tolist()  # each its own color


def test_draw_points__on_the_prediction_that_is_seen(make_session):
    session = make_session([("m", RAMP, "disparity")])
    seen = np.asarray(draw_points(replace(session, seen=1)))
    np.testing.assert_array_equal(seen, np.asarray(session.picture(1)))
    assert not np.array_equal(seen, np.asarray(draw_points(session)))


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(3, 4), (700, 480)])
def test_hover_maps__give_the_nearest_pixels(shape, make_session):
    depth = np.random.default_rng(0).uniform(1, 9, shape).astype(np.float32)
    session = make_session([("a", depth, "disparity"), ("b", depth, "depth")])
    found = hover_maps(session.photograph)
    rows, columns = found["grid"]
    assert found["size"] == list(shape)
    assert max(found["grid"]) <= 320
    assert [one["unit"] for one in found["maps"]] == ["", "m"]
    one = found["maps"][0]
    codes = np.frombuffer(base64.b64decode(one["codes"]), "<u2").reshape(rows, columns)
    values = codes * one["scale"] + one["offset"]
    i = ((np.arange(rows) + 0.5) * shape[0] / rows).astype(int)
    j = ((np.arange(columns) + 0.5) * shape[1] / columns).astype(int)
    np.testing.assert_allclose(values, depth[np.ix_(i, j)], atol=one["scale"])
