import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from transformers import AutoModelForDepthEstimation, Dinov2Config, Dinov2Model

from depth_anything_hf import DepthAnythingForDepthEstimation, DepthAnythingImageProcessor, config_for_encoder
from depth_anything_hf.cli.main import main
from depth_anything_hf.cli.train import make_parser, parse_recipe
from depth_anything_hf.data.folder import load_folder, write_image_folder
from depth_anything_hf.data.records import encode_record
from depth_anything_hf.model.bundled import MINI, checkpoint_folder
from depth_anything_hf.scenes.simple import iter_synthetic_records
from depth_anything_hf.training.recipe import RecipeArguments, loss_terms, start_processor

RECIPES = sorted((Path(__file__).parents[2] / "examples" / "recipes").glob("*.yaml"))
ON_CPU = ["--bf16", "false", "--use_cpu", "true", "--image_height", "56", "--image_width", "56", "--report_to", "none"]


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    folder = tmp_path_factory.mktemp("recipes")
    encoder = Dinov2Config(image_size=56, hidden_size=32, num_hidden_layers=4, num_attention_heads=2)
    torch.manual_seed(0)
    Dinov2Model(encoder).save_pretrained(folder / "encoder")
    DepthAnythingForDepthEstimation(config_for_encoder(encoder)).save_pretrained(folder / "model")
    DepthAnythingImageProcessor(size={"height": 56, "width": 56}).save_pretrained(folder / "model")
    scenes = list(iter_synthetic_records(4, 60, 80))
    labeled = [encode_record(s["image"], s["depth"], mask=s["depth"] > 0, sky=s["sky"]) for s in scenes]
    write_image_folder(labeled, folder / "labeled")
    pseudo = [encode_record(s["image"], 1 / (s["depth"] + 1), space="disparity") for s in scenes]
    write_image_folder(pseudo, folder / "pseudo")
    (folder / "photos").mkdir()
    for i, scene in enumerate(scenes):
        scene["image"].save(folder / "photos" / f"{i}.png")
    return folder


def start(recipe: dict, workplace: Path) -> list[str]:
    name = "encoder" if "encoder" in recipe else "model"
    folder = "model" if name == "encoder" and "-hf" in recipe["encoder"] else name  # that of a Depth Anything
    return [f"--{name}", str(workplace / folder)]


@pytest.mark.slow
@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_train__every_recipe_runs(path, workplace, tmp_path):
    recipe = yaml.safe_load(path.read_text())
    unlabeled = [] if "student" not in path.stem else ["--unlabeled", str(workplace / "pseudo")]
    labeled = [] if path.stem == "v2_student" else ["--labeled", str(workplace / "labeled")]
    aligned = ["--feature_encoder", str(workplace / "encoder")] if unlabeled else []
    sizes = ["--max_steps", "2", "--per_device_train_batch_size", "2", "--gradient_checkpointing", "false"]
    out = ["--output_dir", str(tmp_path / "out"), "--eval", str(workplace / "labeled")]
    assert (
        main(["train", str(path), *start(recipe, workplace), *labeled, *unlabeled, *aligned, *sizes, *ON_CPU, *out])
        == 0
    )
    saved = tmp_path / "out"
    assert (saved / "all_results.json").exists()
    card = (saved / "README.md").read_text()
    assert f"| training data | {'pseudo' if path.stem == 'v2_student' else 'labeled'} |" in card
    assert json.loads((saved / "provenance.json").read_text())["results"]
    if "lora_rank" in recipe:
        assert (saved / "adapter_config.json").exists()
    else:
        model = AutoModelForDepthEstimation.from_pretrained(saved)
        assert model.config.depth_estimation_type == ("metric" if "max_depth" in recipe else "relative")


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipes__every_value_has_a_source_or_says_unpublished(path):
    bookkeeping = ("output_dir", "save_steps", "logging_steps", "image_width", "num_train_epochs")
    for line in path.read_text().splitlines():
        if line and not line.startswith(bookkeeping):
            assert "#" in line, f"{path.name}: {line}"


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipes__no_comment_became_part_of_a_value(path):
    """In YAML `value# comment` is one value."""
    assert "#" not in str(yaml.safe_load(path.read_text()))
    lines = [line for line in path.read_text().splitlines() if not line.startswith("#")]
    assert not [line for line in lines if re.match(r"[^#]*[^# ]#", line)]


