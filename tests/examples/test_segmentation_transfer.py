import json
import sys
from pathlib import Path
from types import SimpleNamespace

import evaluate
import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from torch.nn import functional as F
from transformers import Dinov2Backbone, Dinov2Config, Trainer, TrainingArguments

from depth_anything_hf.scenes.simple import iter_synthetic_records
from depth_anything_hf.scenes.simple_layout import CLASSES

pytestmark = pytest.mark.usefixtures("one_thread")
pytest.importorskip("scipy", reason="Mask2Former matches with SciPy")

EXAMPLES = Path(__file__).parents[2] / "examples" / "segmentation"
RECIPES = sorted(EXAMPLES.glob("*.yaml"))
METRIC = str(EXAMPLES / "mean_iou.py")
# Values in label files, one for each class of the procedural scenes; the last is a value that is not scored.
VALUES = {
    "ade20k": (4, 1, 6, 16, 12, 2, 42, 149, 150, 0),
    "cityscapes": (7, 12, 11, 13, 8, 11, 26, 33, 17, 0),
}
OFFICIAL_TRAIN_IDS = {
    7: 0,
    8: 1,
    11: 2,
    12: 3,
    13: 4,
    17: 5,
    19: 6,
    20: 7,
    21: 8,
    22: 9,
    23: 10,
    24: 11,
    25: 12,
    26: 13,
}
OFFICIAL_TRAIN_IDS |= {27: 14, 28: 15, 31: 16, 32: 17, 33: 18}
TINY = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2}


@pytest.fixture(scope="module")
def example(load_example):
    """The script and its two modules."""
    sys.path.insert(0, str(EXAMPLES))
    try:
        script = load_example("segmentation/segmentation_transfer")
        return SimpleNamespace(
            script=script, data=sys.modules["segmentation_data"], models=sys.modules["segmentation_models"]
        )
    finally:
        sys.path.remove(str(EXAMPLES))


def write_pair(root: Path, dataset: str, split: str, number: int, image: Image.Image, labels: np.ndarray) -> None:
    if dataset == "ade20k":
        folder, stem = {"train": "training", "val": "validation"}[split], f"ADE_{split}_{number:08d}"
        paths = (root / "images" / folder / f"{stem}.jpg", root / "annotations" / folder / f"{stem}.png")
    else:
        stem = f"ulm_{number:06d}_000019"
        paths = (
            root / "leftImg8bit" / split / "ulm" / f"{stem}_leftImg8bit.png",
            root / "gtFine" / split / "ulm" / f"{stem}_gtFine_labelIds.png",
        )
    for path, content in zip(paths, (image, Image.fromarray(labels)), strict=True):
        path.parent.mkdir(parents=True, exist_ok=True)
        content.save(path)


@pytest.fixture(scope="module")
def roots(tmp_path_factory):
    """Procedural scenes in both official layouts: 4 to train, 2 of other sizes to score."""
    roots = {name: tmp_path_factory.mktemp(name) for name in VALUES}
    for dataset, root in roots.items():
        values = np.array(VALUES[dataset], np.uint8)
        for split, sizes in (("train", [(60, 80)] * 4), ("val", [(60, 80), (70, 64)])):
            for i, (height, width) in enumerate(sizes):
                (scene,) = iter_synthetic_records(1, height, width, seed=i + 10 * (split == "val"))
                write_pair(root, dataset, split, i, scene["image"], values[scene["classes"]])
    return roots


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    """Folder of a tiny DINOv2."""
    folder = tmp_path_factory.mktemp("encoder")
    torch.manual_seed(0)
    Dinov2Backbone(Dinov2Config(image_size=56, **TINY)).save_pretrained(folder)
    return folder


@pytest.fixture
def build(example, encoder):
    """Function that builds a tiny segmentation model of 5 classes."""

    def build(decoder: str):
        torch.manual_seed(0)
        return example.models.build_model(encoder, decoder, list("abcde"), 32, num_queries=6, train_num_points=32)

    return build


