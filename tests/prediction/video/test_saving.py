import json
from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image

from depth_anything_hf.prediction.predictor import DepthPredictor, predict_depth
from depth_anything_hf.prediction.video import (
    VideoReader,
    VideoReport,
    iter_video_depth,
    read_depth_video,
    save_video_depth,
)

NTSC = Fraction(30000, 1001)


@pytest.fixture
def save(make_model, tiny_processor, tmp_path):
    """Function that saves a clip's depth: `save(clip, "disparity", **options)`; files are `<folder>/out/clip_*`."""

    def save(clip, space="disparity", **options):
        model = make_model(max_depth=20.0 if space == "depth" else None)
        stem = tmp_path / "out" / "clip"
        return save_video_depth(
            clip, stem, DepthPredictor.from_model(model, tiny_processor, space=space), disable_tqdm=True, **options
        )

    return save


def read(path):
    with VideoReader(path) as reader:
        return list(reader), reader


def test_save__writes_every_output_at_the_clips_rate_times_and_size(write_clip, scenes, save, tmp_path):
    ticks = [0, 1001, 2002, 5005]
    clip = write_clip("clip.mp4", [scenes[0]] * 4, ticks, Fraction(1, 30000), NTSC)
    report = save(clip)
    out = tmp_path / "out"
    assert report == VideoReport(
        4,
        [],
        {
            "color": out / "clip_color.mp4",
            "depth": out / "clip_depth.mkv",
            "side-by-side": out / "clip_side_by_side.mp4",
            "frames": out / "clip_depth.jsonl",
        },
        [],
    )
    assert sorted(out.iterdir()) == sorted(report.files.values())
    (given, _), (color, _), (sides, _) = (read(f) for f in (clip, report.files["color"], report.files["side-by-side"]))
    times = [frame.time for frame in given]
    assert times == [Fraction(tick, 30000) for tick in ticks]
    for frames in (color, sides):
        assert [frame.time for frame in frames] == times
    assert {frame.image.shape for frame in color} == {(48, 64, 3)}
    assert {frame.image.shape for frame in sides} == {(48, 128, 3)}
    for whole, left, right in zip(sides, given, color, strict=True):
        assert np.abs(whole.image[:, :60].astype(int) - left.image[:, :60]).mean() < 8
        assert np.abs(whole.image[:, 68:].astype(int) - right.image[:, 4:]).mean() < 8


@pytest.mark.slow
@pytest.mark.parametrize("name", ["clip.mp4", "clip.mkv", "clip.mov"])
def test_save__the_rate_is_exact(write_clip, scenes, save, name):
    report = save(write_clip(name, [scenes[0]] * 6, rate=NTSC))
    for output in ("color", "depth", "side-by-side"):
        _, reader = read(report.files[output])
        # Matroska counts whole milliseconds, and an MP4 made of one has the average of those.
        exact = output == "depth" or name != "clip.mkv"
        assert float(reader.rate) == pytest.approx(float(NTSC), rel=0 if exact else 0.01)


