import json
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file, save_file
from torch.nn import functional as F
from transformers import (
    AutoModelForDepthEstimation,
    Dinov2Backbone,
    Dinov2Config,
    Dinov2Model,
    Trainer,
    TrainingArguments,
    ViTConfig,
    default_data_collator,
)
from transformers import DepthAnythingForDepthEstimation as StockDepthAnything

from depth_anything_hf import DepthCollator
from depth_anything_hf.data.records import encode_record
from depth_anything_hf.losses import affine_invariant_loss, gradient_matching_loss, silog_loss
from depth_anything_hf.model.configuration import config_for_encoder
from depth_anything_hf.model.image_processing import DepthAnythingImageProcessor
from depth_anything_hf.model.modeling import UNUSED_PARAMETERS, DepthAnythingForDepthEstimation
from depth_anything_hf.prediction.predictor import predict_depth

NAN, INF = float("nan"), float("inf")


def pixels(batch=2, height=56, width=56, seed=0):
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(seed))


def disparity(batch=2, height=56, width=56, seed=1):
    return torch.rand(batch, height, width, generator=torch.Generator().manual_seed(seed)) + 0.1


def frozen(model):
    return {name for name, parameter in model.named_parameters() if not parameter.requires_grad}


def everywhere(labels):
    return torch.ones_like(labels, dtype=torch.bool)


# --- checkpoints


@pytest.mark.parametrize("max_depth", [None, 20])
def test_save_pretrained__round_trip_is_bit_equal(make_model, tmp_path, max_depth):
    model = make_model(max_depth=max_depth).eval()
    model.save_pretrained(tmp_path)
    loaded = DepthAnythingForDepthEstimation.from_pretrained(tmp_path)
    assert type(loaded) is DepthAnythingForDepthEstimation
    assert loaded.state_dict().keys() == model.state_dict().keys()
    assert all(torch.equal(loaded.state_dict()[name], value) for name, value in model.state_dict().items())
    with torch.no_grad():
        assert torch.equal(loaded(pixels()).predicted_depth, model(pixels()).predicted_depth)


@pytest.mark.slow
@pytest.mark.parametrize("version", ["v1", "v2"])
@pytest.mark.parametrize("max_depth", [None, 20])
def test_save_pretrained__loads_in_the_stock_class(make_model, tmp_path, version, max_depth):
    model = make_model(version, max_depth).eval()
    model.save_pretrained(tmp_path)
    stock = AutoModelForDepthEstimation.from_pretrained(tmp_path)
    assert type(stock) is StockDepthAnything
    for size in ((56, 56), (42, 70)):
        with torch.no_grad():
            ours, theirs = (one(pixels(1, *size)).predicted_depth for one in (model, stock))
        assert ours.std() > 1e-4
        assert torch.equal(ours, theirs)


def test_save_pretrained__writes_what_the_stock_class_writes(make_model, tmp_path):
    model = make_model()
    model.save_pretrained(tmp_path / "ours")
    StockDepthAnything.from_pretrained(tmp_path / "ours").save_pretrained(tmp_path / "stock")
    names = {path.name for path in (tmp_path / "ours").iterdir()}
    assert names == {path.name for path in (tmp_path / "stock").iterdir()} == {"config.json", "model.safetensors"}
    ours, stock = (json.loads((tmp_path / kind / "config.json").read_text()) for kind in ("ours", "stock"))
    assert (ours["architectures"], ours["model_type"]) == (["DepthAnythingForDepthEstimation"], "depth_anything")
    assert "auto_map" not in ours
    assert "depth_anything_hf" not in json.dumps(ours)
    for config in (ours, stock):
        config["backbone_config"].pop("dtype")  # the one key that loading fills in
    assert ours == stock
    ours, stock = (load_file(tmp_path / kind / "model.safetensors") for kind in ("ours", "stock"))
    assert ours.keys() == stock.keys()
    assert all(torch.equal(ours[name], stock[name]) for name in ours)


