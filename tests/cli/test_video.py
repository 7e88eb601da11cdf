import json
import os
import re
import sys
from fractions import Fraction

import numpy as np
import pytest

pytest.importorskip("av", reason='video needs PyAV: pip install "depth_anything_hf[video]"')

from depth_anything_hf.cli.video import EXTENSIONS, main, make_parser
from depth_anything_hf.prediction.temporal import SMOOTHING
from depth_anything_hf.prediction.video import OUTPUTS, VideoReader, VideoWriter
from depth_anything_hf.scenes.simple import render_scenes


@pytest.fixture
def clip(tmp_path):
    images = render_scenes([3, 7], 48, 64).images.permute(0, 2, 3, 1).numpy()
    with VideoWriter(tmp_path / "clips" / "day 1" / "walk.mp4", Fraction(30000, 1001)) as writer:
        for i in range(6):
            writer.write(images[i // 3], i * Fraction(1001, 30000))
    return tmp_path / "clips" / "day 1" / "walk.mp4"


def test_video__writes_every_clip_of_a_folder(checkpoint, clip, tmp_path, capsys):
    (clip.parent / "walk.mov").write_bytes(clip.read_bytes())
    (clip.parent / "notes.txt").write_text("no video")
    assert main([str(tmp_path / "clips"), "--model", checkpoint, "--out", str(tmp_path / "out")]) == 0
    ends = ["_color.mp4", "_depth.jsonl", "_depth.mkv", "_side_by_side.mp4"]
    expected = [f"walk_{kind}{end}" for kind in ("mov", "mp4") for end in ends]
    assert sorted(file.name for file in (tmp_path / "out" / "day 1").iterdir()) == expected
    printed = capsys.readouterr()
    assert "walk.mp4: 6 frames (disparity), scene cuts at 0.10 s" in printed.out
    assert "walk.mp4: 100%" in printed.err
    assert "6/6" in printed.err


def test_video__writes_what_is_asked_for(checkpoint, clip, tmp_path):
    arguments = [str(clip), "--model", checkpoint, "--out", str(tmp_path / "out"), "--outputs", "depth"]
    assert main([*arguments, "--smoothing", "1", "--resolution", "28", "--batch-size", "2"]) == 0
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == ["walk_mp4_depth.jsonl", "walk_mp4_depth.mkv"]
    rows = [json.loads(line) for line in (tmp_path / "out" / "walk_mp4_depth.jsonl").read_text().splitlines()]
    assert {row["alignment_scale"] for row in rows} == {1.0}
    assert [row["cut"] for row in rows] == [True, False, False, True, False, False]


def test_video__of_mini_says_which_model_is_better(clip, tmp_path, capsys):
    assert main([str(clip), "--out", str(tmp_path / "out"), "--outputs", "color"]) == 0
    assert "far more accurate: --model depth-anything/Depth-Anything-V2-Small-hf" in capsys.readouterr().out


def test_video__takes_a_file_of_any_name(checkpoint, clip, tmp_path):
    other = clip.rename(clip.with_name("walk"))
    arguments = [str(other), "--model", checkpoint, "--out", str(tmp_path / "out"), "--outputs", "color"]
    assert main(arguments) == 0
    with VideoReader(tmp_path / "out" / "walk_color.mp4") as reader:
        assert len(list(reader)) == 6


@pytest.mark.slow
def test_video__names_broken_clips_and_goes_on(checkpoint, clip, tmp_path, capsys):
    (clip.parent / "a.mp4").write_bytes(b"no video")
    noise = np.random.default_rng(0).integers(0, 255, (50, 48, 64, 3), dtype=np.uint8)
    with VideoWriter(clip.parent / "b.mkv", 25) as writer:
        for i, picture in enumerate(noise):
            writer.write(picture, Fraction(i, 25))
    whole = (clip.parent / "b.mkv").read_bytes()
    (clip.parent / "b.mkv").write_bytes(whole[: len(whole) // 2])
    out = tmp_path / "out"
    assert main([str(clip.parent), "--model", checkpoint, "--out", str(out), "--outputs", "color"]) == 1
    assert sorted(file.name for file in out.iterdir()) == ["b_mkv_color.mp4", "walk_mp4_color.mp4"]
    errors = capsys.readouterr().err
    assert "a.mp4 cannot be opened as a video" in errors
    assert "b.mkv is broken: it ends at" in errors


def test_video__names_what_is_no_clip_too_narrow_or_too_long_named_and_goes_on(checkpoint, clip, tmp_path, capsys):
    strip = clip.parent / "a_strip.mkv"
    with VideoWriter(strip, 25) as writer:
        writer.write(np.zeros((16, 160, 3), dtype=np.uint8), Fraction(0))
    os.mkfifo(clip.parent / "pipe.mp4")
    (clip.parent / "zero.mp4").symlink_to("/dev/zero")
    long = clip.parent / ("x" * 245 + ".mp4")
    long.write_bytes(clip.read_bytes())
    out = tmp_path / "out"
    (out / "b_mp4_color.partial.mp4").mkdir(parents=True)  # in the way
    (clip.parent / "b.mp4").write_bytes(clip.read_bytes())
    given = [strip, clip.parent / "pipe.mp4", clip.parent / "zero.mp4", long, clip.parent / "b.mp4", clip]
    assert main([*map(str, given), "--model", checkpoint, "--out", str(out), "--outputs", "color"]) == 1
    printed = capsys.readouterr()
    assert "walk.mp4: 6 frames" in printed.out
    assert f"{strip}: 160 x 16 pixels: sides of 1 to 10, at most 1 to 8" in printed.err
    for name in ("pipe.mp4", "zero.mp4"):
        assert f"{clip.parent / name}: no such file, or a folder, pipe or device" in printed.err
    assert f"{long}: " in printed.err
    assert f"{clip.parent / 'b.mp4'}: [Errno 21] Is a directory" in printed.err
    assert (out / "walk_mp4_color.mp4").is_file()


def test_video__says_when_there_is_no_clip(checkpoint, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"holds no video \(.mp4, "):
        main([str(tmp_path), "--model", checkpoint, "--out", str(tmp_path / "out")])
    with pytest.raises(FileNotFoundError, match=r"gone.mp4 does not exist; check the path, and give video files"):
        main([str(tmp_path / "gone.mp4"), "--model", checkpoint, "--out", str(tmp_path / "out")])


def test_video__clips_called_alike_do_not_overwrite_each_other(checkpoint, clip, tmp_path):
    other = clip.parents[1] / "day 2" / "WALK.mp4"  # on a disk that ignores case: the same
    other.parent.mkdir()
    other.write_bytes(clip.read_bytes())
    arguments = [str(clip.parent), str(other.parent), "--model", checkpoint, "--outputs", "color"]
    assert main([*arguments, "--out", str(tmp_path / "out")]) == 0
    written = sorted(file.relative_to(tmp_path / "out").as_posix() for file in (tmp_path / "out").rglob("*.mp4"))
    assert written == ["day 1/walk_mp4_color.mp4", "day 2/WALK_mp4_color.mp4"]


def test_video__of_two_clips_of_one_name_the_second_is_named(checkpoint, clip, tmp_path, capsys):
    for name in ("a.b.mp4", "a_b.mp4"):
        (clip.parent / name).write_bytes(clip.read_bytes())
    out = tmp_path / "out"
    assert main([str(clip.parent), "--model", checkpoint, "--out", str(out), "--outputs", "color"]) == 1
    problem = capsys.readouterr().err.splitlines()[-1]
    assert re.search(r"would both be written to .*a_b_mp4_color\.mp4; rename one of them, or convert", problem)
    assert sorted(file.name for file in out.iterdir()) == ["a_b_mp4_color.mp4", "walk_mp4_color.mp4"]


@pytest.mark.parametrize("out", ["depth", "."])
def test_video__a_second_run_leaves_the_output_of_the_first_out(out, checkpoint, clip, monkeypatch, capsys):
    monkeypatch.chdir(clip.parent)
    arguments = [".", "--model", checkpoint, "--out", out, "--outputs", "color", "depth"]
    assert main(arguments) == 0
    cut_short = clip.parent / out / "other_mp4_color.partial.mp4"
    cut_short.write_bytes(b"a run that was killed")
    before = sorted(clip.parent.rglob("*"))
    capsys.readouterr()
    assert main(arguments) == 0
    assert sorted(clip.parent.rglob("*")) == before
    assert "videos under --out are left out of a search: 3, such as" in capsys.readouterr().out


def test_video__says_that_out_is_a_file(clip):
    with pytest.raises(NotADirectoryError, match=r"walk.mp4 is a file; it must be a folder"):
        main([str(clip), "--model", "no model", "--out", str(clip)])


@pytest.mark.parametrize("option", ["--smoothing", "--batch-size"])
def test_video__senseless_settings_are_refused(option, capsys):
    with pytest.raises(SystemExit):
        main(["walk.mp4", "--out", "out", option, "0"])
    assert f"argument {option}: is 0; it must be at least 1 frame" in capsys.readouterr().err


def test_video__says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)  # as if it were not installed
    monkeypatch.delitem(sys.modules, "depth_anything_hf.prediction.video")
    with pytest.raises(ImportError, match=r'pip install "depth_anything_hf\[video\]"'):
        main(["walk.mp4", "--out", "out"])


def test_help__agrees_with_the_library(capsys):
    options = make_parser().parse_args(["a.mp4", "--out", "b"])
    assert set(options.outputs) == set(OUTPUTS)
    assert options.smoothing == SMOOTHING
    assert ".mp4" in EXTENSIONS
    with pytest.raises(SystemExit):
        make_parser().parse_args(["--help"])
    helped = capsys.readouterr().out
    for end in OUTPUTS.values():
        assert f"walk_mp4{end}" in helped


def test_video__resolution_that_is_no_multiple(checkpoint, clip, tmp_path):
    with pytest.raises(ValueError, match="resolution is 0; it must be a multiple of the patch size 14, such as 14"):
        main([str(clip), "--model", checkpoint, "--out", str(tmp_path / "out"), "--resolution", "0"])
