"""Schedules: the learning rate by step, lambda by epoch."""

from __future__ import annotations

import math
from typing import Literal


def poly_lr_factor(step: int, num_steps: int, power: float) -> float:
    """Factor of the initial learning rate in step t = 0, ..., T - 1: (1 - t/T)^power, in [0, 1]."""
    return float((1 - step / num_steps) ** power)


def warmup_factor(step: int, warmup_steps: int) -> float:
    """Factor of the learning rate that rises linearly from 1/warmup_steps to 1 in the first steps, and is then 1."""
    return min(1.0, (step + 1) / warmup_steps) if warmup_steps else 1.0


def unlabeled_weight(
    schedule: Literal["exp", "constant", "linear", "cosine"], epoch: int, num_epochs: int, start: float, end: float
) -> float:
    """lambda of an epoch (paper Eq. 5): `start` in epoch 0, `end` in the last epoch.

    The paper has "simple exponential decay" without constants; `exp` is start * (end / start)^x, where x rises linearly
    from 0 in the first epoch to 1 in the last.
    """
    progress = epoch / (num_epochs - 1) if num_epochs > 1 else 0.0
    match schedule:
        case "constant":
            return start
        case "linear":
            return start + (end - start) * progress
        case "cosine":
            return end + (start - end) * (1 + math.cos(math.pi * progress)) / 2
        case "exp":
            return float(start * (end / start) ** progress)
