"""Label images with a teacher: read files, write finished shards, and never let the device wait.

Reading runs in a thread, decoding in worker processes ahead of the device, PNG encoding and writing in threads behind
it. Batches hold pictures of one input size and of one block, so that a block's records depend on nothing else.
"""

from __future__ import annotations

import collections
import contextlib
import errno
import logging
import os
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState

from depth_anything_hf.labeling.arguments import LabelingArguments, Settings
from depth_anything_hf.labeling.decoding import Decoder, Picture, Rejected
from depth_anything_hf.labeling.feeding import decoded
from depth_anything_hf.labeling.manifest import claim_folder, finish_folder
from depth_anything_hf.labeling.plan import BlockEnd, Work, schedule
from depth_anything_hf.labeling.predicting import Labels, Predictor, common_sizes
from depth_anything_hf.labeling.progress import LabelingBar
from depth_anything_hf.labeling.shards import ShardFolder, encode_label, encode_picture
from depth_anything_hf.labeling.sources import open_source
from depth_anything_hf.labeling.teacher import load_teacher
from depth_anything_hf.prediction.devices import choose_device
from depth_anything_hf.sharing.hub import push_folder

HELD_BYTES = 2**31
_logger = logging.getLogger(__name__)


def label_images(args: LabelingArguments) -> dict[str, Any] | None:
    """Label all images of a source, or continue where an earlier run stopped.

    Under `accelerate launch` each process labels its share. A run may be killed at any moment: the same call continues,
    and the finished set equals that of an uninterrupted run, record for record, for any number of processes.

    Args:
        args (`LabelingArguments`): Teacher, images, output folder and options.

    Returns:
        `dict[str, Any]`, *optional*: The manifest, with `inputs` = `labeled` + `rejected`; None on all processes but the
        main one.

    Raises:
        ValueError: The folder was begun with other settings, or the inputs changed since.
        FileNotFoundError: There are no images.
        OSError: The disk is full, or fails; repeat the call to continue.

    Source: Depth Anything V1, section 3.2, and V2, section 4 (labels of 62 million photographs).

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> from transformers import Dinov2Config
        >>> from depth_anything_hf import DepthAnythingForDepthEstimation, DepthAnythingImageProcessor, config_for_encoder
        >>> encoder = Dinov2Config(image_size=56, hidden_size=32, num_hidden_layers=4, num_attention_heads=2)
        >>> teacher, photos = tempfile.mkdtemp(), tempfile.mkdtemp()
        >>> _ = DepthAnythingForDepthEstimation(config_for_encoder(encoder)).save_pretrained(teacher)
        >>> _ = DepthAnythingImageProcessor(size={"height": 56, "width": 56}).save_pretrained(teacher)
        >>> Image.new("RGB", (80, 60)).save(photos + "/a.jpg")
        >>> manifest = label_images(
        ...     LabelingArguments(teacher, photos, tempfile.mkdtemp(), num_workers=0, disable_tqdm=True)
        ... )
        >>> manifest["labeled"], manifest["resolution"]
        (1, 56)
    """
    choose_device(args.device)  # a wrong one is an error now
    state = PartialState(cpu=args.device == "cpu", timeout=timedelta(days=30))  # processes end at different times
    source = open_source(args.images, args.image_column, args.split, args.limit)
    model, preparation, space, own_resolution = load_teacher(args.model, args.space)
    model.to(state.device)
    settings = Settings.resolve(args, source, model, preparation, space, own_resolution, state.device.type)
    folder = ShardFolder(Path(args.out_dir).expanduser())
    with state.main_process_first(), _clear_when_full(folder.path):
        claim_folder(folder, settings, is_main=state.is_main_process)
    finished = folder.finished()
    decoder = Decoder(
        settings.resolution,
        preparation.multiple,
        preparation.aspect,
        keep_file=settings.keep_image == "original",
        resize=_on_cpu(state),
    )
    predictor = Predictor(
        model,
        preparation,
        space,
        settings.batch_size,
        getattr(torch, settings.dtype),
        common_sizes(settings.resolution, preparation.multiple, preparation.aspect)
        if settings.compiled
        else frozenset(),
        return_pixels=settings.keep_image == "resized",
    )
    feed = schedule(source, settings.shard_size, finished, state)
    bar = LabelingBar(source, finished, state, disable=args.disable_tqdm or not state.is_main_process)
    with _clear_when_full(folder.path), bar, Writers(folder, settings) as writers:
        run = _Run(predictor, writers, settings.batch_size, bar)
        for work, result in decoded(feed, decoder, args.num_workers, _on_cpu(state)):
            run.take(work, result)
    state.wait_for_everyone()
    manifest = None
    if state.is_main_process:
        with _clear_when_full(folder.path):
            manifest = finish_folder(folder, settings, source)
        if skipped := source.describe_skipped():
            _logger.warning("%s: %s", source.name, skipped)
        if args.push_to_hub:
            push_folder(folder.path, args.push_to_hub, args.private)
    state.wait_for_everyone()
    return manifest


