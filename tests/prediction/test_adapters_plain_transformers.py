"""Adapter folders in transformers and PEFT as they stand: a process that cannot import this package runs them."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from peft import get_peft_model

from depth_anything_hf.export.stock import WITHOUT_US
from depth_anything_hf.prediction.adapters import depth_lora_config, merge_adapter
from depth_anything_hf.prediction.predictor import load_model, predict_depth

STOCK = """
import json
import numpy as np, torch
from peft import AutoPeftModel, PeftModel
from transformers import AutoModelForDepthEstimation, pipeline
torch.set_num_threads(1)
folders, base, image, inputs, out = json.loads(sys.argv[1]), *sys.argv[2:]
pixel_values = torch.from_numpy(np.load(inputs))
found = {}
for name, folder in folders.items():
    loaders = {"auto": lambda: AutoModelForDepthEstimation.from_pretrained(folder)}
    if name != "merged":
        loaders["peft"] = lambda: PeftModel.from_pretrained(AutoModelForDepthEstimation.from_pretrained(base), folder)
        loaders["auto_peft"] = lambda: AutoPeftModel.from_pretrained(folder)
    for loader, load in loaders.items():
        model = load()
        assert not model.training, loader
        with torch.no_grad():
            found[f"{name}/{loader}"] = model(pixel_values=pixel_values).predicted_depth.numpy()
    pipe = pipeline("depth-estimation", model=folder)
    assert type(pipe.model).__module__.startswith("transformers."), type(pipe.model)
    found[f"{name}/pipeline"] = pipe(image)["predicted_depth"].numpy()
np.savez(out, **found)
"""
DECODERS = ("full", "lora", "frozen")


@pytest.fixture(scope="module")
def results(tmp_path_factory, one_thread):
    """What stock code predicts with each adapter and one merged checkpoint, and what the models in memory predict."""
    folder = tmp_path_factory.mktemp("plain")
    return run_everywhere(folder)


def run_everywhere(folder):
    from PIL import Image
    from transformers import Dinov2Config

    from depth_anything_hf import DepthAnythingForDepthEstimation, DepthAnythingImageProcessor, config_for_encoder

    torch.manual_seed(0)
    encoder = Dinov2Config(image_size=56, hidden_size=32, num_hidden_layers=4, num_attention_heads=2)
    base = str(folder / "base")
    DepthAnythingForDepthEstimation(config_for_encoder(encoder)).save_pretrained(base)
    DepthAnythingImageProcessor(size={"height": 56, "width": 56}).save_pretrained(base)
    pixels = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    image.save(folder / "image.png")
    inputs = torch.randn(2, 3, 56, 70)
    np.save(folder / "inputs.npy", inputs.numpy())
    ours, folders = {}, {name: str(folder / name) for name in (*DECODERS, "merged")}
    processor = DepthAnythingImageProcessor.from_pretrained(base, resize_method="minimal")  # the stock pipeline's
    for decoder in DECODERS:
        model = get_peft_model(load_model(base)[0], depth_lora_config(rank=2, decoder=decoder)).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter += (0.5 if decoder == "frozen" else 0.05) * torch.randn_like(parameter)
        model.save_pretrained(folder / decoder)
        # Of another size than the base's: nothing but AutoImageProcessor.from_pretrained(ADAPTER) reads it.
        DepthAnythingImageProcessor(size={"height": 28, "width": 28}).save_pretrained(folder / decoder)
        ours[decoder] = both(model, inputs, processor, image)
    ours["base"] = both(load_model(base)[0], inputs, processor, image)
    merge_adapter(folder / "full", folder / "merged")
    arguments = [
        json.dumps(folders),
        base,
        str(folder / "image.png"),
        str(folder / "inputs.npy"),
        str(folder / "out.npz"),
    ]
    done = subprocess.run([sys.executable, "-c", WITHOUT_US + STOCK, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    with np.load(folder / "out.npz") as found:
        return ours, dict(found), done.stdout + done.stderr


def both(model, inputs, processor, image):
    with torch.no_grad():
        direct = model(pixel_values=inputs).predicted_depth.numpy()
    return {"direct": direct, "pipeline": predict_depth(model, processor, [image], mode="bicubic")[0].numpy()}


@pytest.mark.slow
@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("loader", ["auto", "peft", "auto_peft", "pipeline"])
def test_adapter_folder__predicts_the_very_same_in_plain_transformers(results, decoder, loader):
    ours, stock, _ = results
    kind = "pipeline" if loader == "pipeline" else "direct"
    assert np.abs(stock[f"{decoder}/{loader}"] - ours[decoder][kind]).max() == 0
    assert np.abs(ours[decoder][kind] - ours["base"][kind]).max() > 1e-3  # the adapter does something


@pytest.mark.slow
@pytest.mark.parametrize("loader", ["auto", "pipeline"])
def test_merged_folder__predicts_the_same_in_plain_transformers(results, loader):
    ours, stock, _ = results
    kind = "pipeline" if loader == "pipeline" else "direct"
    assert np.abs(stock[f"merged/{loader}"] - ours["full"][kind]).max() < 1e-5


@pytest.mark.slow
def test_adapter_folder__loads_without_a_complaint(results):
    *_, printed = results
    for word in ("UNEXPECTED", "MISSING", "newly initialized", "Unexpected keyword", "missing adapter keys"):
        assert word not in printed, printed
