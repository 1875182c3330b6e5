"""Partitions that can be counted by hand, planted clusters and rings, and searches repeated by brute force."""

import math
import warnings
from itertools import combinations_with_replacement

import numpy as np
import pytest
from ring_maps import flat_features, literal_rings, noisy_rings, random_features, squared_objective

from calib.regions import (
    annuli_regions,
    cells,
    centre_grid,
    kmeans_regions,
    one_region,
)


def is_dense(regions):
    return np.unique(regions).tolist() == list(range(regions.max() + 1))


def test_one_region_holds_every_location():
    regions = one_region((3, 4))
    assert regions.dtype == np.int32
    np.testing.assert_array_equal(regions, np.zeros((3, 4)))


def test_cells_are_numbered_row_by_row_and_are_smaller_at_the_edge():
    expected = [[0, 0, 1, 1, 2], [0, 0, 1, 1, 2], [3, 3, 4, 4, 5]]
    assert cells((3, 5), 2).tolist() == expected
    assert cells((3, 5), 2).dtype == np.int32


@pytest.mark.parametrize(("shape", "side"), [((4, 4), 1), ((5, 3), 2), ((7, 9), 4), ((3, 3), 100)])
def test_cells_leave_out_no_number(shape, side):
    regions = cells(shape, side)
    assert is_dense(regions)
    assert regions.max() + 1 == math.ceil(shape[0] / side) * math.ceil(shape[1] / side)


@pytest.mark.parametrize("side", [0, -1])
def test_refuses_cells_without_locations(side):
    with pytest.raises(ValueError, match=f"side must be at least 1, got {side}"):
        cells((3, 5), side)


@pytest.mark.parametrize("partition", [kmeans_regions, annuli_regions])
def test_refuses_zero_regions(partition):
    with pytest.raises(ValueError, match="num_regions must be at least 1, got 0"):
        partition(random_features((3, 3)), 0)


@pytest.mark.parametrize("partition", [kmeans_regions, annuli_regions])
@pytest.mark.parametrize("num_regions", [1, 2, 3, 5])
def test_makes_as_many_regions_as_asked_for_on_a_map_of_all_different_locations(partition, num_regions):
    features = random_features((20, 25))
    untouched = features.copy()
    regions = partition(features, num_regions)
    assert (regions.dtype, regions.shape) == (np.int32, (20, 25))
    assert np.unique(regions).tolist() == list(range(num_regions))
    np.testing.assert_array_equal(features, untouched)


@pytest.mark.parametrize("num_regions", [1, 4])
def test_a_map_without_scores_is_one_region(num_regions):
    features = np.full((4, 5, 6), np.nan, dtype=np.float32)
    for regions in (
        kmeans_regions(features, num_regions),
        annuli_regions(features, num_regions),
    ):
        assert regions.dtype == np.int32
        np.testing.assert_array_equal(regions, np.zeros((5, 6)))


def test_kmeans_separates_the_left_half_from_the_right():
    left = np.broadcast_to(np.arange(6) < 3, (4, 6))
    np.testing.assert_array_equal(kmeans_regions(flat_features(np.where(left, 0.1, 0.9)), 2), np.where(left, 0, 1))
    np.testing.assert_array_equal(kmeans_regions(flat_features(np.where(left, 0.9, 0.1)), 2), np.where(left, 1, 0))


def test_kmeans_joins_similar_scores_from_all_over_the_map():
    checkers = np.indices((6, 6)).sum(axis=0) % 2
    np.testing.assert_array_equal(kmeans_regions(flat_features(0.2 + 0.5 * checkers), 2), checkers)


def test_kmeans_finds_planted_clusters_and_numbers_them_by_their_scores():
    rng = np.random.default_rng(0)
    planted = rng.integers(0, 4, size=(30, 40))
    features = flat_features(0.1 + 0.25 * planted) + rng.normal(0, 0.01, size=(4, 30, 40)).astype(np.float32)
    np.testing.assert_array_equal(kmeans_regions(features, 4), planted)


