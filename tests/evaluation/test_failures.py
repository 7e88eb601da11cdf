"""One broken record, photograph or prediction costs only its own scores: it is named, counted, and in no mean."""

import json
import logging
import math
import os
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from depth_anything_hf.cli.main import main
from depth_anything_hf.data.folder import load_folder, write_image_folder
from depth_anything_hf.data.records import DepthSample, encode_record
from depth_anything_hf.evaluation.compare import PRIOR, compare, open_samples, score_models
from depth_anything_hf.evaluation.contestants import Contestant, KeptPredictions
from depth_anything_hf.evaluation.evaluate_metric import DepthEstimationMetric
from depth_anything_hf.evaluation.protocols import PROTOCOLS
from depth_anything_hf.evaluation.scoring import score_prediction

FOLDER, SIZE = PROTOCOLS["folder"], (12, 16)


def record(i, values=None, **extra):
    generator = np.random.default_rng(i)
    image = generator.integers(0, 255, (*SIZE, 3)).astype(np.uint8)
    values = generator.random(SIZE) * 9 + 1 if values is None else values
    return encode_record(image, values, source=f"image {i}", **extra)


def red(images):
    return [torch.from_numpy(np.asarray(image, dtype=np.float32)[..., 0].copy()) for image in images]


def rows(images):
    return [torch.arange(SIZE[0]).float()[:, None].repeat(1, SIZE[1]) for _ in images]


def wrong_size(one):
    return one | {"depth_map": one["depth_map"].resize((9, 7))}


def eight_bits(one):
    return one | {"depth_map": one["depth_map"].point(lambda code: code / 256).convert("L")}


BROKEN = {
    "map of another size": (wrong_size, r"depth_map is 9 x 7 and the image 16 x 12"),
    "map of 8 bits": (eight_bits, "8-bit depth map"),
    "no label": (lambda one: one | {"depth_map": None}, "has no depth_map; evaluation needs ground truth"),
    "no scale": (lambda one: one | {"depth_scale": None}, "depth_scale=None"),
    "another space": (lambda one: one | {"space": "depht"}, "space is 'depht'|depht"),
    "no image": (lambda one: one | {"image": None}, "column 'image' is NoneType"),
    "no record": (lambda one: 7, "a record is a int; needed: a mapping"),
}


@pytest.mark.parametrize("place", [0, 2, 4])
@pytest.mark.parametrize(("break_", "message"), BROKEN.values(), ids=BROKEN)
def test_score_models__broken_record_costs_only_its_own_scores(break_, message, place):
    records = [record(i) for i in range(5)]
    models = {"red": Contestant(red), "rows": Contestant(rows)}
    whole = score_models(models, records, batch_size=2)
    records[place] = break_(records[place])
    with pytest.raises(Exception, match=message):
        score_models(models, records, batch_size=2)
    found = score_models(models, records, batch_size=2, go_on=True)
    for name in models:
        (failed,) = found[name].failures.items()
        assert failed[0] == place
        assert failed[1].startswith(f"image {place}")
        others = [i for i in range(5) if i != place]
        assert torch.equal(found[name].scores["abs_rel"][others], whole[name].scores["abs_rel"][others])
        summary = found[name].summary()
        assert (summary["images"], summary["images_without_labels"], summary["images_failed"]) == (4, 0, 1)
        assert summary["abs_rel"] == pytest.approx(whole[name].scores["abs_rel"][others].mean().item())


def on_black(make):
    """Make a predictor that does something else for the black image than `red`."""
    return lambda images: [make(image) if not np.asarray(image).any() else red([image])[0] for image in images]


def fail(image):
    raise RuntimeError("out of memory")


