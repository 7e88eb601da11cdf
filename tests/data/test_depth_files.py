import re
import struct
import warnings

import h5py
import numpy as np
import OpenEXR
import pytest
from PIL import Image, PngImagePlugin, TiffImagePlugin

from depth_anything_hf.data.depth_files import DEPTH_EXTENSIONS, planar_from_distance, read_depth_file

INF, NAN = float("inf"), float("nan")
FLAT = np.array([[0.5, 2.25, 7.0], [100.125, 0.0, 3.0]], dtype=np.float32)


def save_exr(path, channels, header=None):
    OpenEXR.File(header or {}, channels).write(str(path))
    return path


def save_pfm(path, values, header="Pf\n{w} {h}\n-1.0\n", order="<"):
    height, width = values.shape[:2]
    rows = values[::-1].astype(f"{order}f4").tobytes()
    path.write_bytes(header.format(w=width, h=height).encode() + rows)
    return path


def save_float_tiff(path, values, compression=None, no_data=None):
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    if no_data is not None:
        tags[42113] = no_data
    Image.fromarray(np.asarray(values, np.float32)).save(path, compression=compression, tiffinfo=tags)
    return path


def save_hdf5(path, **arrays):
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            file.create_dataset(name.replace("__", "/"), data=array, compression="gzip")
    return path


def save_npz(path, **arrays):
    np.savez_compressed(path, **arrays)
    return path


def save_npy(path, array):
    np.save(path, array)
    return path


def save_png(path, array, **texts):
    info = PngImagePlugin.PngInfo()
    for name, text in texts.items():
        info.add_text(name, str(text))
    Image.fromarray(array).save(path, pnginfo=info)
    return path


def pack(values):
    """Four bytes of a little-endian float as B, G, R, A: what OpenCV writes for `values.view(np.uint8)` (TartanAir V2)."""
    blue, green, red, alpha = np.moveaxis(values.astype("<f4")[..., None].view(np.uint8), -1, 0)
    return np.stack([red, green, blue, alpha], axis=-1)


def read_file(path, space="depth", unit=None, **options):
    return read_depth_file(path, space, unit, **options)


def check(read, expected):
    """`expected`: values, 0 where there must be no label."""
    expected = np.asarray(expected, dtype=np.float64)
    np.testing.assert_allclose(read.values, expected, rtol=1e-6, atol=0)
    assert read.mask.tolist() == (expected > 0).tolist()
    assert read.mask.dtype == bool


FLOAT_FILES = {
    "a.exr": lambda path: save_exr(path, {"Z": FLAT}),
    "a.EXR": lambda path: save_exr(path, {"Y": FLAT.astype(np.float16)}),
    "a.pfm": lambda path: save_pfm(path, FLAT),
    "a.tif": lambda path: save_float_tiff(path, FLAT),
    "a.tiff": lambda path: save_float_tiff(path, FLAT, "tiff_lzw"),
    "a.h5": lambda path: save_hdf5(path, depth=FLAT, rgb=np.zeros((3, 2, 3), np.uint8)),
    "a.hdf5": lambda path: save_hdf5(path, dataset=FLAT.astype(np.float16)),
    "a.npy": lambda path: save_npy(path, FLAT.astype(">f8")),
    "a.npz": lambda path: save_npz(path, image=np.zeros((2, 3, 3)), depth=FLAT[None]),
    "a.png": lambda path: save_png(path, pack(FLAT)),
}


@pytest.mark.parametrize(("unit", "factor"), [("m", 1.0), ("cm", 0.01), ("mm", 0.001), (2.5, 2.5), ("0.25", 0.25)])
@pytest.mark.parametrize("name", FLOAT_FILES)
def test_read_depth_file__every_ending(tmp_path, name, unit, factor):
    path = FLOAT_FILES[name](tmp_path / name)
    read = read_file(path, unit=unit)
    check(read, FLAT.astype(np.float64) * factor)
    assert (read.space, read.scale, read.codes) == ("depth", factor, None)
    assert read.far is None if path.suffix.lower() != ".exr" else not read.far.any()
    for space in ("disparity", "inverse"):
        inverse = read_file(path, space, None if factor == 1 else factor, key=read.name or None)
        check(inverse, FLAT.astype(np.float64) * factor)
        assert (inverse.space, inverse.far) == ("disparity", None)


def test_read_depth_file__every_ending_has_a_test():
    assert {name[1:].lower() for name in FLOAT_FILES} == set(DEPTH_EXTENSIONS)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")  # what Pillow says of half a TIFF file
