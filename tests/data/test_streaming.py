import re

import datasets
import numpy as np
import pyarrow.parquet as pq
import pytest
from datasets.packaged_modules.parquet.parquet import Parquet

from depth_anything_hf.data.folder import load_folder, stream_folder, write_image_folder
from depth_anything_hf.data.records import decode_record, encode_record, record_features


@pytest.fixture(autouse=True, scope="module")
def cache(tmp_path_factory):
    """The tests leave nothing in the user's cache of `datasets`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
        yield


def make(index, **extra):
    image = np.random.default_rng(index).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    return encode_record(image, np.full((4, 6), 1.0 + index), space="disparity", source=f"s{index}", **extra)


def write_shard(file, indices, features=None, **extra):
    records = [make(index, **extra) for index in indices]
    datasets.Dataset.from_list(records, features=features or record_features()).to_parquet(str(file))


@pytest.fixture
def folder(tmp_path):
    """Six shards of two records, as the engine lays them out; the name holds what a glob pattern would not match."""
    root = tmp_path / "labels [v1]"
    for shard in range(6):
        write_shard(root / "data" / f"part-{shard}.parquet", (2 * shard, 2 * shard + 1))
    return root


def sources(stream):
    return [record["source"] for record in stream]


def test_stream_folder__gives_every_record_as_load_folder_does(folder):
    stream, loaded = stream_folder(folder), {record["source"]: record for record in load_folder(folder)}
    assert isinstance(stream, datasets.IterableDataset)
    assert stream.num_shards == 6
    assert stream.features == load_folder(folder).features
    assert sorted(sources(stream)) == sorted(loaded)
    for record in stream:
        sample, expected = decode_record(record), decode_record(loaded[record["source"]])
        assert record.keys() == loaded[record["source"]].keys()
        assert np.array_equal(np.asarray(sample.image), np.asarray(expected.image))
        assert np.array_equal(sample.values, expected.values)


def test_stream_folder__several_folders_are_one_stream(folder, tmp_path):
    (tmp_path / "more").mkdir()
    write_shard(tmp_path / "more" / "part-0.parquet", (20, 21))
    found = sources(stream_folder(folder, tmp_path / "more"))
    assert sorted(found) == sorted(f"s{i}" for i in [*range(12), 20, 21])


def test_stream_folder__seed_orders_the_shards(folder):
    orders = [sources(stream_folder(folder, seed=seed)) for seed in range(4)]
    assert orders[1] == sources(stream_folder(folder, seed=1))
    assert len({tuple(order) for order in orders}) > 2
    for order in orders:  # shards are read whole
        assert all(int(b[1:]) == int(a[1:]) + 1 for a, b in zip(order[::2], order[1::2], strict=True))


def test_stream_folder__reads_no_record_before_iteration(folder, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("a record was read")

    monkeypatch.setattr(Parquet, "_generate_tables", refuse)
    stream = stream_folder(folder)
    with pytest.raises(AssertionError, match="a record was read"):
        next(iter(stream))


def test_stream_folder__shards_may_lie_in_the_folder_itself(tmp_path):
    write_shard(tmp_path / "a.parquet", [0])
    assert sources(stream_folder(tmp_path)) == ["s0"]


def test_stream_folder__columns_of_all_shards(tmp_path):
    extra = {"own_size": datasets.Value("bool")}
    write_shard(tmp_path / "a.parquet", [0])
    write_shard(tmp_path / "b.parquet", [1], record_features(**extra), own_size=True)
    assert {record["source"]: record["own_size"] for record in stream_folder(tmp_path)} == {"s0": None, "s1": True}


def test_stream_folder__schema_types_without_the_metadata_of_datasets(tmp_path):
    write_shard(tmp_path / "a.parquet", [0])
    pq.write_table(pq.read_table(tmp_path / "a.parquet").replace_schema_metadata(None), tmp_path / "a.parquet")
    (record,) = stream_folder(tmp_path)
    assert record["depth_map"].mode == "I;16"


def test_stream_folder__missing_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere: no such folder; a stream needs parquet shards.*check the"):
        stream_folder(tmp_path / "nowhere")


def test_stream_folder__no_parquet(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"no \*.parquet in it.*write them with `depth-anything-hf pseudo-label`"
    ):
        stream_folder(tmp_path)
    write_image_folder([make(0)], tmp_path)
    with pytest.raises(FileNotFoundError, match="or read it with load_folder"):
        stream_folder(tmp_path)


def test_stream_folder__missing_columns(tmp_path):
    datasets.Dataset.from_dict({"a": [1]}).to_parquet(str(tmp_path / "a.parquet"))
    with pytest.raises(ValueError, match=re.escape("columns ['image', 'depth_map'")):
        stream_folder(tmp_path)


def test_stream_folder__several_splits(tmp_path):
    write_shard(tmp_path / "train-0.parquet", [0])
    write_shard(tmp_path / "test-0.parquet", [1])
    with pytest.raises(ValueError, match=r"holds the splits \['test', 'train'\]"):
        stream_folder(tmp_path)
