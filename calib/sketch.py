"""The largest scores of every location: all that its threshold needs, and mergeable, so no image need wait for another.

With n valid scores the threshold is the m-th largest, m = floor((n + 1) alpha). A sketch of the m largest scores of
each location is exact, its size does not depend on the number of images, and two sketches merge into one.
"""

from collections.abc import Iterable
from functools import reduce
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from calib.quantile import Method, conformal_rank, exact_alpha

TILE = 4096  # locations sorted together: their scores stay in the cache


class Sketch(NamedTuple):
    """The largest scores of every location of a map.

    largest:   float32 [H, W, m], ascending; -inf fills up where a location has fewer than m scores
    num_valid: int32 [H, W], scores seen, 0..L
    """

    largest: npt.NDArray[np.float32]
    num_valid: npt.NDArray[np.int32]


def sketch_size(num_images: int, alpha: float, method: Method) -> int:
    """How many of the largest scores `sketch_quantile` needs at this alpha, for up to num_images scores; at least 1."""
    n = np.arange(num_images + 1)
    from_top = n + 1 - conformal_rank(n, alpha) if method == "exact" else n - _below(n, alpha)[0]
    return max(1, int(from_top.max()))


def sketch_scores(scores: npt.NDArray[np.float32], size: int) -> Sketch:
    """Keep the `size` largest scores of every location. scores: float32 [L, H, W], NaN = void."""
    num_images, height, width = scores.shape
    kept = min(size, num_images)
    flat = scores.reshape(num_images, height * width)
    largest = np.empty((height * width, kept), dtype=np.float32)
    num_valid = np.empty(height * width, dtype=np.int32)
    for start in range(0, height * width, TILE):
        tile = slice(start, start + TILE)
        columns = flat[:, tile].T.copy()
        void = np.isnan(columns)
        num_valid[tile] = num_images - np.count_nonzero(void, axis=1)
        columns[void] = -np.inf
        columns.sort(axis=1)
        largest[tile] = columns[:, num_images - kept :]
    return Sketch(largest.reshape(height, width, kept), num_valid.reshape(height, width))


def merge_sketches(first: Sketch, second: Sketch, size: int) -> Sketch:
    """The sketch of the images of both; the same whichever way the images were divided up and ordered."""
    height, width = first.num_valid.shape
    parts = [sketch.largest.reshape(height * width, -1) for sketch in (first, second)]
    total = sum(part.shape[1] for part in parts)
    kept = min(size, total)
    largest = np.empty((height * width, kept), dtype=np.float32)
    for start in range(0, height * width, TILE):
        columns = np.concatenate([part[start : start + TILE] for part in parts], axis=1)
        columns.sort(axis=1)
        largest[start : start + TILE] = columns[:, total - kept :]
    return Sketch(largest.reshape(height, width, kept), first.num_valid + second.num_valid)


def sketch_without(sketch: Sketch, score: npt.NDArray[np.float32]) -> Sketch:
    """The sketch of all images but one, with a score less a location.

    score: float32 [H, W] of that image, which is among those of the sketch; NaN = void
    """
    # where the score is not among the largest, the smallest of these goes: all others are above it
    place = np.count_nonzero(sketch.largest < score[..., np.newaxis], axis=-1)
    is_before = np.arange(sketch.largest.shape[-1] - 1) < place[..., np.newaxis]
    largest = np.where(is_before, sketch.largest[..., :-1], sketch.largest[..., 1:])
    return Sketch(largest, sketch.num_valid - ~np.isnan(score))


def merge_all(sketches: Iterable[Sketch], size: int) -> Sketch:
    """Merge one or more sketches."""
    return reduce(lambda first, second: merge_sketches(first, second, size), sketches)


def sketch_quantile(sketch: Sketch, alpha: float, method: Method = "exact") -> npt.NDArray[np.float32]:
    """Calibrate each location by itself, on its n valid scores (paper section 3.3.1; Eq. 3 needs no more than these).

    Guarantee of "exact" (Vovk, Gammerman and Shafer 2005): at each location, over labeled and new images that are
    exchangeable, 1 - alpha <= P(score <= q), and <= 1 - alpha + 1 / (n + 1) where scores are distinct.

    sketch:  at least `sketch_size(L, alpha, method)` scores a location, or all of them
    method:  "exact": the `conformal_rank`-th smallest score, +inf where that rank exceeds n;
             "paper": the (1 - alpha)-quantile, interpolated, without finite-sample correction, as np.nanquantile
             computes it in float64 (equal to the last bit)
    returns: float32 [H, W], NaN where n = 0
    raises:  ValueError unless 0 < alpha < 1
    """
    found = _exact_quantile(sketch, alpha) if method == "exact" else _linear_quantile(sketch, alpha)
    return np.where(sketch.num_valid > 0, found, np.float32(np.nan))


def pixel_quantile(scores: npt.NDArray[np.float32], alpha: float, method: Method = "exact") -> npt.NDArray[np.float32]:
    """`sketch_quantile` of scores that are in memory, float32 [L, H, W], NaN = void.

    Works on any tile of the map, so it is a block function for `dask.array.map_blocks(..., drop_axis=0)`.
    """
    return sketch_quantile(sketch_scores(scores, sketch_size(len(scores), alpha, method)), alpha, method)


def _exact_quantile(sketch: Sketch, alpha: float) -> npt.NDArray[np.float32]:
    from_top = sketch.num_valid + 1 - conformal_rank(sketch.num_valid, alpha)
    return np.where(from_top > 0, _take_from_top(sketch, np.maximum(from_top, 1)), np.float32(np.inf))


def _linear_quantile(sketch: Sketch, alpha: float) -> npt.NDArray[np.float32]:
    """np.nanquantile's arithmetic, step by step: the same roundings, hence the same bits.

    NumPy interpolates from the nearer of the two scores; from the other one, some results differ in the last bit.
    """
    n = sketch.num_valid
    below, weight = _below(n, alpha)
    last = np.maximum(n - 1, 0)
    low = _take_from_top(sketch, np.maximum(n - below, 1)).astype(np.float64)
    high = _take_from_top(sketch, np.maximum(n - np.minimum(below + 1, last), 1)).astype(np.float64)
    with np.errstate(invalid="ignore"):  # inf - inf where n = 0
        gap = high - low
        return np.where(weight < 0.5, low + gap * weight, high - gap * (1 - weight)).astype(np.float32)


def _below(n: npt.NDArray[np.integer], alpha: float) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.float64]]:
    """Position of the score just below the (1 - alpha)-quantile of n sorted ones, and the weight of the next one."""
    last = np.maximum(n - 1, 0)
    position = last * (1 - float(exact_alpha(alpha)))
    below = np.minimum(np.floor(position).astype(np.intp), last)
    return below, position - below


def _take_from_top(sketch: Sketch, rank: npt.NDArray[np.integer]) -> npt.NDArray[np.float32]:
    """The rank-th largest score of each location, rank 1..m; NaN where the sketch is empty."""
    height, width, kept = sketch.largest.shape
    if kept == 0:
        return np.full((height, width), np.nan, dtype=np.float32)
    return np.take_along_axis(sketch.largest, np.maximum(kept - rank, 0)[..., np.newaxis], axis=2)[..., 0]
