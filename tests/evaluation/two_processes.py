"""What each process of the distributed tests runs: score seven images and five photographs of pairs."""

import os
import sys
from pathlib import Path

import numpy as np
import torch
from accelerate import PartialState
from PIL import Image

from depth_anything_hf.data.readers.da2k import PointPairs
from depth_anything_hf.data.records import encode_record
from depth_anything_hf.evaluation.compare import score_models
from depth_anything_hf.evaluation.contestants import Contestant, row_prior
from depth_anything_hf.evaluation.protocols import PROTOCOLS


class Counted:
    """Hold items and write down which ones are asked for."""

    def __init__(self, items):
        self.items, self.asked = items, []

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        self.asked.append(index)
        return self.items[index]


def red(images):
    """Predict each image's red channel."""
    return [torch.from_numpy(np.asarray(image, dtype=np.float32)[..., 0].copy()) for image in images]


def noise(i, size):
    return np.random.default_rng(i).integers(0, 255, (*size, 3)).astype(np.uint8)


def records(count):
    made = []
    for i in range(count):
        size = (12, 16) if i % 3 else (10, 8)
        depth = np.random.default_rng(100 + i).random(size) * 9 + 1
        made.append(encode_record(noise(i, size), depth, source=f"image {i}", group="ab"[i % 2]))
    return made


def photographs(count):
    made = []
    for i in range(count):
        generator = np.random.default_rng(i)
        pairs = generator.integers(0, (12, 16), (i, 2, 2))  # the first has none
        image = Image.fromarray(noise(i, (12, 16)))
        made.append(PointPairs(image, pairs, generator.integers(0, 2, i), f"photograph {i}", "ab"[i % 2]))
    return made


def contestants():
    return {"red": Contestant(red), "rows": Contestant(row_prior), "metres": Contestant(red, metric=True)}


def main(out: Path) -> None:
    state = PartialState(cpu=True)
    labeled, pairs = Counted(records(7)), Counted(photographs(5))
    scores = score_models(contestants(), labeled, batch_size=2)
    points = score_models(contestants(), pairs, PROTOCOLS["da2k"], batch_size=2)
    found = {
        "asked": (labeled.asked, pairs.asked),
        "scores": {name: (one.scores, one.groups, one.sources) for name, one in scores.items()},
        "summaries": {name: one.summary() for name, one in scores.items()},
        "points": {name: (one.correct.tolist(), one.ties.tolist(), one.sources) for name, one in points.items()},
        "point summaries": {name: one.summary() for name, one in points.items()},
    }
    torch.save(found, out / f"rank{state.process_index}.pt")
    state.destroy_process_group()


if __name__ == "__main__":
    assert "OMP_NUM_THREADS" in os.environ
    main(Path(sys.argv[1]))