def batch_of(example, size=(56, 84)):
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 5, (2, *size), generator=generator)
    labels[0, :9] = 255
    pixels = torch.randn(2, 3, *size, generator=generator)
    samples = [{"pixel_values": pixels[i], "labels": labels[i]} for i in range(2)]
    return lambda as_masks: example.data.collate(samples, as_masks)


# --- mean IoU


def test_mean_iou__literal():
    metric = evaluate.load(METRIC, num_labels=4)
    truth = torch.tensor([[0, 0, 0, 1], [1, 1, 255, 255]])
    found = torch.tensor([[0, 0, 1, 1], [1, 2, 3, 0]])
    metric.add_batch(predictions=[found], references=[truth])
    scores = metric.compute()
    # 0: 2 of 3; 1: 2 of 4 (3 there, 3 found, 2 right); 2: found once, never there; 3: only where nothing counts.
    assert scores["per_category_iou"][:3] == pytest.approx([2 / 3, 2 / 4, 0])
    assert np.isnan(scores["per_category_iou"][3])
    assert scores["mean_iou"] == pytest.approx((2 / 3 + 2 / 4 + 0) / 3)
    assert scores["mean_accuracy"] == pytest.approx((2 / 3 + 2 / 3) / 2)
    assert scores["overall_accuracy"] == pytest.approx(4 / 6)


def test_mean_iou__counts_over_the_whole_set_not_by_image_and_forgets_afterwards():
    rng = np.random.default_rng(0)
    truth, found = (rng.integers(0, 3, (4, 5, 7)) for _ in range(2))
    metric = evaluate.load(METRIC, num_labels=3)
    metric.add(prediction=found[0], reference=truth[0])
    metric.add_batch(predictions=torch.tensor(found[1:]), references=torch.tensor(truth[1:]))
    expected = [((truth == c) & (found == c)).sum() / ((truth == c) | (found == c)).sum() for c in range(3)]
    assert metric.compute()["per_category_iou"] == pytest.approx(expected)
    assert metric.compute(predictions=found, references=truth)["mean_iou"] == pytest.approx(np.mean(expected))
    with pytest.raises(ValueError, match="no labeled pixel was counted"):
        metric.compute()


@pytest.mark.parametrize(
    ("found", "truth", "said"),
    [
        ([[0, 1]], [[0, 1, 1]], r"shape \(1, 2\) and its reference \(1, 3\)"),
        ([[0, 3]], [[0, 1]], "a prediction holds the class 3"),
        ([[0, 1]], [[0, 200]], "a reference holds the class 200"),
        ([[0, -1]], [[0, 1]], "a prediction holds the class -1"),
    ],
)
def test_mean_iou__refuses(found, truth, said):
    metric = evaluate.load(METRIC, num_labels=3)
    with pytest.raises(ValueError, match=said):
        metric.add(prediction=found, reference=truth)
    with pytest.raises(ValueError, match="as many predictions as references"):
        metric.add_batch(predictions=[found], references=[])
    with pytest.raises(ValueError, match="num_process must be 1"):
        evaluate.load(METRIC, num_labels=3, num_process=2, process_id=0, experiment_id="two")


# --- data


def test_layouts__decode_the_official_values(example, roots):
    sample = example.data.SegmentationDataset
    for dataset, expected in (
        ("ade20k", {0: 255, 1: 0, 150: 149, 4: 3, 151: 255}),
        ("cityscapes", OFFICIAL_TRAIN_IDS | dict.fromkeys((0, 4, 9, 29, 30, 255), 255)),
    ):
        layout = example.data.LAYOUTS[dataset]
        assert {value: int(layout.classes[value]) for value in expected} == expected
        assert (layout.classes != 255).sum() == len(layout.names(roots[dataset])) == len(set(layout.classes)) - 1
        data = sample(layout, roots[dataset], "val", lambda image, labels: {"image": image, "labels": labels})
        assert len(data) == 2
        (scene,) = iter_synthetic_records(1, 70, 64, seed=11)
        assert data[1]["image"].size == data[1]["labels"].size == (64, 70)
        assert np.array_equal(data[1]["labels"], layout.classes[np.array(VALUES[dataset])][scene["classes"]])
    names = example.data.LAYOUTS["cityscapes"].names(roots["cityscapes"])
    assert [names[i] for i in (0, 5, 11, 12, 13, 17)] == ["road", "pole", "person", "rider", "car", "motorcycle"]


