"""Files of people's own training, and files that are no weights, as `convert` meets them."""

import argparse
import io
import pathlib
import tarfile
import types
import zipfile
from collections import OrderedDict

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from depth_anything_hf import DepthAnythingForDepthEstimation, config_for, config_for_encoder
from depth_anything_hf.model.convert import convert_official, from_official, load_official, to_official

WEIGHTS = {
    "pretrained.cls_token": torch.full((1, 1, 384), 2.0),
    "pretrained.blocks.0.norm1.bias": torch.arange(3.0),
    "depth_head.projects.0.weight": torch.ones(2, 2),
}
ELSE = {"criterion.weight": torch.zeros(3)}


def named(prefix, weights=WEIGHTS):
    return {prefix + name: value for name, value in weights.items()}


OPTIMIZER = {"state": {0: {"step": torch.tensor(1.0), "exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 1.0}]}
WRAPPERS = {
    "compile": named("_orig_mod."),
    "DDP of compile": named("module._orig_mod."),
    "compile of DDP": named("_orig_mod.module."),
    "compiled part": {name.replace("blocks.0.", "blocks.0._orig_mod."): value for name, value in WEIGHTS.items()},
    "FSDP": named("_fsdp_wrapped_module."),
    "state_dict": {"state_dict": WEIGHTS},
    "model_state_dict": {"model_state_dict": WEIGHTS, "epoch": 1, "optimizer_state_dict": OPTIMIZER},
    "state_dict in model": {"model": {"state_dict": named("module.")}},
    "ema": {"ema": named("module.")},
    "averaged": named("module.") | {"n_averaged": torch.tensor(3)},
    "lightning": {
        "state_dict": named("model.") | ELSE,
        "pytorch-lightning_version": "2.0",
        "hyper_parameters": {"a": 1},
    },
    "lightning net": {"state_dict": named("net.module.") | ELSE, "callbacks": {"x": {"best": torch.tensor(1.0)}}},
    "ordered": OrderedDict(WEIGHTS),
    "parameters": {name: torch.nn.Parameter(value) for name, value in WEIGHTS.items()},
    "plain values beside": WEIGHTS | {"epoch": 3},
    "args": {"model": WEIGHTS, "args": argparse.Namespace(lr=1, out=pathlib.PurePosixPath("x"))},
    "namespace": {"model": WEIGHTS, "config": types.SimpleNamespace(a=[1])},
    "numpy numbers": {"model": WEIGHTS, "best": np.float64(0.5), "loss": np.float32(1)},
    "step": {"model": WEIGHTS, "step": torch.tensor(7), "optimizer": OPTIMIZER},
}


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("legacy", [False, True])
def test_load_official__unwraps(wrapper, legacy, tmp_path):
    torch.save(WRAPPERS[wrapper], tmp_path / "f.pth", _use_new_zipfile_serialization=not legacy)
    found = load_official(tmp_path / "f.pth")
    assert found.keys() == WEIGHTS.keys()
    assert all(torch.equal(found[name], value) for name, value in WEIGHTS.items())


@pytest.mark.parametrize("name", ["f.safetensors", "f.pth"])
def test_load_official__safetensors_of_any_ending_with_a_prefix(name, tmp_path):
    save_file(named("module._orig_mod."), tmp_path / name)
    assert load_official(tmp_path / name).keys() == WEIGHTS.keys()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"model": WEIGHTS, "ema": WEIGHTS}, "holds weights under 'model' and 'ema': save those that you want alone"),
        (named("student.") | named("teacher."), r"holds 2 networks, under 'student\.' and 'teacher\.'"),
        ({"model": {"a": np.ones(2)}}, "holds no weights"),
        (torch.nn.Linear(2, 2), "asks for torch.nn.modules.linear.Linear, which is no weight"),
    ],
)
def test_load_official__names_what_it_cannot_decide(content, message, tmp_path):
    torch.save(content, tmp_path / "f.pth")
    with pytest.raises(ValueError, match=message) as caught:
        load_official(tmp_path / "f.pth")
    assert "\n" not in str(caught.value)


def torchscript(path):
    torch.jit.script(torch.nn.Linear(2, 2)).save(path)


