"""The trainable Depth Anything: the stock model, with a loss."""

from __future__ import annotations

import math
import os
import warnings
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, DepthAnythingConfig, Dinov2Backbone, PreTrainedModel
from transformers import DepthAnythingForDepthEstimation as StockDepthAnything
from transformers.modeling_outputs import DepthEstimatorOutput

from depth_anything_hf.losses import labeled_pixels, supervised_loss
from depth_anything_hf.model.bundled import checkpoint_folder
from depth_anything_hf.model.configuration import config_for_encoder
from depth_anything_hf.model.loading import UNUSED_PARAMETERS, load_checked

# The published names of weights, and those that transformers 5 gives them in memory. `save_pretrained` writes the latter.
NAMES_ON_DISK = {
    ".attention.attention.query.": ".attention.q_proj.",
    ".attention.attention.key.": ".attention.k_proj.",
    ".attention.attention.value.": ".attention.v_proj.",
    ".attention.output.dense.": ".attention.o_proj.",
    ".mlp.weights_out.": ".mlp.down_proj.",
}


@dataclass
class DepthAnythingOutput(DepthEstimatorOutput):
    """Stock output, with the patch features that the alignment loss compares.

    Args:
        features (`torch.Tensor`, *optional*): `(batch, patches, hidden_size)`, patch tokens of the encoder's last
            block after the final layer norm; with `output_features=True`.
    """

    features: torch.Tensor | None = None


