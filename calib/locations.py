"""Thresholds of every location by itself, from all labeled images and from all but one fold."""

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import accumulate
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from calib.interface import Block, LabeledMaps
from calib.quantile import Method
from calib.sketch import (
    Others,
    Sketch,
    largest_score,
    merge_all,
    merge_sketches,
    order_statistics,
    sketch_quantile,
    sketch_scores,
    sketch_size,
)

MERGED_BYTES = 8_000_000  # of the merged sketches of some rows, so that they stay in the cache; two of each fold


class LocationQuantiles(NamedTuple):
    """Quantiles of the scores of every location, from the images of one fit.

    q:         float32 [A, H, W], for each alpha; as `calib.sketch.sketch_quantile`
    num_valid: int32 [H, W], number of scores
    largest:   float32 [H, W], the largest score, NaN = none
    """

    q: npt.NDArray[np.float32]
    num_valid: npt.NDArray[np.int32]
    largest: npt.NDArray[np.float32]


def location_quantiles(
    labeled: LabeledMaps, fold_of_image: npt.NDArray[np.integer], alphas: Sequence[float], method: Method
) -> list[LocationQuantiles]:
    """Quantiles of every location: from all images, then without the images of fold 0, 1, ...

    fold_of_image: integer [L], 0..F - 1; with a single fold the list has one entry
    alphas:        each in (0, 1)
    raises:        ValueError for an alpha outside (0, 1)
    """
    size = max(sketch_size(labeled.num_images, alpha, method) for alpha in alphas)
    images_of_sketch = [labeled.num_images] if _is_image_by_image(fold_of_image) else np.bincount(fold_of_image)
    bytes_per_location = 4 * sum(min(size, int(number)) for number in images_of_sketch)
    bands = [
        _quantiles_of_band(labeled, fold_of_image, alphas, method, size, rows)
        for rows in labeled.bands(labeled.shape[1] * bytes_per_location)
    ]
    return bands[0] if len(bands) == 1 else [_joined(bands_of_fit) for bands_of_fit in zip(*bands, strict=True)]


def _joined(bands: Sequence[LocationQuantiles]) -> LocationQuantiles:
    """The quantiles of a map from those of its bands of rows, top to bottom."""
    return LocationQuantiles(
        np.concatenate([band.q for band in bands], axis=1),
        np.concatenate([band.num_valid for band in bands]),
        np.concatenate([band.largest for band in bands]),
    )


