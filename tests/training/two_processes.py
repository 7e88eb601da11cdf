"""What each process of the distributed test runs: train a student, evaluate it, and write what it saw to a folder."""

import os
import sys
from pathlib import Path

import numpy as np
import torch
from transformers import Dinov2Config, Dinov2Model

from depth_anything_hf import DepthAnythingForDepthEstimation, DepthAnythingImageProcessor, config_for_encoder
from depth_anything_hf.data.records import encode_record
from depth_anything_hf.training.arguments import DepthAnythingTrainingArguments
from depth_anything_hf.training.trainer import DepthAnythingTrainer

PATCH, SIZE = 8, (32, 40)


def records(count, first, with_depth):
    """Make random images; the depth follows the brightness."""
    made = []
    for i in range(first, first + count):
        generator = np.random.default_rng(i)
        image = generator.integers(0, 255, (*SIZE, 3)).astype(np.uint8)
        depth = 1 + image.mean(axis=-1) / 64 + generator.random(SIZE)
        made.append(encode_record(image, depth if with_depth else None, source=f"image {i}"))
    return made


def encoder_config(width):
    sizes = {"hidden_size": width, "num_hidden_layers": 4, "num_attention_heads": 2, "mlp_ratio": 2}
    return Dinov2Config(image_size=40, patch_size=PATCH, **sizes)


def model(seed):
    torch.manual_seed(seed)
    return DepthAnythingForDepthEstimation(config_for_encoder(encoder_config(32)))


def main(out: Path, resume: str | None = None) -> None:
    torch.set_num_threads(1)
    teacher = model(1)
    arguments = DepthAnythingTrainingArguments(
        str(out / "run"),
        max_steps=5,
        gradient_accumulation_steps=2,
        labeled_batch_size=1,
        unlabeled_batch_size=2,
        learning_rate=1e-3,
        per_device_eval_batch_size=2,
        logging_steps=5,
        save_strategy="steps",
        save_steps=2,
        report_to="none",
        use_cpu=True,
        ddp_backend="gloo" if "RANK" in os.environ else None,
        ddp_find_unused_parameters=False,
        dataloader_pin_memory=False,
        disable_tqdm=True,
    )
    torch.manual_seed(2)
    trainer = DepthAnythingTrainer(
        model(0),
        arguments,
        DepthAnythingImageProcessor(size={"height": SIZE[0], "width": SIZE[1]}, ensure_multiple_of=PATCH),
        train_dataset=records(5, 0, True),
        unlabeled_dataset=records(18, 100, False),
        teacher=teacher,
        feature_encoder=Dinov2Model(encoder_config(48)),
        eval_dataset=records(7, 50, True),
    )
    before = trainer.evaluate()
    seen, slopes, terms = [], [], []
    compute_loss = trainer.compute_loss
    projector = trainer.feature_projector

    def watched(wrapped, inputs, **kwargs):
        seen.append(list(inputs["sources"]))
        loss = compute_loss(wrapped, inputs, **kwargs)
        terms.append({name: values[-1].item() for name, values in trainer._logged.items()})
        slopes.append(torch.autograd.grad(loss, projector.weight, retain_graph=True)[0] / 2)  # two micro-batches
        return loss

    trainer.compute_loss = watched
    applied = []
    step = torch.optim.AdamW.step

    def stepped(optimizer, *args, **kwargs):
        applied.append(projector.weight.grad.clone())
        return step(optimizer, *args, **kwargs)

    torch.optim.AdamW.step = stepped
    trainer.train(resume_from_checkpoint=resume)
    state = {f"model.{name}": values for name, values in trainer.model.state_dict().items()}
    state |= {f"projector.{name}": values for name, values in projector.state_dict().items()}
    found = {
        **{"state": state, "seen": seen, "slopes": slopes, "terms": terms, "applied": applied, "before": before},
        **{"after": trainer.evaluate(), "logs": trainer.state.log_history},
        **{"world": arguments.world_size, "output_dir": arguments.output_dir},
    }
    torch.save(found, out / f"rank{arguments.process_index}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
