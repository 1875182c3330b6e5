"""Predictions for images of any size: of the whole image or by a sliding window, with flips and at several scales."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from pipeline.settings import EvaluateSettings
from train.losses import upsampled
from train.student import Student, evaluating


class Window(NamedTuple):
    """A rectangle of an image, in pixels."""

    top: int
    left: int
    height: int
    width: int

    def of(self, tensor: Tensor) -> Tensor:
        """The values of a tensor [..., H, W] inside the window, as a torch view: [..., height, width]."""
        return tensor[..., self.top : self.top + self.height, self.left : self.left + self.width]


@torch.no_grad()
def predicted_classes(student: Student, image: Tensor, settings: EvaluateSettings) -> Tensor:
    """The most probable class of each pixel: uint8 [1, 3, H, W] RGB -> uint8 [1, H, W], class index."""
    if settings.window is None and not settings.flips and settings.scales == [1.0]:
        return student.classes(image)  # nothing is averaged, so the largest logit is the largest probability
    return class_scores(student, image, settings).argmax(dim=1).to(torch.uint8)


@torch.no_grad()
def class_scores(student: Student, image: Tensor, settings: EvaluateSettings) -> Tensor:
    """Class probabilities: the mean over all scales, and with flips over the image and its mirror image.

    image:   uint8 [1, 3, H, W] RGB
    returns: float32 [1, K, H, W] in [0, 1], on the student's device
    """
    image = image.to(student.compute.device, non_blocking=True)
    mirrorings = [False, True] if settings.flips else [False]
    versions = [(scale, is_mirrored) for scale in settings.scales for is_mirrored in mirrorings]
    with evaluating(student.model):
        total = _scores_of(student, image, *versions[0], settings)
        for scale, is_mirrored in versions[1:]:
            total += _scores_of(student, image, scale, is_mirrored, settings)
    return total.div_(len(versions))


def _scores_of(student: Student, image: Tensor, scale: float, is_mirrored: bool, settings: EvaluateSettings) -> Tensor:
    """Probabilities of one version of the image, at the image's own size: float32 [1, K, H, W]."""
    version = resized(image, scale)
    version = version.flip(-1) if is_mirrored else version
    if settings.window is None:
        scores = student.logits(version).softmax(dim=1)
    else:
        scores = window_scores(student, version, settings)
    scores = scores.flip(-1) if is_mirrored else scores
    return scores if scores.shape[-2:] == image.shape[-2:] else upsampled(scores, image.shape[-2:])


def resized(image: Tensor, scale: float) -> Tensor:
    """An image, uint8 [1, 3, H, W], at `scale` times its size, bilinear with antialiasing."""
    if scale == 1:
        return image
    size = [max(1, round(scale * side)) for side in image.shape[-2:]]
    return functional.interpolate(image.float(), size, mode="bilinear", antialias=True).round_().to(torch.uint8)


def window_scores(student: Student, image: Tensor, settings: EvaluateSettings) -> Tensor:
    """Probabilities of each pixel, as the mean over the windows that contain it.

    An image smaller than the window is padded with black, as in training (`evaluate.windows` shifted).

    image:   uint8 [1, 3, H, W] RGB on the student's device
    returns: float32 [1, K, H, W] in [0, 1]
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
    """Windows that cover an image of `size` (H, W), row by row; side and stride in pixels."""
    rows, columns = (spans(length, side, stride, is_shifted) for length in size)
    return [Window(top, left, height, width) for top, height in rows for left, width in columns]


def spans(length: int, side: int, stride: int, is_shifted: bool) -> list[tuple[int, int]]:
    """First pixel and length of each window along an axis.

    is_shifted: the last window ends where the axis ends, which must be at least `side` long (as in UniMatch-V2).
                Otherwise a window begins every `stride` pixels, and is cut off at the end of the axis (as in UniMatch
                and AllSpark).
    """
    if not is_shifted:
        return [(start, min(side, length - start)) for start in range(0, length, stride)]
    last = length - side
    return [(start, side) for start in [*range(0, last, stride), last]]


def batches(windows: Sequence[Window], batch_size: int) -> Iterator[list[Window]]:
    """Batches of windows; those of one batch have the same shape."""

    def shape(window: Window) -> tuple[int, int]:
        return window.height, window.width

    for _, group in groupby(sorted(windows, key=shape), key=shape):
        same = list(group)
        for start in range(0, len(same), batch_size):
            yield same[start : start + batch_size]
