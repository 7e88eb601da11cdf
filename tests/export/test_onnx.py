import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import torch
from PIL import Image
from transformers import Dinov2Config
from transformers.utils import is_torchvision_available

from depth_anything_hf import (
    DepthAnythingForDepthEstimation,
    DepthAnythingImageProcessor,
    __version__,
    config_for_encoder,
)
from depth_anything_hf.cli.main import main
from depth_anything_hf.data.folder import load_folder, write_image_folder
from depth_anything_hf.data.records import encode_record
from depth_anything_hf.evaluation.compare import score_dataset
from depth_anything_hf.export import graph
from depth_anything_hf.export import onnx as exporting
from depth_anything_hf.export.check import (
    ASPECT_RATIOS,
    compare_with_pytorch,
    crop_to_ratio,
    predict_onnx,
    relative_errors,
)
from depth_anything_hf.export.graph import open_session, write_int8
from depth_anything_hf.export.onnx import LARGEST_ERROR, export_onnx
from depth_anything_hf.prediction.predictor import load_model, predict_depth
from depth_anything_hf.prediction.weights import model_revision
from depth_anything_hf.scenes.simple import iter_synthetic_records

pytestmark = pytest.mark.usefixtures("one_thread")
DOCS = Path(__file__).parents[2] / "docs" / "export.md"


def save_model(folder: Path, version: str = "v2", max_depth: float | None = None, seed: int = 0) -> Path:
    """Save a tiny model, for images of 56 x 56, with its processor."""
    torch.manual_seed(seed)
    encoder = Dinov2Config(image_size=56, hidden_size=32, num_hidden_layers=4, num_attention_heads=2)
    DepthAnythingForDepthEstimation(config_for_encoder(encoder, version, max_depth)).save_pretrained(folder)
    DepthAnythingImageProcessor(size={"height": 56, "width": 56}).save_pretrained(folder)
    return folder


def save_adapter(base: Path, folder: Path) -> Path:
    """Save a LoRA adapter of a model, moved as training would move it."""
    from peft import get_peft_model

    from depth_anything_hf.prediction.adapters import depth_lora_config

    adapted = get_peft_model(load_model(str(base))[0], depth_lora_config(rank=2))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    adapted.save_pretrained(folder)
    return folder


def export(name: Path, out: Path, dtype: str) -> SimpleNamespace:
    """Export a model; with it, what tests ask of it."""
    report = export_onnx(str(name), out, dtype)
    model, processor = load_model(str(name))
    return SimpleNamespace(
        name=name, path=out, report=report, model=model, processor=processor, session=open_session(out)
    )


@pytest.fixture(scope="module")
def relative(tmp_path_factory, trace_once):
    """A relative V2 model, and its file in float32."""
    folder = tmp_path_factory.mktemp("relative")
    with trace_once():
        return export(save_model(folder / "student"), folder / "new" / "depth.onnx", "float32")


@pytest.fixture(scope="module")
def metric(tmp_path_factory):
    """A LoRA adapter of a metric V1 model, and its file in float16, with the weights beside it."""
    folder = tmp_path_factory.mktemp("metric")
    adapter = save_adapter(save_model(folder / "base", "v1", 80.0), folder / "adapter")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(graph, "LARGEST_FILE", 1000)
        return export(adapter, folder / "rooms.onnx", "float16")


@pytest.fixture
def no_tracing(relative, monkeypatch):
    """Take the graph of the relative model, whatever model is exported: the exporter makes a mistake, and fast."""
    monkeypatch.setattr(exporting, "write_graph", lambda model, path, half=False: shutil.copy(relative.path, path))


@pytest.fixture
def photos(tmp_path):
    """Twenty images in two folders."""
    for i, scene in enumerate(iter_synthetic_records(20, 60, 80)):
        path = tmp_path / "photos" / ("deep" if i % 2 else "flat") / f"{i:02d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        scene["image"].save(path)
    return tmp_path / "photos"


def run(session, pixels: torch.Tensor) -> np.ndarray:
    return session.run(["predicted_depth"], {"pixel_values": pixels.numpy()})[0]


def properties(path: Path) -> dict[str, str]:
    return {entry.key: entry.value for entry in onnx.load(path, load_external_data=False).metadata_props}


