from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

av = pytest.importorskip("av", reason='video needs PyAV: pip install "depth_anything_hf[video]"')

from depth_anything_hf.scenes.simple import render_scenes  # noqa: E402


@pytest.fixture(scope="session")
def corners() -> np.ndarray:
    """A picture (48, 64, 3) that no turn and no mirror leaves as it is: red, green, blue and white quarters."""
    picture = np.zeros((48, 64, 3), dtype=np.uint8)
    picture[:24, :32], picture[:24, 32:], picture[24:, :32], picture[24:, 32:] = (
        (200, 30, 30),
        (30, 200, 30),
        (30, 30, 200),
        (220, 220, 220),
    )
    return picture


@pytest.fixture(scope="session")
def scenes() -> list[np.ndarray]:
    """Pictures (48, 64, 3) of two procedural scenes."""
    return [image.permute(1, 2, 0).numpy() for image in render_scenes([3, 7], 48, 64).images]


@pytest.fixture
def write_clip(tmp_path) -> Callable[..., Path]:
    """Function that writes pictures as PyAV's users do: `write_clip(name, pictures, ticks, ...)` gives the path.

    `ticks` are times in units of `time_base`; `turn` is (degrees, mirrored left to right, mirrored upside down).
    """

    def write(
        name,
        pictures,
        ticks=None,
        time_base=None,
        rate=Fraction(25),
        turn=None,
        aspect=None,
        sound=False,
        codec="libx264",
        encoder=None,  # options of the codec
        options=None,  # of the container
    ):
        # Frames come out as they go in: sound lies beside them, and times that vary stay true.
        encoder = {"tune": "zerolatency"} if encoder is None and codec == "libx264" else encoder
        if turn and not hasattr(av.VideoStream, "set_display_rotation"):
            pytest.skip(f"PyAV {av.__version__} cannot write a rotation; 18 can")
        path = tmp_path / name
        with av.open(str(path), "w", options=options or {}) as container:
            track = container.add_stream(codec, rate=rate, options=encoder)
            track.height, track.width = pictures[0].shape[:2]
            track.pix_fmt = "yuv420p"
            if time_base:
                track.codec_context.time_base = track.time_base = time_base
            if turn:
                track.set_display_rotation(turn[0], hflip=turn[1], vflip=turn[2])
            if aspect:
                track.codec_context.sample_aspect_ratio = aspect
            audio = container.add_stream("aac", rate=8000) if sound else None
            for i, picture in enumerate(pictures):
                frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
                if ticks is not None:
                    frame.pts, frame.time_base = ticks[i], time_base
                container.mux(track.encode(frame))
                if audio:  # as long as the frame
                    silence = np.zeros((1, round(8000 / rate)), np.float32)
                    silence = av.AudioFrame.from_ndarray(silence, format="fltp", layout="mono")
                    silence.sample_rate = 8000
                    container.mux(audio.encode(silence))
            for one in filter(None, (track, audio)):
                container.mux(one.encode())
        return path

    return write
