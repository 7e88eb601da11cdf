"""Names, paths and messages are shown as they are: none of them ends a cell, or begins code, a link or HTML."""

import pytest

from depth_anything_hf.evaluation.protocols import PROTOCOLS
from depth_anything_hf.evaluation.results import write_results

SCORES = dict.fromkeys(
    ("abs_rel", "disparity_abs_rel", "delta1", "delta2", "rmse", "rmse_log", "log10", "silog"), 0.5
) | {"images": 3, "images_without_labels": 1, "non_positive_scales": 1, "constant_predictions": 1}
NAMES = (
    "a|b", "a\nb", "a\r\n# b", "a`b", "<img src=x onerror=alert(1)>", "[a](https://example.org)", "![a](b)", "a\\|b",
    "*a*", "a\x1b[31m\x00b", "&lt;a", "a\u2028b",
)  # fmt: skip


def cells(line: str) -> int:
    return line.replace("\\\\", "").replace("\\|", "").count("|") - 1


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("pairs", [False, True])
def test_write_results__name_of_a_model_changes_nothing_of_the_page(name, pairs):
    scores = {"accuracy": 0.5, "mean_of_scenes": 0.5, "pairs": 4, "ties": 1, f"scene/{name}": 0.5} if pairs else SCORES
    made = {}
    for shown in ("plain", name):
        one = {key.replace(name, shown): value for key, value in scores.items()}
        protocol = PROTOCOLS["da2k" if pairs else "folder"].as_json() | {"source": shown}
        found = {"scores": {shown: one}, "revisions": {shown: None}, "failures": {shown: [f"image 0: {shown}"]}}
        made[shown] = write_results({"protocol": protocol, "images_found": 3} | found).split("\n")
    assert [cells(line) for line in made[name]] == [cells(line) for line in made["plain"]]
    text = "\n".join(made[name]).replace("**", "")
    for special in "`<[*&":
        assert text.count(special) == text.count(f"\\{special}")
    assert all(line.isprintable() for line in made[name])


def test_write_results__usual_names_are_not_changed():
    for name in ("org/Model-V2_small.hf", "C:/x (1)", "prior (disparity = image row)", "tür #1~"):
        page = write_results(
            {"protocol": PROTOCOLS["folder"].as_json(), "images_found": 3, "scores": {name: SCORES}, "revisions": {}}
        )
        assert f"| {name} | 0.5000 |" in page
