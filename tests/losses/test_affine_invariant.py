import pytest
import torch

from depth_anything_hf.losses.affine_invariant import (
    affine_invariant_loss,
    affine_invariant_loss_per_image,
    normalized_residual,
    trim_mask,
)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def everywhere(values):
    return torch.ones_like(values, dtype=torch.bool)


def test_affine_invariant_loss__literal():
    # d = 1, 2, 6: median 2, deviation (1 + 0 + 4) / 3 = 5/3, so -0.6, 0, 2.4.
    # d* = 0, 3, 4: median 3, deviation (3 + 0 + 1) / 3 = 4/3, so -2.25, 0, 0.75.
    # |difference| = 1.65, 0, 1.65; mean 1.1.
    prediction, target = torch.tensor([[[1.0, 2.0, 6.0]]]), torch.tensor([[[0.0, 3.0, 4.0]]])
    assert affine_invariant_loss(prediction, target, everywhere(target)).item() == pytest.approx(1.1)


def test_affine_invariant_loss__literal_with_masked_pixels():
    # The same three pixels and two masked ones: neither the median, nor the deviation, nor the mean counts them.
    prediction, target = torch.tensor([[[0.0, 1.0, 2.0, 6.0, 0.0]]]), torch.tensor([[[0.0, 0.0, 3.0, 4.0, 0.0]]])
    mask = torch.tensor([[[False, True, True, True, False]]])
    assert affine_invariant_loss(prediction, target, mask).item() == pytest.approx(1.1)


def test_affine_invariant_loss__literal_trimmed():
    # d = 0, 1, 2, 3, 14: median 2, deviation (2 + 1 + 0 + 1 + 12) / 5 = 3.2; d* = 0, 1, 2, 3, 4: 2 and 6/5 = 1.2.
    # Residuals: 2/1.2 - 2/3.2 = 1.041667, 1/1.2 - 1/3.2 = 0.520833, 0, 0.520833, 12/3.2 - 2/1.2 = 2.083333.
    # A fifth dropped: 2.083333 goes; (1.041667 + 0.520833 + 0 + 0.520833) / 4 = 0.520833.
    prediction, target = torch.tensor([[[0.0, 1.0, 2.0, 3.0, 14.0]]]), torch.tensor([[[0.0, 1.0, 2.0, 3.0, 4.0]]])
    loss = affine_invariant_loss(prediction, target, everywhere(target), trim_fraction=0.2)
    assert loss.item() == pytest.approx(0.5208333)
    untrimmed = affine_invariant_loss(prediction, target, everywhere(target))
    assert untrimmed.item() == pytest.approx((0.5208333 * 4 + 2.0833333) / 5)


def test_affine_invariant_loss__inverted_order_is_worst():
    target = torch.rand(1, 20, 20)
    random_order = affine_invariant_loss(torch.rand(1, 20, 20), target, everywhere(target))
    assert affine_invariant_loss(-target, target, everywhere(target)) > random_order


def test_affine_invariant_loss_per_image__labeled_needs_two_values():
    target = torch.tensor([[[1.0, 1.0, 2.0]], [[1.0, 1.0, 2.0]], [[1.0, 1.0, 2.0]]])
    mask = torch.tensor([[[True, True, True]], [[True, True, False]], [[False, False, False]]])
    losses, labeled = affine_invariant_loss_per_image(torch.rand(3, 1, 3), target, mask)
    assert labeled.tolist() == [True, False, False]
    assert losses[0] > 0
    assert losses[1:].tolist() == [0.0, 0.0]


def test_normalized_residual__rounding_noise_is_no_label():
    target = 1000 + torch.rand(1, 8, 8) * 1e-4  # float32 resolves 6e-5 at 1000
    assert normalized_residual(torch.rand(1, 8, 8), target, everywhere(target))[1].tolist() == [False]


def test_normalized_residual__zero_outside_the_mask_and_where_nothing_is_labeled():
    prediction, target, mask = torch.rand(2, 5, 5), torch.rand(2, 5, 5), torch.rand(2, 5, 5) < 0.5
    target[1] = 0.25
    residual, _ = normalized_residual(prediction, target, mask)
    assert (residual[0][mask[0]] != 0).any()
    assert (residual[0][~mask[0]] == 0).all()
    assert (residual[1] == 0).all()


