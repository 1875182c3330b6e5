"""The collapse guard: finds classes that the student has stopped predicting, and jumps of the loss."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

COMMON_FRACTION = 0.005  # a class with a smaller fraction of the labeled pixels may vanish and reappear by chance
MAX_RATIO = 10.0  # the fraction of a class may differ from that of the labeled pixels by this factor
MAX_RISE = 0.5  # and may exceed it by at most this much
MAX_LOSS_RATIO = 2.0  # the loss may rise to this many times its lowest value

Fractions = npt.NDArray[np.float64]


def fractions(counts: Sequence[int]) -> Fractions | None:
    """Pixel counts of the classes as fractions of their sum: float64 [K]; None if all counts are 0."""
    total = sum(counts)
    return np.asarray(counts, np.float64) / total if total else None


def is_within_bounds(predicted: Fractions, labeled: Fractions) -> npt.NDArray[np.bool_]:
    """bool [K], whether the fraction of each class in the predictions is plausible.

    predicted: float64 [K], fraction of each class in the predictions
    labeled:   float64 [K], fraction of each class in the labeled pixels
    """
    is_common = labeled >= COMMON_FRACTION
    is_too_small = is_common & (predicted < labeled / MAX_RATIO)
    is_too_large = (predicted > labeled * MAX_RATIO) & (predicted > labeled + COMMON_FRACTION)
    return ~(is_too_small | is_too_large | (predicted > labeled + MAX_RISE))


def collapsed_classes(before: Fractions, now: Fractions, labeled: Fractions) -> list[int]:
    """Indices of the classes whose fraction of the predictions was within its bounds before and is not now.

    A class that the student has not learnt yet is not a collapse.
    """
    return np.flatnonzero(is_within_bounds(before, labeled) & ~is_within_bounds(now, labeled)).tolist()


def loss_jumped(losses: Sequence[float]) -> bool:
    """Whether the last of these mean losses is more than MAX_LOSS_RATIO times the lowest one before it."""
    *before, last = losses
    return bool(before) and last > MAX_LOSS_RATIO * min(before)