def test_layouts__names_of_ade20k_are_read_where_their_file_lies(example, tmp_path):
    names = example.data.LAYOUTS["ade20k"].names
    assert names(tmp_path)[::149] == ["class_1", "class_150"]
    (tmp_path / "objectInfo150.txt").write_text(
        "Idx\tRatio\tTrain\tVal\tName\n1\t0.2\t1\t1\twall\n4\t0.1\t9\t2\tfloor, flooring\n"
    )
    assert names(tmp_path) == ["wall", "floor, flooring"]


def test_dataset__says_what_is_missing(example, roots, tmp_path):
    data = example.data
    with pytest.raises(ValueError, match="has no train images; pass the folder of the official archive"):
        data.SegmentationDataset(data.LAYOUTS["ade20k"], tmp_path, "train", None)
    write_pair(tmp_path, "cityscapes", "train", 0, Image.new("RGB", (4, 4)), np.zeros((4, 4), np.uint8))
    next(tmp_path.glob("gtFine/**/*.png")).unlink()
    with pytest.raises(ValueError, match=r"has no gtFine/train/ulm/ulm_000000_000019_gtFine_labelIds\.png"):
        data.SegmentationDataset(data.LAYOUTS["cityscapes"], tmp_path, "train", None)
    write_pair(tmp_path, "ade20k", "train", 0, Image.new("RGB", (4, 4)), np.zeros((4, 4, 3), np.uint8))
    with pytest.raises(ValueError, match="labels are images of one channel"):
        data.SegmentationDataset(data.LAYOUTS["ade20k"], tmp_path, "train", None)[0]


def test_train_transform__moves_image_and_labels_together(example, monkeypatch):
    """An image whose red channel says its class keeps doing so, at every scale, crop and flip."""
    monkeypatch.setattr(example.data, "distort_colors", lambda image, rng: image)
    labels = np.repeat(np.arange(8, dtype=np.uint8), 12)[None].repeat(70, 0)  # (70, 96)
    image = Image.fromarray(np.stack([labels * 30] * 3, -1))
    torch.manual_seed(0)
    flips, pads = set(), set()
    for _ in range(30):
        sample = example.data.TrainTransform(56)(image, Image.fromarray(labels))
        assert sample["pixel_values"].shape == (3, 56, 56)
        assert sample["pixel_values"].dtype == torch.float32
        red = (sample["pixel_values"][0].double() * 0.229 + 0.485) * 255 / 30
        counted = sample["labels"] != 255
        assert ((red - sample["labels"])[counted].abs() < 0.5).float().mean() > 0.9  # but for blended borders
        assert (sample["pixel_values"][:, ~counted] == 0).all()
        steps = sample["labels"][0].diff()[counted[0, 1:]]
        flips |= set(steps.sign().tolist()) - {0}
        pads.add(bool((~counted).any()))
    assert flips == {-1, 1}
    assert pads == {True, False}


def test_train_transform__crops_hold_more_than_one_class_where_they_can(example, monkeypatch):
    monkeypatch.setattr(example.data, "distort_colors", lambda image, rng: image)
    labels = np.zeros((56, 400), np.uint8)
    labels[:, 180:] = 1
    torch.manual_seed(0)
    shares = []
    for _ in range(40):
        sample = example.data.TrainTransform(56)(Image.new("RGB", (400, 56)), Image.fromarray(labels))
        counts = sample["labels"][sample["labels"] != 255].bincount(minlength=2)
        shares.append((counts.max() / counts.sum()).item())
    assert np.mean(np.array(shares) < 0.75) > 0.3  # a single draw reaches that in a tenth of the cases


