"""What each process of the distributed test runs: train a student, evaluate it, and write what it saw to a folder.

One process alone takes batches twice as large, so that two together do the same work.
"""

import os
import signal
import sys
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from transformers import Dinov2Config, Dinov2Model, Trainer, TrainingArguments

from depth_anything_hf import DepthAnythingForDepthEstimation, DepthAnythingImageProcessor, config_for_encoder
from depth_anything_hf.data.records import encode_record, record_features
from depth_anything_hf.training.arguments import DepthAnythingTrainingArguments
from depth_anything_hf.training.collator import DepthCollator
from depth_anything_hf.training.trainer import DepthAnythingTrainer

PATCH, SIZE = 8, (32, 40)


def records(count, first, with_depth):
    """Make random images; the depth follows the brightness and the row."""
    made = []
    for i in range(first, first + count):
        generator = np.random.default_rng(i)
        coarse = generator.integers(0, 223, (SIZE[0] // 8, SIZE[1] // 8, 3))
        image = (coarse.repeat(8, axis=0).repeat(8, axis=1) + generator.integers(0, 32, (*SIZE, 3))).astype(np.uint8)
        depth = 2 + image.mean(axis=-1) / 255 + np.linspace(2, 0, SIZE[0])[:, None]
        made.append(encode_record(image, depth if with_depth else None, source=f"image {i}"))
    return made


def encoder_config(width):
    sizes = {"hidden_size": width, "num_hidden_layers": 4, "num_attention_heads": 2, "mlp_ratio": 2}
    return Dinov2Config(image_size=40, patch_size=PATCH, **sizes)


def model(seed):
    torch.manual_seed(seed)
    made = DepthAnythingForDepthEstimation(config_for_encoder(encoder_config(32)))
    # A fresh head predicts nearly one value, and which pixel is the median would hang on the last bit.
    with torch.no_grad():
        made.head.conv3.weight *= 30
    return made.double()  # in float32 a processor's rounding can turn the sign of a residual near 0


IN_ALL = 2 // int(os.environ.get("WORLD_SIZE", "1"))  # how much larger the batch of one process is
ON_THE_CPU = {
    "report_to": "none",
    "use_cpu": True,
    "ddp_backend": "gloo" if "RANK" in os.environ else None,
    "dataloader_pin_memory": False,
    "disable_tqdm": True,
    "logging_steps": 1,
}


def train_stock(out: Path) -> dict:
    """Train with the stock Trainer; return the logged losses and the weights."""
    settings = {"max_steps": 4, "per_device_train_batch_size": 2 * IN_ALL, "learning_rate": 1e-4, "adam_epsilon": 1e-3}
    trainer = Trainer(
        model(3),
        TrainingArguments(
            str(out / "stock"), remove_unused_columns=False, save_strategy="no", **settings, **ON_THE_CPU
        ),
        train_dataset=records(12, 0, True),
        data_collator=DepthCollator(
            processor(), model(3), flip_probability=0.0
        ),  # its other draws are the process's own
    )
    trainer.train()
    losses = [log["loss"] for log in trainer.state.log_history if "loss" in log]
    return {"stock_losses": losses, "stock_state": trainer.model.state_dict()}


def train_stream(out: Path) -> dict:
    """Train on a stream of 12 records in 4 shards; return the names of the images that this process saw."""
    stream = Dataset.from_list(records(12, 0, True), features=record_features()).to_iterable_dataset(num_shards=4)
    settings = {"max_steps": 3, "per_device_train_batch_size": 2 * IN_ALL, "feature_alignment_weight": 0.0}
    arguments = DepthAnythingTrainingArguments(str(out / "stream"), save_strategy="no", **settings, **ON_THE_CPU)
    trainer = DepthAnythingTrainer(model(4), arguments, processing_class=processor(), unlabeled_dataset=stream)
    seen, compute_loss = [], trainer.compute_loss
    trainer.compute_loss = lambda wrapped, inputs, **kwargs: (
        seen.extend(inputs["sources"]) or compute_loss(wrapped, inputs, **kwargs)
    )
    trainer.train()
    return {"streamed": seen}


def processor():
    return DepthAnythingImageProcessor(size={"height": SIZE[0], "width": SIZE[1]}, ensure_multiple_of=PATCH)


def main(out: Path, resume: str | None = None, kill: str | None = None) -> None:
    torch.set_num_threads(1)
    found = {} if resume else train_stock(out) | train_stream(out)
    teacher = model(1)
    arguments = DepthAnythingTrainingArguments(
        str(out / "run"),
        max_steps=5,
        gradient_accumulation_steps=2,
        labeled_batch_size=IN_ALL,
        unlabeled_batch_size=2 * IN_ALL,
        learning_rate=1e-4,
        adam_epsilon=1e-3,  # else the sign of a gradient that is nothing but rounding moves a weight
        per_device_eval_batch_size=2,
        save_strategy="steps",
        save_steps=2,
        **ON_THE_CPU | {"logging_steps": 5},
    )
    torch.manual_seed(2)
    trainer = DepthAnythingTrainer(
        model(0),
        arguments,
        processing_class=processor(),
        train_dataset=[*records(4, 0, True), *records(1, 4, False)],  # a loss is a mean over all that have a label
        unlabeled_dataset=records(18, 100, False),
        teacher=teacher,
        feature_encoder=Dinov2Model(encoder_config(48)).double(),
        eval_dataset=records(7, 50, True),
    )
    before = trainer.evaluate()
    seen, slopes, terms = [], [], []
    compute_loss = trainer.compute_loss
    projector = trainer.feature_projector.double()

    def watched(wrapped, inputs, **kwargs):
        if kill and trainer.state.global_step == 4 and arguments.process_index == 1:
            os.kill(os.getpid(), signal.SIGKILL)
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
    found |= {
        **{"state": state, "seen": seen, "slopes": slopes, "terms": terms, "applied": applied, "before": before},
        **{"after": trainer.evaluate(), "logs": trainer.state.log_history},
        **{"world": arguments.world_size, "output_dir": arguments.output_dir},
    }
    torch.save(found, out / f"rank{arguments.process_index}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
    if torch.distributed.is_initialized():  # else gloo's threads may outlive the interpreter, which aborts
        torch.distributed.destroy_process_group()
