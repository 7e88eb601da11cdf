"""Errors of other libraries, raised by those libraries where that is possible, and the line that the command shows."""

import errno
import json
import os
import subprocess
import sys
import zipfile

import datasets
import httpx
import pytest
import torch
import yaml
from huggingface_hub import errors as hub_errors
from PIL import Image
from safetensors.torch import load_file, save_file

import depth_anything_hf.cli.predict
from depth_anything_hf.cli.errors import explain
from depth_anything_hf.cli.main import main
from depth_anything_hf.training.checks import check_losses


def raised(function, *arguments, **options):
    """The error that a call raises, with its traceback."""
    with pytest.raises(BaseException) as caught:  # noqa: PT011 - of any kind
        function(*arguments, **options)
    return caught.value


def written(folder, name, content):
    file = folder / name
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return file


def raise_(error, cause=None):
    raise error from cause


def hub_error(kind, url="https://huggingface.co/api/models/me/rooms", status=403):
    response = httpx.Response(status, request=httpx.Request("GET", url))
    return kind(f"{status} Client Error. Cannot access {url}.\nmore lines", response=response)


LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:0\n"
FILES = {  # name, content, how it is read, words that are expected beside the name
    "lfs": ("a.safetensors", LFS, load_file, "is a pointer of Git LFS, not the file itself: run `git lfs pull`"),
    "html": ("a.safetensors", "\n<!DOCTYPE html><html>", load_file, "is a web page"),
    "empty": ("a.safetensors", "", load_file, "is empty"),
    "cut": ("a.safetensors", b"\x10" + 7 * b"\0" + b'{"a":{}}', load_file, "damaged or cut (SafetensorError"),
    "pickle": (
        "a.pth",
        "hello",
        lambda file: torch.load(file, weights_only=True),
        "is no file of weights, or damaged",
    ),
    "empty pickle": ("a.pth", "", lambda file: torch.load(file, weights_only=True), "is empty"),
    "zip": ("a.pth", "no zip", zipfile.ZipFile, "is no file of weights, or damaged"),
    "json": (
        "a.json",
        "{",
        lambda file: json.loads(file.read_text()),
        "is no JSON (JSONDecodeError: Expecting property",
    ),
    "yaml": ("a.yaml", "a: b\n c: d", lambda file: yaml.safe_load(file.read_text()), "is no YAML"),
    "text": ("a.json", b"\xff\xfe{", lambda file: file.read_text(encoding="utf-8"), "is no text in UTF-8"),
    "parquet": (
        "a.parquet",
        "PAR0",
        lambda file: __import__("pyarrow.parquet").parquet.read_table(str(file)),
        "is no table",
    ),
}


@pytest.mark.parametrize("name", FILES)
def test_explain__names_the_file_and_what_it_is(name, tmp_path):
    file, content, read, words = FILES[name]
    line = explain(raised(read, written(tmp_path, file, content)))
    assert words in line
    assert "\n" not in line
    assert "again" in line or "lfs" in line  # the next step
    assert line.startswith(str(tmp_path / file))