PREDICTIONS = {
    "NaN": (lambda image: torch.full(SIZE, math.nan), "NaN or infinite at 192 of 192"),
    "one infinite pixel": (
        lambda image: torch.ones(SIZE).index_fill(0, torch.tensor(3), math.inf),
        "NaN or infinite at 16",
    ),
    "three dimensions": (lambda image: torch.ones(1, *SIZE), r"prediction is torch.float32 of shape \(1, 12, 16\)"),
    "8 bits": (lambda image: torch.ones(SIZE, dtype=torch.uint8), "not of 8 bits"),
    "empty": (lambda image: torch.ones(0, 4), r"shape \(0, 4\)"),
    "error": (fail, "RuntimeError: out of memory"),
}


@pytest.mark.parametrize(("make", "message"), PREDICTIONS.values(), ids=PREDICTIONS)
@pytest.mark.parametrize("batch_size", [1, 4])
def test_score_models__broken_prediction_costs_only_its_own_score(make, message, batch_size):
    records = [record(i) for i in range(4)]
    records[1]["image"] = Image.new("RGB", SIZE[::-1])
    models = {"broken": Contestant(on_black(make)), "rows": Contestant(rows)}
    with pytest.raises(Exception, match=message.rpartition(": ")[2]):
        score_models(models, records, batch_size=batch_size)
    found = score_models(models, records, batch_size=batch_size, go_on=True)
    assert list(found["broken"].failures) == [1]
    assert not found["rows"].failures
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(found["broken"].failures[1])
    expected = score_models({"red": Contestant(red)}, [records[i] for i in (0, 2, 3)])["red"].summary()
    assert found["broken"].summary() == expected | {"images_failed": 1}
    assert found["rows"].summary()["images"] == 4


def test_score_models__nothing_that_can_be_scored_is_an_error():
    with pytest.raises(
        ValueError, match=r"none of 2 images could be scored; the first: image 0: image 0 has no depth_map"
    ):
        score_models({"red": Contestant(red)}, [BROKEN["no label"][0](record(i)) for i in range(2)], go_on=True)


