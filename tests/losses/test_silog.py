import math

import pytest
import torch

from depth_anything_hf.losses.silog import silog_loss, silog_loss_per_image


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def everywhere(values):
    return torch.ones_like(values, dtype=torch.bool)


def test_silog_loss__literal_v2():
    # g = ln 2, 0: mean of squares 0.5 ln2^2, mean 0.5 ln 2. sqrt(0.5 ln2^2 - 0.5 * 0.25 ln2^2) = ln 2 * sqrt(0.375).
    target = torch.tensor([[[3.0, 5.0]]])
    loss = silog_loss(torch.tensor([[[6.0, 5.0]]]), target, everywhere(target))
    assert loss.item() == pytest.approx(math.log(2) * math.sqrt(0.375))


def test_silog_loss__literal_v1():
    # The same g: 10 * ln 2 * sqrt(0.5 - 0.85 * 0.25) = 10 * ln 2 * sqrt(0.2875).
    target = torch.tensor([[[3.0, 5.0]]])
    loss = silog_loss(torch.tensor([[[6.0, 5.0]]]), target, everywhere(target), variance_focus=0.85, weight=10.0)
    assert loss.item() == pytest.approx(10 * math.log(2) * math.sqrt(0.2875))


@pytest.mark.parametrize(("focus", "expected"), [(0.0, math.log(3)), (0.5, math.log(3) * 0.5**0.5), (1.0, 0.0)])
def test_silog_loss__common_factor_is_forgiven_by_the_focus(focus, expected):
    target = torch.rand(1, 6, 6, dtype=torch.float64) + 0.5
    loss = silog_loss(3 * target, target, everywhere(target), variance_focus=focus)
    assert loss.item() == pytest.approx(expected, abs=1e-9)


def test_silog_loss__masked_pixels_take_no_part():
    target = torch.tensor([[[3.0, 5.0, 0.0, math.nan]]])
    prediction = torch.tensor([[[6.0, 5.0, 7.0, 7.0]]])
    mask = torch.tensor([[[True, True, False, False]]])
    assert silog_loss(prediction, target, mask).item() == pytest.approx(math.log(2) * math.sqrt(0.375))


def test_silog_loss__one_pixel_is_the_weighted_log():
    # Variance 0: sqrt(0.5 * ln2^2).
    target = torch.tensor([[[3.0, 5.0]]])
    loss = silog_loss(2 * target, target, torch.tensor([[[True, False]]]))
    assert loss.item() == pytest.approx(math.log(2) * math.sqrt(0.5))


def test_silog_loss__exact_fit_has_zero_gradient():
    target = torch.rand(2, 5, 5) + 0.5
    prediction = target.clone().requires_grad_()
    loss = silog_loss(prediction, target, everywhere(target))
    loss.backward()
    assert loss.item() == 0.0
    assert (prediction.grad == 0).all()


@pytest.mark.parametrize("factor", [1 + 1e-6, 1 + 1e-4])
def test_silog_loss__gradient_near_an_exact_fit_is_bounded(factor):
    target = torch.rand(1, 5, 5) + 0.5
    prediction = target.clone()
    prediction[0, 0, 0] *= factor
    prediction.requires_grad_()
    silog_loss(prediction, target, everywhere(target)).backward()
    # d L / d g_i is at most 1 / sqrt(25) and d g / d p at most 1 / 0.5.
    assert 0 < prediction.grad.abs().max() <= 2 / 5 + 1e-3


@pytest.mark.parametrize("unit", [1e-3, 1e3])
def test_silog_loss__unit_of_both_does_not_matter(unit):
    prediction, target = torch.rand(2, 5, 5) + 0.5, torch.rand(2, 5, 5) + 0.5
    torch.testing.assert_close(
        silog_loss(unit * prediction, unit * target, everywhere(target)),
        silog_loss(prediction, target, everywhere(target)),
    )


def test_silog_loss__never_turns_negative_under_the_root():
    # Far from zero in the logarithm the textbook form, E[g^2] - E[g]^2, goes negative in float32.
    target = torch.full((1, 50, 50), 1e-3)
    loss = silog_loss(
        target * 8e4 * (1 + 1e-6 * torch.rand(1, 50, 50)), target, everywhere(target), variance_focus=1.0
    )
    assert 0 <= loss.item() < 1e-5


def test_silog_loss_per_image__says_which_images_have_labels():
    target, mask = torch.rand(2, 3, 3) + 0.5, torch.ones(2, 3, 3, dtype=torch.bool)
    mask[0] = False
    losses, labeled = silog_loss_per_image(2 * target, target, mask)
    assert labeled.tolist() == [False, True]
    assert losses[0] == 0
    assert losses[1] > 0


@pytest.mark.parametrize("focus", [-0.1, 1.1, math.nan])
def test_silog_loss__rejects_focus(focus):
    with pytest.raises(ValueError, match=rf"variance_focus is {focus}; it must lie in \[0, 1\]"):
        silog_loss(torch.ones(1, 2, 2), torch.ones(1, 2, 2), torch.ones(1, 2, 2, dtype=torch.bool), focus)


def test_silog_loss__sparse_labels_pull_as_hard_as_dense():
    """LiDAR labels 5 % of the pixels: the loss, and what its gradient adds up to, are those of dense labels."""
    torch.manual_seed(0)
    target = torch.rand(1, 200, 200) * 20 + 1
    predicted = (target * 1.4 * torch.exp(0.2 * torch.randn_like(target))).requires_grad_()
    found = {}
    for share in (1.0, 0.05):
        mask = torch.rand(target.shape, generator=torch.Generator().manual_seed(1)) < share
        (gradient,) = torch.autograd.grad(silog_loss(predicted, target, mask), predicted)
        found[share] = torch.stack([silog_loss(predicted, target, mask).detach(), gradient.abs().sum()])
    torch.testing.assert_close(found[0.05], found[1.0], rtol=0.05, atol=0)
