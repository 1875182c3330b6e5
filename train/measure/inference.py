"""Predictions for images of any size: of the whole image or by a sliding window, with flips and at several scales."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby

import torch
from torch import Tensor
from torch.nn import functional

from pipeline.settings import EvaluateSettings
from pipeline.tiles import Window, starts
from train.losses import upsampled
from train.measure.bands import in_step, resampled
from train.student import Student, evaluating


@torch.no_grad()
def predicted_classes(student: Student, image: Tensor, settings: EvaluateSettings) -> Tensor:
    """The most probable class of each pixel: uint8 [1, 3, H, W] RGB -> uint8 [1, H, W], class index."""
    if settings.window is None and not settings.flips and settings.scales == [1.0]:
        return student.classes(image)  # nothing is averaged, so the largest logit is the largest probability
    bands = score_bands(student, image, settings)
    return torch.cat([scores.argmax(dim=1).to(torch.uint8) for scores in bands], dim=1)


@torch.no_grad()
def class_scores(student: Student, image: Tensor, settings: EvaluateSettings) -> Tensor:
    """Class probabilities: the mean over all scales, and with flips over the image and its mirror image.

    image:   uint8 [1, 3, H, W] RGB
    returns: float32 [1, K, H, W] in [0, 1], on the student's device
    """
    return torch.cat(list(score_bands(student, image, settings)), dim=2)


@torch.no_grad()
def score_bands(student: Student, image: Tensor, settings: EvaluateSettings) -> Iterator[Tensor]:
    """`class_scores` in bands of rows, from the top: float32 [1, K, h, W] each.

    With a sliding window, only the rows of a window of each version are in memory at a time.
    """
    image = image.to(student.compute.device, non_blocking=True)
    mirrorings = [False, True] if settings.flips else [False]
    kinds = [(scale, is_mirrored) for scale in settings.scales for is_mirrored in mirrorings]
    if settings.window is None:
        yield _mean(_scores_of(student, image, *kind) for kind in kinds)
        return
    for bands in in_step([_window_bands_of(student, image, *kind, settings) for kind in kinds]):
        yield _mean(bands)


def _mean(scores: Iterable[Tensor]) -> Tensor:
    """Mean of tensors of one shape, of which the first becomes the result."""
    others = iter(scores)
    total, count = next(others), 1
    for one in others:
        total.add_(one)
        count += 1
    return total.div_(count)


def _window_bands_of(
    student: Student, image: Tensor, scale: float, is_mirrored: bool, settings: EvaluateSettings
) -> Iterator[Tensor]:
    """`_scores_of` with a sliding window, in bands of rows."""
    version = _version(image, scale, is_mirrored)
    bands = (band.flip(-1) if is_mirrored else band for band in window_bands(student, version, settings))
    is_own_size = version.shape[-2:] == image.shape[-2:]
    return bands if is_own_size else resampled(bands, version.shape[-2], image.shape[-2:])


def _scores_of(student: Student, image: Tensor, scale: float, is_mirrored: bool) -> Tensor:
    """Probabilities of one version of the image, at the image's own size: float32 [1, K, H, W]."""
    with evaluating(student.model):
        scores = student.logits(_version(image, scale, is_mirrored)).softmax(dim=1)
    scores = scores.flip(-1) if is_mirrored else scores
    return scores if scores.shape[-2:] == image.shape[-2:] else upsampled(scores, image.shape[-2:])


def _version(image: Tensor, scale: float, is_mirrored: bool) -> Tensor:
    """An image, uint8 [1, 3, H, W], at `scale` times its size, mirrored or not."""
    version = resized(image, scale)
    return version.flip(-1) if is_mirrored else version


def resized(image: Tensor, scale: float) -> Tensor:
    """An image, uint8 [1, 3, H, W], at `scale` times its size, bilinear with antialiasing."""
    if scale == 1:
        return image
    size = [max(1, round(scale * side)) for side in image.shape[-2:]]
    return functional.interpolate(image.float(), size, mode="bilinear", antialias=True).round_().to(torch.uint8)


def window_bands(student: Student, image: Tensor, settings: EvaluateSettings) -> Iterator[Tensor]:
    """Probabilities of each pixel, as the mean over the windows that contain it, in bands of rows.

    An image smaller than the window is padded with black, as in training (`evaluate.windows` shifted). A band has the
    rows that no further window contains.

    image:  uint8 [1, 3, H, W] RGB on the student's device
    yields: float32 [1, K, h, W] in [0, 1]
    """
    assert settings.window is not None
    side, is_shifted = settings.window, settings.windows == "shifted"
    stride = settings.stride or 2 * side // 3
    height, width = image.shape[-2:]
    if is_shifted:
        image = functional.pad(image, (0, max(0, side - width), 0, max(0, side - height)))
    top, total = 0, torch.zeros(0)
    count = torch.zeros((side, image.shape[-1]), device=image.device)
    for batch in batches(windows(image.shape[-2:], side, stride, is_shifted), settings.batch_size):
        with evaluating(student.model):
            scores = student.logits(torch.cat([window.of(image) for window in batch])).softmax(dim=1)
        if not total.numel():
            total = scores.new_zeros((scores.shape[1], *count.shape))
        for window, one in zip(batch, scores, strict=True):
            num_done, top = window.top - top, window.top
            if num_done:
                yield (total[:, :num_done] / count[:num_done])[None, ..., :width]
                total, count = (_without_first(rows, num_done) for rows in (total, count))
            place = window._replace(top=0)
            place.of(total).add_(one)
            place.of(count).add_(1)
    yield (total[:, : height - top] / count[: height - top])[None, ..., :width]


def _without_first(rows: Tensor, num: int) -> Tensor:
    """Rows [..., h, W] moved up by `num`, with zeros behind them."""
    return torch.cat([rows[..., num:, :], torch.zeros_like(rows[..., :num, :])], dim=-2)


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
    return [(start, side) for start in starts(length, side, stride)]


def batches(windows: Sequence[Window], batch_size: int) -> Iterator[list[Window]]:
    """Batches of windows that follow each other; those of one batch have the same shape."""
    for _, group in groupby(windows, key=lambda window: (window.height, window.width)):
        same = list(group)
        for start in range(0, len(same), batch_size):
            yield same[start : start + batch_size]
