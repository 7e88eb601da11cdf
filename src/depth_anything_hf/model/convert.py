"""Convert the authors' `.pth` files to Hugging Face checkpoints and back, bit for bit."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import cast

import torch
from safetensors.torch import load_file
from transformers import DepthAnythingConfig, Dinov2Config

from depth_anything_hf.data.stand_ins import stand_in
from depth_anything_hf.model.configuration import SIZE_PRESETS, config_for
from depth_anything_hf.model.loading import check_finite
from depth_anything_hf.model.modeling import NAMES_ON_DISK, DepthAnythingForDepthEstimation

# Official name -> name on disk, in both directions by `name_table`. Source: the authors' `dpt.py` and `dinov2.py`.
_PARAMETERS = {
    "pretrained.cls_token": "backbone.embeddings.cls_token",
    "pretrained.pos_embed": "backbone.embeddings.position_embeddings",
    "pretrained.mask_token": "backbone.embeddings.mask_token",
}
_MODULES = {  # a weight and a bias each
    "pretrained.patch_embed.proj": "backbone.embeddings.patch_embeddings.projection",
    "pretrained.norm": "backbone.layernorm",
    "depth_head.scratch.output_conv1": "head.conv1",
    "depth_head.scratch.output_conv2.0": "head.conv2",
    "depth_head.scratch.output_conv2.2": "head.conv3",
}
_BLOCK_PARAMETERS = {"ls1.gamma": "layer_scale1.lambda1", "ls2.gamma": "layer_scale2.lambda1"}
_BLOCK_MODULES = {"norm1": "norm1", "norm2": "norm2", "attn.proj": "attention.output.dense"}
_QKV = tuple(f"attention.attention.{part}" for part in ("query", "key", "value"))  # rows of attn.qkv, in this order
_MLP = {"mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2"}
_SWIGLU = {"mlp.w12": "mlp.weights_in", "mlp.w3": "mlp.weights_out"}
_FUSION_MODULES = {"out_conv": "projection"} | {
    f"resConfUnit{unit}.conv{i}": f"residual_layer{unit}.convolution{i}" for unit in (1, 2) for i in (1, 2)
}
_PUBLISHED_NAMES: tuple[tuple[str, str, int | None], ...] = (  # stem of the authors' files, version, max_depth
    (r"depth_anything_vit[sbl]14", "v1", None),
    (r"depth_anything_v2_vit[sblg]", "v2", None),
    (r"depth_anything_v2_metric_hypersim_vit[sbl]", "v2", 20),
    (r"depth_anything_v2_metric_vkitti_vit[sbl]", "v2", 80),
)
# Settings that training programs save beside the weights; none of their code runs, see `_Inert`.
_SETTINGS = (
    "argparse.Namespace", "types.SimpleNamespace", "pathlib.", "numpy.", "omegaconf.", "yacs.", "easydict.", "addict.",
    "ml_collections.", "mmengine.config", "pytorch_lightning.", "lightning.", "lightning_fabric.", "typing.Any",
)  # fmt: skip
_ZOEDEPTH = ("core.core.", "attractors.", "seed_bin_regressor.", "conditional_log_binomial.")


def name_table(config: DepthAnythingConfig) -> dict[str, tuple[str, ...]]:
    """List the official name of every parameter with its name on disk in a Hugging Face checkpoint.

    This is one name, or three if the official parameter stacks query, key and value.

    Example:
        >>> table = name_table(config_for("small"))
        >>> len(table), sum(len(names) for names in table.values())
        (239, 287)
    """
    encoder = _encoder(config)
    table: dict[str, tuple[str, ...]] = {official: (name,) for official, name in _PARAMETERS.items()}
    modules: dict[str, tuple[str, ...]] = {official: (name,) for official, name in _MODULES.items()}
    in_block: dict[str, tuple[str, ...]] = {
        k: (v,) for k, v in (_BLOCK_MODULES | (_SWIGLU if encoder.use_swiglu_ffn else _MLP)).items()
    }
    in_block["attn.qkv"] = _QKV
    for i in range(encoder.num_hidden_layers):
        theirs, ours = f"pretrained.blocks.{i}.", f"backbone.encoder.layer.{i}."
        table |= {theirs + official: (ours + name,) for official, name in _BLOCK_PARAMETERS.items()}
        modules |= {theirs + official: tuple(ours + name for name in names) for official, names in in_block.items()}
    for i in range(4):
        table[f"depth_head.scratch.layer{i + 1}_rn.weight"] = (f"neck.convs.{i}.weight",)
        modules[f"depth_head.projects.{i}"] = (f"neck.reassemble_stage.layers.{i}.projection",)
        if i != 2:  # the third map keeps its size
            modules[f"depth_head.resize_layers.{i}"] = (f"neck.reassemble_stage.layers.{i}.resize",)
        theirs, ours = f"depth_head.scratch.refinenet{4 - i}.", f"neck.fusion_stage.layers.{i}."  # ours: deepest first
        modules |= {theirs + official: (ours + name,) for official, name in _FUSION_MODULES.items()}
    for official, names in modules.items():
        for kind in ("weight", "bias"):
            table[f"{official}.{kind}"] = tuple(f"{name}.{kind}" for name in names)
    return table


def from_official(state_dict: Mapping[str, torch.Tensor], config: DepthAnythingConfig) -> dict[str, torch.Tensor]:
    """Rename official weights as in a Hugging Face checkpoint on disk.

    Args:
        state_dict (`Mapping[str, torch.Tensor]`): Weights of the official network. The mask token, which only DINOv2's
            own training needs, may be missing and is then zero.
        config (`DepthAnythingConfig`): Configuration of the same size.

    Returns:
        `dict[str, torch.Tensor]`: Same values and dtypes, in the same memory.

    Raises:
        ValueError: Names or shapes differ from those of the size, which the message lists; or it is another network.
    """
    if any(name.startswith(_ZOEDEPTH) for name in state_dict):
        raise ValueError(
            "the file holds ZoeDepth (core.core.*, attractors.*), the network of V1's metric models. In transformers, "
            "ZoeDepthForDepthEstimation loads those with a BEiT encoder (Intel/zoedepth-nyu-kitti); V1's have a DINOv2 "
            "encoder and run only in the authors' code. For metric depth, use a V2 metric file."
        )
    table, shapes = name_table(config), _shapes_on_disk(config)
    # A stack of n matrices has n times the rows.
    official_shapes = {key: (len(names) * shapes[names[0]][0], *shapes[names[0]][1:]) for key, names in table.items()}
    state_dict = _with_mask_token(state_dict, "pretrained.")
    _check(state_dict, official_shapes, _hint(state_dict, config))
    renamed: dict[str, torch.Tensor] = {}
    for official, names in table.items():
        renamed |= zip(names, state_dict[official].chunk(len(names)), strict=True)
    if not _encoder(config).use_mask_token:
        renamed.pop(table["pretrained.mask_token"][0])
    return renamed


def to_official(state_dict: Mapping[str, torch.Tensor], config: DepthAnythingConfig) -> dict[str, torch.Tensor]:
    """Rename a model's weights as in the official files: the inverse of `from_official`.

    Args:
        state_dict (`Mapping[str, torch.Tensor]`): `model.state_dict()`, or the content of its file. A missing mask token
            is added as zeros, because the official network loads no file without one.
        config (`DepthAnythingConfig`): Configuration of the model.

    Returns:
        `dict[str, torch.Tensor]`: Same values and dtypes.

    Raises:
        ValueError: Names or shapes differ from those of the config; the message lists them.

    Example:
        >>> from transformers import Dinov2Config
        >>> from depth_anything_hf import config_for_encoder
        >>> encoder = Dinov2Config(image_size=56, hidden_size=32, num_hidden_layers=4, num_attention_heads=2)
        >>> model = DepthAnythingForDepthEstimation(config_for_encoder(encoder))
        >>> official = to_official(model.state_dict(), model.config)
        >>> official["pretrained.blocks.0.attn.qkv.weight"].shape
        torch.Size([96, 32])
        >>> model.load_state_dict(from_official(official, model.config))
        <All keys matched successfully>
    """
    state_dict = _with_mask_token(published_names(state_dict), "backbone.embeddings.")
    _check(state_dict, _shapes_on_disk(config))
    return {
        official: state_dict[names[0]] if len(names) == 1 else torch.cat([state_dict[name] for name in names])
        for official, names in name_table(config).items()
    }


def load_official(path: str | Path) -> dict[str, torch.Tensor]:
    """Read the weights of an official file, or of a checkpoint of the authors' training code; no code in the file runs.

    Args:
        path (`str` or `Path`): `.pth`, `.pt`, `.ckpt` or `.safetensors`. Weights under a key such as `model`, `state_dict` or
            `ema` are found, and prefixes of DistributedDataParallel, `torch.compile` and Lightning are removed.

    Returns:
        `dict[str, torch.Tensor]`: Names and weights, on the CPU.

    Raises:
        ValueError: The file contains code, or no weights, or several models; or it is damaged, or of another program.
    """
    return _weights(_read(Path(path)), path)


def model_from_official(
    state_dict: Mapping[str, torch.Tensor], config: DepthAnythingConfig
) -> DepthAnythingForDepthEstimation:
    """Build a model that shares the memory of official weights, in evaluation mode; errors as in `from_official`."""
    renamed = from_official(state_dict, config)
    with torch.device("meta"):  # initial weights would need 5 GB for the giant, only to be replaced
        model = DepthAnythingForDepthEstimation(config)
    model.load_state_dict(renamed, assign=True)
    return model.eval()


def convert_official(
    path: str | Path, size: str, version: str, max_depth: float | None = None
) -> DepthAnythingForDepthEstimation:
    """Turn an official file into a model.

    The weights do not show the version, or whether they are metric. If the file's name or a training checkpoint shows it,
    the arguments must agree; otherwise a wrong argument causes bad depth without an error.

    Args:
        path (`str` or `Path`): File for `load_official`.
        size (`str`): `"small"`, `"base"`, `"large"` or `"giant"`.
        version (`str`): `"v1"` or `"v2"`; decides which encoder blocks the decoder reads.
        max_depth (`float`, *optional*): Meters, for metric files: 20 for Hypersim, 80 for VKITTI2.

    Returns:
        `DepthAnythingForDepthEstimation`: The model in evaluation mode, on the CPU.

    Raises:
        ValueError: The weights are of another size or network, or the file contradicts the arguments.
    """
    path, config, asked = Path(path), config_for(size, version, max_depth), (version, max_depth)
    _check_metric_version(*asked)
    named = _named_kind(path.name, max_depth)
    if named is not None and asked != named:
        raise ValueError(
            f"{path.name} is the authors' name of a {_kind(*named)} model, and {_kind(*asked)} is asked for. "
            "Pass the `version` and `max_depth` of the name, or rename the file if its name is wrong."
        )
    checkpoint = _read(path)
    best = checkpoint.get("previous_best") if isinstance(checkpoint, dict) else None
    if max_depth is None and isinstance(best, dict) and "abs_rel" in best:
        raise ValueError(
            f"{path} is a checkpoint of metric training; pass its `max_depth` (the authors': 20 Hypersim, 80 VKITTI2)."
        )
    model = model_from_official(_weights(checkpoint, path), config)
    check_finite(model, path)
    return model


def official_kind(config: DepthAnythingConfig) -> tuple[str, str, int | None]:
    """Return size, version and max_depth of the official network with this configuration; `ValueError` if there is none."""
    if config.model_type != "depth_anything":
        raise ValueError(f"the model is of type {config.model_type!r}; only Depth Anything has an official layout.")
    max_depth = config.max_depth if config.depth_estimation_type == "metric" else None
    for size, version in [(size, "v2") for size in SIZE_PRESETS] + [(s, "v1") for s in ("small", "base", "large")]:
        if _layers(config_for(size, version)) == _layers(config):
            _check_metric_version(version, max_depth)
            return size, version, max_depth
    raise ValueError(
        f"a model of width, depth, heads, blocks read and decoder widths {_layers(config)[:6]} is none of the authors', "
        f"and their code could not load it: it knows the sizes {tuple(SIZE_PRESETS)} of V1 and V2."
    )


class _Inert:
    """Stand in for a settings object in a checkpoint, such as `argparse.Namespace`: it takes all and does nothing."""

    def __init__(self, *args):
        pass

    def __setstate__(self, state):
        pass


def _named_kind(name: str, max_depth: float | None) -> tuple[str, float | None] | None:
    """Return version and max_depth of an official file's name, also of a copy of it.

    A name that an official one stands in tells the version alone, and any other nothing: None.
    """
    stem = re.sub(r"(\.(pth|pt|ckpt|safetensors|bin|\d+))+$", "", re.sub(r"[\s_-]+", "_", name.strip().lower()))
    stem = re.sub(r"(_?\(\d+\)|_?\[\d+\]|_(copy|kopie|copie|copia)|_\d+|~|_)+$", "", re.sub(r"^(copy_of_)+", "", stem))
    for pattern, *named in _PUBLISHED_NAMES:
        if re.fullmatch(pattern, stem):
            return tuple(named)  # type: ignore[return-value]
    found = re.search(r"depth_?anything_(v2|vit[sbl]14)", stem)
    return ("v2" if found[1] == "v2" else "v1", max_depth) if found else None


def _read(path: Path):
    """Load a file without running any code in it."""
    with path.open("rb") as file:  # a file that cannot be opened keeps its own error
        start = file.read(9)
    broken = f"{path} is no checkpoint of PyTorch, or is damaged"
    if problem := stand_in(path):
        raise ValueError(f"{broken}: it {problem}.")
    if problem := _other_program(path):
        raise ValueError(f"{path} {problem}.")
    inert: set[str] = set()
    while True:
        try:
            if path.suffix == ".safetensors" or start[8:] == b"{":
                return load_file(path)
            with torch.serialization.safe_globals([(_Inert, name) for name in inert]):
                return torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # a damaged file raises a dozen kinds
            found = re.search(r"GLOBAL ([\w.]+)", str(error))
            if found and found[1].startswith(_SETTINGS) and found[1] not in inert:
                inert.add(found[1])
                continue
            if found:
                message = "which is no weight: a pickle that can run code is refused. Save only the state_dict."
                raise ValueError(f"{path} asks for {found[1]}, {message}") from error
            raise ValueError(f"{broken} ({type(error).__name__}): download it again.") from error


def _other_program(path: Path) -> str | None:
    """Describe a file of NumPy, TorchScript or an archive, with the next step."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
        if any(name.endswith(".npy") for name in names):
            return "is an archive of NumPy: save its arrays with torch.save, as a dict of names and tensors, and convert that"
        if any("/code/" in name or name.endswith("constants.pkl") for name in names):
            return (
                "is a TorchScript module: save the weights alone, torch.save(torch.jit.load(file).state_dict(), ...)"
            )
        if not any(name.endswith("data.pkl") for name in names):
            return f"is an archive of {len(names)} files, such as {min(names, default='none')}: unpack it"
    with path.open("rb") as file:
        start = file.read(300)
    if start.startswith(b"\x93NUMPY"):
        return "is an array of NumPy; the weights are many arrays: save them with torch.save, as a dict of names and tensors"
    if start.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"7z\xbc\xaf", b"Rar!")) or start[257:262] == b"ustar":
        return "is an archive: unpack it, and convert the file inside"
    return None


