"""Write a model as an ONNX graph for any batch, height and width."""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch
from torch import nn
from torch.nn import functional as F

from depth_anything_hf.model.modeling import DepthAnythingForDepthEstimation

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

# The version that torch.onnx (2.6 and later) writes; a higher one would need a conversion.
OPSET = 18
INPUT, OUTPUT = "pixel_values", "predicted_depth"  # names in transformers, optimum and transformers.js
LARGEST_FILE = 1_900_000_000  # bytes of weights inside the file: protobuf ends at 2 GiB, and the graph needs space too


def check_installed() -> None:
    """Raise an `ImportError` that says what to install, if a library for the export is missing."""
    missing = [name for name in ("onnx", "onnxruntime", "onnxscript") if find_spec(name) is None]
    if missing:
        raise ImportError(f'an export needs {", ".join(missing)}: pip install "depth_anything_hf[onnx]".')


class _Network(nn.Module):
    """Compute the depth without a step that fixes the size of the images.

    The stock head calls `int()` on the traced height and width: the example's size would become every output's size.
    """

    def __init__(self, model: DepthAnythingForDepthEstimation):
        super().__init__()
        self.model = model

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Predict `(batch, height, width)` float32 from `(batch, 3, height, width)` float32."""
        model, head, patch = self.model, self.model.head, _patch_size(self.model)
        height, width = pixel_values.shape[-2:]
        features = model.backbone(pixel_values).feature_maps
        fused = model.neck(features, height // patch, width // patch)[head.head_in_index]
        depth = F.interpolate(head.conv1(fused), (height, width), mode="bilinear", align_corners=True)
        depth = head.conv3(head.activation1(head.conv2(depth)))  # (batch, 1, height, width)
        # In float32: the steps of float16 are 6 cm at 80 m.
        return (head.activation2(depth.float()) * head.max_depth).squeeze(1)


def write_graph(model: DepthAnythingForDepthEstimation, path: Path, half: bool = False) -> None:
    """Write a model (on the CPU) as ONNX: `pixel_values` float32 in, `predicted_depth` float32 out, both of any size.

    Weights of more than `LARGEST_FILE` bytes go to `path` + ".data". With `half` they are stored, and all is computed, in
    float16.
    """
    from onnx_ir.passes.common import ClearMetadataAndDocStringPass

    network = _Network(copy.deepcopy(model)).eval()
    network.model.set_attn_implementation("eager")  # the fused one is exported with guards against empty rows
    network = network.half() if half else network.float()
    patch = _patch_size(model)
    # 5 x 7 patches are no square, so that transformers always resizes the position embeddings.
    example = torch.zeros(2, 3, 5 * patch, 7 * patch)
    height, width = (patch * torch.export.Dim(f"patch_{side}") for side in ("rows", "columns"))
    with _quiet(), torch.no_grad():
        program = torch.onnx.export(
            network,
            (example,),
            dynamo=True,
            opset_version=OPSET,
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_shapes={INPUT: {0: torch.export.Dim("batch"), 2: height, 3: width}},
            verbose=False,
        )
        assert program is not None  # only the old exporter, without dynamo, returns None
        ClearMetadataAndDocStringPass()(program.model)  # stack traces have paths of this machine
        size = sum(values.numel() * values.element_size() for values in network.state_dict().values())
        program.save(str(path), external_data=size > LARGEST_FILE)


def write_int8(source: Path, path: Path) -> None:
    """Write a float32 graph of `write_graph` with the encoder's matrix products in 8-bit integers.

    The convolutions stay in float32: onnxruntime has no CPU kernel for them with signed 8-bit weights. Each output channel
    of the weights has its own scale. The scale of the activations is computed for each input, without calibration.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with _quiet():
        quantize_dynamic(
            source,
            path,
            op_types_to_quantize=["MatMul"],
            per_channel=True,
            reduce_range=True,  # 7 bits per weight: with 8, CPUs without VNNI saturate
            weight_type=QuantType.QInt8,
            use_external_data_format=Path(f"{source}.data").exists(),
        )


def annotate(path: Path, metadata: Mapping[str, str]) -> None:
    """Replace the metadata of an ONNX file; weights beside it stay unchanged."""
    import onnx

    graph = onnx.load(path, load_external_data=False)
    onnx.helper.set_model_props(graph, dict(metadata))
    onnx.save(graph, path)


def open_session(path: Path) -> InferenceSession:
    """Open an ONNX file in onnxruntime, on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def _patch_size(model: DepthAnythingForDepthEstimation) -> int:
    return cast(int, model.config.patch_size)  # the stock configuration also allows a pair; its model does not


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the warnings of the exporters: they concern their own internals."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
