"""Means of probabilities and their weights: countable by hand, properties over random draws, an independent optimum."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from pipeline.annotators.mixture import SMALLEST, completed, fitted_weights, log_loss, mean_maps


def random_maps(rng, num_members, num_classes=4, size=(3, 5)):
    maps = rng.dirichlet(np.full(num_classes, 0.3), (num_members, *size)).astype(np.float32)
    return np.ascontiguousarray(np.moveaxis(maps, -1, 1))


def test_the_mean_of_two_members_is_countable_by_hand():
    maps = np.array([[[[0.2]], [[0.8]]], [[[0.6]], [[0.4]]]], np.float32)
    assert mean_maps(maps, [1, 3]).ravel() == pytest.approx([0.5, 0.5])
    assert mean_maps(maps, [0.5, 0.5]).ravel() == pytest.approx([0.4, 0.6])


@given(st.integers(0, 2**32 - 1), st.integers(1, 4))
def test_a_mean_has_the_sums_and_the_range_of_its_members(seed, num_members):
    rng = np.random.default_rng(seed)
    maps = random_maps(rng, num_members)
    mean = mean_maps(maps, rng.random(num_members) + 0.01)
    assert np.abs(mean.sum(axis=0) - 1).max() <= 1e-6
    assert (mean <= maps.max(axis=0) + 1e-6).all()
    assert (mean >= maps.min(axis=0) - 1e-6).all()
    assert np.array_equal(mean_maps(maps[:1], [0.3]), maps[0])


def test_a_member_without_a_class_takes_it_from_the_others_and_shares_the_rest():
    with_all, without = [0.5, 0.3, 0.2], [0.6, 0.4, 0.0]
    maps = np.array([with_all, without], np.float32)[..., None, None]
    has_class = np.array([[True, True, True], [True, True, False]])
    first, second = completed(maps, has_class)[..., 0, 0]
    assert first == pytest.approx(with_all)
    assert second == pytest.approx([0.48, 0.32, 0.2])  # 0.2 from the first, and 0.8 of its own


@given(st.integers(0, 2**32 - 1), st.integers(1, 4))
def test_completed_maps_are_probabilities_and_keep_the_order_of_own_classes(seed, num_members):
    rng = np.random.default_rng(seed)
    has_class = rng.random((num_members, 4)) < 0.7
    has_class[:, 0] = True
    maps = np.where(has_class[..., None, None], random_maps(rng, num_members), np.float32(0))
    maps /= maps.sum(axis=1, keepdims=True) + 1e-9
    whole = completed(maps, has_class)
    assert whole.min() >= 0
    assert whole.sum(axis=1).max() <= 1 + 1e-5
    nowhere = ~has_class.any(axis=0)
    assert not whole[:, nowhere].any()
    lacks_nothing = has_class.all(axis=1)
    assert np.array_equal(whole[lacks_nothing], maps[lacks_nothing])


def draws(seed, num_members, num_pixels=300):
    """Probabilities of the true class by member, some of them 0, and the importance of each pixel."""
    rng = np.random.default_rng(seed)
    skill = rng.uniform(0.3, 4, (num_members, 1))
    given_ones = rng.beta(skill, 1, (num_members, num_pixels)).astype(np.float32)
    given_ones[rng.random(given_ones.shape) < 0.02] = 0
    importance = rng.random(num_pixels)
    return given_ones, importance / importance.sum()


def smallest_loss(probabilities, importance):
    """The smallest log-loss, by another parametrisation and method: quasi-Newton steps on the logits of the weights."""
    num = len(probabilities)

    def loss(free):
        exponentials = np.exp(free - free.max())
        mean = exponentials / exponentials.sum() @ np.maximum(probabilities, SMALLEST)
        return -(importance * np.log(mean)).sum()

    return float(minimize(loss, np.zeros(num), method="L-BFGS-B").fun)


@settings(max_examples=25)
@given(st.integers(0, 2**32 - 1), st.integers(1, 4))
def test_fitted_weights_are_fractions_with_the_smallest_loss(seed, num_members):
    probabilities, importance = draws(seed, num_members)
    weights = fitted_weights(probabilities, importance)
    assert weights.min() >= 0
    assert weights.sum() == pytest.approx(1)
    fitted = log_loss(probabilities, importance, weights)
    equal = log_loss(probabilities, importance, np.full(num_members, 1 / num_members))
    assert fitted <= equal + 1e-12
    assert fitted == pytest.approx(smallest_loss(probabilities, importance), abs=1e-4)


def test_two_fitted_weights_are_those_of_a_fine_grid():
    probabilities, importance = draws(7, 2)
    grid = np.linspace(0, 1, 2001)
    losses = [log_loss(probabilities, importance, [one, 1 - one]) for one in grid]
    assert fitted_weights(probabilities, importance)[0] == pytest.approx(grid[np.argmin(losses)], abs=5e-3)


def test_a_member_that_is_always_worse_gets_no_weight():
    good = np.full(50, 0.9)
    importance = np.full(50, 1 / 50)
    assert fitted_weights(np.stack([good, good / 2]), importance) == pytest.approx([1, 0], abs=1e-5)
