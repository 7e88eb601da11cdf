"""`depth-anything-hf predict IMAGE... --model M --out DIR`."""

from __future__ import annotations

import argparse
import functools
import json
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from depth_anything_hf.cli.inputs import add_prediction_options, going_on
from depth_anything_hf.cli.options import Parser
from depth_anything_hf.cli.video import EXTENSIONS as VIDEO_EXTENSIONS
from depth_anything_hf.data.whole_files import alone_in, replacing
from depth_anything_hf.model.bundled import hint_at_better

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

    from depth_anything_hf.prediction.predictor import DepthPredictor
    from depth_anything_hf.prediction.tiling import PixelFile, TiledDepth

_KEY = "depth_map_file_name"  # of a row in depth.jsonl
GPU_BATCH = 8  # images; on a CPU several together are no faster than one by one
OUTPUTS = (".png", ".npy", "_color.png")  # ends of the files that are written of every image
_NO_CAMERA = (
    "does not say with which focal length it was taken; a point cloud needs the camera: pass --fov DEGREES (horizontal field "
    "of view; about 65 for a phone's main camera) or --intrinsics FX FY CX CY."
)
EXAMPLE = """examples:
  depth-anything-hf predict photo.jpg                                          offline, with mini, from the package
  M=depth-anything/Depth-Anything-V2-Small-hf                                  far more accurate; a download of 99 MB
  depth-anything-hf predict photo.jpg holiday/ --model $M --out depth
  depth-anything-hf predict photo.jpg --model $M --resolution 1036             finer detail (V2)
  depth-anything-hf predict panorama.jpg --model $M --tile 1036                images beyond memory
  depth-anything-hf predict room.jpg --model depth-anything/Depth-Anything-V2-Metric-Indoor-Small-hf \\
      --point-cloud ply --fov 65 --out depth

For each image: NAME_color.png to look at, NAME.png (16-bit, 0 = no value) with its scale and offset in depth.jsonl,
and NAME.npy (float32). Relative models predict disparity (larger is nearer, unknown scale), metric models meters.
NAME is the file name with dots as underscores: photo_jpg. Folders keep their subfolders. If two folders hold the same
name, the folder name is added. Results below --out are skipped unless you name the file. A later run into the same
folder keeps the other rows of depth.jsonl. V2 has finer detail at --resolution 1036 or 2072, for 4 or 16 times the
work.
"""


def make_parser() -> Parser:
    """Build the parser."""
    parser = Parser("predict", "Write the depth of images.", EXAMPLE)
    add = parser.add_argument
    add("images", nargs="+", metavar="IMAGE", help="files, of any name; folders or globs")
    add_prediction_options(parser, default=Path("depth"), help="folder to write (default: %(default)s)")
    add = parser.add_argument_group("images beyond memory").add_argument
    add(
        "--tile",
        type=int,
        metavar="PIXELS",
        help="predict overlapping tiles of this side, aligned to a prediction of the whole; 518 gives all detail, 1036 is "
        "a quarter of the work",
    )
    add(
        "--overlap", type=int, metavar="PIXELS", help="overlap of neighboring tiles (default: a quarter of their side)"
    )
    add(
        "--max-megapixels",
        type=_above_zero,
        default=179.0,
        metavar="N",
        help="refuse larger images, which may be made to fill the memory (default: %(default)g)",
    )
    cloud = parser.add_argument_group("point clouds, of metric models")
    add = cloud.add_argument
    add("--point-cloud", choices=("ply", "glb"), help="also write NAME.ply or NAME.glb")
    camera = cloud.add_mutually_exclusive_group().add_argument
    camera(
        "--fov",
        type=float,
        metavar="DEGREES",
        help="horizontal field of view (default: from the focal length in the EXIF data, if it is there)",
    )
    camera(
        "--intrinsics", type=float, nargs=4, metavar=("FX", "FY", "CX", "CY"), help="in pixels of the upright image"
    )
    add(
        "--edge-threshold",
        type=float,
        metavar="SHARE",
        help="drop the pixels between near and far: jumps of more than this share of the depth, such as 0.05",
    )
    add(
        "--view-depth",
        type=float,
        nargs=2,
        metavar=("NEAR", "FAR"),
        help="for relative models: squeeze the disparity between these depths; a cloud to look at, of distorted shape",
    )
    return parser


