import math

import pytest
import torch

from depth_anything_hf.maps.geometry import (
    check_space,
    disparity_of_prediction,
    invert,
    kth_smallest,
    label_from_map,
    masked_mean,
    masked_median,
    normalize_min_max,
    normalize_robust,
    unproject,
    valid_mask,
)

NAN, INF = math.nan, math.inf


def one_row(*values, dtype=torch.float32):
    return torch.tensor([[values]], dtype=dtype)


def test_check_space__rejects_unknown_name():
    with pytest.raises(ValueError, match=r"space is 'metres'; it must be one of .*'depth', 'disparity'"):
        check_space("metres")


def test_valid_mask__depth_excludes_zero_negative_and_non_finite():
    values = torch.tensor([1.0, 0.0, -1.0, NAN, INF, -INF])
    assert valid_mask(values).tolist() == [True, False, False, False, False, False]


def test_valid_mask__disparity_keeps_zero():
    values = torch.tensor([1.0, 0.0, -1.0, NAN, INF])
    assert valid_mask(values, space="disparity").tolist() == [True, True, False, False, False]


def test_valid_mask__given_mask_only_removes():
    values, given = torch.tensor([1.0, 2.0, NAN]), torch.tensor([True, False, True])
    assert valid_mask(values, given).tolist() == [True, False, False]


def test_invert__masked_values_are_never_divided():
    values = torch.tensor([2.0, 0.0, NAN, INF], requires_grad=True)
    inverse = invert(values, torch.tensor([True, False, False, False]))
    inverse.sum().backward()
    assert inverse.tolist() == [0.5, 0.0, 0.0, 0.0]
    assert values.grad.tolist() == [-0.25, 0.0, 0.0, 0.0]  # d(1/x)/dx = -1/4 at 2


@pytest.mark.parametrize("scale", [1e-8, 1.0, 1e8])
def test_invert__twice_is_identity(scale):
    values = scale * (torch.rand(2, 3, 4) + 0.5)
    everywhere = torch.ones_like(values, dtype=torch.bool)
    torch.testing.assert_close(invert(invert(values, everywhere), everywhere), values)


def test_masked_median__ignores_masked_zeros():
    # Valid: 5, 7, 9. With zeros in the place of the two masked ones the median would be 5.
    values, mask = one_row(NAN, 9.0, 5.0, 7.0, INF), torch.tensor([[[False, True, True, True, False]]])
    assert masked_median(values, mask).tolist() == [7.0]


def test_masked_median__even_count_takes_lower_middle():
    mask = torch.tensor([[[True, True, True, True, False]]])
    assert masked_median(one_row(4.0, 1.0, 3.0, 2.0, -9.0), mask).tolist() == [2.0]


def test_masked_median__agrees_with_torch_median_per_image():
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(5, 6, 7, generator=generator)
    mask = torch.rand(5, 6, 7, generator=generator) < 0.4
    expected = torch.stack([image[keep].median() for image, keep in zip(values, mask, strict=True)])
    torch.testing.assert_close(masked_median(values, mask), expected, rtol=0, atol=0)


def test_masked_median__empty_image_is_zero_and_leaves_the_rest():
    values = torch.tensor([[[NAN, NAN]], [[3.0, 3.0]]], requires_grad=True)
    mask = torch.tensor([[[False, False]], [[True, True]]])
    median = masked_median(values, mask)
    median.sum().backward()
    assert median.tolist() == [0.0, 3.0]
    assert values.grad[0].tolist() == [[0.0, 0.0]]
    assert values.grad[1].sum() == 1.0


def test_masked_median__among_equal_values_the_first_pixel_gets_the_gradient():
    values = one_row(2.0, 1.0, 2.0, 2.0, 3.0).requires_grad_()
    masked_median(values, torch.ones(1, 1, 5, dtype=torch.bool)).sum().backward()
    assert values.grad.tolist() == [[[1.0, 0.0, 0.0, 0.0, 0.0]]]


def test_masked_median__equal_value_outside_the_mask_gets_no_gradient():
    values = one_row(2.0, 1.0, 2.0, 3.0).requires_grad_()
    masked_median(values, torch.tensor([[[False, True, True, True]]])).sum().backward()
    assert values.grad.tolist() == [[[0.0, 0.0, 1.0, 0.0]]]


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_kth_smallest__selects_what_sorting_finds(dtype):
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(6, 101, generator=generator).to(dtype)
    values[1, ::3], values[2] = torch.nan, 0.5
    k = torch.tensor([0, 99, 50, 100, 7, 33])
    found = kth_smallest(values, k)
    assert found.dtype == dtype
    torch.testing.assert_close(
        found, values.sort(dim=1).values.gather(1, k[:, None])[:, 0], equal_nan=True, rtol=0, atol=0
    )
    compiled = torch.compile(kth_smallest, backend="eager", fullgraph=True)  # which sorts
    torch.testing.assert_close(compiled(values, k), found, equal_nan=True, rtol=0, atol=0)


