"""`depth-anything-hf app [--model M [--model M2]]`."""

from __future__ import annotations

import signal
import sys

from depth_anything_hf.cli.options import Parser, add_model_options
from depth_anything_hf.model.bundled import MINI

EXAMPLE = """example:
  depth-anything-hf app --model depth-anything/Depth-Anything-V2-Small-hf --model my_student

Open the printed address in a browser. Drop images, compare two checkpoints with a slider, point at a picture to read
its depth, mark two points to see which one is nearer, download 16-bit PNG, npy and PLY. Ctrl+C stops the server and
deletes all uploads.
"""


def make_parser() -> Parser:
    """Build the parser."""
    parser = Parser("app", "Serve a web page that shows, compares and reads depth.", EXAMPLE)
    add = parser.add_argument
    add_model_options(
        parser,
        action="append",
        help="Hub id or folder; give it twice to compare two checkpoints, or more often to choose from more "
        "(default: mini, which is small and comes with the package)",
    )
    add(
        "--host",
        default="127.0.0.1",
        help="address to listen on (default: %(default)s, this machine alone). With another address, everyone who "
        "reaches it can upload, and only the checkpoints of --model can be chosen",
    )
    add("--port", type=int, help="default: the first free one from 7860")
    add("--max-upload-mb", type=int, default=50, metavar="MB", help="largest file (default: %(default)s)")
    add(
        "--max-megapixels",
        type=float,
        default=50,
        metavar="MP",
        help="largest image, at most 178 (default: %(default)s)",
    )
    return parser


def main(arguments: list[str]) -> int:
    """Parse and serve until Ctrl+C or SIGTERM."""
    options = make_parser().parse_args(arguments)

    from depth_anything_hf.app.files import Limits
    from depth_anything_hf.app.model_cache import Checkpoints
    from depth_anything_hf.app.page import build_page, launch_page
    from depth_anything_hf.prediction.devices import choose_device

    limits = Limits(options.max_upload_mb, options.max_megapixels)
    models = options.model or [MINI]
    local = options.host in ("127.0.0.1", "::1", "localhost")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends as Ctrl+C does, to delete the uploads
    checkpoints = Checkpoints(device=choose_device(options.device), space=options.space)
    page = build_page(models, limits, any_checkpoint=local, checkpoints=checkpoints)
    url = launch_page(page, limits, options.host, options.port)
    print(f"{url} shows {', '.join(models)}; Ctrl+C ends it.", flush=True)
    if not local:
        print(f"whoever reaches {options.host} may upload: put a login in front of it.", file=sys.stderr)
    page.block_thread()
    return 0
