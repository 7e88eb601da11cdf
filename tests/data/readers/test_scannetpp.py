import json

import pytest

from depth_anything_hf.data.readers.scannetpp import read_scannetpp

CODES = [[1500, 0, 250, 65535], [1, 2, 3, 4], [5, 6, 7, 8]]


@pytest.fixture
def scannetpp(tmp_path, save_photo, save_codes):
    for scene in ("0a5c013435", "7b6477cb95"):
        phone, dslr = (tmp_path / "data" / scene / camera for camera in ("iphone", "dslr"))
        for frame in ("frame_000000", "frame_000010"):
            save_photo(phone / "rgb" / f"{frame}.jpg", 12, 16)
            save_codes(phone / "depth" / f"{frame}.png", CODES)
            save_codes(phone / "render_depth" / f"{frame}.png", [[2000] * 16] * 12)
        save_codes(phone / "depth" / "frame_000001.png", CODES)  # the toolbox may extract only some photographs
        matrices = {
            f"frame_{index:06d}": {
                "intrinsic": [[1440.5 + index, 0, 959.5], [0, 1441.5, 719.5], [0, 0, 1]],
                "pose": [],
            }
            for index in (0, 1, 10)
        }
        (phone / "pose_intrinsic_imu.json").write_text(json.dumps(matrices))
        save_photo(dslr / "resized_images" / "DSC00001.JPG", 6, 9)
        save_codes(dslr / "render_depth" / "DSC00001.png", [[3000] * 9] * 6)
    (tmp_path / "splits").mkdir()
    (tmp_path / "splits" / "nvs_sem_val.txt").write_text("7b6477cb95\nnot_here\n")
    return tmp_path


def test_read_scannetpp__sensors_map_keeps_its_own_pixels(scannetpp):
    samples = read_scannetpp(scannetpp)
    assert (len(samples), samples.left_out, samples.split) == (4, 2, "all")
    sample = samples[1]
    assert (sample.values.shape, sample.image.size) == ((3, 4), (16, 12))
    assert sample.values[0] == pytest.approx([1.5, 0, 0.25, 65.535], rel=1e-6)
    assert sample.mask[0].tolist() == [True, False, True, True]
    assert (sample.source, sample.group) == ("data/0a5c013435/iphone/rgb/frame_000010.jpg", "0a5c013435")
    assert sample.intrinsics == (1450.5, 1441.5, 959.5, 719.5)  # each frame has its own


def test_read_scannetpp__rendered_maps(scannetpp):
    phone = read_scannetpp(scannetpp, labels="rendered")
    assert (len(phone), phone[0].values.shape, phone[0].values[0, 0]) == (4, (12, 16), 2.0)
    dslr = read_scannetpp(scannetpp, camera="dslr")
    assert (len(dslr), dslr[0].values.shape, dslr[0].values[0, 0], dslr[0].intrinsics) == (2, (6, 9), 3.0, None)
    assert dslr[0].source == "data/0a5c013435/dslr/resized_images/DSC00001.JPG"


def test_read_scannetpp__follows_the_splits(scannetpp):
    samples = read_scannetpp(scannetpp, split="nvs_sem_val")
    assert {sample.group for sample in samples} == {"7b6477cb95"}
    assert (len(samples), samples.left_out) == (2, 2)  # a scene, and a map without a photograph
    with pytest.raises(FileNotFoundError, match=r"nvs_test\.txt is missing\. Expected: .*scannetpp"):
        read_scannetpp(scannetpp, split="nvs_test")


def test_read_scannetpp__files(scannetpp, check_files):
    phone = scannetpp / "data/0a5c013435/iphone"
    check_files(
        read_scannetpp(scannetpp), [phone / "rgb/frame_000010.jpg", phone / "depth/frame_000010.png"], own_pixels=True
    )
    (phone / "pose_intrinsic_imu.json").unlink()
    assert read_scannetpp(scannetpp)[0].intrinsics is None
    (scannetpp / "data/7b6477cb95/iphone/pose_intrinsic_imu.json").write_text("{")
    with pytest.raises(OSError, match=r"pose_intrinsic_imu\.json cannot be read"):
        read_scannetpp(scannetpp)[2]


def test_read_scannetpp__errors(scannetpp):
    with pytest.raises(ValueError, match=r"camera is 'phone'; it must be one of \('iphone', 'dslr'\)"):
        read_scannetpp(scannetpp, camera="phone")
    with pytest.raises(ValueError, match=r"labels is 'sensor'; it must be one of \('rendered',\)"):
        read_scannetpp(scannetpp, camera="dslr", labels="sensor")
