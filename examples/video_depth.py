"""Show how alignment with earlier frames changes the depth of a video.

    python examples/video_depth.py walk.mp4 --out walk_compared.mp4

Writes a video of three panels: the clip, the depth of each single frame with its own range of colors, and the aligned depth.
Prints where scenes begin, and how much the frames were corrected. Frames are streamed: memory does not grow with the clip.
`depth-anything-hf video` writes the depth itself to files.
"""

from __future__ import annotations

import argparse
import math
import statistics
from pathlib import Path

import numpy as np
import torch
from tqdm.auto import tqdm

from depth_anything_hf.maps.geometry import label_from_map
from depth_anything_hf.pictures.visualization import colorize
from depth_anything_hf.prediction.predictor import DepthPredictor
from depth_anything_hf.prediction.temporal import SMOOTHING
from depth_anything_hf.prediction.video import DepthFrame, VideoReader, VideoWriter, iter_video_depth


def by_itself(frame: DepthFrame) -> np.ndarray:
    """Paint the depth of a frame before the alignment: (height, width, 3) uint8."""
    prediction = (frame.depth - frame.shift) / frame.scale
    if frame.space == "disparity":
        return colorize(prediction)
    disparity, valid = label_from_map(torch.from_numpy(prediction), None, "depth", "relative")
    return colorize(disparity.numpy(), valid.numpy())


def make_parser() -> argparse.ArgumentParser:
    """Build the parser."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clip", help="video file")
    parser.add_argument(
        "--model", default="mini", help="Hub id or folder; mini comes with the package (default: %(default)s)"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.mp4", help="video to write")
    parser.add_argument(
        "--smoothing",
        type=float,
        default=SMOOTHING,
        metavar="FRAMES",
        help="smoothing of the alignment (default: %(default)s)",
    )
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Parse and run."""
    options = make_parser().parse_args(arguments)
    predictor, corrections, scenes = DepthPredictor(options.model), [], []
    with VideoReader(options.clip) as reader:
        frames = iter_video_depth(reader, predictor, options.smoothing)
        with VideoWriter(options.out, reader.rate, reader.time_base, reader.pixel_aspect) as writer:
            for frame in tqdm(frames, total=reader.frame_count, unit="frame"):
                writer.write(np.hstack([frame.image, by_itself(frame), frame.picture]), frame.time)
                corrections.append(abs(math.log(frame.scale)))
                scenes += [f"{float(frame.time):.2f} s"] * frame.cut
    print(f"scenes begin at {', '.join(scenes)}")
    print(f"scale corrected by {math.expm1(statistics.median(corrections)):.1%} (median of {len(corrections)} frames)")
    for problem in reader.problems:
        print(f"{options.clip} is broken: {problem}")
    return 1 if reader.problems else 0


if __name__ == "__main__":
    raise SystemExit(main())
