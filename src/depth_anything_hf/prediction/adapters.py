"""LoRA for Depth Anything: which modules to adapt, what an adapter costs, and how it becomes a whole checkpoint."""

from __future__ import annotations

import copy
import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peft import LoraConfig, PeftModel, get_peft_model_state_dict

from depth_anything_hf.data.whole_files import filling
from depth_anything_hf.model.bundled import checkpoint_name
from depth_anything_hf.model.choices import ADAPTED_DECODERS
from depth_anything_hf.prediction.predictor import FINGERPRINT, load_model
from depth_anything_hf.prediction.weights import adapter_base, weights_fingerprint

# transformers 5 renamed the attention's layers in memory; the left names are those of version 4.
ATTENTION_LAYERS = r"query|key|value|attention\.output\.dense|q_proj|k_proj|v_proj|o_proj"
# The deepest fusion block has no skip connection, so nothing trains its first residual unit; plain DDP stops at
# parameters without a gradient. It is therefore left out by name, here and below.
DECODER_CONVOLUTIONS = "|".join(
    (
        r"neck\.reassemble_stage\.layers\.\d\.projection",
        r"neck\.convs\.\d",
        r"neck\.fusion_stage\.layers\.\d\.(projection|residual_layer2\.convolution[12])",
        r"neck\.fusion_stage\.layers\.[1-3]\.residual_layer1\.convolution[12]",
        r"head\.conv[12]",
    )
)
DECODER_MODULES = (
    "neck.reassemble_stage",
    *(f"neck.convs.{i}" for i in range(4)),
    *(f"neck.fusion_stage.layers.0.{part}" for part in ("projection", "residual_layer2")),
    *(f"neck.fusion_stage.layers.{i}" for i in (1, 2, 3)),
    "head",
)


@dataclass
class DepthLoraConfig(LoraConfig):
    """LoRA's configuration, which saves with the adapter the fingerprint of the base model's weights.

    On the weights of another model of the same size an adapter loads without an error and gives bad depth. The
    fingerprint stands among `auto_mapping` of adapter_config.json, where PEFT and transformers leave it alone; `load_model`
    compares it. All ways to save come by here: `save_pretrained`, any Trainer's checkpoints, `push_to_hub`.
    """

    def save_pretrained(self, save_directory: str, **kwargs) -> None:
        """Save adapter_config.json, with the base model's stock class, its name and the fingerprint of its weights."""
        mapping = dict(kwargs.pop("auto_mapping_dict", None) or {})
        if mapping.get("parent_library", "").startswith("depth_anything_hf"):
            mapping["parent_library"] = "transformers"  # where a class of the same name loads the same weights
        fingerprint = self._fingerprint_of_base()
        if fingerprint is not None:
            mapping[FINGERPRINT] = fingerprint
        named = copy.copy(self)  # in memory the folder stays, where PEFT looks for the base's files
        if named.base_model_name_or_path:
            named.base_model_name_or_path = checkpoint_name(named.base_model_name_or_path)
        super(DepthLoraConfig, named).save_pretrained(save_directory, auto_mapping_dict=mapping or None, **kwargs)

    def _fingerprint_of_base(self) -> str | None:
        """Read the base model's weights where its name says they lie, once a run."""
        base = self.base_model_name_or_path
        if not base:
            warnings.warn(
                "the base model was not loaded from a folder or the Hub, so that the adapter names none and nothing can "
                "load it. Save the model with save_pretrained, load it from there, and adapt that one.",
                stacklevel=3,
            )
            return None
        if getattr(self, "_known", (None,))[0] != base:
            try:
                self._known = (base, weights_fingerprint(base))
            except OSError:  # the Hub is out of reach: no reason to stop a run
                return None
        return self._known[1]


