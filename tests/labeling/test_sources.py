import io
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import lmdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, Features, Image, Value
from PIL import Image as PilImage

from depth_anything_hf.data.folder import write_image_folder
from depth_anything_hf.data.records import encode_record
from depth_anything_hf.labeling.sources import ImageSource, open_source


@pytest.fixture(autouse=True)
def _no_network(monkeypatch):
    """`datasets` reports each `load_dataset` to the Hub, and waits for seconds where there is no network."""
    monkeypatch.setattr("datasets.config.HF_UPDATE_DOWNLOAD_COUNTS", False)


def png(grey: int = 0) -> bytes:
    file = io.BytesIO()
    PilImage.new("RGB", (4, 3), (grey, grey, grey)).save(file, "PNG")
    return file.getvalue()


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(png())
    return root


def tar(path: Path, members: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def photos_tar(path: Path, count: int) -> Path:
    return tar(path, {f"{i}.png": png(i) for i in range(count)})


def parquet(path: Path, count: int, **columns) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = {"image": [{"bytes": png(i), "path": f"{i}.png"} for i in range(count)]}
    features = Features({"image": Image()} | {name: feature for name, (feature, _) in columns.items()})
    Dataset.from_dict(rows | {n: v for n, (_, v) in columns.items()}, features=features).to_parquet(str(path))
    return path


def keys(source: ImageSource) -> list[str]:
    return [item.key for part in range(len(source.parts)) for item in source.read(part)]


def read_until_broken(source: ImageSource, part: int) -> tuple[list[str], str]:
    found = []
    with pytest.raises((ValueError, EOFError, OSError, tarfile.TarError)) as caught:
        found.extend(item.key for item in source.read(part))  # extend keeps what came before the error
    return found, str(caught.value)


# --- folders


def test_open_source__reads_a_folder_tree_in_order(tmp_path):
    touch(tmp_path, "b.png", "a/z.JPG", "a/b/c.webp", "c.gif", "notes.txt", "a.b/q.jpeg", "10.png", "9.png")
    source = open_source(tmp_path)
    assert keys(source) == ["10.png", "9.png", "a/b/c.webp", "a/z.JPG", "a.b/q.jpeg", "b.png", "c.gif"]
    assert keys(source) == keys(open_source(tmp_path))  # and again
    assert (source.count(), source.parts, source.whole_files, source.revision) == (7, ("photographs",), False, None)
    image = list(source.read(0))[2].image
    assert image == {"bytes": None, "path": str(tmp_path / "a/b/c.webp")}


def test_open_source__leaves_out_what_is_hidden(tmp_path):
    touch(tmp_path, "a.png", ".b.png", ".cache/c.png", "d/.e.png")
    assert keys(open_source(tmp_path)) == ["a.png"]


def test_open_source__lists_a_tree_as_it_goes(tmp_path, monkeypatch):
    touch(tmp_path, "a/1.png", "b/2.png", "c/3.png")
    listed = []
    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: listed.append(Path(path).name) or scandir(path))
    source = open_source(tmp_path)
    listed.clear()
    items = source.read(0)
    assert listed == []
    next(items)
    assert "c" not in listed


def test_open_source__follows_links_but_not_round(tmp_path):
    touch(tmp_path / "elsewhere", "x.png")
    photos = touch(tmp_path / "photos", "a/1.png")
    (photos / "a" / "up").symlink_to(photos, target_is_directory=True)
    (photos / "z").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    assert keys(open_source(photos)) == ["a/1.png", "z/x.png"]


def test_open_source__dangling_links_are_inputs(tmp_path):
    touch(tmp_path, "b.png")
    (tmp_path / "a.png").symlink_to(tmp_path / "gone.png")
    (tmp_path / "c.png").symlink_to("c.png")  # to itself
    (tmp_path / "d.txt").symlink_to(tmp_path / "gone.txt")
    assert keys(open_source(tmp_path)) == ["a.png", "b.png", "c.png"]


def test_open_source__depth_maps_of_an_imagefolder_are_no_photographs(tmp_path):
    records = [encode_record(PilImage.new("RGB", (2, 1)), [[1.0, 2.0]]) for _ in range(2)]
    write_image_folder(records, tmp_path / "sets" / "mine")
    touch(tmp_path / "sets", "other/a.png")
    assert keys(open_source(tmp_path / "sets" / "mine")) == ["images/000000.png", "images/000001.png"]
    below = ["mine/images/000000.png", "mine/images/000001.png", "other/a.png"]
    assert keys(open_source(tmp_path / "sets")) == below


