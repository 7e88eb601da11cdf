"""`depth-anything-hf export --model M --out FILE.onnx`."""

from __future__ import annotations

import sys
from pathlib import Path

from depth_anything_hf.cli.options import Parser
from depth_anything_hf.export import LARGEST_ERROR

EXAMPLE = """examples:
  depth-anything-hf export --model depth-anything/Depth-Anything-V2-Small-hf --images holiday --out depth.onnx
  depth-anything-hf export --model my-lora --dtype float16 --images "holiday/*.jpg" --out depth_fp16.onnx
  depth-anything-hf export --model student --dtype int8 --images holiday --eval my_labeled_images --out depth_int8.onnx

One file takes every batch size, height and width (multiples of the patch size: 14; 8 for mini). It is first compared
with PyTorch, on crops of 4:3, 3:4, 16:9 and 1:1, and written only if both agree:
to 1e-3 of the prediction's spread in float32, 5e-2 in float16. For int8 the loss of accuracy is printed and stored in
the file. docs/export.md runs the file without PyTorch.
"""


def make_parser() -> Parser:
    """Build the parser."""
    parser = Parser("export", "Write a Depth Anything as an ONNX file that was checked against PyTorch.", EXAMPLE)
    add = parser.add_argument
    add("--model", required=True, metavar="ID|DIR", help="Hub id or folder of a Depth Anything or of a LoRA adapter")
    add("--out", required=True, type=Path, metavar="FILE.onnx", help="file to write")
    add("--dtype", choices=tuple(LARGEST_ERROR), default="float32", help="number format (default: %(default)s)")
    add(
        "--images", metavar="DIR|GLOB|FILE", help="photographs to check on, up to 8 of them (default: rendered scenes)"
    )
    add("--eval", metavar="DIR", help="labeled images, to score PyTorch and the file on")
    return parser


def main(arguments: list[str]) -> int:
    """Parse and run."""
    options = make_parser().parse_args(arguments)

    from depth_anything_hf.export.graph import OPSET
    from depth_anything_hf.export.onnx import export_onnx

    if options.images is None:
        print("checking on rendered scenes, which are no photographs; pass your own with --images")
    report = export_onnx(options.model, options.out, options.dtype, options.images, options.eval)
    print(report.table())
    summary = report.summary()
    allowed = "" if options.dtype == "int8" else f" (allowed: {LARGEST_ERROR[options.dtype]:g})"
    print(f"\nlargest error against PyTorch float32: {summary['max_error']:.1e} of the prediction's spread{allowed}")
    if options.dtype == "int8":
        print(f"loss of accuracy: AbsRel {summary['abs_rel']:.4f}, δ1 {summary['delta1']:.4f} against PyTorch float32")
    print(f"{report.path}: {report.dtype}, {report.size / 1e6:.1f} MB, opset {OPSET}")
    for line in report.left_out:
        print(f"left out of the check: {line}", file=sys.stderr)
    return 1 if report.left_out else 0
