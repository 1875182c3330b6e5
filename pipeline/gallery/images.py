"""One image: its counts at every stop under every rule and, if it is shown, its data in the page."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.datasets import IGNORE_INDEX, Sample, class_index, resize_nearest
from pipeline.drawing.pictures import data_uri, shrink
from pipeline.errors import StoreError
from pipeline.gallery.labeled_run import LabeledRun, known_truth, photograph
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
from pipeline.run import Run

Facts = dict[str, Any]


class Slider(NamedTuple):
    """What is the same for all images.

    first:  uint8 [H, W], see `first_stops`
    size:   height and width of the planes in the page
    shown:  indices in the store of the images that are shown
    stored: int32 [N, K], pixels of each class in the labels of the store
    """

    first: Plane
    size: tuple[int, int]
    shown: frozenset[int]
    stored: npt.NDArray[np.int32]


@dataclass(frozen=True)
class CountedImage:
    """Counts of one image.

    index:   in the store
    tallies: of each rule
    raw:     int64 [K], pixels by most probable class
    shown:   embedded data; None if the image is not shown
    """

    index: int
    tallies: list[Tally]
    raw: npt.NDArray[np.int64]
    shown: Facts | None


def count_image(run: LabeledRun, slider: Slider, sample: Sample, index: int) -> CountedImage:
    """Counts of one image under every rule and, if it is shown, its embedded data.

    raises: StoreError if its stored labels differ from those that follow from its planes and the thresholds, or if its
            photograph cannot be read
    """
    planes = label_planes(run, index) if run.is_class_wise else level_planes(run, slider, index)
    raw = np.bincount(planes.raw.ravel(), minlength=len(run.labels.class_names))
    shown = None
    if index in slider.shown:
        truth = known_truth(run, sample)
        compared = None if truth is None else planes.compare(truth)
        tables = [
            _table(counted, None if compared is None else compared[r]) for r, counted in enumerate(planes.tallies)
        ]
        embedded = [*planes.embedded, *([] if truth is None else [truth])]
        photo = photograph(run, sample)
        shown = {
            "id": sample.id,
            "photo": data_uri(shrink(photo, 2 * max(slider.size)), "webp"),
            "aspect": round(photo.shape[1] / photo.shape[0], 4),
            "hasTruth": truth is not None,
            "planes": pack(np.stack([resize_nearest(plane, slider.size) for plane in embedded])),
            "table": pack(steps(np.stack(tables))),
        }
    image = CountedImage(index, planes.tallies, raw, shown)
    refuse_other_labels(run, slider, image)
    return image


def refuse_other_labels(run: LabeledRun, slider: Slider, image: CountedImage) -> None:
    """Raise StoreError unless planes and thresholds give as many pixels of each class as the stored labels have."""
    rule, stop = run.rules.index(run.labels.rule), run.own_stop
    if not np.array_equal(image.tallies[rule].by_label[:, stop], slider.stored[image.index]):
        raise StoreError(
            f"{run.labels.path}: the labels of {run.labels.sample_ids[image.index]} differ from those of its planes "
            "and the thresholds of these settings; use the settings of the labels, or run "
            f"{Run(run.settings).command('pseudolabel', rerun='pseudolabel')}"
        )


class ImagePlanes(NamedTuple):
    """One image at all stops.

    embedded: planes from which the page computes labels
    raw:      uint8 [H, W], most probable class
    tallies:  of each rule
    compare:  true mask, uint8 [H, W] -> for each rule int64 [2, A], labeled pixels with a true class, and those of them
              that are right
    """

    embedded: list[Plane]
    raw: Plane
    tallies: list[Tally]
    compare: Callable[[Plane], list[npt.NDArray[np.int64]]]


def level_planes(run: LabeledRun, slider: Slider, index: int) -> ImagePlanes:
    """Planes of an image if all classes share one threshold: levels, which give the labels of every rule and stop."""
    background, num_stops, num_classes = run.background, len(run.stops.q), len(run.labels.class_names)
    levels = stop_levels(run.labels.planes(index), run.stops.q, background)
    by_class = count_by_class(levels, slider.first, num_classes, num_stops)

    def compare(truth: Plane) -> list[npt.NDArray[np.int64]]:
        by_truth = count_by_truth(levels, slider.first, truth, num_stops, background)
        return [count_right(by_truth, rule) for rule in run.rules]

    tallies = [tally(by_class, rule, background) for rule in run.rules]
    return ImagePlanes(_embedded(levels, background), _raw(levels, background), tallies, compare)


def label_planes(run: LabeledRun, index: int) -> ImagePlanes:
    """Planes of an image if thresholds are class-wise: the stored labels at each alpha."""
    stored = run.labels.alphas
    labels = np.stack([run.labels.label(index, stored.index(alpha)) for alpha in run.stops.alphas])
    raw = run.labels.raw_argmax(index)

    def compare(truth: Plane) -> list[npt.NDArray[np.int64]]:
        kept, right = ~np.isnan(labels) & (truth != IGNORE_INDEX), labels == truth
        return [np.stack([kept.sum(axis=(1, 2)), (kept & right).sum(axis=(1, 2))])]

    tallies = [tally_labels(labels, raw, len(run.labels.class_names))]
    return ImagePlanes([*class_index(labels), raw], raw, tallies, compare)


def _embedded(levels: Levels, background: int | None) -> list[Plane]:
    return list(levels if background is not None else levels[:3])


def _raw(levels: Levels, background: int | None) -> Plane:
    return levels.best if background is None else np.where(levels.background_wins, np.uint8(background), levels.best)


def _table(counted: Tally, compared: npt.NDArray[np.int64] | None) -> npt.NDArray[np.int64]:
    """int64 [K + 3, A]: pixels by label, changed ones, labeled ones with a true class, and right ones."""
    known = np.zeros((2, counted.changed.size), np.int64) if compared is None else compared
    return np.concatenate([counted.by_label, counted.changed[None], known])
