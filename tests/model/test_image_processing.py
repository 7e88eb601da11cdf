import json

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from transformers.modeling_outputs import DepthEstimatorOutput

from depth_anything_hf.maps.resizing import resize_prediction, resized_size
from depth_anything_hf.model.image_processing import DepthAnythingImageProcessor, StockProcessor


def stock_processor(**kwargs):
    settings = {
        "size": {"height": 56, "width": 56},
        "ensure_multiple_of": 14,
        "keep_aspect_ratio": True,
        "image_mean": IMAGENET_DEFAULT_MEAN,
        "image_std": IMAGENET_DEFAULT_STD,
    }
    return StockProcessor(**settings | kwargs)


# --- input sizes


def test_processor__rejects_unknown_method():
    with pytest.raises(ValueError, match="resize_method is 'upper_bound'"):
        DepthAnythingImageProcessor(resize_method="upper_bound")


def test_input_size__takes_overrides(tiny_processor):
    assert tiny_processor.input_size(30, 40) == (56, 70)
    assert tiny_processor.input_size(30, 40, resize_method="minimal") == (42, 56)
    assert tiny_processor.input_size(30, 40, size={"height": 28, "width": 28}) == (28, 42)
    assert tiny_processor.input_size(30, 40, size=28) == (28, 42)
    assert tiny_processor.input_size(30, 40, keep_aspect_ratio=False) == (56, 56)
    assert tiny_processor.input_size(30, 40, ensure_multiple_of=16) == (64, 80)


# --- images


@pytest.mark.parametrize("size", [(60, 80), (81, 57), (33, 200), (60, 20), (56, 56), (300, 40)])
def test_pixel_values__minimal_are_bit_equal_to_stock(noise_image, size):
    image = noise_image(*size)
    ours = DepthAnythingImageProcessor(size={"height": 56, "width": 56}, resize_method="minimal")
    found = ours(image, return_tensors="pt")["pixel_values"]
    assert torch.equal(found, stock_processor()(image, return_tensors="pt")["pixel_values"])


def test_pixel_values__lower_bound_are_stock_at_that_size(noise_image, tiny_processor):
    image = noise_image(60, 80)
    exact = {"size": {"height": 56, "width": 70}, "keep_aspect_ratio": False}
    expected = stock_processor(**exact)(image, return_tensors="pt")["pixel_values"]
    assert torch.equal(tiny_processor(image, return_tensors="pt")["pixel_values"], expected)


def test_pixel_values__of_every_container_are_equal(noise_image, tiny_processor):
    image = noise_image(60, 80)
    array = np.array(image)
    expected = tiny_processor(image, return_tensors="pt")["pixel_values"]
    for given in (
        array,
        torch.from_numpy(array),
        array.transpose(2, 0, 1),
        torch.from_numpy(array).permute(2, 0, 1),
        [array],
        array[None],
        (image,),
    ):
        assert torch.equal(tiny_processor(given, return_tensors="pt")["pixel_values"], expected)


def test_pixel_values__of_a_path(noise_image, tiny_processor, tmp_path):
    noise_image(60, 80).save(tmp_path / "a.png")
    expected = tiny_processor(noise_image(60, 80), return_tensors="pt")["pixel_values"]
    assert torch.equal(tiny_processor(str(tmp_path / "a.png"), return_tensors="pt")["pixel_values"], expected)


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "1", "CMYK"])
def test_pixel_values__of_other_modes_are_those_of_rgb(noise_image, tiny_processor, mode):
    image = noise_image(60, 80).convert(mode)
    if mode in ("LA", "RGBA"):  # the stock pipeline drops alpha as well
        image.putalpha(Image.fromarray(np.random.default_rng(1).integers(0, 256, (60, 80), dtype=np.uint8)))
    found = tiny_processor(image, return_tensors="pt")["pixel_values"]
    assert torch.equal(found, tiny_processor(image.convert("RGB"), return_tensors="pt")["pixel_values"])


