"""Tiny Stable Diffusion checkpoints with random weights, in the layout of the published ones."""

from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    ControlNetModel,
    DDIMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

WIDTH = 16  # of a text encoder


def save_base(folder: Path, kind: str, prediction_type: str = "epsilon") -> str:
    """Save a base model and return its folder; `kind` is "sd" or "sdxl"."""
    torch.manual_seed(0)
    vae = AutoencoderKL(
        block_out_channels=(4, 4, 4, 4),  # four levels: a latent pixel covers 8 x 8, as in all published ones
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        latent_channels=4,
        norm_num_groups=2,
    )
    scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        steps_offset=1,
        set_alpha_to_one=False,
        prediction_type=prediction_type,
    )
    parts = {"vae": vae, "scheduler": scheduler, "tokenizer": _tokenizer()}
    if kind == "sd":
        parts |= {"unet": _unet(cross_attention_dim=WIDTH), "text_encoder": CLIPTextModel(_text_config())}
        extra = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
        pipe = StableDiffusionPipeline(**parts, **extra)
    else:
        unet = _unet(
            cross_attention_dim=2 * WIDTH,
            addition_embed_type="text_time",
            addition_time_embed_dim=4,
            projection_class_embeddings_input_dim=6 * 4 + WIDTH,
        )
        parts |= {"unet": unet, "text_encoder": CLIPTextModel(_text_config()), "tokenizer_2": _tokenizer()}
        pipe = StableDiffusionXLPipeline(**parts, text_encoder_2=CLIPTextModelWithProjection(_text_config()))
    pipe.save_pretrained(folder)
    return str(folder)


def save_controlnet(folder: Path, base: str) -> str:
    """Save a ControlNet for a base model whose zero convolutions are not zero any more, as after training."""
    torch.manual_seed(1)
    controlnet = ControlNetModel.from_unet(UNet2DConditionModel.from_pretrained(base, subfolder="unet"))
    ends = [*controlnet.controlnet_down_blocks, controlnet.controlnet_mid_block, controlnet.controlnet_cond_embedding]
    for end in ends:
        for parameter in end.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
    controlnet.save_pretrained(folder)
    return str(folder)


def _unet(**more) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(4, 8),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=2,
        norm_num_groups=2,
        **more,
    )


def _text_config() -> CLIPTextConfig:
    sizes = {"hidden_size": WIDTH, "intermediate_size": 16, "num_attention_heads": 2, "num_hidden_layers": 2}
    return CLIPTextConfig(
        **sizes, vocab_size=80, projection_dim=WIDTH, max_position_embeddings=16, bos_token_id=0, eos_token_id=1
    )


def _tokenizer() -> CLIPTokenizer:
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{letter}</w>" for letter in letters)]
    vocabulary = {word: index for index, word in enumerate(words)}
    return CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=16)
