import errno
import hashlib
import io
import json
import resource
import signal
from concurrent.futures import Future
from contextlib import contextmanager

import numpy as np
import pyarrow.parquet as pq
import pytest
from datasets import load_dataset
from PIL import Image

from depth_anything_hf.data.codes import image_to_codes
from depth_anything_hf.data.folder import load_folder
from depth_anything_hf.data.records import decode_record
from depth_anything_hf.labeling import shards
from depth_anything_hf.labeling.decoding import Rejected
from depth_anything_hf.labeling.plan import BlockEnd, BlockId
from depth_anything_hf.labeling.shards import ShardFolder, encode_label, encode_picture, file_digest, write_whole

CODES = np.array([[0, 1, 2, 300], [65535, 257, 4, 5]], dtype=np.uint16)  # 4 wide, 2 high


@pytest.fixture(autouse=True)
def _no_network(monkeypatch):
    """`datasets` reports each `load_dataset` to the Hub, and waits for seconds where there is no network."""
    monkeypatch.setattr("datasets.config.HF_UPDATE_DOWNLOAD_COUNTS", False)


def photo(size: tuple[int, int] = (8, 4), grey: int = 90) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, (grey, grey, grey)).save(file, "PNG")
    return file.getvalue()


def record(key: str, image: bytes | None = None) -> dict:
    return {
        "image": {"bytes": photo() if image is None else image, "path": "a.png"},
        "depth_map": {"bytes": encode_label(CODES), "path": None},
        "depth_scale": 0.5,
        "depth_offset": -0.5,
        "space": "disparity",
        "intrinsics": None,
        "source": key,
        "own_size": True,
    }


def done(value) -> Future:
    future = Future()
    if isinstance(value, BaseException):
        future.set_exception(value)
    else:
        future.set_result(value)
    return future


def end(inputs: int, block: int = 0, last: bool = True) -> BlockEnd:
    return BlockEnd(BlockId(0, block), inputs, last, "d1gest")


@pytest.fixture
def folder(tmp_path) -> ShardFolder:
    folder = ShardFolder(tmp_path / "out")
    folder.prepare()
    return folder


def files(folder: ShardFolder) -> list[str]:
    return sorted(str(path.relative_to(folder.path)) for path in folder.path.rglob("*") if path.is_file())


# --- images


def test_encode_label__keeps_every_code():
    codes = np.random.default_rng(0).integers(0, 65536, (33, 47), dtype=np.uint16)
    image = Image.open(io.BytesIO(encode_label(codes)))
    assert (image.format, image.mode) == ("PNG", "I;16")
    assert np.array_equal(image_to_codes(image), codes)


def test_encode_picture__is_a_jpeg_near_its_pixels():
    pixels = np.linspace(0, 255, 32 * 24 * 3).reshape(24, 32, 3).astype(np.uint8)
    image = Image.open(io.BytesIO(encode_picture(pixels)))
    assert (image.format, image.size) == ("JPEG", (32, 24))
    assert np.abs(np.asarray(image).astype(int) - pixels).max() <= 4


# --- blocks


def test_write_block__finishes_a_block(folder):
    outcomes = {"a": done(record("a")), "b": Rejected("empty file"), "c": done(Rejected("not finite"))}
    entry = folder.write_block(end(3, block=7, last=False), outcomes)
    shard = folder.path / "data" / "part-00000-00007.parquet"
    assert files(folder) == ["data/part-00000-00007.parquet", "progress/00000-00007.json"]
    assert entry == {
        "inputs": 3,
        "labeled": 1,
        "last": False,
        "digest": "d1gest",
        "unreadable": None,
        "rejects": [{"key": "b", "reason": "empty file"}, {"key": "c", "reason": "not finite"}],
        "file": "data/part-00000-00007.parquet",
        "bytes": shard.stat().st_size,
        "sha256": hashlib.sha256(shard.read_bytes()).hexdigest(),
    }
    assert folder.finished() == {BlockId(0, 7): entry}


