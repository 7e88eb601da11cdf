import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from transformers.modeling_outputs import DepthEstimatorOutput

from depth_anything_hf.data.codes import decode_depth_map, encode_depth_map
from depth_anything_hf.labeling.labels import Labeler, common_sizes, quantize
from depth_anything_hf.labeling.teacher import Preparation, preparation_of
from depth_anything_hf.losses.affine_invariant import affine_invariant_loss
from depth_anything_hf.prediction.predictor import predict_depth

PLAIN = Preparation(1, False, 1.0, (0.0,) * 3, (1.0,) * 3)
LARGEST = torch.finfo(torch.float32).max
NAN, INF = float("nan"), float("inf")


class Red(nn.Module):
    """Predicts the red channel, with no processing: what comes out is known."""

    def __init__(self, every: int = 1):
        super().__init__()
        self.anchor, self.every, self.batches = nn.Parameter(torch.zeros(1)), every, []

    def forward(self, pixel_values):
        self.batches.append(len(pixel_values))
        return DepthEstimatorOutput(predicted_depth=pixel_values[:, 0, :: self.every, :: self.every])


def decoded(codes, scale, low):
    """Values and mask as a reader of the record finds them: the offset is that of `engine.Writers`."""
    step = float(scale)
    return decode_depth_map(codes.numpy(), step, float(low) - step)


def pixels_of(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(image))


# --- quantize


def test_quantize__by_hand():
    values = torch.tensor([[[1.0, 2.0, 3.0, 1.50001]], [[0.0, 65534.0, 2.4, 2.6]]])
    codes, scale, low = quantize(values, torch.ones_like(values, dtype=torch.bool))
    assert codes.dtype == torch.uint16
    assert codes.tolist() == [[[1, 32768, 65535, 16385]], [[1, 65535, 3, 4]]]
    assert scale.tolist() == pytest.approx([2 / 65534, 1.0])
    assert low.tolist() == [1.0, 0.0]


def test_quantize__what_is_masked_has_no_code_and_no_say():
    values = torch.tensor([[[NAN, INF, -INF, -7.0, 2.0, 3.0, 99.0]]])
    mask = torch.tensor([[[False, False, False, False, True, True, False]]])
    codes, scale, low = quantize(values, mask)
    assert codes.tolist() == [[[0, 0, 0, 0, 1, 65535, 0]]]
    assert (scale.item(), low.item()) == (pytest.approx(1 / 65534), 2.0)


def test_quantize__of_nothing_is_that_of_the_data_format():
    values = torch.tensor([[[1.0, NAN]], [[1.0, 3.0]]])
    codes, scale, low = quantize(values, torch.tensor([[[False, False]], [[True, True]]]))
    assert codes.tolist() == [[[0, 0]], [[1, 65535]]]
    assert (scale[0].item(), low[0].item() - scale[0].item()) == (1.0, 0.0)  # as encode_depth_map


@pytest.mark.parametrize("value", [0.0, 5.0, 1e-45, 1e-38, LARGEST])
def test_quantize__constant_map_is_exact(value):
    values = torch.full((1, 2, 2), value)
    codes, scale, low = quantize(values, values >= 0)
    assert codes.unique().tolist() == [1]
    assert scale.item() == encode_depth_map(values[0].numpy())[1]
    assert np.array_equal(decoded(codes[0], scale, low)[0], values[0])


RANGES = [(0.0, 1.0), (0.0, 1e-30), (3.0, 3.001), (1e-7, 250.0), (1e30, 1.5e30), (0.0, LARGEST), (1e6, 1e6 + 1)]


