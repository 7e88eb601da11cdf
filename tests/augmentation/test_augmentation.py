import math
from dataclasses import replace

import pytest
import torch
from kornia import enhance

from depth_anything_hf.augmentation import (
    ColorDraw,
    ColorRanges,
    StrongPerturbation,
    crop_and_flip,
    cutmix,
    cutmix_boxes,
    draw_colors,
    perturb_colors,
    random_crop_box,
    scale_colors,
)

OFF = StrongPerturbation(
    brightness=0, contrast=0, saturation=0, hue=0, jitter_probability=0, grayscale_probability=0, blur_probability=0
)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def photos(batch=4, height=12, width=14):
    return torch.rand(batch, 3, height, width, generator=seeded(7))


def perturbed(images, settings, generator):
    return perturb_colors(images, draw_colors(len(images), settings, generator))


# Geometry


def test_random_crop_box__lies_inside_and_reaches_every_corner():
    generator = seeded()
    boxes = {random_crop_box((5, 7), (4, 5), generator) for _ in range(300)}
    assert boxes == {(top, left, 4, 5) for top in range(2) for left in range(3)}


def test_random_crop_box__same_seed_same_box():
    assert random_crop_box((50, 70), (4, 5), seeded(3)) == random_crop_box((50, 70), (4, 5), seeded(3))


@pytest.mark.parametrize("crop", [(6, 7), (5, 8)])
def test_random_crop_box__rejects_crop_larger_than_image(crop):
    with pytest.raises(ValueError, match=rf"crop \({crop[0]}, {crop[1]}\) is larger than the image \(5, 7\)"):
        random_crop_box((5, 7), crop, seeded())


@pytest.mark.parametrize("flip", [False, True])
def test_crop_and_flip__image_label_and_mask_stay_together(flip):
    rows, columns = torch.meshgrid(torch.arange(9.0), torch.arange(11.0), indexing="ij")
    image, label = torch.stack([rows, columns, rows + columns]), 100 * rows + columns
    box = random_crop_box((9, 11), (4, 6), seeded(1))
    image, label, mask = (crop_and_flip(values, box, flip) for values in (image, label, label > 400))
    assert image.shape == (3, 4, 6)
    torch.testing.assert_close(label, 100 * image[0] + image[1])
    torch.testing.assert_close(mask, label > 400)
    top, left, _, _ = box
    first, last = image[1, 0, 0].item(), image[1, 0, -1].item()
    assert image[0, 0, 0].item() == top
    assert (first, last) == ((left + 5, left) if flip else (left, left + 5))


def test_crop_and_flip__twice_flipped_is_identity():
    values = torch.rand(2, 3, 4)
    whole = (0, 0, 3, 4)
    assert torch.equal(crop_and_flip(crop_and_flip(values, whole, True), whole, True), values)


# Colours


def test_perturb_colors__same_seed_same_result():
    images = photos()
    first = perturbed(images, StrongPerturbation(), seeded(5))
    assert torch.equal(first, perturbed(images, StrongPerturbation(), seeded(5)))
    assert not torch.equal(first, perturbed(images, StrongPerturbation(), seeded(6)))


def test_perturb_colors__input_is_left_alone():
    images = photos()
    before = images.clone()
    perturbed(images, StrongPerturbation(), seeded())
    assert torch.equal(images, before)


def test_perturb_colors__images_are_independent_of_each_other():
    images, others = photos(), photos()
    others[1:] = others[1:].flip(-1) * 0.5
    settings = StrongPerturbation(jitter_probability=1, grayscale_probability=0.5, blur_probability=1)
    ours, theirs = perturbed(images, settings, seeded()), perturbed(others, settings, seeded())
    torch.testing.assert_close(ours[0], theirs[0], rtol=0, atol=1e-6)
    assert not torch.allclose(ours[1], theirs[1])


def test_perturb_colors__each_image_gets_its_own_strengths():
    images = photos(1).repeat(6, 1, 1, 1)
    changed = perturbed(images, StrongPerturbation(jitter_probability=1), seeded())
    for i in range(1, 6):
        assert (changed[i] - changed[0]).abs().max() > 0.01


