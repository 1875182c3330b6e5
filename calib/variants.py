"""The variants of the calibration behind one function: score maps of the labeled images in, threshold maps out.

A variant passes over the labeled images with a function that computes a partial result from a block of images, and one
that merges two partial results (`LabeledMaps.reduce`).
"""

from functools import partial

import numpy as np
import numpy.typing as npt

from calib import regions
from calib.groups import (
    fit_image,
    fit_regions,
    group_thresholds,
    held_out_images,
    kmeans_of_scores,
    rings_of_scores,
)
from calib.histogram import KEEP_NOTHING, NUM_BINS, Errors, image_errors, merge_errors, risk_threshold
from calib.interface import Block, Kind, LabeledMaps, Thresholds, Variant
from calib.locations import LocationQuantiles, location_quantiles
from calib.neighbours import fit_kernel
from calib.planes import Planes, most_probable
from calib.precision import precise_thresholds
from calib.quantile import CalibrationError, smallest_alpha
from calib.rules import refuse_unknown
from calib.scores import IGNORE_INDEX

MANY_IMAGES = 100  # with fewer, variant kernel has better labels than pixel (docs/variants.md)
CELLS = 16  # cells along the height of a map, for fallback neighbourhood


def fit(variant: Variant, labeled: LabeledMaps, fold_of_image: npt.NDArray[np.integer]) -> list[Thresholds]:
    """Threshold maps from all labeled images, then from all without those of fold 0, 1, ...

    labeled:       maps of L images; variant risk needs the planes of `calib.planes`, all others "score" and "truth"
    fold_of_image: integer [L], 0..F - 1; with a single fold no image is held out
    returns:       1 or 1 + F thresholds. Nothing in them depends on the held-out images: also not the regions, nor the
                   clusters of classes
    raises:        UnknownNameError for an unknown variant; CalibrationError if no threshold of variant risk has the
                   guarantee with all labeled images
    """
    return find_variant(variant.name).fit(variant, labeled, fold_of_image)


# Variant pixel


def _fit_pixel(variant: Variant, labeled: LabeledMaps, fold_of_image: npt.NDArray[np.integer]) -> list[Thresholds]:
    fits = location_quantiles(labeled, fold_of_image, variant.alphas, variant.quantile)
    chosen = [~held_out for held_out in held_out_images(fold_of_image)]
    return [_fall_back(variant, labeled, *pair) for pair in zip(fits, chosen, strict=True)]


