"""Which locations share a threshold: partitions of the map into cells, clusters of like scores, or concentric rings.

Clusters and rings are the K-Means and GenAnn variants of Kandinsky conformal prediction (Brunekreef et al. 2023, arXiv
2311.11837), as its reference code (NKI-AI/kandinsky-calibration) does them. Both compare locations by some quantiles of
their scores: the reference by those of one class, we by those of the true class, whichever it is in an image.
"""

import math
from collections.abc import Callable
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import scipy  # loads ndimage and spatial at their first use

Solver = Literal["dp", "de"]
Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Regions = npt.NDArray[np.int32]
Rings = npt.NDArray[np.intp]
Mask = npt.NDArray[np.bool_]
Features = npt.NDArray[np.float32]

FEATURE_LEVELS = (60 / 99, 70 / 99, 80 / 99, 90 / 99)  # points 60, 70, 80, 90 of the reference's 100-point curve
SAME = 1e-7  # features no farther apart are equal: KMeans, too, cannot tell 0 from 1e-12 in a map that reaches to 1

# The reference's search space, in pixels of its maps; other maps scale it by their diagonal.
REFERENCE_SHAPE = 256, 256
CENTRE_REACH = 20.0  # of the centre, in rows and in columns, from the middle of the map
INNER_REACH, OUTER_REACH = 150.0, 300.0  # of all radii but the largest, and of the largest
CENTRES_PER_AXIS = 7  # of the exact solver; odd, so that the middle of the map is one of them

# The reference's differential evolution.
POPULATION = 10
MUTATION = 0.8
CROSSOVER = 0.7
MAX_GENERATIONS = 1000
CONVERGED = 0.5  # standard deviation of the objective over the population
MAX_PIXELS = 4096  # its objective compares all pairs of pixels: 64 MiB of float32 distances


def one_region(shape: tuple[int, int]) -> Regions:
    """Put all locations into one region (the reference's Image variant). shape: (H, W); returns int32 [H, W] of 0."""
    return np.zeros(shape, dtype=np.int32)


def cells(shape: tuple[int, int], side: int) -> Regions:
    """Cut the map into squares of side x side locations; those at the right and lower edge may be smaller.

    shape:   (H, W)
    returns: int32 [H, W], 0..cells - 1 row by row
    raises:  ValueError unless side >= 1
    """
    if side < 1:
        raise ValueError(f"side must be at least 1, got {side}")
    rows, columns = np.indices(shape, dtype=np.int32, sparse=True)
    numbered: Regions = rows // side * -(-shape[1] // side) + columns // side
    return numbered


def kmeans_regions(features: Features, num_regions: int, seed: int = 0) -> Regions:
    """Cluster the locations by their scores alone, wherever they lie (the reference's K-Means variant).

    scikit-learn's KMeans with its defaults, as in the reference, whose seed is 0. Deviations: the features are float64,
    so that the order in which threads add them up does not show in the result; locations without scores, which stop
    the reference, take the region of the nearest location that has some; regions are numbered by their scores.

    features:    float32 [F, H, W], quantiles of the scores of each location at FEATURE_LEVELS, NaN = no scores
    num_regions: at least 1
    returns:     int32 [H, W], 0 = smallest mean feature; fewer regions than asked for if fewer locations differ, one
                 region if there are no scores at all
    raises:      ValueError unless num_regions >= 1
    """
    _require_a_region(num_regions)
    scored = _has_scores(features)
    regions = one_region(scored.shape)
    if scored.any():
        regions[scored] = _cluster(features[:, scored].T.astype(np.float64), num_regions, seed)
        nearest = scipy.ndimage.distance_transform_edt(~scored, return_distances=False, return_indices=True)
        regions = regions[tuple(nearest)]
    return regions


