"""Mistakes of the labels on held-out labeled images: which classes are confused, and in which images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from pipeline.calibration.held_out_labels import HeldOutLabels
from pipeline.datasets import SampleIndex, evenly_spaced
from pipeline.palette import Colours
from pipeline.report.audit import Counts, count_labels
from pipeline.report.examples import Example, example

MAX_IMAGES = 1000  # as many as an audit takes
MAX_CLASSES = 30  # of a table; with more, only the most frequent pairs are listed
NUM_PAIRS = 20
NUM_LISTED = 10
NUM_SHOWN = 4


class ImageMistakes(NamedTuple):
    """Counts of one held-out image.

    index: in the calibration store
    kept:  int64 [K, K], labeled pixels: rows = true class, columns = label
    valid: pixels that have a true class
    """

    index: int
    id: str
    kept: Counts
    valid: int

    @property
    def wrong(self) -> float:
        """Fraction of the pixels that are labeled wrong, in [0, 1]; 0 without pixels."""
        return float(self.kept.sum() - np.trace(self.kept)) / max(self.valid, 1)

    @property
    def precision(self) -> float | None:
        """Fraction of the labels that are right, in [0, 1]; None without labels."""
        return float(np.trace(self.kept) / self.kept.sum()) if self.kept.any() else None

    @property
    def keep_rate(self) -> float:
        """Fraction of the pixels that are labeled, in [0, 1]; 0 without pixels."""
        return float(self.kept.sum()) / max(self.valid, 1)


class Pair(NamedTuple):
    """Pixels that are labeled as one class and are of another. fraction: of the labels of that class, in [0, 1]"""

    label: str
    truth: str
    pixels: int
    fraction: float


class Mistakes(NamedTuple):
    """Mistakes of the labels on all held-out images.

    num_images: that were counted
    table:      label -> fraction of its labels by true class, in [0, 1], in the order of the classes; without the
                classes that are no label. {} with more than MAX_CLASSES classes
    pairs:      the most frequent mistakes, in descending order; [] if there is a table
    listed:     images in which the most pixels are labeled wrong, in descending order
    """

    num_images: int
    table: Mapping[str, list[float]]
    pairs: list[Pair]
    listed: list[ImageMistakes]


def count_mistakes(held_out: HeldOutLabels) -> list[ImageMistakes]:
    """Counts of the held-out images, the one in which the most pixels are labeled wrong first.

    Of more than MAX_IMAGES images, so many are counted, evenly spaced.
    """
    num_classes, names = len(held_out.store.class_names), held_out.store.sample_ids
    images = []
    for index in evenly_spaced(list(held_out.fold_of_image), MAX_IMAGES):
        counts = count_labels(held_out.truth(index), held_out.raw(index), held_out.label(index), num_classes)
        images.append(ImageMistakes(index, names[index], counts.kept, int(counts.raw.sum())))
    return sorted(images, key=lambda image: -image.wrong)


def summarise_mistakes(images: Sequence[ImageMistakes], class_names: Sequence[str]) -> Mistakes:
    """The tables of the report. images: as `count_mistakes`"""
    total = np.sum([image.kept for image in images], axis=0)
    is_small = len(class_names) <= MAX_CLASSES
    return Mistakes(
        len(images),
        confusion_table(total, class_names) if is_small else {},
        [] if is_small else frequent_pairs(total, class_names),
        [image for image in images if image.wrong][:NUM_LISTED],
    )


def confusion_table(kept: Counts, class_names: Sequence[str]) -> dict[str, list[float]]:
    """Label -> fraction of its labels by true class. kept: int64 [K, K], rows = true class, columns = label"""
    of_label = {name: kept[:, k] for k, name in enumerate(class_names)}
    return {name: (pixels / pixels.sum()).tolist() for name, pixels in of_label.items() if pixels.any()}


def frequent_pairs(kept: Counts, class_names: Sequence[str]) -> list[Pair]:
    """The pairs of label and other true class with the most pixels. kept: as in `confusion_table`"""
    wrong = kept * ~np.eye(len(class_names), dtype=bool)
    order = np.argsort(-wrong, axis=None, kind="stable")[:NUM_PAIRS]
    of_label = kept.sum(axis=0)
    cells = [(int(cell) // len(class_names), int(cell) % len(class_names)) for cell in order]
    return [
        Pair(
            class_names[label], class_names[true], int(wrong[true, label]), float(wrong[true, label] / of_label[label])
        )
        for true, label in cells
        if wrong[true, label]
    ]


def worst_examples(
    held_out: HeldOutLabels, images: Sequence[ImageMistakes], samples: SampleIndex, colours: Colours
) -> list[Example]:
    """Pictures of the first images: their held-out labels beside the annotator's and the true classes."""
    by_id = {sample.id: sample for sample in samples.of("labeled")}
    examples = []
    for image in [image for image in images if image.wrong][:NUM_SHOWN]:
        shown = {
            "raw": held_out.raw(image.index),
            "calibrated": held_out.label(image.index),
            "truth": held_out.truth(image.index),
        }
        photograph = samples.image(by_id[image.id])
        examples.append(example(image.id, photograph, shown, held_out.store.class_names, colours))
    return examples
