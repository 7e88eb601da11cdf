import numpy as np
import pytest

from depth_anything_hf.data.readers.kitti import project_sweep, read_kitti

DRIVE = "2011_09_26/2011_09_26_drive_0002_sync"
GROUND_TRUTH = "2011_09_26_drive_0002_sync/proj_depth/groundtruth"
CAMERAS = """calib_time: 09-Jan-2012 13:57:47
corner_dist: 9.950000e-02
R_rect_00: -1 0 0 0 -1 0 0 0 1
P_rect_02: 4 0 4 4 0 4 4 0 0 0 1 0
P_rect_03: 5 0 7 0 0 6 8 0 0 0 1 0
"""
# camera x = -left + 1, y = -up, z = forward - 0.25
VELODYNE = "calib_time: 15-Mar-2012 11:37:16\nR: 0 -1 0 0 0 -1 1 0 0\nT: 1 0 -0.25\n"
POINTS = [
    (8.25, 0, 0, 0.5),  # pixel row 3, column 3, at 8 m: behind the next one
    (4.25, 0, 0, 0.5),  # rectified (-1, 0, 4): u = (-4 + 16 + 4) / 4 = 4, v = 4; minus one
    (2.25, 1, -1, 0.5),  # rectified (0, -1, 2): u = (8 + 4) / 2 = 6, v = (-4 + 8) / 2 = 2; minus one
    (-5.0, 0, 0, 0.5),  # behind
    (2.25, 9, 0, 0.5),  # rectified (8, 0, 2): u = 22, outside
]
HEIGHT, WIDTH = 5, 6


@pytest.fixture
def kitti(tmp_path, save_photo, save_codes):
    """Frames 5 and 6 of a drive, left and right, annotated in val (5, left), train (6, left; 5, right)."""
    for frame in (5, 6):
        for camera in ("image_02", "image_03"):
            save_photo(tmp_path / DRIVE / camera / "data" / f"{frame:010d}.png", HEIGHT, WIDTH, red=frame)
        sweep = tmp_path / DRIVE / "velodyne_points" / "data" / f"{frame:010d}.bin"
        sweep.parent.mkdir(parents=True, exist_ok=True)
        np.array(POINTS, dtype="<f4").tofile(sweep)
    codes = np.zeros((HEIGHT, WIDTH), np.uint16)
    codes[0, :3] = 256, 1, 65535
    for part, camera, frame in (("val", "image_02", 5), ("train", "image_02", 6), ("train", "image_03", 5)):
        save_codes(tmp_path / part / GROUND_TRUTH / camera / f"{frame:010d}.png", codes)
    (tmp_path / "2011_09_26" / "calib_cam_to_cam.txt").write_text(CAMERAS)
    (tmp_path / "2011_09_26" / "calib_velo_to_cam.txt").write_text(VELODYNE)
    return tmp_path


def split_file(root, *lines):
    path = root / "eigen_test_files.txt"
    path.write_text("\n".join(lines) + "\n")
    return path


def test_read_kitti__monodepth_lines(kitti):
    lines = [f"{DRIVE} 0000000005 l", f"{DRIVE} 6 l", f"{DRIVE} 0000000005 r", f"{DRIVE} 0000000006 r", ""]
    samples = read_kitti(kitti, split_file(kitti, *lines))
    assert (len(samples), samples.left_out, samples.split) == (3, 1, "eigen_test_files")
    assert [sample.source for sample in samples] == [
        f"{DRIVE}/image_02/data/0000000005.png",
        f"{DRIVE}/image_02/data/0000000006.png",
        f"{DRIVE}/image_03/data/0000000005.png",
    ]
    assert {sample.group for sample in samples} == {"2011_09_26_drive_0002_sync"}
    assert [sample.image.getpixel((0, 0))[0] for sample in samples] == [5, 6, 5]
    # P_rect counts pixel centres from 0
    assert samples[0].intrinsics == (4.0, 4.0, 4.5, 4.5)
    assert samples[2].intrinsics == (5.0, 6.0, 7.5, 8.5)


def test_read_kitti__annotated_codes_are_256ths_of_a_meter(kitti):
    sample = read_kitti(kitti, split_file(kitti, f"{DRIVE} 5 l"))[0]
    assert sample.values[0, :4].tolist() == [1.0, 0.00390625, 255.99609375, 0.0]
    assert np.argwhere(sample.mask).tolist() == [[0, 0], [0, 1], [0, 2]]


