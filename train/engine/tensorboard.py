"""The TensorBoard log of a stage: losses, learning rate, lambda, share of confident labels, mIoU, predictions."""

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
    """Writes to `folder` if this process is to write; what a killed run wrote beyond `step` is hidden.

    images: whose predictions are shown beside them
    """

    def __init__(self, folder: Path, step: int, images: WholeImages, is_writing: bool):
        self.images = images
        self.writer = SummaryWriter(str(folder), purge_step=step) if is_writing else None

    def numbers(self, values: Mapping[str, float | None], step: int) -> None:
        """What is None is left out."""
        for name, value in values.items():
            if self.writer is not None and value is not None:
                self.writer.add_scalar(name, value, step)

    def predictions(self, student: Student, step: int) -> None:
        """Each image beside what the student makes of it, in the colours of the report."""
        if self.writer is None:
            return
        for place, sample in enumerate(self.images.samples):
            picture = prediction_picture(student, self.images, place)
            self.writer.add_image(f"prediction/{sample.id}", picture, step, dataformats="HWC")

    def close(self) -> None:
        if self.writer is not None:
            self.writer.close()


def prediction_picture(student: Student, images: WholeImages, place: int) -> npt.NDArray[np.uint8]:
    """uint8 [H, 2 W, 3]: an image, and its predicted classes."""
    image = images[place][0]
    predicted = student.classes(image[None])[0].cpu().numpy()
    return np.hstack([image.numpy().transpose(1, 2, 0), colours_of(images.data)[predicted]])


def colours_of(data: DataSettings) -> npt.NDArray[np.uint8]:
    """uint8 [K, 3] RGB."""
    return class_colours(data.num_classes, data.background_index)