@pytest.mark.slow
def test_train__online_teacher_labels_photographs(workplace, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("preset: v1\nmax_steps: 2\nper_device_train_batch_size: 3\nfeature_alignment_weight: 0\n")
    data = ["--labeled", str(workplace / "labeled"), "--unlabeled", str(workplace / "photos")]
    command = ["train", str(recipe), "--model", str(workplace / "model"), *data, *ON_CPU]
    command += ["--output_dir", str(tmp_path / "out")]
    assert main(command) == 1  # photographs without a teacher
    assert main([*command, "--teacher", str(workplace / "model")]) == 0


@pytest.mark.slow
def test_train__streamed_shards(workplace, tmp_path, capsys):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("preset: v2\nmax_steps: 2\nper_device_train_batch_size: 2\nfeature_alignment_weight: 0\n")
    shards = tmp_path / "shards" / "data"
    for i in range(2):
        load_folder(workplace / "pseudo").shard(2, i).to_parquet(shards / f"part-{i}.parquet")
    command = ["train", str(recipe), "--model", str(workplace / "model"), *ON_CPU, "--stream", "true"]
    command += ["--output_dir", str(tmp_path / "out")]
    assert main([*command, "--unlabeled", str(shards.parent)]) == 1  # `to_parquet` stores the paths of the images
    assert "lies outside of the set's folder" in capsys.readouterr().err
    command += ["--allow-outside"]
    assert main([*command, "--unlabeled", str(shards.parent), "--save_steps", "1"]) == 0
    assert (tmp_path / "out" / "checkpoint-1" / "stream_position_0.json").is_file()
    assert main([*command, "--unlabeled", str(workplace / "pseudo")]) == 1
    assert "a stream needs parquet shards" in capsys.readouterr().err


@pytest.mark.slow
def test_train__goes_on_from_the_last_checkpoint(workplace, tmp_path, capsys):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        f"model: {workplace / 'model'}\nlabeled: {workplace / 'labeled'}\nsave_steps: 2\nlearning_rate: 1.0e-3\n"
    )
    command = [
        "train",
        str(recipe),
        *ON_CPU,
        "--output_dir",
        str(tmp_path / "out"),
        "--per_device_train_batch_size",
        "2",
    ]
    command += ["--lr_scheduler_type", "constant"]
    assert main([*command, "--max_steps", "2"]) == 0
    assert main([*command, "--max_steps", "4"]) == 0
    straight = [argument.replace("out", "straight") if argument.endswith("/out") else argument for argument in command]
    assert main([*straight, "--max_steps", "4"]) == 0
    resumed, once = (AutoModelForDepthEstimation.from_pretrained(tmp_path / name) for name in ("out", "straight"))
    assert all(
        torch.equal(a, b) for a, b in zip(resumed.state_dict().values(), once.state_dict().values(), strict=True)
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "# mine\nlearnig_rate: 1",
            "recipe.yaml, line 2: unknown field 'learnig_rate'; did you mean 'learning_rate'?",
        ),
        ("modle: a", "recipe.yaml, line 1: unknown field 'modle'; did you mean 'model'?"),
        ("qqq: a", "unknown field 'qqq'; depth-anything-hf train --help-all lists the fields."),
        (
            "model: a\nlabeled: [b",
            "recipe.yaml, line 2: expected ',' or ']', but got '<stream end>'; write each field as",
        ),
        ("model: a: b", "recipe.yaml, line 1: mapping values are not allowed here; write each field as name: value."),
        ("- a\n- b", "holds a list"),
        ("labeled: x", "set one: --model to start from a checkpoint"),
        ("model: a", "names no data"),
        ("model: a\nlabeled: b\npreset: v3", "preset is 'v3'; it must be one of 'v1', 'v2'."),
        ("encoder: a\nlabeled: b\nversion: v3", "version is 'v3'; it must be one of 'v1', 'v2'."),
    ],
)
def test_parse_recipe__refuses(text, message, tmp_path, capsys):
    (tmp_path / "recipe.yaml").write_text(text)
    assert main(["train", str(tmp_path / "recipe.yaml"), "--use_cpu", "true"]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--preset", "v3"], "argument --preset: invalid choice: 'v3' (choose from 'v1', 'v2')"),
        (["--lora_decoder", "half"], "argument --lora-decoder: invalid choice: 'half'"),
        (["--stream", "maybe"], "argument --stream: 'maybe' is neither true nor false"),
        (["--max_stesp", "3"], "unrecognized arguments: --max_stesp 3; did you mean --max-steps?"),
        (["--lora-rnak", "3"], "unrecognized arguments: --lora-rnak 3; did you mean --lora-rank?"),
        (["stray"], "unrecognized arguments: stray"),
    ],
)
def test_train__refuses_options(words, message, tmp_path, capsys):
    (tmp_path / "recipe.yaml").write_text("model: a\nlabeled: b\n")
    with pytest.raises(SystemExit) as end:
        main(["train", str(tmp_path / "recipe.yaml"), *words])
    assert end.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("words", [["--no-stream"], ["--stream", "false"], ["--stream=no"]])
