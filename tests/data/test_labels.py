import numpy as np
import pytest
import torch
from PIL import Image

from depth_anything_hf.data.codes import depth_map_to_image
from depth_anything_hf.data.folder import load_folder
from depth_anything_hf.data.records import decode_record
from depth_anything_hf.maps.geometry import label_from_map


def decode(codes, sky=None, **changes):
    codes = np.array(codes, dtype=np.uint16)
    record = {"image": Image.new("RGB", codes.shape[::-1]), "depth_map": depth_map_to_image(codes)}
    record |= {"depth_scale": 0.5, "depth_offset": 0.0, "space": "depth"} | changes
    if sky is not None:
        record["sky_mask"] = Image.fromarray(np.array(sky, dtype=np.uint8))
    return decode_record(record)


def label(sample, depth_estimation_type):
    sky = None if sample.sky is None else torch.from_numpy(sample.sky)
    values, mask = torch.from_numpy(sample.values), torch.from_numpy(sample.mask)
    return label_from_map(values, mask, sample.space, depth_estimation_type, sky)


def test_a_depth_record_gives_a_relative_model_disparity_and_sky():
    labels, mask = label(decode([[0, 1, 8, 5]], sky=[[0, 0, 0, 255]]), "relative")
    assert labels.dtype == torch.float32
    assert labels.tolist() == [[0.0, 2.0, 0.25, 0.0]]  # depths: none, 0.5, 4, sky
    assert mask.tolist() == [[False, True, True, True]]


def test_a_depth_record_gives_a_metric_model_meters_without_sky():
    labels, mask = label(decode([[0, 1, 8, 5]], sky=[[0, 0, 0, 255]]), "metric")
    assert labels.tolist() == [[0.0, 0.5, 4.0, 0.0]]
    assert mask.tolist() == [[False, True, True, False]]


def test_a_disparity_record_stays_as_it_is_but_under_the_sky():
    labels, mask = label(decode([[0, 1, 8, 5]], sky=[[0, 0, 0, 255]], space="disparity"), "relative")
    assert labels.tolist() == [[0.0, 0.5, 4.0, 0.0]]
    assert mask.tolist() == [[False, True, True, True]]


def test_code_for_disparity_zero_is_a_label():
    labels, mask = label(decode([[0, 1, 3]], space="disparity", depth_offset=-0.5), "relative")
    assert labels.tolist() == [[0.0, 0.0, 1.0]]
    assert mask.tolist() == [[False, True, True]]


def test_the_label_is_the_callers_own():
    sample = decode([[0, 1, 8]], space="disparity")
    labels, mask = label(sample, "relative")
    labels += 1
    mask[:] = True
    assert sample.values.tolist() == [[0.0, 0.5, 4.0]]
    assert sample.mask.tolist() == [[False, True, True]]


def test_a_metric_model_learns_nothing_from_a_disparity_record():
    with pytest.raises(ValueError, match="space is 'disparity' and the model is metric"):
        label(decode([[1, 2]], space="disparity"), "metric")


@pytest.mark.slow
def test_real_data(real_data):
    for row in load_folder(real_data).select(range(0, 52, 4)):
        sample = decode_record(row)
        labels, mask = label(sample, "relative")
        assert torch.isfinite(labels).all()
        assert np.array_equal(mask.numpy(), sample.mask)
