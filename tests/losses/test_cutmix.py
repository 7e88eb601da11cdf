import pytest
import torch

from depth_anything_hf.losses import affine_invariant_loss
from depth_anything_hf.losses.cutmix import cutmix_loss_per_image
from depth_anything_hf.losses.relative import relative_loss_per_image


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def random_case(dtype=torch.float64):
    """Two teachers, the box in which the second is pasted, and a student."""
    first, second, student = (torch.rand(2, 16, 16, dtype=dtype) for _ in range(3))
    box = torch.zeros(2, 16, 16, dtype=torch.bool)
    box[0, 2:9, 3:14] = True
    box[1, 8:, :5] = True
    return first, second, student, box, torch.rand(2, 16, 16) < 0.8


def assert_same(terms, expected):
    torch.testing.assert_close(terms.affine_invariant, expected.affine_invariant)
    torch.testing.assert_close(terms.gradient_matching, expected.gradient_matching)
    assert torch.equal(terms.labeled, expected.labeled)


def test_cutmix_loss_per_image__literal():
    # Inside, 3 of 4 pixels: (1, 2, 6) against (0, 3, 4) gives 1.1. Outside one pixel holds no order: 0.
    # 3/4 * 1.1 + 1/4 * 0 = 0.825. Gradient term inside: 1.65 * 3/4 = 1.2375.
    prediction, target = torch.tensor([[[1.0, 2.0, 6.0, 5.0]]]), torch.tensor([[[0.0, 3.0, 4.0, 9.0]]])
    box = torch.tensor([[[True, True, True, False]]])
    terms = cutmix_loss_per_image(prediction, target, torch.ones_like(box), box)
    assert terms.affine_invariant.item() == pytest.approx(0.825)
    assert terms.gradient_matching.item() == pytest.approx(1.2375)
    assert terms.labeled.tolist() == [True]


def test_cutmix_loss_per_image__area_counts_all_pixels_and_rho_the_labeled_ones():
    # The same, and two more unlabelled pixels outside: the area inside is 3/6.
    prediction = torch.tensor([[[1.0, 2.0, 6.0, 5.0, 0.0, 0.0]]])
    target = torch.tensor([[[0.0, 3.0, 4.0, 9.0, 0.0, 0.0]]])
    box = torch.tensor([[[True, True, True, False, False, False]]])
    mask = torch.tensor([[[True, True, True, True, False, False]]])
    assert cutmix_loss_per_image(prediction, target, mask, box).affine_invariant.item() == pytest.approx(0.55)


def test_cutmix_loss_per_image__scale_of_one_teacher_and_shift_of_the_other_change_nothing():
    first, second, student, box, mask = random_case()
    expected = cutmix_loss_per_image(student, torch.where(box, second, first), mask, box)
    moved = torch.where(box, second + 3, 7 * first)
    assert_same(cutmix_loss_per_image(student, moved, mask, box), expected)
    # Normalised together, a student without fault is punished for the change.
    student = torch.where(box, second, first)
    assert cutmix_loss_per_image(student, moved, mask, box).affine_invariant.max() < 1e-12
    assert affine_invariant_loss(student, moved, mask) > 0.1


def test_cutmix_loss_per_image__student_may_scale_each_region_by_itself():
    first, second, _, box, mask = random_case()
    student = torch.where(box, 2 * second + 1, 5 * first - 4)
    terms = cutmix_loss_per_image(student, torch.where(box, second, first), mask, box)
    assert terms.affine_invariant.max() < 1e-12
    assert terms.gradient_matching.max() < 1e-12
    assert affine_invariant_loss(student, torch.where(box, second, first), mask) > 0.1


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("trim", [0.0, 0.1])
def test_cutmix_loss_per_image__box_nowhere_or_everywhere_is_the_plain_loss(inside, trim):
    teacher, _, student, box, mask = random_case()
    box = torch.full_like(box, inside)
    terms = cutmix_loss_per_image(student, teacher, mask, box, trim)
    expected = relative_loss_per_image(student, teacher, mask, trim)
    for ours, plain in zip(terms, expected, strict=True):
        assert torch.equal(ours, plain)


def test_cutmix_loss_per_image__swapping_images_and_box_changes_nothing():
    first, second, student, box, mask = random_case()
    mixed = torch.where(box, second, first)
    assert torch.equal(mixed, torch.where(~box, first, second))
    assert_same(cutmix_loss_per_image(student, mixed, mask, ~box), cutmix_loss_per_image(student, mixed, mask, box))


def test_cutmix_loss_per_image__edge_of_the_box_is_no_depth_edge():
    # One pixel each side of the border would differ by 100; no pair crosses it.
    first, second, _, box, _ = random_case()
    mixed = torch.where(box, second + 100, first)
    terms = cutmix_loss_per_image(torch.where(box, second, first), mixed, torch.ones_like(box), box)
    assert terms.gradient_matching.max() < 1e-9


def test_cutmix_loss_per_image__region_without_labels_adds_nothing():
    first, second, student, box, _ = random_case()
    terms = cutmix_loss_per_image(student, torch.where(box, second, first), box, box)
    alone = relative_loss_per_image(student, second, box)
    area = box.double().mean(dim=(1, 2))
    torch.testing.assert_close(terms.affine_invariant, area * alone.affine_invariant)
    assert terms.labeled.tolist() == [True, True]


def test_cutmix_loss_per_image__trims_each_region_by_itself():
    # All gross errors lie inside the box; a tenth of each region goes, so the outside keeps 90 % of its pixels.
    first, second, student, box, mask = random_case()
    terms = cutmix_loss_per_image(student, torch.where(box, second, first), mask, box, 0.1)
    area = box.double().mean(dim=(1, 2))
    inside = relative_loss_per_image(student, second, mask & box, 0.1).affine_invariant
    outside = relative_loss_per_image(student, first, mask & ~box, 0.1).affine_invariant
    torch.testing.assert_close(terms.affine_invariant, area * inside + (1 - area) * outside)


def test_cutmix_loss_per_image__without_gradient_matching_gives_zeros():
    first, _, student, box, mask = random_case()
    terms = cutmix_loss_per_image(student, first, mask, box, with_gradient_matching=False)
    assert terms.gradient_matching.tolist() == [0.0, 0.0]
    assert (terms.affine_invariant > 0).all()


@pytest.mark.parametrize(
    ("box", "message"),
    [
        (torch.zeros(1, 4, 4), r"dtype torch.float32 and shape \(1, 4, 4\); it must be torch.bool"),
        (torch.zeros(1, 4, 5, dtype=torch.bool), r"shape \(1, 4, 5\); it must be torch.bool of the mask's shape"),
    ],
)
def test_cutmix_loss_per_image__rejects_box(box, message):
    with pytest.raises(ValueError, match=message):
        cutmix_loss_per_image(torch.rand(1, 4, 4), torch.rand(1, 4, 4), torch.ones(1, 4, 4, dtype=torch.bool), box)
