"""`depth-anything-hf SUBCOMMAND`. Subcommands are imported when called, so that `--help` does not wait for PyTorch."""

from __future__ import annotations

import sys
from importlib import import_module

from depth_anything_hf.version import __version__

SUBCOMMANDS = {
    "quickstart": "teacher, pseudo-labels and student in minutes on a CPU, with a report",
    "train": "train a teacher or a student from a recipe",
    "pseudo-label": "label images with a teacher at scale, resumably",
    "evaluate": "score models on a benchmark or on your own ground truth, side by side",
    "predict": "write the depth of images, however large: colour map, 16-bit PNG, npy, point cloud",
    "video": "write the depth of videos, without flicker",
    "app": "serve a web page to look at depth and compare checkpoints",
    "convert": "official .pth to a Hugging Face checkpoint, and back",
    "export": "write an ONNX file, checked against PyTorch",
    "push": "share a model, an adapter or pseudo-labels on the Hub, with a card of what was measured",
}


def overview() -> str:
    """List the subcommands."""
    lines = [f"  {name:<12} {purpose}" for name, purpose in SUBCOMMANDS.items()]
    return "\n".join(
        [
            "usage: depth-anything-hf SUBCOMMAND [options]",
            "",
            "Train, label with, measure and share Depth Anything in the Hugging Face ecosystem.",
            "",
            *lines,
            "",
            "depth-anything-hf SUBCOMMAND --help explains one of them, with an example.",
            "Start with: depth-anything-hf quickstart",
        ]
    )


def main(arguments: list[str] | None = None) -> int:
    """Run a subcommand and return the exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments or arguments[0] in ("-h", "--help"):
        print(overview())
        return 0
    if arguments[0] == "--version":
        print(f"depth-anything-hf {__version__}")
        return 0
    name, rest = arguments[0], arguments[1:]
    if name not in SUBCOMMANDS:
        print(
            f"depth-anything-hf: {name!r} is no subcommand; choose one of {', '.join(SUBCOMMANDS)}.", file=sys.stderr
        )
        return 2
    module = import_module(f"depth_anything_hf.cli.{name.replace('-', '_')}")
    try:
        return module.main(rest) or 0
    except (ImportError, OSError, ValueError, TypeError) as error:
        # These carry a message for the user; a traceback would bury it.
        print(f"depth-anything-hf {name}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"depth-anything-hf {name}: stopped.", file=sys.stderr)
        return 130