def test_pixel_values__of_gray_arrays_are_those_of_rgb(noise_image, tiny_processor):
    gray = noise_image(60, 80).convert("L")
    array = np.array(gray)
    expected = tiny_processor(gray.convert("RGB"), return_tensors="pt")["pixel_values"]
    for given in (array, array[..., None], array[None], torch.from_numpy(array), [array]):
        assert torch.equal(tiny_processor(given, return_tensors="pt")["pixel_values"], expected)


def test_pixel_values__of_rgba_arrays_drop_alpha(noise_image, tiny_processor):
    image = noise_image(60, 80)
    image.putalpha(7)
    expected = tiny_processor(image.convert("RGB"), return_tensors="pt")["pixel_values"]
    array = np.array(image)
    for given in (array, array.transpose(2, 0, 1)):
        assert torch.equal(tiny_processor(given, return_tensors="pt")["pixel_values"], expected)


@pytest.mark.parametrize("size", [(60, 1), (1, 60), (1, 1), (3, 60), (60, 3), (1, 3)])
def test_pixel_values__of_thin_images(noise_image, tiny_processor, size):
    image = noise_image(*size)
    found = tiny_processor(
        image, depth_maps=np.ones(size), space="depth", depth_estimation_type="relative", return_tensors="pt"
    )
    assert found["pixel_values"].shape[-2:] == resized_size(*size, (56, 56))
    assert found["labels"].shape == found["pixel_values"][:, 0].shape
    # An array of such a shape says nothing of where its channels lie; the caller does.
    layout = {"input_data_format": "channels_last"}
    array = tiny_processor(np.array(image), return_tensors="pt", **layout)["pixel_values"]
    assert torch.equal(array, found["pixel_values"])


def test_batch__equals_one_by_one(noise_image, tiny_processor):
    images = [noise_image(60, 80, seed) for seed in range(3)]
    batch = tiny_processor(images, return_tensors="pt")["pixel_values"]
    for row, image in zip(batch, images, strict=True):
        assert torch.equal(row, tiny_processor(image, return_tensors="pt")["pixel_values"][0])


def test_batch__of_several_input_sizes_is_an_error(noise_image, tiny_processor):
    images = [noise_image(60, 80), noise_image(80, 60)]
    with pytest.raises(
        ValueError, match=r"input sizes \[\(56, 70\), \(70, 56\)\]; a batch needs one\. Pass keep_aspect"
    ):
        tiny_processor(images, return_tensors="pt")
    assert tiny_processor(images, keep_aspect_ratio=False, return_tensors="pt")["pixel_values"].shape == (2, 3, 56, 56)
    shapes = [values.shape for values in tiny_processor(images)["pixel_values"]]  # lists may differ in size
    assert shapes == [(3, 56, 70), (3, 70, 56)]


def test_batch__of_nothing_is_an_error(tiny_processor):
    with pytest.raises(ValueError, match="images is empty; pass at least one"):
        tiny_processor([])


def test_batch__as_numpy(noise_image, tiny_processor):
    batch = tiny_processor(
        noise_image(60, 80),
        depth_maps=np.ones((60, 80)),
        space="depth",
        depth_estimation_type="relative",
        return_tensors="np",
    )
    assert batch.pop("target_space") == "disparity"
    assert {name: (type(values), values.dtype) for name, values in batch.items()} == {
        "pixel_values": (np.ndarray, np.float32),
        "labels": (np.ndarray, np.float32),
        "label_mask": (np.ndarray, np.bool_),
    }


def test_do_resize_false__keeps_image_and_map(noise_image, tiny_processor):
    depth = np.random.default_rng(0).uniform(1, 2, (28, 42))
    batch = tiny_processor(
        noise_image(28, 42),
        depth_maps=depth,
        space="disparity",
        depth_estimation_type="relative",
        do_resize=False,
        return_tensors="pt",
    )
    assert batch["pixel_values"].shape == (1, 3, 28, 42)
    assert torch.equal(batch["labels"][0], torch.from_numpy(depth).float())


# --- saving


def test_saved_config__is_the_stock_class_with_keys_it_knows(tiny_processor, tmp_path):
    DepthAnythingImageProcessor(size={"height": 56, "width": 56}, resize_method="minimal").save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "preprocessor_config.json").read_text())
    stock_processor().save_pretrained(tmp_path / "stock")
    stock = json.loads((tmp_path / "stock" / "preprocessor_config.json").read_text())
    assert saved["image_processor_type"] == "DPTImageProcessor"
    assert saved == stock | {"image_processor_type": "DPTImageProcessor"}


