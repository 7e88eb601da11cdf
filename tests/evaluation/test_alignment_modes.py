"""Alignments by hand. Ground truth is 1, 2 and 4 meters everywhere, thus 1, 1/2 and 1/4 in disparity."""

import numpy as np
import pytest
import torch

from depth_anything_hf.evaluation.scoring import (
    SCORE_NAMES,
    align,
    score_metric,
    score_prediction,
    score_relative,
    summarize,
)
from depth_anything_hf.maps.alignment import fit_scale_shift

DEPTH = torch.tensor([[[1.0, 2.0, 4.0]]])


def relative(*prediction, **options):
    scores = score_relative(torch.tensor([[prediction]]), DEPTH, None, "depth", **options)
    return scores["abs_rel"].item(), scores["scale"].item()


@pytest.mark.parametrize(
    ("alignment", "scale", "abs_rel"),
    [
        # s = (2 + 1/2 + 1/4) / (4 + 1 + 1) = 11/24: depth 12/11, 24/11, 24/11.
        ("scale", 11 / 24, (1 / 11 + 1 / 11 + 5 / 11) / 3),
        # Medians 1 and 1/2: depth 1, 2, 2.
        ("median", 1 / 2, (0 + 0 + 1 / 2) / 3),
        # cov = 11/12 - 4/3 * 7/12 = 5/36, var = 2 - 16/9: s = 5/8, b = 7/12 - 5/6 = -1/4: depth 1, 8/3, 8/3.
        ("scale_shift", 5 / 8, (0 + 1 / 3 + 1 / 3) / 3),
    ],
)
def test_score_relative__alignment_literal(alignment, scale, abs_rel):
    assert relative(2.0, 1.0, 1.0, alignment=alignment) == pytest.approx((abs_rel, scale))


def test_score_relative__none_is_refused():
    with pytest.raises(ValueError, match="alignment is 'none', but a relative model's disparity has no scale"):
        relative(1.0, 1.0, 1.0, alignment="none")


@pytest.mark.parametrize(
    ("alignment", "scale", "abs_rel"),
    [
        ("none", 1.0, (2 + 1 + 0) / 3),
        # s = (3 + 8 + 16) / (9 + 16 + 16) = 27/41: 81/41, 108/41, 108/41.
        ("scale", 27 / 41, (40 / 41 + 13 / 41 + 14 / 41) / 3),
        # Medians 4 and 2: 3/2, 2, 2.
        ("median", 1 / 2, (1 / 2 + 0 + 1 / 2) / 3),
        # cov = 9 - 11/3 * 7/3 = 4/9, var = 41/3 - 121/9 = 2/9: s = 2, b = 7/3 - 22/3 = -5: 1, 3, 3.
        ("scale_shift", 2.0, (0 + 1 / 2 + 1 / 4) / 3),
    ],
)
def test_score_metric__alignment_literal(alignment, scale, abs_rel):
    scores = score_metric(torch.tensor([[[3.0, 4.0, 4.0]]]), DEPTH, None, max_depth=10.0, alignment=alignment)
    assert (scores["abs_rel"].item(), scores["scale"].item()) == pytest.approx((abs_rel, scale))


def test_align__unknown_method():
    ones = torch.ones(1, 1, 1)
    with pytest.raises(ValueError, match="alignment is 'affine'; it must be one of scale_shift, scale, median, none"):
        align(ones, ones, ones.bool(), "affine")


def test_score_prediction__passes_the_alignment_of_a_relative_model():
    prediction = torch.tensor([[2.0, 1.0, 1.0]])
    row = score_prediction(prediction, DEPTH[0], None, "depth", alignment="median")
    assert row[SCORE_NAMES.index("abs_rel")].item() == pytest.approx(1 / 6)


