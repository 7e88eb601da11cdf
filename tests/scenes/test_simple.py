import dataclasses
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from depth_anything_hf.scenes import simple as synthetic
from depth_anything_hf.scenes.simple import (
    FAR,
    LABELED_DOMAIN,
    UNLABELED_DOMAIN,
    iter_synthetic_records,
    render_scenes,
)
from depth_anything_hf.scenes.simple_layout import CLASSES, draw_scene

BOX, BALL, ROD = range(3)
FLOOR = (BOX, 0, 0, -50, 1e3, 1e3, 50, 0)


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def render(monkeypatch):
    """Render hand-made solids from an eye 1.5 m above the floor, looking along y, with a right-angled view."""

    def render(*solids, built=("floor",), size=(33, 33), domain=LABELED_DOMAIN, supersample=1, **camera):
        camera = {"fov": math.pi / 2, "roll": 0.0, "heading": 0.0, "pitch": 0.0, "eye": (0.0, 0.0, 1.5)} | camera
        scene = SimpleNamespace(solids=list(solids), built=list(built), extent=20.0, span=np.full(3, 200.0), **camera)
        monkeypatch.setattr(synthetic, "draw_scene", lambda seed, outdoors: scene)
        return render_scenes([0], *size, domain, supersample)

    return render


def vector(*values):
    return torch.tensor(values, dtype=torch.float32).view(3, 1, 1)


@pytest.mark.parametrize(
    ("name", "origin", "direction", "expected"),
    [
        ("_ray_box", (0, -4, 0), (0.001, 1, 0.001), (3, 5)),
        ("_ray_box", (-3, -3, 0), (1, 1, 0.001), (2, 4)),
        ("_ray_ball", (0, -4, 0), (0, 2, 0), (1.5, 2.5)),
        ("_ray_ball", (0.6, -4, 0), (0, 1, 0), (3.2, 4.8)),
        ("_ray_rod", (0.6, -4, 0), (0, 1, 1e-6), (3.2, 4.8)),
        ("_ray_rod", (0, 0, 3), (0.001, 0, -1), (2, 4)),
    ],
)
def test_rays_enter_and_leave_unit_solids_at_hand_computed_distances(name, origin, direction, expected):
    enter, leave = getattr(synthetic, name)(vector(*origin), vector(*direction))
    assert (enter.item(), leave.item()) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("name", ["_ray_box", "_ray_ball", "_ray_rod"])
def test_rays_past_unit_solids_miss(name):
    enter, leave = getattr(synthetic, name)(vector(1.2, -4, 0), vector(1e-6, 1, 1e-6))
    assert not (enter <= leave).item()


def test_ball_depth_is_distance_minus_radius(render):
    assert render((BALL, 0, 5, 1.5, 2, 2, 2, 0)).depth[0, 16, 16].item() == pytest.approx(3.0, abs=1e-5)


def test_rod_depth_is_distance_minus_radius(render):
    assert render((ROD, 0, 5, 1.5, 0.5, 0.5, 1, 0)).depth[0, 16, 16].item() == pytest.approx(4.5, abs=1e-5)


@pytest.mark.parametrize(("yaw", "expected"), [(0.0, 4.0), (math.pi / 4, 5 - math.sqrt(2))])
def test_box_shows_its_face_or_its_corner(render, yaw, expected):
    assert render((BOX, 0, 5, 1.5, 1, 1, 1, yaw)).depth[0, 16, 16].item() == pytest.approx(expected, abs=1e-5)


def test_fronto_parallel_wall_has_constant_planar_depth(render):
    depth = render((BOX, 0, 7, 0, 99, 1, 99, 0)).depth
    torch.testing.assert_close(depth, torch.full_like(depth, 6.0))


@pytest.mark.parametrize("pitch", [0.0, -0.3])
def test_floor_depth_follows_from_height_and_pitch(render, pitch):
    scene = render(FLOOR, pitch=pitch)
    fx, fy, cx, cy = scene.intrinsics[0].tolist()
    for row in (24, 32):
        below = (row + 0.5 - cy) / fy  # a ray of unit depth falls by below * cos(pitch) - sin(pitch)
        expected = 1.5 / (below * math.cos(pitch) - math.sin(pitch))
        torch.testing.assert_close(scene.depth[0, row], torch.full((33,), expected), rtol=1e-4, atol=0)
    assert (fx, cx) == pytest.approx((16.5, 16.5))


def test_focal_length_is_half_width_over_tangent_of_half_the_field_of_view(render):
    intrinsics = render(FLOOR, fov=math.radians(60), size=(20, 40)).intrinsics[0]
    assert intrinsics.tolist() == pytest.approx([34.641, 34.641, 20, 10], abs=1e-3)


