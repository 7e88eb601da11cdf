import h5py
import numpy as np
import pytest
from scipy.io import savemat

from depth_anything_hf.data.readers.nyuv2 import read_nyuv2

pytestmark = pytest.mark.filterwarnings("ignore:nyuv2, .* in the official split")
HEIGHT, WIDTH = 2, 3


@pytest.fixture
def nyu(tmp_path):
    """Four images; image i (from 1) is of color i, with raw depth 0 at its last pixel."""
    with h5py.File(tmp_path / "nyu_depth_v2_labeled.mat", "w") as file:
        numbers = np.arange(1, 5)
        file["images"] = np.broadcast_to(numbers[:, None, None, None], (4, 3, WIDTH, HEIGHT)).astype(np.uint8)
        # (image, column, row): depth = image + column / 2 + row / 8
        depths = numbers[:, None, None] + np.arange(WIDTH)[:, None] / 2 + np.arange(HEIGHT) / 8
        file["depths"] = depths.astype(np.float32)
        raw = depths.astype(np.float32)
        raw[:, -1, -1] = 0
        file["rawDepths"] = raw
        names = ["kitchen_0001", "kitchen_0001", "office_0002", "bedroom_0003"]
        cells = [file.create_dataset(f"#refs#/{i}", data=[[ord(c)] for c in n]) for i, n in enumerate(names)]
        scenes = file.create_dataset("scenes", (1, 4), dtype=h5py.ref_dtype)
        scenes[0] = [cell.ref for cell in cells]
    save_split(tmp_path, train=[1, 3], test=[2, 4])
    return tmp_path


def save_split(root, train, test):
    columns = {"trainNdxs": np.array(train)[:, None], "testNdxs": np.array(test)[:, None]}
    savemat(root / "splits.mat", columns)


def test_read_nyuv2__counts_images_from_one(nyu):
    test, train = read_nyuv2(nyu), read_nyuv2(nyu, split="train")
    assert [sample.image.getpixel((0, 0)) for sample in test] == [(2, 2, 2), (4, 4, 4)]
    assert [sample.image.getpixel((0, 0)) for sample in train] == [(1, 1, 1), (3, 3, 3)]
    assert [sample.group for sample in test] == ["kitchen_0001", "bedroom_0003"]
    assert [sample.source for sample in test] == ["nyu_depth_v2_labeled.mat#2", "nyu_depth_v2_labeled.mat#4"]
    assert (test.name, test.split, train.split) == ("nyuv2", "test", "train")


def test_read_nyuv2__turns_columns_into_rows(nyu):
    sample = read_nyuv2(nyu)[0]
    assert sample.image.size == (3, 2)
    assert sample.values.tolist() == [[2.0, 2.5, 3.0], [2.125, 2.625, 0.0]]
    assert sample.mask.tolist() == [[True, True, True], [True, True, False]]
    filled = read_nyuv2(nyu, labels="filled")[0]
    assert filled.values.tolist() == [[2.0, 2.5, 3.0], [2.125, 2.625, 3.125]]
    assert filled.mask.all()


def test_read_nyuv2__gives_the_toolbox_intrinsics_with_half_integer_centers(nyu):
    # the toolbox counts pixel centres from 1, the house from 0.5
    assert read_nyuv2(nyu)[0].intrinsics == pytest.approx((518.8579, 519.4696, 325.0824, 253.2362), abs=1e-4)


def test_read_nyuv2__files(nyu, check_files):
    check_files(read_nyuv2(nyu), [])
    samples = read_nyuv2(nyu)
    (nyu / "nyu_depth_v2_labeled.mat").write_bytes(b"broken")
    with pytest.raises(OSError, match=r"nyu_depth_v2_labeled\.mat cannot be read"):
        samples[0]
    with pytest.raises(OSError, match=r"nyu_depth_v2_labeled\.mat cannot be read"):
        read_nyuv2(nyu)


def test_read_nyuv2__without_scene_names_has_no_group(nyu):
    with h5py.File(nyu / "nyu_depth_v2_labeled.mat", "a") as file:
        del file["scenes"]
    assert read_nyuv2(nyu)[0].group is None


def test_read_nyuv2__errors(nyu):
    with pytest.raises(ValueError, match=r"split is 'val'; it must be one of \('train', 'test'\)"):
        read_nyuv2(nyu, split="val")
    with pytest.raises(ValueError, match=r"labels is 'dense'; it must be one of \('raw', 'filled'\)"):
        read_nyuv2(nyu, labels="dense")
    save_split(nyu, train=[0, 3], test=[2, 5])
    with pytest.raises(ValueError, match=r"names images 2 to 5; nyu_depth_v2_labeled\.mat has 1 to 4"):
        read_nyuv2(nyu)
    with pytest.raises(ValueError, match="names images 0 to 3"):
        read_nyuv2(nyu, split="train")
    (nyu / "splits.mat").write_bytes(b"broken")
    with pytest.raises(OSError, match=r"splits\.mat cannot be read"):
        read_nyuv2(nyu)
    (nyu / "splits.mat").unlink()
    with pytest.raises(FileNotFoundError, match=r"splits\.mat is missing\. Expected: .*cs\.nyu\.edu"):
        read_nyuv2(nyu)


def test_read_nyuv2__warns_of_a_split_that_is_not_official(nyu):
    with pytest.warns(UserWarning, match="2 samples at .*, 654 in the official split"):
        read_nyuv2(nyu)
