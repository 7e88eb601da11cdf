"""What `predict` and `video` share: their options, the files that they read and write, and what happens to a bad one."""

from __future__ import annotations

import argparse
import contextlib
import errno
import glob
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from depth_anything_hf.cli.options import add_model_options, add_resolution
from depth_anything_hf.data.photographs import Photographs
from depth_anything_hf.model.bundled import MINI

if TYPE_CHECKING:
    from depth_anything_hf.prediction.predictor import DepthPredictor

LONGEST_NAME = 255  # bytes of a file name, on all usual file systems
LONGEST_PATH = 4095  # bytes, on Linux
_OF_THE_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)  # the next file will not be written either


def add_prediction_options(parser: argparse.ArgumentParser, **out: Any) -> None:
    """Add `--model`, `--space`, `--device`, `--out`, with the given settings, and `--resolution`."""
    mini = "Hub id or folder; mini is small and comes with the package (default: %(default)s)"
    add_model_options(parser, default=MINI, help=mini)
    parser.add_argument("--out", type=Path, metavar="DIR", **out)
    add_resolution(parser)


def open_predictor(options: argparse.Namespace) -> DepthPredictor:
    """Load the model that the options name."""
    from depth_anything_hf.prediction.predictor import DepthPredictor

    return DepthPredictor(options.model, resolution=options.resolution, space=options.space, device=options.device)


@contextlib.contextmanager
def going_on(file: Path, problems: dict[Path, str], what: str = "could not read ") -> Iterator[None]:
    """Note in `problems` what is wrong with an input, and go on with the next; a full disk ends the run."""
    try:
        yield
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno in _OF_THE_DISK:
            raise
        problems[file] = what + (str(error) if str(error).startswith(str(file)) else f"{file}: {error}")


def on_one_line(text: str) -> str:
    r"""Escape what would move or color a terminal's text, or fake a line of its own: a file may have any name.

    Example:
        >>> print(on_one_line("a\nb\x1b[31m.jpg"))
        a\nb\x1b[31m.jpg
    """
    return "".join(
        one if one.isprintable() else one.encode("unicode_escape", "surrogatepass").decode() for one in text
    )


class Kind(NamedTuple):
    """The inputs of a command: their name in the singular, and the endings for searching folders."""

    name: str
    extensions: tuple[str, ...]


class Found(NamedTuple):
    """An input, the real path of the searched folder, and the path below that folder."""

    file: Path
    root: Path
    relative: Path

    @property
    def stem(self) -> Path:
        """Its name below the folder; the extension stays in it: photo.jpg and photo.png are two images."""
        return self.relative.with_name(self.relative.name.replace(".", "_"))


def find_inputs(
    names: list[str], kind: Kind, out: Path, is_output: Callable[[Path], bool]
) -> tuple[dict[Path, Found], list[Path]]:
    """List the inputs, each once, by their paths, and the files below `out` that were left out; print which files were skipped.

    A named file is always taken. If a folder above `out` is searched, everything below `out` is left out; if `out` itself or
    a folder in it is searched, the outputs of earlier runs (`is_output`) are left out.
    """
    inputs: dict[Path, Found] = {}
    left_out: dict[Path, Path] = {}
    out_place = out.resolve()
    for name in names:
        search = Photographs(name, kind.extensions)
        named = search.given.exists() and not search.given.is_dir()  # a pipe is named when it is opened
        files = [search.given] if named else list(search) if name else []  # "" is an unset variable, not this folder
        if skipped := search.describe_skipped():
            print(f"{name}: {skipped}")
        if not files:
            if not name or (not search.given.exists() and not glob.has_magic(name)):
                advice = f"check the path, and give {kind.name} files, folders or a glob in quotes."
                raise FileNotFoundError(f"{name or repr(name)} does not exist; {advice}")
            raise FileNotFoundError(
                f"{name} {'holds' if search.given.exists() else 'matches'} no {kind.name} ({', '.join(kind.extensions)}); "
                "give folders or a glob in quotes that do, or name the files themselves, whatever their endings."
            )
        root_place = search.root.resolve()
        around = root_place in out_place.parents
        for file in files:
            place = _place(file)
            below = out_place in place.parents
            if not named and below and (around or is_output(place)):
                left_out[place] = file
            else:
                relative = Path(search.name(file))
                inputs.setdefault(
                    place, Found(file, root_place, Path(file.name) if ".." in relative.parts else relative)
                )
    if not inputs:
        raise FileNotFoundError(
            f"{', '.join(names)}: no {kind.name} but those under --out, {out}; give another --out, or name the files "
            "themselves."
        )
    return inputs, [file for place, file in left_out.items() if place not in inputs]