def test_write_block__of_rejects_alone_has_no_shard(folder):
    entry = folder.write_block(end(1), {"a": Rejected("empty file")})
    assert (entry["file"], entry["labeled"]) == (None, 0)
    assert files(folder) == ["progress/00000-00000.json"]
    assert folder.write_block(end(0, block=1), {})["inputs"] == 0
    assert list(folder.finished()) == [BlockId(0, 0), BlockId(0, 1)]


def test_write_block__lost_inputs_are_an_error(folder):
    with pytest.raises(RuntimeError, match="block 00000-00000 has 2 inputs and 1 outcomes"):
        folder.write_block(end(2), {"a": done(record("a"))})
    assert files(folder) == []


def test_write_block__errors_of_the_encoder_are_raised(folder):
    with pytest.raises(ZeroDivisionError):
        folder.write_block(end(1), {"a": done(ZeroDivisionError())})
    assert files(folder) == []


def test_finished__needs_the_entry(folder):
    folder.write_block(end(1), {"a": done(record("a"))})
    folder.write_block(end(1, block=1), {"b": done(record("b"))})
    (folder.path / "progress" / "00000-00000.json").unlink()  # as after a crash between the two
    assert list(folder.finished()) == [BlockId(0, 1)]
    folder.write_block(end(1), {"a": done(record("a"))})  # and again
    assert list(folder.finished()) == [BlockId(0, 0), BlockId(0, 1)]


def test_finished__is_in_order_of_parts_and_blocks(folder):
    for name in (BlockId(10, 0), BlockId(2, 11), BlockId(2, 2), BlockId(123456, 0)):
        folder.write_block(BlockEnd(name, 0, True, ""), {})
    assert sorted(folder.finished()) == [BlockId(2, 2), BlockId(2, 11), BlockId(10, 0), BlockId(123456, 0)]
    assert list(folder.finished()) == sorted(folder.finished())


def test_prepare__removes_what_was_half_written(folder):
    folder.write_block(end(1), {"a": done(record("a"))})
    kept = files(folder)
    for name in ("data/.part-00000-00001.parquet.77.partial", "progress/.00000-00001.json.77.partial"):
        (folder.path / name).write_bytes(b"half")
    assert list(folder.finished()) == [BlockId(0, 0)]
    folder.prepare()
    assert files(folder) == kept


@pytest.mark.parametrize("wrong", ["image", "depth_scale"])
def test_write_block__leaves_nothing_behind_after_an_error(folder, wrong):
    rows = {"a": done(record("a")), "b": done(record("b") | {wrong: "text"})}
    with pytest.raises((TypeError, ValueError)):
        folder.write_block(end(2), rows)
    assert files(folder) == []


@contextmanager
def no_file_above(size: int):
    """Writes beyond a size fail, as on a full disk."""
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize("size", [0, 100, 100_000])
def test_write_block__full_disk_leaves_nothing_behind(folder, size):
    folder.write_block(end(1), {"a": done(record("a"))})
    before = {name: file_digest(folder.path / name) for name in files(folder)}
    outcomes = {"b": done(record("b", bytes(range(256)) * 800))}
    with no_file_above(size), pytest.raises(OSError, match="File too large") as caught:
        folder.write_block(end(1, block=1), outcomes)
    assert caught.value.errno == errno.EFBIG
    assert {name: file_digest(folder.path / name) for name in files(folder)} == before
    folder.write_block(end(1, block=1), outcomes)  # with space again
    assert list(folder.finished()) == [BlockId(0, 0), BlockId(0, 1)]


def test_write_block__without_its_entry_is_not_finished(folder):
    """The shard fits and its entry does not."""
    rejects = {str(i): Rejected("x" * 1000) for i in range(20)}
    with no_file_above(10_000), pytest.raises(OSError, match="File too large"):
        folder.write_block(end(21), {"a": done(record("a"))} | rejects)
    assert folder.finished() == {}
    assert files(folder) == ["data/part-00000-00000.parquet"]
    folder.write_block(end(21), {"a": done(record("a"))} | rejects)
    assert list(folder.finished()) == [BlockId(0, 0)]
    assert len(load_folder(folder.path)) == 1


