"""`DepthAnythingTrainer`: the stock Trainer with two kinds of images, a teacher, a frozen encoder and depth metrics.

Read it from top to bottom: construction, data, optimization, the step, logs, evaluation, checkpoints. The parts of a step
are in `step.py`.
"""

from __future__ import annotations

import os
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader
from transformers import EvalPrediction, PreTrainedModel, Trainer, TrainerCallback

from depth_anything_hf.evaluation.scoring import SCORE_NAMES, score_prediction, summarize
from depth_anything_hf.losses import LossTerm
from depth_anything_hf.losses.terms import Weight, weight_at
from depth_anything_hf.model.image_processing import DepthAnythingImageProcessor
from depth_anything_hf.training.arguments import DepthAnythingTrainingArguments
from depth_anything_hf.training.batches import (
    SOURCE_NAMES,
    Batches,
    BatchReader,
    loader_settings,
    plain_worker_errors,
)
from depth_anything_hf.training.checks import (
    HealthCheck,
    check_best_metric,
    check_data,
    check_helper,
    check_learned,
    check_losses,
    check_model,
    check_processes,
    check_stock_arguments,
    check_teacher,
)
from depth_anything_hf.training.collator import DepthCollator, EvaluationCollator
from depth_anything_hf.training.encoders import (
    PROJECTOR_FILE,
    ClearGradients,
    align_features,
    average_gradients,
    freeze,
    frozen_patch_features,
    load_feature_encoder,
    make_projector,
)
from depth_anything_hf.training.fields import ViewFields
from depth_anything_hf.training.optimization import one_cycle, parameter_groups
from depth_anything_hf.training.provenance import write_trainer_card
from depth_anything_hf.training.resuming import last_whole_checkpoint, read_state
from depth_anything_hf.training.step import View, combine, count_labels, student_view, teacher_labels, view_loss


