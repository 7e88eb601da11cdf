import struct

import numpy as np
import pycolmap
import pytest
import torch

from depth_anything_hf.data.readers.colmap import read_array, read_colmap
from depth_anything_hf.maps.geometry import label_from_map

DEPTH = np.array([[2.0, 0.0, 4.0], [-1.0, 0.5, 8.0]], dtype="<f4")


def save_depth(path, depth):
    """Write a map as COLMAP itself does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pycolmap.DepthMap.from_array(depth.astype(np.float32), 0.0, 100.0).write(path)
    return path


@pytest.fixture
def dense(tmp_path, save_photo):
    """A workspace whose sparse model is written by COLMAP itself."""
    reconstruction = pycolmap.Reconstruction()
    models = (("PINHOLE", [500.0, 510.0, 3.25, 2.5]), ("SIMPLE_PINHOLE", [400.0, 3.0, 2.0]))
    for number, (model, parameters) in enumerate(models, start=1):
        camera = pycolmap.Camera(camera_id=number, model=model, width=6, height=4, params=parameters)
        reconstruction.add_camera_with_trivial_rig(camera)
    for number, name in enumerate(("a.jpg", "left/b.jpg", "left/c.d.png"), start=1):
        image = pycolmap.Image(name=name, image_id=number, camera_id=min(number, 2))
        image.points2D = pycolmap.Point2DList([pycolmap.Point2D(np.array([1.0, 2.0])) for _ in range(number)])
        reconstruction.add_image_with_trivial_frame(image, pycolmap.Rigid3d())
        save_photo(tmp_path / "images" / name, 4, 6)
        for kind, factor in (("geometric", 1), ("photometric", 2)):
            depth = np.kron(factor * DEPTH, np.ones((2, 2)))
            save_depth(tmp_path / "stereo" / "depth_maps" / f"{name}.{kind}.bin", depth)
    (tmp_path / "sparse").mkdir()
    reconstruction.write_binary(tmp_path / "sparse")
    return tmp_path


def test_read_array__is_what_colmap_itself_reads(dense):
    path = dense / "stereo/depth_maps/a.jpg.geometric.bin"
    assert path.read_bytes().startswith(b"6&4&1&")
    assert read_array(path).tolist() == np.kron(DEPTH, np.ones((2, 2))).tolist()
    again = pycolmap.DepthMap()
    again.read(path)
    assert np.array_equal(read_array(path), again.to_array())


def test_read_colmap__is_disparity_because_the_scale_is_unknown(dense):
    samples = read_colmap(dense)
    assert len(samples) == 3
    sample = samples[0]
    assert sample.space == "disparity"
    assert sample.values[::2, ::2].tolist() == [[0.5, 0, 0.25], [0, 2.0, 0.125]]
    assert sample.mask[::2, ::2].tolist() == [[True, False, True], [False, True, True]]
    with pytest.raises(ValueError, match="space is 'disparity' and the model is metric"):
        label_from_map(torch.from_numpy(sample.values), torch.from_numpy(sample.mask), sample.space, "metric")


def test_read_colmap__names_and_intrinsics(dense):
    samples = read_colmap(dense)
    assert [sample.source for sample in samples] == ["images/a.jpg", "images/left/b.jpg", "images/left/c.d.png"]
    # COLMAP counts from the image's corner, as this library
    assert samples[0].intrinsics == (500.0, 510.0, 3.25, 2.5)
    assert samples[1].intrinsics == samples[2].intrinsics == (400.0, 400.0, 3.0, 2.0)


def test_read_colmap__photometric_maps(dense):
    assert read_colmap(dense, labels="photometric")[0].values[0, 0] == 0.25


def test_read_colmap__percentiles_leave_out_outliers(dense):
    depth = np.arange(1.0, 25.0).reshape(4, 6)
    depth[0, 0], depth[-1, -1] = 1e-4, 1e6
    save_depth(dense / "stereo/depth_maps/a.jpg.geometric.bin", depth)
    assert read_colmap(dense)[0].mask.all()
    sample = read_colmap(dense, percentiles=(5, 95))[0]
    assert (sample.mask[0, 0], sample.mask[-1, -1], sample.mask.sum()) == (False, False, 20)


def test_read_colmap__a_map_that_stereo_made_smaller_keeps_its_own_pixels(dense):
    save_depth(dense / "stereo/depth_maps/a.jpg.geometric.bin", DEPTH)
    sample = read_colmap(dense)[0]
    assert (sample.values.shape, sample.image.size) == ((2, 3), (6, 4))
    save_depth(dense / "stereo/depth_maps/a.jpg.geometric.bin", np.ones((12, 3)))
    with pytest.raises(ValueError, match=r"images/a\.jpg: the depth map has shape \(12, 3\), the image \(4, 6\)"):
        read_colmap(dense)[0]


def test_read_colmap__files(dense, check_files):
    check_files(
        read_colmap(dense),
        [dense / "images/left/b.jpg", dense / "stereo/depth_maps/left/b.jpg.geometric.bin"],
        space="disparity",
    )


def test_read_colmap__works_without_a_sparse_model(dense):
    (dense / "sparse/images.bin").unlink()
    assert read_colmap(dense)[0].intrinsics is None


def test_read_colmap__names_a_broken_file(dense):
    path = dense / "stereo/depth_maps/a.jpg.geometric.bin"
    path.write_bytes(b"6&4&3&" + bytes(4 * 6 * 4 * 3))
    with pytest.raises(OSError, match=r"a\.jpg\.geometric\.bin cannot be read \(ValueError: it has 3 channels"):
        read_colmap(dense)[0]
    path.write_bytes(b"6&4&1&" + bytes(95))
    with pytest.raises(OSError, match=r"a\.jpg\.geometric\.bin cannot be read"):
        read_colmap(dense)[0]
    (dense / "sparse/images.bin").write_bytes(struct.pack("<Q", 9))
    with pytest.raises(OSError, match=r"images\.bin cannot be read"):
        read_colmap(dense)[1]


@pytest.mark.parametrize("percentiles", [(5, 5), (95, 5), (-1, 50), (0, 101)])
def test_read_colmap__errors(dense, percentiles):
    with pytest.raises(ValueError, match=r"percentiles is .*; needed: 0 <= low < high <= 100"):
        read_colmap(dense, percentiles=percentiles)


def test_read_colmap__unknown_labels(dense):
    with pytest.raises(ValueError, match=r"labels is 'fused'; it must be one of \('geometric', 'photometric'\)"):
        read_colmap(dense, labels="fused")
