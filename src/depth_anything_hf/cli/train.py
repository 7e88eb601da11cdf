"""`depth-anything-hf train RECIPE.yaml [--any-field value]`."""

from __future__ import annotations

import difflib
import re
import types
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Union, get_args, get_origin, get_type_hints

from depth_anything_hf.cli.options import Parser, add_fields
from depth_anything_hf.training.fields import GROUPS, RecipeArguments, check_choices

if TYPE_CHECKING:
    from transformers import HfArgumentParser

    from depth_anything_hf.training.arguments import DepthAnythingTrainingArguments

_WANTED = {
    bool: "true or false",
    int: "an integer",
    float: "a number",
    list: "a list of words",
    dict: "a mapping",
    str: "text",
}
PARTS = [part for parts in GROUPS.values() for part in parts]
EXAMPLE = """A recipe is a YAML file with any of these fields, in snake_case. A field on the command line wins. Each field of
transformers' TrainingArguments is an option, too: --max-steps, --num-train-epochs, --per-device-train-batch-size,
--save-steps, --report-to, ...; --help-all lists them. A switch is given as --stream, --no-stream or --stream true.
examples/recipes/ holds the recipes of the papers, each value with its source.

examples:
  depth-anything-hf train examples/recipes/v2_student.yaml --unlabeled pseudo_labels --out student
  depth-anything-hf train examples/recipes/metric_nyuv2.yaml --labeled my_rooms --eval my_rooms_test --max-steps 1000

The same command resumes from the last checkpoint in --out; a finished run is only saved and scored again. --restart
starts anew.
"""


def make_parser() -> Parser:
    """Build the parser of this library's own options."""
    parser = Parser("train", "Train Depth Anything by a recipe.", EXAMPLE, allow_abbrev=False)
    parser.usage = f"{parser.prog} RECIPE.yaml [options]"
    parser.add_argument("recipe", type=Path, metavar="RECIPE.yaml", help="the first argument")
    parser.add_argument("--help-all", action="store_true", help="also show the options of transformers")
    for title, parts in GROUPS.items():
        group = parser.add_argument_group(title)
        for part in parts:
            add_fields(group, part, parser)
    return parser


def main(arguments: list[str]) -> int:
    """Parse and run."""
    parser = make_parser()
    if {"-h", "--help", "--help-all"} & set(arguments) or not arguments:
        parser.print_help()
        if "--help-all" in arguments:
            print("\nfields of transformers' TrainingArguments, whose defaults are given:\n")
            print(_stock_parser().format_help().partition("options:\n")[2])
        return 0 if arguments else 2
    if arguments[0].startswith("-"):
        parser.error(f"the first argument is {arguments[0]!r}; it must be a recipe, such as v2_student.yaml")
    recipe, args = parse_recipe(Path(arguments[0]), arguments[1:])

    from depth_anything_hf.training.recipe import run_recipe

    metrics = run_recipe(recipe, args)
    for name, value in sorted(metrics.items()):
        print(f"{name:<32} {value:.4f}" if isinstance(value, float) else f"{name:<32} {value}")
    return 0


def parse_recipe(path: Path, words: list[str]) -> tuple[RecipeArguments, DepthAnythingTrainingArguments]:
    """Read a recipe; the options in `words` win. Transformers is imported last, when this library's own fields are in order."""
    parser = make_parser()
    given, rest = parser.parse_known_args([str(path), *words])
    lines = read_recipe(path)
    for part in PARTS:
        _check_kinds(path, lines, part)
    values = {name: value for name, (value, _) in lines.items()}
    for name, other in (("model", "encoder"), ("encoder", "model")):  # two answers to one question: where to start
        if name in given and other not in given:
            values.pop(other, None)
    own = {one.name for part in PARTS for one in fields(part)}
    parser.set_defaults(**{name: value for name, value in values.items() if name in own})
    settled = vars(parser.parse_known_args([str(path), *words])[0])
    for part in PARTS:
        check_choices(part, settled)
    stock_values = {name: value for name, value in values.items() if name not in own}
    if stock_values or rest:
        _check_names(parser, path, {name: lines[name][1] for name in stock_values}, own, rest)
    recipe = RecipeArguments(**_part(settled, {one.name for one in fields(RecipeArguments)}))
    stock = _stock_parser()
    if stock_values:
        from depth_anything_hf.training.arguments import DepthAnythingTrainingArguments

        _check_kinds(path, lines, DepthAnythingTrainingArguments)
        stock_values = {name: lines[name][0] for name in stock_values}
    stock.set_defaults(**stock_values, **_part(settled, {action.dest for action in stock._actions}))
    (args,) = stock.parse_args_into_dataclasses(rest, look_for_args_file=False)
    return recipe, args


