import io

import numpy as np
import pytest
from PIL import Image

from depth_anything_hf import DepthPredictor


@pytest.fixture(scope="module")
def predict():
    return DepthPredictor("mini", device="cpu")


def opened(image, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    image.save(file, "PNG", exif=exif)
    return Image.open(file)


@pytest.mark.parametrize(("orientation", "turns"), [(3, 2), (6, -1), (8, 1)])
@pytest.mark.parametrize("form", [lambda image: image, lambda image: image.convert("RGB")])
def test_predict_depth__sees_photographs_upright_as_the_commands_do(orientation, turns, form, predict):
    pixels = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    expected = predict(Image.fromarray(np.rot90(pixels, turns)))
    found = predict(form(opened(Image.fromarray(pixels), orientation)))
    assert found.shape == expected.shape
    np.testing.assert_array_equal(found, expected)
