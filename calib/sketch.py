"""Sketches: the largest scores of every location, which determine its threshold and can be merged over images.

With n valid scores the threshold is the m-th largest, m = floor((n + 1) alpha). The m largest scores of each location
give the exact threshold, and two sketches can be merged into one, so images can be processed in any order.
"""

from collections.abc import Callable, Iterable
from functools import partial, reduce
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from calib.compiled import compiled
from calib.quantile import Method, conformal_rank, exact_alpha

TILE = 4096  # locations sorted together, so that their scores stay in the cache


class Sketch(NamedTuple):
    """The largest scores of every location of a map.

    largest:   float32 [H, W, m], ascending; filled up with -inf at the front where a location has fewer than m scores
    num_valid: int32 [H, W], number of valid scores, 0..L
    """

    largest: npt.NDArray[np.float32]
    num_valid: npt.NDArray[np.int32]


def sketch_size(num_images: int, alpha: float, method: Method) -> int:
    """The number of largest scores that `sketch_quantile` needs for up to `num_images` scores; at least 1.

    alpha:  in (0, 1)
    raises: ValueError unless 0 < alpha < 1
    """
    n = np.arange(num_images + 1)
    from_top = n + 1 - conformal_rank(n, alpha) if method == "exact" else n - _below(n, alpha)[0]
    return max(1, int(from_top.max()))


def sketch_scores(scores: npt.NDArray[np.float32], size: int) -> Sketch:
    """The sketch of the `size` largest scores of every location. scores: float32 [L, H, W] in [0, 1], NaN = void"""
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
    """The sketch of the images of both; independent of the order of the images and of how they were divided.

    size: number of largest scores to keep
    """
    height, width = first.num_valid.shape
    one, two = (np.ascontiguousarray(of.largest).reshape(height * width, -1) for of in (first, second))
    largest = np.empty((height * width, min(size, one.shape[1] + two.shape[1])), dtype=np.float32)
    _merge(one, two, largest)
    return Sketch(largest.reshape(height, width, largest.shape[1]), first.num_valid + second.num_valid)


@compiled
def _merge(first: npt.NDArray[np.float32], second: npt.NDArray[np.float32], largest: npt.NDArray[np.float32]) -> None:
    """Fill largest [P, m] with the m largest of both rows of each location, [P, a] and [P, b]; all rows ascend."""
    for location in range(len(largest)):
        one, two, merged = first[location], second[location], largest[location]
        i, j = len(one) - 1, len(two) - 1
        for k in range(len(merged) - 1, -1, -1):
            if j < 0 or (i >= 0 and one[i] > two[j]):
                merged[k] = one[i]
                i -= 1
            else:
                merged[k] = two[j]
                j -= 1


def merge_all(sketches: Iterable[Sketch], size: int) -> Sketch:
    """The sketch of the images of one or more sketches. size: number of largest scores to keep"""
    return reduce(lambda first, second: merge_sketches(first, second, size), sketches)


def sketch_quantile(sketch: Sketch, alpha: float, method: Method = "exact") -> npt.NDArray[np.float32]:
    """The threshold of each location by itself, from its n valid scores (paper section 3.3.1 and Eq. 3).

    Guarantee of "exact" (Vovk, Gammerman and Shafer 2005): at each location, if labeled and new images are
    exchangeable, 1 - alpha <= P(score <= q), and P(score <= q) <= 1 - alpha + 1 / (n + 1) if the scores are distinct.

    sketch:  must have at least `sketch_size(L, alpha, method)` scores per location, or all of them
    alpha:   in (0, 1)
    method:  "exact": the `conformal_rank`-th smallest score, +inf where that rank exceeds n;
             "paper": the interpolated (1 - alpha)-quantile without finite-sample correction, bit-identical to
             np.nanquantile in float64
    returns: float32 [H, W] in [0, 1] or +inf; NaN where n = 0
    raises:  ValueError unless 0 < alpha < 1
    """
    order = order_statistics(sketch.num_valid, alpha, method)
    return order.quantile([_take_from_top(sketch, rank) for rank in order.ranks])


