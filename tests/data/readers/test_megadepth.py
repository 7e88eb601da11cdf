import h5py
import numpy as np
import pytest
from PIL import Image

from depth_anything_hf.data.readers.megadepth import read_megadepth


def save_depth(path, depth):
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file["depth"] = np.asarray(depth)


@pytest.fixture
def megadepth(tmp_path, save_photo):
    for scene, dense, name, ending in (
        ("0000", "dense0", "1", ".jpg"),
        ("0000", "dense1", "2.small", ".png"),
        ("0162", "dense0", "3", ".jpg"),
    ):
        folder = tmp_path / scene / dense
        save_photo(folder / "imgs" / f"{name}{ending}", 1, 4)
        save_depth(folder / "depths" / f"{name}.h5", np.array([[0.5, 0.0, 8.0, 1e-9]], np.float32))
    return tmp_path


def test_read_megadepth__labels_are_inverse_depth_as_its_unit_is_unknown(megadepth):
    samples = read_megadepth(megadepth)
    assert len(samples) == 3
    assert samples[0].space == "disparity"
    np.testing.assert_allclose(samples[0].values, [[2.0, 0.0, 0.125, 0.0]], rtol=1e-6)
    assert samples[0].mask.tolist() == [[True, False, True, False]]
    assert (samples[0].sky, samples[0].group, samples[0].source) == (None, "0000", "0000/dense0/imgs/1.jpg")
    assert [sample.source for sample in samples[1:]] == ["0000/dense1/imgs/2.small.png", "0162/dense0/imgs/3.jpg"]


@pytest.mark.parametrize(
    "depth",
    [
        [[-1.0, 3.25, 4.0, 0.0]],  # any negative value
        [[0, 1, 2, 3]],
        [[0.0, 1.0, 1.0, 2.0]],
        [[0.0, 0.0, 0.0, 0.0]],
    ],
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int16])
def test_read_megadepth__an_ordinal_map_is_no_label(megadepth, depth, dtype):
    save_depth(megadepth / "0000/dense0/depths/1.h5", np.array(depth, dtype))
    sample = read_megadepth(megadepth)[0]
    assert not sample.mask.any()
    assert not sample.values.any()
    assert read_megadepth(megadepth)[1].mask.any()


def test_read_megadepth__many_whole_numbers_are_depth(megadepth, save_photo):
    save_photo(megadepth / "0000/dense0/imgs/1.jpg", 2, 5)
    save_depth(megadepth / "0000/dense0/depths/1.h5", np.arange(10.0).reshape(2, 5))
    assert read_megadepth(megadepth)[0].mask.sum() == 9


def test_read_megadepth__trims_both_ends(megadepth, save_photo):
    save_photo(megadepth / "0000/dense0/imgs/1.jpg", 7, 15)
    save_depth(megadepth / "0000/dense0/depths/1.h5", 1 + np.arange(105.0).reshape(7, 15) / 7)
    whole, trimmed = read_megadepth(megadepth)[0], read_megadepth(megadepth, trim=2)[0]
    assert (whole.mask.sum(), trimmed.mask.sum()) == (105, 99)
    assert trimmed.mask.ravel()[[2, 3, 101, 102]].tolist() == [False, True, True, False]


def test_read_megadepth__finds_the_scenes_of_the_archive(megadepth):
    above = megadepth / "root/phoenix/S6/zl548/MegaDepth_v1"
    above.mkdir(parents=True)
    (megadepth / "0162").rename(above / "0162")
    (sample,) = read_megadepth(megadepth / "root")
    assert (sample.group, sample.source) == ("0162", "phoenix/S6/zl548/MegaDepth_v1/0162/dense0/imgs/3.jpg")
    (sample,) = read_megadepth(above / "0162")
    assert sample.group == "0162"


@pytest.mark.parametrize("mode", ["L", "RGBA"])
def test_read_megadepth__gray_and_transparent_photographs(megadepth, mode):
    Image.new(mode, (4, 1)).save(megadepth / "0000/dense1/imgs/2.small.png")
    assert read_megadepth(megadepth)[1].image.mode == "RGB"


def test_read_megadepth__names_a_file_without_depth(megadepth):
    with h5py.File(megadepth / "0000/dense0/depths/1.h5", "w") as file:
        file["other"] = np.ones((1, 4))
    with pytest.raises(OSError, match=r"depths/1\.h5 cannot be read \(KeyError"):
        read_megadepth(megadepth)[0]


def test_read_megadepth__files(megadepth, check_files):
    folder = megadepth / "0000/dense1"
    check_files(
        read_megadepth(megadepth), [folder / "imgs/2.small.png", folder / "depths/2.small.h5"], space="disparity"
    )
