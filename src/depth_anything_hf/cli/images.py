"""Which images `predict` takes, and what it calls the files that it writes of them."""

from __future__ import annotations

import glob
from pathlib import Path

from depth_anything_hf.cli.video import EXTENSIONS as VIDEO_EXTENSIONS
from depth_anything_hf.data.folder import IMAGE_EXTENSIONS, find_files


def find_images(names: list[str]) -> list[tuple[Path, Path]]:
    """List the images, and their paths below what was given; a file that is named is taken whatever its name."""
    files = []
    for name in names:
        if name.lower().endswith(VIDEO_EXTENSIONS):
            raise ValueError(f"{name} is a video, and predict takes images: depth-anything-hf video {name} --out DIR")
        root, found = find_files(name, ("",) if Path(name).expanduser().is_file() else IMAGE_EXTENSIONS)
        if not found:
            raise FileNotFoundError(_nothing_at(name))
        files += [(file, file.relative_to(root)) for file in found]
    return files


def _nothing_at(name: str) -> str:
    """Say why there is no image at a path or a pattern."""
    there = Path(name).expanduser().exists()
    if not there and not glob.has_magic(name):
        return f"{name} does not exist; check the path, and give image files, folders or a glob in quotes."
    return (
        f"{name} {'holds' if there else 'matches'} no image ({', '.join(IMAGE_EXTENSIONS)}); give folders or a glob in "
        "quotes that do, or name the files themselves, whatever their endings."
    )
