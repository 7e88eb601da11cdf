import dataclasses

import numpy as np
import pytest
import torch

from depth_anything_hf.scenes.worlds.rendering import FARTHEST, LAYOUTS, NEAREST, WorldStyle, render_worlds
from depth_anything_hf.scenes.worlds.solids import BOX, COLUMNS, WIDTH, Shot, World
from depth_anything_hf.scenes.worlds.textures import FAMILIES, LEVELS, SIDE, TEXELS, TEXTURES, atlas

pytestmark = pytest.mark.usefixtures("one_thread")
HEIGHT, WIDTH_OF_IMAGE = 48, 64


@pytest.mark.slow
@pytest.mark.parametrize("kind", LAYOUTS)
def test_every_kind_of_world_is_seen_sharp_and_labeled(kind):
    scenes = render_worlds(range(4), HEIGHT, WIDTH_OF_IMAGE, WorldStyle(kinds={kind: 1.0}))
    assert scenes.images.shape == (4, 3, HEIGHT, WIDTH_OF_IMAGE)
    assert scenes.images.dtype == torch.uint8
    seen = scenes.depth[~scenes.sky]
    assert seen.isfinite().all()
    assert NEAREST / 3 < seen.min() < seen.max() <= FARTHEST
    assert (scenes.depth[scenes.sky] == 0).all()
    assert scenes.images.float().flatten(1).std(1).min() > 5  # none is black, white or plain
    if kind in ("room", "tabletop"):
        assert not scenes.sky.any()


def test_a_seed_fixes_a_world():
    one, other = (render_worlds([5], HEIGHT, WIDTH_OF_IMAGE) for _ in range(2))
    for name in ("images", "depth", "sky", "intrinsics"):
        assert torch.equal(getattr(one, name), getattr(other, name))
    assert not torch.equal(one.images, render_worlds([6], HEIGHT, WIDTH_OF_IMAGE).images)


def test_a_camera_that_sees_nothing_but_the_sky(monkeypatch):
    def upward(world):
        world.at(0, 0).add(BOX, (0, 0, -1), (9, 9, 0.5), world.material("grass"))
        return Shot(np.zeros(3), heading=0, pitch=1.5, roll=0, fov=1, sun=True, lamps=[np.array([0, 9, 99])])

    monkeypatch.setitem(LAYOUTS, "upward", upward)
    scene = render_worlds([0], 48, 64, WorldStyle(kinds={"upward": 1.0}))
    assert scene.sky.all()  # no solid's outline meets the image
    assert (scene.depth == 0).all()


def test_no_sky_is_seen_in_a_room_through_its_gaps():
    scenes = render_worlds(
        range(60), 12, 16, WorldStyle(kinds={"room": 1.0}, textures=False, shadows=False, sensor=False)
    )
    assert not scenes.sky.any()


@pytest.mark.slow
def test_most_pictures_reach_from_dark_to_light():
    grey = render_worlds(range(40), 24, 32).images.float().mean(1).flatten(1)
    low, high = grey.quantile(torch.tensor([0.02, 0.98]), dim=1)
    assert (high - low).median() > 160  # of 255


def test_a_batch_gives_what_its_worlds_give_alone():
    together = render_worlds([3, 4], HEIGHT, WIDTH_OF_IMAGE)
    alone = render_worlds([4], HEIGHT, WIDTH_OF_IMAGE)
    torch.testing.assert_close(together.depth[1], alone.depth[0], rtol=1e-4, atol=1e-4)
    assert (together.images[1].float() - alone.images[0].float()).abs().mean() < 0.5


def test_depth_does_not_depend_on_size_or_look():
    plain = WorldStyle(textures=False, shadows=False, sensor=False)
    one, other = render_worlds([7], 48, 64), render_worlds([7], 48, 64, plain)
    assert torch.equal(one.depth, other.depth)
    fine = render_worlds([7], 144, 192).depth[0, 1::3, 1::3]  # the same pixel centres
    close = ((fine - one.depth[0]).abs() < 1e-3 * fine + 1e-3).float().mean()
    assert close > 0.97  # holes in foliage open when they are larger than pixels


@pytest.mark.parametrize("switch", ["textures", "shadows", "sensor"])
def test_each_switch_changes_the_image(switch):
    off = dataclasses.replace(WorldStyle(kinds={"room": 1.0}), **{switch: False})
    images = [
        render_worlds([2], HEIGHT, WIDTH_OF_IMAGE, style).images for style in (WorldStyle(kinds={"room": 1.0}), off)
    ]
    assert (images[0].float() - images[1].float()).abs().mean() > 0.3


@pytest.mark.slow
def test_squeezed_views_have_unlike_focal_lengths():
    focal = render_worlds(range(12), 16, 16).intrinsics[:, :2]
    assert (focal[:, 0] / focal[:, 1]).log().abs().max() > 0.2
    own = render_worlds(range(4), 24, 32, WorldStyle(squeeze=0)).intrinsics
    torch.testing.assert_close(own[:, 0], own[:, 1])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(([], 24, 32), "at least one"), (([-1], 24, 32), ">= 0"), (([0], 4, 32), "at least 8")],
)
def test_wrong_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        render_worlds(*arguments)


@pytest.mark.slow
def test_atlas_holds_every_family_with_its_mipmaps():
    texels = atlas().view(TEXTURES, TEXELS, 3)
    assert LEVELS == 8
    assert max(stop for _, stop in FAMILIES.values()) == TEXTURES
    finest, coarsest = texels[:, : SIDE * SIDE], texels[:, -1]
    torch.testing.assert_close(finest.mean(1), coarsest, atol=1e-3, rtol=1e-3)  # a mipmap keeps the mean
    assert 0 <= texels.min() < texels.max() <= 1.2


def test_table_of_a_world_is_ordered_by_shape_and_its_axes_are_turns():
    world = World(np.random.default_rng(1))
    LAYOUTS["room"](world)
    table = world.table()
    assert table.shape[1] == WIDTH
    assert (np.diff(table[:, COLUMNS["shape"]]) >= 0).all()
    axes = table[:, COLUMNS["axes"]].reshape(-1, 3, 3)
    np.testing.assert_allclose(axes @ axes.transpose(0, 2, 1), np.broadcast_to(np.eye(3), axes.shape), atol=1e-5)
