"""Conformal ranks in exact arithmetic, and policies for thresholds with too few scores."""

import functools
import math
from decimal import ROUND_CEILING, Context, Decimal
from fractions import Fraction
from typing import Literal, overload

import numpy as np
import numpy.typing as npt

Method = Literal["exact", "paper"]
Policy = Literal["abstain", "accept", "max", "raise"]


class CalibrationError(ValueError):
    """Too few labeled images for the chosen alpha."""


@overload
def conformal_rank(n: int, alpha: float) -> int: ...
@overload
def conformal_rank(n: npt.NDArray[np.integer], alpha: float) -> npt.NDArray[np.int64]: ...
def conformal_rank(n: int | npt.NDArray[np.integer], alpha: float) -> int | npt.NDArray[np.int64]:
    """Rank of the threshold among n ascending scores: ceil((n + 1)(1 - alpha)) (paper section 2, brackets corrected).

    The threshold is the m-th largest score with m = n + 1 - rank = floor((n + 1) alpha), so the m largest scores are
    enough to compute it.

    n:       number of scores >= 0, an int or an integer array of any shape
    alpha:   in (0, 1)
    returns: 1..n + 1, an int or an int64 array of the shape of n; n + 1 means that n scores are too few for this alpha
    raises:  ValueError unless 0 < alpha < 1
    """
    coverage = 1 - exact_alpha(alpha)
    if isinstance(n, np.ndarray):
        counts, inverse = np.unique(n, return_inverse=True)
        table = [math.ceil((count + 1) * coverage) for count in counts.tolist()]
        return np.array(table, dtype=np.int64)[inverse].reshape(n.shape)
    return math.ceil((n + 1) * coverage)


def smallest_alpha(n: int) -> float:
    """The smallest alpha that n > 0 scores can calibrate: 1 / (n + 1), rounded up to four significant digits."""
    return float(Context(prec=4, rounding=ROUND_CEILING).divide(Decimal(1), Decimal(n + 1)))


@functools.cache
def exact_alpha(alpha: float) -> Fraction:
    """Alpha as the exact decimal number that was written; ValueError unless 0 < alpha < 1.

    In floating point (9 + 1) * (1 - 0.7) is above 3, so the rank would be one too high.
    """
    exact = Fraction(str(alpha))
    if not 0 < exact < 1:
        raise ValueError(f"alpha must be between 0 and 1, got {alpha}")
    return exact


def resolve_uncalibrated(
    q_hat: npt.NDArray[np.float32],
    largest: npt.NDArray[np.float32],
    num_images: npt.NDArray[np.integer],
    policy: Policy,
) -> npt.NDArray[np.float32]:
    """Apply a policy to the thresholds whose rank exceeds n, where no finite threshold has the guarantee.

    q_hat:      float32 of any shape, +inf = uncalibrated
    largest:    float32 that broadcasts to q_hat, the largest score
    num_images: integer that broadcasts to q_hat, number of labeled images that the threshold is computed from
    policy:     "max": use the largest score, whose coverage is only n / (n + 1). "raise": raise an error. "abstain" and
                "accept": keep +inf, which `calib.labels.label_pixels` handles
    returns:    float32 of the shape of q_hat
    raises:     CalibrationError with "raise", if any threshold is uncalibrated
    """
    uncalibrated = np.isposinf(q_hat)
    if policy == "raise" and uncalibrated.any():
        raise CalibrationError(_too_few_images(np.broadcast_to(num_images, q_hat.shape)[uncalibrated], q_hat.size))
    return np.where(uncalibrated, largest, q_hat) if policy == "max" else q_hat


def _too_few_images(num_images: npt.NDArray[np.integer], num_thresholds: int) -> str:
    fewest, most = int(num_images.min()), int(num_images.max())
    return (
        f"alpha is too small for {num_images.size} of {num_thresholds} thresholds, which have {fewest} to {most} valid"
        f" labeled images: the smallest alpha that calibrates all of them is {smallest_alpha(fewest)};"
        " raise alpha, label more images, or set calibrate.uncalibrated: abstain"
    )
