"""Counts of a student's predictions on images with masks, added up over the processes, which divide the images."""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from types import TracebackType
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pipeline.progress import Progress
from pipeline.settings import EvaluateSettings
from train.data import WholeImages, whole_images
from train.machine.processes import summed, world
from train.measure.boundary import Mask, boundary_scores
from train.measure.inference import predicted_classes
from train.measure.metrics import Confusion, class_areas, confusion_matrix
from train.student import Student

Sums = npt.NDArray[np.float64]


class Tally(NamedTuple):
    """Counts over all images of all processes."""

    confusion: Confusion  # int64 [K, K], rows = true class
    areas: npt.NDArray[np.int64]  # [N, 3, K], `class_areas` of each image
    boundary: Sums  # [4, K], sums over images of precision, recall and F, and the number of images with a boundary


@torch.no_grad()
def tally_of(
    student: Student, images: WholeImages, settings: EvaluateSettings, workers: int, progress: Progress | None = None
) -> Tally:
    """Count the predictions for all images, each at its own size; every image is counted by one process.

    settings: how the student predicts, and the tolerance of boundaries
    workers:  processes that decode images, and threads that score boundaries
    """
    device, num_classes = student.compute.device, images.data.num_classes
    areas = torch.zeros((len(images), 3, num_classes), dtype=torch.int64, device=device)
    confusion = torch.zeros((num_classes, num_classes), dtype=torch.int64, device=device)
    own = range(world().rank, len(images), world().size)
    own_images = replace(images, samples=[images.samples[number] for number in own])
    with BoundarySums(num_classes, settings.boundary_tolerance, max(1, workers)) as boundary:
        for number, (image, target) in zip(own, whole_images(own_images, workers), strict=True):
            prediction = predicted_classes(student, image, settings)
            of_image = confusion_matrix(prediction, target.to(device, non_blocking=True), num_classes)
            confusion += of_image
            areas[number] = class_areas(of_image)
            boundary.add(target[0], prediction[0])
            if progress is not None:
                progress.advance(min(world().size, len(images) - number))
    of_process = (confusion, areas, torch.from_numpy(boundary.sums).to(device))
    return Tally(*(summed(counts).cpu().numpy() for counts in of_process))


class BoundarySums:
    """Adds up boundary scores, which threads compute while the student predicts further images.

    tolerance: as in `boundary_scores`; None: nothing is computed
    """

    def __init__(self, num_classes: int, tolerance: float | None, num_threads: int):
        self.sums: Sums = np.zeros((4, num_classes))
        self.num_classes, self.tolerance, self.num_threads = num_classes, tolerance, num_threads
        self.pool = ThreadPoolExecutor(num_threads)
        self.waiting: deque[Future[Sums]] = deque()

    def __enter__(self) -> BoundarySums:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, traceback: TracebackType | None) -> None:
        self._collect(keep=0 if kind is None else len(self.waiting))
        self.pool.shutdown(cancel_futures=True)

    def add(self, target: Tensor, prediction: Tensor) -> None:
        """Add an image. target: uint8 [H, W], class index or IGNORE_INDEX; prediction: uint8 [H, W], class index."""
        if self.tolerance is not None:
            masks = target.numpy(), prediction.cpu().numpy()
            self.waiting.append(self.pool.submit(_summand, *masks, self.num_classes, self.tolerance))
            self._collect(keep=2 * self.num_threads)  # so that masks do not pile up

    def _collect(self, keep: int) -> None:
        """Add results in the order of the images, waiting for them, until at most `keep` are left."""
        while len(self.waiting) > keep:
            self.sums += self.waiting.popleft().result()


def _summand(truth: Mask, prediction: Mask, num_classes: int, tolerance: float) -> Sums:
    """What one image adds to `Tally.boundary`: float64 [4, K]."""
    scores = boundary_scores(truth, prediction, num_classes, tolerance)
    has_boundary = ~np.isnan(scores[:1])
    return np.vstack([np.where(has_boundary, scores, 0), has_boundary])