def test_explain__a_data_set_is_its_damaged_file(tmp_path):
    written(tmp_path, "a.jsonl", b'{"a": 1}\n{"a": ')
    error = raised(
        datasets.load_dataset, "json", data_files=str(tmp_path / "a.jsonl"), cache_dir=str(tmp_path / "cache")
    )
    assert "unexpected" not in explain(error)
    assert type(error).__name__ == "DatasetGenerationError"


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (
            hub_error(hub_errors.GatedRepoError),
            "me/rooms is gated: accept its terms on https://huggingface.co/me/rooms",
        ),
        (hub_error(hub_errors.RepositoryNotFoundError, status=401), "me/rooms is not on the Hub, or is private"),
        (hub_error(hub_errors.RevisionNotFoundError, status=404), "me/rooms has no such revision"),
        (hub_error(hub_errors.HfHubHTTPError, status=500), "the Hub refuses: 500"),
        (hub_errors.LocalEntryNotFoundError("not there"), "the Hub is out of reach: check the network"),
        (hub_errors.OfflineModeIsEnabled("offline"), "the Hub is out of reach"),
        (httpx.ConnectError("[Errno -2] Name or service not known"), "the Hub is out of reach"),
        (httpx.ConnectTimeout("timed out"), "the Hub is out of reach"),
        (ConnectionError("Couldn't reach 'me/rooms' on the Hub"), "the Hub is out of reach"),
        (
            hub_errors.HFValidationError("Repo id must be in the form 'a/b': '/x/y'."),
            "'/x/y'. Give an existing folder",
        ),
        (datasets.exceptions.DatasetNotFoundError("Dataset 'me/x' doesn't exist."), "Dataset 'me/x' doesn't exist."),
        (Image.DecompressionBombError("Image size (9 pixels) exceeds limit"), "an image is too large (Image size (9"),
        (
            OSError(errno.ENOSPC, "No space left on device", "out/a.npy"),
            "out/a.npy: No space left on device; the disk is full",
        ),
        (OSError("wrapped: [Errno 28] No space left on device"), "the disk is full; free some space"),
        (
            RuntimeError("Caught OSError in worker\nOriginal Traceback:\nOSError: [Errno 28] No space left"),
            "the disk is full",
        ),
        (RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed"), "the disk is full"),
        (
            OSError(errno.EROFS, "Read-only file system", "/x"),
            "/x: Read-only file system; choose a folder that can be written",
        ),
        (PermissionError(errno.EACCES, "Permission denied", "/x"), "/x: Permission denied; choose a file or folder"),
        (OSError(errno.ENAMETOOLONG, "File name too long", "n"), "n: File name too long; give a shorter name"),
        (IsADirectoryError(errno.EISDIR, "Is a directory", "/x"), "/x: Is a directory; it is a folder"),
        (
            FileNotFoundError(errno.ENOENT, "No such file or directory", "/x"),
            "/x: No such file or directory; check the path",
        ),
        (OSError(errno.EMFILE, "Too many open files", "/x"), "raise the limit of open files"),
        (MemoryError(), "there is not enough memory: use smaller batches or a lower resolution"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), "there is not enough memory"),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"),
            "there is not enough memory",
        ),
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Bus error."), "/dev/shm"),
        (RuntimeError("unable to open shared memory object </torch_1> in read-write mode"), "/dev/shm"),
        (subprocess.CalledProcessError(1, ["accelerate", "launch"]), "a process that was started failed"),
        (RecursionError("maximum recursion depth exceeded"), "unexpected RecursionError: maximum recursion depth"),
        (KeyError("depth"), "unexpected KeyError: 'depth'; run again with --debug"),
        (AssertionError(), "unexpected AssertionError: ; run again with --debug"),
        (ValueError("first line\nsecond line"), "first line"),
    ],
    ids=lambda value: f"{type(value).__name__}" if isinstance(value, BaseException) else "",
)
def test_explain__known_causes(error, words):
    line = explain(raised(raise_, error))
    assert words in line
    assert "\n" not in line
    if not words.startswith(("unexpected", "first line")):
        assert words in explain(raised(raise_, RuntimeError("a library's words"), error))


def test_explain__messages_of_this_library_stay(monkeypatch):
    error = raised(check_losses, [], {"labeled": -1.0}, None, True, True)
    assert explain(error) == str(error)
    wrapped = raised(raise_, RuntimeError("foreign"), error)
    assert explain(wrapped) == str(error)


# --- main


def fail(monkeypatch, error):
    """Let `predict` raise an error."""
    monkeypatch.setattr(depth_anything_hf.cli.predict, "main", lambda words: raise_(error))


