"""Held-out estimates: by hand, against loops over pixels, and on scores with a known distribution."""

import warnings

import numpy as np
import pytest

from calib import (
    RULES,
    SET_SIZES,
    ArrayMaps,
    Judgement,
    Variant,
    assign_folds,
    class_planes,
    each_alone,
    fit,
    judge_image,
    summarise,
)


def uniform_scores(num_images, size, void=0.0, seed=0):
    rng = np.random.default_rng(seed)
    scores = rng.random((num_images, size, size), dtype=np.float32)
    scores[rng.random(scores.shape) < void] = np.nan
    return scores


def judge_by_the_others(scores, folds, alpha, quantile="exact"):
    """Of two classes the true one, 0, has probability 1 - score everywhere."""
    truth = np.where(np.isnan(scores), 255, 0).astype(np.uint8)
    fits = fit(Variant("pixel", (alpha,), quantile), ArrayMaps({"score": scores, "truth": truth}), folds)[1:]
    return [
        judge_image(
            class_planes(np.nan_to_num(np.stack([1 - score, score])), None),
            score,
            true,
            [fits[fold].map(0)],
            ("argmax",),
            num_classes=2,
            background=None,
            uncalibrated="abstain",
        )
        for score, true, fold in zip(scores, truth, folds, strict=True)
    ]


def cross_fitted(scores, alpha, folds, quantile="exact", seed=0):
    judgements = judge_by_the_others(scores, assign_folds(each_alone(len(scores)), folds), alpha, quantile)
    return summarise(judgements, np.random.default_rng(seed))


def test_judges_every_image_by_the_thresholds_of_the_others():
    """Leave one out of 0.1, 0.2, 0.3 at alpha 0.5: the second of the two others, so only 0.3 is not covered."""
    judgements = judge_by_the_others(np.float32([0.1, 0.2, 0.3]).reshape(3, 1, 1), np.arange(3), 0.5)
    assert [judgement.covered.tolist() for judgement in judgements] == [[[1, 0]], [[1, 0]], [[0, 0]]]
    assert [judgement.valid.tolist() for judgement in judgements] == [[1, 0]] * 3
    assert [judgement.uncalibrated.tolist() for judgement in judgements] == [[0]] * 3