def _above_zero(word: str) -> float:
    if not 0 < (number := float(word)) < float("inf"):
        raise argparse.ArgumentTypeError(f"{word} is no number above 0")
    return number


def main(arguments: list[str]) -> int:
    """Parse and run; images that cannot be read are listed at the end, and the exit code is 1."""
    options = _parse(arguments)

    from PIL import Image

    limit = Image.MAX_IMAGE_PIXELS
    Image.MAX_IMAGE_PIXELS = int(options.max_megapixels * 1e6 / 2)  # Pillow warns of more, and refuses twice as much
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            return _run(options)
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def _parse(arguments: list[str]) -> argparse.Namespace:
    """Parse, and refuse options that would do nothing."""
    parser = make_parser()
    options = parser.parse_args(arguments)
    needs = [("overlap", "tile")]
    needs += [(name, "point_cloud") for name in ("fov", "intrinsics", "edge_threshold", "view_depth")]
    for name, needed in needs:
        if getattr(options, name) is not None and getattr(options, needed) is None:
            name, needed = (option.replace("_", "-") for option in (name, needed))
            parser.error(f"--{name} does nothing without --{needed}; give that, too, or leave --{name} out")
    options.out = options.out.expanduser()  # shells leave the ~ in --out=~/depth
    return options


def _run(options: argparse.Namespace) -> int:
    from tqdm.auto import tqdm

    from depth_anything_hf.cli.inputs import Kind, find_inputs, name_outputs, on_one_line, open_predictor, output_files
    from depth_anything_hf.data.image_files import RAISE_LIMIT
    from depth_anything_hf.data.photographs import IMAGE_EXTENSIONS

    _check_options(options)
    listing = _Listing(options.out)
    stems = (options.out.resolve() / name.removesuffix(".png") for name in listing.names)
    written = {file for stem in stems for file in output_files(stem, OUTPUTS)}
    kind = Kind("image", IMAGE_EXTENSIONS)
    found, left_out = find_inputs(options.images, kind, options.out, written.__contains__)
    endings = OUTPUTS if options.point_cloud is None else (*OUTPUTS, f".{options.point_cloud}")
    images, problems = name_outputs(found, options.out, endings)
    if options.point_cloud:
        _check_cameras([file for file, _ in images], options)
    if images:
        predictor = open_predictor(options)
        if options.point_cloud:
            _check_cloud(predictor.space, options)
        writer = _Writer(predictor.space, listing, options, problems)
        if left_out:
            writer.notes.append(f"images under --out are left out of a search: {len(left_out)}, such as {left_out[0]}")
        predict = _predict_whole if options.tile is None else _predict_tiled
        for _ in tqdm(predict(images, predictor, writer), "predict", len(images), unit="image"):
            pass
        written_of = f"{len(found) - len(problems)} of {len(found)} images written to {options.out}"
        print(f"{written_of} ({predictor.space})")
        for line in dict.fromkeys([*hint_at_better(options.model), *writer.notes]):  # each once
            print(on_one_line(line))
    for problem in problems.values():
        print(on_one_line(problem.replace(RAISE_LIMIT, "raise --max-megapixels")), file=sys.stderr)
    return 1 if problems else 0


def _check_options(options: argparse.Namespace) -> None:
    """Raise an error before any work for options that the first image would fail with."""
    import numpy as np

    from depth_anything_hf.cli.inputs import check_out
    from depth_anything_hf.pictures.point_cloud import depth_for_viewing, import_trimesh, point_cloud
    from depth_anything_hf.prediction.tiling import tile_overlap

    check_out(options.out)
    for name in options.images:
        if name.lower().endswith(VIDEO_EXTENSIONS):
            raise ValueError(f"{name} is a video, and predict takes images: depth-anything-hf video {name} --out DIR")
    if options.tile is not None:
        tile_overlap(options.tile, options.overlap)
    if options.point_cloud == "glb":
        import_trimesh()
    if options.point_cloud:
        depth = np.ones((1, 1))  # the functions check what they are given: one pixel is enough
        if options.view_depth:
            depth = depth_for_viewing(depth, *options.view_depth)
        point_cloud(depth, options.intrinsics or [1.0, 1.0, 0.5, 0.5], edge_threshold=options.edge_threshold)


