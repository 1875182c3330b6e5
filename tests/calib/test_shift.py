"""Shift: p-values against all divisions one by one, their validity, Holm's correction, and what is observed."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import calib
from calib import shift


def exhaustive_p_value(labeled, unlabeled):
    """The fraction of all divisions of the images whose means differ at least as much, dimension by dimension."""
    images = [*labeled.tolist(), *unlabeled.tolist()]
    of_dimension = list(zip(*images, strict=True))
    spreads = [np.std(values) for values in of_dimension]

    def statistic(chosen):
        total = 0.0
        for values, spread in zip(of_dimension, spreads, strict=True):
            first = [values[i] for i in chosen]
            second = [values[i] for i in range(len(images)) if i not in chosen]
            if spread > 0:
                total += ((np.mean(first) - np.mean(second)) / spread) ** 2
        return total

    own = statistic(range(len(labeled)))
    divisions = list(itertools.combinations(range(len(images)), len(labeled)))
    return np.mean([statistic(chosen) >= own - 1e-9 for chosen in divisions])


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 3), st.integers(1, 5), st.integers(1, 3), st.booleans())
def test_the_p_value_is_that_of_all_divisions(seed, num_labeled, num_unlabeled, dimensions, has_ties):
    rng = np.random.default_rng(seed)
    values = rng.integers(0, 3, (num_labeled + num_unlabeled, dimensions)) if has_ties else None
    values = rng.random((num_labeled + num_unlabeled, dimensions)) if values is None else values.astype(float)
    labeled, unlabeled = values[:num_labeled], values[num_labeled:]
    expected = exhaustive_p_value(labeled, unlabeled)
    error = np.sqrt(expected * (1 - expected) / shift.NUM_DIVISIONS) + 1 / shift.NUM_DIVISIONS
    assert abs(shift.p_value(labeled, unlabeled, rng) - expected) <= 5 * error


def test_false_warnings_are_as_rare_as_promised_and_those_of_an_off_by_one_version_are_not(monkeypatch):
    """19 random divisions make the p-value a multiple of 1/20, which is uniform for exchangeable images.

    The wrong version does not count the observed division among the random ones.
    """
    monkeypatch.setattr(shift, "NUM_DIVISIONS", 19)
    rng = np.random.default_rng(0)
    draws = 2000
    p_values = np.array([shift.p_value(*np.split(rng.lognormal(size=(12, 2)), [4]), rng) for _ in range(draws)])

    def excess(p_values, level):
        """False warnings beyond the level, in standard errors."""
        return ((p_values <= level + 1e-9).mean() - level) / np.sqrt(level * (1 - level) / draws)

    assert all(abs(excess(p_values, level)) <= 4 for level in (0.05, 0.2, 0.5))
    assert excess((20 * p_values - 1) / 19, 0.01) > 4


def test_shifted_images_are_found_and_equal_ones_are_not():
    rng = np.random.default_rng(0)
    labeled = {"a": rng.normal(size=(40, 1)), "b": rng.random((40, 3))}
    unlabeled = {"a": rng.normal(1, 1, (60, 1)), "b": rng.random((60, 3))}
    tests = calib.compare(labeled, unlabeled, rng)
    assert (tests["a"].is_shift, tests["b"].is_shift) == (True, False)
    assert tests["a"].p_value == pytest.approx(1 / 2001)
    assert tests["a"].adjusted == pytest.approx(2 / 2001)
    assert tests["b"].labeled == pytest.approx(labeled["b"].mean(axis=0))
    assert tests["b"].unlabeled == pytest.approx(unlabeled["b"].mean(axis=0))


def test_images_without_any_difference_have_a_p_value_of_1():
    assert shift.p_value(np.ones((3, 2)), np.ones((5, 2)), np.random.default_rng(0)) == 1


def test_holm_by_hand():
    """Sorted: 0.01 x 3, then 0.03 x 2, then max(0.06, 0.04 x 1)."""
    assert shift.holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
    assert shift.holm([0.6, 0.5]) == [1, 1]


def test_the_most_different_images_lie_in_the_direction_of_the_difference():
    labeled = np.array([[0.0, 0], [0, 2], [0, 1]])
    unlabeled = np.array([[1.0, 1], [5, 1], [-3, 1], [3, 1]])
    assert calib.most_different(labeled, unlabeled, 2).tolist() == [1, 3]
    assert calib.most_different(labeled, unlabeled, 9).tolist() == [1, 3, 0, 2]


def test_what_is_observed_of_an_image_by_hand():
    maps = np.float32([[[0.5, 0.2, 0.1]], [[0.25, 0.7, 0.3]], [[0.25, 0.1, 0.6]]])
    observed = calib.observe(calib.class_planes(maps, 0), 0, 3)
    assert observed.pixels.tolist() == [1, 1, 1]
    assert observed.probability == pytest.approx([0.5, 0.7, 0.6])
