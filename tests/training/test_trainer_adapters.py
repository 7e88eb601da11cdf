"""LoRA in the stock Trainer and in DepthAnythingTrainer: both stages, checkpoints, resume."""

import json
from pathlib import Path

import pytest
import torch
from peft import get_peft_model
from safetensors.torch import load_file
from transformers import ProgressCallback, Trainer, TrainingArguments

from depth_anything_hf.cli.main import main
from depth_anything_hf.cli.train import parse_recipe
from depth_anything_hf.data.folder import write_image_folder
from depth_anything_hf.prediction.adapters import depth_lora_config, describe_adapter
from depth_anything_hf.prediction.predictor import FINGERPRINT, load_model
from depth_anything_hf.prediction.weights import weights_fingerprint
from depth_anything_hf.training.collator import DepthCollator

pytestmark = pytest.mark.slow

DECODERS = ["full", "lora", "frozen"]


@pytest.fixture(scope="module")
def base(tmp_path_factory, make_model, processor):
    folder = tmp_path_factory.mktemp("base")
    make_model().save_pretrained(folder)
    processor.save_pretrained(folder)
    return str(folder)


@pytest.fixture
def adapt(base):
    """Function that adapts the base model: `adapt(decoder, seed=0, dropout=0.0)`."""

    def adapt(decoder="full", seed=0, **settings):
        model, _ = load_model(base)
        torch.manual_seed(seed)
        return get_peft_model(model, depth_lora_config(rank=2, decoder=decoder, **settings))

    return adapt


def weights(model, trained=True):
    return {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad == trained}


def different(one, other):
    assert one.keys() == other.keys()
    return [name for name in one if not torch.equal(one[name], other[name])]


