import numpy as np
import pytest
import scipy.io

from depth_anything_hf.data.readers.sunrgbd import read_sunrgbd

pytestmark = pytest.mark.filterwarnings("ignore:sunrgbd, .* in the official split")
# Frames lie at different depths, file names are no rule, and sizes differ by sensor.
FRAMES = {
    "SUNRGBD/kv1/NYUdata/NYU0001": (
        "NYU0001.jpg",
        "NYU0001.png",
        "518.857901 0 284.582449\n0 519.469611 208.736166\n0 0 1\n",
    ),
    "SUNRGBD/kv2/kinect2data/000002_2014-05-26_14-23-37_260595134347_rgbf000103-resize": (
        "0000103.jpg",
        "0000103.png",
        "529.5 0.0 365.0 0.0 529.5 265.0 0.0 0.0 1.0",
    ),
    "SUNRGBD/xtion/sun3ddata/brown_bm_1/brown_bm_1/0000103-000003443211": (
        "0000103-000003443211.jpg",
        "0000103-000003450151.png",
        "570.342205 0 310 0 570.342205 225 0 0 1 ",
    ),
}


def rotated(millimeters: int) -> int:
    """The code of a depth: its 16 bits turned to the left by 3, written out for the test."""
    return int(f"{millimeters:016b}"[3:] + f"{millimeters:016b}"[:3], 2)


@pytest.fixture
def sunrgbd(tmp_path, save_photo, save_codes):
    for index, (folder, (image, depth, intrinsics)) in enumerate(FRAMES.items()):
        frame, width = tmp_path / folder, 3 + index
        save_photo(frame / "image" / image, 2, width)
        row = [rotated(1234), 0, rotated(7999)] + [rotated(9001)] * index
        save_codes(frame / "depth_bfx" / depth, [row, row])
        save_codes(frame / "depth" / depth, [[0] * width, row])
        (frame / "intrinsics.txt").write_text(intrinsics)
        (frame / "scene.txt").write_text("office")
        (frame / "image" / ".DS_Store").write_bytes(b"junk")
    paths = [f"/n/fs/sun3d/data/{folder}" for folder in FRAMES]
    missing = "/n/fs/sun3d/data/SUNRGBD/realsense/lg/2014-10-22-11-16-29_rgbf000089-resize"
    lists = {"alltrain": [paths[0], paths[1] + "/"], "alltest": [paths[2], missing]}
    target = tmp_path / "SUNRGBDtoolbox" / "traintestSUNRGBD" / "allsplit.mat"
    target.parent.mkdir(parents=True)
    # Matlab: a cell array of one row
    scipy.io.savemat(target, {name: np.array([given], dtype=object) for name, given in lists.items()})
    return tmp_path


def test_read_sunrgbd__turns_the_bits_back(sunrgbd):
    sample = read_sunrgbd(sunrgbd, split="train")[0]
    assert sample.values[0] == pytest.approx([1.234, 0, 7.999], rel=1e-6)
    assert sample.mask.tolist() == [[True, False, True]] * 2
    assert (sample.source, sample.group, sample.sky) == ("SUNRGBD/kv1/NYUdata/NYU0001/image/NYU0001.jpg", None, None)
    # Matlab counts pixels from 1
    assert sample.intrinsics == pytest.approx((518.857901, 519.469611, 284.082449, 208.236166))


def test_read_sunrgbd__values_beyond_8192_mm_are_not_an_eighth_of_the_code(sunrgbd):
    far = read_sunrgbd(sunrgbd, split="train")[1].values[0, 3]
    assert far == pytest.approx(9.001, rel=1e-6)
    assert rotated(9001) / 8000 != pytest.approx(9.001, rel=1e-2)


@pytest.mark.parametrize(
    ("split", "count", "left_out", "official"), [("train", 2, 0, 5285), ("test", 1, 1, 5050), ("all", 3, 0, 10335)]
)
def test_read_sunrgbd__splits(sunrgbd, split, count, left_out, official):
    samples = read_sunrgbd(sunrgbd, split=split)
    assert (len(samples), samples.left_out, samples.official) == (count, left_out, official)
    assert all(sample.image.size == sample.values.shape[::-1] for sample in samples)


def test_read_sunrgbd__reads_intrinsics_in_one_line(sunrgbd):
    assert read_sunrgbd(sunrgbd)[0].intrinsics == (570.342205, 570.342205, 309.5, 224.5)


def test_read_sunrgbd__labels(sunrgbd):
    assert read_sunrgbd(sunrgbd, labels="raw")[0].mask.sum() == 4
    assert read_sunrgbd(sunrgbd, labels="filled")[0].mask.sum() == 8


def test_read_sunrgbd__files(sunrgbd, check_files):
    frame = sunrgbd / list(FRAMES)[1]
    samples = read_sunrgbd(sunrgbd, split="all")
    check_files(samples, [frame / "intrinsics.txt"])
    for folder in ("image", "depth_bfx"):
        (path,) = (path for path in (frame / folder).iterdir() if path.name != ".DS_Store")
        content = path.read_bytes()
        path.write_bytes(b"broken")
        with pytest.raises(OSError, match=f"{path.name} cannot be read"):
            samples[1]
        path.unlink()
        with pytest.raises(FileNotFoundError, match=rf"{folder}/\* is missing\. Expected: .*rgbd\.cs\.princeton"):
            samples[1]
        for name in ("a.png", "b.png"):
            (path.parent / name).write_bytes(content)
        with pytest.raises(OSError, match=f"{folder} holds 2 files, a frame has one"):
            samples[1]
        (path.parent / "a.png").unlink()
        (path.parent / "b.png").rename(path)


def test_read_sunrgbd__errors(sunrgbd):
    with pytest.raises(ValueError, match=r"split is 'val'; it must be one of \('train', 'test', 'all'\)"):
        read_sunrgbd(sunrgbd, split="val")
    with pytest.raises(ValueError, match=r"labels is 'depth'; it must be one of \('filled', 'raw'\)"):
        read_sunrgbd(sunrgbd, labels="depth")
    (sunrgbd / "SUNRGBDtoolbox/traintestSUNRGBD/allsplit.mat").unlink()
    with pytest.raises(FileNotFoundError, match=r"allsplit\.mat is missing\. Expected: .*SUNRGBDtoolbox\.zip"):
        read_sunrgbd(sunrgbd)
