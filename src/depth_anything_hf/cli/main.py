"""`depth-anything-hf SUBCOMMAND`. Subcommands are imported when called, so that `--help` does not wait for PyTorch."""

from __future__ import annotations

import difflib
import sys
from importlib import import_module

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
            "Start with: depth-anything-hf quickstart",
        ]
    )


def main(arguments: list[str] | None = None) -> int:
    """Run a subcommand.

    Returns:
        The exit code: 0; 1 for an error; 2 for a wrong command line; 130 after Ctrl+C.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    for stream in (sys.stdout, sys.stderr):  # a name that cannot be printed as it is ends no run
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
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
    module = import_module(f"depth_anything_hf.cli.{name.replace('-', '_')}")
    try:
        return module.main(rest) or 0
    except (ImportError, OSError, ValueError, TypeError) as error:
        # These carry a message for the user; a traceback would bury it.
        from depth_anything_hf.cli.options import as_options

        print(f"depth-anything-hf {name}: {as_options(str(error), module.make_parser())}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"depth-anything-hf {name}: stopped.", file=sys.stderr)
        return 130
