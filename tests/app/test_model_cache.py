from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from transformers import ViTConfig, ViTModel

from depth_anything_hf.app import model_cache
from depth_anything_hf.app.model_cache import MAX_RESOLUTION, Checkpoints
from depth_anything_hf.prediction.predictor import DepthPredictor, load_model, predict_depth, set_resolution


def expected(name, image, resolution=None):
    model, processor = load_model(name)
    if resolution is not None:
        set_resolution(processor, model.config, resolution)
    return predict_depth(model, processor, [image])[0].numpy()


@pytest.mark.parametrize(("max_depth", "space"), [(None, "disparity"), (20.0, "depth")])
def test_predict__is_what_the_library_predicts(max_depth, space, save_checkpoint, noise_image):
    name, image = save_checkpoint("model", max_depth), noise_image(60, 80)
    depth, found = Checkpoints(device="cpu").predict(name, image)
    np.testing.assert_array_equal(depth, expected(name, image))
    assert found == space
    assert np.ptp(depth) > 0


def test_predict__a_resolution_holds_for_one_call(save_checkpoint, noise_image):
    name, image, checkpoints = save_checkpoint("model"), noise_image(60, 80), Checkpoints(device="cpu")
    finer, _ = checkpoints.predict(name, image, 112)
    own, _ = checkpoints.predict(name, image)
    np.testing.assert_array_equal(finer, expected(name, image, 112))
    np.testing.assert_array_equal(own, expected(name, image))
    assert not np.array_equal(finer, own)


@pytest.mark.slow
def test_predict__threads_do_not_mix_up_their_resolutions(save_checkpoint, noise_image):
    name, image, checkpoints = save_checkpoint("model"), noise_image(60, 80), Checkpoints(device="cpu")
    asked = [None, 56, 84, 112] * 3
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda resolution: checkpoints.predict(name, image, resolution)[0], asked))
    right = {resolution: expected(name, image, resolution) for resolution in set(asked)}
    for resolution, depth in zip(asked, found, strict=True):
        np.testing.assert_array_equal(depth, right[resolution])


@pytest.mark.slow
def test_predict__keeps_the_last_two_checkpoints(save_checkpoint, noise_image, monkeypatch):
    loaded = []

    def counted(name, **kwargs):
        loaded.append(name)
        return DepthPredictor(name, **kwargs)

    counted.from_model = DepthPredictor.from_model
    monkeypatch.setattr(model_cache, "DepthPredictor", counted)
    a, b, c = (save_checkpoint(name) for name in "abc")
    checkpoints = Checkpoints(keep=2, device="cpu")
    for name in (a, b, a, c, a, b):  # b was used longer ago than a when c came
        checkpoints.predict(name, noise_image(60, 80))
    assert loaded == [a, b, c, b]


def test_predict__a_wrong_resolution_says_which_is_right(save_checkpoint, noise_image):
    name, image, checkpoints = save_checkpoint("model"), noise_image(60, 80), Checkpoints(device="cpu")
    with pytest.raises(ValueError, match="must be a multiple of the patch size 14, such as 98"):
        checkpoints.predict(name, image, 100)
    with pytest.raises(ValueError, match=f"this page takes up to {MAX_RESOLUTION}"):
        checkpoints.predict(name, image, MAX_RESOLUTION + 14)
    assert MAX_RESOLUTION % 14 == 0


def test_predict__unknown_checkpoints_are_told_in_one_line(tmp_path, noise_image, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    ViTModel(
        ViTConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)
    ).save_pretrained(tmp_path / "vit")
    for name, why in (("nobody/nothing", ""), (str(tmp_path / "none"), ""), (str(tmp_path / "vit"), "no depth")):
        with pytest.raises(ValueError, match=f"the checkpoint {name} cannot be loaded: name a folder") as caught:
            Checkpoints(device="cpu").predict(name, noise_image(60, 80))
        assert why in str(caught.value)
        assert "\n" not in str(caught.value)