def test_open_source__imagefolder_gives_each_file_once(tmp_path):
    names = ["a.png", "a.png", "x.heic", "../b.png"]  # whatever their ending: they are listed; the last is not its own
    (tmp_path / "set").mkdir()
    lines = "\n".join(json.dumps({"file_name": name}) for name in names)
    (tmp_path / "set" / "metadata.jsonl").write_text(lines + "\n\n")
    source = open_source(tmp_path / "set")
    assert keys(source) == ["a.png", "x.heic"]
    assert source.describe_skipped() == "skipped: 1 file outside of the record folder"


def test_open_source__imagefolder_without_file_names_is_an_error(tmp_path):
    touch(tmp_path, "a.png")
    (tmp_path / "metadata.jsonl").write_text('\n{"url": "x"}\n')
    with pytest.raises(ValueError, match=r"metadata\.jsonl, line 2: file_name is None; write the photograph's path"):
        open_source(tmp_path)


def test_open_source__takes_a_pattern(tmp_path):
    touch(tmp_path, "a/1.png", "a/2.jpg", "b/3.png", "b/c/4.png", "b/c/.5.png", "b/d.png/6.txt")
    assert keys(open_source(f"{tmp_path}/*/*.png")) == ["a/1.png", "b/3.png"]
    every = ["a/1.png", "a/2.jpg", "b/3.png", "b/c/4.png"]
    assert keys(open_source(f"{tmp_path}/**/*")) == every
    assert keys(open_source(f"{tmp_path}/**/**/*")) == every  # which glob finds twice
    assert open_source(f"{tmp_path}/*/*.png").count() == 2


def test_open_source__takes_a_relative_path(tmp_path, monkeypatch):
    touch(tmp_path, "a/1.png", "2.png")
    monkeypatch.chdir(tmp_path)
    assert keys(open_source("a")) == ["1.png"]
    (item,) = open_source("*.png").read(0)
    assert (item.key, item.image["path"]) == ("2.png", str(tmp_path / "2.png"))


def test_open_source__takes_one_file(tmp_path):
    touch(tmp_path, "a.png", "b.png")
    source = open_source(tmp_path / "b.png")
    assert (keys(source), source.count()) == (["b.png"], 1)


def test_open_source__name_with_brackets_is_no_pattern(tmp_path):
    touch(tmp_path, "x[1]/a.png", "y[2].png")
    photos_tar(tmp_path / "z[3].tar", 1)
    assert keys(open_source(tmp_path / "x[1]")) == ["a.png"]
    assert keys(open_source(tmp_path / "y[2].png")) == ["y[2].png"]
    assert keys(open_source(tmp_path / "z[3].tar")) == ["z[3].tar/0000000/0"]


# --- parquet


def test_open_source__reads_parquet_files_as_parts(tmp_path):
    for number in (1, 0):  # written in the other order
        parquet(tmp_path / "data" / f"{number}.parquet", 3 - number)
    source = open_source(tmp_path)
    assert (source.parts, source.column, source.count(), source.whole_files) == (
        ("0.parquet", "1.parquet"),
        "image",
        5,
        True,
    )
    assert [item.key for item in source.read(1)] == ["1.parquet/0000000/0.png", "1.parquet/0000001/1.png"]
    assert [item.image["bytes"] for item in source.read(0)] == [png(0), png(1), png(2)]
    assert keys(open_source(tmp_path / "data" / "1.parquet")) == [item.key for item in source.read(1)]
    assert open_source(f"{tmp_path}/data/*.parquet").parts == source.parts


