"""What an adapter saves of its base model, and what `load_model` and `merge_adapter` make of it."""

import json
import re
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForDepthEstimation, Dinov2Config

from depth_anything_hf import DepthAnythingForDepthEstimation, config_for_encoder
from depth_anything_hf.model.bundled import MINI, checkpoint_folder
from depth_anything_hf.prediction.adapters import depth_lora_config, merge_adapter
from depth_anything_hf.prediction.predictor import FINGERPRINT, load_model, predict_depth
from depth_anything_hf.prediction.weights import adapter_base, weights_fingerprint
from depth_anything_hf.sharing.hub import settle_adapter

DECODERS = ["full", "lora"]
OLD_NAMES = {  # of transformers 4
    "q_proj": "attention.query",
    "k_proj": "attention.key",
    "v_proj": "attention.value",
    "o_proj": "output.dense",
}


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def save_base(make_model, tiny_processor, tmp_path):
    """Function that saves a tiny model with its processor: `save_base(name, seed=0)` returns the folder."""

    def save(name: str, seed: int = 0, **settings) -> str:
        make_model(seed=seed, **settings).save_pretrained(tmp_path / name)
        tiny_processor.save_pretrained(tmp_path / name)
        return str(tmp_path / name)

    return save


@pytest.fixture
def base(save_base):
    return save_base("base")


def edit_config(folder, **changes):
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def predicted(model, seed=1):
    size = (4 * model.config.patch_size, 5 * model.config.patch_size)
    images = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        return model(pixel_values=images).predicted_depth


# --- the base model's fingerprint


def test_weights_fingerprint__follows_the_weights_alone(save_base, base, tmp_path):
    first = weights_fingerprint(base)
    assert re.fullmatch(r"sha256:[0-9a-f]{16}", first)
    assert weights_fingerprint(save_base("again")) == first
    assert weights_fingerprint(save_base("other", seed=1)) != first
    weights = load_file(f"{base}/model.safetensors")
    (tmp_path / "renamed").mkdir()
    save_file({f"{name}x": values for name, values in weights.items()}, tmp_path / "renamed" / "model.safetensors")
    assert weights_fingerprint(str(tmp_path / "renamed")) != first


def test_weights_fingerprint__shards_do_not_matter(base, tmp_path):
    DepthAnythingForDepthEstimation.from_pretrained(base).save_pretrained(tmp_path / "shards", max_shard_size="100KB")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 1
    assert weights_fingerprint(str(tmp_path / "shards")) == weights_fingerprint(base)


def test_weights_fingerprint__without_weights_is_none(tmp_path):
    assert weights_fingerprint(str(tmp_path)) is None


def test_save_pretrained__names_the_weights_and_the_stock_class(adapt, base, tmp_path):
    adapt(base).save_pretrained(tmp_path / "adapter")
    assert json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())["auto_mapping"] == {
        "base_model_class": "DepthAnythingForDepthEstimation",
        "parent_library": "transformers",
        FINGERPRINT: weights_fingerprint(base),
    }


def test_save_pretrained__reads_the_base_once(adapt, base, save_base, tmp_path):
    model, before = adapt(base, "frozen"), weights_fingerprint(base)
    model.save_pretrained(tmp_path / "first")
    save_base("base", seed=1)  # the folder is written over during training
    model.save_pretrained(tmp_path / "second")
    saved = [json.loads((tmp_path / name / "adapter_config.json").read_text()) for name in ("first", "second")]
    assert [config["auto_mapping"][FINGERPRINT] for config in saved] == [before, before]


def test_save_pretrained__base_that_lies_nowhere_is_warned_of(make_model, tmp_path):
    model = get_peft_model(make_model(), depth_lora_config())
    with pytest.warns(UserWarning, match="the adapter names none and nothing can load it"):
        model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="does not say which model the adapter belongs to"):
        load_model(str(tmp_path))


def test_save_pretrained__base_out_of_reach_stops_nothing(adapt, base, tmp_path, monkeypatch):
    def offline(*args, **kwargs):
        raise OSError("no connection")

    model = adapt(base, "frozen")
    monkeypatch.setattr("depth_anything_hf.prediction.adapters.weights_fingerprint", offline)
    model.save_pretrained(tmp_path / "adapter")
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert FINGERPRINT not in config["auto_mapping"]
    load_model(str(tmp_path / "adapter"))  # unchecked


# --- loading: a wrong base model is an error


