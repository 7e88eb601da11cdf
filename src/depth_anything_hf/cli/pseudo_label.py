"""`depth-anything-hf pseudo-label --model M --images DIR --out DIR`."""

from __future__ import annotations

import argparse
import sys

EXAMPLE = """examples:
  depth-anything-hf pseudo-label --model depth-anything/Depth-Anything-V2-Large-hf --images photos/ --out labels
  accelerate launch -m depth_anything_hf pseudo-label --model teacher --images 'shards/*.tar' --out labels
  torchrun --nproc_per_node 2 -m depth_anything_hf pseudo-label --device cpu --model teacher --images a.tar --out out

The second runs a process on each GPU, the third two without one. Killed or failed, the same command goes on where it
was; the finished set does not depend on it, nor on the number of processes. Images that cannot be labelled stand in
rejects.jsonl with the reason; the exit code is 0 only if all others are labelled. Then:
  depth-anything-hf train examples/recipes/v2_student.yaml --unlabeled labels --output_dir student
"""


def main(arguments: list[str]) -> int:
    """Parse and run; the exit code is 0 only if every input is labelled or rejected by name."""
    from transformers import HfArgumentParser

    from depth_anything_hf.labeling.arguments import LabelingArguments

    parser = HfArgumentParser(
        LabelingArguments,
        prog="depth-anything-hf pseudo-label",
        description="Label images with a teacher: parquet shards that train a student.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    (args,) = parser.parse_args_into_dataclasses(arguments)

    from depth_anything_hf.labeling.engine import label_images

    manifest = label_images(args)
    if manifest is not None:
        print(
            f"{manifest['inputs']} images: {manifest['labeled']} labelled, {manifest['rejected']} rejected "
            f"(rejects.jsonl), {len(manifest['shards'])} shards in {args.out_dir}"
        )
        if manifest["unreadable_files"]:
            print(
                f"{manifest['unreadable_files']} files could not be read to their end, and what they hold beyond is "
                "neither labelled nor named; rejects.jsonl names these files: mend them, and label them into a new folder.",
                file=sys.stderr,
            )
            return 1
    return 0
