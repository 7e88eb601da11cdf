import numpy as np
import pytest
import torch
from PIL import Image

from depth_anything_hf.data.records import encode_record
from depth_anything_hf.pictures.control_image import to_control_image


@pytest.fixture(scope="module")
def control_collator(load_example):
    return load_example("controlnet/control_collator").ControlCollator


def ramp(height, width):
    """A plane that is nowhere constant and in no way symmetric, in [0, 1]."""
    rows, columns = (np.arange(size) + 0.5 for size in (height, width))
    return 0.3 * rows[:, None] / height + 0.7 * columns[None] / width


def record(values, photo=None, seed=0, **extra):
    """A record whose label is `values` and whose photograph is `photo`, gray, default: the label at four times its size."""
    height, width = np.shape(values)
    photo = ramp(4 * height, 4 * width) if photo is None else photo
    grey = np.repeat(np.rint(255 * photo).astype(np.uint8)[..., None], 3, axis=2)
    label = encode_record(Image.new("RGB", (width, height)), values, space="disparity")
    return {**label, "image": Image.fromarray(grey), "own_size": True, "draw_seed": seed, **extra}


@pytest.mark.parametrize("size", [(30, 40), (40, 30), (32, 32)])
def test_photograph_and_control_image_show_the_same_place(control_collator, size):
    batch = control_collator(48)([record(ramp(*size), seed=seed) for seed in range(8)])
    for photo, control in zip(batch["pixel_values"], batch["control"], strict=True):
        stretched = (photo - photo.min()) / (photo.max() - photo.min())
        # a label's pixel is 1.5 pixels wide here; half of one is what the ends of the two may be apart
        assert (stretched - control).abs().max() < 0.05
    left_to_right = (batch["control"][:, 0, 24, -1] > batch["control"][:, 0, 24, 0]).tolist()
    assert True in left_to_right  # not mirrored
    assert False in left_to_right  # mirrored
    wide = [batch["pixel_values"][i, 0].mean().item() for i in range(8) if left_to_right[i]]
    assert (np.ptp(wide) > 0.02) == (size != (32, 32))  # crops lie at different places


def test_ranges_and_types(control_collator):
    batch = control_collator(16)([record(ramp(20, 30), seed=seed) for seed in range(3)])
    assert batch["pixel_values"].shape == batch["control"].shape == (3, 3, 16, 16)
    assert batch["pixel_values"].dtype == batch["control"].dtype == torch.float32
    assert -1 <= batch["pixel_values"].min() < -0.4
    assert 0.4 < batch["pixel_values"].max() <= 1
    for control in batch["control"]:  # each stretched over its own crop
        assert (control.min(), control.max()) == (0, 1)
        assert (control == control[:1]).all()


def test_a_square_record_at_its_own_size_is_taken_as_it_is(control_collator):
    values = np.random.default_rng(0).random((16, 16))
    photo = np.random.default_rng(1).random((16, 16))
    for seed in range(4):
        batch = control_collator(16)([record(values, photo, seed)])
        expected = np.asarray(to_control_image(values)).transpose(2, 0, 1) / 255
        planes = [torch.from_numpy(expected).float(), torch.from_numpy(np.rint(255 * photo) / 127.5 - 1).float()]
        found = [batch["control"][0], batch["pixel_values"][0, 0]]
        same = [torch.allclose(a, b, atol=1e-6) for a, b in zip(found, planes, strict=True)]
        mirrored = [torch.allclose(a, b.flip(-1), atol=1e-6) for a, b in zip(found, planes, strict=True)]
        assert [same, mirrored] in ([[True] * 2, [False] * 2], [[False] * 2, [True] * 2])


def test_the_photograph_keeps_the_resolution_that_the_label_lacks(control_collator):
    checkers = np.indices((128, 128)).sum(axis=0) % 2
    batch = control_collator(128)([record(ramp(16, 16), checkers)])
    assert batch["pixel_values"].abs().min() == 1  # black and white, not their mean


