import json
import re
from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image

from depth_anything_hf.data.codes import depth_map_to_image, image_to_codes
from depth_anything_hf.data.folder import load_folder, load_images, write_image_folder
from depth_anything_hf.data.records import decode_record, encode_record, record_features

DOC = Path(__file__).parents[2] / "docs" / "data_format.md"


@pytest.fixture(autouse=True, scope="module")
def cache(tmp_path_factory):
    """The tests leave nothing in the user's cache of `datasets`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
        yield


def make(index, **changes):
    rng = np.random.default_rng(index)
    image = rng.integers(0, 256, (4, 6, 3), dtype=np.uint8)
    arguments = {"values": rng.uniform(0.5, 80, (4, 6)), "source": f"scene {index}", "group": f"g{index}"} | changes
    if isinstance(arguments["values"], np.ndarray):
        arguments["values"][0, 0] = np.nan
    return encode_record(image, **arguments)


def save_by_hand(folder, names, **columns):
    """An imagefolder with the given names of files, not written by our writer."""
    lines = []
    for index, name in enumerate(names):
        for part in ("images", "depth"):
            (folder / part / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (6, 4), (index, 0, 0)).save(folder / "images" / name)
        depth_map_to_image(np.full((4, 6), 40000 + index, np.uint16)).save(folder / "depth" / name)
        line = {"file_name": f"images/{name}", "depth_map_file_name": f"depth/{name}", "depth_scale": 1}
        line |= {"depth_offset": 0, "space": "depth", "intrinsics": None, "source": name}
        lines.append(line | {key: values[index] for key, values in columns.items()})
    write_metadata(folder, lines)
    return folder


def write_metadata(folder, lines):
    (folder / "metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def same(left, right):
    a, b = decode_record(left), decode_record(right)
    assert np.array_equal(np.asarray(a.image), np.asarray(b.image))
    assert (a.space, a.source, a.group, a.intrinsics) == (b.space, b.source, b.group, b.intrinsics)
    for name in ("values", "mask", "sky"):
        x, y = getattr(a, name), getattr(b, name)
        assert (x is None and y is None) or np.array_equal(x, y)
    if a.values is not None:
        assert np.array_equal(image_to_codes(left["depth_map"]), image_to_codes(right["depth_map"]))
        assert (left["depth_scale"], left["depth_offset"]) == (right["depth_scale"], right["depth_offset"])


# ---------------------------------------------------------------------------------------------------- imagefolder


def test_round_trip_is_bit_for_bit(tmp_path):
    sky = np.zeros((4, 6), bool)
    sky[1] = True
    records = [
        make(0),
        make(1, sky=sky, intrinsics=[5, 5.5, 3, 2], weight=np.float32(0.5)),
        make(2, space="disparity"),
        make(3, values=None),
    ]
    out = write_image_folder(iter(records), tmp_path / "out")
    assert sorted(str(p.relative_to(out)) for p in out.rglob("*.*")) == [
        *(f"depth/00000{i}.png" for i in (0, 1, 2)),
        *(f"images/00000{i}.png" for i in range(4)),
        "metadata.jsonl",
        "sky/000001.png",
    ]
    loaded = load_folder(out)
    assert loaded.features == datasets.Features(
        record_features(with_sky=True, with_group=True, weight=datasets.Value("float64"))
    )
    assert len(loaded) == 4
    for left, right in zip(records, loaded, strict=True):
        same(left, right)
    assert loaded[1]["weight"] == 0.5


def test_plain_datasets_reads_what_we_write(tmp_path):
    records = [make(0), make(1)]
    out = write_image_folder(records, tmp_path / "out")
    (data,) = datasets.load_dataset("imagefolder", data_dir=str(out)).values()
    assert data.features["depth_map"] == datasets.Image()
    assert data.features["depth_scale"] == datasets.Value("float64")
    assert data[0]["depth_map"].mode == "I;16"
    for left, right in zip(records, data, strict=True):
        same(left, right)


def test_rows_of_undecoded_images_are_written(tmp_path):
    record = make(0)
    out = write_image_folder([record], tmp_path / "out")
    undecoded = load_folder(out)
    for column in ("image", "depth_map"):
        undecoded = undecoded.cast_column(column, datasets.Image(decode=False))
    assert set(undecoded[0]["image"]) == {"bytes", "path"}
    same(record, load_folder(write_image_folder(undecoded, tmp_path / "again"))[0])


def test_jpeg_images(tmp_path):
    record = make(0)
    out = write_image_folder([record], tmp_path / "out", jpeg_quality=95)
    assert (out / "images" / "000000.jpg").is_file()
    loaded = load_folder(out)[0]
    assert loaded["image"].format == "JPEG"
    assert np.array_equal(image_to_codes(loaded["depth_map"]), image_to_codes(record["depth_map"]))


def test_overwrite(tmp_path):
    out = write_image_folder([make(0), make(1)], tmp_path / "out")
    with pytest.raises(FileExistsError, match="overwrite=True"):
        write_image_folder([make(2)], out)
    assert len(load_folder(out)) == 2
    # the records are read, one by one, from the folder that they replace
    write_image_folder((row for row in load_folder(out).select([1])), out, overwrite=True)
    assert len(list((out / "images").iterdir())) == 1
    same(load_folder(out)[0], make(1))
    (out / "thesis.tex").write_text("")
    with pytest.raises(FileExistsError, match=r"another origin, \['thesis\.tex'\]"):
        write_image_folder([make(0)], out, overwrite=True)


def test_a_failed_write_leaves_no_set_behind(tmp_path):
    def records():
        yield make(0)
        yield make(1) | {"space": "metres"}

    with pytest.raises(ValueError, match=r"scene 1.*space is 'metres'"):
        write_image_folder(records(), tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []
    with pytest.raises(ValueError, match="no records"):
        write_image_folder([], tmp_path / "out")
    with pytest.raises(TypeError, match="a column holds Image"):
        write_image_folder([make(0, extra_picture=Image.new("L", (1, 1)))], tmp_path / "out")
    out = write_image_folder([make(0)], tmp_path / "out")
    with pytest.raises(ValueError, match="scene 1"):
        write_image_folder(records(), out, overwrite=True)
    same(load_folder(out)[0], make(0))


@pytest.mark.parametrize(
    "names",
    [
        ["a.png", "test_1.png"],
        ["train_0.png", "test_1.png", "val_2.png"],
        ["test/0.png", "test/1.png"],
        ["train/0.png", "test/1.png"],
    ],
)
def test_split_names_in_file_names_do_not_hide_labels(tmp_path, names):
    plain = datasets.load_dataset("imagefolder", data_dir=str(save_by_hand(tmp_path, names)))
    assert all("depth_map" not in data.features for data in plain.values())  # the trap that load_folder avoids
    loaded = load_folder(tmp_path)
    assert loaded["source"][:] == names
    assert [image_to_codes(image)[0, 0] for image in loaded["depth_map"]] == [40000 + i for i in range(len(names))]


@pytest.mark.parametrize("name", ["test", "a [1] * b", "b{1,2}", "100%", ".hidden"])
def test_any_folder_name(tmp_path, name):
    (tmp_path / name).mkdir()
    assert load_folder(save_by_hand(tmp_path / name, ["0.png"]))[0]["depth_map"].mode == "I;16"


@pytest.mark.slow
def test_types_do_not_depend_on_the_first_rows(tmp_path):
    folder = save_by_hand(tmp_path, ["0.png"], source=["2024-01-31"])
    line = json.loads((folder / "metadata.jsonl").read_text()) | {"notes": "x" * 4000}
    sky = {"sky_mask_file_name": "depth/0.png", "group": "g", "depth_scale": 0.5, "intrinsics": [1, 2, 3, 4.5]}
    write_metadata(folder, [line] * 2700 + [line | sky])
    assert (folder / "metadata.jsonl").stat().st_size > 10 << 20  # `datasets` takes its types from the first 10 MB
    loaded = load_folder(folder)
    assert loaded[0]["source"].startswith("2024-01-31")
    assert loaded[0]["group"] is None
    last = loaded[len(loaded) - 1]
    assert (last["depth_scale"], last["group"], last["intrinsics"]) == (0.5, "g", [1, 2, 3, 4.5])
    assert decode_record(last).sky.all()


def test_numeric_text_columns(tmp_path):
    loaded = load_folder(save_by_hand(tmp_path, ["0.png", "1.png"], group=[3, 4]))
    assert [decode_record(row).group for row in loaded] == ["3", "4"]


def test_a_changed_folder_is_read_again(tmp_path):
    folder = save_by_hand(tmp_path, ["0.png"])
    assert load_folder(folder)[0]["depth_scale"] == 1
    text = (folder / "metadata.jsonl").read_text()
    (folder / "metadata.jsonl").write_text(text.replace('"depth_scale": 1', '"depth_scale": 2'))
    assert load_folder(folder)[0]["depth_scale"] == 2


def test_load_folder_errors(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such folder"):
        load_folder(tmp_path / "gone")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"neither metadata\.jsonl nor \*\.parquet in it"):
        load_folder(tmp_path / "empty")
    (tmp_path / "train").mkdir()
    save_by_hand(tmp_path / "train", ["0.png"])
    with pytest.raises(FileNotFoundError, match=r"load one of .*train"):
        load_folder(tmp_path)
    write_metadata(tmp_path / "empty", [{"file_name": "a.png", "depth": 1}])
    with pytest.raises(
        ValueError, match=r"\['depth_map', 'depth_scale', 'depth_offset', 'space'\] are missing, found"
    ):
        load_folder(tmp_path / "empty")
    (tmp_path / "empty" / "metadata.jsonl").write_text("{not json")
    with pytest.raises(ValueError, match=r"metadata\.jsonl: .*one JSON object"):
        load_folder(tmp_path / "empty")


def test_photographs_without_label(tmp_path):
    loaded = load_folder(write_image_folder([make(0, values=None), make(1, values=None)], tmp_path / "out"))
    assert [decode_record(row).values for row in loaded] == [None, None]


# ---------------------------------------------------------------------------------------------------- parquet


def test_parquet_round_trip(tmp_path):
    records = [make(0), make(1, intrinsics=[5, 5, 3, 2])]
    for index, record in enumerate(records):
        features = record_features(with_group=True)
        shard = datasets.Dataset.from_generator(lambda record=record: iter([record]), features=features)
        shard.to_parquet(tmp_path / f"test_scene-{index}.parquet")
    loaded = load_folder(tmp_path)
    assert loaded.features == features
    for left, right in zip(records, loaded, strict=True):
        same(left, right)


def test_parquet_of_other_writers(tmp_path):
    import pyarrow.parquet as pq

    (tmp_path / "data").mkdir()
    record = make(0)
    path = tmp_path / "data" / "a.parquet"
    features = record_features(with_group=True)
    datasets.Dataset.from_generator(lambda: iter([record]), features=features).to_parquet(path)
    pq.write_table(pq.read_table(path).replace_schema_metadata(None), path)  # the image type is now a plain struct
    loaded = load_folder(tmp_path)
    assert loaded.features == features
    same(record, loaded[0])


def test_parquet_of_several_splits_is_refused(tmp_path):
    data = datasets.Dataset.from_generator(lambda: iter([make(0)]), features=record_features())
    for name in ("train-00000-of-00001", "test-00000-of-00001"):
        data.to_parquet(tmp_path / f"{name}.parquet")
    with pytest.raises(ValueError, match=r"splits \['test', 'train'\]"):
        load_folder(tmp_path)


# ---------------------------------------------------------------------------------------------------- photographs


def test_load_images(tmp_path):
    for name in ("b.JPG", "a.png", "sub/deep/c.webp", "sub/a.jpeg", ".hidden/d.png", "._a.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (3, 2)).save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("")
    data = load_images(tmp_path)
    assert data["source"][:] == ["a.png", "b.JPG", "sub/a.jpeg", "sub/deep/c.webp"]
    assert decode_record(data[3]).image.size == (3, 2)
    assert load_images(tmp_path, extensions=(".webp",))["source"][:] == ["sub/deep/c.webp"]
    assert load_images(tmp_path / "sub" / "**" / "*.jpeg")["source"][:] == ["a.jpeg"]
    assert load_images(str(tmp_path) + "/s?b/*")["source"][:] == ["sub/a.jpeg"]
    assert load_images(tmp_path / "a.png")["source"][:] == ["a.png"]


def test_load_images_stays_lazy_and_works_from_another_folder(tmp_path, monkeypatch):
    Image.new("RGB", (3, 2)).save(tmp_path / "a.png")
    (tmp_path / "broken.png").write_text("not an image")
    monkeypatch.chdir(tmp_path)
    data = load_images("*.png")
    monkeypatch.chdir("/")
    assert data["source"][:] == ["a.png", "broken.png"]
    assert data[0]["image"].size == (3, 2)


@pytest.mark.parametrize("name", ["", "gone", "*.png", "a [1]"])
def test_no_photographs(tmp_path, name):
    (tmp_path / "a [1]").mkdir()
    with pytest.raises(FileNotFoundError, match=re.escape(f"no photograph at {tmp_path / name}; looked for")):
        load_images(tmp_path / name)


# ---------------------------------------------------------------------------------------------------- the rest


def test_the_code_of_the_document_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", DOC.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert len(blocks) >= 4
    scope = {}
    for block in blocks:
        exec(compile(block, str(DOC), "exec"), scope)


@pytest.mark.slow
def test_real_data(real_data):
    data = load_folder(real_data)
    assert len(data) == 52
    for row in data:
        sample = decode_record(row)
        assert sample.image.size == row["depth_map"].size
        assert sample.mask.mean() == pytest.approx(row["valid_fraction"], abs=1e-3)
        valid = sample.values[sample.mask]
        if sample.space == "depth":
            assert valid.min() > 0.1
            assert valid.max() < 300
        else:
            assert valid.min() >= 0