def predicted(model):
    images = torch.randn(2, 3, 32, 40, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        return model.eval()(pixel_values=images).predicted_depth


# --- the stock Trainer


@pytest.fixture
def train_stock(adapt, processor, labeled, tmp_path):
    """Function that trains with the stock Trainer: `train_stock(model, folder, **arguments)`."""

    def train(model, folder="run", resume=None, **settings):
        defaults = {
            "max_steps": 3,
            "per_device_train_batch_size": 2,
            "learning_rate": 1e-2,
            "lr_scheduler_type": "constant",
        }
        defaults |= {"report_to": "none", "use_cpu": True, "disable_tqdm": True, "remove_unused_columns": False}
        arguments = TrainingArguments(str(tmp_path / folder), **(defaults | settings))
        trainer = Trainer(
            model,
            arguments,
            data_collator=DepthCollator(processor, model, flip_probability=0),
            train_dataset=labeled[:4],
            eval_dataset=labeled[:2],
            processing_class=processor,
        )
        trainer.remove_callback(ProgressCallback)
        trainer.train(resume_from_checkpoint=resume)
        return trainer

    return train


@pytest.mark.parametrize("decoder", DECODERS)
def test_stock_trainer__trains_alike_with_gradient_checkpointing(adapt, train_stock, decoder):
    before = weights(adapt(decoder))
    plain = train_stock(adapt(decoder), save_strategy="no").model
    checkpointed = train_stock(adapt(decoder), save_strategy="no", gradient_checkpointing=True).model
    assert checkpointed.get_base_model().is_gradient_checkpointing
    assert sorted(different(before, weights(plain))) == sorted(before)  # all of them moved
    assert different(weights(plain), weights(checkpointed)) == []
    assert different(weights(adapt(decoder), trained=False), weights(plain, trained=False)) == []  # and nothing else


def test_stock_trainer__saves_a_whole_adapter_folder(adapt, train_stock, base, tmp_path):
    trainer = train_stock(adapt("full"), save_steps=2)
    trainer.save_model()
    for folder in (tmp_path / "run", tmp_path / "run" / "checkpoint-2"):
        names = {path.name for path in folder.iterdir()}
        assert {"adapter_config.json", "adapter_model.safetensors", "preprocessor_config.json"} <= names
        assert not {"config.json", "model.safetensors"} & names
        config = json.loads((folder / "adapter_config.json").read_text())
        assert config["auto_mapping"][FINGERPRINT] == weights_fingerprint(base)
    loaded, _ = load_model(str(tmp_path / "run"))
    torch.testing.assert_close(predicted(loaded), predicted(trainer.model), rtol=1e-5, atol=1e-5)


def test_stock_trainer__accumulation_is_a_larger_batch(adapt, train_stock):
    # A loss divided once too often, or not at all, moves the first step's AdamW by nothing; SGD shows it.
    settings = {"save_strategy": "no", "max_steps": 1, "optim": "sgd", "max_grad_norm": 0.0}
    whole = train_stock(adapt(), per_device_train_batch_size=4, **settings).model
    parts = train_stock(adapt(), per_device_train_batch_size=2, gradient_accumulation_steps=2, **settings).model
    before, whole, parts = weights(adapt()), weights(whole), weights(parts)
    step = {name: (whole[name] - before[name], parts[name] - before[name]) for name in before}
    assert max(one.abs().max() for one, _ in step.values()) > 1e-4
    for name, (one, other) in step.items():
        # A difference of two weights knows no less than a unit in their last place, of each: 2.4e-7 for weights of 1.
        last_place = torch.finfo(torch.float32).eps * before[name].abs().max().item()
        torch.testing.assert_close(one, other, rtol=2e-3, atol=max(2e-7, 2.01 * last_place))


def test_stock_trainer__resumes_bit_for_bit(adapt, train_stock, tmp_path):
    straight = train_stock(adapt(dropout=0.1), "straight", max_steps=4, save_steps=2)
    resumed = train_stock(
        adapt(seed=5, dropout=0.1), "resumed", str(tmp_path / "straight" / "checkpoint-2"), max_steps=4, save_steps=2
    )
    assert different(weights(straight.model), weights(resumed.model)) == []


def test_stock_trainer__evaluates_the_loss(adapt, train_stock):
    assert train_stock(adapt(), save_strategy="no", max_steps=1).evaluate()["eval_loss"] > 0


def test_stock_trainer__loads_the_best_adapter(adapt, train_stock):
    # A learning rate that breaks the model: the first evaluation is the best.
    settings = {"eval_strategy": "steps", "eval_steps": 1, "save_steps": 1, "load_best_model_at_end": True}
    trainer = train_stock(adapt(), learning_rate=0.5, **settings)
    best = Path(trainer.state.best_model_checkpoint)
    stored = load_file(best / "adapter_model.safetensors")
    found = {
        name.replace(".default", "").replace(".modules_to_save", ""): p for name, p in weights(trainer.model).items()
    }
    assert different(stored, found) == []


# --- DepthAnythingTrainer


def names_of_groups(trainer):
    names = {parameter: name for name, parameter in trainer.model.named_parameters()}
    projector = dict.fromkeys(trainer.feature_projector.parameters(), "projector") if trainer.feature_projector else {}
    return [
        (group["lr"], sorted((names | projector)[one] for one in group["params"]))
        for group in trainer.optimizer.param_groups
    ]


@pytest.mark.parametrize("decoder", ["full", "lora"])
def test_trainer__teacher_stage(make_trainer, adapt, labeled, decoder):
    model = adapt(decoder)
    before, frozen = weights(model), weights(model, trained=False)
    settings = {"max_steps": 3, "per_device_train_batch_size": 2, "learning_rate": 1e-3}
    trainer = make_trainer(
        model, settings | {"gradient_checkpointing": True}, train_dataset=labeled, eval_dataset=labeled[:2]
    )
    trainer.train()
    assert sorted(different(before, weights(model))) == sorted(before)
    assert different(frozen, weights(model, trained=False)) == []
    plain = make_trainer(adapt(decoder), settings, train_dataset=labeled)
    plain.train()
    assert different(weights(plain.model), weights(model)) == []  # checkpointing changed nothing
    assert trainer.evaluate()["eval_abs_rel"] > 0


@pytest.mark.parametrize("width", [32, 48])
def test_trainer__student_stage_with_all_of_v1(
    make_trainer, adapt, make_encoder, make_model, labeled, photographs, width
):
    trainer = make_trainer(
        adapt("full"),
        {
            "preset": "v1",
            "max_steps": 3,
            "cutmix_probability": 1.0,
            "feature_alignment_margin": 1.0,
            "learning_rate": 1e-3,
        },
        train_dataset=labeled,
        unlabeled_dataset=photographs,
        teacher=make_model(seed=4),
        feature_encoder=make_encoder(width),
    )
    before, frozen = weights(trainer.model), weights(trainer.model, trained=False)
    trainer.train()
    logs = trainer.keeper.logs[0]
    assert {name for name in logs if "loss" in name} == {
        *("loss", "labeled_loss", "labeled_affine_invariant_loss"),
        *("unlabeled_loss", "unlabeled_affine_invariant_loss", "feature_alignment_loss"),
    }
    assert logs["feature_alignment_loss"] > 0
    terms = (logs["labeled_loss"], logs["unlabeled_loss"], logs["feature_alignment_loss"])
    assert logs["loss"] == pytest.approx(sum(terms) / 3, abs=2e-6)
    assert sorted(different(before, weights(trainer.model))) == sorted(before)
    assert different(frozen, weights(trainer.model, trained=False)) == []
    assert (trainer.feature_projector is None) == (width == 32)


@pytest.mark.parametrize("decoder", DECODERS)
def test_trainer__two_learning_rates(make_trainer, adapt, make_encoder, labeled, pseudo_labeled, decoder):
    trainer = make_trainer(
        adapt(decoder),
        {"learning_rate": 1e-4},
        train_dataset=labeled,
        unlabeled_dataset=pseudo_labeled,
        feature_encoder=make_encoder(48),
    )
    trainer.create_optimizer()
    groups = names_of_groups(trainer)
    found = sorted(name for _, names in groups for name in names)
    assert found == sorted([*weights(trainer.model), "projector", "projector"])  # each once
    for rate, names in groups:
        in_encoder = ["backbone" in name for name in names]
        assert all(in_encoder) if rate == pytest.approx(1e-4) else not any(in_encoder)
        assert rate == pytest.approx(1e-4 if in_encoder[0] else 1e-3)


def test_trainer__alignment_teaches_the_adapter_alone(make_trainer, adapt, make_encoder, pseudo_labeled):
    """With the depth losses off, what learns is the encoder's adapter, through `output_features`."""
    trainer = make_trainer(
        adapt("frozen"),
        {"max_steps": 15, "unlabeled_weight": 0.0, "feature_alignment_margin": 1.0, "learning_rate": 1e-2,
         "strong_perturbation": False, "cutmix_probability": 0.0, "per_device_train_batch_size": 4},
        unlabeled_dataset=pseudo_labeled,
        feature_encoder=make_encoder(),
    )  # fmt: skip
    trainer.train()
    losses = [log["feature_alignment_loss"] for log in trainer.keeper.logs if "feature_alignment_loss" in log]
    assert sum(losses[-4:]) < 0.9 * sum(losses[:4])


def test_trainer__student_resumes_bit_for_bit(make_trainer, adapt, make_encoder, labeled, pseudo_labeled, tmp_path):
    def run(folder, resume=None, seed=0):
        settings = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2, "gradient_accumulation_steps": 2}
        settings |= {"labeled_batch_size": 1, "unlabeled_batch_size": 2, "learning_rate": 1e-3}
        trainer = make_trainer(
            adapt("full", seed, dropout=0.1),
            settings | {"output_dir": str(tmp_path / folder), "gradient_checkpointing": True},
            train_dataset=labeled,
            unlabeled_dataset=pseudo_labeled,
            feature_encoder=make_encoder(48),
        )
        trainer.train(resume_from_checkpoint=resume)
        return trainer

    straight = run("straight")
    resumed = run("resumed", str(tmp_path / "straight" / "checkpoint-2"), seed=8)
    assert different(weights(straight.model), weights(resumed.model)) == []
    assert different(straight.feature_projector.state_dict(), resumed.feature_projector.state_dict()) == []
    moments = [trainer.optimizer.state_dict()["state"] for trainer in (straight, resumed)]
    assert all(torch.equal(moments[0][i]["exp_avg_sq"], moments[1][i]["exp_avg_sq"]) for i in moments[0])
    logs = [[log["loss"] for log in trainer.keeper.logs if "loss" in log] for trainer in (straight, resumed)]
    assert logs[0][2:] == logs[1]


