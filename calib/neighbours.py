"""Thresholds of every location from the scores around it, weighted by their distance.

With few images, the thresholds of neighbouring locations differ by chance, and the shapes of the labeled objects appear
in the labels of other images. Here a location also counts the scores around it.

The map is divided into square cells, a quarter of the bandwidth wide, whose locations share a threshold. A pixel counts
at a cell with a weight that falls with the distance of the two cells, as a Gaussian with the bandwidth as its standard
deviation. The weights of an image add up to 1 at every cell, so that the image is the unit (as in `calib.histogram`).

Weights are integers, and histograms of the scores of whole cells are multiplied by them: all sums are exact, so the
result depends neither on the order of the images nor on how they are divided among workers. Thresholds are taken from
every eighth number of the grid of `calib.histogram`: never below the exact threshold, and at most 0.8 % (or 2^-20)
above it.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from calib import regions
from calib.histogram import NUM_BINS, allowed_above, grid_bins, grid_values
from calib.interface import Block, LabeledMaps, Thresholds, Variant
from calib.quantile import Method

CELLS_PER_BANDWIDTH = 4
CENTRAL_WEIGHT = 1 << 10  # of a cell's pixels at this cell; weights are rounded, so a kernel ends at 3.9 bandwidths
GRID_STEP = 8  # grid numbers from one candidate threshold to the next
CANDIDATES = np.arange((NUM_BINS - 1) % GRID_STEP, NUM_BINS, GRID_STEP)
UNIT = 1 << 32  # weight of an image; fractions of it are rounded up to integers

Floats = npt.NDArray[np.float64]


class Cells(NamedTuple):
    """Square cells of a map, and the weights that their pixels have at each other.

    side:    number of locations along a side; cells at the right and lower edge may be smaller
    rows:    float64 [Y, Y] of integers, weights between rows of cells
    columns: float64 [X, X] of integers; the weight of two cells is the product of both
    """

    side: int
    rows: Floats
    columns: Floats


class Above(NamedTuple):
    """Scores around some cells, over any number of images.

    fraction:   int64 [..., y, X, T], sum over the images of the weighted fraction of the pixels whose score is above
                the candidate before each candidate (for the first: of all pixels), in UNITs
    num_images: int64 [..., y, X], number of images that have pixels there
    """

    fraction: npt.NDArray[np.int64]
    num_images: npt.NDArray[np.int64]


def make_cells(shape: tuple[int, int], bandwidth: float) -> Cells:
    """The cells of a map, and their weights.

    shape:     (H, W)
    bandwidth: standard deviation of the kernel, as a fraction of H, above 0; inf: all pixels count the same
    """
    height, width = shape
    side = int(min(max(1, bandwidth * height / CELLS_PER_BANDWIDTH), height))
    return Cells(side, *(_weights(-(-length // side), side / (bandwidth * height)) for length in (height, width)))


def _weights(num_cells: int, step: float) -> Floats:
    """Weights between cells in a row: float64 [num_cells, num_cells]. step: their distance, in bandwidths"""
    distance = np.subtract.outer(np.arange(num_cells), np.arange(num_cells)) * step
    weights: Floats = np.rint(CENTRAL_WEIGHT * np.exp(-(distance**2) / 2))
    return weights


def fit_kernel(variant: Variant, labeled: LabeledMaps, fold_of_image: npt.NDArray[np.integer]) -> list[Thresholds]:
    """Fit of variant kernel: arguments and result as `calib.fit`.

    Guarantee of "exact": if labeled and new images are exchangeable, then at each cell, a pixel of a new image that is
    drawn with the weights of the kernel (among the pixels that have a class) is covered with probability at least
    1 - alpha. The proof is that of hierarchical conformal prediction (Lee, Barber and Willett 2023, arXiv 2306.06342),
    with these weights as the distribution over the pixels of an image. Scores are weighted by their distance as in
    localized conformal prediction (Guan 2023, Biometrika 110(1), arXiv 2106.08460); the locations are fixed, so the
    coverage needs no further correction. It is an average over the surroundings: at the location itself, coverage may
    be lower. Only variant pixel, the limit of small bandwidths, guarantees it at each location. The limit of large
    bandwidths is variant image.
    """
    cells = make_cells(labeled.shape, variant.bandwidth)
    num_folds = int(fold_of_image.max()) + 1
    bands = [_fit_band(variant, labeled, fold_of_image, cells, band) for band in _bands(labeled, cells, num_folds)]
    region = regions.cells(labeled.shape, cells.side)
    return [
        Thresholds(
            region,
            np.concatenate([band.q for band in fit], axis=1).reshape(len(variant.alphas), 1, -1),
            np.concatenate([band.num_images for band in fit]).reshape(1, -1),
            np.concatenate([band.largest for band in fit]).reshape(1, -1),
        )
        for fit in zip(*bands, strict=True)
    ]


def _bands(labeled: LabeledMaps, cells: Cells, num_folds: int) -> Iterator[slice]:
    """Bands of rows of cells that together cover the map, each as high as memory allows."""
    bytes_per_cell = 8 * len(CANDIDATES) * (num_folds + 1)
    for rows in labeled.bands(-(-bytes_per_cell * len(cells.columns) // cells.side)):
        first, last = (-(-row // cells.side) for row in (rows.start, rows.stop))
        if first < last:
            yield slice(first, last)


class BandThresholds(NamedTuple):
    """Thresholds of y rows of cells. q: float32 [A, y, X]; num_images: int64 [y, X]; largest: float32 [y, X]"""

    q: npt.NDArray[np.float32]
    num_images: npt.NDArray[np.int64]
    largest: npt.NDArray[np.float32]


def _fit_band(
    variant: Variant, labeled: LabeledMaps, fold_of_image: npt.NDArray[np.integer], cells: Cells, band: slice
) -> list[BandThresholds]:
    reached = np.flatnonzero(cells.rows[band].any(axis=0))
    near = cells._replace(rows=cells.rows[band, reached[0] : reached[-1] + 1])
    rows = slice(reached[0] * cells.side, min((reached[-1] + 1) * cells.side, labeled.shape[0]))
    by_fold = labeled.reduce(("score",), partial(_sum_block, near, fold_of_image), _add, rows)
    total = Above(*(sums.sum(axis=0) for sums in by_fold))
    folds = [Above(*sums) for sums in zip(*by_fold, strict=True)] if len(by_fold.num_images) > 1 else []
    others = (Above(*(whole - held_out for whole, held_out in zip(total, fold, strict=True))) for fold in folds)
    return [_thresholds(above, variant.alphas, variant.quantile) for above in (total, *others)]


def _add(first: Above, second: Above) -> Above:
    return Above(*(a + b for a, b in zip(first, second, strict=True)))


def _sum_block(near: Cells, fold_of_image: npt.NDArray[np.integer], block: Block) -> Above:
    """Sums over the images of each fold, [F, y, X, T] and [F, y, X]. near: with the weights [y, r] of the rows read"""
    shape = int(fold_of_image.max()) + 1, len(near.rows), len(near.columns)
    total = Above(np.zeros((*shape, len(CANDIDATES)), np.int64), np.zeros(shape, np.int64))
    for i, score in zip(block.images, block.maps["score"], strict=True):
        fold = fold_of_image[i]
        counts = np.matmul(near.columns, np.tensordot(near.rows, _counts(near, score), axes=1))  # [y, X, T]
        pixels = counts[..., :1]
        total.fraction[fold] += np.ceil(counts * (UNIT / np.maximum(pixels, 1))).astype(np.int64)
        total.num_images[fold] += pixels[..., 0] > 0
    return total


def _counts(near: Cells, score: npt.NDArray[np.float32]) -> Floats:
    """Pixels of each cell whose score is above the candidate before each candidate: float64 [r, X, T].

    score: float32 [h, W], NaN = void
    """
    shape = near.rows.shape[1], len(near.columns)
    row, column = np.nonzero(~np.isnan(score))
    rounded_up = -(-(grid_bins(score[row, column]) - CANDIDATES[0]) // GRID_STEP)
    cell = row // near.side * shape[1] + column // near.side
    counts = np.bincount(cell * len(CANDIDATES) + rounded_up, minlength=shape[0] * shape[1] * len(CANDIDATES))
    at_or_above: Floats = counts.reshape(*shape, -1)[..., ::-1].cumsum(axis=-1)[..., ::-1].astype(np.float64)
    return at_or_above


def _thresholds(above: Above, alphas: Sequence[float], method: Method) -> BandThresholds:
    q = np.stack([_quantile(above, alpha, method) for alpha in alphas])
    largest = np.where(above.num_images > 0, _threshold_below(above, 0), np.float32(np.nan))
    return BandThresholds(q, above.num_images, largest)


def _quantile(above: Above, alpha: float, method: Method) -> npt.NDArray[np.float32]:
    """The threshold of each cell: float32 [y, X] in (0, 1], +inf where (n + 1) alpha < 1, NaN where n = 0."""
    n, of_cell = np.unique(above.num_images, return_inverse=True)
    allowed = [allowed_above(count, alpha, method, "hierarchical") for count in n.tolist()]
    # each image's fraction is rounded up by less than 1
    bound = np.array([int(fraction * UNIT) + count for fraction, count in zip(allowed, n.tolist(), strict=True)])
    too_few = np.array([fraction < 0 for fraction in allowed])
    shape = above.num_images.shape
    q = np.where(
        too_few[of_cell].reshape(shape), np.float32(np.inf), _threshold_below(above, bound[of_cell].reshape(shape))
    )
    return np.where(above.num_images > 0, q, np.float32(np.nan))


def _threshold_below(above: Above, bound: npt.NDArray[np.int64] | int) -> npt.NDArray[np.float32]:
    """The smallest candidate above which the fractions sum to at most `bound` [y, X], in UNITs: float32 [y, X]."""
    num_above = np.count_nonzero(above.fraction > np.expand_dims(bound, -1), axis=-1)
    return grid_values(CANDIDATES[np.maximum(num_above - 1, 0)])
