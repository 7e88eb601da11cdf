from types import SimpleNamespace

import pytest
import torch
from torch import nn

from depth_anything_hf.labeling.arguments import LabelingArguments, Settings
from depth_anything_hf.labeling.sources import ImageSource
from depth_anything_hf.labeling.teacher import Preparation

PREPARATION = Preparation(14, False, 1 / 255, (0.5,) * 3, (0.25,) * 3)


def resolve(device="cpu", parts=("photographs",), whole_files=False, own=518, **given):
    args = LabelingArguments("teacher", "photos", "out", **given)
    source = ImageSource("photos", None, None, "image", tuple(parts), whole_files)
    model = nn.Linear(2, 3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(1.0)
    model.config = SimpleNamespace()
    return Settings.resolve(args, source, model, PREPARATION, "disparity", own, device)


@pytest.mark.parametrize(("device", "expected"), [("cpu", ("float32", False, 1)), ("cuda", ("bfloat16", True, 32))])
def test_resolve__defaults_of_the_device(device, expected):
    settings = resolve(device)
    assert (settings.dtype, settings.compiled, settings.batch_size) == expected
    settings = resolve(device, dtype="float16", compiled=device == "cpu", batch_size=3)
    assert (settings.dtype, settings.compiled, settings.batch_size) == ("float16", device == "cpu", 3)


@pytest.mark.parametrize(("given", "expected"), [({}, 392), ({"resolution": 56}, 56)])
def test_resolve__resolution_is_the_teachers_own_unless_given(given, expected):
    assert resolve(own=392, **given).resolution == expected


def test_check_same__a_resolution_left_out_is_the_one_it_stands_for(tmp_path):
    begun = resolve(own=56, resolution=518).as_json()
    resolve(own=518).check_same(begun, tmp_path)
    with pytest.raises(ValueError, match=r"\(resolution: 518 then, 56 now\); use those to continue"):
        resolve(own=56).check_same(begun, tmp_path)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"resolution": 520}, "resolution is 520; it must be a multiple of the patch size 14, such as 518"),
        ({"resolution": 3}, "such as 14"),
        ({"keep_image": "reference", "whole_files": True}, "are inside files; choose 'original' or 'resized'"),
    ],
)
def test_resolve__refuses(given, message):
    with pytest.raises(ValueError, match=message):
        resolve(**given)


def test_check_same__accepts_itself_and_names_each_difference(tmp_path):
    begun = resolve().as_json()
    resolve().check_same(begun, tmp_path)
    with pytest.raises(
        ValueError, match=r"\(batch_size: 1 then, 4 now; shard_size: 512 then, 8 now\); use those to continue"
    ):
        resolve(batch_size=4, shard_size=8).check_same(begun, tmp_path)


def test_check_same__settings_of_an_older_version(tmp_path):
    begun = resolve().as_json()
    del begun["compiled"]
    with pytest.raises(ValueError, match="compiled: None then, False now"):
        resolve().check_same(begun, tmp_path)


def test_check_same__thousands_of_parts_do_not_bury_the_message(tmp_path):
    begun = resolve(parts=[f"{i:05d}.tar" for i in range(5000)]).as_json()
    with pytest.raises(ValueError, match=r"parts: 5000 from '00000.tar' to '04999.tar' then, 5001 from") as refusal:
        resolve(parts=[f"{i:05d}.tar" for i in range(5001)]).check_same(begun, tmp_path)
    assert len(str(refusal.value)) < 400
