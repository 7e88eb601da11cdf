"""`depth-anything-hf pseudo-label --model M --images DIR --out DIR`."""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path

from depth_anything_hf.cli.options import Parser, add_fields, as_options
from depth_anything_hf.labeling.arguments import LabelingArguments

EXAMPLE = """examples:
  depth-anything-hf pseudo-label --model depth-anything/Depth-Anything-V2-Large-hf --images photos/ --out labels
  accelerate launch -m depth_anything_hf pseudo-label --model teacher --images 'shards/*.tar' --out labels
  torchrun --nproc_per_node 2 -m depth_anything_hf pseudo-label --device cpu --model teacher --images a.tar --out out

The second command runs one process on each GPU, the third runs two processes without a GPU. After a crash, repeat the
command to resume. The result is the same after any number of crashes and for any number of processes. Images that
cannot be labeled are listed in rejects.jsonl with the reason; the exit code is 0 only if all others, one at least, are
labeled. Write a switch as --compiled, --no-compiled or --compiled false. Then:
  depth-anything-hf train examples/recipes/v2_student.yaml --unlabeled labels --out student
"""


def make_parser() -> Parser:
    """Build the parser."""
    parser = Parser("pseudo-label", "Label images with a teacher: parquet shards that train a student.", EXAMPLE)
    add_fields(parser, LabelingArguments, parser)
    return parser


def main(arguments: list[str]) -> int:
    """Parse and run; the exit code is 0 only if every input is labeled or rejected by name, and some are labeled."""
    args = LabelingArguments(**vars(make_parser().parse_args(arguments)))

    from depth_anything_hf.labeling.engine import label_images

    manifest = label_images(args)
    if manifest is None:
        return 0
    print(
        f"{manifest['inputs']} images: {manifest['labeled']} labeled, {manifest['rejected']} rejected "
        f"(rejects.jsonl), {len(manifest['shards'])} shards in {args.out_dir}"
    )
    if manifest["inputs"] and not manifest["labeled"]:
        reasons = as_options(_count_reasons(Path(args.out_dir).expanduser()), make_parser())
        print(f"no image is labeled: {reasons}.", file=sys.stderr)
    if manifest["unreadable_files"]:
        print(
            f"{manifest['unreadable_files']} files could not be read to their end, and the rest of their images is "
            "neither labeled nor listed; rejects.jsonl names these files: repair them, and label them into a new folder.",
            file=sys.stderr,
        )
    return int(manifest["unreadable_files"] > 0 or manifest["labeled"] == 0)


def _count_reasons(out: Path) -> str:
    """Count the rejected images by their reasons, the most frequent first."""
    from depth_anything_hf.sharing.cards import REJECTS

    lines = (out / REJECTS).read_text(encoding="utf-8").splitlines()
    counts = Counter(json.loads(line)["reason"] for line in lines).most_common()
    rest = sum(count for _, count in counts[5:])
    return "; ".join([*(f"{count} {reason}" for reason, count in counts[:5]), *([f"{rest} others"] if rest else [])])
