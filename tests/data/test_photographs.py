import json
import logging
import os
import signal
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from depth_anything_hf.cli.inputs import Kind, find_inputs
from depth_anything_hf.cli.video import EXTENSIONS as VIDEO_EXTENSIONS
from depth_anything_hf.data.folder import load_images, write_image_folder
from depth_anything_hf.data.photographs import IMAGE_EXTENSIONS, Photographs
from depth_anything_hf.data.records import encode_record
from depth_anything_hf.export.onnx import _open_photographs
from depth_anything_hf.labeling.sources import open_source


@pytest.fixture(autouse=True)
def _no_hanging():
    """A search that goes round, or waits for a pipe, fails instead."""
    signal.signal(signal.SIGALRM, lambda *_: pytest.fail("hangs"))
    signal.alarm(30)
    yield
    signal.alarm(0)


def save(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 3)).save(root / name, format="PNG")
    return root


def record_folder(path: Path) -> Path:
    """Two images, one of them with a depth map and a mask of the sky."""
    labeled = encode_record(Image.new("RGB", (2, 1)), [[1.0, 2.0]], sky=np.array([[True, False]]))
    return write_image_folder([labeled, encode_record(Image.new("RGB", (2, 1)))], path)


def found(path, **options) -> tuple[list[str], dict[str, int]]:
    photographs = Photographs(path, **options)
    return [photographs.name(file) for file in photographs], dict(photographs.skipped)


def taken_by_all(path) -> dict[str, list[str]]:
    """The names that every door into the library takes of a path."""
    inputs, _ = find_inputs([str(path)], Kind("image", IMAGE_EXTENSIONS), Path("/nowhere"), lambda _: False)
    source = open_source(path)
    return {
        "load_images": load_images(path)["source"][:],
        "predict": [one.relative.as_posix() for one in inputs.values()],
        "pseudo-label": [item.key for item in source.read(0)],
        "export": list(_open_photographs(path)[0]),
    }


# --- what is taken


def test_photographs__every_door_takes_the_same_of_a_record_folder(tmp_path):
    folder = record_folder(tmp_path / "set")
    names = ["images/000000.png", "images/000001.png"]
    assert taken_by_all(folder) == dict.fromkeys(("load_images", "predict", "pseudo-label", "export"), names)


def test_photographs__every_door_takes_the_same_of_a_tree(tmp_path):
    save(tmp_path, *(f"{n}{ending}" for n, ending in enumerate(IMAGE_EXTENSIONS)), ".hidden.png", ".cache/a.png")
    save(tmp_path, "a/z.PNG", "a.b/q.png", "notes.txt")
    record_folder(tmp_path / "set")
    (tmp_path / "round").symlink_to(".")
    taken = taken_by_all(tmp_path)
    assert {".gif", ".jfif", ".avif"} <= {Path(name).suffix for name in taken["predict"]}
    assert len(taken["predict"]) == len(IMAGE_EXTENSIONS) + 4
    assert taken["predict"] == taken["load_images"] == taken["pseudo-label"]


def test_photographs__yields_in_order_of_names_and_lazily(tmp_path, monkeypatch):
    save(tmp_path, "b.png", "a/z.png", "a/b/c.png", "a.b/q.png", "10.png", "9.png")
    listed = []
    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: listed.append(Path(path).name) or scandir(path))
    names = iter(photographs := Photographs(tmp_path))
    assert photographs.name(next(names)) == "10.png"
    assert listed == [tmp_path.name]
    assert [photographs.name(name) for name in names] == ["9.png", "a/b/c.png", "a/z.png", "a.b/q.png", "b.png"]


def test_photographs__search_anew_when_iterated_again(tmp_path):
    photographs = Photographs(save(tmp_path, "a.png", "b.heic"))
    for _ in range(2):
        assert len(list(photographs)) == 1
        assert photographs.skipped == {".heic": 1}


def test_photographs__every_ending_is_read_or_counted_in_any_case(tmp_path):
    taken = [".JPG", ".Jfif", ".jpe", ".AVIF", ".GIF", ".JP2", ".pnm", ".MPO", ".TIF", ".webp"]
    counted = [".HEIC", ".cr2", ".svg", ".psd", ".JXL", ""]
    names, skipped = found(save(tmp_path, *(f"{n}{ending}" for n, ending in enumerate([*taken, *counted]))))
    assert sorted(Path(name).suffix for name in names) == sorted(taken)
    assert skipped == {ending.lower() or "files without an ending": 1 for ending in counted}


def test_photographs__takes_other_endings(tmp_path):
    save(tmp_path, "a.png", "b.MP4", "c")
    assert found(tmp_path, extensions=(".mp4",)) == (["b.MP4"], {".png": 1, "files without an ending": 1})


# --- imagefolders