def _quantiles_of_band(
    labeled: LabeledMaps,
    fold_of_image: npt.NDArray[np.integer],
    alphas: Sequence[float],
    method: Method,
    size: int,
    rows: slice,
) -> list[LocationQuantiles]:
    if _is_image_by_image(fold_of_image):
        return _quantiles_without_each(labeled, fold_of_image, alphas, method, size, rows)
    sketch, merge = partial(_sketch_folds, fold_of_image, size), partial(_merge_folds, size)
    by_fold = labeled.reduce(("score",), sketch, merge, rows)
    height, width = by_fold[0].num_valid.shape
    step = max(1, MERGED_BYTES // (2 * 4 * size * len(by_fold) * width))
    parts = [
        _quantiles_of_folds([_rows(of_fold, slice(start, start + step)) for of_fold in by_fold], alphas, method, size)
        for start in range(0, height, step)
    ]
    return [_joined(parts_of_fit) for parts_of_fit in zip(*parts, strict=True)]


def _rows(sketch: Sketch, rows: slice) -> Sketch:
    return Sketch(sketch.largest[rows], sketch.num_valid[rows])


def _quantiles_of_folds(
    by_fold: Sequence[Sketch], alphas: Sequence[float], method: Method, size: int
) -> list[LocationQuantiles]:
    """The quantiles of all images, then without each of the folds. by_fold: the sketch of each fold's images"""
    fits = [merge_all(by_fold, size), *(_merge_others(by_fold, size) if len(by_fold) > 1 else ())]
    return [_quantiles(fit, alphas, method) for fit in fits]


def _quantiles(sketch: Sketch, alphas: Sequence[float], method: Method) -> LocationQuantiles:
    largest = np.where(sketch.num_valid > 0, sketch.largest[..., -1], np.float32(np.nan))
    q = np.stack([sketch_quantile(sketch, alpha, method) for alpha in alphas])
    return LocationQuantiles(q, sketch.num_valid, largest)


def _is_image_by_image(fold_of_image: npt.NDArray[np.integer]) -> bool:
    """Whether each of two or more images is its own fold."""
    return 1 < len(fold_of_image) == len(np.unique(fold_of_image))


def _quantiles_without_each(
    labeled: LabeledMaps,
    fold_of_image: npt.NDArray[np.integer],
    alphas: Sequence[float],
    method: Method,
    size: int,
    rows: slice,
) -> list[LocationQuantiles]:
    """The same for folds of one image, from one sketch of all images."""
    sketch = labeled.reduce(("score",), partial(_sketch_all, size + 1), partial(_merge_two, size + 1), rows)
    whole, others = _quantiles(sketch, alphas, method), sketch.num_valid - 1
    q = [Others.of(sketch, order_statistics(np.maximum(others, 0), alpha, method)) for alpha in alphas]
    largest = Others.of(sketch, largest_score(others))
    without = labeled.reduce(("score",), partial(_leave_each_out, whole, q, largest), _join, rows)
    return [whole, *(without[i] for i in np.argsort(fold_of_image).tolist())]


def _sketch_all(size: int, block: Block) -> Sketch:
    return sketch_scores(block.maps["score"], size)


def _merge_two(size: int, first: Sketch, second: Sketch) -> Sketch:
    return merge_sketches(first, second, size)


def _leave_each_out(
    whole: LocationQuantiles, q: list[Others], largest: Others, block: Block
) -> dict[int, LocationQuantiles]:
    """For each image of a block, by its index, the quantiles of all other images."""
    return {
        i: _without(score, whole, q, largest)
        for i, score in zip(block.images.tolist(), block.maps["score"], strict=True)
    }


def _without(
    score: npt.NDArray[np.float32], whole: LocationQuantiles, q: list[Others], largest: Others
) -> LocationQuantiles:
    """The quantiles of all images but one, whose scores are float32 [H, W]; where it has none, those of all."""
    is_void = np.isnan(score)
    return LocationQuantiles(
        np.stack([np.where(is_void, of_all, of.quantile(score)) for of_all, of in zip(whole.q, q, strict=True)]),
        whole.num_valid - ~is_void,
        np.where(is_void, whole.largest, largest.quantile(score)),
    )


def _join(first: dict[int, LocationQuantiles], second: dict[int, LocationQuantiles]) -> dict[int, LocationQuantiles]:
    return first | second


def _merge_others(by_fold: Sequence[Sketch], size: int) -> Iterator[Sketch]:
    """For each fold the sketch of all others: of those before it and those after it, so 3 merges a fold, not F."""

    def merge(first: Sketch, second: Sketch) -> Sketch:
        return merge_sketches(first, second, size)

    before = list(accumulate(by_fold[:-1], merge))
    after = list(accumulate(reversed(by_fold[1:]), merge))[::-1]
    yield after[0]
    yield from (merge(*both) for both in zip(before[:-1], after[1:], strict=True))
    yield before[-1]


def _sketch_folds(fold_of_image: npt.NDArray[np.integer], size: int, block: Block) -> list[Sketch]:
    fold, scores = fold_of_image[block.images], block.maps["score"]
    return [sketch_scores(scores[fold == f], size) for f in range(int(fold_of_image.max()) + 1)]


def _merge_folds(size: int, first: list[Sketch], second: list[Sketch]) -> list[Sketch]:
    return [merge_sketches(a, b, size) for a, b in zip(first, second, strict=True)]
