from types import SimpleNamespace

import pytest
import torch
from torch import nn
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModel,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    SiglipVisionConfig,
    SiglipVisionModel,
    ViTConfig,
    ViTModel,
)

from depth_anything_hf.augmentation import ColorDraw, StrongPerturbation
from depth_anything_hf.losses import affine_invariant_loss, feature_alignment_loss, gradient_matching_loss
from depth_anything_hf.training.encoders import align_features, frozen_patch_features
from depth_anything_hf.training.step import View, combine, draw_view, student_view, teacher_labels, view_loss

NORMALIZATION = (torch.full((3, 1, 1), 0.45), torch.full((3, 1, 1), 0.22))


def batch(size=4):
    colors = torch.rand(size, 3, 32, 40)
    return (colors - NORMALIZATION[0]) / NORMALIZATION[1], torch.rand(size, 32, 40), torch.rand(size, 32, 40) < 0.8


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def draws(size=4, perturbation=None, cutmix_probability=0.0, seed=0):
    one = generator(seed)
    drawn = [draw_view(32, 40, perturbation, cutmix_probability, one) for _ in range(size)]
    return {name: torch.cat([draw[name] for draw in drawn]) for name in drawn[0]}


def test_draw_view__one_row_of_boxes_and_colors():
    drawn = draw_view(32, 40, StrongPerturbation(), 1.0, generator())
    assert set(drawn) == {"boxes", *ColorDraw._fields}
    assert {len(values) for values in drawn.values()} == {1}
    assert drawn["boxes"].shape == (1, 32, 40)
    assert 0 < drawn["boxes"].sum() < 32 * 40
    assert set(draw_view(32, 40, None, 0.0, generator())) == {"boxes"}


def test_student_view__nothing_switched_on_is_the_identity():
    given = batch()
    view = student_view(*given, draws(), NORMALIZATION)
    for before, after in zip(given, view, strict=False):
        assert torch.equal(before, after)
    assert not view.boxes.any()


def test_student_view__cutmix_takes_image_label_and_mask_from_the_same_box():
    images, labels, masks = batch()
    drawn = draws(cutmix_probability=1.0, seed=3)
    view = student_view(images, labels, masks, drawn, NORMALIZATION)
    assert torch.equal(view.boxes, drawn["boxes"])
    assert view.boxes.flatten(1).any(dim=1).all()
    for i, box in enumerate(view.boxes):
        partner = (1, 0, 3, 2)[i]
        for mixed, own in ((view.labels, labels), (view.label_mask, masks)):
            assert torch.equal(mixed[i][box], own[partner][box])
            assert torch.equal(mixed[i][~box], own[i][~box])
        assert torch.equal(view.pixel_values[i][:, box], images[partner][:, box])
        assert torch.equal(view.pixel_values[i][:, ~box], images[i][:, ~box])


def test_student_view__perturbation_changes_colors_and_neither_labels_nor_range():
    images, labels, masks = batch()
    drawn = draws(perturbation=StrongPerturbation(jitter_probability=1.0))
    view = student_view(images, labels, masks, drawn, NORMALIZATION)
    changed = (view.pixel_values - images).abs().flatten(1).amax(dim=1)
    assert (changed > 0.1).all()
    assert torch.equal(view.labels, labels)
    assert torch.equal(view.label_mask, masks)
    colors = view.pixel_values * NORMALIZATION[1] + NORMALIZATION[0]
    assert colors.min() > -1e-5
    assert colors.max() < 1 + 1e-5


def test_student_view__perturbation_of_no_strength_is_the_identity():
    still = StrongPerturbation(brightness=0, contrast=0, saturation=0, hue=0, blur_probability=0)
    images, labels, masks = batch()
    view = student_view(images, labels, masks, draws(perturbation=still), NORMALIZATION)
    torch.testing.assert_close(view.pixel_values, images, rtol=0, atol=1e-4)


