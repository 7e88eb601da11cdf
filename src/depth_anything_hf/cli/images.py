"""Which images `predict` takes, and what it calls the files that it writes of them."""

from __future__ import annotations

import glob
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from depth_anything_hf.cli.video import EXTENSIONS as VIDEO_EXTENSIONS
from depth_anything_hf.data.folder import IMAGE_EXTENSIONS, find_files


class Found(NamedTuple):
    """An image, the folder that was searched for it, without links, and where it lies below that folder."""

    file: Path
    root: Path
    relative: Path

    @property
    def stem(self) -> Path:
        """Its name below the folder; the extension stays in it: photo.jpg and photo.png are two images."""
        return self.relative.with_name(self.relative.name.replace(".", "_"))


def find_images(names: list[str], out: Path, listed: Iterable[str]) -> tuple[dict[Path, Found], list[Path]]:
    """List the images, each once; a file that is named is taken, whatever its name and wherever it lies.

    Args:
        names: Files, folders and patterns.
        out: The folder to write. Where a folder around it is searched, all below it is left out; where it is searched
            itself, or a folder in it, what earlier runs wrote there.
        listed: Depth maps of earlier runs, below `out`.

    Returns:
        images: By their places.
        left_out: The images under `out` that were left out.

    Raises:
        ValueError: A name is that of a video.
        FileNotFoundError: There is no image at a name, or none at all that is not left out.
    """
    images, left_out, out_place = {}, {}, out.resolve()
    written = {file for name in listed for file in output_files(out_place / name.removesuffix(".png"))}
    for name in names:
        if name.lower().endswith(VIDEO_EXTENSIONS):
            raise ValueError(f"{name} is a video, and predict takes images: depth-anything-hf video {name} --out DIR")
        named = Path(name).expanduser().is_file()
        root, files = find_files(name, ("",) if named else IMAGE_EXTENSIONS)
        if not files:
            raise FileNotFoundError(_nothing_at(name))
        root_place = root.resolve()
        around = root_place in out_place.parents
        for file in files:
            place = _place(file)
            if not named and (place in written or (around and out_place in place.parents)):
                left_out[place] = file
            else:
                images.setdefault(place, Found(file, root_place, file.relative_to(root)))
    if not images:
        raise FileNotFoundError(
            f"{', '.join(names)}: no image but those under --out, {out}; give another --out, or name the files themselves."
        )
    return images, [file for place, file in left_out.items() if place not in images]


def name_outputs(images: dict[Path, Found], out: Path, point_cloud: str | None) -> list[tuple[Path, Path]]:
    """Give each image the path, without ending, of what is written of it, and refuse to write a file twice.

    Args:
        images: Of `find_images`, by their places.
        out: The folder to write.
        point_cloud: The ending of the point clouds, where there are any.

    Returns:
        Images and paths below `out`.

    Raises:
        ValueError: Two images would be written to one file, or one over another.
    """
    folders = _subfolders(images.values())
    stems = [(image.file, out / folders.get(image.root, "") / image.stem) for image in images.values()]
    takers = {}
    for image, stem in stems:
        for file in output_files(stem, point_cloud):
            other = takers.setdefault(file, image)
            if other != image:
                raise ValueError(
                    f"{other} and {image} would both be written to {file}; rename one of them, or predict them by two "
                    "commands with different --out."
                )
            if (read := images.get(_place(file))) is not None:
                raise ValueError(
                    f"{image} would be written over {read.file}, an image to predict; give another --out, or leave one "
                    "of the two out."
                )
    return stems


def output_files(stem: Path, point_cloud: str | None = None) -> list[Path]:
    """List the files that are written of an image."""
    endings = [".png", ".npy", "_color.png", *([] if point_cloud is None else [f".{point_cloud}"])]
    return [stem.with_name(stem.name + ending) for ending in endings]


def _subfolders(images: Iterable[Found]) -> dict[Path, Path]:
    """Find a subfolder for each searched folder that has an image of the same name as another folder's.

    It is the folder's own name, or as many of the last parts of its path as tell these folders apart.
    """
    roots = defaultdict(set)
    for image in images:
        roots[image.stem].add(image.root)
    alike = {root for same in roots.values() if len(same) > 1 for root in same}
    folders = {}
    for count in range(1, max((len(root.parts) for root in alike), default=1)):
        folders = {root: Path(*root.parts[1:][-count:]) for root in alike}  # the first part is the anchor
        if len(set(folders.values())) == len(alike):
            break
    return folders


def _place(file: Path) -> Path:
    """Say where a file lies, whatever links lead to its folder; the file itself may be a link to another image."""
    return file.parent.resolve() / file.name


def _nothing_at(name: str) -> str:
    """Say why there is no image at a path or a pattern."""
    there = Path(name).expanduser().exists()
    if not there and not glob.has_magic(name):
        return f"{name} does not exist; check the path, and give image files, folders or a glob in quotes."
    return (
        f"{name} {'holds' if there else 'matches'} no image ({', '.join(IMAGE_EXTENSIONS)}); give folders or a glob in "
        "quotes that do, or name the files themselves, whatever their endings."
    )
