"""Arithmetic of the label of one pixel: ranks, p-values, its prediction set, and its label at every alpha."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

import calib

Floats = npt.NDArray[np.float32]
Membership = Literal["abstain", "accept"]


class Pixel(NamedTuple):
    """Everything besides a threshold that determines a label.

    probabilities: float32 [K], in [0, 1]
    rule:          one of `calib.RULES`
    background:    index of the background class, if there is one
    uncalibrated:  prediction set at a threshold of +inf: every class (accept), or none (abstain)
    """

    probabilities: Floats
    rule: str
    background: int | None
    uncalibrated: Membership


class Interval(NamedTuple):
    """Alphas with one label (class index, None = no label).

    Exact intervals: low <= alpha < high; the first one starts above 0. Listed alphas: low and high are the first and
    the last alpha with this label.
    """

    low: Fraction
    high: Fraction
    label: int | None


def labels_at(pixel: Pixel, thresholds: Floats) -> Floats:
    """Label of the pixel at each of T thresholds, computed by the functions that label whole images.

    thresholds: float32 [T], or [T, K] class-wise; +inf = uncalibrated, NaN = no score
    returns:    float32 [T], class index, NaN = no label
    """
    maps = np.repeat(pixel.probabilities[:, np.newaxis, np.newaxis], len(thresholds), axis=2)  # [K, 1, T]
    planes = calib.class_planes(maps, pixel.background)
    rule, background, uncalibrated = pixel.rule, pixel.background, pixel.uncalibrated
    if thresholds.ndim == 1:
        labels = calib.label_pixels(planes, thresholds[np.newaxis], rule, background, uncalibrated)
    else:
        sets = calib.class_wise_sets(maps, thresholds.T[:, np.newaxis], background, uncalibrated)
        labels = calib.label_class_wise(sets, planes, rule, background, uncalibrated)
    return labels.reshape(-1)


def prediction_set(pixel: Pixel, threshold: Floats) -> list[int]:
    """Indices of the classes j with 1 - P_j <= q. threshold: float32 [1], or [K] class-wise."""
    at_infinity = np.float32(np.nan if pixel.uncalibrated == "abstain" else np.inf)
    q = np.where(np.isposinf(threshold), at_infinity, threshold)
    inside: list[int] = np.flatnonzero(1 - pixel.probabilities <= q).tolist()
    return inside


def num_at_least(scores: Floats, candidates: Floats) -> npt.NDArray[np.int64]:
    """Number of calibration scores that are at least as large as each candidate score.

    scores: float32 [n], no NaN; candidates: float32 [K]; returns int64 [K]
    """
    counts: npt.NDArray[np.int64] = np.count_nonzero(scores >= candidates[:, np.newaxis], axis=1)
    return counts


def p_value(at_least: int, n: int) -> Fraction:
    """Conformal p-value: a class is in the set at alpha if its p-value is larger than alpha (Vovk et al. 2005)."""
    return Fraction(at_least + 1, n + 1)


def exact_intervals(pixel: Pixel, scores: Floats, policy: calib.Policy) -> list[Interval]:
    """Intervals of alpha at a location whose threshold is the ceil((n + 1)(1 - alpha))-th smallest of its n scores.

    The threshold is the m-th largest score for m / (n + 1) <= alpha < (m + 1) / (n + 1). None exists for m = 0.

    scores: float32 [n], no NaN
    """
    n = len(scores)
    if n == 0:
        no_threshold = np.array([np.nan], np.float32)
        return [Interval(Fraction(0), Fraction(1), class_or_none(labels_at(pixel, no_threshold)[0]))]
    descending = np.sort(scores)[::-1]
    thresholds = np.concatenate([np.array([np.inf], np.float32), descending])
    thresholds = calib.resolve_uncalibrated(thresholds, descending[:1], np.array([n]), unrefused(policy))
    return [
        Interval(Fraction(start, n + 1), Fraction(stop, n + 1), label)
        for start, stop, label in _runs(labels_at(pixel, thresholds))
    ]


def unrefused(policy: calib.Policy) -> calib.Policy:
    """Policy at alphas for which the stage was not run. With `raise` such a run is refused, so no pixel is labeled."""
    return "abstain" if policy == "raise" else policy


def listed_intervals(pixel: Pixel, alphas: Sequence[float], thresholds: Floats) -> list[Interval]:
    """Runs of alphas, in ascending order, with one label. thresholds: float32 [T], or [T, K] class-wise."""
    exact = [Fraction(str(alpha)) for alpha in alphas]
    return [
        Interval(exact[start], exact[stop - 1], label) for start, stop, label in _runs(labels_at(pixel, thresholds))
    ]


def interval_of(intervals: Sequence[Interval], alpha: float) -> Interval | None:
    """The interval that contains an alpha; None if the alpha is between listed ones or outside of all intervals."""
    exact = Fraction(str(alpha))
    inside = [interval for interval in intervals if interval.low <= exact <= interval.high]
    return inside[-1] if inside else None  # the end of an exact interval belongs to the next one


def _runs(labels: Floats) -> list[tuple[int, int, int | None]]:
    """Start, stop and label of every run of equal labels."""
    changes = np.flatnonzero(~((labels[1:] == labels[:-1]) | (np.isnan(labels[1:]) & np.isnan(labels[:-1])))) + 1
    starts = [0, *changes.tolist()]
    return [
        (start, stop, class_or_none(labels[start]))
        for start, stop in zip(starts, [*starts[1:], len(labels)], strict=True)
    ]


def class_or_none(label: float | np.floating) -> int | None:
    """A class index, or None for NaN."""
    return None if np.isnan(label) else int(label)
