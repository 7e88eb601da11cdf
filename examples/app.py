"""Show the web page on a Hugging Face Space or on any machine; a Space runs this file as its `app.py`.

    python examples/app.py --model depth-anything/Depth-Anything-V2-Small-hf

Visitors choose among the checkpoints of `--model`, upload images of up to 10 MB and 16 megapixels, and never see each
other's files. On your own machine, use `depth-anything-hf app` instead.
"""

from __future__ import annotations

import argparse

from depth_anything_hf.app.files import Limits
from depth_anything_hf.app.page import build_page, launch_page


def make_parser() -> argparse.ArgumentParser:
    """Build the parser."""
    parser = argparse.ArgumentParser(description="Serve the web page for visitors.")
    parser.add_argument(
        "--model", nargs="+", default=["mini"], help="checkpoints to choose from (default: the one in the package)"
    )
    parser.add_argument("--port", type=int, help="port (default: the first free one from 7860)")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Serve until the process ends."""
    options = make_parser().parse_args(arguments)
    limits = Limits(upload_megabytes=10, megapixels=16, images=20)
    demo = build_page(options.model, limits)
    launch_page(demo, limits, host=None, port=options.port)  # a Space sets the address itself
    demo.block_thread()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