def test_saved_config__loads_as_stock_with_equal_pixels(noise_image, tiny_processor, tmp_path):
    tiny_processor.save_pretrained(tmp_path)
    stock = AutoImageProcessor.from_pretrained(tmp_path)
    assert type(stock) is StockProcessor
    image = noise_image(61, 83)
    ours = tiny_processor(image, resize_method="minimal", return_tensors="pt")["pixel_values"]
    assert torch.equal(ours, stock(image, return_tensors="pt")["pixel_values"])


def test_saved_config__reloads_as_ours(noise_image, tmp_path):
    given = DepthAnythingImageProcessor(size={"height": 28, "width": 42}, image_mean=[0.1, 0.2, 0.3])
    given.save_pretrained(tmp_path)
    loaded = DepthAnythingImageProcessor.from_pretrained(tmp_path)
    assert (loaded.to_dict(), loaded.resize_method) == (given.to_dict(), "lower_bound")
    image = noise_image(61, 83)
    for method in ("lower_bound", "minimal"):
        pixels = [p(image, resize_method=method, return_tensors="pt")["pixel_values"] for p in (given, loaded)]
        assert torch.equal(*pixels)
    assert DepthAnythingImageProcessor.from_pretrained(tmp_path, resize_method="minimal").resize_method == "minimal"


def test_defaults__are_depth_anything():
    processor = DepthAnythingImageProcessor()
    assert processor.input_size(240, 320) == (518, 686)
    assert list(processor.image_mean) == [0.485, 0.456, 0.406]
    assert list(processor.image_std) == [0.229, 0.224, 0.225]


# --- depth maps


@pytest.mark.parametrize("size", [(60, 80), (30, 41), (200, 123)])
def test_labels__hold_no_value_that_was_not_there(noise_image, tiny_processor, size):
    generator = np.random.default_rng(0)
    values = generator.choice([0.0, 1.0, 5.0, 40.0, 250.0], size)  # 0 is a hole
    batch = tiny_processor(
        noise_image(*size), depth_maps=values, space="depth", depth_estimation_type="relative", return_tensors="pt"
    )
    labels, mask = batch["labels"], batch["label_mask"]
    assert set(labels[mask].tolist()) <= {float(np.float32(1 / value)) for value in (1.0, 5.0, 40.0, 250.0)}
    assert torch.equal(mask, labels > 0)  # a hole stays one, and nothing beside it becomes one
    assert 0.7 < mask.float().mean() < 0.9  # four fifths have values


def test_labels__masked_out_values_are_never_read(noise_image, tiny_processor):
    values, mask = np.full((60, 80), 2.0), np.ones((60, 80), dtype=bool)
    values[20:40, 30:50], mask[20:40, 30:50] = np.nan, False
    batch = tiny_processor(
        noise_image(60, 80),
        depth_maps=values,
        masks=mask,
        space="depth",
        depth_estimation_type="relative",
        return_tensors="pt",
    )
    assert torch.isfinite(batch["labels"]).all()
    assert torch.equal(batch["labels"], torch.where(batch["label_mask"], 0.5, 0.0))
    assert batch["label_mask"].float().mean().item() == pytest.approx(1 - 400 / 4800, abs=0.02)


@pytest.mark.parametrize("size", [(60, 80), (30, 41), (120, 49), (97, 56)])
@pytest.mark.parametrize("method", ["lower_bound", "minimal"])
def test_labels__lie_where_their_image_does(tiny_processor, size, method):
    gain = 255 // max(size)  # the colour of a pixel is its row and its column, times this
    rows, columns = np.meshgrid(*(np.arange(side) for side in size), indexing="ij")
    image = (np.stack([rows, columns, 0 * rows], axis=-1) * gain).astype(np.uint8)
    for channel, places in enumerate((rows, columns)):
        batch = tiny_processor(
            image,
            depth_maps=places,
            space="disparity",
            depth_estimation_type="relative",
            resize_method=method,
            do_normalize=False,
            do_rescale=False,
            resample=Image.Resampling.BILINEAR,  # keeps a ramp a ramp
            return_tensors="pt",
        )
        distance = batch["pixel_values"][0, channel] / gain - batch["labels"][0]
        inner = distance[3:-3, 3:-3]  # at the border the filter is cut off, which shifts the image
        assert inner.abs().max() <= 0.5 + 0.5 / gain  # half a source pixel, and the rounding to 8 bits
        assert inner.mean().abs() < 0.1


