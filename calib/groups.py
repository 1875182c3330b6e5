"""Thresholds shared by the pixels of a map, a region or a class, computed from histograms of their scores."""

from collections.abc import Callable
from functools import partial, reduce

import numpy as np
import numpy.typing as npt

from calib import regions
from calib.histogram import (
    Histogram,
    Pooling,
    Taxonomy,
    add_image,
    empty_histogram,
    group_quantiles,
    largest_in_group,
    merge_histograms,
)
from calib.interface import Block, LabeledMaps, Thresholds, Variant
from calib.locations import location_quantiles

CLASS_LEVELS = (0.5, 0.6, 0.7, 0.8, 0.9)  # quantiles by which classes are clustered (Ding et al. 2023, section 2.2)

Partition = Callable[[Variant, regions.Features], regions.Regions]
"""Variant, score quantiles float32 [F, H, W] -> regions int32 [H, W]."""


def held_out_images(fold_of_image: npt.NDArray[np.integer]) -> list[npt.NDArray[np.bool_]]:
    """The held-out images of each fit: of the first fit none, of each further fit one fold.

    fold_of_image: integer [L]; with a single fold there is one fit
    returns:       list of bool [L]
    """
    folds = np.unique(fold_of_image)
    none = np.zeros(len(fold_of_image), dtype=np.bool_)
    return [none, *(fold_of_image == fold for fold in (folds if len(folds) > 1 else []))]


def fit_image(variant: Variant, labeled: LabeledMaps, fold_of_image: npt.NDArray[np.integer]) -> list[Thresholds]:
    """Fit of variant image: one threshold for the whole map, or one per class. Arguments and result as `calib.fit`.

    All folds need one pass over the images: each fold has its own integer histogram, and they are added up.
    """
    if variant.classes != "pooled":
        whole = regions.one_region(labeled.shape)
        return [_fit_groups(variant, labeled, whole, ~held_out) for held_out in held_out_images(fold_of_image)]
    region = regions.one_region(labeled.shape)
    taxonomy = Taxonomy(region, _pooled_groups(region))
    function = partial(_histograms_of_folds, taxonomy, variant.pooling, fold_of_image)
    rows = slice(0, labeled.shape[0])
    folds = labeled.reduce(("score", "truth"), function, _merge_folds, rows)
    num_folds = len(folds)
    held_out_folds = [None, *range(num_folds)] if num_folds > 1 else [None]
    totals = (
        reduce(merge_histograms, (one for fold, one in enumerate(folds) if fold != held_out), empty_histogram(1))
        for held_out in held_out_folds
    )
    return [_thresholds_of(variant, total, taxonomy) for total in totals]


def _histograms_of_folds(
    taxonomy: Taxonomy, pooling: Pooling, fold_of_image: npt.NDArray[np.integer], block: Block
) -> list[Histogram]:
    totals = [empty_histogram(taxonomy.num_groups) for _ in range(int(fold_of_image.max()) + 1)]
    for i, score, truth in zip(block.images, block.maps["score"], block.maps["truth"], strict=True):
        add_image(totals[fold_of_image[i]], score, truth, taxonomy, pooling)
    return totals


def _merge_folds(first: list[Histogram], second: list[Histogram]) -> list[Histogram]:
    return [merge_histograms(*pair) for pair in zip(first, second, strict=True)]


def fit_regions(
    partition: Partition, variant: Variant, labeled: LabeledMaps, fold_of_image: npt.NDArray[np.integer]
) -> list[Thresholds]:
    """Fit of variants kmeans and genann: one threshold per region, or one per region and class.

    Arguments and result as `calib.fit`.

    partition: computes the regions of each fit from the score quantiles of every location
    """
    alphas = [float(1 - level) for level in regions.FEATURE_LEVELS]
    fits = location_quantiles(labeled, fold_of_image, alphas, "paper")
    region_maps = [partition(variant, fit.q) for fit in fits]
    chosen = [~held_out for held_out in held_out_images(fold_of_image)]
    return [_fit_groups(variant, labeled, *pair) for pair in zip(region_maps, chosen, strict=True)]


def kmeans_of_scores(variant: Variant, features: regions.Features) -> regions.Regions:
    """Regions of variant kmeans: locations clustered by their score quantiles, int32 [H, W]."""
    return regions.kmeans_regions(features, variant.num_regions, variant.seed)


def rings_of_scores(variant: Variant, features: regions.Features) -> regions.Regions:
    """Regions of variant genann: concentric rings of locations with similar score quantiles, int32 [H, W]."""
    return regions.annuli_regions(features, variant.num_regions)


def _fit_groups(
    variant: Variant, labeled: LabeledMaps, region: npt.NDArray[np.int32], images: npt.NDArray[np.bool_]
) -> Thresholds:
    if variant.classes == "pooled":
        return group_thresholds(variant, labeled, region, _pooled_groups(region), images)
    num_regions = int(region.max()) + 1
    if variant.classes in ("each", "partial"):
        every = np.arange(num_regions * variant.num_classes, dtype=np.int32).reshape(num_regions, -1)
        own = group_thresholds(variant, labeled, region, every, images)
        if variant.classes == "each":
            return own
        pooled = group_thresholds(variant, labeled, region, _pooled_groups(region), images)
        return pool_partially(own, pooled, variant.class_shrinkage)
    cluster = _class_clusters(variant, labeled, images)
    num_clusters = int(cluster.max()) + 1
    groups = np.arange(num_regions, dtype=np.int32)[:, np.newaxis] * num_clusters + cluster
    groups[:, cluster < 0] = -1
    pooled = group_thresholds(variant, labeled, region, _pooled_groups(region), images)
    if num_clusters == 0:
        return _spread(pooled, variant.num_classes)
    clustered = group_thresholds(variant, labeled, region, groups, images)
    is_pooled = cluster[:, np.newaxis] < 0  # [K, 1]
    return Thresholds(
        region,
        np.where(is_pooled, pooled.q, clustered.q),
        np.where(is_pooled, pooled.num_images, clustered.num_images),
        np.where(is_pooled, pooled.largest, clustered.largest),
    )