def test_write_whole__is_whole_or_not_there(tmp_path):
    file = tmp_path / "a.json"
    write_whole(file, b"first")
    write_whole(file, b"second")
    with no_file_above(10), pytest.raises(OSError, match="File too large"):
        write_whole(file, b"x" * 100)
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("a.json", b"second")]


def test_write_block__gives_the_same_bytes_twice(folder, tmp_path):
    outcomes = {"a": done(record("a")), "b": Rejected("empty file")}
    other = ShardFolder(tmp_path / "other")
    other.prepare()
    first, second = (one.write_block(end(2), outcomes) for one in (folder, other))
    assert first == second
    for name in files(folder):
        assert (folder.path / name).read_bytes() == (other.path / name).read_bytes()


# --- readers


def test_write_block__is_read_by_datasets(folder):
    folder.write_block(end(2), {key: done(record(key)) for key in "ab"})
    folder.write_block(end(1, block=1), {"c": done(record("c"))})
    stream = load_dataset("parquet", data_files=str(folder.path / "data/*.parquet"), split="train", streaming=True)
    rows = list(stream)
    assert [row["source"] for row in rows] == ["a", "b", "c"]
    assert rows[0]["depth_map"].mode == "I;16"
    assert np.array_equal(np.asarray(rows[0]["depth_map"]), CODES)
    assert rows[0]["image"].size == (8, 4)
    assert (rows[0]["own_size"], rows[0]["space"], rows[0]["depth_scale"]) == (True, "disparity", 0.5)


def test_write_block__is_read_by_load_folder(folder):
    folder.write_block(end(1), {"a": done(record("a"))})
    (row,) = load_folder(folder.path)
    sample = decode_record(row)
    assert sample.image.size == (4, 2)  # the image at the label's size
    assert sample.mask.tolist() == [[False, True, True, True], [True] * 4]
    assert sample.values.tolist() == [[0.0, 0.0, 0.5, 149.5], [32767.0, 128.0, 1.5, 2.0]]
    assert (sample.space, sample.source) == ("disparity", "a")


def test_write_block__keeps_the_file_as_it_came(folder):
    given = photo(grey=17)
    folder.write_block(end(1), {"a": done(record("a", given))})
    table = pq.read_table(folder.path / "data" / "part-00000-00000.parquet").to_pylist()
    assert table[0]["image"] == {"bytes": given, "path": "a.png"}


# --- row groups


def groups(folder: ShardFolder) -> list[int]:
    meta = pq.read_metadata(folder.path / "data" / "part-00000-00000.parquet")
    return [meta.row_group(i).num_rows for i in range(meta.num_row_groups)]


@pytest.mark.parametrize(("rows", "expected"), [(64, [64]), (65, [64, 1]), (130, [64, 64, 2])])
def test_write_block__row_groups_have_64_rows(folder, rows, expected):
    folder.write_block(end(rows), {str(i): done(record(str(i))) for i in range(rows)})
    assert groups(folder) == expected
    assert [row["source"] for row in load_folder(folder.path)] == [str(i) for i in range(rows)]


def test_write_block__row_groups_of_large_files_are_short(folder, monkeypatch):
    monkeypatch.setattr(shards, "BYTES_IN_A_GROUP", 1000)
    sizes = [400, 400, 400, 5000, 10]
    folder.write_block(end(5), {str(i): done(record(str(i), bytes(size))) for i, size in enumerate(sizes)})
    assert groups(folder) == [3, 1, 1]


def test_write_block__references_have_no_bytes(folder):
    kept = record("a") | {"image": {"bytes": None, "path": "/photos/a.png"}}
    folder.write_block(end(1), {"a": done(kept)})
    table = pq.read_table(folder.path / "data" / "part-00000-00000.parquet").to_pylist()
    assert table[0]["image"] == {"bytes": None, "path": "/photos/a.png"}


def test_finished__entries_are_json(folder):
    folder.write_block(end(1), {"caf\udce9": Rejected("its name")})  # a byte that is not UTF-8
    text = (folder.path / "progress" / "00000-00000.json").read_text(encoding="utf-8")
    assert json.loads(text)["rejects"] == [{"key": "caf\udce9", "reason": "its name"}]