def test_parse_recipe__an_option_turns_a_switch_of_the_file_off(words, tmp_path):
    (tmp_path / "recipe.yaml").write_text("model: a\nunlabeled: b\nstream: true\nbf16: true\n")
    recipe, args = parse_recipe(tmp_path / "recipe.yaml", [*words, "--no-bf16", "--use-cpu", "--out", "here"])
    assert (recipe.stream, args.bf16, args.use_cpu, args.output_dir) == (False, False, True, "here")
    recipe, args = parse_recipe(tmp_path / "recipe.yaml", ["--no_bf16", "--use_cpu", "true", "--output_dir", "there"])
    assert (recipe.stream, args.output_dir) == (True, "there")


def test_parse_recipe__numbers_that_yaml_takes_for_text(tmp_path):
    (tmp_path / "recipe.yaml").write_text("model: a\nlabeled: b\nlearning_rate: 5e-6\nadam_epsilon: 1e-7\n")
    _, args = parse_recipe(tmp_path / "recipe.yaml", ["--no-bf16", "--use-cpu"])
    assert (args.learning_rate, args.adam_epsilon) == (5e-6, 1e-7)


def test_train__help_has_groups_and_leaves_the_stock_options_to_help_all(capsys):
    with pytest.raises(SystemExit):
        make_parser().parse_args(["--help"])
    short = capsys.readouterr().out
    assert main(["train", "--help"]) == 0
    assert capsys.readouterr().out == short
    groups = ("model", "data", "losses", "student's view", "optimization", "adapters", "run")
    places = [short.index(f"\n{title}:\n") for title in groups]
    assert places == sorted(places)
    assert "--adam-epsilon" not in short
    assert main(["train", "--help-all"]) == 0
    full = capsys.readouterr().out
    assert full.startswith(short)
    assert "--adam-epsilon" in full


def test_parse_recipe__command_line_wins_over_the_file(tmp_path):
    (tmp_path / "recipe.yaml").write_text("model: a\nlabeled: [b, c]\nlearning_rate: 5.0e-6\nmax_steps: 10\n")
    recipe, args = parse_recipe(tmp_path / "recipe.yaml", ["--max_steps", "3", "--use_cpu", "true"])
    assert (recipe.labeled, args.learning_rate, args.max_steps) == (["b", "c"], 5e-6, 3)


def test_parse_recipe__missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.yaml does not exist"):
        parse_recipe(tmp_path / "nowhere.yaml", [])


def test_make_parser__every_field_of_ours_has_help():
    ours = {"preset", "trim_fraction", "cutmix_probability", "encoder", "labeled", "unlabeled", "teacher", "lora_rank"}
    explained = {action.dest for action in make_parser()._actions if action.help}
    assert ours <= explained


def test_train__unreadable_data_is_named(tmp_path, workplace, capsys):
    (tmp_path / "empty").mkdir()
    (tmp_path / "recipe.yaml").write_text(f"model: {workplace / 'model'}\n")
    assert main(["train", str(tmp_path / "recipe.yaml"), "--labeled", str(tmp_path / "empty"), *ON_CPU]) == 1
    assert str(tmp_path / "empty") in capsys.readouterr().err
    Image.new("RGB", (4, 4)).save(tmp_path / "empty" / "a.png")