def pool_partially(own: Thresholds, pooled: Thresholds, shrinkage: float) -> Thresholds:
    """Thresholds of the classes between their own and the pooled one, nearer to their own the more images they have.

    With n images of its own, a class has the threshold w own + (1 - w) pooled, w = n / (n + shrinkage); the largest
    score, 1, stands for its own threshold where n is too small for one. Such linear interpolation is INTERP-Q, with one
    weight for all classes (Ding, Fermanian and Salmon 2025, "Conformal prediction for long-tailed classification", ICLR
    2026, arXiv 2507.06867); weights that grow with the number of observations are those of partial pooling (Efron and
    Morris 1975).

    The coverage of a class lies between those of its own threshold, which has the guarantee of classes "each", and of
    the pooled one. Nothing more is guaranteed: neither 1 - alpha for a class, nor for all classes together.

    own:       class-wise, [K] classes
    pooled:    of the same images and regions, with one threshold for all classes
    shrinkage: number of images, above 0, at which w is one half
    """
    weight = own.num_images / (own.num_images + shrinkage)  # [K, R]
    own_q = np.where(np.isfinite(own.q), own.q, 1)
    q = (weight * own_q + (1 - weight) * pooled.q).astype(np.float32)
    return _spread(pooled, own.q.shape[1])._replace(q=q)


def _spread(thresholds: Thresholds, num_classes: int) -> Thresholds:
    """The same thresholds for every class."""
    return thresholds._replace(
        q=np.repeat(thresholds.q, num_classes, axis=1),
        num_images=np.repeat(thresholds.num_images, num_classes, axis=0),
        largest=np.repeat(thresholds.largest, num_classes, axis=0),
    )


def _pooled_groups(region: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
    """One group per region, for all classes together: int32 [R, 1]."""
    return np.arange(int(region.max()) + 1, dtype=np.int32)[:, np.newaxis]


def group_thresholds(
    variant: Variant,
    labeled: LabeledMaps,
    region: npt.NDArray[np.int32],
    group_of: npt.NDArray[np.int32],
    images: npt.NDArray[np.bool_],
) -> Thresholds:
    """Thresholds of groups of pixels, from the scores of some of the labeled images.

    region:   int32 [H, W], 0..R - 1
    group_of: int32 [R, C], as in Taxonomy
    images:   bool [L], the images to use
    """
    taxonomy = Taxonomy(region, group_of)
    return _thresholds_of(variant, _histogram(labeled, taxonomy, variant.pooling, images), taxonomy)


def _thresholds_of(variant: Variant, histogram: Histogram, taxonomy: Taxonomy) -> Thresholds:
    region, group_of = taxonomy
    q = group_quantiles(histogram, variant.alphas, variant.quantile, variant.pooling)
    outside = (group_of < 0).T
    return Thresholds(
        region,
        np.where(outside, np.float32(np.nan), q[:, group_of.T]),
        np.where(outside, 0, histogram.num_images[group_of.T]),
        np.where(outside, np.float32(np.nan), largest_in_group(histogram)[group_of.T]),
    )


def _histogram(labeled: LabeledMaps, taxonomy: Taxonomy, pooling: Pooling, images: npt.NDArray[np.bool_]) -> Histogram:
    function = partial(_histogram_of_block, taxonomy, pooling, images)
    return labeled.reduce(("score", "truth"), function, merge_histograms, slice(0, labeled.shape[0]))


def _histogram_of_block(taxonomy: Taxonomy, pooling: Pooling, images: npt.NDArray[np.bool_], block: Block) -> Histogram:
    total = empty_histogram(taxonomy.num_groups)
    for i, score, truth in zip(block.images, block.maps["score"], block.maps["truth"], strict=True):
        if images[i]:
            add_image(total, score, truth, taxonomy, pooling)
    return total


def _class_clusters(variant: Variant, labeled: LabeledMaps, images: npt.NDArray[np.bool_]) -> npt.NDArray[np.int32]:
    """Clusters of the classes by their score quantiles, weighted by the square root of their number of images.

    As in Ding et al. 2023, section 2.2.

    images:  bool [L], the images to use
    returns: int32 [K], number of the cluster; -1 for a class with too few images even for the largest alpha
    """
    every = np.arange(variant.num_classes, dtype=np.int32)[np.newaxis]
    histogram = _histogram(labeled, Taxonomy(regions.one_region(labeled.shape), every), "hierarchical", images)
    enough = np.flatnonzero(np.isfinite(group_quantiles(histogram, [max(variant.alphas)], "exact", "hierarchical")[0]))
    cluster = np.full(variant.num_classes, -1, dtype=np.int32)
    if enough.size:
        alphas = [float(round(1 - level, 2)) for level in CLASS_LEVELS]
        features = group_quantiles(histogram, alphas, "paper", "hierarchical").T[enough]
        num_clusters = min(variant.class_clusters, len(np.unique(features, axis=0)))
        from sklearn.cluster import KMeans  # takes a second to import, and few runs need it

        means = KMeans(num_clusters, n_init=10, random_state=variant.seed)
        weights = np.sqrt(histogram.num_images[enough])
        cluster[enough] = np.unique(means.fit_predict(features, sample_weight=weights), return_inverse=True)[1]
    return cluster