@pytest.mark.parametrize(("least", "most"), RANGES)
def test_quantize__is_encode_depth_map(least, most):
    generator = np.random.default_rng(0)
    values = (least + generator.random((40, 50)) * (most - least)).astype(np.float32)
    mask = generator.random(values.shape) > 0.3
    (codes,), scale, low = quantize(torch.from_numpy(values)[None], torch.from_numpy(mask)[None])
    expected, *_ = encode_depth_map(values, mask)
    assert np.abs(codes.numpy().astype(int) - expected).max() <= 1
    assert codes.numpy()[mask].min() == 1
    assert codes.numpy()[mask].max() >= 65534
    restored, found = decoded(codes, scale, low)
    assert np.array_equal(found, mask)
    error = np.abs(restored.astype(np.float64) - values)[mask].max()
    rounding = 2.0**-24 * most  # of the restored float32
    assert error <= 0.51 * scale.item() + rounding


@pytest.mark.parametrize("most", [1e-36, 1e-38, 1e-40, 1e-44])
def test_quantize__tiny_ranges_keep_their_precision(most):
    """Where float32 has few digits left there are fewer codes, not wrong ones."""
    values = torch.linspace(0, 1, 500).double().mul(most).float()[None, None]
    codes, scale, low = quantize(values, values >= 0)
    restored, _ = decoded(codes[0], scale, low)
    assert np.abs(restored.astype(np.float64) - values[0].numpy()).max() <= 0.51 * scale.item()
    assert scale.item() <= max(1.01 * most / 65534, torch.finfo(torch.float32).tiny)


def test_quantize__no_disparity_falls_below_zero():
    """A pixel of disparity >= 0 is valid; one below would be dropped by the reader."""
    generator = np.random.default_rng(0)
    for trial in range(300):
        values = generator.random((6, 7)) * 10.0 ** generator.uniform(-12, 12)
        values += values.max() * 10.0 ** generator.uniform(-30, 2) * (trial % 3)  # from 0, or from just above 0
        values = torch.from_numpy(values.astype(np.float32))[None]
        if trial % 2:
            values[0, 2, 3] = 0.0
        codes, scale, low = quantize(values, values >= 0)
        restored, mask = decoded(codes[0], scale, low)
        assert mask.all()
        assert restored.min() >= 0.0
        assert restored[values[0].numpy() == 0.0].tolist() in ([], [0.0])


def test_quantize__hardly_changes_the_loss():
    generator = torch.Generator().manual_seed(0)
    values = torch.rand(3, 40, 50, generator=generator) ** 3 * 100
    prediction = torch.rand(3, 40, 50, generator=generator)
    mask = torch.rand(3, 40, 50, generator=generator) > 0.2
    codes, scale, low = quantize(values, mask)
    restored = torch.stack([torch.from_numpy(decoded(codes[i], scale[i], low[i])[0]) for i in range(3)])
    exact, stored = (affine_invariant_loss(prediction, labels, mask) for labels in (values, restored))
    assert exact > 0.1
    assert abs(exact - stored) < 1e-4


# --- common_sizes


def test_common_sizes__of_the_authors_resolution():
    squares, sides = (518, 518), {686, 770, 784, 924}  # 4 : 3, 3 : 2 (777 lies between two), 16 : 9
    assert common_sizes(518, 14) == {squares} | {(518, side) for side in sides} | {(side, 518) for side in sides}


@pytest.mark.parametrize(
    ("height", "width"),
    [(3024, 4032), (4000, 6000), (1080, 1920), (480, 640), (427, 640), (4016, 6016), (683, 1024), (1000, 1000)],
)
def test_common_sizes__hold_those_of_cameras(height, width):
    from depth_anything_hf.labeling.decoding import Decoder

    for size in ((height, width), (width, height)):
        for aspect in (None, 1.0, 4 / 3):
            assert Decoder(518, 14, aspect).input_size(*size) in common_sizes(518, 14, aspect)


# --- Labeler


def test_labeler__by_hand():
    red = torch.tensor([[10, 20], [40, 30]], dtype=torch.uint8)
    pixels = red[..., None].expand(2, 2, 3)
    preparation = Preparation(1, False, 0.5, (5.0, 0.0, 0.0), (10.0, 1.0, 1.0))
    labels = Labeler(Red(), preparation, "disparity", 2)([pixels], (2, 2))  # (value / 2 - 5) / 10: 0, 0.5, 1.5, 1
    assert labels.codes.tolist() == [[[1, 21846], [65535, 43690]]]
    assert labels.scale.tolist() == pytest.approx([1.5 / 65534])
    assert labels.low.tolist() == pytest.approx([0.0], abs=1e-7)
    assert (labels.finite.tolist(), labels.pixels, labels.ready) == ([True], None, None)


