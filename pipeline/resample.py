"""Bilinear up-sampling of class maps, one strip of rows at a time, so that no full-size K-channel map is in memory."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from calib.compiled import compiled

FloatMap = npt.NDArray[np.float32]
Positions = npt.NDArray[np.intp]


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
    height, width = maps.shape[-2:]
    needed = slice(int(rows.low.min(initial=height)), int(rows.high.max(initial=0)) + 1)
    narrow = np.ascontiguousarray(maps[..., needed, :]).reshape(-1, len(range(height)[needed]), width)
    wide = np.empty((*narrow.shape[:2], len(columns.low)), np.float32)
    _interpolate_columns(narrow, *columns, wide)
    resized = np.empty((len(wide), len(rows.low), len(columns.low)), np.float32)
    _interpolate_rows(wide, rows.low - needed.start, rows.high - needed.start, rows.weight, resized)
    return resized.reshape(*maps.shape[:-2], *resized.shape[1:])


# In the compiled loops every row is a variable, and so is what all its pixels need: only then does the compiler know
# that it can process several pixels with one instruction.


@compiled
def _interpolate_columns(maps: FloatMap, low: Positions, high: Positions, weight: FloatMap, result: FloatMap) -> None:
    """Fill float32 [M, h, W] from maps [M, h, w] at W columns."""
    for m in range(len(result)):
        for y in range(result.shape[1]):
            row, wide = maps[m, y], result[m, y]
            for x in range(len(wide)):
                left = row[low[x]]
                wide[x] = left + (row[high[x]] - left) * weight[x]


@compiled
def _interpolate_rows(maps: FloatMap, low: Positions, high: Positions, weight: FloatMap, result: FloatMap) -> None:
    """Fill float32 [M, R, W] from maps [M, h, W] at R rows."""
    for m in range(len(result)):
        for y in range(result.shape[1]):
            above, below, fraction, row = maps[m, low[y]], maps[m, high[y]], weight[y], result[m, y]
            for x in range(len(row)):
                row[x] = above[x] + (below[x] - above[x]) * fraction


def softmax(logits: FloatMap) -> FloatMap:
    """float32 [K, H, W] logits -> float32 [K, H, W] probabilities, which sum to 1 over the classes."""
    probabilities = np.array(logits, np.float32, order="C")
    _softmax(probabilities.reshape(len(logits), -1))
    return probabilities


# e^x = 2^n e^r for the integer n next to x / ln 2, and a polynomial of r, |r| <= ln(2) / 2
PER_LN2 = np.float32(1 / math.log(2))
LN2_HIGH = np.float32(0.693359375)  # few bits, so that its product with n is exact
LN2_LOW = np.float32(math.log(2) - 0.693359375)
TAYLOR_0, _, TAYLOR_2, TAYLOR_3, TAYLOR_4, TAYLOR_5, TAYLOR_6, TAYLOR_7 = (
    np.float32(1 / math.factorial(n)) for n in range(8)
)
TO_INTEGER = np.float32(1.5 * 2**23)  # added to a small number, it leaves the nearest integer in the last bits
SMALLEST_EXPONENT = np.float32(-88)  # e^-88 and less become 0
BIAS, MANTISSA_BITS = np.int32(127), np.int32(23)  # of float32
PIXELS = 512  # processed together, so that they stay in the cache


@compiled
def _softmax(values: FloatMap) -> None:
    """Replace logits, float32 [K, P], by probabilities."""
    num_classes, num_pixels = values.shape
    peak, total = np.empty(PIXELS, np.float32), np.empty(PIXELS, np.float32)
    power = np.empty(PIXELS, np.float32)
    power_bits = power.view(np.int32)
    for start in range(0, num_pixels, PIXELS):
        length = min(PIXELS, num_pixels - start)
        peak[:], total[:] = -np.inf, 0
        for k in range(num_classes):
            row = values[k, start : start + length]
            for i in range(length):
                x, largest = row[i], peak[i]
                peak[i] = x if x > largest else largest
        for k in range(num_classes):
            row = values[k, start : start + length]
            for i in range(length):
                x = row[i] - peak[i]
                x = SMALLEST_EXPONENT if x < SMALLEST_EXPONENT else x
                shifted = x * PER_LN2 + TO_INTEGER
                n = shifted - TO_INTEGER
                r = x - n * LN2_HIGH - n * LN2_LOW
                p = TAYLOR_7
                p = p * r + TAYLOR_6
                p = p * r + TAYLOR_5
                p = p * r + TAYLOR_4
                p = p * r + TAYLOR_3
                p = p * r + TAYLOR_2
                row[i] = p * (r * r) + r + TAYLOR_0
                power[i] = shifted
            for i in range(length):
                power_bits[i] = (power_bits[i] + BIAS) << MANTISSA_BITS
            for i in range(length):
                exponential = row[i] * power[i]
                row[i] = exponential
                total[i] += exponential
        for k in range(num_classes):
            row = values[k, start : start + length]
            for i in range(length):
                row[i] /= total[i]