def test_center_transform__is_the_middle_at_the_scale_of_the_scores(example):
    labels = np.zeros((28, 60), np.uint8)
    labels[:, 16:44] = 1
    sample = example.data.CenterTransform(56)(Image.new("RGB", (60, 28), (255, 0, 0)), Image.fromarray(labels))
    assert (sample["labels"] == 1).all()
    assert sample["labels"].shape == sample["pixel_values"].shape[1:] == (56, 56)
    expected = torch.tensor([(1 - 0.485) / 0.229, -0.456 / 0.224, -0.406 / 0.225])
    torch.testing.assert_close(sample["pixel_values"], expected[:, None, None].expand(3, 56, 56))


def test_distort_colors__stays_a_picture_of_the_same_and_changes_each_quality(example):
    (scene,) = iter_synthetic_records(1, 40, 50)
    image = np.asarray(scene["image"])
    made = [example.data.distort_colors(image, np.random.default_rng(seed)) for seed in range(40)]
    assert {one.dtype for one in made} == {np.dtype(np.uint8)}
    assert {one.shape for one in made} == {image.shape}
    means = np.array([one.mean() for one in made])
    assert means.min() < image.mean() - 10 < image.mean() + 10 < means.max()
    alike = [np.corrcoef(one.mean(-1).ravel(), image.mean(-1).ravel())[0, 1] for one in made]
    assert min(alike) > 0.8
    grey = np.full((2, 2, 3), 100, np.uint8)  # has neither hue nor saturation: bounds of contrast and brightness
    shades = [example.data.distort_colors(grey, np.random.default_rng(seed)).flat[0] for seed in range(300)]
    assert 34 <= min(shades) < 50
    assert 180 < max(shades) <= 198


def test_collate__masks_are_the_classes_that_are_there(example):
    labels = [torch.tensor([[3, 255], [0, 3]]), torch.full((2, 2), 255)]
    batch = example.data.collate([{"pixel_values": torch.zeros(3, 2, 2), "labels": one} for one in labels], True)
    assert [classes.tolist() for classes in batch["class_labels"]] == [[0, 3], []]
    assert batch["mask_labels"][0].tolist() == [[[0, 0], [1, 0]], [[1, 0], [0, 1]]]
    assert batch["mask_labels"][1].shape == (0, 2, 2)
    assert batch["labels"].shape == (2, 2, 2)


# --- models


@pytest.mark.parametrize("decoder", ["mask2former", "upernet"])
def test_build_model__reads_the_last_four_blocks_of_the_encoder_as_they_are(example, build, encoder, decoder):
    plain = Dinov2Backbone.from_pretrained(encoder, out_indices=[1, 2, 3, 4]).eval()
    pyramid = example.models.encoder_of(build(decoder)).eval()
    images = batch_of(example)(False)["pixel_values"]
    with torch.no_grad():
        expected, found = plain(images).feature_maps, pyramid(images).feature_maps
        assert [tuple(one.shape[1:]) for one in found] == [(32, 16, 24), (32, 8, 12), (32, 4, 6), (32, 2, 3)]
        assert torch.equal(found[2], expected[2])
        assert torch.equal(found[3], F.max_pool2d(expected[3], 2))
        assert torch.equal(found[1], pyramid.pyramid[1](expected[1]))
        assert torch.equal(found[0], pyramid.pyramid[0](expected[0]))
    with pytest.raises(ValueError, match="60 x 84 pixels; both sides must be multiples of 14"):
        pyramid(torch.zeros(1, 3, 60, 84))


@pytest.mark.parametrize("decoder", ["mask2former", "upernet"])
def test_build_model__every_parameter_gets_a_gradient(example, build, decoder):
    model = build(decoder).train()
    model(**batch_of(example)(decoder == "mask2former")).loss.backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []


