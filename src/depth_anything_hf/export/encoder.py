"""Export the encoder of a Depth Anything as a stock DINOv2 backbone, for other tasks."""

from __future__ import annotations

import copy
import os

import torch
from torch import nn
from transformers import DepthAnythingForDepthEstimation as StockDepthAnything

from depth_anything_hf.data.whole_files import filling
from depth_anything_hf.prediction.predictor import load_model


def export_encoder(model: str | os.PathLike | nn.Module, folder: str | os.PathLike) -> None:
    """Save the encoder of a Depth Anything as a DINOv2 checkpoint, which loads without this package.

    `Dinov2Backbone`, `Dinov2Model`, `AutoModel`, `DepthAnythingForDepthEstimation.from_encoder` and the `feature_encoder`
    of `DepthAnythingTrainer` load the folder (`AutoBackbone.from_pretrained` accepts ids of the Hub only). As a backbone it
    returns feature maps `(batch, hidden_size, height / patch, width / patch)`, after the final layer norm, of the blocks
    that the depth decoder read; `Dinov2Backbone.from_pretrained(folder, out_indices=...)` chooses other blocks.

    Args:
        model (`str` or `nn.Module`): Hub id or folder of a Depth Anything or of a LoRA adapter, which is merged; its
            processor is saved with the encoder. Or the model itself.
        folder (`str`): Output folder; created if missing.

    Raises:
        TypeError: The model is of another kind, or has an adapter that is not merged.

    Source: Depth Anything V1, tables 7 and 8 (semantic segmentation).

    Example:
        >>> import tempfile
        >>> from transformers import Dinov2Backbone, Dinov2Config
        >>> from depth_anything_hf import DepthAnythingForDepthEstimation, config_for_encoder
        >>> tiny = Dinov2Config(image_size=56, hidden_size=32, num_hidden_layers=4, num_attention_heads=2)
        >>> folder = tempfile.mkdtemp()
        >>> export_encoder(DepthAnythingForDepthEstimation(config_for_encoder(tiny)), folder)
        >>> Dinov2Backbone.from_pretrained(folder)(torch.zeros(1, 3, 28, 56)).feature_maps[-1].shape
        torch.Size([1, 32, 2, 4])
    """
    processor = None
    if isinstance(model, (str, os.PathLike)):
        model, processor = load_model(os.fspath(model), dtype="auto")
    adapted = any("lora_" in name for name, _ in model.named_parameters())
    if not isinstance(model, StockDepthAnything) or adapted:
        raise TypeError(
            f"model is a {type(model).__name__}{' with an adapter in it' if adapted else ''}; export_encoder takes a Depth "
            "Anything, its Hub id or its folder. Merge an adapter first: adapted.merge_and_unload(), or pass its folder."
        )
    config = copy.deepcopy(model.backbone.config)
    config.reshape_hidden_states = True  # maps: the other models of transformers expect them from a backbone
    with torch.device("meta"):
        encoder = type(model.backbone)(config)
    encoder.load_state_dict(model.backbone.state_dict(), assign=True)
    with filling(folder) as hidden:
        encoder.save_pretrained(hidden, save_original_format=False)  # the names in memory, as of the whole model
        if processor is not None:
            processor.save_pretrained(hidden)
