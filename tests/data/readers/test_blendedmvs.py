import numpy as np
import pytest
import torch
from PIL import Image

from depth_anything_hf.data.readers.blendedmvs import read_blendedmvs
from depth_anything_hf.maps.geometry import label_from_map

SCENES = ("57f8d9bbe73f6760f10e916a", "5a3ca9cb270f0e3f14d0eddb")
CAMERA = """extrinsic
0.9 0.1 0.2 1.5
0.1 0.9 0.3 2.5
0.2 0.3 0.9 3.5
0.0 0.0 0.0 1.0

intrinsic
570.5 0.0 2.0
0.0 571.5 1.0
0.0 0.0 1.0

-0.5 0.01 128 24.5
"""


def save_map(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(values, np.float32)).save(path, format="PPM")  # Pillow writes float images as PFM


@pytest.fixture
def blendedmvs(tmp_path, save_photo):
    for scene, frame in ((SCENES[0], 0), (SCENES[0], 3), (SCENES[1], 1)):
        folder, name = tmp_path / scene, f"{frame:08d}"
        save_photo(folder / "blended_images" / f"{name}.jpg", 2, 3)
        save_photo(folder / "blended_images" / f"{name}_masked.jpg", 2, 3, red=0)
        save_map(folder / "rendered_depth_maps" / f"{name}.pfm", [[0.5, 4.0, 0.0], [8.0, -1.0, 200.0 + frame]])
        (folder / "cams").mkdir(exist_ok=True)
        (folder / "cams" / f"{name}_cam.txt").write_text(CAMERA)
        (folder / "cams" / "pair.txt").write_text("1\n0\n")
    return tmp_path


def test_read_blendedmvs__labels_are_inverse_depth_as_its_unit_is_unknown(blendedmvs):
    samples = read_blendedmvs(blendedmvs)
    assert len(samples) == 3  # the masked images are no samples
    sample = samples[0]
    assert sample.space == "disparity"
    np.testing.assert_allclose(sample.values, [[2.0, 0.25, 0.0], [0.125, 0.0, 0.005]], rtol=1e-6)
    assert sample.mask.tolist() == [[True, True, False], [True, False, True]]  # zero regions have no label
    assert (sample.sky, sample.group) == (None, SCENES[0])
    assert sample.source == f"{SCENES[0]}/blended_images/00000000.jpg"
    assert sample.image.getpixel((0, 0))[0] > 0
    assert sample.intrinsics == (570.5, 571.5, 2.0, 1.0)
    with pytest.raises(ValueError, match="metric"):
        label_from_map(torch.from_numpy(sample.values), torch.from_numpy(sample.mask), sample.space, "metric")


def test_read_blendedmvs__the_scale_of_the_header_is_not_used(blendedmvs):
    path = blendedmvs / SCENES[0] / "rendered_depth_maps" / "00000000.pfm"
    path.write_bytes(b"Pf\n3 2\n-0.003922\n" + np.array([8, 8, 8, 2, 2, 2], "<f4").tobytes())
    assert read_blendedmvs(blendedmvs)[0].values.tolist() == [[0.5] * 3, [0.125] * 3]


def test_read_blendedmvs__names_a_map_that_is_a_picture(blendedmvs):
    path = blendedmvs / SCENES[0] / "rendered_depth_maps" / "00000000.pfm"
    path.write_bytes(b"PF\n3 2\n-1\n" + np.arange(18, dtype="<f4").tobytes())
    with pytest.raises(ValueError, match=r"00000000\.pfm: a PFM file of three channels that differ"):
        read_blendedmvs(blendedmvs)[0]


def test_read_blendedmvs__a_wholly_empty_map_has_no_label(blendedmvs):
    save_map(blendedmvs / SCENES[0] / "rendered_depth_maps" / "00000000.pfm", np.zeros((2, 3)))
    assert not read_blendedmvs(blendedmvs)[0].mask.any()


@pytest.mark.parametrize("above", ["BlendedMVS", "BlendedMVS++/dataset", "one/two/three"])
def test_read_blendedmvs__finds_the_scenes_below_other_folders(blendedmvs, above):
    scene = blendedmvs / SCENES[1]
    (blendedmvs / "root" / above).mkdir(parents=True)
    scene.rename(blendedmvs / "root" / above / SCENES[1])
    (sample,) = read_blendedmvs(blendedmvs / "root")
    assert (sample.group, sample.source) == (SCENES[1], f"{above}/{SCENES[1]}/blended_images/00000001.jpg")
    (sample,) = read_blendedmvs(blendedmvs / "root" / above / SCENES[1])
    assert sample.group == SCENES[1]


def test_read_blendedmvs__follows_a_list_of_scenes(blendedmvs):
    (blendedmvs / "validation_list.txt").write_text(f"{SCENES[1]}\n5b558a928bbfb62204e77ba2\n")
    samples = read_blendedmvs(blendedmvs, scene_list=blendedmvs / "validation_list.txt")
    assert [sample.group for sample in samples] == [SCENES[1]]
    with pytest.raises(FileNotFoundError, match=r"gone\.txt"):
        read_blendedmvs(blendedmvs, scene_list=blendedmvs / "gone.txt")


def test_read_blendedmvs__works_without_cameras_and_names_a_broken_one(blendedmvs):
    camera = blendedmvs / SCENES[0] / "cams" / "00000000_cam.txt"
    camera.write_text("extrinsic\n1 0 0\n")
    with pytest.raises(OSError, match=r"00000000_cam\.txt cannot be read"):
        read_blendedmvs(blendedmvs)[0]
    camera.unlink()
    assert read_blendedmvs(blendedmvs)[0].intrinsics is None


def test_read_blendedmvs__files(blendedmvs, check_files):
    folder = blendedmvs / SCENES[0]
    files = [folder / "blended_images" / "00000003.jpg", folder / "rendered_depth_maps" / "00000003.pfm"]
    check_files(read_blendedmvs(blendedmvs), files, space="disparity")