@pytest.mark.parametrize(("space", "codes"), [("disparity", [0, 1, 65535]), ("depth", [0, 0, 1])])
def test_labeler__values_that_the_space_forbids_are_no_labels(space, codes):
    pixels = torch.tensor([10, 20, 30], dtype=torch.uint8)[None, :, None].expand(1, 3, 3)
    preparation = Preparation(1, False, 1.0, (20.0,) * 3, (1.0,) * 3)  # -10, 0, 10
    labels = Labeler(Red(), preparation, space, 1)([pixels], (1, 3))
    assert labels.codes.tolist() == [[codes]]
    assert labels.finite.tolist() == [True]


@pytest.mark.parametrize("bad", [NAN, INF, -INF])
def test_labeler__flags_output_that_is_not_finite(bad, noise_image):
    class Broken(Red):
        def forward(self, pixel_values):
            out = super().forward(pixel_values).predicted_depth.clone()
            out[1, 2, 3] = bad
            return DepthEstimatorOutput(predicted_depth=out)

    pictures = [pixels_of(noise_image(4, 6, seed)) for seed in range(3)]
    labels = Labeler(Broken(), PLAIN, "disparity", 3)(pictures, (4, 6))
    assert labels.finite.tolist() == [True, False, True]
    assert labels.codes[1, 2, 3] == 0
    alone = Labeler(Red(), PLAIN, "disparity", 3)(pictures, (4, 6))
    assert torch.equal(labels.codes[0].int(), alone.codes[0].int())  # the neighbours do not suffer


def test_labeler__brings_smaller_predictions_to_the_input_size():
    pixels = torch.arange(16, dtype=torch.uint8).reshape(4, 4, 1).expand(4, 4, 3)
    labels = Labeler(Red(every=3), PLAIN, "disparity", 1)([pixels], (4, 4))
    # 0, 3, 12, 15 at the corners, and linear between
    assert np.allclose(decoded(labels.codes[0], labels.scale, labels.low)[0], pixels[..., 0], atol=1e-3)


def test_labeler__returns_what_the_network_saw(noise_image):
    large, small = pixels_of(noise_image(8, 12)), pixels_of(noise_image(4, 6, 1))
    labels = Labeler(Red(), PLAIN, "disparity", 2, return_pixels=True)([large, small], (4, 6))
    assert (labels.pixels.dtype, labels.pixels.shape) == (torch.uint8, (2, 4, 6, 3))
    assert torch.equal(labels.pixels[1], small)
    for i in range(2):
        values, _ = decoded(labels.codes[i], labels.scale[i], labels.low[i])
        assert np.allclose(values, labels.pixels[i, ..., 0], atol=2 * labels.scale[i].item())


@pytest.mark.parametrize("space", ["disparity", "depth"])
def test_labeler__is_the_model_where_nothing_is_resized(make_model, tiny_processor, noise_image, space):
    model = make_model(max_depth=20 if space == "depth" else None)  # in training mode
    nn.init.constant_(model.head.conv3.bias, 0.5)
    image = noise_image(56, 70)
    labels = Labeler(model, preparation_of(tiny_processor), space, 1)([pixels_of(image)], (56, 70))
    with torch.no_grad():
        expected = model.eval()(**tiny_processor(image, return_tensors="pt")).predicted_depth[0].numpy()
    values, mask = decoded(labels.codes[0], labels.scale, labels.low)
    assert mask.all()
    assert expected.std() > 1e-3
    # Half a step, and the last bits of (pixel * factor - mean) / std, which the processor computes in another order.
    assert np.abs(values - expected).max() < 0.51 * labels.scale.item() + 1e-5 * expected.max()


