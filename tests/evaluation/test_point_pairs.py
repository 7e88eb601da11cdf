import math

import numpy as np
import pytest
import torch
from PIL import Image

from depth_anything_hf.data.readers.da2k import PointPairs
from depth_anything_hf.evaluation.compare import score_models
from depth_anything_hf.evaluation.contestants import Contestant, row_prior
from depth_anything_hf.evaluation.point_pairs import PairScores, score_pairs
from depth_anything_hf.evaluation.protocols import PROTOCOLS

# Rows 0 to 1, columns 0 to 2: disparity.
DISPARITY = torch.tensor([[6.0, 5.0, 4.0], [3.0, 2.0, 2.0]])


def pairs_of(*pairs):
    return torch.tensor(pairs)


def random_pairs(count, size=(9, 13), seed=0):
    """Pairs of different pixels of a map of different values, and which of each is the larger."""
    generator = np.random.default_rng(seed)
    values = generator.permutation(size[0] * size[1]).reshape(size).astype(np.float32) + 1
    flat = np.stack([generator.choice(values.size, 2, replace=False) for _ in range(count)])
    pairs = np.stack(np.unravel_index(flat, size), axis=-1)
    looked_up = values[pairs[..., 0], pairs[..., 1]]
    return torch.from_numpy(values), pairs, looked_up.argmax(axis=1)


def shuffled(pairs, closer, seed=1):
    """Swap the points of half of the pairs."""
    swap = np.random.default_rng(seed).random(len(pairs)) < 0.5
    assert 0 < swap.sum() < len(pairs)
    return np.where(swap[:, None, None], pairs[:, ::-1], pairs), np.where(swap, 1 - closer, closer)


def photograph(i=0, pairs=(((0, 0), (1, 0)),), closer=(1,), scene="indoor", size=(2, 3)):
    image = Image.fromarray(np.full((*size, 3), i, np.uint8))
    return PointPairs(
        image,
        np.array(pairs, np.int64).reshape(-1, 2, 2),
        np.array(closer, np.int64),
        f"images/{scene}/{i}.jpg",
        scene,
    )


def test_score_pairs__literal():
    pairs = pairs_of([[0, 0], [0, 1]], [[1, 0], [0, 2]], [[0, 0], [1, 1]])
    # 6 > 5; 3 < 4; 6 > 2.
    assert score_pairs(DISPARITY, pairs, torch.tensor([0, 0, 1])).tolist() == [True, False, False]
    assert score_pairs(DISPARITY, pairs, torch.tensor([1, 1, 0])).tolist() == [False, True, True]


def test_score_pairs__row_comes_before_column():
    # (0, 2) holds 4 and (1, 0) holds 3; transposed, (2, 0) is outside.
    assert score_pairs(DISPARITY, pairs_of([[0, 2], [1, 0]]), torch.tensor([0])).tolist() == [True]
    with pytest.raises(ValueError, match="outside"):
        score_pairs(DISPARITY.T, pairs_of([[0, 2], [1, 0]]), torch.tensor([0]))


def test_score_pairs__meters_count_the_other_way_round():
    values, pairs, closer = random_pairs(40)
    pairs, closer = shuffled(pairs, closer)
    assert score_pairs(values, pairs, closer).all()
    assert not score_pairs(values, pairs, closer, metric=True).any()
    assert score_pairs(1 / values, pairs, closer, metric=True).all()
    assert score_pairs(-values, pairs, closer).tolist() == [False] * 40


def test_score_pairs__order_of_the_points_does_not_matter():
    values, pairs, closer = random_pairs(40)
    noisy = values + 40 * torch.randn(values.shape, generator=torch.Generator().manual_seed(0))
    expected = score_pairs(noisy, pairs, closer)
    assert 0 < expected.sum() < 40
    for seed in range(3):
        assert torch.equal(score_pairs(noisy, *shuffled(pairs, closer, seed)), expected)


@pytest.mark.parametrize("metric", [False, True])
@pytest.mark.parametrize("closer", [0, 1])
def test_score_pairs__tie_is_wrong(metric, closer):
    assert score_pairs(DISPARITY, pairs_of([[1, 1], [1, 2]]), torch.tensor([closer]), metric).tolist() == [False]


def test_score_pairs__without_pairs():
    assert score_pairs(DISPARITY, np.zeros((0, 2, 2), np.int64), np.zeros(0, np.int64)).tolist() == []


@pytest.mark.parametrize("point", [(2, 0), (0, 3), (-1, 0), (0, -1)])
def test_score_pairs__point_outside(point):
    with pytest.raises(ValueError, match="outside the image of 2 x 3"):
        score_pairs(DISPARITY, pairs_of([[0, 0], list(point)]), torch.tensor([0]))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_score_pairs__broken_prediction(bad):
    broken = DISPARITY.clone()
    broken[0, 0] = bad
    with pytest.raises(ValueError, match="NaN or infinite at a point"):
        score_pairs(broken, pairs_of([[0, 0], [0, 1]]), torch.tensor([0]))
    assert score_pairs(broken, pairs_of([[0, 1], [0, 2]]), torch.tensor([0])).tolist() == [True]