@pytest.mark.parametrize("name", FLOAT_FILES)
def test_read_depth_file__broken_and_missing_files_are_named(tmp_path, name):
    with pytest.raises(FileNotFoundError, match=re.escape(str(tmp_path / name))):
        read_file(tmp_path / name, unit="m")
    whole = FLOAT_FILES[name](tmp_path / name).read_bytes()
    for content in (b"", b"broken", whole[: len(whole) // 2]):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(OSError, match=rf"{re.escape(str(tmp_path / name))} cannot be read"):
            read_file(tmp_path / name, unit="m")


# OpenEXR


@pytest.mark.parametrize(
    "name",
    [
        *("ViewLayer.Depth.Z", "View Layer.Depth.Z", "RenderLayer.Depth.Z", "ViewLayer.Depth.V"),
        *("FinalImageMovieRenderQueue_WorldDepth.R", "FinalImagePWWorldDepth.R", "ImageDepth.R"),
        *("Z", "depth", "Depth", "D", "V", "Y"),
    ],
)
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_exr__depth_is_found_beside_a_picture_by_its_name(tmp_path, name, dtype):
    picture = {"ViewLayer.Combined.R": FLAT * 2, "ViewLayer.Combined.G": FLAT, "ViewLayer.Combined.B": FLAT * 3}
    path = save_exr(tmp_path / "a.exr", {**picture, "A": np.ones_like(FLAT), name: FLAT.astype(dtype)})
    read = read_file(path, unit="m")
    check(read, FLAT)
    assert read.name == name


@pytest.mark.parametrize("name", ["G", "anything.at all"])
def test_exr__the_only_channel(tmp_path, name):
    check(read_file(save_exr(tmp_path / "a.exr", {name: FLAT}), unit="m"), FLAT)


def test_exr__three_equal_channels_are_depth_and_others_are_refused(tmp_path):
    alpha = np.ones_like(FLAT)
    holes = np.where(FLAT == 7, NAN, FLAT).astype(np.float32)
    path = save_exr(tmp_path / "a.exr", {"R": holes, "G": holes, "B": holes, "A": alpha})
    check(read_file(path, unit="m"), np.where(FLAT == 7, 0, FLAT))
    path = save_exr(tmp_path / "a.exr", {"R": FLAT, "G": FLAT, "B": FLAT * 2, "A": alpha})
    with pytest.raises(ValueError, match=r"a\.exr: .*\['A', 'B', 'G', 'R'\], none .*R, G and B differ.*Pass key="):
        read_file(path, unit="m")
    check(read_file(path, unit="m", key="B"), FLAT * 2)
    with pytest.raises(ValueError, match=r"a\.exr: channels .* none is called 'Z': pass key="):
        read_file(path, unit="m", key="Z")


@pytest.mark.parametrize(
    "names",
    [
        ("Normal.X", "Normal.Y", "Normal.Z"),
        ("Y", "RY", "BY"),
        ("U", "V"),
        ("ViewLayer.Depth.Z", "ViewLayer_001.Depth.Z"),
    ],
)
def test_exr__names_that_are_no_depth_are_not_guessed(tmp_path, names):
    path = save_exr(tmp_path / "a.exr", {name: FLAT + place for place, name in enumerate(names)})
    with pytest.raises(ValueError, match=rf"a\.exr: .*{re.escape(names[0])}.*Pass key="):
        read_file(path, unit="m")
    check(read_file(path, unit="m", key=names[-1]), FLAT + len(names) - 1)


@pytest.mark.parametrize(("part", "channel"), [("depth", "Z"), ("", "Z"), ("extra", "Depth.Z")])
def test_exr__looks_in_every_part(tmp_path, part, channel):
    parts = [
        OpenEXR.Part({}, {name: FLAT * factor for factor, name in enumerate("RGB", 1)}, "rgb"),
        OpenEXR.Part({}, {name: FLAT * factor for factor, name in enumerate(("N.X", "N.Y", "N.Z"), 4)}, "normals"),
        OpenEXR.Part({}, {channel: FLAT}, part or "other"),
    ]
    OpenEXR.File(parts).write(str(tmp_path / "a.exr"))
    check(read_file(tmp_path / "a.exr", unit="m"), FLAT)


@pytest.mark.parametrize(
    ("channel", "dtype", "values", "far"),
    [
        ("ViewLayer.Depth.Z", np.float32, [2.0, 1e10, 70000.0], [False, True, False]),
        ("ViewLayer.Depth.Z", np.float32, [2.0, 2e10, INF], [False, True, True]),
        ("V", np.float16, [2.0, INF, NAN], [False, True, False]),  # half turns 1e10 into infinity
        ("FinalImageMovieRenderQueue_WorldDepth.R", np.float16, [2.0, 65504.0, INF], [False, True, True]),
        ("FinalImageMovieRenderQueue_WorldDepth.R", np.float32, [2.0, 65504.0, 1e6], [False, True, True]),
    ],
)
def test_exr__background_is_far_and_no_label(tmp_path, channel, dtype, values, far):
    with np.errstate(over="ignore"):
        path = save_exr(tmp_path / "a.exr", {channel: np.array([values], dtype)})
    read = read_file(path, unit="cm")
    assert read.far.tolist() == [far]
    assert read.mask.tolist() == [
        [bool(np.isfinite(value)) and not away for value, away in zip(values, far, strict=True)]
    ]
    assert read.values[0, 0] == pytest.approx(0.02)
    assert (read.values[~read.mask] == 0).all()


def test_exr__pixels_outside_the_data_window_have_no_label(tmp_path):
    def window(*corners):
        return tuple(np.array(corner, np.int32) for corner in corners)

    for channels in ({"Z": FLAT}, {"Z": FLAT.astype(np.float16)}):
        header = {"dataWindow": window((1, 2), (3, 3)), "displayWindow": window((0, 0), (4, 3))}
        read = read_file(save_exr(tmp_path / "a.exr", channels, header), unit="m")
        expected = np.zeros((4, 5))
        expected[2:4, 1:4] = FLAT
        check(read, expected)
        assert not read.far.any()
        header = {
            "dataWindow": window((-1, -1), (1, 0)),
            "displayWindow": window((0, 0), (1, 1)),
        }  # rendered over the edge
        read = read_file(save_exr(tmp_path / "a.exr", channels, header), unit="m")
        check(read, [[0, 3], [0, 0]])


# PFM


@pytest.mark.parametrize(
    "header",
    [
        "Pf\n{w} {h}\n-1.0\n",
        "Pf\n{w} {h}\n-1\n",
        "Pf {w} {h} -1.000000000000 ",
        "Pf\n{w}\n{h}\n-1.000000e+00\n",
        "Pf\n{w}   {h}  \n-1.0\n",
        "Pf\r\n{w} {h}\r\n-1.0\r\n",
    ],
)
def test_pfm__every_way_to_write_the_header(tmp_path, header):
    check(read_file(save_pfm(tmp_path / "a.pfm", FLAT, header), unit="m"), FLAT)


def test_pfm__a_first_byte_that_looks_like_a_line_end_is_data(tmp_path):
    (first,) = struct.unpack("<f", b"\n\x00\x20\x41")
    values = np.array([[first, 1.0]], dtype=np.float32)
    check(read_file(save_pfm(tmp_path / "a.pfm", values), unit="m"), values)


def test_pfm__order_of_bytes_and_rows_and_infinity(tmp_path):
    values = np.array([[1.0, 2.0], [INF, NAN], [5.0, 6.0]])
    for order, scale in (("<", "-1"), (">", "1")):
        path = save_pfm(tmp_path / "a.pfm", values, f"Pf\n{{w}} {{h}}\n{scale}\n", order)
        read = read_file(path, "disparity")
        check(read, [[1, 2], [0, 0], [5, 6]])
    Image.fromarray(FLAT).save(tmp_path / "b.pfm")  # Pillow's own
    check(read_file(tmp_path / "b.pfm", unit="m"), FLAT)


def test_pfm__another_scale_leaves_the_values_and_warns(tmp_path):
    path = save_pfm(tmp_path / "a.pfm", FLAT, "Pf\n{w} {h}\n-0.003921568859\n")
    with pytest.warns(UserWarning, match=r"PFM file with scale 0\.00392157 .* taken as stored"):
        read = read_file(path, unit="m")
    check(read, FLAT)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read_file(save_pfm(tmp_path / "a.pfm", FLAT), unit="m")


def test_pfm__three_channels(tmp_path):
    holes = np.where(FLAT == 7, NAN, FLAT)
    path = save_pfm(tmp_path / "a.pfm", np.repeat(holes[..., None], 3, axis=2), "PF\n{w} {h}\n-1\n")
    check(read_file(path, unit="m"), np.where(FLAT == 7, 0, FLAT))
    save_pfm(tmp_path / "a.pfm", np.stack([FLAT, FLAT, FLAT * 2], axis=2), "PF\n{w} {h}\n-1\n")
    with pytest.raises(ValueError, match=r"a\.pfm: a PFM file of three channels that differ"):
        read_file(path, unit="m")


# TIFF, npy, npz, HDF5


def test_tiff__no_data_and_whole_numbers(tmp_path):
    path = save_float_tiff(tmp_path / "a.tif", [[-9999.0, 3.5, 1e20]], "tiff_deflate", no_data="1e+20")
    check(read_file(path, unit="m"), [[0, 3.5, 0]])
    codes = np.array([[0, 1, 65535]], np.uint16)
    Image.fromarray(codes).save(tmp_path / "b.tif")
    read = read_file(tmp_path / "b.tif", unit="mm")
    check(read, [[0, 0.001, 65.535]])
    assert read.codes.tolist() == codes.tolist()
    Image.new("RGB", (2, 2)).save(tmp_path / "c.tif")
    with pytest.raises(ValueError, match=r"c\.tif: a TIFF file of mode 'RGB'"):
        read_file(tmp_path / "c.tif", unit="m")


@pytest.mark.parametrize("dtype", ["<f2", ">f4", "f8", "u1", "<u2", ">i4", "i8"])
@pytest.mark.parametrize("shape", [(2, 3), (2, 3, 1), (1, 2, 3)])
def test_npy__types_and_shapes(tmp_path, dtype, shape):
    values = np.array([[1, 2, 100], [0, 4, 5]], dtype=dtype)
    read = read_file(save_npy(tmp_path / "a.npy", values.reshape(shape)), unit="m")
    check(read, values)
    assert (read.codes is not None) == (values.dtype == np.uint16)


def test_npy__what_is_no_map_is_refused(tmp_path):
    for array, message in (
        (np.ones((2, 3, 3)), r"float64 of shape \(2, 3, 3\); needed: numbers of shape"),
        (np.ones(4), r"float64 of shape \(4,\)"),
        (np.ones((2, 2), bool), "bool of shape"),
        (np.ones((2, 2), complex), "complex128 of shape"),
    ):
        with pytest.raises(ValueError, match=rf"a\.npy: the map is {message}"):
            read_file(save_npy(tmp_path / "a.npy", array), unit="m")
    np.save(tmp_path / "a.npy", np.array([{}]), allow_pickle=True)
    with pytest.raises(OSError, match=r"a\.npy cannot be read .*allow_pickle=False"):
        read_file(tmp_path / "a.npy", unit="m")


@pytest.mark.parametrize(("save", "ending", "kind"), [(save_npz, "npz", "arrays"), (save_hdf5, "h5", "HDF5 datasets")])
def test_keys(tmp_path, save, ending, kind):
    path = tmp_path / f"a.{ending}"
    for names in (["depth"], ["depths"], ["dataset"], ["pred"], ["data"], ["anything"]):
        read = read_file(save(path, **dict.fromkeys(names, FLAT)), unit="m")
        check(read, FLAT)
        assert read.name == names[0]
    save(path, depth=FLAT, distance=FLAT * 2, disparity=FLAT * 3, other=FLAT * 4)
    check(read_file(path, unit="m"), FLAT)
    check(read_file(path, "disparity"), FLAT * 3)
    assert read_file(path, "distance", "m", intrinsics=(1, 1, 1, 1)).name == "distance"
    check(read_file(path, unit="m", key="other"), FLAT * 4)
    with pytest.raises(ValueError, match=rf"a\.{ending}: {kind} .*none is called 'gone': pass key="):
        read_file(path, unit="m", key="gone")
    with pytest.raises(ValueError, match=rf"a\.{ending}: {kind} \['first', 'second'\]; none is called 'depth' or"):
        read_file(save(path, first=FLAT, second=FLAT), unit="m")


def test_hdf5__groups(tmp_path):
    path = save_hdf5(tmp_path / "a.h5", targets__gt_depth=FLAT, image=np.zeros((3, 2, 3)))
    check(read_file(path, unit="m", key="targets/gt_depth"), FLAT)
    with pytest.raises(ValueError, match="'image', 'targets/gt_depth'"):
        read_file(path, unit="m")


# PNG


def test_png__16_bit_codes_are_kept(tmp_path):
    codes = np.array([[0, 1, 30000, 65535]], np.uint16)
    path = save_png(tmp_path / "a.png", codes)
    read = read_file(path, unit=1 / 256, invalid=65535)
    check(read, [[0, 1 / 256, 30000 / 256, 0]])
    assert (read.codes.tolist(), read.scale) == ([[0, 1, 30000, 0]], 1 / 256)
    assert read_file(path, "distance", "mm", intrinsics=(1, 1, 2, 0.5)).codes is None


def test_png__float_in_four_bytes(tmp_path):
    values = np.array([[0.0, 1.5, 1234.5678, 1e5]], np.float32)
    check(read_file(save_png(tmp_path / "a.png", pack(values)), unit="m", invalid=1e5), [[0, 1.5, 1234.5678, 0]])
    for alpha in (0, 128, 255):
        save_png(tmp_path / "a.png", np.full((2, 2, 4), (10, 20, 30, alpha), np.uint8))
        with pytest.raises(ValueError, match=r"a\.png: an RGBA picture, not depth"):
            read_file(tmp_path / "a.png", unit="m")


@pytest.mark.parametrize(
    ("array", "mode"), [(np.zeros((2, 2), np.uint8), "L"), (np.zeros((2, 2, 3), np.uint8), "RGB")]
)
def test_png__8_bits_and_colors_are_refused(tmp_path, array, mode):
    with pytest.raises(ValueError, match=rf"a\.png: 8-bit depth map: image mode '{mode}'"):
        read_file(save_png(tmp_path / "a.png", array), unit="m")


def test_png__logarithmic_codes_of_moge(tmp_path):
    path = save_png(tmp_path / "a.png", np.array([[0, 1, 32767, 65534, 65535]], np.uint16), near=0.5, far=800.0)
    read = read_file(path, unit="m")
    middle = 0.5 ** (1 - 32766 / 65533) * 800 ** (32766 / 65533)
    check(read, [[0, 0.5, middle, 800, 0]])
    assert (read.far.tolist(), read.codes) == ([[False] * 4 + [True]], None)


# Options


def test_distance__becomes_depth_along_the_optical_axis(tmp_path):
    # a wall 2 m ahead: the distance grows with the angle
    u, v = np.meshgrid(np.arange(5) + 0.5, np.arange(4) + 0.5)
    fx, fy, cx, cy = 3.0, 4.0, 2.0, 1.5
    distance = np.linalg.norm(np.stack([(u - cx) / fx, (v - cy) / fy, np.ones_like(u)]), axis=0) * 2
    assert np.ptp(distance) > 0.5
    path = save_exr(tmp_path / "a.exr", {"Z": (distance * 1000).astype(np.float32)})
    check(read_file(path, "distance", "mm", intrinsics=(fx, fy, cx, cy)), np.full((4, 5), 2.0))
    assert planar_from_distance(distance, (fx, fy, cx, cy)) == pytest.approx(np.full((4, 5), 2.0), rel=1e-12)
    with pytest.raises(ValueError, match=r"space='distance' needs intrinsics=\(fx, fy, cx, cy\)"):
        read_file(path, "distance", "mm")


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.int32])
def test_invalid__values_are_compared_as_stored(tmp_path, dtype):
    value = 0.1 if np.dtype(dtype).kind == "f" else 7
    path = save_npy(tmp_path / "a.npy", np.array([[value, 2, 9]], dtype))
    check(read_file(path, unit="m", invalid=value), [[0, 2, 9]])
    check(read_file(path, unit="m", invalid=[value, 9, -1, 1e30, NAN]), [[0, 2, 0]])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, r"unit=None; a depth file does not tell its unit: it must be one of \('m', 'cm', 'mm'\), or a number"),
        ({"unit": "feet"}, "unit='feet'"),
        ({"unit": 0}, "unit=0; it must be"),
        ({"unit": -1.0}, "unit=-1.0"),
        ({"unit": INF}, "unit=inf"),
        ({"unit": "m", "space": "disparity"}, "unit='m' with space='disparity', which has no unit"),
        ({"unit": "m", "space": "metres"}, "space is 'metres'; it must be one of"),
    ],
)
def test_options__wrong_ones(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        read_file(save_npy(tmp_path / "a.npy", FLAT), **options)


@pytest.mark.parametrize("name", ["a.bin", "a.mat", "a.jpg", "a"])
def test_other_endings_are_named(tmp_path, name):
    with pytest.raises(ValueError, match=rf"{name} ends in '.*'; depth is read from \.exr, \.pfm, .*\.png"):
        read_file(tmp_path / name, unit="m")