@pytest.mark.parametrize(
    ("alignment", "prediction", "scale"),
    [
        ("scale_shift", (0.0, 1.0, 1.0), -5 / 8),  # cov = 1/4 - 2/3 * 7/12 = -5/36, var = 2/3 - 4/9
        ("scale", (-2.0, -1.0, -1.0), -11 / 24),
        ("median", (-2.0, -1.0, -1.0), -1 / 2),
        ("scale", (0.0, 0.0, 0.0), 0.0),
        ("median", (0.0, 0.0, 0.0), 0.0),
        ("scale_shift", (3.0, 3.0, 3.0), 0.0),
    ],
)
def test_score_relative__non_positive_scale_is_reported_and_counted(alignment, prediction, scale):
    scores = score_relative(torch.tensor([[prediction]]), DEPTH, None, "depth", alignment=alignment)
    assert scores["scale"].item() == pytest.approx(scale)
    assert summarize(scores)["non_positive_scales"] == 1


def test_score_relative__disparity_is_floored_at_the_cap():
    # Ratio of the medians 1: aligned 1, 1/2, 0. Floored at the farthest label, 1/4, or at 1/10: 10 m against 4 m.
    assert relative(1.0, 0.5, 0.0, alignment="median") == pytest.approx((0.0, 1.0))
    assert relative(1.0, 0.5, 0.0, alignment="median", cap=10.0) == pytest.approx((6 / 4 / 3, 1.0))


def test_score_relative__min_depth_bounds_the_prediction_and_the_labels():
    # Ratio of the medians 1: aligned 5 is 0.2 m, brought to 0.5 m.
    assert relative(5.0, 0.5, 0.25, alignment="median") == pytest.approx((0.8 / 3, 1.0))
    assert relative(5.0, 0.5, 0.25, alignment="median", min_depth=0.5) == pytest.approx((0.5 / 3, 1.0))
    # The label of 1 m does not count.
    assert relative(5.0, 0.5, 0.25, alignment="median", min_depth=1.5) == pytest.approx((0.0, 1.0))


def lstsq(prediction, target, mask):
    fits = []
    for x, y, valid in zip(prediction.double().numpy(), target.double().numpy(), mask.numpy(), strict=True):
        design = np.stack([x[valid], np.ones(valid.sum())], axis=1)
        fits.append(np.linalg.lstsq(design, y[valid], rcond=None)[0])
    return np.stack(fits)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_fit_scale_shift__near_and_far_from_zero_in_one_batch(dtype):
    # The second image varies by a thousandth of its mean: its sums of squares cancel.
    generator = torch.Generator().manual_seed(0)
    prediction, target = torch.rand(2, 3, 50, 40, dtype=torch.float64, generator=generator).unbind()
    mask = torch.rand(3, 50, 40, generator=generator) < 0.5
    prediction[1] = prediction[1] + 300 if dtype == torch.float64 else prediction[1] * 0.1 + 16
    target = (target + 3 * prediction).to(dtype)
    prediction = torch.where(mask, prediction, torch.nan).to(dtype)
    scale, shift = fit_scale_shift(prediction, target, mask)
    np.testing.assert_allclose(torch.stack([scale, shift], dim=1), lstsq(prediction, target, mask), rtol=1e-9)


def test_fit_scale_shift__any_layout_in_memory():
    prediction, target = torch.rand(2, 2, 6, 9, generator=torch.Generator().manual_seed(0)).unbind()
    mask = prediction > 0.3
    expected = fit_scale_shift(prediction, target, mask)
    turned = [values.mT.contiguous().mT for values in (prediction, target)]
    expanded = fit_scale_shift(*turned, mask.mT.contiguous().mT)
    torch.testing.assert_close(expanded, expected, rtol=1e-12, atol=0)


def test_fit_scale_shift__is_differentiable():
    prediction, target = torch.rand(
        2, 1, 4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    ).unbind()
    mask = torch.ones(1, 4, 5, dtype=torch.bool)
    prediction.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: fit_scale_shift(x, target, mask), (prediction,))
    for with_graph, without in zip(
        fit_scale_shift(prediction, target, mask), fit_scale_shift(prediction.detach(), target, mask), strict=True
    ):
        torch.testing.assert_close(with_graph.detach(), without, rtol=1e-12, atol=0)


def test_fit_scale_shift__without_images():
    nothing = torch.zeros(0, 4, 5)
    assert [values.shape for values in fit_scale_shift(nothing, nothing, nothing.bool())] == [(0,), (0,)]
