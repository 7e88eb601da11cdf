import json
import re
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard
from peft import get_peft_model
from transformers import AutoModelForDepthEstimation, Trainer, TrainingArguments, pipeline

from depth_anything_hf import DepthAnythingForDepthEstimation, DepthAnythingImageProcessor, DepthCollator
from depth_anything_hf.prediction.adapters import depth_lora_config
from depth_anything_hf.sharing.hub import push_to_hub

LARGE = "depth-anything/Depth-Anything-V2-Large-hf"
ON_HUB = {"push_to_hub": True, "hub_model_id": "me/student", "hub_private_repo": True}


@pytest.fixture
def saved(make_model, processor, tmp_path):
    """Function that saves a model under a name: `saved("teacher")` returns its folder."""

    def save(name, **settings):
        make_model(**settings).save_pretrained(tmp_path / name)
        processor.save_pretrained(tmp_path / name)
        return str(tmp_path / name)

    return save


def card_of(hub, name="me/student"):
    return ModelCard(hub.model(name).files["README.md"].decode())


@pytest.mark.slow
def test_push_to_hub__trainer_pushes_model_processor_and_measured_card(hub, make_trainer, saved, labeled):
    model = DepthAnythingForDepthEstimation.from_pretrained(saved("Depth-Anything-V2-Large-hf"))
    trainer = make_trainer(model, ON_HUB | {"preset": "v2"}, train_dataset=labeled, eval_dataset=labeled)
    trainer.train()
    scores = trainer.evaluate()
    trainer.push_to_hub(dataset=["me/rooms", "kitti:/data/kitti"])
    repo, card = hub.model("me/student"), card_of(hub)
    assert repo.private
    assert repo.files.keys() >= {"config.json", "model.safetensors", "preprocessor_config.json", "provenance.json"}
    found = {result.metric_type: result.metric_value for result in card.data.eval_results}
    assert found == {name: round(scores[f"eval_{name}"], 4) for name in ("abs_rel", "delta1", "rmse")}
    # By the base cc-by-nc-4.0, by KITTI tighter still.
    assert (card.data.license, card.data.datasets) == ("cc-by-nc-sa-3.0", ["me/rooms"])
    assert repo.files["card_image.png"].startswith(b"\x89PNG")
    for words in (
        "![What the model sees](card_image.png)",
        "2 steps (2.0 epochs) on 5 labeled images.",
        "affine-invariant × 1, gradient matching × 2.",
        "| preset | v2 |",
        "| learning_rate | 0.0001 |",
        "| image size | 32 x 40 |",
        "| base weights | Depth-Anything-V2-Large-hf | cc-by-nc-4.0 |",
        "| training data | kitti | cc-by-nc-sa-3.0 |",
        "| alignment | scale_shift |",
        'model="me/student"',
        f"torch {torch.__version__}",
    ):
        assert words in card.text, words
    assert hub.token not in card.content
    assert AutoModelForDepthEstimation.from_pretrained("me/student").config.model_type == "depth_anything"
    assert DepthAnythingImageProcessor.from_pretrained("me/student").ensure_multiple_of == 8
    commits = len(repo.commits)
    push_to_hub(trainer.args.output_dir, "me/student")  # nothing is lost of what the trainer knew
    assert len(repo.commits) == commits


@pytest.mark.slow
def test_push_to_hub__license_that_the_base_forbids(hub, make_trainer, saved, labeled):
    model = DepthAnythingForDepthEstimation.from_pretrained(saved("Depth-Anything-V2-Base-hf"))
    trainer = make_trainer(model, ON_HUB, train_dataset=labeled)
    with pytest.raises(ValueError, match=r"license is 'mit', but Depth-Anything-V2-Base-hf \(base weights\)"):
        trainer.push_to_hub(license="mit")
    assert hub.model("me/student").files == {}


@pytest.mark.slow
def test_create_model_card__student_names_teacher_encoder_and_both_streams(
    make_trainer, make_model, make_encoder, saved, labeled, photographs
):
    teacher = DepthAnythingForDepthEstimation.from_pretrained(saved("Depth-Anything-V2-Large-hf"))
    streams = {"train_dataset": labeled, "unlabeled_dataset": photographs, "teacher": teacher}
    trainer = make_trainer(make_model(), feature_encoder=make_encoder(), **streams)
    trainer.train()
    trainer.save_model()
    trainer.create_model_card(finetuned_from="facebook/dinov2-small")
    card = ModelCard.load(f"{trainer.args.output_dir}/README.md")
    assert (card.data.license, card.data.base_model) == ("cc-by-nc-4.0", "facebook/dinov2-small")
    for words in (
        "on 5 labeled images and 7 unlabeled images, which a teacher labeled in every step.",
        "affine-invariant × 1, feature alignment × 1.",
        "| cutmix_probability | 0.5 |",
        "| batch of a device | 2 labeled, 4 unlabeled |",
        "| teacher | Depth-Anything-V2-Large-hf | cc-by-nc-4.0 |",
        "| feature encoder | not stated | unknown |",
        "## Measured\n\nNot measured.",
    ):
        assert words in card.text, words
    assert trainer.args.output_dir not in card.content


