"""The network of `train_mini.py` and its optimizer."""

from __future__ import annotations

import math

import numpy as np
import torch
from transformers import Dinov2Config

from depth_anything_hf import DepthAnythingForDepthEstimation, DepthAnythingImageProcessor, config_for_encoder


def positions(rows: int, columns: int, width: int) -> torch.Tensor:
    """Return sines and cosines of each patch's row and column, `(rows * columns, width)`, as in MAE."""
    frequency = 1 / 10_000 ** (np.arange(width // 4) / (width // 4))
    parts = []
    for place in np.mgrid[0:rows, 0:columns].reshape(2, -1):
        angle = place[:, None] * frequency
        parts += [np.sin(angle), np.cos(angle)]
    return torch.from_numpy(np.concatenate(parts, 1)).float()


def new_model(hidden_size: int, layers: int, patch_size: int, seed: int) -> DepthAnythingForDepthEstimation:
    """Build a stock Depth Anything with random weights, but with position embeddings of sines and cosines.

    Args:
        hidden_size: Width of the encoder, a multiple of 64.
        layers: Number of blocks of the encoder.
        patch_size: Patch size, pixels.
        seed: Seed of the weights.
    """
    encoder = Dinov2Config(
        image_size=16 * patch_size,
        patch_size=patch_size,
        hidden_size=hidden_size,
        num_hidden_layers=layers,
        num_attention_heads=hidden_size // 64,
        initializer_range=0.04,
        use_mask_token=False,
    )
    config = config_for_encoder(encoder)
    # A slim decoder: at this resolution a wide one costs as much as the encoder and gains nothing.
    config.neck_hidden_sizes, config.fusion_hidden_size, config.head_hidden_size = [24, 48, 96, 192], 32, 16
    torch.manual_seed(seed)
    model = DepthAnythingForDepthEstimation(config)
    with torch.no_grad():
        model.backbone.embeddings.position_embeddings[0, 1:] = 0.5 * positions(16, 16, hidden_size)
    return model


def new_processor(size: tuple[int, int], patch_size: int) -> DepthAnythingImageProcessor:
    """Return a processor that squeezes every image into one size, like the views of the training."""
    return DepthAnythingImageProcessor(
        size={"height": size[0], "width": size[1]}, ensure_multiple_of=patch_size, keep_aspect_ratio=False
    )


@torch.no_grad()
def quiet_head(model: DepthAnythingForDepthEstimation, pixel_values: torch.Tensor, loudest: float = 1000.0) -> None:
    """Scale the head by powers of two, until all its values fit float16 (65,504 at most).

    The losses do not depend on the unit of disparity, and training drives it to 10^6. A factor of a layer passes through the
    ReLUs to the end, so that the model predicts the same times a constant.

    Args:
        model: Changed in place.
        pixel_values: Images `(images, 3, height, width)` on which to measure the values.
        loudest: Largest value to allow after any convolution.
    """
    total = 1.0
    for convolution in (model.head.conv1, model.head.conv2, model.head.conv3):
        peaks = []
        hook = convolution.register_forward_hook(lambda _, __, output, peaks=peaks: peaks.append(output.abs().max()))
        model.eval()(pixel_values)
        hook.remove()
        factor = 2.0 ** -math.ceil(math.log2(max(peaks[0].item() / loudest, 1.0)))
        total *= factor
        convolution.weight *= factor
        convolution.bias *= total


class MuonAndAdamW(torch.optim.Optimizer):
    """Train the matrices of the encoder's blocks with Muon and all other weights with AdamW, as one optimizer.

    Args:
        model: Model to train.
        learning_rate: Learning rate of both; Muon's updates are scaled to the size of AdamW's.
        decoder_lr_multiplier: Factor of the learning rate for the decoder.
        weight_decay: Weight decay of all matrices and kernels.
    """

    def __init__(self, model, learning_rate: float, decoder_lr_multiplier: float, weight_decay: float):
        groups: dict[str, list] = {"muon": [], "encoder": [], "encoder_plain": [], "decoder": [], "decoder_plain": []}
        for name, parameter in model.named_parameters():
            if not parameter.requires_grad:
                continue
            plain = "_plain" * (parameter.ndim < 2 or ("embeddings" in name and parameter.ndim == 3))
            if ".encoder.layer." in name and parameter.ndim == 2:
                groups["muon"].append(parameter)
            else:
                groups[("encoder" if "backbone" in name else "decoder") + plain].append(parameter)
        decoder_rate = learning_rate * decoder_lr_multiplier
        rows = [
            {
                "params": parameters,
                "lr": decoder_rate if "decoder" in name else learning_rate,
                "weight_decay": 0.0 if "plain" in name else weight_decay,
            }
            for name, parameters in groups.items()
            if name != "muon"
        ]
        self.parts = [
            torch.optim.Muon(
                groups["muon"], lr=learning_rate, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw"
            ),
            torch.optim.AdamW(rows, betas=(0.9, 0.95)),
        ]
        super().__init__([group for part in self.parts for group in part.param_groups], {})
        self._share()

    def _share(self) -> None:
        """Share the parameter groups, which a schedule changes, with both optimizers."""
        at = 0
        for part in self.parts:
            part.param_groups = self.param_groups[at : at + len(part.param_groups)]
            at += len(part.param_groups)

    def step(self, closure=None):
        """Take a step with each optimizer."""
        loss = None if closure is None else closure()
        for part in self.parts:
            part.step()
        return loss

    def state_dict(self) -> dict:
        """Return the state of each optimizer."""
        return {"parts": [part.state_dict() for part in self.parts], "state": {}, "param_groups": []}

    def load_state_dict(self, state_dict: dict) -> None:
        """Load the state of each optimizer."""
        for part, state in zip(self.parts, state_dict["parts"], strict=True):
            part.load_state_dict(state)
        self.param_groups = [group for part in self.parts for group in part.param_groups]