class Others(NamedTuple):
    """The thresholds of each location without one of its images, whatever the image.

    The r-th largest of the other scores is the (r + 1)-th largest of all if the left-out score is at least the r-th
    largest of all, and that one otherwise. So there are few possible thresholds, and comparisons choose one of them.

    scores: float32 [H, W] each, those of all images that determine the threshold, the smallest first
    q:      float32 [H, W] each, the threshold if the left-out score is at least none, the first, both of them
    """

    scores: list[npt.NDArray[np.float32]]
    q: list[npt.NDArray[np.float32]]

    @classmethod
    def of(cls, sketch: Sketch, order: "OrderStatistics") -> "Others":
        """order: of one score fewer per location. The sketch has a score more than these ranks need, or all scores."""
        scores, after = ([_take_from_top(sketch, rank + more) for rank in order.ranks] for more in (0, 1))
        return cls(scores, [order.quantile(after[:number] + scores[number:]) for number in range(len(scores) + 1)])

    def quantile(self, left_out: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """float32 [H, W], for the left-out scores of an image, float32 [H, W]; meaningless where that is NaN (void)."""
        q = self.q[0]
        for score, if_at_least in zip(self.scores, self.q[1:], strict=True):
            q = np.where(left_out >= score, if_at_least, q)
        return q


def pixel_quantile(scores: npt.NDArray[np.float32], alpha: float, method: Method = "exact") -> npt.NDArray[np.float32]:
    """`sketch_quantile` of scores in memory: float32 [L, H, W], NaN = void -> float32 [H, W].

    It works on any tile of the map, so it can be the block function of `dask.array.map_blocks(..., drop_axis=0)`.
    """
    return sketch_quantile(sketch_scores(scores, sketch_size(len(scores), alpha, method)), alpha, method)


class OrderStatistics(NamedTuple):
    """Which of the scores of each location determine its threshold, and how.

    num_valid: int [H, W], number of scores
    ranks:     one or two int [H, W], counted from the largest score: 1, 2, ...; that of the smaller score first
    combined:  scores of these ranks, float32 [H, W] each -> float32 [H, W], where there is a score
    """

    num_valid: npt.NDArray[np.integer]
    ranks: list[npt.NDArray[np.integer]]
    combined: Callable[[list[npt.NDArray[np.float32]]], npt.NDArray[np.float32]]

    def quantile(self, scores: list[npt.NDArray[np.float32]]) -> npt.NDArray[np.float32]:
        """float32 [H, W], NaN where there is no score. scores: of the ranks, float32 [H, W] each"""
        return np.where(self.num_valid > 0, self.combined(scores), np.float32(np.nan))


def order_statistics(num_valid: npt.NDArray[np.integer], alpha: float, method: Method) -> OrderStatistics:
    """The scores that `sketch_quantile` is computed from; arguments and errors as there. num_valid: int [H, W]"""
    if method == "exact":
        from_top = num_valid + 1 - conformal_rank(num_valid, alpha)
        rank = np.maximum(from_top, 1)
        return OrderStatistics(num_valid, [rank], lambda scores: np.where(from_top > 0, scores[0], np.float32(np.inf)))
    below, weight = _below(num_valid, alpha)
    above = np.minimum(below + 1, np.maximum(num_valid - 1, 0))
    ranks = [np.maximum(num_valid - index, 1) for index in (below, above)]
    return OrderStatistics(num_valid, ranks, partial(_interpolated, weight))


def largest_score(num_valid: npt.NDArray[np.integer]) -> OrderStatistics:
    """The largest score of each location. num_valid: int [H, W]"""
    return OrderStatistics(num_valid, [np.ones_like(num_valid)], lambda scores: scores[0])


def _interpolated(weight: npt.NDArray[np.float64], scores: list[npt.NDArray[np.float32]]) -> npt.NDArray[np.float32]:
    """The arithmetic of np.nanquantile, step by step, with the same rounding and so the same bits.

    NumPy interpolates from the nearer of the two scores; starting from the other would change the last bit of some
    results.

    weight: float64 [H, W], of the higher score
    scores: the lower and the higher one
    """
    low, high = (of.astype(np.float64) for of in scores)
    with np.errstate(invalid="ignore"):  # inf - inf where there is no score
        gap = high - low
        return np.where(weight < 0.5, low + gap * weight, high - gap * (1 - weight)).astype(np.float32)


def _below(n: npt.NDArray[np.integer], alpha: float) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.float64]]:
    """Index of the score below the (1 - alpha)-quantile of n ascending scores, and the weight of the next score."""
    last = np.maximum(n - 1, 0)
    rank = last * (1 - float(exact_alpha(alpha)))
    below = np.minimum(np.floor(rank).astype(np.intp), last)
    return below, rank - below


def _take_from_top(sketch: Sketch, rank: npt.NDArray[np.integer]) -> npt.NDArray[np.float32]:
    """The rank-th largest score of each location: float32 [H, W], NaN if the sketch is empty. rank: [H, W], 1..m"""
    height, width, kept = sketch.largest.shape
    if kept == 0:
        return np.full((height, width), np.nan, dtype=np.float32)
    return np.take_along_axis(sketch.largest, np.maximum(kept - rank, 0)[..., np.newaxis], axis=2)[..., 0]