def test_normalized_residual__float16_prediction_of_tiny_spread_keeps_its_gradient_finite():
    prediction = (0.5 + torch.tensor([[[0.0, 1.0, 2.0, 3.0]]]) * 2**-11).half().requires_grad_()
    target = torch.tensor([[[3.0, 0.0, 1.0, 2.0]]])
    (100 * affine_invariant_loss(prediction, target, everywhere(target))).backward()
    assert torch.isfinite(prediction.grad).all()
    assert prediction.grad.abs().max() > 0


@pytest.mark.parametrize(("count", "fraction", "dropped"), [(10, 0.1, 1), (30, 0.1, 3), (9, 0.1, 0), (10, 0.25, 2)])
def test_trim_mask__drops_floor_of_the_share(count, fraction, dropped):
    errors = torch.randperm(40).float().reshape(1, 5, 8)
    mask = torch.zeros(1, 40, dtype=torch.bool)
    mask[0, torch.randperm(40)[:count]] = True
    mask = mask.reshape(1, 5, 8)
    kept = trim_mask(errors, mask, fraction)
    assert (mask & ~kept).sum() == dropped
    assert not (kept & ~mask).any()
    if dropped:
        assert errors[mask & ~kept].min() > errors[kept].max()


def test_trim_mask__ties_with_the_threshold_stay():
    errors = torch.tensor([[[1.0, 2.0, 2.0, 2.0]]])
    assert trim_mask(errors, everywhere(errors), 0.5).tolist() == [[[True, True, True, True]]]


def test_trim_mask__per_image():
    errors = torch.tensor([[[1.0, 2.0]], [[30.0, 20.0]]])
    assert trim_mask(errors, everywhere(errors), 0.5).tolist() == [[[True, False]], [[False, True]]]


def test_trim_mask__almost_everything_keeps_one_pixel():
    errors = torch.tensor([[[3.0, 1.0, 2.0]]])
    assert trim_mask(errors, everywhere(errors), 0.9999999).tolist() == [[[False, True, False]]]


@pytest.mark.parametrize("fraction", [-0.1, 1.0, float("nan")])
def test_trim_mask__rejects_fraction(fraction):
    with pytest.raises(ValueError, match=rf"trim_fraction is {fraction}; it must lie in \[0, 1\)"):
        affine_invariant_loss(
            torch.rand(1, 2, 2), torch.rand(1, 2, 2), torch.ones(1, 2, 2, dtype=torch.bool), fraction
        )


def test_trimming__corrupted_prediction_pixels_get_no_direct_gradient():
    target = torch.rand(1, 10, 10, dtype=torch.float64)
    prediction = target.clone()
    prediction[0, 0] += 50.0  # the worst tenth
    prediction.requires_grad_()
    residual, _ = normalized_residual(prediction, target, everywhere(target))
    kept = trim_mask(residual.abs(), everywhere(target), 0.1)
    assert not kept[0, 0].any()
    assert kept[0, 1:].all()


def test_trimming__target_corrupted_in_a_tenth_costs_less_than_untrimmed():
    target = torch.rand(1, 20, 20)
    corrupted = target.clone()
    corrupted[0, :2] = 5.0
    trimmed = affine_invariant_loss(target, corrupted, everywhere(target), trim_fraction=0.1)
    assert trimmed < 0.7 * affine_invariant_loss(target, corrupted, everywhere(target))


@pytest.mark.parametrize("scale", [1.0, 1e-1, 1e-2, 1e-3])
def test_normalized_residual__float16_is_normalized_as_float32_is(scale):
    target = torch.rand(2, 16, 16)
    half = (scale * (target + 0.3 * torch.rand(2, 16, 16))).half()
    residual, _ = normalized_residual(half, target, everywhere(target))
    expected, _ = normalized_residual(half.float(), target, everywhere(target))
    torch.testing.assert_close(residual, expected)
