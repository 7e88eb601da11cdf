import numpy as np
import pytest
import torch

from depth_anything_hf.scenes.worlds.shading import Light, shade
from depth_anything_hf.scenes.worlds.solids import BOX, COLUMNS, World
from depth_anything_hf.scenes.worlds.textures import FAMILIES
from depth_anything_hf.scenes.worlds.tracing import Camera, Solids, trace

pytestmark = pytest.mark.usefixtures("one_thread")


def wall(distance, texture, period):
    """A wall across the view along y, of one world."""
    world = World(np.random.default_rng(0))
    world.at(0, 0).add(BOX, (0, distance + 1, 0), (1e4, 1, 1e4), world.material("plastic"))
    table = torch.from_numpy(world.table())
    for name, value in {"texture": texture, "period": period, "contrast": 0.5, "tint": 0.5, "gloss": 0}.items():
        table[:, COLUMNS[name]] = value
    return Solids(table, torch.zeros(len(table), dtype=torch.long))


def even_light():
    """A light that is the same from everywhere: what is seen is the albedo."""
    none = torch.zeros(0, 1, 3)
    dark, grey = torch.zeros(1, 3), torch.full((1, 3), 0.5)
    return Light(none, none, none[..., 0], grey, torch.zeros(1), dark, dark, torch.zeros(1), torch.zeros(1, 2))


@pytest.mark.slow
@pytest.mark.parametrize("focal", [(0.5, 0.02), (0.02, 0.5)])
def test_textures_finer_than_a_pixel_are_averaged_along_either_axis(focal):
    size = (32, 32)
    axes = torch.tensor([[[1.0, 0, 0], [0, 0, -1.0], [0, 1.0, 0]]])
    checks = FAMILIES["checks"][0]

    def spread(focal):
        camera = Camera(torch.zeros(1, 3), axes, torch.tensor([focal]))
        solids = wall(distance=1.6, texture=checks, period=1.0)
        color = shade(solids, camera, even_light(), trace(solids, camera, *size), *size)
        return color.std(0).max().item()

    assert spread((0.5, 0.5)) > 0.005  # a pixel is a tenth of a tile
    assert spread(focal) < 1e-4  # and 2.5 tiles along one axis