def test_pixels_reproject_to_a_corner_of_the_world(render):
    scene = render((BOX, 1, 4.5, 1.5, 1, 0.5, 9, 0), size=(33, 65))  # its left edge, x = 0, at the centre column
    assert (scene.depth[0, 16, 32:49] == scene.depth[0, 16, 33]).all()
    assert scene.depth[0, 16, 33].item() == pytest.approx(4.0, abs=1e-5)
    right = 32.5 + 32.5 * 2 / 4  # x = 2 at depth 4
    assert scene.sky[0, 16].tolist() == [not 32 <= column < right - 0.5 for column in range(65)]


def test_sky_is_where_rays_hit_nothing_near(render):
    scene = render(FLOOR, size=(64, 64))
    below = (torch.arange(64) + 0.5 - 32) / 32
    expected = ~((below > 0) & (1.5 / below <= FAR))
    assert torch.equal(scene.sky[0], expected[:, None].expand(64, 64))
    assert torch.equal(scene.depth[0] == 0, scene.sky[0])


def test_solid_between_lamp_and_floor_casts_a_shadow(render):
    domain = dataclasses.replace(LABELED_DOMAIN, textures=("flat",), elevation=(90, 90))
    camera = {"size": (41, 41), "domain": domain, "pitch": -math.pi / 4}
    floating = (BALL, 0.0, 1.5, 6.0, 0.4, 0.4, 0.4, 0.0)  # above the view, over the floor's point at its centre
    open_floor, shaded = (render(*solids, **camera).images[0].int().sum(0) for solids in ((FLOOR,), (FLOOR, floating)))
    assert shaded[20, 20] < 0.75 * open_floor[20, 20]
    assert shaded[20, 2] == open_floor[20, 2]
    assert shaded[38, 20] == open_floor[38, 20]


@pytest.mark.slow
def test_bytes_of_a_seed_do_not_depend_on_its_batch():
    for domain in (LABELED_DOMAIN, UNLABELED_DOMAIN):
        alone = {seed: render_scenes([seed], 37, 53, domain) for seed in range(7)}
        for seeds in (range(7), [6, 2, 0], [3, 3, 5, 1, 4]):
            batch = render_scenes(seeds, 37, 53, domain)
            for index, seed in enumerate(seeds):
                for name, value in vars(batch).items():
                    assert torch.equal(value[index], getattr(alone[seed], name)[0]), (domain.name, name, seed)


def test_seeds_differ():
    images = render_scenes(range(8), 24, 32).images.float()
    distances = (images[:, None] - images[None]).abs().mean((2, 3, 4))
    assert distances[~torch.eye(8, dtype=torch.bool)].min() > 5


def test_domains_share_geometry_and_differ_in_look():
    clean, dusk = (render_scenes(range(12), 48, 64, domain) for domain in (LABELED_DOMAIN, UNLABELED_DOMAIN))
    for name in ("depth", "sky", "intrinsics", "classes"):
        assert torch.equal(getattr(clean, name), getattr(dusk, name))
    assert (clean.images.float() - dusk.images.float()).abs().mean((1, 2, 3)).min() > 12


@pytest.mark.slow
@pytest.mark.parametrize("domain", [LABELED_DOMAIN, UNLABELED_DOMAIN])
def test_images_and_labels_have_healthy_ranges(domain):
    scenes = render_scenes(range(60), 48, 64, domain)
    assert scenes.images.shape == (60, 3, 48, 64)
    assert scenes.images.dtype == torch.uint8
    assert scenes.depth.dtype == torch.float32
    assert scenes.sky.dtype == torch.bool
    near, valid = scenes.depth.clone(), ~scenes.sky
    assert 0.05 < near[valid].min() < 0.6
    assert 40 < near[valid].max() <= FAR
    contrast = scenes.images.float().std((1, 2, 3))
    assert (contrast > 12).float().mean() > 0.9
    low, high = np.transpose([np.quantile(d[v], (0.05, 0.95)) for d, v in zip(scenes.depth, valid, strict=True)])
    assert (high / low > 1.5).mean() > 0.9
    assert 0.2 < (scenes.sky.flatten(1).any(1)).float().mean() < 0.6


def test_supersampling_averages_an_edge_and_keeps_the_labels(render):
    half_plane = (BOX, 10, 5, 1.5, 10, 1, 99, 0)  # its edge, x = 0, runs through the centre of the middle column
    plain, smooth = (render(half_plane, supersample=factor) for factor in (1, 2))
    assert torch.equal(plain.depth, smooth.depth)
    assert plain.images.shape == smooth.images.shape
    sky, edge, face = smooth.images[0, :, 16, 15:18].int().T
    assert ((edge - sky) * (face - edge) > 0).any()


def test_records_hold_the_rendered_scenes():
    records = list(iter_synthetic_records(5, 24, 32, seed=7, domain=UNLABELED_DOMAIN, batch_size=2))
    scenes = render_scenes(range(7, 12), 24, 32, UNLABELED_DOMAIN)
    assert [record["source"] for record in records] == [f"synthetic:bad-weather:{seed}" for seed in range(7, 12)]
    for index, record in enumerate(records):
        assert record["image"].mode == "RGB"
        assert np.array_equal(np.asarray(record["image"]), scenes.images[index].permute(1, 2, 0).numpy())
        assert np.array_equal(record["depth"], scenes.depth[index].numpy())
        assert record["depth"].dtype == np.float32
        assert np.array_equal(record["sky"], scenes.sky[index].numpy())
        assert np.array_equal(record["classes"], scenes.classes[index].numpy())
        assert record["classes"].dtype == np.uint8
        assert record["intrinsics"] == scenes.intrinsics[index].tolist()


