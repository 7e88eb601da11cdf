"""The benchmark of flicker runs, in a small form, and shows what it is there to show."""

import json
import runpy
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

BENCHMARK = Path(__file__).parents[3] / "benchmarks" / "video_flicker.py"


def test_flicker__is_less_after_than_before(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", [str(BENCHMARK), "--frames", "12", "--out", str(tmp_path)])
    monkeypatch.syspath_prepend(BENCHMARK.parent)  # as Python does for a script
    runpy.run_path(str(BENCHMARK), run_name="__main__")
    found = json.loads((tmp_path / "video_flicker.json").read_text())
    assert found["command"].startswith("python benchmarks/video_flicker.py --frames 12")
    for predictions in ("jittered", "metric, jittered"):
        for clip, methods in found["scores"][predictions].items():
            before, after = methods["before"], methods["after"]
            assert after["temporal_error"] < before["temporal_error"] / 2, clip
            assert after["jitter"] < before["jitter"] / 2, clip
    for by_clip in found["scores"].values():
        for clip, methods in by_clip.items():
            assert (methods["after"]["found_cuts"], methods["after"]["false_cuts"]) == (clip == "cut", 0)
    assert max(methods["after"]["temporal_error"] for methods in found["scores"]["exact"].values()) < 0.01
    assert "| jittered | standing |" in (tmp_path / "video_flicker.md").read_text()
    assert (tmp_path / "video_flicker.png").is_file()
