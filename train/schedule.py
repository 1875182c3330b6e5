"""What changes while training: the learning rate with the step, lambda with the epoch."""

from __future__ import annotations

import math
from typing import Literal


def poly_lr_factor(step: int, num_steps: int, power: float) -> float:
    """(1 - t/T)^power in [0, 1], what the initial learning rate is multiplied by before step t = 0..T-1."""
    return float((1 - step / num_steps) ** power)


def warmup_factor(step: int, warmup_steps: int) -> float:
    """Evenly rising in steps 0..warmup_steps-1, from 1/warmup_steps to 1; then 1."""
    return min(1.0, (step + 1) / warmup_steps) if warmup_steps else 1.0


def unlabeled_weight(
    schedule: Literal["exp", "constant", "linear", "cosine"], epoch: int, num_epochs: int, start: float, end: float
) -> float:
    """lambda of an epoch (paper Eq. 5): `start` in epoch 0, `end` in the last one.

    The paper says "simple exponential decay" and gives no constants; `exp` is start * (end / start)^x with x the share
    of the epochs that have passed.
    """
    share = epoch / (num_epochs - 1) if num_epochs > 1 else 0.0
    match schedule:
        case "constant":
            return start
        case "linear":
            return start + (end - start) * share
        case "cosine":
            return end + (start - end) * (1 + math.cos(math.pi * share)) / 2
        case "exp":
            return float(start * (end / start) ** share)