def annuli_regions(features: Features, num_regions: int, solver: Solver = "dp", seed: int = 0) -> Regions:
    """Cut the map into concentric rings of like scores (the reference's GenAnn variant).

    A ring holds the locations with inner radius <= distance from the centre < outer radius; in the reference, a centre
    that falls on a pixel makes that pixel a ring of its own. The search space is the reference's, as shares of the
    diagonal. Locations without scores have no say in the search, and belong to the ring in which they lie.

    features:    float32 [F, H, W], quantiles of the scores of each location at FEATURE_LEVELS, NaN = no scores
    num_regions: at least 1
    solver:      "dp": the least sum of squared distances of features over the pairs of locations of a ring, exact for
                 the centres of `centre_grid` and all whole radii, those beyond the reference's bounds included;
                 "de": the reference's differential evolution of its own objective (`annuli_objective`), but seeded, on
                 at most MAX_PIXELS locations (all pairs of a 512 x 512 map take minutes), and with the radii of the
                 first population in order
    seed:        of "de"; "dp" draws nothing
    returns:     int32 [H, W], 0 = innermost; a ring without scores joins the next ring inwards, or else outwards; one
                 region if there are no scores at all
    raises:      ValueError unless num_regions >= 1
    """
    _require_a_region(num_regions)
    scored = _has_scores(features)
    if num_regions == 1 or not scored.any():
        return one_region(scored.shape)
    if solver == "dp":
        rings = _exact_rings(features, scored, num_regions)
    else:
        rings = _evolved_rings(features, scored, num_regions, np.random.default_rng(seed))
    return _drop_unscored(rings, scored)


def centre_grid(shape: tuple[int, int]) -> Integers:
    """Centres that the exact solver tries: whole pixels, at most CENTRES_PER_AXIS along either axis.

    shape:   (H, W)
    returns: int64 [S, 2], row and column from the middle (H // 2, W // 2), which comes first and so wins ties
    """
    reach = CENTRE_REACH * _scale(shape)
    steps = np.unique(np.rint(np.linspace(-reach, reach, CENTRES_PER_AXIS)).astype(np.int64))
    centres: Integers = np.stack(np.meshgrid(steps, steps, indexing="ij"), axis=-1).reshape(-1, 2)
    return centres[np.argsort((centres**2).sum(axis=1), kind="stable")]


def annuli_objective(features: Features, regions: Regions, max_pixels: int = MAX_PIXELS, seed: int = 0) -> float:
    """Judge any partition by the reference's objective: the smaller, the more alike the locations of a region.

    Sum over the regions of 1 / (H W) times the sum over all ordered pairs of their locations of the Euclidean distance
    of the features. Pairs, not means: it also favours regions of equal size.

    features:   float32 [F, H, W], NaN = no scores: in no pair
    regions:    int32 [H, W]
    max_pixels: at least 2; if more locations have scores, this many are drawn, and the sum is scaled up to all pairs
    seed:       of the draw
    returns:    >= 0
    """
    sample = _draw(features, _has_scores(features), max_pixels, np.random.default_rng(seed))
    drawn = regions.ravel()[sample.where]
    total = sum(scipy.spatial.distance.pdist(sample.points[drawn == region]).sum() for region in np.unique(drawn))
    return float(2 * total * sample.pair_weight)


def _require_a_region(num_regions: int) -> None:
    if num_regions < 1:
        raise ValueError(f"num_regions must be at least 1, got {num_regions}")


def _has_scores(features: Features) -> Mask:
    scored: Mask = np.logical_not(np.isnan(features).any(axis=0))
    return scored


def _cluster(points: Floats, num_clusters: int, seed: int) -> Regions:
    """Cluster [N, F] points; int32 [N], 0 = smallest mean, equal means in the order of the single features."""
    from sklearn.cluster import KMeans  # takes seconds to import, and nothing else needs it

    kmeans = KMeans(n_clusters=_count_distinct(points, num_clusters), random_state=seed)
    _, labels = np.unique(kmeans.fit_predict(points), return_inverse=True)
    centres = np.stack([points[labels == label].mean(axis=0) for label in range(labels.max() + 1)])
    order = np.lexsort((*centres.T[::-1], centres.mean(axis=1)))
    return np.argsort(order).astype(np.int32)[labels]


def _count_distinct(points: Floats, limit: int) -> int:
    """Count rows that differ, but not beyond the limit: that is faster than sorting them."""
    count = 0
    while count < limit and len(points):
        points = points[(np.abs(points - points[0]) > SAME).any(axis=1)]
        count += 1
    return count


def _scale(shape: tuple[int, ...]) -> float:
    return math.hypot(*shape) / math.hypot(*REFERENCE_SHAPE)