def test_parse_recipe__model_on_the_command_line_takes_the_place_of_the_recipes_encoder():
    recipe = RECIPES[0].parent / "v2_student.yaml"
    given = ["--unlabeled", "labels", "--bf16", "false"]
    start, _ = parse_recipe(recipe, [*given, "--model=checkpoint"])
    assert (start.model, start.encoder) == ("checkpoint", None)
    start, _ = parse_recipe(recipe, given)
    assert (start.model, start.encoder) == (None, "facebook/dinov2-small")


@pytest.fixture
def kitti(tmp_path):
    """Two frames in KITTI's layout, 360 x 1230 pixels, all of it at 16 m."""
    drive = "2011_09_26/2011_09_26_drive_0001_sync"
    for frame in (0, 1):
        picture = tmp_path / drive / "image_02" / "data" / f"{frame:010d}.png"
        depth = tmp_path / "train" / Path(drive).name / "proj_depth" / "groundtruth" / "image_02" / picture.name
        for path in (picture, depth):
            path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (1230, 360), (40 * frame, 90, 20)).save(picture)
        Image.fromarray(np.full((360, 1230), 16 * 256, np.uint16)).save(depth)
    (tmp_path / "frames.txt").write_text(f"{drive} 0 l\n{drive} 1 l\n")
    return tmp_path


@pytest.mark.slow
def test_train__a_benchmark_in_its_official_layout(kitti, workplace, tmp_path, capsys):
    options = json.dumps({"kitti": {"split_file": str(kitti / "frames.txt"), "kb_crop": True}})
    recipe = Path(__file__).parents[2] / "examples" / "recipes" / "metric_kitti_v1.yaml"
    data = ["--labeled", f"kitti:{kitti}", "--reader_options", options]
    data += ["--eval", f"kitti:{kitti}", "--eval_reader_options", options]
    sizes = ["--max_steps", "4", "--per_device_train_batch_size", "2", "--logging_steps", "1"]
    start = ["--encoder", str(workplace / "model"), "--output_dir", str(tmp_path / "out")]
    assert main(["train", str(recipe), *start, *data, *sizes, *ON_CPU]) == 0
    assert "eval_abs_rel" in capsys.readouterr().out
    log = json.loads((tmp_path / "out" / "trainer_state.json").read_text())["log_history"]
    # One cycle over 4 steps: 0.7 x 4 - 1 = 1.8 steps at the top, then half a cosine down to a ten-thousandth.
    rates = [entry["learning_rate"] for entry in log if "learning_rate" in entry]
    top = 50 * 3.22e-6  # of the decoder, which is logged
    fallen = [top * (1e-4 + (1 - 1e-4) * (1 + math.cos(math.pi * (i - 1.8) / 1.2)) / 2) for i in (2, 3)]
    assert rates == pytest.approx([top, top, *fallen], rel=1e-3)


