"""Label images with a teacher: read files, write finished shards, and never let the device wait.

Reading runs in a thread, decoding in worker processes ahead of the device, PNG encoding and writing in threads behind
it. Batches hold pictures of one input size and of one block, so that the records of a block depend on nothing else.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState

from depth_anything_hf.data.codes import warn_if_coarse
from depth_anything_hf.labeling.arguments import LabelingArguments, Settings
from depth_anything_hf.labeling.decoding import Decoder, Picture, Rejected
from depth_anything_hf.labeling.feeding import decoded
from depth_anything_hf.labeling.labels import Labeler, Labels, common_sizes
from depth_anything_hf.labeling.manifest import claim_folder, finish_folder
from depth_anything_hf.labeling.plan import BlockEnd, Work, schedule
from depth_anything_hf.labeling.progress import LabelingBar
from depth_anything_hf.labeling.shards import ShardFolder, encode_label, encode_picture
from depth_anything_hf.labeling.sources import open_source
from depth_anything_hf.labeling.teacher import load_teacher
from depth_anything_hf.prediction.devices import choose_device
from depth_anything_hf.prediction.stream import Shape, ShapeBatches, WriteBehind
from depth_anything_hf.sharing.cards import set_licenses
from depth_anything_hf.sharing.hub import push_folder

NOISE = 1e-6  # relative spread of a prediction that is constant but for rounding in float32
_logger = logging.getLogger(__name__)


def label_images(args: LabelingArguments) -> dict[str, Any] | None:
    """Label all images of a source, or continue where an earlier run stopped.

    Under `accelerate launch` each process labels its share. A run may be killed at any moment: the same call continues,
    and the finished set equals the set of an uninterrupted run, record for record, for any number of processes.

    Returns:
        The manifest, with `inputs` = `labeled` + `rejected`; None on all processes but the main one.

    Raises:
        ValueError: The folder has other settings, the inputs changed since, or the teacher labels nothing.
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
    choose_device(args.device)  # an unknown device is an error before any work
    state = PartialState(cpu=args.device == "cpu", timeout=timedelta(days=30))  # processes end at different times
    source = open_source(args.images, args.image_column, args.split, args.limit, args.allow_outside)
    model, preparation, space, own_resolution = load_teacher(args.model, args.space, state.device)
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
    labeler = Labeler(
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
        run = _Run(labeler, writers, settings.batch_size, bar)
        for work, result in decoded(feed, decoder, args.num_workers or 0, _on_cpu(state)):
            run.take(work, result)
    state.wait_for_everyone()
    manifest = None
    if state.is_main_process:
        with _clear_when_full(folder.path):
            licenses = set_licenses(args.model, source.name, source.revision)
            manifest = finish_folder(folder, settings, source, licenses)
        if skipped := source.describe_skipped():
            _logger.warning("%s: %s", source.name, skipped)
        if args.push_to_hub and manifest["labeled"]:
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
    """Encode and write behind the device, a bounded number of images at a time."""

    BLOCKS_WAITING = 1  # encoded and not yet written, besides the current one
    MOST_USELESS = 64  # images without a label, before the first that has one

    def __init__(self, folder: ShardFolder, settings: Settings):
        self.folder, self.settings = folder, settings
        self.useless, self.useful = 0, False  # labels of this run
        # zlib releases Python's lock.
        self.encoders = WriteBehind(min(os.cpu_count() or 1, 8), waiting=4 * settings.batch_size)
        self.blocks = WriteBehind(1, waiting=self.BLOCKS_WAITING)
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Writers:
        for part in (self.blocks, self.encoders):  # a block needs its images: the encoders end first
            self._stack.enter_context(part)
        return self

    def __exit__(self, kind, error, trace) -> None:
        """Finish all waiting work; after an error, drop it: the next run repeats it."""
        self._stack.__exit__(kind, error, trace)

    def encode(self, labels: Labels, place: int, key: str, image: dict | None, picture_file: bytes | None) -> Future:
        """Encode one image of a batch; the result of the future is its record or its rejection."""
        return self.encoders.submit(self._record, labels, place, key, image, picture_file)

    def write(self, end: BlockEnd, outcomes: Mapping[str, Future | Rejected | None]) -> None:
        """Write a block once all its records are encoded."""
        self.blocks.submit(self.folder.write_block, end, outcomes)

    def _record(
        self, labels: Labels, place: int, key: str, image: dict | None, picture_file: bytes | None
    ) -> dict[str, Any] | Rejected:
        if labels.ready is not None:
            labels.ready.synchronize()
        if not labels.finite[place]:
            return self._useless("the teacher's output is not finite; float32 may help")
        codes, scale = labels.codes[place].numpy(), float(labels.scale[place])
        offset = float(labels.low[place]) - scale
        spread = (codes.max() - 1.0) * scale
        if spread <= NOISE * (spread + float(labels.low[place])):  # also without any label
            return self._useless("constant prediction: the teacher says the same of every pixel, or nothing")
        self.useful = True
        warn_if_coarse(codes, scale, offset, key, self.settings.space)
        path = (image or {}).get("path")
        kept = {"bytes": picture_file, "path": Path(path or key).name}
        if self.settings.keep_image == "reference":
            kept = {"bytes": None, "path": path}
        elif labels.pixels is not None:  # keep_image="resized"
            kept = {"bytes": encode_picture(labels.pixels[place].numpy()), "path": None}
        return {
            "image": kept,
            "depth_map": {"bytes": encode_label(codes), "path": None},
            "depth_scale": scale,
            "depth_offset": offset,
            "space": self.settings.space,
            "intrinsics": None,
            "source": key,
            "own_size": self.settings.keep_image != "resized",
        }

    def _useless(self, reason: str) -> Rejected:
        """Reject an image; stop the run if so many images in a row have no label that the teacher is at fault."""
        self.useless += 1
        if not self.useful and self.useless >= self.MOST_USELESS:
            raise ValueError(
                f"the first {self.useless} images got no label ({reason}); check the teacher: its weights, its dtype and "
                "its `space`."
            )
        return Rejected(reason)


class _Run:
    """Label decoded pictures in batches of one shape, and pass the labels to the writers, block by block."""

    def __init__(self, labeler: Labeler, writers: Writers, batch_size: int, bar: LabelingBar):
        self.labeler, self.writers, self.bar = labeler, writers, bar
        self.batches: ShapeBatches[tuple[Work, Picture]] = ShapeBatches(batch_size)
        self.outcomes: dict[str, Future | Rejected | None] = {}  # of the current block, in order of the inputs

    def take(self, work: Work | BlockEnd, result: Picture | Rejected | None) -> None:
        """Take the next input or block end, in order."""
        if isinstance(work, BlockEnd):
            for size, members in self.batches.flush():
                self._label(size, members)
            self.writers.write(work, self.outcomes)
            self.outcomes = {}
            return
        self.outcomes[work.item.key] = result if isinstance(result, Rejected) else None
        if isinstance(result, Rejected):
            self.bar.update(rejected=1)
        elif result is not None and (
            full := self.batches.add(result.input_size, (work, result), result.pixels.nbytes)
        ):
            self._label(*full)

    def _label(self, size: Shape, members: list[tuple[Work, Picture]]) -> None:
        height, width = size
        labels = self.labeler([picture.pixels for _, picture in members], (height, width))
        for place, (work, picture) in enumerate(members):
            outcome = self.writers.encode(labels, place, work.item.key, work.item.image, picture.file)
            self.outcomes[work.item.key] = outcome
        self.bar.update(labeled=len(members))