def zipped(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model.pth", b"x")


def tarred(path):
    with tarfile.open(path, "w") as archive:
        archive.addfile(tarfile.TarInfo("model.pth"), io.BytesIO())


def cut(path):
    torch.save(WEIGHTS, path)
    path.write_bytes(path.read_bytes()[:-300])


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (torchscript, "is a TorchScript module: save the weights alone"),
        (lambda path: np.savez(path.open("wb"), a=np.ones(2)), "is an archive of NumPy"),
        (lambda path: np.save(path.open("wb"), np.ones(2)), "is an array of NumPy"),
        (zipped, r"is an archive of 1 files, such as model\.pth: unpack it"),
        (tarred, "is an archive: unpack it"),
        (lambda path: path.write_bytes(b"\x1f\x8b" + bytes(30)), "is an archive: unpack it"),
        (lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\n"), "is a pointer of Git LFS"),
        (lambda path: path.write_text("\n <!DOCTYPE html>"), "is a web page"),
        (lambda path: path.touch(), "is empty"),
        (lambda path: path.write_text("hello"), "is damaged"),
        (cut, "is damaged"),
    ],
)
def test_load_official__names_what_is_no_checkpoint(write, message, tmp_path):
    write(tmp_path / "f.pth")
    with pytest.raises(ValueError, match=message) as caught:
        load_official(tmp_path / "f.pth")
    assert str(tmp_path / "f.pth") in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "name",
    [
        "depth_anything_v2_vits (1).pth",
        "depth_anything_v2_vits(2).pth",
        "depth_anything_v2_vits-1.pth",
        "depth_anything_v2_vits - Copy.pth",
        "depth_anything_v2_vits copy 2.pth",
        "Copy of depth_anything_v2_vits.pth",
        "Depth-Anything-V2-ViTS.PTH",
        "depth anything v2 vits.pth",
        " depth_anything_v2_vits.pth",
        "depth_anything_v2_vits.pth.1",
        "depth_anything_v2_vits.pth.pth",
        "depth_anything_v2_vits.safetensors",
        "depth_anything_v2_vits (1) (1).pth",
        "my_depth_anything_v2_vits_rooms.pth",
        "DepthAnything_v2.pth",
    ],
)
def test_convert_official__a_copy_of_v2_is_not_v1(name, tmp_path):
    with pytest.raises(ValueError, match="authors' name of a v2 relative model, and v1 relative is asked for"):
        convert_official(tmp_path / name, "small", "v1")
    with pytest.raises(FileNotFoundError):
        convert_official(tmp_path / name, "small", "v2")


@pytest.mark.parametrize(
    "name", ["depth_anything_vits14 (1).pth", "DEPTH_ANYTHING_VITS14.pth", "old depth_anything_vits14.pth"]
)
def test_convert_official__a_copy_of_v1_is_not_v2(name, tmp_path):
    with pytest.raises(ValueError, match="authors' name of a v1 relative model"):
        convert_official(tmp_path / name, "small", "v2")


@pytest.mark.parametrize(
    "name", ["depth_anything_v2_metric_hypersim_vits (1).pth", "Depth_Anything_V2_Metric_Hypersim_vits-2.pth"]
)
def test_convert_official__a_copy_of_a_metric_file_is_metric(name, tmp_path):
    with pytest.raises(ValueError, match=r"v2 metric \(max_depth 20\) model"):
        convert_official(tmp_path / name, "small", "v2")
    with pytest.raises(FileNotFoundError):
        convert_official(tmp_path / "my_depth_anything_v2_vits_rooms.pth", "small", "v2", 30)  # of one's own


@pytest.mark.parametrize(
    "change",
    [
        lambda values: values.to(torch.int8),
        lambda values: values.bool(),
        lambda values: values.to(torch.complex64),
        lambda values: values.to_sparse(),
        lambda values: values.to("meta"),
    ],
)
def test_from_official__weights_that_are_no_numbers_of_floating_point(change, tiny_encoder_config):
    model = DepthAnythingForDepthEstimation(config_for_encoder(tiny_encoder_config))
    official = to_official(model.state_dict(), model.config)
    name = "depth_head.scratch.output_conv2.2.weight"
    with pytest.raises(ValueError, match=f"1 of no numbers of floating point: {name}"):
        from_official(official | {name: change(official[name])}, model.config)


@pytest.mark.slow  # the smallest official network
def test_convert_official__nan_is_refused(tmp_path):
    model = DepthAnythingForDepthEstimation(config_for("small"))
    model.head.conv3.bias.data.fill_(float("nan"))
    torch.save(to_official(model.state_dict(), model.config), tmp_path / "f.pth")
    with pytest.raises(ValueError, match=r"f\.pth holds NaN or infinite weights, in head\.conv3\.bias"):
        convert_official(tmp_path / "f.pth", "small", "v2")
