from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from depth_anything_hf import DepthAnythingImageProcessor
from depth_anything_hf.augmentation import ColorDraw, ColorRanges, StrongPerturbation
from depth_anything_hf.data.records import decode_record, encode_record
from depth_anything_hf.model.configuration import config_for
from depth_anything_hf.training.batches import BatchReader
from depth_anything_hf.training.collator import DepthCollator, EvaluationCollator

CROP = (32, 40)
RELATIVE, METRIC = config_for("small"), config_for("small", max_depth=80)


def colors(processor, pixel_values):
    """Undo the normalization: (3, height, width) in 0..255."""
    mean, std = (torch.tensor(values)[:, None, None] for values in (processor.image_mean, processor.image_std))
    return (pixel_values * std + mean) * 255


def at_own_size(record):
    """Copy a record with the seed of a draw."""
    return [{**record, "draw_seed": seed, "part": 0} for seed in range(12)]


def test_depth_collator__image_and_label_stay_aligned_under_crop_and_flip(processor, coordinate_record):
    batch = DepthCollator(processor, RELATIVE)(at_own_size(coordinate_record()))
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
    batch = DepthCollator(processor, RELATIVE)(at_own_size(record))
    for pixel_values, mask in zip(batch["pixel_values"], batch["label_mask"], strict=True):
        assert torch.equal(colors(processor, pixel_values)[0] > 128, ~mask)
    assert {bool(mask[0, 0]) for mask in batch["label_mask"]} == {False, True}  # some are mirrored


@pytest.mark.parametrize("size", [(32, 40), (33, 41), (100, 40), (20, 200), (200, 21)])
def test_depth_collator__crop_has_the_processors_size(processor, size):
    record = encode_record(np.zeros((*size, 3), np.uint8), np.random.default_rng(0).random(size) + 1)
    batch = DepthCollator(processor, RELATIVE)([record])
    assert batch["pixel_values"].shape == (1, 3, *CROP)
    assert batch["labels"].shape == batch["label_mask"].shape == (1, *CROP)
    assert batch["labels"].dtype == torch.float32
    assert batch["label_mask"].dtype == torch.bool


def test_depth_collator__sky_is_zero_disparity_and_no_metric_label(processor):
    sky = np.zeros(CROP, bool)
    sky[:8] = True
    values = np.where(sky, 0, np.linspace(2, 20, 40)[None, :].repeat(32, 0))
    record = encode_record(np.zeros((*CROP, 3), np.uint8), values, sky=sky)
    (relative,) = (DepthCollator(processor, RELATIVE, 0.0)([record]),)
    assert relative["labels"][0, :8].abs().max() == 0
    assert relative["label_mask"].all()
    assert (relative["labels"][0, 8:] > 0).all()
    metric = DepthCollator(processor, METRIC, 0.0)([record])
    assert not metric["label_mask"][0, :8].any()
    assert metric["label_mask"][0, 8:].all()
    torch.testing.assert_close(metric["labels"][0, 8:], torch.from_numpy(values[8:]).float(), rtol=1e-3, atol=1e-3)


def test_depth_collator__relative_label_is_one_over_depth(processor):
    depth = np.linspace(2, 20, 40)[None, :].repeat(32, 0)
    record = encode_record(np.zeros((*CROP, 3), np.uint8), depth)
    label = DepthCollator(processor, RELATIVE, 0.0)([record])["labels"][0].double()
    inverse = torch.from_numpy(1 / depth)
    correlation = torch.corrcoef(torch.stack([label.flatten(), inverse.flatten()]))[0, 1]
    assert correlation == pytest.approx(1, abs=1e-6)


def test_depth_collator__photograph_has_an_empty_mask(processor, photographs, labeled):
    batch = DepthCollator(processor, RELATIVE)([photographs[0], labeled[0]])
    assert not batch["label_mask"][0].any()
    assert batch["label_mask"][1].any()
    assert torch.equal(batch["labels"][0], torch.zeros(CROP))


def test_depth_collator__follows_the_draw_seed(processor, labeled):
    collate = DepthCollator(processor, RELATIVE)
    records = [{**record, "part": 0, "draw_seed": 5 + i} for i, record in enumerate(labeled)]
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
    collate = DepthCollator(processor, RELATIVE)
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
    batch = DepthCollator(processor, RELATIVE, flip_probability=probability)(records)
    left = batch["pixel_values"][:, 0, :, :20].mean(dim=(1, 2)) > batch["pixel_values"][:, 0, :, 20:].mean(dim=(1, 2))
    assert left.tolist() == [probability == 0.0] * 8


def test_depth_collator__two_streams_count_and_name(processor, labeled, photographs):
    records = [{**labeled[0], "part": 0}, {**labeled[1], "part": 0}, {**photographs[0], "part": 1}]
    batch = DepthCollator(processor, RELATIVE)([{**record, "draw_seed": 0} for record in records])
    assert batch["num_labeled"] == 2
    assert batch["sources"] == ["synthetic:rendered:0", "synthetic:rendered:1", "synthetic:bad-weather:100"]
    stock = DepthCollator(processor, RELATIVE)(labeled)
    assert set(stock) == {"pixel_values", "labels", "label_mask", "target_space"}  # what the model takes