def _weights(checkpoint, path: str | Path) -> dict[str, torch.Tensor]:
    """Return the weights among the content of a file, under the official names."""
    found = {key: weights for key, weights in _state_dicts(checkpoint) if weights}
    if len(found) > 1:  # the optimizer's, or a teacher of another kind, has other names
        found = {key: weights for key, weights in found.items() if _prefixes(weights)} or found
    if not found:
        raise ValueError(f"{path} holds no weights: expected names to tensors, or these under a key such as 'model'.")
    if len(found) > 1:
        raise ValueError(
            f"{path} holds weights under {' and '.join(map(repr, found))}: save those that you want alone, and convert that file."
        )
    (weights,) = found.values()
    prefixes = _prefixes(weights)
    if len(prefixes) > 1:
        raise ValueError(
            f"{path} holds {len(prefixes)} networks, under {' and '.join(map(repr, prefixes))}: save the one that you want alone, "
            "and convert that file."
        )
    prefix = prefixes[0] if prefixes else "module." if all(name.startswith("module.") for name in weights) else ""
    return {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}


def _state_dicts(content, key: str = "", depth: int = 3) -> Iterator[tuple[str, dict[str, torch.Tensor]]]:
    """Find dicts of names and tensors in a checkpoint; names lose what `torch.compile` and FSDP put into them."""
    if not isinstance(content, Mapping):
        return
    inside = {str(name): value for name, value in content.items() if isinstance(value, Mapping)}
    tensors = {name: value for name, value in content.items() if isinstance(name, str) and torch.is_tensor(value)}
    if tensors and not inside:
        yield key, {re.sub(r"_orig_mod\.|_fsdp_wrapped_module\.", "", name): value for name, value in tensors.items()}
    for name, value in inside.items() if depth else ():
        yield from _state_dicts(value, f"{key}.{name}" if key else name, depth - 1)


