import numpy as np
import pytest

from depth_anything_hf.data.readers.diode import read_diode

pytestmark = pytest.mark.filterwarnings("ignore:diode, .* in the official split")


@pytest.fixture
def diode(tmp_path, save_photo):
    for domain, scan, number in (("indoors", 183, 0), ("indoors", 184, 1), ("outdoor", 200, 2)):
        folder = tmp_path / "val" / domain / "scene_00019" / f"scan_{scan:05d}"
        stem = f"00019_{scan:05d}_{domain}_000_{number:03d}"
        save_photo(folder / f"{stem}.png", 1, 3)
        np.save(folder / f"{stem}_depth.npy", np.array([[[1.5], [2.5], [3.5]]], dtype=np.float32))
        np.save(folder / f"{stem}_depth_mask.npy", np.array([[1.0, 0.0, 1.0]], dtype=np.float32))
    return tmp_path


def test_read_diode__takes_the_mask_of_the_data_set(diode):
    sample = read_diode(diode)[0]
    assert sample.values.tolist() == [[1.5, 0.0, 3.5]]
    assert sample.mask.tolist() == [[True, False, True]]
    assert sample.source == "val/indoors/scene_00019/scan_00183/00019_00183_indoors_000_000.png"
    assert sample.group == "scene_00019"
    assert sample.intrinsics == (886.81, 927.06, 512.0, 384.0)


def test_read_diode__domains(diode):
    assert [sample.source.split("/")[1] for sample in read_diode(diode)] == ["indoors", "indoors", "outdoor"]
    outdoor = read_diode(diode, domain="outdoor")
    assert (len(outdoor), outdoor.split, outdoor.official) == (1, "val outdoor", 446)
    assert len(read_diode(diode, domain="indoors")) == 2
    with pytest.raises(FileNotFoundError, match=r"no sample of diode, train\. Expected: .*diode-dataset\.org"):
        read_diode(diode, split="train")


def test_read_diode__files(diode, check_files):
    stem = "val/indoors/scene_00019/scan_00184/00019_00184_indoors_000_001"
    check_files(read_diode(diode), [diode / f"{stem}{end}" for end in (".png", "_depth.npy", "_depth_mask.npy")])


def test_read_diode__errors(diode):
    with pytest.raises(ValueError, match=r"split is 'test'; it must be one of \('train', 'val'\)"):
        read_diode(diode, split="test")
    with pytest.raises(ValueError, match=r"domain is 'indoor'; it must be one of \('all', 'indoors', 'outdoor'\)"):
        read_diode(diode, domain="indoor")
