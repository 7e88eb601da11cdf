"""`DepthPredictor`: one way to open a model, place it, know its space, and predict."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from depth_anything_hf.prediction import predictor as predictor_module
from depth_anything_hf.prediction.devices import choose_device
from depth_anything_hf.prediction.predictor import (
    DepthPredictor,
    load_model,
    predict_depth,
    set_resolution,
)
from depth_anything_hf.prediction.weights import model_revision


@pytest.fixture
def save(make_model, tiny_processor, tmp_path):
    """Function that saves a tiny model: `save(name, max_depth, seed)` returns its folder."""

    def save_one(name="model", max_depth=None, seed=0):
        make_model(max_depth=max_depth, seed=seed).save_pretrained(tmp_path / name)
        tiny_processor.save_pretrained(tmp_path / name)
        return str(tmp_path / name)

    return save_one


def test_predictor__one_image_or_many(save, noise_image):
    name, images = save(), [noise_image(60, 80), noise_image(33, 70, 1)]
    predict = DepthPredictor(name, device="cpu")
    expected = predict_depth(*load_model(name), images[:1])[0]
    found = predict(images[0])
    assert torch.equal(found, expected)
    assert (found.shape, found.dtype, found.device.type) == ((60, 80), torch.float32, "cpu")
    assert [depth.shape for depth in predict(images)] == [(60, 80), (33, 70)]
    assert torch.equal(predict(images)[0], expected)
    assert not predict.model.training
    with pytest.raises(ValueError, match="images is empty"):
        predict([])


@pytest.mark.parametrize(("max_depth", "space"), [(None, "disparity"), (20.0, "depth")])
def test_predictor__knows_what_it_predicts(save, max_depth, space):
    name = save(max_depth=max_depth)
    predictor = DepthPredictor(name, device="cpu")
    assert predictor.space == space
    assert predictor.revision == model_revision(name, predictor.model)
    assert predictor.device == torch.device("cpu")


def test_predictor__of_a_config_that_does_not_say_needs_the_space(save):
    model, processor = load_model(save())
    model.config.depth_estimation_type = "other"
    with pytest.raises(ValueError, match="does not say whether it predicts disparity or depth"):
        DepthPredictor.from_model(model, processor)
    assert DepthPredictor.from_model(model, processor, space="depth").space == "depth"
    with pytest.raises(ValueError, match="space is 'meters'"):
        DepthPredictor.from_model(model, processor, space="meters")


def test_predictor__resolution_is_its_own(save, noise_image):
    name, image = save(), noise_image(60, 80)
    model, processor = load_model(name)
    own = predict_depth(model, processor, [image])[0]
    finer = DepthPredictor.from_model(model, processor, resolution=112)
    assert processor.size == {"height": 56, "width": 56}  # what was given is not changed
    assert torch.equal(predict_depth(model, processor, [image])[0], own)
    set_resolution(processor, model.config, 112)
    expected = predict_depth(model, processor, [image])[0]
    assert torch.equal(finer(image), expected)
    assert torch.equal(DepthPredictor(name, resolution=112, device="cpu")(image), expected)
    assert not torch.equal(own, expected)
    with pytest.raises(ValueError, match="must be a multiple of the patch size 14, such as 98"):
        DepthPredictor(name, resolution=100)


def test_predictor__dtype(save, noise_image):
    half = DepthPredictor(save(), dtype=torch.bfloat16, device="cpu")
    assert {one.dtype for one in half.model.parameters()} == {torch.bfloat16}
    assert half(noise_image(60, 80)).dtype == torch.float32


def test_predictor__from_model_stays_where_it_is_and_follows_it(make_model, tiny_processor, noise_image):
    model = make_model()
    predictor = DepthPredictor.from_model(model, tiny_processor)
    assert predictor.model is model
    assert predictor.device == torch.device("cpu")
    model.to("meta")
    assert predictor.device == torch.device("meta")


def test_predictor__from_model_is_identified_by_its_weights(save):
    name = save()
    model, processor = load_model(name)
    assert DepthPredictor.from_model(model, processor).revision == DepthPredictor(name, device="cpu").revision
    assert DepthPredictor.from_model(model, processor).revision.startswith("sha256:")


@pytest.mark.slow
def test_predictor__opens_mini_and_adapters(save, adapt, noise_image, tmp_path):
    assert DepthPredictor("mini", device="cpu")(Image.new("RGB", (64, 48))).shape == (48, 64)
    adapted = adapt(save(), "lora")
    adapted.save_pretrained(tmp_path / "adapter")
    found = DepthPredictor(str(tmp_path / "adapter"), device="cpu")(noise_image(60, 80))
    expected = predict_depth(*load_model(str(tmp_path / "adapter")), [noise_image(60, 80)])[0]
    assert torch.equal(found, expected)


@pytest.mark.slow
def test_predictor__revision_on_the_hub_reaches_config_model_and_processor(hub, save, noise_image):
    def files(folder):
        return {path.name: path.read_bytes() for path in Path(folder).iterdir()}

    first = files(save("first"))
    hub.add("me/model", first)
    old = hub.model("me/model").head
    second = files(save("second", max_depth=20.0, seed=1))
    second["preprocessor_config.json"] = second["preprocessor_config.json"].replace(b"56", b"84")
    hub.model("me/model").commit(second)
    new = hub.model("me/model").head
    image = noise_image(60, 80)
    found = DepthPredictor("me/model", revision=old, device="cpu")
    assert (found.revision, found.space, found.processor.size["height"]) == (old, "disparity", 56)
    last = DepthPredictor("me/model", device="cpu")
    assert (last.revision, last.space, last.processor.size["height"]) == (new, "depth", 84)
    folder = Path(save("first"))
    assert torch.equal(found(image), DepthPredictor(str(folder), device="cpu")(image))


def test_predictor__a_folder_has_no_revision(save):
    with pytest.raises(
        ValueError, match=r"revision is 'v1', but .* is a folder, which has no revisions; leave it out"
    ):
        DepthPredictor(save(), revision="v1")


@pytest.mark.parametrize(
    ("cuda", "mps", "rank", "expected"),
    [
        (True, True, None, "cuda:0"),
        (True, False, "3", "cuda:3"),
        (False, True, "3", "mps"),
        (False, False, None, "cpu"),
    ],
)
def test_choose_device__cuda_then_mps_then_cpu(cuda, mps, rank, expected, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    if rank is not None:
        monkeypatch.setenv("LOCAL_RANK", rank)
    assert choose_device() == choose_device("auto") == torch.device(expected)


def test_choose_device__a_named_one():
    assert choose_device("cpu") == choose_device(torch.device("cpu")) == torch.device("cpu")
    assert choose_device("meta").type == "meta"
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match=r"device is 'cuda', and PyTorch finds no such device here; use 'auto'"):
            choose_device("cuda")


def test_predictor__runs_on_the_best_device_unless_told(save, monkeypatch):
    monkeypatch.setattr(predictor_module, "choose_device", lambda device: torch.device(device or "meta"))
    assert DepthPredictor(save()).device.type == "meta"
    assert DepthPredictor(save(), device="cpu").device.type == "cpu"
