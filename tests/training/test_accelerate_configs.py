"""The example configurations of `accelerate launch`; the two runs take about 20 seconds."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils import FullyShardedDataParallelPlugin
from accelerate.utils.fsdp_utils import fsdp2_prepare_auto_wrap_policy
from accelerate.utils.launch import prepare_multi_gpu_env, prepare_simple_launcher_cmd_env
from transformers import AutoModelForDepthEstimation, Dinov2Config, Dinov2Model

from depth_anything_hf.data.folder import write_image_folder

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "examples" / "accelerate_configs"
CONFIGS = sorted(FOLDER.glob("*.yaml"))
BY_NAME = {path.stem: path for path in CONFIGS}


def command(path: Path) -> list[str]:
    """Read the command in a configuration's comment, without `accelerate launch`."""
    (line,) = [line for line in path.read_text().splitlines() if line.startswith("# accelerate launch ")]
    return shlex.split(line.removeprefix("# accelerate launch "))


def understood(path: Path, *options: str):
    """Give what `accelerate launch` makes of a configuration and its command."""
    given = command(path)
    given = [{"MACHINE": "1", "ADDRESS": "10.0.0.1"}.get(word, word) for word in given]
    arguments = launch_command_parser().parse_args([*options, "--config_file", str(path), *given[2:]])
    return _validate_launch_command(arguments)[0]


@pytest.mark.parametrize(
    ("name", "kind", "processes", "precision"),
    [
        ("cpu", "MULTI_GPU", 2, "no"),
        ("single_gpu", "NO", 1, "bf16"),
        ("multi_gpu", "MULTI_GPU", 8, "bf16"),
        ("multi_node", "MULTI_GPU", 16, "bf16"),
        ("fsdp2", "FSDP", 8, "bf16"),
    ],
)
def test_config__accelerate_reads_what_it_says(name, kind, processes, precision):
    config = load_config_from_file(str(BY_NAME[name]))  # refuses unknown keys
    assert (config.distributed_type.value, config.num_processes) == (kind, processes)
    merged = understood(BY_NAME[name])
    assert (merged.num_processes, merged.mixed_precision) == (processes, precision)
    assert (merged.multi_gpu, merged.use_fsdp) == (kind == "MULTI_GPU", kind == "FSDP")
    assert merged.use_cpu == (name == "cpu")


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_config__has_no_unknown_nested_key(path):
    """Accelerate checks the outer keys alone; a misspelt inner one would be ignored."""
    config = load_config_from_file(str(path))
    known = vars(launch_command_parser().parse_args(["script.py"]))
    nested = {key for value in vars(config).values() if isinstance(value, dict) for key in value}
    assert nested <= set(known)
    assert bool(nested) == (path.stem == "fsdp2")


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_config__comment_gives_a_command_that_exists(path):
    merged = understood(path)
    assert (merged.module, merged.training_script) == (True, "depth_anything_hf")
    assert command(path)[:2] == ["--config_file", path.relative_to(ROOT).as_posix()]
    verb, recipe, *_ = merged.training_script_args
    assert verb == "train"
    assert (ROOT / recipe).is_file()
    assert re.search(r"^# (Run by the tests|Not run: needs GPUs)", path.read_text(), re.MULTILINE)


def test_single_gpu__hides_the_other_gpus():
    _, environment = prepare_simple_launcher_cmd_env(understood(BY_NAME["single_gpu"]))
    assert environment["CUDA_VISIBLE_DEVICES"] == "0"
    assert environment["ACCELERATE_MIXED_PRECISION"] == "bf16"


def test_multi_node__each_machine_starts_its_half():
    merged = understood(BY_NAME["multi_node"])
    prepare_multi_gpu_env(merged)
    assert (merged.nnodes, merged.nproc_per_node, merged.node_rank) == ("2", "8", 1)
    assert merged.rdzv_endpoint == "10.0.0.1:29500"


@pytest.fixture
def plugin(monkeypatch):
    """Accelerate's view of `fsdp2.yaml`, as each process reads it from its environment."""
    environment = prepare_multi_gpu_env(understood(BY_NAME["fsdp2"], "--main_process_port", "0"))
    for name, value in environment.items():
        if name.startswith(("FSDP_", "ACCELERATE_")):
            monkeypatch.setenv(name, value)
    assert environment["ACCELERATE_USE_FSDP"] == "true"
    return FullyShardedDataParallelPlugin()


