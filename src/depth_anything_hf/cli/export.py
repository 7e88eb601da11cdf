"""`depth-anything-hf export --model M --out FILE.onnx`."""

from __future__ import annotations

import argparse
from pathlib import Path

EXAMPLE = """examples:
  depth-anything-hf export --model depth-anything/Depth-Anything-V2-Small-hf --images holiday --out depth.onnx
  depth-anything-hf export --model my-lora --dtype float16 --images "holiday/*.jpg" --out depth_fp16.onnx
  depth-anything-hf export --model student --dtype int8 --images holiday --eval my_labelled_images --out depth_int8.onnx

One file for every batch size, height and width (multiples of the patch: 14, of mini 8). It is compared with PyTorch first, on crops of
4:3, 3:4, 16:9 and 1:1, and written only if it agrees: to 1e-3 of the prediction's spread in float32, 5e-2 in float16. For int8
the loss of accuracy is printed, and kept in the file. docs/export.md runs the file without PyTorch.
"""


def make_parser() -> argparse.ArgumentParser:
    """Build the parser."""
    parser = argparse.ArgumentParser(
        prog="depth-anything-hf export",
        description="Write a Depth Anything as an ONNX file that was checked against PyTorch.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--model", required=True, metavar="M", help="Hub id or folder, of a LoRA adapter too")
    add("--out", required=True, type=Path, metavar="FILE.onnx", help="file to write")
    add("--dtype", default="float32", help="float32, float16 or int8 (default: %(default)s)")
    add(
        "--images", metavar="DIR|GLOB|FILE", help="photographs to check on, up to 8 of them (default: rendered scenes)"
    )
    add("--eval", metavar="DIR", help="labelled images, to score PyTorch and the file on")
    return parser


def main(arguments: list[str]) -> int:
    """Parse and run."""
    options = make_parser().parse_args(arguments)

    from depth_anything_hf.export.graph import OPSET
    from depth_anything_hf.export.onnx import LARGEST_ERROR, export_onnx

    if options.images is None:
        print("checking on rendered scenes, which are no photographs: --images takes your own")
    report = export_onnx(options.model, options.out, options.dtype, options.images, options.eval)
    print(report.table())
    summary = report.summary()
    allowed = "" if options.dtype == "int8" else f" (allowed: {LARGEST_ERROR[options.dtype]:g})"
    print(f"\nlargest error against PyTorch float32: {summary['max_error']:.1e} of the prediction's spread{allowed}")
    if options.dtype == "int8":
        print(f"loss of accuracy: AbsRel {summary['abs_rel']:.4f}, δ1 {summary['delta1']:.4f} against PyTorch float32")
    print(f"{report.path}: {report.dtype}, {report.size / 1e6:.1f} MB, opset {OPSET}")
    return 0
