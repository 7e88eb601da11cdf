from fractions import Fraction

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("av", reason='video needs PyAV: pip install "depth_anything_hf[video]"')

from depth_anything_hf.pictures.visualization import colorize
from depth_anything_hf.prediction.predictor import DepthPredictor, predict_depth
from depth_anything_hf.prediction.video import VideoReader, VideoWriter, iter_video_depth
from depth_anything_hf.scenes.simple import render_scenes


@pytest.fixture
def clip(tmp_path):
    images = render_scenes([3, 7], 48, 64).images.permute(0, 2, 3, 1).numpy()
    with VideoWriter(tmp_path / "clip.mp4", 25) as writer:
        for i, gain in enumerate((1.0, 0.7, 1.0, 0.7, 0.9, 0.8)):
            writer.write((images[i // 3] * gain).astype(np.uint8), Fraction(i, 25))
    return tmp_path / "clip.mp4"


@pytest.mark.parametrize("max_depth", [None, 20.0])
def test_example__shows_the_clip_and_its_depth_before_and_after(
    load_example, make_model, tiny_processor, clip, tmp_path, capsys, max_depth
):
    model = make_model(max_depth=max_depth)
    for part in (model, tiny_processor):
        part.save_pretrained(tmp_path / "model")
    out = tmp_path / "out" / "compared.mp4"
    assert load_example("video_depth").main([str(clip), "--model", str(tmp_path / "model"), "--out", str(out)]) == 0
    with VideoReader(clip) as reader:
        given = list(reader)
    with VideoReader(out) as reader:
        found = list(reader)
    assert [frame.time for frame in found] == [frame.time for frame in given]
    space = "depth" if max_depth else "disparity"
    after = iter_video_depth(given, DepthPredictor.from_model(model, tiny_processor, space=space))
    before = predict_depth(model, tiny_processor, [Image.fromarray(frame.image) for frame in given])
    for whole, source, aligned, alone in zip(found, given, after, before, strict=True):
        assert whole.image.shape == (48, 192, 3)
        alone = colorize(1 / alone.numpy() if max_depth else alone.numpy())
        for i, panel in enumerate((source.image, alone, aligned.picture)):
            shown = whole.image[:, 64 * i + 4 : 64 * i + 60].astype(int)
            assert np.abs(shown - panel[:, 4:60]).mean() < 16  # colours lose half of their resolution
    printed = capsys.readouterr().out
    assert "scenes begin at 0.00 s, 0.12 s" in printed
    assert "scale corrected by" in printed


@pytest.mark.slow
def test_example__says_what_is_broken(load_example, make_model, tiny_processor, tmp_path, capsys):
    for part in (make_model(), tiny_processor):
        part.save_pretrained(tmp_path / "model")
    noise = np.random.default_rng(0).integers(0, 255, (40, 48, 64, 3), dtype=np.uint8)
    with VideoWriter(tmp_path / "clip.mkv", 25) as writer:
        for i, picture in enumerate(noise):
            writer.write(picture, Fraction(i, 25))
    data = (tmp_path / "clip.mkv").read_bytes()
    (tmp_path / "clip.mkv").write_bytes(data[: len(data) // 3])
    arguments = [str(tmp_path / "clip.mkv"), "--model", str(tmp_path / "model"), "--out", str(tmp_path / "out.mp4")]
    assert load_example("video_depth").main(arguments) == 1
    assert "clip.mkv is broken: it ends at" in capsys.readouterr().out
    assert (tmp_path / "out.mp4").is_file()
