"""Prove that a checkpoint does not need this package: stock transformers predicts the same."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from depth_anything_hf.model.image_processing import DepthAnythingImageProcessor
from depth_anything_hf.model.modeling import DepthAnythingForDepthEstimation
from depth_anything_hf.prediction.predictor import predict_depth

WITHOUT_US = """
import sys
sys.modules["depth_anything_hf"] = None  # importing it now raises ImportError
try:
    import depth_anything_hf
except ImportError:
    pass
else:
    sys.exit("depth_anything_hf could be imported")
"""
PROOF = f"""{WITHOUT_US}
import json
import numpy as np
from transformers import pipeline
folder, images, out = sys.argv[1], json.loads(sys.argv[2]), sys.argv[3]
depths = [result["predicted_depth"].numpy() for result in map(pipeline("depth-estimation", model=folder), images)]
np.savez(out, *depths)
"""


def prove_stock_pipeline(folder: Path, images: Sequence[Image.Image], work_dir: Path) -> float:
    """Load a checkpoint in stock `pipeline("depth-estimation")`, in a process that cannot import this package.

    The images may have any sizes; they and the stock predictions are written to `work_dir`.

    Returns:
        `float`: The largest difference between the stock prediction and ours.

    Raises:
        RuntimeError: The stock pipeline failed; the message contains its output.
    """
    work_dir.mkdir(parents=True, exist_ok=True)
    paths = [str(work_dir / f"{i}.png") for i in range(len(images))]
    for image, path in zip(images, paths, strict=True):
        image.save(path)
    out = work_dir / "stock.npz"
    done = subprocess.run(
        [sys.executable, "-c", PROOF, str(folder), json.dumps(paths), str(out)], capture_output=True, text=True
    )
    if done.returncode:
        raise RuntimeError(f"stock transformers could not run {folder}:\n{done.stdout}\n{done.stderr}")
    model = DepthAnythingForDepthEstimation.from_pretrained(folder)
    processor = DepthAnythingImageProcessor.from_pretrained(folder, resize_method="minimal")
    ours = predict_depth(model, processor, [Image.open(path) for path in paths], mode="bicubic")
    with np.load(out) as stock:
        return max(float(np.abs(stock[f"arr_{i}"] - depth.numpy()).max()) for i, depth in enumerate(ours))
