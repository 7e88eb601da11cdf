"""`depth-anything-hf SUBCOMMAND`. Subcommands are imported when called, so that `--help` does not wait for PyTorch."""

from __future__ import annotations

import contextlib
import difflib
import os
import sys
import traceback
from importlib import import_module
from io import TextIOWrapper
from typing import cast

from depth_anything_hf.version import __version__

GROUPS = {
    "look": {
        "predict": "write the depth of images, however large: color map, 16-bit PNG, npy, point cloud",
        "video": "write the depth of videos, without flicker",
        "app": "serve a web page to look at depth and compare checkpoints",
    },
    "train": {
        "quickstart": "teacher, pseudo-labels and student in minutes on a CPU, with a report",
        "pseudo-label": "label images with a teacher at scale, resumably",
        "train": "train a teacher or a student from a recipe",
    },
    "measure and share": {
        "evaluate": "score models on a benchmark or on your own ground truth, side by side",
        "push": "share a model, an adapter or pseudo-labels on the Hub, with a card of the measured scores",
        "export": "write an ONNX file, checked against PyTorch",
        "convert": "official .pth to a Hugging Face checkpoint, and back",
    },
}
KEPT = {  # after Ctrl+C
    "predict": " What is written is kept.",
    "video": " The videos that are written are kept.",
    "pseudo-label": " The finished shards are kept, and the same command goes on.",
    "train": " The checkpoints in --out are kept, and the same command goes on from the last one.",
}
SUBCOMMANDS = {name: purpose for group in GROUPS.values() for name, purpose in group.items()}


def overview() -> str:
    """List the subcommands, by groups."""
    groups = [
        "\n".join([f"{title}:", *(f"  {name:<12} {purpose}" for name, purpose in group.items())])
        for title, group in GROUPS.items()
    ]
    return "\n\n".join(
        [
            "usage: depth-anything-hf SUBCOMMAND [options]",
            "Train, label with, measure and share Depth Anything in the Hugging Face ecosystem.",
            *groups,
            "depth-anything-hf SUBCOMMAND --help explains a subcommand, with an example.\n"
            "depth-anything-hf SUBCOMMAND ... --debug shows the traceback of an error.\n"
            "Start with: depth-anything-hf quickstart",
        ]
    )


def main(arguments: list[str] | None = None) -> int:
    """Run a subcommand.

    Returns:
        The exit code: 0; 1 for an error; 2 for a wrong command line; 130 after Ctrl+C; 141 if the output was closed.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    for stream in (sys.stdout, sys.stderr):  # a name that cannot be printed as it is ends no run
        with contextlib.suppress(AttributeError, OSError):  # a stream of another kind, or one that does not allow it
            cast(TextIOWrapper, stream).reconfigure(errors="backslashreplace")
    if not arguments or arguments[0] in ("-h", "--help"):
        print(overview())
        return 0
    if arguments[0] == "--version":
        print(f"depth-anything-hf {__version__}")
        return 0
    name, rest = arguments[0], arguments[1:]
    if name not in SUBCOMMANDS:
        close = difflib.get_close_matches(name.replace("_", "-"), SUBCOMMANDS, 1)
        hint = f"did you mean {close[0]}? All of them" if close else "choose one of"
        print(f"depth-anything-hf: {name!r} is no subcommand; {hint}: {', '.join(SUBCOMMANDS)}.", file=sys.stderr)
        return 2
    rest, is_debugged = _without_debug(rest)
    module = import_module(f"depth_anything_hf.cli.{name.replace('-', '_')}")
    try:
        code = module.main(rest) or 0
        print(end="", flush=True)  # the error of a closed pipe comes here, not when Python ends
        return code
    except KeyboardInterrupt:
        print(f"depth-anything-hf {name}: stopped.{KEPT.get(name, '')}", file=sys.stderr)
        return 130
    except Exception as error:
        if isinstance(error, BrokenPipeError) and _is_output_closed():
            return 141
        from depth_anything_hf.cli.errors import explain
        from depth_anything_hf.cli.options import as_options

        if is_debugged:
            traceback.print_exc()
        print(f"depth-anything-hf {name}: {as_options(explain(error), module.make_parser())}", file=sys.stderr)
        return 1


def _is_output_closed() -> bool:
    """Return True if nobody reads the output any more, as after `| head`; then it is thrown away."""
    try:
        print(flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return True
    return False


def _without_debug(words: list[str]) -> tuple[list[str], bool]:
    """Take `--debug` out; with a value it is an option of transformers."""
    for place, word in enumerate(words):
        if word == "--debug" and not "".join(words[place + 1 : place + 2]).startswith(("underflow", "tpu")):
            return words[:place] + words[place + 1 :], True
    return words, False
