import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import DepthAnythingForDepthEstimation as StockDepthAnything

from depth_anything_hf.maps.resizing import resize_prediction
from depth_anything_hf.model.image_processing import DepthAnythingImageProcessor
from depth_anything_hf.prediction import weights
from depth_anything_hf.prediction.predictor import (
    PredictionError,
    check_prediction,
    load_model,
    predict_depth,
    set_resolution,
)
from depth_anything_hf.prediction.weights import adapter_base, model_revision


@pytest.fixture
def images(noise_image):
    sizes = [(60, 80), (81, 57), (60, 80), (33, 70), (62, 82), (60, 80)]  # the fifth shares the first's input size
    return [noise_image(*size, seed) for seed, size in enumerate(sizes)]


def test_predict_depth__of_mixed_sizes_is_that_of_one_by_one(make_model, tiny_processor, images):
    model = make_model().eval()
    together = predict_depth(model, tiny_processor, images)
    for image, found in zip(images, together, strict=True):
        (alone,) = predict_depth(model, tiny_processor, [image])
        assert found.shape == image.size[::-1]
        assert alone.std() > 1e-3  # a constant would hide a wrong order
        torch.testing.assert_close(found, alone, rtol=1e-4, atol=1e-5)


def test_predict_depth__keeps_the_order(make_model, tiny_processor, images):
    model = make_model().eval()
    forward = predict_depth(model, tiny_processor, images)
    backward = predict_depth(model, tiny_processor, images[::-1])[::-1]
    for first, second in zip(forward, backward, strict=True):
        torch.testing.assert_close(first, second, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(forward[0], forward[2], atol=1e-3)  # same size, other image


def test_predict_depth__is_the_model_then_the_resize(make_model, tiny_processor, images):
    model = make_model().eval()
    with torch.no_grad():
        raw = model(**tiny_processor(images[0], return_tensors="pt")).predicted_depth
    for mode in ("bilinear", "bicubic"):
        (found,) = predict_depth(model, tiny_processor, images[:1], mode=mode)
        assert torch.equal(found, resize_prediction(raw, (60, 80), mode)[0])
    (small,) = predict_depth(model, tiny_processor, images[:1], full_size=False)
    assert torch.equal(small, raw[0])


def test_predict_depth__resize_method_decides_the_input_size(make_model, noise_image):
    processor = DepthAnythingImageProcessor(size={"height": 56, "width": 56}, resize_method="minimal")
    (small,) = predict_depth(make_model(), processor, [noise_image(30, 40)], full_size=False)
    assert small.shape == (42, 56)  # lower_bound: 56 x 70


@pytest.mark.parametrize("training", [True, False])
def test_predict_depth__restores_the_training_mode(make_model, tiny_processor, images, training):
    model = make_model().train(training)
    seen = []
    model.register_forward_pre_hook(lambda module, *_: seen.append(module.training))
    predict_depth(model, tiny_processor, images[:1])
    assert (seen, model.training, model.backbone.training) == ([False], training, training)


def test_predict_depth__restores_the_training_mode_after_an_error(make_model, tiny_processor, images):
    model = make_model().train()
    with pytest.raises(ValueError, match="mode is 'nearest'"):
        predict_depth(model, tiny_processor, images[:1], mode="nearest")
    assert model.training


def test_predict_depth__keeps_no_graph(make_model, tiny_processor, images):
    assert not predict_depth(make_model(), tiny_processor, images[:1])[0].requires_grad


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_predict_depth__of_half_precision_is_float32(make_model, tiny_processor, images, dtype):
    model = make_model().eval()
    (expected,) = predict_depth(model, tiny_processor, images[:1])
    (found,) = predict_depth(model.to(dtype), tiny_processor, images[:1])
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=0.1, atol=0.02)


def test_predict_depth__takes_the_stock_model(make_model, tiny_processor, images):
    model = make_model().eval()
    stock = StockDepthAnything(model.config)
    stock.load_state_dict(model.state_dict())
    ours, theirs = (predict_depth(one, tiny_processor, images[:2]) for one in (model, stock))
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_predict_depth__metric_stays_in_range(make_model, tiny_processor, images):
    for depth in predict_depth(make_model(max_depth=20), tiny_processor, images):
        assert depth.min() > 0
        assert depth.max() < 20


