import json

import pytest
import torch
from transformers import AutoConfig, AutoImageProcessor, Dinov2Config

from depth_anything_hf import DepthAnythingForDepthEstimation
from depth_anything_hf.export.graph import open_session

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def small(make_model):
    """A metric V1 model of one block and one stage: traced in half the time; test_onnx.py has whole ones."""
    config = make_model("v1", max_depth=20.0).config
    config.neck_hidden_sizes, config.reassemble_factors = config.neck_hidden_sizes[:1], config.reassemble_factors[:1]
    encoder = config.backbone_config.to_dict() | {"num_hidden_layers": 1, "out_features": None, "out_indices": [1]}
    config.backbone_config = Dinov2Config(**{name: value for name, value in encoder.items() if name != "stage_names"})
    return DepthAnythingForDepthEstimation(config).eval()


@pytest.mark.slow
def test_export_onnx__writes_a_folder_for_transformers_js(load_example, small, tiny_processor, tmp_path, capsys):
    for part in (small, tiny_processor):
        part.save_pretrained(tmp_path / "rooms")
    arguments = ["--model", str(tmp_path / "rooms"), "--out", str(tmp_path / "web"), "--dtypes", "float32"]
    assert load_example("export_onnx").main(arguments) == 0
    found = sorted(str(path.relative_to(tmp_path / "web")) for path in (tmp_path / "web").rglob("*") if path.is_file())
    assert found == ["config.json", "onnx/model.onnx", "preprocessor_config.json"]
    config = AutoConfig.from_pretrained(tmp_path / "web")
    assert (config.model_type, config.max_depth) == ("depth_anything", 20)
    processor = AutoImageProcessor.from_pretrained(tmp_path / "web")
    assert processor.ensure_multiple_of == 14
    settings = json.loads((tmp_path / "web" / "preprocessor_config.json").read_text())
    assert settings["image_processor_type"] == "DPTImageProcessor"

    pixels = torch.randn(2, 3, 42, 84)
    with torch.no_grad():
        expected = small(pixels).predicted_depth
    (depth,) = open_session(tmp_path / "web" / "onnx" / "model.onnx").run(None, {"pixel_values": pixels.numpy()})
    torch.testing.assert_close(torch.from_numpy(depth), expected, rtol=1e-5, atol=1e-4)
    lines = capsys.readouterr().out.splitlines()
    size = (tmp_path / "web" / "onnx" / "model.onnx").stat().st_size / 1e6
    assert lines[-1].startswith(f"| model.onnx | {size:.1f} | ")
