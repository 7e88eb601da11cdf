"""The options of all subcommands in one dialect: the parser, the options that several share, and those of a dataclass.

Nothing heavy is imported here: `--help` and a wrong value are answered before PyTorch is loaded.
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import re
import sys
import types
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn, Union, get_args, get_origin, get_type_hints

from depth_anything_hf.maps.spaces import SPACES
from depth_anything_hf.prediction.devices import DEVICES


class Parser(argparse.ArgumentParser):
    """Parse kebab-case options; the snake_case spelling of each is accepted and not shown.

    `example` is shown as it is, below the options; `kwargs` go to `argparse.ArgumentParser`.

    Example:
        >>> parser = Parser("predict", "Write the depth of images.", "example: ...")
        >>> _ = parser.add_argument("--batch-size", type=int)
        >>> parser.parse_args(["--batch_size", "3"]).batch_size
        3
    """

    def __init__(self, command: str, description: str, example: str, **kwargs: Any):
        super().__init__(
            prog=f"depth-anything-hf {command}",
            description=description,
            epilog=example,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            **kwargs,
        )
        self.other_names: dict[str, str] = {}  # options that are accepted and not shown, and those they stand for

    def parse_known_args(self, args: Iterable[str] | None = None, namespace: Any = None) -> Any:
        """Parse, as argparse does; options that are not known are returned beside the namespace."""
        words = list(sys.argv[1:] if args is None else args)
        end = words.index("--") if "--" in words else len(words)
        return super().parse_known_args([*map(self._shown, words[:end]), *words[end:]], namespace)

    def parse_args(self, args: Iterable[str] | None = None, namespace: Any = None) -> Any:
        """Parse; an unknown option ends the process with exit code 2."""
        options, unknown = self.parse_known_args(args, namespace)
        if unknown:
            self.refuse(unknown)
        return options

    def refuse(self, unknown: Sequence[str], known: Iterable[str] = ()) -> NoReturn:
        """End with exit code 2, and name the unknown words and the option that was meant, of this parser or of `known`."""
        names = [option.lstrip("-") for option in [*self._option_string_actions, *known]]
        name = next((word for word in unknown if word.startswith("-")), unknown[0]).partition("=")[0].lstrip("-")
        close = difflib.get_close_matches(name.replace("_", "-"), names, 1)
        hint = f"; did you mean --{close[0]}?" if close else f"; {self.prog} --help lists the options"
        self.error(f"unrecognized arguments: {' '.join(unknown)}{hint}")

    def _shown(self, word: str) -> str:
        """Turn an option of another spelling into the one that is shown."""
        name, equals, value = word.partition("=")
        kebab = name.replace("_", "-")
        shown = self.other_names.get(kebab, kebab)
        known = any(option.startswith(shown) for option in self._option_string_actions)
        return shown + equals + value if name.startswith("--") and known else word


def add_model_options(parser: argparse.ArgumentParser, **model: Any) -> None:
    """Add `--model`, with the given settings of `add_argument`, `--space` and `--device`."""
    parser.add_argument("--model", metavar="ID|DIR", **model)
    parser.add_argument("--space", choices=SPACES, help="what the model predicts, if its config does not say")
    parser.add_argument(
        "--device", choices=DEVICES, default="auto", help="where it runs (default: CUDA, else MPS, else the CPU)"
    )


def add_resolution(parser: argparse.ArgumentParser) -> None:
    """Add `--resolution`."""
    parser.add_argument(
        "--resolution",
        type=int,
        metavar="PIXELS",
        help="shorter side of the model's input, a multiple of its patch size (default: the checkpoint's, 518 for the "
        "official ones)",
    )


def add_fields(parser: Any, cls: type, root: Parser) -> None:
    """Add an option for each field of a dataclass to `parser`, which is `root` or a group of it; a field that is not given is
    left out of the namespace.

    The metadata of a field are those that transformers' `HfArgumentParser` reads: `help`, `choices`, `metavar`
    and `aliases`; the first alias is shown in place of the field's name. A switch is given as `--name`, `--no-name` or `--name true`.
    """
    hints = get_type_hints(cls)
    for one in dataclasses.fields(cls):
        own = "--" + one.name.replace("_", "-")
        option = one.metadata.get("aliases", [own])[0]
        if option != own:
            root.other_names[own] = option
        kind = _kind_of(hints[one.name])
        needed = one.default is dataclasses.MISSING and one.default_factory is dataclasses.MISSING
        settings: dict[str, Any] = {"dest": one.name, "default": argparse.SUPPRESS, "required": needed}
        settings["help"] = _help_of(one)
        metavar = one.metadata.get("metavar", one.name.rpartition("_")[2].upper())
        if kind is bool:
            no = "--no-" + option.removeprefix("--")
            parser.add_argument(option, type=_switch, nargs="?", const=True, metavar="true|false", **settings)
            parser.add_argument(
                no, dest=one.name, action="store_false", default=argparse.SUPPRESS, help=argparse.SUPPRESS
            )
        elif kind is list:
            parser.add_argument(option, nargs="+", metavar=metavar, **settings)
        elif "choices" in one.metadata:
            parser.add_argument(option, choices=one.metadata["choices"], **settings)
        else:
            parser.add_argument(option, type=kind, metavar=metavar, **settings)


def as_options(message: str, parser: argparse.ArgumentParser) -> str:
    """Translate the arguments that an error message of the library names to options of a parser.

    A message names an argument in one of these ways: in backticks; with its value, as `space='depth'`; at the beginning
    of the message, or of a clause with its value, as "limit is 0"; and, if its name has an underscore, anywhere.

    Example:
        >>> parser = Parser("predict", "", "")
        >>> _ = parser.add_argument("--batch-size"), parser.add_argument("--space"), parser.add_argument("--tile")
        >>> as_options("batch_size is 0; pass `tile`, or space='depth' (the space of space.png is not known)", parser)
        '--batch-size is 0; pass --tile, or --space depth (the space of space.png is not known)'
    """
    options: dict[str, str] = {}
    for action in parser._actions:
        if action.option_strings and action.dest != "help":
            options.setdefault(action.dest, action.option_strings[0])
    if not options:
        return message
    every = "|".join(map(re.escape, options))
    long = "|".join(re.escape(name) for name in options if "_" in name) or "(?!)"
    start = r"(?<![\w./\\'\"\[=?&#@~+%-])"  # not inside a path, a URL, a quotation or a longer name
    pattern = (
        rf"`(?P<quoted>{every})`"
        rf"|{start}(?P<set>{every})=(?P<q>['\"]?)(?P<value>[\w.]+)(?P=q)(?![\w/])"
        rf"|^(?P<first>{every})(?= is )"
        rf"|(?<=[;.,:] )(?P<stated>{every})(?= is (?:['\"\[\d-]|None|True|False))"
        rf"|{start}(?P<long>{long})(?![\w/\\'\"=-]|\.\w)"
    )

    def option(match: re.Match[str]) -> str:
        name = match["quoted"] or match["set"] or match["first"] or match["stated"] or match["long"]
        value = match["value"]
        return options[name] + (f" {value.lower() if value in ('True', 'False') else value}" if match["set"] else "")

    return re.sub(pattern, option, message)


def _kind_of(hint: Any) -> type:
    """Find the type to parse: `list` for lists, `str` for JSON, else the one type beside None."""
    if get_origin(hint) in (Union, types.UnionType):
        kinds = [kind for kind in get_args(hint) if kind is not type(None)]
        return str if str in kinds else kinds[0]
    return get_origin(hint) or hint


def _help_of(one: dataclasses.Field) -> str:
    """Return a field's help, with its default unless that is none, False, or in the text already."""
    text = one.metadata["help"].replace("%", "%%")
    if one.default in (None, False, dataclasses.MISSING) or "default" in text.lower():
        return text
    return f"{text} Default: {one.default}."


def _switch(text: str) -> bool:
    """Read a truth value as transformers' `HfArgumentParser` does."""
    words = {True: ("yes", "true", "t", "y", "1"), False: ("no", "false", "f", "n", "0")}
    for value, spellings in words.items():
        if text.lower() in spellings:
            return value
    raise argparse.ArgumentTypeError(f"{text!r} is neither true nor false")
