"""`depth-anything-hf quickstart`."""

from __future__ import annotations

import sys
from pathlib import Path

from depth_anything_hf.cli.options import Parser

EXAMPLE = """examples:
  depth-anything-hf quickstart
  depth-anything-hf quickstart --warm-start                        from mini, which comes with the package
  depth-anything-hf quickstart --unlabeled my_photos --eval my_labeled_folder --out run1
"""


def make_parser() -> Parser:
    """Build the parser."""
    parser = Parser(
        "quickstart",
        "Render scenes, train a teacher, pseudo-label a second domain, train a student, score both, and show that the "
        "result runs in plain transformers. Offline, on a CPU, in minutes.",
        EXAMPLE,
    )
    add = parser.add_argument
    add("--unlabeled", metavar="DIR", help="photographs to use as the unlabeled domain")
    add(
        "--eval",
        metavar="DIR",
        help="labeled records (imagefolder with metadata.jsonl, or parquet) to score on as well",
    )
    add("--out", metavar="DIR", default="depth-anything-hf-quickstart", help="default: %(default)s")
    add("--images", type=int, help="training images of each domain (default: 1600; 800 with --warm-start)")
    add("--steps", type=int, help="steps of the teacher, and of the student (default: 1200; 300 with --warm-start)")
    add("--seed", type=int, default=0, help="seed of data, weights and training (default: %(default)s)")
    add(
        "--warm-start",
        action="store_true",
        help="begin from mini, which comes with the package, not from random weights",
    )
    add("--feature-encoder", metavar="ID|DIR", help="frozen encoder to align features with (default: no alignment)")
    return parser


def main(arguments: list[str]) -> int:
    """Parse and run."""
    options = make_parser().parse_args(arguments)
    for name in ("images", "steps"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise ValueError(f"--{name} is {value}; it must be at least 1.")
    print(
        "plan: render scenes, train a teacher (2-3 min), label, train a student (2-3 min), score; under 8 min on 2 cores"
    )

    from depth_anything_hf.quickstart.experiment import Plan, warm_plan
    from depth_anything_hf.quickstart.run import run
    from depth_anything_hf.sharing.eval_results import results_table

    sizes = {"seed": options.seed}
    if options.images:
        sizes |= {"labeled": options.images, "unlabeled": options.images, "held_out": max(options.images // 8, 2)}
    if options.steps:
        sizes |= {"teacher_steps": options.steps, "student_steps": options.steps}
    out = Path(options.out)
    metrics = run(
        out,
        (warm_plan if options.warm_start else Plan)(**sizes),
        options.unlabeled,
        options.eval,
        options.feature_encoder,
    )
    print()
    print(results_table(metrics["scores"]))
    print(f"\nstock transformers pipeline agrees to {metrics['stock_pipeline_max_difference']:.1e}")
    print(f"report: {out / 'report.md'}\npictures: {out / 'predictions.png'}\ncheckpoint: {out / 'student'}")
    if left_out := metrics.get("left_out"):
        print(f"{len(left_out)} inputs were left out:", *left_out, sep="\n  ", file=sys.stderr)
    return 1 if left_out else 0
