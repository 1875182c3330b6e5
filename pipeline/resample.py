"""Bilinear up-sampling of class maps, one strip of rows at a time, so that no full-size K-channel map is in memory."""

from __future__ import annotations

import functools
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
    return _taps((np.arange(target) + 0.5) * (source / target) - 0.5, source)


def _taps(position: npt.NDArray[np.floating], source: int) -> Taps:
    """Taps at positions on an axis of `source` positions, clamped at its edges."""
    position = np.maximum(position, 0)
    low = np.minimum(position.astype(np.intp), source - 1)
    return Taps(low, np.minimum(low + 1, source - 1), (position - low).astype(np.float32))


def taps_of_part(source: int, start: int, stop: int, length: int, target: int) -> tuple[slice, Taps]:
    """Taps from an axis that covers only a part of another one, and the target positions whose centres it covers.

    source:              number of positions of the part
    start, stop, length: the part is from `start` to `stop` on an axis of this length
    target:              number of target positions on the whole axis
    """
    doubled = (2 * np.arange(target) + 1) * length  # centres of the target positions, times 2 * target
    inside = np.flatnonzero((doubled >= 2 * start * target) & (doubled < 2 * stop * target))
    position = (doubled[inside] - 2 * start * target) * source / (2 * target * (stop - start)) - 0.5  # exact integers
    first = int(inside[0]) if inside.size else 0
    return slice(first, first + inside.size), _taps(position, source)


def resize_bilinear(maps: FloatMap, size: Sequence[int], rows: slice = slice(None)) -> FloatMap:
    """Rows of maps resized to `size` (H, W). Each row is the same in whichever strip it is computed.

    maps:    float32 [K, h, w]
    rows:    of the H target rows
    returns: float32 [K, R, W], R = number of `rows`
    """
    if maps.shape[-2:] == tuple(size):
        return maps[:, rows]
    taps = bilinear_taps(maps.shape[-2], size[0])
    chosen = Taps(taps.low[rows], taps.high[rows], taps.weight[rows])
    return interpolated(maps, chosen, bilinear_taps(maps.shape[-1], size[1]))


def interpolated(maps: FloatMap, rows: Taps, columns: Taps) -> FloatMap:
    """float32 [..., R, W] at the R rows and W columns of the taps. maps: float32 [..., h, w]"""
    # np.take, because maps[..., rows.low, :] has the classes last in memory, on which everything else is slower
    tall = _mix(np.take(maps, rows.low, axis=-2), np.take(maps, rows.high, axis=-2), rows.weight[:, None])
    return _mix(np.take(tall, columns.low, axis=-1), np.take(tall, columns.high, axis=-1), columns.weight)


def _mix(low: FloatMap, high: FloatMap, weight: FloatMap) -> FloatMap:
    high -= low  # in place: np.take has copied both
    high *= weight
    low += high
    return low


def softmax(logits: FloatMap) -> FloatMap:
    """float32 [K, H, W] logits -> float32 [K, H, W] probabilities, which sum to 1 over the classes."""
    exponentials: FloatMap = logits - logits.max(axis=0)
    np.exp(exponentials, out=exponentials)
    exponentials /= pairwise_sum(exponentials)
    return exponentials


PAIRWISE_LANES, PAIRWISE_BLOCK = 8, 128  # of numpy


def pairwise_sum(values: FloatMap) -> FloatMap:
    """Sum over the first axis: float32 [...], the same to the last bit in whichever order the axes are in memory.

    The order of the additions is that of numpy's sum over values that are contiguous in memory, whose rounding errors
    are smaller than those of one addition after the other (numpy.sum, section Notes).

    values: float32 [K, ...], K >= 1
    """
    num = len(values)
    if num > PAIRWISE_BLOCK:
        half = num // 2 - num // 2 % PAIRWISE_LANES
        return pairwise_sum(values[:half]) + pairwise_sum(values[half:])
    in_lanes = num - num % PAIRWISE_LANES
    if in_lanes == 0:
        return functools.reduce(np.add, values[1:], values[0])
    lanes = functools.reduce(np.add, np.split(values[:in_lanes], in_lanes // PAIRWISE_LANES))
    while len(lanes) > 1:
        lanes = lanes[::2] + lanes[1::2]
    return functools.reduce(np.add, values[in_lanes:], lanes[0])
