import math
import struct
import sys

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image

from depth_anything_hf.data.codes import upright_rgb
from depth_anything_hf.pictures.point_cloud import (
    depth_for_viewing,
    intrinsics_from_exif,
    intrinsics_from_fov,
    point_cloud,
    save_glb,
    save_ply,
)
from depth_anything_hf.scenes.simple import iter_synthetic_records

POINTS = np.array([[0.5, -1.0, 2.0], [1.0, 2.0, 3.0], [0.0, 0.25, 8.0]], dtype=np.float32)
COLORS = np.array([[255, 0, 1], [0, 10, 20], [7, 8, 9]], dtype=np.uint8)


def test_intrinsics_from_fov__literals():
    assert intrinsics_from_fov(60, 80, 90.0).tolist() == [[40.0, 40.0, 40.0, 30.0]]
    # 60 degrees: half the width is tan(30) = 1 / sqrt(3) of the focal length
    torch.testing.assert_close(intrinsics_from_fov(4, 2, 60.0), torch.tensor([[math.sqrt(3), math.sqrt(3), 1.0, 2.0]]))


def test_intrinsics_from_fov__grow_with_the_image():
    torch.testing.assert_close(intrinsics_from_fov(120, 160, 65.0), 2 * intrinsics_from_fov(60, 80, 65.0))


@pytest.mark.parametrize("fov", [0.0, -10.0, 180.0, float("nan")])
def test_intrinsics_from_fov__out_of_range(fov):
    with pytest.raises(ValueError, match=rf"fov is {fov}; the horizontal field of view lies between 0 and 180"):
        intrinsics_from_fov(60, 80, fov)


def with_focal_length(image, millimetres, tmp_path):
    exif = Image.Exif()
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.FocalLengthIn35mmFilm] = millimetres
    image.save(tmp_path / "photo.jpg", exif=exif)
    return Image.open(tmp_path / "photo.jpg")


def test_intrinsics_from_exif__a_photograph_of_the_films_shape_has_the_films_geometry(tmp_path):
    # 36 mm across 360 pixels: 10 pixels a millimetre
    photo = with_focal_length(Image.new("RGB", (360, 240)), 28, tmp_path)
    torch.testing.assert_close(intrinsics_from_exif(photo), torch.tensor([[280.0, 280.0, 180.0, 120.0]]))


def test_intrinsics_from_exif__another_shape_has_the_diagonal_of_the_film(tmp_path):
    # 3-4-5: the diagonal of 400 x 300 is 500 pixels, the film's sqrt(36^2 + 24^2) = 43.2666 mm
    photo = with_focal_length(Image.new("RGB", (300, 400)), 26, tmp_path)
    torch.testing.assert_close(
        intrinsics_from_exif(photo), torch.tensor([[26 * 500 / 43.26661531, 26 * 500 / 43.26661531, 150.0, 200.0]])
    )


def test_intrinsics_from_exif__of_the_upright_image(tmp_path):
    turned = with_focal_length(Image.new("RGB", (360, 240)), 28, tmp_path)
    exif = turned.getexif()
    exif[ExifTags.Base.Orientation] = 6
    turned.save(tmp_path / "turned.jpg", exif=exif)
    turned = Image.open(tmp_path / "turned.jpg")
    for image in (turned, upright_rgb(turned)):
        torch.testing.assert_close(intrinsics_from_exif(image), torch.tensor([[280.0, 280.0, 120.0, 180.0]]))


def test_intrinsics_from_exif__unknown(tmp_path):
    assert intrinsics_from_exif(Image.new("RGB", (4, 3))) is None
    assert intrinsics_from_exif(with_focal_length(Image.new("RGB", (4, 3)), 0, tmp_path)) is None


def test_point_cloud__plane_at_a_known_distance():
    # 90 degrees: at 2 m the view is 4 m wide, so the centres of 4 pixels lie at -1.5, -0.5, 0.5 and 1.5 m
    points, colors = point_cloud(np.full((2, 4), 2.0), intrinsics_from_fov(2, 4, 90.0))
    row = [-1.5, -0.5, 0.5, 1.5]
    assert points.tolist() == [[x, y, 2.0] for y in (-0.5, 0.5) for x in row]
    assert points.dtype == np.float32
    assert colors is None


def test_point_cloud__points_and_colors_belong_together():
    depth = np.array([[1.0, 2.0], [4.0, 8.0]])
    image = Image.fromarray(np.arange(12, dtype=np.uint8).reshape(2, 2, 3))
    points, colors = point_cloud(depth, [1.0, 1.0, 0.5, 0.5], image, mask=np.array([[True, False], [True, True]]))
    assert points.tolist() == [[0.0, 0.0, 1.0], [0.0, 4.0, 4.0], [8.0, 8.0, 8.0]]
    assert colors.tolist() == [[0, 1, 2], [6, 7, 8], [9, 10, 11]]


