import numpy as np
import pytest
from PIL import Image

from depth_anything_hf.data.codes import decode_depth_map, image_to_codes
from depth_anything_hf.data.folder import load_folder
from depth_anything_hf.data.records import decode_record
from depth_anything_hf.pictures.charts import bars, curves
from depth_anything_hf.pictures.visualization import colorize, prediction_row, save_depth, sheet

FAR, NEAR, GREY = [0, 0, 4], [252, 255, 164], [128, 128, 128]
RED, BLUE = (255, 0, 0), (0, 0, 255)


def pixels(picture):
    return np.asarray(picture).reshape(-1, 3).tolist()


def luminance(picture):
    """CIE lightness's Y of sRGB pixels."""
    linear = np.asarray(picture, dtype=np.float64) / 255
    linear = np.where(linear <= 0.04045, linear / 12.92, ((linear + 0.055) / 1.055) ** 2.4)
    return linear @ [0.2126, 0.7152, 0.0722]


# ---------------------------------------------------------------------------------------------------- colours


def test_colors_of_the_ends_the_control_points_and_holes():
    picture = colorize(np.array([[0.0, 3.0, 15.0, np.nan, np.inf]]), low=0, high=15)
    assert picture.dtype == np.uint8
    assert pixels(picture) == [FAR, [0x42, 0x0A, 0x68], NEAR, GREY, GREY]


def test_nearer_is_always_brighter():
    steps = luminance(colorize(np.arange(256.0)[None], low=0, high=255)[0])
    assert (np.diff(steps) > 0).all()
    assert (steps[0], steps[-1]) == pytest.approx((0, 0.95), abs=0.01)


def test_the_range_is_robust():
    values = np.linspace(0, 100, 101)[None]
    usual = colorize(values)
    assert pixels(usual)[0] == pixels(usual)[2] == FAR
    assert pixels(usual)[98] == pixels(usual)[100] == NEAR
    assert pixels(usual)[3] != FAR
    values[0, 100] = 1e30
    assert np.array_equal(colorize(values), usual)


def test_scale_and_shift_do_not_change_the_colors():
    values = np.random.default_rng(0).random((8, 9))
    assert np.abs(colorize(values).astype(int) - colorize(1000 * values + 5)).max() <= 1


def test_masked_values_are_gray_and_have_no_influence():
    values = np.array([[1.0, 2.0, 3.0, 1e9]])
    picture = colorize(values, np.array([[True, True, True, False]]))
    assert pixels(picture)[3] == GREY
    assert pixels(picture)[:3] == pixels(colorize(values[:, :3]))


@pytest.mark.parametrize("constant", [0.0, -3.0, 1e-300, 1e300])
def test_a_constant_map_has_one_color(constant):
    colors = {tuple(color) for color in pixels(colorize(np.full((3, 4), constant)))}
    assert len(colors) == 1
    assert colors != {tuple(GREY)}


def test_few_values_above_a_constant_background_are_seen():
    values = np.zeros((20, 20))
    values[3, 4] = 1.0
    picture = colorize(values)
    assert picture[0, 0].tolist() == FAR
    assert picture[3, 4].tolist() == NEAR


def test_maps_without_values():
    assert pixels(colorize(np.full((1, 2), np.nan))) == [GREY] * 2
    assert pixels(colorize(np.ones((1, 2)), np.zeros((1, 2), bool))) == [GREY] * 2
    assert colorize(np.ones((0, 2))).shape == (0, 2, 3)


def test_colorize_errors():
    with pytest.raises(ValueError, match=r"shape \(1, 2, 2\)"):
        colorize(np.ones((1, 2, 2)))
    with pytest.raises(ValueError, match=r"mask \(1, 2\)"):
        colorize(np.ones((2, 2)), np.ones((1, 2), bool))
    with pytest.raises(ValueError, match="low=2 is not below high=1"):
        colorize(np.ones((2, 2)), low=2, high=1)


# ---------------------------------------------------------------------------------------------------- predictions


def scene():
    rng = np.random.default_rng(1)
    depth = rng.uniform(1, 10, (20, 30))
    mask = rng.random((20, 30)) < 0.8
    return Image.new("RGB", (30, 20)), depth, mask


def test_an_affine_prediction_looks_like_the_ground_truth():
    image, depth, mask = scene()
    photo, truth, metres, same = prediction_row(image, depth, mask, "depth", [depth, 3 / depth - 8])
    assert photo is image
    assert (truth[~mask] == GREY[0]).all()
    assert np.abs(same.astype(int) - truth)[mask].max() <= 2  # rounding
    assert not np.array_equal(metres, same)
    again = prediction_row(image, 1 / depth, mask, "disparity", [])
    assert len(again) == 2
    assert np.array_equal(again[1], truth)


