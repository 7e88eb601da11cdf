import math

import pytest
import torch

from depth_anything_hf.evaluation.scoring import METRIC_NAMES, depth_metrics


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def random_case(batch=3):
    prediction, target = torch.rand(batch, 6, 7) * 5 + 0.5, torch.rand(batch, 6, 7) * 5 + 0.5
    return prediction, target, torch.rand(batch, 6, 7) < 0.6


def test_depth_metrics__literal():
    # d = 2, 4, 3 and d* = 1, 4, 6; the fourth pixel is masked. Differences 1, 0, -3; g = ln 2, 0, -ln 2.
    prediction, target = torch.tensor([[[2.0, 4.0, 3.0, 9.0]]]), torch.tensor([[[1.0, 4.0, 6.0, 0.0]]])
    scores = depth_metrics(prediction, target, torch.tensor([[[True, True, True, False]]]))
    expected = {
        "abs_rel": (1 / 1 + 0 + 3 / 6) / 3,
        "sq_rel": (1 / 1 + 0 + 9 / 6) / 3,
        "rmse": math.sqrt((1 + 0 + 9) / 3),
        "rmse_log": math.log(2) * math.sqrt(2 / 3),
        "log10": 2 / 3 * math.log10(2),
        "silog": 100 * math.log(2) * math.sqrt(2 / 3),  # the mean of the logarithms is 0
        "delta1": 1 / 3,
        "delta2": 1 / 3,  # 2 > 1.5625
        "delta3": 1 / 3,  # 2 > 1.953125
    }
    assert tuple(scores) == METRIC_NAMES
    for name, value in expected.items():
        assert scores[name].dtype == torch.float64
        assert scores[name].tolist() == [pytest.approx(value, rel=1e-12)], name


@pytest.mark.parametrize(("ratio", "deltas"), [(1.2, (1, 1, 1)), (1.3, (0, 1, 1)), (1.9, (0, 0, 1)), (2.0, (0, 0, 0))])
def test_depth_metrics__deltas_are_symmetric(ratio, deltas):
    target = torch.full((1, 2, 2), 3.0)
    everywhere = torch.ones(1, 2, 2, dtype=torch.bool)
    for prediction in (target * ratio, target / ratio):
        scores = depth_metrics(prediction, target, everywhere)
        assert tuple(scores[f"delta{k}"].item() for k in (1, 2, 3)) == deltas


def test_depth_metrics__delta_threshold_is_strict():
    target = torch.full((1, 1, 1), 4.0)
    assert depth_metrics(target * 1.25, target, torch.ones(1, 1, 1, dtype=torch.bool))["delta1"].item() == 0.0


def test_depth_metrics__silog_forgives_a_common_factor():
    _, target, mask = random_case()
    scores = depth_metrics(3 * target.double(), target, mask)
    assert scores["silog"].max() < 1e-4
    torch.testing.assert_close(scores["rmse_log"], torch.full((3,), math.log(3), dtype=torch.float64))


def test_depth_metrics__equals_slow_reference():
    prediction, target, mask = random_case()
    scores = depth_metrics(prediction, target, mask)
    for i in range(3):
        pairs = list(zip(prediction[i][mask[i]].tolist(), target[i][mask[i]].tolist(), strict=True))
        logs = [math.log(p) - math.log(y) for p, y in pairs]
        n, mean = len(pairs), sum(logs) / len(logs)
        slow = {
            "abs_rel": sum(abs(p - y) / y for p, y in pairs) / n,
            "sq_rel": sum((p - y) ** 2 / y for p, y in pairs) / n,
            "rmse": math.sqrt(sum((p - y) ** 2 for p, y in pairs) / n),
            "rmse_log": math.sqrt(sum(g * g for g in logs) / n),
            "log10": sum(abs(math.log10(p) - math.log10(y)) for p, y in pairs) / n,
            "silog": 100 * math.sqrt(sum((g - mean) ** 2 for g in logs) / n),
        }
        slow |= {f"delta{k}": sum(max(p / y, y / p) < 1.25**k for p, y in pairs) / n for k in (1, 2, 3)}
        for name in METRIC_NAMES:
            assert scores[name][i].item() == pytest.approx(slow[name], rel=1e-9), name


def test_depth_metrics__masked_out_values_do_not_matter():
    prediction, target, mask = random_case()
    expected = depth_metrics(prediction, target, mask)
    spoiled = depth_metrics(prediction.where(mask, math.nan), target.where(mask, 0.0), mask)
    for name in METRIC_NAMES:
        assert torch.equal(spoiled[name], expected[name])


def test_depth_metrics__empty_image_is_nan_and_leaves_the_rest():
    prediction, target, mask = random_case()
    expected = depth_metrics(prediction, target, mask)
    mask[1] = False
    scores = depth_metrics(prediction, target, mask)
    for name in METRIC_NAMES:
        assert torch.isnan(scores[name]).tolist() == [False, True, False]
        assert torch.equal(scores[name][[0, 2]], expected[name][[0, 2]])


def test_depth_metrics__batch_equals_loop():
    prediction, target, mask = random_case()
    whole = depth_metrics(prediction, target, mask)
    for i in range(3):
        one = depth_metrics(prediction[i : i + 1], target[i : i + 1], mask[i : i + 1])
        for name in METRIC_NAMES:
            torch.testing.assert_close(one[name], whole[name][i : i + 1])


def test_depth_metrics__float16_depth_does_not_overflow():
    target = torch.full((1, 4, 4), 300.0, dtype=torch.float16)
    scores = depth_metrics(target * 2, target, torch.ones(1, 4, 4, dtype=torch.bool))
    assert scores["rmse"].item() == 300.0  # 300 squared is beyond float16
