import json
import re

import pytest
from huggingface_hub import ModelCard

from depth_anything_hf.evaluation.protocols import PROTOCOLS
from depth_anything_hf.sharing.cards import (
    BASE,
    DATA,
    TEACHER,
    Provenance,
    library_versions,
    may_write_card,
    write_model_card,
)
from depth_anything_hf.sharing.licenses import Source
from tests.sharing.reports import NYU

FILLED = NYU | {"protocol": PROTOCOLS["nyuv2-filled"].as_json()}
DA2K = {
    "protocol": {"name": "da2k", "dataset": "da2k"},
    "scores": {"m": {"accuracy": 0.95, "pairs": 2068}},
    "model": "m",
}


@pytest.fixture
def checkpoint(make_model, tmp_path):
    make_model().save_pretrained(tmp_path / "checkpoint")
    return tmp_path / "checkpoint"


def test_write_model_card__measured_results_land_in_the_model_index_with_their_protocol(checkpoint):
    card = ModelCard.load(write_model_card(checkpoint, Provenance(results=[NYU, FILLED, DA2K]), "me/depth"))
    found = {(result.dataset_config, result.metric_type): result for result in card.data.eval_results}
    assert len(found) == len(card.data.eval_results) == 3 + 3 + 1
    result = found["nyuv2", "abs_rel"]
    assert (result.metric_value, result.dataset_name, result.dataset_split) == (0.1235, "nyuv2", "test")
    assert result.dataset_args["crop"] == "eigen_nyu"
    assert result.dataset_args["options"] == {"split": "test", "labels": "raw"}
    assert found["nyuv2-filled", "abs_rel"].dataset_args["options"]["labels"] == "filled"
    assert found["da2k", "accuracy"].metric_value == 0.95
    assert (card.data.model_name, card.data.pipeline_tag, card.data.license) == (
        "depth",
        "depth-estimation",
        "unknown",
    )
    assert "| nyuv2 | this model | 0.123 | 0.900 | 654 |" in card.text
    assert "| nyuv2 | prior | 0.300 | 0.500 | 654 |" in card.text
    assert "| da2k | this model | 0.950 | 2068 |" in card.text
    for words in (
        "|  | nyuv2 | nyuv2-filled | da2k |\n| --- | --- | --- | --- |\n",
        "| images | 654 | 654 |  |",
        "| crop | eigen_nyu | eigen_nyu |  |",
        "| labels | raw | filled |  |",
        "| measured with | torch 2.9 | torch 2.9 |  |",
        "disparity",
    ):
        assert words in card.text, words
    assert "/home" not in card.content
    assert "{{" not in card.text


def test_write_model_card__part_of_a_benchmark_is_called_a_part(checkpoint):
    card = ModelCard.load(write_model_card(checkpoint, Provenance(results=[NYU | {"images_found": 12}])))
    assert {result.dataset_name for result in card.data.eval_results} == {"nyuv2 (12 of 654 images)"}
    assert "| nyuv2 (12 of 654 images) | this model |" in card.text


def test_write_model_card__says_only_what_is_known(checkpoint):
    card = ModelCard.load(write_model_card(checkpoint, Provenance()))
    assert card.data.eval_results is None
    assert "## Measured\n\nNot measured." in card.text
    assert "## Training\n\nNot stated." in card.text
    assert "licenses are unknown" in card.text
    assert "card_image.png" not in card.text
    assert "\n\n\n" not in card.text


def test_write_model_card__base_data_losses_recipe_and_license(checkpoint):
    sources = [
        Source(BASE, "facebook/dinov2-small", "apache-2.0"),
        Source(TEACHER, "depth-anything/Depth-Anything-V2-Large-hf", "cc-by-nc-4.0"),
        Source(DATA, "me/rooms", "mit"),
        Source(DATA, "photographs of mine", "unknown"),
    ]
    provenance = Provenance(
        sources,
        losses={"affine-invariant": 1, "gradient matching": 2.0},
        recipe={"learning_rate": 5e-6},
        versions=library_versions(),
        summary="A student.",
        training="10 steps.",
    )
    (checkpoint / "card_image.png").touch()
    card = ModelCard.load(write_model_card(checkpoint, provenance, "me/depth"))
    assert (card.data.license, card.data.base_model, card.data.datasets) == (
        "cc-by-nc-4.0",
        "facebook/dinov2-small",
        ["me/rooms"],
    )
    for words in (
        "# depth\n\nA student.\n\n![What the model sees](card_image.png)\n",
        "10 steps.\n\nLosses, with their weights: affine-invariant × 1, gradient matching × 2.\n",
        "| learning_rate | 5e-06 |",
        "| teacher | depth-anything/Depth-Anything-V2-Large-hf | cc-by-nc-4.0 |",
        "| training data | photographs of mine | unknown |",
        f"torch {library_versions()['torch']}",
    ):
        assert words in card.text, words


