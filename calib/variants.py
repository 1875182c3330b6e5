"""Score maps of the labelled images in, threshold maps out: every variant of the calibration behind one function.

A variant asks for passes over the labelled images: a function that turns a block of images into a partial result, and
one that merges two of those (`LabelledMaps.reduce`).
"""

from functools import partial, reduce

import numpy as np
import numpy.typing as npt

from calib import regions
from calib.histogram import (
    KEEP_NOTHING,
    NUM_BINS,
    Errors,
    Histogram,
    Pooling,
    Taxonomy,
    add_image,
    empty_histogram,
    group_quantile,
    image_errors,
    largest_in_group,
    merge_errors,
    merge_histograms,
    risk_threshold,
)
from calib.interface import Block, LabelledMaps, Thresholds, Variant
from calib.labels import Planes, most_probable
from calib.locations import LocationQuantiles, location_quantiles
from calib.quantile import CalibrationError, smallest_alpha

CELLS = 16  # of a neighbourhood, in the height of a map
VOID = 255
CLASS_LEVELS = (0.5, 0.6, 0.7, 0.8, 0.9)  # quantiles that tell classes apart (Ding et al. 2023, section 2.2)


def fit(variant: Variant, labelled: LabelledMaps, fold_of_image: npt.NDArray[np.integer]) -> list[Thresholds]:
    """Threshold maps from all labelled images, then those without the images of fold 0, 1, ...

    fold_of_image: integer [L], 0..F - 1; with a single fold nothing is held out, and the list has one entry
    returns:       list of 1 or 1 + F; in each, nothing was learnt from the images held out (regions and clusters of
                   classes neither)
    raises:        CalibrationError if no threshold of variant "risk" can keep the promise on all labelled images
    """
    if variant.name == "pixel":
        return _fit_pixel(variant, labelled, fold_of_image)
    chosen = [~held_out for held_out in _held_out(fold_of_image)]
    if variant.name == "fixed":
        return [_fixed(variant, labelled.shape, images) for images in chosen]
    if variant.name == "risk":
        return [_fit_risk(variant, labelled, images) for images in chosen]
    if variant.name == "image" and variant.classes == "pooled":
        return _fit_image(variant, labelled, fold_of_image)
    region_maps = _region_maps(variant, labelled, fold_of_image)
    return [_fit_groups(variant, labelled, region, images) for region, images in zip(region_maps, chosen, strict=True)]


def _held_out(fold_of_image: npt.NDArray[np.integer]) -> list[npt.NDArray[np.bool_]]:
    """Images left out of each fit: none of the first, then a fold each."""
    folds = np.unique(fold_of_image)
    nobody = np.zeros(len(fold_of_image), dtype=np.bool_)
    return [nobody, *(fold_of_image == fold for fold in (folds if len(folds) > 1 else []))]


# Pixel: locations by themselves


def _fit_pixel(variant: Variant, labelled: LabelledMaps, fold_of_image: npt.NDArray[np.integer]) -> list[Thresholds]:
    fits = location_quantiles(labelled, fold_of_image, variant.alphas, variant.quantile)
    chosen = [~held_out for held_out in _held_out(fold_of_image)]
    return [_fall_back(variant, labelled, *pair) for pair in zip(fits, chosen, strict=True)]