def _distance_from(centre: npt.NDArray[np.number], shape: tuple[int, ...]) -> Floats:
    """Distance of all locations from a centre as in `centre_grid`, float64 [H, W]; exact where it is a whole number."""
    rows, columns = (np.arange(size) - (size // 2 + offset) for size, offset in zip(shape, centre, strict=True))
    distance: Floats = np.sqrt(rows[:, np.newaxis] ** 2 + columns**2)
    return distance


def _drop_unscored(rings: Rings, scored: Mask) -> Regions:
    """Renumber 0, 1, ... the rings that hold scores; the others join the ring before them, or else the first."""
    holds_scores = np.bincount(rings[scored], minlength=rings.max() + 1) > 0
    number: Regions = np.maximum(np.cumsum(holds_scores, dtype=np.int32) - 1, 0)
    return number[rings]


def _exact_rings(features: Features, scored: Mask, num_rings: int) -> Rings:
    """The cheapest rings of all centres of the grid, the first centre among equals; intp [H, W]."""
    moments, least = _moments(features, scored), np.inf
    for centre in centre_grid(scored.shape):
        distance = _distance_from(centre, scored.shape)
        radii, cost = _best_radii(_ring_costs(distance.astype(np.intp).ravel(), moments), num_rings)
        if cost < least:
            least, rings = cost, np.searchsorted(radii, distance, side="right")
    return rings


def _moments(features: Features, scored: Mask) -> Floats:
    """What the cost of a ring is a sum of: 1, |x|^2 and the features x of each location, float64 [2 + F, HW].

    Locations without scores are 0. Features are taken relative to one location's: the costs then cancel less.
    """
    first = features[:, scored][:, :1, np.newaxis].astype(np.float64)
    shifted = np.where(scored, features - first, 0)
    moments = np.concatenate([scored[np.newaxis], (shifted**2).sum(axis=0, keepdims=True), shifted])
    return moments.reshape(len(moments), -1)


def _ring_costs(whole: npt.NDArray[np.intp], moments: Floats) -> Floats:
    """Cost of every ring start <= distance < end of whole radii, float64 [end, start], +inf where end < start.

    The sum of |x - y|^2 over the unordered pairs of n locations is n times the sum of their |x|^2, less the square of
    the sum of their x: prefix sums over the radius give it for all rings at once.
    """
    per_radius = [np.bincount(whole, weights=moment) for moment in moments]
    within = (np.subtract.outer(total, total) for total in (np.cumsum(np.append(0, sums)) for sums in per_radius))
    costs: Floats = next(within) * next(within)
    for feature in within:
        costs -= feature**2
    np.maximum(costs, 0, out=costs)  # rounding
    costs[np.triu_indices_from(costs, k=1)] = np.inf
    return costs


def _best_radii(costs: Floats, num_rings: int) -> tuple[Integers, float]:
    """Dynamic programme: the best g + 1 rings up to a radius are the best g up to some smaller one, and one ring more.

    Returns int64 [num_rings - 1], ascending (equal radii: an empty ring), and the total cost.
    """
    best, inner = costs[:, 0], []
    for _ in range(num_rings - 1):
        totals = best + costs
        inner.append(totals.argmin(axis=1))
        best = totals.min(axis=1)
    radii = [len(costs) - 1]
    for choice in reversed(inner):
        radii.append(int(choice[radii[-1]]))
    return np.array(radii[:0:-1], dtype=np.int64), float(best[-1])


def _evolved_rings(features: Features, scored: Mask, num_rings: int, rng: np.random.Generator) -> Rings:
    """The rings that differential evolution finds, intp [H, W]."""
    sample = _draw(features, scored, MAX_PIXELS, rng)
    distances = scipy.spatial.distance.squareform(scipy.spatial.distance.pdist(sample.points).astype(np.float32))

    def rings(individual: Floats) -> Rings:
        return np.searchsorted(individual[2:], _distance_from(individual[:2], scored.shape), side="right")

    def objective(individual: Floats) -> float:
        is_in = (rings(individual).ravel()[sample.where, np.newaxis] == np.arange(num_rings)).astype(np.float32)
        return sample.pair_weight * float(np.sum((distances @ is_in) * is_in, dtype=np.float64))

    upper = np.array([CENTRE_REACH] * 2 + [INNER_REACH] * (num_rings - 2) + [OUTER_REACH]) * _scale(scored.shape)
    lower = np.where(np.arange(len(upper)) < 2, -upper, 0)
    return rings(_evolve(objective, lower, upper, rng))


def _evolve(objective: Callable[[Floats], float], lower: Floats, upper: Floats, rng: np.random.Generator) -> Floats:
    """Minimise by DE/rand/1 with binomial crossover, which may leave a trial as it was, like the reference's."""
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
    """Row, column, radii: sort the radii, then keep all within bounds."""
    return np.clip(np.append(individual[:2], np.sort(individual[2:])), lower, upper)


class _Sample(NamedTuple):
    """Locations that have scores, and how many pairs of the map a pair of them stands for, over H W."""

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