def test_open_source__two_image_columns_need_a_name(tmp_path):
    path = parquet(tmp_path / "a.parquet", 2, mask=(Image(), [None] * 2), text=(Value("string"), ["x", "y"]))
    with pytest.raises(ValueError, match=r"has the image columns \['image', 'mask'\].*no column is named; name one"):
        open_source(path)
    assert keys(open_source(path, column="image")) == ["a.parquet/0000000/0.png", "a.parquet/0000001/1.png"]
    assert [item.image for item in open_source(path, column="mask").read(0)] == [None, None]
    with pytest.raises(ValueError, match=r"column 'photo' is None"):
        open_source(path, column="photo")


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary(), pa.struct({"bytes": pa.binary()})])
def test_open_source__reads_a_binary_column_by_name(tmp_path, kind):
    values = [{"bytes": png()}, None] if pa.types.is_struct(kind) else [png(), None]
    pq.write_table(pa.table({"jpg": pa.array(values, kind), "n": [1, 2]}), tmp_path / "a.parquet")
    first, second = open_source(tmp_path, column="jpg").read(0)
    assert first.image == {"bytes": png(), "path": None}
    assert second.image is None or second.image == {"bytes": None, "path": None}
    with pytest.raises(ValueError, match=r"image columns \[\] \(of \['jpg', 'n'\]\)"):
        open_source(tmp_path)
    with pytest.raises(ValueError, match=r"column 'n' is Value\('int64'\)"):
        open_source(tmp_path, column="n")


def test_open_source__reads_a_column_of_paths(tmp_path):
    pq.write_table(pa.table({"path": ["/photos/a.jpg"]}), tmp_path / "a.parquet")
    (item,) = open_source(tmp_path, column="path", allow_outside=True).read(0)
    assert item == ("a.parquet/0000000/a.jpg", {"bytes": None, "path": "/photos/a.jpg"}, None)


@pytest.mark.parametrize("broken", ["0", "1"])
def test_open_source__parquet_that_is_cut_stops_no_other(tmp_path, broken):
    for name in ("0", "1"):
        parquet(tmp_path / f"{name}.parquet", 3)
    cut = tmp_path / f"{broken}.parquet"
    cut.write_bytes(cut.read_bytes()[:-50])
    source = open_source(tmp_path)
    assert len(list(source.read(1 - int(broken)))) == 3
    found, message = read_until_broken(source, int(broken))
    assert found == []  # the table of contents stands at the end of a parquet file
    assert "magic bytes not found" in message
    assert source.count() == 3


def test_open_source__no_readable_file_is_an_error(tmp_path):
    (tmp_path / "a.parquet").write_bytes(b"junk")
    (tmp_path / "b.tar").write_bytes(b"junk")
    with pytest.raises(ValueError, match=r"a\.parquet: none of its 1 files can be read \(.*a\.parquet: .*; copy them"):
        open_source(tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=r"b\.tar: none of its 1 files can be read"):
        open_source(tmp_path / "b.tar")


# --- WebDataset


def test_open_source__reads_tar_files(tmp_path):
    members = {f"set/{i}.{end}": content for i in range(2) for end, content in (("jpg", png(i)), ("txt", b"words"))}
    tar(tmp_path / "1.tar", members)
    tar(tmp_path / "0.tar", {"x/a.b.jpg": png(7)})
    source = open_source(f"{tmp_path}/1.tar")
    assert (source.column, source.parts, source.count()) == ("jpg", ("1.tar",), None)
    assert keys(source) == ["1.tar/0000000/set/0", "1.tar/0000001/set/1"]
    assert [item.image["bytes"] for item in source.read(0)] == [png(0), png(1)]


def test_open_source__tar_without_the_image_is_an_input(tmp_path):
    members = {f"{i}.jpg": png(i) for i in range(6)} | {"6.txt": b"words", "7.jpg": png(7)}
    source = open_source(tar(tmp_path / "a.tar", members))
    items = list(source.read(0))
    assert [item.key[-1] for item in items] == list("01234567")
    assert (items[6].image, items[7].image["bytes"]) == (None, png(7))


