"""What every loss of prediction, target and mask must hold, and each against a slow reference in plain Python."""

import math
import random

import pytest
import torch

from depth_anything_hf.losses import (
    affine_invariant_loss,
    cutmix_loss_per_image,
    feature_alignment_loss,
    gradient_matching_loss,
    mean_over_labeled,
    relative_loss_per_image,
    silog_loss,
)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)
    random.seed(0)


def left_half(mask):
    box = torch.zeros_like(mask)
    box[..., : mask.shape[-1] // 2] = True
    return box


def relative(prediction, target, mask):
    terms = relative_loss_per_image(prediction, target, mask, trim_fraction=0.1)
    return mean_over_labeled(terms.affine_invariant + 2 * terms.gradient_matching, terms.labeled)


def cutmix(prediction, target, mask):
    terms = cutmix_loss_per_image(prediction, target, mask, left_half(mask))
    return mean_over_labeled(terms.affine_invariant + 2 * terms.gradient_matching, terms.labeled)


LOSSES = {
    "affine_invariant": affine_invariant_loss,
    "affine_invariant_trimmed": lambda p, t, m: affine_invariant_loss(p, t, m, trim_fraction=0.25),
    "gradient_matching": gradient_matching_loss,
    "relative": relative,
    "cutmix": cutmix,
    "silog_v2": silog_loss,
    "silog_v1": lambda p, t, m: silog_loss(p, t, m, variance_focus=0.85, weight=10.0),
}
RELATIVE = [name for name in LOSSES if not name.startswith("silog")]
every_loss = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES.keys())


# Slow references: one image, nested lists, no tensors. `mask[y][x]` says whether a pixel counts.


