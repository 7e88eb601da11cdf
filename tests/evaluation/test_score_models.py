import runpy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from depth_anything_hf.data.records import encode_record
from depth_anything_hf.evaluation.compare import score_dataset, score_models
from depth_anything_hf.evaluation.contestants import Contestant, row_prior
from depth_anything_hf.evaluation.protocols import PROTOCOLS
from depth_anything_hf.evaluation.scoring import SCORE_NAMES

SCRIPT = Path(__file__).parent / "two_processes.py"
Counted, red = map(runpy.run_path(str(SCRIPT)).get, ("Counted", "red"))


def records(count, size=(12, 16)):
    made = []
    for i in range(count):
        generator = np.random.default_rng(i)
        image = generator.integers(0, 255, (*size, 3)).astype(np.uint8)
        made.append(encode_record(image, generator.random(size) * 9 + 1, source=f"image {i}"))
    return made


def assert_same(found, expected):
    assert (found.groups, found.sources) == (expected.groups, expected.sources)
    for name in SCORE_NAMES:
        assert torch.equal(found.scores[name], expected.scores[name]), name


def test_score_models__side_by_side_equals_one_by_one():
    models = {"red": Contestant(red), "rows": Contestant(row_prior), "metres": Contestant(red, metric=True)}
    protocol = replace(PROTOCOLS["folder"], max_depth=20.0)
    together = score_models(models, records(5), protocol, batch_size=2)
    assert list(together) == ["red", "rows", "metres"]
    for name, model in models.items():
        assert_same(together[name], score_models({name: model}, records(5), protocol, batch_size=3)[name])
    assert_same(together["metres"], score_dataset(red, records(5), max_depth=20.0))
    uncapped = score_models({"red": Contestant(red)}, records(5))["red"]
    assert_same(uncapped, score_dataset(red, records(5)))
    assert not torch.equal(together["red"].scores["abs_rel"], together["rows"].scores["abs_rel"])
    assert not torch.equal(together["red"].scores["abs_rel"], together["metres"].scores["abs_rel"])


def test_score_models__asks_for_each_record_once():
    counted = Counted(records(5))
    score_models({"red": Contestant(red), "rows": Contestant(row_prior)}, counted, batch_size=2)
    assert counted.asked == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("batch_size", [1, 3, 5, 8])
def test_score_models__batch_size_does_not_matter(batch_size):
    models = {"red": Contestant(red), "rows": Contestant(row_prior)}
    expected = score_models(models, records(5), batch_size=2)
    for name, found in score_models(models, records(5), batch_size=batch_size).items():
        assert_same(found, expected[name])


def test_score_models__keep_is_given_every_prediction_as_it_is():
    kept = {}
    models = {"red": Contestant(lambda images: [depth[::2] for depth in red(images)]), "rows": Contestant(row_prior)}
    items = records(5)
    score_models(models, items, batch_size=2, keep=lambda name, index, depth: kept.setdefault((name, index), depth))
    assert sorted(kept) == sorted((name, i) for name in models for i in range(5))
    for i, record in enumerate(items):
        assert torch.equal(kept["red", i], red([record["image"]])[0][::2])
        assert torch.equal(kept["rows", i], row_prior([record["image"]])[0])


def test_score_models__crop_of_the_protocol_is_applied():
    # Garg on 12 x 16: rows 4 to 10, columns 0 to 14. Metres: 5 against 4 inside, absurd outside.
    depth = np.full((12, 16), 4.0)
    inside = np.zeros((12, 16), bool)
    inside[4:11, 0:15] = True
    item = encode_record(np.zeros((12, 16, 3), np.uint8), depth)
    models = {"": Contestant(lambda images: [torch.where(torch.from_numpy(inside), 5.0, 70.0)] * len(images), True)}
    scores = {
        crop: score_models(models, [item], replace(PROTOCOLS["folder"], crop=crop, max_depth=80.0))[""].scores
        for crop in ("none", "garg")
    }
    assert scores["garg"]["abs_rel"].item() == pytest.approx(0.25, rel=1e-4)
    assert scores["none"]["abs_rel"].item() == pytest.approx((105 * 0.25 + 87 * 16.5) / 192, rel=1e-4)


@pytest.fixture(scope="module")
def alone(tmp_path_factory, run_script):
    (rank,) = run_script(SCRIPT, tmp_path_factory.mktemp("alone"), 1)
    return rank


@pytest.fixture(scope="module")
def ranks(tmp_path_factory, run_script):
    return run_script(SCRIPT, tmp_path_factory.mktemp("two"), 2)


@pytest.mark.slow
def test_score__two_processes_share_the_images(ranks, alone):
    assert alone["asked"] == ([0, 1, 2, 3, 4, 5, 6], [0, 1, 2, 3, 4])
    assert [rank["asked"] for rank in ranks] == [([0, 2, 4, 6], [0, 2, 4]), ([1, 3, 5], [1, 3])]


@pytest.mark.slow
def test_score_models__two_processes_give_the_numbers_of_one(ranks, alone):
    for rank in ranks:
        assert rank["summaries"] == alone["summaries"]
        for name, (scores, groups, sources) in alone["scores"].items():
            assert rank["scores"][name][1:] == (groups, sources)
            for metric in SCORE_NAMES:
                assert torch.equal(rank["scores"][name][0][metric], scores[metric])
    assert alone["summaries"]["red"]["images"] == 7


@pytest.mark.slow
def test_score_da2k__two_processes_give_the_numbers_of_one(ranks, alone):
    for rank in ranks:
        assert rank["points"] == alone["points"]
        assert rank["point summaries"] == alone["point summaries"]
    assert alone["point summaries"]["red"]["pairs"] == 0 + 1 + 2 + 3 + 4