def test_photographs__count_what_a_record_folder_holds_beside_its_images(tmp_path):
    folder = record_folder(tmp_path / "set")
    save(folder, "images/other.png", ".hidden.png")
    (folder / "README.md").touch()
    skipped = {"depth maps of a record folder": 1, "sky masks of a record folder": 1}
    skipped |= {"files not listed in metadata.jsonl": 1, ".md": 1, "hidden files": 1}
    assert found(folder) == (["images/000000.png", "images/000001.png"], skipped)
    assert found(folder / "images")[0] == ["000000.png", "000001.png", "other.png"]


def test_photographs__listed_files_that_are_not_there(tmp_path):
    lines = [{"file_name": name} for name in ("gone.png", "a.png", "a.png", "x.heic", "pipe.png")]
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n\n")
    save(tmp_path, "a.png", "x.heic")
    os.mkfifo(tmp_path / "pipe.png")
    assert found(tmp_path) == (["a.png", "x.heic"], {"missing files": 1, "special files": 1})
    assert found(tmp_path, keep_missing=True) == (["gone.png", "a.png", "x.heic"], {"special files": 1})


def test_photographs__other_endings_of_an_imagefolder_are_not_taken(tmp_path):
    folder = record_folder(tmp_path / "set")
    (folder / "clip.mp4").touch()
    names, skipped = found(folder, extensions=VIDEO_EXTENSIONS)
    assert names == []
    assert skipped[".png"] == 2


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"url": "x"}', "line 2: file_name is None; write the photograph's path below that folder there, or take"),
        ("[1]", "line 2 is no JSON object; write"),
        ('{"file_name":', r"line 2 is no JSON \(.*\); write"),
    ],
)
def test_photographs__metadata_that_names_no_file_is_an_error(line, message, tmp_path):
    save(tmp_path, "a.png")
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "a.png"}\n' + line + "\n")
    with pytest.raises(ValueError, match=rf"metadata\.jsonl, {message}"):
        list(Photographs(tmp_path))


def test_find_inputs__an_image_beside_its_record_folder_is_skipped(tmp_path, capsys):
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "metadata.jsonl").write_text('{"file_name": "../b.png"}\n{"file_name": "a.png"}\n')
    save(tmp_path, "b.png")
    save(tmp_path / "set", "a.png")
    kind = Kind("image", IMAGE_EXTENSIONS)
    inputs, _ = find_inputs([str(tmp_path / "set")], kind, tmp_path / "out", lambda _: False)
    assert [path.name for path in inputs] == ["a.png"]
    assert "skipped: 1 file outside of the record folder" in capsys.readouterr().out


# --- links, pipes, devices


@pytest.mark.parametrize("links", [1, 2, 5])
@pytest.mark.parametrize("path", ["", "**/*", "**/**/*.png"])
def test_photographs__follow_no_link_round(links, path, tmp_path):
    save(tmp_path, "z.png", "c/y.png")
    for number in range(links):
        (tmp_path / f"b{number}").symlink_to(".")
        (tmp_path / "c" / f"up{number}").symlink_to(tmp_path)
    names, skipped = found(tmp_path / path)
    assert names == ["c/y.png", "z.png"]
    assert skipped["links to a folder above"] > 0
    if not path:
        assert skipped == {"links to a folder above": 2 * links}


@pytest.mark.parametrize("path", ["", "**/*.png", "**/**/*"])
def test_photographs__folders_full_of_links_to_each_other_are_searched_once(path, tmp_path):
    for name in "abcdefghijkl":
        save(tmp_path, f"{name}/{name}.png")
        for other in "abcdefghijkl":
            (tmp_path / name / f"to_{other}").symlink_to(tmp_path / other)
    for level in range(30):  # two ways at each level
        (tmp_path / f"deep{level}").mkdir()
        for side in ("left", "right"):
            (tmp_path / f"deep{level}" / side).symlink_to(tmp_path / f"deep{level + 1}")
    names, skipped = found(tmp_path / path)
    assert sorted(Path(name).name for name in names) == [f"{name}.png" for name in "abcdefghijkl"]
    assert skipped["folders found twice by links"] > 0


def test_photographs__a_folder_that_cannot_be_read_is_counted(tmp_path, monkeypatch):
    save(tmp_path, "a.png", "gone/b.png")
    scandir = os.scandir

    def vanish(path):
        if Path(path).name == "gone":
            raise FileNotFoundError(2, "No such file or directory")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", vanish)
    assert found(tmp_path) == (["a.png"], {"folders that cannot be read": 1})


@pytest.mark.parametrize("path", ["photos", "photos/**/*.png"])
def test_photographs__follow_links_elsewhere(path, tmp_path):
    save(tmp_path, "elsewhere/x.png", "photos/a.png")
    (tmp_path / "photos" / "z").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "photos" / "b.png").symlink_to(tmp_path / "elsewhere" / "x.png")
    assert found(tmp_path / path) == (["a.png", "b.png", "z/x.png"], {})


