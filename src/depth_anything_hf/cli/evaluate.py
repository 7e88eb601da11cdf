"""`depth-anything-hf evaluate --model M --dataset NAME --root DIR --out DIR`."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from depth_anything_hf.cli.options import Parser, add_model_options, add_resolution
from depth_anything_hf.evaluation.protocols import ALIGNMENTS, PROTOCOLS

EXAMPLE = """examples:
  depth-anything-hf evaluate --model depth-anything/Depth-Anything-V2-Small-hf --dataset nyuv2 --root nyu --out scores
  depth-anything-hf evaluate --model student --model teacher --dataset folder --root my_labeled_images --out scores
  depth-anything-hf evaluate --model M --dataset kitti --root kitti --split-file eigen_test_files.txt --out scores
  depth-anything-hf evaluate --model M --dataset da2k --root DA-2K --out scores

Written to --out: results.md (the table), results.json (with the protocol), scores.jsonl (a line per image), worst.png.
What cannot be read or scored is named, counted and in no mean; the exit code is then 1.
docs/evaluation.md has the protocols and the published numbers.
"""
NOT_FOR_PAIRS = ("alignment", "split_file", "allow_partial", "save_predictions", "from_predictions")


ALIGNED = tuple(name for name in ALIGNMENTS if name != "none")  # for relative models
VARIANTS = ", ".join(name for name, protocol in PROTOCOLS.items() if name != protocol.dataset)
DATASETS = tuple(dict.fromkeys(protocol.dataset for protocol in PROTOCOLS.values()))


def make_parser() -> Parser:
    """Build the parser."""
    parser = Parser("evaluate", "Score depth models on a benchmark in its official layout, side by side.", EXAMPLE)
    add = parser.add_argument
    add_model_options(parser, action="append", required=True, help="Hub id or folder; may be given several times")
    add_resolution(parser)
    add("--dataset", choices=DATASETS, required=True, help="the benchmark; folder: records of your own")
    add("--root", required=True, metavar="DIR", help="the benchmark's folder, in its official layout")
    add("--out", required=True, type=Path, metavar="DIR", help="folder to write")
    add("--protocol", choices=tuple(PROTOCOLS), metavar="NAME", help=f"variant of the protocol: {VARIANTS}")
    add("--alignment", choices=ALIGNED, help="for relative models (default: the protocol's)")
    add("--split-file", metavar="FILE", help="list of KITTI's test images, in the form of monodepth or BTS")
    add(
        "--allow-outside",
        action="store_true",
        help="let records of a folder name files elsewhere, and URLs: if you trust it",
    )
    add("--batch-size", type=int, default=8, help="images per forward pass (default: %(default)s)")
    add("--allow-partial", action="store_true", help="score a benchmark although images are missing")
    add("--save-predictions", action="store_true", help="keep every prediction in OUT/predictions")
    add("--from-predictions", type=Path, metavar="DIR", help="score the predictions kept in DIR, without predicting")
    return parser


def main(arguments: list[str]) -> int:
    """Parse and run."""
    options = make_parser().parse_args(arguments)

    from depth_anything_hf.evaluation.compare import compare, open_samples
    from depth_anything_hf.evaluation.contestants import AnyContestant, KeptPredictions, open_contestant
    from depth_anything_hf.evaluation.protocols import protocol_for
    from depth_anything_hf.evaluation.results import write_results

    asked = {"resolution": options.resolution, "alignment": options.alignment}
    changes: dict[str, Any] = {name: value for name, value in asked.items() if value is not None}
    protocol = replace(protocol_for(options.dataset, options.protocol), **changes)
    given = [name for name in NOT_FOR_PAIRS if getattr(options, name)]
    if protocol.counts_pairs and given:
        raise ValueError(
            f"--{given[0].replace('_', '-')} means nothing for da2k, which counts pairs of points right in order; leave it out."
        )
    extra: dict[str, Any] = {"split_file": options.split_file} if options.split_file else {}
    if options.allow_outside:
        if options.dataset != "folder":
            raise ValueError("--allow-outside is for records of your own (--dataset folder); leave it out.")
        extra["allow_outside"] = True
    # Before a model is loaded: a wrong path is found at once.
    samples = open_samples(protocol, options.root, options.allow_partial, **extra)
    models: dict[str, AnyContestant] = {}
    for name in options.model:
        if options.from_predictions:
            models[name] = KeptPredictions(name, options.from_predictions)
        else:
            models[name] = open_contestant(
                name, resolution=options.resolution, space=options.space, device=options.device
            )
    results = compare(models, samples, protocol, options.out, options.save_predictions, options.batch_size)
    print(write_results(results))
    failed: dict[str, list[str]] = {}
    for name, messages in results.get("failures", {}).items():
        for message in messages:
            failed.setdefault(message, []).append(name)
    for message, names in failed.items():
        of = "" if len(names) == len(results["scores"]) else f" with {', '.join(names)}"
        print(f"could not score{of}: {message}", file=sys.stderr)
    return 1 if failed else 0
