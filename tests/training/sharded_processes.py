"""What each process of the sharding test runs: the loss and gradients of a sharded model, and of the same one whole."""

import copy
import sys
from pathlib import Path
from types import SimpleNamespace

import torch
from accelerate.utils import FullyShardedDataParallelPlugin
from accelerate.utils.fsdp_utils import fsdp2_prepare_model
from torch import distributed
from torch.distributed.fsdp import FSDPModule
from transformers import Dinov2Config

from depth_anything_hf import DepthAnythingForDepthEstimation, config_for_encoder


def make_model(max_depth):
    torch.manual_seed(0)
    encoder = Dinov2Config(image_size=56, hidden_size=32, num_hidden_layers=4, num_attention_heads=2)
    return DepthAnythingForDepthEstimation(config_for_encoder(encoder, max_depth=max_depth)).train()


def shard(model):
    """Shard as accelerate does with `fsdp2.yaml`: each block of the encoder by itself, and all else at the root."""
    plugin = FullyShardedDataParallelPlugin(
        fsdp_version=2,
        auto_wrap_policy="transformer_based_wrap",
        transformer_cls_names_to_wrap=["Dinov2Layer"],
        reshard_after_forward=True,
        cpu_ram_efficient_loading=False,
    )
    # An Accelerator on the CPU would leave FSDP out without a word.
    accelerator = SimpleNamespace(
        state=SimpleNamespace(fsdp_plugin=plugin), mixed_precision="no", is_main_process=distributed.get_rank() == 0
    )
    return fsdp2_prepare_model(accelerator, model)


def batches(max_depth, processes):
    """Make each process's own images and labels."""
    generator = torch.Generator().manual_seed(1)
    shape = (processes, 2, 56, 56)
    images = torch.randn(processes, 2, 3, 56, 56, generator=generator)
    return list(zip(images, torch.rand(shape, generator=generator) * (max_depth or 1) + 0.01, strict=True))


def step(model, data):
    """Run one update, and give the loss of each batch and the gradients before the update."""
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    losses = []
    for images, labels in data:
        output = model(images, labels=labels, output_features=True)
        loss = output.loss + output.features.square().mean()  # as the alignment does: a second way into the encoder
        (loss / len(data)).backward()
        losses.append(loss.item())
    gradients = {name: whole(p.grad) for name, p in model.named_parameters()}
    optimizer.step()
    return losses, gradients


def whole(values):
    """Gather a sharded tensor, after which it no longer depends on the processes."""
    return values.full_tensor() if hasattr(values, "full_tensor") else values


def main(out: Path) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo")
    rank, processes = distributed.get_rank(), distributed.get_world_size()
    found = {}
    for kind, max_depth in {"relative": None, "metric": 20.0}.items():
        model = make_model(max_depth)
        sharded = shard(copy.deepcopy(model))
        data = batches(max_depth, processes)
        losses, gradients = step(model, data)
        own_losses, own_gradients = step(sharded, data[rank : rank + 1])
        found[kind] = {
            **{"losses": losses, "gradients": gradients, "state": model.state_dict()},
            **{"sharded_losses": own_losses, "sharded_gradients": own_gradients},
            "sharded_state": {name: whole(values) for name, values in sharded.state_dict().items()},
            "sharded_modules": [name for name, module in sharded.named_modules() if isinstance(module, FSDPModule)],
            "kept": sum(p.to_local().numel() for p in sharded.parameters()),
        }
    torch.save(found, out / f"rank{rank}.pt")
    distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
