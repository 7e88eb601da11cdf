import pytest

from depth_anything_hf.data.readers.vkitti2 import read_vkitti2

INTRINSICS = """frame cameraID K[0,0] K[1,1] K[0,2] K[1,2]
0 0 725.0087 725.5 620.5 187
0 1 700 701 600 180
1 0 725.0087 725.5 620.5 187
1 1 700 701 600 180
"""


@pytest.fixture
def vkitti2(tmp_path, save_photo, save_codes):
    for variation, camera, frame in (("clone", 0, 0), ("clone", 0, 1), ("clone", 1, 0), ("fog", 0, 0)):
        frames = tmp_path / "Scene01" / variation / "frames"
        save_photo(frames / "rgb" / f"Camera_{camera}" / f"rgb_{frame:05d}.jpg", 1, 4)
        save_codes(frames / "depth" / f"Camera_{camera}" / f"depth_{frame:05d}.png", [[250, 0, 65535, 65534 - camera]])
    (tmp_path / "Scene01" / "clone" / "intrinsic.txt").write_text(INTRINSICS)
    return tmp_path


def test_read_vkitti2__reads_centimeters_and_sky(vkitti2):
    sample = read_vkitti2(vkitti2)[0]
    assert sample.values.tolist() == [[2.5, 0.0, 0.0, pytest.approx(655.34, abs=1e-4)]]
    assert sample.mask.tolist() == [[True, False, False, True]]
    assert sample.sky.tolist() == [[False, False, True, False]]
    assert sample.source == "Scene01/clone/frames/rgb/Camera_0/rgb_00000.jpg"
    assert sample.group == "Scene01"
    assert sample.intrinsics == (725.0087, 725.5, 621.0, 187.5)  # the file counts pixel centres from 0


def test_read_vkitti2__takes_the_scenes_variations_and_camera_that_are_asked_for(vkitti2):
    assert [s.source.split("/")[1] for s in read_vkitti2(vkitti2)] == ["clone", "clone", "fog"]
    assert len(read_vkitti2(vkitti2, variations=["fog"])) == 1
    (right,) = read_vkitti2(vkitti2, camera=1)
    assert right.intrinsics == (700.0, 701.0, 600.5, 180.5)
    assert right.values[0, 3] == pytest.approx(655.33, abs=1e-4)
    with pytest.raises(FileNotFoundError, match=r"no sample of vkitti2, all\. Expected: .*naverlabs"):
        read_vkitti2(vkitti2, scenes=["Scene02"])


def test_read_vkitti2__works_without_intrinsics(vkitti2):
    assert read_vkitti2(vkitti2, variations=["fog"])[0].intrinsics is None


def test_read_vkitti2__names_a_broken_table(vkitti2):
    (vkitti2 / "Scene01" / "fog" / "intrinsic.txt").write_text("frame\n5 0 1 2 3 4\n")
    with pytest.raises(OSError, match=r"fog/intrinsic\.txt cannot be read \(KeyError"):
        read_vkitti2(vkitti2, variations=["fog"])[0]


def test_read_vkitti2__files(vkitti2, check_files):
    frames = vkitti2 / "Scene01" / "clone" / "frames"
    check_files(
        read_vkitti2(vkitti2), [frames / "rgb/Camera_0/rgb_00001.jpg", frames / "depth/Camera_0/depth_00001.png"]
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scenes": ["Scene03"]}, "scene is 'Scene03'; it must be one of"),
        ({"variations": ["snow"]}, "variation is 'snow'; it must be one of"),
        ({"camera": 2}, r"camera is 2; it must be one of \(0, 1\)"),
    ],
)
def test_read_vkitti2__errors(vkitti2, options, message):
    with pytest.raises(ValueError, match=message):
        read_vkitti2(vkitti2, **options)
