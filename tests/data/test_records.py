import io
import math

import numpy as np
import pytest
from PIL import Image

from depth_anything_hf.data.codes import depth_map_to_image
from depth_anything_hf.data.records import DepthSample, decode_record, encode_record, record_features

NAN, INF = math.nan, math.inf
ORIENTATION = 0x0112
PHOTO = np.arange(18, dtype=np.uint8).reshape(2, 3, 3)  # 3 wide, 2 high


def row(codes, **changes):
    codes = np.array(codes, dtype=np.uint16)
    record = {
        "image": Image.new("RGB", codes.shape[::-1]),
        "depth_map": depth_map_to_image(codes),
        "depth_scale": 0.5,
        "depth_offset": 0.0,
        "space": "depth",
        "source": "made by hand",
    }
    return record | changes


def png_bytes(image, **options):
    buffer = io.BytesIO()
    image.save(buffer, "PNG", **options)
    return buffer.getvalue()


def exif_photo(orientation):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return {"bytes": png_bytes(Image.fromarray(PHOTO), exif=exif), "path": None}


@pytest.mark.parametrize(
    ("orientation", "turn"), [(1, lambda x: x), (3, lambda x: np.rot90(x, 2)), (6, lambda x: np.rot90(x, -1))]
)
def test_exif_rotation(orientation, turn):
    record = row(np.ones(turn(PHOTO).shape[:2]), image=exif_photo(orientation))
    sample = decode_record(record)
    assert np.array_equal(np.asarray(sample.image), turn(PHOTO))
    assert sample.values.shape == turn(PHOTO).shape[:2]
    # decoding an image that was already turned changes nothing
    assert np.array_equal(np.asarray(decode_record({"image": sample.image}).image), turn(PHOTO))


def test_depth_map_of_the_unturned_image_is_refused():
    with pytest.raises(ValueError, match=r"depth_map is 3 x 2 and the image \(after its EXIF rotation\) 2 x 3"):
        decode_record(row(np.ones((2, 3)), image=exif_photo(6)))


def test_decode_depth_record():
    record = row([[0, 2, 4]], intrinsics=[1, 2, 3, 4], group=7)
    sample = decode_record(record)
    assert isinstance(sample, DepthSample)
    assert sample.values.tolist() == [[0.0, 1.0, 2.0]]
    assert sample.values.dtype == np.float32
    assert sample.mask.tolist() == [[False, True, True]]
    assert (sample.space, sample.sky, sample.intrinsics) == ("depth", None, (1.0, 2.0, 3.0, 4.0))
    assert (sample.source, sample.group) == ("made by hand", "7")


def test_impossible_values_are_not_valid():
    codes = [[1, 2, 3]]  # -0.5, 0, 0.5
    depth = decode_record(row(codes, depth_offset=-1.0))
    assert depth.mask.tolist() == [[False, False, True]]
    assert depth.values.tolist() == [[0.0, 0.0, 0.5]]
    disparity = decode_record(row(codes, depth_offset=-1.0, space="disparity"))
    assert disparity.mask.tolist() == [[False, True, True]]


def test_sky_is_no_depth():
    sky = Image.fromarray(np.array([[255, 0, 1]], dtype=np.uint8))
    sample = decode_record(row([[2, 4, 0]], sky_mask=sky))
    assert sample.sky.tolist() == [[True, False, True]]
    assert sample.mask.tolist() == [[False, True, False]]
    assert sample.values.tolist() == [[0.0, 2.0, 0.0]]
    disparity = decode_record(row([[2, 4, 0]], sky_mask=sky, space="disparity"))
    assert disparity.mask.tolist() == [[True, True, False]]


def test_photograph_without_label():
    sample = decode_record({"image": Image.new("RGB", (3, 2))})
    assert (sample.values, sample.mask, sample.space, sample.group, sample.source) == (None, None, None, None, "")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"space": "inverse"}, r"space is 'inverse'; it must be one of \('depth', 'disparity'\)"),
        ({"space": None}, "space is None"),
        ({"depth_scale": 0.0}, "depth_scale=0.0; it must be finite and > 0"),
        ({"depth_scale": -1.0}, "depth_scale=-1.0"),
        ({"depth_scale": NAN}, "depth_scale=nan"),
        ({"depth_scale": None}, "depth_scale=None"),
        ({"depth_offset": INF}, "depth_offset=inf"),
        ({"depth_offset": None}, "depth_offset=None"),
        ({"image": Image.new("RGB", (9, 9))}, r"depth_map is 3 x 1 and the image 9 x 9 \(width x height\)"),
        ({"sky_mask": Image.new("L", (2, 2))}, "sky_mask is 2 x 2"),
        ({"sky_mask": Image.new("RGB", (3, 1))}, "sky_mask has image mode 'RGB'"),
        ({"depth_map": Image.new("L", (3, 1))}, "8-bit depth map"),
        ({"depth_map": np.ones((1, 3))}, "column 'depth_map' is ndarray"),
        ({"image": None}, "column 'image' is NoneType"),
        ({"intrinsics": [1.0, 2.0]}, r"intrinsics=\(1.0, 2.0\)"),
        ({"intrinsics": [0.0, 1.0, 2.0, 3.0]}, "fx and fy > 0"),
    ],
)
def test_broken_rules_name_the_record(changes, message):
    with pytest.raises(ValueError, match=f"record made by hand.*{message}"):
        decode_record(row([[1, 2, 3]], **changes))


