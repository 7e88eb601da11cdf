import io
import math

import numpy as np
import pytest
from PIL import Image

from depth_anything_hf.data.codes import depth_map_to_image
from depth_anything_hf.data.records import DepthSample, decode_record, encode_record, encode_sample, record_features

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


# --- own_size


def own_size(size, codes=((2, 4, 6), (8, 0, 12)), **changes):
    """A record whose label is 3 wide and 2 high, and its image of another size (width, height)."""
    return row(codes, image=Image.new("RGB", size, (9, 8, 7)), own_size=True, **changes)


@pytest.mark.parametrize("size", [(6, 4), (3, 2), (1, 1), (5, 3), (60, 40)])
def test_own_size__brings_the_image_to_the_label(size):
    sample = decode_record(own_size(size))
    assert sample.image.size == (3, 2)
    assert np.asarray(sample.image).reshape(-1, 3).tolist() == [[9, 8, 7]] * 6
    assert sample.values.tolist() == [[1.0, 2.0, 3.0], [4.0, 0.0, 6.0]]
    assert sample.mask.tolist() == [[True, True, True], [True, False, True]]


def test_own_size__covers_the_whole_image():
    halves = np.zeros((40, 60, 3), np.uint8)
    halves[:, 30:] = 255
    sample = decode_record(row(np.ones((2, 4)), image=Image.fromarray(halves), own_size=True))
    assert np.abs(np.asarray(sample.image)[..., 0].astype(int) - [[0, 0, 255, 255]] * 2).max() <= 25  # bicubic


@pytest.mark.parametrize("stated", [{}, {"own_size": False}, {"own_size": None}])
def test_own_size__has_to_be_stated(stated):
    record = own_size((6, 4))
    del record["own_size"]
    with pytest.raises(ValueError, match=r"depth_map is 3 x 2 and the image 6 x 4 \(width x height\)"):
        decode_record(record | stated)


def test_own_size__scales_the_intrinsics():
    sample = decode_record(own_size((6, 8), intrinsics=[10.0, 20.0, 3.0, 4.0]))  # to 3 x 2: a half and a quarter
    assert sample.intrinsics == (5.0, 5.0, 1.5, 1.0)
    assert decode_record(own_size((6, 8))).intrinsics is None


def test_own_size__refuses_a_sky_mask():
    for sky in (Image.new("L", (6, 4)), Image.new("L", (3, 2))):
        with pytest.raises(ValueError, match=r"record made by hand.*sky_mask"):
            decode_record(own_size((6, 4), sky_mask=sky))
    with pytest.raises(ValueError, match="a label of its own size has its sky as disparity 0: drop it"):
        decode_record(own_size((6, 4), sky_mask=Image.new("L", (6, 4))))
    assert decode_record(own_size((6, 4), sky_mask=None)).sky is None


def test_own_size__is_that_of_the_upright_image():
    quarters = np.zeros((20, 40, 3), np.uint8)  # 40 wide as stored, 20 wide upright
    quarters[:, 20:] = 255
    exif = Image.Exif()
    exif[ORIENTATION] = 6  # a quarter turn clockwise: what was right comes to lie below
    image = {"bytes": png_bytes(Image.fromarray(quarters), exif=exif), "path": None}
    sample = decode_record(row(np.ones((4, 2)), image=image, own_size=True, intrinsics=[10, 10, 10, 20]))
    assert sample.image.size == (2, 4)
    found = np.asarray(sample.image)[..., 0].astype(int)
    assert np.abs(found - [[0, 0], [0, 0], [255, 255], [255, 255]]).max() <= 25  # bicubic
    assert sample.intrinsics == (1.0, 1.0, 1.0, 2.0)  # of 20 x 40 upright pixels


def test_own_size__of_a_photograph_without_label_means_nothing():
    sample = decode_record({"image": Image.new("RGB", (6, 4)), "own_size": True, "intrinsics": [1, 2, 3, 4]})
    assert (sample.image.size, sample.values, sample.intrinsics) == ((6, 4), None, (1.0, 2.0, 3.0, 4.0))


def test_own_size__is_written_at_the_size_of_the_label(tmp_path):
    from depth_anything_hf.data.folder import load_folder, write_image_folder

    record = own_size((6, 4), intrinsics=[10.0, 20.0, 3.0, 4.0])
    (read,) = load_folder(write_image_folder([record], tmp_path))
    assert read["image"].size == (3, 2)
    written, given = decode_record(read), decode_record(record)
    assert np.array_equal(written.values, given.values)
    assert written.intrinsics == given.intrinsics == (5.0, 10.0, 1.5, 2.0)