# The example that is traced is 2 x 70 x 98; 56 x 56 is the grid of the position embeddings, and 28 x 112 has as many patches.
SIZES = [(1, 56, 56), (3, 56, 56), (2, 70, 98), (1, 98, 70), (1, 28, 112), (3, 56, 70), (1, 154, 84), (1, 28, 14)]


@pytest.mark.slow
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("kind", "bound"), [("relative", 2e-5), ("metric", 5e-3)])
def test_file__computes_what_pytorch_computes_at_any_size(kind, bound, size, request):
    exported = request.getfixturevalue(kind)
    pixels = torch.randn(size[0], 3, *size[1:], generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = exported.model(pixels).predicted_depth.numpy()
    found = run(exported.session, pixels)
    assert found.dtype == np.float32
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() < bound * np.ptp(expected)


@pytest.mark.slow
def test_file__of_an_adapter_is_that_of_the_merged_model(metric):
    pixels = torch.randn(1, 3, 56, 70, generator=torch.Generator().manual_seed(0))
    base, _ = load_model(str(metric.name.parent / "base"))
    with torch.no_grad():
        merged, unmerged = (model(pixels).predicted_depth.numpy() for model in (metric.model, base))
    assert np.abs(run(metric.session, pixels) - merged).max() < 0.1 * np.abs(unmerged - merged).max()


@pytest.mark.slow
def test_file__is_half_as_large_in_float16(relative, metric):
    for exported, kind, size in ((relative, onnx.TensorProto.FLOAT, 4), (metric, onnx.TensorProto.FLOAT16, 2)):
        weights = sum(parameter.numel() for parameter in exported.model.parameters())
        tensors = onnx.load(exported.path).graph.initializer
        kept = sum(int(np.prod(tensor.dims)) for tensor in tensors if tensor.data_type == kind)
        assert kept > 0.95 * weights  # a few take no part, and equal ones are kept once
        assert size * weights < exported.report.size < 1.5 * size * weights
    assert relative.report.size == relative.path.stat().st_size


@pytest.mark.slow
def test_file__has_free_sides_and_the_names_of_the_ecosystem(relative):
    model = onnx.load(relative.path)
    onnx.checker.check_model(model, full_check=True)
    dims = {
        value.name: [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*model.graph.input, *model.graph.output)
    }
    assert dims == {
        "pixel_values": ["batch", 3, "14*patch_rows", "14*patch_columns"],
        "predicted_depth": ["batch", "14*patch_rows", "14*patch_columns"],
    }
    assert [(one.domain, one.version) for one in model.opset_import] == [("", 18)]


@pytest.mark.slow
def test_file__large_weights_lie_beside_it_and_move_with_it(metric, tmp_path):
    files = sorted(metric.path.parent.glob("rooms*"))
    assert [file.name for file in files] == ["rooms.onnx", "rooms.onnx.data"]
    assert metric.report.size == sum(file.stat().st_size for file in files)
    for file in files:
        shutil.copy(file, tmp_path)
    pixels = torch.zeros(1, 3, 28, 28)
    np.testing.assert_array_equal(run(open_session(tmp_path / "rooms.onnx"), pixels), run(metric.session, pixels))


@pytest.mark.slow
def test_file__says_what_it_is(relative, metric):
    found = properties(relative.path)
    assert found["model"] == "student"
    assert found["revision"] == model_revision(str(relative.name), relative.model)
    assert found["library"] == f"depth_anything_hf {__version__}"
    assert (found["dtype"], found["depth_estimation_type"], found["space"]) == ("float32", "relative", "disparity")
    values = {name: json.loads(found[name]) for name in ("max_depth", "multiple", "size", "image_mean", "image_std")}
    assert values == {
        "max_depth": None,
        "multiple": 14,
        "size": [56, 56],
        "image_mean": [0.485, 0.456, 0.406],
        "image_std": [0.229, 0.224, 0.225],
    }
    assert json.loads(found["checked"]) == {"photographs": False, "images": 2} | relative.report.summary()
    found = properties(metric.path)
    assert (found["depth_estimation_type"], found["space"], found["max_depth"]) == ("metric", "depth", "80")


@pytest.mark.slow
def test_file__holds_no_path_of_this_machine(relative):
    content = relative.path.read_bytes()
    for private in (relative.name.parent, sys.prefix, "site-packages", ".py", "Traceback"):
        assert str(private).encode() not in content
    assert [file.name for file in relative.path.parent.iterdir()] == ["depth.onnx"]  # nothing else is left


@pytest.mark.slow
def test_docs__example_runs_without_pytorch(relative, tmp_path, noise_image):
    (block,) = (
        one
        for one in re.findall(r"^```python\n(.*?)^```", DOCS.read_text(), re.M | re.S)
        if "import onnxruntime" in one
    )
    shutil.copy(relative.path, tmp_path / "depth.onnx")
    noise_image(60, 80).resize((320, 240)).save(tmp_path / "photo.jpg")
    blocked = "import sys\nfor name in ('torch', 'transformers', 'depth_anything_hf'):\n    sys.modules[name] = None\n"
    kept = "\nnp.save('found.npy', depth)\nnp.save('pixels.npy', pixels)\n"
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", blocked + block + kept], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    model, processor = relative.model, relative.processor
    image = Image.open(tmp_path / "photo.jpg")
    pixels = processor(image, return_tensors="np")["pixel_values"]
    found = np.load(tmp_path / "pixels.npy")
    assert found.shape == pixels.shape
    assert np.abs(found - pixels).max() < 0.1  # torchvision and Pillow round the resized photograph differently
    expected = predict_depth(model, processor, [image])[0].numpy()
    depth = np.load(tmp_path / "found.npy")
    assert depth.shape == expected.shape
    assert np.corrcoef(depth.flatten(), expected.flatten())[0, 1] > 0.95
    assert np.abs(depth - expected).max() < (2e-2 if is_torchvision_available() else 1e-3) * np.ptp(expected)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["relative", "metric"])
