"""From frames to their depth, aligned with the past, to files, and back to numbers."""

from __future__ import annotations

import json
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from itertools import islice, zip_longest
from pathlib import Path
from typing import Any, TextIO

import av
import numpy as np
import torch
from PIL import Image
from tqdm.auto import tqdm

from depth_anything_hf.data.codes import decode_depth_map, encode_depth_map
from depth_anything_hf.data.whole_files import put_in_place
from depth_anything_hf.maps.geometry import disparity_of_prediction
from depth_anything_hf.pictures.visualization import paint
from depth_anything_hf.prediction.predictor import DepthPredictor, check_prediction
from depth_anything_hf.prediction.stream import WriteBehind, read_ahead
from depth_anything_hf.prediction.temporal import SMOOTHING, RunningRange, TemporalAligner
from depth_anything_hf.prediction.video.reading import Frame, VideoReader
from depth_anything_hf.prediction.video.writing import VideoWriter, partial_path

OUTPUTS = {"color": "_color.mp4", "depth": "_depth.mkv", "side-by-side": "_side_by_side.mp4"}  # ends of the file names


@dataclass(frozen=True)
class DepthFrame:
    """A frame and its depth."""

    image: np.ndarray  # (height, width, 3) uint8 RGB
    time: Fraction  # seconds
    depth: np.ndarray  # (height, width) float32: disparity or meters, aligned with the past
    space: str  # "disparity" or "depth"
    scale: float  # of the alignment: depth = scale * prediction + shift
    shift: float
    cut: bool  # whether a scene begins here, and the alignment anew
    color_range: tuple[float, float]  # disparity of the darkest and of the brightest color

    @cached_property
    def picture(self) -> np.ndarray:
        """The depth in colors, on the range that runs through the video: (height, width, 3) uint8."""
        return paint(self.depth, self.space, *self.color_range)


def iter_video_depth(
    frames: Iterable[Frame], predictor: DepthPredictor, smoothing: float = SMOOTHING, batch_size: int = 1
) -> Iterator[DepthFrame]:
    """Predict the depth of a video's frames, with one batch of them in memory, however many there are.

    Args:
        frames (`Iterable[Frame]`): In order, such as a `VideoReader`.
        predictor (`DepthPredictor`): Predicts the frames.
        smoothing (`float`): Frames over which alignment and colors follow the video; 1 leaves every frame as it is.
        batch_size (`int`): Frames that go through the model together.

    Raises:
        ValueError: `smoothing` or `batch_size` below 1, or an image is not `(height, width, 3)` uint8.

    Example:
        >>> image = np.arange(48 * 64 * 3, dtype=np.uint8).reshape(48, 64, 3)
        >>> frames = (Frame(image, Fraction(i, 25)) for i in range(3))
        >>> predictor = DepthPredictor("mini", device="cpu")
        >>> [(frame.depth.shape, frame.cut) for frame in iter_video_depth(frames, predictor)]
        [((48, 64), True), ((48, 64), False), ((48, 64), False)]
    """
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; it must be at least 1 frame.")
    space = predictor.space
    align, follow = TemporalAligner(space, smoothing), RunningRange(smoothing)
    for frame, prediction in _predict(iter(frames), predictor, batch_size):
        aligned = align(prediction, torch.from_numpy(frame.image).movedim(2, 0))
        color_range = follow(*disparity_of_prediction(aligned.values, space), restart=aligned.cut)
        yield DepthFrame(frame.image, frame.time, aligned.values.numpy(), space, *aligned[1:], color_range)


def _predict(
    frames: Iterator[Frame], predictor: DepthPredictor, batch_size: int
) -> Iterator[tuple[Frame, torch.Tensor]]:
    """Yield frames with their predictions, and let go of each before the next batch is read."""
    while batch := deque(islice(frames, batch_size)):
        predictions = deque(predictor([Image.fromarray(frame.image) for frame in batch]))
        while batch:
            check_prediction(predictions[0])
            yield batch.popleft(), predictions.popleft()


@dataclass(frozen=True)
class VideoReport:
    """Report on a video that was written."""

    frames: int
    cuts: list[float]  # seconds at which another scene begins, the first frame left out
    files: dict[str, Path]  # by output; "frames" is the listing beside "depth"
    problems: list[str]  # what was broken in the file that was read


