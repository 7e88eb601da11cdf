import numpy as np
import pytest
from PIL import Image

from depth_anything_hf.prediction.predictor import DepthPredictor, load_model, predict_depth
from depth_anything_hf.prediction.tiling import predict_tiled


@pytest.fixture
def photo(tmp_path, noise_image):
    noise_image(120, 160).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


@pytest.mark.parametrize("max_depth", [None, 20.0])
def test_sheet__has_a_picture_of_every_setting(
    max_depth, make_model, tiny_processor, photo, tmp_path, load_example, capsys
):
    for part in (make_model(max_depth=max_depth), tiny_processor):
        part.save_pretrained(tmp_path / "model")
    out = tmp_path / "deep" / "sheet.png"
    arguments = [str(photo), "--model", str(tmp_path / "model"), "--out", str(out)]
    assert load_example("high_resolution").main([*arguments, "--resolutions", "56", "112", "--tiles", "80"]) == 0
    printed = capsys.readouterr().out
    assert "input 56, input 112, 6 tiles of 80" in printed
    assert Image.open(out).width > 4 * 480


def test_predict_each__is_what_the_library_says(make_model, tiny_processor, photo, tmp_path, load_example):
    for part in (make_model(), tiny_processor):
        part.save_pretrained(tmp_path / "model")
    image = Image.open(photo)
    model, processor = load_model(str(tmp_path / "model"))
    found = load_example("high_resolution").predict_each(
        DepthPredictor.from_model(model, processor), image, [112], [80]
    )
    model, processor = load_model(str(tmp_path / "model"))
    tiled = predict_tiled(DepthPredictor.from_model(model, processor), image, 80).depth
    processor.size = {"height": 112, "width": 112}
    whole, tiles = found.values()
    np.testing.assert_array_equal(whole, predict_depth(model, processor, [image])[0])
    np.testing.assert_array_equal(tiles, tiled)