def test_trainer__saved_adapter_predicts_as_the_trained_model(make_trainer, adapt, base, labeled, tmp_path):
    trainer = make_trainer(adapt("full"), {"learning_rate": 1e-3}, train_dataset=labeled)
    trainer.train()
    trainer.save_model(str(tmp_path / "adapter"))
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert config["auto_mapping"][FINGERPRINT] == weights_fingerprint(base)
    processor = json.loads((tmp_path / "adapter" / "preprocessor_config.json").read_text())
    assert processor["size"] == {"height": 32, "width": 40}
    loaded, _ = load_model(str(tmp_path / "adapter"))
    torch.testing.assert_close(predicted(loaded), predicted(trainer.model), rtol=1e-5, atol=1e-5)


def test_trainer__metric_model(make_trainer, make_model, processor, labeled, tmp_path):
    make_model(max_depth=80.0).save_pretrained(tmp_path / "metric")
    processor.save_pretrained(tmp_path / "metric")
    model = get_peft_model(load_model(str(tmp_path / "metric"))[0], depth_lora_config(rank=2))
    trainer = make_trainer(model, {"learning_rate": 1e-3, "max_steps": 12}, train_dataset=labeled)
    trainer.train()
    silog = [log["labeled_silog_loss"] for log in trainer.keeper.logs if "labeled_silog_loss" in log]
    assert sum(silog[-4:]) < sum(silog[:4])
    trainer.save_model(str(tmp_path / "adapter"))
    assert load_model(str(tmp_path / "adapter"))[0].config.max_depth == 80


