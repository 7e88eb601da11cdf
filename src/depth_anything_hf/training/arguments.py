"""Arguments of a training run: the stock ones, and those of the two papers."""

from __future__ import annotations

import json
import math
import warnings
from dataclasses import dataclass, field, fields
from typing import Any

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

# Arguments of `TrainingArguments` that would have no effect in this Trainer, or a wrong one: the values that are accepted,
# and what to do instead. All the others work as in the stock Trainer (tests list them).
WITHOUT_EFFECT: dict[str, tuple[tuple, str]] = {
    "auto_find_batch_size": (
        (False,),
        "the batch is divided between labeled and unlabeled images beforehand: set per_device_train_batch_size",
    ),
    "average_tokens_across_devices": ((True,), "the labeled images of all devices are always counted together"),
    "batch_eval_metrics": ((False,), "each image is scored by itself already"),
    "bf16_full_eval": ((False,), "evaluation predicts in the precision of the training: set bf16"),
    "data_seed": ((None,), "seed also decides the order of the records"),
    "dataloader_drop_last": ((False,), "every batch is full: the last one is filled from the next shuffle"),
    "dataloader_in_order": ((True,), "a run that resumes needs its batches in order"),
    "deepspeed": ((None,), "it has never been run with this Trainer: shard with fsdp"),
    "do_predict": ((False,), "only scripts read it: call trainer.predict"),
    "eval_do_concat_batches": ((True,), "the scores are one row of numbers per image"),
    "eval_use_gather_object": ((False,), "the scores are tensors"),
    "fp16_full_eval": ((False,), "evaluation predicts in the precision of the training: set fp16"),
    "include_for_metrics": (([], (), None), "each image is scored by the Trainer itself"),
    "include_num_input_tokens_seen": ((False, "no"), "images have no tokens to count"),
    "label_names": ((None,), "labels are read from the depth_map of the records"),
    "label_smoothing_factor": ((0,), "it is for classes, and depth has none"),
    "length_column_name": (("length", None), "images of a batch have one size"),
    "liger_kernel_config": ((None,), "Liger's kernels are for language models"),
    "neftune_noise_alpha": ((None,), "it adds noise to the embeddings of words"),
    "optim_target_modules": ((None,), "encoder and decoder have groups of their own"),
    "parallelism_config": ((None,), "the model is not split: shard it with fsdp"),
    "prediction_loss_only": ((False,), "evaluation computes scores and no loss"),
    "remove_unused_columns": ((False,), "the collator needs all columns of the records"),
    "resume_from_checkpoint": ((None,), "pass it to trainer.train; the train command resumes by itself"),
    "train_sampling_strategy": (("random",), "records are shuffled anew in each epoch"),
    "use_cache": ((False, None), "it is for models that generate"),
    "use_liger_kernel": ((False,), "Liger's kernels are for language models"),
}


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
        self._refuse_what_has_no_effect()
        watches_a_metric = self.lr_scheduler_type in ("reduce_lr_on_plateau", "greedy")
        if (self.load_best_model_at_end or watches_a_metric) and self.metric_for_best_model is None:
            self.metric_for_best_model = "abs_rel"  # evaluation reports no loss
        if self.metric_for_best_model is not None and self.greater_is_better is None:
            # The stock class assumes that greater is better for all metrics but a loss, and would keep the worst checkpoint.
            self.greater_is_better = "delta" in self.metric_for_best_model
        self._take_the_devices_defaults(on_gpu=not self.use_cpu and torch.cuda.is_available())
        super().__post_init__()
        if watches_a_metric:
            mode = {"mode": "max" if self.greater_is_better else "min"}
            self.lr_scheduler_kwargs = mode | (self.lr_scheduler_kwargs or {})
        check_choices(type(self), {"preset": self.preset})
        for name, value in PRESETS[self.preset].items():
            if getattr(self, name) is None:
                setattr(self, name, value)
        self.perturbation = _made("perturbation_kwargs", StrongPerturbation, self.perturbation_kwargs or {})
        self.colors = None if self.color_ranges is None else _made("color_ranges", ColorRanges, self.color_ranges)
        ranges = {
            "zoom": (1, 16), "flip_probability": (0, 1), "cutmix_probability": (0, 1), "trim_fraction": (0, 0.99),
            "feature_alignment_margin": (-0.99, 1), "silog_variance_focus": (0, 1), "silog_weight": (0, 1e6),
            "gradient_matching_weight": (0, 1e6), "feature_alignment_weight": (0, 1e6), "labeled_weight": (0, 1e6),
            "unlabeled_weight": (0, 1e6), "decoder_lr_multiplier": (0, 1e6), "weight_decay": (0, 1e6),
            "max_grad_norm": (0, math.inf), "gradient_accumulation_steps": (1, 1e6), "stream_block_size": (1, 1e9),
            "per_device_eval_batch_size": (1, 1e6),
        }  # fmt: skip
        if self.one_cycle_warmup is not None:
            ranges["one_cycle_warmup"] = (0, 0.999)
        for name, (low, high) in ranges.items():
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise ValueError(f"{name} is {value}; it must lie in [{low}, {high}].")
        if self.save_strategy == "steps" and not self.save_steps > 0:
            raise ValueError(f"save_steps is {self.save_steps}; it must be above 0, or no checkpoint would be saved.")

    def _refuse_what_has_no_effect(self) -> None:
        """Raise an error for a stock argument that would have no effect, or a run without a step."""
        for name, (accepted, reason) in WITHOUT_EFFECT.items():
            value = getattr(self, name, accepted[0])  # some are missing in other versions of transformers
            if value not in accepted:
                raise ValueError(f"{name} is {value!r}, but it would have no effect here: {reason}; leave it out.")
        for name in self._VALID_DICT_FIELDS:
            value = getattr(self, name)
            try:
                json.loads(value if isinstance(value, str) and value.startswith("{") else "{}")
            except json.JSONDecodeError as error:
                raise ValueError(f"{name} is {value!r}, which is no JSON ({error}); correct it.") from error
        if self.do_eval and self.eval_strategy in ("no", False, None):
            raise ValueError("do_eval is True, but eval_strategy is 'no': set eval_strategy and eval_steps.")
        given = self.accelerator_config if isinstance(self.accelerator_config, dict) else {}
        for name in ("split_batches", "dispatch_batches"):
            if given.get(name):
                raise ValueError(
                    f"accelerator_config has {name}={given[name]!r}, but each process reads its own batches; leave it out."
                )
        if self.max_steps == 0 or (self.max_steps < 0 and self.num_train_epochs <= 0):
            raise ValueError(
                f"max_steps is {self.max_steps} and num_train_epochs {self.num_train_epochs}: no step would be taken; set "
                "one above 0. To score a model without training call trainer.evaluate."
            )
        if self.one_cycle_warmup is not None:
            used = {"lr_scheduler_type": "linear", "lr_scheduler_kwargs": None, "warmup_steps": 0}
            for name, default in used.items():
                if (value := getattr(self, name)) not in (default, {}):
                    raise ValueError(
                        f"{name} is {value!r}, but one_cycle_warmup is set and is the whole schedule; leave one of them out."
                    )
        if not 0 <= self.learning_rate < math.inf:
            raise ValueError(f"learning_rate is {self.learning_rate}; it must be a finite number of at least 0.")
        if self.learning_rate == 0:
            warnings.warn("learning_rate is 0: nothing will be learned.", stacklevel=3)

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


def _made(name: str, cls: type, given: Any) -> Any:
    """Make a dataclass of an argument's mapping; raise a `TypeError` that names its keys where it does not fit."""
    try:
        return cls(**given)
    except TypeError as error:
        known = ", ".join(f"{one.name} ({one.default})" for one in fields(cls))
        raise TypeError(
            f"{name} is {given!r}; it maps some of these names to values of this kind: {known}."
        ) from error
