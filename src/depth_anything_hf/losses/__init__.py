"""Losses, one per file: pure functions of prediction, target and mask.

| loss | paper | file |
|---|---|---|
| affine-invariant | V1 eq. 1 to 3, V2 section 5 | `affine_invariant` |
| multi-scale gradient matching | V2 section 5, B.7 | `gradient_matching` |
| the two together | V2 section 5 | `relative` |
| region-wise under CutMix | V1 eq. 5 to 8 | `cutmix` |
| feature alignment | V1 eq. 9 | `feature_alignment` |
| SiLog | metric fine-tuning of V1 and V2 | `silog` |
| supervised: the loss of a model of either kind on labels | V1 3.1, V2 5 | `supervised` |
| a term of your own | | `terms` |

A new loss is a new file and a line in `LOSSES`: recipes choose from it, and the shared tests run over it.
"""

from depth_anything_hf.losses.affine_invariant import affine_invariant_loss
from depth_anything_hf.losses.cutmix import cutmix_loss_per_image
from depth_anything_hf.losses.feature_alignment import feature_alignment_loss
from depth_anything_hf.losses.gradient_matching import gradient_matching_loss
from depth_anything_hf.losses.reduction import mean_over_labeled
from depth_anything_hf.losses.relative import RelativeLoss, relative_loss_per_image
from depth_anything_hf.losses.silog import silog_loss
from depth_anything_hf.losses.supervised import has_label, labeled_pixels, supervised_loss
from depth_anything_hf.losses.terms import Loss, LossTerm

LOSSES: dict[str, Loss] = {
    "affine_invariant": affine_invariant_loss,
    "gradient_matching": gradient_matching_loss,
    "silog": silog_loss,
}
__all__ = [
    "LOSSES",
    "LossTerm",
    "RelativeLoss",
    "affine_invariant_loss",
    "cutmix_loss_per_image",
    "feature_alignment_loss",
    "gradient_matching_loss",
    "has_label",
    "labeled_pixels",
    "mean_over_labeled",
    "relative_loss_per_image",
    "silog_loss",
    "supervised_loss",
]
