import inspect
import json
import pkgutil

import pytest

from depth_anything_hf.data.readers import READERS
from depth_anything_hf.evaluation.protocols import CROPS, PROTOCOLS, Protocol, crop_mask, protocol_for


def box(mask):
    """Top, bottom, left, right of the one rectangle that a mask keeps."""
    rows, columns = mask.any(dim=1).nonzero()[:, 0], mask.any(dim=0).nonzero()[:, 0]
    top, bottom, left, right = rows[0].item(), rows[-1].item() + 1, columns[0].item(), columns[-1].item() + 1
    assert mask.sum().item() == (bottom - top) * (right - left)
    return top, bottom, left, right


@pytest.mark.parametrize(
    ("crop", "size", "expected"),
    [
        ("eigen_nyu", (480, 640), (45, 471, 41, 601)),
        # 0.40810811 * 375 = 153.04, 0.99189189 * 375 = 371.96, 0.03594771 * 1242 = 44.65, 0.96405229 * 1242 = 1197.35
        ("garg", (375, 1242), (153, 371, 44, 1197)),
        # 0.3324324 * 375 = 124.66, 0.91351351 * 375 = 342.57
        ("eigen_kitti", (375, 1242), (124, 342, 44, 1197)),
        ("none", (3, 5), (0, 3, 0, 5)),
    ],
)
def test_crop_mask__literal(crop, size, expected):
    mask = crop_mask(crop, *size)
    assert tuple(mask.shape) == size
    assert box(mask) == expected


def test_crop_mask__nyu_pixels_at_another_size():
    with pytest.raises(ValueError, match="belongs to 480 x 640 pixels, the ground truth has 240 x 320"):
        crop_mask("eigen_nyu", 240, 320)


def test_protocol__unknown_crop():
    with pytest.raises(ValueError, match="crop is 'middle'; it must be one of none, eigen_nyu"):
        Protocol("mine", "folder", crop="middle")


@pytest.mark.parametrize("protocol", PROTOCOLS.values(), ids=PROTOCOLS)
def test_protocols__options_are_those_of_the_reader(protocol):
    if protocol.dataset == "folder":
        assert protocol.options == {}
        return
    given = {"split_file": "test.txt"} if protocol.dataset == "kitti" else {}  # the caller's
    reader = pkgutil.resolve_name(READERS[protocol.dataset])
    inspect.signature(reader).bind("root", **given, **protocol.options)
    assert protocol.crop in CROPS
    if not protocol.counts_pairs:
        assert (protocol.min_depth or 0) < protocol.max_depth
        assert protocol.images > 0
    assert protocol.source


def test_protocols__each_dataset_has_one_by_its_own_name():
    for dataset in {protocol.dataset for protocol in PROTOCOLS.values()}:
        assert protocol_for(dataset) is PROTOCOLS[dataset]
        assert PROTOCOLS[dataset].dataset == dataset


def test_protocol_for__variant():
    assert protocol_for("nyuv2", "nyuv2-filled").options["labels"] == "filled"


def test_protocol_for__unknown_dataset():
    with pytest.raises(
        ValueError, match="dataset is 'mars'; there are protocols for da2k, ddad, diode, eth3d, folder, kitti"
    ):
        protocol_for("mars")


@pytest.mark.parametrize("name", ["nyuv2", "garg"])
def test_protocol_for__of_another_dataset(name):
    with pytest.raises(ValueError, match=f"protocol '{name}' is none of kitti's; it has kitti, kitti-eigen-crop"):
        protocol_for("kitti", name)


@pytest.mark.parametrize("protocol", PROTOCOLS.values(), ids=PROTOCOLS)
def test_as_json__is_json_and_the_whole_protocol(protocol):
    written = json.loads(json.dumps(protocol.as_json(), allow_nan=False))
    assert Protocol(**written) == protocol
