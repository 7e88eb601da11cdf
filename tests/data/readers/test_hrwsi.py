import numpy as np
import pytest
from PIL import Image

from depth_anything_hf.data.readers.hrwsi import read_hrwsi


def save_gray(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.array(values, np.uint8)).save(path)


@pytest.fixture
def hrwsi(tmp_path, save_photo):
    for split, name in (("train", "a"), ("train", "b"), ("val", "c")):
        save_photo(tmp_path / split / "imgs" / f"{name}.jpg", 1, 4)
        save_gray(tmp_path / split / "gts" / f"{name}.png", [[0, 7, 255, 100]])
        save_gray(tmp_path / split / "valid_masks" / f"{name}.png", [[255, 1, 255, 0]])
    return tmp_path


def test_read_hrwsi__keeps_disparity_as_stored_inside_the_mask(hrwsi):
    sample = read_hrwsi(hrwsi)[0]
    assert (sample.space, sample.values.dtype) == ("disparity", np.float32)
    assert sample.values.tolist() == [[0.0, 7.0, 255.0, 0.0]]
    assert sample.mask.tolist() == [[True, True, True, False]]  # 0 inside the mask is a label: the farthest
    assert (sample.sky, sample.intrinsics, sample.group) == (None, None, None)
    assert sample.source == "train/imgs/a.jpg"


def test_read_hrwsi__splits(hrwsi):
    lengths = {split: len(read_hrwsi(hrwsi, split=split)) for split in ("train", "val", "all")}
    assert lengths == {"train": 2, "val": 1, "all": 3}
    with pytest.raises(ValueError, match=r"split is 'test'; it must be one of \('train', 'val', 'all'\)"):
        read_hrwsi(hrwsi, split="test")


def test_read_hrwsi__a_mask_of_one_bit(hrwsi):
    Image.fromarray(np.array([[True, False, True, True]])).save(hrwsi / "train" / "valid_masks" / "a.png")
    assert read_hrwsi(hrwsi)[0].mask.tolist() == [[True, False, True, True]]


def test_read_hrwsi__a_colored_map_is_refused(hrwsi):
    Image.new("RGB", (4, 1)).save(hrwsi / "train" / "gts" / "a.png")
    with pytest.raises(OSError, match=r"gts/a\.png cannot be read .*image mode 'RGB'"):
        read_hrwsi(hrwsi)[0]


def test_read_hrwsi__files(hrwsi, check_files):
    files = [hrwsi / "train" / part for part in ("imgs/b.jpg", "gts/b.png", "valid_masks/b.png")]
    check_files(read_hrwsi(hrwsi), files, space="disparity")
