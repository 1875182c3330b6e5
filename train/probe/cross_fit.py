"""The students of all arms and folds: trained without one fold of the labeled images, and evaluated on that fold."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from torch import Tensor

from pipeline.datasets import Sample, SampleIndex
from pipeline.progress import Progress
from pipeline.receipt import fingerprint
from pipeline.record import is_whole, read_record, write_record
from pipeline.settings import DataSettings
from train.probe.arms import Arm, Labels
from train.probe.features import FeatureCache, Shapes
from train.probe.fit import Examples, Recipe, judged_areas, trained_decoder
from train.probe.targets import label_targets, view_targets
from train.probe.verdict import Areas

log = logging.getLogger(__name__)

VERSION = 1  # raise it when a change of the code gives other students from the same features and labels

LabelOf = Callable[[Labels, Sample], npt.NDArray[np.float32]]
"""Labels of an unlabeled image: float32 [h, w] on the grid, class index, NaN = abstain."""


class Judged(NamedTuple):
    """The evaluation of all students on the labeled images.

    areas:   int64 [A, N, 3, K], for each arm and labeled image `class_areas` by the student not trained on that image
    seconds: total time of training and evaluating the students
    """

    areas: Areas
    seconds: float


class Fit(NamedTuple):
    """One student: it is trained on the labels of its arm, without the images of its fold."""

    arm: Arm
    fold: int


@dataclass(frozen=True)
class CrossFit:
    """Everything that the students of all arms and folds depend on.

    fold:    int64 [N], fold of each labeled image; -1: all students are trained on it, and none is evaluated on it
    made_by: fingerprint of what made the labels, for raw and for calibrated labels
    folder:  folder of the evaluations of the students, one file each
    """

    data: DataSettings
    index: SampleIndex
    labeled: Sequence[Sample]
    unlabeled: Sequence[Sample]
    fold: npt.NDArray[np.int64]
    arms: Sequence[Arm]
    label_of: LabelOf
    made_by: dict[str, str]
    recipe: Recipe
    cache: FeatureCache
    folder: Path

    @property
    def fits(self) -> list[Fit]:
        """All students; those with the same labels follow each other."""
        return [Fit(arm, fold) for arm in self.arms for fold in range(int(self.fold.max()) + 1)]

    def key(self, fit: Fit) -> str:
        """Fingerprint of everything that a student and its evaluation depend on."""
        kind = fit.arm.labels.labels
        return fingerprint(
            {
                "version": VERSION,
                "features": self.cache.key,
                "recipe": asdict(self.recipe),
                "classes": [self.data.class_names, self.data.mask_values],
                "arm": fit.arm.as_json(),
                "labels": self.made_by.get(kind),
                "labeled": [[sample.image_digest, sample.mask_digest] for sample in self.labeled],
                "unlabeled": [] if kind == "none" else [self.unlabeled[i].image_digest for i in self.others(fit.fold)],
                "held_out": np.flatnonzero(self.fold == fit.fold).tolist(),
            }
        )

    def others(self, fold: int) -> list[int]:
        """Unlabeled images that the students of a fold are trained on: those that are in no group of the fold."""
        judged = {
            sample.group for sample, own in zip(self.labeled, self.fold, strict=True) if own == fold and sample.group
        }
        return [i for i, sample in enumerate(self.unlabeled) if sample.group not in judged]

    @property
    def missing(self) -> list[Fit]:
        """Students whose evaluation is not on disk yet, or is damaged."""
        return [fit for fit in self.fits if not is_whole(self._path(fit))]

    def judged(self) -> Judged:
        """The evaluation of all students; trains those whose evaluation is not on disk yet."""
        missing = self.missing
        if missing:
            self.cache.fill(self.index, [*self.labeled, *self.unlabeled], self.labeled)
            self._train(missing)
        areas = np.zeros((len(self.arms), len(self.labeled), 3, self.data.num_classes), np.int64)
        seconds = 0.0
        for fit in self.fits:
            content = read_record(self._path(fit), "the probe again")
            areas[self.arms.index(fit.arm), self.fold == fit.fold] = content["areas"]
            seconds += content["seconds"]
        return Judged(areas, seconds)

    def _path(self, fit: Fit) -> Path:
        return self.folder / f"{self.key(fit)}.json"

    def _train(self, missing: Sequence[Fit]) -> None:
        num = len(self.fits)
        steps = self.recipe.steps
        progress = Progress(log, f"probe: {num} students", num * steps, "steps", done=(num - len(missing)) * steps)
        shapes, masks = self.cache.shapes(), [self.index.mask(sample, self.data) for sample in self.labeled]
        labeled = self._examples(self.labeled, masks)
        for labels, fits in groupby(missing, key=lambda fit: fit.arm.labels):
            unlabeled = None if labels.labels == "none" else self._pseudo_labeled_examples(labels)
            for fit in fits:
                start = time.monotonic()
                areas = self._judged(fit, shapes, labeled, unlabeled, masks, progress).tolist()
                facts = {"arm": fit.arm.as_json(), "fold": fit.fold, "seconds": time.monotonic() - start}
                write_record(self._path(fit), facts | {"areas": areas})

    def _judged(
        self,
        fit: Fit,
        shapes: Shapes,
        labeled: Examples,
        unlabeled: Examples | None,
        masks: Sequence[npt.NDArray[np.uint8]],
        progress: Progress,
    ) -> Areas:
        """`class_areas` of the images of a fold by a student trained on the others: int64 [n, 3, K]."""
        groups = self.recipe.groups(
            labeled.of(np.flatnonzero(self.fold != fit.fold).tolist()),
            None if unlabeled is None else unlabeled.of(self.others(fit.fold)),
            fit.arm.weight,
        )
        device, num_classes = self.cache.student.compute.device, self.data.num_classes
        decoder = trained_decoder(num_classes, shapes, groups, self.recipe, device, progress.advance)
        held_out = np.flatnonzero(self.fold == fit.fold).tolist()
        return np.stack([judged_areas(decoder, self.cache.whole(self.labeled[i]), masks[i], device) for i in held_out])

    def _examples(self, samples: Sequence[Sample], masks: Sequence[npt.NDArray[np.uint8]]) -> Examples:
        targets = [
            view_targets(mask, self.cache.geometries(sample), self.cache.plan.crop)
            for sample, mask in zip(samples, masks, strict=True)
        ]
        return Examples([self.cache.views(sample) for sample in samples], targets)

    def _pseudo_labeled_examples(self, labels: Labels) -> Examples:
        def targets(sample: Sample) -> Tensor:
            size = (sample.height, sample.width)
            return label_targets(
                self.label_of(labels, sample), size, self.cache.geometries(sample), self.cache.plan.crop
            )

        samples = self.unlabeled
        return Examples([self.cache.views(sample) for sample in samples], [targets(sample) for sample in samples])