@pytest.mark.slow
def test_save_pretrained__runs_in_the_stock_pipeline_without_this_package(make_model, noise_image, tmp_path):
    model = make_model().eval()
    processor = DepthAnythingImageProcessor(size={"height": 56, "width": 56}, resize_method="minimal")
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    image = noise_image(61, 83)
    image.save(tmp_path / "image.png")
    code = """
        import sys
        sys.modules["depth_anything_hf"] = None  # importing it now fails
        try:
            import depth_anything_hf
            raise SystemExit("the package is still there")
        except ImportError:
            pass
        import numpy as np
        from transformers import pipeline
        folder = sys.argv[1]
        found = pipeline("depth-estimation", model=folder, device="cpu")(folder + "/image.png")
        assert found["depth"].size == (83, 61), found["depth"].size
        np.save(folder + "/depth.npy", found["predicted_depth"].numpy())
    """
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    found = torch.from_numpy(np.load(tmp_path / "depth.npy"))
    (expected,) = predict_depth(model, processor, [image], mode="bicubic")
    assert expected.std() > 1e-3
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


def test_from_pretrained__initializes_only_what_is_missing(make_model, tmp_path):
    model = make_model()
    with torch.no_grad():
        model.head.conv3.bias.fill_(7)
    model.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    lost = ("head.conv3.bias", "head.conv2.weight")
    kept = {name: value for name, value in weights.items() if name not in lost}
    save_file(kept, tmp_path / "model.safetensors", metadata={"format": "pt"})
    loaded, info = DepthAnythingForDepthEstimation.from_pretrained(tmp_path, output_loading_info=True)
    assert set(info["missing_keys"]) == set(lost)
    assert frozen(loaded) == set(UNUSED_PARAMETERS)
    assert loaded.head.conv3.bias.item() == 1
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value) == (name not in lost), name


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_from_pretrained__in_half_precision(make_model, tmp_path, dtype):
    model = make_model().eval()
    model.save_pretrained(tmp_path)
    loaded = DepthAnythingForDepthEstimation.from_pretrained(tmp_path, dtype=dtype)
    assert {parameter.dtype for parameter in loaded.parameters()} == {dtype}
    assert frozen(loaded) == set(UNUSED_PARAMETERS)
    output = loaded(pixels().to(dtype), labels=disparity())
    assert (output.predicted_depth.dtype, output.loss.dtype) == (dtype, torch.float32)
    assert torch.isfinite(output.loss)
    torch.testing.assert_close(output.predicted_depth.float(), model(pixels()).predicted_depth, rtol=0.1, atol=0.02)


# --- parameters that never get a gradient


def test_frozen__are_five(make_model, tmp_path):
    assert len(UNUSED_PARAMETERS) == 5
    model = make_model()
    assert frozen(model) == set(UNUSED_PARAMETERS)
    model.save_pretrained(tmp_path)
    assert frozen(DepthAnythingForDepthEstimation.from_pretrained(tmp_path)) == set(UNUSED_PARAMETERS)
    assert frozen(DepthAnythingForDepthEstimation.from_encoder(model.backbone)) == set(UNUSED_PARAMETERS)


@pytest.mark.parametrize("version", ["v1", "v2"])
@pytest.mark.parametrize("max_depth", [None, 20])
@pytest.mark.parametrize("thawed", [False, True])
def test_frozen__are_exactly_those_without_a_gradient(make_model, version, max_depth, thawed):
    model = make_model(version, max_depth)
    if thawed:  # the five get none even where they ask for one
        model.requires_grad_(True)
    model(pixels(), labels=disparity()).loss.backward()
    without = {name for name, parameter in model.named_parameters() if parameter.grad is None}
    assert without == set(UNUSED_PARAMETERS)
    for name, parameter in model.named_parameters():
        assert parameter.grad is None or torch.isfinite(parameter.grad).all(), name


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_gradient__reaches_every_block(make_model, version):
    model = make_model(version)
    model(pixels(), labels=disparity()).loss.backward()
    zero = [name for name, p in model.named_parameters() if p.grad is not None and not p.grad.abs().sum() > 0]
    # Attention is blind to a common shift of the keys: the gradient of their bias is 0 but for rounding.
    assert [name for name in zero if "k_proj.bias" not in name and "key.bias" not in name] == []


def test_frozen__encoder_without_a_mask_token(tiny_encoder_config):
    tiny_encoder_config.use_mask_token = False
    model = DepthAnythingForDepthEstimation(config_for_encoder(tiny_encoder_config))
    assert frozen(model) == set(UNUSED_PARAMETERS) - {"backbone.embeddings.mask_token"}


