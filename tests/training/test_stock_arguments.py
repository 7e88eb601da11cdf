"""Every argument of the stock Trainer works, or is refused at the start by its name."""

from dataclasses import fields
from types import SimpleNamespace

import pytest
import torch
from transformers import TrainingArguments

from depth_anything_hf.training.arguments import WITHOUT_EFFECT, DepthAnythingTrainingArguments
from depth_anything_hf.training.collator import DepthCollator

# Decide for a new field: add it here and try it, or to WITHOUT_EFFECT with the reason.
WORK = """
output_dir per_device_train_batch_size num_train_epochs max_steps learning_rate lr_scheduler_type lr_scheduler_kwargs
warmup_steps optim optim_args weight_decay adam_beta1 adam_beta2 adam_epsilon gradient_accumulation_steps max_grad_norm bf16
fp16 tf32 activation_checkpointing activation_checkpointing_kwargs gradient_checkpointing gradient_checkpointing_kwargs
torch_compile torch_compile_backend torch_compile_mode torch_empty_cache_steps logging_strategy logging_steps
logging_first_step log_on_each_node logging_nan_inf_filter log_level log_level_replica disable_tqdm report_to run_name project
trackio_space_id trackio_bucket_id trackio_static_space_id eval_strategy eval_steps eval_delay per_device_eval_batch_size
eval_on_start eval_accumulation_steps save_only_model save_strategy save_steps save_on_each_node save_total_limit
enable_jit_checkpoint push_to_hub hub_token hub_private_repo hub_model_id hub_strategy hub_always_push hub_revision
load_best_model_at_end metric_for_best_model greater_is_better ignore_data_skip restore_callback_states_from_checkpoint
full_determinism seed use_cpu accelerator_config dataloader_num_workers dataloader_pin_memory
dataloader_persistent_workers dataloader_prefetch_factor dataloader_multiprocessing_context ddp_find_unused_parameters
ddp_bucket_cap_mb ddp_broadcast_buffers ddp_static_graph ddp_backend ddp_timeout fsdp fsdp_config debug skip_memory_metrics
do_train do_eval local_rank
"""

REFUSED = {
    **{"auto_find_batch_size": True, "average_tokens_across_devices": False, "batch_eval_metrics": True},
    **{"bf16_full_eval": True, "data_seed": 3, "dataloader_drop_last": True, "dataloader_in_order": False},
    **{"deepspeed": "ds.json", "do_predict": True, "eval_do_concat_batches": False, "eval_use_gather_object": True},
    **{"fp16_full_eval": True, "include_for_metrics": ["inputs"], "include_num_input_tokens_seen": "all"},
    **{"label_names": ["labels"], "label_smoothing_factor": 0.1, "length_column_name": "size"},
    **{"liger_kernel_config": {"rope": True}, "neftune_noise_alpha": 5.0, "optim_target_modules": "all-linear"},
    **{"parallelism_config": object(), "prediction_loss_only": True, "remove_unused_columns": True},
    **{"resume_from_checkpoint": "checkpoint-5", "train_sampling_strategy": "sequential", "use_cache": True},
    **{"use_liger_kernel": True},
}


def test_arguments__every_field_of_transformers_is_decided():
    undecided = {one.name for one in fields(TrainingArguments)} - set(WORK.split()) - set(WITHOUT_EFFECT)
    assert not undecided
    assert not set(WORK.split()) & set(WITHOUT_EFFECT)
    assert set(REFUSED) == set(WITHOUT_EFFECT)


@pytest.mark.parametrize("name", REFUSED)
def test_arguments__without_effect_are_refused_by_name(tmp_path, name):
    with pytest.raises(ValueError, match=rf"^{name} is .*, but it would have no effect here: .*; leave it out"):
        DepthAnythingTrainingArguments(str(tmp_path), report_to="none", use_cpu=True, **{name: REFUSED[name]})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_steps": 0}, "max_steps is 0 and num_train_epochs"),
        ({"num_train_epochs": 0}, "num_train_epochs 0: no step would be taken"),
        ({"learning_rate": -1.0}, r"learning_rate is -1\.0; it must be a finite number"),
        ({"learning_rate": float("nan")}, "learning_rate is nan"),
        ({"do_eval": True}, "do_eval is True, but eval_strategy is 'no'"),
        ({"accelerator_config": {"split_batches": True}}, "accelerator_config has split_batches=True"),
        ({"accelerator_config": {"dispatch_batches": True}}, "accelerator_config has dispatch_batches=True"),
        ({"one_cycle_warmup": 0.7, "warmup_steps": 10}, "warmup_steps is 10, but one_cycle_warmup is set"),
        (
            {"one_cycle_warmup": 0.7, "lr_scheduler_type": "cosine"},
            "lr_scheduler_type is 'cosine', but one_cycle_warmup",
        ),
    ],
)
def test_arguments__that_contradict_each_other(tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        DepthAnythingTrainingArguments(str(tmp_path), report_to="none", use_cpu=True, **settings)


def test_arguments__learning_rate_0_is_said(tmp_path):
    with pytest.warns(UserWarning, match="learning_rate is 0: nothing will be learned"):
        DepthAnythingTrainingArguments(str(tmp_path), report_to="none", use_cpu=True, learning_rate=0.0)


EVALUATED = {"eval_strategy": "steps", "eval_steps": 1, "max_steps": 3}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["reduce_lr_on_plateau", "greedy"])
@pytest.mark.parametrize(("metric", "mode"), [(None, "min"), ("delta1", "max")])
def test_train__schedules_that_watch_a_metric(make_trainer, make_model, labeled, kind, metric, mode):
    settings = EVALUATED | {"lr_scheduler_type": kind, "metric_for_best_model": metric}
    trainer = make_trainer(make_model(), settings, train_dataset=labeled, eval_dataset=labeled)
    trainer.train()
    assert trainer.state.global_step == 3
    assert trainer.lr_scheduler.mode == mode


