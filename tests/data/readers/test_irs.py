import numpy as np
import OpenEXR
import pytest
from PIL import Image

from depth_anything_hf.data.readers.irs import read_irs


def save_disparity(path, values, channel="G"):
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.asarray(values, np.float32)
    OpenEXR.File({}, dict.fromkeys(channel, values)).write(str(path))


@pytest.fixture
def irs(tmp_path, save_photo):
    root = tmp_path / "irs"
    for place, frame, far in (
        ("Home/ArchVizInterior", "00001", 1.0),
        ("Home/ArchVizInterior", "00002", 2.0),
        ("Store/Supermarket", "377", 4.0),
    ):
        save_photo(root / place / f"l_{frame}.png", 2, 3)
        save_photo(root / place / f"r_{frame}.png", 2, 3)
        save_disparity(root / place / f"d_{frame}.exr", [[48.0, 96.0, 0.0], [-3.0, np.inf, far]])
        save_disparity(root / place / f"n_{frame}.exr", np.zeros((2, 3)), "RGB")
    return root


def save_list(root, name, lines):
    (root / "lists").mkdir(exist_ok=True)
    (root / "lists" / name).write_text("".join(f"{line}\n" for line in lines))


def line(folder, left):
    return " ".join(
        f"{folder}/{kind}_{left}.{end}" for kind, end in (("l", "png"), ("r", "png"), ("d", "exr"), ("n", "exr"))
    )


def test_read_irs__turns_disparity_into_meters(irs):
    samples = read_irs(irs)
    assert len(samples) == 3
    sample = samples[0]
    # 480 pixels x 0.1 m / disparity
    np.testing.assert_allclose(sample.values, [[1.0, 0.5, 0.0], [0.0, 0.0, 48.0]], rtol=1e-6)
    assert sample.mask.tolist() == [[True, True, False], [False, False, True]]
    assert (sample.space, sample.sky, sample.group) == ("depth", None, "ArchVizInterior")
    assert sample.source == "Home/ArchVizInterior/l_00001.png"
    assert sample.intrinsics == (480.0, 480.0, 1.5, 1.0)
    assert samples[2].values[1, 2] == 12.0


@pytest.mark.parametrize("channel", ["Y", "R", "RGB", "RGBA"])
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_read_irs__reads_disparity_under_any_channel_name(irs, channel, dtype):
    values = np.array([[16.0, 32.0, 64.0]] * 2, dtype)
    OpenEXR.File({}, dict.fromkeys(channel, values)).write(str(irs / "Home/ArchVizInterior/d_00001.exr"))
    np.testing.assert_allclose(read_irs(irs)[0].values[0], [3.0, 1.5, 0.75], rtol=1e-6)


def test_read_irs__names_a_file_whose_channels_differ(irs):
    path = irs / "Home/ArchVizInterior/d_00001.exr"
    OpenEXR.File({}, {name: np.full((2, 3), place, np.float32) for place, name in enumerate("RGB")}).write(str(path))
    with pytest.raises(ValueError, match=r"d_00001\.exr: .*R, G and B differ"):
        read_irs(irs)[0]


def test_read_irs__drops_alpha_of_an_image(irs):
    Image.new("RGBA", (3, 2), (9, 8, 7, 0)).save(irs / "Home/ArchVizInterior/l_00001.png")
    image = read_irs(irs)[0].image
    assert (image.mode, image.getpixel((0, 0))) == ("RGB", (9, 8, 7))


@pytest.mark.parametrize("shape", [(4, 3), (2, 6), (1, 1)])
def test_read_irs__a_map_of_another_size_is_no_label(irs, shape):
    save_disparity(irs / "Home/ArchVizInterior/d_00002.exr", np.full(shape, 5.0))
    with pytest.warns(UserWarning, match=r"irs: Home/ArchVizInterior/d_00002\.exr has shape .* read without a label"):
        sample = read_irs(irs)[1]
    assert sample.mask.shape == (2, 3)
    assert not sample.mask.any()


@pytest.mark.parametrize("prefix", ["", "IRSDataset/"])
@pytest.mark.parametrize("pad", [str, "{:0>5}".format])
def test_read_irs__follows_the_lists_in_their_old_and_new_form(irs, prefix, pad):
    save_list(
        irs, "irs_train.list", [line(f"{prefix}Home/ArchVizInterior", pad("2")), line(f"{prefix}Office/O1", pad("7"))]
    )
    save_list(irs, "irs_test.list", [line(f"{prefix}Store/Supermarket", pad("377")), ""])
    train, test, everything = (read_irs(irs, split=split) for split in ("train", "test", "all"))
    assert [sample.source for sample in train] == ["Home/ArchVizInterior/l_00002.png"]
    assert train.left_out == 1  # not downloaded
    assert [sample.source for sample in test] == ["Store/Supermarket/l_377.png"]
    assert len(everything) == 2  # frame 1 is on no list: a leftover
    assert len(read_irs(irs, list_file=irs / "lists" / "irs_test.list")) == 1


def test_read_irs__finds_the_sets_below_a_folder(irs):
    (above := irs.parent / "above").mkdir()
    irs.rename(above / "IRSDataset")
    assert len(read_irs(above)) == 3


def test_read_irs__errors(irs):
    with pytest.raises(ValueError, match=r"split is 'val'; it must be one of \('train', 'test', 'all'\)"):
        read_irs(irs, split="val")
    with pytest.raises(FileNotFoundError, match=r"irs_test\.list is missing; .* split='all' .*Expected: .*http"):
        read_irs(irs, split="test")
    save_list(irs, "irs_test.list", ["one two"])
    with pytest.raises(OSError, match=r"irs_test\.list cannot be read \(IndexError"):
        read_irs(irs, split="test")


def test_read_irs__files(irs, check_files):
    folder = irs / "Home" / "ArchVizInterior"
    check_files(read_irs(irs), [folder / "l_00002.png", folder / "d_00002.exr"])
