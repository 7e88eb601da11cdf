"""`depth-anything-hf evaluate --model M --dataset NAME --root DIR --out DIR`."""

from __future__ import annotations

import argparse
from pathlib import Path

EXAMPLE = """examples:
  depth-anything-hf evaluate --model depth-anything/Depth-Anything-V2-Small-hf --dataset nyuv2 --root nyu --out scores
  depth-anything-hf evaluate --model student --model teacher --dataset folder --root my_labelled_images --out scores
  depth-anything-hf evaluate --model M --dataset kitti --root kitti --split-file eigen_test_files.txt --out scores
  depth-anything-hf evaluate --model M --dataset da2k --root DA-2K --out scores

Written to --out: results.md (the table), results.json (with the protocol), scores.jsonl (a line an image), worst.png.
docs/evaluation.md has the protocols and the published numbers.
"""
NOT_FOR_PAIRS = ("alignment", "split_file", "allow_partial", "save_predictions", "from_predictions")


def make_parser() -> argparse.ArgumentParser:
    """Build the parser."""
    parser = argparse.ArgumentParser(
        prog="depth-anything-hf evaluate",
        description="Score depth models on a benchmark in its official layout, side by side.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--model", action="append", required=True, metavar="M", help="Hub id or folder; may be given several times")
    add("--dataset", required=True, help="nyuv2, kitti, sintel, eth3d, ddad, diode, da2k, or folder (your records)")
    add("--root", required=True, metavar="DIR", help="the benchmark's folder, in its official layout")
    add("--out", required=True, type=Path, metavar="DIR", help="folder to write")
    add("--protocol", metavar="NAME", help="a variant of the data set's protocol, such as diode-indoor")
    add("--alignment", help="scale_shift, scale or median, for relative models (default: the protocol's)")
    add("--space", help="disparity or depth: what a model predicts whose config does not tell")
    add("--resolution", type=int, help="shorter side of the network's input (default: the checkpoint's)")
    add("--split-file", help="list of KITTI's test images: monodepth's or BTS' form")
    add("--batch-size", type=int, default=8, help="images a model gets at once (default: %(default)s)")
    add("--allow-partial", action="store_true", help="score a benchmark of which images are missing")
    add("--save-predictions", action="store_true", help="keep every prediction in OUT/predictions")
    add("--from-predictions", type=Path, metavar="DIR", help="score the predictions kept in DIR, without predicting")
    return parser


def main(arguments: list[str]) -> int:
    """Parse and run."""
    options = make_parser().parse_args(arguments)

    from depth_anything_hf.evaluation.compare import compare, open_samples, with_changes
    from depth_anything_hf.evaluation.contestants import AnyContestant, open_contestant, open_kept
    from depth_anything_hf.evaluation.protocols import protocol_for
    from depth_anything_hf.evaluation.report import write_results

    protocol = with_changes(protocol_for(options.dataset, options.protocol), options.resolution, options.alignment)
    given = [name for name in NOT_FOR_PAIRS if getattr(options, name)]
    if protocol.counts_pairs and given:
        raise ValueError(
            f"--{given[0].replace('_', '-')} means nothing for da2k, which counts pairs of points right in order; leave it out."
        )
    extra = {"split_file": options.split_file} if options.split_file else {}
    # Before a model is loaded: a wrong path is found at once.
    samples = open_samples(protocol, options.root, options.allow_partial, **extra)
    models: dict[str, AnyContestant] = {}
    for name in options.model:
        if options.from_predictions:
            models[name] = open_kept(name, options.from_predictions)
        else:
            device = getattr(options, "device", None)
            models[name] = open_contestant(name, options.resolution, options.space, device)
    results = compare(models, samples, protocol, options.out, options.save_predictions, options.batch_size)
    print(write_results(results))
    return 0
