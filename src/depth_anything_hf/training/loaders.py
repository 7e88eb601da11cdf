"""Data loaders of the Trainer, and the place of streams in its checkpoints."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable
from pathlib import Path

from accelerate import Accelerator
from accelerate.data_loader import prepare_data_loader
from torch.utils.data import DataLoader
from transformers import TrainerCallback, TrainingArguments

from depth_anything_hf.training.arguments import DepthAnythingTrainingArguments
from depth_anything_hf.training.checks import check_labels
from depth_anything_hf.training.shares import is_stream, max_workers
from depth_anything_hf.training.streaming import StreamCollator, StreamedBatches, StreamPosition
from depth_anything_hf.training.streams import TrainingStreams


def make_streams(
    labeled, unlabeled, batch_sizes: tuple[int, int], args: DepthAnythingTrainingArguments
) -> TrainingStreams | StreamedBatches | None:
    """Join the two data sets: with an index if both have one, else as streams; None where both are missing.

    Raises:
        ValueError: The labelled one has no labels.
    """
    check_labels(labeled)
    if is_stream(labeled) or is_stream(unlabeled):
        place = (args.process_index, args.world_size, args.stream_block_size)
        return StreamedBatches(labeled, unlabeled, batch_sizes, args.seed, *place)
    return None if labeled is None and unlabeled is None else TrainingStreams(labeled, unlabeled)


def make_loader(dataset, collate: Callable, args: TrainingArguments, num_workers: int, **sampling) -> DataLoader:
    """Make a data loader by the arguments of a run; `sampling` says what a batch is."""
    return DataLoader(
        dataset,
        collate_fn=collate,
        num_workers=num_workers,
        pin_memory=args.dataloader_pin_memory,
        persistent_workers=args.dataloader_persistent_workers and num_workers > 0,
        prefetch_factor=args.dataloader_prefetch_factor if num_workers > 0 else None,
        **sampling,
    )


class StreamLoading(TrainerCallback):
    """Load a process's share of the streams, and go on after a checkpoint at the record where it was left.

    Args:
        batches (`StreamedBatches`): The share.
        collate (`Callable`): Turns a list of records into a dict.
        args (`TrainingArguments`): Of the run.
    """

    def __init__(self, batches: StreamedBatches, collate: Callable, args: TrainingArguments):
        self.batches, self.collate, self.args = batches, StreamCollator(collate), args
        limits = [max_workers(source, batches.world_size) for source in batches.streams if source is not None]
        asked = args.dataloader_num_workers
        self.num_workers = min([asked, *(limit for limit in limits if limit is not None)])
        if self.num_workers < asked:
            warnings.warn(
                f"dataloader_num_workers is {asked}, and a process has {self.num_workers} shards of a stream; it gets as "
                "many workers. Write more shards, such as with a smaller `shard_size`, to use more.",
                stacklevel=2,
            )
        self.position = StreamPosition(batches, self.num_workers)

    def loader(self, accelerator: Accelerator, checkpoint: str | None) -> DataLoader:
        """Make the loader, from the beginning or from a checkpoint.

        Raises:
            ValueError: The checkpoint has no position of this process, or one of other settings.
        """
        self.position = StreamPosition(self.batches, self.num_workers)
        if checkpoint is not None:
            path = self._file(checkpoint)
            if not path.is_file():
                raise ValueError(
                    f"{path} is missing: the checkpoint was not written by this many processes with streams. Use as many "
                    "as then, or pass ignore_data_skip=True to start the streams anew."
                )
            self.position.load_state_dict(json.loads(path.read_text(encoding="utf-8")))
        self.batches.resume(self.position)
        # Each process has its share already: for accelerate there is nothing to divide.
        return prepare_data_loader(
            make_loader(self.batches, self.collate, self.args, self.num_workers, batch_size=None),
            accelerator.device,
            num_processes=1,
            process_index=0,
            put_on_device=True,
            dispatch_batches=False,
            non_blocking=accelerator.non_blocking,
        )

    def save(self, checkpoint: str | os.PathLike) -> None:
        """Write the position of this process into a checkpoint."""
        path = self._file(checkpoint)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(self.position.state_dict()), encoding="utf-8")

    def on_step_end(self, args, state, control, **kwargs):
        """Count a stream, which has no end, as one epoch."""
        state.epoch = state.global_step / state.max_steps

    def _file(self, checkpoint: str | os.PathLike) -> Path:
        return Path(checkpoint) / f"stream_position_{self.batches.rank}.json"
