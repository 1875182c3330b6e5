"""The folds of a run: which images belong to a fold, and the run that trains its student."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import calib
from pipeline.datasets import Sample, SampleIndex, in_groups, load_samples, num_groups, units_of
from pipeline.dependencies import stages_before
from pipeline.errors import AnnotatorError, UserError
from pipeline.receipt import SCHEMAS
from pipeline.run import Run
from pipeline.run_file import load_settings
from pipeline.settings import Settings


@dataclass(frozen=True)
class Fold:
    """A fold of a run: images, and a training of that run that does not use their masks.

    base:   the run
    number: 1, ..., num
    num:    number of folds
    ids:    of its images, labeled and unlabeled
    """

    base: Run
    number: int
    num: int
    ids: frozenset[str]

    @property
    def name(self) -> str:
        """Name of its run, e.g. 1_of_2."""
        return self.folder.name

    @property
    def folder(self) -> Path:
        """Folder of its run, in the folder of the base."""
        return self.base.folder.fold(self.number, self.num)

    @property
    def changes(self) -> dict[str, str]:
        """Overrides of the base's run file that place its run, full name -> value."""
        origin = self.base.settings.origin
        return {**origin.overrides, "results": str(self.folder.parent), "name": self.name}

    @property
    def run_file(self) -> str:
        """Run file of the base: path, or name in config/."""
        return self.base.settings.origin.run or self.base.settings.name

    @property
    def run(self) -> Run:
        """The training of its student."""
        return Run(load_settings(self.run_file, self.changes))

    def samples(self) -> SampleIndex:
        """The samples of the base, with the labeled images of this fold as unlabeled ones.

        Their order is that of their ids, so nothing distinguishes them from the other unlabeled images.
        """
        index = self.base.samples()
        unlabeled = [*index.of("unlabeled"), *map(_without_mask, self.labeled())]
        samples = (
            *(one for one in index.of("labeled") if one.id not in self.ids),
            *sorted(unlabeled, key=lambda one: one.id),
            *index.of("val"),
        )
        return replace(index, samples=samples)

    def labeled(self) -> list[Sample]:
        """Labeled images of the base that belong to this fold."""
        return [one for one in self.base.samples().of("labeled") if one.id in self.ids]

    def stages(self) -> list[str]:
        """Stages that its run repeats, in the order of the data flow. It uses the maps of the base."""
        run = self.run
        needed = {"stage2", *_before(run, "stage2")}
        return [stage for stage in SCHEMAS if stage in needed and stage not in ("prepare", "annotate")]

    def unfinished(self) -> list[str]:
        """Stages to run until its student is trained with the settings, maps, images and masks of the base."""
        run, stages = self.run, self.stages()
        if not _has_samples(run, self.samples()):
            return stages
        first = next((i for i, stage in enumerate(stages) if not run.is_finished(stage)), len(stages))
        return stages[first:]

    def is_finished(self) -> bool:
        """Whether its student is trained with the settings, maps, images and masks of the base."""
        return not self.unfinished()

    def student(self, again: str) -> Path:
        """Folder of its student.

        again:  command that trains it
        raises: AnnotatorError if it is not trained; StoreError if its files have changed
        """
        if not self.is_finished():
            raise AnnotatorError(
                f"the student of fold {self.number} of {self.num} in {self.folder} is not trained; run {again}"
            )
        folder = self.run.folder.student("stage2")
        self.run.check_file("stage2", folder)
        return folder


def folds_of(base: Run, num: int) -> list[Fold]:
    """The folds of a run. Every labeled and every unlabeled image is in one of them, drawn with the run's seed.

    All images of a group are in one fold.

    raises: AnnotatorError for more folds than labeled images, or groups of them
    """
    index = base.samples()
    labeled, unlabeled = (sorted(index.of(split), key=lambda one: one.id) for split in ("labeled", "unlabeled"))
    if num > calib.num_units(units_of(labeled)):
        raise AnnotatorError(
            f"annotate.student.folds is {num}, but run {base.settings.name} has "
            f"{in_groups(len(labeled), num_groups(labeled))}; lower it"
        )
    fold_of = _assigned(labeled, num, base.settings)
    fold_of_group = {one.group: fold_of[one.id] for one in labeled if one.group}
    fold_of |= {one.id: fold_of_group[one.group] for one in unlabeled if one.group in fold_of_group}
    fold_of |= _assigned([one for one in unlabeled if one.id not in fold_of], num, base.settings)
    return [Fold(base, k + 1, num, frozenset(i for i, fold in fold_of.items() if fold == k)) for k in range(num)]


def _assigned(samples: Iterable[Sample], num: int, settings: Settings) -> dict[str, int]:
    """Id of each image -> its fold, 0 to num - 1. Folds have similar sizes; with fewer groups, some stay empty."""
    order = list(samples)
    random.Random(f"{settings.seed}/folds").shuffle(order)
    units = units_of(order)
    folds = min(num, calib.num_units(units))
    assigned = calib.assign_folds(units, folds).tolist() if folds > 1 else [0] * len(order)
    return dict(zip((one.id for one in order), assigned, strict=True))


def _without_mask(sample: Sample) -> Sample:
    return replace(sample, split="unlabeled", mask=None, mask_digest="")


def _before(run: Run, stage: str) -> Iterator[str]:
    for before in stages_before(run.settings, stage):
        yield before
        yield from _before(run, before)


def _has_samples(run: Run, index: SampleIndex) -> bool:
    """Whether samples.json of a run lists exactly these samples."""
    try:
        return load_samples(run.folder.samples) == index
    except UserError:  # missing or damaged
        return False
