import math

import pytest
import torch

from depth_anything_hf.evaluation.scoring import (
    SCORE_NAMES,
    depth_metrics,
    score_metric,
    score_prediction,
    score_relative,
    summarize,
)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def random_case(batch=3):
    depth = torch.rand(batch, 8, 9, dtype=torch.float64) * 9 + 1
    prediction = 2 / depth + 0.2 * torch.rand(batch, 8, 9, dtype=torch.float64)
    return prediction, depth, torch.rand(batch, 8, 9) < 0.7


def test_score_relative__literal():
    # 1/y = 1, 1/2, 1/4 and d = 1, 2, 1: means 7/12 and 4/3; var = 2/9; cov = mean(d / y) - 7/12 * 4/3
    # = (1 + 1 + 1/4) / 3 - 7/9 = -1/36; scale = -1/8, shift = 7/12 + 1/6 = 3/4. Aligned: 5/8, 1/2, 5/8.
    # Depth 8/5, 2, 8/5 against 1, 2, 4: abs_rel = (3/5 + 0 + 3/5) / 3 = 0.4.
    # In disparity: (3/8 + 0 + (3/8) / (1/4)) / 3 = 0.625.
    depth, prediction = torch.tensor([[[1.0, 2.0, 4.0]]]), torch.tensor([[[1.0, 2.0, 1.0]]])
    scores = score_relative(prediction, depth, None, "depth")
    assert tuple(sorted(scores)) == tuple(sorted(SCORE_NAMES))
    assert scores["scale"].item() == pytest.approx(-1 / 8)
    assert scores["abs_rel"].item() == pytest.approx(0.4)
    assert scores["disparity_abs_rel"].item() == pytest.approx(0.625)
    assert scores["delta1"].item() == pytest.approx(1 / 3)


@pytest.mark.parametrize("space", ["depth", "disparity"])
@pytest.mark.parametrize("unit", [1e-6, 1.0, 1e6])
def test_score_relative__affine_disparity_scores_zero(space, unit):
    _, target, mask = random_case()
    prediction = unit * ((3 / target if space == "depth" else 3 * target) + 2)
    scores = score_relative(prediction, target, mask, space)
    for name in ("abs_rel", "sq_rel", "rmse", "rmse_log", "log10", "disparity_abs_rel"):
        assert scores[name].max() < 1e-9, name
    assert scores["delta1"].tolist() == [1.0] * 3
    torch.testing.assert_close(scores["scale"], torch.full((3,), 1 / (3 * unit), dtype=torch.float64))


def test_score_relative__affine_in_depth_is_not_forgiven():
    _, depth, mask = random_case()
    assert score_relative(3 * depth + 2, depth, mask, "depth")["abs_rel"].min() > 0.1


def test_score_relative__negative_scale_is_reported_and_not_made_positive():
    _, depth, mask = random_case()
    scores = score_relative(-3 / depth + 9, depth, mask, "depth")
    torch.testing.assert_close(scores["scale"], torch.full((3,), -1 / 3, dtype=torch.float64))
    summary = summarize(scores)
    assert summary["non_positive_scales"] == 3


def test_score_relative__constant_prediction_counts_as_non_positive():
    _, depth, mask = random_case()
    scores = score_relative(torch.full_like(depth, 0.1), depth, mask, "depth")
    assert scores["scale"].tolist() == [0.0] * 3
    assert summarize(scores)["non_positive_scales"] == 3


def test_score_relative__pixel_aligned_below_zero_is_floored_at_the_farthest():
    depth = torch.tensor([[[1.0, 2.0, 4.0, 4.0]]])
    prediction = 1 / depth
    prediction[..., 3] = -0.2  # aligned below zero
    scores = score_relative(prediction, depth, None, "depth")
    assert scores["delta1"] >= 0.25
    # Without a floor the inverse would be negative or huge; with it, no deeper than 4.
    assert torch.isfinite(scores["rmse_log"]).all()
    assert scores["rmse"] <= 3