@pytest.mark.parametrize("decoder", ["mask2former", "upernet"])
def test_build_model__a_batch_without_labels_of_one_image_has_a_finite_loss(example, build, decoder):
    samples = [{"pixel_values": torch.randn(3, 56, 56), "labels": torch.full((56, 56), value)} for value in (255, 3)]
    loss = build(decoder).train()(**example.data.collate(samples, decoder == "mask2former")).loss
    assert loss.isfinite()


@pytest.mark.slow
@pytest.mark.parametrize("decoder", ["mask2former", "upernet"])
def test_load_model__is_what_was_saved(example, build, tmp_path, decoder):
    model = build(decoder).eval()
    model.save_pretrained(tmp_path)
    loaded = example.models.load_model(tmp_path)
    assert not loaded.training
    assert loaded.config.id2label == dict(enumerate("abcde"))
    assert loaded.state_dict().keys() == model.state_dict().keys()
    assert all(torch.equal(loaded.state_dict()[name], value) for name, value in model.state_dict().items())
    images = batch_of(example)(False)["pixel_values"][:1]
    first, second = (example.models.sliding_scores(one, images, 56, 28) for one in (model, loaded))
    torch.testing.assert_close(first, second, rtol=0, atol=1e-5)


def test_build_and_load_model__refuse(example, encoder):
    with pytest.raises(ValueError, match="decoder is 'segformer'; it must be one of mask2former, upernet"):
        example.models.build_model(encoder, "segformer", ["a"])
    with pytest.raises(ValueError, match="holds a 'dinov2'"):
        example.models.load_model(encoder)


def test_class_scores__literals(example):
    logits = torch.tensor([[[[1.0]], [[2.0]]]])
    assert example.models.class_scores(logits, (2, 2)).tolist() == [[[[1, 1], [1, 1]], [[2, 2], [2, 2]]]]
    # Two queries, two classes and "nothing"; probabilities 1/2, 1/4, 1/4 and 1/5, 3/5, 1/5; masks 1/2 and 3/4.
    classes = torch.tensor([[[2.0, 1.0, 1.0], [1.0, 3.0, 1.0]]]).log()
    masks = torch.tensor([1.0, 3.0]).log().view(1, 2, 1, 1)
    scores = example.models.class_scores((classes, masks, torch.zeros(1)), (1, 1)).flatten()
    expected = [1 / 2 * 1 / 2 + 1 / 5 * 3 / 4, 1 / 4 * 1 / 2 + 3 / 5 * 3 / 4]
    torch.testing.assert_close(scores, torch.tensor(expected))


class Counting(torch.nn.Module):
    """Stands where a model stands, and gives each pixel's own value as its score: windows must not change that."""

    def __init__(self):
        super().__init__()
        self.config, self.windows = SimpleNamespace(num_labels=2), []

    def forward(self, pixel_values, return_dict):
        self.windows.append(pixel_values)
        return SimpleNamespace(logits=pixel_values[:, :2] + len(self.windows))


def test_sliding_scores__windows_cover_the_image_and_overlaps_are_averaged(example):
    model = Counting()
    pixel_values = torch.zeros(1, 3, 4, 7)
    scores = example.models.sliding_scores(model, pixel_values, window=4, stride=2)
    # Windows at 0, 2 and, flush with the edge, 3 give 1, 2 and 3.
    assert scores[0, 0, 0].tolist() == pytest.approx([1, 1, 1.5, (1 + 2 + 3) / 3, 2.5, 2.5, 3])
    assert len(model.windows) == 3
    model = Counting()
    example.models.sliding_scores(model, pixel_values[..., :4], window=4, stride=2)
    assert len(model.windows) == 1


def test_predict_classes__has_the_size_of_the_image(example, build):
    model = build("upernet").eval()
    classes = example.models.predict_classes(model, Image.new("RGB", (90, 61)), 56, 28)
    assert classes.shape == (61, 90)
    assert classes.max() < 5


