import json
import shutil

import numpy as np
import pytest
from PIL import Image

from depth_anything_hf.cli.main import main
from depth_anything_hf.data.folder import write_image_folder
from depth_anything_hf.data.records import encode_record


@pytest.fixture
def place(make_model, tiny_processor, tmp_path):
    for name, seed in (("one", 0), ("two", 1)):
        make_model(seed=seed).save_pretrained(tmp_path / name)
        tiny_processor.save_pretrained(tmp_path / name)
    rng = np.random.default_rng(0)
    records = [
        encode_record(
            Image.fromarray(rng.integers(0, 255, (60, 80, 3), dtype=np.uint8)),
            rng.uniform(1, 9, (60, 80)),
            group=scene,
        )
        for scene in ("a", "a", "b")
    ]
    write_image_folder(records, tmp_path / "records")
    return tmp_path


def run(place, *more):
    models = ["--model", str(place / "one"), "--model", str(place / "two")]
    return main(
        [
            "evaluate",
            *models,
            "--dataset",
            "folder",
            "--root",
            str(place / "records"),
            "--out",
            str(place / "out"),
            *more,
        ]
    )


@pytest.mark.slow
def test_evaluate__writes_and_prints_the_table(place, capsys):
    assert run(place, "--save-predictions") == 0
    table = capsys.readouterr().out
    assert "AbsRel, mean of groups" in table
    assert "3 in 2 groups" in table
    results = json.loads((place / "out" / "results.json").read_text())
    assert results["protocol"]["alignment"] == "scale_shift"
    assert results["scores"][str(place / "one")] != results["scores"][str(place / "two")]
    one, two = results["revisions"].values()
    assert one.startswith("sha256:")
    assert one != two
    before = (place / "out" / "scores.jsonl").read_text()
    for name in ("one", "two"):
        shutil.rmtree(place / name)  # the models are not needed any more
    assert run(place, "--from-predictions", str(place / "out" / "predictions")) == 0
    assert (place / "out" / "scores.jsonl").read_text() == before
    again = json.loads((place / "out" / "results.json").read_text())
    assert again["scores"] == results["scores"]
    assert again["revisions"] == results["revisions"]


@pytest.mark.slow
def test_evaluate__alignment_is_written_into_the_protocol(place):
    assert run(place, "--alignment", "median", "--resolution", "84") == 0
    protocol = json.loads((place / "out" / "results.json").read_text())["protocol"]
    assert (protocol["alignment"], protocol["resolution"]) == ("median", 84)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--resolution", "60"], "multiple of the patch size 14, such as 56"),
        (["--protocol", "nyuv2"], "protocol 'nyuv2' is none of folder's"),
        (["--dataset", "da2k", "--alignment", "median"], "--alignment means nothing for da2k"),
        (["--dataset", "da2k", "--save-predictions"], "--save-predictions means nothing for da2k"),
        (["--from-predictions", "nowhere"], "holds no complete predictions"),
        (["--dataset", "nyuv2"], "nyu_depth_v2_labeled.mat"),
    ],
)
def test_evaluate__wrong_input_is_named(place, capsys, more, message):
    assert run(place, *more) == 1
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "wrong"), [("--alignment", "best"), ("--dataset", "moon"), ("--protocol", "nyuv3")]
)
def test_evaluate__refuses_what_is_no_choice(place, capsys, option, wrong):
    with pytest.raises(SystemExit) as end:
        run(place, option, wrong)
    assert end.value.code == 2
    assert f"argument {option}: invalid choice: {wrong!r} (choose from" in capsys.readouterr().err
