"""`depth-anything-hf video CLIP... --model M --out DIR`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from depth_anything_hf.bundled import MINI

EXTENSIONS = (".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi", ".mts", ".m2ts", ".ts", ".mpg", ".mpeg", ".3gp", ".flv")
EXAMPLE = """example:
  depth-anything-hf video walk.mp4 --model depth-anything/Depth-Anything-V2-Small-hf --out depth

writes, for each clip, at its size and frame rate, upright, without sound:
  walk_mp4_color.mp4         depth in colours: near is bright, far is dark
  walk_mp4_side_by_side.mp4  the clip and its depth
  walk_mp4_depth.mkv         16-bit depth, lossless, 0 = no value
  walk_mp4_depth.jsonl       a line a frame: time, scale and offset (value = code * scale + offset), scene cuts

Each frame is aligned with those before it, so that the depth does not flicker; at a scene cut this starts anew.
Relative models give disparity (larger is nearer, unknown scale), metric models metres. One batch of frames is held in
memory, however long the clip. A file that is still being written, or was not finished, has .partial in its name.
"""


def make_parser() -> argparse.ArgumentParser:
    """Build the parser."""
    parser = argparse.ArgumentParser(
        prog="depth-anything-hf video",
        description="Write the depth of videos.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("clips", nargs="+", metavar="CLIP", help="files, folders or globs")
    parser.add_argument(
        "--model", default=MINI, help="Hub id or folder; mini comes with the package (default: %(default)s)"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to write")
    parser.add_argument(
        "--outputs",
        nargs="+",
        choices=("color", "depth", "side-by-side"),
        default=("color", "depth", "side-by-side"),
        help="what to write (default: all)",
    )
    parser.add_argument(
        "--smoothing",
        type=_at_least_one(float),
        default=20.0,
        metavar="FRAMES",
        help="how long scale, shift and colours follow the past; 1 leaves every frame as it is (default: 20)",
    )
    parser.add_argument("--resolution", type=int, help="shorter side in pixels (default: the checkpoint's)")
    parser.add_argument(
        "--batch-size", type=_at_least_one(int), default=4, help="frames a forward pass (default: %(default)s)"
    )
    return parser


def _at_least_one(kind: type) -> Callable[[str], float]:
    def parse(text: str) -> float:
        if not kind(text) >= 1:
            raise argparse.ArgumentTypeError(f"is {text}; it must be at least 1 frame")
        return kind(text)

    return parse


def main(arguments: list[str]) -> int:
    """Parse and run; clips that are broken are named at the end, and the exit code is 1."""
    options = make_parser().parse_args(arguments)

    import torch

    from depth_anything_hf.data.folder import find_files
    from depth_anything_hf.inference import load_model, set_resolution, space_of
    from depth_anything_hf.video import save_video_depth

    clips = []
    for name in options.clips:
        root, found = find_files(name, ("",) if Path(name).expanduser().is_file() else EXTENSIONS)
        if not found:
            raise FileNotFoundError(
                f"{name} holds no video ({', '.join(EXTENSIONS)}); give files, folders or a glob in quotes."
            )
        clips += [(file, file.relative_to(root)) for file in found]
    model, processor = load_model(options.model)
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    if options.resolution is not None:
        set_resolution(processor, model.config, options.resolution)
    space = space_of(model, options.model)
    problems = []
    for file, relative in clips:
        # The extension stays in the name: walk.mp4 and walk.mov are two clips.
        stem = options.out / relative.with_name(relative.name.replace(".", "_"))
        try:
            report = save_video_depth(
                file, stem, model, processor, space, options.outputs, options.smoothing, options.batch_size
            )
        except ValueError as error:
            problems.append(str(error))
            continue
        cuts = f", scene cuts at {', '.join(f'{time:.2f} s' for time in report.cuts)}" if report.cuts else ""
        print(f"{file}: {report.frames} frames ({space}){cuts}: {', '.join(map(str, report.files.values()))}")
        problems += [f"{file} is broken: {problem}; what could be decoded is written" for problem in report.problems]
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0
