"""Thresholds from the scores around a location: counted by hand, against loops with fractions, and their limits."""

import math

import numpy as np
import pytest
from literal import GRID, literal_kernel_quantile

from calib import ArrayMaps, Variant, fit, pixel_quantile
from calib.neighbours import CANDIDATES, make_cells

ALPHAS = (0.07, 0.15, 0.3)
HALF = 1 / math.sqrt(2 * math.log(2))  # bandwidth at which the next cell has half the weight


def together(num_images):
    return np.zeros(num_images, dtype=np.int64)


def fitted(scores, **settings):
    scores = np.float32(scores)
    maps = ArrayMaps({"score": scores, "truth": np.where(np.isnan(scores), 255, 0).astype(np.uint8)})
    return fit(Variant("kernel", **settings), maps, together(len(scores)))[0]


def random_scores(num_images=17, shape=(11, 7), void=0.3, seed=0):
    rng = np.random.default_rng(seed)
    scores = rng.beta(0.4, 0.8, size=(num_images, *shape)).astype(np.float32)
    scores[rng.random(scores.shape) < void] = np.nan
    scores[:3, : shape[0] // 2] = np.nan
    return scores


@pytest.mark.parametrize(
    ("alpha", "first", "second"),
    [
        (0.3, np.inf, np.inf),  # 3 x 0.3 < 1
        (0.4, 0.75, 0.75),  # fractions above may sum to 0.2
        (0.5, 0.5, 0.75),  # to 0.5: at the first cell, 0.75 is one third of the second image, at the second two thirds
        (0.6, 0.5, 0.5),  # to 0.8; above 0.25 are 2/3 + 1/3 = 1 at the first cell, and 1/3 + 2/3 at the second
        (0.7, 0.25, 0.25),  # to 1.1
    ],
)
def test_two_images_of_two_cells_can_be_counted_by_hand(alpha, first, second):
    """The pixel of a cell counts two thirds, that of the other cell one third."""
    scores = [[[0.5], [0.25]], [[0.25], [0.75]]]
    (q,) = fitted(scores, alphas=(alpha,), bandwidth=HALF / 2).q
    assert q.tolist() == [[first, second]]


def test_an_image_without_pixels_around_a_location_does_not_count_there():
    """Of 21 rows the first three are void in one image: the kernel ends after 3.9 bandwidths, here 3.9 rows."""
    scores = np.full((9, 21, 1), 0.5, np.float32)
    scores[0, :8] = np.nan
    thresholds = fitted(scores, alphas=(0.1,), bandwidth=1 / 21)
    assert thresholds.num_images[0].tolist() == [8] * 5 + [9] * 16
    assert np.isinf(thresholds.q[0, 0, :5]).all()
    assert (thresholds.q[0, 0, 5:] == 0.5).all()


def test_a_location_without_any_image_has_no_threshold_and_the_largest_score_is_of_those_around():
    scores = np.full((4, 12, 1), np.nan, np.float32)
    scores[:, 0] = 0.25
    scores[1, 1] = 0.75
    thresholds = fitted(scores, alphas=(0.1,), bandwidth=1 / 12)
    assert np.isnan(thresholds.q[0, 0, 5:]).all()
    assert np.isinf(thresholds.q[0, 0, :5]).all()
    np.testing.assert_array_equal(thresholds.largest[0], [0.75] * 5 + [np.nan] * 7)
    np.testing.assert_array_equal(thresholds.resolve("max").q[0, 0], [0.75] * 5 + [np.nan] * 7)


@pytest.mark.parametrize("quantile", ["exact", "paper"])
@pytest.mark.parametrize("bandwidth", [0.08, 0.3, 0.9, 3])
def test_agrees_with_weighted_fractions_written_out(bandwidth, quantile):
    scores = random_scores()
    thresholds = fitted(scores, alphas=ALPHAS, quantile=quantile, bandwidth=bandwidth)
    side, height = make_cells(scores.shape[1:], bandwidth).side, scores.shape[1]
    assert side == (1 if bandwidth < 0.7 else 2 if bandwidth < 1 else 8)
    row, column = (index // side for index in np.indices(scores.shape[1:]))
    cells = {(int(a), int(b)) for a, b in zip(row.ravel(), column.ravel(), strict=True)}
    for cell in sorted(cells)[:: max(1, len(cells) // 8)]:
        weight = np.ones(row.shape, dtype=np.int64)
        for index, own in ((row, cell[0]), (column, cell[1])):
            distance = (index - own) * side / (bandwidth * height)
            weight *= np.rint(1024 * np.exp(-(distance**2) / 2)).astype(np.int64)
        images = [
            [(float(s), int(w)) for s, w in zip(score.ravel(), weight.ravel(), strict=True) if w and not math.isnan(s)]
            for score in scores
        ]
        where = np.flatnonzero((row == cell[0]) & (column == cell[1]))[0]
        for a, alpha in enumerate(ALPHAS):
            found = thresholds.map(a).ravel()[where]
            np.testing.assert_equal(float(found), literal_kernel_quantile(images, alpha, quantile))


def rounded_up(q):
    """The smallest candidates that are not below finite thresholds."""
    candidates = np.float64(GRID)[CANDIDATES]
    return np.where(np.isfinite(q), candidates[np.searchsorted(candidates, np.where(np.isfinite(q), q, 0))], q)


def test_a_small_bandwidth_gives_the_thresholds_of_variant_pixel():
    scores = random_scores()
    thresholds = fitted(scores, alphas=ALPHAS, bandwidth=0.01)
    for a, alpha in enumerate(ALPHAS):
        np.testing.assert_array_equal(thresholds.map(a), rounded_up(pixel_quantile(scores, alpha)))


@pytest.mark.parametrize("quantile", ["exact", "paper"])
def test_a_large_bandwidth_gives_the_threshold_of_variant_image(quantile):
    scores = random_scores()
    maps = ArrayMaps({"score": scores, "truth": np.where(np.isnan(scores), 255, 0).astype(np.uint8)})
    (image,) = fit(Variant("image", ALPHAS, quantile), maps, together(len(scores)))
    for bandwidth in (1000, math.inf):
        thresholds = fitted(scores, alphas=ALPHAS, quantile=quantile, bandwidth=bandwidth)
        for a in range(len(ALPHAS)):
            np.testing.assert_array_equal(thresholds.map(a), rounded_up(image.map(a)))


def surroundings(bandwidth, length):
    """Weights of all locations around each: float64 [length, length]."""
    distance = np.subtract.outer(np.arange(length), np.arange(length)) / (bandwidth * length)
    weights = np.rint(1024 * np.exp(-(distance**2) / 2))
    return weights / weights.sum(axis=1, keepdims=True)


def coverage_around_locations(quantile, slope, num_images=20, alpha=0.1, draws=80, length=6):
    """Mean over draws of the coverage around every location, and its standard error: float64 [length] each.

    Scores differ by image much more than within one, and from one end of the map to the other.
    """
    rng, fractions = np.random.default_rng(0), []
    weights = surroundings(0.2, length)
    for _ in range(draws):
        noise = 0.02 * rng.normal(size=(num_images + 40, length)) + rng.normal(size=(num_images + 40, 1))
        scores = (1 / (1 + np.exp(np.linspace(slope, -slope, length) - noise))).astype(np.float32)[:, :, np.newaxis]
        thresholds = fitted(scores[:num_images], alphas=(alpha,), quantile=quantile, bandwidth=0.2)
        covered = scores[num_images:, :, 0] <= thresholds.map(0)[:, 0]
        fractions.append((covered @ weights.T).mean(axis=0))
    return np.mean(fractions, axis=0), np.std(fractions, axis=0) / math.sqrt(draws)


def test_covers_the_pixels_around_every_location_of_new_images():
    """At least 1 - alpha, and at most that plus the 2 / (n + 1) that an image can have at the threshold."""
    coverage, error = coverage_around_locations("exact", slope=1)
    assert (coverage >= 0.9 - 3.3 * error).all()
    assert (coverage <= 0.9 + 2 / 21 + 3.3 * error).all()


def test_detects_a_threshold_that_leaves_out_the_weight_of_the_new_image():
    coverage, error = coverage_around_locations("paper", slope=0)
    assert (coverage < 0.9 - 3.3 * error).all()