def test_score_relative__cap_excludes_what_lies_beyond_and_floors_the_rest():
    depth = torch.tensor([[[1.0, 2.0, 4.0, 50.0]]])
    prediction = torch.tensor([[[1.0, 0.5, 0.25, 7.0]]])  # right up to 4 m, absurd at 50
    scores = score_relative(prediction, depth, None, "depth", cap=10.0)
    assert scores["abs_rel"].item() == pytest.approx(0, abs=1e-12)
    assert score_relative(prediction, depth, None, "depth")["abs_rel"] > 0.1
    # The floor is 1 / cap and not the farthest label: an error may reach 10 m.
    far = torch.tensor([[[1.0, 0.5, 0.25, 0.25, 0.0]]])
    label = torch.tensor([[[1.0, 2.0, 4.0, 4.0, 4.0]]])
    deepest = {}
    for cap in (None, 10.0):
        deepest[cap] = score_relative(far, label, None, "depth", cap)["rmse"].item()
    assert deepest[10.0] > deepest[None] + 0.1


def test_score_relative__cap_in_disparity_is_inverse():
    disparity = torch.tensor([[[1.0, 0.5, 0.25, 0.02]]])
    prediction = torch.tensor([[[1.0, 0.5, 0.25, 7.0]]])
    assert score_relative(prediction, disparity, None, "disparity", cap=10.0)["abs_rel"].item() < 1e-12


def test_score_relative__pixels_at_infinity_and_holes_are_not_scored():
    disparity = torch.tensor([[[1.0, 0.5, 0.25, 0.0, math.nan, math.inf]]])
    prediction = torch.tensor([[[1.0, 0.5, 0.25, 9.0, math.nan, math.inf]]])
    assert score_relative(prediction, disparity, None, "disparity")["abs_rel"].item() < 1e-12


def test_score_relative__empty_image_is_nan_counted_and_leaves_the_rest():
    prediction, depth, mask = random_case()
    expected = score_relative(prediction, depth, mask, "depth")
    mask[1] = False
    scores = score_relative(prediction, depth, mask, "depth")
    for name in SCORE_NAMES:
        assert torch.isnan(scores[name]).tolist() == [False, True, False], name
        assert torch.equal(scores[name][[0, 2]], expected[name][[0, 2]])
    summary = summarize(scores)
    assert (summary["images"], summary["images_without_labels"], summary["non_positive_scales"]) == (2, 1, 0)
    assert summary["abs_rel"] == pytest.approx(expected["abs_rel"][[0, 2]].mean().item())


def test_score_relative__batch_equals_loop():
    prediction, depth, mask = random_case()
    whole = score_relative(prediction, depth, mask, "depth", cap=8.0)
    for i in range(3):
        one = score_relative(prediction[i : i + 1], depth[i : i + 1], mask[i : i + 1], "depth", cap=8.0)
        for name in SCORE_NAMES:
            torch.testing.assert_close(one[name], whole[name][i : i + 1])


def test_score_relative__masked_out_values_do_not_matter():
    prediction, depth, mask = random_case()
    expected = score_relative(prediction, depth, mask, "depth")
    spoiled = score_relative(prediction.where(mask, math.inf), depth.where(mask, math.nan), mask, "depth")
    for name in SCORE_NAMES:
        assert torch.equal(spoiled[name], expected[name]), name


def test_score_relative__delta1_is_that_of_disparity():
    prediction, depth, mask = random_case()
    both = [
        score_relative(prediction, values, mask, space)
        for values, space in ((depth, "depth"), (1 / depth, "disparity"))
    ]
    torch.testing.assert_close(both[0]["delta1"], both[1]["delta1"])
    torch.testing.assert_close(both[0]["disparity_abs_rel"], both[1]["disparity_abs_rel"])


def test_score_relative__rejects_arguments():
    ones = torch.ones(1, 2, 2)
    with pytest.raises(ValueError, match="space is 'inverse'; it must be one of"):
        score_relative(ones, ones, None, "inverse")
    for cap in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match=f"cap is {cap}; it must be positive meters"):
            score_relative(ones, ones, None, "depth", cap)
    with pytest.raises(ValueError, match=r"prediction has shape \(1, 2, 2\) and target \(3, 2, 2\)"):
        score_relative(ones, ones.expand(3, 2, 2), None, "depth")


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_score__broken_prediction_is_not_taken_for_an_image_without_labels(bad):
    prediction, target = torch.rand(1, 2, 2) + 1, torch.rand(1, 2, 2) + 1
    prediction[0, 0, 0] = bad
    message = "NaN or infinite at 1 of 4 scored pixels; every one must be finite"
    with pytest.raises(ValueError, match=message):
        score_relative(prediction, target, None, "depth")
    with pytest.raises(ValueError, match=message):
        score_metric(prediction, target, None, max_depth=10.0)


