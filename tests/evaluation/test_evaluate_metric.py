import json
import math
import os
import subprocess
import sys
import weakref

import evaluate
import numpy as np
import pytest
import torch
from transformers import Trainer, TrainingArguments

from depth_anything_hf.data.records import encode_record
from depth_anything_hf.evaluation import evaluate_metric as metric_file
from depth_anything_hf.evaluation.evaluate_metric import DepthEstimationMetric, compute_metrics_fn
from depth_anything_hf.evaluation.scoring import SCORE_NAMES, score_prediction, summarize
from depth_anything_hf.training.collator import DepthCollator


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture
def scorer(tmp_path):
    """Function that makes a metric whose cache is the test's own."""
    return lambda *args, **kwargs: DepthEstimationMetric(*args, cache_dir=str(tmp_path), **kwargs)


def random_case(batch=3):
    depth = torch.rand(batch, 8, 9) * 9 + 1
    return 2 / depth + 0.2 * torch.rand(batch, 8, 9), depth, torch.rand(batch, 8, 9) < 0.7


def expected_of(predictions, references, masks=None, space="depth", **options):
    masks = [None] * len(references) if masks is None else masks
    rows = [score_prediction(*one, space, **options) for one in zip(predictions, references, masks, strict=True)]
    return summarize(dict(zip(SCORE_NAMES, torch.stack(rows).T, strict=True)))


def test_compute__literal(scorer):
    # Metres: 5 against 4 and 2 against 2; then 3 against 2: (1/8 + 1/2) / 2 over images, not pixels.
    metres = scorer(metric=True, max_depth=10.0)
    metres.add_batch(predictions=[[[5.0, 2.0]]], references=[[[4.0, 2.0]]])
    metres.add(prediction=np.array([[3.0]]), reference=np.array([[2.0]]))
    assert len(metres) == 2
    scores = metres.compute()
    assert scores["abs_rel"] == pytest.approx(0.3125)
    assert (scores["images"], scores["images_without_labels"], scores["non_positive_scales"]) == (2, 0, 0)


@pytest.mark.parametrize("options", [{}, {"max_depth": 8.0, "min_depth": 2.0}, {"alignment": "median"}])
def test_compute__equals_the_scores_of_each_image(scorer, options):
    predictions, references, masks = random_case()
    one = scorer(**options)
    one.add_batch(predictions=predictions[:1], references=references[:1], masks=masks[:1])
    one.add_batch(predictions=predictions[1:].numpy(), references=references[1:].numpy(), masks=masks[1:].numpy())
    assert one.compute() == pytest.approx(expected_of(predictions, references, masks, **options))


def test_compute__references_in_disparity(scorer):
    predictions, depth, _ = random_case()
    found = scorer(space="disparity").compute(predictions=predictions, references=1 / depth)
    assert found == pytest.approx(expected_of(predictions, 1 / depth, space="disparity"))
    assert found["abs_rel"] < 0.5


def test_compute__sizes_may_differ(scorer):
    references = [torch.rand(6, 8) + 1, torch.rand(5, 3) + 1]
    predictions = [torch.rand(3, 4), torch.rand(9, 9)]
    found = scorer().compute(predictions=predictions, references=references)
    assert found == pytest.approx(expected_of(predictions, references))


def test_compute__resets(scorer):
    predictions, references, _ = random_case()
    one = scorer()
    first = one.compute(predictions=predictions[:1], references=references[:1])
    second = one.compute(predictions=predictions[1:], references=references[1:])
    assert (first["images"], second["images"]) == (1, 2)
    with pytest.raises(ValueError, match="there are no images; call add_batch before compute"):
        one.compute()


def test_compute__image_without_labels_is_counted(scorer):
    predictions, references, masks = random_case()
    masks[1] = False
    found = scorer().compute(predictions=predictions, references=references, masks=masks)
    assert (found["images"], found["images_without_labels"]) == (2, 1)
    assert not math.isnan(found["abs_rel"])


def test_add_batch__keeps_no_map(scorer, tmp_path):
    one = scorer()
    predictions, references, masks = random_case()
    watched = [weakref.ref(values) for values in (predictions, references, masks)]
    one.add_batch(predictions=predictions, references=references, masks=masks)
    del predictions, references, masks
    assert [reference() for reference in watched] == [None] * 3
    assert len(one) == 3
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_add_batch__a_batch_that_fails_leaves_nothing(scorer):
    predictions, references, _ = random_case()
    predictions[2, 0, 0] = math.nan
    one = scorer()
    with pytest.raises(ValueError, match="NaN or infinite"):
        one.add_batch(predictions=predictions, references=references)
    assert len(one) == 0


