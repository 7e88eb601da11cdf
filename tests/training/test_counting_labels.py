"""The loss is a mean over all images of an update that have a label, however they are divided."""

import numpy as np
import pytest
import torch

from depth_anything_hf.data.records import encode_record

HEIGHT, WIDTH = 32, 40


def record(i, kind):
    """A record of the crop's size whose label is whole, sparse, empty, constant, beyond 20 m, or missing."""
    generator = np.random.default_rng(i)
    image = generator.integers(0, 255, (HEIGHT // 8, WIDTH // 8, 3)).repeat(8, 0).repeat(8, 1).astype(np.uint8)
    depth = 2 + generator.random((HEIGHT, WIDTH)) + np.linspace(3, 0, HEIGHT)[:, None]
    depth = {
        "whole": depth,
        "sparse": np.where(generator.random(depth.shape) < 0.1, depth, np.nan),
        "empty": np.full_like(depth, np.nan),
        "constant": np.full_like(depth, 3.0),
        "beyond": depth * 1000,
        "missing": None,
    }[kind]
    return encode_record(image, depth, source=f"{kind} {i}")


MIXES = {
    "missing": ["whole", "missing", "whole", "whole", "missing", "missing", "sparse", "whole"],
    "empty": ["empty", "empty", "whole", "sparse", "whole", "whole", "whole", "empty"],
    "constant": ["whole", "constant", "whole", "constant", "constant", "whole", "whole", "whole"],
    "beyond": ["whole", "beyond", "beyond", "whole", "sparse", "whole", "whole", "beyond"],
    "one": ["missing", "missing", "missing", "missing", "missing", "whole", "missing", "missing"],
}


@pytest.mark.slow
@pytest.mark.parametrize("part", ["train_dataset", "unlabeled_dataset"])
@pytest.mark.parametrize("mix", MIXES)
def test_train__accumulation_equals_the_one_large_batch(make_trainer, make_model, mix, part):
    max_depth = 20 if mix in ("beyond", "empty") else None
    records = [record(i, kind) for i, kind in enumerate(MIXES[mix])]
    if part == "unlabeled_dataset":
        records = sorted(
            records, key=lambda one: one["depth_map"] is None
        )  # the first one tells that there are labels

    def run(batch, accumulated):
        model = make_model(1, max_depth=max_depth)
        with torch.no_grad():  # a fresh head predicts nearly one value, and its median would hang on the last bit
            model.head.conv3.weight *= 30 if max_depth is None else 1
        trainer = make_trainer(
            model.double(),
            {
                **{"max_steps": 1, "optim": "sgd", "learning_rate": 1.0, "max_grad_norm": 0.0, "weight_decay": 0.0},
                **{"per_device_train_batch_size": batch, "gradient_accumulation_steps": accumulated},
                **{"feature_alignment_weight": 0.0, "strong_perturbation": False, "gradient_matching_weight": 1.0},
            },
            **{part: records},
        )
        trainer.train()
        return trainer

    before = make_model(1, max_depth=max_depth).double().state_dict()
    whole, parts = run(8, 1), run(2, 4)
    found, expected = parts.model.state_dict(), whole.model.state_dict()
    moved = max((expected[name] - before[name]).abs().max().item() for name in before)
    assert moved > 1e-3
    for name, values in expected.items():
        torch.testing.assert_close(found[name], values, rtol=0, atol=1e-6 * max(moved, 1), msg=name)
    for name, value in whole.keeper.logs[0].items():
        if "loss" in name:
            assert parts.keeper.logs[0][name] == pytest.approx(value, rel=1e-5, abs=2e-6), name


@pytest.mark.slow
def test_train__images_without_a_label_are_counted_and_said(make_trainer, make_model):
    records = [record(i, kind) for i, kind in enumerate(MIXES["missing"])]
    trainer = make_trainer(make_model(), {"max_steps": 2, "per_device_train_batch_size": 4}, train_dataset=records)
    with pytest.warns(UserWarning, match=r"3 of 8 images of train_dataset had no label to learn from"):
        trainer.train()
