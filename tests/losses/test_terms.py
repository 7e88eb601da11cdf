import pytest
import torch

from depth_anything_hf.losses import LOSSES, LossTerm, cutmix_loss_per_image, mean_over_labeled
from depth_anything_hf.losses.affine_invariant import affine_invariant_loss
from depth_anything_hf.losses.terms import weight_at


def absolute(prediction, target, mask):
    return ((prediction - target).abs() * mask).sum((1, 2)) / mask.sum((1, 2)).clamp(min=1)


def maps(seed=0):
    generator = torch.Generator().manual_seed(seed)
    prediction, target = (torch.rand(3, 6, 8, generator=generator) + 0.1 for _ in range(2))
    mask = torch.rand(3, 6, 8, generator=generator) < 0.8
    mask[2] = False
    boxes = torch.zeros(3, 6, 8, dtype=torch.bool)
    boxes[0, :3, :4] = True
    return prediction, target, mask, boxes


def test_term__is_the_mean_over_images_that_have_labels():
    prediction, target, mask, _ = maps()
    term = LossTerm("absolute", absolute).compute(prediction, target, mask)
    by_hand = [(prediction[i] - target[i]).abs()[mask[i]].mean() for i in (0, 1)]
    torch.testing.assert_close(term, torch.stack(by_hand).mean())


def test_term__a_scalar_is_taken_as_it_is():
    prediction, target, mask, _ = maps()
    term = LossTerm("ours", affine_invariant_loss).compute(prediction, target, mask)
    torch.testing.assert_close(term, affine_invariant_loss(prediction, target, mask))


def test_term__under_cutmix_each_region_by_itself():
    prediction, target, mask, boxes = maps()
    term = LossTerm("absolute", absolute).compute(prediction, target, mask, boxes)
    inside, outside = (absolute(prediction, target, mask & region) for region in (boxes, ~boxes))
    by_hand = 12 / 48 * inside[0] + 36 / 48 * outside[0], outside[1]
    torch.testing.assert_close(term, torch.stack(by_hand).mean())


def test_term__under_cutmix_as_the_papers_loss():
    """One partner has another unknown scale: normalized by region, the loss does not see it."""
    prediction, target, mask, boxes = maps()

    def per_image(prediction, target, mask):
        return torch.stack(
            [affine_invariant_loss(*(values[i : i + 1] for values in (prediction, target, mask))) for i in range(3)]
        )

    terms = cutmix_loss_per_image(prediction, target, mask, boxes, with_gradient_matching=False)
    ours = mean_over_labeled(terms.affine_invariant, terms.labeled)
    moved = torch.where(boxes, 7 * target + 3, target)
    for labels in (target, moved):
        term = LossTerm("ours", per_image).compute(prediction, labels, mask, boxes)
        torch.testing.assert_close(term, ours, rtol=1e-5, atol=1e-6)


def test_term__nothing_outside_the_mask_reaches_it():
    prediction, target, mask, _ = maps()
    clean = LossTerm("absolute", absolute).compute(prediction, target, mask)
    broken = torch.where(mask, target, torch.nan)
    assert LossTerm("absolute", absolute).compute(prediction, broken, mask) == clean


def test_term__an_empty_mask_keeps_the_graph():
    prediction, target, mask, _ = maps()
    prediction.requires_grad_()
    loss = LossTerm("absolute", absolute).compute(prediction, target, torch.zeros_like(mask))
    loss.backward()
    assert loss.item() == 0
    assert prediction.grad.abs().max() == 0


def test_weight__number_or_schedule():
    assert weight_at(0.5, 7) == 0.5
    assert weight_at(lambda step: step / 10, 7) == 0.7


@pytest.mark.parametrize("returned", [lambda p, t, m: torch.zeros(2), lambda p, t, m: p - t, lambda p, t, m: 1.0])
def test_term__wrong_shape(returned):
    with pytest.raises(
        ValueError, match=r"loss 'wrong' returned .*of shape \(3,\), the loss of each image, or a scalar"
    ):
        LossTerm("wrong", returned).compute(*maps()[:3])


@pytest.mark.parametrize(
    ("settings", "kind", "message"),
    [
        ({"loss": 3}, TypeError, "loss 'a' is a int; pass a function of prediction, target and mask"),
        ({"name": "my loss"}, ValueError, "name is 'my loss'; it must be an identifier"),
        ({"on": "all"}, ValueError, "on is 'all'; it must be one of labeled, unlabeled, both"),
        ({"weight": -1.0}, ValueError, r"weight is -1\.0; it must be a finite number of at least 0"),
        ({"weight": float("nan")}, ValueError, "weight is nan"),
    ],
)
def test_term__refuses(settings, kind, message):
    with pytest.raises(kind, match=message):
        LossTerm(**{"name": "a", "loss": absolute} | settings)


@pytest.mark.parametrize("name", LOSSES)
def test_losses__keep_the_rules(name):
    """Every loss of the table: a term of its own, blind to masked pixels, with a graph on an empty mask."""
    prediction, target, mask, boxes = maps()
    term, prediction = LossTerm(name, LOSSES[name]), prediction.requires_grad_()
    loss = term.compute(prediction, target, mask)
    assert loss.ndim == 0
    assert loss > 0
    wild = torch.where(mask, prediction.detach(), torch.inf).requires_grad_()
    again = term.compute(wild, torch.where(mask, target, torch.nan), mask)
    torch.testing.assert_close(again, loss)
    again.backward()
    assert torch.isfinite(wild.grad).all()
    assert wild.grad[~mask].abs().max() == 0
    empty = term.compute(prediction, target, torch.zeros_like(mask))
    empty.backward()
    assert empty.item() == 0
    assert torch.isfinite(term.compute(prediction, target, mask, boxes))
