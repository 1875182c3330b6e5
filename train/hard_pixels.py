"""Online hard example mining (Shrivastava et al. 2016): only pixels that are hard for the student count in the loss.

As in the public recipes for Cityscapes: a pixel is hard if the probability of its class is at most a threshold; if
fewer than `min_kept` pixels are, the threshold rises until so many are. Those recipes count the pixels of one GPU (two
labeled crops of 801 x 801); here they are those of the whole step, whatever number of processes shares it.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class HardPixels(NamedTuple):
    """Which pixels are hard."""

    threshold: float
    """Probability of a pixel's class up to which the pixel is hard."""
    min_kept: int
    """Pixels that are kept at least, the hardest ones; all, if a step has fewer."""


def hardness_limit(probabilities: Tensor, hard: HardPixels) -> Tensor:
    """float32 []: the probability up to which a pixel is hard. No branch looks at a value: that would wait for a GPU.

    probabilities: float32 of any shape, of every pixel of the step; +inf for those without a class
    """
    values = probabilities.flatten()
    if hard.min_kept > len(values):
        return values.new_full((), torch.inf)
    if hard.min_kept == 0:
        return values.new_full((), hard.threshold)
    return values.kthvalue(hard.min_kept).values.clamp(min=hard.threshold)
