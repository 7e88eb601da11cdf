import numpy as np
import pytest
from PIL import Image

from depth_anything_hf.app.look import COLORMAPS, palette
from depth_anything_hf.pictures.visualization import paint, save_depth


@pytest.mark.parametrize("space", ["disparity", "depth"])
def test_paint__inferno_is_the_picture_that_predict_writes(space, tmp_path):
    depth = np.random.default_rng(0).uniform(0.5, 9, (30, 40))
    written = np.asarray(Image.open(save_depth(tmp_path / "a", depth, space)["color"]))
    np.testing.assert_array_equal(paint(depth, space, colors=palette("inferno")), written)


@pytest.mark.parametrize("colormap", COLORMAPS)
def test_paint__the_nearest_has_the_last_color(colormap):
    meters = np.array([[1.0, 2.0, 4.0]])
    painted = paint(meters, "depth", colors=palette(colormap))[0]
    disparity = np.array([[1.0, 0.5, 0.25]])
    low, high = np.percentile(disparity, (2, 98))
    places = np.rint(255 * (disparity[0].clip(low, high) - low) / (high - low)).astype(int)
    np.testing.assert_array_equal(painted, palette(colormap)[places])
    assert painted[0].tolist() == palette(colormap)[255].tolist()


@pytest.mark.parametrize("colormap", COLORMAPS)
def test_paint__no_value_is_gray(colormap):
    painted = paint(np.array([[1.0, np.nan, 3.0]]), "disparity", colors=palette(colormap))
    assert painted[0, 1].tolist() == [128, 128, 128]


def test_palette__known_colors():
    assert palette("viridis")[[0, 255]].tolist() == [[68, 1, 84], [253, 231, 37]]
    assert palette("inferno")[[0, 255]].tolist() == [[0, 0, 4], [252, 255, 164]]
    assert all(palette(name).shape == (256, 3) and palette(name).dtype == np.uint8 for name in COLORMAPS)


def test_palette__unknown_name():
    with pytest.raises(ValueError, match=r"colormap is 'jet'; it must be one of \('inferno'"):
        palette("jet")
