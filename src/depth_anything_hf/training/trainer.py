"""`DepthAnythingTrainer`: the stock Trainer with two streams, a teacher, a frozen encoder and true metrics."""

from __future__ import annotations

import math
import os
import time
from collections import defaultdict

import torch
from torch import nn
from torch.utils.data import DataLoader

from depth_anything_hf.model.image_processing import DepthAnythingImageProcessor
from depth_anything_hf.training.arguments import DepthAnythingTrainingArguments
from depth_anything_hf.training.checkpoints import ResumingTrainer, last_whole_checkpoint
from depth_anything_hf.training.checks import HealthCheck, check_model, check_processes, check_teacher
from depth_anything_hf.training.collator import DepthCollator, EvaluationCollator
from depth_anything_hf.training.feature_encoder import (
    PROJECTOR_FILE,
    ClearGradients,
    average_gradients,
    freeze,
    load_feature_encoder,
    make_projector,
)
from depth_anything_hf.training.loaders import StreamLoading, make_loader, make_streams
from depth_anything_hf.training.optimization import one_cycle, parameter_groups
from depth_anything_hf.training.provenance import write_trainer_card
from depth_anything_hf.training.self_training import (
    View,
    align_features,
    combine,
    frozen_patch_features,
    student_view,
    supervised_loss,
    teacher_labels,
)
from depth_anything_hf.training.streaming import StreamedBatches
from depth_anything_hf.training.streams import SetEpoch, StreamBatchSampler
from depth_anything_hf.training.validation import mean_scores, score_batch


