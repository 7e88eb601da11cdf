"""Teachers and encoders that would see or say something else than the student."""

import warnings

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPImageProcessor, DPTConfig, DPTForDepthEstimation

from depth_anything_hf import DepthAnythingForDepthEstimation, DepthAnythingImageProcessor
from depth_anything_hf.cli.main import main
from depth_anything_hf.data.folder import write_image_folder
from depth_anything_hf.data.records import encode_record
from depth_anything_hf.training.checks import check_helper

OWN = DepthAnythingImageProcessor(size={"height": 56, "width": 56})


@pytest.fixture
def save(make_model, tmp_path):
    """Function that saves a model with a processor, and loads it: `save(**changes of the processor)`."""

    def saved(**changes):
        make_model().save_pretrained(tmp_path / "helper")
        DepthAnythingImageProcessor(**changes).save_pretrained(tmp_path / "helper")
        return DepthAnythingForDepthEstimation.from_pretrained(tmp_path / "helper")

    return saved


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_mean": [0.5, 0.5, 0.5]}, r"image_mean \[0\.5, 0\.5, 0\.5\], and the student's images have \[0\.485"),
        ({"image_std": [0.5, 0.5, 0.5]}, "image_std"),
        ({"rescale_factor": 1.0}, r"rescale_factor 1\.0"),
    ],
)
@pytest.mark.parametrize("role", ["teacher", "feature encoder"])
def test_check_helper__another_normalization(changes, message, role, save):
    with pytest.raises(ValueError, match=rf"the {role} .*helper was trained with {message}"):
        check_helper(save(**changes), role, OWN)


def test_check_helper__the_students_normalization(save, make_model, make_encoder):
    check_helper(save(), "teacher", OWN)
    check_helper(save(size={"height": 98, "width": 98}, keep_aspect_ratio=False), "teacher", OWN)
    check_helper(make_model(), "teacher", OWN)  # in memory
    check_helper(make_encoder(), "feature encoder", OWN)
    check_helper(torch.nn.Linear(1, 1), "teacher", OWN)


def test_check_helper__an_encoder_of_clip(make_encoder, tmp_path):
    make_encoder().save_pretrained(tmp_path / "clip")
    CLIPImageProcessor().save_pretrained(tmp_path / "clip")
    encoder = type(make_encoder()).from_pretrained(tmp_path / "clip")
    with pytest.raises(ValueError, match=r"the feature encoder .* image_mean .*Choose an encoder"):
        check_helper(encoder, "feature encoder", OWN)


def test_init__a_teacher_of_another_family(make_trainer, make_model, photographs):
    config = DPTConfig(hidden_size=32, num_hidden_layers=4, num_attention_heads=2, intermediate_size=32, image_size=32)
    with pytest.raises(ValueError, match=r"the teacher is of type 'dpt'.*pseudo-label"):
        make_trainer(make_model(), unlabeled_dataset=photographs, teacher=DPTForDepthEstimation(config))


def test_init__a_teacher_with_another_normalization(make_trainer, make_model, photographs, save):
    with pytest.raises(ValueError, match=r"the teacher .* was trained with image_mean"):
        make_trainer(make_model(), unlabeled_dataset=photographs, teacher=save(image_mean=[0.5] * 3))


@pytest.mark.slow
def test_train__skip_broken_goes_on(make_model, tmp_path, caplog):
    rng = np.random.default_rng(0)
    photos = [Image.fromarray(rng.integers(0, 256, (56, 56, 3), dtype=np.uint8)) for _ in range(4)]
    depth = np.linspace(1, 5, 56 * 56).reshape(56, 56)
    folder = write_image_folder([encode_record(photo, depth, source="s") for photo in photos], tmp_path / "set")
    (folder / "images" / "000001.png").write_bytes(b"broken")
    make_model().save_pretrained(tmp_path / "start")
    OWN.save_pretrained(tmp_path / "start")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        f"model: {tmp_path}/start\nlabeled: [{folder}]\neval: [{folder}]\nmax_steps: 2\nper_device_train_batch_size: 4\n"
        f"use_cpu: true\nbf16: false\nreport_to: none\noutput_dir: {tmp_path}/out\n"
    )
    assert main(["train", str(recipe)]) == 1
    assert main(["train", str(recipe), "--skip-broken"]) == 0
    assert "record 1 is skipped, 1 so far" in caplog.text


def test_init__a_teacher_that_is_a_name(make_trainer, make_model, photographs):
    with pytest.raises(TypeError, match=r"teacher is 'mini'; pass a model: load_model\('mini'\)"):
        make_trainer(make_model(), unlabeled_dataset=photographs, teacher="mini")


def test_init__a_teacher_that_sees_farther_than_the_student(make_trainer, make_model, photographs):
    student = {"feature_alignment_weight": 0.0}
    with pytest.warns(UserWarning, match="the teacher's max_depth is 80 and the student's 20: what"):
        make_trainer(
            make_model(max_depth=20), student, unlabeled_dataset=photographs, teacher=make_model(max_depth=80)
        )
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        make_trainer(
            make_model(max_depth=80), student, unlabeled_dataset=photographs, teacher=make_model(max_depth=20)
        )


def test_init__a_feature_encoder_that_is_a_depth_model(make_trainer, make_model, pseudo_labeled):
    with pytest.raises(
        TypeError, match="feature_encoder is a DepthAnythingForDepthEstimation, whose config has no hidden_size"
    ):
        make_trainer(make_model(), unlabeled_dataset=pseudo_labeled, feature_encoder=make_model())
    with pytest.raises(
        TypeError, match="feature_encoder is a Linear, whose config has no hidden_size and no patch_size"
    ):
        make_trainer(make_model(), unlabeled_dataset=pseudo_labeled, feature_encoder=torch.nn.Linear(1, 1))