@pytest.mark.parametrize("decoder", DECODERS)
def test_load_model__other_weights_of_the_same_size_are_an_error(adapt, base, save_base, tmp_path, decoder):
    adapt(base, decoder).save_pretrained(tmp_path / "adapter")
    other = save_base("other", seed=1)
    edit_config(tmp_path / "adapter", base_model_name_or_path=other)
    right, wrong = weights_fingerprint(base), weights_fingerprint(other)
    with pytest.raises(
        ValueError, match=rf"trained on a base model with the weights {right}, and .*other holds {wrong}"
    ):
        load_model(str(tmp_path / "adapter"))


def test_load_model__base_that_was_written_over_is_an_error(adapt, base, save_base, tmp_path):
    adapt(base).save_pretrained(tmp_path / "adapter")
    load_model(str(tmp_path / "adapter"))
    save_base("base", seed=1)
    with pytest.raises(ValueError, match="another model, or another version of it"):
        load_model(str(tmp_path / "adapter"))


def unsigned(folder):
    """Make of an adapter one that plain PEFT saved."""
    edit_config(folder, auto_mapping=None)
    return str(folder)


@pytest.mark.slow
@pytest.mark.parametrize("decoder", DECODERS)
def test_load_model__base_of_another_width_is_an_error(adapt, base, tmp_path, tiny_processor, decoder):
    adapt(base, decoder).save_pretrained(tmp_path / "adapter")
    wide = Dinov2Config(image_size=56, hidden_size=64, num_hidden_layers=4, num_attention_heads=2)
    DepthAnythingForDepthEstimation(config_for_encoder(wide)).save_pretrained(tmp_path / "wide")
    tiny_processor.save_pretrained(tmp_path / "wide")
    edit_config(tmp_path / "adapter", base_model_name_or_path=str(tmp_path / "wide"))
    with pytest.raises(ValueError, match="adapter was trained on a base model with the weights"):
        load_model(str(tmp_path / "adapter"))
    with pytest.raises(ValueError, match=r"(?s)the adapter .*adapter does not fit .*wide: .*size mismatch"):
        load_model(unsigned(tmp_path / "adapter"))


@pytest.mark.slow
def test_load_model__base_of_another_depth_is_an_error(adapt, base, tmp_path, tiny_processor):
    # PEFT leaves the blocks without an adapter as they are, and adapters without a block out.
    encoder = Dinov2Config(image_size=56, hidden_size=32, num_hidden_layers=5, num_attention_heads=2)
    DepthAnythingForDepthEstimation(config_for_encoder(encoder)).save_pretrained(tmp_path / "deep")
    tiny_processor.save_pretrained(tmp_path / "deep")
    for one, other in ((base, tmp_path / "deep"), (str(tmp_path / "deep"), base)):
        adapt(one, "frozen").save_pretrained(tmp_path / "adapter")
        edit_config(tmp_path / "adapter", base_model_name_or_path=str(other))
        with pytest.raises(ValueError, match=r"does not fit .*: 8 of their weights have no counterpart"):
            load_model(unsigned(tmp_path / "adapter"))


def test_load_model__base_of_another_family_is_an_error(adapt, base, save_family, tmp_path):
    adapt(base, "frozen").save_pretrained(tmp_path / "adapter")
    edit_config(tmp_path / "adapter", base_model_name_or_path=save_family("dpt"))
    with pytest.raises(ValueError, match=r"does not fit .*dpt"):
        load_model(unsigned(tmp_path / "adapter"))


# --- loading: what was saved elsewhere


@pytest.mark.slow
@pytest.mark.parametrize("decoder", DECODERS)
def test_load_model__adapter_of_older_transformers(adapt, base, tmp_path, decoder):
    # Its file has the old names, and PEFT would leave the encoder's updates out with no more than a warning.
    model = adapt(base, decoder)
    model.save_pretrained(tmp_path / "adapter")
    weights = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    for new, old in OLD_NAMES.items():
        weights = {name.replace(f"attention.{new}.", f"attention.{old}."): weights[name] for name in weights}
    assert any("attention.attention.query.lora_A" in name for name in weights)
    save_file(weights, tmp_path / "adapter" / "adapter_model.safetensors", {"format": "pt"})
    loaded, _ = load_model(str(tmp_path / "adapter"))
    torch.testing.assert_close(predicted(loaded), predicted(model), rtol=0, atol=1e-6)


