"""Bilinear up-sampling of class maps, one strip of rows at a time, so that no full-size K-channel map is in memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

FloatMap = npt.NDArray[np.float32]


class Taps(NamedTuple):
    """Interpolation along one axis: for every target position, its two source positions and the weight of the second.

    low, high: int [N], source positions
    weight:    float32 [N], in [0, 1]
    """

    low: npt.NDArray[np.intp]
    high: npt.NDArray[np.intp]
    weight: FloatMap


def bilinear_taps(source: int, target: int) -> Taps:
    """Taps of bilinear interpolation aligned at pixel centres (torch's `align_corners=False`), clamped at the edges.

    source, target: number of positions
    """
    position = np.maximum((np.arange(target) + 0.5) * (source / target) - 0.5, 0)
    low = np.minimum(position.astype(np.intp), source - 1)
    return Taps(low, np.minimum(low + 1, source - 1), (position - low).astype(np.float32))


def resize_bilinear(maps: FloatMap, size: Sequence[int], rows: slice = slice(None)) -> FloatMap:
    """Rows of maps resized to `size` (H, W). Each row is the same in whichever strip it is computed.

    maps:    float32 [K, h, w]
    rows:    of the H target rows
    returns: float32 [K, R, W], R = number of `rows`
    """
    if maps.shape[-2:] == tuple(size):
        return maps[:, rows]
    taps = bilinear_taps(maps.shape[-2], size[0])
    columns = bilinear_taps(maps.shape[-1], size[1])
    tall = _mix(maps[:, taps.low[rows]], maps[:, taps.high[rows]], taps.weight[rows, None])
    return _mix(tall[..., columns.low], tall[..., columns.high], columns.weight)


def _mix(low: FloatMap, high: FloatMap, weight: FloatMap) -> FloatMap:
    high -= low  # in place: fancy indexing has copied both
    high *= weight
    low += high
    return low


def softmax(logits: FloatMap) -> FloatMap:
    """float32 [K, H, W] logits -> float32 [K, H, W] probabilities, which sum to 1 over the classes."""
    exponentials: FloatMap = np.exp(logits - logits.max(axis=0))
    exponentials /= exponentials.sum(axis=0)
    return exponentials