@pytest.mark.parametrize("mode", ["L", "RGBA"])
def test_predict_depth__of_other_modes_is_that_of_rgb(make_model, tiny_processor, images, mode):
    model, image = make_model().eval(), images[0].convert(mode)
    (found,), (expected,) = (predict_depth(model, tiny_processor, [one]) for one in (image, image.convert("RGB")))
    assert torch.equal(found, expected)


def test_predict_depth__of_nothing_is_an_error(make_model, tiny_processor):
    with pytest.raises(ValueError, match="images is empty; pass at least one"):
        predict_depth(make_model(), tiny_processor, [])


def test_load_model__predicts_as_what_was_saved(make_model, tiny_processor, images, tmp_path):
    model = make_model().eval()
    model.save_pretrained(tmp_path)
    tiny_processor.save_pretrained(tmp_path)
    loaded, processor = load_model(str(tmp_path))
    assert (type(loaded), type(processor)) == (type(model), DepthAnythingImageProcessor)
    assert not loaded.training
    expected, found = predict_depth(model, tiny_processor, images), predict_depth(loaded, processor, images)
    assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))


def test_load_model__of_another_kind_is_an_error(make_model, tmp_path):
    make_model().backbone.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="is of type 'dinov2', which estimates no depth"):
        load_model(str(tmp_path))


# --- adapters


@pytest.fixture
def base(make_model, tiny_processor, tmp_path):
    """Folder of a tiny model."""
    make_model().save_pretrained(tmp_path / "base")
    tiny_processor.save_pretrained(tmp_path / "base")
    return str(tmp_path / "base")


@pytest.fixture
def make_adapter(base, adapt, tmp_path):
    """Function that saves an adapter of the model, as trained: `make_adapter(decoder)` returns its model and folder."""

    def make(decoder):
        adapted = adapt(base, decoder)
        adapted.save_pretrained(tmp_path / "adapter")
        return adapted, str(tmp_path / "adapter")

    return make


