"""Point clouds from depth in meters and a pinhole camera; binary PLY and GLB files.

Points and PLY files have the axes of the camera (OpenCV: x right, y down, z forward). glTF wants y up and the view along
-z, so GLB files hold `(x, -y, -z)`. All lengths are meters. Pixel centers lie at half-integers.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
import torch.nn.functional as F
from PIL import ExifTags, Image

from depth_anything_hf.data.codes import orientation_of
from depth_anything_hf.data.whole_files import replacing, write_whole
from depth_anything_hf.maps.geometry import camera_of, unproject, valid_mask

_DIAGONAL_35MM = math.hypot(36.0, 24.0)  # mm: of a frame of 35 mm film


def intrinsics_from_fov(height: int, width: int, fov: float) -> torch.Tensor:
    """Compute the intrinsics of a camera with square pixels and its principal point in the middle of the image.

    Args:
        height, width (`int`): Of the image, pixels.
        fov (`float`): Horizontal field of view, degrees, in (0, 180).

    Returns:
        `torch.Tensor`: `(1, 4)` float32: fx, fy, cx, cy in pixels of this image.

    Raises:
        ValueError: The field of view is out of range.

    Example:
        >>> intrinsics_from_fov(60, 80, 90.0).tolist()
        [[40.0, 40.0, 40.0, 30.0]]
    """
    if not 0 < fov < 180:
        raise ValueError(
            f"fov is {fov}; the horizontal field of view lies between 0 and 180 degrees: a phone's main camera has "
            "about 65."
        )
    focal = width / 2 / math.tan(math.radians(fov) / 2)
    return torch.tensor([[focal, focal, width / 2, height / 2]])


def intrinsics_from_exif(image: Image.Image) -> torch.Tensor | None:
    """Compute the intrinsics, `(1, 4)` float32 as `intrinsics_from_fov`, from the focal length in the EXIF data; None without, or
    if it is no positive number.

    FocalLengthIn35mmFilm is the focal length of the lens with the same diagonal field of view on 35 mm film. It is
    right for the photograph as it was taken, and wrong for a crop that kept the EXIF data. The intrinsics are those of the
    image at its size once it is upright.

    Source: Exif 2.32, tag 41989; CIPA DCG-001: the equivalent refers to the diagonal.

    Example:
        >>> intrinsics_from_exif(Image.new("RGB", (80, 60))) is None
        True
    """
    try:
        film = float(image.getexif().get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.FocalLengthIn35mmFilm])
    except Exception:  # damaged data raise what their parser does, and a value may be a text or a fraction of 0
        return None
    if not 0 < film < math.inf:  # 0 stands for unknown
        return None
    width, height = image.size[:: -1 if orientation_of(image) >= 5 else 1]  # a quarter turn
    focal = film * math.hypot(width, height) / _DIAGONAL_35MM
    return torch.tensor([[focal, focal, width / 2, height / 2]])


def point_cloud(
    depth: np.ndarray,
    intrinsics: torch.Tensor | Sequence[float],
    image: Image.Image | None = None,
    mask: np.ndarray | None = None,
    edge_threshold: float | None = None,
) -> tuple[np.ndarray, np.ndarray | None]:
    """Lift a depth map to colored points in the camera's frame (x right, y down, z forward).

    Pixels without depth (nan, inf, 0, negative) become no point.

    Args:
        depth (`np.ndarray`): `(height, width)`, meters along the optical axis.
        intrinsics (`torch.Tensor` or `Sequence[float]`): fx, fy, cx, cy in pixels of `depth`: `(4,)` or `(1, 4)`, or a 3 x 3 matrix.
        image (`Image.Image`, *optional*): The photograph at the size of `depth`: the points' colors.
        mask (`np.ndarray`, *optional*): `(height, width)` bool, True where a point may be. Left out: everywhere.
        edge_threshold (`float`, *optional*): Drops the flying pixels that a network draws between a thing and what is
            behind it: those whose 3 x 3 surroundings differ in depth by more than this share of their own depth. 0.05
            is a start; surfaces seen at a grazing angle go, too. Left out: keep all.

    Returns:
        `tuple[np.ndarray, np.ndarray | None]`: points `(n, 3)` float32 in meters, row by row, and their colors
        `(n, 3)` uint8, None without an image.

    Raises:
        ValueError: Shapes that do not fit together, intrinsics or a threshold out of range.

    Example:
        >>> points, colors = point_cloud(np.array([[2.0, 0.0]]), [4.0, 4.0, 0.0, 0.5], Image.new("RGB", (2, 1), "red"))
        >>> points.tolist(), colors.tolist()
        ([[0.25, 0.0, 2.0]], [[255, 0, 0]])
    """
    values = torch.tensor(np.asarray(depth), dtype=torch.float32)
    camera = camera_of(torch.as_tensor(intrinsics, dtype=torch.float32))
    shapes = {"mask": None if mask is None else np.shape(mask), "image": None if image is None else image.size[::-1]}
    wrong = [f"{name} {shape}" for name, shape in shapes.items() if shape not in (None, tuple(values.shape))]
    if values.ndim != 2 or wrong:
        raise ValueError(
            f"depth has shape {tuple(values.shape)}{''.join(f', {one}' for one in wrong)}; all must be one (height, "
            "width): resize the image to the depth map, or the depth map to the image."
        )
    if camera.shape not in ((4,), (1, 4)) or not (camera.isfinite().all() and (camera.flatten()[:2] > 0).all()):
        raise ValueError(
            f"intrinsics are {camera.tolist()}; they must be fx, fy, cx, cy in pixels of the depth map, finite, fx and fy "
            "above 0: see intrinsics_from_fov."
        )
    valid = valid_mask(values, None if mask is None else torch.tensor(np.asarray(mask, dtype=bool)))
    if edge_threshold is not None:
        valid = valid & ~_at_edge(values, valid, edge_threshold)
    points = unproject(values[None], camera.reshape(1, 4))[0][valid].numpy()
    return points, None if image is None else np.asarray(image.convert("RGB"))[valid.numpy()]


def _at_edge(depth: torch.Tensor, valid: torch.Tensor, threshold: float) -> torch.Tensor:
    """Mark the pixels whose valid 3 x 3 surroundings vary by more than a share of their own depth: `(height, width)`."""
    if not threshold > 0:
        raise ValueError(f"edge_threshold is {threshold}; it must be above 0: 0.05 drops jumps of 5 % of the depth.")
    farthest, nearest = (
        F.max_pool2d(torch.where(valid, sign * depth, -torch.inf)[None, None], 3, stride=1, padding=1)[0, 0]
        for sign in (1, -1)
    )
    return valid & (farthest + nearest > threshold * depth)


def depth_for_viewing(disparity: np.ndarray, near: float = 1.0, far: float = 10.0) -> np.ndarray:
    """Turn relative disparity into a depth to LOOK at: the true depth cannot be had from it.

    Relative disparity is `a / depth + b` with `a` and `b` unknown. No scale undoes a wrong `b`: planes stay planes, near
    stays before far, but angles, parallels, distances and ratios in a cloud made from this are wrong (it is the scene
    after a projective map). For measuring, take a metric model.

    The largest disparity is put at `near`, the smallest at `far`, and `1 / depth` runs linearly between them.

    Args:
        disparity (`np.ndarray`): `(height, width)`, larger = nearer; not finite = no value.
        near (`float`): Depth given to the nearest pixel, above 0.
        far (`float`): Depth given to the farthest pixel, above `near`.

    Returns:
        `np.ndarray`: `(height, width)` float32; nan where there is no value; `near` everywhere for a constant map.

    Raises:
        ValueError: Not 0 < near < far.

    Source: DepthAnything/Depth-Anything#72: scale and shift are unknown, ratios mean nothing.

    Example:
        >>> depth_for_viewing(np.array([[3.0, 2.0, 1.0]]), near=1, far=4).tolist()
        [[1.0, 1.600000023841858, 4.0]]
    """
    if not 0 < near < far < math.inf:
        raise ValueError(f"near is {near:g} and far {far:g}; they must be 0 < near < far: the depths to show.")
    disparity = np.asarray(disparity, dtype=np.float64)
    finite = np.isfinite(disparity)
    high, low = disparity.max(where=finite, initial=-np.inf), disparity.min(where=finite, initial=np.inf)
    place = (high - disparity) / (high - low) if high > low else np.zeros(disparity.shape)  # 0 near, 1 far
    depth = np.full(disparity.shape, np.nan, dtype=np.float32)
    depth[finite] = 1 / (1 / near + place[finite] * (1 / far - 1 / near))
    return depth


def save_ply(path: str | os.PathLike, points: np.ndarray, colors: np.ndarray | None = None) -> Path:
    """Write points as a binary little-endian PLY file, with the axes that they have (x right, y down, z forward).

    Args:
        path (`str` or `os.PathLike`): File; folders are made, an old file is replaced.
        points (`np.ndarray`): `(n, 3)`: `x`, `y`, `z`, written as float32.
        colors (`np.ndarray`, *optional*): `(n, 3)` uint8: `red`, `green`, `blue`.

    Raises:
        ValueError: Shapes or types that do not fit.

    Example:
        >>> import tempfile
        >>> save_ply(tempfile.mkdtemp() + "/a.ply", np.zeros((1, 3))).read_bytes().split()[2]
        b'binary_little_endian'
    """
    _check(points, colors)
    fields = [(name, "<f4") for name in "xyz"]
    fields += [] if colors is None else [(name, "u1") for name in ("red", "green", "blue")]
    vertices = np.empty(len(points), dtype=fields)
    columns = [*points.T, *([] if colors is None else colors.T)]
    for (name, _), values in zip(fields, columns, strict=True):
        vertices[name] = values
    properties = [f"property {'float' if kind == '<f4' else 'uchar'} {name}" for name, kind in fields]
    header = ["ply", "format binary_little_endian 1.0", f"element vertex {len(points)}", *properties, "end_header"]
    file = _prepare(path)
    with replacing(file, flush=False) as partial, partial.open("wb") as stream:
        stream.write(("\n".join(header) + "\n").encode("ascii"))
        vertices.tofile(stream)
    return file


def save_glb(path: str | os.PathLike, points: np.ndarray, colors: np.ndarray | None = None) -> Path:
    """Write points of a camera's frame as a GLB file, turned to glTF's axes (x right, y up, z backward).

    The arguments are those of `save_ply`, with at least one point.

    Raises:
        ImportError: trimesh is not installed.
        ValueError: Shapes or types that do not fit, or no point: glTF knows no empty cloud.
    """
    trimesh = import_trimesh()
    _check(points, colors)
    if len(points) == 0:
        raise ValueError("there is no point, and glTF has no empty cloud; check the depth map and the mask.")
    cloud = trimesh.PointCloud(np.asarray(points) * np.array([1, -1, -1], dtype=np.float32), colors)
    file = _prepare(path)
    write_whole(file, cloud.export(file_type="glb"))
    return file


def import_trimesh() -> ModuleType:
    """Import trimesh, which `save_glb` needs, or raise an `ImportError` that names the extra."""
    try:
        import trimesh
    except ImportError as error:
        raise ImportError(
            'GLB files need trimesh: pip install "depth_anything_hf[point-cloud]", or write PLY files.'
        ) from error
    return trimesh


def _check(points: np.ndarray, colors: np.ndarray | None) -> None:
    """Raise a `ValueError` unless there are n points and n colors."""
    shape = np.shape(points)
    fits = colors is None or (np.shape(colors) == shape and np.asarray(colors).dtype == np.uint8)
    if len(shape) != 2 or shape[1] != 3 or not fits:
        given = "none" if colors is None else f"{np.asarray(colors).dtype} of shape {np.shape(colors)}"
        raise ValueError(
            f"points have shape {shape}, colors are {given}; needed: (n, 3), and uint8 (n, 3) or None, as "
            "point_cloud returns them."
        )


def _prepare(path: str | os.PathLike) -> Path:
    """Make the folder of a file."""
    file = Path(path).expanduser()
    file.parent.mkdir(parents=True, exist_ok=True)
    return file
