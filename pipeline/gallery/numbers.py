"""The exact slider in integers: the number of stops at which a class is in a pixel's prediction set, and pixel counts.

The threshold of a location never rises from stop to stop, so a class that has left the prediction set does not return.
The number of stops at which it is in the set, its level, determines its membership at every stop.

The set of a pixel changes at a few stops only. Pixels are counted by their set at every stop, as differences of
histograms of these stops. The truth table of a rule turns these counts into counts of its labels.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

import calib
from calib.rules import BACKGROUND, FOREGROUND, NUM_CODES
from pipeline.datasets import IGNORE_INDEX, evenly_spaced

MAX_STOPS = 255  # levels are uint8

Plane = npt.NDArray[np.uint8]
Counts = npt.NDArray[np.int64]


class Levels(NamedTuple):
    """Prediction sets of an image at all stops; every plane is uint8 [H, W].

    best:            most probable foreground class
    foreground:      number of stops at which it is in the set, where an infinite threshold accepts every class
    second:          the same for the second most probable foreground class
    background:      the same for the background; 0 without one
    background_wins: 1 where the background is the most probable class of all
    """

    best: Plane
    foreground: Plane
    second: Plane
    background: Plane
    background_wins: Plane


class Tally(NamedTuple):
    """Numbers of labeled pixels at A stops.

    by_label: int64 [K, A], by label
    by_raw:   int64 [K, A], by most probable class
    changed:  int64 [A], with a label that is not the most probable class
    """

    by_label: Counts
    by_raw: Counts
    changed: Counts


def assert_levels_exist(q: npt.NDArray[np.float32]) -> None:
    """AssertionError if a threshold of float32 [A, H, W] rises from stop to stop, or if A exceeds MAX_STOPS."""
    later, earlier = q[1:], q[:-1]
    assert len(q) <= MAX_STOPS, f"{len(q)} stops do not fit uint8"
    assert ((later <= earlier) | (np.isnan(later) & np.isnan(earlier))).all(), "a threshold rises from stop to stop"


def first_stops(q: npt.NDArray[np.float32], uncalibrated: Literal["abstain", "accept"]) -> Plane:
    """uint8 [H, W], first stop at which a location has labels; under "abstain" that is the first finite threshold.

    q: float32 [A, H, W], thresholds that never rise from stop to stop
    """
    if uncalibrated == "accept":
        return np.zeros(q.shape[1:], np.uint8)
    first: Plane = np.isposinf(q).sum(axis=0).astype(np.uint8)
    return first


def stop_levels(planes: calib.Planes, q: npt.NDArray[np.float32], background: int | None) -> Levels:
    """Levels of an image, from the same float32 comparisons as in `calib.labels`.

    q: float32 [A, H, W], thresholds that never rise from stop to stop
    """
    scores = [1 - planes.p_foreground, 1 - planes.p_second]
    if planes.p_background is not None:
        scores.append(1 - planes.p_background)
    foreground, second, behind, wins = np.zeros((4, *planes.best_foreground.shape), np.uint8)
    is_in = np.empty(planes.best_foreground.shape, np.bool_)
    for threshold in q:
        for score, level in zip(scores, (foreground, second, behind), strict=False):
            np.less_equal(score, threshold, out=is_in)
            level += is_in.view(np.uint8)
    if background is not None:
        wins[calib.most_probable(planes, background)[0] == background] = 1
    return Levels(planes.best_foreground, foreground, second, behind, wins)


def count_sets(levels: Levels, first: Plane, key: npt.NDArray[np.intp], num_keys: int, num_stops: int) -> Counts:
    """Number of pixels by key and by their set at every stop.

    first:   uint8 [H, W], see `first_stops`; before that stop the set is empty
    key:     integer [H, W], 0..num_keys - 1
    returns: int64 [num_keys, NUM_CODES, A]
    """
    foreground, second, background = levels.foreground, levels.second, levels.background
    middle = np.maximum(np.minimum(foreground, background), second)  # the runner-up leaves before the best class
    changes = [np.minimum(second, background), middle, np.maximum(foreground, background)]
    ends = [np.maximum(first, change) for change in changes]
    bins = num_stops + 1
    size = num_keys * NUM_CODES * bins
    counts = np.zeros(size, np.int64)
    for start, end in zip([first, *ends[:-1]], ends, strict=True):
        code = (start < foreground) | (start < second) << np.uint8(1) | (start < background) << np.uint8(2)
        cell = (key * NUM_CODES + code) * bins
        counts += np.bincount((cell + start).ravel(), minlength=size)
        counts -= np.bincount((cell + end).ravel(), minlength=size)
    sets: Counts = counts.reshape(num_keys, NUM_CODES, bins).cumsum(axis=2)[:, :, :num_stops]
    sets[:, 0] += np.bincount(key.ravel(), minlength=num_keys)[:, np.newaxis] - sets.sum(axis=1)  # the empty sets
    return sets


def count_by_class(levels: Levels, first: Plane, num_classes: int, num_stops: int) -> Counts:
    """Number of pixels by best foreground class, whether the background is most probable, and set.

    returns: int64 [K, 2, NUM_CODES, A]
    """
    key = 2 * levels.best.astype(np.intp) + levels.background_wins
    return count_sets(levels, first, key, 2 * num_classes, num_stops).reshape(num_classes, 2, NUM_CODES, num_stops)


def tally(by_class: Counts, rule: str, background: int | None) -> Tally:
    """Numbers of pixels that a rule labels at every stop. by_class: int64 [K, 2, NUM_CODES, A], `count_by_class`."""
    foreground, behind = _labeled(by_class, rule)  # [K, 2, A]
    both = foreground + behind
    by_label, by_raw = foreground.sum(axis=1), both[:, 0].copy()
    if background is not None:
        by_label[background] += behind.sum(axis=(0, 1))
        by_raw[background] += both[:, 1].sum(axis=0)
    return Tally(by_label, by_raw, foreground[:, 1].sum(axis=0) + behind[:, 0].sum(axis=0))


def _labeled(sets: Counts, rule: str) -> tuple[Counts, Counts]:
    """Pixels labeled with their best foreground class, and with the background. sets: [N, 2, NUM_CODES, A]."""
    decision = calib.find_rule(rule).table[..., np.newaxis]
    return (sets * (decision == FOREGROUND)).sum(axis=2), (sets * (decision == BACKGROUND)).sum(axis=2)


BEST, BEHIND, OTHER, VOID = range(4)  # the true class: the best foreground class, the background, another, or void


def count_by_truth(levels: Levels, first: Plane, truth: Plane, num_stops: int, background: int | None) -> Counts:
    """Number of pixels by true class (BEST, BEHIND, OTHER, VOID), whether the background is most probable, and set.

    truth:   uint8 [H, W], class index or IGNORE_INDEX (void)
    returns: int64 [4, 2, NUM_CODES, A]
    """
    relation = np.full(truth.shape, OTHER, np.intp)
    relation[truth == IGNORE_INDEX] = VOID
    if background is not None:
        relation[truth == background] = BEHIND
    relation[truth == levels.best] = BEST
    sets = count_sets(levels, first, 2 * relation + levels.background_wins, 8, num_stops)
    return sets.reshape(4, 2, NUM_CODES, num_stops)


def count_right(by_truth: Counts, rule: str) -> Counts:
    """int64 [2, A], number of labeled pixels with a true class, and of those that are right.

    by_truth: int64 [4, 2, NUM_CODES, A], `count_by_truth`
    """
    foreground, behind = (labeled.sum(axis=1) for labeled in _labeled(by_truth, rule))  # [4, A]
    return np.stack([(foreground + behind)[:VOID].sum(axis=0), foreground[BEST] + behind[BEHIND]])


def tally_labels(labels: npt.NDArray[np.float32], raw: Plane, num_classes: int) -> Tally:
    """Numbers of pixels of given labels.

    labels: float32 [A, H, W], class index, NaN = abstain
    raw:    uint8 [H, W], most probable class
    """
    kept = ~np.isnan(labels)
    named = np.where(kept, labels, 0).astype(np.uint8)
    by_label = [np.bincount(label[is_kept], minlength=num_classes) for label, is_kept in zip(named, kept, strict=True)]
    by_raw = [np.bincount(raw[is_kept], minlength=num_classes) for is_kept in kept]
    changed = (kept & (named != raw)).sum(axis=(1, 2))
    return Tally(np.stack(by_label, axis=1), np.stack(by_raw, axis=1), changed.astype(np.int64))


def chosen_images(keep_rates: npt.NDArray[np.float64], most: int) -> list[int]:
    """Indices of the images that are shown, ascending.

    These are all images, or `most`: half with the lowest keep rates, half evenly spaced among the others.

    keep_rates: float64 [N] in [0, 1]
    """
    if len(keep_rates) <= most:
        return list(range(len(keep_rates)))
    lowest = np.argsort(keep_rates, kind="stable")[: most - most // 2].tolist()
    rest = sorted(set(range(len(keep_rates))) - set(lowest))
    return sorted(lowest + evenly_spaced(rest, most // 2))
