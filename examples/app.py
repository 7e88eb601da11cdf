"""Show the web page on a Hugging Face Space, or on any machine: a Space runs this very file as its `app.py`.

    python examples/app.py --model depth-anything/Depth-Anything-V2-Small-hf

Visitors choose among the checkpoints given here, upload up to 10 MB and 16 megapixels an image, and never see each
other's files. On your own machine `depth-anything-hf app` is the better start.
"""

from __future__ import annotations

import argparse

from depth_anything_hf.app.files import Limits
from depth_anything_hf.app.page import build_page, launch_page


def make_parser() -> argparse.ArgumentParser:
    """Build the parser."""
    parser = argparse.ArgumentParser(description="Serve the web page for visitors.")
    parser.add_argument(
        "--model", nargs="+", default=["mini"], help="to choose from (default: the one that comes with the package)"
    )
    parser.add_argument("--port", type=int, help="default: the first free one from 7860")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Serve until the process is ended."""
    options = make_parser().parse_args(arguments)
    limits = Limits(upload_megabytes=10, megapixels=16, images=20)
    demo = build_page(options.model, limits)
    launch_page(demo, limits, host=None, port=options.port)  # a Space says by itself where to listen
    demo.block_thread()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
