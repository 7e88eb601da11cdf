import numpy as np
import pytest

from depth_anything_hf.data.readers.eth3d import read_eth3d

pytestmark = pytest.mark.filterwarnings("ignore:eth3d, .* in the official split")


@pytest.fixture
def eth3d(tmp_path, save_photo):
    for scene, name in (("courtyard", "DSC_0286"), ("courtyard", "DSC_0287"), ("pipes", "DSC_0634")):
        save_photo(tmp_path / scene / "images" / "dslr_images" / f"{name}.JPG", 2, 3)
        depth = tmp_path / scene / "ground_truth_depth" / "dslr_images" / f"{name}.JPG"
        depth.parent.mkdir(parents=True, exist_ok=True)
        np.array([[1.5, np.inf, 2.5], [3.5, 4.5, np.inf]], dtype="<f4").tofile(depth)
    return tmp_path


def test_read_eth3d__reads_rows_of_the_images_width(eth3d):
    samples = read_eth3d(eth3d)
    assert (len(samples), samples.name, samples.split, samples.official) == (3, "eth3d", "train", 454)
    assert samples[0].values.tolist() == [[1.5, 0.0, 2.5], [3.5, 4.5, 0.0]]
    assert samples[0].mask.tolist() == [[True, False, True], [True, True, False]]
    assert [sample.group for sample in samples] == ["courtyard", "courtyard", "pipes"]
    assert samples[0].source == "courtyard/images/dslr_images/DSC_0286.JPG"
    assert samples[0].intrinsics is None


def test_read_eth3d__files(eth3d, check_files):
    scene = eth3d / "courtyard"
    check_files(
        read_eth3d(eth3d),
        [scene / "images/dslr_images/DSC_0287.JPG", scene / "ground_truth_depth/dslr_images/DSC_0287.JPG"],
    )


def test_read_eth3d__refuses_a_map_of_another_size(eth3d):
    np.ones(8, dtype="<f4").tofile(eth3d / "courtyard/ground_truth_depth/dslr_images/DSC_0286.JPG")
    with pytest.raises(OSError, match=r"ground_truth_depth/dslr_images/DSC_0286\.JPG cannot be read .*size 8"):
        read_eth3d(eth3d)[0]
