import numpy as np
import pytest
import scipy.io
from PIL import Image

from depth_anything_hf.data.readers.ibims1 import read_ibims1

pytestmark = pytest.mark.filterwarnings("ignore:ibims1, .* in the official split")
NAMES = ("corridor_01", "office_02", "storageroom_03")


@pytest.fixture
def raw(tmp_path, save_photo, save_codes):
    for name in NAMES:
        save_photo(tmp_path / "rgb" / f"{name}.png", 1, 5)
        save_codes(tmp_path / "depth" / f"{name}.png", [[1311, 0, 65535, 2622, 2622]])
        # nonzero = good, in both masks
        for folder, values in (("mask_invalid", [255, 255, 255, 0, 255]), ("mask_transp", [1, 1, 1, 1, 0])):
            (tmp_path / folder).mkdir(exist_ok=True)
            Image.fromarray(np.array([values], np.uint8)).save(tmp_path / folder / f"{name}.png")
        (tmp_path / "calib").mkdir(exist_ok=True)
        (tmp_path / "calib" / f"{name}.txt").write_text("560.5,0,320.5\n0,561.5,240.5\n0,0,1\n")
    (tmp_path / "imagelist.txt").write_text("\n".join(NAMES[:2]) + "\n")
    return tmp_path


@pytest.fixture
def matlab(tmp_path):
    for name in NAMES:
        data = {
            "rgb": np.full((1, 4, 3), 7, np.uint8),
            "depth": np.array([[1.5, 2.5, np.nan, 49.9]]),
            "edges": np.zeros((1, 4), np.uint8),
            "calib": np.array([[560.5, 0, 0], [0, 561.5, 0], [320.5, 240.5, 1]]),
            "mask_invalid": np.array([[1, 0, 1, 1]], np.uint8),
            "mask_transp": np.array([[1, 1, 1, 1]], np.uint8),
        }
        scipy.io.savemat(tmp_path / f"{name}.mat", {"data": data})
    return tmp_path


def test_read_ibims1__reads_meters_where_both_masks_are_set(raw):
    samples = read_ibims1(raw)
    assert (len(samples), samples.left_out, samples.official) == (2, 0, 100)
    sample = samples[0]
    assert sample.mask.tolist() == [[True, False, True, False, False]]
    assert sample.values[0] == pytest.approx([1311 * 50 / 65535, 0, 50, 0, 0], rel=1e-6)
    assert (sample.source, sample.group) == ("rgb/corridor_01.png", None)
    assert sample.intrinsics == (560.5, 561.5, 320.0, 240.0)  # Matlab counts pixels from 1


def test_read_ibims1__takes_every_image_without_a_list_and_counts_missing_ones(raw):
    (raw / "imagelist.txt").write_text("corridor_01 cellar_09")
    assert (len(read_ibims1(raw)), read_ibims1(raw).left_out) == (1, 1)
    (raw / "imagelist.txt").unlink()
    assert len(read_ibims1(raw)) == 3


def test_read_ibims1__works_without_calibration_and_with_four_numbers(raw):
    (raw / "calib/corridor_01.txt").write_text("560.5 561.5 320.5 240.5")
    (raw / "calib/office_02.txt").unlink()
    assert [sample.intrinsics for sample in read_ibims1(raw)] == [(560.5, 561.5, 320.0, 240.0), None]


def test_read_ibims1__reads_matlab_files(matlab):
    samples = read_ibims1(matlab)
    assert len(samples) == 3
    sample = samples[0]
    assert sample.values[0] == pytest.approx([1.5, 0, 0, 49.9], rel=1e-6)
    assert sample.mask.tolist() == [[True, False, False, True]]
    assert sample.intrinsics == (560.5, 561.5, 320.0, 240.0)  # the matrix is transposed
    assert (sample.source, sample.image.getpixel((0, 0))) == ("corridor_01.mat", (7, 7, 7))


def test_read_ibims1__files(raw, check_files):
    check_files(
        read_ibims1(raw),
        [raw / folder / "office_02.png" for folder in ("rgb", "depth", "mask_invalid", "mask_transp")],
    )
    (raw / "calib/office_02.txt").write_text("one two")
    with pytest.raises(OSError, match=r"office_02\.txt cannot be read"):
        read_ibims1(raw)[1]


def test_read_ibims1__matlab_files(matlab, check_files):
    check_files(read_ibims1(matlab), [matlab / "office_02.mat"])
