"""The losses of both stages: one formula each."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from pipeline.datasets import IGNORE_INDEX


def pixel_cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Mean cross-entropy over the pixels that have a class; 0, with a gradient of 0, if none has.

    logits:  float [B, K, H, W]; computed in float32 whatever their type
    target:  integer [B, H, W], class index or IGNORE_INDEX
    returns: float32 []
    """
    total = functional.cross_entropy(logits.float(), target.long(), ignore_index=IGNORE_INDEX, reduction="sum")
    num_valid = (target != IGNORE_INDEX).sum()
    return total / num_valid.clamp(min=1)


def self_reliance_loss(supervised: Tensor, unsupervised: Tensor, weight: float) -> Tensor:
    """(1 - lambda) L_s + lambda L_u (paper Eq. 5); `weight` is lambda in [0, 1]."""
    return (1 - weight) * supervised + weight * unsupervised
