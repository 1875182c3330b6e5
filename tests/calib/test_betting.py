"""Tests by betting against exact expectations, the binomial and MAPIE, and fixed sequences against MAPIE's."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mapie.risk_control import control_fwer
from mapie.risk_control.methods import compute_hoeffding_bentkus_p_value

from calib.betting import FRACTIONS, PRIOR, LogCapital, last_rejected, log_evidence, log_growth, most_promising
from calib.curves import LabelCurves
from calib.precision import gains, is_pilot, log_capital


def evidence_of(pilot, test, largest_loss):
    """e-values of gains [n, T]."""
    return np.exp(log_evidence(LogCapital(log_growth(pilot, largest_loss), log_growth(test, largest_loss))))


def of_zeros_and_ones(num_wrong, n, alpha):
    """Gains of n images, [n, 1], of which some are labeled wrong in every pixel and the others right."""
    return np.where(np.arange(n)[:, np.newaxis] < num_wrong, alpha - 1, alpha)


NO_PILOT = np.zeros((0, 1))


def test_the_capital_of_images_without_an_error_is_a_power():
    capital = evidence_of(NO_PILOT, np.full((10, 1), 0.05), 0.95)
    by_stake = [weight * (1 + fraction * 0.05 / 0.95) ** 10 for fraction, weight in zip(FRACTIONS, PRIOR, strict=True)]
    assert capital[0] == pytest.approx(sum(by_stake), rel=1e-12)


def test_58_images_without_an_error_never_show_95_percent_and_59_can():
    gains = np.full((59, 1), 0.05)
    with np.errstate(divide="ignore"):
        certain = np.log((FRACTIONS == 1).astype(float))[np.newaxis]  # pilot images that leave the largest stake only
    rejected = [
        last_rejected(log_evidence(LogCapital(certain, log_growth(gains[:n], 0.95))), 0, 0.05) for n in (58, 59)
    ]
    assert rejected == [None, 0]


@settings(max_examples=20)
@given(st.integers(1, 25), st.sampled_from([0.01, 0.05, 0.3]), st.integers(0, 5))
def test_the_expected_capital_is_1_if_the_hypothesis_just_holds(n, alpha, num_wrong_pilot):
    """Exact sum over the binomial distribution; a gambler with a millesimal too much would have more than 1."""
    pilot = of_zeros_and_ones(num_wrong_pilot, 6, alpha)
    chances = [math.comb(n, k) * alpha**k * (1 - alpha) ** (n - k) for k in range(n + 1)]
    capitals = [evidence_of(pilot, of_zeros_and_ones(k, n, alpha), 1 - alpha)[0] for k in range(n + 1)]
    assert np.dot(chances, capitals) == pytest.approx(1, rel=1e-9)
    too_easy = [evidence_of(pilot, of_zeros_and_ones(k, n, alpha) + 0.001, 1 - alpha)[0] for k in range(n + 1)]
    assert np.dot(chances, too_easy) > 1 + 1e-5


@settings(max_examples=50)
@given(st.integers(0, 64), st.sampled_from([0.05, 0.1, 0.3]))
def test_no_p_value_is_below_that_of_the_binomial(num_wrong, alpha):
    """For losses of 0 and 1 no valid p-value that depends on their sum is smaller; 64 images are exact in binary."""
    p_value = 1 / evidence_of(NO_PILOT, of_zeros_and_ones(num_wrong, 64, alpha), 1 - alpha)[0]
    exact = compute_hoeffding_bentkus_p_value(np.array([num_wrong / 64]), 64, alpha, binary=True)[0, 0]
    assert p_value >= exact * (1 - 1e-9)


def test_small_losses_that_vary_little_are_shown_with_fewer_images_than_by_hoeffding_and_bentkus():
    losses = np.full((120, 1), 0.02)
    by_betting = 1 / evidence_of(NO_PILOT, 0.05 - losses, 0.95)[0]
    by_bound = compute_hoeffding_bentkus_p_value(losses.mean(axis=0), 120, 0.05)[0, 0]
    assert by_betting < 0.05 < by_bound


@settings(max_examples=50)
@given(st.lists(st.sampled_from([0.001, 0.04, 0.05, 0.2]), min_size=1, max_size=8), st.data())
def test_the_fixed_sequence_is_that_of_mapie(p_values, data):
    first = data.draw(st.integers(0, len(p_values) - 1))
    expected = control_fwer(np.array(p_values[first:]), 0.1, "fixed_sequence")
    last = last_rejected(-np.log(p_values), first, 0.1)
    assert last == (first + expected[-1] if len(expected) else None)


def test_starts_at_the_first_of_the_hypotheses_with_the_most_evidence_on_the_pilot_images():
    pilot = np.array([[0.0, 0.05, -0.1, 0.05], [0.05, 0.05, 0.05, 0.05]])
    capital = LogCapital(log_growth(pilot, 0.95), np.zeros((4, len(FRACTIONS))))
    assert most_promising(capital) == 1


def test_an_image_that_is_all_wrong_leaves_nothing_to_the_largest_stake_only():
    capital = evidence_of(NO_PILOT, np.array([[-0.95]]), 0.95)
    assert capital[0] == pytest.approx(np.dot(PRIOR, 1 - FRACTIONS), rel=1e-9)


def labels_of_images(num_images, rng):
    """Curves of images at 40 thresholds: as more pixels are labeled, more of them are labeled wrong, in some images."""
    kept = np.clip(np.linspace(0.8, 1, 40) + rng.normal(0, 0.05, (num_images, 1)), 0, 1)
    wrong = rng.beta(0.3, 2, (num_images, 1)) * (rng.random((num_images, 1)) < 0.5) * np.linspace(0.1, 2.5, 40)
    return LabelCurves(np.arange(num_images), kept, np.minimum(wrong, kept))


def test_betting_shows_more_labels_than_mapie_s_procedure_on_the_same_losses_in_most_draws():
    """Learn then Test of MAPIE: p-values of Hoeffding and Bentkus, in a fixed sequence from the same threshold on.

    Where most of the loss is that of few images, it is nearly binomial, and their bound can be the better one.
    """
    alpha, error, shown = 0.2, 0.05, []
    for draw in range(20):
        curves, pilot = labels_of_images(150, np.random.default_rng(draw)), is_pilot(150)
        capital = log_capital(curves, pilot, alpha)
        first = most_promising(capital)
        last = last_rejected(log_evidence(capital), first, error)
        losses = (alpha - gains(curves, alpha))[~pilot, first:]  # in [0, 1]
        p_values = compute_hoeffding_bentkus_p_value(losses.mean(axis=0), len(losses), alpha)[:, 0]
        by_mapie = control_fwer(p_values, error, "fixed_sequence")
        shown.append((-1 if last is None else last, first + by_mapie[-1] if len(by_mapie) else -1))
    ours, theirs = np.array(shown).T
    assert (theirs >= 0).all()
    assert (ours >= theirs - 2).all()
    assert (ours > theirs).sum() > 2 * (ours < theirs).sum()