@pytest.mark.parametrize("kept", [1300, 2048, 2200])  # in a picture; between two files; in a header
def test_open_source__tar_that_is_cut_is_read_to_there(tmp_path, kept):
    whole = photos_tar(tmp_path / "b.tar", 4).read_bytes()
    assert len(whole[:1024].rstrip(b"\0")) > 512  # a picture takes a block for its header and one for itself
    (tmp_path / "a.tar").write_bytes(whole[:kept])
    source = open_source(tmp_path)
    assert [item.key[-1] for item in source.read(1)] == list("0123")
    found, message = read_until_broken(source, 0)
    assert [key[-1] for key in found] == list("01")[: kept // 1024]
    assert message


def test_open_source__tar_with_a_broken_header_is_read_to_there(tmp_path):
    whole = bytearray(photos_tar(tmp_path / "a.tar", 4).read_bytes())
    whole[2048:2148] = b"#" * 100  # the third file's name: tarfile takes that for the end
    (tmp_path / "a.tar").write_bytes(bytes(whole))
    photos_tar(tmp_path / "b.tar", 6)
    found, message = read_until_broken(open_source(tmp_path), 0)
    assert [key[-1] for key in found] == list("01")
    assert message == "no end mark at byte 2048; the file is cut or damaged there"


# --- what is refused


def test_open_source__files_of_two_kinds_are_an_error(tmp_path):
    photos_tar(tmp_path / "a.tar", 1)
    parquet(tmp_path / "a.parquet", 1)
    with pytest.raises(ValueError, match=r"kinds \['\.parquet', '\.tar'\]; name one kind, such as .*/\*\.parquet"):
        open_source(tmp_path)
    assert len(keys(open_source(f"{tmp_path}/*.tar"))) == 1


def test_open_source__photographs_beside_a_tar_are_not_lost(tmp_path):
    photos_tar(touch(tmp_path, "b.JPG") / "backup.tar", 1)
    with pytest.raises(ValueError, match=r"kinds \['\.JPG', '\.tar'\]"):
        open_source(tmp_path)


def test_open_source__hidden_shards_are_left_out(tmp_path):
    photos_tar(tmp_path / "a.tar", 1)
    (tmp_path / "._a.tar").write_bytes(b"of a Mac")
    assert open_source(tmp_path).parts == ("a.tar",)


def test_open_source__two_files_of_one_name_are_an_error(tmp_path):
    photos_tar(tmp_path / "a.tar", 1)
    photos_tar(tmp_path / "data" / "a.tar", 1)
    with pytest.raises(ValueError, match=r"holds two files called a\.tar; rename one of them"):
        open_source(tmp_path)


@pytest.mark.parametrize("name", ["gone", "gone/gone", "/gone/gone/gone"])
def test_open_source__missing_path_is_an_error(name, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=f"{name} is no file, folder or pattern here, and no dataset"):
        open_source(name)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gone.tar", r"gone\.tar: no such file; check the path"),
        ("gone-*.parquet", r"gone-\*\.parquet: no such file"),
        ("*.jpg", "holds no photograph; looked for files ending in .jpg"),
        ("", "holds no photograph"),
        ("notes.txt", "holds no photograph"),
    ],
)
def test_open_source__nothing_there_is_an_error(tmp_path, name, message):
    (tmp_path / "notes.txt").touch()
    with pytest.raises(FileNotFoundError, match=message):
        open_source(f"{tmp_path}/{name}")


# --- limit


@pytest.mark.parametrize("limit", [1, 3, 4, 99])
def test_open_source__limit_takes_the_first_ones(tmp_path, limit):
    touch(tmp_path / "photos", "a.png", "b.png", "c.png", "d.png")
    for number in range(2):
        parquet(tmp_path / "files" / f"{number}.parquet", 2)
    photos = open_source(tmp_path / "photos", limit=limit)
    assert keys(photos) == ["a.png", "b.png", "c.png", "d.png"][:limit]
    files = open_source(tmp_path / "files", limit=limit)
    assert [item.image["bytes"] for item in files.read(0)] == [png(0), png(1), png(0), png(1)][:limit]
    assert len(set(keys(files))) == min(limit, 4)
    assert photos.count() == files.count() == min(limit, 4)
    assert photos.parts == files.parts == (f"first-{limit}",)


def test_open_source__limit_of_a_tar(tmp_path):
    source = open_source(photos_tar(tmp_path / "a.tar", 3), limit=2)
    assert keys(source) == ["first-2/0000000/0", "first-2/0000001/1"]
    assert source.count() == 2


@pytest.mark.parametrize("limit", [0, -1])
def test_open_source__limit_below_one_is_an_error(tmp_path, limit):
    with pytest.raises(ValueError, match=f"limit is {limit}; it must be at least 1"):
        open_source(touch(tmp_path, "a.png"), limit=limit)


# --- the Hub

HUB_PROGRAM = """
import json
from depth_anything_hf.labeling.sources import open_source
source, few = open_source("x/y"), open_source("x/y", limit=3)
items = [list(source.read(part)) for part in range(len(source.parts))]
try:
    open_source("x/gone")
except FileNotFoundError as error:
    message = str(error)
print(json.dumps({
    "source": [source.name, source.revision, source.parts, source.column, source.whole_files],
    "keys": [[item.key for item in part] for part in items],
    "grey": [[len(item.image["bytes"]) for item in part] for part in items],
    "few": [few.count(), few.revision, len(list(few.read(0)))],
    "message": message,
}))
"""


