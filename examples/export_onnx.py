"""Export a checkpoint in several precisions, into a folder with the layout of transformers.js.

    python examples/export_onnx.py --model depth-anything/Depth-Anything-V2-Small-hf --images my_photos --out web

    web/config.json, web/preprocessor_config.json
    web/onnx/model.onnx, web/onnx/model_fp16.onnx, web/onnx/model_int8.onnx

Each file is written only if it agrees with PyTorch; the table shows its size and its errors.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from depth_anything_hf.export.onnx import ExportReport, export_onnx
from depth_anything_hf.prediction.predictor import DepthPredictor

FILES = {"float32": "model.onnx", "float16": "model_fp16.onnx", "int8": "model_int8.onnx"}


def make_parser() -> argparse.ArgumentParser:
    """Build the parser."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, metavar="M", help="Hub id or folder of a model or a LoRA adapter")
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="folder to write")
    parser.add_argument(
        "--images", metavar="DIR|GLOB|FILE", help="photographs for the check (default: rendered scenes)"
    )
    parser.add_argument("--dtypes", nargs="+", default=list(FILES), choices=FILES, help="precisions (default: all)")
    return parser


def summary_table(reports: list[ExportReport]) -> str:
    """Return a table of the size and the errors of each file."""
    lines = ["| file | MB | largest error | AbsRel | δ1 |", "|---|---|---|---|---|"]
    for report in reports:
        found = report.summary()
        lines.append(
            f"| {report.path.name} | {report.size / 1e6:.1f} | {found['max_error']:.1e} | {found['abs_rel']:.4f} "
            f"| {found['delta1']:.4f} |"
        )
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Export, and print the table."""
    options = make_parser().parse_args(arguments)
    reports = [
        export_onnx(options.model, options.out / "onnx" / FILES[dtype], dtype, options.images)
        for dtype in options.dtypes
    ]
    predictor = DepthPredictor(options.model, device="cpu")
    predictor.model.config.save_pretrained(options.out)
    predictor.processor.save_pretrained(options.out)
    print(summary_table(reports))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
