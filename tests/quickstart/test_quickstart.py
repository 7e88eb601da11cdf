"""The quickstart in its smallest form: everything it promises exists and fits together."""

import json
import multiprocessing
import sys
from dataclasses import replace
from types import SimpleNamespace

import datasets
import numpy as np
import pytest
from PIL import Image
from transformers import pipeline
from transformers.utils import logging

from depth_anything_hf.cli.main import main
from depth_anything_hf.data.folder import load_folder, write_image_folder
from depth_anything_hf.data.records import decode_record, encode_record
from depth_anything_hf.export.stock import prove_stock_pipeline
from depth_anything_hf.quickstart.experiment import Plan, procedural_records, train, warm_plan
from depth_anything_hf.quickstart.run import run
from depth_anything_hf.scenes.simple import LABELED_DOMAIN, UNLABELED_DOMAIN, iter_synthetic_records

SMALL = Plan(
    height=32,
    width=40,
    patch_size=8,
    hidden_size=32,
    labeled=8,
    unlabeled=8,
    held_out=3,
    teacher_steps=3,
    student_steps=3,
    layers=4,
)


@pytest.fixture(scope="module", autouse=True)
def _progress_bars():
    """Bring back what the quickstart hides for its whole process."""
    yield
    logging.enable_progress_bar()


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("quickstart")
    return out, run(out, SMALL)


@pytest.fixture
def forked(monkeypatch):
    """Let the stock pipeline run in a fork, which has imported what it needs; that of `finished` runs in a new process."""

    def run_in_fork(command, **options):
        def child():
            sys.argv = ["-c", *command[3:]]
            exec(command[2], {"__name__": "__main__"})

        process = multiprocessing.get_context("fork").Process(target=child)
        process.start()
        process.join()
        return SimpleNamespace(returncode=process.exitcode, stdout="", stderr="its output is above")

    monkeypatch.setattr("depth_anything_hf.export.stock.subprocess", SimpleNamespace(run=run_in_fork))


@pytest.mark.slow
def test_run__writes_everything_it_names(finished):
    out, metrics = finished
    assert json.loads((out / "metrics.json").read_text())["scores"] == metrics["scores"]
    report = (out / "report.md").read_text()
    assert "unlabelled domain | student" in report
    assert f"{metrics['scores']['unlabelled domain']['student']['abs_rel']:.3f}" in report
    with Image.open(out / "predictions.png") as page:
        assert page.width > 800
    with Image.open(out / "training.png") as chart:
        assert len(chart.convert("RGB").getcolors(maxcolors=10**6)) > 10
    assert (out / "student" / "README.md").read_text().count("pipeline(") == 1
    assert set(metrics["scores"]) == {"labelled domain", "unlabelled domain"}


@pytest.mark.slow
def test_run__student_equals_the_stock_pipeline(finished):
    out, metrics = finished
    assert metrics["stock_pipeline_max_difference"] < 1e-4
    depth = pipeline("depth-estimation", model=str(out / "student"))(Image.new("RGB", (50, 41)))["predicted_depth"]
    assert depth.shape == (41, 50)


@pytest.mark.slow
def test_run__pseudo_labels_are_the_teachers_in_the_record_schema(finished):
    out, _ = finished
    files = str(out / "pseudo_labels" / "data" / "*.parquet")
    labels = datasets.load_dataset("parquet", data_files=files, split="train")
    assert len(labels) == SMALL.unlabeled
    assert {row["space"] for row in labels} == {"disparity"}
    assert len({row["source"] for row in labels}) == SMALL.unlabeled
    assert decode_record(labels[0]).values.shape == (32, 40)


@pytest.mark.slow
@pytest.mark.usefixtures("forked")
def test_run__photographs_and_real_ground_truth(real_data, tmp_path):
    records = []
    for row in load_folder(real_data):  # with fewer pixels, which the prior's scores do not depend on
        sample, step = decode_record(row), 4 if row["image"].width > 1000 else 2
        image, values, mask = (np.asarray(one)[::step, ::step] for one in (sample.image, sample.values, sample.mask))
        records.append(encode_record(image, values, mask=mask, space=sample.space, group=row["group"]))
    folder = write_image_folder(records, tmp_path / "real")
    plan = replace(SMALL, teacher_steps=2, student_steps=2)
    metrics = run(tmp_path / "out", plan, str(real_data / "unlabeled" / "images"), str(folder))
    real = metrics["scores"]["real images"]
    assert real["student"]["images"] == 52
    assert real["student"]["groups"] == 16
    prior = real["prior (disparity = image row)"]
    assert prior["group_abs_rel"] == pytest.approx(0.265, abs=0.005)
    assert prior["group_delta1"] == pytest.approx(0.596, abs=0.005)
    assert metrics["plan"]["unlabeled"] == 8  # the first photographs only


def test_procedural_records__domains_share_no_scene_between_training_and_scoring():
    seeds = [
        record["source"]
        for domain in (LABELED_DOMAIN, UNLABELED_DOMAIN)
        for held_out in (False, True)
        for record in procedural_records(2, SMALL, domain, held_out)
    ]
    assert len({source.rsplit(":", 1)[1] for source in seeds}) == 8


def test_procedural_records__sky_is_a_label_of_disparity_zero():
    sky = [decode_record(r).sky for r in procedural_records(12, SMALL, LABELED_DOMAIN)]
    assert any(one is not None and one.any() for one in sky)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--unlabeled", "no/such/folder"], "no/such/folder"),
        (["--eval", "no/such/folder"], "no/such/folder"),
        (["--steps", "0"], "--steps is 0"),
    ],
)
def test_quickstart__wrong_input_stops_before_training(arguments, message, tmp_path, capsys):
    assert main(["quickstart", "--out", str(tmp_path / "out"), *arguments]) == 1
    assert message in capsys.readouterr().err