def test_summary__literal():
    scores = PairScores(
        torch.tensor([True, True, False, True, False]),
        torch.tensor([False, False, True, False, False]),
        ["indoor", "indoor", "indoor", "object", "aerial"],
        [""] * 5,
    )
    assert scores.summary() == {
        "accuracy": 3 / 5,
        "mean_of_scenes": pytest.approx((2 / 3 + 1 + 0) / 3),
        "pairs": 5,
        "ties": 1,
        "scene/aerial": 0.0,
        "scene/indoor": pytest.approx(2 / 3),
        "scene/object": 1.0,
    }


def test_summary__without_pairs_is_nan():
    summary = PairScores(torch.zeros(0, dtype=torch.bool), torch.zeros(0, dtype=torch.bool), [], []).summary()
    assert math.isnan(summary["accuracy"])
    assert math.isnan(summary["mean_of_scenes"])
    assert (summary["pairs"], summary["ties"]) == (0, 0)


def samples():
    return [
        photograph(0, [((0, 0), (1, 0)), ((1, 2), (0, 2))], (1, 0), "indoor"),
        photograph(1, [((0, 0), (0, 2))], (0,), "object"),
        photograph(2, [], (), "object"),
        photograph(3, [((0, 1), (1, 1))], (0,), "indoor"),
    ]


def test_score_da2k__models_side_by_side():
    # Lower is nearer: right, right, tie, wrong. In metres: wrong, wrong, tie, right.
    models = {"rows": Contestant(row_prior), "metres": Contestant(row_prior, metric=True)}
    scores = score_models(models, samples(), PROTOCOLS["da2k"])
    assert scores["rows"].correct.tolist() == [True, True, False, False]
    assert scores["metres"].correct.tolist() == [False, False, False, True]
    for one in scores.values():
        assert one.ties.tolist() == [False, False, True, False]
        assert one.scenes == ["indoor", "indoor", "object", "indoor"]
        assert one.sources == ["images/indoor/0.jpg"] * 2 + ["images/object/1.jpg", "images/indoor/3.jpg"]
    summary = scores["rows"].summary()
    assert (summary["accuracy"], summary["mean_of_scenes"]) == (0.5, pytest.approx((2 / 3 + 0) / 2))


@pytest.mark.parametrize("batch_size", [1, 3, 4, 9])
def test_score_da2k__batch_size_does_not_matter(batch_size):
    asked = []

    def predict(images):
        asked.append(len(images))
        return row_prior(images)

    scores = score_models({"rows": Contestant(predict)}, iter(samples()), PROTOCOLS["da2k"], batch_size)["rows"]
    assert scores.correct.tolist() == [True, True, False, False]
    assert (sum(asked), max(asked)) == (4, min(batch_size, 4))


def test_score_da2k__prediction_is_brought_to_the_size_of_the_image():
    # Two columns, 0 and 1, over 5: column 3 becomes 3/4, column 1 becomes 1/4.
    sample = photograph(pairs=[((0, 1), (2, 3)), ((1, 2), (1, 1))], closer=(1, 0), size=(3, 5))
    half = torch.tensor([[0.0, 1.0]], dtype=torch.float16).expand(2, 2)
    scores = score_models({"half": Contestant(lambda images: [half])}, [sample], PROTOCOLS["da2k"])["half"]
    assert scores.correct.tolist() == [True, True]


def test_score_da2k__errors_name_the_image():
    outside = photograph(7, pairs=[((0, 0), (0, 3))], closer=(0,))
    with pytest.raises(ValueError, match=r"images/indoor/7.jpg: points .* outside the image of 2 x 3"):
        score_models({"rows": Contestant(row_prior)}, [photograph(), outside], PROTOCOLS["da2k"])
    with pytest.raises(ValueError, match=r"images/indoor/0.jpg: the prediction is NaN"):
        score_models(
            {"nan": Contestant(lambda images: [torch.full((2, 3), math.nan)])}, [photograph()], PROTOCOLS["da2k"]
        )


def test_score_da2k__rejects():
    with pytest.raises(ValueError, match="0 images"):
        score_models({"rows": Contestant(row_prior)}, [], PROTOCOLS["da2k"])
    with pytest.raises(ValueError, match="batch_size is 0"):
        score_models({"rows": Contestant(row_prior)}, [photograph()], PROTOCOLS["da2k"], batch_size=0)
    with pytest.raises(ValueError, match="rows gave 1 maps for 2 images"):
        score_models(
            {"rows": Contestant(lambda images: row_prior(images)[1:])}, [photograph(), photograph()], PROTOCOLS["da2k"]
        )
