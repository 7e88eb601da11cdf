import math

import numpy as np
import pytest
import torch
from PIL import Image

from depth_anything_hf.data.records import encode_record
from depth_anything_hf.evaluation.compare import score_dataset
from depth_anything_hf.evaluation.contestants import row_prior
from depth_anything_hf.evaluation.scoring import SCORE_NAMES, DatasetScores, score_prediction


def record(i, size=(12, 16), **extra):
    generator = np.random.default_rng(i)
    image = generator.integers(0, 255, (*size, 3)).astype(np.uint8)
    return encode_record(image, generator.random(size) * 9 + 1, source=f"image {i}", **extra)


def photograph():
    return encode_record(np.zeros((12, 16, 3), np.uint8), source="photograph 7")


def without_labels():
    return encode_record(np.zeros((12, 16, 3), np.uint8), np.full((12, 16), np.nan), source="empty")


def red(images):
    """Predict each image's red channel."""
    return [torch.from_numpy(np.asarray(image, dtype=np.float32)[..., 0].copy()) for image in images]


def test_score_dataset__one_row_an_image_in_order():
    records = [record(i, size) for i, size in enumerate([(12, 16), (20, 10), (12, 16)])]
    scores = score_dataset(red, records)
    assert tuple(scores.scores) == SCORE_NAMES
    assert scores.sources == ["image 0", "image 1", "image 2"]
    assert scores.groups == [None] * 3
    for i, one in enumerate(records):
        truth = np.random.default_rng(i)
        truth.integers(0, 255, (*one["image"].size[::-1], 3))
        depth = torch.from_numpy(truth.random(one["image"].size[::-1]) * 9 + 1)
        expected = score_prediction(red([one["image"]])[0], depth, None, "depth", None)
        for j, name in enumerate(SCORE_NAMES):
            assert scores.scores[name][i].item() == pytest.approx(expected[j].item(), rel=2e-3), name


@pytest.mark.parametrize("batch_size", [1, 2, 3, 7, 50])
def test_score_dataset__batch_size_does_not_matter(batch_size):
    asked = []

    def predict(images):
        asked.append(len(images))
        return red(images)

    records = [record(i) for i in range(7)]
    scores = score_dataset(predict, records, batch_size=batch_size)
    expected = score_dataset(red, records, batch_size=4)
    for name in SCORE_NAMES:
        assert torch.equal(scores.scores[name], expected.scores[name])
    assert sum(asked) == 7
    assert max(asked) == min(batch_size, 7)


def test_score_dataset__exact_prediction_up_to_scale_and_shift():
    depths = [np.random.default_rng(i).random((12, 16)) * 9 + 1 for i in range(3)]
    records = [encode_record(np.full((12, 16, 3), i, np.uint8), depth) for i, depth in enumerate(depths)]

    def predict(images):
        return [torch.from_numpy(5 / depths[np.asarray(image)[0, 0, 0]] + 3) for image in images]

    summary = score_dataset(predict, records).summary()
    assert summary["abs_rel"] < 1e-3  # the record's 16 bits
    assert summary["delta1"] == 1
    assert score_dataset(lambda images: [-depth for depth in predict(images)], records).summary()[
        "non_positive_scales"
    ] == len(records)


def test_score_dataset__metric_is_not_aligned():
    records = [encode_record(np.zeros((12, 16, 3), np.uint8), np.full((12, 16), 4.0))]
    scores = score_dataset(lambda images: [torch.full((12, 16), 5.0) for _ in images], records, max_depth=20.0)
    assert scores.summary()["abs_rel"] == pytest.approx(0.25, rel=1e-3)


def test_score_dataset__any_iterable():
    assert score_dataset(red, (record(i) for i in range(3))).summary()["images"] == 3


def test_score_dataset__image_without_labels_is_counted_and_left_out():
    scores = score_dataset(red, [record(0), without_labels(), record(1)])
    assert math.isnan(scores.scores["abs_rel"][1])
    alone = score_dataset(red, [record(0), record(1)]).summary()
    summary = scores.summary()
    assert summary["abs_rel"] == alone["abs_rel"]
    assert (summary["images"], summary["images_without_labels"]) == (2, 1)


def test_score_dataset__photograph():
    with pytest.raises(ValueError, match="photograph 7 has no depth_map; evaluation needs ground truth"):
        score_dataset(red, [record(0), photograph()])


def test_score_dataset__no_records():
    with pytest.raises(ValueError, match="the dataset has 0 records"):
        score_dataset(red, [])


def test_score_dataset__predictor_loses_an_image():
    with pytest.raises(ValueError, match="gave 1 maps for 2 images"):
        score_dataset(lambda images: red(images)[1:], [record(0), record(1)])


def test_score_dataset__batch_size_below_one():
    with pytest.raises(ValueError, match="batch_size is 0; it must be at least 1"):
        score_dataset(red, [record(0)], batch_size=0)


def scores_of(abs_rel, groups):
    values = torch.tensor(abs_rel, dtype=torch.float64)
    return DatasetScores(dict.fromkeys(SCORE_NAMES, values), groups, [""] * len(groups))


def test_summary__mean_of_the_means_of_groups():
    summary = scores_of([0.1, 0.2, 0.3, 0.9], ["room", "room", "room", "hall"]).summary()
    assert summary["abs_rel"] == pytest.approx(0.375)
    assert summary["group_abs_rel"] == pytest.approx((0.2 + 0.9) / 2)
    assert summary["group_delta1"] == pytest.approx((0.2 + 0.9) / 2)
    assert summary["groups"] == 2


def test_summary__group_without_labels_does_not_count():
    summary = scores_of([0.1, 0.3, math.nan], ["room", "room", "hall"]).summary()
    assert summary["groups"] == 1
    assert summary["group_abs_rel"] == pytest.approx(0.2)


def test_summary__no_label_in_any_group_is_nan():
    summary = scores_of([math.nan, math.nan], ["room", "hall"]).summary()
    assert summary["groups"] == 0
    assert math.isnan(summary["abs_rel"])
    assert math.isnan(summary["group_abs_rel"])  # not a perfect 0


def test_summary__no_groups_no_group_numbers():
    assert not [name for name in scores_of([0.1], [None]).summary() if "group" in name]


def test_score_dataset__groups_come_from_the_records():
    scores = score_dataset(red, [record(0, group="a"), record(1, group="b"), record(2, group="a")])
    assert scores.groups == ["a", "b", "a"]
    expected = scores.scores["abs_rel"]
    mean = ((expected[0] + expected[2]) / 2 + expected[1]) / 2
    assert scores.summary()["group_abs_rel"] == pytest.approx(mean.item())


def test_row_prior__lower_is_nearer():
    (rows, other) = row_prior([Image.new("RGB", (4, 3)), Image.new("RGB", (2, 5))])
    assert rows.tolist() == [[0.0] * 4, [1.0] * 4, [2.0] * 4]
    assert other.shape == (5, 2)


def test_row_prior__scores_a_floor():
    depth = 10 / np.arange(1, 13)[:, None].repeat(16, 1)  # a plane: disparity grows with the row
    floor = encode_record(np.zeros((12, 16, 3), np.uint8), depth)
    summary = score_dataset(row_prior, [floor]).summary()
    assert summary["abs_rel"] < 1e-2
    assert summary["non_positive_scales"] == 0