@pytest.mark.parametrize("size", [(1, 1), (2, 9), (3, 3), (40, 50)])
@pytest.mark.parametrize("seed", range(5))
def test_perturb_colors__stays_in_range(size, seed):
    images = photos(6, *size)
    images[0], images[1] = 0.0, 1.0
    strongest = StrongPerturbation(1, 1, 1, 0.5, jitter_probability=1, blur_probability=1)
    changed = perturbed(images, strongest, seeded(seed))
    assert changed.shape == images.shape
    assert changed.min() >= 0
    assert changed.max() <= 1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_perturb_colors__keeps_dtype_and_stays_finite(dtype):
    settings = StrongPerturbation(jitter_probability=1, grayscale_probability=0.5, blur_probability=1)
    changed = perturbed(photos().to(dtype), settings, seeded())
    assert changed.dtype == dtype
    assert torch.isfinite(changed).all()


def test_perturb_colors__probability_zero_is_the_identity():
    strengths = replace(StrongPerturbation(), jitter_probability=0, blur_probability=0)
    assert torch.equal(perturbed(photos(), strengths, seeded()), photos())


@pytest.mark.parametrize("name", ["jitter_probability", "grayscale_probability", "blur_probability"])
def test_perturb_colors__probability_one_changes_every_image(name):
    images = photos(32)
    changed = perturbed(images, replace(OFF, brightness=0.5, blur_sigma=(1.0, 2.0), **{name: 1}), seeded())
    assert ((changed - images).abs().amax(dim=(1, 2, 3)) > 1e-4).all()


@pytest.mark.parametrize("name", ["jitter_probability", "grayscale_probability", "blur_probability"])
def test_perturb_colors__share_of_changed_images_is_the_probability(name):
    images = photos(2000, 3, 3)
    changed = perturbed(images, replace(OFF, brightness=0.5, blur_sigma=(1.0, 2.0), **{name: 0.3}), seeded())
    share = ((changed - images).abs().amax(dim=(1, 2, 3)) > 0).float().mean()
    assert share == pytest.approx(0.3, abs=0.04)  # standard deviation 0.01


def test_perturb_colors__brightness_multiplies_by_a_factor_in_range():
    images = torch.full((200, 3, 2, 2), 0.4)
    changed = perturbed(images, replace(OFF, brightness=0.5, jitter_probability=1), seeded())
    factor = changed[:, 0, 0, 0] / 0.4
    torch.testing.assert_close(changed, images * factor[:, None, None, None])
    assert 0.5 <= factor.min() < 0.55
    assert 1.45 < factor.max() <= 1.5 + 1e-6


def test_perturb_colors__contrast_keeps_the_mean_luminance():
    images = 0.4 + 0.2 * photos(50)  # never clipped
    changed = perturbed(images, replace(OFF, contrast=0.5, jitter_probability=1), seeded())
    weights = torch.tensor([0.299, 0.587, 0.114])[:, None, None]
    torch.testing.assert_close((changed * weights).sum(1).mean((1, 2)), (images * weights).sum(1).mean((1, 2)))
    ratio = changed.flatten(1).std(1) / images.flatten(1).std(1)
    assert 0.5 <= ratio.min() < 0.6
    assert 1.4 < ratio.max() <= 1.51


def test_perturb_colors__gray_images_ignore_saturation_and_hue():
    images = photos()[:, :1].repeat(1, 3, 1, 1)
    changed = perturbed(images, replace(OFF, saturation=1, hue=0.5, jitter_probability=1), seeded())
    torch.testing.assert_close(changed, images, rtol=0, atol=1e-6)


def test_perturb_colors__grayscale_has_equal_channels_and_keeps_luminance():
    images = photos()
    grey = perturbed(images, replace(OFF, grayscale_probability=1), seeded())
    assert torch.equal(grey[:, 0], grey[:, 1])
    assert torch.equal(grey[:, 0], grey[:, 2])
    expected = 0.299 * images[:, 0] + 0.587 * images[:, 1] + 0.114 * images[:, 2]
    torch.testing.assert_close(grey[:, 0], expected)