@pytest.mark.parametrize("path", ["", "*"])
def test_photographs__only_regular_files_are_opened(path, tmp_path):
    save(tmp_path, "a.png")
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "device.png").symlink_to("/dev/zero")
    (tmp_path / "linked_pipe.png").symlink_to("pipe.png")
    assert found(tmp_path / path, keep_missing=True) == (["a.png"], {"special files": 3})
    assert taken_by_all(tmp_path / path)["pseudo-label"] == ["a.png"]
    assert found(tmp_path / "pipe.png") == ([], {"special files": 1})


@pytest.mark.parametrize("path", ["", "*"])
def test_photographs__links_that_lead_nowhere(path, tmp_path):
    save(tmp_path, "b.png")
    (tmp_path / "a.png").symlink_to("gone.png")
    (tmp_path / "c.png").symlink_to("c.png")  # to itself
    assert found(tmp_path / path) == (["b.png"], {"broken links": 2})
    assert found(tmp_path / path, keep_missing=True) == (["a.png", "b.png", "c.png"], {})


def test_photographs__folders_without_permission(tmp_path, monkeypatch):
    save(tmp_path, "a.png", "secret/b.png")
    scandir = os.scandir

    def refuse(path):
        if Path(path).name == "secret":
            raise PermissionError
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert found(tmp_path) == (["a.png"], {"folders without permission": 1})


# --- patterns


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("*.png", ["1.png"]),
        ("*/*.png", ["a/1.png", "a.b/1.png"]),
        ("a/**", ["1.png", "2.jpg", "c/3.png", "c/d/4.png"]),
        ("a/**/**/*", ["1.png", "2.jpg", "c/3.png", "c/d/4.png"]),
        ("**/c/*", ["a/c/3.png"]),
        ("**/*.png", ["1.png", "a/1.png", "a/c/3.png", "a/c/d/4.png", "a.b/1.png"]),
        ("a/**/d/*.png", ["c/d/4.png"]),
        ("[a]/?.[jp]*g", ["a/1.png", "a/2.jpg"]),
        ("*/../1.png", ["1.png"]),
        (".hidden/*", ["h.png"]),
        ("no*", []),
    ],
)
def test_photographs__patterns_match_as_glob_does(pattern, names, tmp_path):
    save(tmp_path, "1.png", "a/1.png", "a/2.jpg", "a/c/3.png", "a/c/d/4.png", "a.b/1.png", ".hidden/h.png", "a/.x.png")
    (tmp_path / "dir.png").mkdir()
    assert sorted(set(found(tmp_path / pattern)[0])) == sorted(names)


# --- what is said of it


def test_describe_skipped__one_line_of_the_most_frequent_kinds():
    photographs = Photographs(".")
    assert photographs.describe_skipped() == ""
    photographs.skipped = Counter({".heic": 12, "depth maps of a record folder": 3, "hidden files": 1, ".ms": 1})
    assert photographs.describe_skipped() == (
        "skipped: 12 .heic, 3 depth maps of a record folder, 1 .ms, 1 hidden file"
    )
    photographs.skipped = Counter({f".{letter}": 2 for letter in "abcdefgh"})
    assert photographs.describe_skipped() == "skipped: 2 .a, 2 .b, 2 .c, 2 .d, 2 .e, 2 .f, 4 more"


def test_load_images__logs_what_it_skipped(tmp_path, caplog):
    save(tmp_path, "a.png", "b.HEIC", "c.heic")
    with caplog.at_level(logging.WARNING):
        load_images(tmp_path)
    assert caplog.messages == [f"{tmp_path}: skipped: 2 .heic"]
    caplog.clear()
    load_images(tmp_path / "a.png")
    assert caplog.messages == []
    with pytest.raises(FileNotFoundError, match=r"\.avif \(skipped: 1 \.heic\): check the path"):
        load_images(tmp_path / "c.heic")


def test_open_source__describes_what_it_skipped(tmp_path):
    save(tmp_path, "a.png", "b.heic")
    assert open_source(tmp_path).describe_skipped() == "skipped: 1 .heic"
    assert open_source(tmp_path, limit=1).describe_skipped() == ""


@pytest.mark.parametrize(("given", "printed"), [("photos", "photos: skipped: 1 .heic\n"), ("photos/a.png", "")])
def test_find_inputs__prints_what_it_skipped(given, printed, tmp_path, monkeypatch, capsys):
    save(tmp_path / "photos", "a.png", "b.heic")
    monkeypatch.chdir(tmp_path)
    find_inputs([given], Kind("image", IMAGE_EXTENSIONS), Path("out"), lambda _: False)
    assert capsys.readouterr().out == printed
