import pytest
import torch

from depth_anything_hf.losses.affine_invariant import affine_invariant_loss_per_image
from depth_anything_hf.losses.gradient_matching import gradient_matching_loss_per_image
from depth_anything_hf.losses.relative import relative_loss_per_image


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def random_case():
    mask = torch.rand(3, 12, 12) < 0.7
    mask[1] = False
    return torch.rand(3, 12, 12), torch.rand(3, 12, 12), mask


def test_relative_loss_per_image__literal():
    # The residual of (1, 2, 6) and (0, 3, 4) is 1.65, 0, 1.65: mean 1.1, differences 1.65 and 1.65, at stride 2 zero.
    prediction, target = torch.tensor([[[1.0, 2.0, 6.0]]]), torch.tensor([[[0.0, 3.0, 4.0]]])
    terms = relative_loss_per_image(prediction, target, torch.ones(1, 1, 3, dtype=torch.bool))
    assert terms.affine_invariant.item() == pytest.approx(1.1)
    assert terms.gradient_matching.item() == pytest.approx(1.65)
    assert terms.labeled.tolist() == [True]


@pytest.mark.parametrize("trim", [0.0, 0.1])
def test_relative_loss_per_image__equals_the_two_losses(trim):
    case = random_case()
    terms = relative_loss_per_image(*case, trim_fraction=trim)
    losses, labeled = affine_invariant_loss_per_image(*case, trim_fraction=trim)
    torch.testing.assert_close(terms.affine_invariant, losses, rtol=0, atol=0)
    torch.testing.assert_close(terms.gradient_matching, gradient_matching_loss_per_image(*case)[0], rtol=0, atol=0)
    assert terms.labeled.tolist() == labeled.tolist() == [True, False, True]


def test_relative_loss_per_image__trimming_leaves_the_gradient_term_alone():
    case = random_case()
    whole, trimmed = relative_loss_per_image(*case), relative_loss_per_image(*case, trim_fraction=0.3)
    assert torch.equal(whole.gradient_matching, trimmed.gradient_matching)
    assert trimmed.affine_invariant[0] < whole.affine_invariant[0]


def test_relative_loss_per_image__without_gradient_matching_gives_zeros():
    case = random_case()
    terms = relative_loss_per_image(*case, with_gradient_matching=False)
    assert terms.gradient_matching.tolist() == [0.0] * 3
    assert torch.equal(terms.affine_invariant, relative_loss_per_image(*case).affine_invariant)
