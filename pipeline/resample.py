"""Bilinear up-sampling of class maps, row strip by row strip, so that a full-size K-channel map need never exist."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

FloatMap = npt.NDArray[np.float32]


class Taps(NamedTuple):
    """For every target position the two source positions it lies between, and the weight of the second."""

    low: npt.NDArray[np.intp]
    high: npt.NDArray[np.intp]
    weight: FloatMap


def bilinear_taps(source: int, target: int) -> Taps:
    """Taps of pixel-centre-aligned bilinear interpolation (torch's `align_corners=False`), edges clamped."""
    position = np.maximum((np.arange(target) + 0.5) * (source / target) - 0.5, 0)
    low = np.minimum(position.astype(np.intp), source - 1)
    return Taps(low, np.minimum(low + 1, source - 1), (position - low).astype(np.float32))


def resize_bilinear(maps: FloatMap, size: Sequence[int], rows: slice = slice(None)) -> FloatMap:
    """float32 [K, h, w] -> the given rows of float32 [K, *size]; each row is the same whichever strip it is part of."""
    if maps.shape[-2:] == tuple(size):
        return maps[:, rows]
    taps = bilinear_taps(maps.shape[-2], size[0])
    columns = bilinear_taps(maps.shape[-1], size[1])
    tall = _mix(maps[:, taps.low[rows]], maps[:, taps.high[rows]], taps.weight[rows, None])
    return _mix(tall[..., columns.low], tall[..., columns.high], columns.weight)


def _mix(low: FloatMap, high: FloatMap, weight: FloatMap) -> FloatMap:
    high -= low  # both are fresh copies: fancy indexing made them
    high *= weight
    low += high
    return low


def softmax(logits: FloatMap) -> FloatMap:
    """float32 [K, H, W] logits -> probabilities that sum to 1 over the classes."""
    exponentials: FloatMap = np.exp(logits - logits.max(axis=0))
    exponentials /= exponentials.sum(axis=0)
    return exponentials
