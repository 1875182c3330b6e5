"""Fractions of the pixels of all images, and their differences, with intervals from resampling images.

The pixels of an image are not independent, and neither are the images of a unit (`calib.units`), so every interval
comes from resampling whole units.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from calib.units import bootstrap_weights, each_alone

NUM_RESAMPLES = 2000  # the ends of an interval then vary by 1.6 % of its width (sd) from seed to seed


class Estimate(NamedTuple):
    """Fractions over all images, in [0, 1], or differences of two; float64 arrays of one shape, NaN where undefined.

    value:     over all images together
    low, high: ends of the 95 % bootstrap interval over units, by default images
    """

    value: npt.NDArray[np.float64]
    low: npt.NDArray[np.float64]
    high: npt.NDArray[np.float64]


Resampled = tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]
"""A number over all images, [...], and in each bootstrap sample, [NUM_RESAMPLES, ...]."""


def estimate(numerator: npt.ArrayLike, denominator: npt.ArrayLike, weights: npt.NDArray[np.float64]) -> Estimate:
    """The sum of the numerators over the sum of the denominators, with its interval.

    numerator, denominator: counts [L, ...] by image, broadcast to each other
    weights:                float64 [NUM_RESAMPLES, L], how often each bootstrap sample has an image
    returns:                [...] each; NaN where the sum of the denominators is 0
    """
    return interval(*resampled_fraction(numerator, denominator, weights))


def compare_with_first(
    numerator: npt.NDArray[np.integer],
    denominator: npt.NDArray[np.integer],
    rng: np.random.Generator,
    unit_of_image: npt.NDArray[np.integer] | None = None,
) -> tuple[Estimate, Estimate]:
    """Fractions of several alternatives, and their differences to the first one, paired by unit: [V] each.

    numerator, denominator: counts [L, V] by image and alternative
    rng:                    draws the bootstrap samples
    unit_of_image:          integer [L]; default: each image is its own unit
    """
    units = each_alone(len(numerator)) if unit_of_image is None else unit_of_image
    weights = bootstrap_weights(units, NUM_RESAMPLES, rng)
    value, resampled = resampled_fraction(numerator, denominator, weights)
    first = value[:1], resampled[:, :1]
    return interval(value, resampled), interval(*difference_of((value, resampled), first))


def compare_miou(
    first: tuple[float, npt.NDArray[np.float64]], second: tuple[float, npt.NDArray[np.float64]]
) -> tuple[Estimate, float]:
    """The mIoU of some labels minus that of others, and the fraction of the bootstrap samples in which it is above 0.

    first, second: mIoU over all images, and float64 [NUM_RESAMPLES] in the same bootstrap samples
    returns:       [] each; a difference of 0 counts one half
    """
    pair = [(np.array(value), samples) for value, samples in (first, second)]
    difference = difference_of(*pair)
    return interval(*difference), float(fraction_above_zero(*difference))


def resampled_fraction(
    numerator: npt.ArrayLike, denominator: npt.ArrayLike, weights: npt.NDArray[np.float64]
) -> Resampled:
    """The sum of the numerators over the sum of the denominators; arguments as in `estimate`."""
    counts = [np.asarray(count, np.float64) for count in (numerator, denominator)]
    # summed before they are broadcast: a denominator is often the same for all alphas and rules
    total = np.broadcast_arrays(*(count.sum(axis=0) for count in counts))
    resampled = np.broadcast_arrays(*(np.tensordot(weights, count, axes=1) for count in counts))
    return fraction_of(*total), fraction_of(*resampled)


def interval(value: npt.NDArray[np.float64], resampled: npt.NDArray[np.float64]) -> Estimate:
    """The 95 % percentile interval of each number; arguments as in `Resampled`. Undefined samples do not count."""
    ordered = np.sort(np.moveaxis(resampled, 0, -1), axis=-1)  # NaN comes last
    num_defined = (~np.isnan(ordered)).sum(axis=-1)
    ends = (_quantile(ordered, num_defined, probability) for probability in (0.025, 0.975))
    is_undefined = np.isnan(value)
    return Estimate(value, *(np.where(is_undefined, np.nan, end) for end in ends))


def _quantile(
    ordered: npt.NDArray[np.float64], num_defined: npt.NDArray[np.integer], probability: float
) -> npt.NDArray[np.float64]:
    """Interpolated quantile of the first `num_defined` values along the last axis; np.nanquantile takes far longer."""
    rank = probability * np.maximum(num_defined - 1, 0)
    below = np.floor(rank).astype(np.intp)
    above = np.minimum(below + 1, np.maximum(num_defined - 1, 0))
    lower, upper = (np.take_along_axis(ordered, index[..., None], axis=-1)[..., 0] for index in (below, above))
    result: npt.NDArray[np.float64] = lower + (rank - below) * (upper - lower)
    return result


def difference_of(first: Resampled, second: Resampled) -> Resampled:
    """The first minus the second, over all images and in each bootstrap sample."""
    return first[0] - second[0], first[1] - second[1]


def fraction_above_zero(value: npt.NDArray[np.float64], resampled: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Fraction of the defined samples above zero, where zero counts one half; NaN where the value is undefined."""
    num_defined = (~np.isnan(resampled)).sum(axis=0)
    fraction = fraction_of((resampled > 0).sum(axis=0) + (resampled == 0).sum(axis=0) / 2, num_defined)
    return np.where(np.isnan(value), np.nan, fraction)


def fraction_of(numerator: npt.NDArray[np.number], denominator: npt.NDArray[np.number]) -> npt.NDArray[np.float64]:
    """numerator / denominator, NaN where the denominator is 0."""
    fraction = np.full(np.shape(denominator), np.nan)
    np.divide(numerator, denominator, out=fraction, where=denominator > 0)
    return fraction