def test_fsdp2__is_what_each_process_gets(plugin):
    assert (plugin.fsdp_version, plugin.reshard_after_forward, plugin.cpu_ram_efficient_loading) == (2, True, False)
    assert plugin.state_dict_type.name == "FULL_STATE_DICT"


def test_fsdp2__wraps_each_block_of_the_encoder(plugin, make_model):
    model = make_model()
    plugin.set_auto_wrap_policy(model)
    wrapped = fsdp2_prepare_auto_wrap_policy(plugin, model)
    blocks = [f"backbone.encoder.layer.{i}" for i in range(4)]
    assert [name for name, module in model.named_modules() if wrapped(module)] == blocks


@pytest.fixture(scope="module")
def sharded(tmp_path_factory, run_script):
    return run_script(Path(__file__).parent / "sharded_processes.py", tmp_path_factory.mktemp("sharded"), 2)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["relative", "metric"])
def test_fsdp2__sharded_model_learns_as_the_whole_one(sharded, kind):
    for rank, found in enumerate(found[kind] for found in sharded):
        assert found["sharded_modules"] == ["", *(f"backbone.encoder.layer.{i}" for i in range(4))]
        assert found["sharded_losses"] == pytest.approx([found["losses"][rank]], rel=1e-6)
        assert found["sharded_gradients"].keys() == found["gradients"].keys()
        for name, gradient in found["gradients"].items():
            torch.testing.assert_close(found["sharded_gradients"][name], gradient, rtol=1e-4, atol=1e-6, msg=name)
        assert found["gradients"]["backbone.embeddings.mask_token"] is None  # frozen, beside others that learn
        for name, values in found["state"].items():
            torch.testing.assert_close(found["sharded_state"][name], values, rtol=1e-5, atol=1e-7, msg=name)
    first, second = (found[kind] for found in sharded)
    assert first["losses"][0] != pytest.approx(first["losses"][1], rel=1e-3)  # else either rank's gradient would do
    weights = sum(values.numel() for values in first["state"].values())
    assert first["kept"] + second["kept"] == weights
    assert first["kept"] < 0.6 * weights


@pytest.fixture
def launch(tmp_path, labels):
    """Function that runs a configuration's own command on a tiny model, and returns the folder of the trained one."""

    def run(name: str) -> Path:
        given = {"labels": str(labels), "student": str(tmp_path / "student")}
        tiny = f"--encoder {labels.parent / 'encoder'} --feature_encoder {labels.parent / 'encoder'} --report_to none"
        tiny += " --image_height 32 --image_width 40 --max_steps 2 --per_device_train_batch_size 2 --save_steps 2"
        words = [given.get(word, word) for word in command(BY_NAME[name])]
        port = ["--main_process_port", "0"]
        environment = {key: value for key, value in os.environ.items() if not key.startswith("ACCELERATE_")}
        done = subprocess.run(
            [sys.executable, "-m", "accelerate.commands.launch", *port, *words, *tiny.split()],
            env=environment | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr[-4000:]
        return tmp_path / "student"

    return run


@pytest.fixture
def labels(tmp_path, pseudo_labeled, tiny_dinov2_config):
    Dinov2Model(tiny_dinov2_config).save_pretrained(tmp_path / "encoder")
    write_image_folder(pseudo_labeled, tmp_path / "labels")
    return tmp_path / "labels"


@pytest.fixture
def tiny_dinov2_config():
    sizes = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2, "mlp_ratio": 2}
    return Dinov2Config(image_size=40, patch_size=8, **sizes)


@pytest.mark.slow
def test_cpu__its_command_trains_one_model_in_two_processes(launch):
    student = launch("cpu")
    assert AutoModelForDepthEstimation.from_pretrained(student).config.depth_estimation_type == "relative"
    states = {path.name for path in (student / "checkpoint-2").glob("rng_state*.pth")}
    assert states == {"rng_state_0.pth", "rng_state_1.pth"}  # one process alone writes rng_state.pth


@pytest.mark.skipif(not torch.cuda.is_available(), reason="single_gpu.yaml needs a CUDA GPU")
def test_single_gpu__its_command_trains(launch):
    student = launch("single_gpu")
    assert AutoModelForDepthEstimation.from_pretrained(student).config.depth_estimation_type == "relative"
    assert (student / "checkpoint-2" / "rng_state.pth").is_file()
