"""Conversion against the official network, written here anew from the authors' layout (facts of their dpt.py, dinov2.py)."""

import json
import math
import os
import pickle

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional as F
from transformers import AutoModelForDepthEstimation, Dinov2Config
from transformers import DepthAnythingForDepthEstimation as StockDepthAnything

from depth_anything_hf import DepthAnythingForDepthEstimation, config_for, config_for_encoder
from depth_anything_hf.model.configuration import encoder_blocks
from depth_anything_hf.model.convert import (
    convert_official,
    from_official,
    load_official,
    model_from_official,
    name_table,
    official_kind,
    to_official,
)
from depth_anything_hf.model.modeling import UNUSED_PARAMETERS

# width, depth, heads, decoder channels, decoder features
SIZES = {
    "small": (384, 12, 6, (48, 96, 192, 384), 64),
    "base": (768, 12, 12, (96, 192, 384, 768), 128),
    "large": (1024, 24, 16, (256, 512, 1024, 1024), 256),
    "giant": (1536, 40, 24, (1536, 1536, 1536, 1536), 384),
}
# 0-based, as in the authors' intermediate_layer_idx and get_intermediate_layers(x, 4)
OFFICIAL_BLOCKS = {
    ("small", "v1"): (8, 9, 10, 11),
    ("base", "v1"): (8, 9, 10, 11),
    ("large", "v1"): (20, 21, 22, 23),
    ("small", "v2"): (2, 5, 8, 11),
    ("base", "v2"): (2, 5, 8, 11),
    ("large", "v2"): (4, 11, 17, 23),
    ("giant", "v2"): (9, 19, 29, 39),
}
REDUCED_DEPTH, REDUCED_SIDE = 5, 70  # V1 reads blocks 1-4 of 0-4, V2 (as `encoder_blocks` has it) 0, 1, 2, 4
REDUCED_BLOCKS = {"v1": (1, 2, 3, 4), "v2": (0, 1, 2, 4)}


