import numpy as np
import pytest
from PIL import Image

from depth_anything_hf.data.readers.diml import read_diml

CODES = [[0, 1500, 65535]]


def save_gray(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.array(values, np.uint8)).save(path)


@pytest.fixture
def diml(tmp_path, save_photo, save_codes):
    for batch, suffix, names in (("1", "depth", ("in_k_01", "in_k_02")), ("2", "ud", ("in_k_03",))):
        folder = tmp_path / "indoor" / "16. Billiard Hall" / "170310" / batch
        for name in names:
            save_photo(folder / "col" / f"{name}_c.png", 1, 3)
            save_codes(folder / "up_png" / f"{name}_{suffix}.png", CODES)
    folder = tmp_path / "outdoor" / "170721_C0" / "A"
    for name in ("1", "2"):
        save_photo(folder / "left" / f"{name}_left.png", 1, 3)
        save_photo(folder / "right" / f"{name}_right.png", 1, 3)
        save_codes(folder / "depth" / f"{name}_depth.png", [[2000, 3000, 4000]])
        save_codes(folder / "disp" / f"{name}_disp.png", [[1, 2, 3]])
        save_gray(folder / "conf" / f"{name}_conf.png", [[255, 153, 154]])
    return tmp_path


def test_read_diml__reads_millimeters_indoors_whatever_the_suffix(diml):
    samples = read_diml(diml, domain="indoor")
    assert [sample.source.rpartition("/")[2] for sample in samples] == [
        "in_k_01_c.png",
        "in_k_02_c.png",
        "in_k_03_c.png",
    ]
    for sample in samples:
        np.testing.assert_allclose(sample.values, [[0, 1.5, 65.535]], rtol=1e-6)
        assert sample.mask.tolist() == [[False, True, True]]
        assert (sample.space, sample.group, sample.sky, sample.intrinsics) == (
            "depth",
            "16. Billiard Hall",
            None,
            None,
        )


@pytest.mark.parametrize(
    ("confidence", "mask"), [(0.6, [True, False, True]), (0.9, [True, False, False]), (0, [True, True, True])]
)
def test_read_diml__takes_what_is_sure_outdoors(diml, confidence, mask):
    sample = read_diml(diml, domain="outdoor", confidence=confidence)[0]
    assert sample.mask.tolist() == [mask]
    np.testing.assert_allclose(sample.values, [np.where(mask, [2.0, 3.0, 4.0], 0)], rtol=1e-6)
    assert (sample.source, sample.group) == ("outdoor/170721_C0/A/left/1_left.png", "170721_C0")


def test_read_diml__confidence_maps_are_read_unless_it_is_0(diml):
    (diml / "outdoor/170721_C0/A/conf/1_conf.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"1_conf\.png is missing"):
        read_diml(diml, domain="outdoor")[0]
    assert read_diml(diml, domain="outdoor", confidence=0)[0].mask.all()


def test_read_diml__reads_the_sample(tmp_path, save_photo, save_codes):
    indoor, outdoor = tmp_path / "DIML/indoor/test/LR", tmp_path / "DIML/outdoor/test/LR"
    save_photo(indoor / "cafe" / "color" / "0_c.png", 1, 3)
    save_codes(indoor / "cafe" / "depth_filled" / "0_depth_filled.png", CODES)
    save_codes(indoor / "cafe" / "depth_raw" / "0_depth_raw.png", [[1, 1, 1]])
    save_photo(outdoor / "outleft" / "7.png", 1, 3)
    save_codes(outdoor / "depthmap" / "7.png", CODES)
    samples = read_diml(tmp_path)
    assert [sample.source for sample in samples] == [
        "DIML/indoor/test/LR/cafe/color/0_c.png",
        "DIML/outdoor/test/LR/outleft/7.png",
    ]
    assert samples[0].group == "cafe"
    for sample in samples:
        np.testing.assert_allclose(sample.values, [[0, 1.5, 65.535]], rtol=1e-6)
    assert read_diml(indoor / "cafe")[0].group == "cafe"


def test_read_diml__domains(diml):
    assert {domain: len(read_diml(diml, domain=domain)) for domain in ("all", "indoor", "outdoor")} == {
        "all": 5,
        "indoor": 3,
        "outdoor": 2,
    }
    with pytest.raises(ValueError, match=r"domain is 'street'; it must be one of \('indoor', 'outdoor', 'all'\)"):
        read_diml(diml, domain="street")


def test_read_diml__files(diml, check_files):
    folder = diml / "indoor/16. Billiard Hall/170310/1"
    check_files(read_diml(diml), [folder / "col/in_k_02_c.png", folder / "up_png/in_k_02_depth.png"])
    folder = diml / "outdoor/170721_C0/A"
    files = [folder / "left/2_left.png", folder / "depth/2_depth.png", folder / "conf/2_conf.png"]
    check_files(read_diml(diml, domain="outdoor"), files)