@pytest.mark.slow
def test_train__metric_from_a_relative_model_with_its_neck(workplace, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("max_depth: 20\nwith_neck: true\nmax_steps: 1\nlearning_rate: 0.0\nweight_decay: 0.0\n")
    start = ["--encoder", str(workplace / "model"), "--labeled", str(workplace / "labeled")]
    assert main(["train", str(recipe), *start, *ON_CPU, "--output_dir", str(tmp_path / "out")]) == 0
    relative, metric = (
        AutoModelForDepthEstimation.from_pretrained(p) for p in (workplace / "model", tmp_path / "out")
    )
    assert metric.config.max_depth == 20
    for part in ("backbone", "neck"):
        taken = getattr(metric, part).state_dict()
        assert all(torch.equal(value, taken[name]) for name, value in getattr(relative, part).state_dict().items())


def test_train__max_depth_of_a_model_that_has_another_is_an_error(workplace, tmp_path, capsys):
    recipe = Path(__file__).parents[2] / "examples" / "recipes" / "metric_hypersim.yaml"
    start = ["--model", str(workplace / "model"), "--labeled", str(workplace / "labeled")]
    assert main(["train", str(recipe), *start, *ON_CPU, "--output_dir", str(tmp_path / "out")]) == 1
    assert "--max-depth is 20, but" in (error := capsys.readouterr().err)
    assert (
        "is relative with a range of 1; a head is made for one range. Pass the model as --encoder, to get a fresh head"
        in error
    )


def test_train__reader_options_that_are_no_json_are_named(workplace, tmp_path, capsys):
    recipe = Path(__file__).parents[2] / "examples" / "recipes" / "metric_kitti_v1.yaml"
    start = ["--encoder", str(workplace / "model"), "--labeled", str(workplace / "labeled")]
    for given in ("{kitti: 1}", "[1]"):
        assert main(["train", str(recipe), *start, "--reader_options", given, *ON_CPU]) == 1
        assert f"--reader-options is {given!r}; it must be JSON" in capsys.readouterr().err


# The start's own geometry


@pytest.fixture
def one_step(workplace, tmp_path):
    """Function that trains a step from a model at the sizes given, and reads the processor that it saved."""
    (tmp_path / "recipe.yaml").write_text("max_steps: 1\nper_device_train_batch_size: 2\nreport_to: none\n")

    def run(model, *sizes) -> dict | None:
        out = tmp_path / "out"
        command = ["train", str(tmp_path / "recipe.yaml"), "--model", model, "--labeled", str(workplace / "labeled")]
        if main([*command, "--use_cpu", "true", "--output_dir", str(out), *sizes]):
            return None
        trained_at = json.loads((out / "provenance.json").read_text())["recipe"]["image size"]
        saved = json.loads((out / "preprocessor_config.json").read_text())
        assert trained_at == f"{saved['size']['height']} x {saved['size']['width']}"
        return saved

    return run


@pytest.mark.slow
def test_train__from_mini_keeps_its_geometry(one_step, workplace, tmp_path):
    assert one_step(MINI) == json.loads((Path(checkpoint_folder(MINI)) / "preprocessor_config.json").read_text())


@pytest.mark.slow
def test_train__the_encoder_of_mini_takes_a_fresh_decoder(workplace, tmp_path):
    (tmp_path / "recipe.yaml").write_text("max_steps: 1\nper_device_train_batch_size: 2\nreport_to: none\n")
    data = ["--encoder", MINI, "--labeled", str(workplace / "labeled"), "--image_height", "48", "--image_width", "64"]
    frozen = ["--use_cpu", "true", "--learning_rate", "0", "--output_dir", str(tmp_path / "out")]
    assert main(["train", str(tmp_path / "recipe.yaml"), *data, *frozen]) == 0
    mini, made = (AutoModelForDepthEstimation.from_pretrained(p) for p in (checkpoint_folder(MINI), tmp_path / "out"))
    own = mini.backbone.state_dict()
    assert all(torch.equal(value, own[name]) for name, value in made.backbone.state_dict().items())
    assert not torch.equal(made.head.conv1.weight, mini.head.conv1.weight)


@pytest.mark.slow
def test_train__sizes_given_win_one_by_one(one_step):
    saved = one_step(MINI, "--image_height", "64")
    assert saved["size"] == {"height": 64, "width": 128}
    assert (saved["keep_aspect_ratio"], saved["ensure_multiple_of"]) == (False, 8)


@pytest.mark.slow
def test_train__sizes_default_to_those_of_the_model(one_step, workplace):
    saved = one_step(str(workplace / "model"))
    assert (saved["size"], saved["keep_aspect_ratio"]) == ({"height": 56, "width": 56}, True)


@pytest.mark.parametrize("start", ["model", "encoder"])
def test_start_processor__without_one_is_the_official(start, workplace, tmp_path):
    model = DepthAnythingForDepthEstimation.from_pretrained(workplace / "model")
    model.save_pretrained(tmp_path / "bare")
    folder = str({"model": tmp_path / "bare", "encoder": workplace / "model"}[start])
    processor = start_processor(RecipeArguments(labeled=["x"], **{start: folder}), model.config)
    assert processor.to_dict() == DepthAnythingImageProcessor().to_dict()


def test_start_processor__carries_the_models_rules(workplace, tmp_path):
    model = DepthAnythingForDepthEstimation.from_pretrained(workplace / "model")
    model.save_pretrained(tmp_path)
    own = {"size": {"height": 112, "width": 56}, "ensure_multiple_of": 28, "keep_aspect_ratio": False}
    own |= {"image_mean": (0.5,) * 3, "image_std": (0.25,) * 3}
    DepthAnythingImageProcessor(**own).save_pretrained(tmp_path)
    recipe = RecipeArguments(model=str(tmp_path), labeled=["x"], image_width=84)
    made = start_processor(recipe, model.config).to_dict()
    assert {name: made[name] for name in own} == own | {"size": {"height": 112, "width": 84}}


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        (
            ["--image_height", "518"],
            "--image-height is 518; it must be a multiple of the patch size 8, such as 96, the size of mini.",
        ),
        (
            ["--image_width", "0"],
            "--image-width is 0; it must be a multiple of the patch size 8, such as 128, the size of mini.",
        ),
    ],
)
def test_train__crop_that_is_no_multiple_of_the_patch(sizes, message, one_step, capsys):
    assert one_step(MINI, *sizes) is None
    assert message in capsys.readouterr().err


