import contextlib
import errno
import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from depth_anything_hf.data import whole_files
from depth_anything_hf.data.whole_files import filling, replacing, write_whole
from depth_anything_hf.pictures.visualization import save_depth

KILLED = """
import os, signal, sys
from pathlib import Path
from depth_anything_hf.data.whole_files import filling, replacing
way, place = sys.argv[1], Path(sys.argv[2])
with {"replacing": replacing, "filling": filling}[way](place) as partial:
    (partial if way == "replacing" else partial / "config.json").write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture(autouse=True)
def _as_a_new_process():
    whole_files._remove_left.cache_clear()


def kill(way: str, place: Path) -> None:
    subprocess.run([sys.executable, "-c", KILLED, way, str(place)], check=False, timeout=60)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("content", ["é\n", "é\n".encode()])
def test_write_whole__replaces_a_file(content, tmp_path):
    (tmp_path / "a.txt").write_text("a longer text")
    write_whole(tmp_path / "a.txt", content)
    assert (tmp_path / "a.txt").read_bytes() == "é\n".encode()
    assert names(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("flush", [True, False])
def test_replacing__an_error_leaves_the_old_file(flush, tmp_path):
    (tmp_path / "a.txt").write_text("old")
    with contextlib.suppress(RuntimeError), replacing(tmp_path / "a.txt", flush) as partial:
        partial.write_text("new")
        assert (tmp_path / "a.txt").read_text() == "old"
        assert partial.name.startswith(".a.txt.")
        assert partial.name.endswith(f"-{os.getpid()}.partial")
        raise RuntimeError
    assert (tmp_path / "a.txt").read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_replacing__takes_names_as_long_as_the_disk_does(tmp_path):
    write_whole(tmp_path / ("a" * 255), "whole")
    assert names(tmp_path) == ["a" * 255]


@pytest.mark.parametrize("way", ["replacing", "filling"])
def test_whole_files__what_a_killed_run_left_is_removed_by_the_next(way, tmp_path):
    kill(way, tmp_path / "a" if way == "replacing" else tmp_path)
    (left,) = names(tmp_path)
    assert left.endswith(".partial")
    write_whole(tmp_path / "other.txt", "whole")
    assert names(tmp_path) == ["other.txt"]


def test_whole_files__what_is_being_written_is_not_removed(tmp_path):
    machine = whole_files._machine()
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as running:
        theirs = [
            f".a.{machine}-{running.pid}.partial",
            ".a.ffffff-99999999.partial",
            ".a.99999999.partial",
            ".partial",
        ]
        for name in theirs:
            (tmp_path / name).touch()
        write_whole(tmp_path / "b", "whole")
        assert names(tmp_path) == sorted([*theirs, "b"])
        running.communicate(b"\n")
    whole_files._remove_left.cache_clear()
    write_whole(tmp_path / "b", "whole")
    assert names(tmp_path) == sorted([*theirs[1:], "b"])


def test_filling__moves_the_weights_before_their_config(tmp_path, monkeypatch):
    moved = []
    replace = os.replace
    monkeypatch.setattr(os, "replace", lambda old, new: moved.append(Path(new).name) or replace(old, new))
    (tmp_path / "there.txt").write_text("kept")
    with filling(tmp_path / "new" / "model") as hidden:
        for name in ("config.json", "model.safetensors"):
            (hidden / name).write_text(name)
        assert names(tmp_path / "new" / "model") == [hidden.name]
    assert names(tmp_path / "new" / "model") == ["config.json", "model.safetensors"]
    assert moved == ["model.safetensors", "config.json"]


def test_filling__an_error_leaves_nothing(tmp_path):
    with contextlib.suppress(RuntimeError), filling(tmp_path) as hidden:
        (hidden / "config.json").write_text("{}")
        raise RuntimeError
    assert names(tmp_path) == []


@pytest.mark.parametrize(("number", "refused"), [(errno.EINVAL, False), (errno.ENOTSUP, False), (errno.EIO, True)])
def test_write_whole__on_a_file_system_that_flushes_no_folders(number, refused, tmp_path, monkeypatch):
    """Some network file systems flush files alone; a broken disk is not one of them."""
    fsync, flushed = os.fsync, []

    def fsync_of_files(handle):
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(number, os.strerror(number))
        flushed.append(fsync(handle))

    monkeypatch.setattr(os, "fsync", fsync_of_files)
    with pytest.raises(OSError, match="error") if refused else contextlib.nullcontext():
        write_whole(tmp_path / "a.txt", "whole")
    assert ((tmp_path / "a.txt").read_text(), len(flushed)) == ("whole", 1)


def test_save_depth__is_whole_or_not_there(tmp_path, monkeypatch):
    save_depth(tmp_path / "a", np.ones((2, 3)))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    monkeypatch.setattr(np, "save", lambda stream, array: stream.write(b"half") and json.loads("no"))
    with pytest.raises(ValueError, match="Expecting value"):
        save_depth(tmp_path / "a", np.ones((2, 3)))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_replacing__array_on_a_full_disk(tmp_path):
    script = (
        "import resource, sys, numpy as np; from pathlib import Path; from depth_anything_hf.data.whole_files import replacing\n"
        "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))\n"
        "with replacing(Path(sys.argv[1])) as partial, partial.open('wb') as stream:\n"
        "    np.save(stream, np.zeros(4000))\n"
    )
    done = subprocess.run([sys.executable, "-c", script, tmp_path / "a.npy"], capture_output=True, text=True)
    assert f"No space left on device: '{tmp_path / 'a.npy'}'" in done.stderr.splitlines()[-1]
    assert list(tmp_path.iterdir()) == []