@pytest.mark.slow
@pytest.mark.parametrize("decoder", ["full", "lora", "frozen"])
def test_load_model__merges_an_adapter_into_its_base(make_adapter, base, images, decoder):
    adapted, folder = make_adapter(decoder)
    assert (adapter_base(folder), adapter_base(base)) == (base, None)
    loaded, processor = load_model(folder)
    assert type(loaded).__name__ == "DepthAnythingForDepthEstimation"
    assert not loaded.training
    assert not [name for name, _ in loaded.named_modules() if "lora" in name]
    assert processor.size == {"height": 56, "width": 56}  # the base's
    found, expected = (predict_depth(model, processor, images[:2]) for model in (loaded, adapted))
    (before, _) = load_model(base)
    for one, other, old in zip(found, expected, predict_depth(before, processor, images[:2]), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
        assert (one - old).abs().max() > 1e-3  # the adapter does something


def test_load_model__adapter_that_names_no_base_is_an_error(make_adapter):
    _, folder = make_adapter("frozen")
    path = f"{folder}/adapter_config.json"
    with open(path) as file:
        config = json.load(file)
    with open(path, "w") as file:
        json.dump(config | {"base_model_name_or_path": None}, file)
    with pytest.raises(
        ValueError, match=r"adapter_config\.json does not say which model the adapter belongs to; write"
    ):
        load_model(folder)


def test_adapter_base__of_a_folder_without_a_model_is_none(tmp_path):
    assert adapter_base(str(tmp_path)) is None


def test_model_revision__follows_the_weights():
    model = nn.BatchNorm1d(2)  # which has a number without dimension among its weights
    model.config = SimpleNamespace()
    before = model_revision("teacher", model)
    assert before == model_revision("elsewhere", model)
    model.num_batches_tracked += 1
    assert before != model_revision("teacher", model)
    assert model_revision("teacher", model.to(torch.bfloat16)).startswith("sha256:")


def test_model_revision__commit_of_a_whole_model_only(monkeypatch):
    model = nn.Linear(1, 1)
    model.config = SimpleNamespace(_commit_hash="0123")
    monkeypatch.setattr(weights, "adapter_base", {"me/model": None, "me/adapter": "me/model"}.get)
    assert model_revision("me/model", model) == "0123"
    assert model_revision("me/adapter", model).startswith("sha256:")  # that commit is the base model's


@pytest.mark.parametrize(
    ("size", "keep", "expected"),
    [((518, 518), True, (1036, 1036)), ((112, 140), False, (1036, 1288)), ((140, 112), False, (1288, 1036))],
)
def test_set_resolution__keeps_the_shape_into_which_images_are_squeezed(size, keep, expected):
    processor = DepthAnythingImageProcessor(size={"height": size[0], "width": size[1]}, keep_aspect_ratio=keep)
    set_resolution(processor, None, 1036)
    assert (processor.size["height"], processor.size["width"]) == expected


# --- what is said of a prediction


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_check_prediction__values_that_are_none_are_refused(value):
    depth = torch.rand(10, 10)
    depth[3, 4] = value
    with pytest.raises(PredictionError, match=r"NaN or infinite in 1\.0% of its pixels"):
        check_prediction(depth)


def test_check_prediction__a_constant_one_is_said():
    assert check_prediction(torch.full((3, 4), 2.5)) == "the prediction is the same everywhere (2.5)"
    assert check_prediction(torch.rand(3, 4)) is None
    assert check_prediction(torch.ones(1, 1)) is None
    assert check_prediction(torch.ones(2, 2).half()) is not None


# --- adapters that are not what their files say


@pytest.mark.slow
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: edit_config(f, base_model_name_or_path=str(f)), "which is the adapter itself"),
        (lambda f: edit_config(f, base_model_name_or_path=f"{f}/../{f.name}/"), "which is the adapter itself"),
        (lambda f: edit_config(f, base_model_name_or_path="/no/where", auto_mapping=None), "which is no folder here"),
        (lambda f: edit_config(f, base_model_name_or_path=3), "does not say which model the adapter belongs to"),
        (lambda f: edit_config(f, r="8"), "does not fit"),
        (lambda f: edit_config(f, r=4), "does not fit .*size mismatch"),
        (lambda f: edit_config(f, target_modules="(("), "does not fit .*unterminated subpattern"),
        (lambda f: edit_config(f, auto_mapping=[1]), "describe no model"),
        (lambda f: (f / "adapter_model.safetensors").unlink(), "and no adapter_model.safetensors"),
        (lambda f: (f / "adapter_model.safetensors").write_text("version https://git-lfs"), "pointer of Git LFS"),
        (lambda f: (f / "adapter_model.safetensors").write_bytes(b"x" * 100), "is cut or damaged"),
        (lambda f: (f / "adapter_config.json").write_text("{"), "adapter_config.json is cut or damaged"),
        (lambda f: edit_weights(f, drop_one), "of their weights have no counterpart"),
        (lambda f: edit_weights(f, make_nan), "holds NaN or infinite weights"),
    ],
)
def test_load_model__adapter_that_is_not_what_its_files_say(damage, message, make_adapter):
    folder = Path(make_adapter("frozen")[1])
    damage(folder)
    with pytest.raises((ValueError, OSError), match=message) as caught:
        load_model(str(folder))
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_load_model__adapters_that_name_each_other(make_adapter, tmp_path):
    first = Path(make_adapter("frozen")[1])
    second = Path(shutil.copytree(first, tmp_path / "second"))
    edit_config(first, base_model_name_or_path=str(second), auto_mapping=None)
    edit_config(second, base_model_name_or_path=str(first), auto_mapping=None)
    with pytest.raises(ValueError, match="or one that lies on it"):
        load_model(str(first))


def edit_config(folder, **changes):
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def edit_weights(folder, change):
    weights = load_file(folder / "adapter_model.safetensors")
    change(weights)
    save_file(weights, folder / "adapter_model.safetensors")


def drop_one(weights):
    weights.pop(next(iter(weights)))


def make_nan(weights):
    name = next(name for name in weights if "lora_B" in name)
    weights[name][0] = float("nan")


def test_predict_depth__image_too_narrow_for_a_network(make_model, tiny_processor):
    with pytest.raises(ValueError, match="6000 x 6 pixels: sides of 1 to 1000, at most 1 to 8"):
        predict_depth(make_model(), tiny_processor, [Image.new("RGB", (6000, 6))])