def depth_lora_config(
    rank: int = 8, decoder: str = "full", alpha: int | None = None, dropout: float = 0.0
) -> DepthLoraConfig:
    """Make the LoRA configuration of a Depth Anything model.

    Args:
        rank (`int`): Of the update of each attention layer of the encoder, at least 1.
        decoder (`str`): `"full"` trains neck and head wholly (their weights are saved with the adapter); `"lora"`
            adapts their convolutions at the same rank, but for the resizing ones and the last; `"frozen"` leaves them as
            they are.
        alpha (`int`, *optional*): Scale of the update; left out, twice the rank.
        dropout (`float`): On the adapter's input, in [0, 1).

    Raises:
        ValueError: Unknown decoder choice, or a rank below 1.

    Example:
        >>> depth_lora_config(rank=4).r
        4
    """
    if decoder not in ADAPTED_DECODERS or rank < 1:
        raise ValueError(
            f"decoder is {decoder!r} and rank {rank}; decoder must be one of {ADAPTED_DECODERS}, rank at least 1."
        )
    attention = rf"backbone\.encoder\..*\.({ATTENTION_LAYERS})"
    return DepthLoraConfig(
        r=rank,
        lora_alpha=2 * rank if alpha is None else alpha,
        lora_dropout=dropout,
        target_modules=f"({attention}|{DECODER_CONVOLUTIONS})" if decoder == "lora" else attention,
        modules_to_save=list(DECODER_MODULES) if decoder == "full" else None,
    )


def describe_adapter(model: PeftModel) -> dict[str, float]:
    """Count what an adapter trains, stores and needs in memory.

    Args:
        model (`PeftModel`): From `get_peft_model`.

    Returns:
        `dict[str, float]`: `trainable_parameters`; `parameters`, of base model and adapter (a decoder that is trained
        wholly counts once, though PEFT keeps the original beside it); `trainable_share`, the one over the other;
        `adapter_bytes`, the weights in the adapter's file; `frozen_bytes`, the weights in memory that do not learn;
        `training_bytes`, what learning takes beside these and the activations: trainable weights, their gradients and
        AdamW's two moments.

    Raises:
        TypeError: `model` has no adapter.

    Example:
        >>> from peft import get_peft_model
        >>> from transformers import Dinov2Config
        >>> from depth_anything_hf import DepthAnythingForDepthEstimation, config_for_encoder
        >>> encoder = Dinov2Config(image_size=56, hidden_size=32, num_hidden_layers=4, num_attention_heads=2)
        >>> model = DepthAnythingForDepthEstimation(config_for_encoder(encoder))
        >>> describe_adapter(get_peft_model(model, depth_lora_config(2, "frozen")))["trainable_parameters"]
        2048
    """
    if not isinstance(model, PeftModel):
        raise TypeError(
            f"model is a {type(model).__name__}; pass what get_peft_model(model, depth_lora_config()) returns."
        )
    used = {name: weights for name, weights in model.named_parameters() if ".original_module." not in name}
    trained = [weights for weights in used.values() if weights.requires_grad]
    trained_bytes = sum(weights.nbytes for weights in trained)
    stored = get_peft_model_state_dict(model, save_embedding_layers=False).values()
    parameters = sum(weights.numel() for weights in used.values())
    trainable = sum(weights.numel() for weights in trained)
    return {
        "trainable_parameters": trainable,
        "parameters": parameters,
        "trainable_share": trainable / parameters,
        "adapter_bytes": sum(weights.nbytes for weights in stored),
        "frozen_bytes": sum(weights.nbytes for weights in model.parameters() if not weights.requires_grad),
        "training_bytes": 4 * trained_bytes,  # weights, gradients, first and second moments
    }


def merge_adapter(adapter: str | os.PathLike, out_dir: str | os.PathLike, **kwargs) -> Path:
    """Merge an adapter into its base model, and save a whole stock checkpoint, with the base model's processor.

    Args:
        adapter (`str` or `os.PathLike`): Folder or Hub id of the adapter.
        out_dir (`str` or `os.PathLike`): Folder of the checkpoint.
        kwargs: Passed to `from_pretrained` of the base model, such as `dtype`.

    Returns:
        `Path`: `out_dir`. Any `AutoModelForDepthEstimation` or `pipeline("depth-estimation")` loads it, without PEFT.

    Raises:
        ValueError: There is no adapter, its base model is another, or `out_dir` holds an adapter.
    """
    adapter, out_dir = str(adapter), Path(out_dir)
    if adapter_base(adapter) is None:
        raise ValueError(f"{adapter} holds no adapter (adapter_config.json, without a config.json); nothing to merge.")
    if (out_dir / "adapter_config.json").exists():
        raise ValueError(
            f"{out_dir} holds an adapter, which transformers would add to the merged weights once more; choose another "
            "out_dir."
        )
    model: Any
    model, processor = load_model(adapter, **{"dtype": "auto"} | kwargs)
    with filling(out_dir) as hidden:
        model.save_pretrained(hidden)
        processor.save_pretrained(hidden)
    return out_dir