def test_config_name__is_a_protocol(scorer):
    _, depth, _ = random_case(1)
    depth = torch.full((480, 640), 4.0)
    depth[50:60, 50:60] = 20.0  # beyond the 10 m of the protocol
    prediction = torch.full((480, 640), 70.0)
    prediction[45:471, 41:601] = 5.0
    assert scorer("nyuv2", metric=True).compute(predictions=[prediction], references=[depth])["abs_rel"] == 0.25
    assert scorer("nyuv2", alignment="scale").protocol.alignment == "scale"
    assert scorer("nyuv2", max_depth=5.0).protocol.max_depth == 5.0


def test_init__rejects(scorer):
    with pytest.raises(ValueError, match="config_name is 'mars'; it must be a protocol: nyuv2, "):
        scorer("mars")
    with pytest.raises(ValueError, match="num_process must be 1"):
        scorer(num_process=2)


def test_add_batch__rejects(scorer):
    predictions, references, masks = random_case()
    one = scorer()
    with pytest.raises(ValueError, match="2 predictions, 3 references; each image needs one of each"):
        one.add_batch(predictions=predictions[:2], references=references)
    with pytest.raises(ValueError, match="3 predictions, 3 references, 1 masks"):
        one.add_batch(predictions=predictions, references=references, masks=masks[:1])
    with pytest.raises(ValueError, match="unknown inputs: weights"):
        one.add_batch(predictions=predictions, references=references, weights=masks)
    with pytest.raises(ValueError, match="predictions and references are both needed"):
        one.compute(predictions=predictions)


LOADED = """
import json, sys
import evaluate
scorer = evaluate.load(sys.argv[1], "folder", metric=True, max_depth=10.0)
scorer.add_batch(predictions=[[[5.0, 2.0]]], references=[[[4.0, 2.0]]], masks=[[[True, False]]])
both = evaluate.combine([scorer])
both.add_batch(predictions=[[[3.0]]], references=[[[2.0]]])
print(json.dumps([type(scorer).__module__, scorer.name, scorer.compute()]))
"""


@pytest.mark.slow
def test_load__from_the_file_without_a_network(tmp_path):
    environment = os.environ | {"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1", "HF_EVALUATE_OFFLINE": "1"}
    command = [sys.executable, "-c", LOADED, metric_file.__file__]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    module, name, scores = json.loads(done.stdout.splitlines()[-1])
    assert module.startswith("evaluate_modules.")
    assert name == "depth_estimation_metric"
    assert scores["abs_rel"] == pytest.approx((0.25 + 0.5) / 2)
    assert scores["images"] == 2


def test_metric__is_a_module_of_evaluate(scorer):
    one = scorer()
    assert isinstance(one, evaluate.Metric)
    assert (one.module_type, len(one)) == ("metric", 0)
    assert "masks" in one.add_batch.__doc__


def records(count):
    made = []
    for i in range(count):
        generator = np.random.default_rng(i)
        image = generator.integers(0, 255, (56, 56, 3)).astype(np.uint8)
        made.append(encode_record(image, generator.random((56, 56)) * 9 + 1, mask=generator.random((56, 56)) < 0.5))
    return made


@pytest.mark.parametrize("max_depth", [None, 20.0])
@pytest.mark.parametrize("batch_eval_metrics", [True, False])
def test_compute_metrics_fn__stock_trainer(tmp_path, make_model, tiny_processor, max_depth, batch_eval_metrics):
    model = make_model(max_depth=max_depth)
    kind = model.config.depth_estimation_type
    collator = DepthCollator(tiny_processor, model, flip_probability=0.0)
    arguments = TrainingArguments(
        str(tmp_path),
        per_device_eval_batch_size=2,
        batch_eval_metrics=batch_eval_metrics,
        remove_unused_columns=False,
        report_to="none",
        use_cpu=True,
        dataloader_pin_memory=False,
        disable_tqdm=True,
    )
    compute = compute_metrics_fn(kind, max_depth=max_depth, cache_dir=str(tmp_path))
    trainer = Trainer(model, arguments, collator, eval_dataset=records(5), compute_metrics=compute)
    batch = collator(records(5))
    with torch.no_grad():
        predictions = model.eval()(batch["pixel_values"]).predicted_depth
    space = "disparity" if max_depth is None else "depth"
    options = {"space": space, "metric": max_depth is not None, "max_depth": max_depth}
    expected = expected_of(predictions, batch["labels"], batch["label_mask"], **options)
    for _ in range(2):  # nothing is left from the first
        found = trainer.evaluate()
        assert found["eval_images"] == 5
        for name, value in expected.items():
            assert found[f"eval_{name}"] == pytest.approx(value, rel=1e-4, abs=1e-6), name
