import numpy as np
import pytest
from PIL import Image

from depth_anything_hf.data.codes import depth_map_to_image, image_to_codes
from depth_anything_hf.data.pairs import load_pairs
from depth_anything_hf.data.records import decode_record, record_features


def pairs_folder(root, stem="s/a", **arrays):
    for part in ("rgb", "depth"):
        (root / part / stem).parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (3, 1)).save(root / "rgb" / f"{stem}.jpg")
    return root / "rgb", root / "depth"


@pytest.mark.parametrize(("unit", "factor"), [("m", 1.0), ("cm", 0.01), ("mm", 0.001)])
def test_png_pairs_keep_codes(tmp_path, unit, factor):
    rgb, depth = pairs_folder(tmp_path)
    codes = np.array([[0, 1, 65535]], dtype=np.uint16)
    depth_map_to_image(codes).save(depth / "s" / "a.png")
    pairs = load_pairs(rgb, depth, "depth", unit=unit)
    assert len(pairs) == 1
    record = pairs[0]
    assert (record["depth_scale"], record["depth_offset"], record["source"]) == (factor, 0.0, "s/a")
    assert np.array_equal(image_to_codes(record["depth_map"]), codes)
    assert decode_record(record).values[0].tolist() == pytest.approx([0, factor, 65535 * factor])
    assert [row.keys() for row in pairs] == [record.keys()] == [record_features().keys()]


@pytest.mark.parametrize("shape", [(1, 3), (1, 3, 1), (1, 1, 3)])
@pytest.mark.parametrize("kind", ["npy", "npz", "npz depth"])
def test_array_pairs(tmp_path, kind, shape):
    rgb, depth = pairs_folder(tmp_path)
    values = np.array([2000.0, -1.0, np.inf]).reshape(shape)
    if kind == "npy":
        np.save(depth / "s" / "a.npy", values)
    elif kind == "npz":
        np.savez(depth / "s" / "a.npz", anything=values)
    else:
        np.savez(depth / "s" / "a.npz", other=np.ones(shape), depth=values)
    sample = decode_record(load_pairs(rgb, depth, "depth", depth_scale=0.001)[-1])
    assert sample.values.tolist() == [[2.0, 0.0, 0.0]]
    assert sample.mask.tolist() == [[True, False, False]]


def test_disparity_pairs(tmp_path):
    rgb, depth = pairs_folder(tmp_path)
    np.savez(depth / "s" / "a.npz", depth=np.ones((1, 3)), disparity=np.array([[0.0, 2.0, np.nan]]))
    sample = decode_record(load_pairs(rgb, depth, "disparity")[0])
    assert (sample.space, sample.values.tolist()) == ("disparity", [[0.0, 2.0, 0.0]])


def test_pair_errors(tmp_path):
    rgb, depth = pairs_folder(tmp_path)
    np.savez(depth / "s" / "a.npz", first=np.ones((1, 3)), second=np.ones((1, 3)))
    for arguments, message in [
        ({"space": "metres"}, "space is 'metres'"),
        ({"space": "depth"}, "give exactly one"),
        ({"space": "depth", "unit": "m", "depth_scale": 1.0}, "give exactly one"),
        ({"space": "depth", "unit": "feet"}, "unit='feet'"),
        ({"space": "depth", "depth_scale": 0.0}, "depth_scale=0.0"),
        ({"space": "disparity", "unit": "m"}, "has no unit"),
    ]:
        with pytest.raises(ValueError, match=message):
            load_pairs(rgb, depth, **arguments)
    with pytest.raises(ValueError, match=r"a\.jpg.*a\.npz: arrays \['first', 'second'\]"):
        load_pairs(rgb, depth, "depth", unit="m")[0]
    np.savez(depth / "s" / "a.npz", np.ones((3, 1)))
    with pytest.raises(ValueError, match=r"values have shape \(3, 1\), the upright image \(1, 3\)"):
        load_pairs(rgb, depth, "depth", unit="m")[0]
    np.save(depth / "s" / "a.npy", np.ones((1, 3)))
    with pytest.raises(ValueError, match="share one stem"):
        load_pairs(rgb, depth, "depth", unit="m")
    with pytest.raises(FileNotFoundError, match="no photograph"):
        load_pairs(tmp_path / "gone", depth / "gone", "depth", unit="m")