@pytest.mark.parametrize("hole", [np.nan, np.inf, -np.inf, 0.0, -1.0])
def test_point_cloud__no_depth_no_point(hole):
    points, _ = point_cloud(np.array([[3.0, hole]]), (1.0, 1.0, 0.5, 0.5))
    assert points.tolist() == [[0.0, 0.0, 3.0]]


def test_point_cloud__resized_depth_shows_the_same_surface():
    # A plane that recedes to the right: z = 2 + x, so depth at u is 2 / (1 - (u - cx) / fx)
    clouds = []
    for size in (40, 80):
        fx, _, cx, _ = camera = intrinsics_from_fov(size, size, 60.0)[0].tolist()
        u = (np.arange(size) + 0.5 - cx) / fx
        points, _ = point_cloud(np.tile(2 / (1 - u), (size, 1)), camera)
        clouds.append(points)
    for points in clouds:
        np.testing.assert_allclose(points[:, 2], 2 + points[:, 0], rtol=1e-5)
    # four small pixels meet in the middle of a large one
    np.testing.assert_allclose(clouds[0].mean(axis=0), clouds[1].mean(axis=0), rtol=0.01, atol=1e-5)


def test_point_cloud__edge_threshold_drops_what_flies_between_two_walls():
    depth = np.full((5, 9), 2.0)
    depth[:, 5:], depth[:, 4] = 4.0, 3.0  # column 4 hangs in the air
    camera = intrinsics_from_fov(5, 9, 60.0)
    everything, _ = point_cloud(depth, camera)
    kept, _ = point_cloud(depth, camera, edge_threshold=0.05)
    assert {2.0, 3.0, 4.0} == set(everything[:, 2].tolist())
    # The columns that touch another depth go: 3, 4 and 5.
    assert len(kept) == 5 * 6
    assert set(kept[:, 2].tolist()) == {2.0, 4.0}


def test_point_cloud__edge_threshold_is_a_share_of_the_depth_and_sees_no_holes():
    slope = np.array([[1.0, 1.04, 10.0, 10.04]])  # steps of 4 % and 0.4 % around a jump
    points, _ = point_cloud(slope, (1.0, 1.0, 0.0, 0.5), edge_threshold=0.03)
    assert points[:, 2].tolist() == [np.float32(10.04)]
    points, _ = point_cloud(slope, (1.0, 1.0, 0.0, 0.5), edge_threshold=0.05)
    assert points[:, 2].tolist() == [np.float32(1.0), np.float32(10.04)]
    for hole in (np.nan, 0.0):
        depth = np.array([[2.0, hole, 2.0]])
        assert len(point_cloud(depth, (1.0, 1.0, 0.0, 0.5), edge_threshold=0.01)[0]) == 2


def test_point_cloud__of_a_rendered_scene_projects_back_to_its_pixels():
    scene = next(iter_synthetic_records(1, 48, 64))
    depth = np.asarray(scene["depth"])
    points, colors = point_cloud(depth, scene["intrinsics"], scene["image"])
    fx, fy, cx, cy = scene["intrinsics"]
    rows, columns = np.nonzero(depth > 0)
    np.testing.assert_allclose(points[:, 0] / points[:, 2] * fx + cx, columns + 0.5, atol=1e-3)
    np.testing.assert_allclose(points[:, 1] / points[:, 2] * fy + cy, rows + 0.5, atol=1e-3)
    np.testing.assert_array_equal(colors, np.asarray(scene["image"])[rows, columns])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"depth": np.ones((1, 2, 2))}, r"depth has shape \(1, 2, 2\)"),
        ({"image": Image.new("RGB", (3, 2))}, r"image \(2, 3\); all must be one"),
        ({"mask": np.ones((3, 2), dtype=bool)}, r"mask \(3, 2\); all must be one"),
        ({"intrinsics": [1.0, 2.0, 3.0]}, r"intrinsics are \[1.0, 2.0, 3.0\]"),
        ({"intrinsics": [-1.0, 1.0, 0.0, 0.0]}, "fx and fy above 0"),
        ({"edge_threshold": 0.0}, "edge_threshold is 0.0; it must be above 0"),
    ],
)
def test_point_cloud__refuses_what_does_not_fit(arguments, message):
    with pytest.raises(ValueError, match=message):
        point_cloud(**{"depth": np.ones((2, 2)), "intrinsics": [1.0, 1.0, 1.0, 1.0]} | arguments)


def test_depth_for_viewing__literal_and_order():
    # 1 / depth from 1 to 1/4 in two equal steps: 1, 5/8, 1/4
    assert depth_for_viewing(np.array([[3.0, 2.0, 1.0, np.nan]]), 1, 4)[0, :3].tolist() == [1.0, np.float32(1.6), 4.0]
    disparity = np.random.default_rng(0).random((8, 8))
    depth = depth_for_viewing(disparity)
    assert depth.min() == 1.0
    assert depth.max() == pytest.approx(10.0)
    np.testing.assert_array_equal(np.argsort(depth, axis=None), np.argsort(-disparity, axis=None))


def test_depth_for_viewing__is_blind_to_scale_and_shift():
    disparity = np.random.default_rng(0).random((8, 8))
    np.testing.assert_allclose(depth_for_viewing(7 * disparity + 3), depth_for_viewing(disparity), rtol=1e-6)


