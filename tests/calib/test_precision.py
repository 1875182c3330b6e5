"""The guaranteed precision: its probability over many draws with known truth, and a literal implementation."""

import math

import numpy as np
import pytest
from random_images import block_of, random_image

from calib import ArrayMaps, Variant, assign_folds, each_alone, fit
from calib.betting import FRACTIONS, PRIOR, LogCapital, growth, last_rejected, log_evidence
from calib.curves import LabelCurves, candidate_thresholds, curves_of
from calib.histogram import KEEP_NOTHING
from calib.precision import images_needed, is_pilot, largest_precision, log_capital, precise_threshold, shown_thresholds

ALPHA, ERROR, NUM_DRAWS, NUM_IMAGES = 0.1, 0.05, 2000, 100
MOST_FAILURES = ERROR + 3 * math.sqrt(ERROR * (1 - ERROR) / NUM_DRAWS)  # and its Monte-Carlo error


def population(rng, fractions_wrong):
    """500 images whose labels are wrong in these mean fractions of the pixels, by threshold: curves [500, T]."""
    num_thresholds = len(fractions_wrong)
    wrong = rng.beta(0.3, 1.0, (500, num_thresholds)) * (rng.random((500, num_thresholds)) < 0.7)
    wrong = wrong * (fractions_wrong / wrong.mean(axis=0))
    assert wrong.max() <= 1
    return LabelCurves(np.arange(500), np.ones((500, num_thresholds)), wrong)


def failures(curves, shown_by, rng):
    """Fraction of the draws of labeled images in which labels at a chosen threshold are too often wrong."""
    logs = np.log(growth(ALPHA * curves.kept - curves.wrong, 1 - ALPHA))
    num_types, num_thresholds = curves.wrong.shape
    is_bad = curves.wrong.mean(axis=0) > ALPHA
    sizes = is_pilot(NUM_IMAGES).sum(), (~is_pilot(NUM_IMAGES)).sum()
    drawn = [rng.multinomial(n, np.full(num_types, 1 / num_types), NUM_DRAWS) for n in sizes]
    sums = [(counts @ logs.reshape(num_types, -1)).reshape(NUM_DRAWS, num_thresholds, -1) for counts in drawn]
    chosen = [shown_by(LogCapital(*of_draw)) for of_draw in zip(*sums, strict=True)]
    return np.mean([shown is not None and is_bad[shown].any() for shown in chosen])


def all_shown(capital):
    shown = shown_thresholds(capital, ERROR)
    if shown is None:
        return None
    first, last = np.searchsorted(candidate_thresholds(), shown)
    return slice(first, last + 1)


def one_too_far(capital):
    shown = all_shown(capital)
    return None if shown is None else min(shown.stop, len(capital.test) - 1)


def without_an_order(capital):
    rejected = np.flatnonzero(log_evidence(capital) >= -np.log(ERROR))
    return int(rejected[-1]) if rejected.size else None


def from_the_best_test(capital):
    return last_rejected(log_evidence(capital), int(np.argmax(log_evidence(capital))), ERROR)


NEVER_PRECISE = np.full(40, ALPHA * 1.0001)
PRECISE_IN_BETWEEN = np.where(np.arange(40) % 20 < 10, 0.02, ALPHA * 1.0001)


@pytest.mark.parametrize("fractions_wrong", [NEVER_PRECISE, PRECISE_IN_BETWEEN], ids=["never precise", "in between"])
def test_the_promise_of_all_thresholds_together_fails_in_at_most_5_percent_of_2000_draws(fractions_wrong):
    rng = np.random.default_rng(0)
    assert failures(population(rng, fractions_wrong), all_shown, rng) <= MOST_FAILURES


@pytest.mark.parametrize(
    ("fractions_wrong", "invalid"),
    [
        (PRECISE_IN_BETWEEN, one_too_far),
        (NEVER_PRECISE, without_an_order),
        (NEVER_PRECISE, from_the_best_test),
    ],
)
def test_the_same_draws_reject_invalid_versions(fractions_wrong, invalid):
    rng = np.random.default_rng(0)
    assert failures(population(rng, fractions_wrong), invalid, rng) > MOST_FAILURES