def official_weights(size, depth=None, side=518, seed=0):
    """Random weights under the names and with the shapes of the authors' network, none of them zero or one."""
    width, full_depth, _, channels, features = SIZES[size]
    generator = torch.Generator().manual_seed(seed)
    weights = {}

    def add(name, *shape, center=0.0, spread=0.1):
        weights[name] = torch.empty(shape).uniform_(center - spread, center + spread, generator=generator)

    def layer(name, *shape, bias=True, gain=1.0):
        """Weight of uniform values that keep the variance, and a bias of the rows (of the columns, if transposed)."""
        fan_in = math.prod(shape[1:])
        add(f"{name}.weight", *shape, spread=gain * math.sqrt(3 / fan_in))
        if bias:
            add(f"{name}.bias", shape[0])

    add("pretrained.cls_token", 1, 1, width)
    add("pretrained.mask_token", 1, width)
    add("pretrained.pos_embed", 1, (side // 14) ** 2 + 1, width, spread=0.5)
    layer("pretrained.patch_embed.proj", width, 3, 14, 14)
    for i in range(depth or full_depth):
        block = f"pretrained.blocks.{i}"
        for k in (1, 2):
            add(f"{block}.norm{k}.weight", width, center=1, spread=0.3)
            add(f"{block}.norm{k}.bias", width)
            add(f"{block}.ls{k}.gamma", width, center=0.5, spread=0.3)
        layer(f"{block}.attn.qkv", 3 * width, width, gain=1.5)
        layer(f"{block}.attn.proj", width, width)
        if size == "giant":
            hidden = (int(4 * width * 2 / 3) + 7) // 8 * 8
            layer(f"{block}.mlp.w12", 2 * hidden, width)
            layer(f"{block}.mlp.w3", width, hidden)
        else:
            layer(f"{block}.mlp.fc1", 4 * width, width)
            layer(f"{block}.mlp.fc2", width, 4 * width)
    add("pretrained.norm.weight", width, center=1, spread=0.3)
    add("pretrained.norm.bias", width)
    for i, channel in enumerate(channels):
        layer(f"depth_head.projects.{i}", channel, width, 1, 1)
        layer(f"depth_head.scratch.layer{i + 1}_rn", features, channel, 3, 3, bias=False)
    layer("depth_head.resize_layers.0", channels[0], channels[0], 4, 4, gain=4)
    layer("depth_head.resize_layers.1", channels[1], channels[1], 2, 2, gain=2)
    layer("depth_head.resize_layers.3", channels[3], channels[3], 3, 3)
    for i in (1, 2, 3, 4):
        block = f"depth_head.scratch.refinenet{i}"
        layer(f"{block}.out_conv", features, features, 1, 1, gain=0.5)
        for k in (1, 2):
            for conv in ("conv1", "conv2"):
                layer(f"{block}.resConfUnit{k}.{conv}", features, features, 3, 3)
    layer("depth_head.scratch.output_conv1", features // 2, features, 3, 3)
    layer("depth_head.scratch.output_conv2.0", 32, features // 2, 3, 3)
    layer("depth_head.scratch.output_conv2.2", 1, 32, 1, 1)
    weights["depth_head.scratch.output_conv2.2.bias"] += 0.5  # the last ReLU shall not cut most of it away
    return weights


def official_forward(weights, pixels, heads, blocks):
    """The authors' network at its native size, up to the last activation: `(batch, 3, side, side)` to the same, one channel."""

    def parameters(name):
        return weights[f"{name}.weight"], weights.get(f"{name}.bias")

    def norm(x, name):
        return F.layer_norm(x, x.shape[-1:], *parameters(name), eps=1e-6)

    def linear(x, name):
        return F.linear(x, *parameters(name))

    def conv(x, name, **options):
        return F.conv2d(x, *parameters(f"depth_head.{name}"), **options)

    def attention(x, name):
        batch, tokens, width = x.shape
        q, k, v = linear(x, f"{name}.qkv").reshape(batch, tokens, 3, heads, width // heads).permute(2, 0, 3, 1, 4)
        mixed = torch.softmax(q @ k.transpose(-2, -1) / math.sqrt(width // heads), dim=-1) @ v
        return linear(mixed.transpose(1, 2).reshape(batch, tokens, width), f"{name}.proj")

    def feed_forward(x, name):
        if f"{name}.w12.weight" in weights:
            gate, value = linear(x, f"{name}.w12").chunk(2, dim=-1)
            return linear(F.silu(gate) * value, f"{name}.w3")
        return linear(F.gelu(linear(x, f"{name}.fc1")), f"{name}.fc2")

    batch, _, side, _ = pixels.shape
    patches = side // 14
    x = F.conv2d(pixels, *parameters("pretrained.patch_embed.proj"), stride=14).flatten(2).transpose(1, 2)
    x = torch.cat([weights["pretrained.cls_token"].expand(batch, -1, -1), x], dim=1) + weights["pretrained.pos_embed"]
    maps = []
    for i in range(max(blocks) + 1):
        name = f"pretrained.blocks.{i}"
        x = x + weights[f"{name}.ls1.gamma"] * attention(norm(x, f"{name}.norm1"), f"{name}.attn")
        x = x + weights[f"{name}.ls2.gamma"] * feed_forward(norm(x, f"{name}.norm2"), f"{name}.mlp")
        if i in blocks:
            tokens = norm(x, "pretrained.norm")[:, 1:]
            maps.append(tokens.transpose(1, 2).reshape(batch, -1, patches, patches))

    maps = [conv(one, f"projects.{i}") for i, one in enumerate(maps)]
    maps[0] = F.conv_transpose2d(maps[0], *parameters("depth_head.resize_layers.0"), stride=4)
    maps[1] = F.conv_transpose2d(maps[1], *parameters("depth_head.resize_layers.1"), stride=2)
    maps[3] = conv(maps[3], "resize_layers.3", stride=2, padding=1)
    maps = [conv(one, f"scratch.layer{i + 1}_rn", padding=1) for i, one in enumerate(maps)]

    def unit(x, name):
        inner = conv(F.relu(x), f"{name}.conv1", padding=1)
        return conv(F.relu(inner), f"{name}.conv2", padding=1) + x

    def resized(x, size):
        return F.interpolate(x, size=size, mode="bilinear", align_corners=True)

    path = None
    for level in (4, 3, 2, 1):  # deepest first
        name = f"scratch.refinenet{level}"
        skip = maps[level - 1]
        path = skip if path is None else path + unit(skip, f"{name}.resConfUnit1")
        size = maps[level - 2].shape[-2:] if level > 1 else [2 * edge for edge in skip.shape[-2:]]
        path = conv(resized(unit(path, f"{name}.resConfUnit2"), size), f"{name}.out_conv")
    x = resized(conv(path, "scratch.output_conv1", padding=1), (14 * patches, 14 * patches))
    return conv(F.relu(conv(x, "scratch.output_conv2.0", padding=1)), "scratch.output_conv2.2")[:, 0]


def activated(logits, max_depth=None):
    """The end of the relative network, or of the metric one."""
    return F.relu(logits) if max_depth is None else torch.sigmoid(logits) * max_depth


def reduced_config(size, version, max_depth=None):
    """A released configuration with five encoder blocks, for images of 70 x 70 pixels."""
    encoder = config_for(size, "v2").backbone_config.to_dict()
    encoder |= {"num_hidden_layers": REDUCED_DEPTH, "image_size": REDUCED_SIDE}
    encoder = Dinov2Config(
        **{k: v for k, v in encoder.items() if k not in ("stage_names", "out_indices", "out_features")}
    )
    return config_for_encoder(encoder, version, max_depth)


def reduced_weights(size, **options):
    return official_weights(size, REDUCED_DEPTH, REDUCED_SIDE, **options)


def noise(side, batch=1, seed=9):
    return torch.randn(batch, 3, side, side, generator=torch.Generator().manual_seed(seed))


def assert_same_weights(found, expected):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].dtype == value.dtype, name
        assert torch.equal(found[name], value), name


@pytest.fixture(scope="module")
def small_file(tmp_path_factory):
    """Random weights of the whole small network in an official file, under a name that says nothing."""
    path = tmp_path_factory.mktemp("official") / "weights.pth"
    torch.save(official_weights("small"), path)
    return path


# --- the official network's output


@pytest.mark.slow
@pytest.mark.parametrize("size", SIZES)
@torch.no_grad()
def test_model_from_official__predicts_as_the_official_network(size):
    weights, pixels = reduced_weights(size), noise(REDUCED_SIDE)
    logits = {}
    for version in ("v1", "v2") if size != "giant" else ("v2",):
        logits[version] = official_forward(weights, pixels, SIZES[size][2], REDUCED_BLOCKS[version])
        for max_depth in (None, 20):
            model = model_from_official(weights, reduced_config(size, version, max_depth))
            found, unit = model(pixels).predicted_depth, max_depth or 1
            expected = activated(logits[version], max_depth)
            assert expected.std() / unit > 0.02  # an output worth comparing
            assert (expected > 0).float().mean() > 0.7
            # In metres 20 times the rounding: 1e-5 is of the network's own output, in (0, 1).
            torch.testing.assert_close(found / unit, expected / unit, rtol=0, atol=1e-5)
    assert_same_weights(to_official(model.state_dict(), model.config), weights)
    if size != "giant":
        assert (logits["v1"] - logits["v2"]).abs().max() > 0.1  # the same file, other blocks


@pytest.mark.slow
@torch.no_grad()
def test_convert_official__whole_small_network_at_518(small_file):
    weights, pixels = torch.load(small_file), noise(518)
    outputs = []
    for version in ("v1", "v2"):
        expected = activated(official_forward(weights, pixels, 6, OFFICIAL_BLOCKS["small", version]))
        found = convert_official(small_file, "small", version)(pixels).predicted_depth
        assert found.shape == (1, 518, 518)
        assert expected.std() > 0.05
        assert (expected > 0).float().mean() > 0.7
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
        outputs.append(found)
    assert (outputs[0] - outputs[1]).abs().max() > 0.1


@pytest.mark.parametrize(("size", "version"), OFFICIAL_BLOCKS)
def test_config__of_the_whole_sizes_has_the_official_layers(size, version):
    width, depth, heads, channels, features = SIZES[size]
    config = config_for(size, version)
    encoder = config.backbone_config
    assert (encoder.hidden_size, encoder.num_hidden_layers, encoder.num_attention_heads) == (width, depth, heads)
    assert [block - 1 for block in encoder.out_indices] == list(OFFICIAL_BLOCKS[size, version])
    assert (tuple(config.neck_hidden_sizes), config.fusion_hidden_size) == (channels, features)
    assert [block - 1 for block in encoder_blocks(REDUCED_DEPTH, version)] == list(REDUCED_BLOCKS[version])


# --- names


@pytest.mark.parametrize("size", SIZES)
def test_name_table__is_one_to_one_and_complete(size):
    depth = SIZES[size][1]
    with torch.device("meta"):
        stock = StockDepthAnything(config_for(size))
    table = name_table(config_for(size))
    ours = [name for names in table.values() for name in names]
    assert len(set(ours)) == len(ours)
    assert (len(table), len(ours)) == (16 + 55 + 14 * depth, 16 + 55 + 18 * depth)
    assert sum(len(names) == 3 for names in table.values()) == 2 * depth
    halves = 2 * depth if size == "giant" else 0  # in memory w12 is two layers, weight and bias each
    assert len(stock.state_dict()) == len(ours) + halves


def test_name_table__counts_of_the_small_size():
    table = name_table(config_for("small"))
    assert (len(table), sum(map(len, table.values()))) == (239, 287)


@pytest.mark.parametrize("swiglu", [False, True])
def test_name_table__has_the_names_on_disk(swiglu, tmp_path):
    encoder = Dinov2Config(
        image_size=56, hidden_size=32, num_hidden_layers=4, num_attention_heads=2, use_swiglu_ffn=swiglu
    )
    config = config_for_encoder(encoder)
    StockDepthAnything(config).save_pretrained(tmp_path)
    on_disk = load_file(tmp_path / "model.safetensors")
    assert {name for names in name_table(config).values() for name in names} == set(on_disk)


# --- there and back


@pytest.mark.slow
@pytest.mark.parametrize("size", ["small", "base", "large"])  # the giant: in memory, above, and narrower, below
def test_round_trip__official_to_a_folder_and_back_is_the_identity(size, tmp_path):
    weights, config = reduced_weights(size), reduced_config(size, "v2")
    model_from_official(weights, config).save_pretrained(tmp_path)
    assert_same_weights(to_official(load_file(tmp_path / "model.safetensors"), config), weights)
    loaded = DepthAnythingForDepthEstimation.from_pretrained(tmp_path)
    assert_same_weights(to_official(loaded.state_dict(), loaded.config), weights)


@pytest.mark.slow
@pytest.mark.parametrize("swiglu", [False, True])
@pytest.mark.parametrize("mask_token", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_round_trip__hugging_face_to_official_and_back_is_the_identity(swiglu, mask_token, dtype, tmp_path):
    sizes = {"image_size": 56, "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2}
    config = config_for_encoder(Dinov2Config(**sizes, use_swiglu_ffn=swiglu, use_mask_token=mask_token))
    torch.manual_seed(0)
    model = DepthAnythingForDepthEstimation(config).to(dtype)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter)
    model.save_pretrained(tmp_path / "before")
    torch.save(to_official(model.state_dict(), config), tmp_path / "official.pth")
    back = model_from_official(load_official(tmp_path / "official.pth"), config)
    back.save_pretrained(tmp_path / "after")
    before, after = (load_file(tmp_path / name / "model.safetensors") for name in ("before", "after"))
    assert_same_weights(after, before)
    configs = [json.loads((tmp_path / name / "config.json").read_text()) for name in ("before", "after")]
    assert configs[0] == configs[1]


@pytest.mark.slow
def test_round_trip__of_the_whole_small_size_leaves_the_file_as_it_was(small_file, tmp_path):
    model = convert_official(small_file, "small", "v2")
    model.save_pretrained(tmp_path)
    loaded = DepthAnythingForDepthEstimation.from_pretrained(tmp_path)
    official = to_official(loaded.state_dict(), loaded.config)
    assert len(load_file(tmp_path / "model.safetensors")) == 287
    assert len(official) == 239
    assert_same_weights(official, torch.load(small_file))
    torch.save(official, tmp_path / "back.pth")
    assert os.path.getsize(tmp_path / "back.pth") < 1.01 * os.path.getsize(small_file)  # no memory of others along


def test_mask_token__may_be_missing(tmp_path):
    weights, config = reduced_weights("small"), reduced_config("small", "v2")
    del weights["pretrained.mask_token"]
    state_dict = from_official(weights, config)
    assert torch.equal(state_dict["backbone.embeddings.mask_token"], torch.zeros(1, 384))
    official = to_official(state_dict, config)
    assert torch.equal(official["pretrained.mask_token"], torch.zeros(1, 384))
    assert_same_weights({name: value for name, value in official.items() if "mask" not in name}, weights)


# --- the checkpoint


def test_from_official__can_be_written_as_it_is(tmp_path):
    state_dict = from_official(reduced_weights("small"), reduced_config("small", "v2"))
    save_file(state_dict, tmp_path / "model.safetensors")  # refuses tensors that overlap in memory
    assert_same_weights(load_file(tmp_path / "model.safetensors"), state_dict)


def test_model_from_official__has_the_unused_parameters_frozen_and_trains():
    weights = reduced_weights("small")
    model = model_from_official(weights, reduced_config("small", "v2"))
    assert not model.training
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    assert frozen == set(UNUSED_PARAMETERS)
    assert not any(parameter.is_meta for parameter in model.parameters())
    model(noise(70), labels=torch.rand(1, 70, 70)).loss.backward()


@pytest.mark.parametrize("max_depth", [None, 20])
@torch.no_grad()
def test_checkpoint__loads_in_plain_transformers(max_depth, tmp_path):
    weights = reduced_weights("small")
    model_from_official(weights, reduced_config("small", "v2", max_depth)).save_pretrained(tmp_path)
    stock, info = AutoModelForDepthEstimation.from_pretrained(tmp_path, output_loading_info=True)
    assert type(stock) is StockDepthAnything
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    expected = activated(official_forward(weights, noise(70), 6, REDUCED_BLOCKS["v2"]), max_depth)
    torch.testing.assert_close(stock(noise(70)).predicted_depth, expected, rtol=0, atol=1e-5 * (max_depth or 1))


# --- what a file may look like


def saved(tmp_path, content, name="file.pth"):
    torch.save(content, tmp_path / name)
    return tmp_path / name


def tiny_weights():
    """Few and small, for what does not depend on the network."""
    return {"pretrained.cls_token": torch.ones(1, 1, 384), "pretrained.norm.bias": torch.zeros(384)}


@pytest.mark.parametrize(
    "wrap",
    [
        lambda weights: weights,
        lambda weights: {f"module.{name}": value for name, value in weights.items()},
        lambda weights: {"model": weights, "epoch": 3},
        lambda weights: {
            "model": {f"module.{name}": value for name, value in weights.items()},
            "optimizer": {"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": 5e-6, "params": [0]}]},
            "epoch": 3,
            "previous_best": {"d1": 0.9, "abs_rel": 0.1},
        },
    ],
    ids=["plain", "ddp", "wrapped", "latest.pth"],
)
@pytest.mark.parametrize("legacy", [False, True])
def test_load_official__takes_what_the_authors_code_saves(wrap, legacy, tmp_path):
    torch.save(wrap(tiny_weights()), tmp_path / "f.pth", _use_new_zipfile_serialization=not legacy)
    assert_same_weights(load_official(tmp_path / "f.pth"), tiny_weights())


def test_load_official__takes_safetensors(tmp_path):
    save_file(tiny_weights(), tmp_path / "model.safetensors")
    assert_same_weights(load_official(str(tmp_path / "model.safetensors")), tiny_weights())


class RunsCode:
    """Unpickled, it makes a folder."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("plain_pickle", [False, True])
def test_load_official__refuses_a_pickle_that_runs_code(plain_pickle, tmp_path):
    content = tiny_weights() | {"trap": RunsCode(tmp_path / "it_ran")}
    if plain_pickle:
        (tmp_path / "bad.pth").write_bytes(pickle.dumps(content["trap"], protocol=2))
    else:
        torch.save(content, tmp_path / "bad.pth")
    with pytest.raises(ValueError, match=r"bad\.pth asks for \w+\.mkdir, which is no weight: .* is refused"):
        load_official(tmp_path / "bad.pth")
    with pytest.raises(ValueError, match="is refused"):
        convert_official(tmp_path / "bad.pth", "small", "v2")
    assert not (tmp_path / "it_ran").exists()
    if plain_pickle:
        pickle.loads((tmp_path / "bad.pth").read_bytes())
    else:
        torch.load(tmp_path / "bad.pth", weights_only=False)
    assert (tmp_path / "it_ran").exists()  # it is a trap


@pytest.mark.parametrize("name", ["f.pth", "f.safetensors"])
@pytest.mark.parametrize(
    "content", [b"", b"<!DOCTYPE html>\n<html>", b"version https://git-lfs.github.com/spec/v1\noid sha256:00", None]
)
def test_load_official__damaged_file(content, name, tmp_path):
    if content is None:
        save = torch.save if name == "f.pth" else save_file
        save(tiny_weights(), tmp_path / name)
        content = (tmp_path / name).read_bytes()[:-200]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=rf"{name} is no checkpoint of PyTorch, or is damaged"):
        load_official(tmp_path / name)


@pytest.mark.parametrize("content", [[torch.ones(2)], {}, {"epoch": 3}, {"model": {"lr": 1.0}}, {1: torch.ones(2)}])
def test_load_official__file_without_weights(content, tmp_path):
    with pytest.raises(ValueError, match="holds no weights: expected names to tensors"):
        load_official(saved(tmp_path, content))


@pytest.mark.parametrize("legacy", [False, True])
def test_load_official__a_file_cut_anywhere_is_damaged(legacy, tmp_path):
    torch.save(tiny_weights(), tmp_path / "whole.pth", _use_new_zipfile_serialization=not legacy)
    content = (tmp_path / "whole.pth").read_bytes()
    for length in range(0, len(content) - 1, len(content) // 40):
        (tmp_path / "cut.pth").write_bytes(content[:length])
        with pytest.raises(ValueError, match=r"cut\.pth (is no checkpoint of PyTorch, or is damaged|asks for \w+)"):
            load_official(tmp_path / "cut.pth")


def test_load_official__missing_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        load_official(tmp_path / "none.pth")


# --- what does not fit


def test_from_official__lists_what_does_not_fit():
    weights, config = reduced_weights("small"), reduced_config("small", "v2")
    del weights["pretrained.norm.bias"]
    weights["depth_head.readout_projects.0.0.weight"] = torch.zeros(384, 768)
    weights["pretrained.pos_embed"] = torch.zeros(1, 1370, 384)
    with pytest.raises(ValueError, match="the weights do not fit") as error:
        from_official(weights, config)
    assert str(error.value).splitlines()[1:] == [
        "1 missing: pretrained.norm.bias",
        "1 unexpected: depth_head.readout_projects.0.0.weight",
        "1 of another shape: pretrained.pos_embed (1, 1370, 384), not (1, 26, 384)",
    ]


def test_from_official__cuts_a_long_list():
    weights = {name: value for name, value in reduced_weights("small").items() if "blocks.0" not in name}
    with pytest.raises(ValueError, match=r"14 missing: pretrained\.blocks\.0\.") as error:
        from_official(weights, reduced_config("small", "v2"))
    (line,) = str(error.value).splitlines()[1:]
    assert line.count("pretrained.blocks.0.") == 10
    assert line.endswith(", ...")


def test_to_official__lists_what_does_not_fit(make_model):
    model = make_model()
    state_dict = model.state_dict()
    del state_dict["head.conv3.bias"]
    state_dict["head.conv4.bias"] = torch.zeros(1)
    state_dict["head.conv1.bias"] = torch.zeros(1)
    with pytest.raises(ValueError, match="the weights do not fit") as error:
        to_official(state_dict, model.config)
    assert str(error.value).splitlines()[1:] == [
        "1 missing: head.conv3.bias",
        "1 unexpected: head.conv4.bias",
        "1 of another shape: head.conv1.bias (1,), not (4,)",
    ]


@pytest.mark.parametrize(("asked", "real"), [("base", "small"), ("small", "base"), ("giant", "large")])
def test_from_official__names_the_size_that_fits(asked, real):
    width = SIZES[real][0]
    weights = {"pretrained.cls_token": torch.zeros(1, 1, width)}
    with pytest.raises(ValueError, match=f"The size asked for is {asked}; the weights are of size {real}"):
        from_official(weights, config_for(asked))


def test_from_official__hugging_face_names(make_model):
    model = make_model()
    with pytest.raises(ValueError, match="names of a Hugging Face checkpoint"):
        from_official(model.state_dict(), model.config)


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize(
    "key",
    [
        "core.core.pretrained.blocks.0.norm1.weight",
        "seed_bin_regressor._net.0.weight",
        "attractors.0._net.0.weight",
        "conditional_log_binomial.mlp.0.weight",
    ],
)
def test_convert_official__refuses_zoedepth_by_name(key, prefix, tmp_path):
    path = saved(tmp_path, {"model": {prefix + key: torch.zeros(2)}}, "depth_anything_metric_depth_indoor.pt")
    with pytest.raises(ValueError, match="ZoeDepthForDepthEstimation"):
        convert_official(path, "large", "v1")


# --- what the file does not say


@pytest.mark.parametrize(
    ("name", "version", "max_depth", "said"),
    [
        ("depth_anything_vits14.pth", "v2", None, "v1 relative"),
        ("depth_anything_v2_vits.pth", "v1", None, "v2 relative"),
        ("depth_anything_v2_vits.pth", "v2", 20, "v2 relative"),
        ("depth_anything_v2_metric_hypersim_vits.pth", "v2", None, r"v2 metric \(max_depth 20\)"),
        ("depth_anything_v2_metric_hypersim_vits.pth", "v2", 80, r"v2 metric \(max_depth 20\)"),
        ("depth_anything_v2_metric_vkitti_vits.pth", "v2", 20, r"v2 metric \(max_depth 80\)"),
        ("depth_anything_v2_metric_vkitti_vits.pth", "v1", None, r"v2 metric \(max_depth 80\)"),
    ],
)
def test_convert_official__published_name_is_held_against_the_arguments(name, version, max_depth, said, tmp_path):
    with pytest.raises(ValueError, match=f"authors' name of a {said} model"):
        convert_official(tmp_path / name, "small", version, max_depth)


@pytest.mark.parametrize(
    ("name", "version", "max_depth"),
    [
        ("depth_anything_vits14.pth", "v1", None),
        ("depth_anything_v2_vits.pth", "v2", None),
        ("depth_anything_v2_metric_hypersim_vits.pth", "v2", 20.0),
        ("depth_anything_v2_metric_vkitti_vits.pth", "v2", 80),
    ],
)
def test_convert_official__published_names_as_published(name, version, max_depth, small_file, tmp_path):
    (tmp_path / name).symlink_to(small_file)
    config = convert_official(tmp_path / name, "small", version, max_depth).config
    assert official_kind(config) == ("small", version, max_depth)


def test_convert_official__metric_training_wants_its_max_depth(tmp_path):
    path = saved(tmp_path, {"model": tiny_weights(), "epoch": 1, "previous_best": {"abs_rel": 0.1}}, "latest.pth")
    with pytest.raises(ValueError, match="checkpoint of metric training; pass its `max_depth`"):
        convert_official(path, "small", "v2")


def test_convert_official__refuses_what_was_never_published(small_file):
    with pytest.raises(ValueError, match="V1 has no metric model but ZoeDepth's"):
        convert_official(small_file, "small", "v1", 20)
    with pytest.raises(ValueError, match="V1 has no giant model"):
        convert_official(small_file, "giant", "v1")
    with pytest.raises(ValueError, match=r"it must be one of \('v1', 'v2'\)\. The two have the same weight names"):
        convert_official(small_file, "small", "v3")


@pytest.mark.parametrize(("size", "version"), OFFICIAL_BLOCKS)
def test_official_kind__knows_every_released_size(size, version, tmp_path):
    assert official_kind(config_for(size, version)) == (size, version, None)
    if version == "v2":
        config_for(size, version, 80).save_pretrained(tmp_path)
        assert official_kind(type(config_for(size)).from_pretrained(tmp_path)) == (size, "v2", 80)


def test_official_kind__refuses_all_others():
    config = config_for("small")
    config.backbone_config.out_indices = [3, 6, 9, 11]
    with pytest.raises(ValueError, match=r"\[3, 6, 9, 11\].* is none of the authors'"):
        official_kind(config)
    with pytest.raises(ValueError, match="V1 has no metric model"):
        official_kind(config_for("small", "v1", 20))
    with pytest.raises(ValueError, match="type 'dinov2'; only Depth Anything"):
        official_kind(Dinov2Config())