# --- labels and losses


def test_loss__relative_is_affine_invariant_and_twice_gradient_matching(make_model):
    model, labels = make_model(), disparity()
    labels[0, :10] = NAN
    labels[1, :, :7] = 0  # the sky
    labels[1, 30:] = -1
    output = model(pixels(), labels=labels)
    mask = torch.isfinite(labels) & (labels >= 0)
    prediction = output.predicted_depth
    expected = affine_invariant_loss(prediction, labels, mask) + 2 * gradient_matching_loss(prediction, labels, mask)
    assert gradient_matching_loss(prediction, labels, mask) > 0
    torch.testing.assert_close(output.loss, expected)
    sky_left_out = affine_invariant_loss(prediction, labels, mask & (labels > 0))
    assert not torch.isclose(sky_left_out, affine_invariant_loss(prediction, labels, mask))


def test_loss__gradient_matching_weight_zero_is_v1s(make_model):
    model, labels = make_model(), disparity()
    model.gradient_matching_weight = 0
    output = model(pixels(), labels=labels)
    expected = affine_invariant_loss(output.predicted_depth, labels, everywhere(labels))
    torch.testing.assert_close(output.loss, expected)


def test_loss__does_not_depend_on_the_labels_scale_and_shift(make_model):
    model, labels = make_model(), disparity()
    loss = model(pixels(), labels=labels).loss
    torch.testing.assert_close(model(pixels(), labels=1000 * labels + 7).loss, loss, rtol=1e-4, atol=0)


def test_loss__metric_is_silog_up_to_max_depth(make_model):
    model = make_model(max_depth=20)
    labels = disparity() * 20 + 0.5  # metres, some beyond 20
    labels[0, :5] = 0
    labels[1, :5] = INF
    output = model(pixels(), labels=labels)
    mask = (labels > 0) & (labels <= 20)
    assert 0.5 < mask.float().mean() < 0.9
    torch.testing.assert_close(output.loss, silog_loss(output.predicted_depth, labels, mask))
    without_cap = silog_loss(output.predicted_depth, labels, (labels > 0) & torch.isfinite(labels))
    assert not torch.isclose(output.loss, without_cap)
    labels[labels > 20] = 1000
    torch.testing.assert_close(model(pixels(), labels=labels).loss, output.loss)


@pytest.mark.parametrize("max_depth", [None, 20])
def test_label_mask__leaves_values_out(make_model, max_depth):
    model, labels = make_model(max_depth=max_depth), disparity() * 5
    mask = torch.rand(labels.shape, generator=torch.Generator().manual_seed(2)) > 0.4
    expected = model(pixels(), labels=torch.where(mask, labels, NAN)).loss
    for rubbish in (NAN, INF, -3.0, 0.0, 3.0):
        assert torch.equal(model(pixels(), labels=torch.where(mask, labels, rubbish), label_mask=mask).loss, expected)
    assert not torch.isclose(model(pixels(), labels=labels).loss, expected)


def test_label_mask__never_adds_what_is_no_label(make_model):
    model, labels = make_model(), disparity()
    labels[:, :9] = NAN
    loss = model(pixels(), labels=labels, label_mask=everywhere(labels)).loss
    assert torch.equal(loss, model(pixels(), labels=labels).loss)
    assert torch.isfinite(loss)


@pytest.mark.parametrize("max_depth", [None, 20])
def test_label_mask__empty_gives_zero_with_a_graph(make_model, max_depth):
    model = make_model(max_depth=max_depth)
    loss = model(pixels(), labels=disparity(), label_mask=torch.zeros(2, 56, 56, dtype=torch.bool)).loss
    loss.backward()
    assert loss.item() == 0
    assert {n for n, p in model.named_parameters() if p.requires_grad and p.grad is None} == set()


def test_label_mask__image_without_labels_does_not_count(make_model):
    model, labels = make_model(), disparity(3)
    mask = everywhere(labels)
    mask[1] = False
    kept = [0, 2]
    expected = model(pixels(3)[kept], labels=labels[kept]).loss
    torch.testing.assert_close(model(pixels(3), labels=labels, label_mask=mask).loss, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "mask",
    [
        torch.ones(1, 56, 56, dtype=torch.bool),
        torch.ones(56, 56, dtype=torch.bool),
        torch.ones(2, 1, 56, 56, dtype=torch.bool),
        torch.ones(2, 56, 56),
        torch.ones(2, 56, 56, dtype=torch.uint8),
    ],
)
def test_label_mask__of_another_shape_or_dtype_is_an_error(make_model, mask):
    with pytest.raises(
        ValueError, match=r"label_mask has shape .* and dtype .*; it must be torch\.bool .* Write label_mask"
    ):
        make_model()(pixels(), labels=disparity(), label_mask=mask)