class DepthAnythingForDepthEstimation(StockDepthAnything):
    """Predict depth, and learn it: the stock class of the same name, with `labels`.

    It saves a stock checkpoint: `transformers.AutoModelForDepthEstimation` and
    `pipeline("depth-estimation")` load it without this package.

    Args:
        config (`DepthAnythingConfig`): From `config_for`, or of any checkpoint.

    Raises:
        ValueError: A relative configuration with a `max_depth` other than 1, because the stock head multiplies by it.

    Example:
        >>> from transformers import Dinov2Config
        >>> encoder = Dinov2Config(image_size=56, hidden_size=32, num_hidden_layers=4, num_attention_heads=2)
        >>> model = DepthAnythingForDepthEstimation(config_for_encoder(encoder))
        >>> images, disparity = torch.randn(2, 3, 56, 56), torch.rand(2, 56, 56)
        >>> model(images, labels=disparity).loss.backward()
    """

    # The loss is a mean over the batch's images, which the Trainer must divide by the accumulation steps.
    accepts_loss_kwargs = False
    gradient_matching_weight = 2.0  # Depth Anything V2, section 5 and appendix B.7
    _looks = 3  # training steps in which a dead or saturated head is still looked for: to look waits for the device

    def __init__(self, config: DepthAnythingConfig):
        if config.depth_estimation_type == "relative" and config.max_depth != 1:
            raise ValueError(
                f"max_depth is {config.max_depth} with depth_estimation_type='relative'; the head multiplies by it, "
                "so it must be 1. Set config.max_depth = 1, or depth_estimation_type='metric' if the output is meters."
            )
        if not (config.max_depth and config.max_depth > 0):
            raise ValueError(f"max_depth is {config.max_depth}; it must be a positive number of meters.")
        super().__init__(config)
        self.freeze_unused_parameters()

    def freeze_unused_parameters(self) -> None:
        """Stop gradients for the parameters that never get one, so that DDP runs without searching for them."""
        parameters = dict(self.named_parameters())
        for name in UNUSED_PARAMETERS:
            if name in parameters:  # an encoder with use_mask_token=False has no mask token
                parameters[name].requires_grad_(False)

    @property
    def label_space(self) -> str:
        """Return the space of predictions and labels: `"disparity"` (relative) or `"depth"`, in meters (metric)."""
        return "depth" if self.config.depth_estimation_type == "metric" else "disparity"

    def get_input_embeddings(self) -> None:  # type: ignore[override]
        """Return None instead of the stock class's error: accelerate calls this before it shards a model (FSDP2)."""
        return None

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *args, **kwargs):
        """Load a checkpoint as the stock class does; `"mini"` is the bundled model.

        What the stock class takes with a warning is refused: missing weights, which would be random, weights that the config
        has no place for, NaN; with `output_loading_info=True` the caller reads of missing ones. The parameters that never get a gradient are frozen, as the constructor does.

        Raises:
            ValueError: The weights are not those that the config describes, or a file is damaged.
        """
        with_info = kwargs.get("output_loading_info", False)
        folder = checkpoint_folder(pretrained_model_name_or_path)
        model, loading = load_checked(super().from_pretrained, folder, *args, **kwargs)
        patch, config = getattr(model.config.backbone_config, "patch_size", None), model.config
        if patch is not None and config.patch_size != patch:
            raise ValueError(
                f"{folder}, config.json: patch_size is {config.patch_size}, and that of the encoder {patch}; write the encoder's."
            )
        model.freeze_unused_parameters()
        return (model, loading) if with_info else model

    def save_pretrained(self, save_directory: str | os.PathLike, *args, **kwargs) -> None:
        """Save a stock checkpoint, whose weights have the names that they have in memory.

        The stock method writes the names of older versions of transformers, which everything but `from_pretrained` takes for
        other weights and leaves out: a Trainer that resumes, or `accelerate.load_checkpoint_in_model`
        (huggingface/transformers#48805). `save_original_format=True` writes those.
        """
        kwargs.setdefault("save_original_format", False)
        super().save_pretrained(save_directory, *args, **kwargs)

    def _load_from_state_dict(self, state_dict: dict[str, torch.Tensor], prefix: str, *args) -> None:
        """Accept weights under their published names, too: a Trainer that resumes passes the content of an older file."""
        own = {prefix + name for name, _ in self.named_parameters()}
        for name in [name for name in state_dict if name.startswith(prefix) and name not in own]:
            in_memory = name
            for on_disk, renamed in NAMES_ON_DISK.items():
                in_memory = in_memory.replace(on_disk, renamed)
            gate, up = (name.replace(".mlp.weights_in.", f".mlp.{part}_proj.") for part in ("gate", "up"))
            if in_memory in own:
                state_dict[in_memory] = state_dict.pop(name)
            elif gate != name and gate in own:  # the giant's two layers, one above the other in the file
                state_dict[gate], state_dict[up] = state_dict.pop(name).chunk(2)
        super()._load_from_state_dict(state_dict, prefix, *args)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Initialize the decoder like the authors' plain PyTorch layers, and the relative head above zero.

        The stock 0.02 normal shrinks the signal at every convolution until the prediction is constant. And a relative
        head ends in a ReLU, while its loss ignores any shift: started at 0, it can become all zeros and never recover.
        """
        if not isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
            return super()._init_weights(module)
        nn.init.kaiming_uniform_(module.weight, a=math.sqrt(5))
        if module.bias is not None:
            fan_in = module.weight[0].numel()
            nn.init.uniform_(module.bias, -1 / math.sqrt(fan_in), 1 / math.sqrt(fan_in))
        if module is self.head.conv3 and self.config.depth_estimation_type == "relative":
            nn.init.ones_(module.bias)

    @classmethod
    def from_encoder(
        cls,
        encoder: str | os.PathLike | PreTrainedModel,
        version: str | None = None,
        max_depth: float | None = None,
        with_neck: bool = False,
        **kwargs,
    ) -> DepthAnythingForDepthEstimation:
        """Build a model from a pretrained encoder and a fresh decoder: where the papers' training starts.

        Args:
            encoder (`str` or `PreTrainedModel`): DINOv2 (Hub id such as `"facebook/dinov2-small"`, folder, `Dinov2Model`
                or `Dinov2Backbone`); or a Depth Anything checkpoint or model, whose encoder only is used, as
                for metric depth. Weights are copied.
            version (`str`, *optional*): `"v1"` or `"v2"`: decides which encoder blocks the decoder reads. Default: the
                blocks of the Depth Anything, or V2's.
            max_depth (`float`, *optional*): Largest depth of a metric model, meters. Default: a relative model.
            with_neck (`bool`): Also take the neck of the Depth Anything; only the head is fresh.
            kwargs: Passed to `from_pretrained` if `encoder` is an id or folder.

        Returns:
            `DepthAnythingForDepthEstimation`: A model with a fresh decoder, float32.

        Raises:
            TypeError: `encoder` is another kind of model.
            ValueError: The id or folder holds another kind of model, the weights do not fit, or `with_neck` is set
                and there is no neck or it reads other blocks.

        Source: Depth Anything V1, sections 3.2 and 4.1 (the student's decoder is fresh, not the teacher's), and 4.3 with
        the authors' `metric_depth/train.py` (metric: only the encoder).

        Example:
            >>> from transformers import Dinov2Config, Dinov2Model
            >>> tiny = Dinov2Config(image_size=56, hidden_size=32, num_hidden_layers=4, num_attention_heads=2)
            >>> relative = DepthAnythingForDepthEstimation.from_encoder(Dinov2Model(tiny), version="v1")
            >>> relative.config.backbone_config.out_indices
            [1, 2, 3, 4]
            >>> DepthAnythingForDepthEstimation.from_encoder(relative, max_depth=20).config.depth_estimation_type
            'metric'
        """
        source: Any = _load_encoder(encoder, **kwargs)
        backbone = source.backbone if isinstance(source, StockDepthAnything) else source
        decoder: Any = source.config if isinstance(source, StockDepthAnything) else None
        blocks = None if decoder is None else decoder.backbone_config.out_indices
        config: Any = config_for_encoder(backbone.config, version or "v2", max_depth)
        if blocks is not None and version is None:
            config.backbone_config.out_indices = list(blocks)
        if with_neck:
            if blocks is None or list(blocks) != config.backbone_config.out_indices:
                raise ValueError(
                    f"with_neck needs a Depth Anything whose neck reads the blocks {config.backbone_config.out_indices}; "
                    f"{'it reads ' + str(list(blocks)) if blocks else 'an encoder has none'}. Leave version or with_neck out."
                )
            for name in ("reassemble_factors", "neck_hidden_sizes", "fusion_hidden_size", "head_hidden_size"):
                setattr(config, name, getattr(source.config, name))
        model = cls(config)
        pairs = [(model.backbone, backbone), (model.neck, source.neck)] if with_neck else [(model.backbone, backbone)]
        for part, taken in pairs:
            missing, unexpected = part.load_state_dict(taken.state_dict(), strict=False)
            if missing or unexpected:
                raise ValueError(f"the encoder's weights do not fit: missing {missing}, unexpected {unexpected}.")
        if with_neck:
            model._start_in_range()
        return model

    @torch.no_grad()
    def _start_in_range(self) -> None:
        """Scale the last layer of a fresh head so that it starts within 1/2 of its bias, whatever the neck's features are.

        They can be thousands: a sigmoid would be 1 everywhere with a gradient of exactly 0, a ReLU could be 0.
        """
        side: int = 8 * self.config.patch_size  # type: ignore[assignment,operator]
        noise = torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(0))
        found: list[torch.Tensor] = []
        handle = self.head.conv3.register_forward_hook(lambda layer, inputs, output: found.append(output - layer.bias))
        training = self.training
        self.eval()(pixel_values=torch.cat([noise, torch.zeros_like(noise)]))
        self.train(training)
        handle.remove()
        self.head.conv3.weight *= (0.5 / found[0].abs().max()).clamp(max=1.0)

    def forward(
        self,
        pixel_values: torch.Tensor,
        labels: torch.Tensor | None = None,
        label_mask: torch.Tensor | None = None,
        output_features: bool = False,
        target_space: str | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        **kwargs,
    ) -> DepthAnythingOutput | tuple[torch.Tensor, ...]:
        """Predict depth and, given labels, compute the loss.

        Args:
            pixel_values (`torch.Tensor`): `(batch, 3, height, width)`, normalized; both sides multiples of the patch.
            labels (`torch.Tensor`, *optional*): `(batch, height, width)` float, in the model's own space: disparity at
                any positive scale for a relative model, meters for a metric one.
            label_mask (`torch.Tensor`, *optional*): Bool, same shape. Default: labels are all values that are finite
                and positive (or zero, in disparity: the sky). Other values and values out of range are never labels.
            output_features (`bool`): Also return the encoder's last patch tokens.
            target_space (`str`, *optional*): Space of the labels, as `DepthCollator` writes into its batches:
                `"disparity"` or `"depth"` (meters). It must be the model's own space.
            output_attentions (`bool`, *optional*): As in the stock class.
            output_hidden_states (`bool`, *optional*): As in the stock class.
            return_dict (`bool`, *optional*): As in the stock class.
            kwargs: Ignored, as in the stock class.

        Returns:
            `DepthAnythingOutput`: `predicted_depth` `(batch, height, width)`: disparity, at least 0 and larger when
            nearer (relative), or meters in (0, max_depth) (metric); `loss`, scalar float32, given labels.

        Raises:
            ValueError: A side is no multiple of the patch, labels and prediction differ in shape, or the labels are in
                the other space.
        """
        if target_space not in (None, self.label_space):
            raise ValueError(
                f"the labels are in {target_space!r} and this model ({self.config.depth_estimation_type}) learns "
                f"{self.label_space!r}. Make the batch for this model: DepthCollator(processor, model)."
            )
        return_dict = self.config.return_dict if return_dict is None else return_dict
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        if output_attentions is None:
            output_attentions = self.config.output_attentions
        patch: int = self.config.patch_size  # type: ignore[assignment]  # an integer for every Depth Anything
        height, width = pixel_values.shape[-2:]
        if height % patch or width % patch:
            raise ValueError(
                f"pixel_values are {height} x {width} pixels; both sides must be multiples of the patch size {patch}, "
                f"such as {max(round(height / patch), 1) * patch} x {max(round(width / patch), 1) * patch}. "
                "DepthAnythingImageProcessor resizes to such a size."
            )
        encoded = self.backbone.forward_with_filtered_kwargs(
            pixel_values, output_hidden_states=output_hidden_states, output_attentions=output_attentions
        )
        fused = self.neck(encoded.feature_maps, height // patch, width // patch)
        predicted_depth = self.head(fused, height // patch, width // patch)  # (batch, height, width)
        output = DepthAnythingOutput(
            loss=None if labels is None else self.compute_loss(predicted_depth, labels, label_mask),
            predicted_depth=predicted_depth,
            hidden_states=encoded.hidden_states if output_hidden_states else None,
            attentions=encoded.attentions,
            features=encoded.feature_maps[-1][:, 1:] if output_features else None,  # without the class token
        )
        return output if return_dict else output.to_tuple()

    def compute_loss(
        self, predicted_depth: torch.Tensor, labels: torch.Tensor, label_mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Compute the supervised loss in the model's own space.

        Relative: affine-invariant plus 2 x gradient matching (V2). Metric: SiLog (V2's convention), on labels up to
        `max_depth`.

        Args:
            predicted_depth (`torch.Tensor`): `(batch, height, width)`.
            labels (`torch.Tensor`): Same shape; disparity or meters.
            label_mask (`torch.Tensor`, *optional*): Bool, same shape.

        Returns:
            `torch.Tensor`: Scalar, float32: the mean over the images that have labels.

        Raises:
            ValueError: The shapes differ, or the mask is not boolean.
        """
        if labels.shape != predicted_depth.shape:
            raise ValueError(
                f"labels have shape {tuple(labels.shape)} and the prediction {tuple(predicted_depth.shape)}; both "
                "must be (batch, height, width) of pixel_values. Pass the depth maps to DepthAnythingImageProcessor "
                "along with the images, or squeeze a channel dimension of 1."
            )
        # A mask of one image would broadcast over the batch without an error.
        if label_mask is not None and (label_mask.shape != labels.shape or label_mask.dtype != torch.bool):
            raise ValueError(
                f"label_mask has shape {tuple(label_mask.shape)} and dtype {label_mask.dtype}; it must be torch.bool "
                f"and of the labels' shape {tuple(labels.shape)}. Write label_mask > 0.5 or label_mask.bool(), and "
                "pass a mask for each image."
            )
        max_depth = self.config.max_depth if self.config.depth_estimation_type == "metric" else None
        mask = labeled_pixels(labels, label_mask, max_depth)
        if self.training and self._looks > 0 and not torch.compiler.is_compiling():
            self._looks -= 1
            dead = (
                predicted_depth <= 0 if max_depth is None else (predicted_depth <= 0) | (predicted_depth >= max_depth)
            )
            if dead.all():
                warnings.warn(
                    f"every predicted value is 0{'' if max_depth is None else f' or max_depth={max_depth:g}'}: the head gets no "
                    "gradient and will not recover. Lower the learning rate, or start with a fresh head (from_encoder).",
                    stacklevel=2,
                )
        weight = self.gradient_matching_weight
        return supervised_loss(predicted_depth, labels, mask, max_depth, gradient_matching_weight=weight)["total"]


def _load_encoder(encoder: str | os.PathLike | PreTrainedModel, **kwargs) -> PreTrainedModel:
    """Return a DINOv2 or a Depth Anything; load it if `encoder` is an id or folder."""
    if isinstance(encoder, (str, os.PathLike)):
        kinds: dict[str, type[PreTrainedModel]] = {"dinov2": Dinov2Backbone, "depth_anything": StockDepthAnything}
        found = AutoConfig.from_pretrained(encoder, **kwargs).model_type
        if found not in kinds:
            raise ValueError(
                f"{encoder} is of type {found!r}; from_encoder takes a DINOv2 encoder ('dinov2') or a Depth Anything "
                "('depth_anything')."
            )
        return load_checked(kinds[found].from_pretrained, encoder, **kwargs)[0]
    if getattr(getattr(encoder, "config", None), "model_type", None) not in ("dinov2", "depth_anything"):
        raise TypeError(
            f"encoder is a {type(encoder).__name__}; it must be a Dinov2Model, a Dinov2Backbone, a Depth Anything, a Hub "
            "id or a folder. Load the encoder with Dinov2Model.from_pretrained."
        )
    return encoder