def test_compare_with_pytorch__numbers_are_those_of_numpy(kind, request):
    exported = request.getfixturevalue(kind)
    model, processor = exported.model, exported.processor
    scene = next(iter_synthetic_records(1, 60, 80))["image"]
    rows = compare_with_pytorch(model, processor, exported.session, {"a": scene})
    assert [(row.aspect_ratio, row.height, row.width) for row in rows] == [
        ("4:3", 56, 70), ("3:4", 70, 56), ("16:9", 56, 98), ("1:1", 56, 56),
    ]  # fmt: skip
    for row in rows:
        pixels = processor(crop_to_ratio(scene, *ASPECT_RATIOS[row.aspect_ratio]), return_tensors="pt")["pixel_values"]
        if row.aspect_ratio == "1:1":
            pixels = torch.cat([pixels, pixels.flip(-1)])
        with torch.no_grad():
            expected = model(pixels).predicted_depth.numpy()
        found = run(exported.session, pixels)
        error = np.abs(found - expected)
        spread = expected.max((1, 2)) - expected.min((1, 2))
        assert row.image == "a"
        assert row.difference == pytest.approx(error.max(), rel=1e-3)
        assert row.max_error == pytest.approx((error.max((1, 2)) / spread).max(), rel=1e-3)
        assert row.mean_error == pytest.approx((error.mean((1, 2)) / spread).mean(), rel=1e-3)
        if kind == "metric":
            assert row.abs_rel == pytest.approx((error / expected).mean(), rel=1e-3)
        assert 0 <= row.abs_rel < 1e-3
        assert row.delta1 == 1.0


