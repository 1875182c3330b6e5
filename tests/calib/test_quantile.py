"""Ranks that can be counted by hand, bit-for-bit agreement with NumPy and with Eq. 3 taken literally, and policies."""

import warnings
from itertools import pairwise

import dask.array as da
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from literal import literal_q_hat

from calib import (
    CalibrationError,
    conformal_rank,
    pixel_quantile,
    resolve_uncalibrated,
    sketch_scores,
    smallest_alpha,
    true_class_scores,
)

ALPHAS = [0.01, 0.05, 0.07, 0.1, 0.15, 0.2, 0.3, 0.5, 0.7]


def column(*scores):
    """The scores of one location, float32 [L, 1, 1]."""
    return np.array(scores, dtype=np.float32).reshape(-1, 1, 1)


def random_scores(rng, shape, void=0.2):
    scores = rng.random(shape, dtype=np.float32)
    scores[rng.random(shape) < void] = np.nan
    return scores


def test_takes_the_18th_of_19_scores_at_alpha_10_percent():
    scores = column(*np.random.default_rng(0).permutation(np.arange(1, 20)))
    assert conformal_rank(19, 0.1) == 18
    assert pixel_quantile(scores, 0.1).item() == 18


def test_takes_the_ceil_of_n_plus_1_times_1_minus_alpha_for_every_n_up_to_400():
    """Location n has the scores 1..n, shuffled among voids: its threshold is its rank."""
    rng, largest_n = np.random.default_rng(0), 400
    scores = np.full((largest_n, 1, largest_n), np.nan, dtype=np.float32)
    for n in range(1, largest_n + 1):
        scores[rng.permutation(largest_n)[:n], 0, n - 1] = np.arange(1, n + 1)
    for alpha in ALPHAS:
        percent = round(100 * (1 - alpha))
        ranks = [-(-(n + 1) * percent // 100) for n in range(1, largest_n + 1)]
        expected = [rank if rank <= n else np.inf for n, rank in enumerate(ranks, start=1)]
        assert pixel_quantile(scores, alpha)[0].tolist() == expected, f"alpha {alpha}"


def test_ranks_are_not_raised_by_the_rounding_of_alpha():
    assert (9 + 1) * (1 - 0.7) > 3
    assert conformal_rank(9, 0.7) == 3


def test_ranks_of_an_array_are_the_ranks_of_its_items():
    n = np.random.default_rng(0).integers(0, 10**9, size=(3, 5))
    ranks = conformal_rank(n, 0.07)
    assert ranks.shape == n.shape
    assert ranks.tolist() == [[conformal_rank(count, 0.07) for count in row] for row in n.tolist()]


@pytest.mark.parametrize(("alpha", "method"), [(0, "exact"), (1, "exact"), (-0.1, "paper"), (1.5, "paper")])
def test_refuses_an_alpha_that_is_not_between_0_and_1(alpha, method):
    with pytest.raises(ValueError, match="alpha must be between 0 and 1, got"):
        pixel_quantile(column(0.5), alpha, method)


def test_smallest_alpha_is_usable_and_one_percent_less_is_not():
    assert smallest_alpha(19) == 0.05
    for n in range(1, 2000):
        assert conformal_rank(n, smallest_alpha(n)) <= n < conformal_rank(n, 0.99 * smallest_alpha(n))


@pytest.mark.parametrize("num_images", [1, 2, 3, 10, 92, 183])
def test_agrees_with_numpy_to_the_last_bit(num_images):
    scores = random_scores(np.random.default_rng(num_images), (num_images, 4, 5))
    scores[:, 0, 0] = np.nan
    for alpha in ALPHAS:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # all-NaN slice
            interpolated = np.nanquantile(scores.astype(np.float64), 1 - alpha, axis=0).astype(np.float32)
        ranked = np.apply_along_axis(rank_of_sorted, 0, scores, alpha)
        np.testing.assert_array_equal(pixel_quantile(scores, alpha, "paper"), interpolated, f"alpha {alpha}")
        np.testing.assert_array_equal(pixel_quantile(scores, alpha, "exact"), ranked, f"alpha {alpha}")


def rank_of_sorted(scores, alpha):
    valid = np.sort(scores[~np.isnan(scores)])
    if valid.size == 0:
        return np.float32(np.nan)
    rank = -(-(valid.size + 1) * round(100 * (1 - alpha)) // 100)
    return valid[rank - 1] if rank <= valid.size else np.float32(np.inf)


@pytest.mark.parametrize(
    ("score", "alpha"), [(0.7857649326324463, 0.3212522343257365), (0.8033179044723511, 0.6582013398985771)]
)
def test_interpolates_from_the_nearer_score_like_numpy(score, alpha):
    """From the farther score, these two thresholds would come out differently in the last bit."""
    expected = np.float32(np.nanquantile([0, score], 1 - alpha))
    assert pixel_quantile(column(0, score), alpha, "paper").item() == expected


def test_agrees_with_numpy_beyond_one_tile():
    scores = random_scores(np.random.default_rng(0), (7, 71, 83))
    np.testing.assert_array_equal(
        pixel_quantile(scores, 0.2, "paper"),
        np.nanquantile(scores.astype(np.float64), 1 - 0.2, axis=0).astype(np.float32),
    )
    full = np.nan_to_num(scores, nan=0.5)
    np.testing.assert_array_equal(pixel_quantile(full, 0.2), np.sort(full, axis=0)[7 - 1])


@st.composite
def labeled_images(draw):
    """Up to 12 small probability maps with masks: ties, voids, missing classes, locations that are void throughout."""
    num_images, num_classes = draw(st.integers(1, 12)), draw(st.integers(1, 4))
    height, width = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    shape = num_images, num_classes, height, width
    ties = rng.choice(np.float32([0, 1e-9, 2e-9, 0.1, 0.5, 0.9, 1]), size=shape)
    probabilities = ties if draw(st.booleans()) else rng.random(shape, dtype=np.float32)
    masks = rng.integers(0, num_classes, size=(num_images, height, width)).astype(np.uint8)
    masks[rng.random(masks.shape) < draw(st.sampled_from([0, 0.3, 0.9]))] = 255
    return probabilities, masks


@settings(max_examples=80, deadline=None)
@given(labeled_images(), st.sampled_from(ALPHAS), st.sampled_from(["exact", "paper"]))
def test_agrees_with_equation_3_taken_literally(images, alpha, method):
    probabilities, masks = images
    scores = np.stack([true_class_scores(*pair) for pair in zip(probabilities, masks, strict=True)])
    q_hat = pixel_quantile(scores, alpha, method)
    assert q_hat.dtype == np.float32
    np.testing.assert_array_equal(q_hat, literal_q_hat(probabilities, masks, alpha, method))


@settings(max_examples=40, deadline=None)
@given(st.data(), st.sampled_from(["exact", "paper"]))
def test_dask_agrees_with_numpy_for_every_tiling(data, method):
    scores = random_scores(np.random.default_rng(0), (11, 6, 7), void=0.5)
    tiles = (-1, data.draw(st.integers(1, 6)), data.draw(st.integers(1, 7)))
    lazy = da.from_array(scores, chunks=tiles)
    q_hat = lazy.map_blocks(pixel_quantile, 0.1, method, drop_axis=0, dtype=np.float32)
    np.testing.assert_array_equal(q_hat.compute(scheduler="synchronous"), pixel_quantile(scores, 0.1, method))


def test_dask_threads_agree_with_numpy_beyond_one_tile():
    scores = random_scores(np.random.default_rng(0), (24, 120, 130))
    lazy = da.from_array(scores, chunks=(-1, 50, -1))
    for function in (pixel_quantile, num_valid, largest_score):
        arguments = (0.1,) if function is pixel_quantile else ()
        expected = function(scores, *arguments)
        mapped = lazy.map_blocks(function, *arguments, drop_axis=0, dtype=expected.dtype)
        np.testing.assert_array_equal(mapped.compute(scheduler="threads", num_workers=2), expected)


def num_valid(scores):
    return sketch_scores(scores, 1).num_valid


def largest_score(scores):
    return sketch_scores(scores, 1).largest[..., -1]


@pytest.mark.parametrize("method", ["exact", "paper"])
def test_the_order_of_the_images_does_not_matter(method):
    rng = np.random.default_rng(0)
    scores = random_scores(rng, (30, 9, 9))
    shuffled = scores[rng.permutation(30)]
    assert pixel_quantile(scores, 0.1, method).tobytes() == pixel_quantile(shuffled, 0.1, method).tobytes()


@pytest.mark.parametrize("method", ["exact", "paper"])
def test_a_larger_alpha_never_raises_the_threshold(method):
    scores = random_scores(np.random.default_rng(0), (30, 9, 9))
    maps = [pixel_quantile(scores, alpha, method) for alpha in sorted(ALPHAS)]
    assert all((larger <= smaller).all() for smaller, larger in pairwise(maps))


def test_an_image_that_is_the_worst_everywhere_never_lowers_the_threshold():
    scores = random_scores(np.random.default_rng(0), (30, 9, 9))
    worse = np.concatenate([scores, np.ones((1, 9, 9), dtype=np.float32)])
    assert (pixel_quantile(worse, 0.1) >= np.nan_to_num(pixel_quantile(scores, 0.1), posinf=0)).all()


@pytest.mark.parametrize("method", ["exact", "paper"])
def test_a_location_without_scores_has_no_threshold_and_causes_no_warning(method):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.isnan(pixel_quantile(column(np.nan, np.nan), 0.1, method)).all()
        assert np.isnan(pixel_quantile(np.empty((0, 2, 2), np.float32), 0.1, method)).all()
        assert np.isneginf(largest_score(column(np.nan, np.nan))).all()


def test_too_few_scores_give_no_finite_threshold():
    assert pixel_quantile(column(*np.linspace(0, 1, 9)), 0.1).item() == 1
    assert pixel_quantile(column(*np.linspace(0, 1, 8)), 0.1).item() == np.inf
    assert pixel_quantile(column(*np.linspace(0, 1, 8), np.nan), 0.1).item() == np.inf


def test_reads_its_scores_only():
    scores = random_scores(np.random.default_rng(0), (5, 3, 3))
    before = scores.tobytes()
    pixel_quantile(scores, 0.2)
    pixel_quantile(scores, 0.2, "paper")
    assert scores.tobytes() == before


def test_counts_valid_scores_and_finds_the_largest():
    scores = np.stack([column(0.2, np.nan, 0.7)[:, 0], column(np.nan, np.nan, np.nan)[:, 0]], axis=2)
    assert num_valid(scores).tolist() == [[2, 0]]
    assert num_valid(scores).dtype == np.int32
    np.testing.assert_array_equal(largest_score(scores), np.float32([[0.7, -np.inf]]))


Q_HAT = np.float32([[0.3, np.inf, np.inf, np.nan]])
LARGEST = np.float32([[0.4, 0.9, 0.8, np.nan]])
VALID = np.int32([[30, 6, 12, 0]])


@pytest.mark.parametrize("policy", ["abstain", "accept"])
def test_abstaining_and_accepting_wait_for_the_labels(policy):
    np.testing.assert_array_equal(resolve_uncalibrated(Q_HAT, LARGEST, VALID, policy), Q_HAT)


def test_max_puts_the_largest_score_where_no_threshold_is_finite():
    resolved = resolve_uncalibrated(Q_HAT, LARGEST, VALID, "max")
    assert resolved.dtype == np.float32
    np.testing.assert_array_equal(resolved, np.float32([[0.3, 0.9, 0.8, np.nan]]))


def test_raise_names_the_thresholds_their_images_and_an_alpha_that_works():
    message = "2 of 4 thresholds, which have 6 to 12 valid labeled images: the smallest alpha .* them is 0.1429;"
    with pytest.raises(CalibrationError, match=message):
        resolve_uncalibrated(Q_HAT, LARGEST, VALID, "raise")


@pytest.mark.parametrize("policy", ["abstain", "accept", "max"])
def test_counts_and_largest_scores_of_one_class_serve_all_alphas_and_classes(policy):
    q_hat = np.stack([Q_HAT, np.where(VALID > 0, np.float32(np.inf), Q_HAT)])  # [A, 1, W]
    resolved = resolve_uncalibrated(q_hat, LARGEST, VALID, policy)
    expected = [resolve_uncalibrated(q, LARGEST, VALID, policy) for q in q_hat]
    np.testing.assert_array_equal(resolved, expected)
    with pytest.raises(CalibrationError, match="5 of 8 thresholds, which have 6 to 30 valid labeled images"):
        resolve_uncalibrated(q_hat, LARGEST, VALID, "raise")


def test_raise_lets_a_calibrated_map_pass():
    q_hat = np.float32([[0.3, np.nan]])
    np.testing.assert_array_equal(resolve_uncalibrated(q_hat, q_hat, np.int32([[30, 0]]), "raise"), q_hat)
