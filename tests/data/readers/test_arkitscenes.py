import numpy as np
import pytest
from PIL import Image

from depth_anything_hf.data.readers.arkitscenes import read_arkitscenes

CODES = [[1500, 0, 250, 4000], [1001, 1002, 1003, 1004], [1, 2, 3, 65535]]  # of 3 x 4 pixels; ARKit: 192 x 256
CONFIDENCE = [[2, 2, 0, 1], [2, 2, 2, 2], [1, 1, 0, 2]]
PINCAM = "24 18 20.5 21.5 13.0 8.0\n"


def save_frame(video, time, save_photo, save_codes, photograph="wide", photograph_time=None, confidence=True):
    name = f"{video.name}_{time}"
    save_codes(video / "lowres_depth" / f"{name}.png", CODES)
    if confidence:
        (video / "confidence").mkdir(exist_ok=True)
        Image.fromarray(np.array(CONFIDENCE, np.uint8)).save(video / "confidence" / f"{name}.png")
    if photograph is None:
        return
    name = f"{video.name}_{photograph_time or time}"
    path = save_photo(video / photograph / f"{name}.png", 18, 24)
    with Image.open(path) as image:
        image.putpixel((0, 0), (200, 100, 50))  # names the corner
        image.save(path)
    save_codes(video / "highres_depth" / f"{name}.png", [[3000] * 24] * 18)
    (video / f"{photograph}_intrinsics").mkdir(exist_ok=True)
    (video / f"{photograph}_intrinsics" / f"{name}.pincam").write_text(PINCAM)


@pytest.fixture
def arkit(tmp_path, save_photo, save_codes):
    for folder, number in (("Training", "40753679"), ("Validation", "41069021")):
        video = tmp_path / "raw" / folder / number
        save_frame(video, "6855.249", save_photo, save_codes)
        save_frame(video, "6855.266", save_photo, save_codes, photograph=None)  # LiDAR: 60 a second, photographs: 10
        save_frame(video, "6856.250", save_photo, save_codes, photograph_time="6856.249")
        save_frame(video, "6857.100", save_photo, save_codes, confidence=False)
    return tmp_path / "raw"


def test_read_arkitscenes__map_and_photograph_keep_their_own_pixels(arkit):
    samples = read_arkitscenes(arkit)
    sample = samples[0]
    assert (sample.values.shape, sample.image.size) == ((3, 4), (24, 18))
    # low confidence (0) is no label
    assert sample.values[0] == pytest.approx([1.5, 0, 0, 4.0], rel=1e-6)
    assert sample.values[2] == pytest.approx([0.001, 0.002, 0, 65.535], rel=1e-6)
    assert (sample.source, sample.group) == ("Training/40753679/wide/40753679_6855.249.png", "40753679")
    assert sample.intrinsics == (20.5, 21.5, 13.0, 8.0)


def test_read_arkitscenes__pairs_by_time_to_two_milliseconds(arkit):
    samples = read_arkitscenes(arkit)
    assert [sample.source.split("_")[-1] for sample in samples] == ["6855.249.png", "6856.249.png"]
    assert samples.left_out == 2  # no photograph of that time; no confidence
    assert samples[1].intrinsics == (20.5, 21.5, 13.0, 8.0)
    everything = read_arkitscenes(arkit, min_confidence=0)
    assert (len(everything), everything.left_out) == (3, 1)


@pytest.mark.parametrize(("least", "labels"), [(0, 11), (1, 9), (2, 6)])
def test_read_arkitscenes__least_confidence(arkit, least, labels):
    assert read_arkitscenes(arkit, min_confidence=least)[0].mask.sum() == labels


def test_read_arkitscenes__takes_the_folder_above_and_the_splits(arkit):
    assert len(read_arkitscenes(arkit.parent)) == 2
    assert {sample.group for sample in read_arkitscenes(arkit, split="val")} == {"41069021"}
    assert len(read_arkitscenes(arkit, split="all")) == 4


