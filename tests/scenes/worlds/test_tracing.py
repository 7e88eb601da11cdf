import math

import numpy as np
import pytest
import torch

from depth_anything_hf.scenes.worlds import tracing
from depth_anything_hf.scenes.worlds.solids import BALL, BOX, CONE, ROD, World, rotation
from depth_anything_hf.scenes.worlds.tracing import Camera, Solids, candidate_pairs, trace

pytestmark = pytest.mark.usefixtures("one_thread")
SIZE = (33, 45)


def solids_of(*built, clear=0.0, holes=0.0):
    """Solids of one world: each `built` is shape, center, half sizes and, if it is turned, its axes."""
    world = World(np.random.default_rng(0))
    for shape, center, half, *turn in built:
        material = world.material("plastic", clear=clear)
        material[-1] = holes
        world.at(0, 0).add(shape, center, half, material, *turn)
    table = torch.from_numpy(world.table())
    return Solids(table, torch.zeros(len(table), dtype=torch.long))


def looking_along_y(eye=(0.0, 0.0, 0.0), focal=(0.5, 0.5)):
    axes = torch.tensor([[1.0, 0, 0], [0, 0, -1.0], [0, 1.0, 0]])  # right, down, forward
    return Camera(torch.tensor([eye]), axes[None], torch.tensor([focal]))


def depth_of(solids, camera=None, size=SIZE):
    return trace(solids, camera or looking_along_y(), *size).depth.view(size)


@pytest.mark.parametrize(
    ("shape", "half", "expected"),
    [
        (BOX, (1, 2, 1), 3.0),
        (BALL, (1, 2, 1), 3.0),
        (ROD, (2, 2, 1), 3.0),
        (CONE, (2, 2, 3), 4.0),  # at half its height it is half as wide
    ],
)
def test_depth_at_the_middle_is_the_distance_to_the_front(shape, half, expected):
    depth = depth_of(solids_of((shape, (0, 5, 0), half)))
    assert depth[16, 22].item() == pytest.approx(expected, abs=1e-4)


def test_turned_box_shows_its_edge():
    depth = depth_of(solids_of((BOX, (0, 5, 0), (1, 1, 1), rotation(math.pi / 4))))
    assert depth[16, 22].item() == pytest.approx(5 - math.sqrt(2), abs=1e-4)


def test_cone_ends_at_its_tip_and_has_no_mirrored_twin():
    depth = depth_of(solids_of((CONE, (0, 5, 0), (1, 1, 1))), size=(65, 65))
    widths = depth.isfinite().sum(1)
    rows = widths.nonzero()[:, 0]
    assert rows[0].item() == pytest.approx(32.5 * (1 - 1 / 5), abs=1.5)  # the tip, 1 above the eye at a distance of 5
    assert widths[rows[:-1]].diff().min() >= 0  # it only grows downward, to the front of its foot


@pytest.mark.parametrize(
    ("eye", "ray", "expected"),
    [((0.0, 0.0, -5.5), (0.0, 1.0, 1.0), (4.5, 5.25)), ((0.0, 10.0, 4.5), (0.0, -1.0, -1.0), (4.75, 5.5))],
    ids=["from-below", "from-above"],
)
def test_a_ray_along_the_side_of_a_cone_meets_it(eye, ray, expected):
    """There the quadratic equation is a linear one. The cone is as wide as it is below its tip: y - 5 = z and 5 - y = z."""
    assert thrown(CONE, (0.0, 5.0, -0.5), (1.0, 1.0, 0.5), eye, ray) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("shape", [BALL, ROD, CONE])
def test_small_far_solids_are_met_where_they_are(shape):
    """In float32, against the middle of the solid: b^2 - ac would cancel here."""
    half = (0.03, 0.03, 0.03)
    for distance in (30.0, 300.0):
        # Past the tip of a cone the ray meets its side at half its height.
        enter, leave = thrown(shape, (0.0, distance, 0.0), half, (0.0, 0.0, 0.0), (0.0, 1.0, 0.0))
        near = 0.015 if shape == CONE else 0.03
        assert (enter, leave) == pytest.approx((distance - near, distance + near), abs=2e-7 * distance)


def thrown(shape, center, half, eye, ray):
    """Distances, in lengths of the ray, at which a ray enters and leaves a solid."""
    origin = [torch.tensor((e - c) / h) for e, c, h in zip(eye, center, half, strict=True)]
    direction = [torch.tensor(r / h + 1e-12) for r, h in zip(ray, half, strict=True)]  # as `trace` does
    enter, leave = tracing._INTERSECT[shape](origin, direction)
    return enter.item(), leave.item()


def test_nearer_solid_hides_the_farther_and_says_whose_pixel_it_is():
    solids = solids_of((BOX, (0, 9, 0), (9, 1, 9)), (BALL, (0, 5, 0), (1, 1, 1)))
    hits = trace(solids, looking_along_y(), *SIZE)
    owner, depth = hits.solid.view(SIZE), hits.depth.view(SIZE)
    assert (owner[16, 22].item(), owner[0, 0].item()) == (1, 0)
    assert depth[16, 22].item() == pytest.approx(4.0, abs=1e-4)
    torch.testing.assert_close(depth[0], torch.full((45,), 8.0))  # planar depth: the same at the corners


def test_sky_is_infinite_and_belongs_to_nobody():
    hits = trace(solids_of((BALL, (0, 5, 0), (1, 1, 1))), looking_along_y(), *SIZE)
    assert hits.depth.view(SIZE)[0, 0] == math.inf
    assert hits.solid.view(SIZE)[0, 0] == -1