@pytest.mark.parametrize("shape", [(2, 1, 56, 56), (2, 60, 80), (1, 56, 56), (56, 56)])
def test_labels__of_another_shape_are_an_error(make_model, shape):
    message = r"labels have shape .* and the prediction \(2, 56, 56\); both must be \(batch, height, width\).* squeeze"
    with pytest.raises(ValueError, match=message):
        make_model()(pixels(), labels=torch.rand(shape))


def test_pixel_values__not_multiples_of_the_patch_are_an_error(make_model):
    message = (
        r"pixel_values are 60 x 83 pixels; both sides must be multiples of the patch size 14, such as 56 x 84\. Depth"
    )
    with pytest.raises(ValueError, match=message):
        make_model()(pixels(1, 60, 83))


@pytest.mark.parametrize("max_depth", [20, None])
def test_config__relative_with_a_max_depth_is_an_error(make_model, max_depth):
    config = make_model(max_depth=20).config
    config.depth_estimation_type, config.max_depth = "relative", max_depth
    message = (
        rf"max_depth is {max_depth} with depth_estimation_type='relative'.* must be 1\. Set config\.max_depth = 1"
    )
    with pytest.raises(ValueError, match=message):
        DepthAnythingForDepthEstimation(config)


# --- outputs


def test_forward__without_labels_is_the_stock_forward(make_model):
    model = make_model().eval()
    stock = StockDepthAnything(model.config).eval()
    stock.load_state_dict(model.state_dict())
    ours, theirs = model(pixels()), stock(pixels())
    assert ours.keys() == theirs.keys() == {"predicted_depth"}
    assert torch.equal(ours.predicted_depth, theirs.predicted_depth)
    assert torch.equal(model(pixels(), return_dict=False)[0], ours.predicted_depth)


@pytest.mark.parametrize("by_config", [False, True])
def test_forward__hidden_states_and_attentions_are_the_stock_ones(make_model, by_config):
    model = make_model().eval()
    model.set_attn_implementation("eager")  # the fast kernels keep no attention
    stock = StockDepthAnything(model.config).eval()
    stock.load_state_dict(model.state_dict())
    asked = {"output_hidden_states": True, "output_attentions": True}
    if by_config:
        for name, value in asked.items():
            setattr(model.config, name, value)
        asked = {}
    ours, theirs = model(pixels(), **asked), stock(pixels(), **asked)
    assert len(ours.hidden_states) == len(theirs.hidden_states) == 5
    assert all(torch.equal(a, b) for a, b in zip(ours.hidden_states, theirs.hidden_states, strict=True))
    assert (ours.attentions is None) == (theirs.attentions is None)
    if theirs.attentions is not None:
        assert all(torch.equal(a, b) for a, b in zip(ours.attentions, theirs.attentions, strict=True))


def test_forward__return_dict_false_starts_with_the_loss(make_model):
    model = make_model()
    expected = model(pixels(), labels=disparity())
    loss, depth = model(pixels(), labels=disparity(), return_dict=False)
    assert torch.equal(loss, expected.loss)
    assert torch.equal(depth, expected.predicted_depth)