def test_all_share_the_range_of_the_ground_truth():
    disparity = np.linspace(1, 2, 101)[None]
    mask = np.ones_like(disparity, dtype=bool)
    mask[0, 51:] = False
    _, truth, prediction = prediction_row(None, disparity, mask, "disparity", [disparity])
    assert pixels(truth)[50] == pixels(prediction)[50] == NEAR
    assert pixels(prediction)[51:] == [NEAR] * 50  # beyond the range of the ground truth, not stretched into it
    _, truth, prediction = prediction_row(None, disparity, ~mask, "disparity", [disparity])
    assert pixels(truth)[51] == FAR
    assert pixels(prediction)[:51] == [FAR] * 51


def test_values_under_the_mask_have_no_influence():
    image, depth, mask = scene()
    row = prediction_row(image, depth, mask, "depth", [1 / depth])
    changed = np.where(mask, depth, np.nan)
    for left, right in zip(row[1:], prediction_row(image, changed, mask, "depth", [1 / depth])[1:], strict=True):
        assert np.array_equal(left, right)


def test_an_inverted_prediction_looks_inverted():
    disparity = np.linspace(1, 2, 100)[None]
    _, truth, prediction = prediction_row(None, disparity, None, "disparity", [-disparity])
    assert pixels(truth)[0] == pixels(prediction)[-1] == FAR
    assert pixels(truth)[-1] == pixels(prediction)[0] == NEAR


def test_holes_of_a_prediction_are_gray_and_do_not_spoil_the_fit():
    image, depth, _ = scene()
    prediction = 5 / depth
    prediction[2, 3] = np.nan
    _, truth, shown = prediction_row(image, depth, None, "depth", [prediction])
    assert shown[2, 3].tolist() == GREY
    known = np.isfinite(prediction)
    assert np.abs(shown.astype(int) - truth)[known].max() <= 2


@pytest.mark.parametrize("target", [None, np.zeros((20, 30)), np.full((20, 30), np.nan)])
def test_without_ground_truth_each_prediction_has_its_own_range(target):
    image, depth, _ = scene()
    row = prediction_row(image, target, None, "depth", [depth, 2 * depth])
    assert row[1] is None
    assert np.array_equal(row[2], colorize(depth))
    assert np.array_equal(row[3], colorize(2 * depth))


def test_sparse_ground_truth_is_drawn_as_squares_and_the_nearer_hides_the_farther():
    depth = np.zeros((40, 60))
    depth[10, 10], depth[10, 12], depth[30, 50] = 4.0, 2.0, 8.0
    prediction = np.full((40, 60), 1e3)
    prediction[10, 10], prediction[10, 12], prediction[30, 50] = 0.25, 0.5, 0.125
    _, truth, shown = prediction_row(None, depth, None, "depth", [prediction])
    drawn = (truth != GREY[0]).any(axis=2)
    assert drawn.sum() == 9 + 9 + 9 - 3
    assert drawn[29:32, 49:52].all()
    assert truth[10, 11].tolist() == truth[10, 12].tolist() == NEAR
    assert truth[10, 10].tolist() != NEAR
    assert shown[10, 10].tolist() == truth[10, 10].tolist()  # the fit is of the three pixels, not of the squares


def test_prediction_row_errors():
    with pytest.raises(ValueError, match=r"shape \(2, 3\), the ground truth \(4, 6\).*resize"):
        prediction_row(None, np.ones((4, 6)), None, "depth", [np.ones((2, 3))])
    with pytest.raises(ValueError, match="'metres'"):
        prediction_row(None, np.ones((4, 6)), None, "metres", [])


@pytest.mark.slow
def test_real_sparse_and_dense_images(real_data):
    data = load_folder(real_data)
    for index in (12, 25):
        sample = decode_record(data[index])
        row = prediction_row(sample.image, sample.values, sample.mask, sample.space, [np.ones(sample.values.shape)])
        shown = (row[1] != GREY[0]).any(axis=2)
        assert shown[sample.mask].all()
        assert shown.mean() > (0.05 if sample.mask.mean() < 0.01 else sample.mask.mean() - 1e-9)
        page = sheet([row], ["image", "ground truth", "constant"], cell=(120, 160))
        assert page.width == 13 + 3 * (160 + 13)


# ---------------------------------------------------------------------------------------------------- sheets


