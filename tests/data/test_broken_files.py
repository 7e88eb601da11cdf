"""Whatever is broken in a file, the error names the file, and the record where that is known."""

import io
import json

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from torch.utils.data import DataLoader

from depth_anything_hf.data.folder import load_folder, load_images, stream_folder, write_image_folder
from depth_anything_hf.data.pairs import load_pairs
from depth_anything_hf.data.records import decode_record, encode_record, record_features
from depth_anything_hf.data.sound_records import SoundRecords

SIZE = (40, 30)  # width and height


@pytest.fixture(autouse=True, scope="module")
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
        yield


def photo():
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (*SIZE[::-1], 3), dtype=np.uint8))


def depth():
    return np.random.default_rng(1).uniform(1, 5, SIZE[::-1])


DAMAGE = {
    "empty": lambda data: b"",
    "cut short": lambda data: data[:5],
    "cut": lambda data: data[: len(data) // 2],
    "cut at the end": lambda data: data[:-60],
    "zeros": lambda data: bytes(len(data)),
    "text": lambda data: b"<html>404 not found</html>",
    "pointer": lambda data: b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n",
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("ending", [".npy", ".npz", ".png", ".jpg"])
def test_load_pairs__names_file_and_record(damage, ending, tmp_path):
    (tmp_path / "rgb").mkdir(), (tmp_path / "depth").mkdir()
    photo().save(tmp_path / "rgb" / "stem.jpg")
    broken = tmp_path / "depth" / f"stem{ending}"
    if ending == ".jpg":
        broken = tmp_path / "rgb" / "stem.jpg"
    if ending == ".npz":
        np.savez(broken, depth=depth())
    elif ending == ".npy":
        np.save(broken, depth())
    else:
        Image.fromarray((1000 * depth()).astype(np.uint16)).save(tmp_path / "depth" / "stem.png")
    broken.write_bytes(DAMAGE[damage](broken.read_bytes()))
    with pytest.raises((OSError, ValueError), match=rf"record stem, .*stem\{ending}") as caught:
        load_pairs(tmp_path / "rgb", tmp_path / "depth", "depth", unit="m")[0]
    assert "object at 0x" not in str(caught.value)


@pytest.mark.parametrize("damage", DAMAGE)
def test_load_images__names_the_file(damage, tmp_path):
    photo().save(tmp_path / "a.jpg")
    photo().save(tmp_path / "b.jpg")
    (tmp_path / "b.jpg").write_bytes(DAMAGE[damage]((tmp_path / "b.jpg").read_bytes()))
    photographs = load_images(tmp_path)
    assert photographs[0]["image"].size == SIZE
    with pytest.raises((OSError, ValueError), match=r"b\.jpg: "):
        photographs[1]


@pytest.mark.slow
@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("broken", ["images/000001.png", "depth/000001.png"])
@pytest.mark.parametrize("workers", [0, 1])
def test_load_folder__names_the_file_in_workers_too(damage, broken, workers, tmp_path):
    if workers and damage != "cut":
        pytest.skip("one is enough: starting workers takes long")
    records = [encode_record(photo(), depth(), source=f"s{i}") for i in range(3)]
    folder = write_image_folder(records, tmp_path / "set")
    (folder / broken).write_bytes(DAMAGE[damage]((folder / broken).read_bytes()))
    loader = DataLoader(load_folder(folder), batch_size=1, num_workers=workers, collate_fn=list)
    with pytest.raises((OSError, ValueError), match=rf"{broken}: "):
        list(loader)


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("column", ["image", "depth_map"])
def test_parquet__names_the_image(damage, column, tmp_path):
    record = encode_record(photo(), depth(), source="s0")
    (row,) = datasets.Dataset.from_list([record], features=record_features()).with_format("arrow")[:].to_pylist()
    row[column] = {"bytes": DAMAGE[damage](row[column]["bytes"]), "path": "inside.png"}
    table = pa.Table.from_pylist([row], schema=record_features().arrow_schema)
    pq.write_table(table, tmp_path / "a.parquet")
    for read in (lambda: load_folder(tmp_path)[0], lambda: next(iter(stream_folder(tmp_path)))):
        with pytest.raises((OSError, ValueError), match=r"inside\.png: "):
            read()


def test_decode_record__names_record_and_file(tmp_path):
    (tmp_path / "a.png").write_bytes(b"")
    for image in ({"bytes": None, "path": str(tmp_path / "a.png")}, {"bytes": b"", "path": "a.png"}):
        with pytest.raises(OSError, match=r"record kitchen .*a\.png"):
            decode_record({"image": image, "source": "kitchen"})
    with pytest.raises(FileNotFoundError, match=r"record kitchen .*gone\.png"):
        decode_record({"image": {"bytes": None, "path": str(tmp_path / "gone.png")}, "source": "kitchen"})
    photo().save(tmp_path / "cut.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "cut.jpg").read_bytes()[:700])
    with Image.open(tmp_path / "cut.jpg") as lazily, pytest.raises(OSError, match=r"record kitchen .*cut\.jpg"):
        decode_record({"image": lazily, "source": "kitchen"})


@pytest.mark.parametrize("where", ["start", "middle", "end"])
def test_shards__one_that_is_cut_is_named(where, tmp_path):
    record = encode_record(photo(), depth(), source="s0")
    datasets.Dataset.from_list([record] * 4, features=record_features()).to_parquet(str(tmp_path / "a.parquet"))
    data = (tmp_path / "a.parquet").read_bytes()
    (tmp_path / "a.parquet").write_bytes(data[: {"start": 0, "middle": len(data) // 2, "end": len(data) - 10}[where]])
    for read in (load_folder, stream_folder):
        with pytest.raises(OSError, match=r"a\.parquet cannot be read"):
            read(tmp_path)


def test_sound_records__go_on(tmp_path, caplog):
    folder = write_image_folder(
        [encode_record(photo(), depth() + i, source=f"s{i}") for i in range(5)], tmp_path / "set"
    )
    for broken in ("images/000001.png", "depth/000002.png", "images/000004.png"):
        (folder / broken).write_bytes(b"broken")
    records = SoundRecords(load_folder(folder))
    assert [records[i].source for i in range(5)] == ["s0", "s3", "s3", "s3", "s0"]
    assert [records[i].source for i in range(5)] == ["s0", "s3", "s3", "s3", "s0"]
    assert sorted(records.broken) == [1, 2, 4]
    assert len(caplog.records) == 3  # each is named once
    assert "record 1 is skipped, 1 so far" in caplog.text
    assert "images/000001.png" in caplog.text
    for name in ("images/000000.png", "images/000003.png"):
        (folder / name).write_bytes(b"broken")
    with pytest.raises(ValueError, match=r"none of 5 records can be read; the first: .*depth/000002\.png"):
        SoundRecords(load_folder(folder))[2]


@pytest.mark.parametrize("column", ["depth_scale", "depth_offset", "space"])
@pytest.mark.parametrize("kind", ["metadata", "parquet"])
def test_load_folder__a_record_with_wrong_numbers_is_named_by_its_image(column, kind, tmp_path):
    records = [encode_record(photo(), depth()) for _ in range(3)]
    records[1][column] = "no" if column == "space" else float("nan")
    if kind == "parquet":
        for place, record in enumerate(records):
            record["image"].save(file := io.BytesIO(), "PNG")
            record["image"] = {"bytes": file.getvalue(), "path": f"{place}.png"}
        datasets.Dataset.from_list(records, features=record_features()).to_parquet(tmp_path / "a.parquet")
    else:
        write_image_folder([encode_record(photo(), depth()) for _ in range(3)], tmp_path)
        lines = (tmp_path / "metadata.jsonl").read_text().splitlines()
        lines[1] = json.dumps(json.loads(lines[1]) | {column: records[1][column]})
        (tmp_path / "metadata.jsonl").write_text("\n".join(lines))
    data = load_folder(tmp_path)
    decode_record(data[0])
    name = "000001.png" if kind == "metadata" else "1.png"
    with pytest.raises(ValueError, match=rf"^record .*{name}: {column}"):
        decode_record(data[1])