@pytest.mark.slow
def test_predict_onnx__is_predict_depth_without_pytorch(relative, noise_image):
    images = [noise_image(60, 80), noise_image(101, 45)]
    found = predict_onnx(relative.session, relative.processor, images)
    for one, other in zip(found, predict_depth(relative.model, relative.processor, images), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_compare_with_pytorch__real_photographs(relative, real_data):
    photographs, _ = exporting._open_photographs(real_data / "unlabeled" / "images")
    assert len(photographs) == 8
    assert len({image.size for image in photographs.values()}) > 1
    rows = compare_with_pytorch(relative.model, relative.processor, relative.session, photographs)
    assert len(rows) == 8 * 4
    assert max(row.max_error for row in rows) < 1e-4 < LARGEST_ERROR["float32"]


@pytest.mark.parametrize(("scale", "shift"), [(1.0, 0.0), (1000.0, 0.0), (1e-3, 5.0)])
def test_relative_errors__do_not_depend_on_scale_and_shift(scale, shift):
    expected = torch.tensor([[0.0, 2.0, 4.0, 1.0]], dtype=torch.float64)
    found = torch.tensor([[0.0, 2.0, 5.0, 1.5]], dtype=torch.float64)
    errors = relative_errors(scale * found + shift, scale * expected + shift)
    assert errors == pytest.approx((0.25, 0.09375), rel=1e-6)


@pytest.mark.parametrize(
    ("found", "expected", "message"),
    [
        ([[1.0, 2.0]], [[1.0], [2.0]], r"predicts \(1, 2\) and PyTorch \(2, 1\): a size was written into"),
        ([[1.0, float("nan")]], [[1.0, 2.0]], "the ONNX file predicts 1 of 2 values as NaN"),
        ([[1.0, 2.0]], [[float("inf"), float("nan")]], "PyTorch predicts 2 of 2 values"),
        ([[1.0, 2.0]], [[3.0, 3.0]], "PyTorch predicts 3 everywhere"),
    ],
)
def test_relative_errors__refuses_what_cannot_be_compared(found, expected, message):
    with pytest.raises(ValueError, match=message):
        relative_errors(torch.tensor(found), torch.tensor(expected))


@pytest.mark.parametrize(
    ("size", "ratio", "expected"),
    [((9, 9), (16, 9), (9, 5)), ((100, 30), (3, 4), (22, 30)), ((1, 1), (16, 9), (1, 1))],
)
def test_crop_to_ratio__is_the_largest_in_the_middle(size, ratio, expected):
    image = Image.fromarray(np.arange(size[0] * size[1], dtype=np.uint16).reshape(size[::-1]).astype(np.int32))
    cut = crop_to_ratio(image, *ratio)
    assert cut.size == expected
    left, top = (size[0] - expected[0]) // 2, (size[1] - expected[1]) // 2
    np.testing.assert_array_equal(cut, np.asarray(image)[top : top + expected[1], left : left + expected[0]])


@pytest.mark.usefixtures("no_tracing")
class TestExportOnnx:
    """What happens around the graph, with one that is there already."""

    @pytest.mark.slow
    @pytest.mark.parametrize(("dtype", "advice"), [("float32", "Report this"), ("float16", "Export as float32")])
    def test_wrong_graph_is_refused_and_leaves_nothing(self, dtype, advice, tmp_path):
        other = save_model(tmp_path / "other", seed=1)
        with pytest.raises(ValueError, match=rf"other in {dtype} is off by .* no file was written. {advice}"):
            export_onnx(str(other), tmp_path / "out" / "depth.onnx", dtype)
        assert list((tmp_path / "out").iterdir()) == []

    @pytest.mark.slow
    def test_dead_model_is_refused(self, tmp_path):
        model = DepthAnythingForDepthEstimation.from_pretrained(save_model(tmp_path / "dead"))
        with torch.no_grad():
            model.head.conv3.bias.fill_(-100.0)
        model.save_pretrained(tmp_path / "dead")
        with pytest.raises(ValueError, match="PyTorch predicts 0 everywhere"):
            export_onnx(str(tmp_path / "dead"), tmp_path / "depth.onnx")
        assert not (tmp_path / "depth.onnx").exists()

    @pytest.mark.slow
    def test_int8_comes_with_what_it_loses(self, relative, photos, tmp_path):
        report = export_onnx(str(relative.name), tmp_path / "int8.onnx", "int8", photos)
        kinds = [node.op_type for node in onnx.load(tmp_path / "int8.onnx").graph.node]
        assert kinds.count("MatMulInteger") == 6 * 4  # four attention and two feed-forward layers a block
        assert "ConvInteger" not in kinds
        summary = report.summary()
        assert 1e-6 < summary["mean_error"] < summary["max_error"] < 0.1
        assert summary["abs_rel"] > 0
        found = properties(tmp_path / "int8.onnx")
        assert found["dtype"] == "int8"
        assert json.loads(found["checked"]) == {"photographs": True, "images": 7} | summary
        for name in ("4:3", "3:4", "16:9", "1:1"):
            assert f"| {name} | " in report.table()

    @pytest.mark.slow
    def test_int8_loss_is_that_of_the_file(self, relative, tmp_path, monkeypatch):
        def worse(source, path):
            write_int8(source, path)
            model = onnx.load(path)
            (bias,) = (tensor for tensor in model.graph.initializer if "conv3.bias" in tensor.name)
            bias.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(bias) * 1.05, bias.name))
            onnx.save(model, path)

        monkeypatch.setattr(exporting, "write_int8", worse)
        summary = export_onnx(str(relative.name), tmp_path / "int8.onnx", "int8").summary()
        bias = relative.model.head.conv3.bias.item()
        assert summary["difference"] == pytest.approx(0.05 * bias, rel=0.05)

    @pytest.mark.slow
    def test_labeled_images_are_scored_with_both(self, relative, photos, tmp_path):
        scenes = iter_synthetic_records(3, 60, 80, seed=5)
        records = [encode_record(one["image"], one["depth"], mask=one["depth"] > 0) for one in scenes]
        write_image_folder(records, tmp_path / "labelled")
        report = export_onnx(str(relative.name), tmp_path / "a.onnx", "int8", photos, tmp_path / "labelled")
        model, processor = relative.model, relative.processor
        expected = score_dataset(
            lambda images: predict_depth(model, processor, images), load_folder(tmp_path / "labelled")
        )
        ours, theirs = report.labeled["PyTorch float32"], report.labeled["ONNX int8"]
        assert ours == {name: expected.summary()[name] for name in ("abs_rel", "delta1", "images")}
        assert theirs["abs_rel"] == pytest.approx(ours["abs_rel"], rel=0.01)
        assert theirs["abs_rel"] != ours["abs_rel"]
        assert f"| ONNX int8 | {theirs['abs_rel']:.4f} | {theirs['delta1']:.4f} | 3 |" in report.table()
        assert json.loads(properties(tmp_path / "a.onnx")["labeled"]) == report.labeled

    @pytest.mark.slow
    def test_photographs_are_spread_over_those_given(self, relative, photos, tmp_path):
        report = export_onnx(str(relative.name), tmp_path / "a.onnx", images=photos)
        names = list(dict.fromkeys(row.image for row in report.agreements))
        everything = sorted(str(path.relative_to(photos)) for path in photos.rglob("*.jpg"))
        assert names == everything[::3]
        one = photos / "deep" / "01.jpg"
        report = export_onnx(str(relative.name), tmp_path / "b.onnx", images=one)
        assert {row.image for row in report.agreements} == {"01.jpg"}

    @pytest.mark.slow
    def test_half_checkpoint_is_compared_in_float32(self, relative, tmp_path):
        model, processor = load_model(str(relative.name))
        for part in (model.half(), processor):
            part.save_pretrained(tmp_path / "half")
        report = export_onnx(str(tmp_path / "half"), tmp_path / "a.onnx")
        model = load_model(str(tmp_path / "half"))[0].float()
        rows = compare_with_pytorch(model, processor, relative.session, exporting._rendered_scenes())
        assert rows == report.agreements


