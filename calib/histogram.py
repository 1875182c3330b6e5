"""Thresholds of groups of pixels, computed from histograms of their scores that can be merged over images.

A group contains all pixels of a region of the map, of a class, or of a class in a region. The pixels of one image are
not independent. So the image is the unit: the scores of an image in a group have a total weight of 1, whatever their
number (hierarchical conformal prediction: Dunn, Wasserman and Ramdas 2018, arXiv 1809.07441; Lee, Barber and Willett
2023, arXiv 2306.06342).

Thresholds are taken from a grid of 20 481 numbers, the float32 numbers with ten bits of mantissa between 2^-20 and 1. A
threshold is the smallest grid number that satisfies the guarantee: never below the exact threshold, and at most 0.1 %
(or 2^-20) above it. That needs one histogram of integers per image, so the result does not depend on the order of the
images or on how they are divided among workers.
"""

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from calib.quantile import Method, conformal_rank, exact_alpha

Pooling = Literal["hierarchical", "naive"]

DROPPED_BITS = 13  # of float32's 23 bits of mantissa
SMALLEST = np.float32(2.0**-20)  # grid number
FIRST = int(SMALLEST.view(np.uint32)) >> DROPPED_BITS
NUM_BINS = (int(np.float32(1).view(np.uint32)) >> DROPPED_BITS) - FIRST + 1
UNIT = 1 << 48  # weight of an image; fractions of it are integers, so sums are exact for up to 32 768 images

KEEP_NOTHING = np.float32(-1)  # a threshold below every score


class Taxonomy(NamedTuple):
    """The group of each pixel (a Mondrian taxonomy: Vovk, Gammerman and Shafer 2005, section 4.5).

    region:   int32 [H, W], 0..R - 1
    group_of: int32 [R, K], group of each class in each region, 0..G - 1, -1 = no group; or [R, 1], for all classes
    """

    region: npt.NDArray[np.int32]
    group_of: npt.NDArray[np.int32]

    @property
    def num_groups(self) -> int:
        return int(self.group_of.max()) + 1


class Histogram(NamedTuple):
    """Histograms of the scores of every group, over any number of images.

    weight:     int64 [G, NUM_BINS], by the smallest grid number that is not below the score. Hierarchical pooling:
                fractions of the image's pixels in the group, in UNITs; naive pooling: numbers of pixels
    num_images: int64 [G], number of images that have pixels in the group
    num_pixels: int64 [G], number of pixels in the group
    """

    weight: npt.NDArray[np.int64]
    num_images: npt.NDArray[np.int64]
    num_pixels: npt.NDArray[np.int64]


def grid_values(bins: npt.NDArray[np.integer]) -> npt.NDArray[np.float32]:
    """The grid numbers of some bins, each in 0..NUM_BINS - 1: float32 in [2^-20, 1], of the same shape."""
    return ((bins.astype(np.uint32) + np.uint32(FIRST)) << np.uint32(DROPPED_BITS)).view(np.float32)


def grid_value(number: int) -> np.float32:
    """The grid number of one bin, 0..NUM_BINS - 1."""
    return np.float32(grid_values(np.array([number]))[0])