@pytest.mark.parametrize("version", ["v1", "v2"])
@pytest.mark.parametrize("size", [(56, 56), (42, 70)])
def test_output_features__are_the_normed_last_patch_tokens(make_model, tiny_encoder_config, version, size):
    torch.manual_seed(0)
    encoder = Dinov2Model(tiny_encoder_config).eval()
    with torch.no_grad():
        encoder.layernorm.weight.uniform_(0.5, 2)  # the fresh norm's weight of 1 would hide a second norm
        encoder.layernorm.bias.uniform_(-1, 1)
    model = DepthAnythingForDepthEstimation.from_encoder(encoder, version).eval()
    features = model(pixels(2, *size), output_features=True).features
    assert features.shape == (2, size[0] * size[1] // 14**2, 32)
    torch.testing.assert_close(features, encoder(pixels(2, *size)).last_hidden_state[:, 1:])
    assert model(pixels(2, *size)).features is None


@pytest.mark.parametrize("seed", range(5))
def test_fresh_model__is_positive_and_not_constant(make_model, seed):
    relative = make_model(seed=seed)(pixels()).predicted_depth
    assert relative.min() > 0
    assert relative.std() > 1e-3
    assert make_model(seed=seed).head.conv3.bias.item() == 1
    metric = make_model(seed=seed, max_depth=20)(pixels()).predicted_depth
    assert 5 < metric.min() < metric.max() < 15  # the middle of the sigmoid, where it learns


# --- pretrained encoders


def test_from_encoder__copies_the_weights_of_a_model(tiny_encoder_config):
    encoder = Dinov2Model(tiny_encoder_config)
    model = DepthAnythingForDepthEstimation.from_encoder(encoder, version="v1", max_depth=80)
    assert list(model.config.backbone_config.out_indices) == [1, 2, 3, 4]
    assert (model.config.depth_estimation_type, model.config.max_depth) == ("metric", 80)
    assert model.backbone.state_dict().keys() == encoder.state_dict().keys()
    assert all(torch.equal(model.backbone.state_dict()[name], value) for name, value in encoder.state_dict().items())
    before = encoder.layernorm.bias.clone()
    with torch.no_grad():
        model.backbone.layernorm.bias.add_(1)
    assert torch.equal(encoder.layernorm.bias, before)  # a copy, not a share


@pytest.mark.parametrize("kind", [Dinov2Model, Dinov2Backbone])
@pytest.mark.parametrize("as_path", [False, True])
def test_from_encoder__of_a_folder_and_of_a_model_are_equal(tiny_encoder_config, tmp_path, kind, as_path):
    encoder = kind(tiny_encoder_config)
    encoder.save_pretrained(tmp_path)
    loaded = DepthAnythingForDepthEstimation.from_encoder(tmp_path if as_path else str(tmp_path))
    for model in (loaded, DepthAnythingForDepthEstimation.from_encoder(encoder)):
        assert all(
            torch.equal(model.backbone.state_dict()[name], value) for name, value in encoder.state_dict().items()
        )
        assert model.backbone.state_dict().keys() == encoder.state_dict().keys()
        assert frozen(model) == set(UNUSED_PARAMETERS)
    loaded.save_pretrained(tmp_path / "model")
    assert str(tmp_path) not in (tmp_path / "model" / "config.json").read_text()


def test_from_encoder__half_precision_encoder_gives_float32(tiny_encoder_config):
    encoder = Dinov2Model(tiny_encoder_config).half()
    model = DepthAnythingForDepthEstimation.from_encoder(encoder)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert torch.equal(model.backbone.layernorm.weight, encoder.layernorm.weight.float())


def test_from_encoder__of_another_kind_is_an_error(make_model, tmp_path):
    for other in (torch.nn.Linear(1, 1), None):
        with pytest.raises(TypeError, match=rf"encoder is a {type(other).__name__}; it must be a Dinov2Model"):
            DepthAnythingForDepthEstimation.from_encoder(other)
    ViTConfig().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"is of type 'vit'; from_encoder takes a DINOv2 encoder"):
        DepthAnythingForDepthEstimation.from_encoder(str(tmp_path))


def same(one, other):
    return all(torch.equal(value, other.state_dict()[name]) for name, value in one.state_dict().items())


@pytest.mark.parametrize("as_folder", [False, True])
def test_from_encoder__metric_from_a_relative_model_takes_the_encoder_alone(make_model, tmp_path, as_folder):
    relative = make_model(version="v1", seed=3)
    relative.save_pretrained(tmp_path)
    torch.manual_seed(0)
    model = DepthAnythingForDepthEstimation.from_encoder(str(tmp_path) if as_folder else relative, max_depth=20)
    assert (model.config.depth_estimation_type, model.config.max_depth) == ("metric", 20)
    assert list(model.config.backbone_config.out_indices) == [1, 2, 3, 4]  # the checkpoint's, not V2's
    assert same(relative.backbone, model.backbone)
    assert not same(relative.neck, model.neck)
    assert not same(relative.head, model.head)
    predicted = model.eval()(torch.randn(1, 3, 56, 56)).predicted_depth
    assert 0 < predicted.min() < predicted.max() < 20


