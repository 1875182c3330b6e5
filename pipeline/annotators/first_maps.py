"""The maps of the first image: what an annotator returns is checked once more closely before anything is stored."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np

from pipeline.annotators.contract import Annotator, Images, Maps, checked_maps, reason_of
from pipeline.datasets import Sample, SampleIndex, image_to_grid
from pipeline.errors import AnnotatorError, UnreadableSourceError
from pipeline.settings import DataSettings

log = logging.getLogger(__name__)

NUM_TRIED = 4  # images; any of them may fail, and a single one may be without anything to see
SUM_TOLERANCE = 0.01  # of probabilities in float16
MAX_MEAN_SUM = 1.1  # of the probabilities of a pixel; rounded or clipped ones may sum to a little more than 1


class First(NamedTuple):
    """Maps of one image, float32 [K, h, w], and its id."""

    id: str
    maps: Maps


def first_maps(index: SampleIndex, samples: Sequence[Sample], annotator: Annotator, data: DataSettings) -> First:
    """Maps of the first image that can be read and annotated. Doubtful maps are logged.

    raises: UnreadableSourceError if none of the samples can be read; AnnotatorError if the annotator fails on each of
            the first four, or returns the same map for all classes, or if its logits are probabilities
    """
    reasons: list[str] = []
    equal: list[First] = []
    for sample_id, image in _readable(index, samples, data.grid):
        try:
            first = First(sample_id, checked_maps(annotator, image[None], [sample_id], data.num_classes)[0])
        except Exception as error:  # an annotator may raise anything
            reasons.append(f"{sample_id}: {reason_of(error)}")
        else:
            if not _are_all_equal(first.maps):
                refuse_probabilities_as_logits(first.maps, first.id, annotator)
                _warn_of_doubtful(first, annotator, data.class_names)
                return first
            equal.append(first)
        if len(reasons) + len(equal) == NUM_TRIED:
            break
    if equal:
        raise AnnotatorError(
            f"annotator {annotator.name} returned the same map for all {data.num_classes} classes of "
            f"{', '.join(first.id for first in equal)}, so no class is more probable than another; fix its __call__, "
            "or its prompts"
        )
    raise AnnotatorError(
        f"annotator {annotator.name} failed on each of the first {len(reasons)} images; fix its __call__. The first "
        f"image, {reasons[0]}"
    )


def _readable(index: SampleIndex, samples: Sequence[Sample], grid: Sequence[int]) -> Iterator[tuple[str, Images]]:
    """Id and pixels, uint8 [H, W, 3] RGB, of the samples that can be read; UnreadableSourceError if none can."""
    unreadable: list[UnreadableSourceError] = []
    for sample in samples:
        try:
            image = image_to_grid(index.image(sample), grid)
        except UnreadableSourceError as error:
            unreadable.append(error)
            continue
        yield sample.id, image
    if len(unreadable) == len(samples):
        raise unreadable[-1]


def _are_all_equal(maps: Maps) -> bool:
    return len(maps) > 1 and bool((maps == maps[:1]).all())


def refuse_probabilities_as_logits(maps: Maps, sample_id: str, annotator: Annotator) -> None:
    """AnnotatorError if the space is logits, but the maps of an image, float32 [K, h, w], are probabilities."""
    if annotator.space == "logits" and maps.min() >= 0 and np.abs(maps.sum(axis=0) - 1).max() <= SUM_TOLERANCE:
        raise AnnotatorError(
            f"annotator {annotator.name} has space logits, but the maps of {sample_id} are in [0, 1] and sum to 1 at "
            "every pixel, as after a softmax, and a second softmax would flatten them; set its space to probability "
            "(annotate.onnx.output: probabilities)"
        )


def _warn_of_doubtful(first: First, annotator: Annotator, class_names: Sequence[str]) -> None:
    """Log equal maps of two classes, maps without any contrast, and probabilities whose sum is above 1."""
    maps = first.maps
    equal = [
        f"{class_names[i]} and {class_names[j]}"
        for i, j in combinations(range(len(maps)), 2)
        if maps[i].any() and np.array_equal(maps[i], maps[j])
    ]
    if equal:
        log.warning("annotate: %s returned equal maps for %s (%s)", annotator.name, ", ".join(equal), first.id)
    if maps[0].size > 1 and (maps == maps[:, :1, :1]).all():
        log.warning("annotate: %s returned maps without any contrast for %s", annotator.name, first.id)
    mean_sum = float(maps.sum(axis=0).mean())
    if annotator.space == "probability" and mean_sum > MAX_MEAN_SUM:
        log.warning(
            "annotate: the probabilities of a pixel of %s sum to %.2f on average, expected at most 1; unless %s "
            "predicts each class on its own, divide them by their sum",
            first.id, mean_sum, annotator.name,
        )  # fmt: skip
