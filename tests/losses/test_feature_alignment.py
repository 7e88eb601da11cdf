import math

import pytest
import torch

from depth_anything_hf.losses.feature_alignment import feature_alignment_loss


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def test_feature_alignment_loss__literal():
    # Cosines with (1, 0): 1 (left alone), 0.6, 0, -1. Kept: (0.4 + 1 + 2) / 3.
    features = torch.tensor([[[2.0, 0.0], [3.0, 4.0], [0.0, 5.0], [-1.0, 0.0]]])
    frozen = torch.tensor([[[1.0, 0.0]]]).expand(1, 4, 2)
    assert feature_alignment_loss(features, frozen).item() == pytest.approx(3.4 / 3)


@pytest.mark.parametrize(("margin", "expected"), [(0.85, 0.4), (0.7, 0.4), (0.5, 0.0), (1.0, 0.2)])
def test_feature_alignment_loss__margin_decides_which_tokens_count(margin, expected):
    # Cosines 0.6 and 1: distance 0.4 if 0.6 is kept; with margin 1 the exact match is kept too, (0.4 + 0) / 2.
    features = torch.tensor([[[3.0, 4.0], [1.0, 0.0]]])
    frozen = torch.tensor([[[1.0, 0.0], [1.0, 0.0]]])
    assert feature_alignment_loss(features, frozen, margin).item() == pytest.approx(expected, abs=1e-6)


def test_feature_alignment_loss__identical_features_give_zero_and_zero_gradient():
    frozen = torch.randn(2, 5, 8)
    features = frozen.clone().requires_grad_()
    loss = feature_alignment_loss(features, frozen)
    loss.backward()
    assert loss.item() == 0.0
    assert (features.grad == 0).all()


def test_feature_alignment_loss__all_below_the_margin_is_one_minus_mean_cosine():
    features, frozen = torch.randn(1, 50, 64), torch.randn(1, 50, 64)
    dot, norm = (features * frozen).sum(-1), features.norm(dim=-1) * frozen.norm(dim=-1)
    assert (dot / norm).max() < 0.85
    torch.testing.assert_close(feature_alignment_loss(features, frozen), 1 - (dot / norm).mean())


def test_feature_alignment_loss__equals_slow_reference():
    features = torch.randn(3, 7, 4, dtype=torch.float64)
    frozen = features + torch.randn(3, 7, 4, dtype=torch.float64)
    per_image = []
    for ours, theirs in zip(features.tolist(), frozen.tolist(), strict=True):
        distances = []
        for f, g in zip(ours, theirs, strict=True):
            cosine = sum(a * b for a, b in zip(f, g, strict=True)) / (math.hypot(*f) * math.hypot(*g))
            if cosine <= 0.85:
                distances.append(1 - cosine)
        per_image.append(sum(distances) / len(distances) if distances else 0.0)
    assert feature_alignment_loss(features, frozen).item() == pytest.approx(sum(per_image) / 3, rel=1e-9)


def test_feature_alignment_loss__length_of_features_does_not_matter():
    features, frozen = torch.randn(1, 9, 16), torch.randn(1, 9, 16)
    torch.testing.assert_close(
        feature_alignment_loss(100 * features, 0.01 * frozen), feature_alignment_loss(features, frozen)
    )


def test_feature_alignment_loss__gradient_only_into_the_student_and_only_where_kept():
    features = torch.tensor([[[1.0, 0.1], [1.0, 1.0]]], requires_grad=True)
    frozen = torch.tensor([[[1.0, 0.0], [1.0, 0.0]]], requires_grad=True)
    feature_alignment_loss(features, frozen).backward()
    assert frozen.grad is None
    assert (features.grad[0, 0] == 0).all()  # cosine 0.995: left alone
    assert (features.grad[0, 1] != 0).all()


def test_feature_alignment_loss__gradcheck():
    features = torch.randn(2, 4, 6, dtype=torch.float64, requires_grad=True)
    frozen = torch.randn(2, 4, 6, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda values: feature_alignment_loss(values, frozen), (features,))


@pytest.mark.parametrize("broken", ["features", "frozen"])
def test_feature_alignment_loss__nan_is_not_taken_for_agreement(broken):
    tensors = {"features": torch.randn(1, 4, 8), "frozen": torch.randn(1, 4, 8)}
    tensors[broken][:] = math.nan
    assert torch.isnan(feature_alignment_loss(*tensors.values()))


def test_feature_alignment_loss__rejects_shapes():
    with pytest.raises(ValueError, match=r"\(1, 4, 8\) and frozen_features \(1, 4, 16\).*projector"):
        feature_alignment_loss(torch.zeros(1, 4, 8), torch.zeros(1, 4, 16))


@pytest.mark.parametrize("margin", [-1.0, 1.1, math.nan])
def test_feature_alignment_loss__rejects_margin(margin):
    with pytest.raises(ValueError, match=rf"margin is {margin}; it must lie in \(-1, 1\]"):
        feature_alignment_loss(torch.ones(1, 1, 2), torch.ones(1, 1, 2), margin)
