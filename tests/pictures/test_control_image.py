import numpy as np
import pytest
import torch
from transformers import pipeline

from depth_anything_hf.pictures.control_image import to_control_image


def grey(picture):
    """The one channel of a picture whose three are equal."""
    channels = np.asarray(picture)
    assert (picture.mode, channels.dtype) == ("RGB", np.uint8)
    assert (channels == channels[..., :1]).all()
    return channels[..., 0]


def test_control_image_of_disparity_by_hand():
    # (d + 2) / 10 * 255 = 0, 127.5, 255, 25.5: near is white, grey levels are cut as by the MiDaS annotator
    assert grey(to_control_image(np.array([[-2.0, 3.0], [8.0, -1.0]]))).tolist() == [[0, 127], [255, 25]]


def test_control_image_of_meters_by_hand():
    # 1 / d = 1, 0.5, 0.25, of which (1/d - 0.25) / 0.75 * 255 = 255, 85, 0; 0 and below are no metres
    depth = np.array([[1.0, 2.0, 4.0], [0.0, -1.0, np.inf]])
    assert grey(to_control_image(depth, "depth")).tolist() == [[255, 85, 0], [0, 0, 0]]


def test_control_image_is_the_depth_picture_of_the_stock_pipeline(make_model, tiny_processor, noise_image, tmp_path):
    for part in (make_model(), tiny_processor):
        part.save_pretrained(tmp_path)
    result = pipeline("depth-estimation", model=str(tmp_path))(noise_image(60, 80))
    control = to_control_image(result["predicted_depth"])
    assert len(np.unique(grey(control))) > 20
    assert np.array_equal(grey(control), np.asarray(result["depth"]))


@pytest.mark.parametrize(("scale", "shift"), [(0.01, 0.0), (3.0, 7.0), (1e4, -2e4)])
def test_control_image_does_not_see_scale_and_shift_of_disparity(scale, shift):
    disparity = np.random.default_rng(0).random((20, 30))
    control, changed = (grey(to_control_image(values)) for values in (disparity, scale * disparity + shift))
    assert control.min() == changed.min() == 0
    assert control.max() == changed.max() == 255
    assert np.abs(control.astype(int) - changed).max() <= 1  # rounding may move a value across a grey level's edge
    assert np.array_equal(grey(to_control_image(8 * disparity)), control)


def test_control_image_does_not_see_the_scale_of_meters():
    depth = np.random.default_rng(0).uniform(1, 9, (20, 30))
    control = grey(to_control_image(depth, "depth"))
    assert np.array_equal(grey(to_control_image(4 * depth, "depth")), control)
    assert np.abs(grey(to_control_image(1 / depth)).astype(int) - control).max() <= 1


def test_nearer_is_never_darker_in_a_control_image():
    order = np.sort(np.random.default_rng(0).uniform(0.5, 9, 1000))
    assert (np.diff(grey(to_control_image(order[None]))[0].astype(int)) >= 0).all()
    assert (np.diff(grey(to_control_image(order[None], "depth"))[0].astype(int)) <= 0).all()


def test_a_control_image_keeps_disparity_to_1_in_255_of_its_range():
    disparity = np.random.default_rng(0).uniform(3, 8, (50, 60))
    back = grey(to_control_image(disparity)) / 255 * np.ptp(disparity) + disparity.min()
    loss = disparity - back
    assert loss.min() >= -1e-6
    assert 0.95 * np.ptp(disparity) / 255 < loss.max() <= 1.001 * np.ptp(disparity) / 255


@pytest.mark.parametrize("hole", [np.nan, np.inf, -np.inf, 1e9])
@pytest.mark.parametrize("space", ["disparity", "depth"])
def test_values_that_are_none_are_black_and_have_no_influence(hole, space):
    values = np.array([[1.0, 2.0, 5.0, 4.0]])
    expected = [*grey(to_control_image(values[:, :3], space))[0].tolist(), 0]
    values[0, 3] = hole
    mask = np.array([[True, True, True, False]])
    assert grey(to_control_image(values, space, mask))[0].tolist() == expected
    if not np.isfinite(hole):
        assert grey(to_control_image(values, space))[0].tolist() == expected


@pytest.mark.parametrize("values", [np.full((2, 3), 7.0), np.zeros((2, 3)), np.full((2, 3), np.nan)])
@pytest.mark.parametrize("space", ["disparity", "depth"])
def test_a_control_image_without_relief_is_black(values, space):
    assert grey(to_control_image(values, space)).tolist() == [[0] * 3] * 2


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.int16])
def test_control_image_of_a_tensor(dtype):
    values = torch.tensor([[1, 2], [3, 6]], dtype=dtype, requires_grad=dtype.is_floating_point)
    assert grey(to_control_image(values)).tolist() == [[0, 51], [102, 255]]


def test_control_image_of_any_array():
    values = np.array([[1, 2], [3, 6]], dtype=np.uint16)
    values.flags.writeable = False
    for same in (values, values.tolist(), values[:, ::-1].copy()[:, ::-1]):
        assert grey(to_control_image(same, mask=np.ones((2, 2), bool)[::-1])).tolist() == [[0, 51], [102, 255]]


def test_a_resized_control_image_has_the_full_range():
    disparity = torch.arange(5.0).repeat(3, 1)
    control = to_control_image(disparity, size=(6, 9))
    assert control.size == (9, 6)
    # bilinear with aligned corners: 0, 0.5, 1, ..., 4, of which d / 4 * 255
    assert grey(control).tolist() == [[0, 31, 63, 95, 127, 159, 191, 223, 255]] * 6
    small = grey(to_control_image(torch.rand(40, 40, generator=torch.Generator().manual_seed(0)), size=(8, 8)))
    assert (small.min(), small.max()) == (0, 255)


def test_meters_are_resized_as_disparity():
    depth = np.array([[1.0, 4.0]])  # halfway between 1 and 0.25 lies 0.625, not 1 / 2.5
    assert grey(to_control_image(depth, "depth", size=(1, 3))).tolist() == [[255, 127, 0]]


def test_no_value_is_blended_into_a_hole_when_a_control_image_is_resized():
    values = np.array([[1.0, 2.0, np.nan, 4.0]])
    assert grey(to_control_image(values, size=(1, 8))).tolist() == [[0, 0, 85, 85, 0, 0, 255, 255]]


def test_control_image_errors():
    with pytest.raises(ValueError, match=r"depth has shape \(1, 2, 2\)"):
        to_control_image(np.ones((1, 2, 2)))
    with pytest.raises(ValueError, match=r"mask \(2, 1\)"):
        to_control_image(np.ones((2, 2)), mask=np.ones((2, 1), bool))
    with pytest.raises(ValueError, match="'metres'"):
        to_control_image(np.ones((2, 2)), "metres")
