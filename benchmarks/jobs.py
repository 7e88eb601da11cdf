"""Runs of many models side by side, each in a process of one thread; what is finished is kept."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

Key = tuple[int, str]  # seed and name


def run_all(
    names: Sequence[str], seeds: int, jobs: int, result_path: Callable[[int, str], Path], options: Sequence[str]
) -> list[dict]:
    """Run the running script anew for every name and seed, with `--one SEED NAME`, and read what each run has written.

    Args:
        names: Of the models; the first of a seed is finished before its others begin.
        seeds: How many.
        jobs: Processes at a time.
        result_path: Where a run writes its result; it is not run again once that exists.
        options: Of the script.
    """
    keys = [(seed, name) for name in names for seed in range(seeds)]
    waiting = [key for key in keys if not result_path(*key).exists()]
    running: dict[Key, subprocess.Popen] = {}
    while waiting or running:
        for key in [key for key, process in running.items() if process.poll() is not None]:
            if running.pop(key).returncode:
                raise RuntimeError(f"{key} failed; its output is above.")
            print("done", *key, flush=True)
        for key in list(waiting):
            ready = key[1] == names[0] or result_path(key[0], names[0]).exists()
            if ready and len(running) < jobs:
                waiting.remove(key)
                running[key] = subprocess.Popen(
                    [sys.executable, sys.argv[0], *options, "--one", str(key[0]), key[1]],
                    env={**os.environ, "OMP_NUM_THREADS": "1"},
                )
        time.sleep(0.5)
    return [json.loads(result_path(*key).read_text()) for key in keys]
