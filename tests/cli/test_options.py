"""One dialect: what holds for every option of every subcommand."""

import argparse
import ast
import re
import shlex
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import depth_anything_hf
from depth_anything_hf.cli.main import SUBCOMMANDS
from depth_anything_hf.cli.options import Parser, as_options
from depth_anything_hf.export import LARGEST_ERROR
from depth_anything_hf.labeling.arguments import LabelingArguments
from depth_anything_hf.model.choices import SIZES
from depth_anything_hf.model.configuration import SIZE_PRESETS

WRONG = {
    "quickstart": ["--steps", "0"],
    "train": ["recipe.yaml", "--preset", "v3"],
    "pseudo-label": ["--model", "m", "--images", "i", "--out", "o", "--space", "metres"],
    "evaluate": ["--model", "m", "--dataset", "nyuv2", "--root", "r", "--out", "o", "--alignment", "shift"],
    "predict": ["a.jpg", "--device", "tpu"],
    "video": ["a.mp4", "--out", "o", "--space", "metres"],
    "app": ["--device", "tpu"],
    "convert": ["a.pth", "--size", "tiny", "--version", "v2", "--out", "o"],
    "export": ["--model", "m", "--out", "a.onnx", "--dtype", "int4"],
    "push": ["folder", "--repo-id", "a/b", "--licence", "mit"],
}


def parser_of(name: str) -> Parser:
    return import_module(f"depth_anything_hf.cli.{name.replace('-', '_')}").make_parser()


def options_of(name: str) -> list[argparse.Action]:
    return [action for action in parser_of(name)._actions if action.option_strings and action.dest != "help"]


def sample(action: argparse.Action) -> list[str]:
    """Values that an option takes."""
    if action.nargs in (0, "?"):
        return []
    value = str(next(iter(action.choices))) if action.choices else "2"
    return [value] * (action.nargs if isinstance(action.nargs, int) else 1)


def required(name: str, but: str = "") -> list[str]:
    """The shortest command line that parses."""
    actions = [a for a in parser_of(name)._actions if a.required and a.dest != but]
    return [w for a in actions for w in ([a.option_strings[0]] if a.option_strings else []) + (sample(a) or ["2"])]


@pytest.mark.parametrize("name", SUBCOMMANDS)
@pytest.mark.parametrize("words", [["--help"], None], ids=["help", "wrong value"])
def test_command__answers_without_pytorch(name, words, tmp_path):
    (tmp_path / "recipe.yaml").write_text("model: a\nlabeled: b\n")
    words = WRONG[name] if words is None else words
    result = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "depth_anything_hf", name, *words],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=tmp_path,
    )
    imported = {line.rsplit("|", 1)[-1].strip() for line in result.stderr.splitlines() if "|" in line}
    answer = "\n".join(line for line in result.stderr.splitlines() if not line.startswith("import time:"))
    assert "depth_anything_hf.cli.options" in imported
    assert not imported & {"torch", "transformers", "datasets", "peft", "numpy"}
    if words == ["--help"]:
        assert (result.returncode, answer) == (0, "")
    else:
        assert result.returncode == (1 if name == "quickstart" else 2)
        assert words[-2] in answer


@pytest.mark.parametrize("name", SUBCOMMANDS)
def test_options__are_kebab_case(name):
    for action in options_of(name):
        assert [o for o in action.option_strings if not re.fullmatch(r"--[a-z0-9]+(-[a-z0-9]+)*", o)] == []
        assert action.help, action.dest


@pytest.mark.parametrize("name", SUBCOMMANDS)
def test_options__snake_case_is_accepted_and_not_shown(name):
    parser = parser_of(name)
    for action in options_of(name):
        for option in action.option_strings:
            if "-" in option[2:] and option != "--help-all":
                words = [
                    *required(name, action.dest),
                    option.replace("-", "_").replace("__", "--", 1),
                    *sample(action),
                ]
                kebab = [*required(name, action.dest), option, *sample(action)]
                assert parser.parse_args(words) == parser.parse_args(kebab), option
    shown = parser.format_help().split("example", 1)[0]
    assert re.findall(r"--\w*_\w*", shown) == []


def test_options__the_same_thing_has_the_same_word():
    words, choices = {}, {}
    for name in SUBCOMMANDS:
        for action in options_of(name):
            if not action.option_strings[0].startswith("--no-"):
                words.setdefault(action.dest, set()).add(action.option_strings[0])
            if action.dest in ("space", "device"):
                choices.setdefault(action.dest, set()).add(tuple(action.choices))
    assert {dest: found for dest, found in words.items() if len(found) > 1} == {}
    assert words["out_dir"] == words["output_dir"] == words["out"] == {"--out"}
    assert choices == {"space": {("depth", "disparity")}, "device": {("auto", "cpu", "cuda", "mps")}}


@pytest.mark.parametrize("name", ["predict", "video", "evaluate", "app", "pseudo-label"])
def test_options__of_the_commands_that_run_a_model(name):
    assert {"model", "space", "device"} <= {action.dest for action in options_of(name)}