def _camera_of(file: Path, size: tuple[int, int], options: argparse.Namespace) -> tuple[list[float], str] | None:
    """Return the intrinsics of an upright image of `size` (height, width), and their source; None if nothing states them."""
    from depth_anything_hf.data.image_files import opened_image
    from depth_anything_hf.pictures.point_cloud import intrinsics_from_exif, intrinsics_from_fov

    if options.intrinsics:
        return options.intrinsics, "--intrinsics"
    if options.fov is not None:
        return intrinsics_from_fov(*size, options.fov)[0].tolist(), f"--fov {options.fov:g}"
    with opened_image(file) as image:
        found = intrinsics_from_exif(image)
    return None if found is None else (found[0].tolist(), "EXIF FocalLengthIn35mmFilm")


def _check_cameras(files: list[Path], options: argparse.Namespace) -> None:
    """Raise a `ValueError` before any work if no image has a known camera, or if the given one cannot be that of all."""
    from depth_anything_hf.data.codes import orientation_of
    from depth_anything_hf.data.image_files import opened_image

    sizes: set[tuple[int, int]] = set()
    cameras = {}
    for file in files:
        try:
            with opened_image(file) as image:
                width, height = image.size if orientation_of(image) < 5 else image.size[::-1]  # a quarter turn
        except OSError:
            continue  # will be named with the unreadable ones
        sizes.add((width, height))
        cameras[file] = _camera_of(file, (height, width), options)
    if cameras and not any(cameras.values()):
        raise ValueError(f"{next(iter(cameras))} {_NO_CAMERA}")
    if options.intrinsics and len(sizes) > 1:
        raise ValueError(
            f"--intrinsics are pixels of one image size, and the images have {len(sizes)} sizes, such as "
            f"{sorted(sizes)[:2]}; run each size by itself, or pass --fov."
        )


def _check_cloud(space: str, options: argparse.Namespace) -> None:
    """Raise a `ValueError` if a point cloud would show more than the model knows."""
    if space == "disparity" and not options.view_depth:
        raise ValueError(
            f"{options.model} predicts disparity of unknown scale and shift, which no camera turns into meters. Take a "
            "metric model, such as depth-anything/Depth-Anything-V2-Metric-Indoor-Small-hf; or pass --view-depth 1 10 "
            "for a cloud to look at, whose shape is distorted."
        )
    if space == "depth" and options.view_depth:
        raise ValueError(f"{options.model} predicts meters; --view-depth is for relative models: leave it out.")


def _predict_whole(images: list[tuple[Path, Path]], predictor: DepthPredictor, writer: _Writer) -> Iterator[Path]:
    """Predict images, decoded ahead of the model and written behind it; yield each that is done with."""
    from depth_anything_hf.prediction.stream import WriteBehind, decode_ahead, decode_workers

    size = 1 if predictor.device.type == "cpu" else GPU_BATCH
    workers = decode_workers(predictor.device.type)
    # One worker writes, in order: a row of depth.jsonl is dropped just before its file is written over.
    with (
        WriteBehind(workers=1, waiting=2 * size) as behind,
        closing(decode_ahead((file for file, _ in images), writer.read, workers, ahead=2 * size)) as decoded,
    ):
        pairs = zip(images, decoded, strict=True)
        while batch := list(islice(pairs, size)):
            readable = [(file, image) for (file, _), image in batch if image is not None]
            depths = iter(_predict_together(readable, predictor, writer.problems))
            for (file, stem), image in batch:
                depth = None if image is None else next(depths)
                if depth is not None and writer.check(file, depth):
                    behind.submit(writer.write, file, stem, image, depth)
                yield file


def _predict_together(
    readable: list[tuple[Path, Image]], predictor: DepthPredictor, problems: dict[Path, str]
) -> list[torch.Tensor | None]:
    """Predict images; if they cannot be predicted together, each alone, None for one that cannot be, which is noted."""
    if len(readable) > 1:
        with suppress(ValueError):
            return [*predictor([image for _, image in readable])]
        return [depth for one in readable for depth in _predict_together([one], predictor, problems)]
    for file, image in readable:
        with going_on(file, problems, "could not predict "):
            return [*predictor([image])]
        return [None]
    return []


