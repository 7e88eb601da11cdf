import io
import json
import os
import re
import signal
import tarfile

import datasets
import numpy as np
import pytest
import torch
from peft import get_peft_model
from PIL import Image

from depth_anything_hf.cli.main import main
from depth_anything_hf.data.folder import load_folder
from depth_anything_hf.data.records import decode_record
from depth_anything_hf.labeling import engine
from depth_anything_hf.prediction.adapters import depth_lora_config
from depth_anything_hf.prediction.predictor import load_model, predict_depth


@pytest.fixture(scope="module")
def labeled(tmp_path_factory, photos, teacher):
    """The 12 photographs, labeled."""
    out = tmp_path_factory.mktemp("labeled") / "out"
    arguments = ["--model", teacher, "--images", str(photos), "--out", str(out), "--device", "cpu", "--num_workers"]
    assert main(["pseudo-label", *arguments, "0", "--resolution", "56", "--shard_size", "5"]) == 0
    return out


def samples(folder, **options):
    return {record["source"]: decode_record(record) for record in load_folder(folder, **options)}


def expected(model, processor, image):
    """The label of an image, clipped as a disparity is."""
    return predict_depth(model, processor, [image], full_size=False)[0].numpy()


def test_label_images__labels_are_the_models_predictions(labeled, photos, teacher):
    model, processor = load_model(teacher)
    processor.size = {"height": 56, "width": 56}
    found = samples(labeled)
    assert len(found) == 12
    for source, sample in found.items():
        values = expected(model, processor, Image.open(photos / source).convert("RGB"))
        assert sample.values.shape == values.shape
        assert sample.mask.mean() > 0.5
        assert values.std() > 2e-3
        np.testing.assert_allclose(sample.values[sample.mask], values[sample.mask], atol=2e-4)
        assert (values[~sample.mask] <= 1e-5).all()


def test_label_images__original_keeps_the_file(labeled, photos):
    stored = load_folder(labeled).cast_column("image", datasets.Image(decode=False))
    for record in stored:
        assert record["image"]["bytes"] == (photos / record["source"]).read_bytes()
        assert record["own_size"]


def test_label_images__resized_keeps_what_the_network_saw(label, labeled, photos, tmp_path):
    label(tmp_path / "out", keep_image="resized")
    originals = samples(labeled)
    for record in load_folder(tmp_path / "out"):
        sample, original = decode_record(record), originals[record["source"]]
        assert not record["own_size"]
        assert record["image"].size == record["depth_map"].size == original.values.shape[::-1]
        np.testing.assert_array_equal(sample.values, original.values)
        difference = np.abs(np.float32(record["image"]) - np.float32(original.image))
        assert difference.mean() < 4


def test_label_images__reference_keeps_the_path(label, labeled, photos, tmp_path):
    label(tmp_path / "out", keep_image="reference")
    stored = load_folder(tmp_path / "out").cast_column("image", datasets.Image(decode=False))
    assert [record["image"] for record in stored] == [
        {"bytes": None, "path": str(photos / source)} for source in stored["source"]
    ]
    originals = samples(labeled)
    for source, sample in samples(tmp_path / "out").items():
        np.testing.assert_array_equal(sample.values, originals[source].values)
        np.testing.assert_array_equal(sample.image, originals[source].image)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["parquet", "tar"])
def test_label_images__same_labels_from_shards(kind, label, labeled, photos, tmp_path):
    files = sorted(path for path in photos.rglob("*.*"))
    (tmp_path / "in").mkdir()
    for shard in range(3):
        own = files[4 * shard : 4 * shard + 4]
        if kind == "parquet":
            rows = {"image": [{"bytes": file.read_bytes(), "path": file.name} for file in own], "caption": ["a"] * 4}
            features = datasets.Features({"image": datasets.Image(), "caption": datasets.Value("string")})
            datasets.Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "in" / f"{shard}.parquet")
        else:
            with tarfile.open(tmp_path / "in" / f"{shard}.tar", "w") as tar:
                for file in own:
                    # Every file of a WebDataset has the same columns; these become JPEG's, whatever is inside.
                    member = tarfile.TarInfo(f"{file.stem}.jpg")
                    member.size = file.stat().st_size
                    tar.addfile(member, io.BytesIO(file.read_bytes()))
    manifest = label(tmp_path / "out", tmp_path / "in", shard_size=3)
    assert (manifest["labeled"], len(manifest["shards"])) == (12, 6)
    found = samples(tmp_path / "out")
    assert [source.split("/")[0] for source in found] == sorted([f"{i}.{kind}" for i in range(3)] * 4)
    originals = {source.split("/")[-1].split(".")[0]: sample for source, sample in samples(labeled).items()}
    for source, sample in found.items():
        original = originals[re.search(r"(\d{3})(\.\w+)?$", source)[1]]
        np.testing.assert_array_equal(sample.image, original.image)
        np.testing.assert_allclose(sample.values, original.values, atol=1e-5)