class DepthAnythingTrainer(ResumingTrainer):
    """Train Depth Anything: a teacher on labelled images, or a student on labelled and unlabelled ones.

    Args:
        model (`DepthAnythingForDepthEstimation`): The student (or the teacher, in the first stage).
        args (`DepthAnythingTrainingArguments`): The recipe.
        processing_class (`DepthAnythingImageProcessor`): Its `size` is the training crop. Saved with every checkpoint.
        train_dataset (*optional*): Labelled records, map-style or a `datasets.IterableDataset`.
        unlabeled_dataset (*optional*): Pseudo-labelled records; or photographs, with `teacher`. Either kind, too.
        teacher (`nn.Module`, *optional*): Labels the clean unlabelled images in every step. Frozen.
        feature_encoder (`nn.Module` or `str`, *optional*): Frozen encoder for the alignment loss. Default: the DINOv2
            of the student's size from the Hub. A linear projector is learnt only where the widths differ.
        eval_dataset (*optional*): Labelled records, or a dict of such sets.
        kwargs: As of the stock Trainer: callbacks, optimizers, ...

    Raises:
        TypeError: `model` has no Depth Anything head, or `args` are stock arguments.
        ValueError: Data, teacher or encoder do not fit the model; what and why is in the message.

    Example:
        See "Self-training" in the README.
    """

    def __init__(
        self,
        model: nn.Module,
        args: DepthAnythingTrainingArguments,
        processing_class: DepthAnythingImageProcessor,
        train_dataset=None,
        unlabeled_dataset=None,
        teacher: nn.Module | None = None,
        feature_encoder: nn.Module | str | None = None,
        eval_dataset=None,
        **kwargs,
    ):
        if not isinstance(args, DepthAnythingTrainingArguments):
            raise TypeError(f"args is a {type(args).__name__}; pass DepthAnythingTrainingArguments.")
        check_processes(args.world_size)
        config = check_model(model).config
        if "compute_metrics" in kwargs or "data_collator" in kwargs:
            raise ValueError(
                "DepthAnythingTrainer collates and scores records itself; leave out data_collator and compute_metrics."
            )
        self.max_depth = config.max_depth if config.depth_estimation_type == "metric" else None
        self.batch_sizes = args.stream_batch_sizes(train_dataset is not None, unlabeled_dataset is not None)
        args.per_device_train_batch_size = sum(self.batch_sizes)
        streams = make_streams(train_dataset, unlabeled_dataset, self.batch_sizes, args)
        super().__init__(
            model=model,
            args=args,
            processing_class=processing_class,
            train_dataset=streams,
            eval_dataset=eval_dataset,
            data_collator=DepthCollator(
                processing_class,
                config.depth_estimation_type,
                args.flip_probability,
                args.zoom,
                args.colors,
                args.perturbation if args.strong_perturbation else None,
                args.cutmix_probability,
            ),
            compute_metrics=mean_scores,
            **kwargs,
        )
        teacher = check_teacher(teacher, config.depth_estimation_type, unlabeled_dataset)
        self.teacher = None if teacher is None else freeze(teacher, args)
        self.feature_encoder, self.feature_projector = None, None
        if unlabeled_dataset is not None and args.feature_alignment_weight > 0:
            self._set_feature_encoder(feature_encoder)
        self.normalization = tuple(values.to(args.device) for values in processing_class.normalization)
        self.stream_loading, self._streams_from = None, None
        if isinstance(streams, StreamedBatches):
            self.stream_loading = StreamLoading(streams, self.data_collator, args)
            self.add_callback(self.stream_loading)
        self.health = HealthCheck(delayed=args.device.type == "cuda")
        self._logged = defaultdict(list)
        self._waited, self._clock = 0.0, None  # seconds spent waiting for data since the clock was read

    def _set_feature_encoder(self, encoder: nn.Module | str | None) -> None:
        """Load the frozen encoder, and make a projector if its width differs from the student's."""
        width = self.model.config.reassemble_hidden_size
        self.feature_encoder = freeze(load_feature_encoder(encoder, width), self.args)
        projector = make_projector(width, self.feature_encoder.config.hidden_size, self.args.seed)
        if projector is not None:
            self.feature_projector = projector.to(self.args.device)
            self.add_callback(ClearGradients(self.feature_projector))

    # Data

    def get_train_dataloader(self) -> DataLoader:
        """Return batches with the fixed ratio of the two streams, labelled images first."""
        if self.train_dataset is None:
            raise ValueError("no training data; pass train_dataset (labelled), unlabeled_dataset, or both.")
        if self.stream_loading is not None:
            return self.stream_loading.loader(self.accelerator, self._streams_from)
        processes = self.accelerator.num_processes
        sampler = StreamBatchSampler(self.train_dataset, self.batch_sizes, self.args.seed, processes)
        loader = self._loader(self.train_dataset, self.data_collator, batch_sampler=sampler)
        self.remove_callback(SetEpoch)
        self.add_callback(SetEpoch(sampler, math.ceil(len(loader) / self.args.gradient_accumulation_steps)))
        return loader

    def _loader(self, dataset, collate, **sampling) -> DataLoader:
        loader = make_loader(dataset, collate, self.args, self.args.dataloader_num_workers, **sampling)
        return self.accelerator.prepare(loader)

    def get_eval_dataloader(self, eval_dataset=None) -> DataLoader:
        """Return batches of whole images with ground truth at its own size."""
        dataset = self.eval_dataset if eval_dataset is None else eval_dataset
        dataset = self.eval_dataset[dataset] if isinstance(dataset, str) else dataset
        if dataset is None or len(dataset) == 0:
            raise ValueError("eval_dataset is missing or has 0 records; pass one to the Trainer or to evaluate().")
        return self._loader(dataset, EvaluationCollator(self.processing_class), batch_size=self.args.eval_batch_size)

    get_test_dataloader = get_eval_dataloader

    def get_batch_samples(self, *args, **kwargs):
        """Fetch the batches of an update, and time it."""
        started = time.perf_counter()
        self._clock = started if self._clock is None else self._clock
        samples = super().get_batch_samples(*args, **kwargs)
        self._waited += time.perf_counter() - started
        return samples

    # Optimisation

    def create_optimizer(self, model=None) -> torch.optim.Optimizer:
        """Create the optimizer; the decoder's learning rate is `decoder_lr_multiplier` times the encoder's."""
        if self.optimizer is not None:
            return self.optimizer
        model = self.model if model is None else model
        optimizer_cls, kwargs = self.optimizer_cls_and_kwargs or self.get_optimizer_cls_and_kwargs(self.args, model)
        groups = parameter_groups(
            model,
            self.feature_projector,
            set(self.get_decay_parameter_names(model)),
            self.args.learning_rate,
            self.args.decoder_lr_multiplier,
            self.args.weight_decay,
        )
        self.optimizer = optimizer_cls(groups, **kwargs)
        return self.optimizer

    def create_scheduler(self, num_training_steps: int, optimizer=None):
        """Create the learning rate's schedule: the stock ones, or V1's one-cycle."""
        if self.lr_scheduler is None and self.args.one_cycle_warmup is not None:
            optimizer = self.optimizer if optimizer is None else optimizer
            self.lr_scheduler = one_cycle(optimizer, num_training_steps, self.args.one_cycle_warmup)
        return super().create_scheduler(num_training_steps, optimizer)

    # The step

    def train(self, resume_from_checkpoint: str | bool | None = None, *args, **kwargs):
        """Train; `resume_from_checkpoint=True` takes the last checkpoint that is whole, and a run that is done is left."""
        if resume_from_checkpoint is True:
            resume_from_checkpoint = last_whole_checkpoint(self.args.output_dir)
            if resume_from_checkpoint is None:
                raise ValueError(
                    f"{self.args.output_dir} holds no whole checkpoint; leave resume_from_checkpoint out."
                )
        # accelerate marks a model that it prepared for evaluation, and would then leave it out of DDP without a word:
        # each process would train a model of its own.
        if self.accelerator.num_processes > 1 and self.model_wrapped is self.model:
            self.model._is_accelerate_prepared = False
        skipping = self.args.ignore_data_skip
        self._streams_from = None if skipping else resume_from_checkpoint or None
        # A stream goes to its place by itself; the stock Trainer would read all up to there.
        self.args.ignore_data_skip = skipping or self.stream_loading is not None
        try:
            result = super().train(resume_from_checkpoint, *args, **kwargs)
        finally:
            self.args.ignore_data_skip = skipping
        self.health.finish()
        return result

    def training_step(self, model, inputs, *args, **kwargs) -> torch.Tensor:
        """Run a micro-batch forwards and backwards; the last of an update averages the projector over processes."""
        loss = super().training_step(model, inputs, *args, **kwargs)
        if self.stream_loading is not None:
            self.stream_loading.position.update(*inputs["stream_position"])
        if self.feature_projector is not None and self.accelerator.sync_gradients:
            average_gradients(self.feature_projector)
        return loss

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """Run the student once on both streams' images, and average the losses."""
        sources, count, drawn = inputs["sources"], inputs["num_labeled"], inputs.get("view")
        pixel_values, labels, mask = inputs["pixel_values"], inputs["labels"], inputs["label_mask"]
        labeled = View(pixel_values[:count], labels[:count], mask[:count], None)
        clean, unlabeled, teacher_mask, views = pixel_values[count:], None, None, [labeled.pixel_values]
        if len(clean):
            pseudo = labels[count:], mask[count:]
            if self.teacher is not None:
                with self.accelerator.autocast():
                    pseudo = teacher_labels(self.teacher, clean)
                teacher_mask = pseudo[1]
            unlabeled = student_view(clean, *pseudo, drawn, self.normalization)
            views.append(unlabeled.pixel_values)
        aligned = unlabeled is not None and self.feature_encoder is not None
        outputs = model(pixel_values=torch.cat(views), output_features=aligned)
        predicted = outputs.predicted_depth
        terms = []
        if count:
            losses = supervised_loss(predicted[:count], labeled, self.args, 0.0, self.max_depth)
            terms.append((self.args.labeled_weight, self._log_terms("labeled", losses)))
        if unlabeled is not None:
            losses = supervised_loss(predicted[count:], unlabeled, self.args, self.args.trim_fraction, self.max_depth)
            terms.append((self.args.unlabeled_weight, self._log_terms("unlabeled", losses)))
        if aligned:
            patch = self.model.config.patch_size
            grid = (pixel_values.shape[-2] // patch, pixel_values.shape[-1] // patch)
            with self.accelerator.autocast():
                frozen = frozen_patch_features(self.feature_encoder, unlabeled.pixel_values, grid)
            alignment = align_features(
                outputs.features[count:], frozen, self.feature_projector, self.args.feature_alignment_margin
            )
            self._logged["feature_alignment_loss"].append(alignment.detach())
            terms.append((self.args.feature_alignment_weight, alignment))
        loss = combine(terms)
        zero_share = self.health.check(loss, predicted, teacher_mask, sources, self.state.global_step)
        self._logged["zero_share"].append(zero_share)
        return (loss, outputs) if return_outputs else loss

    def _log_terms(self, stream: str, losses: dict[str, torch.Tensor]) -> torch.Tensor:
        """Remember a stream's named terms for the next log, and return its total."""
        total = losses.pop("total")
        for name, value in losses.items():
            self._logged[f"{stream}_{name}_loss"].append(value)
        self._logged[f"{stream}_loss"].append(total.detach())
        return total

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log, with each training loss by name: the mean over the steps and processes since the last log.

        `data_wait_share` is the share of the time in which this process waited for its data.
        """
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

    # Evaluation

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        """Score a batch: what is kept of it is one row of numbers an image."""
        inputs = self._prepare_inputs(inputs)
        # Images of many sizes would each be compiled anew.
        model = self.accelerator.unwrap_model(model, keep_torch_compile=False)
        with torch.no_grad(), self.compute_loss_context_manager():
            rows = score_batch(model, inputs, self.max_depth)  # (batch, scores)
        return None, rows, inputs["num_in_batch"]

    # Checkpoints

    def create_model_card(self, **told) -> None:
        """Write the card of what was measured; `push_to_hub` passes on what it is told: `write_trainer_card` has the list."""
        if self.is_world_process_zero():
            write_trainer_card(self, **told)

    def _save_checkpoint(self, model, trial):
        self.health.finish()  # a spoilt model must not be saved
        super()._save_checkpoint(model, trial)

    def _save_optimizer_and_scheduler(self, output_dir):
        super()._save_optimizer_and_scheduler(output_dir)
        if self.feature_projector is not None and self.args.should_save:
            torch.save(self.feature_projector.state_dict(), os.path.join(output_dir, PROJECTOR_FILE))
        if self.stream_loading is not None:
            self.stream_loading.save(output_dir)
        # The positions of all processes must be there before the state that says that the checkpoint is whole.
        self.accelerator.wait_for_everyone()

    def _load_optimizer_and_scheduler(self, checkpoint):
        super()._load_optimizer_and_scheduler(checkpoint)
        path = os.path.join(checkpoint or "", PROJECTOR_FILE)
        if self.feature_projector is not None and os.path.isfile(path):
            self.feature_projector.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
