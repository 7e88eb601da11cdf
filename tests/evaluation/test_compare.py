import json
import re
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import pipeline
from transformers.utils import is_torchvision_available

from depth_anything_hf.data.folder import write_image_folder
from depth_anything_hf.data.records import DepthSample, encode_record
from depth_anything_hf.evaluation.compare import PRIOR, compare, open_samples, score_dataset
from depth_anything_hf.evaluation.contestants import Contestant, KeptPredictions, open_contestant
from depth_anything_hf.evaluation.protocols import PROTOCOLS, Protocol
from depth_anything_hf.evaluation.results import error_map, write_results

PAGE = (Path(__file__).parents[2] / "docs" / "evaluation.md").read_text(encoding="utf-8")


def sample(i: int) -> DepthSample:
    """A tiny scene whose red channel is its disparity."""
    red = np.random.default_rng(i).integers(20, 250, (12, 16)).astype(np.uint8)
    values = (10 / red).astype(np.float32)
    return DepthSample(Image.fromarray(np.stack([red] * 3, -1)), values, values > 0, "depth", source=f"image {i}")


def red(images):
    return [torch.from_numpy(np.array(image)[..., 0]).float() for image in images]


@pytest.fixture
def results(tmp_path):
    models = {"red": Contestant(red), "metric/one": Contestant(lambda images: [10 / r for r in red(images)], True)}
    return compare(models, [sample(i) for i in range(5)], PROTOCOLS["folder"], tmp_path, save_predictions=True)


def test_compare__scores_models_side_by_side_and_the_prior(results, tmp_path):
    scores = results["scores"]
    assert list(scores) == ["red", "metric/one", PRIOR]
    assert scores["red"]["abs_rel"] == pytest.approx(0, abs=1e-6)
    assert scores["metric/one"]["abs_rel"] == pytest.approx(0, abs=1e-6)
    assert scores[PRIOR]["abs_rel"] > 0.1
    assert json.loads((tmp_path / "results.json").read_text())["scores"] == scores
    assert len((tmp_path / "scores.jsonl").read_text().splitlines()) == 3 * 5
    with Image.open(tmp_path / "worst.png") as page:
        assert page.width > 6 * 240  # image, truth, and two columns a model


def test_compare__saved_predictions_score_the_same(results, tmp_path):
    saved = tmp_path / "predictions"
    again = {name: KeptPredictions(name, saved) for name in ("red", "metric/one")}
    assert [model.metric for model in again.values()] == [False, True]
    scores = compare(again, [sample(i) for i in range(5)], PROTOCOLS["folder"], tmp_path / "again")["scores"]
    assert scores == results["scores"]


def test_compare__predictions_of_other_images_are_refused(results, tmp_path):
    kept = {"red": KeptPredictions("red", tmp_path / "predictions")}
    with pytest.raises(ValueError, match=r"prediction 0 in .*red is of image 0, and the image is image 1;"):
        compare(kept, [sample(i) for i in range(1, 5)], PROTOCOLS["folder"], tmp_path / "again")
    with pytest.raises(ValueError, match=r"prediction 5 in .*red is of no image, and the image is image 5;"):
        compare(kept, [sample(i) for i in range(6)], PROTOCOLS["folder"], tmp_path / "again")


def test_kept_predictions__without_complete_predictions_says_how_to_make_them(results, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"blue.*no complete predictions.*`save_predictions`"):
        KeptPredictions("blue", tmp_path / "predictions")


def test_write_results__names_model_protocol_and_what_is_missing(results):
    text = write_results(results | {"protocol": Protocol("sintel", "sintel", images=1064).as_json()})
    assert "| red | 0.0000 |" in text
    assert "**5 of 1064 images**" in text
    assert "| upsampling | Depth Anything: bilinear, aligned corners; others: their processor's |" in text


def test_error_map__paints_the_relative_error():
    one = sample(0)
    zero = error_map(red([one.image])[0] * 3 + 1, one, PROTOCOLS["folder"], metric=False)
    assert np.unique(zero.reshape(-1, 3), axis=0).tolist() == [[0, 0, 4]]  # the darkest colour: aligned exactly
    half = error_map(torch.from_numpy(one.values) * 1.5, one, PROTOCOLS["folder"], metric=True)
    assert np.unique(half.reshape(-1, 3), axis=0).tolist() == [[252, 255, 164]]  # 50 %: the brightest


def test_error_map__metric_model_is_drawn_as_it_is_scored():
    """Of 1, 4 and 90 m under a cap of 10: 1 and 4 are exact, 90 is not scored; a prediction of 15 for 10 counts as 10."""
    values = np.array([[1.0, 4.0, 10.0, 90.0]], dtype=np.float32)
    one = DepthSample(Image.new("RGB", (4, 1)), values, values > 0, "depth")
    drawn = error_map(
        torch.tensor([[1.0, 4.0, 15.0, 45.0]]), one, Protocol("p", "folder", max_depth=10.0), metric=True
    )
    grey = drawn[0, 3].tolist()
    assert drawn[0, :3].tolist() == [[0, 0, 4]] * 3
    assert grey == [grey[0]] * 3
    assert grey != [0, 0, 4]


