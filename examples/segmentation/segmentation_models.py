"""Build segmentation models of transformers on a DINOv2 encoder with a feature pyramid, and predict with them.

Importing this module registers the backbone `dinov2_pyramid` in transformers; then `from_pretrained` of the stock
`Mask2FormerForUniversalSegmentation` and `UperNetForSemanticSegmentation` loads the fine-tuned models.
"""

from __future__ import annotations

import math
import os

import numpy as np
import torch
from PIL import Image
from segmentation_data import whole_image
from torch import nn
from torch.nn import functional as F
from transformers import (
    AutoBackbone,
    AutoConfig,
    Dinov2Backbone,
    Dinov2Config,
    Mask2FormerConfig,
    Mask2FormerForUniversalSegmentation,
    PreTrainedModel,
    UperNetConfig,
    UperNetForSemanticSegmentation,
)

DECODERS = {"mask2former": Mask2FormerForUniversalSegmentation, "upernet": UperNetForSemanticSegmentation}


class PyramidConfig(Dinov2Config):
    """Configure a DINOv2 backbone that ends in a feature pyramid."""

    model_type = "dinov2_pyramid"


class PyramidBackbone(Dinov2Backbone):
    """Compute four feature maps of four sizes with DINOv2; the plain backbone has four maps of one size.

    The maps of four blocks, from the first to the last, are resized to 4, 2, 1 and 1/2 times the patch grid: strides of
    3.5, 7, 14 and 28 pixels. The decoder was made for 4, 8, 16 and 32.

    Source: the authors' `semseg/config` (MMSegmentation's Feature2Pyramid, rescales 4, 2, 1, 0.5).

    Example:
        >>> tiny = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2, "out_indices": [1, 2, 3, 4]}
        >>> maps = PyramidBackbone(PyramidConfig(image_size=56, **tiny))(torch.zeros(1, 3, 28, 56)).feature_maps
        >>> [tuple(one.shape[2:]) for one in maps]
        [(8, 16), (4, 8), (2, 4), (1, 2)]
    """

    config_class = PyramidConfig

    def __init__(self, config: PyramidConfig):
        super().__init__(config)
        width = config.hidden_size
        self.pyramid = nn.ModuleList(
            (
                nn.Sequential(
                    nn.ConvTranspose2d(width, width, 2, stride=2),
                    nn.BatchNorm2d(width),
                    nn.GELU(),
                    nn.ConvTranspose2d(width, width, 2, stride=2),
                ),
                nn.ConvTranspose2d(width, width, 2, stride=2),
                nn.Identity(),
                nn.MaxPool2d(2),
            )
        )
        self.post_init()

    def forward(self, pixel_values: torch.Tensor, **kwargs):
        """Encode images `(batch, 3, height, width)`; both sides multiples of the patch."""
        height, width = pixel_values.shape[2:]
        if height % self.config.patch_size or width % self.config.patch_size:
            raise ValueError(
                f"the images have {height} x {width} pixels; both sides must be multiples of {self.config.patch_size}, the "
                "patch: choose such a crop_size."
            )
        output = super().forward(pixel_values, **kwargs)
        maps = zip(self.pyramid, output.feature_maps, strict=True)
        output.feature_maps = tuple(rescale(one) for rescale, one in maps)
        return output


AutoConfig.register(PyramidConfig.model_type, PyramidConfig, exist_ok=True)
AutoBackbone.register(PyramidConfig, PyramidBackbone, exist_ok=True)