# --- broken rules


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


def test_decode_record__gives_a_decoded_sample_back_unchanged():
    sample = decode_record(row([[0, 2]], group="room"))
    assert decode_record(sample) is sample


def test_encode_sample__makes_the_record_of_a_sample():
    values = np.array([[2.0, 0.0, 3.0]], np.float32)
    mask = np.array([[True, False, False]])
    sky = np.array([[False, True, False]])
    image = Image.new("RGB", (3, 1), (7, 8, 9))
    sample = DepthSample(image, values, mask, "depth", sky, (1.0, 2.0, 3.0, 4.0), "a.png", "room")
    record = encode_sample(sample)
    assert (record["group"], record["source"], record["intrinsics"]) == ("room", "a.png", [1.0, 2.0, 3.0, 4.0])
    again = decode_record(record)
    assert again.values.tolist() == [[2.0, 0.0, 0.0]]  # 3.0 was not under the mask
    assert (again.mask.tolist(), again.sky.tolist()) == (mask.tolist(), sky.tolist())
    assert (again.space, again.image.getpixel((0, 0))) == ("depth", (7, 8, 9))


def test_encode_sample__of_a_disparity_and_of_a_photograph():
    disparity = DepthSample(Image.new("RGB", (2, 1)), np.array([[0.0, 2.0]]), np.array([[True, True]]), "disparity")
    record = encode_sample(disparity)
    assert record["space"] == "disparity"
    assert "group" not in record
    assert decode_record(record).values.tolist() == [[0.0, 2.0]]
    photograph = decode_record(encode_sample(DepthSample(Image.new("RGB", (2, 1)))))
    assert (photograph.values, photograph.mask, photograph.space) == (None, None, None)


# --- the shape of a label of its own size


def turned_photo(width, height, orientation):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return {"bytes": png_bytes(Image.new("RGB", (width, height)), exif=exif), "path": None}


@pytest.mark.parametrize(
    ("photo", "label"),  # width and height
    [
        ((1920, 1440), (256, 192)),
        ((1920, 1440), (255, 192)),  # a pixel of rounding
        ((640, 480), (686, 518)),  # the input of a network, in multiples of 14
        ((1000, 667), (784, 518)),
        ((427, 640), (518, 770)),
        ((33, 100), (17, 50)),
    ],
)
def test_own_size__rounding_is_no_other_shape(photo, label):
    record = row(np.ones(label[::-1]), image=Image.new("RGB", photo), own_size=True)
    assert decode_record(record).image.size == label


@pytest.mark.parametrize(
    ("image", "label", "fits_turned"),
    [
        (Image.new("RGB", (1440, 1920)), (256, 192), True),
        (Image.new("RGB", (1920, 1440)), (192, 256), True),
        (turned_photo(192, 144, 6), (256, 192), True),
        (turned_photo(192, 144, 5), (256, 192), True),
        (Image.new("RGB", (1920, 1440)), (320, 180), False),
        (Image.new("RGB", (1920, 1440)), (56, 28), False),
        (Image.new("RGB", (1920, 1440)), (192, 192), False),
        (Image.new("RGB", (1920, 1440)), (245, 192), False),  # 11 pixels of 256 are cropped
        (Image.new("RGB", (3, 2)), (30, 24), False),
    ],
)
def test_own_size__another_shape_is_refused(image, label, fits_turned):
    record = row(np.ones(label[::-1]), image=image, own_size=True)
    with pytest.raises(
        ValueError, match=r"record made by hand: depth_map is \d+ x \d+ and the upright image"
    ) as caught:
        decode_record(record)
    assert ("turned by a quarter" in str(caught.value)) == fits_turned