def box(page, color):
    """(top, left, bottom, right) of a color, exclusive."""
    rows, columns = np.nonzero((np.asarray(page) == color).all(axis=2))
    return rows.min(), columns.min(), rows.max() + 1, columns.max() + 1


def test_pictures_are_fitted_and_keep_their_aspect():
    page = sheet([[Image.new("RGB", (400, 100), RED), Image.new("RGB", (10, 30), BLUE)]], ["a", "b"], cell=(90, 120))
    top, left, bottom, right = box(page, RED)
    assert (bottom - top, right - left) == (30, 120)
    assert left == page.width - 2 * 120 - 2 * left  # even gaps
    assert (box(page, BLUE)[2] - box(page, BLUE)[0], box(page, BLUE)[3] - box(page, BLUE)[1]) == (90, 30)
    assert page.getpixel((0, 0)) == page.getpixel((page.width - 1, page.height - 1)) == (255, 255, 255)


def test_gaps_between_rows_are_even():
    red, blue = (Image.new("RGB", (4, 3), color) for color in (RED, BLUE))
    page = sheet([[red], [blue], [red]], ["a"], cell=(60, 80))
    rows = [tuple(line) for line in np.asarray(page)[:, page.width // 2].tolist()]
    edges = [
        index
        for index in range(1, len(rows))
        if rows[index] != rows[index - 1] and {RED, BLUE} & set(rows[index - 1 : index + 1])
    ]
    heights = np.diff([*edges[-6:], page.height])
    assert heights.tolist() == [60, 13, 60, 13, 60, 13]


def test_any_kind_of_picture():
    row = [np.full((6, 8), 7, np.uint8), np.full((6, 8, 3), RED, np.uint8), Image.new("I;16", (8, 6), 65535), None]
    page = np.asarray(sheet([row], list("abcd"), cell=(60, 80)))
    assert (page == 7).all(axis=2).sum() == (page == RED).all(axis=2).sum() == 60 * 80


def test_text_is_drawn_where_it_is_asked_for():
    picture = Image.new("RGB", (8, 6), RED)

    def ink(**options):
        page = np.asarray(sheet([[picture, picture]], options.pop("columns", ["", ""]), cell=(60, 80), **options))
        dark = (page < 100).all(axis=2)
        top, _, bottom, _ = box(page, RED)
        return dark[:top].sum(), dark[bottom:, : page.shape[1] // 2].sum(), dark[bottom:, page.shape[1] // 2 :].sum()

    assert ink() == (0, 0, 0)
    heading, *below = ink(columns=["image", ""])
    assert heading > 0
    assert below == [0, 0]
    assert ink(title="Title")[0] > 0
    above, first, second = ink(captions=[["", "0.93"]])
    assert (above, first) == (0, 0)
    assert second > 0
    assert min(ink(captions=["both of the cells"])[1:]) > 0


def test_long_text_does_not_leave_its_cell():
    page = np.asarray(sheet([[Image.new("RGB", (8, 6), RED), None]], ["m" * 99, ""], cell=(60, 80)))
    columns = np.nonzero((page < 100).all(axis=2))[1]
    assert columns.min() >= 13
    assert columns.max() < 13 + 80


@pytest.mark.parametrize(
    ("rows", "captions", "message"),
    [
        ([], None, r"rows hold \[\] pictures for 2 columns"),
        ([[None]], None, r"rows hold \[1\] pictures for 2 columns"),
        ([[None, None]], [["0.9"]], "one text a column"),
        ([[None, None]], ["a", "b"], "there are 2 captions"),
        ([[np.ones((2, 2)), None]], None, r"float64 of shape \(2, 2\).*colorize"),
        ([[np.ones((2, 2, 4), np.uint8), None]], None, r"uint8 of shape \(2, 2, 4\)"),
    ],
)
def test_sheet_errors(rows, captions, message):
    with pytest.raises(ValueError, match=message):
        sheet(rows, ["a", "b"], captions=captions)


# ---------------------------------------------------------------------------------------------------- charts


def line_pixels(chart, color=(0, 114, 178)):
    close = (np.abs(np.asarray(chart).astype(int) - color) <= 12).all(axis=2)
    close[:, int(0.8 * chart.width) :] = False  # the legend
    return close


def test_a_rising_line_rises():
    chart = curves({"loss": [(0, 0.0), (10, 1.0)]}, "Title", "step", "loss", size=(300, 500))
    assert chart.size == (500, 300)
    rows, columns = np.nonzero(line_pixels(chart))
    assert np.corrcoef(rows, columns)[0, 1] < -0.99
    assert np.ptp(columns) > 250
    assert np.ptp(rows) > 100


def test_a_value_that_is_not_finite_is_a_gap():
    whole = [(x, 1.0 + x % 2) for x in range(40)]
    broken = [(x, float("nan") if 10 <= x < 20 else y) for x, y in whole]
    full, gap = (line_pixels(curves({"a": line})).any(axis=0) for line in (whole, broken))
    assert np.count_nonzero(full) * 0.65 < np.count_nonzero(gap) < np.count_nonzero(full) * 0.8


@pytest.mark.parametrize(
    "points", [[(5, 0.0)], [(0, 3.0), (1, 3.0)], [(1e-6, 1e9), (2e-6, 2e9)], [(-7, -1.5), (3, 0.1)]]
)
def test_every_line_lies_inside_the_frame(points):
    chart = curves({"a": points})
    rows, columns = np.nonzero(line_pixels(chart))
    assert rows.size > 0
    assert rows.min() > 60
    assert rows.max() < chart.height - 50
    assert columns.min() > 30


def test_series_have_their_own_colors_and_a_legend():
    chart = curves({"one": [(0, 1), (9, 1)], "two": [(0, 2), (9, 2)]})
    for color in [(0, 114, 178), (213, 94, 0)]:
        assert line_pixels(chart, color).any()
        near = (np.abs(np.asarray(chart).astype(int) - color) <= 12).all(axis=2)
        assert near[:, 640:].any()


def test_a_chart_needs_a_point():
    for series in ({}, {"a": []}, {"a": [(0, float("nan"))]}):
        with pytest.raises(ValueError, match=f"{len(series)} series without a finite point"):
            curves(series)


# ---------------------------------------------------------------------------------------------------- files


def test_saved_depth_comes_back(tmp_path):
    depth = np.array([[0.0, 1.0], [2.5, np.nan]], dtype=np.float32)
    saved = save_depth(tmp_path / "new" / "room.2", depth)
    assert [saved[key].name for key in ("png", "npy", "color")] == ["room.2.png", "room.2.npy", "room.2_color.png"]
    values, mask = decode_depth_map(image_to_codes(Image.open(saved["png"])), saved["scale"], saved["offset"])
    assert values.tolist() == pytest.approx(np.array([[0.0, 1.0], [2.5, 0.0]]), abs=2.5 / 65534)
    assert mask.tolist() == [[True, True], [True, False]]
    floats = np.load(saved["npy"])
    assert floats.dtype == np.float32
    assert np.array_equal(floats, depth, equal_nan=True)
    assert np.array_equal(np.asarray(Image.open(saved["color"])), colorize(depth))


def test_near_is_bright_in_either_space(tmp_path):
    metres = np.array([[1.0, 2.0, 4.0, 0.0]])
    colors = pixels(Image.open(save_depth(tmp_path / "a", metres, space="depth")["color"]))
    assert colors[:3] == pixels(colorize(1 / metres[:, :3]))
    assert colors[3] == GREY
    assert pixels(Image.open(save_depth(tmp_path / "b", metres)["color"])) == pixels(colorize(metres))


def test_nothing_is_written_for_what_is_no_map(tmp_path):
    with pytest.raises(ValueError, match=r"\(1, 2, 2\)"):
        save_depth(tmp_path / "a", np.ones((1, 2, 2)))
    with pytest.raises(ValueError, match="'metres'"):
        save_depth(tmp_path / "a", np.ones((2, 2)), space="metres")
    assert list(tmp_path.iterdir()) == []


# Bars


def test_bars__lengths_are_in_proportion_and_parts_add_up():
    chart = np.asarray(bars({"one": {"a": 2.0, "b": 1.0}, "two": {"a": 3.0}, "none": {"b": 0.0}}))
    rows = chart[[90 + 17, 140 + 17]].astype(int)  # through the middle of the first two bars
    lengths = [[(abs(row - color).sum(axis=1) < 30).sum() for color in ((0, 114, 178), (213, 94, 0))] for row in rows]
    (first, second), (whole, absent) = lengths
    assert absent == 0
    assert first == pytest.approx(2 * second, abs=3)
    assert first + second == pytest.approx(whole, abs=3)


@pytest.mark.parametrize("rows", [{}, {"one": {"a": -1.0}}, {"one": {"a": float("nan")}}, {"one": {}}])
def test_bars__nothing_to_draw(rows):
    with pytest.raises(ValueError, match="a chart needs a bar"):
        bars(rows)
