"""A thousand damaged files for each command: every one is used or named, the run goes on, and the exit code says so."""

import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from depth_anything_hf.cli.main import main
from tests.damaged_files import damage, damaged_images, damaged_png_chunks, encode

pytestmark = pytest.mark.slow
MANY = 800  # and 224 with a wrong chunk
NAMES = {f"{number:04}.png" for number in range(1020)}
WHOLE_RECORDS = {f"{number:04}.png" for number in range(0, 1020, 3)}
WHOLE = ("a_whole.png", "m_whole.png", "z_whole.png")


@pytest.fixture(scope="module")
def damaged(tmp_path_factory) -> Path:
    """Folder of the damaged photographs and three whole ones, which stand at its beginning, middle and end."""
    folder = tmp_path_factory.mktemp("damaged")
    files = dict(damaged_images(MANY)) | dict.fromkeys(WHOLE, encode(np.random.default_rng(1), "png"))
    assert len(files) > 1000
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder


@pytest.fixture
def records(tmp_path) -> Path:
    """Folder of records: in every third one the photograph is damaged, in every third the depth map."""
    folder, draw = tmp_path / "records", np.random.default_rng(2)
    folder.mkdir()
    rows = []
    chunks = list(damaged_png_chunks(draw, turned=False))
    for number in range(1020):
        stem = f"{number:04}"
        stream = io.BytesIO()
        codes = draw.integers(1000, 5000, (24, 32), dtype=np.uint16)
        Image.fromarray(codes).save(stream, format="PNG")
        photograph, depth = encode(draw, "png", turned=False), stream.getvalue()
        if number % 3 == 1:
            photograph = chunks[number // 3 % len(chunks)] if number % 2 else damage(draw, photograph)
        if number % 3 == 2:
            depth = damage(draw, depth)
        (folder / f"{stem}.png").write_bytes(photograph)
        (folder / f"{stem}_depth.png").write_bytes(depth)
        row = {"file_name": f"{stem}.png", "depth_map_file_name": f"{stem}_depth.png", "depth_scale": 0.001}
        rows.append(row | {"depth_offset": 0.0, "space": "depth", "source": f"{stem}.png"})
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.mark.parametrize("tile", [False, True])
def test_predict(tile, damaged, checkpoint, tmp_path, capsys):
    out = tmp_path / "out"
    options = ["--tile", "56"] if tile else []
    assert main(["predict", str(damaged), "--model", checkpoint, "--out", str(out), *options]) == 1
    said = "".join(capsys.readouterr())
    lost = [
        file.name
        for file in damaged.iterdir()
        if not (out / f"{file.name.replace('.', '_')}.npy").is_file() and file.name not in said
    ]
    assert lost == []
    assert all((out / f"{name.replace('.', '_')}.npy").is_file() for name in WHOLE)


def test_pseudo_label(damaged, checkpoint, tmp_path):
    import pyarrow.parquet as pq

    out = tmp_path / "out"
    command = ["pseudo-label", "--model", checkpoint, "--images", str(damaged), "--out", str(out)]
    assert main([*command, "--resolution", "56", "--num-workers", "0"]) == 0
    labeled = {name for shard in out.glob("**/*.parquet") for name in pq.read_table(shard)["source"].to_pylist()}
    rejected = {row["key"] for row in map(json.loads, (out / "rejects.jsonl").read_text().splitlines())}
    assert labeled | rejected == {file.name for file in damaged.iterdir()}
    assert not labeled & rejected
    assert set(WHOLE) <= labeled


def test_evaluate(records, checkpoint, tmp_path, capsys):
    out = tmp_path / "out"
    command = ["evaluate", "--model", checkpoint, "--dataset", "folder", "--root", str(records), "--out", str(out)]
    assert main(command) == 1
    said = "".join(capsys.readouterr())
    rows = list(map(json.loads, (out / "scores.jsonl").read_text().splitlines()))
    own = {row["source"]: row["abs_rel"] for row in rows if row["model"] == checkpoint and row["source"]}
    scored = {source for source, score in own.items() if not np.isnan(score)}
    named = {f"{stem}.png" for stem in re.findall(r"(\d{4})(?:_depth)?\.png", said)}
    empty = own.keys() - scored - named  # the map is whole, and without a label
    assert len(empty) < 10
    assert "images without labels" in said
    assert scored | named | empty == NAMES
    assert scored >= WHOLE_RECORDS
    assert len(scored) < len(NAMES) - 200


def test_train(records, checkpoint, tmp_path, caplog):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("{}")
    command = ["train", str(recipe), "--model", checkpoint, "--labeled", str(records), "--skip-broken"]
    settings = ["--max-steps", "64", "--per-device-train-batch-size", "8", "--use-cpu", "--report-to", "none"]
    assert main([*command, "--out", str(tmp_path / "run"), *settings]) == 0
    lines = [line for line in caplog.messages if " is skipped, " in line]
    assert len(lines) > 100
    for line in lines:
        number = int(re.search(r"record (\d+) is skipped", line)[1])
        assert number % 3
        assert f"{number:04}" in line.split("so far: ")[1]


def test_train__without_the_option_the_first_broken_record_is_named(records, checkpoint, tmp_path, capsys):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("{}")
    command = ["train", str(recipe), "--model", checkpoint, "--labeled", str(records), "--out", str(tmp_path / "run")]
    assert main([*command, "--max-steps", "40", "--use-cpu", "--report-to", "none"]) == 1
    assert re.search(r"depth-anything-hf train: .*\d{4}(_depth)?\.png", capsys.readouterr().err)