def grid_bins(scores: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
    """The bin of the smallest grid number that is not below the score.

    scores:  float32 in [0, 1], without NaN
    returns: int64 of the same shape, 0..NUM_BINS - 1
    """
    bits = np.clip(scores, SMALLEST, np.float32(1)).view(np.uint32)
    return ((bits + np.uint32((1 << DROPPED_BITS) - 1)) >> np.uint32(DROPPED_BITS)).astype(np.int64) - FIRST


def empty_histogram(num_groups: int) -> Histogram:
    """The histogram of no images."""
    return Histogram(np.zeros((num_groups, NUM_BINS), np.int64), *np.zeros((2, num_groups), np.int64))


def add_image(
    histogram: Histogram,
    score: npt.NDArray[np.float32],
    truth: npt.NDArray[np.uint8],
    taxonomy: Taxonomy,
    pooling: Pooling,
) -> None:
    """Add one image to a histogram, in place.

    score: float32 [H, W] in [0, 1], NaN = void
    truth: uint8 [H, W], true class; only used where the score is not NaN
    """
    valid = ~np.isnan(score)
    group = taxonomy.group_of[taxonomy.region[valid], truth[valid] if taxonomy.group_of.shape[1] > 1 else 0]
    inside = group >= 0
    group = group[inside]
    num_pixels = np.bincount(group, minlength=taxonomy.num_groups)
    pixel_weight = 1 if pooling == "naive" else _weight_of_pixel(num_pixels)[group]
    np.add.at(histogram.weight, (group, grid_bins(score[valid][inside])), pixel_weight)
    histogram.num_images[:] += num_pixels > 0
    histogram.num_pixels[:] += num_pixels


def merge_histograms(first: Histogram, second: Histogram) -> Histogram:
    """The histogram of the images of both histograms."""
    return Histogram(*(a + b for a, b in zip(first, second, strict=True)))


def group_quantiles(
    histogram: Histogram, alphas: Sequence[float], method: Method, pooling: Pooling
) -> npt.NDArray[np.float32]:
    """The threshold of every group at every alpha.

    Guarantee of hierarchical pooling with method "exact" (Lee, Barber and Willett 2023): if labeled and new images are
    exchangeable, a random pixel of the group in a new image is covered with probability at least 1 - alpha. With L
    images, the fractions of their pixels above the threshold sum to at most (L + 1) alpha - 1. Naive pooling treats the
    pixels as exchangeable, which they are not; its coverage is somewhat below 1 - alpha.

    alphas:  A numbers in (0, 1)
    method:  "exact", or "paper" without the finite-sample correction
    returns: float32 [A, G] in [2^-20, 1]; +inf where (L + 1) alpha < 1 (naive: L = number of pixels); NaN where L = 0
    raises:  ValueError unless 0 < alpha < 1
    """
    q_hat = np.full((len(alphas), len(histogram.weight)), np.nan, dtype=np.float32)
    for group in np.flatnonzero(histogram.num_images):
        num_images, num_pixels = int(histogram.num_images[group]), int(histogram.num_pixels[group])
        n = num_images if pooling == "hierarchical" else num_pixels
        allowed = [allowed_above(n, alpha, method, pooling) for alpha in alphas]
        bounds = [_in_units(one, num_pixels) if pooling == "hierarchical" else math.floor(one) for one in allowed]
        at_or_above = histogram.weight[group][::-1].cumsum()  # weight of the largest 1, 2, ... grid numbers
        num_above = np.searchsorted(at_or_above, bounds, side="right")
        finite = grid_values(np.maximum(NUM_BINS - 1 - num_above, 0))
        q_hat[:, group] = np.where([one < 0 for one in allowed], np.float32(np.inf), finite)
    return q_hat


def largest_in_group(histogram: Histogram) -> npt.NDArray[np.float32]:
    """The largest score of every group, rounded up to the grid: float32 [G], NaN for a group without scores."""
    largest = grid_values(NUM_BINS - 1 - np.argmax(histogram.weight[:, ::-1] > 0, axis=1))
    return np.where(histogram.num_images > 0, largest, np.float32(np.nan))


class Errors(NamedTuple):
    """Wrong labels by threshold, over any number of images.

    weight:     int64 [NUM_BINS], sum over the images of the fraction of pixels that become labeled and wrong when the
                threshold reaches this grid number, in UNITs
    num_images: number of images with a pixel that has a true class
    num_pixels: number of pixels that have a true class
    """

    weight: npt.NDArray[np.int64]
    num_images: int
    num_pixels: int


def image_errors(
    score: npt.NDArray[np.float32], is_wrong: npt.NDArray[np.bool_], valid: npt.NDArray[np.bool_]
) -> Errors:
    """The errors of one image.

    score:    float32 [H, W] in [0, 1], 1 - P(class that the pixel would be labeled with)
    is_wrong: bool [H, W], whether that class differs from the true class
    valid:    bool [H, W], whether the pixel has a true class
    """
    num_valid = np.array([np.count_nonzero(valid)])
    wrong = np.bincount(grid_bins(score[valid & is_wrong]), minlength=NUM_BINS)
    return Errors(wrong * _weight_of_pixel(num_valid), int(num_valid[0] > 0), int(num_valid[0]))


def merge_errors(first: Errors, second: Errors) -> Errors:
    """The errors of the images of both."""
    return Errors(
        first.weight + second.weight, first.num_images + second.num_images, first.num_pixels + second.num_pixels
    )


def risk_threshold(errors: Errors, alpha: float) -> np.float32:
    """The largest threshold at which the expected fraction of wrong labels in a new image is at most alpha.

    Conformal risk control (Angelopoulos, Bates, Fisch, Lei and Schuster 2022, arXiv 2208.02814). The loss of an image
    is the fraction of its pixels that are labeled and wrong. It never falls as the threshold rises, so the largest
    threshold with (sum of the losses + 1) / (L + 1) <= alpha has E[loss] <= alpha for exchangeable images. The pixels
    of an image may depend on each other in any way.

    alpha:   in (0, 1)
    returns: a grid number; +inf if (L + 1) alpha < 1, where no threshold has the guarantee; KEEP_NOTHING if only
             labeling no pixel has it
    raises:  ValueError unless 0 < alpha < 1
    """
    allowed = allowed_above(errors.num_images, alpha, "exact", "hierarchical")
    if allowed < 0:
        return np.float32(np.inf)
    bound = _in_units(allowed, errors.num_pixels)
    number = int(np.searchsorted(errors.weight.cumsum(), bound, side="right")) - 1
    return KEEP_NOTHING if number < 0 else grid_value(number)


def allowed_above(n: int, alpha: float, method: Method, pooling: Pooling) -> Fraction:
    """How much may lie above the threshold: a sum of fractions of images or, with naive pooling, a number of pixels.

    n:       number of images, or of pixels with naive pooling
    returns: negative if no threshold has the guarantee
    """
    if method == "paper":
        return n * exact_alpha(alpha)
    if pooling == "naive":
        return Fraction(n - conformal_rank(n, alpha))
    return (n + 1) * exact_alpha(alpha) - 1


def _weight_of_pixel(num_pixels: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The weight of one of `num_pixels` pixels of an image, UNIT / num_pixels rounded to an integer."""
    return np.rint(UNIT / np.maximum(num_pixels, 1)).astype(np.int64)


def _in_units(fractions: Fraction, num_pixels: int) -> int:
    """A sum of fractions in UNITs, plus the largest possible sum of the rounding errors of the pixels' weights."""
    return math.floor(fractions * UNIT) + num_pixels // 2 + 1