def test_from_encoder__with_the_neck(make_model):
    relative = make_model(version="v2", seed=3)
    model = DepthAnythingForDepthEstimation.from_encoder(relative, max_depth=20, with_neck=True).eval()
    assert same(relative.backbone, model.backbone)
    assert same(relative.neck, model.neck)
    assert not same(relative.head, model.head)
    images = torch.randn(1, 3, 56, 56)
    encoded = model.backbone.forward_with_filtered_kwargs(images).feature_maps
    fused = [neck(encoded, 4, 4)[-1] for neck in (model.neck, relative.eval().neck)]
    assert torch.equal(*fused)
    with torch.no_grad():
        model.neck.convs[0].weight.add_(1)
    assert not same(relative.neck, model.neck)  # a copy, not a share


def test_from_encoder__a_neck_that_is_not_there_or_reads_other_blocks_is_an_error(make_model, tiny_encoder_config):
    deep = Dinov2Config(
        **tiny_encoder_config.to_dict() | {"num_hidden_layers": 8, "out_indices": None, "stage_names": None}
    )
    relative = DepthAnythingForDepthEstimation(config_for_encoder(deep, "v1"))
    with pytest.raises(ValueError, match=r"reads the blocks \[2, 4, 6, 8\]; it reads \[5, 6, 7, 8\]"):
        DepthAnythingForDepthEstimation.from_encoder(relative, version="v2", with_neck=True)
    with pytest.raises(ValueError, match=r"an encoder has none"):
        DepthAnythingForDepthEstimation.from_encoder(Dinov2Model(tiny_encoder_config), with_neck=True)
    assert DepthAnythingForDepthEstimation.from_encoder(relative, version="v2").config.backbone_config.out_indices == [
        2,
        4,
        6,
        8,
    ]


def test_from_encoder__weights_that_do_not_fit_are_an_error(tiny_encoder_config):
    encoder = Dinov2Model(tiny_encoder_config)
    del encoder.layernorm
    with pytest.raises(ValueError, match=r"the encoder's weights do not fit: missing \['layernorm\.weight'"):
        DepthAnythingForDepthEstimation.from_encoder(encoder)


# --- precision and memory


def test_gradient_checkpointing__gives_the_same_gradients(make_model):
    plain, saving = make_model(), make_model()
    saving.gradient_checkpointing_enable()
    assert all(layer.gradient_checkpointing for layer in saving.backbone.encoder.layer)
    losses = []
    for model in (plain, saving):
        model.train()
        losses.append(model(pixels(), labels=disparity()).loss)
        losses[-1].backward()
    assert torch.equal(*losses)
    for (name, one), other in zip(plain.named_parameters(), saving.parameters(), strict=True):
        assert (one.grad is None) == (other.grad is None), name
        if one.grad is not None:
            torch.testing.assert_close(other.grad, one.grad, rtol=1e-5, atol=1e-6, msg=name)


@pytest.mark.parametrize("max_depth", [None, 20])
def test_autocast__loss_is_float32_and_finite(make_model, max_depth):
    model, labels = make_model(max_depth=max_depth), disparity() * 10
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = model(pixels(), labels=labels)
    assert output.predicted_depth.dtype == torch.bfloat16
    assert output.loss.dtype == torch.float32
    assert torch.isfinite(output.loss)
    # From the same rounded prediction, outside autocast: the loss itself has lost nothing.
    again = model.compute_loss(output.predicted_depth.detach(), labels)
    torch.testing.assert_close(output.loss.detach(), again, rtol=1e-6, atol=0)
    output.loss.backward()
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in model.parameters())


# --- the stock Trainer


def examples(count=4, with_mask=True, scale=1.0):
    rows = []
    for index in range(count):
        image, label = pixels(1, seed=index)[0], F.avg_pool2d(pixels(1, seed=index), 7, 1, 3)[0, 0]
        row = {"pixel_values": image, "labels": ((label - label.min()) + 0.1) * scale}
        if with_mask:
            row["label_mask"] = everywhere(row["labels"])
        rows.append(row)
    return rows


