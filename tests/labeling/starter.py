"""Starts runs as forked processes, so that importing PyTorch is paid for once; the tests may kill them.

Reads one JSON request a line: `arguments` of the command line, or of a `script`, and optionally `processes`, `signal` and
when it is sent (`kill_after` so many seconds, counted from when `files` match `watch` and the file `until` changes), and the
limits `largest_file` (bytes) and `open_files`. Answers with `codes` (in the order of the ends), `killed`, `seconds` and `output`.
"""

import contextlib
import fcntl
import gc
import glob
import json
import os
import resource
import runpy
import signal
import socket
import sys
import time
from pathlib import Path

import datasets  # noqa: F401
import pyarrow.parquet  # noqa: F401
import torch

import depth_anything_hf.evaluation.compare
import depth_anything_hf.labeling.engine
import depth_anything_hf.training.trainer  # noqa: F401
from depth_anything_hf.cli.main import main
from depth_anything_hf.labeling.teacher import load_teacher


def slow_flush(handle: int, flush=os.fsync) -> None:
    """Flush as a slow disk does: there is time to be killed between a file's last byte and its final name."""
    time.sleep(0.005)
    flush(handle)


def start(request: dict, rank: int, port: int, output: int, group: int) -> int:
    """Fork a process of a run; all of a run are in one group."""
    process = os.fork()
    if process:
        with contextlib.suppress(OSError):  # the child was faster
            os.setpgid(process, group or process)
        return process
    code = 70
    try:
        with contextlib.suppress(OSError):
            os.setpgid(0, group)
        os.dup2(output, 1)
        os.dup2(output, 2)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if request["processes"] > 1:
            os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(request["processes"])}
            os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        if request.get("largest_file"):
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (request["largest_file"],) * 2)
        if request.get("open_files"):
            resource.setrlimit(resource.RLIMIT_NOFILE, (request["open_files"],) * 2)
        if "script" in request:
            sys.argv = [request["script"], *request["arguments"]]
            runpy.run_path(request["script"], run_name="__main__")
            code = 0
        else:
            os.fsync = slow_flush
            code = main(request["arguments"])
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def content(file: str) -> bytes:
    return Path(file).read_bytes() if file else b""


def answer(request: dict) -> dict:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    read, output = os.pipe()  # not a file, as files may be limited
    fcntl.fcntl(output, fcntl.F_SETPIPE_SZ, 2**20)
    with open(read, "rb", buffering=0) as printed, open(output, "wb"):
        os.set_blocking(read, False)
        began = began_to_count = time.monotonic()
        old = content(request["until"])
        left = []
        for rank in range(request["processes"]):
            left.append(start(request, rank, port, output, left[0] if left else 0))
        group, codes, killed = left[0], [], False
        while left:
            for process in list(left):
                found, status = os.waitpid(process, os.WNOHANG)
                if found:
                    left.remove(process)
                    codes.append(os.waitstatus_to_exitcode(status))
            unchanged = request["until"] and content(request["until"]) == old
            if unchanged or len(glob.glob(request["watch"])) < request["files"]:
                began_to_count = time.monotonic()
            late = time.monotonic() - began_to_count > request["kill_after"]
            # A process that fails takes the others along, as torchrun does.
            if left and (late or any(codes)) and not killed:
                killed = late
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(group, signal.Signals[request["signal"]] if late else signal.SIGTERM)
            time.sleep(0.002)
        seconds = time.monotonic() - began
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(group, signal.SIGKILL)  # their workers
        text = (printed.read() or b"").decode(errors="replace")
        return {"codes": codes, "killed": killed, "seconds": seconds, "output": text}


if __name__ == "__main__":
    torch.set_num_threads(1)
    load_teacher("mini")  # the first is slow
    gc.freeze()
    plain = {"processes": 1, "kill_after": 100, "signal": "SIGKILL", "watch": "", "files": 0, "until": ""}
    for line in sys.stdin:
        print(json.dumps(answer(plain | json.loads(line))), flush=True)
