"""`depth-anything-hf convert FILE.pth --size S --version V --out DIR`, and back with `--to-official`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from depth_anything_hf.cli.options import Parser
from depth_anything_hf.model.choices import SIZES, VERSIONS

EXAMPLE = """examples:
  depth-anything-hf convert depth_anything_v2_vits.pth --size small --version v2 --out my-small
  depth-anything-hf convert depth_anything_v2_metric_hypersim_vitl.pth --size large --version v2 --max-depth 20 --out rooms
  depth-anything-hf convert latest.pth --size small --version v2 --max-depth 80 --out roads
  depth-anything-hf convert my-small --to-official --out checkpoints

The weights say neither the version nor whether they are metric: docs/checkpoints.md lists the mistakes that
are noticed. The license of the weights stays as it is: V2 base, large and giant are CC-BY-NC-4.0.
"""
WHY_VERSION = (
    "--version is required: V1 and V2 share all weight names and read different encoder blocks, and the file does not "
    "say which. The wrong one loads without an error and gives bad depth. Files named depth_anything_vit*14 are v1, "
    "depth_anything_v2_* v2."
)
ENCODERS = {"small": "vits", "base": "vitb", "large": "vitl", "giant": "vitg"}


def make_parser() -> Parser:
    """Build the parser."""
    parser = Parser(
        "convert", "Turn the authors' weights into a Hugging Face checkpoint, or back, bit for bit.", EXAMPLE
    )
    add = parser.add_argument
    add("checkpoint", metavar="FILE.pth", help="official file; with --to-official a Hugging Face folder or Hub id")
    add("--size", choices=SIZES, help="required unless --to-official")
    add("--version", choices=VERSIONS, help="required unless --to-official: the file does not say it")
    add("--max-depth", type=float, metavar="METERS", help="metric files only: 20 (Hypersim) or 80 (VKITTI2)")
    add("--to-official", action="store_true", help="write a .pth for the authors' code")
    add("--out", type=Path, required=True, metavar="DIR", help="folder to write; with --to-official also FILE.pth")
    return parser


def main(arguments: list[str]) -> int:
    """Parse and run."""
    parser = make_parser()
    options = parser.parse_args(arguments)
    if not options.to_official and options.version is None:
        parser.error(WHY_VERSION)
    if not options.to_official and options.size is None:
        parser.error("--size is required: small, base, large or giant.")
    print(_to_official(options) if options.to_official else _from_official(options))
    return 0


def _from_official(options: argparse.Namespace) -> str:
    """Write a checkpoint that plain transformers loads; return a description of it."""
    from depth_anything_hf.data.whole_files import filling
    from depth_anything_hf.model.convert import convert_official
    from depth_anything_hf.model.image_processing import DepthAnythingImageProcessor

    if (options.out / "config.json").exists():
        raise FileExistsError(f"{options.out} already holds a checkpoint; give another --out.")
    if Path(options.checkpoint).is_dir():
        raise IsADirectoryError(f"{options.checkpoint} is a folder; the other way round it goes with --to-official.")
    model = convert_official(options.checkpoint, options.size, options.version, options.max_depth)
    with filling(options.out) as hidden:
        model.save_pretrained(hidden)
        DepthAnythingImageProcessor().save_pretrained(hidden)
    kind = "relative: disparity" if options.max_depth is None else f"metric: up to {options.max_depth:g} m"
    return (
        f"{options.size} {options.version} ({kind}) written to {options.out}\n"
        f'pipeline("depth-estimation", model="{options.out}") loads it.'
    )


def _to_official(options: argparse.Namespace) -> str:
    """Write a `.pth`; return how the authors' code loads it."""
    import torch

    from depth_anything_hf.data.whole_files import replacing
    from depth_anything_hf.model.convert import official_kind, to_official
    from depth_anything_hf.prediction.predictor import load_model

    model, _ = load_model(options.checkpoint, dtype="auto")
    config: Any = model.config
    size, version, max_depth = found = official_kind(config)
    for given, value in zip((options.size, options.version, options.max_depth), found, strict=True):
        if given not in (None, value):  # all three are in the checkpoint
            raise ValueError(
                f"{options.checkpoint} is {size} {version}, max_depth {max_depth}, not {given}; leave that out."
            )
    out = options.out
    if out.suffix not in (".pth", ".pt"):  # the name that the authors' run.py looks for
        prefix = f"depth_anything{'_v2' if version == 'v2' else ''}{'_metric' if max_depth else ''}"
        out = out / f"{prefix}_{ENCODERS[size]}{'14' if version == 'v1' else ''}.pth"
    if out.exists():
        raise FileExistsError(f"{out} exists; give another --out.")
    out.parent.mkdir(parents=True, exist_ok=True)
    with replacing(out) as partial:
        torch.save(to_official(model.state_dict(), config), partial)
    return f"{size} {version} written to {out}" + (f"; run it with --max-depth {max_depth}" if max_depth else "")
