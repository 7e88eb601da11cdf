from fractions import Fraction

import av
import numpy as np
import pytest

from depth_anything_hf.prediction.video import VideoReader, VideoWriter
from depth_anything_hf.prediction.video.writing import picture_codec

NTSC = Fraction(30000, 1001)


def write(path, pictures, rate=25, times=None, **options):
    with VideoWriter(path, rate, **options) as writer:
        for i, picture in enumerate(pictures):
            writer.write(picture, i / Fraction(rate) if times is None else times[i])
    return path


def test_writer__pictures_come_back(tmp_path, scenes):
    path = write(tmp_path / "new" / "clip.mp4", scenes, NTSC)
    with VideoReader(path) as reader:
        assert reader.rate == NTSC
        frames = list(reader)
    assert [frame.time for frame in frames] == [0, 1 / NTSC]
    for frame, scene in zip(frames, scenes, strict=True):
        assert np.abs(frame.image.astype(int) - scene).mean() < 8
    assert [file.name for file in path.parent.iterdir()] == ["clip.mp4"]


def test_writer__plays_everywhere(tmp_path, corners):
    path = write(tmp_path / "clip.mp4", [corners])
    with av.open(str(path)) as container:
        context = container.streams.video[0].codec_context
        assert (context.name, context.pix_fmt) == ("h264", "yuv420p")
        assert (context.colorspace, context.color_range, context.color_primaries, context.color_trc) == (1, 1, 1, 1)
    data = path.read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")  # plays while it loads


def test_writer__colors_stay(tmp_path):
    color = np.full((32, 32, 3), (252, 90, 10), dtype=np.uint8)
    with VideoReader(write(tmp_path / "clip.mp4", [color])) as reader:
        np.testing.assert_allclose(next(iter(reader)).image, color, atol=4)


@pytest.mark.parametrize(("height", "width"), [(47, 64), (48, 63), (47, 63)])
def test_writer__odd_sides_lose_nothing(tmp_path, corners, height, width):
    picture = corners[:height, :width]
    with VideoReader(write(tmp_path / "clip.mp4", [picture])) as reader:
        (frame,) = reader
    assert frame.image.shape == (48, 64, 3)
    expected = np.pad(picture, ((0, 48 - height), (0, 64 - width), (0, 0)), mode="edge")
    assert np.median(np.abs(frame.image.astype(int) - expected)) < 6
    assert np.abs(frame.image[-1, :24].astype(int) - expected[-1, :24]).max() < 20


def test_writer__times_that_vary(tmp_path, scenes):
    times = [Fraction(tick, 1000) for tick in (0, 40, 100, 101, 300, 1000)]
    for name in ("clip.mp4", "clip.mkv"):
        path = write(tmp_path / name, scenes * 3, NTSC, times, time_base=Fraction(1, 1000))
        with VideoReader(path) as reader:
            assert [frame.time for frame in reader] == times
        with av.open(str(path)) as container:
            assert container.duration > 1_000_000  # microseconds; B-frames would make a player stop early


def test_writer__pixel_aspect(tmp_path, corners):
    path = write(tmp_path / "clip.mp4", [corners], pixel_aspect=Fraction(4, 3))
    with VideoReader(path) as reader:
        assert reader.pixel_aspect == Fraction(4, 3)


def test_writer__vp9_where_there_is_no_h264(tmp_path, corners):
    path = write(tmp_path / "clip.mp4", [corners] * 3, NTSC, codec="libvpx-vp9")
    with VideoReader(path) as reader:
        frames = list(reader)
        assert reader.rate == NTSC
    assert len(frames) == 3
    assert np.median(np.abs(frames[0].image.astype(int) - corners)) < 6


def test_codec__is_the_first_that_there_is():
    assert picture_codec({"mpeg4", "libvpx-vp9", "libx264"}) == "libx264"
    assert picture_codec({"mpeg4", "libvpx-vp9"}) == "libvpx-vp9"
    with pytest.raises(ValueError, match=r"no encoder among libx264, libvpx-vp9; .*pip install av"):
        picture_codec({"mpeg4"})


def test_writer__codes_are_exact(tmp_path):
    codes = np.random.default_rng(0).integers(0, 65536, (5, 31, 45), dtype=np.uint16)
    codes[0, 0, :3] = 0, 1, 65535
    path = write(tmp_path / "depth.mkv", codes)
    with av.open(str(path)) as container:
        assert container.streams.video[0].codec_context.name == "ffv1"
        found = [frame.to_ndarray(format="gray16le") for frame in container.decode(video=0)]
    np.testing.assert_array_equal(found, codes)


def test_writer__codes_of_a_view(tmp_path):
    codes = np.arange(40 * 60, dtype=np.uint16).reshape(40, 60)
    path = write(tmp_path / "depth.mkv", [codes[::2, ::-1]])
    with av.open(str(path)) as container:
        np.testing.assert_array_equal(next(container.decode(video=0)).to_ndarray(format="gray16le"), codes[::2, ::-1])


def test_writer__a_file_has_its_name_when_it_is_whole(tmp_path, corners):
    path = tmp_path / "clip.mp4"
    with VideoWriter(path, 25) as writer:
        writer.write(corners, Fraction(0))
        assert not path.exists()
    assert path.exists()


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_writer__what_was_broken_off_is_called_partial_and_plays(tmp_path, corners, error):
    path = tmp_path / "clip.mp4"
    path.write_bytes(b"of an earlier run")

    def pictures():
        yield from [corners] * 3
        raise error

    with pytest.raises(error):
        write(path, pictures())
    assert path.read_bytes() == b"of an earlier run"
    with VideoReader(tmp_path / "clip.partial.mp4") as reader:
        assert len(list(reader)) == 3


def test_writer__without_a_picture_there_is_no_file(tmp_path):
    with VideoWriter(tmp_path / "clip.mp4", 25):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("picture", [np.zeros((8, 8)), np.zeros((8, 8), np.uint8), np.zeros((8, 8, 3), np.uint16)])
def test_writer__refuses_what_is_no_picture(tmp_path, picture):
    with pytest.raises(ValueError, match=r"must be uint8 \(height, width, 3\) or uint16"):
        write(tmp_path / "clip.mp4", [picture])
    assert list(tmp_path.iterdir()) == []


def test_writer__refuses_another_size(tmp_path, corners):
    with pytest.raises(ValueError, match=r"\(40, 64, 3\), the first was uint8 of shape \(48, 64, 3\)"):
        write(tmp_path / "clip.mp4", [corners, corners[:40]])
