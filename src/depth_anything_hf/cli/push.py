"""`depth-anything-hf push FOLDER --repo-id ME/NAME`."""

from __future__ import annotations

from pathlib import Path

from depth_anything_hf.cli.options import Parser

EXAMPLE = """examples:
  depth-anything-hf push student --repo-id me/depth-student --dry-run
  depth-anything-hf push student --repo-id me/depth-student --private --results scores/results.json
  depth-anything-hf push student --repo-id me/depth-student --base facebook/dinov2-small --training-data me/rooms
  depth-anything-hf push lora --repo-id me/depth-lora --base depth-anything/Depth-Anything-V2-Small-hf
  depth-anything-hf push pseudo_labels --repo-id me/pseudo-labels --private

FOLDER holds a model, a LoRA adapter or pseudo-labels. It is checked before the upload: it must load in plain
transformers, and the scores must belong to these weights. The card (README.md) is written for you, unless you wrote
your own. Optimizer states, logs, checkpoint-* folders and training_args.bin are not uploaded. Repeat the command
after a broken connection or a change: only missing files are sent. The token comes from `hf auth login` or HF_TOKEN.
"""


def make_parser() -> Parser:
    """Build the parser."""
    parser = Parser("push", "Share a model, an adapter or pseudo-labels on the Hub.", EXAMPLE)
    add = parser.add_argument
    add("folder", type=Path, metavar="FOLDER", help="folder of the model, adapter or labels")
    add("--repo-id", required=True, metavar="ME/NAME", help="repository on the Hub; made if it does not exist")
    add("--private", action="store_true", help="make it private; an error if it exists and is public")
    add("--license", metavar="ID", help="such as apache-2.0 (default: the strictest license of base weights and data)")
    add("--base", metavar="ID|DIR", help="base model, if the folder does not record it")
    add(
        "--training-data",
        action="append",
        default=[],
        metavar="ID|TEXT",
        help="if the folder does not record it; may be repeated",
    )
    add(
        "--results",
        action="append",
        default=[],
        type=Path,
        metavar="FILE",
        help="results.json of evaluate; may be repeated",
    )
    add("--picture", type=Path, metavar="FILE", help="for the card (default: rendered scenes, predicted)")
    add("--message", metavar="TEXT", help="message of the commit")
    add("--dry-run", action="store_true", help="check the folder, write the card, list the files, and send nothing")
    return parser


def main(arguments: list[str]) -> int:
    """Parse and run."""
    options = make_parser().parse_args(arguments)

    from depth_anything_hf.sharing.hub import prepare_push
    from depth_anything_hf.sharing.upload import check_token

    if not options.dry_run:
        check_token()  # before the work
    own = ("folder", "repo_id", "private", "dry_run")
    given = {name: value for name, value in vars(options).items() if name not in own}
    shipment = prepare_push(options.folder, options.repo_id, private=options.private or None, **given)
    size = sum((shipment.folder / file).stat().st_size for file in shipment.files)
    print(
        f"{shipment.kind} {options.folder}: {len(shipment.files)} files, {size / 1e6:.1f} MB; license {shipment.license}"
    )
    if shipment.left:
        print(f"stay here: {', '.join(shipment.left)}")
    if options.dry_run:
        print(f"would send: {', '.join(shipment.files)}")
        print(f"nothing was sent; the card is {shipment.folder / 'README.md'}")
        return 0
    print(shipment.send())
    return 0
