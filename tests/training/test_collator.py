import numpy as np
import pytest
import torch
from PIL import Image

from depth_anything_hf import DepthAnythingImageProcessor
from depth_anything_hf.data.records import encode_record
from depth_anything_hf.training.collator import DepthCollator, EvaluationCollator

CROP = (32, 40)


def colors(processor, pixel_values):
    """Undo the normalisation: (3, height, width) in 0..255."""
    mean, std = (torch.tensor(values)[:, None, None] for values in (processor.image_mean, processor.image_std))
    return (pixel_values * std + mean) * 255


def at_own_size(record):
    """Copy a record with the seed of a draw."""
    return [{**record, "draw_seed": seed, "stream": 0} for seed in range(12)]


def test_depth_collator__image_and_label_stay_aligned_under_crop_and_flip(processor, coordinate_record):
    batch = DepthCollator(processor)(at_own_size(coordinate_record()))
    # 40 x 60 becomes 32 x 48, of which 32 x 40 are cropped; a label names the row and column it came from.
    corners, flipped = set(), set()
    for pixel_values, label, mask in zip(batch["pixel_values"], batch["labels"], batch["label_mask"], strict=True):
        assert mask.all()
        place = (label - 1).round()
        row, column = place.div(100, rounding_mode="floor"), place % 100
        red, green, _ = colors(processor, pixel_values) / 4
        assert (red - column).abs().median() < 1
        assert (green - row).abs().median() < 1
        assert (red - column).abs().max() < 2.5
        assert (green - row).abs().max() < 2.5
        flipped.add(bool(column[0, 0] > column[0, -1]))
        corners.add((int(row[0, 0]), int(column.min())))
    assert flipped == {False, True}
    assert len(corners) > 3


def test_depth_collator__mask_goes_along(processor):
    # Invalid exactly where the picture is red; the size is the model's own, so nothing is interpolated.
    image = np.zeros((*CROP, 3), np.uint8)
    image[:10, :15, 0] = 255
    values = np.arange(1, 1 + 32 * 40, dtype=np.float64).reshape(CROP)
    record = encode_record(image, values, mask=image[..., 0] == 0, space="disparity")
    batch = DepthCollator(processor)(at_own_size(record))
    for pixel_values, mask in zip(batch["pixel_values"], batch["label_mask"], strict=True):
        assert torch.equal(colors(processor, pixel_values)[0] > 128, ~mask)
    assert {bool(mask[0, 0]) for mask in batch["label_mask"]} == {False, True}  # some are mirrored


@pytest.mark.parametrize("size", [(32, 40), (33, 41), (100, 40), (20, 200), (200, 21)])
def test_depth_collator__crop_has_the_processors_size(processor, size):
    record = encode_record(np.zeros((*size, 3), np.uint8), np.random.default_rng(0).random(size) + 1)
    batch = DepthCollator(processor)([record])
    assert batch["pixel_values"].shape == (1, 3, *CROP)
    assert batch["labels"].shape == batch["label_mask"].shape == (1, *CROP)
    assert batch["labels"].dtype == torch.float32
    assert batch["label_mask"].dtype == torch.bool


def test_depth_collator__sky_is_zero_disparity_and_no_metric_label(processor):
    sky = np.zeros(CROP, bool)
    sky[:8] = True
    values = np.where(sky, 0, np.linspace(2, 20, 40)[None, :].repeat(32, 0))
    record = encode_record(np.zeros((*CROP, 3), np.uint8), values, sky=sky)
    (relative,) = (DepthCollator(processor, "relative", 0.0)([record]),)
    assert relative["labels"][0, :8].abs().max() == 0
    assert relative["label_mask"].all()
    assert (relative["labels"][0, 8:] > 0).all()
    metric = DepthCollator(processor, "metric", 0.0)([record])
    assert not metric["label_mask"][0, :8].any()
    assert metric["label_mask"][0, 8:].all()
    torch.testing.assert_close(metric["labels"][0, 8:], torch.from_numpy(values[8:]).float(), rtol=1e-3, atol=1e-3)


def test_depth_collator__relative_label_is_one_over_depth(processor):
    depth = np.linspace(2, 20, 40)[None, :].repeat(32, 0)
    record = encode_record(np.zeros((*CROP, 3), np.uint8), depth)
    label = DepthCollator(processor, "relative", 0.0)([record])["labels"][0].double()
    inverse = torch.from_numpy(1 / depth)
    correlation = torch.corrcoef(torch.stack([label.flatten(), inverse.flatten()]))[0, 1]
    assert correlation == pytest.approx(1, abs=1e-6)