def test_depth_for_viewing__keeps_planes_and_loses_angles():
    # Two walls of a room, z = 4 + x and z = 4 - x, meet at a right angle. Their cloud still has two walls.
    camera = intrinsics_from_fov(40, 40, 60.0)
    slope = (np.arange(40) + 0.5 - 20) / camera[0, 0].item()
    depth = np.tile(4 / (1 + np.abs(slope)), (40, 1))
    normals = []
    for half in (slice(0, 20), slice(20, 40)):
        points, _ = point_cloud(depth_for_viewing(1 / depth, near=1, far=2), camera)
        wall = points.reshape(40, 40, 3)[:, half].reshape(-1, 3).astype(np.float64)
        _, spread, axes = np.linalg.svd(wall - wall.mean(axis=0), full_matrices=False)
        assert spread[2] < 1e-5 * spread[1]  # flat
        normals.append(axes[2])
    assert abs(normals[0] @ normals[1]) > 0.2  # and no longer at a right angle


def test_depth_for_viewing__holes_and_constants():
    assert np.isnan(depth_for_viewing(np.array([[np.inf, 1.0, np.nan]]))).tolist() == [[True, False, True]]
    assert depth_for_viewing(np.full((1, 2), 5.0), near=2.0).tolist() == [[2.0, 2.0]]
    assert np.isnan(depth_for_viewing(np.full((1, 2), np.nan))).all()


@pytest.mark.parametrize(("near", "far"), [(0.0, 1.0), (2.0, 2.0), (3.0, 1.0), (1.0, np.inf), (np.nan, 1.0)])
def test_depth_for_viewing__needs_near_before_far(near, far):
    with pytest.raises(ValueError, match="they must be 0 < near < far"):
        depth_for_viewing(np.ones((2, 2)), near, far)


def test_save_ply__byte_for_byte(tmp_path):
    header, body = save_ply(tmp_path / "deep" / "a.ply", POINTS, COLORS).read_bytes().split(b"end_header\n")
    assert header.decode().splitlines() == [
        "ply",
        "format binary_little_endian 1.0",
        "element vertex 3",
        *(f"property float {name}" for name in "xyz"),
        *(f"property uchar {name}" for name in ("red", "green", "blue")),
    ]
    assert body == b"".join(
        struct.pack("<fffBBB", *point, *color) for point, color in zip(POINTS.tolist(), COLORS.tolist(), strict=True)
    )


def test_save_ply__trimesh_reads_it(tmp_path):
    trimesh = pytest.importorskip("trimesh")
    cloud = trimesh.load(save_ply(tmp_path / "a.ply", POINTS, COLORS))
    np.testing.assert_array_equal(cloud.vertices, POINTS)
    np.testing.assert_array_equal(cloud.colors[:, :3], COLORS)
    bare = trimesh.load(save_ply(tmp_path / "b.ply", POINTS))
    np.testing.assert_array_equal(bare.vertices, POINTS)


def test_save_ply__no_point_is_a_cloud_too(tmp_path):
    file = save_ply(tmp_path / "a.ply", np.empty((0, 3)), np.empty((0, 3), np.uint8))
    assert b"element vertex 0\n" in file.read_bytes()


def test_save_glb__trimesh_reads_it_with_gltf_axes(tmp_path):
    trimesh = pytest.importorskip("trimesh")
    (cloud,) = trimesh.load(save_glb(tmp_path / "deep" / "a.glb", POINTS, COLORS)).geometry.values()
    assert cloud.vertices.tolist() == [[0.5, 1.0, -2.0], [1.0, -2.0, -3.0], [0.0, -0.25, -8.0]]
    np.testing.assert_array_equal(cloud.colors[:, :3], COLORS)
    assert (tmp_path / "deep" / "a.glb").read_bytes()[:4] == b"glTF"
    (bare,) = trimesh.load(save_glb(tmp_path / "b.glb", POINTS)).geometry.values()
    assert len(bare.vertices) == 3


def test_save_glb__no_point(tmp_path):
    pytest.importorskip("trimesh")
    with pytest.raises(ValueError, match="there is no point"):
        save_glb(tmp_path / "a.glb", np.empty((0, 3)))


def test_save_glb__says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "trimesh", None)
    with pytest.raises(ImportError, match=r'pip install "depth_anything_hf\[point-cloud\]"'):
        save_glb(tmp_path / "a.glb", POINTS)


@pytest.mark.parametrize("save", [save_ply, save_glb])
@pytest.mark.parametrize(
    ("points", "colors"),
    [(POINTS[:, :2], None), (POINTS, COLORS[:2]), (POINTS, COLORS / 255), (POINTS[None], None)],
)
def test_save__refuses_what_does_not_fit(save, points, colors, tmp_path):
    pytest.importorskip("trimesh")
    with pytest.raises(ValueError, match=r"needed: \(n, 3\), and uint8 \(n, 3\) or None"):
        save(tmp_path / "a", points, colors)
