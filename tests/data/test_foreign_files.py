"""Records of strangers: no file outside of their folder is read, and no address is fetched."""

import contextlib
import http.server
import io
import json
import threading

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from depth_anything_hf.data.codes import depth_map_to_image
from depth_anything_hf.data.folder import load_folder, stream_folder
from depth_anything_hf.data.records import decode_record, record_features


@pytest.fixture(autouse=True, scope="module")
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
        yield


@pytest.fixture(scope="module")
def address():
    """Where a server listens that keeps the paths it was asked for, and those paths."""
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(404)
            self.end_headers()

        do_HEAD = do_GET  # noqa: N815

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/internal.png", asked
        server.shutdown()


@pytest.fixture
def private(tmp_path):
    """A photograph of the machine's owner, and a set beside it."""
    (tmp_path / "home").mkdir()
    (tmp_path / "set").mkdir()
    Image.new("RGB", (4, 3), (1, 2, 3)).save(tmp_path / "home" / "private.png")
    depth_map_to_image(np.full((3, 4), 5, np.uint16)).save(tmp_path / "home" / "depth.png")
    (tmp_path / "set" / "link.png").symlink_to(tmp_path / "home" / "private.png")
    (tmp_path / "set" / "linked").symlink_to(tmp_path / "home")
    return tmp_path


def names(private, address):
    url = address[0]
    home = private / "home" / "private.png"
    return [
        str(home),
        "../home/private.png",
        f"file://{home}",
        url,
        f"zip://a.png::{url}",
        "link.png",
        "linked/private.png",
    ]


def png(value=9):
    file = io.BytesIO()
    Image.new("RGB", (4, 3), (value,) * 3).save(file, "PNG")
    return file.getvalue()


def codes():
    file = io.BytesIO()
    depth_map_to_image(np.full((3, 4), 5, np.uint16)).save(file, "PNG")
    return file.getvalue()


def write_parquet(folder, image, **columns):
    row = {"image": image, "depth_map": {"bytes": codes(), "path": None}, "depth_scale": 0.5, "depth_offset": 0.0}
    row |= {"space": "depth", "intrinsics": None, "source": "s"} | {
        name: value for name, (value, _) in columns.items()
    }
    features = record_features(**{name: feature for name, (_, feature) in columns.items()})
    table = pa.Table.from_pylist([row], schema=features.arrow_schema)
    folder.mkdir(exist_ok=True)
    pq.write_table(table, folder / "a.parquet")


@pytest.mark.parametrize("which", range(7))
@pytest.mark.parametrize("column", ["image", "depth_map"])
def test_parquet__names_of_others_are_refused(which, column, private, address):
    name = names(private, address)[which]
    write_parquet(private / "set", {"bytes": png(), "path": None})
    table = pq.read_table(private / "set" / "a.parquet").to_pylist()
    table[0][column] = {"bytes": None, "path": name}
    pq.write_table(pa.Table.from_pylist(table, schema=record_features().arrow_schema), private / "set" / "a.parquet")
    for read in (lambda: load_folder(private / "set")[0], lambda: next(iter(stream_folder(private / "set")))):
        with pytest.raises(ValueError, match="a record names files below"):
            decode_record(read())
    assert address[1] == []


def test_parquet__own_files_and_bytes_are_read(private):
    Image.new("RGB", (4, 3), (7, 7, 7)).save(private / "set" / "own.png")
    for image, gray in (
        ({"bytes": None, "path": "own.png"}, 7),
        ({"bytes": None, "path": str(private / "set" / "own.png")}, 7),
        ({"bytes": png(), "path": "/home/author/a.png"}, 9),
        ({"bytes": png(), "path": "https://example.org/a.png"}, 9),
    ):
        write_parquet(private / "set", image)
        for record in (load_folder(private / "set")[0], next(iter(stream_folder(private / "set")))):
            assert decode_record(record).image.getpixel((0, 0)) == (gray,) * 3
    write_parquet(private / "set", {"bytes": None, "path": str(private / "home" / "private.png")})
    (record,) = load_folder(private / "set", allow_outside=True)
    assert decode_record(record).image.getpixel((0, 0)) == (1, 2, 3)
    record = next(iter(stream_folder(private / "set", allow_outside=True)))
    assert decode_record(record).image.getpixel((0, 0)) == (1, 2, 3)


@pytest.mark.parametrize(
    "feature", [datasets.Image(), datasets.List(datasets.Image()), {"inner": datasets.Image()}, datasets.Audio()]
)
def test_parquet__other_columns_fetch_nothing(feature, private, address):
    value = {"bytes": None, "path": address[0]}
    value = [value] if isinstance(feature, datasets.List) else {"inner": value} if isinstance(feature, dict) else value
    write_parquet(private / "set", {"bytes": png(), "path": None}, extra=(value, feature))
    for read in (lambda: load_folder(private / "set")[0], lambda: next(iter(stream_folder(private / "set")))):
        with contextlib.suppress(ValueError):  # the column is opened by the rule of the others
            assert "PIL" not in str(type(read()["extra"]))
    assert address[1] == []


@pytest.mark.parametrize("which", range(7))
@pytest.mark.parametrize("key", ["file_name", "depth_map_file_name", "sky_mask_file_name", "more_file_name"])
def test_metadata__names_of_others_are_refused(which, key, private, address):
    name = names(private, address)[which]
    Image.new("RGB", (4, 3)).save(private / "set" / "own.png")
    depth_map_to_image(np.full((3, 4), 5, np.uint16)).save(private / "set" / "own_depth.png")
    row = {"file_name": "own.png", "depth_map_file_name": "own_depth.png", "sky_mask_file_name": None}
    row |= {"depth_scale": 0.5, "depth_offset": 0.0, "space": "depth", key: name}
    (private / "set" / "metadata.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(ValueError, match="a record names files below"):
        decode_record(load_folder(private / "set")[0])
    assert address[1] == []