class DepthAnythingTrainer(Trainer):
    """Train Depth Anything: a teacher on labeled images, or a student on labeled and unlabeled ones.

    The arguments up to `preprocess_logits_for_metrics` are the arguments of the stock Trainer, in its order.

    Args:
        model (`DepthAnythingForDepthEstimation`, *optional*): The student, or the teacher in the first stage; bare or in
            PEFT's wrapper. Or pass `model_init`.
        args (`DepthAnythingTrainingArguments`, *optional*): The recipe.
        data_collator (`DepthCollator`, *optional*): Default: made from `args`.
        train_dataset (*optional*): Labeled records: a set with an index, or a `datasets.IterableDataset`.
        eval_dataset (*optional*): Labeled records, or a dict of such sets.
        processing_class (`DepthAnythingImageProcessor`): Its `size` is the training crop. Saved with every checkpoint.
        model_init (`Callable`, *optional*): As in the stock Trainer.
        compute_loss_func (*optional*): Refused: pass `losses`.
        compute_metrics (*optional*): Refused: the trainer scores each image itself.
        callbacks (*optional*): As in the stock Trainer, like `optimizers` and `optimizer_cls_and_kwargs`.
        optimizers (*optional*): As in the stock Trainer.
        optimizer_cls_and_kwargs (*optional*): As in the stock Trainer.
        preprocess_logits_for_metrics (*optional*): Refused, as no predictions are kept.
        unlabeled_dataset (*optional*): Pseudo-labeled records; or photographs, with `teacher`. A set with an index or a stream.
        teacher (`nn.Module`, *optional*): Labels the clean unlabeled images in every step. Frozen.
        feature_encoder (`nn.Module` or `str`, *optional*): Frozen encoder for the alignment loss. Default: the DINOv2
            of the student's size from the Hub. A linear projector is learned only if the widths differ.
        losses (`Sequence[LossTerm]`): Losses of your own beside the papers'.
        loss_weights (`Mapping[str, float or Callable]`, *optional*): Weights of `"labeled"`, `"unlabeled"` and
            `"feature_alignment"` in place of those in `args`: numbers, or functions of the training step. The sum is still
            divided by the weights in `args`, so that a schedule changes only its own term; with
            `args.rescale_losses` it is divided by the weights of the step.

    Raises:
        TypeError: `model` is no Depth Anything of this package, or `args` are stock arguments.
        ValueError: Data, teacher or encoder do not fit the model, or an argument has no meaning here.

    Example:
        See "Self-train" in the README.
    """

    args: DepthAnythingTrainingArguments
    model: Any  # bare, or in PEFT's wrapper
    processing_class: DepthAnythingImageProcessor
    eval_dataset: Any

    def __init__(
        self,
        model: PreTrainedModel | nn.Module | None = None,
        args: DepthAnythingTrainingArguments | None = None,
        data_collator: DepthCollator | None = None,
        train_dataset=None,
        eval_dataset=None,
        processing_class: DepthAnythingImageProcessor | None = None,
        model_init: Callable[..., PreTrainedModel] | None = None,
        compute_loss_func: Callable | None = None,
        compute_metrics: Callable | None = None,
        callbacks: list[TrainerCallback] | None = None,
        optimizers: tuple = (None, None),
        optimizer_cls_and_kwargs: tuple[type[torch.optim.Optimizer], dict[str, Any]] | None = None,
        preprocess_logits_for_metrics: Callable | None = None,
        *,
        unlabeled_dataset=None,
        teacher: nn.Module | None = None,
        feature_encoder: nn.Module | str | None = None,
        losses: Sequence[LossTerm] = (),
        loss_weights: Mapping[str, Weight] | None = None,
    ):
        args = DepthAnythingTrainingArguments("tmp_trainer") if args is None else args
        processing_class = check_stock_arguments(
            args, data_collator, processing_class, compute_loss_func, compute_metrics, preprocess_logits_for_metrics
        )
        check_processes(args.world_size)
        check_data(train_dataset, unlabeled_dataset, eval_dataset)
        check_best_metric(args, eval_dataset)
        self.losses, self.loss_weights = tuple(losses), dict(loss_weights or {})
        check_losses(self.losses, self.loss_weights, args, train_dataset is not None, unlabeled_dataset is not None)
        if model is not None or model_init is None:
            check_model(model)
        self.batch_sizes = args.split_batch(train_dataset is not None, unlabeled_dataset is not None)
        args.per_device_train_batch_size = sum(self.batch_sizes)
        reader = None
        if train_dataset is not None or unlabeled_dataset is not None:
            place = (args.process_index, args.world_size, args.stream_block_size)
            reader = BatchReader(train_dataset, unlabeled_dataset, self.batch_sizes, args.seed, *place)
        super().__init__(
            model=model,
            args=args,
            data_collator=data_collator,
            train_dataset=reader,
            eval_dataset=eval_dataset,
            processing_class=processing_class,
            model_init=model_init,
            compute_metrics=mean_scores,
            callbacks=callbacks,
            optimizers=optimizers,
            optimizer_cls_and_kwargs=optimizer_cls_and_kwargs,
        )
        check_model(self.model)
        config = self.model.config
        self.max_depth: float | None = config.max_depth if config.depth_estimation_type == "metric" else None
        if self.max_depth is not None and not args.silog_weight and not self.losses:
            raise ValueError("silog_weight is 0, and it weights the only loss of a metric model; set it above 0.")
        self.data_collator = data_collator or DepthCollator(
            processing_class,
            config,
            args.flip_probability,
            args.zoom,
            args.colors,
            args.perturbation if args.strong_perturbation else None,
            args.cutmix_probability or 0.0,
        )
        if self.data_collator.depth_estimation_type != config.depth_estimation_type:
            raise ValueError(
                f"data_collator makes labels for a {self.data_collator.depth_estimation_type} model, and the model is "
                f"{config.depth_estimation_type}: pass DepthCollator(processor, model)."
            )
        teacher = check_teacher(teacher, config, unlabeled_dataset)
        if teacher is not None:
            check_helper(teacher, "teacher", processing_class)
        self.teacher = None if teacher is None else freeze(teacher, args)
        self.feature_encoder: Any = None
        self.feature_projector: nn.Linear | None = None
        if unlabeled_dataset is not None and args.feature_alignment_weight:
            self._set_feature_encoder(feature_encoder)
        elif feature_encoder is not None:
            raise ValueError(
                "feature_encoder is passed, but it would align nothing: it needs unlabeled_dataset and a "
                "feature_alignment_weight above 0."
            )
        self.normalization = tuple(values.to(args.device) for values in processing_class.normalization)
        self.batches = None if reader is None else Batches(reader, self.data_collator, args)
        self._streams_from: str | None = None  # checkpoint from which streams continue
        self._resumed: dict | None = None  # state in the checkpoint that this run continues from
        self.health = HealthCheck(args.device.type == "cuda", self.max_depth)
        self._logged: dict[str, list[torch.Tensor]] = defaultdict(list)
        self._seen = torch.zeros(2, 2, device=args.device)  # labeled and unlabeled: images, and those with a label
        self._waited = 0.0  # seconds spent waiting for data since the clock was read
        self._clock: float | None = None

    def _set_feature_encoder(self, encoder: nn.Module | str | None) -> None:
        """Load the frozen encoder, and make a projector if its width differs from the student's."""
        width = self.model.config.reassemble_hidden_size
        self.feature_encoder = freeze(load_feature_encoder(encoder, width), self.args)
        check_helper(self.feature_encoder, "feature encoder", self.processing_class)
        projector = make_projector(width, self.feature_encoder.config.hidden_size, self.args.seed)
        if projector is not None:
            if self.optimizer is not None:
                raise ValueError(
                    "optimizers is passed, but it does not hold the projector of the feature alignment, which would stay as it "
                    "is: pass optimizer_cls_and_kwargs, or set feature_alignment_weight=0."
                )
            self.feature_projector = projector.to(self.args.device)
            self.add_callback(ClearGradients(projector))

    # Data

    def get_train_dataloader(self) -> DataLoader:
        """Return batches with the fixed ratio of labeled to unlabeled images, labeled images first."""
        if self.batches is None:
            raise ValueError("no training data; pass train_dataset (labeled), unlabeled_dataset, or both.")
        updates = self._resumed["global_step"] if self._resumed and self._streams_from else 0
        skipped = updates * self.args.gradient_accumulation_steps
        return self.batches.loader(self.accelerator, self._streams_from, skipped)

    def get_eval_dataloader(self, eval_dataset=None) -> DataLoader:
        """Return batches of whole images with ground truth at its own size."""
        dataset = self.eval_dataset if eval_dataset is None else eval_dataset
        dataset = self.eval_dataset[dataset] if isinstance(dataset, str) else dataset
        check_data(None, None, dataset)
        if dataset is None or len(dataset) == 0:
            raise ValueError("eval_dataset is missing or has 0 records; pass one to the Trainer or to evaluate().")
        settings = loader_settings(self.args, self.args.dataloader_num_workers)
        collate = EvaluationCollator(self.processing_class)
        return self.accelerator.prepare(DataLoader(dataset, self.args.eval_batch_size, collate_fn=collate, **settings))

    def get_test_dataloader(self, test_dataset) -> DataLoader:
        """Return batches of whole images with ground truth at its own size, as for evaluation."""
        return self.get_eval_dataloader(test_dataset)

    def get_batch_samples(self, *args, **kwargs):
        """Fetch the batches of an update, and time it.

        Returns:
            The batches, and the labeled and the unlabeled images with a label in them and in those of the other
            processes, `(2,)`. Each batch gets its own counts: a loss is a mean over all images of an update that have one.
        """
        started = time.perf_counter()
        self._clock = started if self._clock is None else self._clock
        with plain_worker_errors():
            batches, _ = super().get_batch_samples(*args, **kwargs)
        self._waited += time.perf_counter() - started
        for batch in batches:
            batch["with_label"] = count_labels(batch, self.max_depth, self.teacher is not None)
        if not batches:
            return batches, None
        images = sum(torch.tensor([b["num_labeled"], len(b["labels"]) - b["num_labeled"]]) for b in batches)
        with_label = sum(batch["with_label"] for batch in batches)
        counts = self.accelerator.reduce(torch.stack([images.to(with_label), with_label], dim=1))
        self._seen += counts
        return batches, counts[:, 1]

    # Optimization

    def create_optimizer(self, model=None) -> torch.optim.Optimizer:
        """Create the optimizer; the decoder's learning rate is `decoder_lr_multiplier` times the encoder's."""
        if self.optimizer is not None:
            return self.optimizer
        model = self.model if model is None else model
        if not any(parameter.requires_grad for parameter in model.parameters()):
            raise ValueError(
                "the model has no parameter that learns: all are frozen. Call requires_grad_(True) on some."
            )
        optimizer_cls, kwargs = self.optimizer_cls_and_kwargs or self.get_optimizer_cls_and_kwargs(self.args, model)
        groups = parameter_groups(
            model,
            self.feature_projector,
            set(self.get_decay_parameter_names(model)),
            self.args.learning_rate,
            self.args.decoder_lr_multiplier,
            self.args.weight_decay,
        )
        if self.args.learning_rate and not any(group["lr"] for group in groups):
            raise ValueError(
                "decoder_lr_multiplier is 0 and only the decoder learns: nothing would be learned. Set it above 0."
            )
        self.optimizer = optimizer_cls(groups, **kwargs)
        return self.optimizer

    def create_scheduler(self, num_training_steps: int, optimizer=None):
        """Create the schedule of the learning rate: a stock one, or V1's one-cycle."""
        if (warmup := self.args.get_warmup_steps(num_training_steps)) >= num_training_steps:
            warnings.warn(
                f"the run has {num_training_steps} steps and warmup_steps is {warmup}: the rate never reaches learning_rate. Set "
                "warmup_steps lower.",
                stacklevel=2,
            )
        if self.lr_scheduler is None and self.args.one_cycle_warmup is not None:
            optimizer = self.optimizer if optimizer is None else optimizer
            self.lr_scheduler = one_cycle(optimizer, num_training_steps, self.args.one_cycle_warmup)  # type: ignore[assignment]
        try:
            return super().create_scheduler(num_training_steps, optimizer)
        except TypeError as error:
            raise ValueError(
                f"lr_scheduler_kwargs is {self.args.lr_scheduler_kwargs!r}, which lr_scheduler_type does not take "
                f"({error}); correct it, or leave it out."
            ) from error

    # The step

    def train(self, resume_from_checkpoint: str | bool | None = None, *args, **kwargs):
        """Train.

        Args:
            resume_from_checkpoint (`str` or `bool`, *optional*): A checkpoint's folder; True takes the last complete
                checkpoint in `output_dir`. A run that is finished trains nothing.
            args: As in the stock Trainer.
            kwargs: As in the stock Trainer.

        Raises:
            ValueError: True is given, and there is no complete checkpoint.
        """
        if resume_from_checkpoint is True:
            resume_from_checkpoint = last_whole_checkpoint(self.args.output_dir or ".")
            if resume_from_checkpoint is None:
                raise ValueError(
                    f"{self.args.output_dir} has no complete checkpoint; leave resume_from_checkpoint out."
                )
        # accelerate marks a model that it prepared for evaluation, and would then leave it out of DDP without a warning:
        # each process would train its own model.
        if self.accelerator.num_processes > 1 and self.model_wrapped is self.model:
            self.model._is_accelerate_prepared = False  # type: ignore[assignment]
        self._resumed = read_state(resume_from_checkpoint) if resume_from_checkpoint else None
        self._streams_from = None if self.args.ignore_data_skip else resume_from_checkpoint or None
        self._seen.zero_()
        result = super().train(resume_from_checkpoint, *args, **kwargs)
        self.health.finish()
        for name, weight, counts in zip(SOURCE_NAMES, ("labeled", "unlabeled"), self._seen.tolist(), strict=True):
            if self.loss_weights.get(weight, getattr(self.args, f"{weight}_weight")):
                check_learned(int(counts[0]), int(counts[1]), name)
        return result

    def hyperparameter_search(self, hp_space=None, compute_objective=None, *args, **kwargs):
        """Search as the stock Trainer does; the default objective is `metric_for_best_model`, or `abs_rel`.

        The stock objective, the sum of all scores, would add errors and shares of good pixels.
        """
        if compute_objective is None:
            name = f"eval_{(self.args.metric_for_best_model or 'abs_rel').removeprefix('eval_')}"
            compute_objective = lambda metrics: metrics[name]  # noqa: E731
        return super().hyperparameter_search(hp_space, compute_objective, *args, **kwargs)

    def _hp_search_setup(self, trial):
        """Set the arguments of a trial; raise an error for one that was used when the Trainer was made."""
        batch = (
            "per_device_train_batch_size",
            "labeled_batch_size",
            "unlabeled_batch_size",
            "stream_block_size",
            "seed",
        )
        names = ["preset", *batch, *(one.name for one in fields(ViewFields))]
        names += ["feature_alignment_weight"] if self.feature_encoder is None else []
        before = {name: getattr(self.args, name) for name in names}
        super()._hp_search_setup(trial)
        for name, value in before.items():
            if (now := getattr(self.args, name)) != value:
                raise ValueError(
                    f"{name} was {value} when the Trainer was made and is {now} in this trial, which would have no effect; "
                    "leave it out of the search, and make a Trainer for each value."
                )

    def set_initial_training_values(self, *args, **kwargs):
        """Count epochs and steps as the stock Trainer does; if all steps are done, no epoch is left.

        The stock Trainer checks only after a step whether it is done: each repetition of a finished run would take one
        more step, and save it.
        """
        epochs, updates, *others, max_steps = super().set_initial_training_values(*args, **kwargs)
        if self._resumed and self._resumed["global_step"] >= max_steps:
            epochs = self._resumed["global_step"] // updates  # the epoch with which the stock Trainer would start
        return epochs, updates, *others, max_steps

    def training_step(self, model, inputs, *args, **kwargs) -> torch.Tensor:
        """Run a micro-batch forward and backward; the last one of an update averages the projector over processes."""
        loss = super().training_step(model, inputs, *args, **kwargs)
        if self.batches is not None:
            self.batches.used(inputs)
        if self.feature_projector is not None and self.accelerator.sync_gradients:
            average_gradients(self.feature_projector)
        return loss

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """Run the student once on all images of the batch, and average the losses."""
        count, step = inputs["num_labeled"], self.state.global_step
        pixel_values, labels, mask = inputs["pixel_values"], inputs["labels"], inputs["label_mask"]
        labeled = View(pixel_values[:count], labels[:count], mask[:count], None)
        clean, unlabeled, teacher = pixel_values[count:], None, None
        if len(clean):
            pseudo = labels[count:], mask[count:]
            if self.teacher is not None:
                with self.accelerator.autocast():
                    teacher = pseudo = teacher_labels(self.teacher, clean)
            unlabeled = student_view(clean, *pseudo, inputs["view"], self.normalization)
        aligned = unlabeled is not None and self.feature_encoder is not None
        views = [view.pixel_values for view in (labeled, unlabeled) if view is not None]
        outputs = model(pixel_values=torch.cat(views), output_features=aligned)
        predicted = outputs.predicted_depth

        losses, factors = {}, torch.ones(2)
        if num_items_in_batch is not None:
            # The Trainer divides by the batches of an update, and DDP by the processes, as if each had as many labels.
            parts = self.accelerator.num_processes * self.current_gradient_accumulation_steps
            factors = inputs["with_label"] * parts / num_items_in_batch.clamp(min=1)
        if count:
            losses["labeled"] = self._view_loss("labeled", predicted[:count], labeled, 0.0, factors[0])
        if unlabeled is not None:
            trim = self.args.trim_fraction or 0.0
            losses["unlabeled"] = self._view_loss("unlabeled", predicted[count:], unlabeled, trim, factors[1])
        if aligned:
            patch = self.model.config.patch_size
            grid = (pixel_values.shape[-2] // patch, pixel_values.shape[-1] // patch)
            with self.accelerator.autocast():
                frozen = frozen_patch_features(self.feature_encoder, unlabeled.pixel_values, grid)
            losses["feature_alignment"] = align_features(
                outputs.features[count:], frozen, self.feature_projector, self.args.feature_alignment_margin
            )
            self._logged["feature_alignment_loss"].append(losses["feature_alignment"].detach())

        configured = {name: getattr(self.args, f"{name}_weight") for name in losses}
        weights = {name: weight_at(self.loss_weights.get(name, configured[name]), step) for name in losses}
        loss = combine(
            [(weights[name], value) for name, value in losses.items()],
            sum((weights if self.args.rescale_losses else configured).values()),
        )
        zero_share = self.health.check(loss, predicted, teacher, inputs["sources"], step)
        self._logged["zero_share"].append(zero_share)
        return (loss, outputs) if return_outputs else loss

    def _view_loss(
        self, images: str, predicted: torch.Tensor, view: View, trim_fraction: float, factor: torch.Tensor
    ) -> torch.Tensor:
        """Compute the loss of the labeled or the unlabeled images times a factor, and remember its terms for the next log."""
        terms = [term for term in self.losses if term.on in (images, "both")]
        losses = view_loss(predicted, view, self.args, trim_fraction, self.max_depth, terms, self.state.global_step)
        total = losses.pop("total") * factor
        for name, value in losses.items():
            self._logged[f"{images}_{name}_loss"].append(value * factor)
        self._logged[f"{images}_loss"].append(total.detach())
        return total

    # Logs

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log, with each training loss by name: the mean over the steps and processes since the last log.

        `data_wait_share` is the share of the time in which this process waited for its data. If nothing was left to
        train, the metrics of the finished run are logged again.
        """
        if "train_runtime" in logs and self._resumed and self.state.global_step == self._resumed["global_step"]:
            for name in ("train_loss", "train_samples_per_second", "train_steps_per_second"):
                logs.pop(name, None)  # no step was taken
            logs |= self._metrics_when_finished()  # in place: `train` returns these
        if "loss" in logs and self._clock is not None:
            now = time.perf_counter()
            logs = logs | {"data_wait_share": round(self._waited / (now - self._clock), 4)}
            self._waited, self._clock = 0.0, now
        if "loss" in logs and self._logged:
            names = sorted(self._logged)
            means = torch.stack([torch.stack(self._logged[name]).float().mean() for name in names])
            means = self.accelerator.reduce(means, reduction="mean").tolist()
            logs = logs | {name: round(value, 6) for name, value in zip(names, means, strict=True)}
            self._logged.clear()
        super().log(logs, start_time)

    def _metrics_when_finished(self) -> dict[str, float]:
        """Find the metrics with which the training ended, in the state that `save_state` left in `output_dir`."""
        last = read_state(self.args.output_dir or ".") or {"log_history": []}
        resumed = self._resumed or {"log_history": [], "global_step": 0}
        before, step = resumed["log_history"], resumed["global_step"]
        if last["log_history"][: len(before)] != before:  # another run's
            return {}
        ends = [entry for entry in last["log_history"] if "train_runtime" in entry and entry.get("step") == step]
        return {name: value for name, value in (ends or [{}])[-1].items() if name not in ("step", "epoch")}

    # Evaluation

    def evaluation_loop(self, *args, **kwargs):
        """Score a loader's images as the stock Trainer does; errors of its workers read as without workers."""
        with plain_worker_errors():
            return super().evaluation_loop(*args, **kwargs)

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        """Score a batch: return one row of numbers per image."""
        inputs = self._prepare_inputs(inputs)
        # Each image size would need its own compilation.
        model = self.accelerator.unwrap_model(model, keep_torch_compile=False)
        with torch.no_grad(), self.compute_loss_context_manager():
            rows = score_batch(model, inputs, self.max_depth)  # (batch, scores)
        return None, rows, inputs["num_in_batch"]

    # Checkpoints

    def create_model_card(self, *args, **facts) -> None:
        """Write the card with the measured scores; takes the arguments of `write_trainer_card`, as `push_to_hub` does."""
        if self.is_world_process_zero():
            write_trainer_card(self, *args, **facts)

    def _save_checkpoint(self, model, trial):
        self.health.finish()  # a broken model must not be saved
        super()._save_checkpoint(model, trial)

    def _issue_warnings_after_load(self, load_result):
        lost = [*load_result.missing_keys, *load_result.unexpected_keys]
        if lost:
            raise ValueError(
                f"{len(lost)} weights of the checkpoint and of the model have no counterpart, such as {lost[0]}, and would not "
                "be loaded: it is of another model. Resume from a checkpoint of this one, or start anew."
            )

    def _save_optimizer_and_scheduler(self, output_dir):
        super()._save_optimizer_and_scheduler(output_dir)
        if self.feature_projector is not None and self.args.should_save:
            torch.save(self.feature_projector.state_dict(), os.path.join(output_dir, PROJECTOR_FILE))
        if self.batches is not None:
            self.batches.save(output_dir)
        # The positions of all processes must be written before the state, which marks the checkpoint as complete.
        self.accelerator.wait_for_everyone()

    def _load_optimizer_and_scheduler(self, checkpoint):
        super()._load_optimizer_and_scheduler(checkpoint)
        path = os.path.join(checkpoint or "", PROJECTOR_FILE)
        if self.feature_projector is not None and os.path.isfile(path):
            self.feature_projector.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))