def test_load_model__adapter_with_whole_neck_and_head(base, tmp_path):
    # As `modules_to_save=["neck", "head"]` saves, which this library wrote at first.
    config = LoraConfig(r=2, target_modules=r".*\.(q_proj|query)", modules_to_save=["neck", "head"])
    model = get_peft_model(load_model(base)[0], config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.05
    model.save_pretrained(tmp_path / "adapter")
    loaded, _ = load_model(str(tmp_path / "adapter"))
    torch.testing.assert_close(predicted(loaded), predicted(model), rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_load_model__merged_model_does_not_pass_for_its_base(adapt, base, tmp_path):
    adapt(base, "frozen").save_pretrained(tmp_path / "adapter")
    merged, _ = load_model(str(tmp_path / "adapter"))
    second = get_peft_model(merged, depth_lora_config(rank=1, decoder="frozen")).eval()
    with torch.no_grad():
        for parameter in second.parameters():
            if parameter.requires_grad:
                parameter += 0.2
    second.save_pretrained(tmp_path / "second")  # names the first adapter, and so carries both
    loaded, _ = load_model(str(tmp_path / "second"))
    torch.testing.assert_close(predicted(loaded), predicted(second), rtol=1e-5, atol=1e-6)


# --- merging


@pytest.mark.slow
@pytest.mark.parametrize("decoder", DECODERS)
def test_merge_adapter__is_a_stock_checkpoint_of_the_same_model(adapt, base, tmp_path, noise_image, decoder):
    model = adapt(base, decoder)
    model.save_pretrained(tmp_path / "adapter")
    merged = merge_adapter(tmp_path / "adapter", tmp_path / "merged")
    stock = AutoModelForDepthEstimation.from_pretrained(merged).eval()
    assert type(stock).__module__.startswith("transformers.")
    assert (predicted(stock) - predicted(model)).abs().max() < 1e-5
    assert (predicted(stock) - predicted(load_model(base)[0])).abs().max() > 1e-3  # the adapter does something
    names = {name: (merged / name).read_text() for name in ("config.json", "preprocessor_config.json")}
    assert not [name for name, text in names.items() if "depth_anything_hf" in text or "lora" in text.lower()]
    assert sorted(path.name for path in merged.iterdir()) == sorted([*names, "model.safetensors"])
    loaded, processor = load_model(str(merged))
    (found,) = predict_depth(loaded, processor, [noise_image(60, 80)])
    (expected,) = predict_depth(model, load_model(base)[1], [noise_image(60, 80)])
    assert (found - expected).abs().max() < 1e-5


def test_merge_adapter__refuses(adapt, base, save_base, tmp_path):
    with pytest.raises(ValueError, match="base holds no adapter"):
        merge_adapter(base, tmp_path / "merged")
    adapt(base, "frozen").save_pretrained(tmp_path / "adapter")
    with pytest.raises(ValueError, match="transformers would add to the merged weights once more"):
        merge_adapter(tmp_path / "adapter", tmp_path / "adapter")
    save_base("base", seed=1)
    with pytest.raises(ValueError, match="was trained on a base model with the weights"):
        merge_adapter(tmp_path / "adapter", tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


# --- on the model that comes with the package, which lies elsewhere on another machine


@pytest.fixture
def on_mini(adapt, tmp_path):
    """An adapter on mini: the model in memory, and the folder that it was saved in."""
    model = adapt(MINI)
    model.save_pretrained(tmp_path / "adapter")
    return model, str(tmp_path / "adapter")


@pytest.mark.slow
def test_save_pretrained__names_mini_and_not_where_it_is_installed(on_mini):
    model, folder = on_mini
    assert adapter_base(folder) == MINI
    config = json.loads((Path(folder) / "adapter_config.json").read_text())
    assert config["auto_mapping"][FINGERPRINT] == weights_fingerprint(MINI)
    model.save_pretrained(folder)  # what is in memory is as it was: PEFT looks there for the base's files
    assert model.peft_config["default"].base_model_name_or_path == checkpoint_folder(MINI)


@pytest.mark.slow
def test_load_model__finds_mini_from_anywhere(on_mini, tmp_path, monkeypatch):
    model, _ = on_mini
    monkeypatch.chdir(tmp_path)
    loaded, processor = load_model("adapter")
    assert processor.to_dict() == load_model(MINI)[1].to_dict()
    expected = predicted(model)
    close = {"rtol": 1e-4, "atol": 1e-6 * expected.max().item()}  # mini predicts hundreds, and 0 where ReLU cuts
    torch.testing.assert_close(predicted(loaded), expected, **close)
    merged = load_model(str(merge_adapter("adapter", "merged")))[0]
    torch.testing.assert_close(predicted(merged), expected, **close)


def test_load_model__another_model_in_a_folder_named_mini_is_noticed(on_mini, save_base, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_base(MINI)
    with pytest.raises(ValueError, match="was trained on a base model with the weights"):
        load_model(on_mini[1])


def test_settle_adapter__of_mini_says_how_to_share_it(on_mini, tmp_path):
    with pytest.raises(
        ValueError, match=r"belongs to 'mini', which is not on the Hub.*merge_adapter.*push the merged"
    ):
        settle_adapter(tmp_path / "adapter")