def test_labeler__is_predict_depth(make_model, tiny_processor, draw):
    """Within 2 %: the processor resizes by Pillow or torchvision, which round to gray levels at other places."""
    model = make_model().eval()
    nn.init.constant_(model.head.conv3.bias, 0.5)
    predictor = Labeler(model, preparation_of(tiny_processor), "disparity", 1)
    for seed, (width, height) in enumerate([(80, 60), (57, 81), (200, 120), (30, 40)]):
        image = draw(width, height, seed)
        (expected,) = predict_depth(model, tiny_processor, [image], full_size=False)
        labels = predictor([pixels_of(image)], tuple(expected.shape))
        values, mask = decoded(labels.codes[0], labels.scale, labels.low)
        assert mask.all()
        spread = (expected.max() - expected.min()).item()
        assert spread > 1e-3
        assert np.abs(values - expected.numpy()).max() < 0.02 * spread


def test_labeler__mixed_sizes_are_those_of_one_by_one(make_model, tiny_processor, draw):
    model = make_model()
    nn.init.constant_(model.head.conv3.bias, 0.5)
    predictor = Labeler(model, preparation_of(tiny_processor), "disparity", 4)
    pictures = [pixels_of(draw(*size, seed)) for seed, size in enumerate([(80, 60), (100, 75), (70, 56), (80, 60)])]
    together = predictor(pictures, (56, 70))
    for i, picture in enumerate(pictures):
        alone = predictor([picture], (56, 70))
        one, other = (decoded(x.codes[j], x.scale[j], x.low[j])[0] for x, j in ((together, i), (alone, 0)))
        assert np.abs(one - other).max() < 1e-5 + 1.1 * alone.scale.item()
    assert not torch.equal(together.codes[0].int(), together.codes[3].int())  # same size, other picture


@pytest.mark.parametrize("count", [1, 2, 4])
def test_labeler__fills_compiled_batches(monkeypatch, noise_image, count):
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)  # the filling alone: no compiler in a test
    pictures = [pixels_of(noise_image(4, 6, seed)) for seed in range(count)]
    model, plain = Red(), Red()
    found = Labeler(model, PLAIN, "disparity", 4, compiled_sizes=frozenset({(4, 6)}))(pictures, (4, 6))
    expected = Labeler(plain, PLAIN, "disparity", 4)(pictures, (4, 6))
    assert (model.batches, plain.batches) == ([4], [count])
    assert found.codes.tolist() == expected.codes.tolist()
    assert torch.equal(found.scale, expected.scale)
    other = Labeler(model, PLAIN, "disparity", 4, compiled_sizes=frozenset({(4, 6)}))
    model.batches.clear()
    other(pictures, (6, 4))  # not a size that is compiled
    assert model.batches == [count]


@pytest.mark.slow
def test_labeler__compiles_every_common_size(monkeypatch):
    """PyTorch's own limit is 8 shapes, and what comes after them runs uncompiled: by then, another last bit."""
    sizes, compile_it, shapes = common_sizes(518, 14), torch.compile, []

    def backend(graph, inputs):
        return lambda *given: shapes.append(1) or graph.forward(*given)

    monkeypatch.setattr(torch, "compile", lambda function, **options: compile_it(function, backend=backend, **options))
    predictor = Labeler(Red(), PLAIN, "disparity", 1, compiled_sizes=sizes)
    for count, size in enumerate(sorted(sizes), start=1):
        predictor([torch.zeros(*size, 3, dtype=torch.uint8)], size)
        assert len(shapes) == count
    assert len(sizes) == 9


def test_labeler__autocast_is_near_float32(make_model, tiny_processor, draw):
    model = make_model(max_depth=20)
    preparation, picture = preparation_of(tiny_processor), pixels_of(draw(70, 56))
    exact, low = (
        Labeler(model, preparation, "depth", 1, dtype)([picture], (56, 70))
        for dtype in (torch.float32, torch.bfloat16)
    )
    one, other = (decoded(x.codes[0], x.scale, x.low)[0] for x in (exact, low))
    assert not np.array_equal(one, other)
    assert np.abs(one - other).max() < 0.05 * one.max()
