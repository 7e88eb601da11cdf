import sys

import numpy as np
import pytest
import torch
from PIL import Image

from depth_anything_hf.pictures.control_image import to_control_image
from depth_anything_hf.prediction.predictor import predict_depth

diffusers = pytest.importorskip("diffusers", reason='pip install "depth_anything_hf[controlnet]"')

from tests.examples.tiny_diffusion import save_base, save_controlnet  # noqa: E402  (needs diffusers)

KINDS = ["sd", "sdxl"]


@pytest.fixture(scope="module")
def painters(tmp_path_factory):
    """Bases and ControlNets: `painters[kind]` are two folders."""
    folder = tmp_path_factory.mktemp("painters")
    bases = {kind: save_base(folder / kind, kind) for kind in KINDS}
    return {kind: (base, save_controlnet(folder / f"{kind}_control", base)) for kind, base in bases.items()}


@pytest.fixture(scope="module")
def script(load_example):
    return load_example("controlnet/controlnet_depth")


@pytest.fixture
def arguments(painters, make_model, tiny_processor, noise_image, tmp_path):
    def make(*more, kind="sd", max_depth=None):
        for part in (make_model(max_depth=max_depth), tiny_processor):
            part.save_pretrained(tmp_path / "depth_model")
        noise_image(48, 80).save(tmp_path / "garden.1.png")
        base, controlnet = painters[kind]
        places = {
            "image": tmp_path / "garden.1.png",
            "model": tmp_path / "depth_model",
            "out": tmp_path / "new" / "out",
        }
        places |= {"base": base, "controlnet": controlnet}
        options = [text for name, place in places.items() for text in (f"--{name}", str(place))]
        return [*options, "--prompt", "a cat", "--resolution", "32", "--steps", "2", *more]

    return make


def pixels(path):
    return np.asarray(Image.open(path)).astype(int)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_photograph_is_painted_anew(script, arguments, tmp_path, capsys, kind):
    assert script.main(arguments(kind=kind)) == 0
    out = tmp_path / "new" / "out"
    names = ["garden.1_0.png", "garden.1_0_sheet.png", "garden.1_control.png"]
    assert sorted(path.name for path in out.iterdir()) == names
    assert f"StableDiffusion{'XL' * (kind == 'sdxl')}ControlNetPipeline" in capsys.readouterr().out
    # 32 x 53.3, in what the network can halve: 8 of the autoencoder, 2 of the UNet
    for name in ("garden.1_0.png", "garden.1_control.png"):
        assert Image.open(out / name).size == (48, 32)
    control = pixels(out / "garden.1_control.png")
    assert (control.min(), control.max()) == (0, 255)


@pytest.mark.slow
@pytest.mark.parametrize("max_depth", [None, 20.0])
def test_the_control_image_is_that_of_the_models_depth(
    script, arguments, make_model, tiny_processor, tmp_path, max_depth
):
    script.main(arguments(max_depth=max_depth))
    photo = Image.open(tmp_path / "garden.1.png")
    depth = predict_depth(make_model(max_depth=max_depth), tiny_processor, [photo])[0]
    expected = to_control_image(depth, "disparity" if max_depth is None else "depth", size=(32, 48))
    found = pixels(tmp_path / "new" / "out" / "garden.1_control.png")
    assert np.abs(found - np.asarray(expected)).max() <= 1


@pytest.mark.slow
def test_the_seed_decides_the_picture_and_nothing_is_overwritten_by_another(script, arguments, tmp_path):
    out = tmp_path / "new" / "out"
    script.main(arguments("--seed", "3"))
    first = pixels(out / "garden.1_3.png")
    script.main(arguments("--seed", "4"))
    assert np.array_equal(first, pixels(out / "garden.1_3.png"))
    assert np.abs(first - pixels(out / "garden.1_4.png")).max() > 20
    script.main(arguments("--seed", "3"))
    assert np.array_equal(first, pixels(out / "garden.1_3.png"))


@pytest.mark.slow
def test_options_reach_the_pipeline(script, arguments, tmp_path):
    found = {}
    cases = {
        "plain": (),
        "uncontrolled": ("--scale", "0"),
        "negative": ("--negative-prompt", "dog"),
        "3": ("--steps", "3"),
    }
    for name, more in cases.items():
        script.main(arguments(*more))
        found[name] = pixels(tmp_path / "new" / "out" / "garden.1_0.png")
    for name in cases.keys() - {"plain"}:
        assert not np.array_equal(found["plain"], found[name]), name


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_depth_decides_the_picture(script, painters, kind):
    pipe = script.load_pipeline(*painters[kind], "cpu")
    pipe.set_progress_bar_config(disable=True)
    slope = np.linspace(1, 2, 32)[None].repeat(32, axis=0)
    maps = {"slope": slope, "stretched": 3 * slope - 1, "turned": slope.T, "mirrored": slope[:, ::-1].copy()}

    def paint(disparity, scale=1.0):
        generator = torch.Generator().manual_seed(0)
        control = to_control_image(disparity)
        settings = {"num_inference_steps": 2, "controlnet_conditioning_scale": scale, "generator": generator}
        return np.asarray(pipe("a cat", image=control, **settings).images[0]).astype(int)

    painted = {name: paint(disparity) for name, disparity in maps.items()}
    assert np.array_equal(painted["slope"], paint(slope))
    assert np.abs(painted["slope"] - painted["turned"]).max() > 5
    assert np.abs(painted["slope"] - painted["mirrored"]).max() > 5
    assert np.abs(painted["turned"] - painted["mirrored"]).max() > 5
    # the same scene at another scale and shift: grey levels differ by one at most, and the picture hardly
    assert np.abs(painted["slope"] - painted["stretched"]).max() <= 3
    assert np.array_equal(paint(slope, scale=0.0), paint(slope.T, scale=0.0))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("size", "resolution", "expected"),
    [((80, 60), 32, (32, 48)), ((60, 80), 32, (48, 32)), ((64, 64), None, (64, 64)), ((100, 101), 48, (48, 48))],
)
def test_generated_size(script, painters, size, resolution, expected):
    pipe = script.load_pipeline(*painters["sd"], "cpu")
    assert script.generated_size(Image.new("RGB", size), pipe, resolution) == expected


@pytest.mark.slow
def test_errors(script, arguments, painters, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"32 numbers a token, and .*sd writes 16: it was trained for another base"):
        script.load_pipeline(painters["sd"][0], painters["sdxl"][1], "cpu")
    (tmp_path / "model_index.json").write_text('{"_class_name": "FluxPipeline", "transformer": ["diffusers", "Flux"]}')
    with pytest.raises(ValueError, match="is a FluxPipeline; the base must have a UNet"):
        script.load_pipeline(str(tmp_path), painters["sd"][1], "cpu")
    with pytest.raises(FileNotFoundError, match=r"lost\.jpg"):
        script.main([*arguments(), "--image", "lost.jpg"])
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(ImportError, match=r"depth_anything_hf\[controlnet\]"):
        script.main(arguments())
    assert not (tmp_path / "new").exists()


def test_help_teaches(script, capsys):
    with pytest.raises(SystemExit):
        script.main(["--help"])
    text = capsys.readouterr().out
    assert "stabilityai/stable-diffusion-xl-base-1.0" in text
    assert "--controlnet" in text
