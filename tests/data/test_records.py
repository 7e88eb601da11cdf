import io
import math

import numpy as np
import pytest
from PIL import Image

from depth_anything_hf.data.records import (
    DepthSample,
    decode_depth_map,
    decode_record,
    depth_map_to_image,
    encode_depth_map,
    encode_record,
    image_to_codes,
    labels_for,
    record_features,
)

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


# ---------------------------------------------------------------------------------------------------- codes


def test_encode_literal():
    codes, scale, offset = encode_depth_map(np.array([[1.0, 2.0], [3.0, NAN]]))
    assert codes.dtype == np.uint16
    assert codes.tolist() == [[1, 32768], [65535, 0]]
    assert scale == 2 / 65534
    assert offset == 1 - 2 / 65534


def test_decode_literal():
    values, mask = decode_depth_map(np.array([[0, 1, 4]], dtype=np.uint16), 0.25, -0.25)
    assert values.dtype == np.float32
    assert values.tolist() == [[0.0, 0.0, 0.75]]
    assert mask.tolist() == [[False, True, True]]


@pytest.mark.parametrize("constant", [0.0, 2.5, -7.25, 1e-9, 3e30])
def test_constant_map_is_exact(constant):
    codes, scale, offset = encode_depth_map(np.full((2, 2), constant))
    assert codes.tolist() == [[1, 1], [1, 1]]
    assert math.isfinite(scale)
    assert scale > 0
    assert decode_depth_map(codes, scale, offset)[0].tolist() == [[float(np.float32(constant))] * 2] * 2


def test_empty_mask():
    for arguments in [(np.full((2, 3), NAN),), (np.ones((2, 3)), np.zeros((2, 3), bool)), (np.zeros((0, 3)),)]:
        codes, scale, offset = encode_depth_map(*arguments)
        assert not codes.any()
        assert (scale, offset) == (1.0, 0.0)


def test_zero_disparity_stays_exactly_zero():
    codes, scale, offset = encode_depth_map(np.array([[0.0, 0.3, 7.7]]))
    assert decode_depth_map(codes, scale, offset)[0][0, 0] == 0.0


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    ("low", "high"), [(0.1, 80.0), (-5.0, 5.0), (1e-30, 1e-29), (1000.0, 1000.001), (-1e38, 1e38), (0.0, 1e-40)]
)
@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (13, 9)])
def test_round_trip_is_within_half_a_code(seed, low, high, shape):
    rng = np.random.default_rng(seed)
    values = rng.uniform(low, high, shape)
    mask = rng.random(shape) < 0.8
    codes, scale, offset = encode_depth_map(values, mask)
    decoded, decoded_mask = decode_depth_map(codes, scale, offset)
    assert (decoded_mask == mask).all()
    assert (decoded[~mask] == 0).all()
    if not mask.any():
        return
    rounding = np.abs(values).max() * 2.0**-23 + np.finfo(np.float32).smallest_subnormal
    assert np.abs(decoded - values)[mask].max() <= scale / 2 + rounding
    # the ends of the range have no quantisation error at all
    assert abs(float(decoded[mask].min()) - values[mask].min()) <= rounding
    assert abs(float(decoded[mask].max()) - values[mask].max()) <= rounding


@pytest.mark.parametrize("seed", range(20))
def test_ends_of_the_range_are_exact(seed):
    values = np.random.default_rng(seed).uniform(0.01, 1000, (5, 7)).astype(np.float32)
    decoded, _ = decode_depth_map(*encode_depth_map(values))
    assert (decoded.min(), decoded.max()) == (values.min(), values.max())


def test_encoding_twice_changes_nothing():
    values = np.random.default_rng(0).uniform(0.5, 90, (20, 20))
    codes, scale, offset = encode_depth_map(values)
    again, _, _ = encode_depth_map(decode_depth_map(codes, scale, offset)[0])
    assert np.array_equal(again, codes)


@pytest.mark.parametrize(
    ("values", "count"), [([[1.0, NAN]], "1 of 2"), ([[INF, -INF]], "2 of 2"), ([[1e39, 1]], "1 of 2")]
)
def test_not_finite_under_a_mask(values, count):
    with pytest.raises(ValueError, match=f"{count} values .*finite"):
        encode_depth_map(np.array(values), np.ones((1, 2), bool))


def test_encode_checks_shapes():
    with pytest.raises(ValueError, match=r"\(1, 2, 2\)"):
        encode_depth_map(np.ones((1, 2, 2)))
    with pytest.raises(ValueError, match=r"mask is float64 of shape \(2, 2\)"):
        encode_depth_map(np.ones((2, 2)), np.ones((2, 2)))


# ---------------------------------------------------------------------------------------------------- images


def test_codes_survive_png_bit_for_bit():
    codes = np.array([[0, 1, 255], [256, 32768, 65535]], dtype=np.uint16)
    image = depth_map_to_image(codes)
    assert (image.mode, image.format) == ("I;16", "PNG")
    again = Image.open(io.BytesIO(png_bytes(image)))
    assert again.mode == "I;16"
    assert (image_to_codes(again) == codes).all()