def test_perturb_colors__hue_turns_the_color_circle():
    # Pure red of value 1: the largest channel stays 1, the smallest 0; half a turn either way covers the circle.
    red = torch.zeros(400, 3, 1, 1)
    red[:, 0] = 1.0
    changed = perturbed(red, replace(OFF, hue=0.5, jitter_probability=1), seeded())[:, :, 0, 0]
    torch.testing.assert_close(changed.amax(1), torch.ones(400))
    torch.testing.assert_close(changed.amin(1), torch.zeros(400), rtol=0, atol=1e-5)
    assert set(changed.argmax(1).tolist()) == {0, 1, 2}
    # A quarter turn at most reaches yellow-green and violet, 90 degrees off; cyan, opposite, never: red stays >= 0.5.
    quarter = perturbed(red, replace(OFF, hue=0.25, jitter_probability=1), seeded())[:, :, 0, 0]
    assert quarter[:, 0].min() >= 0.5 - 1e-5
    assert quarter[:, 0].min() < 0.6


def test_perturb_colors__full_turn_of_the_hue_is_the_identity():
    from kornia.enhance import adjust_hue

    images = photos().double()
    torch.testing.assert_close(adjust_hue(images, 2 * math.pi), images)
    third = adjust_hue(images, 2 * math.pi / 3)
    torch.testing.assert_close(third, images.roll(1, dims=1))  # red to green, green to blue, blue to red


def test_perturb_colors__blur_spreads_a_point_by_its_sigma():
    images = torch.zeros(1, 3, 41, 41)
    images[:, :, 20, 20] = 1.0
    blurred = perturbed(images, replace(OFF, blur_probability=1, blur_sigma=(2.0, 2.0)), seeded())[0, 0]
    offsets = torch.arange(41.0) - 20
    assert blurred.sum().item() == pytest.approx(1, abs=1e-5)
    assert (blurred.sum(0) * offsets**2).sum().sqrt().item() == pytest.approx(2, rel=0.01)
    torch.testing.assert_close(blurred, blurred.T)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"brightness": 1.5}, r"brightness is 1.5; it must lie in \[0, 1\]"),
        ({"hue": 0.6}, r"hue is 0.6; it must lie in \[0, 0.5\]"),
        ({"saturation": -0.1}, r"saturation is -0.1; it must lie in \[0, 1\]"),
        ({"blur_probability": math.nan}, r"blur_probability is nan; it must lie in \[0, 1\]"),
        ({"blur_sigma": (2.0, 1.0)}, r"blur_sigma is \(2.0, 1.0\); it must be two positive numbers"),
        ({"blur_sigma": (0.0, 1.0)}, r"blur_sigma is \(0.0, 1.0\); it must be two positive numbers"),
    ],
)
def test_strong_perturbation__rejects_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        StrongPerturbation(**settings)


def test_perturb_colors__drawn_for_each_image_alone_is_drawn_for_the_batch():
    images, settings = photos(3), StrongPerturbation()
    draws = [draw_colors(1, settings, seeded(i)) for i in range(3)]
    alone = torch.cat([perturb_colors(images[i : i + 1], draw) for i, draw in enumerate(draws)])
    together = perturb_colors(images, ColorDraw(*map(torch.cat, zip(*draws, strict=True))))
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-6)


