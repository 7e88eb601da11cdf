"""Configurations of the released sizes, and of a decoder for any DINOv2 encoder."""

from __future__ import annotations

from dataclasses import dataclass

from transformers import DepthAnythingConfig, Dinov2Config

from depth_anything_hf.model.choices import VERSIONS


@dataclass(frozen=True)
class SizePreset:
    """Store a released size: widths of encoder and decoder, and the encoder blocks that V2 reads (1-based)."""

    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    neck_hidden_sizes: tuple[int, int, int, int]
    fusion_hidden_size: int
    v2_blocks: tuple[int, int, int, int]
    swiglu: bool = False


# Source: `dpt.py` and `dinov2.py` of the authors' repositories.
SIZE_PRESETS = {
    "small": SizePreset(384, 12, 6, (48, 96, 192, 384), 64, (3, 6, 9, 12)),
    "base": SizePreset(768, 12, 12, (96, 192, 384, 768), 128, (3, 6, 9, 12)),
    "large": SizePreset(1024, 24, 16, (256, 512, 1024, 1024), 256, (5, 12, 18, 24)),
    "giant": SizePreset(1536, 40, 24, (1536, 1536, 1536, 1536), 384, (10, 20, 30, 40), swiglu=True),
}


def check_version(version: str) -> str:
    """Return `version` if it is `"v1"` or `"v2"`; raise a `ValueError` otherwise."""
    if version not in VERSIONS:
        raise ValueError(
            f"version is {version!r}; it must be one of {VERSIONS}. The two have the same weight names and read "
            "different encoder blocks (V1 the last four, V2 four spread over the depth): the wrong one loads without an "
            "error and predicts bad depth."
        )
    return version


def encoder_blocks(num_hidden_layers: int, version: str) -> list[int]:
    """List the four encoder blocks that the decoder reads, 1-based, for an encoder of any depth.

    Args:
        num_hidden_layers (`int`): Number of blocks of the encoder, at least 4.
        version (`str`): `"v1"`: the last four. `"v2"`: the authors' choice for 12, 24 and 40 blocks, else the ends of the
            four quarters.

    Returns:
        `list[int]`: Four block numbers in ascending order; the last one is the last block.

    Raises:
        ValueError: The encoder is too shallow, or the version is unknown.

    Example:
        >>> encoder_blocks(24, "v2"), encoder_blocks(24, "v1")
        ([5, 12, 18, 24], [21, 22, 23, 24])
    """
    if num_hidden_layers < 4:
        raise ValueError(f"the encoder has {num_hidden_layers} blocks; the decoder reads 4, so it needs at least 4.")
    if check_version(version) == "v1":
        return list(range(num_hidden_layers - 3, num_hidden_layers + 1))
    released = {preset.num_hidden_layers: preset.v2_blocks for preset in SIZE_PRESETS.values()}
    quarters = (num_hidden_layers * k // 4 for k in (1, 2, 3, 4))
    return list(released.get(num_hidden_layers, quarters))


def config_for_encoder(
    backbone_config: Dinov2Config, version: str = "v2", max_depth: float | None = None
) -> DepthAnythingConfig:
    """Build the configuration of a Depth Anything model around a DINOv2 encoder of any size.

    An encoder of a released width gets the released decoder; any other gets a decoder in the proportions of the small one.

    Args:
        backbone_config (`Dinov2Config`): Config of a `Dinov2Model` or `Dinov2Backbone`.
        version (`str`): `"v1"` or `"v2"`; decides which encoder blocks the decoder reads.
        max_depth (`float`, *optional*): Makes the model metric, with outputs in (0, max_depth) meters; a whole number.
            Default: a relative model, with disparity of unknown scale and shift.

    Returns:
        `DepthAnythingConfig`: A configuration of the stock class.

    Raises:
        ValueError: The encoder is too shallow, the version is unknown, or `max_depth` is no positive whole number.

    Example:
        >>> config = config_for_encoder(Dinov2Config(hidden_size=96, num_hidden_layers=8, num_attention_heads=3))
        >>> config.backbone_config.out_indices, config.neck_hidden_sizes, config.fusion_hidden_size
        ([2, 4, 6, 8], [12, 24, 48, 96], 16)
    """
    if max_depth is not None and not (max_depth > 0 and max_depth % 1 == 0):
        raise ValueError(
            f"max_depth is {max_depth}; it must be a positive whole number of meters, because the stock configuration "
            "stores no other: the authors use 20 indoors and 80 outdoors. Round it up."
        )
    width = backbone_config.hidden_size
    released = {preset.hidden_size: preset for preset in SIZE_PRESETS.values()}.get(width)
    backbone = backbone_config.to_dict() | {
        "out_indices": encoder_blocks(backbone_config.num_hidden_layers, version),
        "out_features": None,
        "apply_layernorm": True,
        "reshape_hidden_states": False,
    }
    # The name may be a folder of this machine, and would be published with the checkpoint.
    left_out = ("stage_names", "architectures", "dtype", "_name_or_path")
    backbone = {key: value for key, value in backbone.items() if key not in left_out}
    return DepthAnythingConfig(
        backbone_config=Dinov2Config(**backbone),
        patch_size=backbone_config.patch_size,
        reassemble_hidden_size=width,
        neck_hidden_sizes=list(
            released.neck_hidden_sizes if released else (width // 8, width // 4, width // 2, width)
        ),
        fusion_hidden_size=released.fusion_hidden_size if released else max(round(width / 48) * 8, 8),
        depth_estimation_type="relative" if max_depth is None else "metric",
        max_depth=1 if max_depth is None else int(max_depth),  # the stock class refuses 20.0
    )


def config_for(size: str, version: str = "v2", max_depth: float | None = None) -> DepthAnythingConfig:
    """Build the configuration of a released model size.

    Args:
        size (`str`): `"small"` (24.8M parameters), `"base"` (97.5M), `"large"` (335.3M) or `"giant"` (1.3B, V2 only).
        version (`str`): `"v1"` or `"v2"`; decides which encoder blocks the decoder reads. Their weights have the same
            names, so the wrong version loads without an error and predicts bad depth.
        max_depth (`float`, *optional*): Meters, for a metric model: 20 indoors, 80 outdoors. Default: a relative model.

    Returns:
        `DepthAnythingConfig`: A configuration of the stock class.

    Raises:
        ValueError: The size or version is unknown, or it is V1 giant, which does not exist.

    Source: the authors' repositories; Depth Anything V2, section 5.

    Example:
        >>> config_for("small", "v1").backbone_config.out_indices
        [9, 10, 11, 12]
    """
    if size not in SIZE_PRESETS:
        raise ValueError(f"size is {size!r}; it must be one of {tuple(SIZE_PRESETS)}.")
    if size == "giant" and check_version(version) == "v1":
        raise ValueError("size is 'giant' and version 'v1'; V1 has no giant model. Pass version='v2'.")
    preset = SIZE_PRESETS[size]
    encoder = Dinov2Config(
        image_size=518,
        patch_size=14,
        hidden_size=preset.hidden_size,
        num_hidden_layers=preset.num_hidden_layers,
        num_attention_heads=preset.num_attention_heads,
        use_swiglu_ffn=preset.swiglu,
    )
    return config_for_encoder(encoder, version, max_depth)
