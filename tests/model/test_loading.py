"""Checkpoints that are not what their files say."""

import json
import os
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import accelerate
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForDepthEstimation, Dinov2Config, Dinov2Model, Trainer, TrainingArguments, pipeline
from transformers import DepthAnythingForDepthEstimation as StockDepthAnything

from depth_anything_hf import DepthAnythingForDepthEstimation, DepthAnythingImageProcessor, config_for_encoder
from depth_anything_hf.export.encoder import export_encoder
from depth_anything_hf.prediction.predictor import DepthPredictor, load_model
from depth_anything_hf.training.trainer import DepthAnythingTrainer


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A tiny model with its processor, whole and in shards."""
    root = tmp_path_factory.mktemp("saved")
    encoder = Dinov2Config(image_size=56, hidden_size=32, num_hidden_layers=4, num_attention_heads=2)
    torch.manual_seed(0)
    model = DepthAnythingForDepthEstimation(config_for_encoder(encoder))
    for name, options in {"whole": {}, "shards": {"max_shard_size": "100KB"}}.items():
        model.save_pretrained(root / name, **options)
        DepthAnythingImageProcessor(size={"height": 56, "width": 56}).save_pretrained(root / name)
    return root


@pytest.fixture
def copied(folders, tmp_path):
    """Function that copies one of the folders: `copied("whole")`."""

    def copy(name: str) -> Path:
        return Path(shutil.copytree(folders / name, tmp_path / name))

    return copy


def edit(name, **changes):
    def change(folder):
        content = json.loads((folder / name).read_text())
        for key, value in changes.items():
            inside = content["backbone_config"] if key in content.get("backbone_config", {}) else content
            inside[key] = value
        (folder / name).write_text(json.dumps(content))

    return change


def write(name, content):
    return lambda folder: (folder / name).write_text(content)


def weights(change):
    def apply(folder):
        values = load_file(folder / "model.safetensors")
        change(values)
        save_file(values, folder / "model.safetensors", metadata={"format": "pt"})

    return apply


def filled(number):
    def change(values):
        values["head.conv2.weight"].view(-1)[3] = number

    return weights(change)


def as_bin(content):
    def change(folder):
        (folder / "model.safetensors").unlink()
        if isinstance(content, str):
            (folder / "pytorch_model.bin").write_text(content)
        else:
            torch.save(content, folder / "pytorch_model.bin")

    return change


def shard_of(folder):
    return sorted(folder.glob("model-*.safetensors"))[1]


def without_a_shard_in_the_index(folder):
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    index["weight_map"] = {k: v for k, v in index["weight_map"].items() if v != shard_of(folder).name}
    path.write_text(json.dumps(index))


def move_shard_out(folder):
    path, shard = folder / "model.safetensors.index.json", shard_of(folder)
    shard.rename(folder.parent / "a.safetensors")
    path.write_text(path.read_text().replace(shard.name, "../a.safetensors"))


def edit_outer(**changes):
    """`edit` of config.json, where the encoder has a setting of the same name."""
    return lambda f: write("config.json", json.dumps(json.loads((f / "config.json").read_text()) | changes))(f)


NEW = "head.conv2.weight"
DAMAGES = {
    "renamed": (
        "whole",
        weights(lambda w: w.update(stranger=w.pop(NEW))),
        "lacks 1 of the model's weights, .*such as stranger",
    ),
    "missing": (
        "whole",
        weights(lambda w: w.pop("neck.convs.0.weight")),
        "such as neck.convs.0.weight; they would be random",
    ),
    "more": (
        "whole",
        weights(lambda w: w.update({"head.conv4.weight": w[NEW].clone()})),
        "no place for them, such as head.conv4",
    ),
    "cut rows": (
        "whole",
        weights(lambda w: w.update({NEW: w[NEW][:4].clone()})),
        "do not fit its config.json, such as head.conv2",
    ),
    "nan": ("whole", filled(float("nan")), "NaN or infinite weights, in head.conv2.weight"),
    "inf": ("whole", filled(float("-inf")), "NaN or infinite weights"),
    "deeper config": ("whole", edit("config.json", num_hidden_layers=8), "72 of the model's weights"),
    "wider config": ("whole", edit("config.json", fusion_hidden_size=32), "do not fit its config.json"),
    "other patches": ("whole", edit("config.json", patch_size=7), "patch_embeddings.projection.weight"),
    "other network": ("whole", as_bin({"layer1.weight": torch.ones(1)}), "of other names, such as layer1.weight"),
    "shard gone": ("shards", lambda f: shard_of(f).unlink(), "index.json names model-00002-of-.*which is not there"),
    "shard cut": ("shards", lambda f: os.truncate(shard_of(f), 900), "model-00002-of.* is cut or damaged"),
    "shard unlisted": ("shards", without_a_shard_in_the_index, "of the model's weights"),
    "index cut": ("shards", write("model.safetensors.index.json", '{"weight_map'), "index.json is cut or damaged"),
    "lfs": (
        "whole",
        write("model.safetensors", "version https://git-lfs.github.com/spec/v1"),
        "safetensors is a pointer of",
    ),
    "html": ("whole", write("model.safetensors", "<!DOCTYPE html>"), "safetensors is a web page"),
    "empty": ("whole", write("model.safetensors", ""), "safetensors is empty"),
    "cut": ("whole", lambda f: os.truncate(f / "model.safetensors", 9000), "safetensors is cut or damaged"),
    "text bin": ("whole", as_bin("hello"), "pytorch_model.bin is cut or damaged"),
    "config cut": ("whole", write("config.json", "{"), "config.json is cut or damaged"),
    "config list": ("whole", write("config.json", "[]"), "config.json holds a list"),
    "std 0": ("whole", edit("preprocessor_config.json", image_std=[0, 0, 0]), "image_std is .*finite numbers above 0"),
    "std below 0": ("whole", edit("preprocessor_config.json", image_std=[1, -1, 1]), "finite numbers above 0"),
    "mean nan": (
        "whole",
        edit("preprocessor_config.json", image_mean=[float("nan"), 0, 0]),
        "image_mean is .*three finite",
    ),
    "mean of two": ("whole", edit("preprocessor_config.json", image_mean=[0.5, 0.5]), "three finite numbers"),
    "mean a number": ("whole", edit("preprocessor_config.json", image_mean=0.5), "three finite numbers"),
    "factor 0": ("whole", edit("preprocessor_config.json", rescale_factor=0), "rescale_factor is 0"),
    "size 0": (
        "whole",
        edit("preprocessor_config.json", size={"height": 0, "width": 56}),
        "positive numbers of pixels",
    ),
    "shortest edge": (
        "whole",
        edit("preprocessor_config.json", size={"shortest_edge": 56}),
        "it must be {'height': pixels",
    ),
    "multiple 0": ("whole", edit("preprocessor_config.json", ensure_multiple_of=0), "ensure_multiple_of is 0"),
    "integers": ("whole", weights(lambda w: w.update({NEW: w[NEW].to(torch.int8)})), f"stores {NEW} as I8"),
    "bool": ("whole", weights(lambda w: w.update({NEW: w[NEW].bool()})), f"stores {NEW} as BOOL"),
    "float8": (
        "whole",
        weights(lambda w: w.update({NEW: w[NEW].to(torch.float8_e4m3fn)})),
        f"stores {NEW} as F8_E4M3",
    ),
    "shard outside": (
        "shards",
        lambda f: move_shard_out(f),
        "index.json names ../a.safetensors, outside of its folder",
    ),
    "index empty": ("shards", write("model.safetensors.index.json", "{}"), "index.json has no weight_map"),
    "index null": (
        "shards",
        write("model.safetensors.index.json", '{"weight_map": null}'),
        "index.json has no weight_map",
    ),
    "patches of head": ("whole", edit_outer(patch_size=16), "patch_size is 16, and that of the encoder 14"),
    "patches 0": ("whole", edit_outer(patch_size=0), "patch_size is 0"),
    "max_depth 0": ("whole", edit("config.json", max_depth=0, depth_estimation_type="metric"), "max_depth is 0"),
    "max_depth -1": ("whole", edit("config.json", max_depth=-1, depth_estimation_type="metric"), "max_depth is -1"),
    "max_depth null": (
        "whole",
        edit("config.json", max_depth=None, depth_estimation_type="metric"),
        "max_depth is None",
    ),
    "max_depth text": ("whole", edit("config.json", max_depth="80"), "describe no model .*max_depth"),
    "misspelled": (
        "whole",
        edit("config.json", depth_estimation_type="metrik"),
        "describe no model .*'relative', 'metric'",
    ),
    "no encoder": ("whole", edit("config.json", backbone_config={}), "the settings of .* describe no model"),
    "factors 0": ("whole", edit("config.json", reassemble_factors=[0, 0, 0, 0]), "describe no model"),
    "dtype unknown": ("whole", edit("config.json", dtype="foo"), "describe no model .*no attribute 'foo'"),
    "size null": ("whole", edit("preprocessor_config.json", size=None), "it must be {'height': pixels"),
    "size huge": (
        "whole",
        edit("preprocessor_config.json", size={"height": 10**6, "width": 10**6}),
        "positive numbers of pixels, at most 16384",
    ),
    "multiple text": (
        "whole",
        edit("preprocessor_config.json", ensure_multiple_of="14"),
        "ensure_multiple_of is '14'",
    ),
    "processor list": ("whole", write("preprocessor_config.json", "[]"), "preprocessor_config.json holds a list"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_load_model__refuses_what_is_not_as_its_files_say(damage, copied):
    name, change, message = DAMAGES[damage]
    folder = copied(name)
    change(folder)
    with pytest.raises(ValueError, match=message) as caught:
        load_model(str(folder))
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)
    load = DepthAnythingImageProcessor if "preprocessor" in str(caught.value) else DepthAnythingForDepthEstimation
    with pytest.raises(ValueError, match=message):
        load.from_pretrained(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"do_rescale": False}, "black and white are 1.11e+03 apart"),
        ({"do_rescale": False, "do_normalize": False}, "black and white are 255 apart"),
        ({"rescale_factor": 1}, "black and white are 1.11e+03 apart"),
        ({"image_std": [58.395, 57.12, 57.375]}, "black and white are 0.0171 apart"),
        ({"ensure_multiple_of": 7}, "a multiple of the model's patch size 14"),
        ({"ensure_multiple_of": 13}, "a multiple of the model's patch size 14"),
        ({"ensure_multiple_of": 14.0}, "a multiple of the model's patch size 14"),
        ({"do_normalize": False}, None),
        ({"do_rescale": False, "image_mean": [123.675, 116.28, 103.53], "image_std": [58.395, 57.12, 57.375]}, None),
        ({"rescale_factor": 1 / 127.5}, None),
        ({"ensure_multiple_of": 28}, None),
    ],
)
def test_load_model__processor_that_makes_what_no_network_sees(changes, message, copied):
    folder = copied("whole")
    edit("preprocessor_config.json", **changes)(folder)
    if message is None:
        load_model(str(folder))
        return
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        load_model(str(folder))
    assert str(folder / "preprocessor_config.json").replace("/pre", ", pre") in str(caught.value)


def test_load_model__takes_what_no_image_reaches_as_missing(copied):
    folder = copied("whole")
    weights(lambda w: [w.pop("backbone.embeddings.mask_token"), w.update(stranger=torch.ones(1))])(folder)
    load_model(str(folder))


def test_load_model__missing_weights_of_other_families_are_refused(save_family):
    folder = Path(save_family("dpt"))
    load_model(str(folder))
    weights(lambda w: w.pop(next(name for name in w if "neck.convs.0" in name)))(folder)
    with pytest.raises(ValueError, match="1 of the model's weights"):
        load_model(str(folder))


def test_from_encoder__missing_weights_of_the_encoder_are_refused(tiny_encoder_config, tmp_path):
    Dinov2Model(tiny_encoder_config).save_pretrained(tmp_path)
    DepthAnythingForDepthEstimation.from_encoder(str(tmp_path))
    weights(lambda w: w.pop("layernorm.weight"))(tmp_path)
    with pytest.raises(ValueError, match="such as layernorm"):
        DepthAnythingForDepthEstimation.from_encoder(str(tmp_path))


def test_load_model__path_that_does_not_exist(tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist; give a folder, or the id of a model on the Hub"):
        load_model(str(tmp_path / "nothing"))


# --- names in the files, and in memory


def equal(one, other):
    return all(torch.equal(value, other.state_dict()[name]) for name, value in one.state_dict().items())


@pytest.mark.parametrize("swiglu", [False, True])
@pytest.mark.parametrize("options", [{}, pytest.param({"max_shard_size": "200KB"}, marks=pytest.mark.slow)])
def test_save_pretrained__names_in_the_files_are_those_in_memory(swiglu, options, tiny_encoder_config, tmp_path):
    tiny_encoder_config.use_swiglu_ffn = swiglu
    model = DepthAnythingForDepthEstimation(config_for_encoder(tiny_encoder_config))
    model.save_pretrained(tmp_path, **options)
    found = {name for file in tmp_path.glob("*.safetensors") for name in load_file(file)}
    assert found == set(model.state_dict())
    empty = DepthAnythingForDepthEstimation(model.config)
    accelerate.load_checkpoint_in_model(empty, str(tmp_path), device_map={"": "cpu"})
    assert equal(model, empty)
    stock, info = AutoModelForDepthEstimation.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"] | info["unexpected_keys"]
    assert equal(model, stock)


@pytest.mark.parametrize("swiglu", [False, True])
def test_from_pretrained__published_names_load_and_are_saved_under_those_in_memory(
    swiglu, tiny_encoder_config, tmp_path
):
    tiny_encoder_config.use_swiglu_ffn = swiglu
    stock = StockDepthAnything(config_for_encoder(tiny_encoder_config))
    stock.save_pretrained(tmp_path / "stock")
    model = DepthAnythingForDepthEstimation.from_pretrained(tmp_path / "stock")
    assert equal(stock, model)
    model.save_pretrained(tmp_path / "ours")
    assert set(load_file(tmp_path / "ours" / "model.safetensors")) == set(model.state_dict())
    model.save_pretrained(tmp_path / "again", save_original_format=True)
    before, after = (load_file(tmp_path / name / "model.safetensors") for name in ("stock", "again"))
    assert before.keys() == after.keys()


def test_export_encoder__names_in_the_files_are_those_in_memory(folders, tmp_path):
    export_encoder(str(folders / "whole"), tmp_path)
    encoder = load_model(str(folders / "whole"))[0].backbone
    assert set(load_file(tmp_path / "model.safetensors")) == set(encoder.state_dict())


@pytest.mark.parametrize("names", ["memory", "published"])
def test_resume__of_the_stock_trainer_leaves_no_weight_out(names, make_model, tmp_path, caplog):
    saved, model = make_model(seed=1), make_model(seed=2)
    saved.save_pretrained(tmp_path, save_original_format=names == "published")
    Trainer(model, TrainingArguments(str(tmp_path / "out"), report_to="none", use_cpu=True))._load_from_checkpoint(
        str(tmp_path)
    )
    assert equal(saved, model)
    assert "missing keys" not in caplog.text


# --- precision


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_load_model__half_precision_is_float32_on_a_cpu_unless_asked_for(dtype, folders, tmp_path):
    model = DepthAnythingForDepthEstimation.from_pretrained(folders / "whole").to(dtype)
    model.save_pretrained(tmp_path)
    shutil.copy(folders / "whole" / "preprocessor_config.json", tmp_path)
    loaded = load_model(str(tmp_path))[0]
    assert {value.dtype for value in loaded.parameters()} == {torch.float32}
    assert equal(model.float(), loaded)
    assert load_model(str(tmp_path), dtype="auto")[0].dtype == dtype
    predictor = DepthPredictor(str(tmp_path), device="cpu")
    assert predictor.model.dtype == torch.float32
    asked = DepthPredictor(str(tmp_path), device="cpu", dtype=dtype)
    assert asked.model.dtype == dtype
    assert predictor.revision == asked.revision  # of the files


def test_pipeline__loads_what_is_saved(folders, noise_image):
    depth = pipeline("depth-estimation", model=str(folders / "whole"))(noise_image(40, 60))["predicted_depth"]
    assert depth.shape == (40, 60)


@pytest.mark.parametrize("lost", [([], ["stranger"]), (["head.conv1.bias"], [])])
def test_resume__of_our_trainer_refuses_a_checkpoint_that_leaves_weights_out(lost):
    with pytest.raises(ValueError, match="1 weights of the checkpoint and of the model have no counterpart, such as"):
        DepthAnythingTrainer._issue_warnings_after_load(
            None, SimpleNamespace(missing_keys=lost[0], unexpected_keys=lost[1])
        )
    DepthAnythingTrainer._issue_warnings_after_load(None, SimpleNamespace(missing_keys=[], unexpected_keys=[]))
