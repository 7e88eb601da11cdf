"""`depth-anything-hf evaluate --model M --dataset NAME --root DIR --out DIR`."""

from __future__ import annotations

import argparse
from pathlib import Path

from depth_anything_hf.cli.options import Parser, add_model_options, add_resolution
from depth_anything_hf.evaluation.protocols import ALIGNMENTS, PROTOCOLS

EXAMPLE = """examples:
  depth-anything-hf evaluate --model depth-anything/Depth-Anything-V2-Small-hf --dataset nyuv2 --root nyu --out scores
  depth-anything-hf evaluate --model student --model teacher --dataset folder --root my_labelled_images --out scores
  depth-anything-hf evaluate --model M --dataset kitti --root kitti --split-file eigen_test_files.txt --out scores
  depth-anything-hf evaluate --model M --dataset da2k --root DA-2K --out scores

Written to --out: results.md (the table), results.json (with the protocol), scores.jsonl (a line per image), worst.png.
docs/evaluation.md has the protocols and the published numbers.
"""


ALIGNED = tuple(name for name in ALIGNMENTS if name != "none")  # for relative models
DATASETS = tuple(dict.fromkeys([*(protocol.dataset for protocol in PROTOCOLS.values()), "da2k"]))


def make_parser() -> Parser:
    """Build the parser."""
    parser = Parser("evaluate", "Score depth models on a benchmark in its official layout, side by side.", EXAMPLE)
    add = parser.add_argument
    add_model_options(parser, action="append", required=True, help="Hub id or folder; may be given several times")
    add_resolution(parser)
    add("--dataset", choices=DATASETS, required=True, help="the benchmark; folder: records of your own")
    add("--root", required=True, metavar="DIR", help="the benchmark's folder, in its official layout")
    add("--out", required=True, type=Path, metavar="DIR", help="folder to write")
    add("--protocol", choices=tuple(PROTOCOLS), metavar="NAME", help=f"variant of the protocol: {_variants()}")
    add("--alignment", choices=ALIGNED, help="for relative models (default: the protocol's)")
    add("--split-file", metavar="FILE", help="list of KITTI's test images, in the form of monodepth or BTS")
    add("--batch-size", type=int, default=8, help="images per forward pass (default: %(default)s)")
    add("--allow-partial", action="store_true", help="score a benchmark although images are missing")
    add("--save-predictions", action="store_true", help="keep every prediction in OUT/predictions")
    add("--from-predictions", type=Path, metavar="DIR", help="score the predictions kept in DIR, without predicting")
    return parser


def _variants() -> str:
    return ", ".join(name for name, protocol in PROTOCOLS.items() if name != protocol.dataset)


def main(arguments: list[str]) -> int:
    """Parse and run."""
    options = make_parser().parse_args(arguments)

    from depth_anything_hf.evaluation.comparison import (
        compare,
        compare_pairs,
        open_contestant,
        open_kept,
        open_samples,
        with_changes,
        write_results,
    )
    from depth_anything_hf.evaluation.protocols import protocol_for
    from depth_anything_hf.prediction.devices import choose_device

    extra = {"split_file": options.split_file} if options.split_file else {}
    pairs = options.dataset == "da2k"
    if pairs:
        _refuse_for_pairs(options)
    else:  # before a model is loaded: a wrong path is found at once
        protocol = protocol_for(options.dataset, options.protocol)
        protocol = with_changes(protocol, options.resolution, options.alignment)
        samples = open_samples(protocol, options.root, options.allow_partial, **extra)
    device = choose_device(options.device) if options.device != "auto" else None  # None: each process its own
    if options.from_predictions:
        models = {name: open_kept(name, options.from_predictions) for name in options.model}
    else:
        models = {name: open_contestant(name, options.resolution, options.space, device) for name in options.model}
    if pairs:
        print(compare_pairs(models, options.root, options.out, options.batch_size))
        return 0
    results = compare(models, samples, protocol, options.out, options.save_predictions, options.batch_size)
    print(write_results(results))
    return 0


def _refuse_for_pairs(options: argparse.Namespace) -> None:
    """Raise if an option does not apply to DA-2K."""
    names = ("protocol", "alignment", "split_file", "allow_partial", "save_predictions", "from_predictions")
    given = [name for name in names if getattr(options, name)]
    if given:
        raise ValueError(
            f"--{given[0].replace('_', '-')} means nothing for da2k, which counts pairs of points right in order; leave it out."
        )
