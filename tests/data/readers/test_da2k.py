import json
import pickle

import pytest

from depth_anything_hf.data.readers.da2k import read_da2k

PAIRS = [
    {"point1": [0, 5], "point2": [3, 1], "closer_point": "point1"},
    {"point1": [2, 4], "point2": [1, 0], "closer_point": "point2"},
]


@pytest.fixture
def da2k(tmp_path, save_photo):
    names = ["images/indoor/a.jpg", "images/non_real/b.png"]
    for name in names:
        save_photo(tmp_path / name, 4, 6)
    annotate(tmp_path, {names[0]: PAIRS, names[1]: PAIRS[1:]})
    return tmp_path


def annotate(root, annotations):
    (root / "annotations.json").write_text(json.dumps(annotations))


def test_read_da2k__reads_points_as_row_and_column(da2k):
    samples = read_da2k(da2k)
    assert (len(samples), samples.name) == (2, "da2k")
    first = samples[0]
    assert first.pairs.tolist() == [[[0, 5], [3, 1]], [[2, 4], [1, 0]]]  # 4 rows, 6 columns: 5 can only be a column
    assert (first.source, first.scene, first.image.size) == ("images/indoor/a.jpg", "indoor", (6, 4))
    assert (samples[1].scene, samples[1].pairs.shape) == ("non_real", (1, 2, 2))


def test_read_da2k__reads_which_point_is_closer(da2k):
    assert [sample.closer.tolist() for sample in read_da2k(da2k)] == [[0, 1], [1]]


def test_read_da2k__is_lazy_and_picklable(da2k):
    samples = pickle.loads(pickle.dumps(read_da2k(da2k)))
    (da2k / "images/non_real/b.png").write_bytes(b"broken")
    assert samples[0].closer.tolist() == [0, 1]
    with pytest.raises(OSError, match=r"b\.png cannot be read"):
        samples[1]
    (da2k / "images/non_real/b.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"b\.png is missing\. Expected: annotations\.json .*huggingface"):
        samples[1]


@pytest.mark.parametrize(
    "change",
    [{"closer_point": "point3"}, {"closer_point": None}, {"point1": [1]}, {"point2": [0.5, 1]}, {"point2": None}],
)
def test_read_da2k__refuses_annotations_of_another_form(da2k, change):
    annotate(da2k, {"images/indoor/a.jpg": [PAIRS[0] | change]})
    with pytest.raises(ValueError, match=r"annotations\.json: images/indoor/a\.jpg has the pair .*; needed: point1"):
        read_da2k(da2k)


@pytest.mark.parametrize("point", [[5, 0], [4, 0], [0, 6], [-1, 0]])
def test_read_da2k__refuses_a_point_outside_the_image(da2k, point):
    annotate(da2k, {"images/indoor/a.jpg": [PAIRS[0] | {"point2": point}]})
    with pytest.raises(ValueError, match=r"a\.jpg: a point lies outside the image of 4 x 6 \(height x width\)"):
        read_da2k(da2k)[0]


def test_read_da2k__errors(da2k):
    (da2k / "annotations.json").write_text("[1, 2]")
    with pytest.raises(OSError, match=r"annotations\.json cannot be read"):
        read_da2k(da2k)
    (da2k / "annotations.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"annotations\.json is missing\. Expected: .*huggingface"):
        read_da2k(da2k)
