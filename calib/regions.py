"""Partitions of the map into regions that share a threshold: cells, clusters of similar scores, concentric rings.

Clusters and rings are the K-Means and GenAnn variants of Kandinsky conformal prediction (Brunekreef et al. 2023, arXiv
2311.11837), as implemented in its reference code (NKI-AI/kandinsky-calibration). Both compare locations by quantiles of
their scores. The reference uses the scores of one class; this implementation uses those of each pixel's true class.
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
SAME = 1e-7  # features at most this far apart count as equal; KMeans cannot separate 0 from 1e-12 in [0, 1] either

# The reference's search space, in pixels of its maps; for other maps it is scaled by their diagonal.
REFERENCE_SHAPE = 256, 256
CENTRE_REACH = 20.0  # largest distance of the centre from the middle of the map, in rows and in columns
CENTRES_PER_AXIS = 7  # that the exact solver tries; odd, so that the middle of the map is among them


def one_region(shape: tuple[int, int]) -> Regions:
    """One region with all locations (the reference's Image variant): int32 [H, W] of 0. shape: (H, W)"""
    return np.zeros(shape, dtype=np.int32)


def cells(shape: tuple[int, int], side: int) -> Regions:
    """Divide the map into square cells of side x side locations; those at the right and lower edge may be smaller.

    shape:   (H, W)
    returns: int32 [H, W], number of the cell, counted from 0 row by row
    raises:  ValueError unless side >= 1
    """
    if side < 1:
        raise ValueError(f"side must be at least 1, got {side}")
    rows, columns = np.indices(shape, dtype=np.int32, sparse=True)
    numbered: Regions = rows // side * -(-shape[1] // side) + columns // side
    return numbered


def kmeans_regions(features: Features, num_regions: int, seed: int = 0) -> Regions:
    """Cluster the locations by their scores, independent of their position (the reference's K-Means variant).

    scikit-learn's KMeans with its defaults, as in the reference, whose seed is 0. Differences from the reference: the
    features are float64, so that the result does not depend on the order in which threads add them up; locations
    without scores, at which the reference fails, take the region of the nearest location with scores; regions are
    numbered by their scores.

    features:    float32 [F, H, W] in [0, 1], quantiles of each location's scores at FEATURE_LEVELS, NaN = no scores
    num_regions: at least 1
    returns:     int32 [H, W], 0 = smallest mean feature; fewer than num_regions regions if fewer locations differ, and
                 one region if there are no scores at all
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
    """Divide the map into concentric rings of similar scores (the reference's GenAnn variant).

    A ring contains the locations with inner radius <= distance from the centre < outer radius. (In the reference, a
    centre that coincides with a pixel makes that pixel a separate ring.) The search space is that of the reference,
    scaled by the diagonal. Locations without scores do not affect the search; they belong to the ring they lie in.

    The rings minimise the sum of squared distances of features over all pairs of locations in a ring. The minimum is
    exact for the centres of `centre_grid` and all integer radii, including those beyond the reference's bounds.

    features:    float32 [F, H, W] in [0, 1], quantiles of each location's scores at FEATURE_LEVELS, NaN = no scores
    num_regions: at least 1
    returns:     int32 [H, W], 0 = innermost. A ring without scores is merged with the next ring inwards, or outwards if
                 there is none; one region if there are no scores at all
    raises:      ValueError unless num_regions >= 1
    """
    _require_a_region(num_regions)
    scored = has_scores(features)
    if num_regions == 1 or not scored.any():
        return one_region(scored.shape)
    return drop_unscored(_exact_rings(features, scored, num_regions), scored)


def centre_grid(shape: tuple[int, int]) -> Integers:
    """The centres that the exact solver tries: whole pixels, at most CENTRES_PER_AXIS along each axis.

    shape:   (H, W)
    returns: int64 [S, 2], row and column relative to the middle (H // 2, W // 2), which comes first and so wins ties
    """
    reach = CENTRE_REACH * scale_of(shape)
    steps = np.unique(np.rint(np.linspace(-reach, reach, CENTRES_PER_AXIS)).astype(np.int64))
    centres: Integers = np.stack(np.meshgrid(steps, steps, indexing="ij"), axis=-1).reshape(-1, 2)
    return centres[np.argsort((centres**2).sum(axis=1), kind="stable")]


def _require_a_region(num_regions: int) -> None:
    if num_regions < 1:
        raise ValueError(f"num_regions must be at least 1, got {num_regions}")


def has_scores(features: Features) -> Mask:
    """Whether each location has scores, bool [H, W]. features: float32 [F, H, W], NaN = no scores"""
    scored: Mask = np.logical_not(np.isnan(features).any(axis=0))
    return scored


def _cluster(points: Floats, num_clusters: int, seed: int) -> Regions:
    """Cluster points [N, F]: int32 [N], 0 = smallest mean; equal means are ordered by the single features."""
    from sklearn.cluster import KMeans  # takes seconds to import, and few runs need it

    kmeans = KMeans(n_clusters=_count_distinct(points, num_clusters), random_state=seed)
    _, labels = np.unique(kmeans.fit_predict(points), return_inverse=True)
    centres = np.stack([points[labels == label].mean(axis=0) for label in range(labels.max() + 1)])
    order = np.lexsort((*centres.T[::-1], centres.mean(axis=1)))
    return np.argsort(order).astype(np.int32)[labels]


def _count_distinct(points: Floats, limit: int) -> int:
    """The number of different rows, or the limit if there are more; faster than sorting."""
    count = 0
    while count < limit and len(points):
        points = points[(np.abs(points - points[0]) > SAME).any(axis=1)]
        count += 1
    return count


def scale_of(shape: tuple[int, ...]) -> float:
    """The diagonal of maps of this shape, relative to that of the reference's maps."""
    return math.hypot(*shape) / math.hypot(*REFERENCE_SHAPE)


def distance_from(centre: npt.NDArray[np.number], shape: tuple[int, ...]) -> Floats:
    """The distance of each location from a centre, float64 [H, W]; exact where it is an integer.

    centre: [2], row and column as in `centre_grid`
    """
    rows, columns = (np.arange(size) - (size // 2 + offset) for size, offset in zip(shape, centre, strict=True))
    distance: Floats = np.sqrt(rows[:, np.newaxis] ** 2 + columns**2)
    return distance


def drop_unscored(rings: Rings, scored: Mask) -> Regions:
    """Number the rings with scores 0, 1, ...; a ring without is merged with the ring before it, or with the first."""
    with_scores = np.bincount(rings[scored], minlength=rings.max() + 1) > 0
    number: Regions = np.maximum(np.cumsum(with_scores, dtype=np.int32) - 1, 0)
    return number[rings]


def _exact_rings(features: Features, scored: Mask, num_rings: int) -> Rings:
    """The rings with the lowest cost over all centres of the grid, the first centre among equals: intp [H, W]."""
    moments, least = _moments(features, scored), np.inf
    for centre in centre_grid(scored.shape):
        distance = distance_from(centre, scored.shape)
        radii, cost = _best_radii(_ring_costs(distance.astype(np.intp).ravel(), moments), num_rings)
        if cost < least:
            least, rings = cost, np.searchsorted(radii, distance, side="right")
    return rings


def _moments(features: Features, scored: Mask) -> Floats:
    """The terms that the cost of a ring sums: 1, |x|^2 and the features x of each location, float64 [2 + F, HW].

    They are 0 at locations without scores. Features are relative to those of one location, for less rounding error.
    """
    first = features[:, scored][:, :1, np.newaxis].astype(np.float64)
    shifted = np.where(scored, features - first, 0)
    moments = np.concatenate([scored[np.newaxis], (shifted**2).sum(axis=0, keepdims=True), shifted])
    return moments.reshape(len(moments), -1)


def _ring_costs(whole: npt.NDArray[np.intp], moments: Floats) -> Floats:
    """The cost of every ring start <= distance < end with integer radii: float64 [end, start], +inf where end < start.

    The sum of |x - y|^2 over the unordered pairs of n locations is n times the sum of |x|^2, minus the square of the
    sum of x. Prefix sums over the radius give it for all rings at once.

    whole: intp [HW], distance of each location from the centre, rounded down
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
    """Dynamic programming: the best g + 1 rings up to a radius are the best g rings up to a smaller one, and one more.

    returns: the radii, int64 [num_rings - 1], ascending (equal radii: an empty ring), and the total cost
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