def _predict_tiled(images: list[tuple[Path, Path]], predictor: DepthPredictor, writer: _Writer) -> Iterator[Path]:
    """Predict images beyond memory, one after another; yield each that is done with."""
    from depth_anything_hf.data.image_files import opened_image
    from depth_anything_hf.prediction.tiling import PixelFile

    for file, stem in images:
        pixels = None
        with going_on(file, writer.problems):
            stem.parent.mkdir(parents=True, exist_ok=True)
            with opened_image(file) as image:
                pixels = PixelFile(image, stem.parent)
        if pixels is not None:
            with pixels:
                writer.write_tiled(file, stem, pixels, predictor)
        yield file


class _Writer:
    """Read images and write their predictions, one at a time; note what is wrong with one, and keep depth.jsonl true."""

    def __init__(self, space: str, listing: _Listing, options: argparse.Namespace, problems: dict[Path, str]):
        self.space, self.listing, self.options, self.problems = space, listing, options, problems
        self.notes: list[str] = []  # for the end of the run

    def read(self, file: Path) -> Image | None:
        """Decode an image upright; None if it cannot be read."""
        from depth_anything_hf.data.codes import read_photograph

        with going_on(file, self.problems):
            return read_photograph(file)
        return None

    def check(self, file: Path, depth: torch.Tensor) -> bool:
        """Check a prediction; note one that is constant, and return False for one that is not finite."""
        from depth_anything_hf.prediction.predictor import check_prediction

        with going_on(file, self.problems, "could not predict "):
            note = check_prediction(depth)
            self.notes += [f"{file}: {note}"] if note else []
            return True
        return False

    def write(self, file: Path, stem: Path, image: Image, depth: torch.Tensor) -> None:
        """Write a depth map, `(height, width)`, and its point cloud."""
        from depth_anything_hf.pictures.visualization import save_depth

        name = self._name(stem)
        with going_on(file, self.problems, "could not write the depth of "), self.listing.changed():
            self.listing.drop(name)
            saved = save_depth(stem, depth.numpy(), self.space)
            self._list(file, stem, image, self._row(file, name, saved))

    def write_tiled(self, file: Path, stem: Path, pixels: PixelFile, predictor: DepthPredictor) -> None:
        """Predict and write a depth map as its rows come, and its point cloud."""
        from depth_anything_hf.prediction.predictor import check_prediction
        from depth_anything_hf.prediction.tiling import iter_tiled_depth, save_tiled_depth

        name = self._name(stem)

        with going_on(file, self.problems, "could not predict "), ExitStack() as stack:

            def rows() -> Iterator[TiledDepth]:
                for rows in iter_tiled_depth(predictor, pixels, self.options.tile, self.options.overlap):
                    check_prediction(rows.depth)
                    yield rows
                stack.enter_context(self.listing.changed())
                self.listing.drop(name)  # the codes are written once all rows are there

            saved = save_tiled_depth(stem, rows(), pixels.size[::-1], self.space)
            row = self._row(file, name, saved) | {"tiles": saved["tiles"], "unfit_tiles": saved["unfit"]}
            self._list(file, stem, pixels, row)
            if saved["unfit"]:
                counts = f"{saved['unfit']} of {saved['tiles']}"
                self.notes.append(f"{file}: {counts} tiles were unfit; the whole stands in for them")

    def _name(self, stem: Path) -> str:
        return stem.with_name(stem.name + ".png").relative_to(self.options.out).as_posix()

    def _row(self, file: Path, name: str, saved: Mapping[str, Any]) -> dict[str, Any]:
        row = {"file_name": str(file), _KEY: name}
        return row | {"depth_scale": saved["scale"], "depth_offset": saved["offset"], "space": self.space}

    def _list(self, file: Path, stem: Path, image: Image | PixelFile, row: dict[str, Any]) -> None:
        """Write the point cloud, if one is asked for, and add the row."""
        try:
            if self.options.point_cloud:
                row |= _write_cloud(image, file, stem, self.options)
                self.notes.append(f"the camera of the point clouds is that of {row['intrinsics_source']}")
        finally:  # the depth map is there, whatever became of the cloud
            self.listing.add(row)