def test_main__one_line_and_the_traceback_only_with_debug(monkeypatch, capsys):
    fail(monkeypatch, KeyError("depth"))
    assert main(["predict", "x"]) == 1
    assert capsys.readouterr().err == (
        "depth-anything-hf predict: unexpected KeyError: 'depth'; run again with --debug for the traceback\n"
    )
    assert main(["predict", "--debug", "x"]) == 1
    shown = capsys.readouterr().err
    assert shown.startswith("Traceback")
    assert shown.endswith("for the traceback\n")


def test_main__debug_with_a_value_is_an_option_of_transformers(monkeypatch):
    words = []
    monkeypatch.setattr(depth_anything_hf.cli.predict, "main", words.append)
    for given in (["x", "--debug"], ["--debug", "x"], ["x", "--debug", "underflow_overflow"]):
        assert main(["predict", *given]) == 0
    assert words == [["x"], ["x"], ["x", "--debug", "underflow_overflow"]]


def test_main__ctrl_c_says_what_is_kept(monkeypatch, capsys):
    fail(monkeypatch, KeyboardInterrupt())
    assert main(["predict", "x"]) == 130
    assert capsys.readouterr().err == "depth-anything-hf predict: stopped. What is written is kept.\n"


def test_main__closed_output_is_no_error():
    code = (
        "import sys; import depth_anything_hf.cli.convert as c; from depth_anything_hf.cli.main import main\n"
        "c.main = lambda words: print('line\\n' * 100000)\nsys.exit(main(['convert']))"
    )
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([sys.executable, "-c", code], stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")


def test_main__a_pipe_elsewhere_is_an_error(monkeypatch, capsys):
    fail(monkeypatch, BrokenPipeError(errno.EPIPE, "Broken pipe"))
    assert main(["predict", "x"]) == 1
    assert "predict:" in capsys.readouterr().err


DAMAGES = ["lfs", "cut", "bin", "config", "processor", "missing"]


@pytest.mark.parametrize(
    ("command", "damage"),
    [
        *(("predict", damage) for damage in DAMAGES),
        *(("convert", damage) for damage in DAMAGES),
        *(("video", damage) for damage in ("lfs", "processor")),
        ("push", "cut"),
        ("pseudo-label", "missing"),
        pytest.param("export", "lfs", marks=pytest.mark.slow),
    ],
)
def test_main__damaged_checkpoints_are_one_line(command, damage, checkpoint, tmp_path, noise_image, capsys):
    weights, folder = f"{checkpoint}/model.safetensors", tmp_path / "model"
    if damage == "lfs":
        written(folder, "model.safetensors", LFS)
    elif damage == "cut":
        os.truncate(weights, 1000)
    elif damage == "bin":
        os.remove(weights)
        written(folder, "pytorch_model.bin", "hello")
    elif damage == "config":
        written(folder, "config.json", "{")
    elif damage == "processor":
        written(folder, "preprocessor_config.json", '{"image_std": [0, 0, 0]}')
    else:
        kept = load_file(weights)
        kept["stranger"] = kept.pop("head.conv2.weight")
        save_file(kept, weights, metadata={"format": "pt"})
    noise_image(20, 30).save(tmp_path / "a.png")
    (tmp_path / "a.mp4").write_bytes(b"x")
    out = str(tmp_path / "out")
    words = {
        "predict": [f"{tmp_path}/a.png", "--model", checkpoint, "--out", out],
        "video": [f"{tmp_path}/a.mp4", "--model", checkpoint, "--out", out],
        "convert": [checkpoint, "--to-official", "--out", out],
        "export": ["--model", checkpoint, "--out", f"{out}.onnx"],
        "push": [checkpoint, "--repo-id", "me/x", "--dry-run"],
        "pseudo-label": ["--images", str(tmp_path), "--model", checkpoint, "--out", out],
    }[command]
    capsys.readouterr()
    assert main([command, *words]) == 1
    shown = capsys.readouterr().err
    (line,) = [line for line in shown.splitlines() if line.startswith(f"depth-anything-hf {command}: ")]
    assert "Traceback" not in shown
    assert str(folder) in line