def read_recipe(path: Path) -> dict[str, tuple[Any, int]]:
    """Read the fields of a YAML file: the value and the line number of each."""
    import yaml

    class Loader(yaml.SafeLoader):
        """Read `on`, `no` and `yes` as words and 1e-4 as a number, as YAML 1.2 does."""

        yaml_implicit_resolvers = {  # noqa: RUF012 - upstream's
            first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith(":bool") or first in "tTfF"]
            for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
        }

    number = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+")
    Loader.add_implicit_resolver("tag:yaml.org,2002:float", number, list("-+.0123456789"))
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise FileNotFoundError(f"{path} {what}; give a recipe, such as examples/recipes/v2_student.yaml.")
    text = path.read_text(encoding="utf-8")
    try:
        recipe, node = yaml.load(text, Loader) or {}, yaml.compose(text, Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f", line {mark.line + 1}" if mark else ""
        raise ValueError(f"{path}{line}: {error.problem}; write each field as name: value.") from error
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(f"{path} is no YAML ({str(error).splitlines()[0]}); write it as UTF-8 text.") from error
    if not isinstance(recipe, dict):
        raise ValueError(f"{path} holds a {type(recipe).__name__}; a recipe is a mapping of field names to values.")
    marks: dict[str, int] = {}
    for key, _ in node.value if node else ():
        line = key.start_mark.line + 1
        if key.value in marks:
            raise ValueError(
                f"{path}, line {line}: {key.value} stands in line {marks[key.value]}, too; keep one of them."
            )
        marks[key.value] = line
    return {str(name): (value, marks.get(str(name), 1)) for name, value in recipe.items()}


def _check_kinds(path: Path, lines: dict[str, tuple[Any, int]], cls: type) -> None:
    """Raise an error for a value of a recipe of another kind than the field of `cls`; text is read as an option's is."""
    for name, hint in get_type_hints(cls).items():
        value, line = lines.get(name, (None, 0))
        union = get_origin(hint) in (Union, types.UnionType)
        kinds = {get_origin(kind) or kind for kind in (get_args(hint) if union else (hint,))} - {type(None)}
        if isinstance(value, float) and value.is_integer() and not kinds - {int}:
            value = int(value)
            lines[name] = value, line
        fits = (
            value is None or isinstance(value, str) or type(value) in kinds or (type(value) is int and float in kinds)
        )
        if not isinstance(value, (list, dict)):
            fits = fits or not kinds & {int, float, list, dict}  # a word, or a member of an enumeration
        elif isinstance(value, list):
            fits = fits and all(isinstance(one, str) for one in value)
        if not fits:
            wanted = " or ".join(_WANTED.get(kind, "a word") for kind in sorted(kinds, key=str))
            raise ValueError(f"{path}, line {line}: {name} is {value!r}; it must be {wanted}.")


def _part(values: dict[str, Any], names: set[str]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name in names}


def _stock_parser() -> HfArgumentParser:
    """Build the parser of all fields of the training arguments; this takes the seconds of importing transformers."""
    from transformers import HfArgumentParser

    from depth_anything_hf.training.arguments import DepthAnythingTrainingArguments

    fields_of: Any = DepthAnythingTrainingArguments  # the parser is annotated with a NewType that no class is
    return HfArgumentParser(fields_of, prog="depth-anything-hf train RECIPE.yaml")


def _check_names(parser: Parser, path: Path, lines: dict[str, int], own: set[str], rest: list[str]) -> None:
    """Raise an error for fields (with their lines) and options that neither this library nor transformers knows."""
    stock = _stock_parser()
    known = own | {action.dest for action in stock._actions}
    for name, line in lines.items():
        if name not in known:
            close = difflib.get_close_matches(name, known, 1)
            hint = f"did you mean {close[0]!r}?" if close else "depth-anything-hf train --help-all lists the fields."
            raise ValueError(f"{path}, line {line}: unknown field {name!r}; {hint}")
    if refused := stock.parse_known_args(rest)[1]:
        parser.refuse(refused, [option for option in stock._option_string_actions if "_" not in option])