def test_score_metric__literal():
    # 2 against 1 and 3 against 4: abs_rel (1 + 1/4) / 2; in disparity |y - p| / p: (1/2 + 1/3) / 2.
    scores = score_metric(torch.tensor([[[2.0, 3.0]]]), torch.tensor([[[1.0, 4.0]]]), None, max_depth=10.0)
    assert scores["abs_rel"].item() == pytest.approx(0.625)
    assert scores["disparity_abs_rel"].item() == pytest.approx(5 / 12)
    assert scores["scale"].item() == 1.0


def test_score_metric__labels_beyond_the_range_are_not_scored():
    target = torch.tensor([[[1.0, 2.0, 90.0, 1e-4, 0.0, math.nan]]])
    prediction = torch.tensor([[[1.0, 2.0, 1.0, 1.0, 1.0, 1.0]]])
    assert score_metric(prediction, target, None, max_depth=80.0)["abs_rel"].item() == 0.0


def test_score_metric__prediction_is_clamped_to_the_range():
    target = torch.tensor([[[4.0, 8.0]]])
    clamped = score_metric(torch.tensor([[[-3.0, 500.0]]]), target, None, max_depth=10.0, min_depth=0.5)
    direct = depth_metrics(torch.tensor([[[0.5, 10.0]]]), target, torch.ones(1, 1, 2, dtype=torch.bool))
    for name, value in direct.items():
        assert clamped[name].item() == pytest.approx(value.item()), name


def test_score_metric__scale_is_not_forgiven():
    _, depth, mask = random_case()
    torch.testing.assert_close(
        score_metric(1.5 * depth, depth, mask, max_depth=100.0)["abs_rel"], torch.full((3,), 0.5, dtype=torch.float64)
    )


def test_score_metric__empty_image_is_nan():
    scores = score_metric(torch.ones(1, 2, 2), torch.full((1, 2, 2), 100.0), None, max_depth=80.0)
    assert all(torch.isnan(scores[name]).all() for name in SCORE_NAMES)


@pytest.mark.parametrize(("low", "high"), [(1.0, 0.5), (0.0, 10.0), (1e-3, math.nan)])
def test_score_metric__rejects_range(low, high):
    with pytest.raises(ValueError, match=f"min_depth is {low} and max_depth {high}; they must be positive"):
        score_metric(torch.ones(1, 2, 2), torch.ones(1, 2, 2), None, max_depth=high, min_depth=low)


def test_summarize__is_the_mean_of_images_not_of_pixels():
    target = torch.ones(2, 2, 2)
    prediction = torch.stack([torch.full((2, 2), 2.0), torch.full((2, 2), 1.1)])
    mask = torch.ones(2, 2, 2, dtype=torch.bool)
    mask[0, 0, :] = False
    summary = summarize(score_metric(prediction, target, mask, max_depth=10.0))
    assert summary["abs_rel"] == pytest.approx((1.0 + 0.1) / 2)
    assert "scale" not in summary


def test_summarize__without_labels_is_nan_and_counted():
    scores = dict.fromkeys(SCORE_NAMES, torch.full((2,), math.nan, dtype=torch.float64))
    summary = summarize(scores)
    assert math.isnan(summary["abs_rel"])
    assert (summary["images"], summary["images_without_labels"], summary["non_positive_scales"]) == (0, 2, 0)


def test_score_prediction__at_its_own_size_equals_the_direct_scores():
    prediction, depth, mask = (values[0] for values in random_case(1))
    relative = score_relative(prediction[None], depth[None], mask[None], "depth")
    row = score_prediction(prediction, depth, mask, "depth")
    torch.testing.assert_close(row, torch.stack([relative[name][0] for name in SCORE_NAMES]), rtol=1e-5, atol=1e-7)
    metric = score_metric(prediction[None], depth[None], mask[None], 10.0)
    row = score_prediction(prediction, depth, mask, "depth", metric=True, max_depth=10.0)
    torch.testing.assert_close(row, torch.stack([metric[name][0] for name in SCORE_NAMES]), rtol=1e-5, atol=1e-7)


def test_score_prediction__metric_model_needs_depth():
    with pytest.raises(ValueError, match="disparity"):
        score_prediction(torch.ones(2, 2), torch.ones(2, 2), None, "disparity", metric=True, max_depth=10.0)
