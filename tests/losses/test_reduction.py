import math

import pytest
import torch

from depth_anything_hf.losses.reduction import in_full_precision, mean_over_labeled


def test_mean_over_labeled__images_without_labels_do_not_count():
    # (2 + 4) / 2, not (2 + 4) / 3 and not (2 + 4 + 9) / 3
    losses, labeled = torch.tensor([2.0, 4.0, 9.0]), torch.tensor([True, True, False])
    assert mean_over_labeled(losses, labeled).item() == 3.0


def test_mean_over_labeled__no_labels_is_zero_with_graph():
    losses = torch.tensor([2.0, math.nan], requires_grad=True)
    mean = mean_over_labeled(losses, torch.tensor([False, False]))
    mean.backward()
    assert mean.item() == 0.0
    assert losses.grad.tolist() == [0.0, 0.0]


def test_mean_over_labeled__gradient_is_shared_by_the_labeled():
    losses = torch.tensor([2.0, 4.0, 9.0], requires_grad=True)
    mean_over_labeled(losses, torch.tensor([True, False, True])).backward()
    assert losses.grad.tolist() == [0.5, 0.0, 0.5]


@pytest.mark.parametrize(
    ("prediction", "target", "expected"),
    [
        (torch.float16, torch.float16, torch.float32),
        (torch.bfloat16, torch.float32, torch.float32),
        (torch.float32, torch.int64, torch.float32),
        (torch.float32, torch.float64, torch.float64),
    ],
)
def test_in_full_precision__widens(prediction, target, expected):
    ones, mask = torch.ones(1, 2, 2), torch.ones(1, 2, 2, dtype=torch.bool)
    ours, theirs = in_full_precision(ones.to(prediction), ones.to(target), mask)
    assert ours.dtype == theirs.dtype == expected


def test_in_full_precision__zero_outside_the_mask():
    values, mask = torch.tensor([[[1.0, math.nan, math.inf]]]), torch.tensor([[[True, False, False]]])
    for result in in_full_precision(values, values, mask):
        assert result.tolist() == [[[1.0, 0.0, 0.0]]]


def test_in_full_precision__rejects_mask_of_other_shape():
    with pytest.raises(ValueError, match=r"\(1, 2, 2\), \(1, 2, 2\) and \(1, 2, 3\); all three must be the same"):
        in_full_precision(torch.ones(1, 2, 2), torch.ones(1, 2, 2), torch.ones(1, 2, 3, dtype=torch.bool))


def test_in_full_precision__rejects_integer_mask():
    with pytest.raises(ValueError, match=r"mask has dtype torch.uint8; it must be torch.bool. Write mask > 0.5"):
        in_full_precision(torch.ones(1, 2, 2), torch.ones(1, 2, 2), torch.ones(1, 2, 2, dtype=torch.uint8))
