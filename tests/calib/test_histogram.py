"""Thresholds of groups of pixels: counted by hand, against fractions, and the same for any order of the images."""

import math
from functools import reduce
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from literal import GRID, grid_number_above, literal_group_quantile, literal_risk_threshold

from calib.histogram import (
    KEEP_NOTHING,
    NUM_BINS,
    Taxonomy,
    add_image,
    empty_histogram,
    grid_bins,
    grid_values,
    group_quantiles,
    image_errors,
    largest_in_group,
    merge_errors,
    merge_histograms,
    risk_threshold,
)

ALPHAS = [0.01, 0.05, 0.07, 0.1, 0.15, 0.2, 0.3, 0.5, 0.7, 0.9]
METHODS = ["exact", "paper"]
POOLINGS = ["hierarchical", "naive"]


def histogram_of(scores, truth, taxonomy, pooling="hierarchical"):
    histogram = empty_histogram(taxonomy.num_groups)
    for pair in zip(scores, truth, strict=True):
        add_image(histogram, *pair, taxonomy, pooling)
    return histogram


def one_group(shape):
    return Taxonomy(np.zeros(shape, np.int32), np.zeros((1, 1), np.int32))


def threshold_of(images, alpha, method="exact", pooling="hierarchical"):
    """The histogram of images with one row of pixels, [L, W], all in one group."""
    scores = np.float32(images)[:, np.newaxis]
    histogram = histogram_of(scores, np.zeros(scores.shape, np.uint8), one_group(scores.shape[1:]), pooling)
    return group_quantiles(histogram, [alpha], method, pooling).item()


def test_the_grid_is_float32_with_ten_bits_of_mantissa_from_2_to_the_minus_20_to_1():
    values = grid_values(np.arange(NUM_BINS))
    assert values.dtype == np.float32
    assert values.tolist() == GRID


def test_a_grid_number_is_in_its_own_bin():
    assert (grid_bins(grid_values(np.arange(NUM_BINS))) == np.arange(NUM_BINS)).all()


UNIT_SCORES = st.floats(0, 1, width=32) | st.sampled_from([0.0, 2.0**-20, 2.0**-21, 1.0])


@given(st.lists(UNIT_SCORES, min_size=1, max_size=20))
def test_scores_are_rounded_up_to_the_next_grid_number(scores):
    rounded = grid_values(grid_bins(np.float32(scores))).astype(np.float64)
    assert rounded.tolist() == [grid_number_above(score) for score in scores]
    excess = rounded - scores
    assert (excess >= 0).all()
    assert ((excess <= 2.0**-10 * np.array(scores)) | (excess <= 2.0**-20)).all()


def test_a_score_just_above_a_number_of_the_grid_takes_the_next():
    values = grid_values(np.arange(NUM_BINS - 1))
    assert (grid_bins(np.nextafter(values, np.float32(1))) == np.arange(1, NUM_BINS)).all()
    assert (grid_bins(np.nextafter(values[1:], np.float32(0))) == np.arange(1, NUM_BINS - 1)).all()


@pytest.mark.parametrize(
    ("alpha", "method", "pooling", "threshold"),
    [
        (0.3, "exact", "hierarchical", np.inf),  # 3 x 0.3 < 1
        (0.4, "exact", "hierarchical", 0.75),  # fractions above may sum to 0.2: no pixel
        (0.5, "exact", "hierarchical", 0.5),  # to 0.5: one of the pixels above
        (0.6, "exact", "hierarchical", 0.5),  # to 0.8
        (0.7, "exact", "hierarchical", 0.25),  # to 1.1: two pixels
        (0.3, "paper", "hierarchical", 0.5),  # to 2 x 0.3
        (0.2, "paper", "hierarchical", 0.75),  # to 2 x 0.2
        (0.3, "exact", "naive", 0.75),  # rank 4 of 4 pixels
        (0.4, "exact", "naive", 0.5),  # rank 3
        (0.1, "exact", "naive", np.inf),  # rank 5
        (0.1, "paper", "naive", 0.75),  # at most 0.4 pixels above
        (0.5, "paper", "naive", 0.25),  # at most 2
    ],
)
def test_two_images_of_two_pixels_can_be_counted_by_hand(alpha, method, pooling, threshold):
    assert threshold_of([[0.125, 0.5], [0.75, 0.25]], alpha, method, pooling) == threshold


def test_each_image_has_the_same_weight_whatever_its_number_of_pixels():
    """Above 0.5 lies 1 of 1 pixels of one image, but 0 of 4 of the other: half of the weight, a fifth of the pixels."""
    images = [[0.75, np.nan, np.nan, np.nan], [0.25, 0.5, 0.5, 0.25]]
    assert [threshold_of(images, 0.4, "paper", pooling) for pooling in POOLINGS] == [0.75, 0.5]


