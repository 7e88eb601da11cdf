"""`depth-anything-hf predict IMAGE... --model M --out DIR`."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

EXAMPLE = """example:
  depth-anything-hf predict photo.jpg holiday/ --model depth-anything/Depth-Anything-V2-Small-hf --out depth

For each image: NAME_color.png to look at, NAME.png (16-bit, 0 = no value) with its scale and offset in depth.jsonl,
and NAME.npy (float32). Relative models give disparity (larger is nearer, unknown scale), metric models metres.
"""


def make_parser() -> argparse.ArgumentParser:
    """Build the parser."""
    parser = argparse.ArgumentParser(
        prog="depth-anything-hf predict",
        description="Write the depth of images.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="files, folders or globs")
    parser.add_argument(
        "--model", default="depth-anything/Depth-Anything-V2-Small-hf", help="Hub id or folder (default: %(default)s)"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to write")
    parser.add_argument("--resolution", type=int, help="shorter side in pixels (default: the checkpoint's)")
    return parser


def main(arguments: list[str]) -> int:
    """Parse and run; images that cannot be read are named at the end, and the exit code is 1."""
    options = make_parser().parse_args(arguments)

    import torch
    from PIL import Image
    from tqdm.auto import tqdm

    from depth_anything_hf.data.codes import upright_rgb
    from depth_anything_hf.data.folder import IMAGE_EXTENSIONS, find_files
    from depth_anything_hf.inference import load_model, predict_depth, set_resolution, space_of
    from depth_anything_hf.visualization import save_depth

    files = []
    for name in options.images:
        root, found = find_files(name, IMAGE_EXTENSIONS)
        if not found:
            raise FileNotFoundError(
                f"{name} holds no image ({', '.join(IMAGE_EXTENSIONS)}); give image files, folders or a glob in quotes."
            )
        files += [(Path(file), Path(file).relative_to(root)) for file in found]
    model, processor = load_model(options.model)
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    if options.resolution:
        set_resolution(processor, model.config, options.resolution)
    space = space_of(model, options.model)
    options.out.mkdir(parents=True, exist_ok=True)
    unreadable = []
    with (options.out / "depth.jsonl").open("w") as listing:
        for file, relative in tqdm(files, desc="predict", unit="image"):
            try:
                image = upright_rgb(Image.open(file))
            except (OSError, ValueError) as error:
                unreadable.append(f"{file}: {error}")
                continue
            depth = predict_depth(model, processor, [image])[0].numpy()
            # The extension stays in the name: photo.jpg and photo.png are two images.
            stem = options.out / relative.with_name(relative.name.replace(".", "_"))
            stem.parent.mkdir(parents=True, exist_ok=True)
            saved = save_depth(stem, depth, space)
            row = {"file_name": str(file), "depth_map_file_name": str(saved["png"].relative_to(options.out))}
            row |= {"depth_scale": saved["scale"], "depth_offset": saved["offset"], "space": space}
            listing.write(json.dumps(row) + "\n")
    print(f"{len(files) - len(unreadable)} of {len(files)} images written to {options.out} ({space})")
    for line in unreadable:
        print(f"could not read {line}", file=sys.stderr)
    return 1 if unreadable else 0
