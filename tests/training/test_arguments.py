import json
import math

import pytest
import torch
from transformers import HfArgumentParser

from depth_anything_hf.training.arguments import PRESETS, DepthAnythingTrainingArguments


def arguments(tmp_path, **settings):
    return DepthAnythingTrainingArguments(str(tmp_path), report_to="none", use_cpu=True, **settings)


@pytest.mark.parametrize("preset", ["v1", "v2"])
def test_arguments__preset_fills_what_is_not_given(tmp_path, preset):
    args = arguments(tmp_path, preset=preset)
    assert {name: getattr(args, name) for name in PRESETS[preset]} == PRESETS[preset]
    assert None not in PRESETS[preset].values()


def test_arguments__presets_are_the_papers(tmp_path):
    v1, v2 = arguments(tmp_path), arguments(tmp_path, preset="v2")
    assert (v1.gradient_matching_weight, v1.trim_fraction, v1.cutmix_probability) == (0.0, 0.0, 0.5)
    assert (v2.gradient_matching_weight, v2.trim_fraction, v2.cutmix_probability) == (2.0, 0.1, 0.0)
    assert v1.strong_perturbation
    assert not v2.strong_perturbation
    assert (v1.learning_rate, v1.decoder_lr_multiplier, v1.feature_alignment_margin) == (5e-6, 10.0, 0.85)


def test_arguments__explicit_values_win_also_zero_and_false(tmp_path):
    args = arguments(tmp_path, preset="v1", cutmix_probability=0.0, strong_perturbation=False, trim_fraction=0.2)
    assert (args.cutmix_probability, args.strong_perturbation, args.trim_fraction) == (0.0, False, 0.2)
    assert args.feature_alignment_weight == 1.0
    assert arguments(tmp_path, preset="v2", gradient_matching_weight=0.0).gradient_matching_weight == 0.0


def test_arguments__parser_reads_the_command_line(tmp_path):
    (args,) = HfArgumentParser(DepthAnythingTrainingArguments).parse_args_into_dataclasses(
        [
            *("--output_dir", str(tmp_path), "--report_to", "none", "--use_cpu", "true", "--preset", "v2"),
            *("--perturbation_kwargs", '{"hue": 0.1, "blur_sigma": [0.1, 0.5]}', "--strong_perturbation", "true"),
            *("--labeled_batch_size", "2", "--cutmix_probability", "0.25"),
        ]
    )
    assert args.perturbation.hue == 0.1
    assert tuple(args.perturbation.blur_sigma) == (0.1, 0.5)
    assert args.perturbation.brightness == 0.5
    assert (args.strong_perturbation, args.labeled_batch_size, args.cutmix_probability) == (True, 2, 0.25)
    assert args.gradient_matching_weight == 2.0
    assert args.remove_unused_columns is False


def test_arguments__parser_reads_what_was_written(tmp_path):
    args = arguments(tmp_path, preset="v2", perturbation_kwargs={"hue": 0.2}, labeled_weight=0.5)
    (again,) = HfArgumentParser(DepthAnythingTrainingArguments).parse_dict(json.loads(args.to_json_string()))
    for name in (*PRESETS["v2"], "preset", "labeled_weight", "perturbation_kwargs", "learning_rate"):
        assert getattr(again, name) == getattr(args, name), name
    assert again.perturbation == args.perturbation


def test_arguments__to_dict_is_serialisable(tmp_path):
    args = arguments(tmp_path, perturbation_kwargs='{"hue": 0.1}')
    written = json.loads(json.dumps(args.to_dict()))
    assert written["perturbation_kwargs"] == {"hue": 0.1}
    assert written["gradient_matching_weight"] == 0.0


def test_arguments__saved_training_args_reload(tmp_path):
    args = arguments(tmp_path, perturbation_kwargs={"blur_probability": 0.0}, decoder_lr_multiplier=3.0)
    torch.save(args, tmp_path / "training_args.bin")
    again = torch.load(tmp_path / "training_args.bin", weights_only=False)
    assert again.perturbation == args.perturbation
    assert again.perturbation.blur_probability == 0.0
    assert again.to_dict() == args.to_dict()