@pytest.mark.slow
def test_prove_stock_pipeline__reports_a_broken_checkpoint(finished, tmp_path):
    with pytest.raises(RuntimeError, match="stock transformers could not run"):
        prove_stock_pipeline(tmp_path, [Image.fromarray(np.zeros((40, 40, 3), np.uint8))], tmp_path / "work")


@pytest.mark.slow
def test_train__shows_its_progress_whatever_the_log_level(tmp_path, capsys):
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        train(SMALL, tmp_path, 2, 0, procedural_records(4, SMALL, LABELED_DOMAIN))
    finally:
        logging.set_verbosity(before)
    assert "loss=" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.usefixtures("forked")
def test_warm_start__begins_from_mini_and_says_so(tmp_path):
    plan = warm_plan(
        labeled=4, unlabeled=4, held_out=2, teacher_steps=1, student_steps=1, teacher_batch=2, student_batch=(1, 2)
    )
    metrics = run(tmp_path, plan)
    assert metrics["plan"]["warm_start"]
    assert "mini, which comes with the package" in (tmp_path / "report.md").read_text()
    card = (tmp_path / "student" / "README.md").read_text(encoding="utf-8")
    assert "mini" in card
    assert "random weights" not in card
    # After a step it is still near what it began from.
    assert (
        metrics["scores"]["labelled domain"]["teacher"]["abs_rel"]
        < metrics["scores"]["labelled domain"]["prior (disparity = image row)"]["abs_rel"] + 0.1
    )


@pytest.fixture
def real(tmp_path):
    """Four records of a user in a folder, and two photographs in another."""
    scenes = list(iter_synthetic_records(4, 40, 50, seed=7))
    records = [encode_record(one["image"], one["depth"], mask=one["depth"] > 0) for one in scenes]
    (tmp_path / "photos").mkdir()
    for i in range(2):
        scenes[i]["image"].save(tmp_path / "photos" / f"{i}.png")
    return write_image_folder(records, tmp_path / "real")


def without_depth(real):
    lines = [json.loads(line) for line in (real / "metadata.jsonl").read_text().splitlines()]
    nothing = dict.fromkeys(("depth_map_file_name", "depth_scale", "depth_offset", "space"))
    (real / "metadata.jsonl").write_text("".join(json.dumps(line | nothing) + "\n" for line in lines))


def of_another_size(real):
    for file in (real / "depth").iterdir():
        Image.new("I;16", (7, 9), 500).save(file)


def empty_maps(real):
    for file in (real / "depth").iterdir():
        Image.new("I;16", (50, 40), 0).save(file)


def broken_photographs(real):
    for file in (real.parent / "photos").iterdir():
        file.write_bytes(b"no picture")


def file_as_out(real):
    (real.parent / "out").write_text("mine")


@pytest.mark.parametrize(
    ("break_", "more", "message"),
    [
        (without_depth, [], "none of 4 records can be scored: the first that cannot be used is record 0: "),
        (of_another_size, [], "depth_map is 7 x 9 and the image 50 x 40"),
        (empty_maps, [], "none of 4 records can be scored: no pixel has a label"),
        (broken_photographs, [], "none of 2 photographs can be read; the first is 0.png: "),
        (file_as_out, [], "out"),
        (lambda real: None, ["--feature-encoder", "no/such/encoder"], "no/such/encoder"),
    ],
)
def test_quickstart__what_cannot_be_used_stops_before_training(break_, more, message, real, tmp_path, capsys):
    break_(real)
    arguments = ["--eval", str(real), "--unlabeled", str(tmp_path / "photos"), "--out", str(tmp_path / "out"), *more]
    assert main(["quickstart", *arguments]) == 1
    captured = capsys.readouterr()
    assert message in captured.err
    assert "[1/3]" not in captured.out


@pytest.mark.slow
@pytest.mark.usefixtures("forked")
def test_quickstart__names_bad_inputs_and_keeps_what_is_done(real, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("depth_anything_hf.quickstart.experiment.Plan", lambda **sizes: SMALL)
    Image.new("I;16", (7, 9), 500).save(real / "depth" / "000001.png")
    (real / "images" / "000002.png").write_bytes(b"no picture")
    (tmp_path / "photos" / "1.png").write_bytes(b"no picture")
    out = tmp_path / "out"
    assert main(["quickstart", "--eval", str(real), "--unlabeled", str(tmp_path / "photos"), "--out", str(out)]) == 1
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["scores"]["real images"]["student"]["images"] == 2
    first, second, third = metrics["left_out"]
    assert "record 1: " in first
    assert "depth_map is 7 x 9" in first
    assert "record 2: " in second
    assert third == "1 of 2 photographs were not labeled; pseudo_labels/rejects.jsonl names them"
    captured = capsys.readouterr()
    assert "3 inputs were left out:" in captured.err
    assert "Left out, and in no score:" in (out / "report.md").read_text()
    assert pipeline("depth-estimation", model=str(out / "student"))(Image.new("RGB", (50, 41)))


@pytest.mark.slow
def test_run__student_is_kept_if_what_follows_fails(tmp_path, monkeypatch):
    def fail(*arguments, **options):
        raise OSError("no space left")

    monkeypatch.setattr("depth_anything_hf.quickstart.run.draw_losses", fail)
    with pytest.raises(OSError, match="no space left"):
        run(tmp_path, replace(SMALL, teacher_steps=1, student_steps=1))
    assert (tmp_path / "student" / "model.safetensors").is_file()
    assert json.loads((tmp_path / "metrics.json").read_text())["scores"]["labelled domain"]