def test_own_size__photograph_turned_by_exif_in_every_reader(tmp_path):
    import json

    from datasets import Dataset

    from depth_anything_hf.data.folder import load_folder, stream_folder

    photo = turned_photo(40, 30, 6)  # upright: 30 x 40
    label = {"depth_scale": 0.5, "depth_offset": 0.0, "space": "depth", "own_size": True}
    for size, good in (((15, 20), True), ((20, 15), False)):
        folder = tmp_path / str(good)
        folder.mkdir()
        (folder / "a.png").write_bytes(photo["bytes"])
        codes = depth_map_to_image(np.ones(size[::-1], np.uint16))
        codes.save(folder / "d.png")
        names = {"file_name": "a.png", "depth_map_file_name": "d.png"}
        (folder / "metadata.jsonl").write_text(json.dumps(names | label) + "\n")
        (folder / "shards").mkdir()
        features = record_features(own_size=__import__("datasets").Value("bool"))
        rows = [{"image": photo, "depth_map": codes, "intrinsics": None, "source": "s"} | label]
        Dataset.from_list(rows, features=features).to_parquet(str(folder / "shards" / "a.parquet"))
        for record in (
            load_folder(folder)[0],
            load_folder(folder / "shards")[0],
            next(iter(stream_folder(folder / "shards"))),
        ):
            if good:
                assert decode_record(record).image.size == size
            else:
                with pytest.raises(ValueError, match="turned by a quarter"):
                    decode_record(record)


@pytest.mark.parametrize("streaming", [False, True])
def test_own_size__labels_of_a_network_that_squeezes(streaming, tmp_path):
    """`settings.json` says that the teacher squeezes every photograph: then the label has its shape."""
    import json

    from datasets import Dataset, Value

    from depth_anything_hf.data.folder import load_folder, stream_folder

    label = {
        "depth_scale": 0.5,
        "depth_offset": 0.0,
        "space": "depth",
        "own_size": True,
        "intrinsics": None,
        "source": "s",
    }
    rows = [
        {"image": Image.new("RGB", (40, 20)), "depth_map": depth_map_to_image(np.ones((24, 32), np.uint16))} | label
    ]
    Dataset.from_list(rows, features=record_features(own_size=Value("bool"))).to_parquet(str(tmp_path / "a.parquet"))

    def read():
        return decode_record(next(iter(stream_folder(tmp_path) if streaming else load_folder(tmp_path))))

    for aspect, good in ((None, False), (4 / 3, True)):
        (tmp_path / "settings.json").write_text(json.dumps({"preparation": {"aspect": aspect}}))
        if good:
            assert read().image.size == (32, 24)
        else:
            with pytest.raises(ValueError, match="may differ in size, not in shape"):
                read()


# --- what people pass instead


@pytest.mark.parametrize(
    "record",
    [(Image.new("RGB", (3, 1)), np.ones((1, 3))), [1, 2], np.ones((2, 3, 3)), "a.png", None, Image.new("L", (1, 1))],
)
def test_decode_record__of_no_mapping(record):
    with pytest.raises(TypeError, match=r"a record is a \w+; needed: a mapping with image, .*encode_record"):
        decode_record(record)


@pytest.mark.parametrize(
    ("given", "kind"),
    [
        ([[1.5, 2.5]], r"list \(float64, \(1, 2\)\)"),
        (np.ones((1, 2), np.uint16), r"ndarray \(uint16, \(1, 2\)\)"),
        (np.ones((1, 2, 1)), r"ndarray \(float64, \(1, 2, 1\)\)"),
        (__import__("torch").ones(1, 2), r"Tensor \(float32, \(1, 2\)\)"),
        ("depth/a.png", "str"),
        (7, "int"),
    ],
)
def test_decode_record__depth_map_of_another_kind(given, kind):
    with pytest.raises(
        ValueError, match=f"record made by hand: column 'depth_map' is {kind}; needed: .*encode_record"
    ):
        decode_record(row([[1, 2]], depth_map=given))


@pytest.mark.parametrize(
    "values",
    [
        [[1.0, 2.0]],
        [[[1.0], [2.0]]],
        [[[1.0, 2.0]]],
        np.array([[[1.0], [2.0]]]),
        __import__("torch").tensor([[1.0, 2.0]]),
    ],
)
def test_encode_record__takes_one_map_in_any_form(values):
    assert decode_record(encode_record(Image.new("RGB", (2, 1)), values)).values.tolist() == [[1.0, 2.0]]


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, bool])
def test_encode_record__refuses_8_bit_values_as_png_are(dtype):
    with pytest.raises(ValueError, match="8-bit depth map: values of type"):
        encode_record(Image.new("RGB", (2, 1)), np.ones((1, 2), dtype))


MATRIX = [[500.0, 0.0, 40.0], [0.0, 510.0, 30.0], [0.0, 0.0, 1.0]]