def test_arguments__best_model_is_the_one_with_the_smaller_error(tmp_path):
    best = {"load_best_model_at_end": True, "eval_strategy": "steps", "save_strategy": "steps"}
    assert arguments(tmp_path, **best).metric_for_best_model == "abs_rel"
    assert arguments(tmp_path, **best).greater_is_better is False
    assert arguments(tmp_path, **best, metric_for_best_model="eval_rmse").greater_is_better is False
    assert arguments(tmp_path, **best, metric_for_best_model="eval_delta1").greater_is_better is True
    given = arguments(tmp_path, **best, metric_for_best_model="eval_abs_rel", greater_is_better=True)
    assert given.greater_is_better is True


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"preset": "v3"}, "preset is 'v3'"),
        ({"flip_probability": 1.5}, r"flip_probability is 1\.5; it must lie in \[0, 1\]"),
        ({"trim_fraction": 1.0}, r"trim_fraction is 1\.0"),
        ({"feature_alignment_margin": -1.0}, r"feature_alignment_margin is -1\.0"),
        ({"decoder_lr_multiplier": -1.0}, r"decoder_lr_multiplier is -1\.0"),
        ({"unlabeled_weight": math.nan}, "unlabeled_weight is nan"),
        ({"perturbation_kwargs": {"hue": 0.7}}, r"hue is 0\.7"),
    ],
)
def test_arguments__out_of_range(tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        arguments(tmp_path, **settings)


def test_arguments__unknown_perturbation(tmp_path):
    with pytest.raises(TypeError, match="saturatoin"):
        arguments(tmp_path, perturbation_kwargs={"saturatoin": 0.1})


@pytest.mark.parametrize(
    ("total", "labeled", "unlabeled", "streams", "expected"),
    [
        (8, None, None, (True, False), (8, 0)),
        (8, 3, None, (True, False), (3, 0)),
        (8, 3, 6, (True, False), (3, 0)),
        (8, None, None, (False, True), (0, 8)),
        (8, 2, 6, (False, True), (0, 6)),
        (6, None, None, (True, True), (2, 4)),
        (8, None, None, (True, True), (2, 6)),
        (3, None, None, (True, True), (1, 2)),
        (8, 3, None, (True, True), (3, 5)),
        (8, None, 3, (True, True), (5, 3)),
        (8, 16, 32, (True, True), (16, 32)),
    ],
)
def test_split_batch__table(tmp_path, total, labeled, unlabeled, streams, expected):
    args = arguments(
        tmp_path, per_device_train_batch_size=total, labeled_batch_size=labeled, unlabeled_batch_size=unlabeled
    )
    assert args.split_batch(*streams) == expected


@pytest.mark.parametrize(("total", "labeled", "unlabeled"), [(2, None, None), (4, 4, None), (4, None, 5)])
def test_split_batch__nothing_left(tmp_path, total, labeled, unlabeled):
    args = arguments(
        tmp_path, per_device_train_batch_size=total, labeled_batch_size=labeled, unlabeled_batch_size=unlabeled
    )
    with pytest.raises(ValueError, match=f"per_device_train_batch_size is {total}, which leaves"):
        args.split_batch(True, True)


def test_bf16__is_on_where_the_device_has_it_and_off_on_a_cpu(tmp_path, monkeypatch):
    assert arguments(tmp_path).bf16 is False
    assert arguments(tmp_path, bf16=True).bf16 is True
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    assert arguments(tmp_path).bf16 is False  # use_cpu
    assert arguments(tmp_path).accelerator_config.non_blocking is False


@pytest.mark.parametrize(
    ("given", "bf16", "config"),
    [
        ({}, True, {"non_blocking": True}),
        ({"fp16": True}, False, {"non_blocking": True}),
        ({"bf16": False}, False, {"non_blocking": True}),
        ({"dataloader_pin_memory": False}, True, None),
        ({"accelerator_config": {"even_batches": False}}, True, {"even_batches": False}),
    ],
)
def test_bf16__and_copies_that_do_not_block_are_a_gpus_defaults(tmp_path, monkeypatch, given, bf16, config):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    args = arguments(tmp_path)
    open_fields = {"bf16": None, "fp16": False, "accelerator_config": None, "dataloader_pin_memory": True}
    for name, value in (open_fields | given).items():
        setattr(args, name, value)
    args._take_the_devices_defaults(on_gpu=True)
    assert (args.bf16, args.accelerator_config) == (bf16, config)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("gradient_accumulation_steps", 0),
        ("gradient_accumulation_steps", -1),  # no step was taken, and the run ended well
        ("per_device_eval_batch_size", 0),
        ("stream_block_size", 0),
        ("weight_decay", -1.0),
        ("weight_decay", math.nan),
        ("max_grad_norm", math.nan),
        ("max_grad_norm", -1.0),
        ("save_steps", 0),
        ("save_steps", -1),
    ],
)
def test_arguments__numbers_that_would_break_a_run_or_have_no_effect(tmp_path, name, value):
    with pytest.raises(ValueError, match=rf"^{name} is {value}; it must"):
        arguments(tmp_path, **{name: value})
