import pytest
import torch
from transformers import DepthAnythingConfig, Dinov2Config
from transformers import DepthAnythingForDepthEstimation as StockDepthAnything

from depth_anything_hf.model.configuration import (
    SIZE_PRESETS,
    check_version,
    config_for,
    config_for_encoder,
    encoder_blocks,
)

# The authors' `dpt.py`, their 0-based block numbers plus one.
PUBLISHED_BLOCKS = {
    ("small", "v1"): [9, 10, 11, 12],
    ("base", "v1"): [9, 10, 11, 12],
    ("large", "v1"): [21, 22, 23, 24],
    ("small", "v2"): [3, 6, 9, 12],
    ("base", "v2"): [3, 6, 9, 12],
    ("large", "v2"): [5, 12, 18, 24],
    ("giant", "v2"): [10, 20, 30, 40],
}
# Millions of parameters of the released models: encoder, neck, head, total.
PUBLISHED_PARAMETERS = {
    "small": (22.06, 2.70, 0.028, 24.79),
    "base": (86.58, 10.80, 0.092, 97.47),
    "large": (304.37, 30.62, 0.332, 335.32),
    "giant": (1136.5, 120.9, 0.719, 1258.1),
}
PUBLISHED_WIDTHS = {
    "small": (384, 12, 6, [48, 96, 192, 384], 64),
    "base": (768, 12, 12, [96, 192, 384, 768], 128),
    "large": (1024, 24, 16, [256, 512, 1024, 1024], 256),
    "giant": (1536, 40, 24, [1536, 1536, 1536, 1536], 384),
}


def encoder_config(**kwargs):
    return Dinov2Config(**{"hidden_size": 96, "num_hidden_layers": 8, "num_attention_heads": 3} | kwargs)


@pytest.mark.parametrize(("size", "version"), PUBLISHED_BLOCKS)
def test_config_for__reads_the_published_blocks(size, version):
    backbone = config_for(size, version).backbone_config
    assert list(backbone.out_indices) == PUBLISHED_BLOCKS[size, version]
    assert list(backbone.out_features) == [f"stage{block}" for block in PUBLISHED_BLOCKS[size, version]]
    assert (backbone.apply_layernorm, backbone.reshape_hidden_states) == (True, False)


@pytest.mark.parametrize("size", PUBLISHED_WIDTHS)
def test_config_for__has_the_published_widths(size):
    config = config_for(size)
    backbone = config.backbone_config
    assert (
        backbone.hidden_size,
        backbone.num_hidden_layers,
        backbone.num_attention_heads,
        config.neck_hidden_sizes,
        config.fusion_hidden_size,
    ) == PUBLISHED_WIDTHS[size]
    assert (config.reassemble_hidden_size, config.head_hidden_size) == (backbone.hidden_size, 32)
    assert (config.patch_size, backbone.patch_size, backbone.image_size) == (14, 14, 518)
    assert backbone.use_swiglu_ffn == (size == "giant")
    assert list(config.reassemble_factors) == [4, 2, 1, 0.5]


@pytest.mark.parametrize("size", PUBLISHED_PARAMETERS)
def test_config_for__has_the_published_number_of_parameters(size):
    with torch.device("meta"):
        model = StockDepthAnything(config_for(size))
    parts = (model.backbone, model.neck, model.head, model)
    millions = [sum(parameter.numel() for parameter in part.parameters()) / 1e6 for part in parts]
    published = PUBLISHED_PARAMETERS[size]
    # Giant is published to a tenth of a million only, heads to a thousandth.
    tolerances = (0.05, 0.05, 0.0006, 0.05) if size == "giant" else (0.0051, 0.0051, 0.0006, 0.01)
    for found, expected, tolerance in zip(millions, published, tolerances, strict=True):
        assert found == pytest.approx(expected, abs=tolerance)


def test_config_for__small_v1_is_the_stock_default():
    ours, stock = config_for("small", "v1").to_dict(), DepthAnythingConfig().to_dict()
    different = {key for key in stock if ours[key] != stock[key] and list(ours[key]) != list(stock[key])}
    assert different == set()