def test_classes_are_those_of_the_surfaces_that_the_pixels_show(render):
    solids = (FLOOR, (BOX, 0, 22, 0, 99, 1, 4, 0), (BOX, -3, 6, 1.5, 1, 1, 1, 0), (BALL, 0, 6, 1.5, 1, 1, 1, 0))
    scene = render(*solids, (ROD, 3, 6, 1.5, 0.5, 0.5, 1, 0), built=("floor", "building"), size=(65, 65))
    columns = [32 - 18, 32, 32 + 16, 32 + 26]  # the box, the ball, the rod, and past it
    found = [[CLASSES[i] for i in scene.classes[0, row, columns].tolist()] for row in (32, 5, 64)]
    assert found == [["box", "ball", "rod", "building"], ["sky"] * 4, ["floor"] * 4]
    assert torch.equal(scene.classes == CLASSES.index("sky"), scene.sky)


@pytest.mark.slow
def test_classes_agree_with_the_geometry_of_drawn_scenes():
    """Where a pixel's point lies in the world says what it can be; no label is read for it."""
    seen = np.zeros(len(CLASSES), int)
    for seed in range(40):
        batch, scene = render_scenes([seed], 36, 48), draw_scene(seed, LABELED_DOMAIN.outdoors)
        vectors = {k: np.asarray(v, float) for k, v in synthetic._tabulate(seed, scene, LABELED_DOMAIN).items()}
        fx, fy, cx, cy = batch.intrinsics[0].double().numpy()
        v, u = np.mgrid[:36, :48] + 0.5
        ray = [np.multiply.outer(a, vectors[name]) for a, name in (((u - cx) / fx, "right"), ((v - cy) / fy, "down"))]
        points = np.asarray(scene.eye) + (sum(ray) + vectors["forward"]) * batch.depth[0].double().numpy()[..., None]
        classes = batch.classes[0].numpy()
        x, y, z = (points[..., i] for i in range(3))
        a, b, top = scene.span
        onto = {name: classes == i for i, name in enumerate(CLASSES)}
        seen += np.bincount(classes.ravel(), minlength=len(CLASSES))
        assert np.abs(z[onto["floor"]]).max(initial=0) < 2e-3
        assert z[~onto["floor"] & ~onto["sky"]].min(initial=1) > -2e-3
        assert np.abs(z[onto["ceiling"]] - top).max(initial=0) < 2e-3
        assert np.minimum(abs(abs(x) - a), abs(abs(y) - b))[onto["wall"]].max(initial=0) < 2e-3
        assert z[onto["pavement"]].max(initial=0) < 0.14 + 2e-3
        assert z[onto["table"]].max(initial=0) < 0.7 + 2e-3
        indoors = not onto["building"].any() and not onto["pavement"].any() and not onto["sky"].any()
        assert indoors or not (onto["wall"] | onto["ceiling"] | onto["table"]).any()
    assert (seen > 0).all()


@pytest.mark.parametrize("seed", range(12))
def test_built_names_each_solid_that_is_no_thing(seed):
    built = draw_scene(seed, outdoors=0.5).built
    houses = ["pavement", "building", "building", "building"]
    assert built in (
        ["floor", *houses, *houses],
        *([*["floor", *["wall"] * 4, "ceiling"], *more] for more in ([], ["table"])),
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([], 8, 8), r"seeds is \[\]"),
        (([1, -2], 8, 8), r"seeds is \[1, -2\]"),
        (([0], 0, 8), "height is 0"),
        (([0], 8, -3), "width is -3"),
        (([0], 8, 8, LABELED_DOMAIN, 0), "supersample is 0"),
    ],
)
def test_render_refuses_what_it_cannot_draw(arguments, message):
    with pytest.raises(ValueError, match=message + ".* must .*; pass"):
        render_scenes(*arguments)


@pytest.mark.parametrize("arguments", [{"count": -1}, {"count": 1, "batch_size": 0}])
def test_records_refuse_bad_counts(arguments):
    with pytest.raises(ValueError, match=r"must be >= 0 and >= 1"):
        next(iter_synthetic_records(height=8, width=8, **arguments))


@pytest.mark.slow
def test_outdoors_is_the_share_of_open_air_scenes():
    def sky(outdoors):
        scenes = render_scenes(range(60), 12, 16, dataclasses.replace(LABELED_DOMAIN, outdoors=outdoors))
        return scenes.sky.flatten(1).any(dim=1).double().mean().item()

    assert sky(0.0) == 0.0
    assert sky(1.0) > 0.85  # a house may fill the view
