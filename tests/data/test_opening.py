import json
import os
from pathlib import Path

import pytest

from depth_anything_hf.data.opening import check_shard, own_file, reading
from depth_anything_hf.data.whole_files import file_digest

FOREIGN = [
    "/etc/hostname",
    "../a.png",
    "images/../../a.png",
    "..",
    "https://example.org/a.png",
    "http://127.0.0.1/a.png",
    "file:///etc/hostname",
    "hf://datasets/a/b/c.png",
    "s3://bucket/a.png",
    "zip://a.png::b.zip",
    "zip://a.png::https://example.org/b.zip",
    "a.png::b",
]


@pytest.mark.parametrize("named", FOREIGN)
def test_own_file__refuses_what_is_not_below_the_folder(named, tmp_path):
    with pytest.raises(ValueError, match=r"a record names files below"):
        own_file(named, [tmp_path / "set"])
    with pytest.raises(ValueError, match=r"a record names files below"):
        own_file(named, [tmp_path / "set", tmp_path / "more"], follow_links=True)


@pytest.mark.parametrize(
    "named", ["a.png", "images/a.png", "images/../a.png", "./a.png", "12:30.png", "c:a.png", "...png"]
)
def test_own_file__takes_what_is_below_the_folder(named, tmp_path):
    assert own_file(named, [tmp_path]) == tmp_path / named
    assert own_file(tmp_path / "b.png", [tmp_path]) == tmp_path / "b.png"  # an absolute path of its own
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "only.png").touch()
    assert own_file("only.png", [tmp_path, tmp_path / "more"]) == tmp_path / "more" / "only.png"


def test_own_file__a_folder_whose_name_begins_alike_is_another(tmp_path):
    with pytest.raises(ValueError, match="outside"):
        own_file(str(tmp_path / "set2" / "a.png"), [tmp_path / "set"])


@pytest.mark.parametrize("link", ["file", "folder"])
def test_own_file__refuses_links_that_lead_out(link, tmp_path):
    root, other = tmp_path / "set", tmp_path / "private"
    root.mkdir(), other.mkdir()
    (other / "a.png").touch()
    named = "a.png" if link == "file" else "images/a.png"
    (root / Path(named).parts[0]).symlink_to(other / "a.png" if link == "file" else other)
    with pytest.raises(ValueError, match="lies outside of the set's folder through a link"):
        own_file(named, [root])
    assert own_file(named, [root], follow_links=True) == root / named
    (root / "own.png").touch()
    (root / "inside.png").symlink_to("own.png")
    assert own_file("inside.png", [root]) == root / "inside.png"


def test_own_file__a_snapshot_of_the_hub_links_to_its_repository(tmp_path):
    repository = tmp_path / "datasets--a--b"
    snapshot = repository / "snapshots" / "0123"
    (snapshot / "images").mkdir(parents=True)
    (repository / "blobs").mkdir()
    (repository / "blobs" / "abc").touch()
    (snapshot / "images" / "a.png").symlink_to("../../../blobs/abc")
    assert own_file("images/a.png", [snapshot]) == snapshot / "images" / "a.png"
    assert own_file("a.png", [snapshot / "images"]) == snapshot / "images" / "a.png"
    (snapshot / "b.png").symlink_to("../../../other")
    with pytest.raises(ValueError, match="through a link"):
        own_file("b.png", [snapshot])


def test_reading__names_the_file():
    with pytest.raises(OSError, match=r"a\.npy cannot be read \(EOFError: x\)"), reading("a.npy"):
        raise EOFError("x")
    with pytest.raises(FileNotFoundError, match=r"no such file: 'a\.npy'"), reading("a.npy"):
        Path("a.npy").read_bytes()


@pytest.mark.parametrize("below", ["data", "."])
def test_check_shard__compares_with_the_manifest(below, tmp_path):
    (tmp_path / below).mkdir(exist_ok=True)
    shard = tmp_path / below / "part-0.parquet"
    shard.write_bytes(bytes(1000))
    entry = {"file": shard.relative_to(tmp_path).as_posix(), "sha256": file_digest(shard)}
    (tmp_path / "manifest.json").write_text(json.dumps({"shards": [entry]}))
    check_shard(shard)
    shard.write_bytes(bytes(999) + b"\1")
    os.utime(shard, (1, 1))
    with pytest.raises(ValueError, match=r"part-0\.parquet is damaged: its SHA-256 is not the one in manifest\.json"):
        check_shard(shard)
    (tmp_path / below / "other.parquet").write_bytes(b"not listed")
    check_shard(tmp_path / below / "other.parquet")


def test_own_file__a_name_with_a_zero_byte(tmp_path):
    with pytest.raises(ValueError, match=r"'a\\x00\.png' is no name of a file"):
        own_file("a\0.png", [tmp_path])
