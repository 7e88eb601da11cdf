"""Scores on real labeled images: no units, spaces or masks get lost between the file and the number."""

from collections import defaultdict

import pytest
import torch

from depth_anything_hf.data.folder import load_folder
from depth_anything_hf.data.records import decode_record
from depth_anything_hf.evaluation.scoring import score_relative, summarize

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def samples(real_data):
    return [decode_record(record) for record in load_folder(real_data)]


def test_score_relative__ground_truth_scores_zero_on_every_real_image(samples):
    assert len(samples) == 52
    for sample in samples:
        values, mask = torch.from_numpy(sample.values)[None], torch.from_numpy(sample.mask)[None]
        disparity = values if sample.space == "disparity" else 1 / values.double()
        scores = score_relative(torch.where(mask, disparity, torch.nan), values, mask, sample.space)
        assert scores["abs_rel"].item() < 1e-9, sample.source
        assert scores["disparity_abs_rel"].item() < 1e-9, sample.source
        assert scores["delta1"].item() == 1.0, sample.source
        assert scores["scale"].item() == pytest.approx(1, rel=1e-6), sample.source


def test_score_relative__row_index_scores_as_measured_on_real_images(samples):
    by_group = defaultdict(list)
    for sample in samples:
        # The labelled pixels alone, as one row: most maps are sparse.
        rows = torch.from_numpy(sample.mask).nonzero()[:, 0][None, None]
        values = torch.from_numpy(sample.values[sample.mask])[None, None]
        by_group[sample.group].append(score_relative(rows, values, None, sample.space))
    assert len(by_group) == 16
    means = [
        summarize({name: torch.cat([scores[name] for scores in group]) for name in group[0]})
        for group in by_group.values()
    ]
    assert sum(mean["abs_rel"] for mean in means) / 16 == pytest.approx(0.265, abs=0.005)
    assert sum(mean["delta1"] for mean in means) / 16 == pytest.approx(0.596, abs=0.005)