@pytest.mark.slow
def test_create_model_card__metric_model_and_several_sets(make_trainer, make_model, labeled):
    sets = {"rooms": labeled[:2], "my_groups": labeled[2:]}
    trainer = make_trainer(make_model(max_depth=20.0), train_dataset=labeled, eval_dataset=sets)
    trainer.train()
    scores = trainer.evaluate()
    trainer.save_model()
    trainer.create_model_card()
    card = ModelCard.load(f"{trainer.args.output_dir}/README.md")
    found = {(r.dataset_name, r.metric_type): r.metric_value for r in card.data.eval_results}
    assert found.keys() == {(name, metric) for name in sets for metric in ("abs_rel", "delta1", "rmse")}
    assert found["my_groups", "abs_rel"] == round(scores["eval_my_groups_abs_rel"], 4)
    for words in (
        "SiLog × 1.",
        "up to 20",
        "| max_depth | 20 | 20 |",
        "| alignment | none | none |",
        "| rooms | this model |",
    ):
        assert words in card.text, words


@pytest.mark.slow
@pytest.mark.parametrize("best", [False, True])
def test_create_model_card__scores_are_of_the_weights_that_are_saved(best, make_trainer, make_model, labeled):
    settings = {"max_steps": 3, "eval_strategy": "steps", "eval_steps": 1, "learning_rate": 1e-3}
    settings |= {"save_strategy": "steps", "save_steps": 1, "load_best_model_at_end": best}
    trainer = make_trainer(make_model(), settings, train_dataset=labeled, eval_dataset=labeled)
    trainer.train()
    trainer.save_model()
    trainer.create_model_card()
    stated = ModelCard.load(f"{trainer.args.output_dir}/README.md").data.eval_results[0].metric_value
    assert stated == round(trainer.evaluate()["eval_abs_rel"], 4)
    measured = {round(entry["eval_abs_rel"], 4) for entry in trainer.state.log_history if "eval_abs_rel" in entry}
    assert len(measured) > 1
    trainer.create_model_card()  # now by the evaluation after training
    assert ModelCard.load(f"{trainer.args.output_dir}/README.md").data.eval_results[0].metric_value == stated


@pytest.mark.slow
def test_push_to_hub__trainer_of_an_adapter(hub, make_trainer, saved, labeled):
    hub.add("she/base", Path(saved("base")))
    model = get_peft_model(DepthAnythingForDepthEstimation.from_pretrained("she/base"), depth_lora_config(2, "frozen"))
    trainer = make_trainer(model, ON_HUB, train_dataset=labeled, eval_dataset=labeled)
    trainer.train()
    trainer.evaluate()
    trainer.push_to_hub()
    card = card_of(hub)
    assert (card.data.library_name, card.data.base_model) == ("peft", "she/base")
    assert {result.metric_type for result in card.data.eval_results} == {"abs_rel", "delta1", "rmse"}
    image = labeled[0]["image"]
    assert pipeline("depth-estimation", model="me/student")(image)["predicted_depth"].shape == image.size[::-1]


@pytest.mark.slow
def test_push_to_hub__break_in_the_middle_of_the_trainers_push(hub, make_trainer, make_model, labeled):
    trainer = make_trainer(make_model(), ON_HUB, train_dataset=labeled)
    hub.breaks["upload"] = 2
    trainer.push_to_hub()
    assert "model.safetensors" in hub.model("me/student").files
    commits = len(hub.model("me/student").commits)
    trainer.push_to_hub()
    assert len(hub.model("me/student").commits) == commits


@pytest.mark.slow
def test_push_to_hub__token_of_the_arguments_is_in_no_file(hub, make_trainer, make_model, labeled, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr("huggingface_hub.utils._auth._get_token_from_file", lambda: None)
    arguments = ON_HUB | {"hub_token": hub.token, "save_strategy": "steps", "save_steps": 1, "max_steps": 1}
    trainer = make_trainer(make_model(), arguments, train_dataset=labeled)
    trainer.train()  # pushes its checkpoint, too
    trainer.push_to_hub()
    files = hub.model("me/student").files
    assert "training_args.bin" in files
    assert all(hub.token.encode() not in content for content in files.values())


@pytest.mark.slow
def test_push_to_hub__stock_trainer(hub, make_model, processor, labeled, tmp_path):
    arguments = TrainingArguments(
        str(tmp_path / "run"), max_steps=1, remove_unused_columns=False, report_to="none", use_cpu=True, **ON_HUB
    )
    model = make_model()
    collate = DepthCollator(processor, model)
    trainer = Trainer(model, arguments, collate, labeled, processing_class=processor)
    trainer.train()
    trainer.push_to_hub()
    assert hub.model("me/student").files.keys() >= {"config.json", "model.safetensors", "preprocessor_config.json"}
    depth = pipeline("depth-estimation", model="me/student")(labeled[0]["image"])["predicted_depth"]
    assert depth.shape == labeled[0]["image"].size[::-1]
    push_to_hub(tmp_path / "run", "me/student", base=LARGE)  # its card, which nobody filled in, gives way to ours
    assert card_of(hub).data.license == "cc-by-nc-4.0"
    provenance = json.loads(hub.model("me/student").files["provenance.json"])
    assert re.fullmatch("[0-9a-f]{64}", provenance["weights"])