def _fall_back(
    variant: Variant, labelled: LabelledMaps, quantiles: LocationQuantiles, images: npt.NDArray[np.bool_]
) -> Thresholds:
    """Thresholds of locations, those with too few images from their cell or the whole map."""
    height, width = labelled.shape
    region = np.arange(height * width, dtype=np.int32).reshape(height, width)
    num_alphas = len(variant.alphas)
    own = Thresholds(
        region,
        quantiles.q.reshape(num_alphas, 1, -1),
        quantiles.num_valid.astype(np.int64).reshape(1, -1),
        quantiles.largest.reshape(1, -1),
    )
    too_few = own.num_images < variant.n_min
    if not too_few.any():
        return own
    whole = variant.fallback == "image"
    cells = regions.one_region(labelled.shape) if whole else regions.cells(labelled.shape, max(1, height // CELLS))
    needed = np.unique(cells.ravel()[too_few[0]])
    group_of = np.full((int(cells.max()) + 1, 1), -1, dtype=np.int32)
    group_of[needed, 0] = np.arange(needed.size)
    pooled = _group_thresholds(variant, labelled, cells, group_of, images)
    at = pooled.region.ravel()
    return Thresholds(
        region,
        np.where(too_few, pooled.q[:, :, at], own.q),
        np.where(too_few, pooled.num_images[:, at], own.num_images),
        np.where(too_few, pooled.largest[:, at], own.largest),
        int(np.count_nonzero(too_few)),
    )


def _fixed(variant: Variant, shape: tuple[int, int], images: npt.NDArray[np.bool_]) -> Thresholds:
    """One threshold that no image has made."""
    q = np.full((len(variant.alphas), 1, 1), 1 - variant.fixed_threshold, np.float32)
    num_images = np.full((1, 1), np.count_nonzero(images), np.int64)
    return Thresholds(regions.one_region(shape), q, num_images, np.ones((1, 1), np.float32))


# Image, k-means, GenAnn: groups of pixels


def _fit_image(variant: Variant, labelled: LabelledMaps, fold_of_image: npt.NDArray[np.integer]) -> list[Thresholds]:
    """One pass for all folds: each has a histogram of its own, and their integers add up to those of any others."""
    region = regions.one_region(labelled.shape)
    taxonomy = Taxonomy(region, _pooled_groups(region))
    function = partial(_histograms_of_folds, taxonomy, variant.pooling, fold_of_image)
    rows = slice(0, labelled.shape[0])
    folds = labelled.reduce(("score", "truth"), function, _merge_folds, rows)
    num_folds = len(folds)
    left_out = [None, *range(num_folds)] if num_folds > 1 else [None]
    totals = (
        reduce(merge_histograms, (part for fold, part in enumerate(folds) if fold != out), empty_histogram(1))
        for out in left_out
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


def _region_maps(
    variant: Variant, labelled: LabelledMaps, fold_of_image: npt.NDArray[np.integer]
) -> list[npt.NDArray[np.int32]]:
    """The regions of every fit, from the scores of its images alone."""
    num_fits = len(_held_out(fold_of_image))
    if variant.name == "image":
        return [regions.one_region(labelled.shape)] * num_fits
    alphas = [float(1 - level) for level in regions.FEATURE_LEVELS]
    features = [fit.q for fit in location_quantiles(labelled, fold_of_image, alphas, "paper")]
    if variant.name == "kmeans":
        return [regions.kmeans_regions(f, variant.num_regions, variant.seed) for f in features]
    return [regions.annuli_regions(f, variant.num_regions, variant.solver, variant.seed) for f in features]


def _fit_groups(
    variant: Variant, labelled: LabelledMaps, region: npt.NDArray[np.int32], images: npt.NDArray[np.bool_]
) -> Thresholds:
    if variant.classes == "pooled":
        return _group_thresholds(variant, labelled, region, _pooled_groups(region), images)
    num_regions = int(region.max()) + 1
    if variant.classes == "each":
        every = np.arange(num_regions * variant.num_classes, dtype=np.int32).reshape(num_regions, -1)
        return _group_thresholds(variant, labelled, region, every, images)
    cluster = _class_clusters(variant, labelled, images)
    num_clusters = int(cluster.max()) + 1
    groups = np.arange(num_regions, dtype=np.int32)[:, np.newaxis] * num_clusters + cluster
    groups[:, cluster < 0] = -1
    pooled = _group_thresholds(variant, labelled, region, _pooled_groups(region), images)
    if num_clusters == 0:
        return _spread(pooled, variant.num_classes)
    clustered = _group_thresholds(variant, labelled, region, groups, images)
    alone = cluster[:, np.newaxis] < 0  # [K, 1]
    return Thresholds(
        region,
        np.where(alone, pooled.q, clustered.q),
        np.where(alone, pooled.num_images, clustered.num_images),
        np.where(alone, pooled.largest, clustered.largest),
    )


def _spread(thresholds: Thresholds, num_classes: int) -> Thresholds:
    """The same thresholds for every class."""
    return thresholds._replace(
        q=np.repeat(thresholds.q, num_classes, axis=1),
        num_images=np.repeat(thresholds.num_images, num_classes, axis=0),
        largest=np.repeat(thresholds.largest, num_classes, axis=0),
    )


def _pooled_groups(region: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
    """A group a region, whatever the class: int32 [R, 1]."""
    return np.arange(int(region.max()) + 1, dtype=np.int32)[:, np.newaxis]


def _group_thresholds(
    variant: Variant,
    labelled: LabelledMaps,
    region: npt.NDArray[np.int32],
    group_of: npt.NDArray[np.int32],
    images: npt.NDArray[np.bool_],
) -> Thresholds:
    taxonomy = Taxonomy(region, group_of)
    return _thresholds_of(variant, _histogram(labelled, taxonomy, variant.pooling, images), taxonomy)


def _thresholds_of(variant: Variant, histogram: Histogram, taxonomy: Taxonomy) -> Thresholds:
    region, group_of = taxonomy
    q = np.stack([group_quantile(histogram, alpha, variant.quantile, variant.pooling) for alpha in variant.alphas])
    outside = (group_of < 0).T
    return Thresholds(
        region,
        np.where(outside, np.float32(np.nan), q[:, group_of.T]),
        np.where(outside, 0, histogram.num_images[group_of.T]),
        np.where(outside, np.float32(np.nan), largest_in_group(histogram)[group_of.T]),
    )


def _histogram(
    labelled: LabelledMaps, taxonomy: Taxonomy, pooling: Pooling, images: npt.NDArray[np.bool_]
) -> Histogram:
    function = partial(_histogram_of_block, taxonomy, pooling, images)
    return labelled.reduce(("score", "truth"), function, merge_histograms, slice(0, labelled.shape[0]))


def _histogram_of_block(taxonomy: Taxonomy, pooling: Pooling, images: npt.NDArray[np.bool_], block: Block) -> Histogram:
    total = empty_histogram(taxonomy.num_groups)
    for i, score, truth in zip(block.images, block.maps["score"], block.maps["truth"], strict=True):
        if images[i]:
            add_image(total, score, truth, taxonomy, pooling)
    return total


def _class_clusters(variant: Variant, labelled: LabelledMaps, images: npt.NDArray[np.bool_]) -> npt.NDArray[np.int32]:
    """Clusters of classes by their score quantiles, weighted by the square root of their number of images.

    Returns int32 [K]; -1: a class with too few images for even the largest alpha.
    """
    every = np.arange(variant.num_classes, dtype=np.int32)[np.newaxis]
    histogram = _histogram(labelled, Taxonomy(regions.one_region(labelled.shape), every), "hierarchical", images)
    enough = np.flatnonzero(np.isfinite(group_quantile(histogram, max(variant.alphas), "exact", "hierarchical")))
    cluster = np.full(variant.num_classes, -1, dtype=np.int32)
    if enough.size:
        levels = [
            group_quantile(histogram, float(round(1 - level, 2)), "paper", "hierarchical") for level in CLASS_LEVELS
        ]
        features = np.stack(levels, axis=1)[enough]
        num_clusters = min(variant.class_clusters, len(np.unique(features, axis=0)))
        from sklearn.cluster import KMeans  # a second to load, and few runs need it

        means = KMeans(num_clusters, n_init=10, random_state=variant.seed)
        weights = np.sqrt(histogram.num_images[enough])
        cluster[enough] = np.unique(means.fit_predict(features, sample_weight=weights), return_inverse=True)[1]
    return cluster


# Risk control


def _fit_risk(variant: Variant, labelled: LabelledMaps, images: npt.NDArray[np.bool_]) -> Thresholds:
    function = partial(_errors_of_block, variant.background, images)
    names = ("truth", "best_foreground", "p_foreground", *(() if variant.background is None else ("p_background",)))
    errors = labelled.reduce(names, function, merge_errors, slice(0, labelled.shape[0]))
    q = np.array([risk_threshold(errors, alpha) for alpha in variant.alphas], dtype=np.float32)
    if np.isinf(q).any():
        if images.all():
            raise CalibrationError(_cannot_bound(errors.num_images, variant.alphas[int(np.argmax(np.isinf(q)))]))
        q[np.isinf(q)] = KEEP_NOTHING  # without the images of a fold, the promise is kept by labelling nothing
    return Thresholds(
        regions.one_region(labelled.shape),
        q.reshape(-1, 1, 1),
        np.full((1, 1), errors.num_images, dtype=np.int64),
        np.ones((1, 1), dtype=np.float32),
    )


def _cannot_bound(num_images: int, alpha: float) -> str:
    return (
        f"{num_images} labelled images cannot bound the share of wrong labels at alpha {alpha}: the smallest alpha "
        f"they can is {smallest_alpha(num_images)}; raise alpha, or label more images"
    )


def _errors_of_block(background: int | None, images: npt.NDArray[np.bool_], block: Block) -> Errors:
    total = Errors(np.zeros(NUM_BINS, dtype=np.int64), 0, 0)
    for position, i in enumerate(block.images):
        if images[i]:
            maps = {name: values[position] for name, values in block.maps.items()}
            first, p_background = maps["p_foreground"], maps.get("p_background")
            label, probability = most_probable(Planes(maps["best_foreground"], first, first, p_background), background)
            truth = maps["truth"]
            total = merge_errors(total, image_errors(1 - probability, label != truth, truth != VOID))
    return total
