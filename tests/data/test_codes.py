import io
import math

import numpy as np
import pytest
from PIL import Image

from depth_anything_hf.data.codes import (
    bool_map,
    decode_depth_map,
    depth_map_to_image,
    encode_depth_map,
    image_to_codes,
    image_to_sky,
    open_image,
    sky_to_image,
    upright_rgb,
)

NAN, INF = math.nan, math.inf


def png_bytes(image, **options):
    buffer = io.BytesIO()
    image.save(buffer, "PNG", **options)
    return buffer.getvalue()


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
    image = upright_rgb(Image.new(mode, (3, 2), colour))
    assert (image.mode, image.size) == ("RGB", (3, 2))
    assert image.getpixel((1, 1)) == expected


def test_transparent_palette_keeps_its_colors(recwarn):
    image = Image.new("P", (2, 1))
    image.putpalette([200, 100, 50, 1, 2, 3])
    image.putpixel((1, 0), 1)
    stored = open_image({"bytes": png_bytes(image, transparency=b"\x00\xff"), "path": None}, "image")
    assert stored.mode == "P"
    assert np.asarray(upright_rgb(stored)).tolist() == [[[200, 100, 50], [1, 2, 3]]]
    assert not recwarn.list


def test_float_image_is_refused():
    with pytest.raises(ValueError, match="mode 'F'"):
        upright_rgb(Image.new("F", (2, 2)))


@pytest.mark.parametrize(
    ("orientation", "turn"), [(1, lambda x: x), (2, np.fliplr), (3, lambda x: np.rot90(x, 2)), (8, np.rot90)]
)
def test_exif_rotation_is_applied_once(orientation, turn):
    photo = np.arange(18, dtype=np.uint8).reshape(2, 3, 3)
    exif = Image.Exif()
    exif[0x0112] = orientation
    once = upright_rgb(open_image({"bytes": png_bytes(Image.fromarray(photo), exif=exif), "path": None}, "image"))
    assert np.array_equal(np.asarray(once), turn(photo))
    assert np.array_equal(np.asarray(upright_rgb(once)), turn(photo))


def test_open_image_refuses_other_types():
    for value in (None, np.ones((2, 2)), "a.png", {"bytes": None, "path": None}):
        with pytest.raises(ValueError, match=f"column 'sky_mask' is {type(value).__name__}"):
            open_image(value, "sky_mask")


def test_sky_masks():
    sky = np.array([[True, False, True]])
    image = sky_to_image(sky)
    assert (image.mode, image.format, list(image.tobytes())) == ("L", "PNG", [255, 0, 255])
    assert image_to_sky(Image.open(io.BytesIO(png_bytes(image)))).tolist() == sky.tolist()
    assert image_to_sky(image.convert("1")).tolist() == sky.tolist()
    assert image_to_sky(Image.fromarray(np.array([[0, 1, 300]], dtype=np.uint16))).tolist() == [[False, True, True]]
    with pytest.raises(ValueError, match="sky_mask has image mode 'RGB'"):
        image_to_sky(image.convert("RGB"))


def test_bool_map_takes_bool_maps_of_one_shape_only():
    assert bool_map([[True], [False]], (2, 1), "mask").tolist() == [[True], [False]]
    with pytest.raises(ValueError, match=r"sky is int64 of shape \(1, 2\); needed: bool of shape \(1, 2\)"):
        bool_map([[0, 1]], (1, 2), "sky")
    with pytest.raises(ValueError, match=r"sky is bool of shape \(2,\); needed: bool of shape \(1, 2\)"):
        bool_map([True, True], (1, 2), "sky")