def test_masked_median__non_contiguous_input():
    values = torch.arange(12.0).reshape(1, 3, 4)
    turned = values.transpose(1, 2)
    assert masked_median(turned, turned >= 6).item() == 8.0  # 6 to 11: the lower middle is 8


def test_masked_mean__of_valid_pixels_only():
    values, mask = one_row(1.0, 3.0, NAN, INF), torch.tensor([[[True, True, False, False]]])
    assert masked_mean(values, mask).tolist() == [2.0]  # (1 + 3) / 2, not / 4


def test_masked_mean__empty_image_is_zero_with_graph():
    values = one_row(NAN, 1.0).requires_grad_()
    mean = masked_mean(values, torch.zeros(1, 1, 2, dtype=torch.bool))
    mean.sum().backward()
    assert mean.tolist() == [0.0]
    assert values.grad.tolist() == [[[0.0, 0.0]]]


def test_masked_mean__float16_does_not_overflow():
    values = torch.full((1, 300, 300), 2.0, dtype=torch.float16)  # the sum is 180000, and float16 ends at 65504
    mean = masked_mean(values, torch.ones_like(values, dtype=torch.bool))
    assert mean.dtype == torch.float32
    assert mean.item() == 2.0


def test_normalize_robust__literal():
    # Median of 1, 2, 6 is 2; mean deviation (1 + 0 + 4) / 3 = 5/3; (1 - 2) / (5/3) = -0.6, (6 - 2) / (5/3) = 2.4.
    values, mask = one_row(1.0, 2.0, 6.0, NAN), torch.tensor([[[True, True, True, False]]])
    normalized, spread = normalize_robust(values, mask)
    torch.testing.assert_close(normalized, one_row(-0.6, 0.0, 2.4, 0.0))
    torch.testing.assert_close(spread, torch.tensor([5 / 3]))


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e8])
def test_normalize_robust__removes_scale_and_shift(scale):
    values = torch.rand(2, 5, 5, dtype=torch.float64)
    mask = torch.rand(2, 5, 5) < 0.7
    expected, spread = normalize_robust(values, mask)
    normalized, scaled_spread = normalize_robust(scale * values + 2 * scale, mask)
    torch.testing.assert_close(normalized, expected)
    torch.testing.assert_close(scaled_spread, scale * spread)


def test_normalize_robust__constant_image_is_finite_and_zero():
    normalized, spread = normalize_robust(torch.full((1, 2, 2), 0.1), torch.ones(1, 2, 2, dtype=torch.bool))
    assert normalized.tolist() == [[[0.0, 0.0], [0.0, 0.0]]]
    assert spread.item() == 0.0


def test_normalize_robust__one_clamp_an_image():
    values = torch.tensor([[[0.0, 1.0, 2.0]], [[0.0, 1.0, 2.0]]])  # deviation 2/3
    normalized, _ = normalize_robust(values, torch.ones(2, 1, 3, dtype=torch.bool), torch.tensor([0.1, 2.0]))
    torch.testing.assert_close(normalized[:, 0, 2], torch.tensor([1.5, 0.5]))  # 1 / (2/3) and 1 / 2


def test_normalize_min_max__literal_and_empty_and_constant():
    values = torch.tensor([[[2.0, 4.0, 6.0, NAN]], [[NAN, INF, 0.0, 1.0]], [[3.0, 3.0, 3.0, 9.0]]])
    mask = torch.tensor([[[True, True, True, False]], [[False] * 4], [[True, True, True, False]]])
    expected = [[[0.0, 0.5, 1.0, 0.0]], [[0.0] * 4], [[0.0] * 4]]  # (4 - 2) / (6 - 2) = 0.5
    assert normalize_min_max(values, mask).tolist() == expected


@pytest.mark.parametrize("scale", [1e-8, 1e8])
def test_normalize_min_max__spans_zero_to_one_at_any_scale(scale):
    values = scale * torch.rand(3, 4, 4)
    stretched = normalize_min_max(values, torch.ones_like(values, dtype=torch.bool))
    assert stretched.amin(dim=(1, 2)).tolist() == [0.0] * 3
    assert stretched.amax(dim=(1, 2)).tolist() == [1.0] * 3


def test_unproject__literal():
    # fx 4, fy 2, cx 1, cy 0.5; row 1, column 2, depth 8: x = (2.5 - 1) / 4 * 8 = 3, y = (1.5 - 0.5) / 2 * 8 = 4.
    depth = torch.zeros(1, 2, 3)
    depth[0, 1, 2] = 8.0
    points = unproject(depth, torch.tensor([[4.0, 2.0, 1.0, 0.5]]))
    assert points.shape == (1, 2, 3, 3)
    assert points[0, 1, 2].tolist() == [3.0, 4.0, 8.0]


