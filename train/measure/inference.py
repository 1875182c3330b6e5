"""What a student sees in an image of any size: at once or through a sliding window, mirrored, at several sizes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional
from transformers import AutoConfig

from pipeline.settings import EvaluateSettings
from train.losses import upsampled
from train.student import Student, evaluating


class Window(NamedTuple):
    """A rectangle of an image, pixels."""

    top: int
    left: int
    height: int
    width: int

    def of(self, tensor: Tensor) -> Tensor:
        """What is in it of [..., H, W]; a view."""
        return tensor[..., self.top : self.top + self.height, self.left : self.left + self.width]


@torch.no_grad()
def predicted_classes(student: Student, image: Tensor, settings: EvaluateSettings) -> Tensor:
    """uint8 [1, 3, H, W] RGB -> uint8 [1, H, W], the most probable class."""
    if settings.window is None and not settings.flips and settings.scales == [1.0]:
        return student.classes(image)  # a single look: the largest logit is the largest probability
    return class_scores(student, image, settings).argmax(dim=1).to(torch.uint8)


@torch.no_grad()
def class_scores(student: Student, image: Tensor, settings: EvaluateSettings) -> Tensor:
    """Class probabilities: the mean over all looks at the image (scales, mirrored and not).

    image:   uint8 [1, 3, H, W] RGB
    returns: float32 [1, K, H, W] on the student's device
    """
    image = image.to(student.compute.device, non_blocking=True)
    looks = [(scale, is_mirrored) for scale in settings.scales for is_mirrored in ([False, True][: 1 + settings.flips])]
    with evaluating(student.model):
        total = _look(student, image, *looks[0], settings)
        for scale, is_mirrored in looks[1:]:
            total += _look(student, image, scale, is_mirrored, settings)
    return total.div_(len(looks))


def _look(student: Student, image: Tensor, scale: float, is_mirrored: bool, settings: EvaluateSettings) -> Tensor:
    """float32 [1, K, H, W], probabilities at the image's own size."""
    seen = resized(image, scale)
    seen = seen.flip(-1) if is_mirrored else seen
    scores = student.logits(seen).softmax(dim=1) if settings.window is None else window_scores(student, seen, settings)
    scores = scores.flip(-1) if is_mirrored else scores
    return scores if scores.shape[-2:] == image.shape[-2:] else upsampled(scores, image.shape[-2:])


def resized(image: Tensor, scale: float) -> Tensor:
    """uint8 [1, 3, H, W] -> the same at `scale` times the size, bilinear with antialiasing."""
    if scale == 1:
        return image
    size = [max(1, round(scale * side)) for side in image.shape[-2:]]
    return functional.interpolate(image.float(), size, mode="bilinear", antialias=True).round_().to(torch.uint8)


def window_scores(student: Student, image: Tensor, settings: EvaluateSettings) -> Tensor:
    """Each pixel's mean over the windows that see it; what is missing to a whole window is black, as in training.

    image:   uint8 [1, 3, H, W] RGB on the student's device
    returns: float32 [1, K, H, W], probabilities
    """
    assert settings.window is not None
    side, is_shifted = settings.window, settings.windows == "shifted"
    stride = settings.stride or 2 * side // 3
    height, width = image.shape[-2:]
    if is_shifted:
        image = functional.pad(image, (0, max(0, side - width), 0, max(0, side - height)))
    count = torch.zeros(image.shape[-2:], device=image.device)
    total: Tensor | None = None
    for batch in batches(windows(image.shape[-2:], side, stride, is_shifted), settings.batch_size):
        scores = student.logits(torch.cat([window.of(image) for window in batch])).softmax(dim=1)
        if total is None:
            total = scores.new_zeros((scores.shape[1], *count.shape))
        for window, one in zip(batch, scores, strict=True):
            window.of(total).add_(one)
            window.of(count).add_(1)
    assert total is not None
    return total.div_(count)[None, :, :height, :width]


def windows(size: Sequence[int], side: int, stride: int, is_shifted: bool) -> list[Window]:
    """Windows that cover an image of `size` (H, W), row by row."""
    rows, columns = (spans(length, side, stride, is_shifted) for length in size)
    return [Window(top, left, height, width) for top, height in rows for left, width in columns]


def spans(length: int, side: int, stride: int, is_shifted: bool) -> list[tuple[int, int]]:
    """First pixel and length of the windows along an axis.

    is_shifted: the last window ends where the axis ends, which is at least `side` long (UniMatch-V2). Else a window
                begins every `stride` pixels, and what is beyond the end is cut off (UniMatch, AllSpark).
    """
    if not is_shifted:
        return [(start, min(side, length - start)) for start in range(0, length, stride)]
    last = length - side
    return [(start, side) for start in [*range(0, last, stride), last]]


def batches(windows: Sequence[Window], batch_size: int) -> Iterator[list[Window]]:
    """Windows of one shape, up to `batch_size` at a time."""

    def shape(window: Window) -> tuple[int, int]:
        return window.height, window.width

    for _, group in groupby(sorted(windows, key=shape), key=shape):
        same = list(group)
        for start in range(0, len(same), batch_size):
            yield same[start : start + batch_size]


def class_names_of(folder: Path) -> list[str]:
    """Names of the classes of a checkpoint that `load_student` reads, in the order of their indices."""
    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    return [str(config.id2label[index]) for index in range(config.num_labels)]
