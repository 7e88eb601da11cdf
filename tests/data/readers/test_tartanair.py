import numpy as np
import pytest
import torch
from PIL import Image

from depth_anything_hf.data.readers.tartanair import read_tartanair
from depth_anything_hf.maps.geometry import label_from_map

DEPTH = np.array([[2.5, 0.0, 10000.0, 999.0], [np.nan, np.inf, 1000.0, 0.1]], np.float32)


def save_v1(root, environment, frame, save_photo, side="left", depth=DEPTH, difficulty="Easy"):
    folder, stem = root / environment / difficulty / "P000", f"{frame:06d}_{side}"
    save_photo(folder / f"image_{side}" / f"{stem}.png", *depth.shape)
    (folder / f"depth_{side}").mkdir(exist_ok=True)
    np.save(folder / f"depth_{side}" / f"{stem}_depth.npy", depth)


def save_v2(root, environment, save_photo, camera="lcam_front", kind="Data_easy", depth=DEPTH):
    folder, stem = root / environment / kind / "P0000", f"000000_{camera}"
    save_photo(folder / f"image_{camera}" / f"{stem}.png", *depth.shape)
    (folder / f"depth_{camera}").mkdir(exist_ok=True)
    # the tools write the four bytes with OpenCV, which takes them for B, G, R and A
    blue, green, red, alpha = np.moveaxis(depth.astype("<f4")[..., None].view(np.uint8), -1, 0)
    image = Image.fromarray(np.stack([red, green, blue, alpha], axis=-1))
    image.save(folder / f"depth_{camera}" / f"{stem}_depth.png")


@pytest.fixture
def tartanair(tmp_path, save_photo):
    for environment, frame in (("abandonedfactory", 0), ("abandonedfactory", 1), ("ocean", 0)):
        for side in ("left", "right"):
            save_v1(tmp_path, environment, frame, save_photo, side)
    return tmp_path


def check(sample):
    assert sample.values.dtype == np.float32
    np.testing.assert_allclose(sample.values, [[2.5, 0, 0, 999.0], [0, 0, 0, 0.1]], rtol=1e-6)
    assert sample.mask.tolist() == [[True, False, False, True], [False, False, False, True]]
    assert sample.sky.tolist() == [[False, False, True, False], [False, False, True, False]]


def test_read_tartanair__reads_v1_and_its_sky(tartanair):
    samples = read_tartanair(tartanair)
    assert len(samples) == 3
    sample = samples[0]
    check(sample)
    assert (sample.space, sample.group) == ("depth", "abandonedfactory")
    assert sample.source == "abandonedfactory/Easy/P000/image_left/000000_left.png"
    assert sample.intrinsics == (2.0, 2.0, 2.0, 1.0)  # 90 degrees across: 320 for 640 columns


def test_read_tartanair__sky_is_disparity_0_for_relative_models_and_no_label_for_metric_ones(tartanair):
    sample = read_tartanair(tartanair)[0]
    values, mask, sky = map(torch.from_numpy, (sample.values, sample.mask, sample.sky))
    label, used = label_from_map(values, mask, sample.space, "relative", sky)
    assert label[used].tolist() == pytest.approx([0.4, 0.0, 1 / 999, 0.0, 10.0])
    _, used = label_from_map(values, mask, sample.space, "metric", sky)
    assert used.tolist() == sample.mask.tolist()


def test_read_tartanair__reads_v2_and_tartanground(tmp_path, save_photo):
    save_v2(tmp_path, "House", save_photo)
    save_v2(tmp_path, "House", save_photo, camera="rcam_back")
    save_v2(tmp_path, "Prison", save_photo, kind="Data_omni")
    samples = read_tartanair(tmp_path)
    assert [sample.group for sample in samples] == ["House", "Prison"]
    for sample in samples:
        check(sample)
    assert samples[0].source == "House/Data_easy/P0000/image_lcam_front/000000_lcam_front.png"
    (back,) = read_tartanair(tmp_path, cameras=["rcam_back"])
    assert back.source == "House/Data_easy/P0000/image_rcam_back/000000_rcam_back.png"


def test_read_tartanair__v2_that_is_not_packed_is_named(tmp_path, save_photo):
    save_v2(tmp_path, "House", save_photo)
    path = tmp_path / "House/Data_easy/P0000/depth_lcam_front/000000_lcam_front_depth.png"
    Image.new("L", (4, 2)).save(path)
    with pytest.raises(OSError, match=r"lcam_front_depth\.png cannot be read .*image mode 'L'"):
        read_tartanair(tmp_path)[0]


def test_read_tartanair__leaves_out_the_broken_environment(tartanair, save_photo):
    save_v1(tartanair, "amusement", 0, save_photo)
    save_v1(tartanair, "amusement", 1, save_photo, difficulty="Hard")
    samples = read_tartanair(tartanair)
    assert ({sample.group for sample in samples}, samples.left_out) == ({"abandonedfactory", "ocean"}, 2)
    assert len(read_tartanair(tartanair, environments=["amusement"])) == 2
    assert [sample.group for sample in read_tartanair(tartanair, environments=["ocean"])] == ["ocean"]
    with pytest.raises(FileNotFoundError, match=r"no sample of tartanair, all \(2 left out\)"):
        read_tartanair(tartanair / "amusement")


@pytest.mark.parametrize("above", ["abandonedfactory", "TartanAir/V1"])
def test_read_tartanair__finds_environments_below_and_is_one_itself(tartanair, above):
    (tartanair / "root" / above).mkdir(parents=True)
    (tartanair / "abandonedfactory").rename(tartanair / "root" / above / "abandonedfactory")
    for root in (tartanair / "root", tartanair / "root" / above / "abandonedfactory"):
        assert [sample.group for sample in read_tartanair(root)] == ["abandonedfactory"] * 2


def test_read_tartanair__cameras(tartanair):
    assert all("image_right" in sample.source for sample in read_tartanair(tartanair, cameras=["right"]))
    assert len(read_tartanair(tartanair, cameras=["left", "right"])) == 6
    with pytest.raises(ValueError, match="camera is 'front'; it must be one of"):
        read_tartanair(tartanair, cameras=["front"])


def test_read_tartanair__files(tartanair, check_files):
    folder = tartanair / "abandonedfactory/Easy/P000"
    check_files(
        read_tartanair(tartanair), [folder / "image_left/000001_left.png", folder / "depth_left/000001_left_depth.npy"]
    )