# --- training


@pytest.mark.slow
@pytest.mark.parametrize("decoder", ["mask2former", "upernet"])
def test_make_optimizer__two_rates_and_what_does_not_decay(example, build, decoder):
    model = build(decoder)
    args = TrainingArguments("unused", learning_rate=0.03, weight_decay=0.5, adam_beta2=0.9)
    optimizer = example.script.make_optimizer(model, args, 0.1)
    found = {id(p): (g["lr"], g["weight_decay"]) for g in optimizer.param_groups for p in g["params"]}
    of = {name: found[id(parameter)] for name, parameter in model.named_parameters()}
    assert len(found) == len(of)
    assert optimizer.defaults["betas"] == (0.9, 0.9)
    start = "backbone." if decoder == "upernet" else "model.pixel_level_module.encoder."
    low, high = pytest.approx((0.003, 0.5)), pytest.approx((0.03, 0.5))
    assert of[start + "encoder.layer.0.mlp.fc1.weight"] == of[start + "encoder.layer.0.mlp.fc1.bias"] == low
    assert of[start + "encoder.layer.0.norm1.weight"] == of[start + "layernorm.bias"] == pytest.approx((0.003, 0))
    assert of[start + "embeddings.position_embeddings"] == pytest.approx((0.003, 0))
    assert of[start + "pyramid.0.0.weight"] == high
    assert of[start + "pyramid.0.1.weight"] == pytest.approx((0.03, 0))
    if decoder == "mask2former":
        assert of["class_predictor.bias"] == high
        for name in ("queries_embedder.weight", "queries_features.weight", "level_embed.weight"):
            assert of["model.transformer_module." + name] == pytest.approx((0.03, 0))
        assert of["model.pixel_level_module.decoder.level_embed"] == pytest.approx((0.03, 0))
        assert of["model.pixel_level_module.decoder.input_projections.0.1.weight"] == pytest.approx((0.03, 0))


@pytest.mark.slow
@pytest.mark.parametrize("decoder", ["mask2former", "upernet"])
def test_models__accumulated_gradients_are_means(example, build, tmp_path, decoder):
    """The Trainer must divide the loss by the accumulation steps, though the models' forward takes any keyword."""
    args = TrainingArguments(str(tmp_path), gradient_accumulation_steps=4, use_cpu=True, report_to="none")
    build(decoder).save_pretrained(tmp_path / "saved")
    for model in (build(decoder), example.models.load_model(tmp_path / "saved")):
        assert Trainer(model, args).model_accepts_loss_kwargs is False


TINY_SIZES = {
    "crop_size": 56,
    "window_stride": 42,
    "decoder_width": 32,
    "num_queries": 8,
    "train_num_points": 32,
    "max_steps": 2,
    "per_device_train_batch_size": 2,
    "per_device_eval_batch_size": 2,
    "eval_steps": 1,
    "save_steps": 1,
    "warmup_steps": 1,
    "dataloader_num_workers": 0,
    "report_to": "none",
    "use_cpu": True,
    "disable_tqdm": True,
}
TINY_RUN = [word for name, value in TINY_SIZES.items() for word in (f"--{name}", str(value))]


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_main__runs_the_recipe_and_scores_what_it_saved(
    example, roots, make_model, tiny_processor, tmp_path, recipe, capsys
):
    for part in (make_model(), tiny_processor):
        part.save_pretrained(tmp_path / "depth")
    run = [str(recipe), "--data", str(roots[recipe.stem]), *TINY_RUN]
    out, again = tmp_path / "out", tmp_path / "again"
    assert example.script.main([*run, "--encoder", str(tmp_path / "depth"), "--output_dir", str(out)]) == 0
    assert "mean IoU" in capsys.readouterr().out
    scores = json.loads((out / "segmentation_scores.json").read_text())
    assert scores["images"] == 2
    absent = [iou for name, iou in scores["per_category_iou"].items() if name in ("class_77", "train")]
    assert absent[0] is None or absent[0] == 0  # there by no label; predicted perhaps
    state = json.loads(next(out.glob("checkpoint-*/trainer_state.json")).read_text())
    logged = [entry for entry in state["log_history"] if "eval_mean_iou" in entry]
    assert [entry["step"] for entry in logged][:1] == [1]
    assert all(0 <= entry["eval_mean_iou"] <= 1 and entry["eval_loss"] > 0 for entry in logged)
    # The encoder is the depth model's, exported; the saved model, scored alone, has the very scores.
    assert Dinov2Backbone.from_pretrained(out / "encoder").config.hidden_size == 32
    assert example.script.main([*run, "--model", str(out), "--output_dir", str(again)]) == 0
    assert json.loads((again / "segmentation_scores.json").read_text()) == scores
    # By hand: each image's classes against the label file, decoded by the table.
    model, layout = example.models.load_model(out), example.data.LAYOUTS[recipe.stem]
    right = counted = 0
    for image, labels in layout.pairs(roots[recipe.stem], "val"):
        truth = layout.classes[np.asarray(Image.open(labels))]
        found = example.models.predict_classes(model, Image.open(image).convert("RGB"), 56, 42).numpy()
        right, counted = right + (found == truth)[truth != 255].sum(), counted + (truth != 255).sum()
    assert scores["overall_accuracy"] == pytest.approx(right / counted)


