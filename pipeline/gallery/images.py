"""One image of the gallery: counted at every stop under every rule, and, if it is shown, packed for the page."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.datasets import IGNORE_INDEX, Sample, class_index, resize_nearest
from pipeline.drawing.pictures import data_uri, shrink
from pipeline.errors import StoreError
from pipeline.gallery.numbers import (
    Levels,
    Plane,
    Tally,
    count_by_class,
    count_by_truth,
    count_right,
    stop_levels,
    tally,
    tally_labels,
)
from pipeline.gallery.packing import pack, steps
from pipeline.gallery.source import Source, known_truth, photograph
from pipeline.run import Run

Facts = dict[str, Any]


class Slider(NamedTuple):
    """What every image is compared with, and how large it is shown.

    first:  uint8 [H, W], see `first_stops`
    size:   height and width of the planes in the page
    shown:  images that are shown, by their place in the store
    stored: int32 [N, K], pixels of each class as pseudolabel counted them
    """

    first: Plane
    size: tuple[int, int]
    shown: frozenset[int]
    stored: npt.NDArray[np.int32]


class Looked(NamedTuple):
    """One image, counted.

    place:   in the store
    tallies: of each rule
    raw:     int64 [K], pixels by most probable class
    shown:   what the page embeds of it, None if it is not shown
    """

    place: int
    tallies: list[Tally]
    raw: npt.NDArray[np.int64]
    shown: Facts | None


def look(source: Source, slider: Slider, sample: Sample, index: int) -> Looked:
    """Count one image under every rule and, if it is shown, prepare what the page needs of it.

    raises: StoreError if its own labels are not those that the store has counted, or if its photograph is gone
    """
    planes = label_planes(source, index) if source.is_class_wise else level_planes(source, slider, index)
    raw = np.bincount(planes.raw.ravel(), minlength=len(source.labels.class_names))
    shown = None
    if index in slider.shown:
        truth = known_truth(source, sample)
        judged = None if truth is None else planes.judged(truth)
        tables = [_table(counted, None if judged is None else judged[r]) for r, counted in enumerate(planes.tallies)]
        embedded = [*planes.embedded, *([] if truth is None else [truth])]
        photo = photograph(source, sample)
        shown = {
            "id": sample.id,
            "photo": data_uri(shrink(photo, 2 * max(slider.size)), "webp"),
            "aspect": round(photo.shape[1] / photo.shape[0], 4),
            "hasTruth": truth is not None,
            "planes": pack(np.stack([resize_nearest(plane, slider.size) for plane in embedded])),
            "table": pack(steps(np.stack(tables))),
        }
    looked = Looked(index, planes.tallies, raw, shown)
    refuse_other_labels(source, slider, looked)
    return looked


def refuse_other_labels(source: Source, slider: Slider, looked: Looked) -> None:
    """The store's own labels, counted again from planes and thresholds, must be what the store has counted."""
    rule, stop = source.rules.index(source.labels.rule), source.own_stop
    if not np.array_equal(looked.tallies[rule].by_label[:, stop], slider.stored[looked.place]):
        raise StoreError(
            f"{source.labels.path}: the labels of {source.labels.sample_ids[looked.place]} are not what its planes and "
            "the thresholds of these settings give; name those that the labels were made with, or run "
            f"{Run(source.settings).command('pseudolabel', rerun='pseudolabel')}"
        )


class ImagePlanes(NamedTuple):
    """One image at all stops, in whichever way the thresholds allow.

    embedded: what the page has to know of every pixel; raw: its most probable class
    tallies:  of each rule
    judged:   of each rule, from a true mask, labeled pixels that have a true class, and those labeled right: [2, A]
    """

    embedded: list[Plane]
    raw: Plane
    tallies: list[Tally]
    judged: Callable[[Plane], list[npt.NDArray[np.int64]]]


def level_planes(source: Source, slider: Slider, index: int) -> ImagePlanes:
    """One threshold for all classes: levels, from which every rule labels every stop."""
    background, num_stops, num_classes = source.background, len(source.stops.q), len(source.labels.class_names)
    levels = stop_levels(source.labels.planes(index), source.stops.q, background)
    by_class = count_by_class(levels, slider.first, num_classes, num_stops)

    def judged(truth: Plane) -> list[npt.NDArray[np.int64]]:
        by_truth = count_by_truth(levels, slider.first, truth, num_stops, background)
        return [count_right(by_truth, rule) for rule in source.rules]

    tallies = [tally(by_class, rule, background) for rule in source.rules]
    return ImagePlanes(_embedded(levels, background), _raw(levels, background), tallies, judged)


def label_planes(source: Source, index: int) -> ImagePlanes:
    """Class-wise thresholds: the labels that the store has at each of its alphas."""
    stored = source.labels.alphas
    labels = np.stack([source.labels.label(index, stored.index(alpha)) for alpha in source.stops.alphas])
    raw = source.labels.raw_argmax(index)

    def judged(truth: Plane) -> list[npt.NDArray[np.int64]]:
        kept, right = ~np.isnan(labels) & (truth != IGNORE_INDEX), labels == truth
        return [np.stack([kept.sum(axis=(1, 2)), (kept & right).sum(axis=(1, 2))])]

    tallies = [tally_labels(labels, raw, len(source.labels.class_names))]
    return ImagePlanes([*class_index(labels), raw], raw, tallies, judged)


def _embedded(levels: Levels, background: int | None) -> list[Plane]:
    return list(levels if background is not None else levels[:3])


def _raw(levels: Levels, background: int | None) -> Plane:
    return levels.best if background is None else np.where(levels.background_wins, np.uint8(background), levels.best)


def _table(counted: Tally, judged: npt.NDArray[np.int64] | None) -> npt.NDArray[np.int64]:
    """int64 [K + 3, A]: pixels by label, changed ones, those with a label and a true class, those labeled right."""
    known = np.zeros((2, counted.changed.size), np.int64) if judged is None else judged
    return np.concatenate([counted.by_label, counted.changed[None], known])
