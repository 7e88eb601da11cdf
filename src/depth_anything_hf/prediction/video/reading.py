"""Read a video frame by frame: upright, with exact times, and skip its broken parts."""

from __future__ import annotations

import os
from collections.abc import Iterator
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np

from depth_anything_hf.data.image_files import check_image_size

_MISSING_END = 0.5  # seconds that a whole file may lack: the length of another stream, rounded

# FFmpeg reads more, but some of those open further files, which a text in the place of a video names (concat, HLS, DASH).
_FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpegtsraw,mpeg,mpegvideo,flv,live_flv,kux,asf,ogg,mxf,mxg,gxf,dv,nut,nuv,rm,"
    "ivf,obu,h261,h263,h264,hevc,vvc,m4v,mjpeg,gif,apng,webp,wtv,dhav,yuv4mpegpipe,jpeg_pipe,png_pipe,webp_pipe,bmp_pipe,tiff_pipe"
)


class Frame(NamedTuple):
    """A frame of a video."""

    image: np.ndarray  # (height, width, 3) uint8 RGB, upright
    time: Fraction  # seconds; a whole multiple of the reader's `time_base`, greater than that of the frame before


class VideoReader:
    """Read the frames of a video file, once, one at a time; use it in a `with` statement.

    Frames are turned and mirrored as the file's display matrix says, as players do. Packets that cannot be decoded are
    passed over. A frame that lies before zero moves the whole video to zero.

    Args:
        path (`str` or `os.PathLike`): Anything that FFmpeg reads.

    Attributes:
        rate (`Fraction`): Frames a second, on average.
        time_base (`Fraction`): Seconds that the file's clock counts in.
        pixel_aspect (`Fraction`): Width of an upright frame's pixels over their height.
        problems (`list[str]`): What was broken; complete when all frames were read.

    Raises:
        FileNotFoundError: No such file.
        ValueError: It is no video that FFmpeg can open, or holds no video stream, or no frame that can be decoded, or
            frames that are too narrow or too large (`check_image_size`).

    Example:
        >>> import tempfile
        >>> from depth_anything_hf.prediction.video import VideoWriter
        >>> path = tempfile.mkdtemp() + "/clip.mp4"
        >>> with VideoWriter(path, rate=Fraction(30000, 1001)) as writer:
        ...     for i in range(3):
        ...         writer.write(np.full((48, 64, 3), 80 * i, dtype=np.uint8), i * Fraction(1001, 30000))
        >>> with VideoReader(path) as reader:
        ...     [(frame.image.shape, str(frame.time)) for frame in reader]
        [((48, 64, 3), '0'), ((48, 64, 3), '1001/30000'), ((48, 64, 3), '1001/15000')]
    """

    def __init__(self, path: str | os.PathLike):
        self.path = Path(path).expanduser()
        if not self.path.is_file():
            raise FileNotFoundError(f"{self.path}: no such file, or a folder, pipe or device; check the path.")
        try:
            self._container = av.open(str(self.path), options={"format_whitelist": _FORMATS})
        except Exception as error:  # FFmpeg's errors have many classes, and its texts any encoding
            raise ValueError(
                f"{self.path} cannot be opened as a video ({error}); it is none, or it was cut off: an MP4 whose "
                "index was never written is lost."
            ) from error
        stream = self._container.streams.best("video")
        if not isinstance(stream, av.VideoStream):
            held = sorted({str(one.type) for one in self._container.streams}) or ["nothing"]
            self._container.close()
            raise ValueError(f"{self.path} holds no video stream (but {', '.join(held)}); give a video file.")
        self._stream = stream
        self._stream.thread_type = "AUTO"
        self.time_base = self._stream.time_base or Fraction(1, av.time_base)
        self.rate = self._stream.average_rate or self._stream.guessed_rate or Fraction(25)
        self.problems: list[str] = []
        frames = self._decode()
        first = next(frames, None)
        if first is None:
            self._container.close()
            raise ValueError(f"{self.path} holds no frame that can be decoded ({'; '.join(self.problems)}).")
        self._width, self._height = first.width, first.height  # which may change within a stream
        try:
            check_image_size(first.height, first.width)
        except ValueError as error:
            self._container.close()
            raise ValueError(f"{self.path}: {error}") from error
        self._matrix = _display_matrix(first)
        aspect = self._stream.sample_aspect_ratio or Fraction(1)
        self.pixel_aspect = 1 / aspect if _swaps_sides(self._matrix) else aspect
        self._frames = chain([first], frames)

    def __enter__(self) -> VideoReader:
        return self

    def __exit__(self, *error) -> None:
        self._container.close()

    @property
    def frame_count(self) -> int | None:
        """About how many frames there are; None where the file does not say."""
        if self._stream.frames:
            return self._stream.frames
        return round(self._stated_length * self.rate) if self._stated_length else None

    @property
    def _stated_length(self) -> float:
        """The length in the header, in seconds; 0 = none."""
        return (self._container.duration or 0) / av.time_base

    def __iter__(self) -> Iterator[Frame]:
        start: int | None = None
        last: int | None = None
        step = max(1, round(1 / (self.rate * self.time_base)))  # ticks a frame
        for frame in self._frames:
            if start is None:
                start = min(0, frame.pts or 0)
            ticks = None if frame.pts is None else frame.pts - start
            if ticks is None or (last is not None and ticks <= last):
                ticks = 0 if last is None else last + step
            last = ticks
            image = frame.to_ndarray(format="rgb24", width=self._width, height=self._height)
            yield Frame(_upright(image, self._matrix), ticks * self.time_base)

    def _decode(self) -> Iterator[av.VideoFrame]:
        undecodable, damaged = 0, 0
        for packet in self._packets():
            try:
                frames = self._stream.decode(packet)
            except Exception:  # as above
                undecodable += 1
                continue
            for frame in frames:
                damaged += frame.is_corrupt
                yield frame
        if undecodable or damaged:
            self.problems.append(f"packets that cannot be decoded: {undecodable}, damaged frames: {damaged}")

    def _packets(self) -> Iterator[av.Packet | None]:
        """Yield the stream's packets; at the end those, or None, that make the decoder return its last frames."""
        end = 0.0  # of the longest stream: it tells whether the file is whole, even if the sound goes on for longer
        try:
            for packet in self._container.demux():
                if packet.pts is not None:
                    end = max(end, float((packet.pts + (packet.duration or 0)) * packet.time_base))
                if packet.stream.index == self._stream.index:
                    yield packet
        except av.FFmpegError as error:
            self.problems.append(f"reading stopped at {end:.2f} s: {error.strerror}")
            yield None
        stated = (self._container.start_time or 0) / av.time_base + self._stated_length
        if end < stated - _MISSING_END:
            self.problems.append(f"it ends at {end:.2f} s, and its header says {stated:.2f} s")


def _display_matrix(frame: av.VideoFrame) -> np.ndarray:
    """Return the part (2, 2) of the matrix that turns and mirrors: a point (x, y) becomes (x, y) @ matrix."""
    held: Any = frame.side_data.get("DISPLAYMATRIX")
    if held is None:
        return np.eye(2)
    return np.frombuffer(held, dtype=np.int32).reshape(3, 3)[:2, :2]


def _swaps_sides(matrix: np.ndarray) -> bool:
    return bool(abs(matrix[0, 1]) > abs(matrix[0, 0]))


def _upright(image: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Turn (height, width, 3) by quarters and mirror it, as the matrix that lies nearest says."""
    if _swaps_sides(matrix):
        image, matrix = image.swapaxes(0, 1), matrix[::-1]
    rows, columns = (slice(None, None, -1 if matrix[i, i] < 0 else 1) for i in (1, 0))
    return np.ascontiguousarray(image[rows, columns])