def test_start_processor__crop_that_fits_no_patch_of_a_fresh_decoder(workplace):
    recipe = RecipeArguments(encoder=str(workplace / "encoder"), labeled=["x"], image_height=520)
    config = DepthAnythingForDepthEstimation.from_pretrained(workplace / "model").config
    with pytest.raises(ValueError, match=r"multiple of the patch size 14, such as 518\.$"):
        start_processor(recipe, config)


# A run that is done


@pytest.fixture
def to_its_end(workplace, tmp_path):
    """Function that trains to step 2 of an epoch of 4, and tells of the run: checkpoints, weights, metrics, history."""
    (tmp_path / "recipe.yaml").write_text("learning_rate: 1.0e-3\nper_device_train_batch_size: 1\nlogging_steps: 1\n")
    out = tmp_path / "out"

    def run(*given, data="labeled"):
        start = ["--model", str(workplace / "model"), "--eval", str(workplace / "labeled"), "--output_dir", str(out)]
        data = ["--labeled", str(workplace / "labeled")] if data == "labeled" else data
        assert main(["train", str(tmp_path / "recipe.yaml"), *start, *data, *ON_CPU, "--max_steps", "2", *given]) == 0
        weights = next(out.glob("*model.safetensors")).read_bytes()
        state = json.loads((out / "trainer_state.json").read_text())
        checkpoints = sorted(path.name for path in out.glob("checkpoint-*"))
        return checkpoints, weights, json.loads((out / "all_results.json").read_text()), state

    return run


@pytest.mark.slow
@pytest.mark.parametrize(
    "given", [(), ("--lora_rank", "2"), ("--gradient_accumulation_steps", "2", "--max_steps", "1")]
)
def test_train__repeated_when_done_trains_nothing_and_says_the_same(given, to_its_end):
    checkpoints, weights, metrics, state = to_its_end(*given)
    for _ in range(2):
        again = to_its_end(*given)
        assert again[:2] == (checkpoints, weights)
        assert again[2] == pytest.approx(metrics | {name: again[2][name] for name in metrics if "eval_" in name})
        assert metrics["eval_abs_rel"] == pytest.approx(again[2]["eval_abs_rel"], rel=1e-6)
        assert again[3]["global_step"] == state["global_step"]
        for key in ("loss", "train_loss"):
            told = [[entry[key] for entry in one["log_history"] if key in entry] for one in (state, again[3])]
            assert told[0] == told[1]


@pytest.mark.slow
def test_train__repeated_when_done_with_a_stream_trains_nothing(to_its_end, workplace, tmp_path):
    load_folder(workplace / "pseudo").to_parquet(tmp_path / "shards" / "data" / "part-0.parquet")
    data = ["--unlabeled", str(tmp_path / "shards"), "--stream", "true", "--feature_alignment_weight", "0"]
    data += ["--allow-outside"]  # `to_parquet` stores the paths of the images
    first, again = to_its_end(data=data), to_its_end(data=data)
    assert first[:2] == again[:2]
    assert first[2].keys() == again[2].keys()


@pytest.mark.slow
def test_train__done_but_never_scored_is_scored_without_a_loss_that_nobody_knows(to_its_end, tmp_path):
    """Killed between the last checkpoint and the end: what the run would have told of its training is lost."""
    checkpoints, weights, metrics, _ = to_its_end()
    for name in ("trainer_state.json", "all_results.json", "model.safetensors"):
        (tmp_path / "out" / name).unlink()
    again = to_its_end()
    assert again[:2] == (checkpoints, weights)
    assert metrics.keys() - again[2].keys() == {"train_loss", "train_samples_per_second", "train_steps_per_second"}
    assert again[2]["eval_abs_rel"] == pytest.approx(metrics["eval_abs_rel"], rel=1e-6)


