import json

import pytest
import torch
import transformers
from peft import get_peft_model, inject_adapter_in_model
from transformers import AutoBackbone, AutoConfig, AutoImageProcessor, AutoModel, Dinov2Backbone, Dinov2Model

from depth_anything_hf import DepthAnythingForDepthEstimation
from depth_anything_hf.export.encoder import export_encoder
from depth_anything_hf.prediction.adapters import depth_lora_config
from depth_anything_hf.prediction.predictor import load_model
from depth_anything_hf.training.encoders import load_feature_encoder

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def images():
    return torch.randn(2, 3, 28, 56, generator=torch.Generator().manual_seed(0))


def as_maps(tokens: torch.Tensor) -> torch.Tensor:
    """Lay the patch tokens (batch, 1 + 2 * 4, width) of the images out as maps (batch, width, 2, 4)."""
    return tokens[:, 1:].unflatten(1, (2, 4)).permute(0, 3, 1, 2)


@torch.no_grad()
def features_of(model, images):
    return [as_maps(tokens) for tokens in model.eval().backbone(images).feature_maps]


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_export_encoder__backbone_gives_the_models_own_features(make_model, images, tmp_path, version):
    model = make_model(version)
    export_encoder(model, tmp_path / "encoder")
    backbone = Dinov2Backbone.from_pretrained(tmp_path / "encoder").eval()
    assert type(AutoBackbone.from_config(AutoConfig.from_pretrained(tmp_path / "encoder"))) is Dinov2Backbone
    assert backbone.out_indices == model.config.backbone_config.out_indices
    with torch.no_grad():
        found = backbone(images).feature_maps
    for one, expected in zip(found, features_of(model, images), strict=True):
        assert torch.equal(one, expected)


@pytest.mark.parametrize("load", [AutoModel.from_pretrained, lambda folder: load_feature_encoder(str(folder), 32)])
def test_export_encoder__plain_model_and_feature_encoder_have_the_last_features(make_model, images, tmp_path, load):
    model = make_model(max_depth=20)
    export_encoder(model, tmp_path)
    encoder = load(tmp_path).eval()
    assert type(encoder) is Dinov2Model
    with torch.no_grad():
        found = encoder(images).last_hidden_state
    assert torch.equal(as_maps(found), features_of(model, images)[-1])


def test_export_encoder__other_blocks_by_the_stock_argument(make_model, images, tmp_path):
    model = make_model()
    export_encoder(model, tmp_path)
    backbone = Dinov2Backbone.from_pretrained(tmp_path, out_indices=[2, 4]).eval()
    with torch.no_grad():
        found = backbone(images).feature_maps
    assert [torch.equal(a, b) for a, b in zip(found, features_of(model, images)[1::2], strict=True)] == [True, True]


def test_export_encoder__every_weight_loads(make_model, tmp_path):
    model = make_model()
    export_encoder(model, tmp_path)
    loaded, report = Dinov2Backbone.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    again = DepthAnythingForDepthEstimation.from_encoder(tmp_path)
    for backbone in (loaded, again.backbone):
        for name, weights in model.backbone.state_dict().items():
            assert torch.equal(backbone.state_dict()[name], weights), name


def test_export_encoder__leaves_the_model_as_it_is(make_model, images, tmp_path):
    model = make_model().train()
    config, before = model.config.to_dict(), model(images).predicted_depth
    export_encoder(model, tmp_path)
    assert model.config.to_dict() == config
    assert model.training
    assert torch.equal(model(images).predicted_depth, before)


def test_export_encoder__of_a_folder_brings_its_processor_and_no_path(
    make_model, tiny_processor, noise_image, tmp_path
):
    for part in (make_model(), tiny_processor):
        part.save_pretrained(tmp_path / "checkpoint")
    export_encoder(tmp_path / "checkpoint", tmp_path / "encoder")
    processor = AutoImageProcessor.from_pretrained(tmp_path / "encoder")
    assert type(processor).__module__.startswith("transformers.")
    expected = tiny_processor(noise_image(60, 80), return_tensors="pt")["pixel_values"]
    assert processor(noise_image(60, 80), return_tensors="pt")["pixel_values"].shape == expected.shape
    config = (tmp_path / "encoder" / "config.json").read_text()
    assert json.loads(config)["architectures"] == ["Dinov2Backbone"]
    assert str(tmp_path) not in config


@pytest.mark.slow
def test_export_encoder__of_an_adapter_is_merged(make_model, tiny_processor, adapt, images, tmp_path):
    for part in (make_model(), tiny_processor):
        part.save_pretrained(tmp_path / "base")
    adapt(str(tmp_path / "base"), "frozen").save_pretrained(tmp_path / "adapter")
    export_encoder(tmp_path / "adapter", tmp_path / "encoder")
    found = Dinov2Backbone.from_pretrained(tmp_path / "encoder").eval()(images).feature_maps
    merged, _ = load_model(str(tmp_path / "adapter"))
    for one, expected in zip(found, features_of(merged, images), strict=True):
        assert torch.equal(one, expected)
    base, _ = load_model(str(tmp_path / "base"))
    assert not torch.equal(found[-1], features_of(base, images)[-1])


def test_export_encoder__keeps_the_dtype(make_model, tmp_path):
    export_encoder(make_model().to(torch.bfloat16), tmp_path)
    assert Dinov2Backbone.from_pretrained(tmp_path).dtype == torch.bfloat16


def test_export_encoder__of_a_stock_model(make_model, images, tmp_path):
    make_model().save_pretrained(tmp_path / "checkpoint")
    stock = transformers.DepthAnythingForDepthEstimation.from_pretrained(tmp_path / "checkpoint")
    export_encoder(stock, tmp_path / "encoder")
    found = Dinov2Backbone.from_pretrained(tmp_path / "encoder").eval()(images).feature_maps
    assert torch.equal(found[-1], features_of(stock, images)[-1])


def test_export_encoder__refuses_an_adapter_in_memory_and_other_models(make_model, save_family, tmp_path):
    config = depth_lora_config(2, "frozen")
    injected = inject_adapter_in_model(config, make_model())  # as add_adapter of transformers does
    for model, said in (
        (get_peft_model(make_model(), config), "with an adapter in it.*merge_and_unload"),
        (injected, "with an adapter in it"),
        (save_family("dpt"), "model is a DPTForDepthEstimation; export_encoder takes a Depth Anything"),
    ):
        with pytest.raises(TypeError, match=said):
            export_encoder(model, tmp_path / "encoder")
    assert not (tmp_path / "encoder").exists()
