"""GenAnn's rings by differential evolution, as in the method's reference code, for comparison with the exact rings.

It minimises the objective of the reference (`annuli_objective`). Differences from the reference: it is seeded, compares
at most MAX_PIXELS locations (all pairs of a 512 x 512 map take minutes), and sorts the radii of the first population.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import scipy

from calib.regions import (
    CENTRE_REACH,
    Features,
    Floats,
    Mask,
    Regions,
    Rings,
    distance_from,
    drop_unscored,
    has_scores,
    one_region,
    scale_of,
)

INNER_REACH, OUTER_REACH = 150.0, 300.0  # upper bounds of all radii except the largest, and of the largest, pixels
POPULATION = 10
MUTATION = 0.8
CROSSOVER = 0.7
MAX_GENERATIONS = 1000
CONVERGED = 0.5  # standard deviation of the objective over the population
MAX_PIXELS = 4096  # the objective compares all pairs of pixels, which then have 64 MiB of float32 distances


def evolved_regions(features: Features, num_regions: int, seed: int = 0) -> Regions:
    """Concentric rings of similar scores: int32 [H, W], 0 = innermost; arguments as for `regions.annuli_regions`."""
    scored = has_scores(features)
    if num_regions == 1 or not scored.any():
        return one_region(scored.shape)
    return drop_unscored(_evolved_rings(features, scored, num_regions, np.random.default_rng(seed)), scored)


def annuli_objective(features: Features, regions: Regions, max_pixels: int = MAX_PIXELS, seed: int = 0) -> float:
    """The objective of the reference for any partition; smaller if the locations of a region are more similar.

    It is the sum over all regions of 1 / (H W) times the sum, over all ordered pairs of locations in the region, of the
    Euclidean distance of their features. As a sum over pairs and not a mean, it also favours regions of equal size.

    features:   float32 [F, H, W], NaN = no scores; such locations are in no pair
    regions:    int32 [H, W]
    max_pixels: at least 2; if more locations have scores, this many are drawn, and the sum is scaled to all pairs
    seed:       of the draw
    returns:    >= 0
    """
    sample = _draw(features, has_scores(features), max_pixels, np.random.default_rng(seed))
    drawn = regions.ravel()[sample.where]
    total = sum(scipy.spatial.distance.pdist(sample.points[drawn == region]).sum() for region in np.unique(drawn))
    return float(2 * total * sample.pair_weight)


def _evolved_rings(features: Features, scored: Mask, num_rings: int, rng: np.random.Generator) -> Rings:
    """The rings found by differential evolution: intp [H, W]."""
    sample = _draw(features, scored, MAX_PIXELS, rng)
    distances = scipy.spatial.distance.squareform(scipy.spatial.distance.pdist(sample.points).astype(np.float32))

    def rings(individual: Floats) -> Rings:
        return np.searchsorted(individual[2:], distance_from(individual[:2], scored.shape), side="right")

    def objective(individual: Floats) -> float:
        is_in = (rings(individual).ravel()[sample.where, np.newaxis] == np.arange(num_rings)).astype(np.float32)
        return sample.pair_weight * float(np.sum((distances @ is_in) * is_in, dtype=np.float64))

    upper = np.array([CENTRE_REACH] * 2 + [INNER_REACH] * (num_rings - 2) + [OUTER_REACH]) * scale_of(scored.shape)
    lower = np.where(np.arange(len(upper)) < 2, -upper, 0)
    return rings(_evolve(objective, lower, upper, rng))


def _evolve(objective: Callable[[Floats], float], lower: Floats, upper: Floats, rng: np.random.Generator) -> Floats:
    """Minimise by DE/rand/1 with binomial crossover; as in the reference, a trial may equal its parent."""
    population = np.stack([_in_order(rng.uniform(lower, upper), lower, upper) for _ in range(POPULATION)])
    fitness = np.array([objective(individual) for individual in population])
    for _ in range(MAX_GENERATIONS):
        for i in range(POPULATION):
            a, b, c = population[rng.choice(np.delete(np.arange(POPULATION), i), size=3, replace=False)]
            crossed = rng.random(len(lower)) < CROSSOVER
            trial = _in_order(np.where(crossed, a + MUTATION * (b - c), population[i]), lower, upper)
            if (trial_fitness := objective(trial)) < fitness[i]:
                population[i], fitness[i] = trial, trial_fitness
        if fitness.std(ddof=1) < CONVERGED:
            break
    best: Floats = population[fitness.argmin()]
    return best


def _in_order(individual: Floats, lower: Floats, upper: Floats) -> Floats:
    """Row, column and radii, with the radii sorted, and everything clipped to the bounds."""
    return np.clip(np.append(individual[:2], np.sort(individual[2:])), lower, upper)


class _Sample(NamedTuple):
    """A sample of the locations that have scores, and the number of pairs of the map per pair of it, over H W."""

    where: npt.NDArray[np.intp]  # [N], index into the flat map
    points: Features  # [N, F]
    pair_weight: float


def _draw(features: Features, scored: Mask, max_pixels: int, rng: np.random.Generator) -> _Sample:
    where = np.flatnonzero(scored)
    num_pairs = math.comb(len(where), 2)
    if len(where) > max_pixels:
        where = rng.choice(where, size=max_pixels, replace=False)
    pair_weight = num_pairs / max(math.comb(len(where), 2), 1) / scored.size
    return _Sample(where, features.reshape(len(features), -1)[:, where].T, pair_weight)