def test_write_model_card__metric_model(make_model, tmp_path):
    make_model(max_depth=20).save_pretrained(tmp_path)
    assert "depth in meters, up to 20 m" in write_model_card(tmp_path, Provenance()).read_text()


def test_write_model_card__license_that_the_base_forbids(checkpoint):
    provenance = Provenance([Source(BASE, "depth-anything/Depth-Anything-V2-Base-hf", "cc-by-nc-4.0")], license="mit")
    with pytest.raises(ValueError, match="forbids commercial use"):
        write_model_card(checkpoint, provenance)
    assert not (checkpoint / "README.md").exists()


def test_provenance__is_kept_beside_the_weights_that_it_is_of(checkpoint, make_model):
    provenance = Provenance([Source(BASE, "a/b", "mit")], results=[NYU], losses={"SiLog": 1})
    write_model_card(checkpoint, provenance)
    assert Provenance.load(checkpoint) == provenance
    assert json.loads((checkpoint / "provenance.json").read_text())["sources"] == [["base weights", "a/b", "mit"]]
    make_model(seed=1).save_pretrained(checkpoint)
    with pytest.raises(ValueError, match="describes other weights"):
        Provenance.load(checkpoint)
    (checkpoint / "provenance.json").unlink()
    assert Provenance.load(checkpoint) == Provenance()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, True),
        ("---\nlicense: mit\n---\n# My model\n", False),
        ("# Model Card for Model ID\n", True),  # peft's
        ("<!-- Written by depth_anything_hf from provenance.json, and anew by its push. To keep words of your own, remove this"
         " line. -->\n", True),  # version 0.1.0's, of a model
        ("<!-- Written by depth_anything_hf from manifest.json, and anew by its push. To keep words of your own, remove this"
         " line. -->\n", True),  # and of a data set
        ("<!-- This model card has been generated automatically according to the information the Trainer had access to. You"
         " should probably proofread -->", True),
    ],
)  # fmt: skip
def test_may_write_card__words_of_the_user_stay(text, expected, tmp_path):
    if text is not None:
        (tmp_path / "README.md").write_text(text)
    assert may_write_card(tmp_path) is expected


def test_may_write_card__ours_until_its_first_line_is_removed(checkpoint):
    card = write_model_card(checkpoint, Provenance())
    assert may_write_card(checkpoint)
    card.write_text(card.read_text().replace("<!-- Written by depth_anything_hf", "<!-- "))
    assert not may_write_card(checkpoint)
    own = card.read_text()
    write_model_card(checkpoint, Provenance(summary="Another."))
    assert card.read_text() == own


# --- what users and files are called stays text


EVIL = ["a|b", "`rm`", "a\nb\n---\n# c", "<script>alert(1)</script>", "[x](http://y)", "---", "# title", "a`|`\r\n|b|"]


@pytest.mark.parametrize("name", EVIL)
def test_write_model_card__names_change_nothing_but_their_cell(name, checkpoint):
    result = {"protocol": {"name": name, "dataset": "folder", "crop": name}, "model": name}
    result["scores"] = {name: {"abs_rel": 0.1, "delta1": 0.9, "images": 2}}
    source = Source("training data", name, "unknown")
    plain = Provenance(sources=[source._replace(name="plain")], recipe={"a": "plain"})
    write_model_card(checkpoint, plain)
    before = ModelCard.load(checkpoint / "README.md")
    write_model_card(checkpoint, Provenance(sources=[source], recipe={"a": name}, results=[result]), f"me/{name}")
    card = ModelCard.load(checkpoint / "README.md")
    assert [line for line in card.text.splitlines() if line.startswith("#")][1:] == [
        line for line in before.text.splitlines() if line.startswith("#")
    ][1:]
    assert card.data.license == before.data.license
    assert not re.search(r"(?<!\\)(<script|\]\(http)", card.text)  # a backslash before a mark takes its meaning
    tables = [line for line in card.text.splitlines() if line.startswith("|")]
    cells = [len(re.split(r"(?<!\\)\|", line)) for line in tables]
    rows = {
        line: count for line, count in zip(tables, cells, strict=True) if line.startswith(("| recipe", "| training"))
    }
    assert set(rows.values()) <= {4, 5}


def test_write_model_card__license_that_the_hub_does_not_have(checkpoint):
    write_model_card(checkpoint, Provenance(license="MIT"))
    assert ModelCard.load(checkpoint / "README.md").data.license == "mit"
    write_model_card(checkpoint, Provenance(sources=[Source("training data", "x", "a-license-of-their-own")]))
    card = ModelCard.load(checkpoint / "README.md")
    assert card.data.license == "other"
    assert "a-license-of-their-own" in card.text
    with pytest.raises(ValueError, match="no id of the Hub's list"):
        write_model_card(checkpoint, Provenance(license="none"))
