import pytest
import torch
from PIL import Image


@pytest.fixture
def metric(tmp_path, make_model, tiny_processor):
    for part in (make_model(max_depth=20.0), tiny_processor):
        part.save_pretrained(tmp_path / "metric")
    return str(tmp_path / "metric")


@pytest.fixture
def photo(tmp_path, noise_image):
    noise_image(60, 80).save(tmp_path / "room.png")
    return str(tmp_path / "room.png")


def test_distance__of_a_wall(load_example):
    # 90 degrees over 80 pixels: at 3 m each pixel is 3 / 40 m wide
    wall, camera = torch.full((60, 80), 3.0), torch.tensor([[40.0, 40.0, 40.0, 30.0]])
    distance = load_example("point_cloud").distance
    assert distance(wall, camera, [10, 20, 50, 50]) == pytest.approx(50 * 3 / 40)  # 40 across, 30 down
    with pytest.raises(ValueError, match=r"pixels \[0, 60, 0, 0\] are not all inside an image of 80 x 60"):
        distance(wall, camera, [0, 60, 0, 0])


@pytest.mark.parametrize("kind", ["ply", "glb"])
def test_point_cloud__is_written_and_measured(kind, metric, photo, tmp_path, load_example, capsys):
    trimesh = pytest.importorskip("trimesh")
    out = tmp_path / "deep" / f"room.{kind}"
    arguments = [photo, "--model", metric, "--out", str(out), "--fov", "60", "--edge-threshold", "9"]
    assert load_example("point_cloud").main([*arguments, "--measure", "10", "10", "70", "50"]) == 0
    printed = capsys.readouterr().out
    assert "room." in printed
    assert ": 4800 points in" in printed
    assert float(printed.split("distance: ")[1].split(" m")[0]) > 0
    trimesh.load(out)


def test_point_cloud__says_what_it_needs(metric, photo, tmp_path, make_model, tiny_processor, load_example):
    main = load_example("point_cloud").main
    with pytest.raises(ValueError, match="does not say its focal length; pass --fov"):
        main([photo, "--model", metric, "--out", str(tmp_path / "a.ply")])
    with pytest.raises(ValueError, match=r"must end in \.ply or \.glb"):
        main([photo, "--model", metric, "--out", str(tmp_path / "a.obj")])
    for part in (make_model(), tiny_processor):
        part.save_pretrained(tmp_path / "relative")
    with pytest.raises(ValueError, match="predicts relative disparity, in which nothing can be measured"):
        main([photo, "--model", str(tmp_path / "relative"), "--out", str(tmp_path / "a.ply"), "--fov", "60"])


def test_point_cloud__takes_the_camera_from_the_file(metric, tmp_path, load_example, capsys):
    exif = Image.Exif()
    exif.get_ifd(0x8769)[41989] = 28
    Image.new("RGB", (90, 60)).save(tmp_path / "room.jpg", exif=exif)
    arguments = [str(tmp_path / "room.jpg"), "--model", metric, "--out", str(tmp_path / "a.ply")]
    assert load_example("point_cloud").main(arguments) == 0
    assert "points in" in capsys.readouterr().out