BEST = EVALUATED | {"load_best_model_at_end": True, "save_strategy": "steps", "save_steps": 1}


@pytest.mark.slow
@pytest.mark.parametrize("settings", [BEST, EVALUATED | {"lr_scheduler_type": "reduce_lr_on_plateau"}])
def test_train__best_model_among_sets(make_trainer, make_model, labeled, settings):
    sets = {"near": labeled[:2], "far": labeled[2:]}
    with pytest.raises(
        ValueError, match=r"metric_for_best_model is 'abs_rel', which no evaluation returns.*near_abs_rel"
    ):
        make_trainer(make_model(), settings, train_dataset=labeled, eval_dataset=sets)
    with pytest.raises(ValueError, match=r"metric_for_best_model is 'absrel'.*abs_rel"):
        make_trainer(
            make_model(), settings | {"metric_for_best_model": "absrel"}, train_dataset=labeled, eval_dataset=labeled
        )
    trainer = make_trainer(
        make_model(), settings | {"metric_for_best_model": "far_rmse"}, train_dataset=labeled, eval_dataset=sets
    )
    trainer.train()
    found = [log["eval_far_rmse"] for log in trainer.state.log_history if "eval_far_rmse" in log]
    assert len(found) == 3
    if settings is BEST:
        assert trainer.state.best_metric == min(found)


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        {"activation_checkpointing": True},
        {"eval_accumulation_steps": 1},
        {"dataloader_num_workers": 1, "dataloader_multiprocessing_context": "fork"},
        {"dataloader_num_workers": 1, "dataloader_persistent_workers": True, "dataloader_prefetch_factor": 1},
        {"optim": "adafactor"},
        {"eval_on_start": True},
        {"debug": "underflow_overflow"},
        {"full_determinism": False, "skip_memory_metrics": False},
    ],
    ids=lambda settings: next(iter(settings)),
)
def test_train__stock_arguments_that_work(make_trainer, make_model, labeled, settings):
    trainer = make_trainer(make_model(), EVALUATED | settings, train_dataset=labeled, eval_dataset=labeled)
    trainer.train()
    assert trainer.state.global_step == 3
    scores = [log["eval_abs_rel"] for log in trainer.state.log_history if "eval_abs_rel" in log]
    assert len(scores) == 3 + bool(settings.get("eval_on_start"))


# Arguments of the Trainer


def test_init__settings_that_the_given_collator_does_not_have(make_trainer, make_model, processor, labeled):
    model = make_model()
    collator = DepthCollator(processor, model, flip_probability=0.1)
    with pytest.raises(ValueError, match=r"flip_probability is 0\.3 in args and 0\.1 in data_collator"):
        make_trainer(model, {"flip_probability": 0.3}, train_dataset=labeled, data_collator=collator)
    with pytest.raises(ValueError, match=r"zoom is 2\.0 in args and 1\.0 in data_collator"):
        make_trainer(model, {"zoom": 2.0}, train_dataset=labeled, data_collator=collator)
    make_trainer(model, train_dataset=labeled, data_collator=collator)


def test_init__optimizer_without_the_projector(make_trainer, make_model, make_encoder, labeled, pseudo_labeled):
    model = make_model()
    optimizers = (torch.optim.SGD(model.parameters(), lr=0.1), None)
    data = {"train_dataset": labeled, "unlabeled_dataset": pseudo_labeled, "optimizers": optimizers}
    with pytest.raises(ValueError, match="does not hold the projector of the feature alignment"):
        make_trainer(model, feature_encoder=make_encoder(48), **data)
    with pytest.raises(ValueError, match="feature_encoder is passed, but it would align nothing"):
        make_trainer(model, {"feature_alignment_weight": 0.0}, feature_encoder=make_encoder(48), **data)
    with pytest.raises(ValueError, match="feature_encoder is passed, but it would align nothing"):
        make_trainer(model, feature_encoder=make_encoder(), train_dataset=labeled)


def test_model_init__each_trial_trains_a_model_of_its_own(make_trainer, make_model, labeled):
    made = []

    def model_init(trial):
        made.append((trial, make_model(len(made))))
        return made[-1][1]

    trainer = make_trainer(None, {"max_steps": 1}, train_dataset=labeled, eval_dataset=labeled, model_init=model_init)
    first = trainer.model
    trainer.train()
    assert trainer.model is made[-1][1] is not first
    trainer.hp_search_backend, trainer.hp_space = "optuna", lambda trial: trial.params
    trial = SimpleNamespace(number=0, params={"learning_rate": 3e-4, "flip_probability": 0.5})
    assert trainer.call_model_init(trial) is made[-1][1]
    assert [trial for trial, _ in made] == [None, None, trial]
    trainer._hp_search_setup(trial)
    trainer.optimizer = None
    rates = sorted({group["lr"] for group in trainer.create_optimizer().param_groups})
    assert rates == pytest.approx([3e-4, 3e-3])
    with pytest.raises(ValueError, match=r"zoom was 1\.0 when the Trainer was made and is 2\.0 in this trial"):
        trainer._hp_search_setup(SimpleNamespace(number=1, params={"zoom": 2.0}))
    with pytest.raises(
        (ImportError, RuntimeError, ValueError), match="optuna"
    ):  # none is installed; the arguments arrive
        trainer.hyperparameter_search(backend="optuna", n_trials=1)
