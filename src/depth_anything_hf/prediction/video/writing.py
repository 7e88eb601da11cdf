"""Write a video picture by picture; it gets its name when it is whole."""

from __future__ import annotations

import os
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace

from depth_anything_hf.data.whole_files import put_in_place

# For pictures, the first that this build of FFmpeg has. No B-frames: their times would bend where the rate varies.
PICTURE_CODECS = {
    "libx264": {"crf": "18", "bf": "0"},
    "libvpx-vp9": {"crf": "24", "b:v": "0", "row-mt": "1", "deadline": "good", "cpu-used": "4"},
}
_BT709 = 1  # primaries, transfer and matrix have one number
_CODES = "gray16le"


class VideoWriter:
    """Write pictures or 16-bit codes to a file, in a `with` statement.

    Until its end, and if it ends by an error, the file is called `<name>.partial.<ending>`; folders are made. Without a
    picture there is no file.

    - uint8 `(height, width, 3)`: RGB, written as H.264 (VP9 where FFmpeg was built without), `yuv420p`, BT.709. Odd
      sides are made even by repeating the last row or column.
    - uint16 `(height, width)`: written as FFV1, which loses nothing, `gray16le`.

    Args:
        path (`str` or `os.PathLike`): File; its ending names the container, such as `.mp4` or `.mkv`.
        rate (`Fraction`): Frames a second, on average: what players show.
        time_base (`Fraction`, *optional*): Of the times; default: one tick a frame.
        pixel_aspect (`Fraction`): Width of a pixel over its height.
        codec (`str`, *optional*): For pictures: one of `PICTURE_CODECS`.

    Raises:
        ValueError: This build of FFmpeg has none of the codecs, or a picture is neither or of another size.

    Example:
        >>> import tempfile
        >>> with VideoWriter(tempfile.mkdtemp() + "/depth.mkv", Fraction(25)) as writer:
        ...     writer.write(np.full((3, 5), 65535, dtype=np.uint16), Fraction(0))
        >>> with av.open(str(writer.path)) as container:
        ...     next(container.decode(video=0)).to_ndarray(format="gray16le").max()
        np.uint16(65535)
    """

    def __init__(
        self,
        path: str | os.PathLike,
        rate: Fraction,
        time_base: Fraction | None = None,
        pixel_aspect: Fraction = Fraction(1),
        codec: str | None = None,
    ):
        self.path, self.rate, self.pixel_aspect = Path(path).expanduser(), Fraction(rate), Fraction(pixel_aspect)
        self.time_base = Fraction(time_base or 1 / self.rate)
        self._codec = codec
        self._stream: av.VideoStream | None = None
        self._shape: tuple[tuple[int, ...], np.dtype] | None = None

    def __enter__(self) -> VideoWriter:
        self._partial = partial_path(self.path)
        # The MP4's index goes to the front, so that a browser plays it while it loads.
        options = {"movflags": "+faststart"} if self.path.suffix == ".mp4" else {}
        self._container = av.open(str(self._partial), "w", options=options)
        return self

    def __exit__(self, kind: type[BaseException] | None, *error) -> None:
        try:
            if self._stream is not None:
                self._container.mux(self._stream.encode())
        finally:
            self._container.close()
        if self._stream is None:
            self._partial.unlink(missing_ok=True)
        elif kind is None:
            put_in_place(self._partial, self.path)

    def write(self, picture: np.ndarray, time: Fraction) -> None:
        """Append a picture that is shown from `time` on, in seconds."""
        if self._stream is None or self._shape is None:
            self._stream, self._shape = self._start(picture), (picture.shape, picture.dtype)
        shape, dtype = self._shape
        if (picture.shape, picture.dtype) != (shape, dtype):
            raise ValueError(
                f"a picture is {picture.dtype} of shape {picture.shape}, the first was {dtype} of shape {shape}; all "
                "pictures of a video are alike."
            )
        if picture.dtype == np.uint16:
            frame = av.VideoFrame.from_ndarray(picture, format=_CODES)
        else:
            (height, width), pad = picture.shape[:2], ((0, picture.shape[0] % 2), (0, picture.shape[1] % 2), (0, 0))
            padded = np.pad(picture, pad, mode="edge") if height % 2 or width % 2 else picture
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(padded), format="rgb24")
            frame = frame.reformat(format="yuv420p", dst_colorspace=Colorspace.ITU709, dst_color_range=ColorRange.MPEG)
        frame.pts, frame.time_base = round(time / self.time_base), self.time_base
        self._container.mux(self._stream.encode(frame))

    def _start(self, picture: np.ndarray) -> av.VideoStream:
        """Open the stream that the first picture needs."""
        stream: Any
        kind = (picture.dtype, picture.ndim, picture.shape[2:])
        if kind == (np.uint16, 2, ()):
            stream = self._container.add_stream("ffv1", self.rate, options={"level": "3"})
            stream.pix_fmt = _CODES
        elif kind == (np.uint8, 3, (3,)):
            codec = self._codec or picture_codec(av.codecs_available)
            stream = self._container.add_stream(codec, self.rate, options=PICTURE_CODECS[codec])
            stream.pix_fmt = "yuv420p"
            context = stream.codec_context
            context.colorspace, context.color_range = Colorspace.ITU709, ColorRange.MPEG
            context.color_primaries = context.color_trc = _BT709
        else:
            raise ValueError(
                f"a picture is {picture.dtype} of shape {picture.shape}; it must be uint8 (height, width, 3) or uint16 "
                "(height, width): use colorize for a map."
            )
        height, width = picture.shape[:2]
        odd = picture.dtype == np.uint8
        stream.height, stream.width = height + odd * (height % 2), width + odd * (width % 2)
        stream.codec_context.time_base = stream.time_base = self.time_base
        stream.codec_context.sample_aspect_ratio = self.pixel_aspect
        return stream


def picture_codec(available: set[str]) -> str:
    """Return the first of `PICTURE_CODECS` among the available codecs.

    Example:
        >>> picture_codec({"libvpx-vp9", "mpeg4"})
        'libvpx-vp9'
    """
    for codec in PICTURE_CODECS:
        if codec in available:
            return codec
    raise ValueError(
        f"this build of FFmpeg has no encoder among {', '.join(PICTURE_CODECS)}; install PyAV's own wheel (pip install "
        "av), or write the 16-bit depth alone."
    )


def partial_path(path: Path) -> Path:
    """Return the name of a file until it is complete: for `clip.mp4` it is `clip.partial.mp4`. Makes its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.with_name(f"{path.stem}.partial{path.suffix}")
