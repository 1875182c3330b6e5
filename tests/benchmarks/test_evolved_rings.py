"""Rings by differential evolution: close to planted rings, better than the exact ones by its objective."""

import math

import numpy as np
import pytest
from evolved_rings import annuli_objective, evolved_regions
from ring_maps import flat_features, noisy_rings, random_features, squared_objective

from calib.regions import annuli_regions, cells, one_region


def literal_objective(features, regions):
    """The reference's objective as a double loop."""
    _, height, width = features.shape
    total = 0.0
    for one in np.ndindex(height, width):
        for other in np.ndindex(height, width):
            if regions[one] == regions[other] and not np.isnan(features[:, *one] + features[:, *other]).any():
                total += math.dist(features[:, *one].tolist(), features[:, *other].tolist())
    return total / (height * width)


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2))])
def test_evolution_nearly_finds_planted_rings(seed):
    features, planted = noisy_rings((32, 32), (-1, 1), [7, 11, 15])
    evolved, exact = evolved_regions(features, 4, seed), annuli_regions(features, 4)
    assert (evolved == planted).mean() > 0.9
    assert annuli_objective(features, evolved) < 1.1 * annuli_objective(features, exact)


def test_evolution_nearly_finds_rings_from_a_sample_of_their_locations(monkeypatch):
    monkeypatch.setattr("evolved_rings.MAX_PIXELS", 500)
    features, planted = noisy_rings((64, 64), (-2, 2), [12, 20, 29])
    assert (evolved_regions(features, 4) == planted).mean() > 0.9


def test_each_solver_is_the_better_one_by_its_own_objective():
    features = random_features((32, 32))
    rows, columns = np.indices((32, 32)) / 32 - 0.5
    features = features**0.3 * np.exp(-(rows**2 + columns**2) / 0.08).astype(np.float32)
    evolved, exact = evolved_regions(features, 4), annuli_regions(features, 4)
    assert annuli_objective(features, evolved) < annuli_objective(features, exact)
    assert squared_objective(features, exact) < squared_objective(features, evolved)


def test_the_rings_depend_on_the_seed_alone():
    features = random_features((30, 30))
    evolved = [evolved_regions(features, 4, seed) for seed in (0, 1, 2, 0)]
    np.testing.assert_array_equal(evolved[0], evolved[3])
    assert not all(np.array_equal(evolved[0], other) for other in evolved[1:])


def test_a_single_location_with_scores_or_none_makes_one_region():
    features = np.full((4, 9, 9), np.nan, dtype=np.float32)
    np.testing.assert_array_equal(evolved_regions(features, 4), one_region((9, 9)))
    features[:, 2, 3] = 0.5
    np.testing.assert_array_equal(evolved_regions(features, 4), one_region((9, 9)))


@pytest.mark.parametrize("unscored", [0, 0.4])
def test_the_objective_agrees_with_a_double_loop(unscored):
    rng = np.random.default_rng(0)
    features, regions = random_features((5, 6)), rng.integers(0, 3, size=(5, 6)).astype(np.int32)
    features[:, rng.random((5, 6)) < unscored] = np.nan
    assert annuli_objective(features, regions) == pytest.approx(literal_objective(features, regions), rel=1e-6)


def test_the_objective_of_two_locations_is_their_distance():
    """Two ordered pairs over two locations; features 0.3 apart at four levels are 0.6 apart."""
    features = flat_features([[0.2, 0.5]])
    assert annuli_objective(features, np.int32([[0, 0]])) == pytest.approx(0.6)
    assert annuli_objective(features, np.int32([[0, 1]])) == 0


def test_a_sample_of_the_locations_estimates_the_objective_of_all():
    features, regions = random_features((50, 60)), cells((50, 60), 25)
    features[:, :10] = np.nan
    whole = annuli_objective(features, regions, max_pixels=3000)
    parts = [annuli_objective(features, regions, max_pixels=300, seed=seed) for seed in range(40)]
    assert np.mean(parts) == pytest.approx(whole, rel=0.01)
    assert np.std(parts) > 0
