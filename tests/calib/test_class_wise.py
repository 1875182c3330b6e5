"""Labels from class-wise thresholds: against sets written down by hand, and against the literal prediction sets."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from literal import literal_labels, literal_sets

from calib import (
    RULES,
    class_planes,
    class_wise_sets,
    label_class_wise,
    label_pixels,
    set_sizes,
    summarise_labels,
)

NAN = np.nan
ANY_RULE = st.sampled_from(list(RULES))
UNCALIBRATED = st.sampled_from(["abstain", "accept"])
THRESHOLDS = [NAN, -1, 0, 0.3, 0.5, 0.7, 1, np.inf]


def labels_of(probabilities, q_hat, rule, background=0, uncalibrated="abstain"):
    sets = class_wise_sets(probabilities, q_hat, background, uncalibrated)
    return label_class_wise(sets, class_planes(probabilities, background), rule, background, uncalibrated)


def one_pixel(*values):
    return np.float32(values).reshape(-1, 1, 1)


@pytest.mark.parametrize(
    ("q_hat", "expected"),  # of P = 0.5, 0.3, 0.2, whose scores are 0.5, 0.7, 0.8, under each rule
    [
        ([0.5, 0.7, 0.7], [1, 0, 0, NAN]),  # {0, 1}
        ([0.5, 0.6, 0.7], [0, 0, 0, 0]),  # {0}
        ([0.4, 0.6, 0.8], [2, 2, NAN, 2]),  # {2}: argmax is 0, which is not in the set
        ([0.4, 0.7, 0.8], [1, 1, NAN, NAN]),  # {1, 2}
        ([0.4, 0.6, 0.7], [NAN, NAN, NAN, NAN]),  # {}
        ([NAN, 0.7, NAN], [1, 1, NAN, 1]),  # {1}: a class without threshold is never in the set
        ([NAN, NAN, NAN], [NAN, NAN, NAN, NAN]),
    ],
)
def test_labels_by_the_rule(q_hat, expected):
    probabilities = 1 - one_pixel(0.5, 0.7, 0.8)
    for uncalibrated in ("abstain", "accept"):
        labels = [labels_of(probabilities, one_pixel(*q_hat), rule, 0, uncalibrated).item() for rule in RULES]
        np.testing.assert_array_equal(labels, [*expected, 0])  # raw needs no set


def test_a_class_with_too_few_images_is_in_the_set_or_not_as_uncalibrated_says():
    probabilities, q_hat = one_pixel(0.5, 0.3, 0.2), one_pixel(0.5, np.inf, 0.1)
    assert labels_of(probabilities, q_hat, "paper", uncalibrated="abstain").item() == 0
    assert labels_of(probabilities, q_hat, "paper", uncalibrated="accept").item() == 1
    everything = np.full_like(q_hat, np.inf)
    assert np.isnan(labels_of(probabilities, everything, "paper", uncalibrated="abstain")).all()
    assert labels_of(probabilities, everything, "no_background", uncalibrated="accept").item() == 0


def test_of_equals_the_lowest_index_in_the_set_wins_but_for_argmax_the_lowest_of_all():
    probabilities, q_hat = one_pixel(0.2, 0.4, 0.4), one_pixel(0.5, 0.5, 0.7)
    assert [labels_of(probabilities, q_hat, rule).item() for rule in ("paper", "no_background")] == [2, 2]
    assert np.isnan(labels_of(probabilities, q_hat, "argmax")).all()


@st.composite
def target_images(draw):
    """A probability map, a background or None, and thresholds for every class and location, some of them its scores."""
    num_classes = draw(st.integers(1, 5))
    backgrounds = [None] if num_classes == 1 else [None, 0, num_classes // 2, num_classes - 1]
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    shape = num_classes, draw(st.integers(1, 4)), draw(st.integers(1, 4))
    values = np.float32([0, 1e-9, 2e-9, 0.1, 0.3, 0.5, 0.7, 1])
    probabilities = rng.choice(values, size=shape) if draw(st.booleans()) else rng.random(shape, np.float32)
    allowed = draw(st.lists(st.sampled_from(THRESHOLDS), min_size=1, max_size=4))
    q_hat = rng.choice(np.float32(allowed), size=shape)
    own = rng.random(shape) < draw(st.sampled_from([0, 0.3]))
    return probabilities, np.where(own, 1 - probabilities, q_hat), draw(st.sampled_from(backgrounds))


@given(target_images(), ANY_RULE, UNCALIBRATED)
def test_agrees_with_the_literal_prediction_sets(image, rule, uncalibrated):
    probabilities, q_hat, background = image
    label = labels_of(probabilities, q_hat, rule, background, uncalibrated)
    assert label.dtype == np.float32
    np.testing.assert_array_equal(label, literal_labels(probabilities, q_hat, background, rule, uncalibrated))


@given(target_images(), ANY_RULE, UNCALIBRATED)
def test_equal_thresholds_of_all_classes_are_one_threshold(image, rule, uncalibrated):
    probabilities, q_hat, background = image
    shared = q_hat[0]
    one = label_pixels(class_planes(probabilities, background), shared, rule, background, uncalibrated)
    each = labels_of(probabilities, np.broadcast_to(shared, probabilities.shape), rule, background, uncalibrated)
    np.testing.assert_array_equal(each, one)


@given(target_images(), ANY_RULE)
def test_sizes_and_counts_agree_with_the_literal_prediction_sets(image, rule):
    """Every class counts as in the set where none has a finite threshold, as with one threshold for all classes."""
    probabilities, q_hat, background = image
    sets = class_wise_sets(probabilities, q_hat, background, "abstain")
    label = label_class_wise(sets, class_planes(probabilities, background), rule, background, "abstain")
    no_finite = ~np.isfinite(q_hat).any(axis=0)
    too_few = no_finite & np.isposinf(q_hat).any(axis=0)
    members = literal_sets(probabilities, q_hat, "abstain")
    sizes, expected = set_sizes(*sets), np.zeros(label.shape)
    for where, classes in members.items():
        expected[where] = min(2, len(probabilities) if too_few[where] else len(classes))
    np.testing.assert_array_equal(sizes, expected)
    counts = summarise_labels(*sets, label, background)
    calibrated = [classes for where, classes in members.items() if not no_finite[where]]
    assert counts.pixels == label.size
    assert counts.kept == np.count_nonzero(~np.isnan(label))
    assert counts.uncalibrated == no_finite.sum()
    assert counts.empty == sum(not classes for classes in calibrated)
    assert counts.background_only == sum(classes == [background] for classes in calibrated)


@pytest.mark.parametrize("rule", ["paper", "no_background", "argmax"])
def test_lower_thresholds_never_label_more_pixels(rule):
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet(np.ones(4), size=(20, 20)).transpose(2, 0, 1).astype(np.float32)
    high = rng.random((4, 1, 1), dtype=np.float32) * np.ones((4, 20, 20), dtype=np.float32)
    low = high * rng.random((4, 1, 1), dtype=np.float32)
    kept = [~np.isnan(labels_of(probabilities, q_hat, rule)) for q_hat in (low, high)]
    assert (kept[0] <= kept[1]).all()
    assert kept[0].sum() < kept[1].sum()


@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_a_broken_probability_is_an_error_even_if_its_class_is_not_in_the_set(broken):
    probabilities = one_pixel(0.5, broken, 0.2)
    with pytest.raises(ValueError, match="NaN or infinite at 1 of 1 pixels"):
        labels_of(probabilities, one_pixel(0.9, -1, 0.9), "paper")
