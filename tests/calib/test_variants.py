"""Every variant against thresholds computed literally, and without any influence of held-out images."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from literal import literal_group_quantile, literal_risk_threshold

from calib import ArrayMaps, CalibrationError, Variant, class_planes, fit, pixel_quantile, true_class_scores
from calib.regions import FEATURE_LEVELS, annuli_regions, kmeans_regions

ALPHAS = (0.07, 0.15, 0.3)
NUM_CLASSES = 4
BACKGROUND = 0


def labeled_images(num_images, shape=(12, 10), seed=0, void=0.15):
    """Maps of images that differ as a whole, by place and by class; the last class is in few images."""
    rng = np.random.default_rng(seed)
    height, width = shape
    truth = rng.integers(0, NUM_CLASSES - 1, size=(num_images, *shape)).astype(np.uint8)
    truth[:4, :2, :2] = NUM_CLASSES - 1
    truth[rng.random(truth.shape) < void] = 255
    distance = np.hypot(*np.meshgrid(np.linspace(-1, 1, height), np.linspace(-1, 1, width), indexing="ij"))
    hardness = rng.normal(size=(num_images, 1, 1)) + 2 * distance + 0.5 * (truth % 8)
    noise = rng.normal(size=(num_images, NUM_CLASSES, *shape))
    logits = noise + (2 - hardness)[:, None] * (truth[:, None] == np.arange(NUM_CLASSES)[:, None, None])
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return probabilities.astype(np.float32), truth


def maps_of(probabilities, truth, background=BACKGROUND, block=64):
    scores = [true_class_scores(*pair) for pair in zip(probabilities, truth, strict=True)]
    planes = [class_planes(image, background) for image in probabilities]
    maps = {"score": np.stack(scores), "truth": truth}
    maps |= {name: np.stack([getattr(p, name) for p in planes]) for name in planes[0]._fields if name != "p_background"}
    if background is not None:
        maps["p_background"] = np.stack([p.p_background for p in planes])
    return ArrayMaps(maps, block)


def together(num_images):
    """No image is held out."""
    return np.zeros(num_images, dtype=np.int64)


VARIANTS = {
    "pixel": Variant("pixel", ALPHAS),
    "pixel, paper": Variant("pixel", ALPHAS, quantile="paper"),
    "pixel, cells": Variant("pixel", ALPHAS, n_min=18),
    "pixel, image": Variant("pixel", ALPHAS, n_min=18, fallback="image"),
    "image": Variant("image", ALPHAS),
    "image, naive": Variant("image", ALPHAS, pooling="naive"),
    "image, paper": Variant("image", ALPHAS, quantile="paper"),
    "image, each": Variant("image", ALPHAS, classes="each", num_classes=NUM_CLASSES),
    "image, clustered": Variant("image", ALPHAS, classes="clustered", num_classes=NUM_CLASSES, class_clusters=2),
    "image, partial": Variant("image", ALPHAS, classes="partial", num_classes=NUM_CLASSES),
    "kernel": Variant("kernel", ALPHAS, bandwidth=0.1),
    "kernel, paper": Variant("kernel", ALPHAS, quantile="paper", bandwidth=0.7),
    "kmeans": Variant("kmeans", ALPHAS, num_regions=3),
    "kmeans, each": Variant("kmeans", ALPHAS, num_regions=3, classes="each", num_classes=NUM_CLASSES),
    "genann": Variant("genann", ALPHAS, num_regions=3),
    "genann, naive": Variant("genann", ALPHAS, num_regions=3, pooling="naive", quantile="paper"),
    "genann, clustered": Variant(
        "genann", ALPHAS, num_regions=2, classes="clustered", num_classes=NUM_CLASSES, class_clusters=2
    ),
    "risk": Variant("risk", ALPHAS, background=BACKGROUND),
}
SLOW = ("pixel, cells", "pixel, image")
every_variant = pytest.mark.parametrize(
    "variant",
    [pytest.param(VARIANTS[name], marks=pytest.mark.slow) if name in SLOW else VARIANTS[name] for name in VARIANTS],
    ids=VARIANTS,
)


def literal_thresholds(variant, maps, region, classes_of_column):
    """Threshold of every alpha, column of classes and region, from the scores in it, as [A, C, R] of float32."""
    scores, truth = maps.maps["score"], maps.maps["truth"]
    q = np.empty((len(variant.alphas), len(classes_of_column), region.max() + 1), dtype=np.float32)
    for column, classes in enumerate(classes_of_column):
        for r in range(region.max() + 1):
            inside = (region == r) & np.isin(truth, classes) & ~np.isnan(scores)
            images = [score[where] for score, where in zip(scores, inside, strict=True)]
            for i, alpha in enumerate(variant.alphas):
                q[i, column, r] = literal_group_quantile(images, alpha, variant.quantile, variant.pooling)
    return q


def literal_regions(variant, scores):
    """The regions computed from the quantiles of these scores."""
    if variant.name == "image":
        return np.zeros(scores.shape[1:], dtype=np.int32)
    features = np.nanquantile(scores.astype(np.float64), FEATURE_LEVELS, axis=0).astype(np.float32)
    if variant.name == "kmeans":
        return kmeans_regions(features, variant.num_regions, variant.seed)
    return annuli_regions(features, variant.num_regions)


@pytest.mark.parametrize(
    ("name", "classes", "quantile", "pooling"),
    [
        ("image", "pooled", "exact", "naive"),
        ("image", "pooled", "paper", "hierarchical"),
        ("image", "each", "exact", "hierarchical"),
        ("kmeans", "pooled", "exact", "hierarchical"),
        ("kmeans", "each", "paper", "naive"),
        ("genann", "pooled", "paper", "naive"),
        ("genann", "each", "exact", "hierarchical"),
    ],
)
def test_thresholds_of_regions_agree_with_sums_of_fractions(name, classes, quantile, pooling):
    maps = maps_of(*labeled_images(22))
    variant = Variant(name, ALPHAS, quantile, pooling, classes, NUM_CLASSES, num_regions=3)
    (fitted,) = fit(variant, maps, together(22))
    np.testing.assert_array_equal(fitted.region, literal_regions(variant, maps.maps["score"]))
    columns = [range(NUM_CLASSES)] if classes == "pooled" else [[c] for c in range(NUM_CLASSES)]
    expected = literal_thresholds(variant, maps, fitted.region, columns)
    assert fitted.q.dtype == np.float32
    np.testing.assert_array_equal(fitted.q, expected)
    assert fitted.is_class_wise == (classes == "each")
    assert fitted.fallen_back == 0
    if name == "image" and classes == "each" and quantile == "exact" and pooling == "hierarchical":
        assert np.isinf(fitted.q[:2, -1]).all()  # the last class: 4 images are too few for 0.15


@pytest.mark.parametrize("quantile", ["exact", "paper"])
def test_pixel_has_the_thresholds_of_every_location(quantile):
    maps = maps_of(*labeled_images(22, void=0.4))
    (fitted,) = fit(Variant("pixel", ALPHAS, quantile), maps, together(22))
    scores = maps.maps["score"]
    for i, alpha in enumerate(ALPHAS):
        np.testing.assert_array_equal(fitted.map(i), pixel_quantile(scores, alpha, quantile))
        np.testing.assert_array_equal(fitted.map(i, slice(2, 5)), fitted.map(i)[2:5])
    np.testing.assert_array_equal(fitted.num_images[0][fitted.region], np.isfinite(scores).sum(axis=0))
    np.testing.assert_array_equal(fitted.largest[0][fitted.region], np.nanmax(scores, axis=0))


@pytest.mark.parametrize("background", [None, BACKGROUND, NUM_CLASSES - 1])
def test_risk_counts_the_pixels_whose_most_probable_class_is_not_the_true_one(background):
    probabilities, truth = labeled_images(22)
    variant = Variant("risk", ALPHAS, background=background)
    (fitted,) = fit(variant, maps_of(probabilities, truth, background), together(22))
    best, wrong_scores = probabilities.argmax(axis=1), []
    for i in range(22):
        wrong = (best[i] != truth[i]) & (truth[i] != 255)
        wrong_scores.append((np.float32(1) - probabilities[i].max(axis=0))[wrong])
    num_valid = (truth != 255).sum(axis=(1, 2)).tolist()
    expected = [literal_risk_threshold(wrong_scores, num_valid, alpha) for alpha in ALPHAS]
    assert fitted.q.ravel().tolist() == expected
    assert fitted.region.max() == 0
    assert fitted.num_images.tolist() == [[22]]


def test_risk_refuses_an_alpha_that_is_too_small_for_its_images_and_names_the_smallest_possible():
    maps = maps_of(*labeled_images(18))
    with pytest.raises(CalibrationError, match=r"18 labeled .* at alpha 0.05: the smallest possible alpha is 0.05264;"):
        fit(Variant("risk", (0.2, 0.05), background=BACKGROUND), maps, together(18))
    (fitted,) = fit(Variant("risk", (0.05264,), background=BACKGROUND), maps, together(18))
    assert np.isfinite(fitted.q).all()


def test_risk_labels_nothing_in_a_fold_if_the_other_folds_are_too_few():
    """All 19 images can bound 0.05, the 9 of one half cannot: without a label, there is no wrong one."""
    fits = fit(Variant("risk", (0.05, 0.3), background=BACKGROUND), maps_of(*labeled_images(19)), np.arange(19) % 2)
    assert [fold.q[0].item() for fold in fits[1:]] == [-1, -1]
    assert all(fold.q[1].item() > 0 for fold in fits)


def test_fixed_is_one_number_that_does_not_depend_on_the_images():
    fits = fit(Variant("fixed", ALPHAS, fixed_threshold=0.75), maps_of(*labeled_images(6)), np.arange(6) % 2)
    assert [fitted.q.ravel().tolist() for fitted in fits] == [[0.25] * 3] * 3


def same(first, second):
    return all(np.asarray(a).tobytes() == np.asarray(b).tobytes() for a, b in zip(first, second, strict=True))


@every_variant
def test_a_held_out_fold_has_no_influence(variant):
    """Without a fold, the thresholds, regions and clusters are those of the other images alone."""
    probabilities, truth = labeled_images(24)
    folds = np.random.default_rng(0).permutation(np.arange(24) % 3)
    fits = fit(variant, maps_of(probabilities, truth), folds)
    assert len(fits) == 4
    assert same(fits[0], fit(variant, maps_of(probabilities, truth), together(24))[0])
    for fold, fitted in enumerate(fits[1:]):
        others = folds != fold
        alone = fit(variant, maps_of(probabilities[others], truth[others]), together(others.sum()))
        assert len(alone) == 1
        assert same(fitted, alone[0])
    assert len({fitted.q.tobytes() for fitted in fits}) == 4


@pytest.mark.slow
@pytest.mark.parametrize("variant", [v for v in VARIANTS.values() if v.name == "pixel"], ids=lambda v: v.quantile)
def test_images_held_out_one_by_one_have_no_influence(variant):
    """A fold an image takes another way than larger folds; in whatever order, block and band, it ends at the same."""
    probabilities, truth = labeled_images(9, void=0.4)
    folds = np.random.default_rng(1).permutation(9)
    maps = Scattered(maps_of(probabilities, truth).maps, block=2)
    fits = fit(variant, maps, folds)
    assert same(fits[0], fit(variant, maps, together(9))[0])
    for fold, fitted in enumerate(fits[1:]):
        others = folds != fold
        assert same(fitted, fit(variant, maps_of(probabilities[others], truth[others]), together(8))[0])


class Scattered(ArrayMaps):
    """The same images two rows at a time, block by block, merged in pairs and backwards."""

    def bands(self, bytes_per_row):
        return [slice(top, top + 2) for top in range(0, self.shape[0], 2)]

    def reduce(self, names, function, merge, rows):
        results = []
        super().reduce(names, lambda block: results.append(function(block)), lambda *_: None, rows)
        while len(results) > 1:
            results = [merge(results.pop(), results.pop()), *results]
        return results[0]


@every_variant
def test_neither_blocks_nor_bands_nor_the_order_of_the_images_change_a_bit(variant):
    probabilities, truth = labeled_images(24, void=0.3)
    folds = np.arange(24) % 2
    maps = maps_of(probabilities, truth)
    fits = fit(variant, maps, folds)
    order = np.random.default_rng(0).permutation(24)
    shuffled = maps_of(probabilities[order], truth[order], block=5)
    for other, its_folds in [
        (replace(maps, block=1), folds),
        (replace(maps, block=7), folds),
        (Scattered(maps.maps, block=3), folds),
        (shuffled, folds[order]),
    ]:
        assert all(same(*pair) for pair in zip(fits, fit(variant, other, its_folds), strict=True))


@every_variant
def test_a_larger_alpha_never_raises_a_threshold_and_never_lowers_the_tolerated_risk(variant):
    alphas = (0.05, 0.07, 0.1, 0.15, 0.3, 0.5, 0.8)
    (fitted,) = fit(replace(variant, alphas=alphas), maps_of(*labeled_images(24)), together(24))
    for smaller, larger in pairwise(fitted.q):
        assert ((smaller <= larger) if variant.name == "risk" else ~(larger > smaller)).all()
        np.testing.assert_array_equal(np.isnan(smaller), np.isnan(larger))
    assert (fitted.q[0] != fitted.q[-1]).any()


def test_class_thresholds_come_as_a_map_for_every_class():
    maps = maps_of(*labeled_images(22))
    (fitted,) = fit(VARIANTS["kmeans, each"], maps, together(22))
    shape = NUM_CLASSES, *maps.shape
    assert fitted.map(1).shape == shape
    for c, a, b in [(0, 0, 0), (2, 5, 7), (3, 11, 9)]:
        np.testing.assert_equal(fitted.map(1)[c, a, b], fitted.q[1, c, fitted.region[a, b]])


def test_a_policy_acts_on_every_class_by_its_own_images():
    (fitted,) = fit(VARIANTS["image, each"], maps_of(*labeled_images(22)), together(22))
    assert np.isinf(fitted.q[0, -1, 0])
    assert fitted.resolve("max").q[0, -1, 0] == fitted.largest[-1, 0]
    assert same(fitted.resolve("abstain"), fitted)
    with pytest.raises(CalibrationError, match=r"of 12 thresholds, which have 4 to 4 .* all of them is 0.2;"):
        fitted.resolve("raise")