@pytest.mark.parametrize("center", [(0, -5, 0), (50, 5, 0)])  # behind the camera, and beside its view
def test_nothing_in_view_is_all_sky(center):
    hits = trace(solids_of((BALL, center, (1, 1, 1)), clear=1.0), looking_along_y(), *SIZE)
    assert torch.isinf(hits.depth).all()
    assert (hits.solid == -1).all()


def test_clear_solid_lets_see_what_is_behind_it():
    glass = solids_of((BALL, (0, 5, 0), (1, 1, 1)), clear=0.5)
    wall = solids_of((BOX, (0, 9, 0), (9, 1, 9)))
    both = Solids(torch.cat([wall.table, glass.table]), torch.zeros(2, dtype=torch.long))
    hits = trace(both, looking_along_y(), *SIZE)
    assert hits.depth.view(SIZE)[16, 22].item() == pytest.approx(4.0, abs=1e-4)  # the label is that of the glass
    assert (hits.behind.view(SIZE)[16, 22].item(), hits.solid_behind.view(SIZE)[16, 22].item()) == (
        pytest.approx(8.0, abs=1e-4),
        0,
    )


def test_holes_show_what_is_behind_and_vanish_with_distance():
    lace = solids_of((BALL, (0, 5, 0), (2, 2, 2)), holes=1.0)
    share = (
        depth_of(lace, size=(99, 99)).isfinite().sum()
        / depth_of(solids_of((BALL, (0, 5, 0), (2, 2, 2))), size=(99, 99)).isfinite().sum()
    )
    assert 0.3 < share < 0.95
    far = solids_of((BALL, (0, 500, 0), (200, 200, 200)), holes=1.0)
    whole = solids_of((BALL, (0, 500, 0), (200, 200, 200)))
    torch.testing.assert_close(depth_of(far), depth_of(whole))


def test_solid_around_the_camera_or_behind_it_is_not_seen():
    depth = depth_of(solids_of((BOX, (0, 0, 0), (1, 1, 1)), (BALL, (0, -5, 0), (1, 1, 1))))
    assert depth.isinf().all()


def test_unlike_focal_lengths_squeeze_the_view():
    ball = solids_of((BALL, (0, 5, 0), (1, 1, 1)))
    depth = depth_of(ball, looking_along_y(focal=(0.5, 1.0)), size=(65, 65))
    rows, columns = (depth.isfinite().any(axis).sum().item() for axis in (1, 0))
    assert rows == pytest.approx(2 * columns, abs=2)


def test_a_pixel_is_as_large_as_its_longer_side():
    camera = Camera(torch.zeros(2, 3), torch.eye(3).expand(2, 3, 3), torch.tensor([[0.5, 1.0], [2.0, 0.25]]))
    # 1 / (0.5 * 40) and 1 / (1.0 * 30); 1 / (2.0 * 40) and 1 / (0.25 * 30)
    torch.testing.assert_close(camera.pixel_size(height=30, width=40), torch.tensor([1 / 20, 1 / 7.5]))


@pytest.mark.parametrize("squeezed", [(0.5, 0.05), (0.05, 0.5)])
def test_holes_narrower_than_a_pixel_vanish_along_either_axis(squeezed):
    # 6 and 0.6 pixels from hole to hole along the two axes
    lace, whole = (solids_of((BALL, (0, 8, 0), (5, 5, 5)), holes=holes) for holes in (1.0, 0.0))
    lace_depth, whole_depth = (
        depth_of(ball, looking_along_y(focal=squeezed), size=(99, 99)) for ball in (lace, whole)
    )
    torch.testing.assert_close(lace_depth, whole_depth)


@pytest.mark.parametrize("seed", range(8))
def test_pairs_leave_out_no_hit(seed, monkeypatch):
    """The box around a solid's image is an optimisation: all pixels as candidates give the same depth."""
    rng = np.random.default_rng(seed)
    built = [
        (
            int(rng.integers(4)),
            rng.uniform((-4, 0, -4), (4, 8, 4)),
            rng.uniform(0.05, 3, 3),
            rotation(*rng.uniform(0, 6, 3)),
        )
        for _ in range(12)
    ]
    solids, camera = solids_of(*built), looking_along_y()
    quick = depth_of(solids)
    count, pixels = len(solids.table), SIZE[0] * SIZE[1]

    def all_pairs(*_):
        return torch.arange(count).repeat_interleave(pixels), torch.arange(pixels).repeat(count)

    assert len(candidate_pairs(solids, camera, *SIZE)[0]) < count * pixels
    monkeypatch.setattr(tracing, "candidate_pairs", all_pairs)
    torch.testing.assert_close(quick, depth_of(solids), equal_nan=True)


def test_worlds_of_a_batch_do_not_see_each_other():
    near, far = solids_of((BALL, (0, 5, 0), (1, 1, 1))), solids_of((BOX, (0, 9, 0), (1, 1, 1)))
    both = Solids(torch.cat([near.table, far.table]), torch.tensor([0, 1]))
    one = looking_along_y()
    camera = Camera(*(values.repeat(2, *[1] * (values.ndim - 1)) for values in (one.eye, one.axes, one.focal)))
    depth = trace(both, camera, *SIZE).depth.view(2, *SIZE)
    torch.testing.assert_close(depth[0], depth_of(near))
    torch.testing.assert_close(depth[1], depth_of(far))
