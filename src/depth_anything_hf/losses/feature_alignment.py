r"""Feature alignment with a frozen encoder, with a tolerance margin.

Formula (V1, eq. 9): \(L_{feat} = 1 - \mathrm{mean}_i \cos(f_i, f'_i)\) over the patch tokens \(i\) with
\(\cos(f_i, f'_i) \le \alpha\), \(\alpha = 0.85\). Tokens that agree already do not count: depth needs them to differ
within an object, while semantics makes them similar.

Unpublished, chosen here: the mean runs over the counted tokens of each image; an image whose tokens all agree
adds 0. Relations: V1 applies it to unlabeled images only (supplementary table 13).
"""

from __future__ import annotations

import torch
from torch.nn import functional as F

SMALLEST_NORM = 1e-4  # bounds the slope at a token of zeros, 1 / norm, which float16 could not hold


def feature_alignment_loss(
    features: torch.Tensor, frozen_features: torch.Tensor, margin: float = 0.85
) -> torch.Tensor:
    """Pull patch features toward the features of a frozen encoder, except where they agree beyond the margin.

    Args:
        features (`torch.Tensor`): `(batch, patches, channels)`, last-layer patch tokens of the student's encoder.
        frozen_features (`torch.Tensor`): Same shape, of the frozen encoder. No gradient flows into it.
        margin (`float`): Cosine above which a token does not count, in (-1, 1].

    Returns:
        `torch.Tensor`: Scalar in [0, 2], float32 (float64 for float64 input).

    Raises:
        ValueError: The shapes differ, or `margin` is outside (-1, 1].

    Source: Depth Anything V1, section 3.3, eq. 9; last layer: LiheYoung/Depth-Anything#224.

    Example:
        >>> features = torch.tensor([[[1.0, 0.0], [1.0, 0.0]]])
        >>> frozen = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
        >>> feature_alignment_loss(features, frozen).item()  # the first token agrees and does not count
        1.0
    """
    if features.ndim != 3 or features.shape != frozen_features.shape:
        raise ValueError(
            f"features have shape {tuple(features.shape)} and frozen_features {tuple(frozen_features.shape)}; both "
            "must be the same (batch, patches, channels). Different channels need a projector, different patches the "
            "same patch grid."
        )
    if not -1 < margin <= 1:
        raise ValueError(f"margin is {margin}; it must lie in (-1, 1]. The paper's value is 0.85.")
    dtype = torch.promote_types(features.dtype, torch.float32)
    cosine = F.cosine_similarity(features.to(dtype), frozen_features.detach().to(dtype), dim=-1, eps=SMALLEST_NORM)
    kept = ~(cosine > margin)  # NaN stays, and shows
    distance = torch.where(kept, 1 - cosine, 0.0).sum(dim=1) / kept.sum(dim=1).clamp(min=1)  # (batch,)
    return distance.mean()
