"""An Apple GPU has no float64: scores and fits of tensors on it are computed on the CPU."""

import pytest
import torch

from depth_anything_hf.evaluation.scoring import (
    ALIGNMENTS,
    SCORE_NAMES,
    depth_metrics,
    score_metric,
    score_prediction,
    score_relative,
)
from depth_anything_hf.maps.alignment import apply_fit, fit_median, fit_scale, fit_scale_shift
from depth_anything_hf.prediction.temporal import fit_to_past


class OnAppleGpu(torch.Tensor):
    """Stand in for a tensor on that GPU: it says so, `.cpu()` brings it down, and in float64 it cannot be."""

    @property
    def device(self):
        return torch.device("mps")

    def cpu(self):
        return self.to("cpu")

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        places = [str(one) for one in (*args, *kwargs.values()) if isinstance(one, (str, torch.device))]
        with torch._C.DisableTorchFunctionSubclass():
            found = function(*args, **kwargs)
            if not isinstance(found, torch.Tensor) or "cpu" in places:
                return found.as_subclass(torch.Tensor) if isinstance(found, torch.Tensor) else found
        if found.dtype == torch.float64:
            raise TypeError(
                "Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64."
            )
        return found.as_subclass(cls)


@pytest.fixture
def case():
    generator = torch.Generator().manual_seed(0)
    target = torch.rand(2, 12, 16, generator=generator) * 9 + 1
    return 2 / target + 0.2 * torch.rand(2, 12, 16, generator=generator), target, torch.rand(2, 12, 16) < 0.7


def there(*tensors):
    return [one.as_subclass(OnAppleGpu) for one in tensors]


def test_stand_in__has_no_float64(case):
    (prediction,) = there(case[0])
    assert (prediction + 1).device.type == "mps"
    with pytest.raises(TypeError, match="float64"):
        prediction.double()


@pytest.mark.parametrize("alignment", [name for name in ALIGNMENTS if name != "none"])
def test_score_relative__on_an_apple_gpu(case, alignment):
    expected = score_relative(*case, "depth", 8.0, 1.5, alignment)
    found = score_relative(*there(*case), "depth", 8.0, 1.5, alignment)
    assert all(torch.equal(found[name], expected[name]) for name in SCORE_NAMES)


def test_score_metric__on_an_apple_gpu(case):
    expected = score_metric(1 / case[0], *case[1:], 8.0)
    found = score_metric(*there(1 / case[0], *case[1:]), 8.0)
    assert all(torch.equal(found[name], expected[name]) for name in SCORE_NAMES)


@pytest.mark.parametrize("metric", [False, True])
@pytest.mark.parametrize("ground_truth", ["there", "on the cpu"])
def test_score_prediction__on_an_apple_gpu(case, metric, ground_truth):
    prediction, target, mask = (one[0] for one in case)
    expected = score_prediction(prediction, target, mask, "depth", metric)
    given = there(prediction, target, mask) if ground_truth == "there" else [*there(prediction), target, mask]
    assert torch.equal(score_prediction(*given, "depth", metric), expected)


def test_fits_and_metrics__on_an_apple_gpu(case):
    for fit in (fit_scale_shift, fit_scale, fit_median):
        for one, other in zip(fit(*there(*case)), fit(*case), strict=True):
            assert torch.equal(one, other)
    scale, shift = fit_scale_shift(*case)
    prediction, factor = there(case[0], scale.float())
    assert torch.equal(apply_fit(prediction, factor, shift), apply_fit(case[0], scale.float(), shift))
    found, expected = depth_metrics(*there(*case)), depth_metrics(*case)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    one = [values[0] for values in case]
    assert fit_to_past(*there(*one)) == fit_to_past(*one)
