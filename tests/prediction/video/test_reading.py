from fractions import Fraction

import av
import numpy as np
import pytest
from av.video.reformatter import ColorRange, Colorspace

from depth_anything_hf.prediction.video import VideoReader

NTSC = Fraction(30000, 1001)


def read(path):
    with VideoReader(path) as reader:
        return list(reader), reader


def close(found, expected):
    """Whether pictures are equal but for what the codec loses; edges of the colors are blurred."""
    return found.shape == expected.shape and np.median(np.abs(found.astype(int) - expected)) < 6


@pytest.mark.parametrize("degrees", [0, 90, 180, -90])
@pytest.mark.parametrize(("mirrored", "flipped"), [(False, False), (True, False), (False, True)])
def test_reader__turns_frames_upright(write_clip, corners, degrees, mirrored, flipped):
    path = write_clip("turned.mp4", [corners] * 2, turn=(degrees, mirrored, flipped))
    frames, _ = read(path)
    upright = np.rot90(corners, degrees // 90)  # counterclockwise, then the mirrors
    upright = upright[:: -1 if flipped else 1, :: -1 if mirrored else 1]
    for frame in frames:
        assert close(frame.image, upright)
        assert frame.image.flags.c_contiguous


def test_reader__without_a_tag_nothing_turns(write_clip, corners):
    (frame,), _ = read(write_clip("plain.mp4", [corners]))
    assert close(frame.image, corners)


@pytest.mark.parametrize(("degrees", "aspect"), [(0, Fraction(4, 3)), (90, Fraction(3, 4))])
def test_reader__pixel_aspect_is_that_of_the_upright_frame(write_clip, corners, degrees, aspect):
    _, reader = read(write_clip("wide.mp4", [corners], turn=(degrees, False, False), aspect=Fraction(4, 3)))
    assert reader.pixel_aspect == aspect


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.avi", "a.mov", "a.ts"])
@pytest.mark.parametrize("encoder", [None, {"bf": "2"}])
def test_reader__rate_is_exact(write_clip, corners, name, encoder):
    codec = "mpeg4" if name == "a.avi" else "libx264"
    frames, reader = read(write_clip(name, [corners] * 12, rate=NTSC, codec=codec, encoder=encoder))
    assert reader.rate == NTSC
    assert len(frames) == 12
    steps = np.diff([float(frame.time) for frame in frames])
    np.testing.assert_allclose(steps, 1001 / 30000, atol=1e-3)  # Matroska has whole milliseconds


def test_reader__times_that_vary_are_exact(write_clip, corners):
    ticks = [0, 40, 100, 101, 300, 1000]
    frames, _ = read(write_clip("vfr.mp4", [corners] * 6, ticks, Fraction(1, 1000), NTSC))
    assert [frame.time for frame in frames] == [Fraction(tick, 1000) for tick in ticks]


def test_reader__a_late_start_stays(write_clip, corners):
    frames, _ = read(write_clip("late.mp4", [corners] * 2, [500, 540], Fraction(1, 1000)))
    assert [frame.time for frame in frames] == [Fraction(1, 2), Fraction(54, 100)]


def test_reader__counts_frames_without_times(write_clip, corners):
    frames, reader = read(write_clip("raw.m4v", [corners] * 4, codec="mpeg4"))  # no container, no times
    assert [frame.time for frame in frames] == [i / reader.rate for i in range(4)]


def test_reader__counts_on_where_times_do_not_advance(write_clip, corners):
    path = write_clip("a.mp4", [corners] * 5, [0, 1, 2, 3, 4], Fraction(1, 25))
    with VideoReader(path) as reader:
        step, decoded = round(Fraction(1, 25) / reader.time_base), list(reader._frames)
        for frame, ticks in zip(decoded, [-2, -2, None, 1, 9 * step], strict=True):  # as broken files have them
            frame.pts = ticks
        reader._frames = decoded
        ticks = [frame.time / reader.time_base for frame in reader]
    assert ticks == [0, step, 2 * step, 3 * step, 9 * step + 2]


@pytest.mark.parametrize("space", [Colorspace.ITU601, Colorspace.ITU709])
@pytest.mark.parametrize("extent", [ColorRange.MPEG, ColorRange.JPEG])
def test_reader__colors_are_those_of_the_tag(tmp_path, space, extent):
    color = np.full((32, 32, 3), (200, 50, 120), dtype=np.uint8)
    path = str(tmp_path / "tagged.mp4")
    with av.open(path, "w") as container:
        track = container.add_stream("libx264", rate=25)
        track.width = track.height = 32
        track.codec_context.colorspace, track.codec_context.color_range = space, extent
        frame = av.VideoFrame.from_ndarray(color, format="rgb24")
        container.mux(track.encode(frame.reformat(format="yuv420p", dst_colorspace=space, dst_color_range=extent)))
        container.mux(track.encode())
    (frame,), _ = read(path)
    np.testing.assert_allclose(frame.image, color, atol=4)


def test_reader__says_how_many_frames(write_clip, corners):
    for name in ("a.mp4", "a.mkv"):
        with VideoReader(write_clip(name, [corners] * 12)) as reader:
            assert reader.frame_count == 12


def test_reader__frames_of_another_size_get_the_first_one(write_clip, corners, tmp_path):
    parts = [write_clip(f"{i}.ts", [corners[:, : 64 - 16 * i]] * 3) for i in range(2)]
    (tmp_path / "both.ts").write_bytes(b"".join(part.read_bytes() for part in parts))
    frames, _ = read(tmp_path / "both.ts")
    assert {frame.image.shape for frame in frames} == {(48, 64, 3)}
    assert len(frames) == 6


# Broken files


def noise(count):
    return list(np.random.default_rng(0).integers(0, 255, (count, 48, 64, 3), dtype=np.uint8))


def test_reader__whole_files_have_no_problems(write_clip):
    for name in ("a.mp4", "a.mkv", "a.avi", "a.ts", "a.flv"):
        frames, reader = read(write_clip(name, noise(8), sound=name == "a.mp4"))
        assert (name, len(frames), reader.problems) == (name, 8, [])


@pytest.mark.parametrize(("name", "options"), [("cut.mkv", {}), ("cut.mp4", {"movflags": "+faststart"})])
@pytest.mark.parametrize("sound", [False, True])
def test_reader__a_file_cut_off_gives_its_frames_and_says_so(write_clip, tmp_path, name, options, sound):
    path = write_clip(name, noise(50), options=options, sound=sound)
    data = path.read_bytes()
    (tmp_path / name).write_bytes(data[: len(data) // 2])
    frames, reader = read(path)
    assert 15 < len(frames) < 35
    assert any("its header says 2." in problem for problem in reader.problems)


def test_reader__goes_on_past_what_is_broken(write_clip, tmp_path):
    path = write_clip("hole.mp4", noise(50))
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 3000] = bytes(3000)
    (tmp_path / "hole.mp4").write_bytes(data)
    frames, reader = read(path)
    assert 40 <= len(frames) < 50
    assert frames[-1].time == Fraction(49, 25)
    assert len(reader.problems) == 1
    assert "packets that cannot be decoded: 2" in reader.problems[0]


def test_reader__stops_where_nothing_can_be_read(write_clip, tmp_path):
    path = write_clip("broken.ivf", noise(10), codec="libvpx-vp9")
    data, start = bytearray(path.read_bytes()), 32
    for _ in range(6):  # past the header and six frames, each behind 12 bytes that start with its size
        start += 12 + int.from_bytes(data[start : start + 4], "little")
    data[start : start + 4] = bytes(4)
    (tmp_path / "broken.ivf").write_bytes(data)
    frames, reader = read(path)
    assert len(frames) == 6
    assert reader.problems[0].startswith("reading stopped at 0.24 s: ")


@pytest.mark.parametrize(
    ("content", "message"), [(b"hello", "cannot be opened as a video"), (b"", "cannot be opened")]
)
def test_reader__refuses_what_is_no_video(tmp_path, content, message):
    (tmp_path / "text.mp4").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        VideoReader(tmp_path / "text.mp4")


def test_reader__refuses_sound_alone(tmp_path):
    path = str(tmp_path / "song.m4a")
    with av.open(path, "w") as container:
        track = container.add_stream("aac", rate=8000)
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.float32), format="fltp", layout="mono")
        silence.sample_rate = 8000
        container.mux(track.encode(silence))
        container.mux(track.encode())
    with pytest.raises(ValueError, match=r"song.m4a holds no video stream \(but audio\)"):
        VideoReader(path)


def test_reader__refuses_a_video_without_a_frame_that_can_be_decoded(write_clip, corners):
    path = write_clip("clip.mp4", [corners] * 2)
    data = bytearray(path.read_bytes())
    start, end = data.index(b"mdat") + 4, data.index(b"moov") - 4
    path.write_bytes(data[:start] + bytes(end - start) + data[end:])
    with pytest.raises(
        ValueError, match=r"clip.mp4 holds no frame that can be decoded \(packets that cannot be decoded: \d"
    ):
        VideoReader(path)


def test_reader__missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no\.mp4: no such file"):
        VideoReader(tmp_path / "no.mp4")


@pytest.mark.parametrize(
    "text", ["ffconcat version 1.0\nfile 'clip.mp4'\n", "#EXTM3U\n#EXTINF:1,\nclip.mp4\n#EXT-X-ENDLIST\n"]
)
def test_reader__text_that_names_other_files_opens_none(text, write_clip, corners, tmp_path):
    clip = write_clip("clip.mp4", [corners] * 3)
    (clip.parent / "list.mp4").write_text(text)
    with pytest.raises(ValueError, match="cannot be opened as a video"):
        VideoReader(clip.parent / "list.mp4")