def score_batch(model: nn.Module, batch: dict, max_depth: float | None) -> torch.Tensor:
    """Predict the images of a batch of `EvaluationCollator`, images of equal size together, and score each.

    Args:
        model (`nn.Module`): Relative, or metric with `max_depth`.
        batch (`dict`): Batch on the model's device.
        max_depth (`float`, *optional*): Largest depth of a metric model, meters.

    Returns:
        `torch.Tensor`: `(batch, scores)`, in the order of `SCORE_NAMES`.
    """
    rows: dict[int, torch.Tensor] = {}
    by_shape = defaultdict(list)
    for i, image in enumerate(batch["pixel_values"]):
        by_shape[image.shape].append(i)
    for members in by_shape.values():
        predicted = model(pixel_values=torch.stack([batch["pixel_values"][i] for i in members])).predicted_depth
        for i, depth in zip(members, predicted, strict=True):
            target, mask, space = (batch[name][i] for name in ("targets", "target_masks", "spaces"))
            rows[i] = score_prediction(depth, target, mask, space, max_depth is not None, max_depth=max_depth)
    return torch.stack([rows[i] for i in range(len(rows))])


def mean_scores(prediction: EvalPrediction) -> dict[str, float]:
    """Average the rows of `score_batch`."""
    rows = torch.as_tensor(prediction.predictions, dtype=torch.float64)
    scores = summarize({name: rows[:, i] for i, name in enumerate(SCORE_NAMES)})
    if left_out := int(scores["images_without_labels"]):
        nan = "" if scores["images"] else ": the scores are NaN"
        warnings.warn(
            f"{left_out} of {len(rows)} images of the evaluation have no label in range and do not count{nan}. Check depth_scale "
            "(0.001 for millimeters), depth_offset and space, and max_depth.",
            stacklevel=2,
        )
    return scores
