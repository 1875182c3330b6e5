"""The threshold of every location: a conformal quantile of the scores of the labelled images at that location."""

import math
from decimal import ROUND_CEILING, Context, Decimal
from fractions import Fraction
from typing import Literal, overload

import numpy as np
import numpy.typing as npt

Method = Literal["exact", "paper"]
Policy = Literal["abstain", "accept", "max", "raise"]

TILE = 4096  # locations sorted together: their scores stay in the cache, and no second copy of all scores is made


class CalibrationError(ValueError):
    """Locations with too few labelled images for the chosen alpha."""


@overload
def conformal_rank(n: int, alpha: float) -> int: ...
@overload
def conformal_rank(n: npt.NDArray[np.integer], alpha: float) -> npt.NDArray[np.int64]: ...
def conformal_rank(n: int | npt.NDArray[np.integer], alpha: float) -> int | npt.NDArray[np.int64]:
    """Rank of the threshold among n scores: ceil((n + 1)(1 - alpha)) (paper section 2, with the bracket put right).

    Alpha is taken as the decimal number that was written: in floating point, (9 + 1) * (1 - 0.7) is above 3, and the
    rank would be one too high.

    n:       number of scores >= 0, an int or an integer array of any shape
    returns: 1..n + 1, an int or an int64 array like n; n + 1 says that n scores are too few for this alpha
    raises:  ValueError unless 0 < alpha < 1
    """
    confidence = 1 - _decimal(alpha)
    if isinstance(n, np.ndarray):
        counts, where = np.unique(n, return_inverse=True)
        table = [math.ceil((count + 1) * confidence) for count in counts.tolist()]
        return np.array(table, dtype=np.int64)[where].reshape(n.shape)
    return math.ceil((n + 1) * confidence)


def smallest_alpha(n: int) -> float:
    """The smallest alpha that n > 0 scores can calibrate: 1 / (n + 1), rounded up to four digits to be typed in."""
    return float(Context(prec=4, rounding=ROUND_CEILING).divide(Decimal(1), Decimal(n + 1)))


def num_valid(scores: npt.NDArray[np.float32]) -> npt.NDArray[np.int32]:
    """Count the scores of each location. scores: float32 [L, H, W], NaN = void; returns int32 [H, W], 0..L."""
    valid: npt.NDArray[np.int32] = np.sum(~np.isnan(scores), axis=0, dtype=np.int32)
    return valid


def largest_score(scores: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Largest score of each location. scores: float32 [L, H, W], NaN = void; returns float32 [H, W], NaN = none."""
    largest: npt.NDArray[np.float32] = np.fmax.reduce(scores, axis=0, initial=np.nan)
    return largest


def pixel_quantile(scores: npt.NDArray[np.float32], alpha: float, method: Method = "exact") -> npt.NDArray[np.float32]:
    """Calibrate each location by itself, on its n valid scores (paper section 3.3.1).

    Works on any tile of the map, so it is a block function for `dask.array.map_blocks(..., drop_axis=0)`.

    scores:  float32 [L, H, W] in [0, 1], NaN = void
    alpha:   tolerated miscoverage, between 0 and 1
    method:  "exact": the `conformal_rank`-th smallest score, +inf where that rank exceeds n;
             "paper": the (1 - alpha)-quantile, interpolated, without finite-sample correction, as np.nanquantile
             computes it in float64 (equal to the last bit, 75 times as fast at L = 92)
    returns: float32 [H, W], NaN where n = 0
    raises:  ValueError unless 0 < alpha < 1
    """
    num_images, height, width = scores.shape
    ranks = conformal_rank(np.arange(num_images + 1), alpha)
    flat = scores.reshape(num_images, height * width)
    q_hat = np.empty(height * width, dtype=np.float32)
    for start in range(0, flat.shape[1], TILE):
        tile = slice(start, start + TILE)
        ordered, n = _sorted_scores(flat[:, tile])
        found = _take(ordered, ranks[n] - 1) if method == "exact" else _linear_quantile(ordered, n, 1 - float(alpha))
        q_hat[tile] = np.where(n > 0, found, np.nan)
    return q_hat.reshape(height, width)


def resolve_uncalibrated(
    q_hat: npt.NDArray[np.float32],
    largest: npt.NDArray[np.float32],
    valid: npt.NDArray[np.int32],
    policy: Policy,
) -> npt.NDArray[np.float32]:
    """Decide on the locations whose rank exceeds n: no finite threshold keeps the promise there.

    q_hat:   float32 [H, W] of `pixel_quantile`, +inf = uncalibrated
    largest: float32 [H, W] of `largest_score`
    valid:   int32 [H, W] of `num_valid`
    policy:  "max" puts the largest score there (coverage is then n / (n + 1) only); "raise" refuses; "abstain" and
             "accept" leave +inf, upon which `calib.rules.label_pixels` acts
    returns: float32 [H, W]
    raises:  CalibrationError under "raise", if any location is uncalibrated
    """
    uncalibrated = np.isposinf(q_hat)
    if policy == "raise" and uncalibrated.any():
        raise CalibrationError(_too_few_scores(valid[uncalibrated], q_hat.size))
    return np.where(uncalibrated, largest, q_hat) if policy == "max" else q_hat


def _decimal(alpha: float) -> Fraction:
    exact = Fraction(str(alpha))
    if not 0 < exact < 1:
        raise ValueError(f"alpha must lie between 0 and 1, got {alpha}")
    return exact


def _sorted_scores(scores: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.intp]]:
    """Sort [L, T] into [T, L + 1] and count the n valid scores of each row.

    One +inf is added to a row. It sorts behind the scores and before NaN, so rank n + 1 exists: "no threshold".
    """
    num_images, num_locations = scores.shape
    ordered = np.full((num_locations, num_images + 1), np.inf, dtype=np.float32)
    ordered[:, :num_images] = scores.T
    ordered.sort(axis=1)
    return ordered, num_images - np.count_nonzero(np.isnan(ordered), axis=1)


def _linear_quantile(
    ordered: npt.NDArray[np.float32], n: npt.NDArray[np.intp], level: float
) -> npt.NDArray[np.float64]:
    """np.nanquantile's arithmetic, step by step, for rows that are sorted: the same roundings, hence the same bits.

    NumPy interpolates from the nearer of the two scores; from the other one, some results differ in the last bit.
    """
    last = np.maximum(n - 1, 0)
    position = last * level
    below = np.minimum(np.floor(position).astype(np.intp), last)
    weight = position - below
    low = _take(ordered, below).astype(np.float64)
    high = _take(ordered, np.minimum(below + 1, last)).astype(np.float64)
    with np.errstate(invalid="ignore"):  # inf - inf where n = 0
        gap = high - low
    return np.where(weight < 0.5, low + gap * weight, high - gap * (1 - weight))


def _take(ordered: npt.NDArray[np.float32], position: npt.NDArray[np.integer]) -> npt.NDArray[np.float32]:
    return np.take_along_axis(ordered, position[:, np.newaxis], axis=1)[:, 0]


def _too_few_scores(valid: npt.NDArray[np.int32], num_locations: int) -> str:
    fewest, most = int(valid.min()), int(valid.max())
    return (
        f"alpha is too small for {valid.size} of {num_locations} locations, which have {fewest} to {most} valid scores:"
        f" the smallest alpha that calibrates all of them is {smallest_alpha(fewest)};"
        " raise alpha, label more images, or let such locations abstain"
    )
