import pytest
import torch

from depth_anything_hf.losses.gradient_matching import (
    gradient_matching_loss,
    gradient_matching_loss_per_image,
    multi_scale_gradient,
)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def everywhere(values):
    return torch.ones_like(values, dtype=torch.bool)


def test_multi_scale_gradient__literal_one_scale():
    # Rows (0, 1, 3) and (2, 2, 2). Across: |1|, |2|, 0, 0, mean 3/4. Down: 2, 1, |-1|, mean 4/3.
    residual = torch.tensor([[[0.0, 1.0, 3.0], [2.0, 2.0, 2.0]]])
    assert multi_scale_gradient(residual, everywhere(residual), scales=1).item() == pytest.approx(3 / 4 + 4 / 3)


def test_multi_scale_gradient__literal_two_scales():
    # Scale 0 as above. Scale 1: every second pixel, (0, 3): across |3|; no pair down.
    residual = torch.tensor([[[0.0, 1.0, 3.0], [2.0, 2.0, 2.0]]])
    assert multi_scale_gradient(residual, everywhere(residual), scales=2).item() == pytest.approx(3 / 4 + 4 / 3 + 3)


def test_multi_scale_gradient__literal_masked():
    # Without the pixel (0, 1): across 0, 0 of the second row; down 2 and |-1|, mean 3/2.
    residual = torch.tensor([[[0.0, 100.0, 3.0], [2.0, 2.0, 2.0]]])
    mask = torch.tensor([[[True, False, True], [True, True, True]]])
    assert multi_scale_gradient(residual, mask, scales=1).item() == pytest.approx(1.5)


def test_multi_scale_gradient__constant_residual_is_zero():
    residual = torch.full((2, 17, 19), 3.7)
    assert multi_scale_gradient(residual, torch.rand(2, 17, 19) < 0.8).tolist() == [0.0, 0.0]


def test_multi_scale_gradient__isolated_pixels_are_zero():
    # Rows and columns 1, 7 and 13: no two are neighbours, and the strides of 2, 4 and 8 see even ones only.
    mask = torch.zeros(1, 17, 17, dtype=torch.bool)
    mask[:, 1::6, 1::6] = True
    assert multi_scale_gradient(torch.rand(1, 17, 17), mask).tolist() == [0.0]


def test_multi_scale_gradient__sparse_labels_weigh_as_much_as_dense():
    # Noise: the mean difference does not depend on how many pairs there are. Divided by the pixels, a mask of 5 %
    # would have a loss of a twentieth.
    residual = torch.randn(1, 400, 400)
    dense = multi_scale_gradient(residual, everywhere(residual))
    sparse = multi_scale_gradient(residual, torch.rand(1, 400, 400) < 0.05)
    assert 0.5 < (sparse / dense).item() < 2


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 1), (3, 3)])
def test_multi_scale_gradient__image_smaller_than_the_strides(size):
    residual = torch.rand(2, *size, requires_grad=True)
    gradient = multi_scale_gradient(residual, everywhere(residual))
    gradient.sum().backward()
    assert torch.isfinite(gradient).all()
    assert torch.isfinite(residual.grad).all()
    assert (gradient == 0).all() == (size == (1, 1))


@pytest.mark.parametrize("scales", [0, -1])
def test_multi_scale_gradient__rejects_scales(scales):
    with pytest.raises(ValueError, match=f"scales is {scales}; it must be at least 1"):
        gradient_matching_loss(torch.rand(1, 2, 2), torch.rand(1, 2, 2), torch.ones(1, 2, 2, dtype=torch.bool), scales)


def test_gradient_matching_loss__literal():
    # Residual of (1, 2, 6) and (0, 3, 4): -0.6 + 2.25 = 1.65, 0, 2.4 - 0.75 = 1.65. One row.
    # Scale 0: |0 - 1.65|, |1.65 - 0|, mean 1.65. Scale 1: |1.65 - 1.65| = 0.
    prediction, target = torch.tensor([[[1.0, 2.0, 6.0]]]), torch.tensor([[[0.0, 3.0, 4.0]]])
    assert gradient_matching_loss(prediction, target, everywhere(target)).item() == pytest.approx(1.65)


def test_gradient_matching_loss__more_scales_add():
    prediction, target = torch.rand(1, 32, 32), torch.rand(1, 32, 32)
    losses = [gradient_matching_loss(prediction, target, everywhere(target), scales).item() for scales in (1, 2, 3, 4)]
    assert losses == sorted(losses)
    assert losses[0] < losses[3]


def test_gradient_matching_loss__blurred_edge_costs_more_than_sharp():
    target = torch.zeros(1, 16, 16)
    target[..., 8:] = 1.0
    target = target + 0.1 * torch.rand(1, 16, 1)
    blurred = torch.nn.functional.avg_pool2d(target, (1, 5), stride=1, padding=(0, 2), count_include_pad=False)
    assert gradient_matching_loss(blurred, target, everywhere(target)) > 0.1
    assert gradient_matching_loss(target, target, everywhere(target)) == 0


def test_gradient_matching_loss_per_image__says_which_images_have_labels():
    target, mask = torch.rand(2, 4, 4), torch.ones(2, 4, 4, dtype=torch.bool)
    mask[1] = False
    losses, labeled = gradient_matching_loss_per_image(torch.rand(2, 4, 4), target, mask)
    assert labeled.tolist() == [True, False]
    assert losses[1] == 0