def name_outputs(
    inputs: dict[Path, Found], out: Path, endings: Sequence[str], verb: str = "predict"
) -> tuple[list[tuple[Path, Path]], dict[Path, str]]:
    """Return each input with its output path without ending; and what is wrong with those that cannot be written.

    Those are an input whose outputs would replace those of an input before it, or another input, and one whose outputs would
    have too long a name.
    """
    folders = _subfolders(inputs.values())
    stems: list[tuple[Path, Path]] = []
    problems: dict[Path, str] = {}
    takers: dict[Path, Path] = {}
    for found in inputs.values():
        stem = out / folders.get(found.root, "") / found.stem
        files = output_files(stem, endings)
        if problem := _conflict(found.file, files, takers, inputs, verb):
            problems[found.file] = problem
        else:
            takers |= dict.fromkeys(files, found.file)
            stems.append((found.file, stem))
    return stems, problems


def _conflict(
    taken: Path, files: list[Path], takers: dict[Path, Path], inputs: dict[Path, Found], verb: str
) -> str | None:
    """Return why the outputs of an input cannot be written; None if they can."""
    for file in files:
        if (other := takers.get(file)) is not None:
            return (
                f"{other} and {taken} would both be written to {file}; rename one of them, or {verb} them by two "
                "commands with different --out."
            )
        if (read := inputs.get(_place(file))) is not None:
            return (
                f"{taken} would be written over {read.file}, which is to be read; give another --out, or leave one "
                "of the two out."
            )
        name, path = len(os.fsencode(file.name)), len(os.fsencode(file.absolute()))
        if name > LONGEST_NAME or path > LONGEST_PATH:
            return (
                f"{taken}: {file.name[:40]}... would have a name of {name} bytes and a path of {path}; a disk takes "
                f"{LONGEST_NAME} and {LONGEST_PATH}: rename the input, or give a shorter --out."
            )
    return None


def output_files(stem: Path, endings: Iterable[str]) -> list[Path]:
    """List the output files of an input."""
    return [stem.with_name(stem.name + ending) for ending in endings]


def check_out(out: Path) -> None:
    """Raise a `NotADirectoryError`, before any work, if the output folder or a folder above it is a file."""
    for part in (out, *out.parents):
        if os.path.lexists(part) and not part.is_dir():
            raise NotADirectoryError(
                f"--out is {out}, but {part} is a file; it must be a folder (made if it does not exist): give another name."
            )


def _subfolders(inputs: Iterable[Found]) -> dict[Path, Path]:
    """Return a subfolder for each searched folder that has an input of the same name as another searched folder.

    It is the folder's own name, or as many of the last parts of its path as tell these folders apart. Names that differ
    in case alone are the same: on most disks of macOS and Windows they are one file.
    """
    roots = defaultdict(set)
    for found in inputs:
        roots[str(found.stem).casefold()].add(found.root)
    alike = {root for same in roots.values() if len(same) > 1 for root in same}
    folders = {}
    for count in range(1, max((len(root.parts) for root in alike), default=1)):
        folders = {root: Path(*root.parts[1:][-count:]) for root in alike}  # the first part is the anchor
        if len({str(folder).casefold() for folder in folders.values()}) == len(alike):
            break
    return folders


def _place(file: Path) -> Path:
    """Return the path of a file with the links to its folder resolved; the file itself may be a link."""
    return file.parent.resolve() / file.name
