import gzip
import io
import tarfile

import lmdb
import pytest

from depth_anything_hf.data.archives import count_entries, find_databases, is_image, read_database, read_tar


def save_tar(path, members, mode="w"):
    with tarfile.open(path, mode) as archive:
        for name, content in members:
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return path


def save_database(folder, entries):
    with lmdb.open(str(folder), map_size=1 << 22) as environment, environment.begin(write=True) as put:
        for key, value in entries.items():
            put.put(key, value)
    return folder


@pytest.mark.parametrize(("name", "mode"), [("a.tar", "w"), ("a.tar.gz", "w:gz"), ("a.tgz", "w:gz")])
def test_read_tar__groups_files_of_one_name(tmp_path, name, mode):
    members = [("a/1.jpg", b"one"), ("a/1.json", b"{}"), ("a/2.b.PNG", b"two"), ("b/2.jpg", b"three"), ("c.cls", b"7")]
    path = save_tar(tmp_path / name, members, mode)
    assert list(read_tar(path)) == [
        ("a/1", {"jpg": b"one", "json": None}),
        ("a/2", {"b.PNG": b"two"}),
        ("b/2", {"jpg": b"three"}),
        ("c", {"cls": None}),
    ]
    assert list(read_tar(path, "cls"))[3] == ("c", {"cls": b"7"})


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_read_tar__goes_into_tar_files(tmp_path, mode):
    ending = ".tar" if mode == "w" else ".tar.gz"
    inner = [save_tar(tmp_path / f"n{i}{ending}", [(f"n{i}_{j}.JPEG", b"x") for j in range(30)], mode) for i in (0, 1)]
    members = [(path.name, path.read_bytes()) for path in inner] + [("last.jpg", b"y")]
    found = list(read_tar(save_tar(tmp_path / "whole.tar", members)))
    assert [key for key, _ in found] == [f"n{i}/n{i}_{j}" for i in (0, 1) for j in range(30)] + ["last"]
    assert found[59][1] == {"JPEG": b"x"}


def test_read_tar__passes_over_what_is_no_file_or_hidden(tmp_path):
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as archive:
        for name, kind in (("f", tarfile.DIRTYPE), ("f/link.jpg", tarfile.SYMTYPE), ("f/pipe.jpg", tarfile.FIFOTYPE)):
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = kind, "1.jpg"
            archive.addfile(entry)
        for name in ("f/._1.jpg", "__MACOSX.jpg", "f/.DS_Store", "f/1.jpg", "f/README"):
            entry = tarfile.TarInfo(name)
            archive.addfile(entry)
    assert list(read_tar(path)) == [("f/1", {"jpg": b""})]


def test_read_tar__a_cut_or_broken_gzip_file_is_an_error(tmp_path):
    names = [(f"{i}.jpg", bytes(range(256)) * 20) for i in range(50)]
    whole = bytearray(save_tar(tmp_path / "a.tar.gz", names, "w:gz").read_bytes())
    (tmp_path / "cut.tar.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(EOFError):
        list(read_tar(tmp_path / "cut.tar.gz"))
    whole[len(whole) // 2 : len(whole) // 2 + 99] = bytes(99)
    (tmp_path / "broken.tar.gz").write_bytes(whole)
    with pytest.raises((OSError, EOFError, tarfile.TarError)):
        list(read_tar(tmp_path / "broken.tar.gz"))
    (tmp_path / "junk.tar.gz").write_bytes(gzip.compress(b"junk"))
    with pytest.raises(tarfile.TarError):
        list(read_tar(tmp_path / "junk.tar.gz"))


def test_is_image():
    assert [is_image(ending) for ending in ("jpg", "mask.PNG", "webp", "json", "tar", "txt")] == [True] * 3 + [
        False
    ] * 3


def test_read_database__in_order_of_keys_from_a_folder_that_cannot_be_written(tmp_path):
    folder = save_database(tmp_path / "bedroom_val_lmdb", {b"b" * 40: b"2", b"a" * 40: b"1", b"\xff": b"3"})
    (folder / "lock.mdb").unlink()
    folder.chmod(0o555)
    try:
        assert list(read_database(folder)) == [("a" * 40, b"1"), ("b" * 40, b"2"), ("\\xff", b"3")]
        assert count_entries(folder) == 3
        assert [path.name for path in folder.iterdir()] == ["data.mdb"]
    finally:
        folder.chmod(0o755)


def test_find_databases(tmp_path):
    for name in ("b_lmdb", "a_lmdb", ".hidden"):
        save_database(tmp_path / name, {b"k": b"v"})
    assert [folder.name for folder in find_databases(tmp_path)] == ["a_lmdb", "b_lmdb"]
    assert find_databases(tmp_path / "a_lmdb") == [tmp_path / "a_lmdb"]
    assert find_databases(tmp_path / "a_lmdb" / "data.mdb") == []
    assert [folder.name for folder in find_databases(tmp_path / "[ab]_lmdb")] == ["a_lmdb", "b_lmdb"]
    assert find_databases(tmp_path / "c*") == find_databases(tmp_path / "nowhere") == []


def test_read_database__broken_is_an_error_that_names_it(tmp_path):
    (tmp_path / "data.mdb").write_bytes(b"junk" * 4096)
    with pytest.raises(OSError, match=rf"{tmp_path.name} cannot be read \(.*\): download it again"):
        list(read_database(tmp_path))


def test_read_database__says_how_to_install_lmdb(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "lmdb", None)
    with pytest.raises(ImportError, match=r"read with lmdb, .*pip install 'depth_anything_hf\[lmdb\]'"):
        count_entries(tmp_path)