def test_read_arkitscenes__reads_the_upsampling_set_and_smaller_photographs(tmp_path, save_photo, save_codes):
    video = tmp_path / "Validation" / "41069021"
    save_frame(video, "305.244", save_photo, save_codes, photograph="color")
    (sample,) = read_arkitscenes(tmp_path, split="val")
    assert sample.source == "Validation/41069021/color/41069021_305.244.png"
    save_frame(video, "305.244", save_photo, save_codes, photograph="vga_wide")
    (sample,) = read_arkitscenes(tmp_path, split="val", images="vga_wide")
    assert sample.source == "Validation/41069021/vga_wide/41069021_305.244.png"
    (sample,) = read_arkitscenes(tmp_path, split="val", labels="highres_depth")  # from the laser: no confidence
    assert (sample.values.shape, sample.values[0, 0], sample.mask.all()) == ((18, 24), 3.0, True)
    with pytest.raises(FileNotFoundError, match=r"no sample of arkitscenes, val \(1 left out\)"):
        read_arkitscenes(tmp_path, split="val", images="lowres_wide")


@pytest.mark.parametrize(
    ("sky", "corner", "size", "first_column", "intrinsics"),
    [
        ("Up", (0, 0), (24, 18), [1.5, 1.001, 0.001], (20.5, 21.5, 13.0, 8.0)),
        ("Down", (23, 17), (24, 18), [65.535, 1.004, 4.0], (20.5, 21.5, 24 - 13.0, 18 - 8.0)),
        # the sky is at the right of the file: a quarter turn counterclockwise brings it up
        ("Right", (0, 23), (18, 24), [4.0, 0, 0, 1.5], (21.5, 20.5, 8.0, 24 - 13.0)),
        ("Left", (17, 0), (18, 24), [0.001, 0.002, 0, 65.535], (21.5, 20.5, 18 - 8.0, 13.0)),
    ],
)
def test_read_arkitscenes__turns_photograph_map_and_intrinsics_alike(
    arkit, sky, corner, size, first_column, intrinsics
):
    (arkit / "metadata.csv").write_text(
        f"video_id,visit_id,fold,sky_direction,is_in_upsampling\n40753679,1,Training,{sky},True\n41069021,1,Validation,NA,True\n"
    )
    sample = read_arkitscenes(arkit)[0]
    assert (sample.image.size, sample.image.getpixel(corner)) == (size, (200, 100, 50))
    assert sample.values[:, 0] == pytest.approx(first_column, rel=1e-6)
    assert sample.values.shape == ((3, 4) if size == (24, 18) else (4, 3))
    assert sample.mask.sum() == 9
    assert sample.intrinsics == intrinsics
    assert read_arkitscenes(arkit, split="val")[0].image.size == (24, 18)


def test_read_arkitscenes__a_table_without_the_sky_turns_nothing(arkit):
    (arkit / "metadata.csv").write_text("video_id,visit_id,fold\n40753679,1,Training\n")
    assert read_arkitscenes(arkit)[0].image.size == (24, 18)


def test_read_arkitscenes__files(arkit, check_files):
    video = arkit / "Training" / "40753679"
    name = "40753679_6856.250.png"
    check_files(
        read_arkitscenes(arkit),
        [
            video / "wide" / "40753679_6856.249.png",
            video / "lowres_depth" / name,
            video / "confidence" / name,
            video / "wide_intrinsics" / "40753679_6856.249.pincam",
        ],
        own_pixels=True,
    )
    (video / "wide_intrinsics" / "40753679_6855.249.pincam").unlink()
    assert read_arkitscenes(arkit)[0].intrinsics is None


def test_read_arkitscenes__hidden_files_of_a_mac_are_no_frames(arkit):
    (arkit / "Training/40753679/wide/._40753679_6855.249.png").write_bytes(b"resource fork")
    assert read_arkitscenes(arkit)[0].source == "Training/40753679/wide/40753679_6855.249.png"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "test"}, r"split is 'test'; it must be one of \('train', 'val', 'all'\)"),
        ({"images": "ultrawide"}, "images is 'ultrawide'; it must be one of"),
        ({"labels": "depth"}, "labels is 'depth'; it must be one of"),
        ({"min_confidence": 3}, r"min_confidence is 3; it must be one of \(0, 1, 2\)"),
    ],
)
def test_read_arkitscenes__errors(arkit, options, message):
    with pytest.raises(ValueError, match=message):
        read_arkitscenes(arkit, **options)