def test_labels__in_the_models_space(noise_image, tiny_processor):
    values = np.full((60, 80), 4.0)
    image = noise_image(60, 80)

    def label(space, kind):
        batch = tiny_processor(image, depth_maps=values, space=space, depth_estimation_type=kind, return_tensors="pt")
        return batch["labels"].unique().tolist()

    assert label("depth", "relative") == [0.25]
    assert label("disparity", "relative") == [4.0]
    assert label("depth", "metric") == [4.0]
    with pytest.raises(ValueError, match="space is 'disparity' and the model is metric"):
        label("disparity", "metric")
    with pytest.raises(ValueError, match="depth_estimation_type is 'absolute'"):
        label("depth", "absolute")


def test_labels__sky_is_disparity_zero_or_no_label(noise_image, tiny_processor):
    values, sky = np.full((60, 80), 2.0), np.zeros((60, 80), dtype=bool)
    values[:30], sky[:30] = 0.0, True
    given = {"depth_maps": values, "space": "depth", "depth_estimation_type": "relative", "return_tensors": "pt"}
    image = noise_image(60, 80)
    relative = tiny_processor(image, sky_masks=sky, **given)
    assert relative["label_mask"].all()
    assert relative["labels"][0, :28].eq(0).all()
    assert relative["labels"][0, 28:].eq(0.5).all()
    metric = tiny_processor(image, sky_masks=sky, **given | {"depth_estimation_type": "metric"})
    assert not metric["label_mask"][0, :28].any()
    assert metric["label_mask"][0, 28:].all()
    without = tiny_processor(image, sky_masks=[None], **given)
    assert not without["label_mask"][0, :28].any()


def test_labels__of_every_container_are_equal(noise_image, tiny_processor):
    values = np.random.default_rng(0).uniform(1, 9, (60, 80)).astype(np.float32)
    mask = values > 2
    image = noise_image(60, 80)
    given = {"space": "depth", "depth_estimation_type": "relative", "return_tensors": "pt"}
    expected = tiny_processor(image, depth_maps=values, masks=mask, **given)
    for depth_maps, masks in (
        ([values], [mask]),
        (values[None], mask[None]),
        (torch.from_numpy(values), torch.from_numpy(mask)),
        ([torch.from_numpy(values)], torch.from_numpy(mask)[None]),
        (Image.fromarray(values), Image.fromarray(mask)),
        ([Image.fromarray(values)], (Image.fromarray(mask),)),
        (values.astype(np.float64), mask.astype(np.uint8)),
    ):
        found = tiny_processor(image, depth_maps=depth_maps, masks=masks, **given)
        assert torch.equal(found["labels"], expected["labels"])
        assert torch.equal(found["label_mask"], expected["label_mask"])


def test_labels__of_16_bit_maps(noise_image, tiny_processor):
    codes = np.full((60, 80), 40000, dtype=np.uint16)
    batch = tiny_processor(
        noise_image(60, 80),
        depth_maps=Image.fromarray(codes),
        space="disparity",
        depth_estimation_type="relative",
        return_tensors="pt",
    )
    assert batch["labels"].unique().tolist() == [40000.0]


def test_labels__of_two_images_keep_their_order(noise_image, tiny_processor):
    maps = [np.full((60, 80), 1.0), np.full((60, 80), 2.0)]
    images = [noise_image(60, 80, seed) for seed in range(2)]
    for given in (maps, np.stack(maps), torch.tensor(np.stack(maps))):
        batch = tiny_processor(
            images, depth_maps=given, space="disparity", depth_estimation_type="relative", return_tensors="pt"
        )
        assert batch["labels"].amax(dim=(1, 2)).tolist() == [1.0, 2.0]
        assert batch["labels"].amin(dim=(1, 2)).tolist() == [1.0, 2.0]


