import json

import numpy as np
import pytest

from depth_anything_hf.data.readers.ddad import pose_matrix, read_ddad

SCENE = "000150/scene_abc.json"
HEIGHT, WIDTH = 4, 7
# The camera looks along the world's x, its x axis is the world's -y, its y axis the world's -z.
FACING_X = {"qw": 0.5, "qx": -0.5, "qy": 0.5, "qz": -0.5}
UPRIGHT = {"qw": 1.0, "qx": 0.0, "qy": 0.0, "qz": 0.0}
POINTS = [  # in the frame of a LiDAR at x = 10; the camera is at x = 12
    (10, 0, 0, 0.5),  # 8 m ahead of the camera, hidden behind the next one
    (6, 0, 0, 0.5),  # 4 m ahead: u = 3.5, v = 2.25
    (4, -2, 1, 0.5),  # camera (2, -1, 2): u = 2 + 3.5 = 5.5, v = -1 + 2.25 = 1.25
    (1, 0, 0, 0.5),  # behind the camera
]


def pose(rotation, x):
    return {"rotation": rotation, "translation": {"x": x, "y": 0.0, "z": 0.0}}


def datum(key, name, kind, content):
    return {"key": key, "id": {"name": name}, "datum": {kind: content}}


def save_json(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


@pytest.fixture
def ddad(tmp_path, save_photo):
    """Two samples of one scene; a third one has no camera."""
    splits = {"0": {"filenames": []}, "1": {"filenames": [SCENE]}}
    save_json(tmp_path / "ddad.json", {"metadata": {"name": "DDAD"}, "scene_splits": splits})
    data = []
    for time in (1, 2, 3):
        cloud = f"point_cloud/LIDAR/{time}.npz"
        content = {"filename": cloud, "point_format": ["X", "Y", "Z", "INTENSITY"], "pose": pose(UPRIGHT, 10.0)}
        data.append(datum(f"l{time}", "LIDAR", "point_cloud", content))
        (tmp_path / "000150" / cloud).parent.mkdir(parents=True, exist_ok=True)
        np.savez(tmp_path / "000150" / cloud, data=np.array(POINTS, dtype=np.float32))
    for time in (1, 2):
        content = {"filename": f"rgb/CAMERA_01/{time}.png", "pose": pose(FACING_X, 12.0)}
        data.append(datum(f"c{time}", "CAMERA_01", "image", content))
        save_photo(tmp_path / "000150" / content["filename"], HEIGHT, WIDTH)
    samples = [{"calibration_key": "calib", "datum_keys": [f"l{time}", f"c{time}"]} for time in (1, 2, 3)]
    save_json(tmp_path / SCENE, {"data": data, "samples": samples})
    intrinsics = [{"cx": 0, "cy": 0, "fx": 0, "fy": 0}, {"cx": 3.5, "cy": 2.25, "fx": 2, "fy": 2}]
    calibration = {"names": ["LIDAR", "CAMERA_01"], "intrinsics": intrinsics, "extrinsics": []}
    save_json(tmp_path / "000150" / "calibration" / "calib.json", calibration)
    return tmp_path


def test_read_ddad__projects_the_sweep_through_both_poses(ddad):
    samples = read_ddad(ddad)
    assert (len(samples), samples.left_out, samples.name, samples.split) == (2, 1, "ddad", "val")
    expected = np.zeros((HEIGHT, WIDTH))
    expected[2, 3], expected[1, 5] = 4.0, 2.0
    assert samples[0].values == pytest.approx(expected)
    assert samples[0].mask.tolist() == (expected > 0).tolist()
    assert samples[0].intrinsics == (2.0, 2.0, 3.5, 2.25)
    assert (samples[0].source, samples[0].group) == ("000150/rgb/CAMERA_01/1.png", "000150")


def test_read_ddad__finds_the_axes_of_a_cloud_by_name(ddad):
    scene = json.loads((ddad / SCENE).read_text())
    scene["data"][0]["datum"]["point_cloud"]["point_format"] = ["INTENSITY", "Z", "Y", "X"]
    save_json(ddad / SCENE, scene)
    turned = np.array(POINTS, dtype=np.float32)[:, ::-1]
    np.savez(ddad / "000150/point_cloud/LIDAR/1.npz", data=turned)
    samples = read_ddad(ddad)
    assert np.array_equal(samples[0].values, samples[1].values)


def test_pose_matrix__of_a_camera():
    matrix = pose_matrix(pose(FACING_X, 12.0))
    assert matrix.tolist() == [[0, 0, 1, 12], [-1, 0, 0, 0], [0, -1, 0, 0], [0, 0, 0, 1]]


def test_read_ddad__files(ddad, check_files):
    scene = ddad / "000150"
    check_files(read_ddad(ddad), [scene / "rgb/CAMERA_01/2.png", scene / "point_cloud/LIDAR/2.npz"])
    samples = read_ddad(ddad)
    (scene / "calibration" / "calib.json").write_text("{}")
    with pytest.raises(OSError, match=r"calib\.json cannot be read \(KeyError"):
        samples[0]


def test_read_ddad__errors(ddad):
    with pytest.raises(ValueError, match=r"split is 'test'; it must be one of \('train', 'val'\)"):
        read_ddad(ddad, split="test")
    with pytest.raises(ValueError, match=r"camera is 'front'; it must be one of \('CAMERA_01', "):
        read_ddad(ddad, camera="front")
    with pytest.raises(FileNotFoundError, match="no sample of ddad, train"):
        read_ddad(ddad, split="train")
    with pytest.raises(FileNotFoundError, match=r"no sample of ddad, val \(3 left out\)"):
        read_ddad(ddad, camera="CAMERA_05")
    (ddad / SCENE).write_text("[]")
    with pytest.raises(OSError, match=r"scene_abc\.json cannot be read"):
        read_ddad(ddad)
    (ddad / "ddad.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"ddad\.json is missing\. Expected: .*github\.com/TRI-ML/DDAD"):
        read_ddad(ddad)
