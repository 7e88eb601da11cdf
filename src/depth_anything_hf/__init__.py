"""Train, label with, measure and share Depth Anything in the Hugging Face ecosystem.

Names are imported on first use, so that `import depth_anything_hf` does not wait for PyTorch.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from depth_anything_hf.version import __version__

_HOME_OF = {
    "DepthAnythingForDepthEstimation": "model.modeling",
    "DepthAnythingImageProcessor": "model.image_processing",
    "DepthAnythingTrainer": "training.trainer",
    "DepthAnythingTrainingArguments": "training.arguments",
    "DepthCollator": "training.collator",
    "DepthPredictor": "prediction.predictor",
    "LabelingArguments": "labeling.arguments",
    "LossTerm": "losses.terms",
    "StrongPerturbation": "augmentation.colors",
    "config_for": "model.configuration",
    "config_for_encoder": "model.configuration",
    "depth_lora_config": "prediction.adapters",
    "export_encoder": "export.encoder",
    "export_onnx": "export.onnx",
    "label_images": "labeling.engine",
    "load_folder": "data.folder",
    "load_images": "data.folder",
    "load_model": "prediction.predictor",
    "load_pairs": "data.pairs",
    "open_reader": "data.readers",
    "predict_depth": "prediction.predictor",
    "predict_tiled": "prediction.tiling",
    "push_to_hub": "sharing.hub",
    "score_models": "evaluation.compare",
    "stream_folder": "data.folder",
    "to_control_image": "pictures.control_image",
}
__all__ = ["__version__", *_HOME_OF]

if TYPE_CHECKING:
    from depth_anything_hf.augmentation.colors import StrongPerturbation
    from depth_anything_hf.data.folder import load_folder, load_images, stream_folder
    from depth_anything_hf.data.pairs import load_pairs
    from depth_anything_hf.data.readers import open_reader
    from depth_anything_hf.evaluation.compare import score_models
    from depth_anything_hf.export.encoder import export_encoder
    from depth_anything_hf.export.onnx import export_onnx
    from depth_anything_hf.labeling.arguments import LabelingArguments
    from depth_anything_hf.labeling.engine import label_images
    from depth_anything_hf.losses.terms import LossTerm
    from depth_anything_hf.model.configuration import config_for, config_for_encoder
    from depth_anything_hf.model.image_processing import DepthAnythingImageProcessor
    from depth_anything_hf.model.modeling import DepthAnythingForDepthEstimation
    from depth_anything_hf.pictures.control_image import to_control_image
    from depth_anything_hf.prediction.adapters import depth_lora_config
    from depth_anything_hf.prediction.predictor import DepthPredictor, load_model, predict_depth
    from depth_anything_hf.prediction.tiling import predict_tiled
    from depth_anything_hf.sharing.hub import push_to_hub
    from depth_anything_hf.training.arguments import DepthAnythingTrainingArguments
    from depth_anything_hf.training.collator import DepthCollator
    from depth_anything_hf.training.trainer import DepthAnythingTrainer


def __getattr__(name: str):
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(sorted(_HOME_OF))}")
    return getattr(import_module(f"{__name__}.{_HOME_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
