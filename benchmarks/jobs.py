"""Run many models side by side, each in a process with one thread, and keep finished results."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from depth_anything_hf.data.whole_files import write_whole

Key = tuple[int, str]  # seed and name


def result_path(work: Path, names: Sequence[str], seed: int, name: str) -> Path:
    """Return the path of a run's result."""
    return work / "results" / f"seed{seed}-{names.index(name)}.json"


def keep_result(work: Path, names: Sequence[str], seed: int, name: str, scores: dict, started: float) -> None:
    """Write a run's scores, and the seconds since `started`, a `time.perf_counter()`."""
    result = {"seed": seed, "variant": name, "scores": scores, "seconds": round(time.perf_counter() - started)}
    path = result_path(work, names, seed, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps(result))  # a half one would count as done


def run_all(
    names: Sequence[str],
    seeds: int,
    jobs: int,
    work: Path,
    options: Sequence[str] = (),
    chosen: Sequence[str] | None = None,
) -> list[dict]:
    """Start this script again for every name and seed, with `--work WORK --one SEED NAME`, and read the results.

    Args:
        names: Names of the models; the first one of a seed finishes before the others begin.
        seeds: Number of seeds.
        jobs: Processes at the same time.
        work: Folder of the results; a run with a result is not repeated.
        options: Further options of the script.
        chosen: Some of the names, including the first; None: all.
    """
    path_of = partial(result_path, work, names)
    keys = [(seed, name) for name in chosen or names for seed in range(seeds)]
    waiting = [key for key in keys if not path_of(*key).exists()]
    running: dict[Key, subprocess.Popen] = {}
    while waiting or running:
        for key in [key for key, process in running.items() if process.poll() is not None]:
            if running.pop(key).returncode:
                raise RuntimeError(f"{key} failed; its output is above.")
            print("done", *key, flush=True)
        for key in list(waiting):
            ready = key[1] == names[0] or path_of(key[0], names[0]).exists()
            if ready and len(running) < jobs:
                waiting.remove(key)
                running[key] = subprocess.Popen(
                    [sys.executable, sys.argv[0], "--work", str(work), *options, "--one", str(key[0]), key[1]],
                    env={**os.environ, "OMP_NUM_THREADS": "1"},
                )
        time.sleep(0.5)
    return [json.loads(path_of(*key).read_text()) for key in keys]