def save_video_depth(
    path: str | os.PathLike,
    path_stem: str | os.PathLike,
    predictor: DepthPredictor,
    outputs: Sequence[str] = tuple(OUTPUTS),
    smoothing: float = SMOOTHING,
    batch_size: int = 1,
    disable_tqdm: bool = False,
) -> VideoReport:
    """Write the depth of a video as videos of the same rate, times and size, upright; without sound.

    Frames are read ahead of the model and written behind it, a few at a time.

    Args:
        path (`str` or `os.PathLike`): Of the video; of a broken one, the frames that can be decoded are taken.
        path_stem (`str` or `os.PathLike`): Path without ending; folders are made, files replaced when the new ones are
            whole.
        predictor, smoothing, batch_size: As of `iter_video_depth`.
        outputs (`Sequence[str]`): Any of `"color"` (`<stem>_color.mp4`), `"side-by-side"` (frame and colors,
            `<stem>_side_by_side.mp4`) and `"depth"` (16-bit codes, `<stem>_depth.mkv`, and `<stem>_depth.jsonl`, which
            lists each frame's time, scale and offset: `read_depth_video` reads both).
        disable_tqdm (`bool`): No progress bar.

    Raises:
        FileNotFoundError: No such file.
        ValueError: It is no video, or holds no frame that can be decoded; or an unknown output or setting.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> with VideoWriter(folder / "clip.mp4", rate=25) as writer:
        ...     for i in range(3):
        ...         writer.write(np.full((48, 64, 3), 60 * i, dtype=np.uint8), Fraction(i, 25))
        >>> predictor = DepthPredictor("mini", device="cpu")
        >>> report = save_video_depth(folder / "clip.mp4", folder / "clip", predictor, ["depth"], disable_tqdm=True)
        >>> report.frames, report.files["depth"].name, report.problems
        (3, 'clip_depth.mkv', [])
    """
    if not outputs or not set(outputs) <= set(OUTPUTS):
        raise ValueError(f"outputs is {list(outputs)}; choose from {', '.join(OUTPUTS)}.")
    stem = Path(path_stem).expanduser()
    files = {name: stem.with_name(stem.name + end) for name, end in OUTPUTS.items() if name in outputs}
    count = 0
    cuts: list[float] = []
    with VideoReader(path) as reader, ExitStack() as stack:
        outputs_open = [_open_output(stack, name, file, reader) for name, file in files.items()]

        def write(frame: DepthFrame) -> None:
            for write_one in outputs_open:
                write_one(frame)

        # Both threads have ended before the files are closed, which they use.
        writer = stack.enter_context(WriteBehind(workers=1, waiting=batch_size))
        ahead = stack.enter_context(closing(read_ahead(reader, batch_size)))
        frames = iter_video_depth(ahead, predictor, smoothing, batch_size)
        for frame in tqdm(frames, reader.path.name, reader.frame_count, unit="frame", disable=disable_tqdm):
            writer.submit(write, frame)
            if frame.cut and count:
                cuts.append(float(frame.time))
            count += 1
    if "depth" in files:
        files["frames"] = _listing_path(files["depth"])
    return VideoReport(count, cuts, files, reader.problems)


def _open_output(stack: ExitStack, name: str, path: Path, reader: VideoReader) -> Callable[[DepthFrame], None]:
    """Open an output's files, which the stack closes, and return what writes a frame to them."""
    writer = stack.enter_context(VideoWriter(path, reader.rate, reader.time_base, reader.pixel_aspect))
    if name == "color":
        return lambda frame: writer.write(frame.picture, frame.time)
    if name == "side-by-side":
        return lambda frame: writer.write(np.hstack([frame.image, frame.picture]), frame.time)
    listing = stack.enter_context(_open_listing(_listing_path(path)))

    def write_codes(frame: DepthFrame) -> None:
        name = f"{path}, at {float(frame.time):.2f} s" if frame.cut else None  # a word a scene is enough
        codes, scale, offset = encode_depth_map(frame.depth, name=name, space=frame.space)
        writer.write(codes, frame.time)
        row: dict[str, Any] = {"time": float(frame.time), "ticks": round(frame.time / reader.time_base)}
        row |= {"time_base": str(reader.time_base), "depth_scale": scale, "depth_offset": offset, "space": frame.space}
        row |= {"cut": frame.cut, "alignment_scale": frame.scale, "alignment_shift": frame.shift}
        listing.write(json.dumps(row) + "\n")

    return write_codes


def _listing_path(video: Path) -> Path:
    return video.with_suffix(".jsonl")


@contextmanager
def _open_listing(path: Path) -> Iterator[TextIO]:
    partial = partial_path(path)
    with partial.open("w", encoding="utf-8") as listing:
        yield listing
    put_in_place(partial, path)


def read_depth_video(path: str | os.PathLike) -> Iterator[tuple[Fraction, np.ndarray, np.ndarray]]:
    """Read the 16-bit depth that `save_video_depth` wrote in `<stem>_depth.mkv` and, beside it, `<stem>_depth.jsonl`.

    Yields:
        `tuple[Fraction, np.ndarray, np.ndarray]`: Time in seconds, exact; values `(height, width)` float32, disparity
        or meters, within half a code (1/131068 of the frame's range) of the prediction; and `(height, width)` bool, True
        where there is a value.

    Raises:
        ValueError: The two have not as many frames.
    """
    path = Path(path).expanduser()
    with _listing_path(path).open(encoding="utf-8") as listing, av.open(str(path)) as container:
        for line, frame in zip_longest(listing, container.decode(video=0)):
            if line is None or frame is None:
                raise ValueError(f"{path} and its listing have not as many frames; write them again.")
            row = json.loads(line)
            codes = frame.to_ndarray(format="gray16le")
            yield (
                row["ticks"] * Fraction(row["time_base"]),
                *decode_depth_map(codes, row["depth_scale"], row["depth_offset"]),
            )