@pytest.mark.parametrize(
    "form", [list, np.array, lambda m: __import__("torch").tensor(m), lambda m: [tuple(r) for r in m]]
)
def test_intrinsics__a_matrix_is_read(form):
    expected = (500.0, 510.0, 40.0, 30.0)
    assert decode_record({"image": Image.new("RGB", (3, 2)), "intrinsics": form(MATRIX)}).intrinsics == expected
    assert encode_record(PHOTO, intrinsics=form(MATRIX))["intrinsics"] == list(expected)


@pytest.mark.parametrize(
    "wrong",
    [np.array(MATRIX).T, np.eye(4), np.array(MATRIX)[:2], np.zeros((3, 3)), [[1, 2, 3, 4]], 3 * np.array(MATRIX)],
)
def test_intrinsics__another_matrix_is_refused(wrong):
    with pytest.raises(ValueError, match=r"needed: \[fx, fy, cx, cy\] in image pixels, or the matrix"):
        decode_record({"image": Image.new("RGB", (3, 2)), "intrinsics": wrong})


def test_intrinsics__a_matrix_in_every_form_on_disk(tmp_path):
    import json

    import pyarrow.parquet as pq
    from datasets import Dataset

    from depth_anything_hf.data.folder import load_folder, stream_folder, write_image_folder

    folder = write_image_folder([encode_record(PHOTO, np.ones((2, 3)), intrinsics=[1, 1, 1, 1])] * 2, tmp_path / "set")
    lines = [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]
    rows = [line | {"intrinsics": [[500, 0, 40], [0, 510, 30], [0, 0, 1]]} for line in lines]
    (folder / "metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in rows))
    found = load_folder(folder)
    assert [decode_record(record).intrinsics for record in found] == [(500.0, 510.0, 40.0, 30.0)] * 2
    (tmp_path / "shards").mkdir()
    Dataset.from_list(list(found), features=found.features).to_parquet(str(tmp_path / "shards" / "a.parquet"))
    assert pq.read_metadata(tmp_path / "shards" / "a.parquet").num_rows == 2
    for record in (load_folder(tmp_path / "shards")[0], next(iter(stream_folder(tmp_path / "shards")))):
        assert decode_record(record).intrinsics == (500.0, 510.0, 40.0, 30.0)


def test_splits_instead_of_records(tmp_path):
    from datasets import Dataset, DatasetDict

    from depth_anything_hf.data.folder import write_image_folder

    splits = DatasetDict(train=Dataset.from_list([{"a": 1}]), test=Dataset.from_list([{"a": 2}]))
    with pytest.raises(
        ValueError, match=r"records is a DatasetDict of the splits \['train', 'test'\]; pass one .*\['train'\]"
    ):
        write_image_folder(splits, tmp_path / "out")
    with pytest.raises(ValueError, match="record is a DatasetDict"):
        decode_record(splits)


# --- coarse codes


NEAR = np.linspace(0.5, 5.5, 3000).reshape(50, 60)


@pytest.mark.parametrize("far", [655.35, 1e4, 65504.0, 1e10, 3e38])
def test_encode_record__warns_if_a_background_takes_the_codes(far):
    values = NEAR.copy()
    values[:5] = far
    with pytest.warns(
        UserWarning,
        match=r"record kitchen: 16 bits over its range, .* so that \d+% of its values change by more than 0.1 %",
    ):
        encode_record(Image.new("RGB", (60, 50)), values, source="kitchen")


@pytest.mark.parametrize(
    ("values", "space"),
    [
        (NEAR, "depth"),
        (np.where(NEAR > 5, np.inf, NEAR), "depth"),
        (np.where(NEAR > 5, 40.0, NEAR), "depth"),
        (np.full((50, 60), 1e10), "depth"),  # constant: exact
        (1 / NEAR, "disparity"),
        (np.where(NEAR > 3, 0.0, NEAR), "disparity"),  # much sky
        (np.linspace(0, 1, 3000).reshape(50, 60), "disparity"),
    ],
)
@pytest.mark.filterwarnings("error")
def test_encode_record__does_not_warn_of_usual_maps(values, space):
    encode_record(Image.new("RGB", (60, 50)), values, space=space)


def test_encode_record__warns_of_a_spike_in_disparity():
    values = 1 / NEAR
    values[0, 0] = 1e5
    with pytest.warns(UserWarning, match="record without source: 16 bits"):
        encode_record(Image.new("RGB", (60, 50)), values, space="disparity")


# --- sensor_map


def sensor_map(size, codes=((2, 4, 6), (8, 0, 12)), **changes):
    """A record whose map is 3 wide and 2 high, and its photograph of another size (width, height)."""
    return row(codes, image=Image.new("RGB", size, (9, 8, 7)), sensor_map=True, **changes)


@pytest.mark.parametrize("size", [(6, 4), (300, 200), (3, 2), (2, 1)])
def test_sensor_map__keeps_both_sizes(size):
    sample = decode_record(sensor_map(size, intrinsics=[10.0, 20.0, 3.0, 4.0]))
    assert (sample.image.size, sample.intrinsics) == (size, (10.0, 20.0, 3.0, 4.0))
    assert sample.values.tolist() == [[1, 2, 3], [4, 0, 6]]
    assert sample.mask.tolist() == [[True, True, True], [True, False, True]]


@pytest.mark.parametrize(
    ("map_size", "image_size"),
    [((192, 256), (1920, 1440)), ((192, 256), (1080, 1920)), ((256, 192), (1440, 1920)), ((480, 640), (480, 854))],
)
def test_sensor_map__of_another_aspect_is_refused(map_size, image_size):
    image = Image.new("RGB", image_size[::-1])
    with pytest.raises(ValueError, match=r"record made by hand: the depth map has shape .* turn both alike, or crop"):
        decode_record(row(np.ones(map_size), image=image, sensor_map=True))
    with pytest.raises(ValueError, match="their aspects must agree"):
        encode_record(image, np.ones(map_size), sensor_map=True)
    with pytest.raises(ValueError, match="their aspects must agree"):
        DepthSample(image, np.ones(map_size, np.float32))


@pytest.mark.parametrize(
    ("map_size", "image_size"), [((192, 256), (1440, 1920)), ((480, 640), (968, 1296)), ((24, 32), (1080, 1440))]
)
def test_sensor_map__survives_encoding_and_folders(map_size, image_size, tmp_path):
    from depth_anything_hf.data.folder import load_folder, write_image_folder

    depth = np.linspace(1, 5, np.prod(map_size)).reshape(map_size)
    sample = DepthSample(Image.new("RGB", image_size[::-1]), depth.astype(np.float32), depth > 0, "depth", source="a")
    record = encode_sample(sample)
    assert record["sensor_map"] is True
    (row_read,) = load_folder(write_image_folder([record], tmp_path / "set"))
    for again in (decode_record(record), decode_record(row_read)):
        assert again.image.size == image_size[::-1]
        assert np.abs(again.values - depth).max() < 4 / 65534
    assert "sensor_map" not in encode_sample(
        DepthSample(Image.new("RGB", (3, 2)), np.ones((2, 3)), np.ones((2, 3), bool))
    )


def test_sensor_map__of_the_unturned_photograph_is_refused():
    with pytest.raises(ValueError, match=r"the depth map has shape \(2, 3\), the upright image \(3, 2\)"):
        decode_record(row(np.ones((2, 3)), image=exif_photo(6), sensor_map=True))


def test_sensor_map__survives_parquet_and_streams(tmp_path):
    import datasets

    from depth_anything_hf.data.folder import load_folder, stream_folder

    records = [sensor_map((6, 4), intrinsics=None), row([[2, 4, 6]], sensor_map=None, intrinsics=None)]
    features = record_features(sensor_map=datasets.Value("bool"))
    datasets.Dataset.from_list(records, features=features).to_parquet(tmp_path / "a.parquet")
    for rows in (load_folder(tmp_path), stream_folder(tmp_path)):
        small, plain = map(decode_record, rows)
        assert (small.image.size, small.values.shape, plain.values.shape) == ((6, 4), (2, 3), (1, 3))


def test_sensor_map__has_its_sky_at_its_own_pixels():
    sky = Image.fromarray(np.array([[0, 0, 9, 9, 0, 0]] * 2 + [[0] * 6] * 2, dtype=np.uint8))
    for mask in (sky, sky.resize((3, 2), Image.Resampling.NEAREST)):
        sample = decode_record(sensor_map((6, 4), sky_mask=mask))
        assert sample.sky.tolist() == [[False, True, False], [False, False, False]]
        assert sample.values.tolist() == [[1, 0, 3], [4, 0, 6]]


@pytest.mark.parametrize("stated", [{}, {"sensor_map": False}, {"sensor_map": None}])
def test_sensor_map__has_to_be_stated(stated):
    record = sensor_map((6, 4))
    del record["sensor_map"]
    with pytest.raises(ValueError, match=r"depth_map is 3 x 2 and the image 6 x 4"):
        decode_record(record | stated)
