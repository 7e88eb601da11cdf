"""The training benchmarks run, in a small form."""

import json
import runpy
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

pytestmark = pytest.mark.slow

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def start(monkeypatch):
    """Function that runs a benchmark in this process, which has imported what it needs: `start(script, *options)`."""
    monkeypatch.syspath_prepend(BENCHMARKS)  # as Python does for a script
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)

    def start(script, *options):
        monkeypatch.setattr(sys, "argv", [str(BENCHMARKS / script), *map(str, options)])
        runpy.run_path(str(BENCHMARKS / script), run_name="__main__")

    return start


@pytest.fixture
def run(start, tmp_path):
    """Function that runs a benchmark and returns what it wrote."""

    def run(script, name, *options):
        start(script, "--out", tmp_path, *options)
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


def test_mini_ablation__second_stage_goes_on_from_the_first(start, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS.parent / "examples" / "mini")
    import mini_data

    def here(command, env):
        start(Path(command[1]), *command[2:])  # as `run_all` says, in this process, which has imported what it needs
        return SimpleNamespace(poll=lambda: 0, returncode=0)

    monkeypatch.setattr("subprocess.Popen", here)
    monkeypatch.setattr(mini_data, "CHUNK", 8)
    plan = {"small_worlds": 8, "small_world_size": [24, 32], "beginner_size": [24, 32], "beginner_steps": 2}
    sizes = {
        "plan": plan | {"beginner_batch": 4, "hidden_size": 64, "layers": 4},
        "second_steps": 1,
        "labelled_worlds": 3,
        "held_out_worlds": 1,
    }
    labels = "at 72 x 96, other worlds with the teacher's labels"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    words = ["mini_ablation.py", "--out", tmp_path / "mini.json", "--work", tmp_path / "work"]
    words += ["--sizes", json.dumps(sizes)]
    start(*words, "--variants", labels)  # two runs, the second one after the first
    start(*words, "--one", 0, "the quickstart's renderer")
    start(*words, "--variants", labels, "the quickstart's renderer")  # finished runs are kept
    found = json.loads((tmp_path / "mini.json").read_text())
    first, second, third = found["results"]
    assert [first["variant"], second["variant"], third["variant"]] == ["all", labels, "the quickstart's renderer"]
    assert len(first["scores"]["loss"]) == 2
    assert len(second["scores"]["loss"]) == 1
    assert third["scores"]["loss"][0] > 0.5  # it learnt from labels
    assert first["scores"]["worlds: room"]["images"] == 1
    lines = (tmp_path / "mini.md").read_text().splitlines()
    assert f"| second stage | {labels} | 0 | {second['scores']['loss'][0]:.3f} |" in lines[-2]
    assert len(list((tmp_path / "work" / "seed0").rglob("pictures/*.png"))) == 3