@pytest.mark.parametrize("space", ["disparity", "depth"])
def test_save__the_16_bit_depth_is_what_was_predicted(write_clip, scenes, save, space, make_model, tiny_processor):
    clip = write_clip("clip.mp4", [scenes[0], scenes[0] // 2, scenes[1]])
    report = save(clip, space, outputs=["depth"])
    model = make_model(max_depth=20.0 if space == "depth" else None)
    with VideoReader(clip) as reader:
        expected = list(iter_video_depth(reader, DepthPredictor.from_model(model, tiny_processor, space=space)))
    rows = [json.loads(line) for line in report.files["frames"].read_text().splitlines()]
    found = list(read_depth_video(report.files["depth"]))
    assert len(found) == len(rows) == len(expected) == 3
    for frame, row, (time, values, valid) in zip(expected, rows, found, strict=True):
        assert valid.all()
        # Half a code, and the rounding of float32.
        np.testing.assert_allclose(values, frame.depth, atol=0.51 * row["depth_scale"], rtol=1e-6)
        assert time == frame.time == row["ticks"] * Fraction(row["time_base"])
        assert row["time"] == float(frame.time)
        assert (row["space"], row["cut"]) == (space, frame.cut)
        assert (row["alignment_scale"], row["alignment_shift"]) == (frame.scale, frame.shift)
    assert report.cuts == [float(frame.time) for frame in expected[1:] if frame.cut]


def test_save__smoothing_of_one_is_every_frame_by_itself(write_clip, scenes, save, make_model, tiny_processor):
    clip = write_clip("clip.mp4", [scenes[0], scenes[0] // 2])
    report = save(clip, outputs=["depth"], smoothing=1)
    frames, _ = read(clip)
    expected = predict_depth(make_model(), tiny_processor, [Image.fromarray(frame.image) for frame in frames])
    for depth, (_, values, _) in zip(expected, read_depth_video(report.files["depth"]), strict=True):
        np.testing.assert_allclose(values, depth.numpy(), atol=1e-4)


def test_save__says_where_scenes_begin(write_clip, scenes, save):
    report = save(write_clip("clip.mp4", [scenes[0]] * 4 + [scenes[1]] * 3))
    assert report.cuts == [4 / 25]


def test_save__a_turned_clip_comes_out_upright(write_clip, scenes, save):
    clip = write_clip("clip.mp4", [scenes[0]] * 2, turn=(-90, False, False), aspect=Fraction(4, 3))
    report = save(clip)
    given, _ = read(clip)
    for output, width in (("color", 48), ("side-by-side", 96), ("depth", 48)):
        with av.open(str(report.files[output])) as container:
            frame = next(container.decode(video=0))
            assert (frame.height, frame.width, frame.rotation) == (64, width, 0)
            # Matroska has the pixels' aspect from the codec, and FFV1 has none.
            assert container.streams.video[0].sample_aspect_ratio == (None if output == "depth" else Fraction(3, 4))
    sides, _ = read(report.files["side-by-side"])
    assert np.abs(sides[0].image[:, :44].astype(int) - given[0].image[:, :44]).mean() < 8


def test_save__odd_sizes_stay_whole(write_clip, scenes, save):
    clip = write_clip("clip.mkv", [scenes[0][:45, :61]] * 2, codec="ffv1", encoder={})
    report = save(clip)
    assert next(read_depth_video(report.files["depth"]))[1].shape == (45, 61)
    assert read(report.files["color"])[0][0].image.shape == (46, 62, 3)
    assert read(report.files["side-by-side"])[0][0].image.shape == (46, 122, 3)


def test_save__what_could_be_decoded_is_kept(write_clip, scenes, save, tmp_path):
    noise = list(np.random.default_rng(0).integers(0, 255, (50, 48, 64, 3), dtype=np.uint8))
    clip = tmp_path / "cut.mkv"
    data = write_clip("whole.mkv", noise).read_bytes()
    clip.write_bytes(data[: len(data) // 3])
    report = save(clip, outputs=["color"])
    assert 10 < report.frames < 25
    assert len(read(report.files["color"])[0]) == report.frames
    assert "its header says 2." in report.problems[0]


def test_save__without_a_video_nothing_is_made(save, tmp_path):
    (tmp_path / "clip.mp4").write_text("no video")
    with pytest.raises(ValueError, match="cannot be opened as a video"):
        save(tmp_path / "clip.mp4")
    assert not (tmp_path / "out").exists()


def test_save__broken_off_it_leaves_what_was_there(write_clip, scenes, save, tmp_path, monkeypatch):
    clip = write_clip("clip.mp4", [scenes[0]] * 4)
    before = {name: path.read_bytes() for name, path in save(clip).files.items()}
    monkeypatch.setattr("depth_anything_hf.prediction.video.saving.encode_depth_map", _break)
    with pytest.raises(KeyboardInterrupt):
        save(clip, smoothing=1)
    for name, path in save_names(tmp_path / "out").items():
        assert path.read_bytes() == before[name]


def _break(*_, **__):
    raise KeyboardInterrupt


def save_names(out):
    names = {"color": "clip_color.mp4", "depth": "clip_depth.mkv", "side-by-side": "clip_side_by_side.mp4"}
    return {name: out / file for name, file in (names | {"frames": "clip_depth.jsonl"}).items()}


@pytest.mark.parametrize("outputs", [[], ["colour"], ["color", "audio"]])
def test_save__refuses_unknown_outputs(save, outputs):
    with pytest.raises(ValueError, match="choose from color, depth, side-by-side"):
        save("clip.mp4", outputs=outputs)


def test_read__refuses_a_listing_of_another_video(write_clip, scenes, save):
    report = save(write_clip("clip.mp4", [scenes[0]] * 3), outputs=["depth"])
    lines = report.files["frames"].read_text().splitlines(keepends=True)
    for wrong in (lines[:2], [*lines, lines[0]]):
        report.files["frames"].write_text("".join(wrong))
        with pytest.raises(ValueError, match="have not as many frames"):
            list(read_depth_video(report.files["depth"]))


def test_read__holes_have_no_value(tmp_path):
    from depth_anything_hf.prediction.video import VideoWriter

    with VideoWriter(tmp_path / "a_depth.mkv", 25) as writer:
        writer.write(np.array([[0, 1, 65535, 3]], dtype=np.uint16).repeat(4, 0), Fraction(0))
    row = {"ticks": 3, "time_base": "1/25", "depth_scale": 0.5, "depth_offset": -0.5}
    (tmp_path / "a_depth.jsonl").write_text(json.dumps(row) + "\n")
    ((time, values, valid),) = read_depth_video(tmp_path / "a_depth.mkv")
    assert time == Fraction(3, 25)
    assert values[0].tolist() == [0.0, 0.0, 32767.0, 1.0]
    assert valid[0].tolist() == [False, True, True, True]
