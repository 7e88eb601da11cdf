"""What a labeling run refuses: files of others, teachers that say nothing, damaged shards; and how a dead worker ends it."""

import http.server
import io
import json
import os
import signal
import threading
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from depth_anything_hf import DepthAnythingForDepthEstimation
from depth_anything_hf.cli.main import main
from depth_anything_hf.data.folder import load_folder, stream_folder
from depth_anything_hf.labeling.arguments import LabelingArguments
from depth_anything_hf.labeling.decoding import Decoder
from depth_anything_hf.labeling.engine import Writers
from depth_anything_hf.labeling.feeding import decoded
from depth_anything_hf.labeling.plan import BlockId, Work
from depth_anything_hf.labeling.sources import Item, _located
from depth_anything_hf.prediction.stream import _end_process
from depth_anything_hf.sharing import hub

# --- files of others


@pytest.fixture
def stranger(tmp_path):
    """A parquet file that names an address, private files of the machine, and two files of its own."""
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_error(404)

        def log_message(self, *args):
            pass

    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "images").mkdir()
    for file, value in (("private.png", 90), ("set/images/own.png", 200), ("set/images/other.png", 120)):
        noise = np.random.default_rng(value).integers(0, value, (48, 64, 3), dtype=np.uint8)
        Image.fromarray(noise).save(tmp_path / file)
    (tmp_path / "set" / "images" / "link.png").symlink_to(tmp_path / "private.png")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/internal"
        names = [url, f"zip://a.png::{url}", str(tmp_path / "private.png"), "../private.png", "images/link.png"]
        names += [f"file://{tmp_path}/private.png", "images/own.png", str(tmp_path / "set" / "images" / "other.png")]
        rows = [{"bytes": None, "path": name} for name in names]
        table = pa.table({"image": pa.array(rows, pa.struct([("bytes", pa.binary()), ("path", pa.string())]))})
        features = {"info": {"features": {"image": {"_type": "Image"}}}}
        pq.write_table(
            table.replace_schema_metadata({"huggingface": json.dumps(features)}), tmp_path / "set" / "a.parquet"
        )
        yield tmp_path / "set", asked
        server.shutdown()


def test_label_images__of_a_stranger_takes_its_own_files_alone(stranger, label, rejects, tmp_path):
    images, asked = stranger
    manifest = label(tmp_path / "out", images)
    assert (manifest["labeled"], manifest["rejected"]) == (2, 6)
    assert asked == []
    private = (tmp_path / "private.png").read_bytes()
    assert all(private not in shard.read_bytes() for shard in (tmp_path / "out" / "data").iterdir())
    assert sorted(record["source"].rsplit("/", 1)[-1] for record in load_folder(tmp_path / "out")) == [
        "other.png",
        "own.png",
    ]
    reasons = "\n".join(rejects(tmp_path / "out").values())
    assert reasons.count("names an address") == 3
    assert reasons.count("names a file outside of its set's folder") == 3
    for file in (tmp_path / "out").rglob("*.*"):
        assert str(tmp_path).encode() not in file.read_bytes(), file


def test_label_images__allow_outside_opens_them(stranger, label, tmp_path):
    images, asked = stranger
    manifest = label(tmp_path / "out", images, allow_outside=True)
    assert asked
    assert manifest["labeled"] >= 3  # the two of its own by absolute and the private one by its whole path