@pytest.mark.parametrize("order", [[0, 1, 2, 3], [3, 2, 1, 0], [1, 3, 0, 2]])
def test_perturb_colors__applies_kornias_changes_in_the_drawn_order(order):
    images = photos(2)
    factors = torch.tensor([[1.3, 0.6, 1.4, 0.5], [0.7, 1.4, 0.6, -0.9]])
    drawn = draw_colors(2, replace(OFF, jitter_probability=1), seeded())
    drawn = drawn._replace(factors=factors, order=torch.tensor([order, [0, 1, 2, 3]]))
    changes = (
        enhance.adjust_brightness_accumulative,
        enhance.adjust_contrast_with_mean_subtraction,
        enhance.adjust_saturation_with_gray_subtraction,
        enhance.adjust_hue,
    )
    for i, places in enumerate((order, [0, 1, 2, 3])):
        expected = images[i : i + 1]
        for change in places:
            expected = changes[change](expected, factors[i : i + 1, change])
        torch.testing.assert_close(perturb_colors(images, drawn)[i : i + 1], expected.clamp(0, 1), rtol=0, atol=2e-6)


def test_draw_colors__every_order_comes_up():
    orders = draw_colors(2000, StrongPerturbation(), seeded()).order
    found, counts = orders.unique(dim=0, return_counts=True)
    assert len(found) == 24
    assert counts.min() > 50  # 83 expected, standard deviation 9


# CutMix


def bounds(box):
    rows, columns = box.any(1).nonzero()[:, 0], box.any(0).nonzero()[:, 0]
    return rows[0].item(), rows[-1].item() + 1, columns[0].item(), columns[-1].item() + 1


def test_cutmix_boxes__are_rectangles_with_area_and_aspect_in_range():
    height, width = 120, 90
    boxes = cutmix_boxes(400, height, width, seeded(), probability=1.0)
    areas = []
    for box in boxes:
        top, bottom, left, right = bounds(box)
        assert box[top:bottom, left:right].all()
        assert box.sum() == (bottom - top) * (right - left)
        areas.append(box.float().mean().item())
        # Sides are cut down to whole pixels: at most one less.
        assert (bottom - top) / (right - left + 1) <= 1 / 0.3
        assert (bottom - top + 1) / (right - left) >= 0.3
    assert 0.015 < min(areas) < 0.05
    assert 0.35 < max(areas) <= 0.4
    assert sum(areas) / len(areas) == pytest.approx(0.21, abs=0.02)  # uniform on (0.02, 0.4)


def test_cutmix_boxes__share_is_the_probability():
    boxes = cutmix_boxes(2000, 16, 16, seeded(), probability=0.5)
    assert boxes.flatten(1).any(1).float().mean() == pytest.approx(0.5, abs=0.05)  # standard deviation 0.011


def test_cutmix_boxes__probability_zero_gives_none_and_same_seed_the_same():
    assert not cutmix_boxes(50, 16, 16, seeded(), probability=0.0).any()
    assert torch.equal(cutmix_boxes(9, 16, 16, seeded(2)), cutmix_boxes(9, 16, 16, seeded(2)))


def test_cutmix_boxes__reach_every_side_of_the_image():
    covered = cutmix_boxes(500, 20, 30, seeded(), probability=1.0).any(0)
    assert covered.all()


@pytest.mark.parametrize("size", [(4, 400), (400, 4), (1, 60), (1, 1)])
def test_cutmix_boxes__narrow_strip_does_not_hang(size):
    # 40 % of a strip 1 : 100 fits in no box of an aspect up to 1 : 3.3.
    boxes = cutmix_boxes(8, *size, seeded(), probability=1.0, area=(0.4, 0.4))
    areas = boxes.float().mean(dim=(1, 2))
    assert (areas <= 0.4).all()
    if size != (1, 1):
        assert (areas > 0.2).all()


@pytest.mark.parametrize(
    "settings",
    [{"probability": 1.1}, {"area": (0.0, 0.4)}, {"area": (0.4, 0.2)}, {"area": (0.2, 1.0)}, {"aspect": (0.0, 1.0)}],
)
def test_cutmix_boxes__rejects_settings(settings):
    (value,) = settings.values()
    with pytest.raises(ValueError, match="must lie in") as raised:
        cutmix_boxes(1, 8, 8, seeded(), **settings)
    assert str(value) in str(raised.value)


