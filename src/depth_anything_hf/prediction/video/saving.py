"""From a video file to files of its depth, and back to numbers."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from fractions import Fraction
from itertools import zip_longest
from pathlib import Path
from typing import Any, TextIO

import av
import numpy as np
from tqdm.auto import tqdm

from depth_anything_hf.data.codes import decode_depth_map, encode_depth_map
from depth_anything_hf.data.whole_files import put_in_place
from depth_anything_hf.prediction.predictor import DepthPredictor
from depth_anything_hf.prediction.stream import WriteBehind, read_ahead
from depth_anything_hf.prediction.temporal import SMOOTHING
from depth_anything_hf.prediction.video.frames import DepthFrame, iter_video_depth
from depth_anything_hf.prediction.video.reading import VideoReader
from depth_anything_hf.prediction.video.writing import VideoWriter, partial_path

OUTPUTS = {"color": "_color.mp4", "depth": "_depth.mkv", "side-by-side": "_side_by_side.mp4"}  # ends of the file names


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
        predictor (`DepthPredictor`): Predicts the frames.
        outputs (`Sequence[str]`): Any of `"color"` (`<stem>_color.mp4`), `"side-by-side"` (frame and colors,
            `<stem>_side_by_side.mp4`) and `"depth"` (16-bit codes, `<stem>_depth.mkv`, and `<stem>_depth.jsonl`, which
            lists each frame's time, scale and offset: `read_depth_video` reads both).
        smoothing (`float`): Frames over which alignment and colors follow the video; 1 leaves every frame as it is.
        batch_size (`int`): Frames that go through the model together.
        disable_tqdm (`bool`): No progress bar.

    Returns:
        `VideoReport`: Frames, cuts, files, problems.

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
        codes, scale, offset = encode_depth_map(frame.depth)
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
    """Read the 16-bit depth that `save_video_depth` wrote, frame by frame.

    Args:
        path (`str` or `os.PathLike`): `<stem>_depth.mkv`; the listing `<stem>_depth.jsonl` lies beside it.

    Yields:
        `tuple[Fraction, np.ndarray, np.ndarray]`: Time in seconds, exact; values `(height, width)` float32, disparity
        or meters, within half a code (1/131068 of the frame's range) of what was predicted; and `(height, width)` bool,
        where there is a value.

    Raises:
        FileNotFoundError: There is no such video or no listing.
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
