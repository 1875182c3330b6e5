"""Thresholds of groups of pixels, from histograms of their scores that merge image by image.

A group pools all pixels of a region of the map, of a class, or of a class in a region. Its pixels are far from
independent: those of one image share the image. So the unit is the image: each image's scores of the group weigh 1 in
sum, whatever their number (hierarchical conformal prediction: Dunn, Wasserman and Ramdas 2018, arXiv 1809.07441; Lee,
Barber and Willett 2023, arXiv 2306.06342).

Thresholds are looked for on a grid of 20 481 numbers, float32 with ten bits of mantissa between 2^-20 and 1. A
threshold is the smallest of them that keeps the promise: never below the exact one, at most 0.1 % (or 2^-20) above it.
For that, one histogram an image is enough, held in integers: the result is the same for any order and division of the
images.
"""

import math
from fractions import Fraction
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from calib.quantile import Method, conformal_rank, exact_alpha

Pooling = Literal["hierarchical", "naive"]

DROPPED_BITS = 13  # of float32's 23 bits of mantissa
FIRST = int(np.float32(2.0**-20).view(np.uint32)) >> DROPPED_BITS
NUM_BINS = (int(np.float32(1).view(np.uint32)) >> DROPPED_BITS) - FIRST + 1
UNIT = 1 << 48  # weight of an image: shares of it are integers, so sums are exact, up to 32 768 images

KEEP_NOTHING = np.float32(-1)  # below every score


class Taxonomy(NamedTuple):
    """Which group a pixel belongs to (a Mondrian taxonomy: Vovk, Gammerman and Shafer 2005, section 4.5).

    region:   int32 [H, W], 0..R - 1
    group_of: int32 [R, K], group of a class in a region, 0..G - 1, -1 = in no group; [R, 1]: the same for all classes
    """

    region: npt.NDArray[np.int32]
    group_of: npt.NDArray[np.int32]

    @property
    def num_groups(self) -> int:
        return int(self.group_of.max()) + 1


class Histogram(NamedTuple):
    """The scores of every group, of any number of images.

    weight:     int64 [G, NUM_BINS], by the smallest number of the grid that is not below the score; hierarchical:
                shares of the image's pixels of the group, in UNITs; naive: pixels
    num_images: int64 [G], images that have pixels of the group
    num_pixels: int64 [G]
    """

    weight: npt.NDArray[np.int64]
    num_images: npt.NDArray[np.int64]
    num_pixels: npt.NDArray[np.int64]


def grid_values(bins: npt.NDArray[np.integer]) -> npt.NDArray[np.float32]:
    """The numbers of the grid: float32 in [2^-20, 1] of bins 0..NUM_BINS - 1."""
    return ((bins.astype(np.uint32) + np.uint32(FIRST)) << np.uint32(DROPPED_BITS)).view(np.float32)


def grid_value(position: int) -> np.float32:
    """The number of one bin."""
    return np.float32(grid_values(np.array([position]))[0])


