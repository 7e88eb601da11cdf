"""`depth-anything-hf train RECIPE.yaml [--any_field value]`."""

from __future__ import annotations

import sys
from pathlib import Path

USAGE = """usage: depth-anything-hf train RECIPE.yaml [--any_field value ...]

Train Depth Anything by a recipe: a YAML file with any of the fields below. A field on the command line wins.
examples/recipes/ holds those of the papers, each value with its source.

examples:
  depth-anything-hf train examples/recipes/v2_student.yaml --unlabeled pseudo_labels --output_dir student
  depth-anything-hf train examples/recipes/metric_nyuv2.yaml --labeled my_rooms --eval my_rooms_test --max_steps 1000

The same command goes on from the last checkpoint in output_dir, and saves and scores again what is trained to its end;
--restart true starts anew.
"""


def main(arguments: list[str]) -> int:
    """Parse and run."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(USAGE)
        if arguments:
            from depth_anything_hf.training.recipe import make_parser

            make_parser().print_help()
        return 0 if arguments else 2
    if arguments[0].startswith("-"):
        print(
            f"depth-anything-hf train: the first argument is {arguments[0]!r}; it must be a recipe.", file=sys.stderr
        )
        return 2

    from depth_anything_hf.training.recipe import parse_recipe, run_recipe

    metrics = run_recipe(*parse_recipe(Path(arguments[0]), arguments[1:]))
    for name, value in sorted(metrics.items()):
        print(f"{name:<32} {value:.4f}" if isinstance(value, float) else f"{name:<32} {value}")
    return 0
