import struct

import numpy as np
import pytest

from depth_anything_hf.data.readers.sintel import read_sintel

pytestmark = pytest.mark.filterwarnings("ignore:sintel, .* in the official split")


@pytest.fixture
def sintel(tmp_path, save_photo):
    training = tmp_path / "training"
    for scene, frame in (("alley_1", 1), ("alley_1", 2), ("market_2", 1)):
        stem = f"{scene}/frame_{frame:04d}"
        save_photo(training / "final" / f"{stem}.png", 2, 3, red=1)
        save_photo(training / "clean" / f"{stem}.png", 2, 3, red=2)
        for folder in ("depth", "camdata_left"):
            (training / folder / scene).mkdir(parents=True, exist_ok=True)
        depth = struct.pack("<f2i6f", 202021.25, 3, 2, 1.5, 2.5, 3.5, 4.5, 5.5, 1e5)
        (training / "depth" / f"{stem}.dpt").write_bytes(depth)
        camera = struct.pack("<f21d", 202021.25, 1120.0, 0, 511.5, 0, 1121.0, 217.5, 0, 0, 1, *range(12))
        (training / "camdata_left" / f"{stem}.cam").write_bytes(camera)
    return tmp_path


def test_read_sintel__reads_dpt_and_cam(sintel):
    samples = read_sintel(sintel)
    assert (len(samples), samples.split, samples.official) == (3, "training final", 1064)
    sample = samples[0]
    assert sample.values.tolist() == [[1.5, 2.5, 3.5], [4.5, 5.5, 1e5]]
    assert sample.mask.all()
    assert sample.intrinsics == (1120.0, 1121.0, 512.0, 218.0)  # the file counts pixel centres from 0
    assert (sample.source, sample.group) == ("training/final/alley_1/frame_0001.png", "alley_1")
    assert samples[2].group == "market_2"


def test_read_sintel__passes(sintel):
    assert read_sintel(sintel)[0].image.getpixel((0, 0)) == (1, 0, 0)
    clean = read_sintel(sintel, render_pass="clean")
    assert (clean[0].image.getpixel((0, 0)), clean.split) == ((2, 0, 0), "training clean")


def test_read_sintel__files(sintel, check_files):
    training = sintel / "training"
    check_files(
        read_sintel(sintel), [training / "final/alley_1/frame_0002.png", training / "depth/alley_1/frame_0002.dpt"]
    )
    (training / "camdata_left/alley_1/frame_0001.cam").unlink()
    assert read_sintel(sintel)[0].intrinsics is None


def test_read_sintel__errors(sintel):
    with pytest.raises(ValueError, match=r"render_pass is 'albedo'; it must be one of \('final', 'clean'\)"):
        read_sintel(sintel, render_pass="albedo")
    path = sintel / "training/depth/alley_1/frame_0001.dpt"
    path.write_bytes(np.array([1.0], "<f4").tobytes() + path.read_bytes()[4:])
    with pytest.raises(
        OSError, match=r"frame_0001\.dpt cannot be read \(ValueError: it starts with 1\.0 instead of 202021\.25"
    ):
        read_sintel(sintel)[0]
    with pytest.raises(FileNotFoundError, match=r"training/depth is missing\. Expected: .*sintel\.is\.tue\.mpg\.de"):
        read_sintel(sintel / "training")
