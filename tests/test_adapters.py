import pytest
import torch
from peft import get_peft_model
from transformers import Dinov2Config

from depth_anything_hf import DepthAnythingForDepthEstimation, config_for_encoder
from depth_anything_hf.adapters import depth_lora_config


def tiny_model():
    encoder = Dinov2Config(image_size=56, hidden_size=32, num_hidden_layers=4, num_attention_heads=2)
    torch.manual_seed(0)
    return DepthAnythingForDepthEstimation(config_for_encoder(encoder))


@pytest.mark.parametrize("decoder", ["full", "lora", "frozen"])
def test_depth_lora_config__adapts_every_attention_layer_of_the_encoder(decoder):
    model = get_peft_model(tiny_model(), depth_lora_config(rank=2, decoder=decoder))
    adapted = {name.split(".lora_A")[0] for name, _ in model.named_parameters() if "lora_A" in name}
    assert sum("backbone" in name for name in adapted) == 4 * 4  # query, key, value, output in each of 4 blocks
    assert (sum("backbone" not in name for name in adapted) > 0) == (decoder == "lora")
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad and "lora_" not in name]
    assert bool(trained) == (decoder == "full")
    assert not any("backbone" in name for name in trained)


def test_depth_lora_config__starts_as_the_base_model_and_learns():
    base = tiny_model().eval()
    images, labels = torch.randn(2, 3, 56, 56), torch.rand(2, 56, 56)
    before = base(images).predicted_depth
    model = get_peft_model(base, depth_lora_config(rank=2, decoder="frozen")).eval()
    assert torch.equal(model(pixel_values=images).predicted_depth, before)
    model(pixel_values=images, labels=labels).loss.backward()
    assert all(p.grad.abs().sum() > 0 for n, p in model.named_parameters() if "lora_B" in n)


def test_depth_lora_config__refuses():
    with pytest.raises(ValueError, match="decoder is 'half' and rank 8"):
        depth_lora_config(decoder="half")
    with pytest.raises(ValueError, match="rank 0"):
        depth_lora_config(rank=0)
