"""The TensorBoard log of a stage: losses, learning rate, lambda, fraction of confident labels, mIoU, predictions."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
from torch.utils.tensorboard import SummaryWriter

from pipeline.palette import class_colours
from pipeline.settings import DataSettings
from train.data import WholeImages
from train.student import Student


class Board:
    """A TensorBoard log in `folder`.

    step:       first step of this run; entries that a killed run wrote for later steps are hidden
    images:     the images whose predictions are logged
    is_writing: whether this process writes the log; if not, all methods do nothing
    """

    def __init__(self, folder: Path, step: int, images: WholeImages, is_writing: bool):
        self.images = images
        self.writer = SummaryWriter(str(folder), purge_step=step) if is_writing else None

    def numbers(self, values: Mapping[str, float | None], step: int) -> None:
        """Log numbers by name; values that are None are left out."""
        for name, value in values.items():
            if self.writer is not None and value is not None:
                self.writer.add_scalar(name, value, step)

    def predictions(self, student: Student, step: int) -> None:
        """Log each image beside the student's prediction, in the colours of the report."""
        if self.writer is None:
            return
        for number, sample in enumerate(self.images.samples):
            picture = prediction_picture(student, self.images, number)
            self.writer.add_image(f"prediction/{sample.id}", picture, step, dataformats="HWC")

    def close(self) -> None:
        if self.writer is not None:
            self.writer.close()


def prediction_picture(student: Student, images: WholeImages, number: int) -> npt.NDArray[np.uint8]:
    """Image `number` of the images beside its predicted classes in colour: uint8 [H, 2 W, 3] RGB."""
    image = images[number][0]
    predicted = student.classes(image[None])[0].cpu().numpy()
    return np.hstack([image.numpy().transpose(1, 2, 0), colours_of(images.data)[predicted]])


def colours_of(data: DataSettings) -> npt.NDArray[np.uint8]:
    """Colours of the classes: uint8 [K, 3] RGB."""
    return class_colours(data.num_classes, data.background_index)