def test_8_bit_and_wrong_size_png_pairs(tmp_path):
    rgb, depth = pairs_folder(tmp_path)
    Image.new("L", (3, 1)).save(depth / "s" / "a.png")
    with pytest.raises(ValueError, match=r"a\.png: 8-bit depth map"):
        load_pairs(rgb, depth, "depth", unit="mm")[0]
    depth_map_to_image(np.ones((3, 3), np.uint16)).save(depth / "s" / "a.png")
    with pytest.raises(ValueError, match="depth_map is 3 x 3 and the image 3 x 1"):
        load_pairs(rgb, depth, "depth", unit="mm")[0]


def test_missing_partners_are_named(tmp_path):
    rgb, depth = pairs_folder(tmp_path)
    with pytest.raises(ValueError, match=r"1 of 1 files have no label .*first \['s/a'\]"):
        load_pairs(rgb, depth, "depth", unit="m")
    np.save(depth / "s" / "a.npy", np.ones((1, 3)))
    np.save(depth / "b.npy", np.ones((1, 3)))
    with pytest.raises(ValueError, match=r"1 of 2 files have no image .*first \['b'\]"):
        load_pairs(rgb, depth, "depth", unit="m")


# --- other formats


METERS_OF_ROW = np.array([[1.5, 2.0, 4.0, 8.0]], dtype=np.float32).repeat(3, axis=0)


def write_exr(path):
    import OpenEXR

    depth = METERS_OF_ROW.copy()
    depth[0] = 1e10  # Blender's background
    OpenEXR.File({"type": OpenEXR.scanlineimage}, {"ViewLayer.Depth.Z": depth}).write(str(path))


def write_pfm(path):
    rows = METERS_OF_ROW[::-1].astype("<f4").tobytes()  # bottom-up
    path.write_bytes(b"Pf\n4 3\n-1.0\n" + rows)


def write_hdf5(path):
    import h5py

    with h5py.File(path, "w") as file:
        file["depth"] = METERS_OF_ROW


def write_tiff(path):
    Image.fromarray(METERS_OF_ROW).save(path)


@pytest.fixture
def one_photo(tmp_path):
    (tmp_path / "rgb").mkdir()
    (tmp_path / "depth").mkdir()
    Image.new("RGB", (4, 3)).save(tmp_path / "rgb" / "a.png")
    return tmp_path


@pytest.mark.parametrize(
    ("name", "write"), [("a.exr", write_exr), ("a.pfm", write_pfm), ("a.h5", write_hdf5), ("a.tif", write_tiff)]
)
def test_load_pairs__formats_of_renderers_and_cameras(one_photo, name, write):
    write(one_photo / "depth" / name)
    sample = decode_record(load_pairs(one_photo / "rgb", one_photo / "depth", "depth", unit="m")[0])
    np.testing.assert_allclose(sample.values[1:], METERS_OF_ROW[1:], rtol=1e-4)
    assert sample.mask[1:].all()
    assert sample.mask[0].all() == (name != "a.exr")
    assert (sample.sky is not None and sample.sky[0].all()) == (name == "a.exr")


def test_load_pairs__invalid_codes_are_no_labels(one_photo):
    codes = np.array([[1500, 65535, 0, 2000]] * 3, dtype=np.uint16)
    Image.fromarray(codes).save(one_photo / "depth" / "a.png")
    sample = decode_record(load_pairs(one_photo / "rgb", one_photo / "depth", "depth", unit="mm", invalid=65535)[0])
    assert sample.mask[0].tolist() == [True, False, False, True]
    assert sample.values[0, [0, 3]].tolist() == [1.5, 2.0]


def test_load_pairs__map_of_a_sensor_keeps_its_pixels(one_photo):
    np.save(one_photo / "depth" / "a.npy", np.float32([[1.0, 2.0]]))
    Image.new("RGB", (8, 4)).save(one_photo / "rgb" / "a.png")
    folders = one_photo / "rgb", one_photo / "depth", "depth"
    with pytest.raises(ValueError, match="record a"):
        decode_record(load_pairs(*folders, unit="m")[0])
    sample = decode_record(load_pairs(*folders, unit="m", sensor_map=True)[0])
    assert (sample.values.shape, sample.image.size) == ((1, 2), (8, 4))