def test_broken_and_missing_files_are_named(tmp_path):
    (tmp_path / "cut.png").write_bytes(png_bytes(Image.effect_noise((64, 64), 50))[:500])
    with pytest.raises(OSError, match=r"cut\.png"):
        decode_record({"image": {"bytes": None, "path": str(tmp_path / "cut.png")}})
    with pytest.raises(FileNotFoundError, match=r"gone\.png"):
        decode_record({"image": {"bytes": None, "path": str(tmp_path / "gone.png")}})


def test_encode_record_inverts_decode_record():
    sky = np.array([[True, False, False], [False, False, False]])
    values = np.array([[NAN, 1.0, 2.0], [0.0, 3.0, INF]])
    record = encode_record(PHOTO, values, sky=sky, intrinsics=(5, 6, 1, 1), source="s", group="g", note="n")
    sample = decode_record(record)
    assert np.array_equal(np.asarray(sample.image), PHOTO)
    assert sample.mask.tolist() == [[False, True, True], [False, True, False]]
    assert sample.values.tolist() == pytest.approx(np.array([[0, 1, 2], [0, 3, 0]]), abs=1e-4)
    assert np.array_equal(sample.sky, sky)
    assert (sample.intrinsics, sample.source, sample.group) == ((5.0, 6.0, 1.0, 1.0), "s", "g")
    assert record["note"] == "n"
    plain = encode_record(Image.fromarray(PHOTO))
    assert "sky_mask" not in plain
    assert decode_record(plain).values is None


def test_encode_record_in_disparity_keeps_zero():
    record = encode_record(PHOTO, np.array([[0.0, 1.0, 2.0], [-1.0, 3.0, NAN]]), space="disparity")
    assert decode_record(record).mask.tolist() == [[True, True, True], [False, True, False]]


def test_encode_record_turns_the_image_upright():
    with Image.open(io.BytesIO(exif_photo(6)["bytes"])) as photo:
        assert encode_record(photo, np.ones((3, 2)))["image"].size == (2, 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"values": np.ones((3, 3))}, r"values have shape \(3, 3\), the upright image \(2, 3\)"),
        ({"values": np.ones((2, 3)), "space": "metres"}, "space is 'metres'"),
        ({"values": np.zeros((2, 3)), "mask": np.ones((2, 3), bool)}, "6 values under the mask break the rule > 0"),
        ({"values": np.full((2, 3), NAN), "mask": np.ones((2, 3), bool)}, "6 of 6 values under the mask"),
        ({"sky": np.ones((2, 3))}, "sky is float64"),
        ({"depth_scale": 1.0}, r"extra columns \['depth_scale'\]"),
        ({"intrinsics": [1.0]}, "intrinsics"),
    ],
)
def test_encode_record_errors(arguments, message):
    with pytest.raises(ValueError, match=message):
        encode_record(PHOTO, **arguments)


def test_features_keep_16_bit_png_and_need_not_all_keys():
    from datasets import Dataset

    values = np.array([[1.0, 2.0, 3.0]] * 2)
    rows = [encode_record(PHOTO), encode_record(PHOTO, values, sky=values > 2, intrinsics=[1, 1, 0, 0], group="a")]
    features = record_features(with_sky=True, with_group=True)
    data = Dataset.from_generator(lambda: iter(rows), features=features)
    assert data.features == features
    assert data.data.table["depth_map"][1].as_py()["bytes"].startswith(b"\x89PNG")
    assert decode_record(data[0]).values is None
    for read in (data[1], data.cast_column("image", type(features["image"])(decode=False))[1]):
        sample, original = decode_record(read), decode_record(rows[1])
        assert np.array_equal(sample.values, original.values)
        assert np.array_equal(sample.sky, original.sky)
        assert np.array_equal(np.asarray(sample.image), PHOTO)
        assert sample.group == "a"
