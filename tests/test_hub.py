import pytest
from huggingface_hub import ModelCard

from depth_anything_hf.hub import results_table, write_model_card

SCORES = {
    "rooms": {
        "mine": {"abs_rel": 0.12345, "delta1": 0.9, "images": 4},
        "prior": {"abs_rel": 0.3, "delta1": 0.5, "images": 4},
    }
}


@pytest.fixture
def checkpoint(tmp_path):
    from transformers import Dinov2Config

    from depth_anything_hf import config_for_encoder

    encoder = Dinov2Config(image_size=56, hidden_size=32, num_hidden_layers=4, num_attention_heads=2)
    config_for_encoder(encoder).save_pretrained(tmp_path / "checkpoint")
    return tmp_path / "checkpoint"


def test_write_model_card__measured_results_land_in_the_model_index(checkpoint):
    card = ModelCard.load(write_model_card(checkpoint, SCORES, "mine", summary="A card of a test."))
    results = {result.metric_type: result.metric_value for result in card.data.eval_results}
    assert results == {"abs_rel": 0.1235, "delta1": 0.9}
    assert card.data.pipeline_tag == "depth-estimation"
    assert card.data.license == "unknown"
    assert "| rooms | prior | 0.300 | 0.500 | 4 |" in card.text
    assert "disparity" in card.text
    assert "{{" not in card.text


def test_write_model_card__needs_scores_of_the_model(checkpoint):
    with pytest.raises(ValueError, match="model is 'other'"):
        write_model_card(checkpoint, SCORES, "other")


def test_results_table__prefers_group_means():
    scores = {
        "real": {
            "m": {"abs_rel": 1.0, "delta1": 0.0, "group_abs_rel": 0.25, "group_delta1": 0.5, "images": 9, "groups": 3}
        }
    }
    assert results_table(scores).splitlines()[-1] == "| real | m | 0.250 | 0.500 | 9 in 3 groups |"