def literal_threshold(curves, pilot, alpha, error):
    """As `precise_threshold`, with one gambler for every threshold and stake, image by image."""
    first, best, capitals = 0, 0.0, []
    for t in range(len(candidate_thresholds())):
        after_pilot, at_last = list(PRIOR), list(PRIOR)
        for i in range(len(curves.images)):
            gain = alpha * curves.kept[i, t] - curves.wrong[i, t]
            for b, fraction in enumerate(FRACTIONS):
                at_last[b] *= 1 + fraction / (1 - alpha) * gain
                after_pilot[b] *= 1 + fraction / (1 - alpha) * gain if pilot[i] else 1
        if sum(after_pilot) > best * (1 + 1e-9):
            first, best = t, sum(after_pilot)
        capitals.append(sum(at_last) / sum(after_pilot))
    shown = KEEP_NOTHING
    for t in range(first, len(capitals)):
        if capitals[t] < 1 / error:
            break
        shown = candidate_thresholds()[t]
    return shown


def test_fits_the_threshold_of_a_literal_loop_with_all_images_and_without_each_fold():
    images = [random_image(np.random.default_rng([5, i]), 3) for i in range(12)]
    for maps, truth in images:  # the annotator is right where it is certain
        truth[maps.max(axis=0) > 0.9] = maps.argmax(axis=0)[maps.max(axis=0) > 0.9]
    block = block_of(images, 0)
    score = np.zeros(block.maps["truth"].shape, np.float32)
    folds = assign_folds(each_alone(12), 2)
    variant = Variant("precision_paper", (0.4, 0.02), background=0, error=0.2)
    fits = fit(variant, ArrayMaps({"score": score, **block.maps}, block=7), folds)
    curves, pilot = curves_of("paper", 0, block), is_pilot(12)
    for held_out, fitted in zip([np.zeros(12, bool), folds == 0, folds == 1], fits, strict=True):
        expected = [literal_threshold(curves.of(~held_out), pilot[~held_out], alpha, 0.2) for alpha in variant.alphas]
        assert fitted.q.ravel().tolist() == expected
        assert fitted.num_images.item() == (~held_out).sum()
    assert KEEP_NOTHING < fits[0].q[0, 0, 0] < 1
    assert fits[0].q[1, 0, 0] == KEEP_NOTHING


def flawless(num_images):
    """Curves of images that are labeled completely and without an error at every threshold."""
    return LabelCurves(np.arange(num_images), *np.stack([np.ones((num_images, 641)), np.zeros((num_images, 641))]))


def is_shown(num_images, alpha, error):
    """Whether that many flawless images show the precision 1 - alpha: a sum of eight powers."""
    pilot, growths = is_pilot(num_images), [1 + fraction * alpha / (1 - alpha) for fraction in FRACTIONS]
    after_pilot = [weight * factor ** pilot.sum() for weight, factor in zip(PRIOR, growths, strict=True)]
    at_last = [start * factor ** (~pilot).sum() for start, factor in zip(after_pilot, growths, strict=True)]
    return sum(at_last) / sum(after_pilot) >= 1 / error


def test_the_number_of_images_that_would_suffice_is_the_first_of_those_tried():
    tried = [math.ceil(30 * 1.25**step) for step in range(1, 15)]
    expected = next(n for n in tried if is_shown(n, 0.05, 0.05))
    assert images_needed(flawless(30), 0.05, 0.05, np.random.default_rng(0)) == expected
    assert 66 <= expected <= 100  # nine tenths of the images are tested, and at least 59 are needed


def test_the_largest_precision_is_the_first_percent_below_the_target_that_is_shown():
    expected = next(p for p in range(94, 49, -1) if is_shown(30, 1 - p / 100, 0.05))
    assert largest_precision(flawless(30), 0.05, 0.05) == expected / 100


def test_images_without_a_right_label_show_no_precision_whatever_their_number():
    wrong = flawless(30)._replace(wrong=np.full((30, 641), 0.8))
    assert largest_precision(wrong, 0.05, 0.05) is None
    assert images_needed(wrong, 0.05, 0.05, np.random.default_rng(0)) is None


def test_a_few_images_keep_nothing():
    assert precise_threshold(log_capital(flawless(1), is_pilot(1), 0.05), 0.05) == KEEP_NOTHING