def test_label_images__finished_folder_is_left_alone(label, labeled, photos, tmp_path, monkeypatch):
    manifest = label(tmp_path / "out")
    assert manifest == json.loads((tmp_path / "out" / "manifest.json").read_text())
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}
    monkeypatch.setattr(engine.Labeler, "__call__", None)  # nothing is labelled
    assert label(tmp_path / "out") == manifest
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")} == before


@pytest.mark.slow
def test_label_images__settings_of_a_folder_are_kept(label, save_teacher, tmp_path):
    label(tmp_path / "out", limit=2)
    with pytest.raises(ValueError, match=r"other settings \(resolution: 56 then, 70 now; keep_image: 'original' then"):
        label(tmp_path / "out", limit=2, resolution=70, keep_image="resized")
    other = save_teacher(seed=1)
    with pytest.raises(ValueError, match=r"model: .* then, .*; model_revision: 'sha256:\w+' then, 'sha256:\w+' now"):
        label(tmp_path / "out", limit=2, model=other)


@pytest.mark.slow
def test_label_images__changed_inputs_are_refused(label, save_photos, tmp_path):
    photos = save_photos(tmp_path / "in", 12)
    label(tmp_path / "out", photos)
    (photos / "0" / "000.jpg").rename(photos / "0" / "000b.jpg")
    with pytest.raises(ValueError, match="inputs changed since block 00000-00000"):
        label(tmp_path / "out", photos)
    (photos / "0" / "000b.jpg").rename(photos / "0" / "000.jpg")
    (photos / "2" / "999.jpg").write_bytes((photos / "0" / "000.jpg").read_bytes())
    with pytest.raises(ValueError, match="inputs changed since block 00000-00002"):
        label(tmp_path / "out", photos)


def test_label_images__folder_of_another_origin_is_left_alone(label, photos, contents, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="files of another origin"):
        label(tmp_path)
    assert list(contents(tmp_path)) == ["notes.txt"]


def test_label_images__limit_takes_the_first(label, labeled, tmp_path):
    manifest = label(tmp_path / "out", limit=7)
    assert manifest["inputs"] == 7
    assert list(samples(tmp_path / "out")) == list(samples(labeled))[:7]


def test_label_images__bfloat16_stays_near(label, labeled, tmp_path):
    manifest = label(tmp_path / "out", dtype="bfloat16")
    assert manifest["dtype"] == "bfloat16"
    originals = samples(labeled)
    for source, sample in samples(tmp_path / "out").items():
        assert not np.array_equal(sample.values, originals[source].values)
        np.testing.assert_allclose(sample.values, originals[source].values, atol=0.05)


@pytest.mark.slow
def test_label_images__metric_teacher_gives_depth(label, photos, save_teacher, tmp_path):
    metric = save_teacher(max_depth=20.0)
    manifest = label(tmp_path / "out", model=metric)
    assert manifest["space"] == "depth"
    model, processor = load_model(metric)
    processor.size = {"height": 56, "width": 56}
    for source, sample in samples(tmp_path / "out").items():
        assert (sample.space, sample.mask.all()) == ("depth", True)
        values = expected(model, processor, Image.open(photos / source).convert("RGB"))
        np.testing.assert_allclose(sample.values, values, rtol=1e-4)


