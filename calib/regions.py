"""Which locations share a threshold: partitions of the map into cells, clusters of like scores, or concentric rings.

Clusters and rings are the K-Means and GenAnn variants of Kandinsky conformal prediction (Brunekreef et al. 2023, arXiv
2311.11837), as its reference code (NKI-AI/kandinsky-calibration) does them. Both compare locations by some quantiles of
their scores: the reference by those of one class, we by those of the true class, whichever it is in an image.
"""

import math

import numpy as np
import numpy.typing as npt
import scipy  # loads ndimage and spatial at their first use

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
CENTRES_PER_AXIS = 7  # of the exact solver; odd, so that the middle of the map is one of them


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
    scored = has_scores(features)
    regions = one_region(scored.shape)
    if scored.any():
        regions[scored] = _cluster(features[:, scored].T.astype(np.float64), num_regions, seed)
        nearest = scipy.ndimage.distance_transform_edt(~scored, return_distances=False, return_indices=True)
        regions = regions[tuple(nearest)]
    return regions


def annuli_regions(features: Features, num_regions: int) -> Regions:
    """Cut the map into concentric rings of like scores (the reference's GenAnn variant).

    A ring holds the locations with inner radius <= distance from the centre < outer radius; in the reference, a centre
    that falls on a pixel makes that pixel a ring of its own. The search space is the reference's, as shares of the
    diagonal. Locations without scores have no say in the search, and belong to the ring in which they lie.

    The rings have the least sum of squared distances of features over the pairs of locations of a ring: exact for the
    centres of `centre_grid` and all whole radii, those beyond the reference's bounds included.

    features:    float32 [F, H, W], quantiles of the scores of each location at FEATURE_LEVELS, NaN = no scores
    num_regions: at least 1
    returns:     int32 [H, W], 0 = innermost; a ring without scores joins the next ring inwards, or else outwards; one
                 region if there are no scores at all
    raises:      ValueError unless num_regions >= 1
    """
    _require_a_region(num_regions)
    scored = has_scores(features)
    if num_regions == 1 or not scored.any():
        return one_region(scored.shape)
    return drop_unscored(_exact_rings(features, scored, num_regions), scored)


def centre_grid(shape: tuple[int, int]) -> Integers:
    """Centres that the exact solver tries: whole pixels, at most CENTRES_PER_AXIS along either axis.

    shape:   (H, W)
    returns: int64 [S, 2], row and column from the middle (H // 2, W // 2), which comes first and so wins ties
    """
    reach = CENTRE_REACH * scale_of(shape)
    steps = np.unique(np.rint(np.linspace(-reach, reach, CENTRES_PER_AXIS)).astype(np.int64))
    centres: Integers = np.stack(np.meshgrid(steps, steps, indexing="ij"), axis=-1).reshape(-1, 2)
    return centres[np.argsort((centres**2).sum(axis=1), kind="stable")]


def _require_a_region(num_regions: int) -> None:
    if num_regions < 1:
        raise ValueError(f"num_regions must be at least 1, got {num_regions}")


def has_scores(features: Features) -> Mask:
    """bool [H, W], locations that have scores. features: float32 [F, H, W], NaN = no scores."""
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


def scale_of(shape: tuple[int, ...]) -> float:
    """How many times as large as the reference's maps maps of this shape are."""
    return math.hypot(*shape) / math.hypot(*REFERENCE_SHAPE)


def distance_from(centre: npt.NDArray[np.number], shape: tuple[int, ...]) -> Floats:
    """Distance of all locations from a centre as in `centre_grid`, float64 [H, W]; exact where it is a whole number."""
    rows, columns = (np.arange(size) - (size // 2 + offset) for size, offset in zip(shape, centre, strict=True))
    distance: Floats = np.sqrt(rows[:, np.newaxis] ** 2 + columns**2)
    return distance


def drop_unscored(rings: Rings, scored: Mask) -> Regions:
    """Renumber 0, 1, ... the rings that hold scores; the others join the ring before them, or else the first."""
    holds_scores = np.bincount(rings[scored], minlength=rings.max() + 1) > 0
    number: Regions = np.maximum(np.cumsum(holds_scores, dtype=np.int32) - 1, 0)
    return number[rings]


def _exact_rings(features: Features, scored: Mask, num_rings: int) -> Rings:
    """The cheapest rings of all centres of the grid, the first centre among equals; intp [H, W]."""
    moments, least = _moments(features, scored), np.inf
    for centre in centre_grid(scored.shape):
        distance = distance_from(centre, scored.shape)
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