@contextlib.contextmanager
def _clear_when_full(path: Path) -> Iterator[None]:
    """Explain what to do when the disk is full."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        raise OSError(
            error.errno,
            f"{path} cannot grow ({os.strerror(error.errno)}). The finished shards are safe: free some space, and "
            "repeat the same command to continue.",
        ) from error


def _on_cpu(state: PartialState) -> bool:
    return state.device.type == "cpu"


class Writers:
    """Encode and write behind the device, a bounded number of images at a time.

    Args:
        folder (`ShardFolder`): Output folder.
        settings (`Settings`): Settings that decide the content of a record.
    """

    BLOCKS_WAITING = 1  # encoded and not yet written, besides the current one

    def __init__(self, folder: ShardFolder, settings: Settings):
        self.folder, self.settings = folder, settings
        self.encoders = ThreadPoolExecutor(min(os.cpu_count() or 1, 8), "encode")  # zlib lets Python's lock go
        self.writer = ThreadPoolExecutor(1, "write")
        self.images: collections.deque[Future] = collections.deque()
        self.blocks: collections.deque[Future] = collections.deque()

    def __enter__(self) -> Writers:
        return self

    def __exit__(self, kind, error, trace) -> None:
        """Finish all waiting work; after an error, drop it: the next run repeats it."""
        try:
            if error is None:
                self._settle(self.blocks, 0)
        finally:
            for pool in (self.encoders, self.writer):
                pool.shutdown(wait=True, cancel_futures=True)

    def encode(self, labels: Labels, place: int, key: str, image: dict, picture_file: bytes | None) -> Future:
        """Encode one image of a batch; the result of the future is its record or its rejection."""
        self._settle(self.images, 4 * self.settings.batch_size)
        future = self.encoders.submit(self._record, labels, place, key, image, picture_file)
        self.images.append(future)
        return future

    def write(self, end: BlockEnd, outcomes: dict[str, Future | Rejected]) -> None:
        """Write a block once all its records are encoded."""
        self._settle(self.blocks, self.BLOCKS_WAITING)
        self.blocks.append(self.writer.submit(self.folder.write_block, end, outcomes))

    def _settle(self, futures: collections.deque[Future], most: int) -> None:
        """Wait until at most so many are unfinished; an error in any of them is raised here."""
        while futures and (len(futures) > most or futures[0].done()):
            futures.popleft().result()

    def _record(
        self, labels: Labels, place: int, key: str, image: dict, picture_file: bytes | None
    ) -> dict[str, Any] | Rejected:
        if labels.ready is not None:
            labels.ready.synchronize()
        if not labels.finite[place]:
            return Rejected("the teacher's output is not finite; float32 may help")
        kept = {"bytes": picture_file, "path": Path(image.get("path") or key).name}
        if self.settings.keep_image == "reference":
            kept = {"bytes": None, "path": image["path"]}
        elif labels.pixels is not None:  # keep_image="resized"
            kept = {"bytes": encode_picture(labels.pixels[place].numpy()), "path": None}
        scale = float(labels.scale[place])
        return {
            "image": kept,
            "depth_map": {"bytes": encode_label(labels.codes[place].numpy()), "path": None},
            "depth_scale": scale,
            "depth_offset": float(labels.low[place]) - scale,
            "space": self.settings.space,
            "intrinsics": None,
            "source": key,
            "own_size": self.settings.keep_image != "resized",
        }


@dataclass
class _Block:
    """What is known of a block under way."""

    outcomes: dict[str, Future | Rejected | None] = field(default_factory=dict)
    buckets: dict[tuple[int, int], list[tuple[Work, Picture]]] = field(default_factory=dict)
    held: int = 0  # bytes of the pictures in the buckets


class _Run:
    """Sort decoded pictures into batches of equal shape, and hand what becomes of them to the writers."""

    def __init__(self, predictor: Predictor, writers: Writers, batch_size: int, bar: LabelingBar):
        self.predictor, self.writers, self.batch_size, self.bar = predictor, writers, batch_size, bar
        self.block = _Block()

    def take(self, work: Work | BlockEnd, result: Picture | Rejected | None) -> None:
        """Take the next input or block end, in order."""
        if isinstance(work, BlockEnd):
            for size in sorted(self.block.buckets):
                self._label(size)
            self.writers.write(work, self.block.outcomes)
            self.block = _Block()
            return
        self.block.outcomes[work.item.key] = result if isinstance(result, Rejected) else None
        if isinstance(result, Rejected):
            self.bar.update(rejected=1)
            return
        bucket = self.block.buckets.setdefault(result.input_size, [])
        bucket.append((work, result))
        self.block.held += result.pixels.nbytes
        if len(bucket) == self.batch_size:
            self._label(result.input_size)
        elif self.block.held > HELD_BYTES:  # many sizes of large pictures: rather a batch that is not full
            self._label(max(self.block.buckets, key=lambda size: len(self.block.buckets[size])))

    def _label(self, size: tuple[int, int]) -> None:
        members = self.block.buckets.pop(size)
        self.block.held -= sum(picture.pixels.nbytes for _, picture in members)
        labels = self.predictor([picture.pixels for _, picture in members], size)
        for place, (work, picture) in enumerate(members):
            outcome = self.writers.encode(labels, place, work.item.key, work.item.image, picture.file)
            self.block.outcomes[work.item.key] = outcome
        self.bar.update(labeled=len(members))
