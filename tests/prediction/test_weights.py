"""The one digest of weights: its three stored values are those of version 0.1.0."""

import hashlib

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from depth_anything_hf import DepthAnythingForDepthEstimation, config_for_encoder
from depth_anything_hf.prediction.weights import digest_of_model, files_digest, model_revision, weights_fingerprint


@pytest.fixture
def values():
    return {"b": torch.arange(6, dtype=torch.float32).reshape(2, 3), "a": torch.tensor(7, dtype=torch.bfloat16)}


@pytest.fixture
def folder(values, tmp_path):
    save_file(values, tmp_path / "model.safetensors")
    return tmp_path


def by_hand(values):
    digest = hashlib.sha256()
    for name in sorted(values):
        digest.update(name.encode() + values[name].flatten().view(torch.uint8).numpy().tobytes())
    return f"sha256:{digest.hexdigest()[:16]}"


def test_weights_fingerprint__is_over_names_and_values(folder, values):
    assert weights_fingerprint(str(folder)) == by_hand(values) == "sha256:e41db049bd6fd338"


def test_weights_fingerprint__does_not_depend_on_the_shards(folder, values, tmp_path):
    parts = tmp_path / "parts"
    parts.mkdir()
    for i, name in enumerate(values):
        save_file({name: values[name]}, parts / f"part-{i}.safetensors")
    index = ", ".join(f'"{name}": "part-{i}.safetensors"' for i, name in enumerate(values))
    (parts / "model.safetensors.index.json").write_text(f'{{"weight_map": {{{index}}}}}')
    assert weights_fingerprint(str(parts)) == by_hand(values)
    (parts / "empty").mkdir()
    assert weights_fingerprint(str(parts / "empty")) is None


def test_digest_of_model__is_that_of_its_files(values, folder):
    model = nn.Module()
    for name, one in values.items():
        model.register_buffer(name, one)
    assert digest_of_model(model) == model_revision(str(folder), model) == weights_fingerprint(str(folder))


def test_digest_of_model__takes_weights_that_are_not_contiguous():
    model = nn.Linear(3, 2, bias=False)
    before = digest_of_model(model)
    model.weight = nn.Parameter(model.weight.detach().T.contiguous().T)
    assert digest_of_model(model) == before


def test_files_digest__is_over_the_bytes_of_the_files(folder):
    assert files_digest(folder) == hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    save_file({"c": torch.zeros(2**20)}, folder / "more.safetensors")
    content = b"".join(path.read_bytes() for path in sorted(folder.glob("*.safetensors")))
    assert files_digest(folder) == hashlib.sha256(content).hexdigest()
    (folder / "none").mkdir()
    assert files_digest(folder / "none") is None


@pytest.mark.parametrize("swiglu", [False, True])
def test_weights_fingerprint__is_that_of_the_published_names_whatever_the_files_have(
    swiglu, tiny_encoder_config, tmp_path
):
    tiny_encoder_config.use_swiglu_ffn = swiglu
    model = DepthAnythingForDepthEstimation(config_for_encoder(tiny_encoder_config))
    model.save_pretrained(tmp_path / "memory")
    model.save_pretrained(tmp_path / "published", save_original_format=True)
    published = load_file(tmp_path / "published" / "model.safetensors")
    assert published.keys() != load_file(tmp_path / "memory" / "model.safetensors").keys()
    digest = hashlib.sha256()  # as older versions computed it
    for name in sorted(published):
        digest.update(name.encode() + published[name].contiguous().flatten().view(torch.uint8).numpy().tobytes())
    for name in ("memory", "published"):
        assert weights_fingerprint(str(tmp_path / name)) == f"sha256:{digest.hexdigest()[:16]}"