def _fall_back(
    variant: Variant, labeled: LabeledMaps, quantiles: LocationQuantiles, images: npt.NDArray[np.bool_]
) -> Thresholds:
    """The thresholds of the locations; with fewer than `n_min` images, that of their cell or of the whole map."""
    height, width = labeled.shape
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
    cells = regions.one_region(labeled.shape) if whole else regions.cells(labeled.shape, max(1, height // CELLS))
    needed = np.unique(cells.ravel()[too_few[0]])
    group_of = np.full((int(cells.max()) + 1, 1), -1, dtype=np.int32)
    group_of[needed, 0] = np.arange(needed.size)
    pooled = group_thresholds(variant, labeled, cells, group_of, images)
    at = pooled.region.ravel()
    return Thresholds(
        region,
        np.where(too_few, pooled.q[:, :, at], own.q),
        np.where(too_few, pooled.num_images[:, at], own.num_images),
        np.where(too_few, pooled.largest[:, at], own.largest),
        int(np.count_nonzero(too_few)),
    )


def _fit_fixed(variant: Variant, labeled: LabeledMaps, fold_of_image: npt.NDArray[np.integer]) -> list[Thresholds]:
    """Fit of variant fixed: one threshold that does not depend on the images."""
    return [_fixed(variant, labeled.shape, ~held_out) for held_out in held_out_images(fold_of_image)]


def _fixed(variant: Variant, shape: tuple[int, int], images: npt.NDArray[np.bool_]) -> Thresholds:
    q = np.full((len(variant.alphas), 1, 1), 1 - variant.fixed_threshold, np.float32)
    num_images = np.full((1, 1), np.count_nonzero(images), np.int64)
    return Thresholds(regions.one_region(shape), q, num_images, np.ones((1, 1), np.float32))


# Variant risk


def _fit_risk(variant: Variant, labeled: LabeledMaps, fold_of_image: npt.NDArray[np.integer]) -> list[Thresholds]:
    return [_risk_thresholds(variant, labeled, ~held_out) for held_out in held_out_images(fold_of_image)]


def _risk_thresholds(variant: Variant, labeled: LabeledMaps, images: npt.NDArray[np.bool_]) -> Thresholds:
    function = partial(_errors_of_block, variant.background, images)
    names = ("truth", "best_foreground", "p_foreground", *(() if variant.background is None else ("p_background",)))
    errors = labeled.reduce(names, function, merge_errors, slice(0, labeled.shape[0]))
    q = np.array([risk_threshold(errors, alpha) for alpha in variant.alphas], dtype=np.float32)
    if np.isinf(q).any():
        if images.all():
            raise CalibrationError(_cannot_bound(errors.num_images, variant.alphas[int(np.argmax(np.isinf(q)))]))
        q[np.isinf(q)] = KEEP_NOTHING  # without the images of a fold, only labeling nothing has the guarantee
    return Thresholds(
        regions.one_region(labeled.shape),
        q.reshape(-1, 1, 1),
        np.full((1, 1), errors.num_images, dtype=np.int64),
        np.ones((1, 1), dtype=np.float32),
    )


def _cannot_bound(num_images: int, alpha: float) -> str:
    return (
        f"{num_images} labeled images are too few to bound the fraction of wrong labels at alpha {alpha}: the smallest "
        f"possible alpha is {smallest_alpha(num_images)}; raise alpha, or label more images"
    )


def _errors_of_block(background: int | None, images: npt.NDArray[np.bool_], block: Block) -> Errors:
    total = Errors(np.zeros(NUM_BINS, dtype=np.int64), 0, 0)
    for number, i in enumerate(block.images):
        if images[i]:
            maps = {name: values[number] for name, values in block.maps.items()}
            first, p_background = maps["p_foreground"], maps.get("p_background")
            label, probability = most_probable(Planes(maps["best_foreground"], first, first, p_background), background)
            truth = maps["truth"]
            total = merge_errors(total, image_errors(1 - probability, label != truth, truth != IGNORE_INDEX))
    return total


# Variants precision_RULE


def _fit_precision(
    rule: str, variant: Variant, labeled: LabeledMaps, fold_of_image: npt.NDArray[np.integer]
) -> list[Thresholds]:
    q, num_images = precise_thresholds(rule, variant, labeled, held_out_images(fold_of_image))
    return [
        Thresholds(
            regions.one_region(labeled.shape), of_fit.reshape(-1, 1, 1), np.full((1, 1), n), np.ones((1, 1), np.float32)
        )
        for of_fit, n in zip(q, num_images, strict=True)
    ]


def _precision_kind(rule: str) -> Kind:
    return Kind(
        f"precision_{rule}",
        "one for the whole image",
        partial(_fit_precision, rule),
        bounds="precision",
        rule=rule,
        is_whole=True,
    )


VARIANTS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind(  # paper section 3.3.1; guarantee in `calib.sketch.sketch_quantile`
            "pixel",
            "every location has its own",
            _fit_pixel,
            covered="At each location, a new image",
            by_location=True,
            is_tried=True,
            least_images=MANY_IMAGES,
        ),
        Kind(
            "kernel",
            "every location has its own, from the scores around it",
            fit_kernel,
            covered="A random pixel around each location of a new image",
            is_tried=True,
        ),
        Kind(
            "image",
            "one for the whole image",
            fit_image,
            covered="A random pixel{of_class} of a new image",
            is_whole=True,
            of_classes=True,
            is_tried=True,
        ),
        Kind(
            "kmeans",
            "one per region of locations with similar scores",
            partial(fit_regions, kmeans_of_scores),
            covered="A random pixel{of_class} of each region of a new image",
            learns_regions=True,
            of_classes=True,
        ),
        Kind(
            "genann",
            "one per concentric ring",
            partial(fit_regions, rings_of_scores),
            covered="A random pixel{of_class} of each ring of a new image",
            learns_regions=True,
            of_classes=True,
        ),
        Kind(
            "risk",
            "one for the whole image",
            _fit_risk,
            note="that bounds the wrong labels of rule argmax, instead of the coverage",
            bounds="wrong labels",
            rule="argmax",
            is_whole=True,
        ),
        Kind(
            "fixed",
            "one for the whole image",
            _fit_fixed,
            note="a class is in the set from probability `fixed_threshold` on; nothing is calibrated or guaranteed",
            bounds="nothing",
            is_whole=True,
        ),
        *map(_precision_kind, ("argmax", "paper", "singleton")),  # guarantee in `calib.precision.precise_threshold`
    )
}


def find_variant(name: str) -> Kind:
    """The entry of a variant; raises UnknownNameError for an unknown name."""
    refuse_unknown("variant", name, VARIANTS)
    return VARIANTS[name]
