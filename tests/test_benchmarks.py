"""The training benchmarks run, in a small form."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def run(tmp_path):
    """Function that runs a benchmark in a process of its own and returns what it wrote."""

    def run(script, name, *options):
        environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1"}
        command = [sys.executable, str(BENCHMARKS / script), "--out", str(tmp_path), *options]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr[-4000:]
        return json.loads((tmp_path / f"{name}.json").read_text())

    return run


def test_training__ratios_are_those_of_its_repeats(run, tmp_path):
    sizes = ("--resolution", "28", "--batch-size", "3", "--steps", "1", "--repeats", "1")
    found = run("training.py", "training_cpu_small_28", *sizes)
    (row,) = found["repeats"]
    assert found["ratios"]["a/student"] == row["a"] / row["student"]
    assert found["ratios"]["b/supervised"] == row["b"] / row["supervised"]
    assert row["a"] == sum(seconds for name, seconds in row.items() if name.startswith("part: "))
    assert found["machine"]
    assert "out" not in found["settings"]  # a folder of this machine
    assert found["command"].startswith("python benchmarks/training.py --out")
    assert (tmp_path / "training_cpu_small_28.png").is_file()


def test_training_input__says_how_long_the_step_waited(run):
    found = run(
        "training_input.py",
        "training_input_cpu",
        "--models",
        "tiny",
        "--tiny-batch-size",
        "2",
        "--steps",
        "2",
        "--images",
        "8",
    )
    rates = found["images_per_second"]["tiny"]
    assert 0 <= rates["data_wait_share"] < 1
    assert min(rates[name] for name in ("loader", "step", "run")) > 0
