import re

import pytest
import torch
from peft import PeftModel, get_peft_model
from safetensors.torch import load_file
from torch import nn

from depth_anything_hf import DepthAnythingForDepthEstimation, config_for
from depth_anything_hf.prediction.adapters import depth_lora_config, describe_adapter

DECODERS = ["full", "lora", "frozen"]
NOT_TRAINABLE = "neck.fusion_stage.layers.0.residual_layer1"  # no gradient ever gets there


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def adapt(make_model):
    """Function that adapts a model and moves its trainable weights, as training would: `adapt(decoder)`."""

    def adapt(decoder: str) -> PeftModel:
        adapted = get_peft_model(make_model(), depth_lora_config(rank=2, decoder=decoder)).eval()
        with torch.no_grad():
            for parameter in adapted.parameters():
                if parameter.requires_grad:
                    parameter += 0.05 * torch.randn_like(parameter)
        return adapted

    return adapt


# --- which modules


@pytest.mark.parametrize("decoder", DECODERS)
def test_depth_lora_config__adapts_every_attention_layer_of_the_encoder(make_model, decoder):
    model = get_peft_model(make_model(), depth_lora_config(rank=2, decoder=decoder))
    adapted = {name.split(".lora_A")[0] for name, _ in model.named_parameters() if "lora_A" in name}
    assert sum("backbone" in name for name in adapted) == 4 * 4  # query, key, value, output in each of 4 blocks
    # lora: 4 reassembling projections, 4 convolutions, and in 4 fusion blocks a projection and 2 x 2 convolutions, but
    # for the first unit of the first, and two of the head
    assert sum("backbone" not in name for name in adapted) == (4 + 4 + 4 * 5 - 2 + 2 if decoder == "lora" else 0)
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad and "lora_" not in name]
    assert bool(trained) == (decoder == "full")
    assert not any("backbone" in name for name in trained)


def test_depth_lora_config__full_decoder_is_all_of_it_that_learns(make_model):
    model = get_peft_model(make_model(), depth_lora_config(decoder="full"))
    trained = {
        name.removeprefix("base_model.model.").replace(".modules_to_save.default", "")
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and "lora_" not in name
    }
    decoder = {name for name, _ in make_model().named_parameters() if name.startswith(("neck", "head"))}
    assert {name for name in decoder if not name.startswith(NOT_TRAINABLE)} == trained


def old_tree(swiglu: bool) -> nn.Module:
    """The module names of transformers 4 (Depth Anything of one block), each a linear layer or a convolution."""
    block = "backbone.encoder.layer.0"
    attention = [f"attention.attention.{name}" for name in ("query", "key", "value")] + ["attention.output.dense"]
    names = [f"{block}.{name}" for name in attention]
    names += [f"{block}.mlp.{name}" for name in (("weights_in", "weights_out") if swiglu else ("fc1", "fc2"))]
    names += ["backbone.embeddings.patch_embeddings.projection", "neck.convs.0", "head.conv1", "head.conv3"]
    names += ["neck.reassemble_stage.layers.0.projection", "neck.reassemble_stage.layers.0.resize"]
    names += [f"neck.fusion_stage.layers.{i}.residual_layer1.convolution1" for i in (0, 1)]
    root = nn.Module()
    for name in names:
        *path, last = name.split(".")
        parent = root
        for part in path:
            if part not in parent._modules:
                parent.add_module(part, nn.Module())
            parent = parent._modules[part]
        parent.add_module(last, nn.Linear(4, 4) if "backbone.encoder" in name else nn.Conv2d(4, 4, 1))
    return root


def adapted_modules(model: nn.Module, decoder: str) -> set[str]:
    pattern = depth_lora_config(decoder=decoder).target_modules
    return {name for name, _ in model.named_modules() if re.fullmatch(pattern, name)}


@pytest.mark.parametrize("swiglu", [False, True])
def test_depth_lora_config__finds_the_names_of_older_transformers(swiglu):
    attention = {
        "backbone.encoder.layer.0.attention.attention.query",
        "backbone.encoder.layer.0.attention.attention.key",
        "backbone.encoder.layer.0.attention.attention.value",
        "backbone.encoder.layer.0.attention.output.dense",
    }
    convolutions = {
        "neck.reassemble_stage.layers.0.projection",
        "neck.convs.0",
        "neck.fusion_stage.layers.1.residual_layer1.convolution1",
        "head.conv1",
    }
    assert adapted_modules(old_tree(swiglu), "frozen") == attention
    assert adapted_modules(old_tree(swiglu), "lora") == attention | convolutions
    adapted = get_peft_model(old_tree(swiglu), depth_lora_config(decoder="frozen"))  # as PEFT reads the pattern
    found = {name.split(".lora_A")[0].removeprefix("base_model.model.") for name, _ in adapted.named_parameters()}
    assert {name for name in found if not name.endswith(("weight", "bias"))} == attention


