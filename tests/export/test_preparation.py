"""What a stranger predicts from the file alone, with the printed recipe, is what `DepthPredictor` predicts."""

import inspect
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from PIL import Image
from transformers.utils import is_torchvision_available

from depth_anything_hf import DepthAnythingImageProcessor, DepthPredictor
from depth_anything_hf.export.check import LARGEST_SHIFT, prepare_as_said
from depth_anything_hf.export.graph import open_session
from depth_anything_hf.export.onnx import _metadata, export_onnx
from depth_anything_hf.export.preparation import enlarge, prepare
from depth_anything_hf.maps.resizing import resize_prediction

pytestmark = pytest.mark.usefixtures("one_thread")
DOCS = (Path(__file__).parents[2] / "docs" / "export.md").read_text(encoding="utf-8")
SIZES = [(40, 60), (64, 43), (50, 50), (30, 120), (7, 9)]  # width, height
PROCESSORS = {
    "stock": {},
    "squeezes": {"keep_aspect_ratio": False, "size": {"height": 28, "width": 56}},
    "no multiple": {"size": {"height": 50, "width": 50}},
    "lying": {"size": {"height": 28, "width": 70}},
    "bilinear": {"resample": 2},
    "unnormalized": {"do_normalize": False},
    "own colors": {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.5, 0.6, 0.7]},
    "0 to 255": {"do_rescale": False, "do_normalize": False},
    "own factor": {"rescale_factor": 1 / 127.5, "image_mean": [1.0] * 3, "image_std": [1.0] * 3},
}


def noise(size: tuple[int, int], seed: int = 0) -> Image.Image:
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 4, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


def open_identity(metadata: dict[str, str], path: Path):
    """Open a file with these metadata and a graph of one node."""
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("pixel_values", "out")]
    graph = helper.make_graph([helper.make_node("Identity", ["pixel_values"], ["out"])], "one", value[:1], value[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    helper.set_model_props(model, metadata)
    onnx.save(model, path)
    return open_session(path)


@pytest.fixture
def describe(make_model):
    """Function that returns a processor and the metadata of a file that is exported with it."""

    def describe(settings: dict) -> tuple[DepthAnythingImageProcessor, dict[str, str]]:
        processor = DepthAnythingImageProcessor(**({"size": {"height": 56, "width": 56}} | settings))
        return processor, _metadata("mini", DepthPredictor.from_model(make_model(), processor))

    return describe


@pytest.mark.parametrize("settings", PROCESSORS.values(), ids=PROCESSORS)
def test_prepare__makes_the_input_of_the_processor_from_the_metadata_alone(settings, describe):
    processor, metadata = describe(settings)
    for size in SIZES:
        expected = processor(noise(size), return_tensors="np")["pixel_values"]
        found = prepare(noise(size), metadata)
        assert (found.shape, found.dtype) == (expected.shape, np.float32)
        unit = json.loads(metadata["rescale_factor"]) * 255 / min(json.loads(metadata["image_std"]))
        bound = 0.1 * unit if is_torchvision_available() else 1e-6 * unit
        assert np.abs(found - expected).max() <= bound, size


@pytest.mark.parametrize("target", [(60, 40), (1, 1), (57, 71), (3, 200)])
def test_enlarge__is_the_resize_of_the_library(target):
    depth = torch.rand(14, 28, generator=torch.Generator().manual_seed(0))
    expected = resize_prediction(depth[None], target)[0].numpy()
    np.testing.assert_allclose(enlarge(depth.numpy(), target[1], target[0]), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("said", "other"),
    [
        ({"keep_aspect_ratio": "false"}, r"make \(56, 56\) pixels, not \(84, 56\),"),
        ({"size": "[70, 70]"}, r"make \(112, 70\) pixels"),
        ({"multiple": "8"}, r"make \(80, 56\) pixels"),
        ({"image_mean": "[0, 0, 0]"}, "make other colors of an image of 60 x 40"),
        ({"rescale_factor": "1.0"}, "make other colors"),
    ],
)
def test_prepare_as_said__refuses_metadata_that_make_another_input(said, other, describe, tmp_path):
    processor, metadata = describe({})
    assert prepare_as_said(open_identity(metadata, tmp_path / "a.onnx"), processor, noise(SIZES[0])).shape[1] == 3
    with pytest.raises(ValueError, match=other):
        prepare_as_said(open_identity(metadata | said, tmp_path / "b.onnx"), processor, noise(SIZES[0]))


def test_prepare_as_said__refuses_what_the_processor_does_and_the_file_cannot_say(describe, tmp_path):
    for i, settings in enumerate(({"do_resize": False}, {"ensure_multiple_of": 1})):
        processor, metadata = describe(settings)
        with pytest.raises(ValueError, match="the checkpoint's processor does what they do not say"):
            prepare_as_said(open_identity(metadata, tmp_path / f"{i}.onnx"), processor, noise((40, 61)))
    assert LARGEST_SHIFT < 0.05


def test_docs__print_the_recipe_as_it_is():
    for function in (prepare, enlarge):
        assert inspect.getsource(function).rstrip() in DOCS
    for name in ("resample", "keep_aspect_ratio", "resize_method", "rescale_factor", "output_resize", "channels"):
        assert f"`{name}`" in DOCS


@pytest.mark.slow
def test_docs__recipe_predicts_what_mini_predicts(tmp_path):
    """In a process that has neither PyTorch nor transformers nor this package; test_onnx.py has a model that keeps the aspect."""
    export_onnx("mini", tmp_path / "depth.onnx")
    (block,) = (one for one in re.findall(r"^```python\n(.*?)^```", DOCS, re.M | re.S) if "import onnxruntime" in one)
    assert 'Image.open("photo.jpg")' in block
    each = f"for i in range({len(SIZES)}):\n" + "".join(
        f"    {line}\n" for line in block[block.index("image = ") :].replace('"photo.jpg"', 'f"{i}.png"').splitlines()
    )
    blocked = "import sys\nfor name in ('torch', 'transformers', 'depth_anything_hf'):\n    sys.modules[name] = None\n"
    for i, size in enumerate(SIZES):
        noise(size, i).save(tmp_path / f"{i}.png")
    done = subprocess.run(
        [sys.executable, "-c", blocked + block[: block.index("image = ")] + each + "    np.save(f'{i}.npy', depth)\n"],
        cwd=tmp_path,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    predictor = DepthPredictor("mini", device="cpu")
    for i, size in enumerate(SIZES):
        expected = predictor(noise(size, i)).numpy()
        found = np.load(tmp_path / f"{i}.npy")
        assert found.shape == expected.shape == size[::-1]
        bound = 2e-2 if is_torchvision_available() else 1e-3
        assert np.abs(found - expected).max() < bound * np.ptp(expected), size
