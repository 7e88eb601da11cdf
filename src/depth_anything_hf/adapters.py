"""LoRA for Depth Anything: which modules to adapt, whatever transformers calls them."""

from __future__ import annotations

from peft import LoraConfig

# transformers 5 renamed the attention's layers in memory; the left names are those of version 4.
ATTENTION_LAYERS = "query|key|value|attention.output.dense|q_proj|k_proj|v_proj|o_proj"
DECODERS = ("full", "lora", "frozen")


def depth_lora_config(
    rank: int = 8, decoder: str = "full", alpha: int | None = None, dropout: float = 0.0
) -> LoraConfig:
    """Make the LoRA configuration of a Depth Anything model.

    Args:
        rank (`int`): Of the update of each attention layer of the encoder, at least 1.
        decoder (`str`): `"full"` trains neck and head wholly (their weights are saved with the adapter); `"lora"`
            adapts their convolutions at the same rank; `"frozen"` leaves them as they are.
        alpha (`int`, *optional*): Scale of the update; left out, twice the rank.
        dropout (`float`): On the adapter's input, in [0, 1).

    Returns:
        `LoraConfig`: For `peft.get_peft_model(model, config)`.

    Raises:
        ValueError: Unknown decoder choice, or a rank below 1.

    Example:
        >>> depth_lora_config(rank=4).r
        4
    """
    if decoder not in DECODERS or rank < 1:
        raise ValueError(
            f"decoder is {decoder!r} and rank {rank}; decoder must be one of {DECODERS}, rank at least 1."
        )
    attention = rf"backbone\.encoder\..*\.({ATTENTION_LAYERS})"
    convolutions = r"neck\..*\.(projection|convs\.\d|convolution[12])|neck\.convs\.\d|head\.conv[12]"
    return LoraConfig(
        r=rank,
        lora_alpha=2 * rank if alpha is None else alpha,
        lora_dropout=dropout,
        target_modules=f"({attention}|{convolutions})" if decoder == "lora" else attention,
        modules_to_save=["neck", "head"] if decoder == "full" else None,
    )
