import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from depth_anything_hf import DepthAnythingImageProcessor
from depth_anything_hf.data.codes import upright_rgb
from depth_anything_hf.maps.alignment import apply_fit, fit_scale_shift
from depth_anything_hf.pictures.visualization import save_depth
from depth_anything_hf.prediction.predictor import DepthPredictor, predict_depth
from depth_anything_hf.prediction.tiling import (
    PixelFile,
    TiledDepth,
    iter_tiled_depth,
    predict_tiled,
    save_tiled_depth,
    tile_starts,
    tile_weights,
)

pytestmark = pytest.mark.usefixtures("one_thread")


class LuminanceTeacher(nn.Module):
    """A model that reads depth off the luminance, no finer than its patches, on a scale and shift of its own each call.

    So do real relative models: what they say of one crop has no common scale with what they say of another.
    """

    def __init__(self, fits, kind="relative", tilt=0.0, patch=4):
        super().__init__()
        self.fits, self.tilt, self.patch = iter(fits), tilt, patch
        self.config = SimpleNamespace(depth_estimation_type=kind, model_type="depth_anything")
        self.anchor = nn.Parameter(torch.zeros(1))

    def forward(self, pixel_values):  # (1, 3, height, width)
        mean, std = DepthAnythingImageProcessor().normalization
        luminance = (pixel_values * std + mean).mean(dim=1, keepdim=True)
        seen = F.interpolate(F.avg_pool2d(luminance, self.patch), luminance.shape[-2:], mode="bilinear")[:, 0]
        seen = seen + self.tilt * torch.linspace(-0.5, 0.5, seen.shape[-1])
        scale, shift = next(self.fits)
        return SimpleNamespace(predicted_depth=scale * seen + shift)


def random_fits(seed=0, shift=1.0):
    rng = np.random.default_rng(seed)
    while True:
        yield float(rng.uniform(0.5, 2)), float(rng.uniform(0, shift))


def first_then(fit, *others):
    yield fit
    while True:
        yield from others


def smooth_scene(height=330, width=440):
    y, x = np.mgrid[:height, :width] / 100
    return 0.5 + 0.2 * np.sin(x + 0.5 * y) + 0.2 * np.cos(1.3 * y - 0.4 * x)  # (height, width), in (0, 1)


def as_image(luminance):
    return Image.fromarray(np.repeat(np.rint(255 * luminance).astype(np.uint8)[..., None], 3, axis=2))


def fitted(depth, truth):
    """The prediction on the scale and shift of the truth."""
    target = torch.from_numpy(truth)[None]
    scale, shift = fit_scale_shift(depth[None].double(), target, torch.ones_like(target, dtype=torch.bool))
    return apply_fit(depth[None], scale, shift)[0].numpy()


def seams(length, tile=112, overlap=28):
    """First pixels behind the borders of the tiles along a side, and the pixels well away from any."""
    starts = tile_starts(length, tile, overlap)
    borders = sorted({*starts[1:], *(start + tile for start in starts[:-1])})
    margin = 8  # at the image's edge the teacher itself is flat
    return borders, [x for x in range(margin, length - margin) if min(abs(x - border) for border in borders) > 2]


def steepest(values, columns):
    """The largest step between neighbours in a row, at the left of some columns."""
    return np.abs(values[:, columns] - values[:, [column - 1 for column in columns]]).max()


@pytest.mark.parametrize("length", [1, 7, 100, 101, 250, 1000])
@pytest.mark.parametrize(("tile", "overlap"), [(100, 25), (100, 1), (64, 32), (2, 1)])
def test_tile_starts__cover_the_side_with_at_least_the_overlap(length, tile, overlap):
    starts = tile_starts(length, tile, overlap)
    if length <= tile:
        assert starts == [0]
        return
    assert starts[0] == 0
    assert starts[-1] == length - tile
    steps = np.diff(starts)
    assert steps.max() <= tile - overlap
    assert steps.max() - steps.min() <= 1  # even
    assert (len(starts) - 1) * (tile - overlap) + tile < length + tile - overlap  # one fewer would not do


def test_tile_starts__literals():
    assert tile_starts(1036, 1036, 259) == [0]
    assert tile_starts(1037, 1036, 259) == [0, 1]
    assert tile_starts(10, 4, 1) == [0, 3, 6]
    assert tile_starts(11, 4, 1) == [0, 2, 5, 7]


@pytest.mark.parametrize("overlap", [0, -1, 51])
def test_tile_starts__overlap_out_of_range(overlap):
    with pytest.raises(ValueError, match=rf"tile is 100 and overlap {overlap} pixels; the overlap must be from 1"):
        tile_starts(300, 100, overlap)


