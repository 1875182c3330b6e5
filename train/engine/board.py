"""The board of a stage: losses, learning rate, lambda, fraction of confident labels, mIoU, predictions, by trackers."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from operator import methodcaller
from types import TracebackType

import numpy as np
import numpy.typing as npt

from pipeline.errors import disk_problem, first_line
from pipeline.palette import class_colours
from pipeline.settings import DataSettings
from train.data import WholeImages
from train.engine.trackers import Tracker
from train.student import Student

log = logging.getLogger(__name__)


class Board:
    """Gives numbers and predictions to trackers, and closes these at the end of its context.

    A tracker that fails, e.g. because its server is away, is left out from then on: the training continues.

    trackers: by name; none in a process that writes nothing
    images:   the images whose predictions are shown
    """

    def __init__(self, trackers: Mapping[str, Tracker], images: WholeImages):
        self.trackers, self.images = dict(trackers), images

    def __enter__(self) -> Board:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._tell(methodcaller("close", has_failed=error is not None))

    def numbers(self, values: Mapping[str, float | None], step: int) -> None:
        """Show numbers by name; values that are None are left out."""
        known = {name: value for name, value in values.items() if value is not None}
        self._tell(methodcaller("numbers", known, step))

    def predictions(self, student: Student, step: int) -> None:
        """Show each image beside the student's prediction, in the colours of the report."""
        if not self.trackers:
            return
        for number, sample in enumerate(self.images.samples):
            picture = prediction_picture(student, self.images, number)
            self._tell(methodcaller("picture", f"prediction/{sample.id}", picture, step))

    def _tell(self, tell: Callable[[Tracker], None]) -> None:
        for name, tracker in list(self.trackers.items()):
            try:
                tell(tracker)
            except Exception as error:  # of a foreign package and its server, which may raise anything
                if disk_problem(error) is not None:
                    raise
                del self.trackers[name]
                log.warning("%s shows no more of this training: %s", name, first_line(error))


def prediction_picture(student: Student, images: WholeImages, number: int) -> npt.NDArray[np.uint8]:
    """Image `number` of the images beside its predicted classes in colour: uint8 [H, 2 W, 3] RGB."""
    image = images[number][0]
    predicted = student.classes(image[None])[0].cpu().numpy()
    return np.hstack([image.numpy().transpose(1, 2, 0), colours_of(images.data)[predicted]])


def colours_of(data: DataSettings) -> npt.NDArray[np.uint8]:
    """Colours of the classes: uint8 [K, 3] RGB."""
    return class_colours(data.num_classes, data.background_index)
