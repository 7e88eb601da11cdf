"""`depth-anything-hf video CLIP... --model M --out DIR`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from depth_anything_hf.cli.inputs import add_prediction_options
from depth_anything_hf.cli.options import Parser
from depth_anything_hf.model.bundled import hint_at_better

EXTENSIONS = (".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi", ".mts", ".m2ts", ".ts", ".mpg", ".mpeg", ".3gp", ".flv")
EXAMPLE = """example:
  depth-anything-hf video walk.mp4 --model depth-anything/Depth-Anything-V2-Small-hf --out depth

writes, for each clip, at its size and frame rate, upright, without sound:
  walk_mp4_color.mp4         depth in colors: near is bright, far is dark
  walk_mp4_side_by_side.mp4  the clip and its depth
  walk_mp4_depth.mkv         16-bit depth, lossless, 0 = no value
  walk_mp4_depth.jsonl       a line per frame: time, scale and offset (value = code * scale + offset), scene cuts

Folders keep their subfolders. If two folders hold the same name, the folder name is added. Results below --out are
skipped unless you name the file.
Each frame is aligned with the frames before it, so that the depth does not flicker; the alignment restarts at a scene
cut. Relative models predict disparity (larger is nearer, unknown scale), metric models meters. Only one batch of
frames is in memory, for any length of the clip. An unfinished file has .partial in its name.
"""


def make_parser() -> Parser:
    """Build the parser."""
    parser = Parser("video", "Write the depth of videos.", EXAMPLE)
    add = parser.add_argument
    add("clips", nargs="+", metavar="CLIP", help="files, folders or globs")
    add_prediction_options(parser, required=True, help="folder to write")
    add(
        "--outputs",
        nargs="+",
        choices=("color", "depth", "side-by-side"),
        default=("color", "depth", "side-by-side"),
        help="what to write (default: all)",
    )
    add(
        "--smoothing",
        type=_at_least_one(float),
        default=20.0,
        metavar="FRAMES",
        help="how long scale, shift and colors follow the past; 1 leaves every frame as it is (default: 20)",
    )
    add("--batch-size", type=_at_least_one(int), default=4, help="frames per forward pass (default: %(default)s)")
    return parser


def _at_least_one(kind: type) -> Callable[[str], float]:
    def parse(text: str) -> float:
        if not kind(text) >= 1:
            raise argparse.ArgumentTypeError(f"is {text}; it must be at least 1 frame")
        return kind(text)

    return parse


def main(arguments: list[str]) -> int:
    """Parse and run; broken clips are listed at the end, and the exit code is 1."""
    options = make_parser().parse_args(arguments)

    from depth_anything_hf.cli.inputs import (
        Kind,
        check_out,
        find_inputs,
        going_on,
        name_outputs,
        on_one_line,
        open_predictor,
    )
    from depth_anything_hf.prediction.video import OUTPUTS, save_video_depth

    out = options.out.expanduser()  # shells leave the ~ in --out=~/depth
    check_out(out)
    found, left_out = find_inputs(options.clips, Kind("video", EXTENSIONS), out, _is_output)
    clips, problems = name_outputs(found, out, [OUTPUTS[name] for name in options.outputs], verb="convert")
    if left_out:
        print(f"videos under --out are left out of a search: {len(left_out)}, such as {left_out[0]}")
    if clips:
        predictor = open_predictor(options)
    for file, stem in clips:
        with going_on(file, problems, what=""):
            report = save_video_depth(file, stem, predictor, options.outputs, options.smoothing, options.batch_size)
            cuts = f", scene cuts at {', '.join(f'{time:.2f} s' for time in report.cuts)}" if report.cuts else ""
            written = ", ".join(map(str, report.files.values()))
            print(on_one_line(f"{file}: {report.frames} frames ({predictor.space}){cuts}: {written}"))
            if report.problems:
                problems[file] = f"{file} is broken: {'; '.join(report.problems)}; what could be decoded is written"
    for line in hint_at_better(options.model):
        print(line)
    for problem in problems.values():
        print(on_one_line(problem), file=sys.stderr)
    return 1 if problems else 0


def _is_output(file: Path) -> bool:
    """Return whether an earlier run wrote a video, to its end or not."""
    from depth_anything_hf.prediction.video import OUTPUTS

    return file.name.replace(".partial.", ".").endswith(tuple(OUTPUTS.values()))
