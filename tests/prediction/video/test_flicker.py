"""The benchmark of flicker runs, in a small form, and shows what it is there to show."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

BENCHMARK = Path(__file__).parents[3] / "benchmarks" / "video_flicker.py"


def test_flicker__is_less_after_than_before(tmp_path):
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, str(BENCHMARK), "--frames", "12", "--out", str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-4000:]
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
