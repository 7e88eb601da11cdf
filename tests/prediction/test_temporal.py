import math

import numpy as np
import pytest
import torch
from PIL import Image

from depth_anything_hf.prediction.temporal import RunningRange, TemporalAligner, fit_to_past, is_scene_cut
from depth_anything_hf.scenes.simple import render_scenes

GREY = torch.full((3, 24, 32), 90, dtype=torch.uint8)


def draw(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def everywhere(values):
    return torch.ones_like(values, dtype=torch.bool)


# fit_to_past


@pytest.mark.parametrize(("scale", "shift"), [(2.0, 1.0), (0.5, -3.0), (1.0, 0.0)])
def test_fit__finds_an_exact_scale_and_shift(scale, shift):
    prediction = draw(20, 30)
    found = fit_to_past(prediction, scale * prediction.double() + shift, everywhere(prediction))
    assert found == pytest.approx((scale, shift), abs=1e-12)


def test_fit__leaves_out_what_moved_by_hand():
    prediction = torch.tensor([[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0]])
    past = torch.tensor([[3.0, 5.0, 7.0, 9.0, 40.0, 13.0, 15.0, 17.0, 19.0, 21.0]])  # 2 x + 1, but for one
    assert fit_to_past(prediction, past, everywhere(past)) == pytest.approx((2.0, 1.0), abs=1e-9)


def test_fit__an_object_that_passes_by_does_not_drive_it():
    prediction = draw(40, 50)
    past = 1.3 * prediction + 0.2
    prediction[:20, :15] = 3.0  # 15 % of the picture
    assert fit_to_past(prediction, past, everywhere(past)) == pytest.approx((1.3, 0.2), abs=1e-4)


def test_fit__is_the_inverse_of_the_fit_the_other_way_round():
    prediction, past = draw(30, 40), draw(30, 40) + 0.3 * draw(30, 40, seed=1)
    scale, shift = fit_to_past(prediction, past, everywhere(past))
    back_scale, back_shift = fit_to_past(past, prediction, everywhere(past))
    assert scale * back_scale == pytest.approx(1.0, abs=1e-9)
    assert back_shift == pytest.approx(-shift / scale, abs=1e-9)


def test_fit__noise_does_not_make_the_scale_smaller():
    truth, generator = draw(100, 100), torch.Generator().manual_seed(2)
    first, second = (truth + 0.1 * torch.randn(truth.shape, generator=generator) for _ in range(2))
    least_squares = np.polyfit(first.flatten().numpy(), second.flatten().numpy(), 1)[0]
    assert least_squares < 0.92
    assert fit_to_past(first, second, everywhere(truth))[0] == pytest.approx(1.0, abs=0.02)


@pytest.mark.parametrize("space", ["disparity", "depth"])
def test_fit__reads_nothing_outside_the_mask(space):
    prediction = draw(20, 30) + 0.1
    past, mask = 2 * prediction, everywhere(prediction)
    mask[:, 10:20] = False
    clean = fit_to_past(prediction, past, mask, space)
    prediction[:, 10:15], past[:, 15:20] = torch.nan, torch.inf
    assert fit_to_past(prediction, past, mask, space) == clean == pytest.approx((2.0, 0.0), abs=1e-6)


def test_fit__meters_get_the_median_ratio():
    prediction = torch.tensor([[1.0, 2.0, 4.0, 5.0, 0.0, -1.0]])
    past = torch.tensor([[3.0, 6.0, 12.0, 500.0, 7.0, 7.0]])
    assert fit_to_past(prediction, past, everywhere(past), "depth") == (3.0, 0.0)


@pytest.mark.parametrize("space", ["disparity", "depth"])
def test_fit__says_when_there_is_nothing_to_go_by(space):
    values = draw(8, 9) + 0.1
    assert fit_to_past(values, values, torch.zeros_like(values, dtype=torch.bool), space)[0] <= 0
    assert fit_to_past(torch.zeros_like(values), values, everywhere(values), space)[0] <= 0
    assert fit_to_past(values, torch.zeros_like(values), everywhere(values), space)[0] <= 0
    assert fit_to_past(values, -values, everywhere(values), space)[0] <= 0


# TemporalAligner


def run(predictions, space="disparity", smoothing=20.0, images=None):
    align = TemporalAligner(space, smoothing)
    return [align(prediction, GREY if images is None else images[i]) for i, prediction in enumerate(predictions)]


def test_align__half_of_a_step_in_log_scale_by_hand():
    truth = draw(20, 30)
    first, second = run([truth, truth / 1.21], smoothing=2)
    assert (first.scale, first.shift, first.cut) == (1.0, 0.0, True)
    assert torch.equal(first.values, truth)
    assert second.scale == pytest.approx(1.1, abs=1e-6)
    assert not second.cut


def test_align__half_of_a_shift_by_hand():
    truth = draw(21, 31)
    _, second = run([truth, truth - 0.4], smoothing=2)
    assert (second.scale, second.shift) == pytest.approx((1.0, 0.2), abs=1e-6)


def test_align__scale_and_shift_fade_about_the_middle_of_the_values():
    truth = 100 + draw(21, 31)
    middle = truth.median()
    _, second = run([truth, middle + 1.21 * (truth - middle)], smoothing=2)
    assert second.values.median().item() == pytest.approx(middle.item(), abs=1e-3)
    assert second.values.std().item() == pytest.approx(1.1 * truth.std().item(), rel=1e-4)


@pytest.mark.parametrize("space", ["disparity", "depth"])
def test_align__the_output_has_the_moving_average_of_the_log_scale(space):
    truth, jitter = draw(20, 30) + 0.5, 0.2 * torch.randn(40, generator=torch.Generator().manual_seed(3)).double()
    frames = run([truth * math.exp(step) for step in jitter.tolist()], space, smoothing=5)
    expected = jitter[0].item()
    for number, (step, frame) in enumerate(zip(jitter.tolist(), frames, strict=True), start=1):
        expected += (step - expected) / min(number, 5)  # the mean of all, then the exponential one
        assert math.log(frame.scale) + step == pytest.approx(expected, abs=1e-5)


def test_align__values_are_the_prediction_with_scale_and_shift():
    predictions = [draw(12, 16), 0.9 * draw(12, 16) + 0.1]
    for prediction, frame in zip(predictions, run(predictions), strict=True):
        torch.testing.assert_close(frame.values, frame.scale * prediction + frame.shift)
        assert frame.values.dtype == torch.float32


def test_align__smoothing_of_one_leaves_every_frame_as_it_is():
    predictions = [draw(12, 16) * (1 + i % 2) for i in range(4)]
    frames = run(predictions, smoothing=1)
    assert [frame.cut for frame in frames] == [True, False, False, False]
    assert {(frame.scale, frame.shift) for frame in frames} == {(1.0, 0.0)}
    for prediction, frame in zip(predictions, frames, strict=True):
        assert torch.equal(frame.values, prediction)


def test_align__a_still_scene_stays_as_it_is():
    frames = run([draw(12, 16)] * 5)
    assert [frame.cut for frame in frames] == [True, False, False, False, False]
    for frame in frames:
        torch.testing.assert_close(frame.values, draw(12, 16))


@pytest.mark.slow
def test_align__takes_jitter_out():
    generator = torch.Generator().manual_seed(4)
    truth = draw(30, 40)
    jitter = 0.1 * torch.randn(100, 2, generator=generator)
    predictions = [truth * math.exp(a) + b for a, b in jitter.tolist()]
    before, after = (
        torch.stack(maps).diff(dim=0).abs().mean(dim=(1, 2))
        for maps in (predictions, [frame.values for frame in run(predictions)])
    )
    assert after.mean() < before.mean() / 8
    assert after[20:].mean() < before[20:].mean() / 15


@pytest.mark.slow
def test_align__noise_does_not_let_it_drift_or_fade():
    generator = torch.Generator().manual_seed(5)
    truth = draw(40, 60)  # least squares would lose 3 % at each frame, and settle at half of the scale
    frames = run([truth + 0.05 * torch.randn(truth.shape, generator=generator) for _ in range(120)])
    assert sum(frame.cut for frame in frames) == 1
    scales, shifts = (torch.tensor([getattr(frame, name) for frame in frames]) for name in ("scale", "shift"))
    assert (scales - 1).abs().max() < 0.1
    assert shifts.abs().max() < 0.05


def test_align__what_really_changes_arrives():
    truth = draw(20, 30)
    frames = run([truth] + [1.5 * truth] * 60, smoothing=10)
    assert frames[1].scale == pytest.approx((1 / 1.5) ** 0.5, abs=1e-5)
    assert frames[-1].scale == pytest.approx(1.0, abs=2e-3)


@pytest.mark.parametrize("factor", [3.0, 0.3, -1.0, 0.0])
@pytest.mark.parametrize("space", ["disparity", "depth"])
def test_align__starts_anew_where_the_past_explains_nothing(factor, space):
    truth = draw(20, 30) + 0.1
    _, second = run([truth, factor * truth], space)
    assert (second.cut, second.scale, second.shift) == (True, 1.0, 0.0)
    assert torch.equal(second.values, factor * truth)


def test_align__starts_anew_at_a_scene_cut():
    (before, after), truth = render_scenes([3, 7], 24, 32).images, draw(24, 32)
    frames = run([truth, 1.1 * truth, 1.1 * truth, truth], images=[before, before, after, after])
    assert [frame.cut for frame in frames] == [True, False, True, False]
    assert torch.equal(frames[2].values, 1.1 * truth)


def test_align__starts_anew_when_the_size_changes():
    frames = run([draw(20, 30), draw(24, 30)])
    assert frames[1].cut


def test_align__holes_stay_holes_and_do_not_count():
    truth = draw(20, 30)
    holed = 1.2 * truth
    holed[5:9, 5:9] = torch.nan
    _, second, third, fourth = run([truth, holed, torch.full_like(truth, torch.nan), truth])
    assert second.scale == pytest.approx((1 / 1.2) ** 0.5, abs=1e-4)
    assert torch.equal(second.values.isnan(), holed.isnan())
    assert third.cut
    assert third.values.isnan().all()
    assert fourth.cut


def test_align__meters_have_no_shift():
    truth = draw(20, 30) + 1
    truth[0] = 0.0
    for frame in run([truth, 1.1 * truth, 0.95 * truth + 0.05], "depth"):
        assert frame.shift == 0.0


def test_align__large_maps_give_what_small_ones_do():
    small = draw(30, 40)
    large = small.repeat_interleave(30, 0).repeat_interleave(30, 1)  # 900 x 1200
    assert run([large, 1.3 * large])[1].scale == pytest.approx(run([small, 1.3 * small])[1].scale, abs=1e-5)


def test_align__changes_no_input():
    prediction, image = draw(20, 30), GREY.clone()
    kept = prediction.clone()
    align = TemporalAligner()
    align(prediction, image)
    prediction += 1  # nor does it hold on to it
    image += 100
    second = align(kept, GREY)
    assert not second.cut
    assert (second.scale, second.shift) == pytest.approx((1.0, 0.0), abs=1e-6)


@pytest.mark.parametrize("make", [lambda n: TemporalAligner(smoothing=n), lambda n: RunningRange(n)])
@pytest.mark.parametrize("smoothing", [0.5, 0, -3, math.nan])
def test_smoothing__below_a_frame_is_refused(make, smoothing):
    with pytest.raises(ValueError, match="at least 1 frame"):
        make(smoothing)


def test_align__refuses_what_is_not_one_map():
    with pytest.raises(ValueError, match=r"\(2, 8, 9\).*\(height, width\)"):
        TemporalAligner()(draw(2, 8, 9), GREY)
    with pytest.raises(ValueError, match="space is 'metres'"):
        TemporalAligner("metres")


# is_scene_cut


def test_cut__needs_other_colors_and_another_layout():
    half = torch.zeros(3, 24, 32, dtype=torch.uint8)
    half[:, :, 16:] = 200
    darker = half // 2
    assert not is_scene_cut(half, darker)  # other colours in the same layout: exposure
    assert not is_scene_cut(half, half.flip(2))  # another layout in the same colours: a pan
    assert is_scene_cut(half, darker.flip(2))


def test_cut__flat_frames():
    black = torch.zeros(3, 8, 8, dtype=torch.uint8)
    assert not is_scene_cut(black, black)
    assert is_scene_cut(black, draw(3, 8, 8).mul(255).byte())


def test_cut__scenes_differ_from_one_another_and_not_from_themselves():
    images = render_scenes(range(20), 48, 64).images
    pairs = [(i, j) for i in range(20) for j in range(i)]
    found = [is_scene_cut(images[i], images[j]) for i, j in pairs]
    assert np.mean(found) > 0.97
    for image in images:
        assert not is_scene_cut(image, image.roll(2, dims=2))
        assert not is_scene_cut(image, (image * 0.8).byte())


@pytest.mark.slow
def test_cut__photographs(real_data):
    files = sorted((real_data / "unlabeled" / "images").iterdir())
    images = []
    for file in files[::4]:
        with Image.open(file) as image:
            images.append(torch.from_numpy(np.array(image.convert("RGB").resize((160, 120)))).movedim(2, 0))
    pairs = [(i, j) for i in range(len(images)) for j in range(i)]
    assert np.mean([is_scene_cut(images[i], images[j]) for i, j in pairs]) > 0.9
    for image in images:
        assert not is_scene_cut(image[:, :, :-4], image[:, :, 4:])  # 2.5 % of the width
        assert not is_scene_cut(image, (image * 0.85).byte())


# RunningRange


def test_range__follows_each_end_by_hand():
    follow = RunningRange(smoothing=4)
    lows = [0.0, 4.0, 5.0, 7.0, 8.0]  # means of all: 0, 2, 3, 4; then a quarter of the way to 8
    found = [follow(frame[None], everywhere(frame[None])) for frame in torch.tensor([[low, 9.0] for low in lows])]
    assert found == [(0.0, 9.0), (2.0, 9.0), (3.0, 9.0), (4.0, 9.0), (5.0, 9.0)]


def test_range__starts_anew():
    follow, mask = RunningRange(), torch.ones(1, 2, dtype=torch.bool)
    follow(torch.tensor([[0.0, 1.0]]), mask)
    assert follow(torch.tensor([[5.0, 9.0]]), mask, restart=True) == (5.0, 9.0)


def test_range__takes_percentiles_of_valid_values():
    values = torch.arange(101.0)[None].repeat(2, 1)
    values[1] = torch.nan
    assert RunningRange()(values, values.isfinite()) == (2.0, 98.0)


def test_range__nearly_constant_values_keep_their_extremes():
    values = torch.zeros(1, 200)
    values[0, 7] = 3.0
    assert RunningRange()(values, everywhere(values)) == (0.0, 3.0)


def test_range__without_values_it_stays():
    follow, empty = RunningRange(), torch.zeros(1, 2, dtype=torch.bool)
    assert follow(torch.tensor([[0.0, 1.0]]), empty) == (0.0, 0.0)
    follow(torch.tensor([[2.0, 3.0]]), ~empty)
    assert follow(torch.tensor([[0.0, 1.0]]), empty) == (2.0, 3.0)