@pytest.mark.slow
def test_write_int8__large_weights_stay_beside_the_file(relative, tmp_path):
    shutil.copy(relative.path, tmp_path / "a.onnx")
    model = onnx.load(tmp_path / "a.onnx")
    (tmp_path / "large").mkdir()
    onnx.save(
        model, tmp_path / "large" / "a.onnx", save_as_external_data=True, location="a.onnx.data", size_threshold=0
    )
    write_int8(tmp_path / "a.onnx", tmp_path / "int8.onnx")
    (tmp_path / "out").mkdir()
    write_int8(tmp_path / "large" / "a.onnx", tmp_path / "out" / "int8.onnx")
    assert (tmp_path / "out" / "int8.onnx.data").stat().st_size > (tmp_path / "out" / "int8.onnx").stat().st_size
    pixels = torch.randn(1, 3, 28, 42)
    moved = Path(shutil.move(tmp_path / "out", tmp_path / "moved"))
    found, expected = (run(open_session(folder / "int8.onnx"), pixels) for folder in (moved, tmp_path))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"out": "model.pt"}, ValueError, r"out is model.pt; it must end in .onnx, such as model.onnx"),
        ({"out": "there.onnx"}, FileExistsError, "there.onnx exists; choose another name"),
        ({"out": "large.onnx"}, FileExistsError, "large.onnx.data exists"),
        ({"dtype": "bfloat16"}, ValueError, "dtype is 'bfloat16'; it must be one of float32, float16, int8"),
        ({"images": "none"}, FileNotFoundError, "none holds no image"),
        ({"labeled": "none"}, FileNotFoundError, "none"),
    ],
)
def test_export_onnx__refuses_before_it_works(change, error, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("there.onnx", "large.onnx.data"):
        Path(name).write_bytes(b"mine")
    with pytest.raises(error, match=message):
        export_onnx(**{"name": "no-such-model", "out": "depth.onnx"} | change)
    assert Path("there.onnx").read_bytes() == b"mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["large.onnx.data", "there.onnx"]


@pytest.mark.slow
def test_export_onnx__other_families_are_refused_with_a_reason(save_family, tmp_path):
    with pytest.raises(ValueError, match="is of type 'glpn'; export accepts only Depth Anything"):
        export_onnx(save_family("glpn"), tmp_path / "depth.onnx")
    assert not (tmp_path / "depth.onnx").exists()


def test_export_onnx__says_what_to_install(monkeypatch):
    monkeypatch.setattr(graph, "find_spec", lambda name: None if name == "onnxscript" else object())
    with pytest.raises(ImportError, match=r'needs onnxscript: pip install "depth_anything_hf\[onnx\]"'):
        export_onnx("no-such-model", "depth.onnx")


@pytest.mark.slow
def test_benchmark__ratios_are_those_of_its_repeats(relative, trace_once, tmp_path, monkeypatch):
    sizes = ["--resolutions", "28", "--batch-sizes", "1", "--dtypes", "int8", "--steps", "1", "--repeats", "2"]
    benchmark = Path(__file__).parents[2] / "benchmarks" / "export.py"
    monkeypatch.setattr(sys, "argv", [str(benchmark), "--model", str(relative.name), "--out", str(tmp_path), *sizes])
    monkeypatch.syspath_prepend(benchmark.parent)
    with trace_once():
        runpy.run_path(str(benchmark), run_name="__main__")
    result = json.loads((tmp_path / "export_cpu.json").read_text())
    (size,) = result["sizes"]
    first, second = (row["PyTorch"] / row["int8"] for row in size["repeats"])
    assert size["ratio_repeats"]["int8"] == [first, second]
    assert size["ratios"]["int8"] == (first + second) / 2
    assert 0 < size["largest_errors"]["int8"] < 0.1
    assert result["onnxruntime"]


def test_open_photographs__broken_ones_are_named_and_left_out(tmp_path, noise_image):
    for name in ("a.png", "b.png", "c.jpg"):
        noise_image(40, 50).save(tmp_path / name)
    (tmp_path / "b.png").write_bytes(b"no picture")
    (tmp_path / "c.jpg").write_bytes((tmp_path / "c.jpg").read_bytes()[:300])
    found, left_out = exporting._open_photographs(tmp_path)
    assert list(found) == ["a.png"]
    for line, name in zip(left_out, ("b.png", "c.jpg"), strict=True):
        assert f"{name}: " in line
    (tmp_path / "a.png").unlink()
    with pytest.raises(
        OSError, match=r"none of the images in .* can be read; the first: .*b\.png: cannot identify image file"
    ):
        exporting._open_photographs(tmp_path)


@pytest.mark.slow
@pytest.mark.usefixtures("no_tracing")
def test_export__bad_inputs_of_the_check_are_named_and_it_goes_on(relative, photos, tmp_path, capsys):
    scenes = iter_synthetic_records(3, 60, 80, seed=5)
    records = [encode_record(one["image"], one["depth"], mask=one["depth"] > 0) for one in scenes]
    folder = write_image_folder(records, tmp_path / "labeled")
    (folder / "depth" / "000001.png").write_bytes(b"no picture")
    (photos / "deep" / "01.jpg").write_bytes(b"no picture")
    arguments = ["export", "--model", str(relative.name), "--out", str(tmp_path / "a.onnx"), "--eval", str(folder)]
    assert main([*arguments, "--images", str(photos / "deep")]) == 1
    captured = capsys.readouterr()
    assert "01.jpg: cannot identify image file" in captured.err
    assert "left out of the check: record 1: " in captured.err
    assert "| ONNX float32 | " in captured.out
    assert (tmp_path / "a.onnx").is_file()
    assert json.loads(properties(tmp_path / "a.onnx")["labeled"])["ONNX float32"]["images"] == 2
