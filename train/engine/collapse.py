"""The collapse guard: does the student still predict every class, and does its loss stay where it was?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

COMMON = 0.005  # classes below this share of the labeled pixels come and go by themselves
FACTOR = 10.0  # a share may differ this many times from that of the labeled pixels
JUMP = 0.5  # or rise this much above it
LOSS_FACTOR = 2.0  # the loss may rise this many times above its lowest

Shares = npt.NDArray[np.float64]


def shares(counts: Sequence[int]) -> Shares | None:
    """float64 [K] that sum to 1; None if nothing was counted."""
    total = sum(counts)
    return np.asarray(counts, np.float64) / total if total else None


def is_within_bounds(predicted: Shares, labeled: Shares) -> npt.NDArray[np.bool_]:
    """bool [K]: is each class's share of the predictions plausible, given its share of the labeled pixels?"""
    is_common = labeled >= COMMON
    too_small = is_common & (predicted < labeled / FACTOR)
    too_large = (predicted > labeled * FACTOR) & (predicted > labeled + COMMON) | (predicted > labeled + JUMP)
    return ~(too_small | too_large)


def collapsed_classes(before: Shares, now: Shares, labeled: Shares) -> list[int]:
    """Classes whose share of the predictions was within its bounds at the last look and is not any more.

    A class that has not been learnt yet is no collapse.
    """
    return np.flatnonzero(is_within_bounds(before, labeled) & ~is_within_bounds(now, labeled)).tolist()


def loss_jumped(losses: Sequence[float]) -> bool:
    """Whether the last of these mean losses is far above the lowest before it."""
    *before, last = losses
    return bool(before) and last > LOSS_FACTOR * min(before)
