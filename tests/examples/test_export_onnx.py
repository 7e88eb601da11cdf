import json

import pytest
import torch
from transformers import AutoConfig, AutoImageProcessor

from depth_anything_hf.export.graph import open_session

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.slow
def test_export_onnx__writes_a_folder_for_transformers_js(load_example, make_model, tiny_processor, tmp_path, capsys):
    for part in (make_model("v1", max_depth=20.0), tiny_processor):
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

    model, pixels = make_model("v1", max_depth=20.0).eval(), torch.randn(2, 3, 42, 84)
    with torch.no_grad():
        expected = model(pixels).predicted_depth
    (depth,) = open_session(tmp_path / "web" / "onnx" / "model.onnx").run(None, {"pixel_values": pixels.numpy()})
    torch.testing.assert_close(torch.from_numpy(depth), expected, rtol=1e-5, atol=1e-4)
    lines = capsys.readouterr().out.splitlines()
    size = (tmp_path / "web" / "onnx" / "model.onnx").stat().st_size / 1e6
    assert lines[-1].startswith(f"| model.onnx | {size:.1f} | ")