def test_student_view__follows_the_draw_alone():
    given, drawn = batch(), draws(perturbation=StrongPerturbation(), cutmix_probability=1.0)
    views = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        views.append(student_view(*given, drawn, NORMALIZATION))
    assert all(torch.equal(*pair) for pair in zip(*views, strict=True))
    other = student_view(*given, draws(perturbation=StrongPerturbation(), seed=1), NORMALIZATION)
    assert not torch.equal(views[0].pixel_values, other.pixel_values)


def test_student_view__given_tensors_stay():
    given = batch()
    before = [values.clone() for values in given]
    student_view(*given, draws(perturbation=StrongPerturbation(), cutmix_probability=1.0), NORMALIZATION)
    assert all(torch.equal(*pair) for pair in zip(given, before, strict=True))


def test_teacher_labels__values_and_finite_mask_without_a_graph():
    class Teacher(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.tensor(2.0))

        def forward(self, pixel_values):
            depth = self.scale * pixel_values.mean(dim=1)
            depth[0, 0, 0] = torch.nan
            return SimpleNamespace(predicted_depth=depth.half())

    images = batch()[0]
    labels, mask = teacher_labels(Teacher(), images)
    assert labels.dtype == torch.float32
    assert not labels.requires_grad
    torch.testing.assert_close(labels[1:], 2 * images.mean(dim=1)[1:], rtol=1e-3, atol=1e-3)
    assert (~mask).nonzero().tolist() == [[0, 0, 0]]


@pytest.mark.parametrize("preset", ["v1", "v2"])
def test_view_loss__does_not_see_the_teachers_scale_of_each_image(make_args, preset):
    # Each image's teacher map has its own unknown scale and shift; the mixed label holds pieces of several.
    args, drawn = make_args(preset=preset, cutmix_probability=1.0), draws(cutmix_probability=1.0)
    images, labels, _ = batch()
    mask, student = torch.ones_like(labels, dtype=torch.bool), labels + 0.2 * torch.rand(4, 32, 40)
    moved = labels.clone()
    moved[0] *= 7
    moved[1] += 3
    losses = []
    for teacher in (labels, moved):
        view = student_view(images, teacher, mask, drawn, NORMALIZATION)
        losses.append(view_loss(student, view, args, args.trim_fraction)["total"].item())
    assert losses[0] == pytest.approx(losses[1], abs=2e-5)
    order = labels.clone()
    order[0] *= -1  # the other way round is another teacher
    view = student_view(images, order - order.amin(), mask, drawn, NORMALIZATION)
    assert abs(view_loss(student, view, args, args.trim_fraction)["total"].item() - losses[0]) > 0.1


def test_view_loss__terms_by_name(make_args):
    _, labels, mask = batch()
    predicted, view = torch.rand(4, 32, 40), View(None, labels, mask, None)
    plain = view_loss(predicted, view, make_args(preset="v1"), 0.0)
    assert set(plain) == {"affine_invariant", "total"}
    expected = affine_invariant_loss(predicted, labels, mask)
    torch.testing.assert_close(plain["total"], expected)
    both = view_loss(predicted, view, make_args(preset="v2"), 0.0)
    assert set(both) == {"affine_invariant", "gradient_matching", "total"}
    torch.testing.assert_close(both["affine_invariant"], expected)
    torch.testing.assert_close(both["gradient_matching"], gradient_matching_loss(predicted, labels, mask))
    torch.testing.assert_close(both["total"], expected + 2 * both["gradient_matching"])
    trimmed = view_loss(predicted, view, make_args(preset="v2"), 0.1)
    assert trimmed["affine_invariant"] < both["affine_invariant"]


def test_view_loss__metric_leaves_out_what_lies_beyond_max_depth(make_args):
    _, labels, mask = batch()
    labels, predicted = labels * 10 + 1, torch.rand(4, 32, 40) * 10 + 1
    view, args = View(None, labels, mask, None), make_args(silog_variance_focus=0.85, silog_weight=10.0)
    loss = view_loss(predicted, view, args, 0.0, max_depth=8.0)
    assert set(loss) == {"silog", "total"}
    expected = []
    for depth, label, valid in zip(predicted.double(), labels.double(), mask & (labels <= 8), strict=True):
        log = depth[valid].log() - label[valid].log()
        expected.append(10 * (log.square().mean() - 0.85 * log.mean().square()).sqrt())
    assert loss["total"].item() == pytest.approx(torch.stack(expected).mean().item(), rel=1e-5)