@pytest.mark.parametrize(
    ("max_depth", "expected"), [(None, ("relative", 1)), (20, ("metric", 20)), (80.0, ("metric", 80))]
)
def test_config_for__max_depth_makes_it_metric(max_depth, expected):
    config = config_for("small", max_depth=max_depth)
    assert (config.depth_estimation_type, config.max_depth) == expected


@pytest.mark.parametrize("max_depth", [0, -1, 10.5, float("nan"), float("inf")])
def test_config_for__rejects_max_depth(max_depth):
    with pytest.raises(ValueError, match=rf"max_depth is {max_depth}; it must be a positive whole number of meters"):
        config_for("small", max_depth=max_depth)


def test_config_for__rejects_giant_v1():
    with pytest.raises(ValueError, match=r"size is 'giant' and version 'v1'; V1 has no giant.* Pass version='v2'"):
        config_for("giant", "v1")


def test_config_for__rejects_unknown_size():
    with pytest.raises(ValueError, match=r"size is 'tiny'; it must be one of \('small', 'base', 'large', 'giant'\)"):
        config_for("tiny")


@pytest.mark.parametrize("size", SIZE_PRESETS)
def test_config_for__rejects_unknown_version(size):
    with pytest.raises(ValueError, match=r"version is 'v3'; it must be one of \('v1', 'v2'\)"):
        config_for(size, "v3")


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_check_version__returns_it(version):
    assert check_version(version) == version


@pytest.mark.parametrize("version", ["v1", "v2"])
@pytest.mark.parametrize("depth", [4, 5, 6, 7, 11, 12, 24, 40, 41])
def test_encoder_blocks__are_four_ascending_and_end_with_the_last(depth, version):
    blocks = encoder_blocks(depth, version)
    assert len(blocks) == 4
    assert blocks == sorted(set(blocks))
    assert blocks[0] >= 1
    assert blocks[-1] == depth


def test_encoder_blocks__other_depths_are_quarters_in_v2():
    assert encoder_blocks(10, "v2") == [2, 5, 7, 10]


def test_encoder_blocks__rejects_shallow_encoder():
    with pytest.raises(ValueError, match=r"the encoder has 3 blocks; the decoder reads 4"):
        encoder_blocks(3, "v1")


def test_config_for_encoder__rejects_shallow_encoder():
    with pytest.raises(ValueError, match=r"the encoder has 3 blocks"):
        config_for_encoder(encoder_config(num_hidden_layers=3))


def test_config_for_encoder__any_width_gets_the_proportions_of_the_small_decoder():
    small = SIZE_PRESETS["small"]
    config = config_for_encoder(encoder_config())
    ratio = 96 / small.hidden_size
    assert config.neck_hidden_sizes == [ratio * width for width in small.neck_hidden_sizes]
    assert config.fusion_hidden_size == ratio * small.fusion_hidden_size


def test_config_for_encoder__released_width_gets_the_released_decoder():
    config = config_for_encoder(encoder_config(hidden_size=1024, num_attention_heads=16, num_hidden_layers=6))
    assert (config.neck_hidden_sizes, config.fusion_hidden_size) == ([256, 512, 1024, 1024], 256)
    assert list(config.backbone_config.out_indices) == [1, 3, 4, 6]


def test_config_for_encoder__keeps_the_encoder_as_it_is():
    given = encoder_config(patch_size=16, image_size=64, layer_norm_eps=1e-5, use_swiglu_ffn=True, drop_path_rate=0.1)
    config = config_for_encoder(given)
    for name in ("patch_size", "image_size", "layer_norm_eps", "use_swiglu_ffn", "drop_path_rate", "hidden_size"):
        assert getattr(config.backbone_config, name) == getattr(given, name)
    assert config.patch_size == 16
    assert given.reshape_hidden_states  # the caller's object is not touched


def test_config_for_encoder__does_not_carry_the_folder_of_the_encoder():
    given = encoder_config()
    given._name_or_path = "/home/someone/encoder"
    assert "someone" not in config_for_encoder(given).to_json_string()
