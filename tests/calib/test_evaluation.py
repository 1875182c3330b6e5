"""Held-out coverage: counted by hand, against a loop over images, tile by tile, and on scores that obey the theory."""

import warnings

import numpy as np
import pytest

from calib import (
    HeldOutCounts,
    assign_folds,
    cross_fitted_coverage,
    held_out_counts,
    summarise_coverage,
    total_counts,
)


def uniform_scores(num_images, size, void=0.0, seed=0):
    rng = np.random.default_rng(seed)
    scores = rng.random((num_images, size, size), dtype=np.float32)
    scores[rng.random(scores.shape) < void] = np.nan
    return scores


def test_judges_every_image_by_the_thresholds_of_the_others():
    """Leave one out of 0.1, 0.2, 0.3 at alpha 0.5: the second of the two others, so only 0.3 is not covered."""
    scores = np.float32([0.1, 0.2, 0.3]).reshape(3, 1, 1)
    counts = held_out_counts(scores, np.arange(3), 0.5, "exact")
    assert [count.tolist() for count in counts] == [[1, 1, 0], [1, 1, 1], [0, 0, 0]]


def test_deals_the_images_out_in_turn():
    assert assign_folds(7, 3).tolist() == [0, 1, 2, 0, 1, 2, 0]


@pytest.mark.parametrize("folds", [0, 1, 8])
def test_refuses_folds_that_leave_nothing_to_calibrate_or_to_judge(folds):
    with pytest.raises(ValueError, match=rf"folds must lie between 2 and the number of images \(7\), got {folds}"):
        assign_folds(7, folds)


@pytest.mark.parametrize("method", ["exact", "paper"])
def test_agrees_with_a_loop_over_images_and_pixels(method):
    scores, folds = uniform_scores(23, 4, void=0.4), assign_folds(23, 5)
    counts = held_out_counts(scores, folds, 0.2, method)
    for image, a, b in np.ndindex(scores.shape):
        others = np.sort(scores[folds != folds[image], a, b])
        others = others[~np.isnan(others)].astype(np.float64)
        if method == "paper":
            threshold = np.float32(np.quantile(others, 1 - 0.2))
        else:
            rank = -(-(others.size + 1) * 80 // 100)
            threshold = others[rank - 1] if rank <= others.size else np.inf
        if not np.isnan(scores[image, a, b]):
            counts.valid[image] -= 1
            counts.covered[image] -= scores[image, a, b] <= threshold
            counts.uncalibrated[image] -= threshold == np.inf
    assert not np.any(counts)


@pytest.mark.parametrize("rows", [1, 3, 10])
def test_counts_of_tiles_add_up_to_those_of_the_map(rows):
    scores, folds = uniform_scores(20, 10, void=0.5), assign_folds(20, 4)
    tiles = [held_out_counts(scores[:, top : top + rows], folds, 0.1, "exact") for top in range(0, 10, rows)]
    added, whole = total_counts(tiles), held_out_counts(scores, folds, 0.1, "exact")
    assert isinstance(added, HeldOutCounts)
    for ours, expected in zip(added, whole, strict=True):
        np.testing.assert_array_equal(ours, expected)


def test_covers_what_it_promises_on_exchangeable_images():
    """Four folds of 100 images leave n = 75 to calibrate, so k / (n + 1) = 69 / 76 is covered on average."""
    coverage = cross_fitted_coverage(uniform_scores(100, 40), 0.1, "exact", 4, np.random.default_rng(0))
    assert coverage.coverage == pytest.approx(69 / 76, abs=0.006)
    assert coverage.low < coverage.coverage < coverage.high
    assert coverage.uncalibrated == 0


def test_the_paper_method_covers_less():
    scores = uniform_scores(24, 40)
    exact, paper = (cross_fitted_coverage(scores, 0.1, m, 4, np.random.default_rng(0)) for m in ("exact", "paper"))
    assert paper.high < 0.9 < exact.coverage


def test_an_image_unlike_the_others_is_not_covered():
    scores = uniform_scores(30, 8)
    scores[3] = 2
    coverage = cross_fitted_coverage(scores, 0.1, "exact", 5, np.random.default_rng(0))
    assert coverage.per_image[3] == 0
    assert (np.delete(coverage.per_image, 3) > 0.5).all()


def test_void_pixels_are_not_counted_and_void_images_have_no_coverage():
    scores = uniform_scores(30, 8)
    scores[0], scores[1, :4] = np.nan, np.nan
    counts = held_out_counts(scores, assign_folds(30, 5), 0.1, "exact")
    assert counts.valid[:3].tolist() == [0, 32, 64]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        coverage = summarise_coverage(counts, np.random.default_rng(0))
    assert np.isnan(coverage.per_image[0])
    assert coverage.coverage == counts.covered.sum() / (28 * 64 + 32)


@pytest.mark.parametrize("num_images", [2, 8])
def test_locations_without_a_finite_threshold_are_covered_and_reported(num_images):
    scores = uniform_scores(num_images, 6)
    scores[1:, :, :3] = np.nan  # there, image 0 has nobody to judge it: no score instead of too few
    coverage = cross_fitted_coverage(scores, 0.1, "exact", 2, np.random.default_rng(0))
    assert coverage.coverage == coverage.uncalibrated == 1


def test_the_same_generator_gives_the_same_interval():
    scores = uniform_scores(20, 8, void=0.3)
    first, second = (cross_fitted_coverage(scores, 0.2, "exact", 5, np.random.default_rng(7)) for _ in range(2))
    assert (first.low, first.high) == (second.low, second.high)


def test_the_interval_is_as_wide_as_the_images_differ():
    """Whole images are well or badly covered, so 200 images of 10 000 pixels are 200 draws: width 2 x 1.96 sd."""
    good = np.arange(200) < 180
    counts = HeldOutCounts(np.where(good, 10_000, 0), np.full(200, 10_000), np.zeros(200, dtype=np.int64))
    coverage = summarise_coverage(counts, np.random.default_rng(0))
    assert coverage.coverage == 0.9
    assert coverage.high - coverage.low == pytest.approx(2 * 1.96 * np.sqrt(0.9 * 0.1 / 200), rel=0.1)
