"""The arithmetic behind one pixel, against the functions that calibrate and label whole images."""

import itertools
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import calib
from pipeline.inspect.decision import (
    Interval,
    Pixel,
    exact_intervals,
    interval_of,
    labels_at,
    listed_intervals,
    num_at_least,
    p_value,
    prediction_set,
)

POLICIES = ("abstain", "accept", "max")
coarse = st.integers(0, 8).map(lambda eighth: eighth / 8)  # so that scores and probabilities meet often
alphas = st.one_of(st.integers(1, 199).map(lambda i: i / 200), st.integers(1, 23).map(lambda i: round(i / 24, 6)))


@st.composite
def pixels(draw):
    probabilities = np.array(draw(st.lists(coarse, min_size=2, max_size=4)), np.float32)
    background = draw(st.sampled_from([None, *range(len(probabilities))]))
    return Pixel(
        probabilities, draw(st.sampled_from(list(calib.RULES))), background, draw(st.sampled_from(POLICIES[:2]))
    )


def literal_label(pixel, thresholds):
    """The rules in words, on the set itself."""
    members = [j for j, q in enumerate(thresholds) if passes(pixel, j, q)]

    def best(classes):
        return min(classes, key=lambda j: (-pixel.probabilities[j], j), default=None)

    if pixel.rule == "raw":
        return best(range(len(pixel.probabilities)))
    if pixel.rule == "paper":
        return best([j for j in members if j != pixel.background] or members)
    if pixel.rule == "no_background":
        return best(members)
    if pixel.rule == "argmax":
        top = best(range(len(pixel.probabilities)))
        return top if top in members else None
    return members[0] if len(members) == 1 else None


def passes(pixel, j, q):
    if np.isposinf(q) and pixel.uncalibrated == "abstain":
        return False
    return bool(np.float32(1) - pixel.probabilities[j] <= q)


def or_none(label):
    return None if np.isnan(label) else int(label)


@given(pixels(), st.lists(st.one_of(coarse, st.sampled_from([np.inf, np.nan])), min_size=1, max_size=6))
def test_a_label_follows_from_the_set_by_the_words_of_the_rule(pixel, thresholds):
    found = labels_at(pixel, np.array(thresholds, np.float32))
    num_classes = len(pixel.probabilities)
    assert [or_none(k) for k in found] == [literal_label(pixel, [q] * num_classes) for q in thresholds]


@given(pixels(), st.data())
def test_class_wise_thresholds_make_sets_of_their_own(pixel, data):
    some = st.one_of(coarse, st.sampled_from([np.inf, np.nan]))
    thresholds = np.array([[data.draw(some) for _ in pixel.probabilities] for _ in range(3)], np.float32)
    assert [or_none(k) for k in labels_at(pixel, thresholds)] == [literal_label(pixel, q) for q in thresholds]
    members = [j for j, q in enumerate(thresholds[0]) if passes(pixel, j, q)]
    assert prediction_set(pixel, thresholds[0]) == members


@given(pixels(), st.lists(coarse, max_size=12), st.sampled_from(POLICIES), alphas)
def test_the_intervals_say_at_every_alpha_what_calibration_gives(pixel, scores, policy, alpha):
    pixel = pixel._replace(uncalibrated="accept" if policy == "accept" else "abstain")
    scores = np.array(scores, np.float32)
    intervals = exact_intervals(pixel, scores, policy)
    q = calib.pixel_quantile(scores.reshape(-1, 1, 1), alpha)
    largest = np.array(scores.max() if len(scores) else np.nan, np.float32)
    q = calib.resolve_uncalibrated(q, largest, np.array(len(scores)), policy)
    planes = calib.class_planes(pixel.probabilities[:, None, None], pixel.background)
    label = calib.label_pixels(planes, q, pixel.rule, pixel.background, pixel.uncalibrated)
    assert interval_of(intervals, alpha).label == or_none(label[0, 0])


@given(pixels(), st.lists(coarse, max_size=12), st.sampled_from(POLICIES))
def test_the_intervals_are_all_alphas_and_neighbours_differ(pixel, scores, policy):
    intervals = exact_intervals(pixel, np.array(scores, np.float32), policy)
    assert (intervals[0].low, intervals[-1].high) == (0, 1)
    for first, second in itertools.pairwise(intervals):
        assert first.high == second.low
        assert first.label != second.label


@given(pixels(), st.lists(coarse, min_size=1, max_size=12), alphas)
def test_a_class_is_in_the_set_if_its_p_value_is_larger_than_alpha(pixel, scores, alpha):
    scores = np.array(scores, np.float32)
    q = calib.pixel_quantile(scores.reshape(-1, 1, 1), alpha).reshape(-1)
    at_least = num_at_least(scores, 1 - pixel.probabilities)
    exact = Fraction(str(alpha))
    expected = [j for j, count in enumerate(at_least) if p_value(int(count), len(scores)) > exact]
    assert prediction_set(pixel._replace(uncalibrated="accept"), q) == expected


def test_ranks_p_values_and_intervals_of_nine_scores_counted_by_hand():
    scores = np.arange(1, 10, dtype=np.float32) / 16  # 1/16 to 9/16
    pixel = Pixel(np.array([0.625, 0.5, 0.0], np.float32), "singleton", None, "abstain")  # scores 6/16, 8/16, 1
    assert num_at_least(scores, 1 - pixel.probabilities).tolist() == [4, 2, 0]
    assert [p_value(count, 9) for count in (4, 2, 0)] == [Fraction(1, 2), Fraction(3, 10), Fraction(1, 10)]
    assert exact_intervals(pixel, scores, "abstain") == [
        Interval(Fraction(0), Fraction(3, 10), None),  # below 1/10: too few scores; then two classes are in the set
        Interval(Fraction(3, 10), Fraction(1, 2), 0),
        Interval(Fraction(1, 2), Fraction(1), None),
    ]


def test_no_score_gives_no_label_at_any_alpha():
    pixel = Pixel(np.array([1, 0], np.float32), "paper", 0, "accept")
    assert exact_intervals(pixel, np.array([], np.float32), "accept") == [Interval(Fraction(0), Fraction(1), None)]


def test_listed_alphas_with_one_label_are_one_interval():
    pixel = Pixel(np.array([0.25, 0.75], np.float32), "paper", 0, "abstain")
    thresholds = np.array([np.inf, 0.75, 0.5, 0.25, 0.125], np.float32)
    intervals = listed_intervals(pixel, [0.1, 0.2, 0.3, 0.4, 0.5], thresholds)
    assert [(float(i.low), float(i.high), i.label) for i in intervals] == [
        (0.1, 0.1, None), (0.2, 0.4, 1), (0.5, 0.5, None)
    ]  # fmt: skip
    assert interval_of(intervals, 0.35).label == 1
    assert interval_of(intervals, 0.45) is None


@pytest.mark.parametrize(("policy", "label"), [("abstain", None), ("raise", None), ("accept", 1), ("max", None)])
def test_what_too_few_scores_give_is_up_to_the_policy(policy, label):
    pixel = Pixel(np.array([0.25, 0.75], np.float32), "argmax", 0, "accept" if policy == "accept" else "abstain")
    intervals = exact_intervals(pixel, np.array([0.125, 0.125], np.float32), policy)
    assert interval_of(intervals, 0.3).label == label  # two scores suffice for alpha from 1/3
    assert interval_of(intervals, 0.4).label is None