def test_depth_collator__draws_the_students_view_of_unlabeled_images_alone(processor, labeled, photographs):
    collate = DepthCollator(processor, RELATIVE, perturbation=StrongPerturbation(), cutmix_probability=1.0)
    drawn = [
        {**record, "part": part, "draw_seed": seed}
        for record, part, seed in ((labeled[0], 0, 1), (photographs[3], 1, 2), (photographs[4], 1, 3))
    ]
    view = collate(drawn)["view"]
    assert set(view) == {"boxes", *ColorDraw._fields}
    assert view["boxes"].shape == (2, *collate.crop)
    # What an image gets follows its own seed, whoever is beside it.
    alone = [collate([record])["view"] for record in drawn[1:]]
    assert {name: torch.equal(torch.cat([one[name] for one in alone]), view[name]) for name in view} == dict.fromkeys(
        view, True
    )
    assert not torch.equal(view["factors"][0], view["factors"][1])
    assert set(DepthCollator(processor, RELATIVE)(drawn)["view"]) == {"boxes"}
    assert "view" not in collate(drawn[:1])


def test_depth_collator__stock_sized_image_is_normalized_only(processor):
    record = encode_record(Image.new("RGB", CROP[::-1], (255, 0, 128)))
    batch = DepthCollator(processor, RELATIVE)([record])
    expected = torch.tensor([255.0, 0.0, 128.0])[:, None, None].expand(3, *CROP)
    torch.testing.assert_close(colors(processor, batch["pixel_values"][0]), expected, rtol=0, atol=1e-3)


def test_depth_collator__flip_probability_out_of_range(processor):
    with pytest.raises(ValueError, match=r"flip_probability is 1\.5"):
        DepthCollator(processor, RELATIVE, flip_probability=1.5)


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


def ramp(height, width, depth=8.0):
    """An image whose red grows by 6 a column and green by 6 a row, at one depth."""
    image = np.zeros((height, width, 3), np.uint8)
    image[..., 0] = 6 * np.arange(width).clip(max=40)
    image[..., 1] = 6 * np.arange(height).clip(max=40)[:, None]
    return encode_record(image, np.full((height, width), depth))


@pytest.mark.parametrize("kind", ["metric", "relative"])
def test_depth_collator__zoom_divides_meters_by_what_the_image_shows(processor, kind):
    """A color rises by 6 a pixel at its own size, 6 / s enlarged by s; what looks s times larger is at depth / s.

    The two sides differ a little, being rounded to patches; the factor is their geometric mean.
    """
    collate = DepthCollator(processor, METRIC if kind == "metric" else RELATIVE, flip_probability=0.0, zoom=2.5)
    batch = collate([{**ramp(*CROP), "draw_seed": seed, "part": 0} for seed in range(10)])
    factors = []
    for pixel_values, label in zip(batch["pixel_values"], batch["labels"], strict=True):
        red, green, _ = colors(processor, pixel_values)
        across, down = (red[:, 30] - red[:, 10]).mean() / 20, (green[24] - green[8]).mean() / 16
        factor = 6 / (across * down).sqrt().item()
        factors.append(factor)
        expected = 8.0 / factor if kind == "metric" else 1 / 8
        assert label.min() == label.max()
        assert label[0, 0].item() == pytest.approx(expected, rel=0.01 if kind == "metric" else 1e-3)
    assert 1 <= min(factors) + 0.03 < 1.5
    assert 2 < max(factors) < 2.7


def test_depth_collator__without_zoom_meters_stay(processor):
    batch = DepthCollator(processor, METRIC)([{**ramp(2 * CROP[0], 2 * CROP[1]), "draw_seed": 0, "part": 0}])
    assert batch["labels"].unique().tolist() == [8.0]
    with pytest.raises(ValueError, match=r"zoom is 0\.5"):
        DepthCollator(processor, RELATIVE, zoom=0.5)


def test_depth_collator__colors_change_by_the_draw_and_labels_do_not(processor, labeled):
    records = [{**record, "draw_seed": 3, "part": 0} for record in labeled]
    plain = DepthCollator(processor, RELATIVE)(records)
    ranges = ColorRanges(brightness=(0.5, 0.5), gamma=(1, 1), color=(1, 1), probability=1.0)
    dark = DepthCollator(processor, RELATIVE, color_ranges=ranges)(records)
    assert dark["pixel_values"].shape == plain["pixel_values"].shape
    mean, std = (torch.tensor(values)[:, None, None] for values in (processor.image_mean, processor.image_std))
    again = DepthCollator(processor, RELATIVE, color_ranges=ranges)(records)
    assert torch.equal(again["pixel_values"], dark["pixel_values"])
    assert (dark["pixel_values"] * std + mean).max() <= 0.5 + 1e-6