def _prefixes(weights: Mapping[str, torch.Tensor]) -> list[str]:
    """List what stands before the official names."""
    ends = ("pretrained.cls_token", "backbone.embeddings.cls_token")
    found = {name.removesuffix(end) for name in weights for end in ends if f".{name}".endswith(f".{end}")}
    return sorted({prefix.removesuffix("core.core.") for prefix in found})  # those belong to ZoeDepth


def _with_mask_token(state_dict: Mapping[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    """Add a mask token of zeros if there is none."""
    state_dict, class_token = dict(state_dict), state_dict.get(prefix + "cls_token")
    if class_token is not None:
        state_dict.setdefault(prefix + "mask_token", torch.zeros_like(class_token.flatten(0, 1)))
    return state_dict


def published_names(state_dict: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Rename weights from their names in memory to the published ones, which older files have."""
    renamed = {}
    for name, value in state_dict.items():
        for on_disk, in_memory in NAMES_ON_DISK.items():
            name = name.replace(in_memory, on_disk)
        renamed[name] = value
    for gate in [
        name for name in renamed if ".mlp.gate_proj." in name
    ]:  # two layers of the giant in memory, one on disk
        up = gate.replace(".gate_proj.", ".up_proj.")
        if up in renamed:
            renamed[gate.replace(".gate_proj.", ".weights_in.")] = torch.cat([renamed.pop(gate), renamed.pop(up)])
    return renamed


def _shapes_on_disk(config: DepthAnythingConfig) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a configuration's weights that have an official name."""
    with torch.device("meta"):
        model = DepthAnythingForDepthEstimation(config)
    weights = _with_mask_token(published_names(model.state_dict()), "backbone.embeddings.")
    return {name: tuple(weights[name].shape) for names in name_table(config).values() for name in names}


def _check(state_dict: Mapping[str, torch.Tensor], shapes: dict[str, tuple[int, ...]], hint: str = "") -> None:
    """Raise a `ValueError` that lists names that are missing, unexpected or of another shape."""
    wrong = [name for name in shapes if name in state_dict and tuple(state_dict[name].shape) != shapes[name]]
    found = {
        "missing": [name for name in shapes if name not in state_dict],
        "unexpected": [name for name in state_dict if name not in shapes],
        "of no numbers of floating point": [
            name for name in shapes if name in state_dict and not _is_weight(state_dict[name])
        ],
        "of another shape": [f"{name} {tuple(state_dict[name].shape)}, not {shapes[name]}" for name in wrong],
    }
    found = {kind: names for kind, names in found.items() if names}
    if found:
        lines = [
            f"{len(names)} {kind}: {', '.join(names[:10] + ['...'] * (len(names) > 10))}"
            for kind, names in found.items()
        ]
        raise ValueError("\n".join([f"the weights do not fit. {hint}".strip(), *lines]))


def _is_weight(values: torch.Tensor) -> bool:
    dense = values.layout == torch.strided and not values.is_quantized
    return values.dtype.is_floating_point and dense and not values.is_meta


def _hint(state_dict: Mapping[str, torch.Tensor], config: DepthAnythingConfig) -> str:
    """Guess why official weights do not fit."""
    if any(name.startswith("backbone.") for name in state_dict):
        return "These are names of a Hugging Face checkpoint, which needs no conversion; for the other direction use to_official."
    token, width = state_dict.get("pretrained.cls_token"), _encoder(config).hidden_size
    sizes = {preset.hidden_size: size for size, preset in SIZE_PRESETS.items()}
    if token is not None and token.shape[-1] != width:
        return f"The size asked for is {sizes.get(width)}; the weights are of size {sizes.get(token.shape[-1], 'unknown')}."
    return ""


def _check_metric_version(version: str, max_depth: float | None) -> None:
    if version == "v1" and max_depth is not None:
        raise ValueError(
            "V1 has no metric model but ZoeDepth's: pass version 'v2' for a metric file, or leave `max_depth` out."
        )


def _kind(version: str, max_depth: float | None) -> str:
    return f"{version} relative" if max_depth is None else f"{version} metric (max_depth {max_depth:g})"


def _layers(config: DepthAnythingConfig) -> tuple:
    """Return the settings from which the authors' code builds its network, and that determine its output."""
    encoder = _encoder(config)
    shape = (encoder.hidden_size, encoder.num_hidden_layers, encoder.num_attention_heads, list(encoder.out_indices))
    kind = (encoder.mlp_ratio, encoder.use_swiglu_ffn, encoder.qkv_bias, encoder.patch_size, encoder.image_size)
    return *shape, list(config.neck_hidden_sizes), config.fusion_hidden_size, config.head_hidden_size, *kind


def _encoder(config: DepthAnythingConfig) -> Dinov2Config:
    return cast(Dinov2Config, config.backbone_config)
