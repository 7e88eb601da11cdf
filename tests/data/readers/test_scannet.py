import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from depth_anything_hf.data.readers.scannet import read_scannet

COLOR = "1170.187988 0 647.75 0\n0 1170.187988 483.75 0\n0 0 1 0\n0 0 0 1\n"
DEPTH = "577.870605 0 319.5 0\n0 577.870605 239.5 0\n0 0 1 0\n0 0 0 1\n"
CODES = np.array([[1234, 0, 65535, 2000], [1, 500, 500, 500], [7, 7, 7, 7]], dtype=np.uint16)  # of 3 x 4 pixels


def jpeg(height, width, red):
    file = io.BytesIO()
    Image.new("RGB", (width, height), (red, 0, 0)).save(file, "JPEG", quality=100)
    return file.getvalue()


def save_frames(scene, numbers, save_photo, save_codes, intrinsics="intrinsic/intrinsic_{}.txt", image_size=(18, 24)):
    for number in numbers:
        save_photo(scene / "color" / f"{number}.jpg", *image_size, red=10 * int(number))
        save_codes(scene / "depth" / f"{number}.png", CODES.tolist())
    for camera, text in (("color", COLOR), ("depth", DEPTH)):
        path = scene / intrinsics.format(camera)
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    return scene


def save_sens(path, frames, depth_coding=1, version=4, color_coding=2, depth_shift=1000.0):
    """Pack the file as SensorData.py of ScanNet reads it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unit = struct.pack("<16f", *np.eye(4).ravel())
    name = b"StructureSensor"
    matrices = [struct.pack("<16f", *map(float, text.split())) for text in (COLOR, DEPTH)]
    content = struct.pack("<IQ", version, len(name)) + name + matrices[0] + unit + matrices[1] + unit
    content += struct.pack("<ii", color_coding, depth_coding) + struct.pack("<4I", 24, 18, 4, 3)
    content += struct.pack("<f", depth_shift) + struct.pack("<Q", len(frames))
    for index, codes in enumerate(frames):
        photograph, compressed = jpeg(18, 24, 10 * index), zlib.compress(codes.tobytes())
        pose = np.full(16, -np.inf)  # tracking was lost
        content += struct.pack("<16f", *pose) + struct.pack("<4Q", 1, 2, len(photograph), len(compressed))
        content += photograph + compressed
    path.write_bytes(content + b"imu data follows")
    return path


@pytest.fixture
def exported(tmp_path, save_photo, save_codes):
    save_frames(tmp_path / "scans" / "scene0000_00", ("0", "2", "10"), save_photo, save_codes)
    save_frames(tmp_path / "scans" / "scene0000_01", ("0",), save_photo, save_codes)
    return tmp_path


@pytest.fixture
def sens(tmp_path):
    save_sens(tmp_path / "scene0706_00" / "scene0706_00.sens", [CODES, CODES + 1, CODES[::-1].copy()])
    return tmp_path


def test_read_scannet__map_and_photograph_keep_their_own_pixels(exported):
    sample = read_scannet(exported)[0]
    assert (sample.values.shape, sample.image.size) == ((3, 4), (24, 18))
    assert sample.values.ravel()[:5] == pytest.approx([1.234, 0, 65.535, 2.0, 0.001], rel=1e-6)
    assert sample.mask.sum() == 11
    assert (sample.source, sample.group) == ("scans/scene0000_00/color/0.jpg", "scene0000")
    # the photograph's own matrix, with its first pixel's centre at 0
    assert sample.intrinsics == pytest.approx((1170.187988, 1170.187988, 648.25, 484.25))


def test_read_scannet__frames_are_in_order_of_time(exported):
    assert [sample.image.getpixel((0, 0))[0] for sample in read_scannet(exported)] == [0, 20, 100, 0]


def test_read_scannet__photographs_at_the_maps_size_have_the_depth_cameras_numbers(tmp_path, save_photo, save_codes):
    save_frames(tmp_path / "scene0000_00", ("0",), save_photo, save_codes, image_size=(3, 4))
    assert read_scannet(tmp_path)[0].intrinsics == pytest.approx((577.870605, 577.870605, 320.0, 240.0))


def test_read_scannet__reads_the_list_of_25k_frames(tmp_path, save_photo, save_codes):
    save_frames(tmp_path / "scene0000_00", ("000000", "000100"), save_photo, save_codes, "intrinsics_{}.txt")
    samples = read_scannet(tmp_path)
    assert [sample.source for sample in samples] == [f"scene0000_00/color/{n}.jpg" for n in ("000000", "000100")]
    assert samples[1].intrinsics == pytest.approx((1170.187988, 1170.187988, 648.25, 484.25))


def test_read_scannet__follows_a_list_of_scenes_and_counts_what_is_left_out(exported, tmp_path):
    (tmp_path / "scannetv2_val.txt").write_text("scene0000_01\nscene0011_00\n")
    samples = read_scannet(exported, split_file=tmp_path / "scannetv2_val.txt")
    assert (len(samples), samples.left_out, samples.split) == (1, 1, "scannetv2_val")
    (exported / "scans/scene0000_00/color/2.jpg").unlink()
    assert (len(read_scannet(exported)), read_scannet(exported).left_out) == (3, 1)
    with pytest.raises(FileNotFoundError, match=r"none\.txt is missing\. Expected: a text file"):
        read_scannet(exported, split_file=tmp_path / "none.txt")


def test_read_scannet__reads_sens_files(sens):
    samples = read_scannet(sens)
    assert len(samples) == 3
    assert [sample.image.getpixel((0, 0))[0] for sample in samples] == [0, 10, 20]
    assert samples[1].values[0] == pytest.approx([1.235, 0.001, 0, 2.001], rel=1e-6)  # 65535 + 1 is 0
    assert samples[2].values[2] == pytest.approx([1.234, 0, 65.535, 2.0], rel=1e-6)
    assert (samples[0].values.shape, samples[0].image.size) == ((3, 4), (24, 18))
    assert samples[0].intrinsics == pytest.approx((1170.187988, 1170.187988, 648.25, 484.25))
    assert (samples[2].source, samples[2].group) == ("scene0706_00/scene0706_00.sens#2", "scene0706")


def test_read_scannet__follows_the_depth_shift(tmp_path):
    save_sens(tmp_path / "scene0706_00" / "scene0706_00.sens", [CODES], depth_shift=4000.0)
    assert read_scannet(tmp_path)[0].values[0, 3] == 0.5


def test_read_scannet__prefers_exported_frames(tmp_path, save_photo, save_codes):
    scene = save_frames(tmp_path / "scene0000_00", ("5",), save_photo, save_codes)
    save_sens(scene / "scene0000_00.sens", [CODES] * 3)
    assert [sample.source for sample in read_scannet(tmp_path)] == ["scene0000_00/color/5.jpg"]


def test_read_scannet__files(exported, check_files):
    scene = exported / "scans/scene0000_00"
    check_files(read_scannet(exported), [scene / "color/2.jpg", scene / "depth/2.png"], own_pixels=True)
    for text in scene.glob("intrinsic/*.txt"):
        text.unlink()
    assert read_scannet(exported)[0].intrinsics is None


def test_read_scannet__names_a_cut_sens_file(sens):
    path = sens / "scene0706_00" / "scene0706_00.sens"
    samples = read_scannet(sens)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    assert samples[0].values.shape == (3, 4)
    with pytest.raises(OSError, match=r"scene0706_00\.sens cannot be read"):
        samples[2]
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"scene0706_00\.sens is missing\. Expected: .*http"):
        samples[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"version": 3}, "version is 3"),
        ({"depth_coding": 2}, "coded as 2 and 2"),
        ({"color_coding": 0}, "coded as 0 and 1"),
    ],
)
def test_read_scannet__refuses_another_form_of_sens_file(tmp_path, options, message):
    save_sens(tmp_path / "scene0706_00" / "scene0706_00.sens", [CODES], **options)
    with pytest.raises(OSError, match=rf"scene0706_00\.sens cannot be read \(ValueError: {message}"):
        read_scannet(tmp_path)


def test_read_scannet__refuses_a_map_of_another_aspect(exported, save_photo):
    save_photo(exported / "scans/scene0000_00/color/0.jpg", 24, 18)
    with pytest.raises(ValueError, match=r"color/0\.jpg: the depth map has shape \(3, 4\), the image \(24, 18\)"):
        read_scannet(exported)[0]