def grid_bins(scores: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
    """Bin of the smallest number of the grid that is not below a score in [0, 1]; no score may be NaN."""
    bits = np.clip(scores, grid_value(0), np.float32(1)).view(np.uint32)
    return ((bits + np.uint32((1 << DROPPED_BITS) - 1)) >> np.uint32(DROPPED_BITS)).astype(np.int64) - FIRST


def empty_histogram(num_groups: int) -> Histogram:
    """The histogram of no image."""
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
    truth: uint8 [H, W], true class where the score is not NaN
    """
    valid = ~np.isnan(score)
    group = taxonomy.group_of[taxonomy.region[valid], truth[valid] if taxonomy.group_of.shape[1] > 1 else 0]
    inside = group >= 0
    group = group[inside]
    num_pixels = np.bincount(group, minlength=taxonomy.num_groups)
    pixel_weight = 1 if pooling == "naive" else _unit_share(num_pixels)[group]
    np.add.at(histogram.weight, (group, grid_bins(score[valid][inside])), pixel_weight)
    histogram.num_images[:] += num_pixels > 0
    histogram.num_pixels[:] += num_pixels


def merge_histograms(first: Histogram, second: Histogram) -> Histogram:
    """The histogram of the images of both."""
    return Histogram(*(a + b for a, b in zip(first, second, strict=True)))


def group_quantile(histogram: Histogram, alpha: float, method: Method, pooling: Pooling) -> npt.NDArray[np.float32]:
    """Threshold of every group.

    Guarantee of hierarchical pooling, "exact" (Lee, Barber and Willett 2023): for labeled and new images that are
    exchangeable, a random pixel of the group in a new image is covered with probability at least 1 - alpha: with L
    images, the shares of their pixels above q sum to at most (L + 1) alpha - 1. Naive pooling takes the pixels
    themselves as exchangeable, which they are not: it covers somewhat less than it says.

    method:  "paper" leaves out the finite-sample correction
    returns: float32 [G]; +inf where (L + 1) alpha < 1 (naive: L = number of pixels); NaN where L = 0
    """
    q_hat = np.full(len(histogram.weight), np.nan, dtype=np.float32)
    for group in np.flatnonzero(histogram.num_images):
        num_images, num_pixels = int(histogram.num_images[group]), int(histogram.num_pixels[group])
        allowed = _allowed_above(num_images if pooling == "hierarchical" else num_pixels, alpha, method, pooling)
        if allowed < 0:
            q_hat[group] = np.inf
            continue
        bound = _in_units(allowed, num_pixels) if pooling == "hierarchical" else math.floor(allowed)
        weight = histogram.weight[group]
        at_or_above = weight[::-1].cumsum()  # of the top 1, 2, ... numbers of the grid
        num_above = int(np.searchsorted(at_or_above, bound, side="right"))
        q_hat[group] = grid_value(max(NUM_BINS - 1 - num_above, 0))
    return q_hat


def largest_in_group(histogram: Histogram) -> npt.NDArray[np.float32]:
    """The largest score of every group, rounded up to the grid. Returns float32 [G], NaN where there is none."""
    largest = grid_values(NUM_BINS - 1 - np.argmax(histogram.weight[:, ::-1] > 0, axis=1))
    return np.where(histogram.num_images > 0, largest, np.float32(np.nan))


class Errors(NamedTuple):
    """How much is labeled and wrong at every number of the grid, over any number of images.

    weight:     int64 [NUM_BINS], shares of an image's pixels that are wrong from this threshold on, in UNITs
    num_images: images with a pixel that has a true class
    num_pixels: pixels that have a true class
    """

    weight: npt.NDArray[np.int64]
    num_images: int
    num_pixels: int


def image_errors(
    score: npt.NDArray[np.float32], is_wrong: npt.NDArray[np.bool_], valid: npt.NDArray[np.bool_]
) -> Errors:
    """Errors of one image.

    score:    float32 [H, W], 1 - P of the class that a pixel would be labeled with
    is_wrong: bool [H, W], that class is not the true one
    valid:    bool [H, W], the pixel has a true class
    """
    num_valid = np.array([np.count_nonzero(valid)])
    wrong = np.bincount(grid_bins(score[valid & is_wrong]), minlength=NUM_BINS)
    return Errors(wrong * _unit_share(num_valid), int(num_valid[0] > 0), int(num_valid[0]))


def merge_errors(first: Errors, second: Errors) -> Errors:
    """Errors of the images of both."""
    return Errors(
        first.weight + second.weight, first.num_images + second.num_images, first.num_pixels + second.num_pixels
    )


def risk_threshold(errors: Errors, alpha: float) -> np.float32:
    """The largest threshold whose labels are wrong on at most alpha of a new image's pixels, in expectation.

    Conformal risk control (Angelopoulos, Bates, Fisch, Lei and Schuster 2022, arXiv 2208.02814): the loss of an image,
    the share of its pixels that are labeled and wrong, never falls as the threshold rises, so the largest threshold
    with (sum of the losses + 1) / (L + 1) <= alpha keeps E[loss] <= alpha for exchangeable images. Pixels of an image
    may depend on each other in any way.

    returns: a number of the grid; +inf if (L + 1) alpha < 1, that is if no threshold can keep the promise;
             KEEP_NOTHING if only labeling nothing can
    """
    allowed = _allowed_above(errors.num_images, alpha, "exact", "hierarchical")
    if allowed < 0:
        return np.float32(np.inf)
    bound = _in_units(allowed, errors.num_pixels)
    position = int(np.searchsorted(errors.weight.cumsum(), bound, side="right")) - 1
    return KEEP_NOTHING if position < 0 else grid_value(position)


def _allowed_above(n: int, alpha: float, method: Method, pooling: Pooling) -> Fraction:
    """How much may lie above the threshold: images' shares or, under naive pooling, pixels; negative: none will do."""
    if method == "paper":
        return n * exact_alpha(alpha)
    if pooling == "naive":
        return Fraction(n - conformal_rank(n, alpha))
    return (n + 1) * exact_alpha(alpha) - 1


def _unit_share(num_pixels: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Weight of one of an image's num_pixels, to the nearest integer: off by half a UNIT's 2^-48 at most."""
    return np.rint(UNIT / np.maximum(num_pixels, 1)).astype(np.int64)


def _in_units(shares: Fraction, num_pixels: int) -> int:
    """Shares in UNITs; the rounding of the pixels' weights must not decide."""
    return math.floor(shares * UNIT) + num_pixels // 2 + 1