def test_kmeans_regions_do_not_depend_on_the_order_in_which_clusters_come():
    """Other seeds make scikit-learn number the same clusters otherwise."""
    from sklearn.cluster import KMeans

    planted = np.random.default_rng(0).integers(0, 3, size=(12, 12))
    features = flat_features(np.array([0.1, 0.5, 0.9])[planted])
    points = features.reshape(4, -1).T
    numberings = {tuple(KMeans(3, random_state=seed).fit_predict(points).tolist()) for seed in range(5)}
    assert len(numberings) > 1
    for seed in range(5):
        np.testing.assert_array_equal(kmeans_regions(features, 3, seed), planted)


def test_kmeans_numbers_clusters_of_equal_mean_by_their_first_feature():
    planted = np.random.default_rng(0).integers(0, 2, size=(8, 8))
    features = np.array([[0.25, 0.5], [1, 0.75]], dtype=np.float32)[:, planted]
    for seed in range(5):
        np.testing.assert_array_equal(kmeans_regions(features, 2, seed), planted)


def test_kmeans_leaves_no_location_closer_to_another_cluster():
    features = random_features((25, 31))
    regions = kmeans_regions(features, 4)
    centres = np.stack([features[:, regions == region].mean(axis=1) for region in range(4)])
    assert (np.diff(centres.mean(axis=1)) > 0).all()
    distances = np.linalg.norm(features[np.newaxis] - centres[:, :, np.newaxis, np.newaxis], axis=1)
    assert (distances.argmin(axis=0) == regions).mean() > 0.99  # it stops within a tolerance


def test_kmeans_gives_a_location_without_scores_the_region_of_the_nearest_that_has_some():
    rng = np.random.default_rng(0)
    features = flat_features(np.where(np.arange(20) < 8, 0.1, 0.9) + np.zeros((15, 1)))
    unscored = rng.random((15, 20)) < 0.6
    features[:, unscored] = np.nan
    regions = kmeans_regions(features, 2)
    scored = np.argwhere(~unscored)
    for location in np.ndindex(15, 20):
        distances = np.linalg.norm(scored - location, axis=1)
        nearest = scored[np.isclose(distances, distances.min())]  # one of them, if several are equally near
        assert regions[location] in (nearest[:, 1] >= 8)


@pytest.mark.parametrize("values", [[0.3] * 5, [0.1, 0.9, 0.1, 0.1], [0.2, 0.2, 0.4, 0.8], [0.5], [0, 1e-12, 1]])
def test_kmeans_makes_no_more_regions_than_locations_differ(values):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        regions = kmeans_regions(flat_features([values]), 4)
    _, expected = np.unique(np.round(values, 9), return_inverse=True)
    np.testing.assert_array_equal(regions, [expected])


def test_the_grid_of_centres_starts_in_the_middle_and_reaches_as_far_as_the_reference():
    centres = centre_grid((256, 256))
    assert centres[0].tolist() == [0, 0]
    assert np.unique(centres[:, 0]).tolist() == np.unique(centres[:, 1]).tolist() == [-20, -13, -7, 0, 7, 13, 20]
    assert len(np.unique(centres, axis=0)) == len(centres) == 49
    assert np.abs(centre_grid((512, 512))).max() == 40
    assert centre_grid((6, 6)).tolist() == [[0, 0]]


@pytest.mark.parametrize("centre", [(0, 0), (4, -3), (-1, 4)])
@pytest.mark.parametrize(
    "scores", [[0.1, 0.3, 0.5, 0.7], [0.9, 0.2, 0.8, 0.1], [0.999999, 0.999997, 0.999998, 0.999996]]
)
def test_the_exact_solver_finds_planted_rings(centre, scores):
    shape = 48, 56
    assert list(centre) in centre_grid(shape).tolist()
    planted = literal_rings(shape, centre, [6, 13, 21])
    np.testing.assert_array_equal(annuli_regions(flat_features(np.array(scores)[planted]), 4), planted)


