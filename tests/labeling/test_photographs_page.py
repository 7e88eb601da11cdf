"""Each row of docs/photographs.md: its command reads a small tree in the form of the official archives."""

import io
import json
import re
import shlex
import tarfile
from pathlib import Path

import lmdb
import pytest
from PIL import Image

from depth_anything_hf.cli.main import main
from depth_anything_hf.data.folder import load_folder
from depth_anything_hf.labeling.decoding import Decoder, Picture, Rejected
from depth_anything_hf.labeling.plan import BlockId, Work
from depth_anything_hf.labeling.sources import open_source

PAGE = (Path(__file__).parents[2] / "docs/photographs.md").read_text(encoding="utf-8")
COMMANDS = {
    name.strip(): command
    for name, command in re.findall(
        r"^\| ([^|]+) \|.*`(depth-anything-hf pseudo-label [^`]+)` \|$", PAGE, re.MULTILINE
    )
}


def photo(kind="JPEG", mode="RGB", size=(32, 24), **options) -> bytes:
    file = io.BytesIO()
    Image.new(mode, size, 50 if mode == "L" else tuple(range(50, 50 + len(mode)))).save(file, kind, **options)
    return file.getvalue()


def save_tar(path, members, mode="w"):
    """Write a tar file with the entries of folders that the official ones have, too."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as archive:
        for folder in dict.fromkeys(str(Path(name).parent) for name in members if "/" in name):
            entry = tarfile.TarInfo(folder)
            entry.type = tarfile.DIRTYPE
            archive.addfile(entry)
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return path


def bdd100k(root):
    for name in (
        "train/0a0a0b1a-7c39d841",
        "train/0a0b16e4-93d8c456",
        "val/b1c66a42-6f7d68ca",
        "test/cabc30fc-e7726578",
    ):
        path = root / "bdd100k/images/100k" / f"{name}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(photo())
    return [
        "test/cabc30fc-e7726578.jpg",
        "train/0a0a0b1a-7c39d841.jpg",
        "train/0a0b16e4-93d8c456.jpg",
        "val/b1c66a42-6f7d68ca.jpg",
    ]


def google_landmarks(root):
    for number, name in enumerate(("0/0/0/000b15b043eb8bb1", "0/0/1/001012ab34cd56ef")):
        save_tar(root / f"google-landmark/train/images_00{number}.tar", {f"{name}.jpg": photo()})
    return ["images_000.tar/0000000/0/0/0/000b15b043eb8bb1", "images_001.tar/0000000/0/0/1/001012ab34cd56ef"]


def imagenet21k(root):
    inner = {}
    for number in (2352591, 2352592):
        members = {f"n0{number}_{i}.JPEG": photo("PNG" if i == 10 else "JPEG") for i in (1, 10, 123)}
        inner[f"n0{number}.tar"] = save_tar(root / "classes" / f"n0{number}.tar", members).read_bytes()
    save_tar(root / "imagenet21k/fall11_whole.tar", inner)
    return [
        f"fall11_whole.tar/{row:07d}/n0{number}/n0{number}_{i}"
        for row, (number, i) in enumerate((number, i) for number in (2352591, 2352592) for i in (1, 10, 123))
    ]


def lsun(root):
    keys = {}
    for category, kind in (("bedroom_train_lmdb", "WEBP"), ("church_outdoor_train_lmdb", "JPEG")):
        (root / "lsun").mkdir(exist_ok=True)
        keys[category] = [f"{number:040x}" for number in (7, 3, 2**150)]
        with (
            lmdb.open(str(root / "lsun" / category), map_size=1 << 22) as environment,
            environment.begin(write=True) as put,
        ):
            for key in keys[category]:
                put.put(key.encode(), photo(kind))
    return [f"{name}/{row:07d}/{key}" for name in keys for row, key in enumerate(sorted(keys[name]))]


def objects365(root):
    for number in (0, 1):
        members = {f"patch{number}/objects365_v1_{10 * number + i:08d}.jpg": photo() for i in range(2)}
        save_tar(root / f"objects365/train/patch{number}.tar.gz", members, "w:gz")
    return [
        f"patch{number}.tar.gz/{row:07d}/patch{number}/objects365_v1_{10 * number + row:08d}"
        for number in (0, 1)
        for row in (0, 1)
    ]


def open_images(root):
    for part, name in (("0", "000002b66c9c498e"), ("f", "f00002b66c9c498f")):
        save_tar(root / f"open-images/train_{part}.tar.gz", {f"train_{part}/{name}.jpg": photo()}, "w:gz")
    return ["train_0.tar.gz/0000000/train_0/000002b66c9c498e", "train_f.tar.gz/0000000/train_f/f00002b66c9c498f"]


def places365(root):
    names = ("data_large/a/airfield/00000001", "data_large/a/apartment_building/outdoor/00000001")
    save_tar(root / "places365/train_large_places365standard.tar", {f"{name}.jpg": photo() for name in names})
    return [f"train_large_places365standard.tar/{row:07d}/{name}" for row, name in enumerate(names)]


def sa_1b(root):
    members = {}
    for number in range(1, 9):
        # JSON of no one type: whole and broken numbers, an empty list, a further key
        masks = [{"bbox": [1, 2, 3, 4], "area": 12}, {"bbox": [0.5, 2.0, 3.0, 4.0], "area": 6.5, "crop_box": []}]
        about = {"image": {"image_id": number, "width": 32, "height": 24, "file_name": f"sa_{number}.jpg"}}
        members[f"./sa_{number}.jpg"] = photo()
        members[f"./sa_{number}.json"] = json.dumps(about | {"annotations": masks[: number % 3]}).encode()
    save_tar(root / "sa-1b/sa_000000.tar", dict(list(members.items())[:12]))
    save_tar(root / "sa-1b/sa_000001.tar", dict(list(members.items())[12:]))
    first = [f"sa_000000.tar/{row:07d}/./sa_{row + 1}" for row in range(6)]
    return [*first, "sa_000001.tar/0000000/./sa_7", "sa_000001.tar/0000001/./sa_8"]


SETS = {
    "BDD100K": bdd100k,
    "Google Landmarks v2": google_landmarks,
    "ImageNet-21K": imagenet21k,
    "LSUN": lsun,
    "Objects365 v2": objects365,
    "Open Images V7": open_images,
    "Places365": places365,
    "SA-1B": sa_1b,
}


def test_page__has_a_row_for_each_set():
    assert COMMANDS.keys() == SETS.keys()


def images_of(command: str) -> str:
    words = shlex.split(command)
    return words[words.index("--images") + 1]


@pytest.mark.parametrize("name", SETS)
def test_page__the_command_reads_the_official_form(name, tmp_path, monkeypatch):
    expected = SETS[name](tmp_path)
    monkeypatch.chdir(tmp_path)
    source = open_source(images_of(COMMANDS[name]))
    items = [item for part in range(len(source.parts)) for item in source.read(part)]
    assert [item.key for item in items] == expected
    decoded = [Decoder(56, 14)[Work(BlockId(0, 0), 0, item)] for item in items]
    assert [type(one) for one in decoded] == [Picture] * len(expected)
    assert {one.pixels.shape for one in decoded} == {(24, 32, 3)}
    assert [item.key for part in range(len(source.parts)) for item in source.read(part)] == expected  # and again


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ImageNet-21K", "LSUN", "Objects365 v2", "SA-1B"])
def test_page__the_command_labels_every_photograph(name, tmp_path, monkeypatch, teacher):
    expected = SETS[name](tmp_path)
    monkeypatch.chdir(tmp_path)
    command = shlex.split(COMMANDS[name].replace("--model T ", f"--model {teacher} "))[1:]
    # with a worker: it is forked, and opens the database itself
    assert main([*command, "--device", "cpu", "--num-workers", "1", "--resolution", "56"]) == 0
    assert sorted(load_folder(command[command.index("--out") + 1])["source"]) == sorted(expected)


def test_imagenet__files_of_other_kinds_are_decoded_by_content_and_broken_ones_named(tmp_path):
    cmyk, cut = photo(mode="CMYK"), photo(size=(320, 240))
    members = {"n01_1.JPEG": cmyk, "n01_2.JPEG": cut[: len(cut) // 2], "n01_3.JPEG": photo("PNG"), "n01_4.JPEG": b""}
    inner = save_tar(tmp_path / "n01.tar", members).read_bytes()
    items = list(
        open_source(save_tar(tmp_path / "whole" / "winter21_whole.tar.gz", {"n01.tar": inner}, "w:gz")).read(0)
    )
    assert [item.key.split("/", 2)[2] for item in items] == [f"n01/n01_{i}" for i in (1, 2, 3, 4)]
    decoded = [Decoder(56, 14)[Work(BlockId(0, 0), 0, item)] for item in items]
    assert [type(one) for one in decoded] == [Picture, Rejected, Picture, Rejected]
