"""Tests of the mean of bounded gains by betting, and of many hypotheses in a fixed sequence.

A gambler who bets against the hypothesis "the mean gain is at most 0" cannot expect to win if it is true: from one
unit of money, the expected capital after any number of images is at most 1. A large capital is therefore evidence
against the hypothesis, and by Markov's inequality 1 / capital is a p-value. Gains that vary little from image to image
let the capital grow fast, so the test adapts to their variance.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

FRACTIONS = np.arange(1, 9) / 8  # stakes, as fractions of the largest one that cannot lose more than the capital
PRIOR = (
    FRACTIONS**4 / (FRACTIONS**4).sum()
)  # capital of each stake before the pilot images; high stakes need few images
IMAGES_AT_ONCE = 32  # images whose logarithms are held in memory together
SMALLEST = 1e-300  # stands for a capital of 0, so that sums of logarithms stay finite


class LogCapital(NamedTuple):
    """Logarithm of the capital of gamblers with fixed stakes, over pilot images and over test images.

    pilot, test: float64 [T, B], of T hypotheses and B stakes; sums over images, so those of several sets can be added
    """

    pilot: npt.NDArray[np.float64]
    test: npt.NDArray[np.float64]


def growth(gains: npt.NDArray[np.float64], largest_loss: float) -> npt.NDArray[np.float64]:
    """Factor of the capital, 1 + stake x gain, for every gain and stake; at least SMALLEST.

    gains:        float64 [n, T], each at least -largest_loss
    largest_loss: above 0
    returns:      float64 [n, T, B], B = len(FRACTIONS)
    """
    return np.maximum(1 + gains[..., np.newaxis] * (FRACTIONS / largest_loss), SMALLEST)


def log_growth(gains: npt.NDArray[np.float64], largest_loss: float) -> npt.NDArray[np.float64]:
    """Logarithm of the capital after all images, for every stake: float64 [T, B]. Arguments as of `growth`."""
    total = np.zeros((gains.shape[1], len(FRACTIONS)))
    for start in range(0, len(gains), IMAGES_AT_ONCE):
        total += np.log(growth(gains[start : start + IMAGES_AT_ONCE], largest_loss)).sum(axis=0)
    return total


def log_evidence(capital: LogCapital) -> npt.NDArray[np.float64]:
    """Logarithm of the capital on the test images, if it is divided among the stakes as the pilot images suggest.

    Each stake starts with the fraction of the capital that it has after the pilot images. For independent images of
    one distribution, this is an e-value of the hypothesis that the mean gain is at most 0: its expectation, given the
    pilot images, is at most 1 (Waudby-Smith and Ramdas 2024, "Estimating means of bounded random variables by betting",
    JRSS B 86(1), arXiv 2010.09686, section 4; a mixture of constant stakes, "diversified Kelly").

    returns: float64 [T]
    """
    after_pilot = capital.pilot + np.log(PRIOR)
    return _log_sum(after_pilot + capital.test) - _log_sum(after_pilot)


def most_promising(capital: LogCapital) -> int:
    """The hypothesis against which the capital grew most on the pilot images; the first of several equal ones."""
    return int(np.argmax(_log_sum(capital.pilot + np.log(PRIOR))))


def last_rejected(log_evidence: npt.NDArray[np.float64], first: int, error: float) -> int | None:
    """The last hypothesis that is rejected before one is not, testing `first`, `first + 1`, ... in this order.

    Fixed-sequence testing: each hypothesis is tested at the full level, until one is not rejected. If `first` does not
    depend on the tested images, the probability that any true hypothesis is rejected is at most `error`, however the
    hypotheses depend on each other (Angelopoulos, Bates, Candes, Jordan and Lei 2021, "Learn then Test", arXiv
    2110.01052, section 2.1 and proposition 4).

    log_evidence: float64 [T], logarithms of e-values
    error:        in (0, 1)
    returns:      its index, None if `first` itself is not rejected
    """
    rejected = log_evidence[first:] >= -np.log(error)
    num_rejected = len(rejected) if rejected.all() else int(np.argmin(rejected))
    return first + num_rejected - 1 if num_rejected else None


def _log_sum(logarithms: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """log of the sum of exp over the last axis."""
    largest = logarithms.max(axis=-1, keepdims=True)
    total: npt.NDArray[np.float64] = largest[..., 0] + np.log(np.exp(logarithms - largest).sum(axis=-1))
    return total