@pytest.mark.slow
def test_label_images__adapter_teacher(label, labeled, photos, teacher, tmp_path):
    model, processor = load_model(teacher)
    torch.manual_seed(0)
    adapted = get_peft_model(model, depth_lora_config(rank=2))
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.5)
    adapted.save_pretrained(tmp_path / "adapter")
    processor.size = {"height": 56, "width": 56}
    manifest = label(tmp_path / "out", model=tmp_path / "adapter")
    assert manifest["model_revision"] != json.loads((labeled / "manifest.json").read_text())["model_revision"]
    for source, sample in samples(tmp_path / "out").items():
        values = expected(adapted.eval(), processor, Image.open(photos / source).convert("RGB"))
        np.testing.assert_allclose(sample.values[sample.mask], values[sample.mask], atol=1e-4)


@pytest.mark.slow
def test_label_images__student_trains_on_the_shards(labeled, teacher, tmp_path):
    command = ["train", "--model", teacher, "--unlabeled", str(labeled), "--output_dir", str(tmp_path / "student")]
    command += ["--max_steps", "2", "--per_device_train_batch_size", "4", "--image_height", "56", "--image_width"]
    command += ["56", "--use_cpu", "true", "--report_to", "none", "--feature_alignment_weight", "0"]
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("preset: v2\nbf16: false\nlearning_rate: 1.0e-3\n")
    assert main([command[0], str(recipe), *command[1:]]) == 0
    before, after = load_model(teacher)[0].state_dict(), load_model(str(tmp_path / "student"))[0].state_dict()
    assert any(not torch.equal(before[name], after[name]) for name in before)


@pytest.mark.slow
def test_label_images__holds_a_bounded_number_of_images(label, save_photos, tmp_path, monkeypatch):
    # What is read ahead of the device, and what waits to be written, must not grow with the inputs.
    photos = save_photos(tmp_path / "in", 90)
    state = {"read": 0, "labeled": 0, "most": 0}
    read, encode = engine.schedule, engine.encode_label

    def counted(*args):
        for work in read(*args):
            state["read"] += 1
            state["most"] = max(state["most"], state["read"] - state["labeled"])
            yield work

    def encoded(codes):
        state["labeled"] += 1
        return encode(codes)

    monkeypatch.setattr(engine, "schedule", counted)
    monkeypatch.setattr(engine, "encode_label", encoded)
    label(tmp_path / "out", photos, shard_size=4)
    assert state["labeled"] == 90
    assert state["most"] < 60


@pytest.mark.slow
def test_label_images__error_of_the_disk_stops_and_goes_on(label, labeled, contents, tmp_path, monkeypatch):
    opened = engine.Decoder.__getitem__

    def fail(self, work):
        if not isinstance(work, engine.BlockEnd) and work.item.key.endswith("007.png"):
            raise OSError(5, "Input/output error", work.item.image["path"])
        return opened(self, work)

    for workers in (0, 1):
        with monkeypatch.context() as patch:
            patch.setattr(engine.Decoder, "__getitem__", fail)
            with pytest.raises(
                OSError, match=r"1/007\.png cannot be read \(Input/output error\)\. .*repeat the same"
            ) as error:
                label(tmp_path / "out", num_workers=workers)
            assert error.value.errno == 5
    label(tmp_path / "out")
    assert contents(tmp_path / "out" / "data") == contents(labeled / "data")


@pytest.mark.slow
@pytest.mark.parametrize("keep", ["original", "resized"])
def test_label_images__workers_change_nothing(keep, label, contents, tmp_path):
    for workers in (0, 2):
        label(tmp_path / str(workers) / "out", num_workers=workers, keep_image=keep)
    assert contents(tmp_path / "0" / "out") == contents(tmp_path / "2" / "out")


@pytest.mark.slow
def test_label_images__dead_worker_stops_and_goes_on(label, labeled, contents, tmp_path, monkeypatch):
    def die(self, work):
        os.kill(os.getpid(), signal.SIGKILL)

    with monkeypatch.context() as patch:
        patch.setattr(engine.Decoder, "__getitem__", die)
        with pytest.raises(OSError, match=r"decodes died .*smaller `num_workers`"):
            label(tmp_path / "out", num_workers=1)
    label(tmp_path / "out", num_workers=1)
    assert contents(tmp_path / "out" / "data") == contents(labeled / "data")
