"""Two learning rates, and the schedule of V1's metric code."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection

import torch
from torch import nn


def parameter_groups(
    model: nn.Module,
    projector: nn.Linear | None,
    decayed: Collection[str],
    learning_rate: float,
    decoder_lr_multiplier: float,
    weight_decay: float,
) -> list[dict]:
    """Sort the trained parameters into encoder and decoder, with and without weight decay.

    Args:
        model (`nn.Module`): Bare or inside PEFT's wrapper; parameters without gradient are left out.
        projector (`nn.Linear`, *optional*): Projector of the feature alignment; it learns at the decoder's rate.
        decayed (`Collection[str]`): Names of the parameters that decay.
        learning_rate (`float`): Of the encoder; the decoder's is `decoder_lr_multiplier` times this.
        decoder_lr_multiplier (`float`): 10 in both papers.
        weight_decay (`float`): Of the parameters in `decayed`.

    Returns:
        `list[dict]`: Groups for an optimizer of PyTorch, in an order that depends only on the model.
    """
    groups: defaultdict[tuple[bool, bool], list[torch.Tensor]] = defaultdict(list)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups[".backbone." in f".{name}", name in decayed].append(parameter)
    if projector is not None:
        groups[False, True].append(projector.weight)
        groups[False, False].append(projector.bias)
    return [
        {
            "params": parameters,
            "lr": learning_rate * (1 if in_encoder else decoder_lr_multiplier),
            "weight_decay": weight_decay if decay else 0.0,
        }
        for (in_encoder, decay), parameters in sorted(groups.items())
    ]


def one_cycle(optimizer: torch.optim.Optimizer, steps: int, warmup: float) -> torch.optim.lr_scheduler.OneCycleLR:
    """Make V1's one-cycle schedule: each group's rate stays, then falls along a cosine to a ten-thousandth.

    Adam's first moment goes from 0.95 to 0.85 while the rate stays, and back.

    Args:
        optimizer (`torch.optim.Optimizer`): The learning rates of its groups are the highest of the schedule.
        steps (`int`): Steps of the whole training.
        warmup (`float`): Share of the steps before the fall. V1: 0.7.

    Returns:
        `OneCycleLR`: The schedule.

    Source: `zoedepth/trainers/base_trainer.py` and `config_zoedepth.json` in `metric_depth/` of Depth Anything V1.
    """
    return torch.optim.lr_scheduler.OneCycleLR(
        optimizer,
        max_lr=[group["lr"] for group in optimizer.param_groups],
        total_steps=steps,
        pct_start=warmup,
        div_factor=1,
        final_div_factor=10000,
        base_momentum=0.85,
        max_momentum=0.95,
    )