@pytest.mark.parametrize(("length", "tile", "overlap"), [(60, 100, 25), (100, 100, 1), (251, 100, 25), (997, 64, 32)])
def test_tile_weights__are_a_partition_of_unity(length, tile, overlap):
    starts = tile_starts(length, tile, overlap)
    weights = tile_weights(length, starts, tile)
    total = torch.zeros(length)
    for start, row in zip(starts, weights, strict=True):
        total[start : start + len(row)] += row
    torch.testing.assert_close(total, torch.ones(length))
    assert (weights > 0).all()


def test_tile_weights__literal_and_ends():
    # sin^2 at pi/8 and 3 pi/8 is (2 -+ sqrt 2) / 4; where two tiles of 4 share two pixels: 0.8536 against 0.1464 of 1
    near, far = (2 - 2**0.5) / 4, (2 + 2**0.5) / 4
    expected = torch.tensor([[1.0, 1.0, far, near], [near, far, 1.0, 1.0]])
    torch.testing.assert_close(tile_weights(6, [0, 2], 4), expected)
    weights = tile_weights(175, [0, 75], 100)
    assert weights[0, -1] < 0.01  # a tile comes in from nothing,
    assert weights[1, 0] < 0.01
    assert weights.diff(dim=1).abs().max() < 0.1  # and without a jump


@pytest.mark.parametrize("tilt", [0.0, 0.1], ids=["what a fit mends", "what no fit mends"])
def test_predict_tiled__no_seam(tilt, tiny_processor):
    # With a tilt each tile leans, so that neighbours differ by up to 0.1 where they meet, whatever their fit.
    truth = smooth_scene()
    tiled = predict_tiled(
        DepthPredictor.from_model(LuminanceTeacher(random_fits(), tilt=tilt), tiny_processor), as_image(truth), 112, 28
    )
    found = fitted(tiled.depth, truth)
    assert np.abs(found - truth).max() < 0.05 + 0.8 * tilt  # of a range of 0.8
    for turned in (np.asarray, np.transpose):  # columns, then rows
        depth, wrong, true = turned(found), turned(found - truth)[8:-8], turned(truth)
        borders, interior = seams(depth.shape[1])
        assert steepest(depth, borders) < 1.2 * steepest(true, interior)  # no steeper than the scene itself
        assert steepest(wrong, borders) < steepest(wrong, interior)  # and no more wrong than elsewhere


def test_predict_tiled__without_fit_and_blend_there_are_walls(tiny_processor):
    truth, image, model = smooth_scene(), as_image(smooth_scene()), LuminanceTeacher(random_fits())
    pasted = torch.empty(330, 440)
    for top in tile_starts(330, 112, 28):
        for left in tile_starts(440, 112, 28):
            piece = image.crop((left, top, left + 112, top + 112))
            pasted[top : top + 112, left : left + 112] = predict_depth(model, tiny_processor, [piece])[0]
    borders, interior = seams(440)
    assert steepest(fitted(pasted, truth), borders) > 50 * steepest(truth, interior)


def test_predict_tiled__covers_the_image_with_its_tiles(tiny_processor):
    tiled = predict_tiled(
        DepthPredictor.from_model(LuminanceTeacher(random_fits()), tiny_processor), as_image(smooth_scene()), 112, 28
    )
    assert (tiled.tiles, tiled.unfit) == (len(tile_starts(330, 112, 28)) * len(tile_starts(440, 112, 28)), 0)