def test_depth_collator__takes_the_samples_of_a_reader(processor, labeled):
    samples = [decode_record(record) for record in labeled]
    torch.manual_seed(0)
    found = DepthCollator(processor, RELATIVE)(samples)
    torch.manual_seed(0)
    expected = DepthCollator(processor, RELATIVE)(labeled)
    assert found.pop("target_space") == expected.pop("target_space") == "disparity"
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    reader = BatchReader(samples, None, (len(samples), 0))
    batch = next(iter(reader.loader(DepthCollator(processor, RELATIVE))))
    assert batch["num_labeled"] == len(samples)
    assert sorted(batch["sources"]) == [sample.source for sample in samples]


@pytest.mark.parametrize(("kind", "space"), [("relative", "disparity"), ("metric", "depth")])
def test_depth_collator__space_of_the_labels_is_the_models(processor, labeled, kind, space):
    config = METRIC if kind == "metric" else RELATIVE
    model = SimpleNamespace(config=config)
    for given in (config, model):
        batch = DepthCollator(processor, given, 0.0)([ramp(*CROP, depth=8.0)])
        assert batch["target_space"] == space
        assert batch["labels"].unique().tolist() == [8.0 if kind == "metric" else 0.125]


@pytest.mark.parametrize("given", ["relative", "metric", None, object(), SimpleNamespace(config=None)])
def test_depth_collator__needs_to_know_the_model(processor, given):
    with pytest.raises(TypeError, match=r"pass the model that learns.*DepthCollator\(processor, model\)"):
        DepthCollator(processor, given)
    with pytest.raises(TypeError, match="model"):
        DepthCollator(processor)


# --- a sensor's map has fewer pixels than the photograph


def sensor_record(map_size=(16, 20), factor=8):
    """A photograph of stripes two pixels wide, with a small map whose values name their row and column."""
    height, width = map_size[0] * factor, map_size[1] * factor
    stripes = np.zeros((height, width, 3), np.uint8)
    stripes[:, np.arange(width) // 2 % 2 == 1] = 255
    rows, columns = np.indices(map_size)
    return encode_record(stripes, 1.0 + 100 * rows + columns, space="disparity", sensor_map=True)


def test_depth_collator__photograph_keeps_its_detail_beside_a_sensors_map():
    # The crop has the photograph's own size: stripes of two pixels live only if nobody shrank it to the map.
    processor = DepthAnythingImageProcessor(size={"height": 128, "width": 160}, ensure_multiple_of=4)
    batch = DepthCollator(processor, RELATIVE, flip_probability=0.0)([sensor_record()])
    red = colors(processor, batch["pixel_values"][0])[0]
    spectrum = torch.fft.rfft(red - red.mean(), dim=1).abs().mean(0)
    assert spectrum.argmax() == 160 // 4  # one period is 4 pixels
    assert red.std() > 120
    label = batch["labels"][0]
    assert batch["label_mask"].all()
    # nearest neighbor, straight from the map's own pixels: each is a block of 8 x 8
    assert torch.equal(
        label.round(), (1.0 + 100 * (torch.arange(128) // 8)[:, None] + (torch.arange(160) // 8)[None]).float()
    )


def test_depth_collator__sensors_map_stays_aligned_under_crop_and_flip(processor):
    height, width = 96, 128
    rows, columns = np.indices((height, width))
    image = np.stack([2 * columns, 2 * rows, 0 * rows], axis=-1).astype(np.uint8)
    rows, columns = np.indices((24, 32))
    record = encode_record(image, 1.0 + 100 * rows + columns, space="disparity", sensor_map=True)
    batch = DepthCollator(processor, RELATIVE)(at_own_size(record))
    for pixel_values, label in zip(batch["pixel_values"], batch["labels"], strict=True):
        place = (label - 1).round()
        row, column = place.div(100, rounding_mode="floor"), place % 100
        red, green, _ = colors(processor, pixel_values) / 2
        assert (red - 4 * column - 1.5).abs().max() < 4.5  # within the map's pixel, 4 of the photograph
        assert (green - 4 * row - 1.5).abs().max() < 4.5


def test_evaluation_collator__scores_at_the_sensors_pixels(processor):
    batch = EvaluationCollator(processor)([sensor_record()])
    assert batch["targets"][0].shape == (16, 20)
    assert batch["pixel_values"][0].shape[-2:] == (32, 40)


@pytest.mark.parametrize("kind", ["relative", "metric"])
def test_evaluate__scores_a_sensors_map_at_its_own_pixels(processor, kind):
    from depth_anything_hf.evaluation.compare import score_sample
    from depth_anything_hf.evaluation.protocols import PROTOCOLS, Protocol

    depth = np.linspace(1, 5, 16 * 20).reshape(16, 20)
    sample = decode_record(encode_record(np.zeros((128, 160, 3), np.uint8), depth, sensor_map=True))
    at_map = torch.from_numpy(depth).float()
    protocol = next(one for one in PROTOCOLS.values() if one.dataset == "folder")
    assert isinstance(protocol, Protocol)
    scores = score_sample(at_map if kind == "metric" else 3 / at_map, sample, protocol, kind == "metric")
    assert scores[0] == pytest.approx(0, abs=1e-4)