@pytest.mark.parametrize(
    ("values", "limits", "message"),
    [
        (np.full(SIZE, np.nan), {}, "no label of 2 images counts: no pixel has one in meters"),
        (
            np.full(SIZE, 3000.0),
            {"max_depth": 80.0},
            "they reach from 3000 to 3000 m, and what counts is from 0 to 80 m",
        ),
    ],
)
def test_compare__no_label_that_counts_is_an_error(values, limits, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        compare({"red": Contestant(red)}, [record(i, values) for i in range(2)], replace(FOLDER, **limits), tmp_path)


@pytest.mark.parametrize(("factor", "odd"), [(1.0, 0), (1000.0, 3), (0.001, 3)])
def test_compare__labels_of_another_unit_are_said(factor, odd, tmp_path, caplog):
    records = [record(i, factor * (np.random.default_rng(i).random(SIZE) * 9 + 1)) for i in range(3)]
    with caplog.at_level(logging.WARNING):
        compare({"red": Contestant(red)}, records, FOLDER, tmp_path)
    assert [one for one in caplog.messages if "are they meters?" in one] == [
        one for one in caplog.messages if one.startswith(f"{odd} of 3 images have no label between")
    ]
    assert ("are they meters?" in caplog.text) == bool(odd)


@pytest.mark.parametrize("metric", [False, True])
def test_compare__constant_predictions_are_counted_and_said(metric, tmp_path):
    records = [record(i) for i in range(3)]
    model = Contestant(lambda images: [torch.full(SIZE, 5.0) for _ in images], metric)
    results = compare({"dead": model}, records, FOLDER, tmp_path)
    assert results["scores"]["dead"]["constant_predictions"] == 3
    assert "- **dead: 3 predictions are constant**." in (tmp_path / "results.md").read_text()


@pytest.fixture
def kept(tmp_path):
    """The kept predictions of five records, and the records."""
    records = [record(i) for i in range(5)]
    compare({"red": Contestant(red)}, records, FOLDER, tmp_path / "first", save_predictions=True)
    return tmp_path / "first" / "predictions", records


def cut(file):
    file.write_bytes(file.read_bytes()[:60])


FILES = {
    "removed": (lambda file: file.unlink(), "is no file; the prediction was not kept, or was removed"),
    "cut": (cut, "cannot be read"),
    "empty": (lambda file: file.write_bytes(b""), "cannot be read"),
    "pickle": (lambda file: np.save(file, np.array([{}], dtype=object), allow_pickle=True), "cannot be read"),
    "three dimensions": (lambda file: np.save(file, np.ones((*SIZE, 3), np.float32)), r"shape \(12, 16, 3\)"),
    "8 bits": (lambda file: np.save(file, np.ones(SIZE, np.uint8)), "has uint8 of shape"),
    "NaN": (lambda file: np.save(file, np.full(SIZE, np.nan)), "NaN or infinite"),
    "pipe": (lambda file: (file.unlink(), os.mkfifo(file)), "is no file"),
}


@pytest.mark.slow
@pytest.mark.parametrize(("break_", "message"), FILES.values(), ids=FILES)
def test_kept_predictions__broken_file_costs_only_its_own_score(break_, message, kept, tmp_path):
    folder, records = kept
    break_(folder / "red" / "000003.npy")
    results = compare({"red": KeptPredictions("red", folder)}, records, FOLDER, tmp_path / "again")
    (failure,) = results["failures"]["red"]
    assert "image 3" in failure
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(failure)
    expected = score_models({"red": Contestant(red)}, [one for i, one in enumerate(records) if i != 3])["red"]
    assert results["scores"]["red"]["abs_rel"] == expected.summary()["abs_rel"]


def test_compare__failed_images_are_known_to_the_kept_predictions(tmp_path):
    records = [record(i) for i in range(4)]
    records[1] = wrong_size(records[1])
    first = compare({"red": Contestant(red)}, records, FOLDER, tmp_path / "first", save_predictions=True)
    again = compare({"red": KeptPredictions("red", tmp_path / "first" / "predictions")}, records, FOLDER, tmp_path)
    assert again["scores"] == first["scores"]
    assert list(again["failures"]) == ["red", PRIOR]
    lines = [json.loads(line) for line in (tmp_path / "scores.jsonl").read_text().splitlines()]
    assert [line["source"] for line in lines[:4]] == ["image 0", "", "image 2", "image 3"]


@pytest.mark.slow
def test_compare__killed_run_leaves_no_card_for_predictions_of_two_runs(kept):
    folder, records = kept
    with pytest.raises(KeyboardInterrupt):
        compare({"red": Contestant(interrupt)}, records, FOLDER, folder.parent, save_predictions=True)
    with pytest.raises(FileNotFoundError, match="holds no complete predictions"):
        KeptPredictions("red", folder)


def interrupt(images):
    raise KeyboardInterrupt


def test_compare__broken_photograph_of_da2k_costs_only_its_own_pairs(tmp_path):
    pairs = [{"point1": [0, 0], "point2": [2, 3], "closer_point": "point1"}]
    names = [f"images/indoor/{i}.png" for i in range(4)]
    (tmp_path / "images" / "indoor").mkdir(parents=True)
    for name in names:
        pixels = np.zeros((3, 4, 3), dtype=np.uint8)
        pixels[0, 0] = 200
        Image.fromarray(pixels).save(tmp_path / name)
    annotations = dict.fromkeys(names, pairs) | {
        names[2]: [pairs[0] | {"point2": [3, 0]}],
        "images/indoor/no.png": pairs,
    }
    (tmp_path / "annotations.json").write_text(json.dumps(annotations))
    (tmp_path / names[1]).write_bytes(b"no picture")
    samples = open_samples(PROTOCOLS["da2k"], str(tmp_path))
    results = compare({"red": Contestant(red)}, samples, PROTOCOLS["da2k"], tmp_path / "out")
    assert (results["scores"]["red"]["pairs"], results["scores"]["red"]["images_failed"]) == (2, 3)
    assert results["scores"]["red"]["accuracy"] == 1
    failures = "\n".join(results["failures"]["red"])
    for message in ("1.png cannot be read", "2.png: a point lies outside", "no.png is missing"):
        assert message in failures
    assert "3 images could not be scored" in (tmp_path / "out" / "results.md").read_text()


@pytest.mark.slow
def test_evaluate__names_what_is_broken_and_ends_with_1(make_model, tiny_processor, tmp_path, capsys):
    for part in (make_model(), tiny_processor):
        part.save_pretrained(tmp_path / "model")
    folder = write_image_folder([record(i) for i in range(4)], tmp_path / "records")
    cut(folder / "images" / "000002.png")
    Image.new("I;16", (5, 9), 7).save(folder / "depth" / "000001.png")
    assert len(load_folder(folder)) == 4
    arguments = ["evaluate", "--model", str(tmp_path / "model"), "--dataset", "folder", "--root", str(folder)]
    assert main([*arguments, "--out", str(tmp_path / "out")]) == 1
    captured = capsys.readouterr()
    assert captured.err.count("could not score: image ") == 2
    assert "depth_map is 5 x 9 and the image 16 x 12" in captured.err
    assert "2 images could not be scored" in captured.out
    scores = json.loads((tmp_path / "out" / "results.json").read_text())["scores"]
    assert {one["images"] for one in scores.values()} == {2}
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == [
        "results.json", "results.md", "scores.jsonl", "worst.png",
    ]  # fmt: skip


@pytest.mark.parametrize("which", ["prediction", "ground truth"])
def test_score_prediction__picture_of_8_bits_is_refused(which):
    maps = {"prediction": torch.rand(SIZE), "ground truth": torch.rand(SIZE)}
    maps[which] = (maps[which] * 255).to(torch.uint8)
    with pytest.raises(ValueError, match=rf"the {which} is torch.uint8 .* take `predicted_depth`"):
        score_prediction(maps["prediction"], maps["ground truth"], None, "depth")


def test_metric__broken_prediction_is_named_by_its_place():
    scorer = DepthEstimationMetric()
    scorer.add_batch(predictions=[torch.rand(SIZE)] * 2, references=[torch.rand(SIZE) + 1] * 2)
    with pytest.raises(ValueError, match="image 3, counted from the first that was added: the prediction is NaN"):
        scorer.add_batch(
            predictions=[torch.rand(SIZE), torch.full(SIZE, math.nan)], references=[torch.rand(SIZE) + 1] * 2
        )
    assert scorer.compute()["images"] == 2  # nothing of the broken batch


@pytest.mark.parametrize("card", ["[]", "{}", "null"])
def test_kept_predictions__card_that_is_none(card, tmp_path):
    (tmp_path / "red").mkdir()
    (tmp_path / "red" / "contestant.json").write_text(card)
    with pytest.raises(ValueError, match=r"contestant\.json is no card of kept predictions"):
        KeptPredictions("red", tmp_path)


def test_kept_predictions__of_another_shape(tmp_path):
    (tmp_path / "red").mkdir()
    (tmp_path / "red" / "contestant.json").write_text('{"sources": ["", ""], "metric": true, "revision": "a"}')
    for index, shape in enumerate(((30, 40), (40, 30))):
        np.save(tmp_path / "red" / f"{index:06d}.npy", np.ones(shape, np.float32))
    samples = [DepthSample(Image.new("RGB", (80, 60)))] * 2
    kept = KeptPredictions("red", tmp_path)
    assert kept.predictions([0], samples[:1])[0].shape == (30, 40)
    with pytest.raises(ValueError, match=r"000001\.npy is 30 x 40, and its image 80 x 60"):
        kept.predictions([1], samples[1:])