def _write_cloud(image: Image | PixelFile, file: Path, stem: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Write the point cloud of a depth map on disk; return its part of the row of depth.jsonl."""
    import numpy as np

    from depth_anything_hf.pictures.point_cloud import depth_for_viewing, point_cloud, save_glb, save_ply

    depth = np.load(stem.with_name(stem.name + ".npy"))
    if options.view_depth:
        depth = depth_for_viewing(depth, *options.view_depth)
    camera = _camera_of(file, depth.shape, options)
    if camera is None:
        raise ValueError(f"{file} {_NO_CAMERA}")
    intrinsics, source = camera
    picture = image.crop((0, 0, *image.size))
    points, colors = point_cloud(depth, intrinsics, picture, edge_threshold=options.edge_threshold)
    save = {"ply": save_ply, "glb": save_glb}[options.point_cloud]
    saved = save(stem.with_name(f"{stem.name}.{options.point_cloud}"), points, colors)
    row = {"point_cloud_file_name": saved.relative_to(options.out).as_posix(), "intrinsics": intrinsics}
    return row | {"intrinsics_source": source}


class _Listing:
    """Keep a row of depth.jsonl for each depth map of a folder, true to the files on disk whenever a run ends.

    A row is dropped before its file is written over, and added once the file is there: a file without a row can only be
    predicted again, but the row of another file would decode it to wrong values. Of two rows of one map the last counts.
    Several processes may write into one folder, one at a time.
    """

    def __init__(self, folder: Path):
        self.file = folder / "depth.jsonl"
        self.names: set[str] = set()
        self._whole = True  # whether the last line is
        self._seen: tuple[int, ...] | None = None
        self._refresh()

    @contextmanager
    def changed(self) -> Iterator[None]:
        """Drop and add rows, and write their files, inside this block; other processes wait."""
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with alone_in(self.file.parent):
            self._refresh()
            yield
            self._seen = self._state()

    def drop(self, name: str) -> None:
        """Take the row of a depth map out, by the map's path below the folder."""
        if name in self.names:
            self._replace([line for other, line in self._read()[0].items() if other != name])
            self.names.remove(name)

    def add(self, row: dict) -> None:
        """Append a row."""
        if not self._whole:
            self._replace(list(self._read()[0].values()))
        with self.file.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(row) + "\n")
        self.names.add(row[_KEY])

    def _state(self) -> tuple[int, ...] | None:
        """Return what tells whether another process has written the file."""
        if not self.file.exists():
            return None
        found = self.file.stat()
        return found.st_ino, found.st_size, found.st_mtime_ns

    def _refresh(self) -> None:
        """Read the names again if another process has written the file."""
        if (state := self._state()) != self._seen:
            rows, self._whole = self._read()
            self.names, self._seen = set(rows), state

    def _read(self) -> tuple[dict[str, str], bool]:
        """Read the lines by their names, and whether the last line is whole; one that was cut short is left out."""
        text = self.file.read_text(encoding="utf-8") if self.file.exists() else ""
        *lines, rest = text.split("\n")
        if rest and not _is_cut_short(rest):
            lines.append(rest)
        rows = [(_name_of(line), line) for line in lines if line.strip()]
        for name, line in rows:
            if not isinstance(name, str):
                raise ValueError(
                    f"{self.file} holds {line[:80]!r}, which is no row of predict: each is a JSON object with {_KEY}; "
                    "move the file away, or give another --out."
                )
        return dict(rows), not rest

    def _replace(self, lines: list[str]) -> None:
        """Write other lines; the file is whole whenever the run is killed."""
        with replacing(self.file, flush=False) as partial:
            partial.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        self._whole = True


@functools.cache  # the file is read again for each row that is dropped
def _name_of(line: str) -> Any:
    """Return the depth map that a line describes; None for a line of another origin."""
    try:
        return json.loads(line)[_KEY]
    except (ValueError, KeyError, TypeError):
        return None


def _is_cut_short(line: str) -> bool:
    """Check whether a line is a row that a full disk or a crash cut short, not a line of another origin."""
    try:
        json.loads(line)
    except ValueError:
        return line.startswith("{")
    return False