def test_combine__is_the_plain_average_of_equal_weights():
    losses = [torch.tensor(value) for value in (1.0, 4.0, 10.0)]
    assert combine([(1.0, loss) for loss in losses]).item() == 5.0
    assert combine([(2.0, losses[0])]).item() == 1.0
    assert combine([(1.0, losses[0]), (3.0, losses[1])]).item() == pytest.approx(3.25)


def test_frozen_patch_features__are_the_last_normed_patch_tokens(make_encoder):
    encoder, images = make_encoder(), torch.randn(2, 3, 32, 40)
    features = frozen_patch_features(encoder, images, (4, 5))
    with torch.no_grad():
        hidden = encoder(pixel_values=images, output_hidden_states=True).hidden_states[-1]
        expected = encoder.layernorm(hidden)[:, 1:]
    assert features.shape == (2, 20, 32)
    assert not features.requires_grad
    torch.testing.assert_close(features, expected)


def test_frozen_patch_features__equal_the_students_own_at_the_start(make_model, make_encoder):
    model, encoder, images = make_model().eval(), make_encoder(), torch.randn(2, 3, 32, 40)
    encoder.load_state_dict(model.backbone.state_dict())
    own = model(pixel_values=images, output_features=True).features
    frozen = frozen_patch_features(encoder, images, (4, 5))
    torch.testing.assert_close(own, frozen)
    assert align_features(own, frozen, None, 0.85).item() == 0


def test_frozen_patch_features__other_grid_is_resized_row_by_row():
    class Encoder(nn.Module):
        config = SimpleNamespace(patch_size=4)

        def forward(self, pixel_values):
            rows, columns = torch.meshgrid(torch.arange(8.0), torch.arange(10.0), indexing="ij")
            tokens = torch.stack([rows, columns], dim=-1).flatten(0, 1)[None]
            return SimpleNamespace(last_hidden_state=torch.cat([torch.full((1, 5, 2), 99.0), tokens], dim=1))

    features = frozen_patch_features(Encoder(), torch.zeros(1, 3, 32, 40), (4, 5))
    rows, columns = features[0].unflatten(0, (4, 5)).unbind(-1)
    assert rows[:, 0].tolist() == [0.5, 2.5, 4.5, 6.5]
    assert columns[0].tolist() == [0.5, 2.5, 4.5, 6.5, 8.5]


def test_frozen_patch_features__skips_class_and_register_tokens():
    config = {"image_size": 40, "patch_size": 8, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    encoder = Dinov2WithRegistersModel(Dinov2WithRegistersConfig(**config, num_register_tokens=4)).eval()
    images = torch.randn(2, 3, 32, 40)
    with torch.no_grad():
        tokens = encoder(pixel_values=images).last_hidden_state
    assert tokens.shape[1] == 1 + 4 + 20
    torch.testing.assert_close(frozen_patch_features(encoder, images, (4, 5)), tokens[:, 5:])


@pytest.mark.parametrize(
    ("model", "config"),
    [(ViTModel, ViTConfig), (CLIPVisionModel, CLIPVisionConfig), (SiglipVisionModel, SiglipVisionConfig)],
)
def test_frozen_patch_features__encoders_made_for_another_image_size(model, config):
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    encoder = model(config(image_size=24, patch_size=8, **sizes)).eval()
    features = frozen_patch_features(encoder, torch.randn(2, 3, 32, 40), (4, 5))
    assert features.shape == (2, 20, 32)
    assert features.std(dim=1).min() > 0


def test_align_features__goes_through_the_projector():
    features, frozen, projector = torch.randn(2, 20, 32), torch.randn(2, 20, 48), nn.Linear(32, 48)
    expected = feature_alignment_loss(projector(features), frozen, 0.85)
    assert align_features(features, frozen, projector, 0.85).item() == expected.item()
    with pytest.raises(ValueError, match="Different channels need a projector"):
        align_features(features, frozen, None, 0.85)
