"""Does the promised coverage hold? Cross-fitting on the labelled images: each fold is judged by the other folds' q.

All counts are sums over locations, so a map too large for memory is evaluated tile by tile and the counts are added.
"""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from calib.quantile import Method, pixel_quantile

NUM_RESAMPLES = 2000  # the ends of the interval then vary by 1.6 % of its width (sd) from seed to seed


class HeldOutCounts(NamedTuple):
    """Held-out pixels of each image, int64 [L] each.

    covered:       their true class is in the prediction set
    valid:         they have a true class
    uncalibrated:  valid, but the other folds give no finite threshold: the set holds every class, hence counts as
                   covered; (covered - uncalibrated) / (valid - uncalibrated) is the coverage of the others
    """

    covered: npt.NDArray[np.int64]
    valid: npt.NDArray[np.int64]
    uncalibrated: npt.NDArray[np.int64]


class HeldOutCoverage(NamedTuple):
    """Coverage of images that took no part in their own calibration; NaN where there is no valid pixel.

    coverage:      covered / valid pixels over all images
    low, high:     95 % interval of it, by bootstrap over images (pixels of one image are not independent)
    per_image:     float64 [L]
    uncalibrated:  share of the valid pixels that are covered only for want of a finite threshold
    """

    coverage: float
    low: float
    high: float
    per_image: npt.NDArray[np.float64]
    uncalibrated: float


def cross_fitted_coverage(
    scores: npt.NDArray[np.float32], alpha: float, method: Method, folds: int, rng: np.random.Generator
) -> HeldOutCoverage:
    """Measure coverage on held-out images, for scores that fit in memory.

    scores:  float32 [L, H, W] in [0, 1], NaN = void
    alpha:   tolerated miscoverage: coverage should be at least 1 - alpha ("exact")
    folds:   2..L
    rng:     draws the bootstrap samples; the folds are fixed (`assign_folds`)
    raises:  ValueError if folds or alpha are out of range
    """
    fold_of_image = assign_folds(len(scores), folds)
    return summarise_coverage(held_out_counts(scores, fold_of_image, alpha, method), rng)


def assign_folds(num_images: int, folds: int) -> npt.NDArray[np.int64]:
    """Deal the images out to the folds in turn. Returns int64 [L], 0..folds - 1; ValueError unless 2 <= folds <= L."""
    if not 2 <= folds <= num_images:
        raise ValueError(f"folds must lie between 2 and the number of images ({num_images}), got {folds}")
    return np.arange(num_images) % folds


def held_out_counts(
    scores: npt.NDArray[np.float32], fold_of_image: npt.NDArray[np.integer], alpha: float, method: Method
) -> HeldOutCounts:
    """Count the covered held-out pixels of each image on one tile of the map.

    scores:        float32 [L, h, w], NaN = void
    fold_of_image: integer [L]; the images of a fold are judged by the thresholds of all the others
    """
    counts = HeldOutCounts(*np.zeros((3, len(scores)), dtype=np.int64))
    for fold in np.unique(fold_of_image):
        held_out = fold_of_image == fold
        q_hat = pixel_quantile(scores[~held_out], alpha, method)
        valid = ~np.isnan(scores[held_out])
        uncalibrated = valid & ~np.isfinite(q_hat)
        covered = (scores[held_out] <= q_hat) | uncalibrated
        for total, pixels in zip(counts, (covered, valid, uncalibrated), strict=True):
            total[held_out] = np.count_nonzero(pixels, axis=(1, 2))
    return counts


def total_counts(tiles: Iterable[HeldOutCounts]) -> HeldOutCounts:
    """Add up the counts of the tiles of a map."""
    return HeldOutCounts(*(np.sum(counts, axis=0) for counts in zip(*tiles, strict=True)))


def summarise_coverage(counts: HeldOutCounts, rng: np.random.Generator) -> HeldOutCoverage:
    """Turn the counts of the whole map into coverage, its bootstrap interval over images, and the shares behind it."""
    drawn = rng.integers(len(counts.valid), size=(NUM_RESAMPLES, len(counts.valid)))
    resampled = _share(counts.covered[drawn].sum(axis=1), counts.valid[drawn].sum(axis=1))
    low, high = np.nanquantile(resampled, [0.025, 0.975])
    return HeldOutCoverage(
        coverage=float(_share(counts.covered.sum(), counts.valid.sum())),
        low=float(low),
        high=float(high),
        per_image=_share(counts.covered, counts.valid),
        uncalibrated=float(_share(counts.uncalibrated.sum(), counts.valid.sum())),
    )


def _share(part: npt.NDArray[np.int64], whole: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """part / whole, NaN where the whole is 0."""
    share = np.full(np.shape(whole), np.nan)
    np.divide(part, whole, out=share, where=whole > 0)
    return share