def stock_trainer(model, folder, **options):
    data = {name: options.pop(name) for name in ("train_dataset", "eval_dataset", "data_collator") if name in options}
    settings = {
        "output_dir": str(folder),
        "use_cpu": True,
        "report_to": "none",
        "save_strategy": "no",
        "disable_tqdm": True,
        "lr_scheduler_type": "constant",
        "dataloader_pin_memory": False,
        "seed": 3,
    }
    return Trainer(model=model, args=TrainingArguments(**settings | options), **data)


@pytest.mark.slow
@pytest.mark.parametrize("max_depth", [None, 20])
def test_stock_trainer__lowers_the_loss(make_model, tmp_path, max_depth):
    trainer = stock_trainer(
        make_model(max_depth=max_depth),
        tmp_path,
        train_dataset=examples(scale=1 if max_depth is None else 5),
        data_collator=default_data_collator,
        max_steps=30,
        per_device_train_batch_size=4,
        learning_rate=2e-3,
        logging_steps=1,
    )
    assert trainer.model_accepts_loss_kwargs is False
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert len(losses) == 30
    assert np.mean(losses[-3:]) < 0.8 * np.mean(losses[:3])


@pytest.mark.slow
def test_stock_trainer__trains_on_records(make_model, noise_image, tiny_processor, tmp_path):
    generator = np.random.default_rng(0)
    records = [
        encode_record(noise_image(60, 80, seed), generator.uniform(1, 9, (60, 80)), space="depth") for seed in range(4)
    ]
    model = make_model()
    trainer = stock_trainer(
        model,
        tmp_path,
        train_dataset=records,
        eval_dataset=records,
        data_collator=DepthCollator(tiny_processor, model),
        remove_unused_columns=False,
        max_steps=2,
        per_device_train_batch_size=2,
    )
    before = trainer.model.head.conv2.weight.clone()
    trainer.train()
    assert not torch.equal(trainer.model.head.conv2.weight, before)
    assert np.isfinite(trainer.evaluate()["eval_loss"])


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["sgd", "adamw_torch"])
@pytest.mark.parametrize("max_grad_norm", [0, 1.0])
def test_stock_trainer__accumulation_does_not_change_the_weights(make_model, tmp_path, optimizer, max_grad_norm):
    # In float64: in float32 a processor's rounding can turn the sign of a residual near 0, and the gradient with it.
    data = [{name: v if v.dtype == torch.bool else v.double() for name, v in row.items()} for row in examples(8)]
    trained = []
    for batch, accumulated in ((4, 1), (2, 2), (1, 4)):
        model = make_model().double()
        stock_trainer(
            model,
            tmp_path,
            train_dataset=data,
            optim=optimizer,
            # Adam divides each gradient by its own size: one that is rounding noise moves by its sign.
            adam_epsilon=1e-2,
            max_grad_norm=max_grad_norm,
            per_device_train_batch_size=batch,
            gradient_accumulation_steps=accumulated,
            num_train_epochs=1,
            learning_rate=1e-3,
        ).train()
        trained.append(model.state_dict())
    start = make_model().double().state_dict()
    assert max((trained[0][name] - start[name]).abs().max() for name in start) > 1e-4  # it moved
    for other in trained[1:]:
        for name, value in trained[0].items():
            torch.testing.assert_close(other[name], value, rtol=0, atol=1e-5, msg=name)