def test_depth_collator__photograph_has_an_empty_mask(processor, photographs, labeled):
    batch = DepthCollator(processor)([photographs[0], labeled[0]])
    assert not batch["label_mask"][0].any()
    assert batch["label_mask"][1].any()
    assert torch.equal(batch["labels"][0], torch.zeros(CROP))


def test_depth_collator__follows_the_draw_seed(processor, labeled):
    collate = DepthCollator(processor)
    records = [{**record, "stream": 0, "draw_seed": 5 + i} for i, record in enumerate(labeled)]
    first = collate(records)
    torch.manual_seed(123)
    state = torch.random.get_rng_state()
    again = collate(records[::-1])
    assert torch.equal(first["pixel_values"], again["pixel_values"].flip(0))
    assert torch.equal(first["labels"], again["labels"].flip(0))
    assert torch.equal(state, torch.random.get_rng_state())  # the global state is neither read nor moved
    moved = collate([{**record, "draw_seed": record["draw_seed"] + 50} for record in records])
    assert not torch.equal(first["pixel_values"], moved["pixel_values"])


def test_depth_collator__without_a_seed_follows_torch(processor, labeled):
    collate = DepthCollator(processor)
    views = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        views.append(collate(labeled)["pixel_values"])
    assert torch.equal(views[0], views[1])
    assert not torch.equal(views[0], views[2])


@pytest.mark.parametrize("probability", [0.0, 1.0])
def test_depth_collator__flip_probability(processor, probability):
    image = np.zeros((*CROP, 3), np.uint8)
    image[:, :20] = 255
    records = [{**encode_record(image), "draw_seed": seed} for seed in range(8)]
    batch = DepthCollator(processor, flip_probability=probability)(records)
    left = batch["pixel_values"][:, 0, :, :20].mean(dim=(1, 2)) > batch["pixel_values"][:, 0, :, 20:].mean(dim=(1, 2))
    assert left.tolist() == [probability == 0.0] * 8


def test_depth_collator__two_streams_count_and_name(processor, labeled, photographs):
    records = [{**labeled[0], "stream": 0}, {**labeled[1], "stream": 0}, {**photographs[0], "stream": 1}]
    batch = DepthCollator(processor)([{**record, "draw_seed": 0} for record in records])
    assert batch["num_labeled"] == 2
    assert batch["sources"] == ["synthetic:rendered:0", "synthetic:rendered:1", "synthetic:bad-weather:100"]
    assert set(DepthCollator(processor)(labeled)) == {"pixel_values", "labels", "label_mask"}  # the stock Trainer's


def test_depth_collator__stock_sized_image_is_normalised_only(processor):
    record = encode_record(Image.new("RGB", CROP[::-1], (255, 0, 128)))
    batch = DepthCollator(processor)([record])
    expected = torch.tensor([255.0, 0.0, 128.0])[:, None, None].expand(3, *CROP)
    torch.testing.assert_close(colors(processor, batch["pixel_values"][0]), expected, rtol=0, atol=1e-3)


def test_depth_collator__flip_probability_out_of_range(processor):
    with pytest.raises(ValueError, match=r"flip_probability is 1\.5"):
        DepthCollator(processor, flip_probability=1.5)


def test_evaluation_collator__images_resized_and_truth_at_its_own_size(processor):
    sizes = [(36, 48), (60, 40)]
    records = [encode_record(np.zeros((*size, 3), np.uint8), np.full(size, 2.0)) for size in sizes]
    batch = EvaluationCollator(processor)(records)
    assert [tuple(values.shape) for values in batch["targets"]] == sizes
    assert [tuple(values.shape[-2:]) for values in batch["pixel_values"]] == [
        processor.input_size(*size) for size in sizes
    ]
    assert batch["spaces"] == ["depth", "depth"]
    assert next(iter(batch)) == "num_in_batch"
    assert len(batch["num_in_batch"]) == 2


def test_evaluation_collator__photograph(photographs):
    with pytest.raises(ValueError, match="synthetic:bad-weather:100 has no depth_map"):
        EvaluationCollator(DepthAnythingImageProcessor())(photographs[:1])
