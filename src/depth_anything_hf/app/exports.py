"""Make other colors, point clouds, an archive or a copy from a session. Each function returns a new session."""

from __future__ import annotations

import os
import shutil
import tempfile
import zipfile
from dataclasses import replace
from pathlib import Path

from PIL import Image

from depth_anything_hf.app.look import palette
from depth_anything_hf.app.session import LISTING, Session
from depth_anything_hf.data.whole_files import replacing
from depth_anything_hf.pictures.point_cloud import depth_for_viewing, intrinsics_from_fov, point_cloud, save_ply
from depth_anything_hf.pictures.visualization import paint


def copy_session(session: Session, root: Path) -> Session:
    """Copy a session for a visitor, into a new folder below `root`."""
    folder = Path(tempfile.mkdtemp(dir=root))
    shutil.copytree(session.folder, folder, dirs_exist_ok=True, copy_function=os.link)  # needs no disk space

    def moved(value):
        return folder / value.relative_to(session.folder) if isinstance(value, Path) else value

    photographs = []
    for photograph in session.photographs:
        predictions = tuple(
            replace(one, saved={key: moved(value) for key, value in one.saved.items()})
            for one in photograph.predictions
        )
        photographs.append(replace(photograph, preview=moved(photograph.preview), predictions=predictions))
    extras = tuple(map(moved, session.extras))
    return replace(session, folder=folder, photographs=tuple(photographs), extras=extras)


def repaint(session: Session, colormap: str) -> Session:
    """Paint all color pictures again, over the old ones, with one of `COLORMAPS`, and drop archives with the old ones."""
    for photograph in session.photographs:
        for prediction in photograph.predictions:
            picture = paint(prediction.values(), prediction.space, colors=palette(colormap))
            file = prediction.saved["color"]
            # Someone may be downloading it, and a copied session has the same file.
            with replacing(file, flush=False) as partial:
                Image.fromarray(picture).save(partial, format="PNG")
    return replace(session, extras=tuple(file for file in session.extras if file.suffix != ".zip"))


def add_point_clouds(session: Session, fov: float) -> Session:
    """Write the shown photograph as a PLY file per checkpoint, one point per pixel of its preview; `fov` in degrees.

    The cloud of a relative model has no true depth.
    """
    image = Image.open(session.photograph.preview)
    camera = intrinsics_from_fov(image.height, image.width, fov)
    files = []
    for prediction in session.photograph.predictions:
        values = prediction.sampled(image.height, image.width)
        meters = values if prediction.space == "depth" else depth_for_viewing(values)
        file = prediction.saved["png"].with_suffix(".ply")
        files.append(save_ply(file, *point_cloud(meters, camera, image)))
    return replace(session, extras=tuple(dict.fromkeys((*session.extras, *files))))


def add_archive(session: Session) -> Session:
    """Pack the predictions of all photographs, and the listing, into one ZIP file."""
    file = session.folder / "depth.zip"
    with zipfile.ZipFile(file, "w") as archive:  # not compressed: PNG is already, and float32 hardly gets smaller
        archive.write(session.folder / LISTING, LISTING)
        for prediction in (made for photograph in session.photographs for made in photograph.predictions):
            for kind in ("png", "npy", "color"):
                archive.write(prediction.saved[kind], prediction.saved[kind].name)
    return replace(session, extras=tuple(dict.fromkeys((*session.extras, file))))
