import h5py
import numpy as np
import pytest

from depth_anything_hf.data.readers.hypersim import planar_depth, read_hypersim

pytestmark = pytest.mark.filterwarnings("ignore:hypersim, .* in the official split")
SPLITS = """scene_name,camera_name,frame_id,included_in_public_release,exclude_reason,split_partition_name
ai_001_001,cam_00,0,True,,val
ai_001_001,cam_00,1,False,bad,val
ai_001_001,cam_01,0,True,,val
ai_001_002,cam_00,0,True,,train
ai_001_003,cam_00,0,True,,val
"""


def save_distance(root, scene, camera, frame, distance, save_photo):
    images = root / scene / "images"
    save_photo(images / f"scene_{camera}_final_preview" / f"frame.{frame:04d}.tonemap.jpg", *distance.shape)
    path = images / f"scene_{camera}_geometry_hdf5" / f"frame.{frame:04d}.depth_meters.hdf5"
    path.parent.mkdir(exist_ok=True)
    with h5py.File(path, "w") as file:
        file["dataset"] = distance.astype(np.float16)
    return path


@pytest.fixture
def hypersim(tmp_path, save_photo):
    distance = np.full((768, 1024), 10.0)
    distance[5, 7] = np.nan
    for scene, camera, frame in (
        ("ai_001_001", "cam_00", 0),
        ("ai_001_001", "cam_00", 1),
        ("ai_001_001", "cam_01", 0),
        ("ai_001_002", "cam_00", 0),
    ):
        save_distance(tmp_path, scene, camera, frame, distance, save_photo)
    return tmp_path


def test_read_hypersim__turns_distance_into_planar_depth(hypersim):
    sample = read_hypersim(hypersim)[0]
    # corner: 511.5 and 383.5 pixels from the centre, 10 / sqrt(1 + 408704.5 / 886.81^2)
    assert sample.values[0, 0] == sample.values[767, 1023] == pytest.approx(8.111885, abs=1e-5)
    # last column of the row below the centre: 511.5 and 0.5, 10 / sqrt(1 + 261632.5 / 786431.9761)
    assert sample.values[384, 1023] == pytest.approx(8.662367, abs=1e-5)
    assert sample.values[384, 512] == pytest.approx(9.999997, abs=1e-6)
    assert (sample.values[5, 7], sample.mask[5, 7], np.count_nonzero(~sample.mask)) == (0.0, False, 1)
    assert sample.intrinsics == (886.81, 886.81, 512.0, 384.0)
    assert (sample.group, sample.sky) == ("ai_001_001", None)
    assert sample.source == "ai_001_001/images/scene_cam_00_final_preview/frame.0000.tonemap.jpg"


def test_planar_depth__has_its_center_between_the_pixels():
    # two by two pixels, half a pixel from the centre each way: 3 / sqrt(1 + 0.25 + 0.25) = sqrt(6)
    assert planar_depth(np.full((2, 2), 3.0), focal=1.0) == pytest.approx(np.full((2, 2), 2.449489742783178))


def test_read_hypersim__takes_every_frame_without_the_list(hypersim):
    samples = read_hypersim(hypersim)
    assert (len(samples), samples.left_out, samples.split) == (4, 0, "all")
    with pytest.raises(
        FileNotFoundError, match=r"scene_v1\.csv is missing; it lists the images of split 'val'. .*https"
    ):
        read_hypersim(hypersim, split="val")


def test_read_hypersim__follows_the_official_list(hypersim):
    (hypersim / "metadata_images_split_scene_v1.csv").write_text(SPLITS)
    val, train = read_hypersim(hypersim, split="val"), read_hypersim(hypersim, split="train")
    assert (len(val), val.left_out) == (2, 1)  # frame 1 is excluded, ai_001_003 not downloaded
    assert [sample.source.split("/")[2] for sample in val] == [
        "scene_cam_00_final_preview",
        "scene_cam_01_final_preview",
    ]
    assert ([sample.group for sample in train], train.left_out) == (["ai_001_002"], 0)
    assert len(read_hypersim(hypersim)) == 3
    with pytest.raises(FileNotFoundError, match="no sample of hypersim, test"):
        read_hypersim(hypersim, split="test")
    (hypersim / "elsewhere.csv").write_text("scene_name\nai_001_001\n")
    with pytest.raises(OSError, match=r"elsewhere\.csv cannot be read \(KeyError"):
        read_hypersim(hypersim, split_file=hypersim / "elsewhere.csv")


def test_read_hypersim__files(hypersim, check_files):
    images = hypersim / "ai_001_001" / "images"
    check_files(
        read_hypersim(hypersim),
        [
            images / "scene_cam_00_final_preview" / "frame.0001.tonemap.jpg",
            images / "scene_cam_00_geometry_hdf5" / "frame.0001.depth_meters.hdf5",
        ],
    )


def test_read_hypersim__errors(tmp_path, save_photo):
    with pytest.raises(ValueError, match=r"split is 'dev'; it must be one of \('train', 'val', 'test', 'all'\)"):
        read_hypersim(tmp_path, split="dev")
    save_distance(tmp_path, "ai_001_001", "cam_00", 0, np.ones((4, 6)), save_photo)
    with pytest.raises(ValueError, match=r"depth_meters\.hdf5 has shape \(4, 6\); Hypersim's is \(768, 1024\)"):
        read_hypersim(tmp_path)[0]
