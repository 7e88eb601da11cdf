"""What does a training step cost, in operations and in memory, for each size of encoder? Counted, not timed.

    python benchmarks/training_cost.py

Nothing is computed: the models have tensors without values, so the largest one fits everywhere. Operations are counted by
PyTorch's `FlopCounterMode`, for a forward pass at 518 x 518. Memory is the sum of the tensors that a forward pass keeps for the
backward pass (each storage once, bfloat16 autocast), per image; and weights, gradients and AdamW's two moments in float32, 16
bytes per trained parameter. A step needs more for its largest intermediate results and for the gaps of the allocator.
"""

from __future__ import annotations

import argparse

import torch
from reporting import report
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from depth_anything_hf import DepthAnythingForDepthEstimation, config_for

SIZES = ("small", "base", "large", "giant")
RESOLUTION, BATCH = 518, 2


def empty_model(size: str) -> DepthAnythingForDepthEstimation:
    """Build a model without values."""
    with torch.device("meta"):
        return DepthAnythingForDepthEstimation(config_for(size)).train()


def forward_flops(size: str) -> tuple[float, float]:
    """Count the operations of a forward pass of one image: in the whole model, and in its encoder."""
    model, counts = empty_model(size), []
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        model.to_empty(device="cpu")
        model.backbone.set_attn_implementation("eager")  # the fused one is no known operation without values
        for part in (model, model.backbone):
            with FlopCounterMode(display=False) as counter:
                part(torch.randn(1, 3, RESOLUTION, RESOLUTION))
            counts.append(counter.get_total_flops())
    return tuple(counts)


def kept_for_backward(size: str, checkpointing: bool) -> float:
    """Count the bytes per image that are kept for the backward pass."""
    model = empty_model(size)
    with FakeTensorMode(allow_non_fake_inputs=True):
        model.to_empty(device="cpu")
        if checkpointing:
            model.gradient_checkpointing_enable()
        own = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
        kept = {}

        def keep(tensor: torch.Tensor) -> torch.Tensor:
            storage = tensor.untyped_storage()
            if storage._cdata not in own:
                kept[storage._cdata] = storage  # held, so that its address is not used again
            return tensor

        images = torch.randn(BATCH, 3, RESOLUTION, RESOLUTION)
        hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
        with hooks, torch.autocast("cpu", torch.bfloat16):
            output = model(pixel_values=images, output_features=True)  # noqa: F841 - keeps the graph
        return sum(storage.nbytes() for storage in kept.values()) / BATCH


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    sizes = {}
    for size in SIZES:
        trained = sum(values.numel() for values in empty_model(size).parameters() if values.requires_grad)
        whole, encoder = forward_flops(size)
        sizes[size] = {
            "trained_parameters": trained,
            "forward_gflop": whole / 1e9,
            "encoder_forward_gflop": encoder / 1e9,
            "state_gib": 16 * trained / 2**30,
            "kept_gib_an_image": kept_for_backward(size, checkpointing=False) / 2**30,
            "kept_gib_an_image_with_checkpointing": kept_for_backward(size, checkpointing=True) / 2**30,
        }
    report("training_cost", {"resolution": RESOLUTION, "sizes": sizes})


if __name__ == "__main__":
    main()
