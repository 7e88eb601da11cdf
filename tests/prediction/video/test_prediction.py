import tracemalloc
import weakref
from fractions import Fraction

import numpy as np
import pytest
import torch
from PIL import Image

from depth_anything_hf.pictures.visualization import colorize
from depth_anything_hf.prediction.predictor import DepthPredictor, predict_depth
from depth_anything_hf.prediction.temporal import TemporalAligner
from depth_anything_hf.prediction.video import DepthFrame, Frame, iter_video_depth
from depth_anything_hf.scenes.simple import render_scenes


@pytest.fixture
def model(make_model):
    return make_model()


def frames_of(pictures):
    return [Frame(picture, Fraction(i, 25)) for i, picture in enumerate(pictures)]


@pytest.fixture(scope="module")
def walk():
    """Frames of two scenes, each dimmed and brightened by turns."""
    images = render_scenes([3, 7], 48, 64).images.permute(0, 2, 3, 1).numpy()
    return [(image * gain).astype(np.uint8) for image in images for gain in (1.0, 0.8, 0.9)]


@pytest.mark.parametrize("batch_size", [1, 4, 100])
def test_depth__without_smoothing_is_the_prediction(model, tiny_processor, walk, batch_size):
    found = list(
        iter_video_depth(
            frames_of(walk), DepthPredictor.from_model(model, tiny_processor, space="disparity"), 1, batch_size
        )
    )
    expected = predict_depth(model, tiny_processor, [Image.fromarray(image) for image in walk])
    assert len(found) == len(walk)
    for i, (frame, depth) in enumerate(zip(found, expected, strict=True)):
        np.testing.assert_allclose(frame.depth, depth.numpy(), rtol=1e-4, atol=1e-5)
        assert frame.depth.dtype == np.float32
        assert frame.time == Fraction(i, 25)
        assert frame.image is walk[i]
        assert np.array_equal(frame.picture, colorize(frame.depth, None, *frame.color_range))


@pytest.mark.parametrize("space", ["disparity", "depth"])
def test_depth__is_aligned_with_the_past(make_model, tiny_processor, walk, space):
    model = make_model(max_depth=20.0 if space == "depth" else None)
    found = list(
        iter_video_depth(
            frames_of(walk), DepthPredictor.from_model(model, tiny_processor, space=space), 5, batch_size=2
        )
    )
    align = TemporalAligner(space, 5)
    for frame, image in zip(found, walk, strict=True):
        prediction = predict_depth(model, tiny_processor, [Image.fromarray(image)])[0]
        expected = align(prediction, torch.from_numpy(image).movedim(2, 0))
        np.testing.assert_allclose(frame.depth, expected.values.numpy(), rtol=1e-3, atol=1e-4)
        assert (frame.scale, frame.shift) == pytest.approx((expected.scale, expected.shift), abs=1e-3)
        assert frame.cut == expected.cut
    assert [frame.cut for frame in found] == [True, False, False, True, False, False]
    assert found[1].scale != 1.0


def test_depth__colors_run_on_and_start_anew_at_a_cut(model, tiny_processor, walk):
    found = list(
        iter_video_depth(frames_of(walk), DepthPredictor.from_model(model, tiny_processor, space="disparity"))
    )
    own = [np.percentile(frame.depth, (2, 98), method="nearest") for frame in found]
    for i in (0, 3):
        np.testing.assert_allclose(found[i].color_range, own[i], rtol=1e-5)
    for i in (1, 2, 4, 5):  # few frames: the mean of all
        np.testing.assert_allclose(found[i].color_range, np.mean(own[i // 3 * 3 : i + 1], axis=0), rtol=1e-5)


def test_depth__meters_are_shown_as_disparity(make_model, tiny_processor, walk):
    model = make_model(max_depth=20.0)
    frame = next(iter_video_depth(frames_of(walk), DepthPredictor.from_model(model, tiny_processor, space="depth")))
    nearest, farthest = (np.unravel_index(pick(frame.depth), frame.depth.shape) for pick in (np.argmin, np.argmax))
    assert frame.picture[nearest].tolist() == [252, 255, 164]  # the brightest colour
    assert frame.picture[farthest].tolist() == [0, 0, 4]


def test_depth__what_has_no_value_is_gray():
    depth = np.array([[1.0, 2.0, np.nan, 4.0]], dtype=np.float32)
    frame = DepthFrame(np.zeros((1, 4, 3), np.uint8), Fraction(0), depth, "disparity", 1.0, 0.0, True, (1.0, 4.0))
    assert frame.picture[0, [0, 2, 3]].tolist() == [[0, 0, 4], [128, 128, 128], [252, 255, 164]]


@pytest.mark.parametrize("batch_size", [1, 3])
def test_depth__holds_a_batch_of_frames_at_most(model, tiny_processor, batch_size):
    """However long the video: frames that nobody needs any more are gone when the next ones are read."""
    living, most = weakref.WeakSet(), 0

    class Picture(np.ndarray):  # a plain array would do; sets want to hash what they hold
        __hash__ = object.__hash__

    def frames():
        nonlocal most
        for i in range(20):
            picture = np.full((24, 32, 3), 10 * i, dtype=np.uint8).view(Picture)
            living.add(picture)
            most = max(most, len(living))
            yield Frame(picture, Fraction(i, 25))
            del picture

    for frame in iter_video_depth(
        frames(), DepthPredictor.from_model(model, tiny_processor, space="disparity"), batch_size=batch_size
    ):
        del frame
    assert most <= batch_size + 1  # the last one of the batch before


@pytest.mark.slow
def test_depth__memory_does_not_grow_with_the_video(model, tiny_processor):
    def peak(count):
        frames = (Frame(np.full((48, 64, 3), i, dtype=np.uint8), Fraction(i, 25)) for i in range(count))
        tracemalloc.start()
        for frame in iter_video_depth(frames, DepthPredictor.from_model(model, tiny_processor, space="disparity")):
            frame.picture  # noqa: B018
        top = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return top

    peak(2)  # what is loaded on first use
    assert peak(18) < peak(3) + 6 * 48 * 64 * 3  # not fifteen frames


@pytest.mark.parametrize(
    ("options", "message"),
    [({"batch_size": 0}, "batch_size is 0"), ({"smoothing": 0}, "at least 1 frame"), ({"space": "m"}, "space is 'm'")],
)
def test_depth__refuses_senseless_settings(model, tiny_processor, walk, options, message):
    def first(space="disparity", **options):
        predictor = DepthPredictor.from_model(model, tiny_processor, space=space)
        return next(iter_video_depth(frames_of(walk), predictor, **options))

    with pytest.raises(ValueError, match=message):
        first(**options)