@pytest.mark.parametrize("method", ["exact", "paper"])
def test_agrees_with_a_loop_over_images_and_pixels(method):
    scores, folds = uniform_scores(23, 4, void=0.6), assign_folds(each_alone(23), 5)
    expected = np.zeros((23, 3), dtype=int)  # valid, covered, uncalibrated
    for image, a, b in np.ndindex(scores.shape):
        others = np.sort(scores[folds != folds[image], a, b])
        others = others[~np.isnan(others)].astype(np.float64)
        if method == "paper":
            threshold = np.float32(np.quantile(others, 1 - 0.2))
        else:
            rank = -(-(others.size + 1) * 80 // 100)
            threshold = others[rank - 1] if rank <= others.size else np.inf
        if not np.isnan(scores[image, a, b]):
            expected[image] += 1, scores[image, a, b] <= threshold, threshold == np.inf
    judgements = judge_by_the_others(scores, folds, 0.2, method)
    counted = [(j.valid.sum(), j.covered.sum(), j.uncalibrated.sum()) for j in judgements]
    np.testing.assert_array_equal(counted, expected)
    assert (expected[:, 2] > 0).any() == (method == "exact")


def test_has_the_guaranteed_coverage_on_exchangeable_images():
    """Four folds of 100 images leave n = 75 to calibrate, so k / (n + 1) = 69 / 76 is covered on average."""
    held_out = cross_fitted(uniform_scores(100, 40), 0.1, 4)
    assert held_out.coverage.value.item() == pytest.approx(69 / 76, abs=0.006)
    assert held_out.coverage.low < held_out.coverage.value < held_out.coverage.high
    assert held_out.uncalibrated == 0


def test_the_paper_method_covers_less():
    exact, paper = (cross_fitted(uniform_scores(24, 40), 0.1, 4, method) for method in ("exact", "paper"))
    assert paper.coverage.high < 0.9 < exact.coverage.value


def test_an_image_unlike_the_others_is_not_covered():
    scores = uniform_scores(30, 8)
    scores[3] = 1
    per_image = cross_fitted(scores, 0.1, 5).coverage_per_image
    assert per_image[3] == 0
    assert (np.delete(per_image, 3) > 0.5).all()


def test_void_pixels_are_not_counted_and_void_images_have_no_coverage():
    scores = uniform_scores(30, 8)
    scores[0], scores[1, :4] = np.nan, np.nan
    judgements = judge_by_the_others(scores, assign_folds(each_alone(30), 5), 0.1)
    assert [judgement.valid.sum() for judgement in judgements[:3]] == [0, 32, 64]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        held_out = summarise(judgements, np.random.default_rng(0))
    assert np.isnan(held_out.coverage_per_image[0])
    assert held_out.coverage.value == sum(judgement.covered.sum() for judgement in judgements) / (28 * 64 + 32)
    assert held_out.image_coverage.value.item() == pytest.approx(np.nanmean(held_out.coverage_per_image))


@pytest.mark.parametrize("num_images", [2, 8])
def test_locations_without_a_finite_threshold_are_covered_and_reported(num_images):
    scores = uniform_scores(num_images, 6)
    scores[1:, :, :3] = np.nan  # there image 0 is without thresholds: no other image has a score
    held_out = cross_fitted(scores, 0.1, 2)
    assert held_out.coverage.value == held_out.uncalibrated == 1
    assert held_out.sizes.value.tolist() == [[0, 0, 1]]  # every class is in the set, but none is a label
    assert held_out.keep_rate.value == 0
    assert np.isnan(held_out.precision.value)


def test_the_same_generator_gives_the_same_interval():
    scores = uniform_scores(20, 8, void=0.3)
    first, second, other = (cross_fitted(scores, 0.2, 5, seed=seed).coverage for seed in (7, 7, 8))
    assert (first.low, first.high) == (second.low, second.high)
    assert (first.low, first.high) != (other.low, other.high)


def judgements_of(covered, valid, raw_right=None):
    """Of one class, one alpha and one rule; all pixels are labeled, the covered ones correctly.

    raw_right: by image, pixels whose argmax is correct; by default all
    """
    covered, valid, raw_right = np.broadcast_arrays(covered, valid, valid if raw_right is None else raw_right)
    zero = np.zeros(1, dtype=np.int64)
    return [
        judgement(
            np.array([n]), np.array([[c]]), zero, np.array([[0, n, 0]]), np.array([[[n]]]), np.array([[[c]]]),
            raw_right=np.array([r]),
        )
        for c, n, r in zip(covered, valid, raw_right, strict=True)
    ]  # fmt: skip


def judgement(valid, covered, uncalibrated, sizes, kept, right, raw_kept=None, raw_right=None, confidence=None):
    """By default the annotator's argmax is always correct, and all its pixels are in one bin of confidence."""
    raw_kept = valid if raw_kept is None else raw_kept
    raw_right = raw_kept if raw_right is None else raw_right
    if confidence is None:
        confidence = np.zeros((641, 2), dtype=np.int64)
        confidence[0] = raw_kept.sum(), raw_right.sum()
    labeled = kept.sum(axis=2)  # every pixel has a true class
    return Judgement(valid, covered, uncalibrated, sizes, kept, right, raw_kept, raw_right, confidence, labeled)


def test_the_width_of_the_interval_follows_the_spread_of_the_images():
    """Whole images are well or badly covered, so 200 images of 10 000 pixels are 200 draws: width 2 x 1.96 sd."""
    covered = np.where(np.arange(200) < 180, 10_000, 0)
    held_out = summarise(judgements_of(covered, 10_000), np.random.default_rng(0))
    for estimate in (held_out.coverage, held_out.precision):
        assert estimate.value == 0.9
        assert estimate.high - estimate.low == pytest.approx(2 * 1.96 * np.sqrt(0.9 * 0.1 / 200), rel=0.1)


def test_the_interval_is_narrow_where_the_images_agree():
    held_out = summarise(judgements_of(np.full(200, 9_000), 10_000), np.random.default_rng(0))
    assert held_out.coverage.low == held_out.coverage.value == held_out.coverage.high == 0.9


def test_each_image_counts_the_same_in_the_mean_over_images():
    """99 small images that are covered and a large one that is not: 99 % of the images, half of the pixels."""
    valid = np.append(np.full(99, 100), 9_900)
    held_out = summarise(judgements_of(np.append(valid[:-1], 0), valid), np.random.default_rng(0))
    assert held_out.coverage.value == 0.5
    assert held_out.image_coverage.value == 0.99
    width = held_out.image_coverage.high - held_out.image_coverage.low
    assert width == pytest.approx(2 * 1.96 * np.sqrt(0.99 * 0.01 / 100), rel=0.3)


@pytest.mark.slow
def test_the_interval_contains_the_truth_for_95_of_100_data_sets():
    """Images of different size have coverage 0.6 or 1 with equal probability, 0.8 on average. Exact intervals would
    contain 0.8 in 285 +- 4 of 300 cases; intervals from 60 images contain it a little less often.
    """
    rng, held = np.random.default_rng(0), 0
    for _ in range(300):
        valid = rng.integers(1, 5, size=60) * 100
        covered = np.where(rng.random(60) < 0.5, valid, valid * 6 // 10)
        coverage = summarise(judgements_of(covered, valid), rng).coverage
        held += bool(coverage.low <= 0.8 <= coverage.high)
    assert 0.91 <= held / 300 <= 0.98


def confidences(counts):
    """Bin -> number of pixels, and of correct pixels."""
    table = np.zeros((641, 2), dtype=np.int64)
    for number, pair in counts.items():
        table[number] = pair
    return table


@pytest.mark.parametrize(("kept", "expected"), [(2, 1), (4, 1), (5, 4.5 / 5), (8, 6 / 8), (10, 6.5 / 10)])
def test_the_argmax_keeps_its_most_confident_pixels_at_the_keep_rate_of_the_labels(kept, expected):
    """4 confident pixels, all correct; 4 less confident ones, half of them correct; 4 least confident ones."""
    one = judgement(
        valid=np.array([12]),
        covered=np.array([[0]]),
        uncalibrated=np.array([0]),
        sizes=np.array([[12, 0, 0]]),
        kept=np.array([[[kept]]]),
        right=np.array([[[kept]]]),
        confidence=confidences({0: (4, 4), 10: (4, 2), 600: (4, 1)}),
    )
    held_out = summarise([one, one], np.random.default_rng(0))
    assert held_out.against_raw.same_keep.value.item() == pytest.approx(expected)


def test_paired_differences_have_narrow_intervals_where_all_images_agree():
    """The precision of the images differs much, but in every image 10 of 100 more labels are correct."""
    raw_right = np.linspace(0, 90, 40).astype(int)
    held_out = summarise(judgements_of(raw_right + 10, 100, raw_right), np.random.default_rng(0))
    assert held_out.precision.high - held_out.precision.low > 0.1
    for difference in (held_out.against_raw.precision, held_out.against_raw.precision_same_keep):
        np.testing.assert_allclose([difference.value, difference.low, difference.high], 0.1)


@pytest.mark.parametrize(("raw_right", "expected"), [(60, 1 / 2), (80, 1 / 4), (55, 3 / 4), (50, 7 / 8)])
def test_the_fraction_of_the_samples_in_which_the_labels_have_the_larger_miou(raw_right, expected):
    """A quarter of the samples has the first of two images twice, a quarter the second; equal mIoU counts one half.

    The labels are correct at 60 and 50 of 100 pixels, the argmax at 50 and `raw_right`.
    """
    held_out = summarise(judgements_of([60, 50], 100, [50, raw_right]), np.random.default_rng(0))
    assert held_out.miou_is_larger.item() == pytest.approx(expected, abs=0.04)


def test_estimates_can_be_computed_by_hand():
    """Two images, one alpha, two rules, two classes."""
    judgements = [
        judgement(
            valid=np.array([6, 2]),
            covered=np.array([[3, 2]]),
            uncalibrated=np.array([1]),
            sizes=np.array([[2, 5, 1]]),
            kept=np.array([[[4, 0], [2, 0]]]),
            right=np.array([[[3, 0], [2, 0]]]),
            raw_kept=np.array([5, 3]),
            raw_right=np.array([5, 2]),
            confidence=confidences({0: (4, 4), 3: (2, 2), 9: (2, 1)}),
        ),
        judgement(
            valid=np.array([2, 0]),
            covered=np.array([[1, 0]]),
            uncalibrated=np.array([0]),
            sizes=np.array([[0, 1, 1]]),
            kept=np.array([[[1, 1], [0, 0]]]),
            right=np.array([[[1, 0], [0, 0]]]),
            raw_kept=np.array([1, 1]),
            raw_right=np.array([1, 0]),
            confidence=confidences({3: (1, 1), 9: (1, 0)}),
        ),
    ]
    held_out = summarise(judgements, np.random.default_rng(0))
    assert held_out.coverage.value.tolist() == [6 / 10]
    assert held_out.coverage_per_class.value.tolist() == [[4 / 8, 2 / 2]]
    assert held_out.coverage_per_image.tolist() == [[5 / 8], [1 / 2]]
    assert held_out.uncalibrated.tolist() == [1 / 10]
    assert held_out.image_coverage.value.tolist() == [(5 / 8 + 1 / 2) / 2]
    sizes = dict(zip(SET_SIZES, held_out.sizes.value[0], strict=True))
    assert sizes == {"empty": 2 / 10, "one": 6 / 10, "several": 2 / 10}
    assert held_out.precision.value.tolist() == [[4 / 6, 2 / 2]]
    np.testing.assert_array_equal(held_out.precision_per_class.value, [[[4 / 5, 0 / 1], [2 / 2, np.nan]]])
    assert held_out.keep_rate.value.tolist() == [[6 / 10, 2 / 10]]
    assert held_out.recall_per_class.value.tolist() == [[[4 / 8, 0 / 2], [2 / 8, 0 / 2]]]
    assert held_out.miou.value.tolist() == [[(4 / (5 + 8 - 4) + 0) / 2, (2 / (2 + 8 - 2) + 0) / 2]]
    raw = held_out.raw
    assert raw.precision.value == 8 / 10
    assert raw.precision_per_class.value.tolist() == [6 / 6, 2 / 4]
    assert raw.recall_per_class.value.tolist() == [6 / 8, 2 / 2]
    assert raw.miou.value == (6 / (6 + 8 - 6) + 2 / (4 + 2 - 2)) / 2
    # the labels keep 6 and 2 of the 10 pixels: the 4 most confident and 2 of the next 3, all correct; half of the 4
    against = held_out.against_raw
    np.testing.assert_allclose(against.same_keep.value, [[1, 1]])
    np.testing.assert_allclose(against.precision.value, [[4 / 6 - 0.8, 1 - 0.8]])
    np.testing.assert_allclose(against.precision_same_keep.value, [[4 / 6 - 1, 0]])
    np.testing.assert_allclose(against.miou.value, held_out.miou.value - raw.miou.value)
    for estimate in (held_out.coverage_per_class, held_out.precision_per_class, held_out.keep_rate):
        np.testing.assert_array_equal(np.isnan(estimate.low), np.isnan(estimate.value))
        assert ((estimate.low <= estimate.value) & (estimate.value <= estimate.high) | np.isnan(estimate.value)).all()


def test_estimates_at_one_alpha_can_be_cleared_without_changing_the_others():
    scores = uniform_scores(20, 6)
    truth = np.zeros(scores.shape, dtype=np.uint8)
    folds = assign_folds(each_alone(20), 4)
    fits = fit(Variant("pixel", (0.1, 0.3)), ArrayMaps({"score": scores, "truth": truth}), folds)[1:]
    judgements = [
        judge_image(
            class_planes(np.stack([1 - score, score]), 0), score, true, [q.map(0), q.map(1)], RULES, 2, 0, "abstain"
        )
        for score, true, q in zip(scores, truth, (fits[fold] for fold in folds), strict=True)
    ]
    whole = summarise(judgements, np.random.default_rng(0))
    before = whole.coverage.value.copy()
    cleared = whole.without(0)
    np.testing.assert_array_equal(whole.coverage.value, before)
    np.testing.assert_array_equal(cleared.uncalibrated, whole.uncalibrated)
    assert np.isnan(cleared.coverage_per_image[:, 0]).all()
    np.testing.assert_array_equal(cleared.coverage_per_image[:, 1], whole.coverage_per_image[:, 1])
    assert np.isnan(cleared.label_fractions[0]).all()
    np.testing.assert_array_equal(cleared.label_fractions[1], whole.label_fractions[1])
    np.testing.assert_array_equal(cleared.class_fractions, [1, 0])
    others = "uncalibrated", "coverage_per_image", "label_fractions", "class_fractions", "against_raw", "miou_is_larger"
    for name, estimate in whole._asdict().items():
        if name not in (*others, "raw"):
            for now, then in zip(getattr(cleared, name), estimate, strict=True):
                assert np.isnan(now[0]).all()
                np.testing.assert_array_equal(now[1], then[1])
    assert cleared.raw is whole.raw
    assert np.isnan(cleared.against_raw.miou.value[0]).all()
    assert np.isnan(cleared.miou_is_larger[0]).all()
    np.testing.assert_array_equal(cleared.miou_is_larger[1], whole.miou_is_larger[1])
    np.testing.assert_array_equal(cleared.against_raw.miou.value[1], whole.against_raw.miou.value[1])
