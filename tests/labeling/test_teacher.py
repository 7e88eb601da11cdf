import numpy as np
import pytest
import torch
from PIL import Image

from depth_anything_hf import DepthAnythingImageProcessor
from depth_anything_hf.data.folder import load_folder
from depth_anything_hf.data.records import decode_record
from depth_anything_hf.labeling.teacher import load_teacher, own_resolution, preparation_of
from depth_anything_hf.model.bundled import MINI
from depth_anything_hf.prediction.predictor import load_model, predict_depth, space_of


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "space", "multiple", "aspect"),
    [("dpt", "disparity", 16, 1.0), ("zoedepth", "depth", 16, None), ("glpn", "depth", 32, None)],
)
def test_load_teacher__labels_with_models_of_transformers(
    family, space, multiple, aspect, save_family, label, photos, tmp_path
):
    folder = save_family(family)
    _, preparation, found, _ = load_teacher(folder)
    assert (found, preparation.multiple, preparation.aspect) == (space, multiple, aspect)
    manifest = label(tmp_path / "out", model=folder, resolution=64, limit=4)
    assert (manifest["labeled"], manifest["space"]) == (4, space)
    model, processor = load_model(folder)
    for record in load_folder(tmp_path / "out"):
        sample = decode_record(record)
        assert sample.mask.mean() > 0.5
        picture = Image.open(photos / record["source"]).convert("RGB").resize(sample.values.shape[::-1], 3)
        options = {"do_resize": False, "do_pad": False, "return_tensors": "pt"}
        with torch.no_grad():
            values = model(**processor(picture, **options)).predicted_depth[:, None]
        values = torch.nn.functional.interpolate(values, sample.values.shape, mode="bilinear", align_corners=True)
        np.testing.assert_allclose(
            sample.values[sample.mask], values[0, 0].numpy()[sample.mask], rtol=0.02, atol=values.std().item() / 5
        )


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_load_teacher__weights_in_half_precision(dtype, teacher, label, tmp_path):
    model, processor = load_model(teacher)
    model.to(dtype).save_pretrained(tmp_path / "half")
    processor.save_pretrained(tmp_path / "half")
    label(tmp_path / "out", model=tmp_path / "half", limit=3)
    label(tmp_path / "whole", limit=3)
    for half, whole in zip(load_folder(tmp_path / "out"), load_folder(tmp_path / "whole"), strict=True):
        np.testing.assert_allclose(decode_record(half).values, decode_record(whole).values, atol=0.02)


def test_load_teacher__labels_of_depth_pro_are_disparity(save_family, label, photos, tmp_path):
    """Its processor turns the network's inverse depth into meters; a label is what the network gives."""
    folder = save_family("depth_pro")
    assert load_teacher(folder)[2] == "disparity"
    assert space_of(load_model(folder)[0], folder) == "depth"
    manifest = label(tmp_path / "out", model=folder, resolution=64, limit=2)
    assert (manifest["labeled"], manifest["space"]) == (2, "disparity")


def test_load_teacher__space_that_nobody_tells(save_family):
    with pytest.raises(ValueError, match=r"must be|space"):
        load_teacher(save_family("dpt"), "metres")


def test_preparation_of__reads_mean_and_factor():
    found = preparation_of(DepthAnythingImageProcessor(ensure_multiple_of=8))
    assert (found.multiple, found.aspect) == (8, None)
    squeezing = {"size": {"height": 96, "width": 128}, "keep_aspect_ratio": False}
    assert preparation_of(DepthAnythingImageProcessor(**squeezing)).aspect == pytest.approx(4 / 3)
    assert found.factor == pytest.approx(1 / 255)
    assert found.mean == pytest.approx((0.485, 0.456, 0.406))
    plain = preparation_of(DepthAnythingImageProcessor(do_normalize=False, do_rescale=False))
    assert (plain.factor, plain.mean, plain.std) == (1.0, (0.0,) * 3, (1.0,) * 3)


SQUEEZING = {"size": {"height": 96, "width": 128}, "ensure_multiple_of": 8, "keep_aspect_ratio": False}


@pytest.mark.parametrize(
    ("settings", "resolution"),
    [
        ({}, 518),
        (SQUEEZING, 96),
        (SQUEEZING | {"size": {"height": 128, "width": 96}}, 96),
        ({"size": {"height": 378, "width": 770}}, 378),
        ({"size": {"height": 384, "width": 384}}, 392),  # covered in multiples of 14, as in a prediction
    ],
)
def test_own_resolution__is_the_shorter_side_of_what_the_processor_makes(settings, resolution):
    processor = DepthAnythingImageProcessor(**settings)
    assert own_resolution(processor, preparation_of(processor)) == resolution
    sides = (3 * processor.size[side] for side in ("height", "width"))
    assert min(processor.input_size(*sides)) == resolution  # as in a prediction


def test_own_resolution__of_a_processor_that_takes_images_as_large_as_they_are(save_family):
    processor = load_model(save_family("glpn"))[1]
    assert own_resolution(processor, preparation_of(processor)) == 518


@pytest.mark.slow
def test_label_images__resolution_left_out_is_that_of_a_prediction(label, photos, tmp_path):
    """A squeezed shape and another patch: mini's labels are mini's predictions."""
    manifest = label(tmp_path / "out", model=MINI, resolution=None, limit=3)
    assert manifest["resolution"] == 96
    model, processor = load_model(MINI)
    for record in load_folder(tmp_path / "out"):
        sample = decode_record(record)
        image = Image.open(photos / record["source"]).convert("RGB")
        wanted = predict_depth(model, processor, [image], full_size=False)[0].numpy()
        assert sample.values.shape == wanted.shape == (96, 128)
        np.testing.assert_allclose(sample.values[sample.mask], wanted[sample.mask], atol=0.02 * wanted.max())