def test_read_kitti__bts_lines_leave_out_frames_without_a_map(kitti):
    image = f"{DRIVE}/image_02/data"
    lines = [
        f"{image}/0000000005.png {GROUND_TRUTH}/image_02/0000000005.png 721.5377",
        f"{image}/0000000006.png None 721.5377",
        f"{image}/0000000007.png {GROUND_TRUTH}/image_02/0000000007.png 721.5377",
    ]
    samples = read_kitti(kitti, split_file(kitti, *lines))
    assert (len(samples), samples.left_out) == (1, 2)
    assert samples[0].source == f"{image}/0000000005.png"


@pytest.mark.parametrize("part", ["val", ""])
def test_read_kitti__annotated_maps_may_lie_elsewhere(kitti, part):
    (kitti / "elsewhere").mkdir()
    (kitti / "val").rename(kitti / "elsewhere" / "maps")
    if part:
        (kitti / "elsewhere" / "maps").rename(kitti / "elsewhere" / part)
    lines = split_file(kitti, f"{DRIVE} 5 l")
    samples = read_kitti(kitti, lines, depth_root=kitti / "elsewhere" / ("" if part else "maps"))
    assert samples[0].values[0, 0] == 1.0
    with pytest.raises(FileNotFoundError, match=r"no sample of kitti.*\(1 left out\)\. Expected: .*cvlibs\.net"):
        read_kitti(kitti, lines)


def test_read_kitti__projects_a_sweep_and_keeps_the_nearest_point(kitti):
    samples = read_kitti(kitti, split_file(kitti, f"{DRIVE} 5 l", f"{DRIVE} 6 r"), labels="raw")
    assert (len(samples), samples.left_out) == (2, 0)
    expected = np.zeros((HEIGHT, WIDTH), np.float32)
    expected[3, 3], expected[1, 5] = 4.0, 2.0
    assert samples[0].values.tolist() == expected.tolist()
    assert samples[0].mask.tolist() == (expected > 0).tolist()


def test_project_sweep__drops_what_is_behind_the_lidar():
    # a camera 3 m behind the LiDAR: u = v = 1 for every point, depth = forward + 3
    matrix = np.array([[1.0, 0, 0, 3], [1, 0, 0, 3], [1, 0, 0, 3]])
    assert project_sweep(np.array([[-1.0, 0, 0], [1, 0, 0]]), matrix, 1, 1).tolist() == [[4.0]]
    assert project_sweep(np.array([[-1.0, 0, 0]]), matrix, 1, 1).tolist() == [[0.0]]


def test_read_kitti__images_may_be_jpeg(kitti, save_photo):
    (kitti / DRIVE / "image_02/data/0000000005.png").unlink()
    save_photo(kitti / DRIVE / "image_02/data/0000000005.jpg", HEIGHT, WIDTH)
    assert read_kitti(kitti, split_file(kitti, f"{DRIVE} 5 l"))[0].source.endswith("0000000005.jpg")


def test_read_kitti__files(kitti, check_files):
    lines = split_file(kitti, f"{DRIVE} 5 l", f"{DRIVE} 6 l")
    image = kitti / DRIVE / "image_02/data/0000000006.png"
    check_files(read_kitti(kitti, lines), [image, kitti / "train" / GROUND_TRUTH / "image_02/0000000006.png"])
    check_files(read_kitti(kitti, lines, labels="raw"), [image, kitti / DRIVE / "velodyne_points/data/0000000006.bin"])


def test_read_kitti__calibration_is_needed_for_sweeps_only(kitti):
    lines = split_file(kitti, f"{DRIVE} 5 l")
    (kitti / "2011_09_26" / "calib_velo_to_cam.txt").write_text("R: 1 2 3\n")
    with pytest.raises(OSError, match=r"calib_velo_to_cam\.txt cannot be read"):
        read_kitti(kitti, lines, labels="raw")[0]
    (kitti / "2011_09_26" / "calib_cam_to_cam.txt").unlink()
    assert read_kitti(kitti, lines)[0].intrinsics is None
    with pytest.raises(FileNotFoundError, match=r"calib_cam_to_cam\.txt is missing"):
        read_kitti(kitti, lines, labels="raw")[0]


