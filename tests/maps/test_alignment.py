import math

import numpy as np
import pytest
import torch

from depth_anything_hf.maps.alignment import apply_fit, fit_median, fit_scale, fit_scale_shift


def random_case(seed, batch=4, size=(7, 9)):
    generator = torch.Generator().manual_seed(seed)
    prediction = torch.rand(batch, *size, generator=generator) * 5 + 100  # far from zero: ill-conditioned uncentred
    target = torch.rand(batch, *size, generator=generator)
    return prediction, target, torch.rand(batch, *size, generator=generator) < 0.6


def test_fit_scale_shift__literal():
    # d = 0, 1, 2 and d* = 1, 2, 6: means 1 and 3; cov = (2 + 0 + 3) / 3, var = 2/3; s = 2.5, b = 3 - 2.5 = 0.5.
    prediction, target = torch.tensor([[[0.0, 1.0, 2.0]]]), torch.tensor([[[1.0, 2.0, 6.0]]])
    scale, shift = fit_scale_shift(prediction, target, torch.ones(1, 1, 3, dtype=torch.bool))
    assert (scale.dtype, shift.dtype) == (torch.float64, torch.float64)
    torch.testing.assert_close(scale, torch.tensor([2.5], dtype=torch.float64))
    torch.testing.assert_close(shift, torch.tensor([0.5], dtype=torch.float64))


@pytest.mark.parametrize("seed", range(3))
def test_fit_scale_shift__equals_lstsq(seed):
    prediction, target, mask = random_case(seed)
    scale, shift = fit_scale_shift(prediction, target, mask)
    for i in range(len(prediction)):
        x = prediction[i][mask[i]].double().numpy()
        y = target[i][mask[i]].double().numpy()
        expected = np.linalg.lstsq(np.stack([x, np.ones_like(x)], axis=1), y, rcond=None)[0]
        np.testing.assert_allclose([scale[i], shift[i]], expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("unit", [1e-8, 1e-3, 1e8])
def test_fit_scale_shift__any_unit_of_prediction(unit):
    prediction, target, mask = random_case(0)
    scale, shift = fit_scale_shift(prediction.double(), target, mask)
    scaled, same_shift = fit_scale_shift(prediction.double() * unit, target, mask)
    torch.testing.assert_close(scaled * unit, scale, rtol=1e-7, atol=0)
    torch.testing.assert_close(same_shift, shift, rtol=1e-7, atol=0)


def test_fit_scale_shift__masked_out_values_do_not_matter():
    prediction, target, mask = random_case(1)
    expected = fit_scale_shift(prediction, target, mask)
    spoiled = fit_scale_shift(prediction.where(mask, math.nan), target.where(mask, math.inf), mask)
    torch.testing.assert_close(spoiled, expected, rtol=0, atol=0)


def test_fit_scale_shift__negative_scale_is_returned():
    prediction = torch.rand(1, 4, 4)
    scale, shift = fit_scale_shift(prediction, 5 - 2 * prediction, torch.ones(1, 4, 4, dtype=torch.bool))
    torch.testing.assert_close(scale, torch.tensor([-2.0], dtype=torch.float64), rtol=1e-5, atol=0)
    torch.testing.assert_close(shift, torch.tensor([5.0], dtype=torch.float64), rtol=1e-5, atol=0)


def test_fit_scale_shift__constant_prediction_gets_mean_of_target():
    prediction, target = torch.full((1, 1, 3), 0.1), torch.tensor([[[1.0, 2.0, 6.0]]])
    scale, shift = fit_scale_shift(prediction, target, torch.ones(1, 1, 3, dtype=torch.bool))
    assert scale.tolist() == [0.0]
    assert shift.tolist() == [3.0]


def test_fit_scale_shift__empty_image_gets_zeros_and_leaves_the_rest():
    prediction, target = torch.tensor([[[1.0, 2.0]], [[1.0, 2.0]]]), torch.tensor([[[9.0, 9.0]], [[3.0, 5.0]]])
    scale, shift = fit_scale_shift(prediction, target, torch.tensor([[[False, False]], [[True, True]]]))
    torch.testing.assert_close(scale, torch.tensor([0.0, 2.0], dtype=torch.float64))
    torch.testing.assert_close(shift, torch.tensor([0.0, 1.0], dtype=torch.float64))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_fit__non_finite_prediction_is_not_hidden(bad):
    prediction, target = torch.tensor([[[1.0, bad, 3.0]]]), torch.tensor([[[1.0, 2.0, 3.0]]])
    everywhere = torch.ones(1, 1, 3, dtype=torch.bool)
    scale, shift = fit_scale_shift(prediction, target, everywhere)
    assert not torch.isfinite(scale).any()
    assert not torch.isfinite(shift).any()
    assert not torch.isfinite(fit_scale(prediction, target, everywhere)).any()


def test_fit_scale__literal():
    # (1 * 2 + 2 * 5) / (1 + 4) = 12 / 5
    prediction, target = torch.tensor([[[1.0, 2.0, 8.0]]]), torch.tensor([[[2.0, 5.0, math.nan]]])
    mask = torch.tensor([[[True, True, False]]])
    assert fit_scale(prediction, target, mask).tolist() == [2.4]


def test_fit_scale__zero_prediction_and_empty_image_give_zero():
    mask = torch.tensor([[[True, True]], [[False, False]]])
    prediction = torch.tensor([[[0.0, 0.0]], [[1.0, 1.0]]])
    assert fit_scale(prediction, torch.ones(2, 1, 2), mask).tolist() == [0.0, 0.0]


def test_fit_median__literal():
    # Medians 2 and 6; the masked 100 takes no part.
    prediction, target = torch.tensor([[[1.0, 2.0, 50.0, 100.0]]]), torch.tensor([[[3.0, 6.0, 7.0, 100.0]]])
    assert fit_median(prediction, target, torch.tensor([[[True, True, True, False]]])).tolist() == [3.0]


def test_fit_median__zero_median_and_empty_image_give_zero():
    mask = torch.tensor([[[True, True]], [[False, False]]])
    assert fit_median(torch.zeros(2, 1, 2), torch.ones(2, 1, 2), mask).tolist() == [0.0, 0.0]


def test_apply_fit__per_image_in_float64():
    aligned = apply_fit(torch.ones(2, 1, 2), torch.tensor([2.0, 3.0]), torch.tensor([0.5, -1.0]))
    assert aligned.dtype == torch.float64
    assert aligned.tolist() == [[[2.5, 2.5]], [[2.0, 2.0]]]


def test_apply_fit__batch_equals_loop():
    prediction, target, mask = random_case(2)
    scale, shift = fit_scale_shift(prediction, target, mask)
    whole = apply_fit(prediction, scale, shift)
    for i in range(len(prediction)):
        one = slice(i, i + 1)
        torch.testing.assert_close(
            apply_fit(prediction[one], *fit_scale_shift(prediction[one], target[one], mask[one])), whole[one]
        )