def test_unproject__projects_back_to_pixel_centers():
    depth = torch.rand(2, 3, 5, dtype=torch.float64) + 1
    intrinsics = torch.tensor([[4.0, 5.0, 2.0, 1.0], [7.0, 6.0, 2.5, 1.5]], dtype=torch.float64)
    x, y, z = unproject(depth, intrinsics).unbind(-1)
    fx, fy, cx, cy = (value[:, None, None] for value in intrinsics.unbind(1))
    columns = (torch.arange(5, dtype=torch.float64) + 0.5).expand(2, 3, 5)
    rows = (torch.arange(3, dtype=torch.float64) + 0.5)[:, None].expand(2, 3, 5)
    torch.testing.assert_close(fx * x / z + cx, columns)
    torch.testing.assert_close(fy * y / z + cy, rows)


def test_unproject__rejects_shapes():
    with pytest.raises(ValueError, match=r"depth has shape \(2, 3\) and intrinsics \(1, 4\); they must be \(batch"):
        unproject(torch.ones(2, 3), torch.ones(1, 4))


def test_label_from_map__relative_model_gets_disparity_and_sky_zero():
    values, sky = torch.tensor([2.0, NAN, 0.0, 5.0]), torch.tensor([False, True, False, True])
    label, mask = label_from_map(values, None, "depth", "relative", sky)
    assert label.tolist() == [0.5, 0.0, 0.0, 0.0]  # 1/2; sky, hole, sky
    assert mask.tolist() == [True, True, False, True]


def test_label_from_map__metric_model_gets_meters_and_no_sky():
    values, sky = torch.tensor([2.0, NAN, 0.0, 5.0]), torch.tensor([False, True, False, True])
    label, mask = label_from_map(values, None, "depth", "metric", sky)
    assert label.tolist() == [2.0, 0.0, 0.0, 0.0]
    assert mask.tolist() == [True, False, False, False]


def test_label_from_map__disparity_stays_disparity_and_zero_is_a_label():
    given = torch.tensor([True, True, False])
    label, mask = label_from_map(torch.tensor([2.0, 0.0, 7.0]), given, "disparity", "relative")
    assert label.tolist() == [2.0, 0.0, 0.0]
    assert mask.tolist() == [True, True, False]


@pytest.mark.parametrize(("dtype", "nearest"), [(torch.float32, 1e-39), (torch.float16, 1e-5)])
def test_label_from_map__depth_whose_inverse_overflows_is_no_label(dtype, nearest):
    label, mask = label_from_map(torch.tensor([nearest, 2.0], dtype=dtype), None, "depth", "relative")
    assert label.tolist() == [0.0, 0.5]
    assert mask.tolist() == [False, True]


def test_label_from_map__rejects_unknown_kinds():
    values = torch.ones(1)
    with pytest.raises(ValueError, match="depth_estimation_type is 'both'; it must be 'relative' or 'metric'"):
        label_from_map(values, None, "depth", "both")
    with pytest.raises(ValueError, match=r"space is 'disparity' and the model is metric.*give depth in meters"):
        label_from_map(values, None, "disparity", "metric")
    with pytest.raises(ValueError, match="space is 'inverse'; it must be one of"):
        label_from_map(values, None, "inverse", "relative")


def test_disparity_of_prediction__meters_are_inverted_and_disparity_may_be_negative():
    values = torch.tensor([[4.0, -2.0, 0.0, torch.inf, torch.nan]])
    disparity, valid = disparity_of_prediction(values, "disparity")
    assert torch.equal(disparity[valid], torch.tensor([4.0, -2.0, 0.0]))
    disparity, valid = disparity_of_prediction(values, "depth", torch.tensor([[True] * 5]))
    assert disparity[valid].tolist() == [0.25]
    masked = disparity_of_prediction(values, "disparity", torch.tensor([[False, True, True, True, True]]))[1]
    assert masked.tolist() == [[False, True, True, False, False]]
    with pytest.raises(ValueError, match="space is 'metres'"):
        disparity_of_prediction(values, "metres")


@pytest.mark.parametrize("scale", [1e-4, 1.0, 6e4])
def test_normalize_min_max__half_precision_keeps_its_range(scale):
    values = (scale * torch.linspace(-1, 1, 9)).half()[None, None]
    found = normalize_min_max(values, torch.ones_like(values, dtype=torch.bool))
    assert found.dtype == torch.float16
    torch.testing.assert_close(found[0, 0].float(), torch.linspace(0, 1, 9), atol=2e-3, rtol=0)