# --- recipes


@pytest.fixture
def recipe(base, labeled, tmp_path):
    """Arguments of `train` on the tiny base: `recipe(**fields)`."""
    write_image_folder(labeled, tmp_path / "labeled")
    path = tmp_path / "recipe.yaml"

    def arguments(**fields):
        settings = {"labeled": str(tmp_path / "labeled"), "output_dir": str(tmp_path / "out"), "max_steps": 2}
        settings |= {"per_device_train_batch_size": 2, "image_height": 32, "image_width": 40, "use_cpu": True}
        settings |= {"report_to": "none", "learning_rate": 1e-3, "lora_rank": 2} | fields
        path.write_text("\n".join(f"{name}: {json.dumps(value)}" for name, value in settings.items()))
        return ["train", str(path)]

    return arguments


@pytest.mark.parametrize("decoder", ["full", "lora"])
def test_recipe__saves_an_adapter_and_reports_its_size(recipe, base, adapt, tmp_path, decoder):
    assert main(recipe(model=base, lora_decoder=decoder)) == 0
    results = json.loads((tmp_path / "out" / "all_results.json").read_text())
    report = describe_adapter(adapt(decoder))
    found = {name.removeprefix("adapter_"): value for name, value in results.items() if name.startswith("adapter_")}
    assert found == {name.removeprefix("adapter_"): value for name, value in report.items()}
    assert results["adapter_trainable_parameters"] == report["trainable_parameters"]
    loaded, _ = load_model(str(tmp_path / "out"))
    assert not torch.equal(predicted(loaded), predicted(load_model(base)[0]))


def test_recipe__lora_starts_from_a_released_model():
    path = Path(__file__).parents[2] / "examples" / "recipes" / "lora.yaml"
    found, _ = parse_recipe(path, ["--labeled", "folder", "--bf16", "false", "--use_cpu", "true"])
    assert found.model == "depth-anything/Depth-Anything-V2-Small-hf"
    assert (found.lora_rank, found.lora_decoder) == (8, "full")


def test_recipe__adapter_of_a_fresh_decoder_is_refused(recipe, base, capsys):
    # Its base model would be nowhere.
    assert main(recipe(encoder=base)) == 1
    assert "--lora-rank needs --model" in capsys.readouterr().err


@pytest.mark.parametrize("rank", [0, 2])
def test_recipe__adapter_as_the_model_is_refused(recipe, base, tmp_path, capsys, rank):
    assert main(recipe(model=base)) == 0
    capsys.readouterr()
    assert main(recipe(model=str(tmp_path / "out"), lora_rank=rank)) == 1
    assert "is an adapter; merge it first" in capsys.readouterr().err
