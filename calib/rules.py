"""From a probability map and thresholds to pseudo-labels (paper Eq. 4), without building the prediction sets.

The prediction set of a pixel holds class j when 1 - P_j <= q. Its most probable member is the most probable class of
all, so whether any foreground class is in the set, and which one is best, is known from the maximum alone. Three
probabilities a pixel (best and second-best foreground, background) answer every rule at every threshold.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

Rule = Literal["paper", "argmax", "singleton"]

TILE = 16384  # locations reduced together: the running maxima stay in the cache


class Planes(NamedTuple):
    """All that the rules need of a probability map; every plane is [H, W].

    best_foreground: uint8, most probable class but the background, the lowest index among equals
    p_foreground:    float32, its probability
    p_second:        float32, probability of the runner-up among the foreground classes, NaN if there is one class only
                     (a probability of 0 would be in the set at q = 1)
    p_background:    float32, or None without a background class
    """

    best_foreground: npt.NDArray[np.uint8]
    p_foreground: npt.NDArray[np.float32]
    p_second: npt.NDArray[np.float32]
    p_background: npt.NDArray[np.float32] | None


class LabelCounts(NamedTuple):
    """What became of the pixels of an image; counts of several images add up field by field.

    pixels:                all of them
    kept:                  labelled
    empty:                 calibrated, no class in the set
    background_only:       calibrated, the set is the background alone
    background_overruled:  labelled foreground although the background is more probable (Eq. 4's second line)
    uncalibrated:          at a location without a finite threshold
    """

    pixels: int
    kept: int
    empty: int
    background_only: int
    background_overruled: int
    uncalibrated: int


def class_planes(probabilities: npt.NDArray[np.float32], background: int | None) -> Planes:
    """Reduce a probability map to the planes that the rules need, in one pass over the classes.

    Classes are ranked by P, not by 1 - P: the same order, but 1 - P rounds small probabilities to the same float32.

    probabilities: float32 [K, H, W] in [0, 1], K <= 255, at least one class beside the background
    background:    index of the background class, None if there is none
    raises:        ValueError if a probability is NaN or +inf: that is a fault of the annotator
    """
    num_classes, height, width = probabilities.shape
    foreground = [index for index in range(num_classes) if index != background]
    flat = probabilities.reshape(num_classes, height * width)
    best = np.empty(height * width, dtype=np.uint8)
    first, second = np.empty((2, height * width), dtype=np.float32)
    for start in range(0, flat.shape[1], TILE):
        tile = slice(start, start + TILE)
        _reduce(flat[:, tile], foreground, best[tile], first[tile], second[tile])
    shape = height, width
    p_background = None if background is None else probabilities[background].astype(np.float32)
    planes = Planes(best.reshape(shape), first.reshape(shape), second.reshape(shape), p_background)
    _refuse_broken(planes)
    return planes


def label_pixels(
    planes: Planes,
    q_hat: npt.NDArray[np.float32],
    rule: Rule,
    background: int | None,
    uncalibrated: Literal["abstain", "accept"],
) -> npt.NDArray[np.float32]:
    """Label every pixel from its prediction set { j : 1 - P_j <= q }, compared in float32 as the scores are computed.

    q_hat:        float32 [H, W], +inf = uncalibrated, NaN = never labelled
    rule:         "paper": the best foreground class in the set, even if the background is more probable; background if
                  it is alone in the set (Eq. 4); "argmax": the most probable class of all, if it is in the set;
                  "singleton": the only class of the set. Without a background class the first two are one
    background:   the index that was given to `class_planes`
    uncalibrated: at +inf, "accept" takes every class into the set, "abstain" takes none
    returns:      float32 [H, W], class index, NaN = abstain
    """
    threshold = np.where(np.isposinf(q_hat), np.nan, q_hat) if uncalibrated == "abstain" else q_hat
    if rule == "singleton":
        return _label_singletons(planes, threshold, background)
    foreground_in, background_in = _membership(planes, threshold)
    if rule == "argmax":
        foreground_in &= ~_background_is_best(planes, background)
    return _labels(planes, foreground_in, background_in & ~foreground_in, background)


def summarise_labels(
    planes: Planes, q_hat: npt.NDArray[np.float32], label: npt.NDArray[np.float32], background: int | None
) -> LabelCounts:
    """Count what `label_pixels` made of an image. label: float32 [H, W], NaN = abstain; the rest as given to it."""
    calibrated = np.isfinite(q_hat)
    foreground_in, background_in = _membership(planes, q_hat)
    kept = ~np.isnan(label)
    overruled = kept & (label != background) & _background_is_best(planes, background)
    return LabelCounts(
        pixels=label.size,
        kept=_count(kept),
        empty=_count(calibrated & ~foreground_in & ~background_in),
        background_only=_count(calibrated & ~foreground_in & background_in),
        background_overruled=_count(overruled),
        uncalibrated=_count(~calibrated),
    )


def _reduce(
    tile: npt.NDArray[np.float32],
    foreground: Sequence[int],
    best: npt.NDArray[np.uint8],
    first: npt.NDArray[np.float32],
    second: npt.NDArray[np.float32],
) -> None:
    """Fill best, first and second [T] from tile [K, T]. np.maximum passes NaN on, so that it can be refused later.

    Indices ascend, so the largest one that was ever ahead is the best: a third of the time of a masked copy.
    """
    best[:] = foreground[0]
    first[:] = tile[foreground[0]]
    second[:] = -np.inf if len(foreground) > 1 else np.nan
    for index in foreground[1:]:
        np.maximum(best, (tile[index] > first) * np.uint8(index), out=best)
        np.maximum(second, np.minimum(first, tile[index]), out=second)
        np.maximum(first, tile[index], out=first)


def _refuse_broken(planes: Planes) -> None:
    p_background = planes.p_foreground if planes.p_background is None else planes.p_background
    broken = np.count_nonzero(~np.isfinite(np.maximum(planes.p_foreground, p_background)))
    if broken:
        raise ValueError(f"the probabilities are NaN or infinite at {broken} of {planes.p_foreground.size} pixels")


def _membership(
    planes: Planes, threshold: npt.NDArray[np.float32]
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Is the best foreground class in the set? Is the background? (bool [H, W] each)"""
    foreground_in = 1 - planes.p_foreground <= threshold
    if planes.p_background is None:
        return foreground_in, np.zeros_like(foreground_in)
    return foreground_in, 1 - planes.p_background <= threshold


def _background_is_best(planes: Planes, background: int | None) -> npt.NDArray[np.bool_]:
    """Is the background the most probable class of all? Of equals, the lowest index is."""
    if planes.p_background is None or background is None:
        return np.zeros(planes.p_foreground.shape, dtype=np.bool_)
    ahead = planes.p_background > planes.p_foreground
    ahead |= (planes.p_background == planes.p_foreground) & (background < planes.best_foreground)
    return ahead


def _label_singletons(
    planes: Planes, threshold: npt.NDArray[np.float32], background: int | None
) -> npt.NDArray[np.float32]:
    foreground_in, background_in = _membership(planes, threshold)
    second_in = 1 - planes.p_second <= threshold
    return _labels(planes, foreground_in & ~second_in & ~background_in, background_in & ~foreground_in, background)


def _labels(
    planes: Planes,
    is_foreground: npt.NDArray[np.bool_],
    is_background: npt.NDArray[np.bool_],
    background: int | None,
) -> npt.NDArray[np.float32]:
    label = np.where(is_foreground, planes.best_foreground, np.float32(np.nan))
    if background is not None:
        label[is_background] = background
    return label


def _count(pixels: npt.NDArray[np.bool_]) -> int:
    return int(np.count_nonzero(pixels))