@pytest.mark.parametrize(
    ("shape", "num_regions", "unscored"),
    [
        ((6, 6), 2, 0),
        ((6, 6), 4, 0.3),
        ((5, 7), 3, 0.3),
        ((11, 9), 2, 0.3),
        ((11, 9), 3, 0),
        pytest.param((11, 9), 4, 0, marks=pytest.mark.slow),
    ],
)
def test_the_exact_solver_agrees_with_trying_all_centres_and_whole_radii(shape, num_regions, unscored):
    """The first two maps are so small that the grid has one centre: there it is the radii alone."""
    features = random_features(shape)
    features[:, np.random.default_rng(1).random(shape) < unscored] = np.nan
    radii = combinations_with_replacement(range(math.ceil(math.hypot(*shape))), num_regions - 1)
    rings = [literal_rings(shape, centre, r) for r in radii for centre in centre_grid(shape)]
    best = min(rings, key=lambda regions: squared_objective(features, regions))
    rings = annuli_regions(features, num_regions)
    scored = ~np.isnan(features[0])
    np.testing.assert_array_equal(rings[scored], np.unique(best[scored], return_inverse=True)[1])
    assert len(np.unique(rings)) > 1


@pytest.mark.parametrize("seed", range(5))
def test_the_exact_solver_is_never_worse_than_random_rings_around_the_same_centres(seed):
    rng, shape = np.random.default_rng(seed), (32, 40)
    features = random_features(shape, seed)
    least = squared_objective(features, annuli_regions(features, 4))
    for _ in range(20):
        rings = literal_rings(shape, rng.choice(centre_grid(shape)), rng.integers(0, 30, size=3))
        assert least <= squared_objective(features, rings) * (1 + 1e-12)


def test_a_centre_on_a_pixel_does_not_make_that_pixel_a_ring():
    features, _ = noisy_rings((48, 48), (0, 0), [10, 16, 22])
    assert np.bincount(annuli_regions(features, 4).ravel()).min() > 20


@pytest.mark.parametrize("num_regions", [2, 4])
def test_rings_of_a_constant_map_are_numbered_without_gaps(num_regions):
    regions = annuli_regions(flat_features(np.full((20, 20), 0.3)), num_regions)
    assert is_dense(regions)
    assert regions.max() < num_regions


def test_the_exact_solver_finds_no_rings_in_a_constant_map():
    np.testing.assert_array_equal(annuli_regions(flat_features(np.full((40, 40), 0.3)), 4), one_region((40, 40)))


def test_ring_numbers_grow_from_the_inside_out():
    """Along every line from a centre outwards: here along the rows and columns through the middle of the ring 0."""
    regions = annuli_regions(noisy_rings((48, 48), (-2, 2), [10, 16, 22])[0], 4)
    row, column = np.argwhere(regions == 0).mean(axis=0).round().astype(int)
    for line in (regions[row, column:], regions[row, column::-1], regions[row:, column], regions[row::-1, column]):
        assert line[0] == 0
        assert (np.diff(line) >= 0).all()


def test_locations_without_scores_belong_to_the_ring_they_lie_in():
    features, planted = noisy_rings((48, 48), (-2, 2), [10, 16, 22])
    features[:, np.random.default_rng(0).random((48, 48)) < 0.3] = np.nan
    regions = annuli_regions(features, 4)
    unscored = np.isnan(features[0])
    assert (regions[unscored] == planted[unscored]).mean() > 0.9
    assert (regions[~unscored] == planted[~unscored]).mean() > 0.9


def test_every_ring_contains_scores():
    """All rings are equally good, and most of them miss the edge where the scores are."""
    features = flat_features(np.full((24, 24), 0.3))
    features[:, :, 3:] = np.nan
    regions = annuli_regions(features, 6)
    assert is_dense(regions)
    assert set(regions[:, :3].ravel()) == set(regions.ravel())


def test_a_single_location_with_scores_makes_one_region():
    features = np.full((4, 9, 9), np.nan, dtype=np.float32)
    features[:, 2, 3] = 0.5
    np.testing.assert_array_equal(annuli_regions(features, 4), one_region((9, 9)))
    np.testing.assert_array_equal(kmeans_regions(features, 4), one_region((9, 9)))


def test_the_same_features_and_seed_give_the_same_regions():
    features = random_features((30, 40))
    features[:, :20, :5] = np.nan
    for partition in (
        lambda: kmeans_regions(features, 4, 3),
        lambda: annuli_regions(features, 4),
    ):
        np.testing.assert_array_equal(partition(), partition())