def slow_normalize(image, pixels):
    values = sorted(image[y][x] for y, x in pixels)
    shift = values[(len(values) - 1) // 2]
    spread = sum(abs(value - shift) for value in values) / len(values)
    return {(y, x): (image[y][x] - shift) / max(spread, 1e-6) for y, x in pixels}


def slow_residual(prediction, target, mask):
    pixels = [(y, x) for y, row in enumerate(mask) for x, valid in enumerate(row) if valid]
    if len({target[y][x] for y, x in pixels}) < 2:
        return None  # nothing to learn from
    ours, theirs = slow_normalize(prediction, pixels), slow_normalize(target, pixels)
    return {pixel: ours[pixel] - theirs[pixel] for pixel in pixels}


def slow_affine_invariant(prediction, target, mask, trim=0.0):
    residual = slow_residual(prediction, target, mask)
    if residual is None:
        return None
    errors = sorted(abs(value) for value in residual.values())
    errors = errors[: len(errors) - math.floor(round(trim * len(errors), 9))]
    return sum(errors) / len(errors)


def slow_gradient_matching(prediction, target, mask):
    residual = slow_residual(prediction, target, mask)
    if residual is None:
        return None
    total = 0.0
    for stride in (1, 2, 4, 8):
        for down, right in ((stride, 0), (0, stride)):
            differences = [
                abs(residual[y + down, x + right] - value)
                for (y, x), value in residual.items()
                if y % stride == 0 and x % stride == 0 and (y + down, x + right) in residual
            ]
            total += sum(differences) / len(differences) if differences else 0.0
    return total


def slow_relative(prediction, target, mask):
    first = slow_affine_invariant(prediction, target, mask, trim=0.1)
    return None if first is None else first + 2 * slow_gradient_matching(prediction, target, mask)


def slow_cutmix(prediction, target, mask):
    height, width = len(mask), len(mask[0])
    total, labeled = 0.0, False
    for inside in (True, False):
        region = [[mask[y][x] and (x < width // 2) == inside for x in range(width)] for y in range(height)]
        rho = slow_affine_invariant(prediction, target, region)
        if rho is not None:
            area = (width // 2 if inside else width - width // 2) / width
            total += area * (rho + 2 * slow_gradient_matching(prediction, target, region))
            labeled = True
    return total if labeled else None


def slow_silog(prediction, target, mask, focus=0.5, weight=1.0):
    logs = [
        math.log(prediction[y][x]) - math.log(target[y][x])
        for y, row in enumerate(mask)
        for x, valid in enumerate(row)
        if valid
    ]
    if not logs:
        return None
    mean = sum(logs) / len(logs)
    return weight * math.sqrt(sum(g * g for g in logs) / len(logs) - focus * mean * mean)


SLOW = {
    "affine_invariant": slow_affine_invariant,
    "affine_invariant_trimmed": lambda p, t, m: slow_affine_invariant(p, t, m, trim=0.25),
    "gradient_matching": slow_gradient_matching,
    "relative": slow_relative,
    "cutmix": slow_cutmix,
    "silog_v2": slow_silog,
    "silog_v1": lambda p, t, m: slow_silog(p, t, m, focus=0.85, weight=10.0),
}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("density", [0.1, 0.5, 1.0])
@pytest.mark.parametrize("name", LOSSES)
def test_loss__equals_slow_reference(name, density, seed):
    generator = torch.Generator().manual_seed(seed)
    prediction = torch.rand(4, 11, 13, generator=generator, dtype=torch.float64) * 3 + 0.1
    target = torch.rand(4, 11, 13, generator=generator, dtype=torch.float64) + 0.1
    mask = torch.rand(4, 11, 13, generator=generator) < density
    mask[0] = False  # one image without labels
    images = zip(prediction.tolist(), target.tolist(), mask.tolist(), strict=True)
    slow = [value for value in (SLOW[name](*image) for image in images) if value is not None]
    assert len(slow) == 3
    fast = LOSSES[name](prediction.where(mask, math.nan), target.where(mask, math.inf), mask)
    assert fast.item() == pytest.approx(sum(slow) / len(slow), rel=1e-9)


# Cases that break losses


def case(kind, dtype):
    prediction, target = torch.rand(2, 8, 8) + 0.5, torch.rand(2, 8, 8) + 0.5
    mask = torch.rand(2, 8, 8) < 0.7
    if kind == "empty mask":
        mask[:] = False
    elif kind == "one valid pixel":
        mask[:] = False
        mask[:, 3, 4] = True
    elif kind == "one image without labels":
        mask[0] = False
    elif kind == "constant prediction":
        prediction[:] = 0.3
    elif kind == "zero prediction":
        prediction[:] = 0.0
    elif kind == "some zeros in the prediction":
        prediction[:, ::2] = 0.0
    elif kind == "constant target":
        target[:] = 0.3
    elif kind == "exact fit":
        prediction = target.clone()
    elif kind == "both constant":
        prediction[:], target[:] = 0.7, 0.7
    elif kind == "NaN and infinity outside the mask":
        prediction[~mask], target[~mask] = math.nan, math.inf
    elif kind == "1 x 1 image":
        prediction, target, mask = prediction[:, :1, :1], target[:, :1, :1], torch.ones(2, 1, 1, dtype=torch.bool)
    elif kind == "1 x 2 image of one value":
        prediction, target = torch.full((2, 1, 2), 0.5), torch.tensor([[[0.5, 1.0]]]).repeat(2, 1, 1)
        mask = torch.ones(2, 1, 2, dtype=torch.bool)
    elif kind == "no image":
        prediction, target, mask = prediction[:0], target[:0], mask[:0]
    elif kind == "not contiguous":
        prediction, target, mask = (values.transpose(1, 2)[:, ::2] for values in (prediction, target, mask))
    else:
        raise AssertionError(kind)
    return prediction.to(dtype).requires_grad_(), target.to(dtype), mask


KINDS = (
    "empty mask",
    "one valid pixel",
    "one image without labels",
    "constant prediction",
    "zero prediction",
    "some zeros in the prediction",
    "constant target",
    "exact fit",
    "both constant",
    "NaN and infinity outside the mask",
    "1 x 1 image",
    "1 x 2 image of one value",
    "no image",
    "not contiguous",
)
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


@every_loss
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_loss__finite_with_finite_gradient(loss, kind, dtype):
    prediction, target, mask = case(kind, dtype)
    value = loss(prediction, target, mask)
    value.backward()
    assert value.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert value.ndim == 0
    assert torch.isfinite(value)
    assert value >= 0
    assert prediction.grad is not None
    assert torch.isfinite(prediction.grad).all()
    assert (prediction.grad[~mask] == 0).all()


@every_loss
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_loss__same_under_autocast(loss, kind, dtype):
    prediction, target, mask = case(kind, torch.float32)
    expected = loss(prediction, target, mask)
    with torch.autocast("cpu", dtype):
        value = loss(prediction, target, mask)
    value.backward()
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, expected, rtol=0, atol=0)
    assert torch.isfinite(prediction.grad).all()


@every_loss
@pytest.mark.parametrize("kind", ["empty mask", "no image"])
def test_loss__without_labels_is_zero_with_zero_gradient(loss, kind):
    prediction, target, mask = case(kind, torch.float32)
    value = loss(prediction, target, mask)
    assert value.item() == 0.0
    assert value.requires_grad
    value.backward()
    assert prediction.grad.shape == prediction.shape
    assert (prediction.grad == 0).all()


@every_loss
def test_loss__exact_fit_is_exactly_zero(loss):
    target = torch.rand(3, 16, 16)
    assert loss(target, target, torch.rand(3, 16, 16) < 0.5).item() == 0.0


@every_loss
def test_loss__masked_out_values_change_neither_value_nor_gradient(loss):
    prediction, target, mask = torch.rand(2, 9, 9) + 0.1, torch.rand(2, 9, 9) + 0.1, torch.rand(2, 9, 9) < 0.5
    results = []
    for outside in (0.0, 1e9, math.nan, math.inf, -math.inf):
        leaf = prediction.where(mask, outside).requires_grad_()
        value = loss(leaf, target.where(mask, outside), mask)
        value.backward()
        results.append((value.detach(), leaf.grad))
    assert results[0][0] > 0
    for value, gradient in results[1:]:
        torch.testing.assert_close(value, results[0][0], rtol=0, atol=0)
        torch.testing.assert_close(gradient, results[0][1], rtol=0, atol=0)


@every_loss
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_loss__non_finite_prediction_inside_the_mask_shows(loss, bad):
    prediction, target = torch.rand(1, 6, 6), torch.rand(1, 6, 6) + 0.1
    prediction[0, 1, 1] = bad
    assert not torch.isfinite(loss(prediction, target, torch.ones(1, 6, 6, dtype=torch.bool)))


@pytest.mark.parametrize("name", RELATIVE)
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_loss__prediction_of_an_image_without_labels_is_not_read(name, bad):
    prediction = torch.rand(2, 6, 6)
    prediction[0] = bad
    prediction.requires_grad_()
    target = torch.rand(2, 6, 6)
    target[0] = 0.5  # a constant target holds no order to learn from
    value = LOSSES[name](prediction, target, torch.ones(2, 6, 6, dtype=torch.bool))
    value.backward()
    assert torch.isfinite(value)
    assert (prediction.grad[0] == 0).all()
    assert torch.isfinite(prediction.grad).all()


@pytest.mark.parametrize("name", [name for name in LOSSES if name != "cutmix"])  # its box is not symmetric here
def test_loss__flip_changes_nothing(name):
    loss = LOSSES[name]
    # Every stride of a side of 8k + 1 keeps the first and the last pixel: the coarse grids are symmetric.
    prediction, target, mask = torch.rand(2, 9, 17) + 0.1, torch.rand(2, 9, 17) + 0.1, torch.rand(2, 9, 17) < 0.7
    flipped = (values.flip(-1) for values in (prediction, target, mask))
    torch.testing.assert_close(loss(*flipped), loss(prediction, target, mask))


@every_loss
def test_loss__batch_is_mean_of_images_in_any_order(loss):
    prediction, target, mask = torch.rand(3, 8, 8) + 0.1, torch.rand(3, 8, 8) + 0.1, torch.rand(3, 8, 8) < 0.7
    whole = loss(prediction, target, mask)
    singles = [loss(prediction[i : i + 1], target[i : i + 1], mask[i : i + 1]) for i in range(3)]
    torch.testing.assert_close(whole, torch.stack(singles).mean())
    order = torch.tensor([2, 0, 1])
    torch.testing.assert_close(loss(prediction[order], target[order], mask[order]), whole)


@every_loss
def test_loss__image_without_labels_leaves_the_mean_alone(loss):
    prediction, target, mask = torch.rand(3, 8, 8) + 0.1, torch.rand(3, 8, 8) + 0.1, torch.rand(3, 8, 8) < 0.7
    mask[1] = False
    kept = [0, 2]
    torch.testing.assert_close(loss(prediction, target, mask), loss(prediction[kept], target[kept], mask[kept]))


@pytest.mark.parametrize("name", RELATIVE)
@pytest.mark.parametrize(("scale", "shift"), [(7.0, 3.0), (1e-3, -5.0), (1e6, 1e6)])
def test_loss__affine_invariant_in_prediction_and_target(name, scale, shift):
    loss = LOSSES[name]
    prediction, target = torch.rand(2, 12, 12, dtype=torch.float64), torch.rand(2, 12, 12, dtype=torch.float64)
    mask = torch.rand(2, 12, 12) < 0.7
    expected = loss(prediction, target, mask)
    torch.testing.assert_close(loss(scale * prediction + shift, target, mask), expected)
    torch.testing.assert_close(loss(prediction, scale * target + shift, mask), expected)
    assert (loss(-prediction, target, mask) - expected).abs() > 0.01
    assert (loss(prediction, -target, mask) - expected).abs() > 0.01


@pytest.mark.parametrize("name", RELATIVE)
@pytest.mark.parametrize("unit", [1e-30, 1e-8, 1e8, 1e30])
def test_loss__label_of_any_unit(name, unit):
    prediction, target, mask = torch.rand(2, 12, 12), torch.rand(2, 12, 12), torch.rand(2, 12, 12) < 0.7
    expected = LOSSES[name](prediction, target, mask)
    torch.testing.assert_close(LOSSES[name](prediction, unit * target, mask), expected, rtol=1e-4, atol=0)


@pytest.mark.parametrize("name", RELATIVE)
def test_loss__no_gradient_along_scale_and_shift(name):
    prediction = torch.rand(1, 10, 10, dtype=torch.float64, requires_grad=True)
    mask = torch.rand(1, 10, 10) < 0.8
    target = torch.rand(1, 10, 10, dtype=torch.float64)
    region = mask & left_half(mask)
    (gradient,) = torch.autograd.grad(LOSSES[name](prediction, target, mask), prediction)
    assert gradient.norm() > 0.01
    assert gradient.sum().abs() < 1e-12
    assert (gradient * prediction).sum().abs() < 1e-12
    # Under CutMix each region has a scale and a shift of its own.
    assert (gradient[region].sum().abs() < 1e-12) == (name == "cutmix")


@every_loss
def test_loss__gradcheck(loss):
    prediction = (torch.rand(2, 6, 6, dtype=torch.float64) + 0.2).requires_grad_()
    target, mask = torch.rand(2, 6, 6, dtype=torch.float64) + 0.2, torch.rand(2, 6, 6) < 0.8
    assert torch.autograd.gradcheck(lambda values: loss(values, target, mask), (prediction,), eps=1e-7, atol=1e-5)


@every_loss
def test_loss__same_value_and_gradient_when_repeated_on_ties(loss):
    prediction = torch.randint(1, 4, (2, 12, 12)).float()  # as a prediction in half precision: few distinct values
    target, mask = torch.rand(2, 12, 12) + 0.1, torch.rand(2, 12, 12) < 0.8
    gradients = []
    for _ in range(2):
        leaf = prediction.clone().requires_grad_()
        loss(leaf, target, mask).backward()
        gradients.append(leaf.grad)
    assert torch.equal(*gradients)


@pytest.mark.slow
@every_loss
def test_loss__traces_as_one_graph(loss):
    torch._dynamo.reset()
    compiled = torch.compile(loss, fullgraph=True, backend="eager")
    arguments = torch.rand(2, 8, 8) + 0.1, torch.rand(2, 8, 8) + 0.1, torch.rand(2, 8, 8) < 0.7
    torch.testing.assert_close(compiled(*arguments), loss(*arguments))


@every_loss
def test_loss__rejects_shapes_that_differ(loss):
    with pytest.raises(
        ValueError, match=r"shapes \(1, 4, 4\), \(1, 4, 5\) and \(1, 4, 4\); all three must be the same"
    ):
        loss(torch.rand(1, 4, 4), torch.rand(1, 4, 5), torch.ones(1, 4, 4, dtype=torch.bool))


@every_loss
def test_loss__rejects_a_channel_dimension(loss):
    shape = (1, 1, 4, 4)
    with pytest.raises(ValueError, match=r"\(1, 1, 4, 4\).*squeeze a channel dimension"):
        loss(torch.rand(shape), torch.rand(shape), torch.ones(shape, dtype=torch.bool))


@pytest.mark.parametrize("name", [name for name in LOSSES if name != "cutmix"])
def test_loss__rejects_a_float_mask(name):
    with pytest.raises(ValueError, match=r"mask has dtype torch.float32; it must be torch.bool"):
        LOSSES[name](torch.rand(1, 4, 4), torch.rand(1, 4, 4), torch.ones(1, 4, 4))


def test_constant_prediction__gradient_is_bounded_by_the_clamp():
    # Spread 0 is clamped at 1e-6: each of the n pixels gets at most 1e6 / n, the median's all of the others' sum.
    prediction = torch.full((1, 20, 20), 0.3, requires_grad=True)
    affine_invariant_loss(prediction, torch.rand(1, 20, 20), torch.ones(1, 20, 20, dtype=torch.bool)).backward()
    assert 0 < prediction.grad.abs().max() <= 1.0001e6


def test_large_image__float32_agrees_with_float64():
    prediction, target = torch.rand(1, 700, 900) + 0.1, torch.rand(1, 700, 900) + 0.1
    mask = torch.rand(1, 700, 900) < 0.5
    for loss in (relative, silog_loss):
        torch.testing.assert_close(
            loss(prediction, target, mask).double(),
            loss(prediction.double(), target.double(), mask),
            rtol=1e-5,
            atol=0,
        )


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", ["random", "same", "opposite", "zero", "constant"])
def test_feature_alignment__finite_with_finite_gradient(kind, dtype):
    frozen = torch.randn(2, 9, 16)
    features = {
        "random": torch.randn(2, 9, 16),
        "same": frozen.clone(),
        "opposite": -frozen,
        "zero": torch.zeros(2, 9, 16),
        "constant": torch.ones(2, 9, 16),
    }[kind]
    features = features.to(dtype).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        loss = feature_alignment_loss(features, frozen.to(dtype))
    loss.backward()
    assert loss.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert torch.isfinite(loss)
    assert torch.isfinite(features.grad).all()