@pytest.mark.parametrize(
    "line",
    [
        f"{DRIVE} 5",
        f"{DRIVE} five l",
        f"{DRIVE} 5 m",
        f"{DRIVE}/image_02/data/0000000005.jpg {DRIVE}/image_03/data/0000000005.jpg",  # a stereo pair
    ],
)
def test_read_kitti__lines_of_another_form_are_refused(kitti, line):
    with pytest.raises(ValueError, match=r"eigen_test_files\.txt, line 2 is '2011.*needed: 'folder frame l\|r' or"):
        read_kitti(kitti, split_file(kitti, f"{DRIVE} 5 l", line))


def test_read_kitti__errors(kitti):
    with pytest.raises(ValueError, match=r"labels is 'dense'; it must be one of \('annotated', 'raw'\)"):
        read_kitti(kitti, split_file(kitti, f"{DRIVE} 5 l"), labels="dense")
    with pytest.raises(FileNotFoundError, match=r"nowhere\.txt is missing"):
        read_kitti(kitti, kitti / "nowhere.txt")


def test_read_kitti__kb_crop_is_the_bottom_middle_and_moves_the_intrinsics(tmp_path, save_photo, save_codes):
    """Of 375 x 1242 pixels rows 23 to 374 and columns 13 to 1228 remain; the label and the principal point go along."""
    frame = f"{DRIVE}/image_02/data/0000000005.png"
    save_photo(tmp_path / frame, 375, 1242)
    codes = np.zeros((375, 1242), np.uint16)
    codes[23, 13], codes[374, 1228], codes[22, 13], codes[23, 1229] = 256, 512, 768, 1024
    save_codes(tmp_path / "val" / GROUND_TRUTH / "image_02" / "0000000005.png", codes)
    (tmp_path / "2011_09_26" / "calib_cam_to_cam.txt").write_text(CAMERAS)
    whole, part = (read_kitti(tmp_path, split_file(tmp_path, f"{DRIVE} 5 l"), kb_crop=crop)[0] for crop in (0, 1))
    assert part.values.shape == part.mask.shape == part.image.size[::-1] == (352, 1216)
    assert (part.values[0, 0], part.values[-1, -1], part.mask.sum()) == (1.0, 2.0, 2)
    assert (np.asarray(part.image) == np.asarray(whole.image)[23:, 13:1229]).all()
    assert np.subtract(whole.intrinsics, part.intrinsics).tolist() == [0, 0, 13, 23]


def test_read_kitti__kb_crop_of_a_smaller_image_is_an_error(kitti):
    samples = read_kitti(kitti, split_file(kitti, f"{DRIVE} 5 l"), kb_crop=True)
    with pytest.raises(ValueError, match="is 5 x 6 pixels; kb_crop needs at least 352 x 1216"):
        samples[0]


def test_read_kitti__without_a_list_says_where_lists_are(kitti):
    with pytest.raises(ValueError, match=r"split_file is None.*does not come with it.*eigen_test_files\.txt"):
        read_kitti(kitti)


@pytest.mark.parametrize("prefix", ["", "/mnt/bn/liheyang/Kitti/raw_data/", "C:\\kitti\\raw\\", "raw_data/"])
@pytest.mark.parametrize(
    "depth_prefix", ["", "/mnt/bn/liheyang/Kitti/data_depth_annotated/val/", "D:\\maps\\val\\", "val/"]
)
@pytest.mark.parametrize("focal", ["", " 721.5377"])
def test_read_kitti__lists_of_other_machines(kitti, prefix, depth_prefix, focal):
    """Those of V2's authors have absolute paths and no focal length."""
    image, depth = f"{DRIVE}/image_02/data/0000000005.png", f"{GROUND_TRUTH}/image_02/0000000005.png"
    if "\\" in prefix:
        image = image.replace("/", "\\")
    if "\\" in depth_prefix:
        depth = depth.replace("/", "\\")
    lines = [f"{prefix}{image} {depth_prefix}{depth}{focal}", f"{prefix}{image} None{focal}", "", "  "]
    samples = read_kitti(kitti, split_file(kitti, *lines))
    assert (len(samples), samples.left_out) == (1, 1)
    assert samples[0].source == f"{DRIVE}/image_02/data/0000000005.png"
    assert samples[0].values[0, 0] == 1.0


@pytest.mark.parametrize(
    "line",
    [f"{DRIVE}/image_02/data/0000000005.png", f"a.png {GROUND_TRUTH}/image_02/0000000005.png", "5 l", "None None"],
)
def test_read_kitti__other_lists_are_named(kitti, line):
    with pytest.raises(ValueError, match=r"eigen_test_files\.txt, line 1 is .*focal may be left out"):
        read_kitti(kitti, split_file(kitti, line))