def build_model(
    encoder: str | os.PathLike | Dinov2Backbone,
    decoder: str,
    labels: list[str],
    width: int | None = None,
    num_queries: int = 200,
    train_num_points: int = 12544,
) -> PreTrainedModel:
    """Build a segmentation model with a pretrained encoder and a new decoder.

    Args:
        encoder (`str` or `Dinov2Backbone`): Folder of `export_encoder`, or any DINOv2 of the Hub. The decoder reads its last
            four blocks, like the authors'.
        decoder (`str`): `"mask2former"` or `"upernet"`.
        labels (`list[str]`): Names of the classes.
        width (`int`, *optional*): Width of the decoder, a multiple of 32. Default: the encoder's for Mask2Former, like the
            authors; 512 for UperNet, like transformers.
        num_queries (`int`): Number of queries of Mask2Former.
        train_num_points (`int`): Number of points at which Mask2Former compares masks.

    Raises:
        ValueError: The decoder is unknown, or the weights do not fit.
    """
    if decoder not in DECODERS:
        raise ValueError(f"decoder is {decoder!r}; it must be one of {', '.join(DECODERS)}.")
    if not isinstance(encoder, Dinov2Backbone):
        encoder = Dinov2Backbone.from_pretrained(encoder)
    blocks = encoder.config.num_hidden_layers
    own = encoder.config.to_dict() | {
        "out_indices": list(range(blocks - 3, blocks + 1)),
        "out_features": None,
        "apply_layernorm": True,
        "reshape_hidden_states": True,
        "use_mask_token": False,  # it would never get a gradient, and plain DDP stops at such a parameter
    }
    left_out = ("model_type", "architectures", "stage_names", "dtype", "_name_or_path")
    backbone = PyramidConfig(**{name: value for name, value in own.items() if name not in left_out})
    names = {"id2label": dict(enumerate(labels)), "label2id": {name: i for i, name in enumerate(labels)}}
    if decoder == "mask2former":
        width = width or backbone.hidden_size
        sizes = dict.fromkeys(("feature_size", "mask_feature_size", "hidden_dim"), width)
        sizes |= dict.fromkeys(("encoder_feedforward_dim", "dim_feedforward"), 4 * width)
        sizes |= {"num_attention_heads": width // 32, "num_queries": num_queries, "train_num_points": train_num_points}
        config = Mask2FormerConfig(backbone_config=backbone, **sizes, **names)
    else:
        auxiliary = {"auxiliary_channels": (width or 512) // 2}
        config = UperNetConfig(backbone_config=backbone, hidden_size=width or 512, **auxiliary, **names)
    model = DECODERS[decoder](config)
    weights = {name: value for name, value in encoder.state_dict().items() if name != "embeddings.mask_token"}
    missing, unexpected = encoder_of(model).load_state_dict(weights, strict=False)
    if unexpected or not all(name.startswith("pyramid.") for name in missing):
        raise ValueError(f"the encoder's weights do not fit: missing {missing}, unexpected {unexpected}.")
    return prepare_for_trainer(model)


def load_model(folder: str | os.PathLike) -> PreTrainedModel:
    """Load a model that was fine-tuned here, in evaluation mode."""
    kind = AutoConfig.from_pretrained(folder).model_type
    if kind not in DECODERS:
        raise ValueError(f"{folder} holds a {kind!r}; it must be one of {', '.join(DECODERS)}, from this example.")
    return prepare_for_trainer(DECODERS[kind].from_pretrained(folder)).eval()


def prepare_for_trainer(model: PreTrainedModel) -> PreTrainedModel:
    """Mark the loss as a mean over the batch; otherwise the Trainer would not divide it by the accumulation steps."""
    model.accepts_loss_kwargs = False  # their forward takes any keyword, from which the Trainer concludes the contrary
    return model


def encoder_of(model: PreTrainedModel) -> PyramidBackbone:
    """Return the encoder, with its pyramid, of a model from `build_model`."""
    return model.backbone if model.config.model_type == "upernet" else model.model.pixel_level_module.encoder


def class_scores(outputs: tuple[torch.Tensor, ...], size: tuple[int, int]) -> torch.Tensor:
    """Turn the raw output of either model into scores `(batch, classes, *size)`, larger for a more likely class.

    Mask2Former: the sum over the queries of class probability times mask probability (Cheng et al., 2022).

    Args:
        outputs (`tuple[torch.Tensor, ...]`): UperNet's logits `(batch, classes, height, width)`; or Mask2Former's
            classes `(batch, queries, classes + 1)` and masks `(batch, queries, height, width)`, and what follows.
        size (`tuple[int, int]`): Height and width.
    """
    logits, *masks = (outputs,) if isinstance(outputs, torch.Tensor) else outputs
    maps = (masks[0] if masks else logits).float()
    maps = F.interpolate(maps, size=size, mode="bilinear", align_corners=False)
    if not masks:
        return maps
    return torch.einsum("bqc,bqhw->bchw", logits.float().softmax(-1)[..., :-1], maps.sigmoid())


@torch.no_grad()
def sliding_scores(model: PreTrainedModel, pixel_values: torch.Tensor, window: int, stride: int) -> torch.Tensor:
    """Average the class scores of overlapping windows, the last of each row and column at the image's edge.

    Args:
        model: Model in evaluation mode.
        pixel_values (`torch.Tensor`): `(1, 3, height, width)`, neither side smaller than the window.
        window (`int`): Side of the square windows, pixels.
        stride (`int`): Distance from one window to the next, pixels; at most `window`.

    Returns:
        `torch.Tensor`: `(1, classes, height, width)`.
    """
    height, width = pixel_values.shape[2:]
    starts = [
        [min(i * stride, side - window) for i in range(math.ceil((side - window) / stride) + 1)]
        for side in (height, width)
    ]
    total = pixel_values.new_zeros(1, model.config.num_labels, height, width)
    visits = pixel_values.new_zeros(height, width)
    for y in starts[0]:
        for x in starts[1]:
            area = (..., slice(y, y + window), slice(x, x + window))
            outputs = model(pixel_values=pixel_values[area], return_dict=True)
            raw = getattr(outputs, "logits", None)
            raw = (outputs.class_queries_logits, outputs.masks_queries_logits) if raw is None else raw
            total[area] += class_scores(raw, (window, window))
            visits[area] += 1
    return total / visits


def predict_classes(model: PreTrainedModel, image: Image.Image, window: int, stride: int) -> torch.Tensor:
    """Segment a whole image: resize its shorter side to one window, average the windows' scores, and resize back.

    Args:
        model: Model in evaluation mode.
        image (`Image.Image`): RGB image.
        window (`int`): Side of the windows, pixels: the size of the crop in training.
        stride (`int`): Distance from one window to the next, pixels.

    Returns:
        `torch.Tensor`: `(height, width)` int64, a class for each pixel of the image.
    """
    pixels = np.ascontiguousarray(whole_image(image, window).transpose(2, 0, 1)[None], np.float32)
    scores = sliding_scores(model, torch.from_numpy(pixels).to(model.device), window, stride)
    size = (image.height, image.width)
    return F.interpolate(scores, size=size, mode="bilinear", align_corners=False)[0].argmax(0)