def test_other_16_bit_modes_are_read():
    codes = np.array([[1, 300, 65535]], dtype=np.uint16)
    big_endian = Image.frombytes("I;16B", (3, 1), codes.astype(">u2").tobytes())
    for image in (big_endian, Image.fromarray(codes.astype(np.int32))):
        read = image_to_codes(image)
        assert read.dtype == np.uint16
        assert read.tolist() == codes.tolist()


def test_wrong_depth_images_are_refused():
    for mode in ("L", "RGB", "P"):
        with pytest.raises(ValueError, match=f"8-bit depth map: image mode '{mode}'"):
            image_to_codes(Image.new(mode, (2, 2)))
    with pytest.raises(ValueError, match="float depth map"):
        image_to_codes(Image.new("F", (2, 2)))
    with pytest.raises(ValueError, match="codes from 70000 to 70000"):
        image_to_codes(Image.fromarray(np.array([[70000]], dtype=np.int32)))
    with pytest.raises(ValueError, match="int64"):
        depth_map_to_image(np.array([[1]]))


@pytest.mark.parametrize(
    ("mode", "colour", "expected"),
    [
        ("RGB", (10, 20, 30), (10, 20, 30)),
        ("RGBA", (10, 20, 30, 0), (10, 20, 30)),
        ("LA", (40, 0), (40, 40, 40)),
        ("La", (40, 255), (40, 40, 40)),
        ("RGBa", (10, 20, 30, 255), (10, 20, 30)),
        ("L", 77, (77, 77, 77)),
        ("1", 1, (255, 255, 255)),
        ("CMYK", (0, 0, 0, 0), (255, 255, 255)),
        ("YCbCr", (128, 128, 128), (128, 128, 128)),
        ("HSV", (0, 0, 200), (200, 200, 200)),
        ("I;16", 65535, (255, 255, 255)),
        ("I;16", 257 * 100, (100, 100, 100)),
        ("I", 257 * 100, (100, 100, 100)),
    ],
)
def test_every_image_mode_becomes_rgb(mode, colour, expected):
    image = decode_record({"image": Image.new(mode, (3, 2), colour)}).image
    assert (image.mode, image.size) == ("RGB", (3, 2))
    assert image.getpixel((1, 1)) == expected


def test_transparent_palette_keeps_its_colours(recwarn):
    image = Image.new("P", (2, 1))
    image.putpalette([200, 100, 50, 1, 2, 3])
    image.putpixel((1, 0), 1)
    record = {"image": {"bytes": png_bytes(image, transparency=b"\x00\xff"), "path": None}}
    assert np.asarray(decode_record(record).image).tolist() == [[[200, 100, 50], [1, 2, 3]]]
    assert not recwarn.list


def test_float_image_is_refused():
    with pytest.raises(ValueError, match="mode 'F'"):
        decode_record({"image": Image.new("F", (2, 2))})


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


# ---------------------------------------------------------------------------------------------------- records


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
    with pytest.raises(ValueError, match="unlabelled"):
        labels_for(sample, "relative")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"space": "inverse"}, r"space='inverse'; it must be one of \('depth', 'disparity'\)"),
        ({"space": None}, "space=None"),
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
        ({"values": np.ones((2, 3)), "space": "metres"}, "space='metres'"),
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


# ---------------------------------------------------------------------------------------------------- labels


def test_relative_labels_of_a_depth_record():
    sky = Image.fromarray(np.array([[0, 0, 0, 255]], dtype=np.uint8))
    labels, mask = labels_for(decode_record(row([[0, 1, 8, 5]], sky_mask=sky)), "relative")
    assert labels.dtype == np.float32
    assert labels.tolist() == [[0.0, 2.0, 0.25, 0.0]]  # depths -, 0.5, 4, sky
    assert mask.tolist() == [[False, True, True, True]]


def test_metric_labels_leave_the_sky_out():
    sky = Image.fromarray(np.array([[0, 0, 0, 255]], dtype=np.uint8))
    labels, mask = labels_for(decode_record(row([[0, 1, 8, 5]], sky_mask=sky)), "metric")
    assert labels.tolist() == [[0.0, 0.5, 4.0, 0.0]]
    assert mask.tolist() == [[False, True, True, False]]


def test_disparity_records():
    sample = decode_record(row([[0, 1, 8]], space="disparity"))
    labels, mask = labels_for(sample, "relative")
    assert labels.tolist() == [[0.0, 0.5, 4.0]]
    assert mask.tolist() == [[False, True, True]]
    labels += 1  # the label is the caller's own
    assert sample.values[0, 1] == 0.5
    with pytest.raises(ValueError, match=r"made by hand: space='disparity' has an unknown scale.*relative"):
        labels_for(sample, "metric")
    with pytest.raises(ValueError, match="target='disparity'"):
        labels_for(sample, "disparity")


def test_inverse_depth_never_overflows():
    image = Image.new("RGB", (2, 1))
    values, mask = np.array([[1e-40, 1.0]], np.float32), np.array([[True, True]])
    labels, label_mask = labels_for(DepthSample(image, values, mask, "depth"), "relative")
    assert labels.tolist() == [[0.0, 1.0]]
    assert label_mask.tolist() == [[False, True]]


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