def test_labels__feed_the_model(noise_image, tiny_processor, make_model):
    batch = tiny_processor(
        noise_image(60, 80),
        depth_maps=np.random.default_rng(0).uniform(1, 9, (60, 80)),
        space="depth",
        depth_estimation_type="relative",
        return_tensors="pt",
    )
    assert make_model()(**batch).loss > 0


def test_labels__count_mismatch_is_an_error(noise_image, tiny_processor):
    one, images = np.ones((60, 80)), [noise_image(60, 80)] * 2
    with pytest.raises(ValueError, match=r"1 maps for 2 images; pass one for each image"):
        tiny_processor(images, depth_maps=one, space="depth", depth_estimation_type="relative")
    with pytest.raises(ValueError, match=r"3 maps for 2 images"):
        tiny_processor(
            images, depth_maps=[one] * 2, masks=[one > 0] * 3, space="depth", depth_estimation_type="relative"
        )


def test_labels__none_among_them_is_an_error(noise_image, tiny_processor):
    with pytest.raises(ValueError, match="depth_maps contains None; pass a map for each image"):
        tiny_processor(
            [noise_image(60, 80)] * 2,
            depth_maps=[np.ones((60, 80)), None],
            space="depth",
            depth_estimation_type="relative",
        )


def test_labels__without_space_are_an_error(noise_image, tiny_processor):
    with pytest.raises(ValueError, match=r"depth_maps are passed without space; pass space='depth'"):
        tiny_processor(noise_image(60, 80), depth_maps=np.ones((60, 80)))


@pytest.mark.parametrize("shape", [(80, 60), (60, 80, 1), (1, 60, 80), (30, 40)])
def test_labels__of_another_shape_are_an_error(noise_image, tiny_processor, shape):
    with pytest.raises(ValueError, match=r"has shape .* and its image \(60, 80\); both must be \(height, width\)"):
        tiny_processor(
            noise_image(60, 80), depth_maps=[np.ones(shape)], space="depth", depth_estimation_type="relative"
        )
    with pytest.raises(ValueError, match=r"has shape .* and its image \(60, 80\)"):
        tiny_processor(
            noise_image(60, 80),
            depth_maps=np.ones((60, 80)),
            masks=[np.ones(shape, dtype=bool)],
            space="depth",
            depth_estimation_type="relative",
        )


# --- predictions


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
def test_post_process__gives_each_image_its_size(tiny_processor, mode):
    output = DepthEstimatorOutput(predicted_depth=torch.rand(2, 14, 28))
    sizes = [(9, 40), (1, 1)]
    found = tiny_processor.post_process_depth_estimation(output, sizes, mode)
    for one, depth, size in zip(found, output.predicted_depth, sizes, strict=True):
        assert torch.equal(one["predicted_depth"], resize_prediction(depth[None], size, mode)[0])
        assert one["predicted_depth"].shape == size
    tensors = tiny_processor.post_process_depth_estimation(output, torch.tensor(sizes), mode)
    assert torch.equal(tensors[0]["predicted_depth"], found[0]["predicted_depth"])


def test_post_process__without_sizes_changes_nothing(tiny_processor):
    output = DepthEstimatorOutput(predicted_depth=torch.rand(2, 14, 28))
    found = tiny_processor.post_process_depth_estimation(output)
    assert torch.equal(torch.stack([one["predicted_depth"] for one in found]), output.predicted_depth)


def test_post_process__count_mismatch_is_an_error(tiny_processor):
    output = DepthEstimatorOutput(predicted_depth=torch.rand(2, 14, 28))
    with pytest.raises(ValueError, match="1 target_sizes for 2 predictions; pass one for each"):
        tiny_processor.post_process_depth_estimation(output, [(9, 40)])