def test_time_ids_by_hand(control_collator):
    # a photograph of 120 x 160, labelled at 30 x 40; 48 pixels for the 30 of the crop
    collate = control_collator(48)
    for seed in range(8):
        batch = collate([record(ramp(30, 40), seed=seed)])
        height, width, top, left, *size = batch["time_ids"][0].tolist()
        assert [height, width, top, *size] == [120, 160, 0, 48, 48]
        first = batch["pixel_values"][0, 0, 0, 0].item() / 2 + 0.5  # of a ramp over the columns
        mirrored = first > batch["pixel_values"][0, 0, 0, -1].item() / 2 + 0.5
        shown = first - 0.3 * 0.5 / 48
        start = (1 - shown / 0.7 if mirrored else shown / 0.7) * 64 - 0.5  # in a picture of 48 x 64, mirrored or not
        assert left == pytest.approx(start, abs=0.6)


def test_draws_follow_the_seed_of_the_record_alone(control_collator):
    rows = [record(ramp(20, 30), seed=seed) for seed in range(4)]
    collate = control_collator(16, prompt="a room")
    together, alone = collate(rows), [collate([row]) for row in reversed(rows)][::-1]
    for name in ("pixel_values", "control", "time_ids"):
        assert torch.equal(together[name], torch.cat([batch[name] for batch in alone]))
    assert together["prompts"] == [batch["prompts"][0] for batch in alone]


def test_the_sky_is_far_and_meters_are_inverted(control_collator):
    depth = np.array([[1.0, 2.0], [4.0, 8.0]])
    sky = np.array([[False, False], [False, True]])
    row = encode_record(Image.new("RGB", (2, 2)), depth, space="depth", sky=sky) | {"draw_seed": 0}
    control = control_collator(2)([row])["control"][0, 0]
    # 1, 1/2, 1/4, and 0 for the sky, of 255, cut
    assert sorted((control * 255).round().flatten().tolist()) == [0, 63, 127, 255]
    assert control[1].min() == 0


def test_pixels_without_a_label_are_black_and_no_part_of_the_range(control_collator):
    values = 5 + ramp(16, 16)
    values[4:8, 2:6] = np.nan
    control = control_collator(16)([record(values)])["control"][0, 0]
    expected = torch.from_numpy(np.asarray(to_control_image(values))[..., 0] / 255).float()
    assert (expected[4:8, 2:6] == 0).all()
    assert (expected == 0).sum() < 20
    assert any(torch.allclose(control, one, atol=1 / 255) for one in (expected, expected.flip(-1)))


@pytest.mark.parametrize(("share", "least", "most"), [(0.0, 0, 0), (1.0, 60, 60), (0.5, 18, 42)])
def test_a_share_of_the_prompts_is_left_out(control_collator, share, least, most):
    collate = control_collator(2, prompt="a room", empty_prompts=share)
    prompts = collate([record(ramp(2, 2), seed=seed) for seed in range(60)])["prompts"]
    assert set(prompts) <= {"", "a room"}
    assert least <= prompts.count("") <= most


def test_captions_of_the_records(control_collator):
    collate = control_collator(2, prompt="unused", caption_column="caption", empty_prompts=0)
    rows = [record(ramp(2, 2), caption=caption) for caption in ("a cat", None)]
    assert collate(rows)["prompts"] == ["a cat", ""]


def test_errors(control_collator):
    with pytest.raises(ValueError, match=r"empty_prompts is 2.*from 0 to 1"):
        control_collator(2, empty_prompts=2)
    with pytest.raises(ValueError, match=r"has no column 'text', but \[.*'source'"):
        control_collator(2, caption_column="text", empty_prompts=0)([record(ramp(2, 2))])
    with pytest.raises(ValueError, match="garden has no depth_map"):
        control_collator(2)([encode_record(Image.new("RGB", (2, 2)), source="garden") | {"draw_seed": 0}])
