"""The guarantee of conformal prediction, with tests powerful enough to detect a rank that is off by one."""

import math

import numpy as np
import pytest

from calib import conformal_rank, pixel_quantile, sketch_scores

NUM_IMAGES = 92
ALPHA = 0.05
REJECTED = 3.29  # |z| of a two-sided test at 1 in 1000


def uniform_maps(num_images, size=128, void=0.0, seed=0):
    """Calibration scores [L, size, size] and the scores of one test image, all exchangeable."""
    rng = np.random.default_rng(seed)
    scores = rng.random((num_images, size, size), dtype=np.float32)
    scores[rng.random(scores.shape) < void] = np.nan
    return scores, rng.random((size, size), dtype=np.float32)


def num_valid(scores):
    return sketch_scores(scores, 1).num_valid


def coverage_z(covered, n, alpha):
    """z of the number of covered pixels: each is covered with probability k / (n + 1) exactly.

    covered: bool [H, W]
    n:       integer [H, W], valid scores of each location
    """
    p = conformal_rank(n, alpha) / (n + 1)
    return (covered.sum() - p.sum()) / math.sqrt((p * (1 - p)).sum())


@pytest.mark.parametrize("void", [0.0, 0.3])
@pytest.mark.parametrize("alpha", [0.05, 0.1, 0.3])
def test_covers_as_often_as_theory_says(alpha, void):
    scores, test_scores = uniform_maps(NUM_IMAGES, void=void)
    covered = test_scores <= pixel_quantile(scores, alpha)
    assert abs(coverage_z(covered, num_valid(scores), alpha)) < REJECTED


@pytest.mark.parametrize("offset", [-1, 1])
def test_detects_a_rank_that_is_off_by_one(offset):
    scores, test_scores = uniform_maps(NUM_IMAGES)
    wrong = np.sort(scores, axis=0)[conformal_rank(NUM_IMAGES, ALPHA) - 1 + offset]
    assert abs(coverage_z(test_scores <= wrong, num_valid(scores), ALPHA)) > REJECTED


def test_detects_the_missing_finite_sample_correction_of_the_paper():
    scores, test_scores = uniform_maps(NUM_IMAGES)
    covered = test_scores <= pixel_quantile(scores, ALPHA, "paper")
    assert coverage_z(covered, num_valid(scores), ALPHA) < -REJECTED


@pytest.mark.parametrize(("num_images", "alpha"), [(19, 0.1), (24, 0.05), (40, 0.07), (92, 0.05)])
def test_mean_coverage_lies_between_1_minus_alpha_and_that_plus_1_over_n_plus_1(num_images, alpha):
    scores, _ = uniform_maps(num_images, size=96)
    coverage = pixel_quantile(scores, alpha).astype(np.float64)  # P(uniform score <= q) = q
    margin = 4 * coverage.std() / math.sqrt(coverage.size)
    assert 1 - alpha - margin <= coverage.mean() <= 1 - alpha + 1 / (num_images + 1) + margin


def test_coverage_given_the_calibration_images_has_a_beta_distribution():
    """Over 200 test images a location is covered BetaBinomial(200, k, n + 1 - k) times: pooled chi-square test."""
    num_tests, size = 200, 64
    scores, _ = uniform_maps(NUM_IMAGES, size=size)
    q_hat = pixel_quantile(scores, ALPHA)
    tests = np.random.default_rng(1).random((num_tests, size, size), dtype=np.float32)
    observed = np.bincount((tests <= q_hat).sum(axis=0).ravel(), minlength=num_tests + 1)
    rank = conformal_rank(NUM_IMAGES, ALPHA)
    expected = size**2 * beta_binomial(num_tests, rank, NUM_IMAGES + 1 - rank)
    assert pearson(observed, expected) < REJECTED
    assert pearson(observed, size**2 * beta_binomial(num_tests, rank - 1, NUM_IMAGES + 2 - rank)) > REJECTED


def beta_binomial(num_tests, a, b):
    """P(c of num_tests covered), c = 0..num_tests, when the coverage is Beta(a, b)."""

    def log_beta(x, y):
        return math.lgamma(x) + math.lgamma(y) - math.lgamma(x + y)

    return np.array(
        [
            math.comb(num_tests, c) * math.exp(log_beta(c + a, num_tests - c + b) - log_beta(a, b))
            for c in range(num_tests + 1)
        ]
    )


def pearson(observed, expected):
    """Chi-square statistic as a z value (Wilson and Hilferty); counts expected below 5 times are pooled into one."""
    rare = expected < 5
    observed = np.append(observed[~rare], observed[rare].sum())
    expected = np.append(expected[~rare], expected[rare].sum())
    freedom = len(expected) - 1
    ratio = ((observed - expected) ** 2 / expected).sum() / freedom
    return (ratio ** (1 / 3) - (1 - 2 / (9 * freedom))) / math.sqrt(2 / (9 * freedom))


def test_ties_only_add_coverage():
    """Rounding is monotone, so scores rounded on both sides cover every pixel that the exact ones cover."""
    scores, test_scores = uniform_maps(NUM_IMAGES, void=0.1)
    covered = test_scores <= pixel_quantile(scores, ALPHA)
    steps = np.float32(255)
    covered_with_ties = np.round(test_scores * steps) / steps <= pixel_quantile(np.round(scores * steps) / steps, ALPHA)
    assert (covered <= covered_with_ties).all()
    assert covered_with_ties.sum() > covered.sum()


def test_coverage_does_not_depend_on_where_the_voids_are():
    scores, test_scores = uniform_maps(NUM_IMAGES, void=0.5)
    moved = np.random.default_rng(1).permuted(scores, axis=1)
    covered = test_scores <= pixel_quantile(moved, ALPHA)
    assert abs(coverage_z(covered, num_valid(moved), ALPHA)) < REJECTED