def test_predict_tiled__sees_what_the_overview_cannot(tiny_processor):
    truth = smooth_scene()
    truth += 0.08 * (np.arange(440) // 12 % 2) - 0.04  # slats 12 pixels wide: 1.5 pixels of the overview
    image = as_image(truth)
    (whole,) = predict_depth(LuminanceTeacher([(1.0, 0.0)], patch=2), tiny_processor, [image])
    tiled = predict_tiled(
        DepthPredictor.from_model(LuminanceTeacher(random_fits(), patch=2), tiny_processor), image, 112, 28
    )
    blurred, sharp = (np.abs(fitted(depth, truth) - truth).mean() for depth in (whole, tiled.depth))
    assert sharp < blurred / 2


def test_predict_tiled__detail_does_not_shrink_a_tiles_scale(tiny_processor):
    # The overview lacks the slats. A fit pixel by pixel would take them for noise and flatten every tile.
    _, x = np.mgrid[:448, :448] / 448
    truth = 0.3 + 0.3 * x + 0.1 * (np.arange(448) // 4 % 2)
    tiled = predict_tiled(
        DepthPredictor.from_model(LuminanceTeacher(first_then((1.0, 0.0), (2.0, 0.3)), patch=1), tiny_processor),
        as_image(truth),
        56,
    )
    high, low = (
        np.median(tiled.depth[:, np.arange(448) // 4 % 2 == slat].numpy() - 0.3 * x[:, ::2]) for slat in (1, 0)
    )
    assert high - low > 0.09


@pytest.mark.parametrize(
    "others", [[(-1.0, 2.0)], [(0.0, 1.0)], [(float("nan"), 0.0)], [(float("inf"), 0.0)]], ids=str
)
def test_predict_tiled__tiles_that_do_not_agree_are_left_out_and_counted(others, tiny_processor):
    image = as_image(smooth_scene())
    tiled = predict_tiled(
        DepthPredictor.from_model(LuminanceTeacher(first_then((1.0, 0.0), *others)), tiny_processor), image, 112, 28
    )
    assert tiled.unfit == tiled.tiles == 4 * 5
    # What is left is the overview: the image no larger than a tile, predicted, and enlarged.
    small = image.resize((149, 112), Image.Resampling.BOX)
    (overview,) = predict_depth(LuminanceTeacher([(1.0, 0.0)]), tiny_processor, [small])
    expected = F.interpolate(overview[None, None], (330, 440), mode="bilinear")[0, 0]
    torch.testing.assert_close(tiled.depth, expected, atol=1e-4, rtol=0)


def test_predict_tiled__noise_is_left_out(tiny_processor):
    class Noise(LuminanceTeacher):
        def forward(self, pixel_values):
            output = super().forward(pixel_values)
            if any(asked):
                output.predicted_depth = torch.rand(output.predicted_depth.shape, generator=generator)
            asked.append(True)
            return output

    asked, generator = [], torch.Generator().manual_seed(0)
    model = Noise(random_fits())
    tiled = predict_tiled(DepthPredictor.from_model(model, tiny_processor), as_image(smooth_scene()), 112, 28)
    assert tiled.unfit == tiled.tiles
    assert np.abs(fitted(tiled.depth, smooth_scene()) - smooth_scene()).max() < 0.1


def test_predict_tiled__a_metric_model_keeps_meters_and_gets_no_shift(tiny_processor):
    truth = smooth_scene()
    metres = LuminanceTeacher(first_then((4.0, 0.0), (2.0, 0.0), (3.0, 0.0)), kind="metric")
    tiled = predict_tiled(DepthPredictor.from_model(metres, tiny_processor), as_image(truth), 112, 28)
    assert tiled.unfit == 0
    assert np.abs(tiled.depth.numpy() - 4 * truth).max() < 0.2
    # twice as far and 3 m more: a shift would mend it, and no camera shifts depth
    shifted = LuminanceTeacher(first_then((4.0, 0.0), (2.0, 3.0)), kind="metric")
    tiled = predict_tiled(DepthPredictor.from_model(shifted, tiny_processor), as_image(truth), 112, 28)
    assert tiled.unfit > tiled.tiles / 2


def test_predict_tiled__nothing_is_farther_than_infinitely_far(tiny_processor):
    # Tiles that lean would be brought below disparity 0 by their fits.
    _, x = np.mgrid[:224, :224] / 224
    leaning = LuminanceTeacher(first_then((1.0, 0.0), (1.0, 5.0)), tilt=-0.2)
    tiled = predict_tiled(
        DepthPredictor.from_model(leaning, tiny_processor), as_image(np.clip(np.sin(9 * x), 0, 1)), 112, 28
    )
    assert tiled.unfit == 0
    assert tiled.depth.min() == 0


@pytest.mark.parametrize("max_depth", [None, 20.0])
def test_predict_tiled__one_tile_is_the_plain_prediction(max_depth, make_model, tiny_processor, noise_image):
    model, image = make_model(max_depth=max_depth), noise_image(60, 80)
    tiled = predict_tiled(DepthPredictor.from_model(model, tiny_processor), image, tile=80)
    torch.testing.assert_close(tiled.depth, predict_depth(model, tiny_processor, [image])[0], atol=1e-5, rtol=1e-5)
    assert (tiled.tiles, tiled.unfit) == (1, 0)


@pytest.mark.parametrize("size", [(50, 300), (300, 50), (113, 112), (1, 1)])
def test_predict_tiled__any_shape(size, tiny_processor):
    truth = smooth_scene(*size)
    tiled = predict_tiled(
        DepthPredictor.from_model(LuminanceTeacher(random_fits()), tiny_processor), as_image(truth), 112
    )
    assert tiled.depth.shape == size
    assert torch.isfinite(tiled.depth).all()


def test_predict_tiled__other_families(save_family, noise_image):
    from depth_anything_hf.prediction.predictor import load_model

    model, processor = load_model(save_family("glpn"))  # takes images as large as they are
    tiled = predict_tiled(DepthPredictor.from_model(model, processor), noise_image(96, 160), tile=64)
    assert tiled.depth.shape == (96, 160)
    assert tiled.depth.min() > 0


def test_predict_tiled__needs_to_know_the_space(tiny_processor, noise_image):
    model = LuminanceTeacher(random_fits(), kind=None)
    model.config.model_type = "unheard-of"
    with pytest.raises(ValueError, match="does not say whether it predicts disparity or depth"):
        predict_tiled(DepthPredictor.from_model(model, tiny_processor), noise_image(60, 80))
    predict_tiled(DepthPredictor.from_model(model, tiny_processor, space="disparity"), noise_image(60, 80))


def test_iter_tiled_depth__rows_come_before_the_rest_is_predicted(tiny_processor):
    asked = []

    class Watched(LuminanceTeacher):
        def forward(self, pixel_values):
            asked.append(pixel_values)
            return super().forward(pixel_values)

    image = as_image(smooth_scene())
    rows = iter_tiled_depth(DepthPredictor.from_model(Watched(random_fits()), tiny_processor), image, 112, 28)
    first = next(rows)
    assert len(asked) == first.tiles + 1 == 5 + 1  # the first row of tiles, and the overview
    rows = [first, *rows]
    assert max(len(more.depth) for more in rows) <= 64
    assert sum(len(more.depth) for more in rows) == 330
    assert sum(more.tiles for more in rows) == len(asked) - 1 == 5 * 4


@pytest.mark.parametrize("mode", ["RGB", "L", "LA", "RGBA", "P", "I;16"])
def test_pixel_file__gives_what_the_image_gives(mode, noise_image, tmp_path):
    image = noise_image(150, 70)
    image = Image.new("I;16", (70, 150), 40000) if mode == "I;16" else image.convert(mode)
    with PixelFile(image, tmp_path) as pixels:
        assert pixels.size == (70, 150)
        for box in ((0, 0, 70, 150), (3, 60, 40, 140), (69, 149, 70, 150)):
            assert pixels.crop(box).tobytes() == upright_rgb(image).crop(box).tobytes()


def test_pixel_file__stands_upright(noise_image, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    noise_image(60, 80).save(tmp_path / "turned.png", exif=exif)
    turned = Image.open(tmp_path / "turned.png")
    with PixelFile(turned, tmp_path) as pixels:
        assert pixels.size == (60, 80)
        assert pixels.crop((0, 0, 60, 80)).tobytes() == upright_rgb(turned).tobytes()


def test_pixel_file__predicts_the_same_as_the_image(make_model, tiny_processor, noise_image, tmp_path):
    model, image = make_model(), noise_image(150, 230)
    with PixelFile(image, tmp_path) as pixels:
        one, other = (
            predict_tiled(DepthPredictor.from_model(model, tiny_processor), source, tile=100)
            for source in (image, pixels)
        )
    assert torch.equal(one.depth, other.depth)
    assert list(tmp_path.iterdir()) == []


MAPS = {
    "a map": np.random.default_rng(0).random((150, 90)) * 5 + 1,
    "holes": np.where(np.arange(150 * 90).reshape(150, 90) % 7, 2.0 + np.arange(90) / 9, np.nan),
    "constant": np.full((150, 90), 3.0),
    "nothing": np.full((150, 90), np.nan),
    "nearly constant": np.where(np.arange(150 * 90).reshape(150, 90) == 5, 9.0, 3.0),
}


@pytest.mark.parametrize("space", ["disparity", "depth"])
@pytest.mark.parametrize("kind", MAPS)
def test_save_tiled_depth__writes_the_files_of_save_depth(kind, space, tmp_path):
    values = MAPS[kind].astype(np.float32)
    plain = save_depth(tmp_path / "plain", values, space)
    rows = [TiledDepth(torch.from_numpy(part), 3, 1) for part in np.split(values, [1, 77])]
    tiled = save_tiled_depth(tmp_path / "deep" / "room.2", rows, values.shape, space)
    assert (tiled["tiles"], tiled["unfit"]) == (9, 3)
    assert (tiled["scale"], tiled["offset"]) == (plain["scale"], plain["offset"])
    assert tiled["npy"].name == "room.2.npy"
    np.testing.assert_array_equal(np.load(tiled["npy"]), np.load(plain["npy"]))
    for name in ("png", "color"):
        with Image.open(tiled[name]) as one, Image.open(plain[name]) as other:
            assert (one.mode, one.size) == (other.mode, other.size)
            np.testing.assert_array_equal(np.asarray(one), np.asarray(other))


@pytest.mark.slow
def test_save_tiled_depth__large_maps_are_colored_on_the_range_of_a_part(tmp_path):
    values = np.tile(np.linspace(1, 2, 2500, dtype=np.float32), (1000, 1))
    tiled = save_tiled_depth(tmp_path / "a", [TiledDepth(torch.from_numpy(values), 1, 0)], values.shape)
    plain = save_depth(tmp_path / "b", values)
    difference = np.asarray(Image.open(tiled["color"])).astype(int) - np.asarray(Image.open(plain["color"]))
    assert np.abs(difference).max() <= 8  # a step of the colour map


def test_save_tiled_depth__wrong_height_and_space(tmp_path):
    rows = [TiledDepth(torch.ones(2, 3), 1, 0)]
    with pytest.raises(ValueError, match=r"2 rows of 3 pixels came for an image of \(4, 3\)"):
        save_tiled_depth(tmp_path / "a", rows, (4, 3))
    with pytest.raises(ValueError, match="space is 'metres'"):
        save_tiled_depth(tmp_path / "a", rows, (2, 3), "metres")


MEASURE = """
import sys
import numpy as np
import torch
from PIL import Image
from transformers import Dinov2Config
from depth_anything_hf import DepthAnythingForDepthEstimation, DepthAnythingImageProcessor, config_for_encoder
from depth_anything_hf.prediction.predictor import DepthPredictor
from depth_anything_hf.prediction.tiling import PixelFile, iter_tiled_depth, save_tiled_depth


class Drawn:  # no decoder: an image that is drawn where it is read
    mode, info = "RGB", {}

    def __init__(self, side):
        self.size, self.width, self.height = (side, side), side, side

    def getexif(self):
        return {}

    def crop(self, box):
        x, y = np.arange(box[0], box[2]), np.arange(box[1], box[3])[:, None]
        return Image.fromarray(np.uint8((x * 3 + y * 5) % 256)).convert("RGB")


def peak():  # megabytes
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


encoder = Dinov2Config(image_size=56, hidden_size=32, num_hidden_layers=4, num_attention_heads=2)
model = DepthAnythingForDepthEstimation(config_for_encoder(encoder)).eval()
processor = DepthAnythingImageProcessor(size={"height": 56, "width": 56})
for side in (700, 1000, 2400):
    with PixelFile(Drawn(side), sys.argv[1]) as pixels:
        rows = iter_tiled_depth(DepthPredictor.from_model(model, processor), pixels, tile=400)
        save_tiled_depth(sys.argv[1] + "/a", rows, (side, side))
    print(side, peak())
"""


@pytest.mark.slow
@pytest.mark.skipif(
    not Path("/proc/self/status").is_file(), reason="the peak of a process's memory is read from /proc"
)
def test_memory__does_not_grow_with_the_image(tmp_path):
    done = subprocess.run([sys.executable, "-c", MEASURE, str(tmp_path)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-4000:]
    peaks = {int(side): float(megabytes) for side, megabytes in (line.split() for line in done.stdout.splitlines())}
    assert np.load(tmp_path / "a.npy", mmap_mode="r").shape == (2400, 2400)
    # From 1 to 6 megapixels: the image grows by 14 MB, its map by 19 MB. What may grow: a tile's rows times the width.
    assert peaks[2400] - peaks[1000] < 18


@pytest.mark.parametrize("bits", [12, 16])
def test_pixel_file__gray_of_more_bits_is_scaled_as_a_whole(bits):
    codes = np.linspace(0, 2**bits - 1, 200 * 20).astype(np.uint16).reshape(200, 20)  # more rows than a strip
    image = Image.fromarray(codes)
    with PixelFile(image) as pixels:
        found = pixels.crop((0, 0, 20, 200))
    assert np.array_equal(np.asarray(found), np.asarray(upright_rgb(image)))
    assert np.abs(np.diff(np.asarray(found)[:, 0, 0].astype(int))).max() < 3  # no step between strips
