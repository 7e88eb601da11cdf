import numpy as np
import pytest
import torch
from PIL import Image
from transformers.modeling_outputs import DepthEstimatorOutput

from depth_anything_hf.maps.resizing import (
    check_resolution,
    resize_map,
    resize_pixels,
    resize_prediction,
    resized_size,
)
from depth_anything_hf.model.image_processing import StockProcessor

if StockProcessor.__name__ == "DPTImageProcessorPil":
    from transformers.models.dpt.image_processing_pil_dpt import get_resize_output_image_size
else:
    from transformers.models.dpt.image_processing_dpt import get_resize_output_image_size

PUBLISHED_SIZES = [  # image, the authors' code, the stock processor: height x width
    ((240, 320), (518, 686), (392, 518)),
    ((300, 600), (518, 1036), (252, 518)),
    ((400, 500), (518, 644), (420, 518)),
    ((375, 1242), (518, 1722), (518, 1722)),
]


# --- resized_size


@pytest.mark.parametrize(("image", "lower_bound", "minimal"), PUBLISHED_SIZES)
def test_resized_size__is_the_published_one(image, lower_bound, minimal):
    assert resized_size(*image, (518, 518)) == lower_bound
    assert resized_size(*image, (518, 518), method="minimal") == minimal


@pytest.mark.parametrize("keep_aspect_ratio", [True, False])
@pytest.mark.parametrize("target", [(518, 518), (56, 56), (384, 672)])
def test_resized_size__minimal_is_the_stock_rule(target, keep_aspect_ratio):
    generator = np.random.default_rng(0)
    for height, width in generator.integers(1, 2000, (500, 2)).tolist():
        # A view of one value: only the shape is read.
        image = np.broadcast_to(np.uint8(0), (3, height, width))
        stock = get_resize_output_image_size(image, target, keep_aspect_ratio, 14)
        found = resized_size(height, width, target, 14, keep_aspect_ratio, "minimal")
        # The stock rule gives 0 pixels for extreme aspects, which no model takes.
        assert found == (max(stock.height, 14), max(stock.width, 14)), (height, width)


@pytest.mark.parametrize("target", [(518, 518), (56, 56), (384, 672)])
def test_resized_size__lower_bound_covers_the_target_and_is_tight(target):
    generator = np.random.default_rng(1)
    for height, width in generator.integers(1, 2000, (500, 2)).tolist():
        found = resized_size(height, width, target)
        exact = [max(target[0] / height, target[1] / width) * side for side in (height, width)]
        for side, least, ideal in zip(found, target, exact, strict=True):
            assert side % 14 == 0
            assert side >= least
            assert abs(side - ideal) < 14


def test_resized_size__without_aspect_ratio_is_the_target_rounded():
    assert resized_size(100, 300, (500, 300), keep_aspect_ratio=False) == (504, 294)


def test_resized_size__rejects_unknown_method():
    with pytest.raises(ValueError, match=r"resize_method is 'upper_bound'; it must be one of .*lower_bound"):
        resized_size(10, 10, (56, 56), method="upper_bound")


@pytest.mark.parametrize(("size", "target"), [((0, 5), (56, 56)), ((5, 5), (56, 0))])
def test_resized_size__rejects_empty_sides(size, target):
    with pytest.raises(ValueError, match=r"cannot be resized"):
        resized_size(*size, target)


# --- resize_map


def test_resize_map__takes_the_nearest_center():
    values = torch.tensor([[[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]]])
    assert resize_map(values, (1, 2)).tolist() == [[[2.0, 5.0]]]  # centres 1.5 and 4.5 of [0, 6]
    assert resize_map(values, (1, 12)).tolist() == [[[value for value in range(1, 7) for _ in range(2)]]]


def test_resize_map__keeps_bool():
    resized = resize_map(torch.tensor([[[True, False]]]), (2, 4))
    assert resized.tolist() == [[[True, True, False, False]] * 2]
    assert resized.dtype == torch.bool


# --- resize_pixels


def test_resize_pixels__keeps_what_has_the_size():
    pixels = torch.arange(36, dtype=torch.uint8).reshape(1, 3, 4, 3)
    assert resize_pixels(pixels, (3, 4)) is pixels


