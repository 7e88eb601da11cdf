import gc
import hashlib
import io
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path

# Before PyTorch is imported, and for the processes that tests start too: on a busy machine several threads wait for
# each other, and tiny models train ten times as long.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
import torch
import transformers as hf
from filelock import FileLock
from peft import PeftModel, get_peft_model
from PIL import Image
from transformers import Dinov2Config

from depth_anything_hf import DepthAnythingForDepthEstimation, DepthAnythingImageProcessor, config_for_encoder
from depth_anything_hf.export import graph, onnx
from depth_anything_hf.prediction.adapters import depth_lora_config
from depth_anything_hf.prediction.predictor import load_model

pytest_plugins = ["tests.hub_server"]


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """Run the whole suite, or all but its slow tests, in parallel where pytest-xdist is; a smaller part is done sooner
    in one process.

    Not in `addopts`, where `-n` would be an error without pytest-xdist. Whole files go to a process: fixtures of a
    module are made once.
    """
    whole = config.args_source is pytest.Config.ArgsSource.TESTPATHS and not config.option.keyword
    unsaid = getattr(config.option, "numprocesses", 0) is None  # neither -n nor -p no:xdist
    if whole and unsaid and "PYTEST_XDIST_WORKER" not in os.environ:  # else each process would start others
        config.option.numprocesses, config.option.dist = "logical", "loadfile"
        config.option.maxprocesses = config.option.maxprocesses or 8
        config.option.loadscopereorder = False  # see pytest_collection_modifyitems


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put files first whose tests are mostly slow: at the end, one of them would keep one process busy and others idle."""
    tests = Counter(item.path for item in items)
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -slow[item.path] / tests[item.path])


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of the 52 real labeled images; the test skips where it is missing."""
    default = Path(__file__).parents[2] / "shared" / "data"
    folder = Path(os.environ.get("DEPTH_ANYTHING_HF_REAL_DATA") or default)
    if not (folder / "metadata.jsonl").is_file():
        pytest.skip(f"no real data at {folder}: set DEPTH_ANYTHING_HF_REAL_DATA to the folder of the labelled images")
    return folder


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """One thread for a module: another number may give another last bit, and small tensors are no faster with more."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.hookimpl(trylast=True)
def pytest_collection_finish() -> None:
    """Let the garbage collection pass over what is imported by now: each `Trainer` would search it again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def start() -> Iterator[Callable[..., dict]]:
    """Function that runs a command or a script in forked processes on the CPU; `tests/labeling/starter.py` says how."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ACCELERATE_")}
    environment |= {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, str(Path(__file__).parent / "labeling" / "starter.py")]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as starter:

        def run(**request) -> dict:
            print(json.dumps(request), file=starter.stdin, flush=True)
            return json.loads(starter.stdout.readline())

        yield run
        starter.stdin.close()


@pytest.fixture(scope="session")
def run_script(start) -> Callable[..., list]:
    """Function that runs a script in one or more processes on the CPU: `run_script(script, out, processes, *arguments)`.

    The script is given `out` and writes `rank*.pt` there; their contents are returned, in the order of the ranks.
    """

    def run(script: Path, out: Path, processes: int, *arguments: str) -> list:
        words = [str(word) for word in (out, *arguments)]
        for _ in range(2):  # gloo itself may crash on a busy machine, seen once in dozens of runs: then once more
            done = start(script=str(script), arguments=words, processes=processes, kill_after=300)
            if -signal.SIGSEGV not in done["codes"]:
                break
        ends = [signal.Signals(-code).name if code < 0 else code for code in done["codes"]]
        assert ends == [0] * processes, f"{ends}: {done['output'][-4000:]}"
        return [torch.load(path, weights_only=False) for path in sorted(out.glob("rank*.pt"))]

    return run


@pytest.fixture(scope="session")
def trace_once(tmp_path_factory) -> Callable[..., AbstractContextManager]:
    """Context manager in which a model that was written as ONNX before, in any process of the suite, is copied.

    Tracing takes 15 seconds. What it printed is printed with each copy.
    """
    folder = tmp_path_factory.getbasetemp()
    folder = folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder
    trace = graph.write_graph

    def write(model: torch.nn.Module, path: Path, half: bool = False) -> None:
        config = {**model.config.to_dict(), "_name_or_path": "", "half": half}
        weights = (values.numpy().tobytes() for values in model.state_dict().values())
        key = hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode() + b"".join(weights)).hexdigest()
        kept, printed = folder / f"{key}.onnx", folder / f"{key}.txt"
        with FileLock(f"{kept}.lock"):
            if not printed.exists():
                noise, logs = io.StringIO(), logging.StreamHandler()
                logs.stream = noise
                logging.root.addHandler(logs)
                with redirect_stdout(noise), redirect_stderr(noise), warnings.catch_warnings(record=True) as warned:
                    trace(model, kept, half)
                logging.root.removeHandler(logs)
                noise.writelines(str(one) for one in warned if one.category is not DeprecationWarning)
                printed.write_text(noise.getvalue())
        shutil.copy(kept, path)
        sys.stderr.write(printed.read_text())

    @contextmanager
    def patched() -> Iterator[None]:
        with pytest.MonkeyPatch.context() as patch:
            for owner in (graph, onnx):
                patch.setattr(owner, "write_graph", write)
            yield

    return patched


@pytest.fixture
def adapt() -> Callable[..., PeftModel]:
    """Function that adapts a saved model and moves what it trains, as training would: `adapt(base, decoder="full")`."""

    def adapt(base: str, decoder: str = "full") -> PeftModel:
        model, _ = load_model(base)
        torch.manual_seed(0)
        adapted = get_peft_model(model, depth_lora_config(rank=2, decoder=decoder)).eval()
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for parameter in adapted.parameters():
                if parameter.requires_grad:
                    size = 0.5 if decoder == "frozen" else 0.05
                    parameter += size * torch.randn(parameter.shape, generator=generator)
        return adapted

    return adapt


@pytest.fixture
def tiny_encoder_config() -> Dinov2Config:
    """A DINOv2 encoder of 4 blocks for images of 56 x 56 pixels: 16 patches."""
    return Dinov2Config(image_size=56, hidden_size=32, num_hidden_layers=4, num_attention_heads=2)


@pytest.fixture
def make_model(tiny_encoder_config) -> Callable[..., DepthAnythingForDepthEstimation]:
    """Function that makes a tiny model: `make_model(version="v2", max_depth=None, seed=0)`."""

    def make(version: str = "v2", max_depth: float | None = None, seed: int = 0) -> DepthAnythingForDepthEstimation:
        torch.manual_seed(seed)
        return DepthAnythingForDepthEstimation(config_for_encoder(tiny_encoder_config, version, max_depth))

    return make


@pytest.fixture
def tiny_processor() -> DepthAnythingImageProcessor:
    """Processor of the tiny models: `lower_bound` of 56 x 56 pixels."""
    return DepthAnythingImageProcessor(size={"height": 56, "width": 56})


@pytest.fixture
def noise_image() -> Callable[..., Image.Image]:
    """Function that draws an RGB image of noise: `noise_image(height, width, seed=0)`."""

    def draw(height: int, width: int, seed: int = 0) -> Image.Image:
        return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))

    return draw


_VIT = {"hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2}


def _dpt():
    sizes = {"backbone_out_indices": [0, 1, 2, 3], "neck_hidden_sizes": [8, 8, 8, 8], "fusion_hidden_size": 8}
    config = hf.DPTConfig(
        **_VIT,
        **sizes,
        intermediate_size=32,
        image_size=64,
        is_hybrid=False,
        readout_type="ignore",
        initializer_range=0.15,
    )  # or all predictions would be 1
    model = hf.DPTForDepthEstimation(config)
    torch.nn.init.constant_(model.head.head[-2].bias, 1.0)  # above zero
    return model, hf.DPTImageProcessor()


def _zoedepth():
    more = {"intermediate_size": 32, "out_indices": [1, 2, 3, 4], "reshape_hidden_states": False}
    sizes = {"neck_hidden_sizes": [8, 8, 8, 8], "fusion_hidden_size": 8, "bottleneck_features": 8}
    sizes |= {"num_relative_features": 8, "num_attractors": [4, 2, 2, 1], "bin_embedding_dim": 8}
    config = hf.ZoeDepthConfig(
        backbone_config=hf.BeitConfig(**_VIT, **more, image_size=64), **sizes, initializer_range=0.15
    )
    return hf.ZoeDepthForDepthEstimation(config), hf.ZoeDepthImageProcessor()


def _glpn():
    sizes = {"hidden_sizes": [8, 8, 16, 16], "num_attention_heads": [1, 1, 2, 2], "depths": [1, 1, 1, 1]}
    return hf.GLPNForDepthEstimation(hf.GLPNConfig(**sizes, decoder_hidden_size=8)), hf.GLPNImageProcessor()


def _depth_pro():
    pytest.importorskip("torchvision", reason="transformers has Depth Pro's processor for torchvision alone")
    vit = _VIT | {"model_type": "dinov2", "num_hidden_layers": 2, "patch_size": 8, "image_size": 32}
    sizes = {"patch_size": 32, "fusion_hidden_size": 16, "intermediate_hook_ids": [1, 0]}
    sizes |= {"intermediate_feature_dims": [8, 8], "scaled_images_feature_dims": [8, 8]}
    sizes |= {"scaled_images_ratios": [0.5, 1.0], "scaled_images_overlap_ratios": [0.0, 0.2]}
    encoders = dict.fromkeys(("image_model_config", "patch_model_config", "fov_model_config"), vit)
    model = hf.DepthProForDepthEstimation(hf.DepthProConfig(**sizes, **encoders, use_fov_model=True))
    torch.nn.init.constant_(model.head.layers[-2].bias, 1.0)
    return model, hf.DepthProImageProcessor(size={"height": 64, "width": 64})


def _prompt_depth_anything():
    more = {"image_size": 56, "patch_size": 14, "out_indices": [1, 2, 3, 4], "reshape_hidden_states": False}
    sizes = {"reassemble_hidden_size": 16, "neck_hidden_sizes": [8, 8, 8, 8], "fusion_hidden_size": 8}
    sizes |= {"head_hidden_size": 8, "depth_estimation_type": "metric", "max_depth": 20}
    config = hf.PromptDepthAnythingConfig(backbone_config=Dinov2Config(**_VIT, **more), **sizes)
    processor = hf.PromptDepthAnythingImageProcessor(size={"height": 56, "width": 56})
    return hf.PromptDepthAnythingForDepthEstimation(config), processor


_FAMILIES = {make.__name__[1:]: make for make in (_dpt, _zoedepth, _glpn, _depth_pro, _prompt_depth_anything)}


@pytest.fixture
def save_family(tmp_path) -> Callable[[str], str]:
    """Function that saves a tiny model of another family with its processor: `save_family("dpt")` returns the folder."""

    def save(family: str) -> str:
        torch.manual_seed(0)
        for part in _FAMILIES[family]():
            part.save_pretrained(tmp_path / family)
        return str(tmp_path / family)

    return save