def test_open_samples__another_count_than_the_protocols_is_an_error(tmp_path):
    for name in ("final", "clean"):
        folder = tmp_path / "training" / name / "alley_1"
        folder.mkdir(parents=True)
        Image.new("RGB", (4, 3)).save(folder / "frame_0001.png")
    depth = tmp_path / "training" / "depth" / "alley_1"
    depth.mkdir(parents=True)
    content = np.float32(202021.25).tobytes() + np.int32([4, 3]).tobytes() + np.ones(12, np.float32).tobytes()
    (depth / "frame_0001.dpt").write_bytes(content)
    with pytest.raises(ValueError, match=r"holds 1 images of sintel, which has 1064.*`allow_partial`"), pytest.warns():
        open_samples(PROTOCOLS["sintel"], str(tmp_path))
    with pytest.warns(UserWarning, match="1 samples"):
        assert len(open_samples(PROTOCOLS["sintel"], str(tmp_path), allow_partial=True)) == 1


def test_open_contestant__resolution_is_a_multiple_of_the_patch(make_model, tiny_processor, tmp_path):
    make_model().save_pretrained(tmp_path)
    tiny_processor.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"resolution is 60; .* such as 56"):
        open_contestant(str(tmp_path), resolution=60)


def test_open_contestant__metric_model_is_not_aligned(make_model, tiny_processor, tmp_path):
    make_model(max_depth=20.0).save_pretrained(tmp_path)
    tiny_processor.save_pretrained(tmp_path)
    model = open_contestant(str(tmp_path))
    assert model.metric
    records = [encode_record(Image.new("RGB", (80, 60)), np.full((60, 80), 5.0))]
    expected = score_dataset(model.predict, records, max_depth=80.0).summary()["abs_rel"]
    folder = write_image_folder(records, tmp_path / "records")
    scores = compare({"m": model}, open_samples(PROTOCOLS["folder"], str(folder)), PROTOCOLS["folder"], tmp_path / "o")
    assert scores["scores"]["m"]["abs_rel"] == pytest.approx(expected, abs=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "metric"),
    [("dpt", False), ("zoedepth", True), ("glpn", True), ("depth_pro", True), ("prompt_depth_anything", True)],
)
def test_open_contestant__other_families_predict_as_the_stock_pipeline(family, metric, save_family, noise_image):
    folder = save_family(family)
    model = open_contestant(folder)
    assert model.metric == metric
    photographs = [noise_image(60, 80), noise_image(50, 90, 1)]
    if family == "zoedepth" and not is_torchvision_available():
        with pytest.raises(ImportError, match="needs torchvision"):
            model.predict(photographs)
        return
    stock = pipeline("depth-estimation", folder)
    for photograph, found in zip(photographs, model.predict(photographs), strict=True):
        assert found.shape == photograph.size[::-1]
        torch.testing.assert_close(found, stock(photograph)["predicted_depth"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("protocol", PROTOCOLS.values(), ids=lambda protocol: protocol.name)
def test_docs__name_every_protocol_as_it_is(protocol):
    (row,) = re.findall(rf"^\| {protocol.dataset} \| {protocol.name} \| (.*) \|$", PAGE, re.MULTILINE)
    images, crop, limits, source = row.split(" | ")
    assert (images, crop, source) == (str(protocol.images or "any"), protocol.crop, protocol.source)
    near, far = limits.split("to ")
    assert (float(near) if near else None) == protocol.min_depth
    assert (None if far == "the farthest" else float(far)) == protocol.max_depth


def test_compare__of_da2k_accuracy_over_pairs_and_over_scenes(tmp_path):
    """Of four pairs in two scenes `red` has three right: 75 % of the pairs, and (2 / 3 + 1) / 2 of the scenes."""
    near, far = [0, 0], [2, 3]
    annotations = {}
    for scene, flips in (("indoor", (False, False, True)), ("aerial", (False,))):
        pixels = np.zeros((3, 4, 3), dtype=np.uint8)
        pixels[0, 0] = 200
        (tmp_path / "images" / scene).mkdir(parents=True)
        Image.fromarray(pixels).save(tmp_path / "images" / scene / "a.png")
        annotations[f"images/{scene}/a.png"] = [
            {"point1": far if flip else near, "point2": near if flip else far, "closer_point": "point1"}
            for flip in flips
        ]
    (tmp_path / "annotations.json").write_text(json.dumps(annotations))
    samples = open_samples(PROTOCOLS["da2k"], str(tmp_path))
    results = compare({"red": Contestant(red, revision="abc")}, samples, PROTOCOLS["da2k"], tmp_path / "out")
    table = write_results(results)
    assert table == (tmp_path / "out" / "results.md").read_text()
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["results.json", "results.md"]
    assert "| red | 75.0 | 83.3 | 100.0 | 66.7 | 4 |" in table
    found = json.loads((tmp_path / "out" / "results.json").read_text())
    assert found["revisions"] == {"red": "abc"}
    assert found["versions"]["torch"] == version("torch")
    scores = found["scores"]
    assert scores["red"]["ties"] == 0
    assert scores[PRIOR]["accuracy"] == 0.25  # the lower pixel is nearer: right in the flipped pair alone


def test_open_contestant__resolution_fits_the_patch_that_the_processor_does_not_know(save_family):
    folder = save_family("dpt")  # patches of 16; its processor rounds to multiples of 1
    with pytest.raises(ValueError, match="resolution is 60; it must be a multiple of the patch size 16, such as 64"):
        open_contestant(folder, resolution=60)
    assert open_contestant(folder, resolution=64).predict([Image.new("RGB", (90, 70))])[0].shape == (70, 90)


def test_open_contestant__resolution_of_a_processor_that_has_none(save_family):
    with pytest.raises(ValueError, match=r"resolution is 64, but GLPNImageProcessor.*leave it out"):
        open_contestant(save_family("glpn"), resolution=64)
