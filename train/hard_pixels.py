"""Online hard example mining (Shrivastava et al. 2016): the loss counts only pixels that are hard for the student.

The rule is that of the public recipes for Cityscapes. A pixel is hard if the probability of its true class is at most a
threshold. If fewer than `min_kept` pixels are hard, the threshold rises until that many are. The public recipes count
the pixels of one GPU (two labeled crops of 801 x 801 pixels); here the pixels of the whole step count, over all
processes.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class HardPixels(NamedTuple):
    """The rule that selects the hard pixels."""

    threshold: float
    """A pixel is hard if its true class has at most this probability, 0 to 1."""
    min_kept: int
    """Minimum number of pixels that count, the hardest ones; all pixels count if a step has fewer."""


def hardness_limit(probabilities: Tensor, hard: HardPixels) -> Tensor:
    """The largest probability of the true class at which a pixel is still hard: float32 []; +inf if all are hard.

    No branch depends on a value of the tensor, because the host would wait for the GPU.

    probabilities: float32 of any shape, for every pixel of the step; +inf for pixels without a class
    """
    values = probabilities.flatten()
    if hard.min_kept > len(values):
        return values.new_full((), torch.inf)
    if hard.min_kept == 0:
        return values.new_full((), hard.threshold)
    return values.kthvalue(hard.min_kept).values.clamp(min=hard.threshold)
