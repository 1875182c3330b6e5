"""Locations and classes with too few images of their own: the thresholds that they take instead."""

import numpy as np
import pytest
from literal import literal_group_quantile

from calib import ArrayMaps, Variant, fit, pixel_quantile

ALPHAS = (0.07, 0.15, 0.3)


def together(num_images):
    return np.zeros(num_images, dtype=np.int64)


def half_void_maps(num_images, shape, seed=0):
    """Scores of one class; in the right half most are void, and at one location all."""
    rng = np.random.default_rng(seed)
    scores = rng.random((num_images, *shape), dtype=np.float32)
    right = np.broadcast_to(np.arange(shape[1]) >= shape[1] // 2, scores.shape)
    scores[right & (rng.random(scores.shape) < 0.7)] = np.nan
    scores[:, -1, -1] = np.nan
    return ArrayMaps({"score": scores, "truth": np.where(np.isnan(scores), 255, 0).astype(np.uint8)})


def pixels_of_each_image(scores, where):
    return [score[where & ~np.isnan(score)] for score in scores]


@pytest.mark.parametrize("quantile", ["exact", "paper"])
@pytest.mark.parametrize("fallback", ["neighbourhood", "image"])
@pytest.mark.parametrize("shape", [(32, 7), (53, 6), (8, 9)])
def test_locations_with_too_few_images_take_the_threshold_of_their_cell_or_map(shape, fallback, quantile):
    """Cells are squares of a 16th of the height: 2, 3 and at least 1 locations wide, cut off at the right edge."""
    maps, n_min, side = half_void_maps(30, shape), 15, max(1, shape[0] // 16)
    variant = Variant("pixel", ALPHAS, quantile, n_min=n_min, fallback=fallback)
    (fitted,) = fit(variant, maps, together(30))
    scores = maps.maps["score"]
    num_valid = np.isfinite(scores).sum(axis=0)
    expected = np.stack([pixel_quantile(scores, alpha, quantile) for alpha in ALPHAS])
    num_images = num_valid.copy()
    cell_of = np.indices(shape) // side if fallback == "neighbourhood" else np.zeros((2, *shape), dtype=int)
    for corner in np.unique(cell_of.reshape(2, -1), axis=1).T:
        cell = (cell_of == corner.reshape(2, 1, 1)).all(axis=0)
        images = pixels_of_each_image(scores, cell)
        too_few = cell & (num_valid < n_min)
        expected[:, too_few] = np.reshape([literal_group_quantile(images, alpha, quantile) for alpha in ALPHAS], (3, 1))
        num_images[too_few] = sum(map(bool, map(len, images)))
    for i in range(len(ALPHAS)):
        np.testing.assert_array_equal(fitted.map(i), expected[i])
    np.testing.assert_array_equal(fitted.num_images[0][fitted.region], num_images)
    assert fitted.fallen_back == (num_valid < n_min).sum() > 0


def test_a_location_with_exactly_n_min_images_keeps_its_own_threshold():
    scores = np.random.default_rng(0).random((20, 32, 2), dtype=np.float32)
    scores[:8, 0, 0], scores[:9, 1, 1] = np.nan, np.nan
    maps = ArrayMaps({"score": scores, "truth": np.where(np.isnan(scores), 255, 0).astype(np.uint8)})
    (own,), (fallen,) = (fit(Variant("pixel", (0.3,), n_min=n_min), maps, together(20)) for n_min in (0, 12))
    assert (own.fallen_back, fallen.fallen_back) == (0, 1)
    assert np.argwhere(own.map(0) != fallen.map(0)).tolist() == [[1, 1]]


def test_folds_fall_back_by_their_own_counts():
    maps = half_void_maps(30, (32, 6))
    folds = np.arange(30) % 2
    fits = fit(Variant("pixel", ALPHAS, n_min=12), maps, folds)
    scores = maps.maps["score"]
    for fitted, used in zip(fits, [folds >= 0, folds != 0, folds != 1], strict=True):
        assert fitted.fallen_back == (np.isfinite(scores[used]).sum(axis=0) < 12).sum()
    assert fits[0].fallen_back < fits[1].fallen_back


CENTRES = (0.1, 0.12, 0.11, 0.45, 0.47, 0.46, 0.85, 0.87, 0.86)  # scores of nine classes: three kinds
RARE, ABSENT = 9, 10


def planted_classes(num_images=40):
    """Score maps whose classes are of three kinds; one class more is in three images only, and one in none."""
    rng = np.random.default_rng(0)
    truth = rng.integers(0, len(CENTRES), size=(num_images, 8, 9)).astype(np.uint8)
    truth[:3, :, 0] = RARE
    centres = np.array([*CENTRES, 0.65])[truth]
    scores = np.clip(centres + 0.05 * rng.normal(size=truth.shape) + 0.05 * rng.normal(size=(num_images, 1, 1)), 0, 1)
    return ArrayMaps({"score": scores.astype(np.float32), "truth": truth})


def clustered(num_clusters, alphas=(0.1, 0.2), **settings):
    return Variant(
        "image", alphas, classes="clustered", num_classes=ABSENT + 1, class_clusters=num_clusters, **settings
    )


@pytest.mark.parametrize("seed", range(3))
def test_finds_planted_clusters_of_classes_and_pools_the_scores_of_each(seed):
    maps = planted_classes()
    (fitted,) = fit(clustered(3, seed=seed), maps, together(40))
    scores, truth = maps.maps["score"], maps.maps["truth"]
    for first in (0, 3, 6):
        kind = np.isin(truth, range(first, first + 3))
        images = [score[where] for score, where in zip(scores, kind, strict=True)]
        expected = np.float32([literal_group_quantile(images, alpha) for alpha in (0.1, 0.2)])
        for c in range(first, first + 3):
            np.testing.assert_array_equal(fitted.q[:, c, 0], expected)
            assert fitted.num_images[c, 0] == 40
    assert len(np.unique(fitted.q[0, :9])) == 3


def test_classes_with_too_few_images_take_the_pooled_threshold():
    """Three images cannot calibrate 0.2, four could: the rare class shares the threshold of all pixels."""
    maps = planted_classes()
    (fitted,), (pooled,) = (fit(v, maps, together(40)) for v in (clustered(3), Variant("image", (0.1, 0.2))))
    for c in (RARE, ABSENT):
        np.testing.assert_array_equal(fitted.q[:, c], pooled.q[:, 0])
        assert fitted.num_images[c] == pooled.num_images[0] == 40
        assert fitted.largest[c] == pooled.largest[0]
    (wider,) = fit(clustered(4, alphas=(0.1, 0.25)), maps, together(40))  # 4 x 0.25 >= 1: now a separate cluster
    assert np.isposinf(wider.q[0, RARE, 0])
    assert wider.num_images[RARE] == 3


def test_one_cluster_is_all_classes_that_have_enough_images():
    maps = planted_classes()
    (fitted,) = fit(clustered(1), maps, together(40))
    frequent = [s[t != RARE] for s, t in zip(maps.maps["score"], maps.maps["truth"], strict=True)]
    expected = np.float32([literal_group_quantile(frequent, alpha) for alpha in (0.1, 0.2)])
    np.testing.assert_array_equal(fitted.q[:, :9, 0], np.repeat(expected[:, np.newaxis], 9, axis=1))


def test_as_many_clusters_as_classes_are_a_threshold_for_each():
    maps = planted_classes()
    each = Variant("image", (0.1, 0.2), classes="each", num_classes=ABSENT + 1)
    (fitted,), (alone,) = (fit(v, maps, together(40)) for v in (clustered(20), each))
    np.testing.assert_array_equal(fitted.q[:, :9], alone.q[:, :9])
    assert np.isinf(alone.q[:, RARE]).all()
    assert np.isnan(alone.q[:, ABSENT]).all()


def test_without_a_class_that_has_enough_images_all_take_the_pooled_threshold():
    maps = planted_classes(num_images=3)
    fitted, pooled = (fit(v, maps, together(3))[0] for v in (clustered(3), Variant("image", (0.1, 0.2))))
    assert fitted.is_class_wise
    np.testing.assert_array_equal(fitted.q, np.repeat(pooled.q, ABSENT + 1, axis=1))
    assert (fitted.num_images == 3).all()
