import numpy as np
import pytest
import torch
from transformers import Dinov2Config, Dinov2Model, ProgressCallback, TrainerCallback

from depth_anything_hf import DepthAnythingForDepthEstimation, DepthAnythingImageProcessor, config_for_encoder
from depth_anything_hf.data.records import encode_record
from depth_anything_hf.scenes.simple import LABELED_DOMAIN, UNLABELED_DOMAIN, iter_synthetic_records
from depth_anything_hf.training.arguments import DepthAnythingTrainingArguments
from depth_anything_hf.training.trainer import DepthAnythingTrainer

HEIGHT, WIDTH, PATCH = 32, 40, 8


@pytest.fixture(autouse=True)
def _seeded(one_thread):
    torch.manual_seed(0)


class LogKeeper(TrainerCallback):
    """Keep every log and every grouped learning rate, unrounded."""

    def __init__(self):
        self.logs, self.rates = [], []

    def on_step_begin(self, args, state, control, optimizer=None, **kwargs):
        self.rates.append([group["lr"] for group in optimizer.param_groups])

    def on_log(self, args, state, control, logs=None, **kwargs):
        self.logs.append(dict(logs))


def encoder_config(width=32, **settings):
    return Dinov2Config(
        image_size=WIDTH,
        patch_size=PATCH,
        hidden_size=width,
        num_hidden_layers=4,
        num_attention_heads=2,
        mlp_ratio=2,
        **settings,
    )


@pytest.fixture(scope="session")
def make_model():
    def make(seed=0, max_depth=None, **settings):
        torch.manual_seed(seed)
        return DepthAnythingForDepthEstimation(config_for_encoder(encoder_config(**settings), max_depth=max_depth))

    return make


@pytest.fixture(scope="session")
def make_encoder():
    def make(width=32, seed=9, **settings):
        torch.manual_seed(seed)
        return Dinov2Model(encoder_config(width, **settings)).eval()

    return make


@pytest.fixture(scope="session")
def processor():
    return DepthAnythingImageProcessor(size={"height": HEIGHT, "width": WIDTH}, ensure_multiple_of=PATCH)


@pytest.fixture(scope="session")
def labeled():
    scenes = iter_synthetic_records(5, 36, 48, seed=0, domain=LABELED_DOMAIN)
    return [encode_record(s["image"], s["depth"], sky=s["sky"], source=s["source"]) for s in scenes]


@pytest.fixture(scope="session")
def photographs():
    scenes = iter_synthetic_records(7, 36, 48, seed=100, domain=UNLABELED_DOMAIN)
    return [encode_record(s["image"], source=s["source"]) for s in scenes]


@pytest.fixture(scope="session")
def pseudo_labeled():
    """Seven photographs with a disparity at every pixel, as a teacher would label them."""
    rows = torch.linspace(0.1, 1, 36)[:, None].expand(36, 48)
    records = []
    for i, s in enumerate(iter_synthetic_records(7, 36, 48, seed=100, domain=UNLABELED_DOMAIN)):
        disparity = rows + 0.3 * torch.sin(torch.arange(48) / (2 + i)) + 0.3
        records.append(encode_record(s["image"], disparity.numpy(), space="disparity", source=s["source"]))
    return records


@pytest.fixture
def make_args(tmp_path):
    def make(**settings):
        defaults = {
            "output_dir": str(tmp_path / "run"),
            "max_steps": 2,
            "per_device_train_batch_size": 6,
            "learning_rate": 1e-4,
            "logging_steps": 1,
            "save_strategy": "no",
            "report_to": "none",
            "use_cpu": True,
            "dataloader_pin_memory": False,
            "disable_tqdm": True,
        }
        return DepthAnythingTrainingArguments(**(defaults | settings))

    return make


@pytest.fixture
def make_trainer(make_args, processor):
    def make(model, arguments=None, **settings):
        trainer = DepthAnythingTrainer(model, make_args(**(arguments or {})), processing_class=processor, **settings)
        trainer.remove_callback(ProgressCallback)
        trainer.keeper = LogKeeper()
        trainer.add_callback(trainer.keeper)
        return trainer

    return make


@pytest.fixture(scope="session")
def coordinate_record():
    """A record whose colors and depth both say where a pixel is: red the column, green the row."""

    def make(height=40, width=60, space="disparity", sky=None):
        rows, columns = np.meshgrid(np.arange(height), np.arange(width), indexing="ij")
        image = np.stack([columns * 4, rows * 4, np.zeros_like(rows)], -1).astype(np.uint8)
        values = 1 + rows * 100.0 + columns
        return encode_record(image, values, space=space, sky=sky, source="coordinates")

    return make