def test_images_of_one_pixel_have_the_rank_of_a_location_rounded_up_to_the_grid():
    scores = np.random.default_rng(0).random((40, 1), dtype=np.float32)
    for alpha in ALPHAS:
        rank = -(-41 * round(100 * (1 - alpha)) // 100)
        expected = grid_number_above(np.sort(scores[:, 0])[rank - 1]) if rank <= 40 else np.inf
        assert threshold_of(scores, alpha) == expected


@st.composite
def grouped_images(draw):
    """Up to 12 small score maps with true classes, a taxonomy: ties, voids, empty images, absent classes and groups."""
    num_images, num_classes, num_regions = draw(st.integers(1, 12)), draw(st.integers(1, 4)), draw(st.integers(1, 3))
    shape = num_images, draw(st.integers(1, 3)), draw(st.integers(1, 4))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    ties = rng.choice(np.float32([0, 1e-7, 2.0**-20, 0.1, 0.5, 0.5004, 0.9, 1]), size=shape)
    scores = ties if draw(st.booleans()) else rng.random(shape, dtype=np.float32)
    truth = rng.integers(0, draw(st.integers(1, num_classes)), size=shape).astype(np.uint8)
    void = rng.random(shape) < draw(st.sampled_from([0, 0.3, 0.9]))
    void[rng.random(num_images) < draw(st.sampled_from([0, 0.3]))] = True
    scores[void], truth[void] = np.nan, 255
    region = rng.integers(0, num_regions, size=shape[1:]).astype(np.int32)
    columns = num_classes if draw(st.booleans()) else 1
    group_of = rng.integers(-1, 4, size=(num_regions, columns)).astype(np.int32)
    group_of[0, 0] = 4  # the last group always exists in the table, not always in the images
    return scores, truth, Taxonomy(region, group_of)


def scores_of_group(group, scores, truth, taxonomy):
    """For each image, the scores of its pixels in a group."""
    columns = taxonomy.group_of.shape[1]
    of_images = [[] for _ in scores]
    for i, a, b in np.ndindex(scores.shape):
        if not np.isnan(scores[i, a, b]):
            column = truth[i, a, b] if columns > 1 else 0
            if taxonomy.group_of[taxonomy.region[a, b], column] == group:
                of_images[i].append(scores[i, a, b])
    return of_images


@given(grouped_images(), st.sampled_from(METHODS), st.sampled_from(POOLINGS))
def test_agrees_with_sums_of_fractions(images, method, pooling):
    histogram = histogram_of(*images, pooling)
    by_group = [scores_of_group(group, *images) for group in range(images[2].num_groups)]
    q_hat = group_quantiles(histogram, ALPHAS, method, pooling)
    assert q_hat.dtype == np.float32
    expected = [[literal_group_quantile(scores, alpha, method, pooling) for scores in by_group] for alpha in ALPHAS]
    np.testing.assert_array_equal(q_hat, np.float32(expected))
    assert histogram.num_images.tolist() == [sum(map(bool, scores)) for scores in by_group]
    assert histogram.num_pixels.tolist() == [sum(map(len, scores)) for scores in by_group]
    largest = [max((grid_number_above(s) for image in scores for s in image), default=np.nan) for scores in by_group]
    np.testing.assert_array_equal(largest_in_group(histogram), np.float32(largest))


@settings(max_examples=50, deadline=None)
@given(grouped_images(), st.sampled_from(POOLINGS), st.data())
def test_any_partition_in_any_order_merges_into_the_histogram_of_all_images(images, pooling, data):
    scores, truth, taxonomy = images
    order = data.draw(st.permutations(range(len(scores))))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(scores)), max_size=3)))
    blocks = zip(np.split(scores[order], cuts), np.split(truth[order], cuts), strict=True)
    histograms = [histogram_of(*block, taxonomy, pooling) for block in blocks]
    merged = reduce(merge_histograms, data.draw(st.permutations(histograms)))
    whole = histogram_of(scores, truth, taxonomy, pooling)
    assert [array.tobytes() for array in merged] == [array.tobytes() for array in whole]


@pytest.mark.parametrize("num_images", [1, 3, 9, 14, 19, 92])
def test_no_threshold_is_finite_exactly_where_l_plus_1_times_alpha_is_below_1(num_images):
    images = np.random.default_rng(0).random((num_images, 5), dtype=np.float32)
    for percent in range(1, 100):
        too_few = (num_images + 1) * percent < 100
        assert (threshold_of(images, percent / 100) == np.inf) == too_few
        assert np.isfinite(threshold_of(images, percent / 100, "paper"))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("pooling", POOLINGS)