def test_cutmix__pastes_the_partner_inside_the_box_into_every_tensor():
    labels = torch.arange(3.0)[:, None, None].expand(3, 6, 6)
    images, masks = labels[:, None].expand(3, 3, 6, 6), labels > 0.5
    boxes = cutmix_boxes(3, 6, 6, seeded(1), probability=1.0, area=(0.3, 0.4))
    mixed_images, mixed_labels, mixed_masks = cutmix([images, labels, masks], boxes)
    partner = torch.tensor([1.0, 0.0, 1.0])[:, None, None]
    assert torch.equal(mixed_labels, torch.where(boxes, partner, labels))
    assert torch.equal(mixed_images, mixed_labels[:, None].expand(3, 3, 6, 6))
    assert torch.equal(mixed_masks, mixed_labels > 0.5)
    assert (mixed_labels[0][boxes[0]] == 1).all()
    assert (mixed_labels[0][~boxes[0]] == 0).all()


def test_cutmix__divided_among_processes_mixes_alike():
    values, boxes = torch.rand(8, 3, 6, 6), cutmix_boxes(8, 6, 6, seeded(), probability=1.0)
    (together,) = cutmix([values], boxes)
    shares = [cutmix([values[i : i + 4]], boxes[i : i + 4])[0] for i in (0, 4)]
    assert torch.equal(together, torch.cat(shares))


def test_cutmix__one_image_is_its_own_partner():
    values, boxes = torch.rand(1, 5, 5), torch.ones(1, 5, 5, dtype=torch.bool)
    assert torch.equal(cutmix([values], boxes)[0], values)


def test_cutmix__without_boxes_is_the_identity():
    values = torch.rand(4, 3, 5, 5)
    assert torch.equal(cutmix([values], torch.zeros(4, 5, 5, dtype=torch.bool))[0], values)


def test_scale_colors__is_the_authors_formula():
    """0.25 ** 0.5 = 0.5, times 0.8, times 1.5 for each color: 0.6; what grows beyond 1 is cut."""
    ranges = ColorRanges(gamma=(0.5, 0.5), brightness=(0.8, 0.8), color=(1.5, 1.5), probability=1.0)
    image = torch.full((3, 1, 2), 0.25)
    image[:, 0, 1] = 1.0
    found = scale_colors(image, ranges, torch.Generator())
    torch.testing.assert_close(found[:, 0], torch.tensor([[0.6, 1.0]] * 3))


def test_scale_colors__draws_each_range_by_itself():
    """Pixels of 1 are blind to gamma; the ratios of the colors show the balance, the mean the brightness."""
    ranges = ColorRanges(gamma=(0.9, 1.1), brightness=(0.4, 0.6), color=(0.9, 1.1), probability=0.5)
    generator = torch.Generator().manual_seed(0)
    changed = [scale_colors(torch.ones(3, 1, 1), ranges, generator).flatten() for _ in range(400)]
    still = [bool((one == 1).all()) for one in changed]
    assert 0.4 < sum(still) / 400 < 0.6
    factors = torch.stack([one for one, same in zip(changed, still, strict=True) if not same])
    assert 0.36 <= factors.min() < 0.39
    assert 0.63 < factors.max() <= 0.66
    assert torch.corrcoef((factors / factors.mean(dim=1, keepdim=True)).T)[0, 1] < 0.2  # colours are not drawn as one
    gray = torch.full((3, 1, 1), 0.5)
    gammas = [
        scale_colors(gray, ColorRanges((0.9, 1.1), (1, 1), (1, 1), 1.0), generator)[0].item() for _ in range(200)
    ]
    assert 0.5**1.1 <= min(gammas) < 0.5**1.08
    assert 0.5**0.92 < max(gammas) <= 0.5**0.9


def test_color_ranges__refuse():
    with pytest.raises(ValueError, match=r"gamma is \(0, 1\)"):
        ColorRanges(gamma=(0, 1))
    with pytest.raises(ValueError, match=r"brightness is \(2, 1\)"):
        ColorRanges(brightness=(2, 1))
    with pytest.raises(ValueError, match="probability is 2"):
        ColorRanges(probability=2)