@pytest.mark.parametrize(
    ("with_mask", "label_names", "has_loss"),
    [(True, None, True), (False, ["labels"], True), (True, ["labels"], True), (False, None, False)],
)
def test_stock_trainer__eval_loss_needs_every_label_name(make_model, tmp_path, with_mask, label_names, has_loss):
    rows = examples(4, with_mask)
    trainer = stock_trainer(
        make_model(),
        tmp_path,
        eval_dataset=rows,
        data_collator=default_data_collator,
        label_names=label_names,
        per_device_eval_batch_size=4,
    )
    assert trainer.label_names == (label_names or ["labels", "label_mask"])
    scores = trainer.evaluate()
    # A batch that lacks one of the names counts as unlabelled: the Trainer predicts, and reports no loss.
    assert ("eval_loss" in scores) == has_loss
    if has_loss:
        model = trainer.model.eval()
        with torch.no_grad():
            expected = model(**default_data_collator(rows)).loss.item()
        assert scores["eval_loss"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("as_dataset", [True, False])
def test_stock_trainer__default_removal_of_columns_leaves_no_record(
    make_model, noise_image, tiny_processor, tmp_path, as_dataset
):
    """Why records need `remove_unused_columns=False`: the model's forward knows none of their columns."""
    records = [encode_record(noise_image(60, 80), np.full((60, 80), 2.0), space="depth")]
    model = make_model()
    trainer = stock_trainer(
        model,
        tmp_path,
        train_dataset=Dataset.from_list(records) if as_dataset else records,
        data_collator=DepthCollator(tiny_processor, model),
        max_steps=1,
    )
    with pytest.raises((ValueError, KeyError, IndexError)) as error:
        trainer.train()
    if as_dataset:
        assert "remove_unused_columns=False" in str(error.value)


def test_stock_trainer__keeps_the_columns_of_forward(make_model, tmp_path):
    rows = [{name: value.numpy() for name, value in row.items()} | {"source": "a"} for row in examples(2)]
    trainer = stock_trainer(make_model(), tmp_path, train_dataset=Dataset.from_list(rows).with_format("torch"))
    batch = next(iter(trainer.get_train_dataloader()))
    assert set(batch) == {"pixel_values", "labels", "label_mask"}
    assert batch["label_mask"].dtype == torch.bool


@pytest.mark.parametrize("swiglu", [False, True])
def test_load_state_dict__takes_the_names_of_the_file(swiglu, tmp_path):
    encoder = Dinov2Config(
        image_size=56, hidden_size=32, num_hidden_layers=4, num_attention_heads=2, use_swiglu_ffn=swiglu
    )
    saved, loaded = (DepthAnythingForDepthEstimation(config_for_encoder(encoder)) for _ in range(2))
    saved.save_pretrained(tmp_path)
    loaded.load_state_dict(load_file(tmp_path / "model.safetensors"), strict=True)  # as the Trainer resumes
    assert all(torch.equal(a, b) for a, b in zip(saved.parameters(), loaded.parameters(), strict=True))


def test_get_input_embeddings__none_and_no_error(make_model):
    """Accelerate asks before it shards a model; the stock class raises."""
    assert make_model().get_input_embeddings() is None


# The space of the labels


@pytest.mark.parametrize(("max_depth", "own", "other"), [(None, "disparity", "depth"), (20, "depth", "disparity")])
def test_forward__refuses_labels_of_the_other_space(make_model, max_depth, own, other):
    model, images, labels = make_model(max_depth=max_depth), torch.randn(2, 3, 56, 56), torch.rand(2, 56, 56) + 0.1
    assert model.label_space == own
    plain = model(images, labels=labels).loss
    assert torch.equal(model(images, labels=labels, target_space=own).loss, plain)
    with pytest.raises(
        ValueError, match=rf"labels are in '{other}' and this model .* learns '{own}'.*DepthCollator\("
    ):
        model(images, labels=labels, target_space=other)


@pytest.mark.slow
@pytest.mark.parametrize("max_depth", [None, 20])
def test_stock_trainer__learns_in_the_models_own_space(make_model, tiny_processor, noise_image, tmp_path, max_depth):
    records = [encode_record(noise_image(56, 56), np.full((56, 56), 4.0), space="depth")]
    model = make_model(max_depth=max_depth)
    collate = DepthCollator(tiny_processor, model)
    assert collate(records)["labels"].unique().tolist() == [0.25 if max_depth is None else 4.0]
    for learner in (model, make_model(max_depth=20 if max_depth is None else None)):
        settings = {"data_collator": collate, "max_steps": 1, "remove_unused_columns": False}
        trainer = stock_trainer(learner, tmp_path, train_dataset=records, **settings)
        if learner is model:
            trainer.train()
        else:
            with pytest.raises(ValueError, match="Make the batch for this model"):
                trainer.train()


def test_forward__other_arguments_are_ignored_as_in_the_stock_class(make_model):
    model = make_model().eval()
    stock = StockDepthAnything(model.config).eval()
    stock.load_state_dict(model.state_dict())
    expected = stock(pixels(), unknown=1).predicted_depth
    torch.testing.assert_close(model(pixels(), unknown=1).predicted_depth, expected)
