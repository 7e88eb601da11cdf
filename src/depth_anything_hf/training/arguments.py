"""Arguments of a training run: the stock ones, and those of the two papers."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from transformers import TrainingArguments

from depth_anything_hf.augmentation import ColorRanges, StrongPerturbation
from depth_anything_hf.training.fields import (
    PRESETS,
    LossFields,
    OptimizationFields,
    OutputFields,
    ViewFields,
    check_choices,
)


@dataclass
class DepthAnythingTrainingArguments(  # type: ignore[misc]  # bf16 may be None: decided by the device
    LossFields, ViewFields, OptimizationFields, OutputFields, TrainingArguments
):
    r"""Arguments of `DepthAnythingTrainer`: the arguments of `TrainingArguments`, and the papers' own.

    Fields left at None take the value of the `preset`; after construction none of them is None.

    > Parameters that control the recipe: `preset`, `labeled_batch_size`, `unlabeled_batch_size`,
    > `stream_block_size`, `decoder_lr_multiplier`, `one_cycle_warmup`, `flip_probability`, `zoom`, `color_ranges`.

    > Parameters that control the losses: `gradient_matching_weight`, `trim_fraction`, `feature_alignment_weight`,
    > `feature_alignment_margin`, `labeled_weight`, `unlabeled_weight`, `rescale_losses`, `silog_variance_focus`,
    > `silog_weight`.

    > Parameters that control the student's view: `strong_perturbation`, `perturbation_kwargs`, `cutmix_probability`.

    These defaults differ from the stock class: `learning_rate` 5e-6 (the encoder's; both papers), `weight_decay` 0.01
    (the authors' metric code), `bf16` where the accelerator has it (the losses always run in float32),
    `accelerator_config` with `non_blocking` on an accelerator (the host does not wait for copies to it),
    `ddp_find_unused_parameters` False (parameters without gradient are frozen),
    `remove_unused_columns` False (records carry columns that the collator needs) and `logging_nan_inf_filter` False (a
    non-finite loss stops the run instead).
    """

    _VALID_DICT_FIELDS = [*TrainingArguments._VALID_DICT_FIELDS, "perturbation_kwargs", "color_ranges"]  # noqa: RUF012 - upstream's

    ddp_find_unused_parameters: bool | None = field(
        default=False,
        metadata={"help": "Keep False: parameters without gradient are frozen, and the search costs time."},
    )
    remove_unused_columns: bool = field(default=False, metadata={"help": "Keep False: records carry extra columns."})
    logging_nan_inf_filter: bool = field(
        default=False, metadata={"help": "Keep False: a non-finite loss stops the run."}
    )

    def __post_init__(self):
        if self.load_best_model_at_end and self.metric_for_best_model is None:
            self.metric_for_best_model = "abs_rel"  # evaluation reports no loss
        if self.metric_for_best_model is not None and self.greater_is_better is None:
            # The stock class assumes that greater is better for all metrics but a loss, and would keep the worst checkpoint.
            self.greater_is_better = "delta" in self.metric_for_best_model
        self._take_the_devices_defaults(on_gpu=not self.use_cpu and torch.cuda.is_available())
        super().__post_init__()
        check_choices(type(self), {"preset": self.preset})
        for name, value in PRESETS[self.preset].items():
            if getattr(self, name) is None:
                setattr(self, name, value)
        self.perturbation = StrongPerturbation(**(self.perturbation_kwargs or {}))
        self.colors = None if self.color_ranges is None else ColorRanges(**self.color_ranges)
        ranges = {
            "zoom": (1, 16), "flip_probability": (0, 1), "cutmix_probability": (0, 1), "trim_fraction": (0, 0.99),
            "feature_alignment_margin": (-0.99, 1), "silog_variance_focus": (0, 1), "silog_weight": (0, 1e6),
            "gradient_matching_weight": (0, 1e6), "feature_alignment_weight": (0, 1e6), "labeled_weight": (0, 1e6),
            "unlabeled_weight": (0, 1e6), "decoder_lr_multiplier": (0, 1e6),
        }  # fmt: skip
        if self.one_cycle_warmup is not None:
            ranges["one_cycle_warmup"] = (0, 0.999)
        for name, (low, high) in ranges.items():
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"{name} is {getattr(self, name)}; it must lie in [{low}, {high}].")

    def _take_the_devices_defaults(self, on_gpu: bool) -> None:
        """Set the arguments that were left out and depend on the device."""
        if self.bf16 is None:
            self.bf16 = on_gpu and not self.fp16 and torch.cuda.is_bf16_supported()
        if self.accelerator_config is None and on_gpu and self.dataloader_pin_memory:
            self.accelerator_config = {"non_blocking": True}

    def __getstate__(self) -> dict:
        """Pickle without the token: the Trainer saves its arguments beside the model, and uploads them."""
        return self.__dict__ | {"hub_token": None}

    def split_batch(self, has_labeled: bool, has_unlabeled: bool) -> tuple[int, int]:
        """Split a device's batch between labeled and unlabeled images.

        Args:
            has_labeled (`bool`): Whether there are labeled images.
            has_unlabeled (`bool`): Whether there are unlabeled images.

        Returns:
            `tuple[int, int]`: Labeled and unlabeled images in a batch; 0 where there are none.

        Raises:
            ValueError: No image is left for one of them.
        """
        total = self.per_device_train_batch_size
        if not has_unlabeled:
            return self.labeled_batch_size or total, 0
        if not has_labeled:
            return 0, self.unlabeled_batch_size or total
        if self.labeled_batch_size and self.unlabeled_batch_size:
            return self.labeled_batch_size, self.unlabeled_batch_size
        labeled = self.labeled_batch_size or (
            total - self.unlabeled_batch_size if self.unlabeled_batch_size else total // 3
        )
        unlabeled = self.unlabeled_batch_size or total - labeled
        if labeled < 1 or unlabeled < 1:
            raise ValueError(
                f"per_device_train_batch_size is {total}, which leaves {labeled} labeled and {unlabeled} unlabeled "
                "images; both must be at least 1. Raise it to 3 or more, or set labeled_batch_size and "
                "unlabeled_batch_size."
            )
        return labeled, unlabeled