def test_a_group_without_pixels_has_no_threshold(method, pooling):
    assert math.isnan(threshold_of([[np.nan], [np.nan]], 0.5, method, pooling))


@pytest.mark.parametrize("pooling", POOLINGS)
def test_a_larger_alpha_never_raises_the_threshold(pooling):
    images = np.random.default_rng(0).random((30, 7), dtype=np.float32)
    for method in METHODS:
        thresholds = [threshold_of(images, alpha, method, pooling) for alpha in ALPHAS]
        assert all(larger <= smaller for smaller, larger in pairwise(thresholds))


def test_an_image_that_is_the_worst_everywhere_never_lowers_the_threshold():
    images = np.random.default_rng(0).random((30, 7), dtype=np.float32)
    assert threshold_of([*images, np.ones(7)], 0.1) >= threshold_of(images, 0.1)


def test_thirds_and_sevenths_of_an_image_add_up_exactly():
    """Above 0.25 lie 3 of 3 pixels, 1 of 3, 2 of 3, 7 of 7 and 0 of 2: exactly the 3 = 0.6 x 5 that are allowed."""
    row = np.full((5, 7), np.nan)
    row[0, :3], row[1, :3], row[2, :3] = 0.5, [0.5, 0.25, 0.25], [0.5, 0.5, 0.25]
    row[3], row[4, :2] = 0.5, 0.25
    assert threshold_of(row, 0.6, "paper") == 0.25
    assert threshold_of(row, 0.59, "paper") == 0.5


def errors_of(score, is_wrong, valid):
    return reduce(merge_errors, [image_errors(*maps) for maps in zip(score, is_wrong, valid, strict=True)])


@pytest.mark.parametrize(
    ("alpha", "threshold"),
    [
        (0.3, np.inf),  # (0 + 1) / 3 is more
        (0.34, 0.25 - 2**-13),  # nothing wrong: the number of the grid below 0.25
        (0.5, 0.5 - 2**-12),  # (1 / 2 + 1) / 3: one of two pixels
        (0.67, 1),  # (1 / 2 + 1 / 2 + 1) / 3: all that are wrong
    ],
)
def test_the_largest_threshold_that_bounds_the_risk_can_be_counted_by_hand(alpha, threshold):
    score = np.float32([[0.25, 0.125], [0.5, 0.0625]])[:, np.newaxis]
    is_wrong = np.array([[True, False], [True, False]])[:, np.newaxis]
    assert risk_threshold(errors_of(score, is_wrong, np.ones_like(is_wrong)), alpha) == threshold


def test_nothing_is_kept_if_even_the_best_scores_are_wrong_too_often():
    wrong = np.ones((9, 1, 2), dtype=bool)
    assert risk_threshold(errors_of(np.zeros((9, 1, 2), np.float32), wrong, wrong), 0.2) == KEEP_NOTHING == -1


@given(grouped_images(), st.integers(0, 2**32), st.sampled_from([0.05, 0.5, 0.9]))
def test_risk_thresholds_agree_with_sums_of_fractions(images, seed, fraction_wrong):
    valid = ~np.isnan(images[0])
    scores = np.where(valid, images[0], np.float32(0.4))  # void pixels are labeled too, and are never wrong
    is_wrong = np.random.default_rng(seed).random(scores.shape) < fraction_wrong
    errors = errors_of(scores, is_wrong, valid)
    wrong_scores = [score[wrong & ok] for score, wrong, ok in zip(scores, is_wrong, valid, strict=True)]
    num_valid = valid.sum(axis=(1, 2)).tolist()
    for alpha in ALPHAS:
        threshold = risk_threshold(errors, alpha)
        assert threshold.dtype == np.float32
        assert threshold == literal_risk_threshold(wrong_scores, num_valid, alpha)
    assert errors.num_images == sum(map(bool, num_valid))
    backwards = errors_of(scores[::-1], is_wrong[::-1], valid[::-1])
    assert backwards.weight.tobytes() == errors.weight.tobytes()
    assert backwards[1:] == errors[1:]


def test_a_larger_alpha_never_lowers_the_threshold_that_bounds_the_risk():
    rng = np.random.default_rng(0)
    score, is_wrong = rng.random((30, 4, 5), dtype=np.float32), rng.random((30, 4, 5)) < 0.3
    thresholds = [risk_threshold(errors_of(score, is_wrong, np.ones_like(is_wrong)), a) for a in ALPHAS[1:]]
    assert all(smaller <= larger for smaller, larger in pairwise(thresholds))
    assert 0 < thresholds[0] < thresholds[-1]
