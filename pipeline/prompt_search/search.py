"""Annotates the labeled images with every wording, and counts the pixels of each class."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.annotators.agreement import confusion
from pipeline.annotators.build import build_annotator, explained_prepare
from pipeline.annotators.contract import Annotator, Maps, checked_maps, reason_of
from pipeline.annotators.reading import Batch, read_batches
from pipeline.datasets import Sample, SampleIndex, num_groups, units_of
from pipeline.errors import AnnotatorError
from pipeline.progress import Progress
from pipeline.prompt_search.candidates import Wording, with_wording
from pipeline.run import Run
from pipeline.settings import Settings

log = logging.getLogger(__name__)

MOST_MAPS = 1024  # per image and call of the annotator

ClassPrompts = list[list[str]]


class Counts(NamedTuple):
    """Pixels of V lists of prompts on N images, at the resolution of the maps.

    right:  int64 [N, V, K], pixels whose true class k has the largest map
    union:  int64 [N, V, K], pixels that have the true class k, or in which its map is the largest
    true:   int64 [N, K], pixels of the true class k
    failed: reason by id of each image that could not be read or annotated, which is left out
    units:  int64 [N], the unit of each image (`calib.units`); None: each image is its own
    """

    right: npt.NDArray[np.int64]
    union: npt.NDArray[np.int64]
    true: npt.NDArray[np.int64]
    failed: dict[str, str]
    units: npt.NDArray[np.int64] | None = None


def count_wordings(settings: Settings, wordings: Sequence[Wording]) -> Counts:
    """Counts with the prompts of the run file, and then with each wording in the place of its class's prompts.

    Masks of unlabeled images are not read.

    raises: StoreError or DatasetError unless prepare has run with these settings; AnnotatorError if the annotator
            cannot be used, or fails on more images than `annotate.max_failed_fraction`
    """
    run = Run(settings)
    run.check_inputs("annotate")
    index = run.samples("annotate")
    samples = index.of("labeled")
    annotator = build_annotator(settings, [sample.id for sample in samples])
    current = settings.data.class_prompts
    lists = [list(map(list, current)), *(with_wording(current, wording) for wording in wordings)]
    return _Search(settings, annotator, index, samples, lists).counts()


class _Search:
    """The counts of a search while it runs. lists: class prompts, V of them"""

    def __init__(
        self,
        settings: Settings,
        annotator: Annotator,
        index: SampleIndex,
        samples: Sequence[Sample],
        lists: Sequence[ClassPrompts],
    ):
        self.settings, self.annotator = settings, annotator
        self.index, self.samples, self.lists = index, samples, lists
        shape = len(samples), len(lists), settings.data.num_classes
        self.right, self.union = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
        self.true = np.zeros((shape[0], shape[2]), np.int64)
        self.failed: dict[int, str] = {}

    def counts(self) -> Counts:
        shared = hasattr(self.annotator, "prepare_lists")
        size = max(1, MOST_MAPS // self.settings.data.num_classes) if shared else 1
        passes = [range(start, min(start + size, len(self.lists))) for start in range(0, len(self.lists), size)]
        what = f"prompts: {len(self.lists)} wordings"
        progress = Progress(log, what, len(passes) * len(self.samples), "images")
        for numbers in passes:
            self._prepare([self.lists[v] for v in numbers])
            left = [i for i in range(len(self.samples)) if i not in self.failed]
            batch_size = self.settings.annotate.batch_size
            batches = [left[start : start + batch_size] for start in range(0, len(left), batch_size)]
            for batch in read_batches(self.index, self.samples, batches, self.settings.data.grid):
                self._count_batch(batch, numbers)
                self._refuse_many_failures()
                progress.advance(len(batch.indices) + len(batch.errors))
        done = [i for i in range(len(self.samples)) if i not in self.failed]
        failed = {self.samples[i].id: reason for i, reason in self.failed.items()}
        samples = [self.samples[i] for i in done]
        units = units_of(samples) if num_groups(samples) is not None else None
        return Counts(self.right[done], self.union[done], self.true[done], failed, units)

    def _prepare(self, lists: Sequence[ClassPrompts]) -> None:
        with explained_prepare(self.annotator):
            if hasattr(self.annotator, "prepare_lists"):
                self.annotator.prepare_lists(lists)
            else:
                (class_prompts,) = lists
                self.annotator.prepare(class_prompts)

    def _count_batch(self, batch: Batch, numbers: range) -> None:
        """Count the images of a batch for some of the lists."""
        self.failed |= batch.errors
        num_classes = self.settings.data.num_classes
        for i, maps in self._annotated(batch, len(numbers) * num_classes):
            mask = self.index.mask(self.samples[i], self.settings.data)
            for v, of_list in zip(numbers, np.split(maps, len(numbers)), strict=True):
                cells = confusion(mask, of_list)
                self.true[i] = cells.sum(axis=1)
                self.right[i, v] = cells.diagonal()
                self.union[i, v] = self.true[i] + cells.sum(axis=0) - self.right[i, v]

    def _annotated(self, batch: Batch, num_maps: int) -> Iterator[tuple[int, Maps]]:
        """Index and maps, float32 [num_maps, h, w], of the images of a batch. If it fails, each is annotated alone."""
        if not batch.indices:
            return
        try:
            maps = checked_maps(self.annotator, np.stack(batch.images), batch.ids, num_maps)
        except Exception as error:  # an annotator may raise anything
            if len(batch.indices) == 1:
                self.failed[batch.indices[0]] = reason_of(error)
                return
            for i, sample_id, image in zip(batch.indices, batch.ids, batch.images, strict=True):
                yield from self._annotated(Batch([i], [sample_id], [image], {}), num_maps)
        else:
            yield from zip(batch.indices, maps, strict=True)

    def _refuse_many_failures(self) -> None:
        if len(self.failed) > self.settings.annotate.max_failed_fraction * len(self.samples):
            i, reason = next(iter(self.failed.items()))
            raise AnnotatorError(
                f"{len(self.failed)} of {len(self.samples)} labeled images failed, more than annotate."
                f"max_failed_fraction {self.settings.annotate.max_failed_fraction}; fix the cause or raise it. The "
                f"first image, {self.samples[i].id}: {reason}"
            )
