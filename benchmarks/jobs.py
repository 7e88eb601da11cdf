"""Runs of many models side by side, each in a process of one thread; what is finished is kept."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

Key = tuple[int, str]  # seed and name


def result_path(work: Path, names: Sequence[str], seed: int, name: str) -> Path:
    """Say where a run's result lies."""
    return work / "results" / f"seed{seed}-{names.index(name)}.json"


def keep_result(work: Path, names: Sequence[str], seed: int, name: str, scores: dict, started: float) -> None:
    """Write a run's scores, and the seconds since `started`, a `time.perf_counter()`."""
    result = {"seed": seed, "variant": name, "scores": scores, "seconds": round(time.perf_counter() - started)}
    path = result_path(work, names, seed, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result))


def run_all(
    names: Sequence[str],
    seeds: int,
    jobs: int,
    work: Path,
    options: Sequence[str] = (),
    chosen: Sequence[str] | None = None,
) -> list[dict]:
    """Run the running script anew for every name and seed, with `--work WORK --one SEED NAME`, and read the results.

    Args:
        names: Of the models; the first of a seed is finished before its others begin.
        seeds: How many.
        jobs: Processes at a time.
        work: Folder of the results; a run whose result lies there is not made again.
        options: Further ones, of the script.
        chosen: Some of the names, the first among them; None = all.
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
