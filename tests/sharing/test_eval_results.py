import math

import pytest

from depth_anything_hf.sharing.eval_results import eval_results, results_table
from tests.sharing.reports import MINE, NYU


def test_eval_results__needs_scores_of_the_model():
    with pytest.raises(ValueError, match="model is 'other'; it must be one of those scored: /home/me/mine, prior"):
        eval_results(NYU | {"model": "other"})


def test_eval_results__means_of_groups_too():
    scores = {"mine": MINE | {"group_abs_rel": 0.2, "group_delta1": 0.8, "groups": 9}}
    found = {one.metric_type: one.metric_value for one in eval_results(NYU | {"scores": scores, "model": "mine"})}
    assert (found["abs_rel"], found["group_abs_rel"], found["group_delta1"]) == (0.1235, 0.2, 0.8)


def test_eval_results__nothing_was_valid():
    scores = {"mine": {"abs_rel": math.nan, "delta1": math.nan}}
    assert eval_results(NYU | {"scores": scores, "model": "mine"}) == []


def test_results_table__prefers_group_means():
    scores = {
        "real": {
            "m": {"abs_rel": 1.0, "delta1": 0.0, "group_abs_rel": 0.25, "group_delta1": 0.5, "images": 9, "groups": 3}
        }
    }
    assert results_table(scores).splitlines()[-1] == "| real | m | 0.250 | 0.500 | 9 in 3 groups |"