def test_round_trip__of_a_map_through_the_input_size(noise_image, tiny_processor):
    """What is labeled and what is predicted lie on the same grid: a perfect prediction scores perfectly."""
    disparity = np.linspace(1, 2, 80, dtype=np.float32)[None].repeat(60, axis=0)
    batch = tiny_processor(
        noise_image(60, 80),
        depth_maps=disparity,
        space="disparity",
        depth_estimation_type="relative",
        return_tensors="pt",
    )
    output = DepthEstimatorOutput(predicted_depth=batch["labels"])
    (found,) = tiny_processor.post_process_depth_estimation(output, [(60, 80)])
    step = 1 / 79
    assert (found["predicted_depth"] - torch.from_numpy(disparity)).abs().max().item() < 1.5 * step
    assert found["predicted_depth"].mean().item() == pytest.approx(1.5, abs=0.1 * step)


DEPTH = np.linspace(1, 5, 60 * 80).reshape(60, 80)


@pytest.mark.parametrize(
    "given",
    [
        DEPTH[..., None],
        DEPTH[None],
        DEPTH[None, ..., None],
        DEPTH.tolist(),
        [DEPTH.tolist()],
        [DEPTH],
        torch.tensor(DEPTH),
        torch.tensor(DEPTH)[..., None],
        DEPTH.astype(np.float16).astype(np.float64).astype(np.float32),
    ],
    ids=[
        "H W 1",
        "1 H W",
        "1 H W 1",
        "lists",
        "list of lists",
        "list",
        "tensor",
        "tensor H W 1",
        "f",
    ],
)
def test_preprocess__one_map_in_many_shapes(tiny_processor, noise_image, given):
    expected, found = (
        tiny_processor(
            noise_image(60, 80), depth_maps=maps, space="depth", depth_estimation_type="metric", return_tensors="pt"
        )
        for maps in (DEPTH, given)
    )
    torch.testing.assert_close(found["labels"], expected["labels"], rtol=1e-3, atol=1e-3)
    assert torch.equal(found["label_mask"], expected["label_mask"])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (np.repeat(DEPTH[..., None], 3, 2), r"has shape \(60, 80, 3\) and its image \(60, 80\).*Take one channel"),
        (DEPTH.T, r"has shape \(80, 60\)"),
        (DEPTH.astype(complex), "dtype complex128; its values must be real numbers"),
        (DEPTH.astype(object), "dtype object"),
        ("depth.png", "dtype <U9"),
        ([DEPTH, DEPTH], "2 maps for 1 images"),
    ],
    ids=["H W 3", "turned", "complex", "object", "name", "two"],
)
def test_preprocess__maps_that_are_refused_with_words(tiny_processor, noise_image, given, message):
    with pytest.raises(ValueError, match=message):
        tiny_processor(noise_image(60, 80), depth_maps=given, space="depth", depth_estimation_type="metric")


# --- what would be dropped, or make NaN


def test_preprocess__segmentation_maps_are_not_dropped_without_a_word():
    image = np.zeros((60, 80, 3), dtype=np.uint8)
    with pytest.raises(ValueError, match="segmentation_maps are not prepared here; pass depth maps as depth_maps"):
        DepthAnythingImageProcessor()(image, segmentation_maps=np.zeros((60, 80)), return_tensors="pt")
    assert "labels" not in DepthAnythingImageProcessor()(image, segmentation_maps=None, return_tensors="pt")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"size": {"shortest_edge": 56}}, r"size is \{'shortest_edge': 56\}; it must be \{'height': pixels"),
        ({"size": {"height": 0, "width": 56}}, "it must be of positive numbers of pixels"),
        ({"image_std": [0.1, 0.0, 0.1]}, "image_std is .* three finite numbers above 0"),
        ({"image_mean": [0.1, 0.2]}, "image_mean is .* three finite numbers"),
        ({"image_mean": [0.1, 0.2, float("inf")]}, "image_mean is .* three finite numbers"),
        ({"rescale_factor": 0}, "rescale_factor is 0"),
        ({"rescale_factor": float("nan")}, "rescale_factor is nan"),
        ({"ensure_multiple_of": 0}, "ensure_multiple_of is 0"),
    ],
)
def test_init__settings_that_make_no_image_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        DepthAnythingImageProcessor(**settings)