def commands_in(text: str) -> list[list[str]]:
    """Command lines of ours in a text, as lists of words from the subcommand on."""
    text = text.replace("\\\n", " ").replace("$M", "M")
    found = re.findall(r"^\s*(?:depth-anything-hf|.*-m depth_anything_hf) (.+?)(?:\s{3,}.*)?$", text, re.MULTILINE)
    return [words for words in map(shlex.split, found) if words[0] in SUBCOMMANDS]


@pytest.mark.parametrize("name", SUBCOMMANDS)
def test_examples__parse(name):
    commands = commands_in(parser_of(name).epilog)
    assert any(words[0] == name for words in commands)
    for words in commands:
        options, unknown = parser_of(words[0]).parse_known_args(words[1:])
        assert unknown == ([] if words[0] != "train" else [w for w in words if w in ("--max-steps", "1000")]), words
        assert options


def test_parser__names_the_option_that_was_meant(capsys):
    with pytest.raises(SystemExit) as end:
        parser_of("predict").parse_args(["a.jpg", "--resolutoin", "518"])
    assert end.value.code == 2
    assert "unrecognized arguments: --resolutoin 518; did you mean --resolution?" in capsys.readouterr().err


def test_parser__words_after_two_dashes_are_no_options():
    assert parser_of("predict").parse_args(["--", "--max_megapixels.jpg"]).images == ["--max_megapixels.jpg"]


@pytest.mark.parametrize("words", [["--max_mega", "5"], ["--max-mega", "5"], ["--max_megapixels=5"]])
def test_parser__other_spellings(words):
    assert parser_of("predict").parse_args(["a.jpg", *words]).max_megapixels == 5


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], {}),
        (["--compiled"], {"compiled": True}),
        (["--no-compiled"], {"compiled": False}),
        (["--no_compiled"], {"compiled": False}),
        (["--compiled", "false"], {"compiled": False}),
        (["--private", "false", "--disable_tqdm"], {"private": False, "disable_tqdm": True}),
        (["--disable-tqdm", "yes", "--no-private"], {"private": False, "disable_tqdm": True}),
    ],
)
def test_switches__are_given_in_three_ways(words, expected):
    given = vars(parser_of("pseudo-label").parse_args(["--model", "m", "--images", "i", "--out_dir", "o", *words]))
    assert given == {"model": "m", "images": "i", "out_dir": "o"} | expected
    assert LabelingArguments(**given).private is expected.get("private", True)


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("batch_size is 0; it must be at least 1.", "--batch-size is 0; it must be at least 1."),
        ("x.pth names no `alignment`; pass `alignment`", "x.pth names no --alignment; pass --alignment"),
        ("pass space='disparity' or space='depth'.", "pass --space disparity or --space depth."),
        ("allow_partial=True scores the rest", "--allow-partial true scores the rest"),
        ("resolution is 57; take 56", "--resolution is 57; take 56"),
        ("out is a.pth; it must end in .onnx", "--out is a.pth; it must end in .onnx"),
        ("a.jpg is no image; model is gone", "a.jpg is no image; model is gone"),
        ("the model is 3 years old", "the model is 3 years old"),
        ("out/batch_size/a.png does not exist", "out/batch_size/a.png does not exist"),
        ("'batch_size' and batch_size.json and my_batch_size", "'batch_size' and batch_size.json and my_batch_size"),
        ("https://huggingface.co/a?resolution=3 fails", "https://huggingface.co/a?resolution=3 fails"),
        ("see https://x.org/a#batch_size or a@batch_size", "see https://x.org/a#batch_size or a@batch_size"),
        ("model a/b cannot be opened", "model a/b cannot be opened"),
        ("`lora_rank` is no option here", "`lora_rank` is no option here"),
    ],
)
def test_as_options__translates_the_names_of_arguments_alone(message, expected):
    assert as_options(message, parser_of("evaluate")) == expected


def test_choices__are_those_of_the_library():
    assert tuple(SIZE_PRESETS) == SIZES
    assert set(LARGEST_ERROR) == {"float32", "float16", "int8"}


PACKAGE = Path(depth_anything_hf.__file__).parent
NO_TEXTS = (
    "app/look.py",
    "cli/options.py",
    "cli/train.py",
)  # names of CSS, parts of names, and options of transformers
FOREIGN = {
    "--help",
    "--debug",
    "--version",
    "--shm-size",
    "--ipc",
    "--multi-gpu",
    "--compiled",
    "--nnodes",
    "--nproc-per-node",
}


@pytest.mark.slow
def test_every_option_that_a_text_names_exists():
    """In the texts of a subcommand, one of its own; in the library's and in command lines, one of any subcommand."""
    options = {
        name: {one for action in parser_of(name)._actions for one in action.option_strings} for name in SUBCOMMANDS
    }
    wrong = []
    for path in sorted(PACKAGE.rglob("*.py")):
        module = path.relative_to(PACKAGE).as_posix()
        own = path.stem.replace("_", "-") if module.startswith("cli/") else ""
        tree = ast.parse(path.read_text(encoding="utf-8"))
        docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
                named = re.findall(r"(?<![\w-])--[a-z][a-z_-]*[a-z]\b", node.value)
                any_command = own not in options or "depth-anything-hf " in node.value
                known = FOREIGN.union(*options.values()) if any_command else options[own]
                wrong += [(module, node.lineno, one) for one in named if one.replace("_", "-") not in known]
    assert [one for one in wrong if one[0] not in NO_TEXTS] == []