@pytest.mark.slow
def test_open_source__streams_a_data_set_of_the_hub(hub, tmp_path):
    """In a process of its own, as the Hub's address is read once, at the first import."""
    names = ("data/train-0.parquet", "data/train-1.parquet")
    commit = hub.add("x/y", {name: parquet(tmp_path / name, 2).read_bytes() for name in names}, "dataset")
    environment = os.environ | hub.environment(tmp_path / "cache")
    program = [sys.executable, "-c", HUB_PROGRAM]
    run = subprocess.run(program, env=environment, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout)
    assert found["source"] == ["x/y", commit, ["train-00000", "train-00001"], "image", True]
    assert found["keys"] == [[f"train-0000{part}/000000{row}/{row}.png" for row in range(2)] for part in range(2)]
    assert found["grey"] == [[len(png(0)), len(png(1))]] * 2
    assert found["few"] == [3, commit, 3]
    assert "x/gone is no file, folder or pattern here, and no dataset that the Hub returns" in found["message"]


def test_open_source__names_files_of_another_size_differently(tmp_path):
    parquet(tmp_path / "a.parquet", 2)
    first = open_source(tmp_path).revision
    assert open_source(f"{tmp_path}/").revision == first
    parquet(tmp_path / "a.parquet", 3)
    assert open_source(tmp_path).revision != first


# --- tar files of photographs that are not of the WebDataset form, and LMDB databases


def test_open_source__tar_with_several_kinds_of_images_is_read_whole(tmp_path):
    members = {"1.jpg": png(1), "2.PNG": png(2), "3.JPEG": png(3), "4.json": b"{}", "4.webp": png(4)}
    members |= {"5.jpg": png(5), "6.jpg": png(6), "6.png": png(7)}
    items = list(open_source(tar(tmp_path / "a.tar", members)).read(0))
    assert [item.image["bytes"] for item in items] == [png(i) for i in range(1, 8)]
    assert len({item.key for item in items}) == 7


def test_open_source__tar_with_a_mask_for_each_image_needs_a_name(tmp_path):
    path = tar(tmp_path / "a.tar", {f"{i}.{end}": png(i) for i in range(3) for end in ("jpg", "mask.png")})
    with pytest.raises(ValueError, match=r"has the image columns \['jpg', 'mask.png'\].*no column is named"):
        open_source(path)
    assert [item.image["path"] for item in open_source(path, column="mask.png").read(0)] == [
        f"{i}.mask.png" for i in range(3)
    ]
    with pytest.raises(ValueError, match=r"column 'png' is None"):
        open_source(path, column="png")


def test_open_source__folders_beside_archives_are_counted(tmp_path):
    photos_tar(tmp_path / "a.tar", 1)
    assert open_source(tmp_path).describe_skipped() == ""
    touch(tmp_path, "more/b.png", ".cache/c.png", "data/notes.txt")
    assert open_source(tmp_path).describe_skipped() == "skipped: 1 folder beside the files: label each alone"


@pytest.mark.parametrize("limit", [None, 3])
def test_open_source__reads_databases_as_parts(tmp_path, limit):
    for name in ("b_lmdb", "a_lmdb"):
        with lmdb.open(str(tmp_path / name), map_size=1 << 22) as environment, environment.begin(write=True) as put:
            for i in (1, 0):
                put.put(f"{i:040x}".encode(), png(i))
    source = open_source(tmp_path, limit=limit)
    if limit is None:
        assert (source.parts, source.count(), source.whole_files) == (("a_lmdb", "b_lmdb"), 4, True)
        assert [item.key for item in source.read(1)] == [f"b_lmdb/000000{i}/{i:040x}" for i in (0, 1)]
        assert [item.image["bytes"] for item in source.read(0)] == [png(0), png(1)]
        (tmp_path / "a.lmdb").symlink_to(tmp_path / "a_lmdb")
        assert len(keys(open_source(tmp_path / "a.lmdb"))) == 2
        assert open_source(tmp_path / "*_lmdb").parts == source.parts
        assert keys(open_source(tmp_path / "a_lmdb")) == [item.key for item in source.read(0)]
    else:
        assert (source.count(), len(keys(source)), len(keys(source))) == (3, 3, 3)