def test_label_images__a_pipe_is_no_photograph(label, rejects, tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    Image.new("RGB", (64, 48)).save(tmp_path / "a.png")
    rows = [{"bytes": None, "path": name} for name in ("pipe.png", "a.png")]
    table = pa.table({"image": pa.array(rows, pa.struct([("bytes", pa.binary()), ("path", pa.string())]))})
    (tmp_path / "set").mkdir()
    pq.write_table(table, tmp_path / "a.parquet")
    label(tmp_path / "out", tmp_path / "a.parquet", image_column="image")
    assert any("no regular file" in reason for reason in rejects(tmp_path / "out").values())


OWN = "hf://datasets/a/b@0123/"


@pytest.mark.parametrize(
    ("named", "own"),
    [
        (f"{OWN}train/a.png", True),
        (f"zip://a.png::{OWN}train.zip", True),
        (f"http://127.0.0.1/x::{OWN}a.png", False),
        (f"zip://a.png::http://127.0.0.1/x::{OWN}a.zip", False),
        (f"{OWN}../../c/d@9/a.png", False),
        ("hf://datasets/c/d@9/a.png", False),
        ("hf://datasets/a/b@0123x/a.png", False),
        ("http://127.0.0.1/a.png", False),
        ("/etc/hostname", False),
        ("../a.png", False),
    ],
)
def test_located__of_the_hub_are_files_of_its_own_repository(named, own):
    image, refused = _located(named, OWN)
    assert image["path"] == named
    assert (refused is None) == own


# --- teachers that say nothing


@pytest.fixture
def say(save_teacher, tmp_path):
    """Function that saves a teacher whose last layer has these values: `say(weight, bias)`."""

    def save(weight, bias, max_depth=None):
        folder = save_teacher(max_depth=max_depth)
        model = DepthAnythingForDepthEstimation.from_pretrained(folder)
        torch.nn.init.constant_(model.head.conv3.weight, weight)
        torch.nn.init.constant_(model.head.conv3.bias, bias)
        model.save_pretrained(folder)
        return folder

    return save


@pytest.mark.slow
@pytest.mark.parametrize(("weight", "bias", "max_depth"), [(0, 0.5, None), (0, -1, None), (0, 0, None), (0, 99, 10.0)])
def test_pseudo_label__a_constant_teacher_labels_nothing(
    weight, bias, max_depth, say, photos, rejects, tmp_path, capsys
):
    command = [
        "pseudo-label",
        "--model",
        say(weight, bias, max_depth),
        "--images",
        str(photos),
        "--out",
        str(tmp_path / "o"),
    ]
    assert main([*command, "--resolution", "56", "--num-workers", "0", "--device", "cpu", "--disable-tqdm"]) == 1
    assert "no image is labeled: 12 constant prediction" in capsys.readouterr().err
    assert all(reason.startswith("constant prediction") for reason in rejects(tmp_path / "o").values())


def test_label_images__a_constant_teacher_stops_the_run(say, label, tmp_path, monkeypatch):
    monkeypatch.setattr(Writers, "MOST_USELESS", 4)
    with pytest.raises(
        ValueError, match=r"the first \d+ images got no label \(constant prediction.*check the teacher"
    ):
        label(tmp_path / "o", model=say(0, 0.5))


def test_pseudo_label__all_rejected_is_an_error_with_the_reasons(teacher, tmp_path, capsys):
    (tmp_path / "in").mkdir()
    for i in range(3):
        (tmp_path / "in" / f"{i}.jpg").write_bytes(b"" if i else b"junk")
    command = ["pseudo-label", "--model", teacher, "--images", str(tmp_path / "in"), "--out", str(tmp_path / "out")]
    assert main([*command, "--resolution", "56", "--num-workers", "0", "--device", "cpu", "--disable-tqdm"]) == 1
    assert "no image is labeled: 2 empty file; 1 no image of a known format" in capsys.readouterr().err
    assert main([*command, "--resolution", "56", "--num-workers", "0", "--device", "cpu", "--disable-tqdm"]) == 1


def test_load_teacher__a_space_against_its_config(teacher, save_teacher, label, tmp_path):
    for model, space in ((teacher, "depth"), (save_teacher(max_depth=20.0), "disparity")):
        with pytest.raises(ValueError, match=rf"space is '{space}', but the config of .* says that it is"):
            label(tmp_path / "out", model=model, space=space)


# --- damaged shards


@pytest.mark.parametrize("read", [load_folder, lambda folder: list(stream_folder(folder))])
def test_shards__flipped_bytes_are_not_read(read, label, tmp_path):
    label(tmp_path / "out")
    read(tmp_path / "out")
    shard = sorted((tmp_path / "out" / "data").iterdir())[1]
    data = bytearray(shard.read_bytes())
    data[len(data) // 3] ^= 0xFF  # in an image: parquet itself does not notice
    shard.write_bytes(data)
    with pytest.raises(ValueError, match=rf"{shard.name} is damaged: its SHA-256 is not the one in manifest\.json"):
        read(tmp_path / "out")
    with pytest.raises(ValueError, match="is damaged"):
        hub._prepare_set(tmp_path / "out", None, {})


def test_push__references_are_of_no_use_to_others(label, tmp_path):
    label(tmp_path / "out", keep_image="reference", limit=1)
    with pytest.raises(ValueError, match="holds the paths of photographs on this machine"):
        hub._prepare_set(tmp_path / "out", None, {})
    with pytest.raises(ValueError, match="keep_image 'reference'"):
        LabelingArguments("m", "i", "o", keep_image="reference", push_to_hub="someone/labels")


# --- a worker that does not answer


def png():
    file = io.BytesIO()
    Image.new("RGB", (16, 16)).save(file, "PNG")
    return file.getvalue()


def works(count=6):
    return [Work(BlockId(0, 0), i, Item(f"{i}.png", {"bytes": png(), "path": None})) for i in range(count)]


class Dying(Decoder):
    """Ends its process at the fourth input, as the kernel does when memory is short."""

    def __getitem__(self, work):
        if work.item.key.startswith("3"):
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__getitem__(work)


class Unsendable(Decoder):
    """Returns what no process can send: the error comes in a thread of the worker, where nobody sees it."""

    def __getitem__(self, work):
        picture = super().__getitem__(work)
        return picture._replace(file=threading.Lock()) if work.item.key.startswith("3") else picture


class WithoutMemory(Decoder):
    """Has no shared memory: no file may be written."""

    def __getitem__(self, work):
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
        return super().__getitem__(work)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (Dying, r"a process that decodes died \(.*num_workers"),
        (Unsendable, r"a process that decodes died"),
        (WithoutMemory, r"/dev/shm, .*is full: .*--shm-size=8g.*num_workers"),
    ],
)
def test_decoded__a_worker_that_does_not_answer_ends_the_run(kind, message):
    with pytest.raises(OSError, match=message):
        list(decoded(works(), kind(56, 14, keep_file=True), num_workers=1, on_cpu=True))


def test_decoded__without_workers_needs_no_shared_memory():
    assert len(list(decoded(works(), Decoder(56, 14), num_workers=0, on_cpu=True))) == 6


def test_end_process__is_called_for_what_the_thread_cannot_send(monkeypatch, capsys):
    codes = []
    monkeypatch.setattr(os, "_exit", codes.append)
    _end_process(ValueError("cannot be sent"), None)
    assert codes == [0]
    assert "cannot be sent" in capsys.readouterr().err


def test_label_images__of_paths_keeps_no_folder_of_the_machine(label, photos, tmp_path):
    file = next(Path(photos).rglob("*.jpg"))
    pq.write_table(pa.table({"path": [str(file)]}), tmp_path / "a.parquet")
    label(tmp_path / "out", tmp_path / "a.parquet", image_column="path", allow_outside=True)
    for written in (tmp_path / "out").rglob("*.*"):
        assert str(photos).encode() not in written.read_bytes(), written
