"""Students as an annotator: each annotates its own images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from pipeline import receipt
from pipeline.errors import AnnotatorError
from pipeline.settings import Settings
from train.machine.device import compute_of
from train.measure.inference import class_scores
from train.predict import fingerprint_of
from train.student import Student, evaluating, load_student

VERSION = 2  # raise it when the same students would give other maps


class StudentAnnotator:
    """Predicts each image by the student that it belongs to, by the contract of annotators.

    The maps are the probabilities of `train.measure.inference.class_scores`, averaged down to the resolution of the
    network's output, or at the size of the images.
    """

    space: Literal["probability"] = "probability"

    def __init__(
        self, name: str, students: Sequence[Path], student_of: Mapping[str, int], settings: Settings, keeps_size: bool
    ):
        """Load the students.

        students:   their folders
        student_of: image id -> index of its student
        settings:   of the run that they are from: device, precision, window, flips and scales
        keeps_size: whether the maps have the size of the images
        raises:     TrainingError for a folder without a student, or a GPU that does not exist
        """
        self.name, self.settings, self.student_of, self.keeps_size = name, settings, student_of, keeps_size
        compute = compute_of(settings.train)
        self.students = [load_student(folder, compute) for folder in students]
        self.runs_on = [str(compute.device)]
        self.size: dict[tuple[int, ...], tuple[int, int]] = {}
        self.fingerprint = receipt.fingerprint(
            {
                "version": VERSION,
                "students": [fingerprint_of(folder, settings.evaluate) for folder in students],
                "student_of": dict(student_of),
                "keeps_size": keeps_size,
                "precision": str(compute.dtype),
            }
        )

    def prepare(self, class_prompts: Sequence[Sequence[str]]) -> None:
        """Do nothing: the students have the classes of `data.classes`, in the same order."""

    def prepare_images(self, ids: Sequence[str]) -> None:
        """AnnotatorError for an image that belongs to no student."""
        others = [sample_id for sample_id in ids if sample_id not in self.student_of]
        if others:
            raise AnnotatorError(
                f"{len(others)} of {len(ids)} images, {others[0]} the first, belong to none of the {self.name}; train "
                "that run on them, or remove them from the lists of data.splits"
            )

    def __call__(self, images: npt.NDArray[np.uint8], ids: Sequence[str]) -> npt.NDArray[np.float32]:
        """uint8 [B, H, W, 3] RGB and their ids -> float32 [B, K, h, w] in [0, 1]."""
        return np.stack(
            [self._maps(self.students[self.student_of[i]], image) for i, image in zip(ids, images, strict=True)]
        )

    def _maps(self, student: Student, image: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        tensor = torch.from_numpy(image.transpose(2, 0, 1)[None].copy())
        scores = class_scores(student, tensor, self.settings.evaluate)
        if not self.keeps_size:
            if image.shape not in self.size:  # the students have one architecture
                self.size[image.shape] = output_size(student, tensor)
            scores = functional.adaptive_avg_pool2d(scores, self.size[image.shape])
        maps: npt.NDArray[np.float32] = scores[0].clamp(0, 1).float().cpu().numpy()
        return maps


@torch.no_grad()
def output_size(student: Student, image: Tensor) -> tuple[int, int]:
    """Height and width of the network's output for an image, uint8 [1, 3, H, W], not larger than the image."""
    with evaluating(student.model):
        height, width = student.coarse_logits(image).shape[-2:]
    return min(height, image.shape[-2]), min(width, image.shape[-1])
