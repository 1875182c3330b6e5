"""Thresholds of classes between their own and the pooled one: by hand, at both ends, and their coverage over draws."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calib import ArrayMaps, Thresholds, Variant, fit
from calib.groups import pool_partially

RARE, ABSENT = 2, 3
INF, NAN = np.inf, np.nan


def thresholds(q, num_images):
    """Of one alpha and region: q and num_images by class."""
    region = np.zeros((2, 2), np.int32)
    columns = np.float32(q).reshape(1, -1, 1), np.int64(num_images).reshape(-1, 1)
    return Thresholds(region, *columns, np.full((len(q), 1), 0.9, np.float32))


@pytest.mark.parametrize(
    ("own", "num_images", "pooled", "expected"),
    [
        (0.75, 20, 0.25, 0.5),  # halfway
        (0.75, 60, 0.25, 0.625),  # three quarters of its own
        (INF, 20, 0.25, 0.625),  # too few images: 1 stands for its own
        (NAN, 0, 0.25, 0.25),  # no image: the pooled one
        (0.75, 20, INF, INF),  # too few images in all
    ],
)
def test_one_class_can_be_counted_by_hand(own, num_images, pooled, expected):
    between = pool_partially(thresholds([own, 0.5], [num_images, 20]), thresholds([pooled], [80]), shrinkage=20)
    assert between.q[0, 0, 0] == expected
    assert between.is_class_wise
    assert between.num_images.tolist() == [[80], [80]]  # the images of all classes are behind each threshold


UNIT = st.floats(0, 1, width=32)


@settings(max_examples=80, deadline=None)
@given(own=UNIT, pooled=UNIT, n=st.integers(0, 1000), shrinkage=st.floats(0.01, 1000))
def test_lies_between_both_and_nearer_to_its_own_the_more_images_a_class_has(own, pooled, n, shrinkage):
    all_images = thresholds([pooled], [1000])
    q, with_more = (
        pool_partially(thresholds([own, own], [images] * 2), all_images, shrinkage).q[0, 0, 0] for images in (n, n + 1)
    )
    low, high = sorted((np.float32(own), np.float32(pooled)))
    assert np.nextafter(low, np.float32(-1)) <= q <= np.nextafter(high, np.float32(2))
    assert abs(with_more - own) <= abs(q - own) + 1e-7


def images_with_a_rare_hard_class(rng, num_images):
    """Scores and true classes [L, 4, 8] of three classes; a third of the images have the rare one, in two pixels."""
    truth = np.tile(np.uint8([[0] * 4 + [1] * 4] * 4), (num_images, 1, 1))
    truth[rng.random(num_images) < 1 / 3, 0, :2] = RARE
    noise = 0.5 * rng.normal(size=(num_images, 1, 1)) + 0.5 * rng.normal(size=truth.shape)
    return (1 / (1 + np.exp(-np.array([-2, -1.5, 1])[truth] - noise))).astype(np.float32), truth


def fitted(scores, truth, **changes):
    variant = Variant("image", (0.1,), classes="partial", num_classes=ABSENT + 1)
    maps = ArrayMaps({"score": scores, "truth": truth})
    return fit(replace(variant, **changes), maps, np.zeros(len(scores), np.int64))[0]


def test_without_shrinkage_a_class_has_its_own_threshold_and_with_much_the_pooled_one():
    images = images_with_a_rare_hard_class(np.random.default_rng(0), 60)
    own, pooled = (fitted(*images, classes=classes) for classes in ("each", "pooled"))
    np.testing.assert_allclose(fitted(*images, class_shrinkage=1e-9).q[0, :ABSENT], own.q[0, :ABSENT], rtol=1e-6)
    np.testing.assert_allclose(
        fitted(*images, class_shrinkage=1e12).q[0, :, 0], np.repeat(pooled.q[0, :, 0], ABSENT + 1), rtol=1e-6
    )
    assert np.isnan(own.q[0, ABSENT, 0])
    assert fitted(*images, class_shrinkage=1e-9).q[0, ABSENT, 0] == pooled.q[0, 0, 0]


def coverage_of_classes(classes, num_images, draws=40):
    """Fraction of a new image's pixels of each class that are covered: mean over draws, and standard error."""
    rng, fractions = np.random.default_rng(0), []
    for _ in range(draws):
        scores, truth = images_with_a_rare_hard_class(rng, num_images + 60)
        thresholds = fitted(scores[:num_images], truth[:num_images], classes=classes)
        q_of_classes = np.broadcast_to(thresholds.q[0, :, 0], ABSENT + 1)
        covered = scores[num_images:] <= q_of_classes[truth[num_images:]]
        fractions.append([covered[truth[num_images:] == c].mean() for c in range(ABSENT)])
    return np.mean(fractions, axis=0), np.std(fractions, axis=0) / math.sqrt(draws)


def test_the_coverage_of_a_class_lies_between_those_of_both():
    """With 60 images, 20 of which have the rare class, its threshold is about halfway."""
    (pooled, _), (partial, _), (each, error) = (coverage_of_classes(c, 60) for c in ("pooled", "partial", "each"))
    low, high = np.minimum(pooled, each), np.maximum(pooled, each)
    assert (low <= partial).all()
    assert (partial <= high).all()
    assert pooled[RARE] + 0.1 < partial[RARE] < each[RARE] - 0.02
    assert (each >= 0.9 - 3.3 * error).all()
