import importlib
import inspect
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from depth_anything_hf.data.readers import READERS, open_reader
from depth_anything_hf.data.readers.base import (
    Samples,
    half_integer_intrinsics,
    import_extra,
    make_sample,
    nearest_depth,
    read_rgb,
)

NAN, INF = float("nan"), float("inf")


def double(root, entry):
    return 2 * entry


def squares(**options):
    return Samples("squares", "all", Path("folder"), "Expected: numbers.", [1, 2, 3], double, **options)


@pytest.mark.parametrize("name", READERS)
def test_open_reader__knows_every_benchmark(name, tmp_path):
    module, function = READERS[name].split(":")
    reader = getattr(importlib.import_module(module), function)
    assert next(iter(inspect.signature(reader).parameters)) == "root"
    options = {"split_file": tmp_path / "frames.txt"} if name == "kitti" else {}
    with pytest.raises(FileNotFoundError, match="Expected: "):
        open_reader(name, tmp_path / "missing", **options)


def test_open_reader__passes_options_on_and_refuses_unknown_names():
    with pytest.raises(ValueError, match=r"benchmark is 'nyu'; it must be one of \('nyuv2', 'kitti', .*'da2k'\)"):
        open_reader("nyu", ".")
    with pytest.raises(ValueError, match=r"render_pass is 'albedo'; it must be one of \('final', 'clean'\)"):
        open_reader("sintel", ".", render_pass="albedo")
    with pytest.raises(TypeError, match="no_such_option"):
        open_reader("sintel", ".", no_such_option=1)


def test_samples__are_a_sequence():
    samples = squares(left_out=4)
    assert (len(samples), list(samples), samples[-1], samples.left_out) == (3, [2, 4, 6], 6, 4)
    assert list(samples[1:]) == [4, 6]
    assert len(samples[3:]) == 0
    assert (samples[1:].name, samples[1:].split) == ("squares", "all")
    assert list(pickle.loads(pickle.dumps(samples))) == [2, 4, 6]
    with pytest.raises(IndexError):
        samples[3]


def test_samples__warn_when_the_split_is_not_the_official_one():
    with pytest.warns(UserWarning, match="squares, all: 3 samples at folder, 654 in the official split"):
        assert squares(official=654).official == 654
    squares(official=3)[:1]  # no warning: the suite would show it


def test_samples__an_empty_split_is_an_error():
    with pytest.raises(FileNotFoundError, match=r"folder: no sample of a, b \(2 left out\)\. Expected: numbers\."):
        Samples("a", "b", Path("folder"), "Expected: numbers.", [], double, left_out=2)


def test_nearest_depth__keeps_the_nearest_point_inside_the_image():
    columns = np.array([1, 1, 1, 0, 2, -1, 0, 0.0])
    rows = np.array([0, 0, 0, 1, 0, 0, 2, 0.0])
    depth = np.array([5.0, 3.0, 4.0, 7.0, 1.0, 1.0, 1.0, -2.0])
    drawn = nearest_depth(columns, rows, depth, 2, 2)
    assert drawn.tolist() == [[0.0, 3.0], [7.0, 0.0]]
    assert drawn.dtype == np.float32
    assert nearest_depth(columns[:0], rows[:0], depth[:0], 1, 2).tolist() == [[0.0, 0.0]]


@pytest.mark.parametrize(("first_center", "expected"), [(1, (2.5, 1.5)), (0, (3.5, 2.5)), (0.5, (3.0, 2.0))])
def test_half_integer_intrinsics__moves_the_principal_point_only(first_center, expected):
    assert half_integer_intrinsics(5, 6, 3, 2, first_center) == (5.0, 6.0, *expected)


def test_make_sample__marks_what_is_a_label():
    values = np.array([[2.0, 0.0, -1.0, NAN, INF, 3.0, 4.0]])
    mask = np.array([[True, True, True, True, True, False, True]])
    sky = np.array([[False, False, False, False, False, False, True]])
    sample = make_sample(Image.new("RGB", (7, 1)), values, "a.png", "room", mask=mask, sky=sky)
    assert sample.values.tolist() == [[2.0, 0, 0, 0, 0, 0, 0]]
    assert sample.mask.tolist() == [[True] + [False] * 6]
    assert sample.sky.tolist() == sky.tolist()
    with pytest.raises(ValueError, match=r"a\.png: the depth map has shape \(1, 7\), the image \(7, 1\)"):
        make_sample(Image.new("RGB", (1, 7)), values, "a.png", None)


def test_read_rgb__keeps_the_pixels_as_stored(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # says: turn by 90 degrees
    Image.new("L", (3, 2), 7).save(tmp_path / "a.png", exif=exif)
    image = read_rgb(tmp_path / "a.png")
    assert (image.size, image.mode, image.getpixel((0, 0)), len(image.getexif())) == ((3, 2), "RGB", (7, 7, 7), 0)


def test_import_extra__says_how_to_install(monkeypatch):
    def missing(name, *args, **kwargs):
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(ImportError, match=r"read with scipy, .*pip install 'depth_anything_hf\[benchmarks\]'"):
        import_extra("scipy.io")


@pytest.mark.parametrize(
    "name", ["/etc/hostname", "../../secret.png", "https://example.org/a.png", "zip://a.png::b.zip"]
)
def test_lists_name_files_below_the_root_alone(name, tmp_path):
    from depth_anything_hf.data.readers.base import listed

    with pytest.raises(ValueError, match=r"list\.txt: .*a record names files below"):
        listed(name, tmp_path / "list.txt")
    (tmp_path / "annotations.json").write_text(json.dumps({name: []}))
    with pytest.raises(ValueError, match=r"annotations\.json: "):
        open_reader("da2k", tmp_path)
    for line in (
        f"{name}/data/0000000069.png None",
        f"2011_09_26/image_02/data/1.png {name}/proj_depth/1.png 721.5",
        f"{name} 69 l",
    ):
        (tmp_path / "list.txt").write_text(line + "\n")
        with pytest.raises(ValueError, match=r"list\.txt(: .*a record names files below|, line 1 is .*; needed: )"):
            open_reader("kitti", tmp_path, split_file=tmp_path / "list.txt")
    (tmp_path / "ddad.json").write_text(json.dumps({"scene_splits": {"1": {"filenames": [name]}}}))
    with pytest.raises(ValueError, match=r"ddad\.json: "):
        open_reader("ddad", tmp_path)