@pytest.mark.parametrize("size", [(30, 40), (56, 70), (120, 50), (1, 1), (7, 160)])
def test_resize_pixels__is_within_few_gray_levels_of_pillow(noise_image, size):
    images = [noise_image(60, 80, seed) for seed in range(2)]
    found = resize_pixels(torch.from_numpy(np.stack([np.array(image) for image in images])), size)
    assert (found.dtype, found.shape) == (torch.uint8, (2, *size, 3))
    for one, image in zip(found, images, strict=True):
        expected = np.asarray(image.resize(size[::-1], Image.Resampling.BICUBIC)).astype(int)
        assert np.abs(one.numpy() - expected).max() <= 4  # another bicubic: a = -0.5 in both, other roundings
        assert np.abs(one.numpy() - expected).mean() < 0.6


def test_resize_pixels__of_one_gray_is_that_gray():
    for grey in (0, 7, 128, 255):
        assert resize_pixels(torch.full((1, 5, 9, 3), grey, dtype=torch.uint8), (14, 28)).unique().tolist() == [grey]


def test_resize_pixels__stays_within_the_range():
    """Bicubic overshoots at an edge; whole gray levels must not wrap round."""
    pixels = torch.zeros(1, 8, 8, 3, dtype=torch.uint8)
    pixels[:, :, 4:] = 255
    found = resize_pixels(pixels, (8, 64))[0, 0, :, 0].int()
    assert found[:28].max() <= 128
    assert found[36:].min() >= 128


def test_resize_pixels__antialiases():
    stripes = torch.zeros(1, 64, 64, 3, dtype=torch.uint8)
    stripes[:, :, ::2] = 255
    found = resize_pixels(stripes, (8, 8))[:, :, 1:-1].int()
    assert (found - 127).abs().max() <= 3  # a grey, not stripes


def test_resize_pixels__keeps_channels_and_pictures_apart():
    pixels = torch.zeros(2, 4, 4, 3, dtype=torch.uint8)
    pixels[0, ..., 1], pixels[1, ..., 2] = 200, 100
    found = resize_pixels(pixels, (9, 6))
    assert found.amax((1, 2)).tolist() == found.amin((1, 2)).tolist() == [[0, 200, 0], [0, 0, 100]]


# --- resize_prediction


def test_resize_prediction__bilinear_aligns_corners():
    assert resize_prediction(torch.tensor([[[0.0, 3.0]]]), (1, 4)).tolist() == [[[0.0, 1.0, 2.0, 3.0]]]


def test_resize_prediction__bicubic_is_the_stock_processors():
    depth = torch.rand(2, 14, 28)
    expected = StockProcessor().post_process_depth_estimation(
        DepthEstimatorOutput(predicted_depth=depth), [(9, 40)] * 2
    )
    found = resize_prediction(depth, (9, 40), "bicubic")
    assert torch.equal(found, torch.stack([one["predicted_depth"] for one in expected]))


def test_resize_prediction__bilinear_never_leaves_the_range():
    depth = (torch.rand(1, 14, 28) > 0.5).float()
    bilinear, bicubic = (resize_prediction(depth, (100, 201), mode) for mode in ("bilinear", "bicubic"))
    assert (bilinear.min(), bilinear.max()) == (0, 1)
    assert bicubic.min() < 0


@pytest.mark.parametrize(
    ("given", "expected"),
    [(torch.float16, torch.float32), (torch.bfloat16, torch.float32), (torch.float64, torch.float64)],
)
@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
def test_resize_prediction__is_float32_at_least(given, expected, mode):
    assert resize_prediction(torch.rand(1, 4, 4).to(given), (8, 8), mode).dtype == expected


def test_resize_prediction__rejects_unknown_mode():
    with pytest.raises(ValueError, match="mode is 'nearest'; it must be 'bilinear'"):
        resize_prediction(torch.rand(1, 4, 4), (8, 8), "nearest")


@pytest.mark.parametrize(("resolution", "nearest"), [(0, 14), (-14, 14), (3, 14), (100, 98), (520, 518)])
def test_check_resolution__other_than_a_multiple_is_named_with_the_nearest(resolution, nearest):
    with pytest.raises(ValueError, match=rf"is {resolution}; .*multiple of the patch size 14, such as {nearest}\."):
        check_resolution(resolution, 14)