@pytest.mark.slow
def test_train__done_goes_on_to_a_later_end(to_its_end):
    to_its_end()
    to_its_end()
    checkpoints, _, metrics, state = to_its_end("--max_steps", "3")
    assert (checkpoints, state["global_step"]) == (["checkpoint-2", "checkpoint-3"], 3)
    assert metrics["train_loss"] > 0


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("model: [a, b]", r"line 2: model is \['a', 'b'\]; it must be text"),
        ("labeled: [a, ~]", r"line 2: labeled is \['a', None\]; it must be a list of words"),
        ("labeled: [3]", r"line 2: labeled is \[3\]; it must be a list of words"),
        ("labeled: {a: b}", r"line 2: labeled is .*; it must be a list of words"),
        ("skip_broken: [yes]", r"line 2: skip_broken is .*; it must be true or false"),
        ("max_depth: true", r"line 2: max_depth is True; it must be a number"),
        ("image_height: 32.5", r"line 2: image_height is 32\.5; it must be an integer"),
        ("image_height: .nan", r"line 2: image_height is nan; it must be an integer"),
        ("image_height: .inf", r"line 2: image_height is inf; it must be an integer"),
        ("seed: 1.5", r"line 2: seed is 1\.5; it must be an integer"),
        ("max_steps: [3]", r"line 2: max_steps is \[3\]; it must be an integer"),
        ("learning_rate: {encoder: 1}", r"line 2: learning_rate is .*; it must be a number"),
        ("lr_scheduler_kwargs: [1]", r"line 2: lr_scheduler_kwargs is \[1\]; it must be a mapping or text"),
        ("preset: v1\npreset: v2", r"line 3: preset stands in line 2, too; keep one of them"),
        (
            "color_ranges: {brightnes: 0.2}",
            r"color_ranges is .*; it maps some of these names .*brightness \(\(0\.9, 1\.1\)\)",
        ),
        ("color_ranges: {brightness: 0.2}", r"color_ranges is .*; it maps some of these names"),
        ("color_ranges: '{bad'", r"color_ranges is '\{bad', which is no JSON"),
        ("color_ranges: hello", r"color_ranges is 'hello'; it maps some of these names"),
        ("perturbation_kwargs: {hues: 0.2}", r"perturbation_kwargs is .*; it maps some of these names .*hue \("),
        ("perturbation_kwargs: {hue: a}", r"perturbation_kwargs is .*; it maps some of these names"),
        ("a: " + 500 * "[", "is no YAML"),
    ],
)
def test_parse_recipe__a_value_of_another_kind_is_named_with_its_line(tmp_path, line, said):
    data = "" if line.startswith("labeled") else "labeled: [d]\n"
    (tmp_path / "recipe.yaml").write_text(f"encoder: e\n{line}\n{data}")
    with pytest.raises((ValueError, TypeError), match=said):
        parse_recipe(tmp_path / "recipe.yaml", ["--use-cpu", "true"])


@pytest.mark.parametrize("weight", ["lots", "", None, [1], {"weight": None}, float("nan"), -1])
def test_loss_terms__a_weight_that_is_no_number(weight):
    with pytest.raises(ValueError, match=r"weight is .*; it must be a finite number of at least 0"):
        loss_terms({"silog": weight})


def test_parse_recipe__words_and_numbers_are_those_of_yaml_1_2(tmp_path):
    lines = ["model: m", "labeled: d", "losses: {gradient_matching: {weight: 1e-3, on: unlabeled}}", "max_steps: 1e3"]
    lines += ["learning_rate: 1e-4", "save_strategy: no", "strong_perturbation: no", "skip_broken: yes", "seed: 7.0"]
    (tmp_path / "recipe.yaml").write_text("\n".join(lines))
    recipe, args = parse_recipe(tmp_path / "recipe.yaml", ["--use-cpu", "true"])
    (term,) = loss_terms(recipe.losses)
    assert (term.name, term.weight, term.on) == ("gradient_matching", 1e-3, "unlabeled")
    assert (args.learning_rate, args.max_steps, args.seed, type(args.max_steps)) == (1e-4, 1000, 7, int)
    assert (args.save_strategy.value, args.strong_perturbation, recipe.skip_broken) == ("no", False, True)


def test_parse_recipe__a_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="is a folder; give a recipe"):
        parse_recipe(tmp_path, [])
