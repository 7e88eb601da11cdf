import json

import pytest

from depth_anything_hf.sharing.licenses import (
    Source,
    check_base,
    is_hub_id,
    license_id,
    license_of,
    license_text,
    settle_license,
    source_of,
)


@pytest.fixture(autouse=True)
def _no_network(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # the server's fixture lifts it


@pytest.mark.parametrize(
    ("name", "license"),
    [
        ("depth-anything/Depth-Anything-V2-Small-hf", "apache-2.0"),
        ("depth-anything/Depth-Anything-V2-Small", "apache-2.0"),
        ("depth-anything/Depth-Anything-V2-Metric-Outdoor-Small-hf", "unknown"),  # the Hub's page may know
        ("depth-anything/Depth-Anything-V2-Base-hf", "cc-by-nc-4.0"),
        ("depth-anything/Depth-Anything-V2-Large", "cc-by-nc-4.0"),
        ("depth-anything/Depth-Anything-V2-Giant", "cc-by-nc-4.0"),
        ("depth-anything/Depth-Anything-V2-Metric-Indoor-Base-hf", "cc-by-nc-4.0"),
        ("depth-anything/Depth-Anything-V2-Metric-Hypersim-Large", "cc-by-nc-4.0"),
        ("somebody/Depth-Anything-V2-Large-hf", "cc-by-nc-4.0"),  # a copy is bound as the original
        ("weights/depth_anything_v2_vitl.pth", "cc-by-nc-4.0"),
        ("depth_anything_v2_metric_vkitti_vitb.pth", "cc-by-nc-4.0"),
        ("LiheYoung/depth-anything-large-hf", "apache-2.0"),
        ("LiheYoung/depth_anything_vitl14", "apache-2.0"),
        ("facebook/dinov2-giant", "apache-2.0"),
        ("somebody/Depth-Anything-V2-Small-hf", "unknown"),  # which a copy need not be
        ("somebody/depth-anything-v2-large-of-my-own", "unknown"),
        ("student", "unknown"),
    ],
)
def test_license_of__official_weights(name, license):
    assert license_of(name) == license


@pytest.mark.parametrize(
    ("name", "license"),
    [("kitti:/data/kitti", "cc-by-nc-sa-3.0"), ("hypersim", "cc-by-sa-3.0"), ("nyuv2:/data/nyu", "unknown")],
)
def test_license_of__benchmarks(name, license):
    assert license_of(name, "dataset") == license
    assert license_of(name) == "unknown"  # no models


@pytest.mark.parametrize(
    ("card", "license"),
    [
        ("---\nlicense: mit\n---\n# x\n", "mit"),
        ("---\nlicense:\n- mit\n- cc-by-nc-4.0\n---\n", "cc-by-nc-4.0"),
        ("---\ntags:\n- x\n---\n", "unknown"),
        ("# just words\n", "unknown"),
        ("---\n- no\n- mapping\n---\n", "unknown"),
        ("", "unknown"),
    ],
)
@pytest.mark.parametrize("kind", ["model", "dataset"])
def test_license_of__folder_by_its_card(card, license, kind, tmp_path):
    (tmp_path / "README.md").write_text(card)
    assert license_of(str(tmp_path), kind) == license


def test_license_of__folder_without_a_card(tmp_path):
    (tmp_path / "Depth-Anything-V2-Large-hf").mkdir()
    (tmp_path / "Depth-Anything-V2-Small-hf").mkdir()
    assert license_of(str(tmp_path / "Depth-Anything-V2-Large-hf")) == "cc-by-nc-4.0"
    assert license_of(str(tmp_path / "Depth-Anything-V2-Small-hf")) == "unknown"  # a name promises nothing


@pytest.mark.parametrize(("size", "license"), [("Large", "cc-by-nc-4.0"), ("Small", "unknown")])
def test_license_of__adapter_is_at_least_that_of_its_base(size, license, tmp_path):
    base = {"base_model_name_or_path": f"depth-anything/Depth-Anything-V2-{size}-hf"}
    (tmp_path / "adapter_config.json").write_text(json.dumps(base))
    (tmp_path / "README.md").write_text("---\nlibrary_name: peft\n---\n# Model Card for Model ID\n")  # peft's own
    assert license_of(str(tmp_path)) == license


def test_license_of__asks_the_hub(hub):
    hub.add("she/model", {"README.md": b"---\nlicense: cc-by-sa-4.0\n---\n"})
    hub.add("she/rooms", {"README.md": b"---\nlicense: mit\n---\n"}, "dataset")
    hub.add("she/silent", {"config.json": b"{}"})
    assert license_of("she/model") == "cc-by-sa-4.0"
    assert license_of("she/rooms", "dataset") == "mit"
    assert [license_of(name) for name in ("she/silent", "she/rooms", "she/nobody")] == ["unknown"] * 3


@pytest.mark.parametrize(
    ("base", "data", "license"),
    [
        (["depth-anything/Depth-Anything-V2-Large-hf"], ["mit"], "cc-by-nc-4.0"),
        (["depth-anything/Depth-Anything-V2-Large-hf"], ["unknown"], "cc-by-nc-4.0"),
        (["depth-anything/Depth-Anything-V2-Large-hf"], ["cc-by-nc-sa-4.0"], "cc-by-nc-sa-4.0"),
        (["facebook/dinov2-small"], ["cc-by-nc-4.0"], "cc-by-nc-4.0"),
        (["facebook/dinov2-small"], ["cc-by-4.0"], "apache-2.0"),
        (["facebook/dinov2-small"], ["cc-by-sa-4.0"], "cc-by-sa-4.0"),
        (["facebook/dinov2-small"], ["unknown"], "unknown"),
        (["facebook/dinov2-small"], [], "apache-2.0"),
        ([], [], "unknown"),
        (["facebook/dinov2-small"], ["a-license-of-their-own"], "a-license-of-their-own"),
    ],
)
def test_settle_license__inherits_the_strictest(base, data, license):
    sources = [
        *(source_of("base weights", name) for name in base),
        *(Source("training data", "x", one) for one in data),
    ]
    assert settle_license(None, sources) == license


SOURCES = [Source("base weights", "b/b", "apache-2.0"), Source("training data", "my rooms", "unknown")]
BOUND = [*SOURCES, Source("teacher", "depth-anything/Depth-Anything-V2-Large-hf", "cc-by-nc-4.0")]


def test_settle_license__the_user_answers_for_what_is_unknown():
    assert settle_license(None, SOURCES) == "unknown"
    assert settle_license("apache-2.0", SOURCES) == "apache-2.0"


@pytest.mark.parametrize("stated", ["apache-2.0", "unknown", "other", "cc-by-sa-4.0"])
def test_settle_license__what_is_bound_cannot_be_freed(stated):
    with pytest.raises(
        ValueError, match=rf"license is '{stated}', but depth-.*-Large-hf \(teacher\) .* forbids commercial use"
    ):
        settle_license(stated, BOUND)


@pytest.mark.parametrize("stated", ["cc-by-nc-4.0", "CC-BY-NC-SA-4.0", "cc-by-nc-nd-4.0"])
def test_settle_license__it_may_be_bound_more_tightly(stated):
    assert settle_license(stated, BOUND) == stated


def test_license_text__says_what_is_unknown():
    text = license_text("cc-by-nc-4.0", BOUND)
    assert "| training data | my rooms | unknown |" in text
    assert "ask the owner first" in text
    assert "ask the owner" not in license_text("apache-2.0", SOURCES[:1])
    assert "were not stated" in license_text("unknown", [])


def test_source_of__paths_of_this_machine_are_not_shown(tmp_path, monkeypatch):
    (tmp_path / "me" / "rooms").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert source_of("training data", str(tmp_path / "me" / "rooms"), "dataset").name == "rooms"
    assert source_of("training data", "me/rooms", "dataset").name == "rooms"
    assert source_of("training data", "kitti:/data/kitti", "dataset").name == "kitti"
    assert not is_hub_id("me/rooms")
    assert is_hub_id("she/rooms")


# --- the Hub's list


@pytest.mark.parametrize(
    ("written", "found"),
    [
        ("MIT", "mit"),
        ("mit license", "mit"),
        ("Apache 2.0", "apache-2.0"),
        ("Apache License, Version 2.0", "apache-2.0"),
        ("Apache-2.0 licence", "apache-2.0"),
        ("CC BY-NC 4.0", "cc-by-nc-4.0"),
        ("CC_BY_NC_SA_4.0", "cc-by-nc-sa-4.0"),
        ("CC0 1.0", "cc0-1.0"),
        ("GPL v3.0", "gpl-3.0"),
        ("BSD-3-Clause", "bsd-3-clause"),
        ("The Unlicense", "unlicense"),
        ("openrail++", "openrail++"),
        ("Llama3.1", "llama3.1"),
        (" other ", "other"),
        ("unknown", "unknown"),
    ],
)
def test_license_id__of_other_spellings(written, found):
    assert license_id(written) == found
    assert license_id(found) == found


@pytest.mark.parametrize(
    ("written", "near"),
    [
        ("none", "such as mit"),
        ("", "such as mit"),
        ("apache", "apache-2.0"),
        ("cc-by-nc", "cc-by-nc-4.0"),
        ("GPLv3", "gpl-3.0"),
        ("proprietary", "other stands for any other license"),
        ("mit\nbase_model: x", "license is 'mit"),
    ],
)
def test_license_id__what_the_hub_does_not_have(written, near):
    with pytest.raises(ValueError, match="no id of the Hub's list") as caught:
        license_id(written)
    assert near in str(caught.value)


def test_license_of__a_card_in_other_spelling(tmp_path):
    (tmp_path / "README.md").write_text("---\nlicense: Apache 2.0\n---\n")
    assert license_of(str(tmp_path)) == "apache-2.0"


@pytest.mark.parametrize(
    "base", ["runs/teacher", "./teacher", "/runs/teacher", "teacher", "a/b/c", "my model", "~/x", "a//b"]
)
def test_check_base__neither_folder_nor_model(base, hub):
    with pytest.raises(ValueError, match=r"base is .*, which is n(o|either a) folder here"):
        check_base(base)


def test_check_base__out_of_reach(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match="could not be looked up on the Hub: check the network, or pass the folder"):
        check_base("runs/teacher")
    check_base("facebook/dinov2-small")  # an official name
    check_base("mini")


def test_check_base__folder(tmp_path):
    check_base(str(tmp_path))


@pytest.mark.parametrize(
    "base",
    [
        "https://huggingface.co/depth-anything/Depth-Anything-V2-Large-hf",
        "facebook/dinov2-small/",
        "facebook/dinov2-small@main",
        "facebook/dinov2-small/tree/main",
    ],
)
def test_check_base__address_or_id_with_more_after_it(base):
    with pytest.raises(ValueError, match="neither a folder here nor an id of the Hub, owner/name"):
        check_base(base)


def test_check_base__any_file(tmp_path):
    (tmp_path / "a.jpg").touch()
    with pytest.raises(ValueError, match="neither a folder here"):
        check_base(str(tmp_path / "a.jpg"))
    (tmp_path / "depth_anything_v2_vitl.pth").touch()
    check_base(str(tmp_path / "depth_anything_v2_vitl.pth"))
