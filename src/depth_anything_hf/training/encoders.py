"""The frozen encoder for the alignment of the student's features, and the projector between different widths."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from transformers import AutoModel, TrainerCallback, TrainingArguments

from depth_anything_hf.losses import feature_alignment_loss
from depth_anything_hf.model.loading import load_checked
from depth_anything_hf.training.batches import derive_seed

PROJECTOR_FILE = "feature_projector.pt"  # in a checkpoint
DINOV2_OF_WIDTH = {384: "small", 768: "base", 1024: "large", 1536: "giant"}


def load_feature_encoder(encoder: nn.Module | str | None, width: int) -> nn.Module:
    """Return the encoder for the alignment: the one that is passed, or the DINOv2 of the student's width.

    Args:
        encoder (`nn.Module` or `str`, *optional*): A model, a Hub id or a folder.
        width (`int`): Width of the student's encoder.

    Returns:
        `nn.Module`: Not yet frozen.

    Raises:
        ValueError: None is passed and no released DINOv2 has the width.
        TypeError: It is no encoder of patches.
    """
    if encoder is None:
        if width not in DINOV2_OF_WIDTH:
            raise ValueError(
                f"feature_encoder is None and no released DINOv2 has the student's width {width}, only "
                f"{tuple(DINOV2_OF_WIDTH)}. Pass feature_encoder=a model or id, or set feature_alignment_weight=0."
            )
        encoder = f"facebook/dinov2-{DINOV2_OF_WIDTH[width]}"
    model = load_checked(AutoModel.from_pretrained, encoder)[0] if isinstance(encoder, str) else encoder
    lacking = [name for name in ("hidden_size", "patch_size") if not hasattr(getattr(model, "config", None), name)]
    if lacking:
        raise TypeError(
            f"feature_encoder is a {type(model).__name__}, whose config has no {' and no '.join(lacking)}; pass an encoder of "
            "patches, such as facebook/dinov2-small, or the backbone of a depth model."
        )
    return model


def freeze(model: nn.Module, args: TrainingArguments) -> nn.Module:
    """Move a helper model to the run's device, without gradients and without dropout, compiled if the student is."""
    model = model.requires_grad_(False).eval().to(args.device)
    if args.torch_compile:
        model.compile(backend=args.torch_compile_backend, mode=args.torch_compile_mode)
    return model


def make_projector(width: int, frozen_width: int, seed: int) -> nn.Linear | None:
    """Make the linear projector from the student's width to the frozen encoder's; None if they are equal.

    As in the paper, equal widths need no projector: a fresh one makes the loss large at first (V1, section 3.3).

    Args:
        width (`int`): Width of the student's encoder.
        frozen_width (`int`): Width of the frozen encoder.
        seed (`int`): Seed of the weights; the global random state does not change.
    """
    if width == frozen_width:
        return None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, 4))
        return nn.Linear(width, frozen_width)


def frozen_patch_features(encoder: Any, pixel_values: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
    """Read a frozen encoder's last patch tokens on the student's patch grid.

    Args:
        encoder (`nn.Module`): Any vision model with `config.patch_size` and `last_hidden_state` whose last tokens are
            the patches, row by row (DINOv2, DINOv3, CLIP, SigLIP, ViT).
        pixel_values (`torch.Tensor`): `(batch, 3, height, width)`.
        grid (`tuple[int, int]`): The student's patch rows and columns; another grid is resized to it.

    Returns:
        `torch.Tensor`: `(batch, rows * columns, channels)`.
    """
    patch = encoder.config.patch_size
    # DINOv2 fits its positions to any image size by itself; the others need this argument.
    asks = "interpolate_pos_encoding" in inspect.signature(encoder.forward).parameters
    sizing = {"interpolate_pos_encoding": True} if asks else {}
    rows, columns = pixel_values.shape[-2] // patch, pixel_values.shape[-1] // patch
    with torch.inference_mode():
        tokens = encoder(pixel_values=pixel_values, **sizing).last_hidden_state[:, -rows * columns :]
        if (rows, columns) != grid:
            maps = tokens.transpose(1, 2).unflatten(2, (rows, columns))  # (batch, channels, rows, columns)
            maps = F.interpolate(maps.float(), size=grid, mode="bilinear", align_corners=False)
            tokens = maps.flatten(2).transpose(1, 2)
    return tokens.clone()  # a tensor of the inference mode cannot take part in a backward pass


def align_features(
    features: torch.Tensor, frozen: torch.Tensor, projector: nn.Module | None, margin: float
) -> torch.Tensor:
    """Compute the alignment loss, through the projector if the widths differ."""
    return feature_alignment_loss(features if projector is None else projector(features), frozen, margin)


def average_gradients(module: nn.Module) -> None:
    """Average the gradients of a module outside DDP over all processes, as DDP does for the model."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        for parameter in module.parameters():
            if parameter.grad is not None:
                torch.distributed.all_reduce(parameter.grad)
                parameter.grad /= torch.distributed.get_world_size()


class ClearGradients(TrainerCallback):
    """Clear a helper module's gradients after each update: the Trainer clears only those of the model."""

    def __init__(self, module: nn.Module):
        self.module = module

    def on_optimizer_step(self, args, state, control, **kwargs):
        """Clear them."""
        self.module.zero_grad()