@pytest.mark.slow
def test_main__a_stopped_run_goes_on_to_the_same_weights(example, roots, encoder, tmp_path):
    run = [str(RECIPES[0]), "--data", str(roots["ade20k"]), "--encoder", str(encoder), *TINY_RUN]
    run += ["--decoder", "upernet", "--load_best_model_at_end", "false", "--lr_scheduler_type", "constant"]
    run += ["--save_steps", "2", "--max_steps", "4"]  # an epoch has 2 steps; inside one, crops are drawn anew

    def weights(*more: str) -> dict:
        assert example.script.main([*run, *more]) == 0
        return example.models.load_model(more[1]).state_dict()

    whole = weights("--output_dir", str(tmp_path / "whole"))
    weights("--output_dir", str(tmp_path / "parts"), "--max_steps", "2")
    parts = weights("--output_dir", str(tmp_path / "parts"))
    assert all(torch.equal(value, parts[name]) for name, value in whole.items())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--encoder", "a", "--model", "b"], "either encoder .* or model"),
        ([], "either encoder .* or model"),
        (["--encoder", "a", "--window_stride", "900"], r"window_stride is 900; it must be in \[1, crop_size 896\]"),
    ],
)
def test_parse__refuses(example, tmp_path, arguments, said):
    with pytest.raises(ValueError, match=said):
        example.script.parse([str(RECIPES[0]), "--data", "d", "--output_dir", str(tmp_path), *arguments])


def test_parse__a_recipe_knows_its_fields(example, tmp_path):
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("dataset: ade20k\ncrop: 3\n")
    with pytest.raises(ValueError, match=r"names unknown fields \['crop'\]"):
        example.script.parse([str(recipe), "--data", "d", "--output_dir", str(tmp_path), "--encoder", "e"])


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipes__every_value_has_a_source_or_says_it_is_ours(path):
    values = yaml.safe_load(path.read_text())
    lines = {line.split(":")[0]: line for line in path.read_text().splitlines() if not line.startswith("#")}
    for name in values.keys() - {"dataset", "output_dir"}:
        assert "# V1" in lines[name] or "# released code" in lines[name] or "# ours" in lines[name], name


def test_help__shows_a_command(example, capsys):
    with pytest.raises(SystemExit, match="0"):
        example.script.main(["--help"])
    assert "examples/segmentation/ade20k.yaml --encoder depth-anything" in " ".join(capsys.readouterr().out.split())


def test_classes_of_the_procedural_scenes_have_a_value_each():
    assert {len(values) for values in VALUES.values()} == {len(CLASSES)}