@pytest.mark.slow
@pytest.mark.parametrize("size", ["small", "giant"])
def test_depth_lora_config__finds_the_names_of_this_transformers(size):
    with torch.device("meta"):
        model = DepthAnythingForDepthEstimation(config_for(size))
    blocks = model.config.backbone_config.num_hidden_layers
    attention = {
        f"backbone.encoder.layer.{i}.attention.{one}_proj" for i in range(blocks) for one in ("q", "k", "v", "o")
    }
    assert adapted_modules(model, "frozen") == attention  # and not the giant's gate_proj, up_proj, down_proj


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"decoder": "half"}, "decoder is 'half' and rank 8"), ({"rank": 0}, "rank 0; decoder must be one of")],
)
def test_depth_lora_config__refuses(settings, message):
    with pytest.raises(ValueError, match=message):
        depth_lora_config(**settings)


# --- learning


def gradients(model: PeftModel) -> dict[str, torch.Tensor | None]:
    generator = torch.Generator().manual_seed(2)
    images, labels = torch.randn(2, 3, 56, 56, generator=generator), torch.rand(2, 56, 56, generator=generator)
    model.train()
    model(pixel_values=images, labels=labels).loss.backward()
    return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.requires_grad}


@pytest.mark.parametrize("decoder", DECODERS)
def test_get_peft_model__starts_as_the_base_model(make_model, decoder):
    images = torch.randn(2, 3, 56, 70)
    adapted = get_peft_model(make_model(), depth_lora_config(rank=2, decoder=decoder)).eval()
    with torch.no_grad():
        found, expected = (model(pixel_values=images).predicted_depth for model in (adapted, make_model().eval()))
    assert torch.equal(found, expected)


@pytest.mark.parametrize("decoder", DECODERS)
def test_get_peft_model__every_trainable_weight_gets_a_gradient(adapt, decoder):
    # DDP stops at the second step where one does not.
    found = gradients(adapt(decoder))
    assert [name for name, gradient in found.items() if gradient is None or not gradient.abs().sum() > 0] == []
    assert sum("lora_B" in name for name in found) >= 16


@pytest.mark.slow
@pytest.mark.parametrize("decoder", DECODERS)
def test_gradient_checkpointing__changes_no_gradient(adapt, decoder):
    plain, checkpointed = adapt(decoder), adapt(decoder)
    checkpointed.gradient_checkpointing_enable()
    blocks = checkpointed.get_base_model().backbone.encoder.layer
    runs = []
    blocks[2].attention.register_forward_hook(lambda *_: runs.append(1))
    expected, found = gradients(plain), gradients(checkpointed)
    assert len(runs) == 2  # forwards, and again on the way back
    assert [name for name in expected if not torch.equal(expected[name], found[name])] == []


def test_gradient_checkpointing__reentrant_needs_inputs_with_gradients(adapt):
    # As docs/checkpoints.md says: without the call the encoder's adapters get none, and PyTorch only warns.
    plain, checkpointed = adapt("full"), adapt("full")
    checkpointed.gradient_checkpointing_enable({"use_reentrant": True})
    checkpointed.enable_input_require_grads()
    expected, found = gradients(plain), gradients(checkpointed)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-7)


# --- what it costs


def test_describe_adapter__counts_by_hand(make_model):
    # 4 blocks x 4 layers, each with two matrices of 2 x 32.
    report = describe_adapter(get_peft_model(make_model(), depth_lora_config(rank=2, decoder="frozen")))
    base = sum(parameter.numel() for parameter in make_model().parameters())
    assert report == {
        "trainable_parameters": 2048,
        "parameters": base + 2048,
        "trainable_share": 2048 / (base + 2048),
        "adapter_bytes": 8192,
        "frozen_bytes": 4 * base,
        "training_bytes": 32768,  # weights, gradients and two moments of 4 bytes each
    }


def test_describe_adapter__counts_a_full_decoder_once(make_model):
    report = describe_adapter(get_peft_model(make_model(), depth_lora_config(rank=2, decoder="full")))
    parameters = dict(make_model().named_parameters())
    learning = sum(
        values.numel()
        for name, values in parameters.items()
        if name.startswith(("neck", "head")) and not name.startswith(NOT_TRAINABLE)
    )
    base = sum(values.numel() for values in parameters.values())
    assert report["trainable_parameters"] == 2048 + learning
    assert report["parameters"] == base + 2048
    assert report["frozen_bytes"] == 4 * base  # PEFT keeps the original decoder
    assert report["adapter_bytes"] == 4 * (2048 + learning)


def test_describe_adapter__adapter_bytes_are_those_of_the_file(adapt, tmp_path):
    for decoder in DECODERS:
        model = adapt(decoder)
        model.save_pretrained(tmp_path / decoder)
        stored = load_file(tmp_path / decoder / "adapter_model.safetensors")
        assert describe_adapter(model)["adapter_bytes"] == sum(values.nbytes for values in stored.values())


def test_describe_adapter__base_in_half_precision(make_model):
    model = get_peft_model(make_model().to(torch.bfloat16), depth_lora_config(rank=2, decoder="frozen"))
    report = describe_adapter(model)
    assert report["adapter_bytes"] == 8192  # PEFT keeps the adapter in float32
    assert report["frozen_bytes"] == 2 * (report["parameters"] - 2048)


def test_describe_adapter__of_a_plain_model_is_an_error(make_model):
    with pytest.raises(TypeError, match="model is a DepthAnythingForDepthEstimation; pass what get_peft_model"):
        describe_adapter(make_model())
