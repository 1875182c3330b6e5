"""The exact slider in integers: at how many of its stops a class is in a pixel's prediction set, and what that counts.

At one location no threshold rises from stop to stop, so a class that has left the prediction set never comes back: the
number of stops that it stays for, its level, says all.
What labels a pixel is then one span of stops for its best foreground class and one for the background, whatever the
rule, and all counts are differences of histograms of the ends of these spans.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

import calib
from pipeline.report.audit import evenly_spaced

MAX_STOPS = 255  # levels are uint8

Plane = npt.NDArray[np.uint8]
Counts = npt.NDArray[np.int64]


class Levels(NamedTuple):
    """Prediction sets of an image at all stops; every plane is uint8 [H, W].

    best:            most probable foreground class
    foreground:      number of stops at which it is in the set, if an infinite threshold lets everything pass
    second:          the same of the runner-up among the foreground classes
    background:      the same of the background, 0 without one
    background_wins: 1 where the background is the most probable class of all
    """

    best: Plane
    foreground: Plane
    second: Plane
    background: Plane
    background_wins: Plane


class Spans(NamedTuple):
    """The stops at which a pixel is labelled: start <= stop < end; uint8 [H, W] each."""

    foreground_start: Plane
    foreground_end: Plane
    background_start: Plane
    background_end: Plane


class Tally(NamedTuple):
    """Labelled pixels at A stops.

    by_label: int64 [K, A], by their label
    by_raw:   int64 [K, A], by their most probable class
    changed:  int64 [A], whose label is not their most probable class
    """

    by_label: Counts
    by_raw: Counts
    changed: Counts


def assert_levels_exist(q: npt.NDArray[np.float32]) -> None:
    """AssertionError unless thresholds, float32 [A, H, W], never rise from stop to stop, and the stops fit uint8."""
    later, earlier = q[1:], q[:-1]
    assert len(q) <= MAX_STOPS, f"{len(q)} stops do not fit uint8"
    assert ((later <= earlier) | (np.isnan(later) & np.isnan(earlier))).all(), "a threshold rises from stop to stop"


def first_stops(q: npt.NDArray[np.float32], uncalibrated: Literal["abstain", "accept"]) -> Plane:
    """uint8 [H, W], the first stop at which a location labels: "abstain" does not where the threshold is infinite.

    q: float32 [A, H, W], thresholds that never rise from stop to stop
    """
    if uncalibrated == "accept":
        return np.zeros(q.shape[1:], np.uint8)
    first: Plane = np.isposinf(q).sum(axis=0).astype(np.uint8)
    return first


def stop_levels(planes: calib.Planes, q: npt.NDArray[np.float32], background: int | None) -> Levels:
    """Levels of an image, each comparison in float32 as `calib.rules` makes it.

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


def label_spans(levels: Levels, first: Plane, rule: calib.Rule, num_stops: int) -> Spans:
    """When a rule labels a pixel with its best foreground class, and when with the background."""
    foreground, background = levels.foreground, levels.background
    if rule == "raw":  # at every stop
        never, always = np.zeros_like(foreground), np.full_like(foreground, num_stops)
        wins = levels.background_wins.astype(np.bool_)
        return Spans(never, np.where(wins, never, always), never, np.where(wins, always, never))
    start, end = first, foreground
    if rule == "singleton":
        start = np.maximum(first, np.maximum(levels.second, background))
    elif rule != "paper":
        end = np.where(levels.background_wins, np.uint8(0), foreground)
    background_start = np.maximum(first, end)
    return Spans(start, np.maximum(start, end), background_start, np.maximum(background_start, background))


def tally(levels: Levels, spans: Spans, num_classes: int, num_stops: int, background: int | None) -> Tally:
    """Count the labelled pixels of an image at every stop."""
    key = 2 * levels.best.astype(np.intp) + levels.background_wins
    ends = (spans.foreground_start, spans.foreground_end), (spans.background_start, spans.background_end)
    foreground, behind = (_labelled(key, *pair, num_classes, num_stops) for pair in ends)  # [K, 2, A]
    both = foreground + behind
    by_label, by_raw = foreground.sum(axis=1), both[:, 0].copy()
    if background is not None:
        by_label[background] += behind.sum(axis=(0, 1))
        by_raw[background] += both[:, 1].sum(axis=0)
    return Tally(by_label, by_raw, foreground[:, 1].sum(axis=0) + behind[:, 0].sum(axis=0))


def _labelled(key: npt.NDArray[np.intp], start: Plane, end: Plane, num_classes: int, num_stops: int) -> Counts:
    """Pixels inside their span, int64 [K, 2, A], by key = 2 * best + background_wins."""
    bins = num_stops + 1
    entered, left = (
        np.bincount((key * bins + stop).ravel(), minlength=2 * num_classes * bins) for stop in (start, end)
    )
    inside = (entered - left).reshape(num_classes, 2, bins).cumsum(axis=2)
    return inside[:, :, :num_stops]


def count_right(levels: Levels, spans: Spans, truth: Plane, num_stops: int, background: int | None) -> Counts:
    """int64 [A], pixels labelled with their true class. truth: uint8 [H, W], 255 = void."""
    right = _inside(spans.foreground_start, spans.foreground_end, levels.best == truth, num_stops)
    if background is not None:
        right += _inside(spans.background_start, spans.background_end, truth == background, num_stops)
    return right


def count_kept(spans: Spans, chosen: npt.NDArray[np.bool_], num_stops: int) -> Counts:
    """int64 [A], labelled pixels among the chosen ones."""
    foreground = _inside(spans.foreground_start, spans.foreground_end, chosen, num_stops)
    return foreground + _inside(spans.background_start, spans.background_end, chosen, num_stops)


def _inside(start: Plane, end: Plane, chosen: npt.NDArray[np.bool_], num_stops: int) -> Counts:
    entered, left = (np.bincount(stop[chosen], minlength=num_stops + 1) for stop in (start, end))
    inside: Counts = (entered - left).cumsum()[:num_stops]
    return inside


def tally_labels(labels: npt.NDArray[np.float32], raw: Plane, num_classes: int) -> Tally:
    """The same from the labels themselves. labels: float32 [A, H, W], NaN = abstain; raw: uint8 [H, W]."""
    kept = ~np.isnan(labels)
    named = np.where(kept, labels, 0).astype(np.uint8)
    by_label = [np.bincount(label[is_kept], minlength=num_classes) for label, is_kept in zip(named, kept, strict=True)]
    by_raw = [np.bincount(raw[is_kept], minlength=num_classes) for is_kept in kept]
    changed = (kept & (named != raw)).sum(axis=(1, 2))
    return Tally(np.stack(by_label, axis=1), np.stack(by_raw, axis=1), changed.astype(np.int64))


def chosen_images(keep_rates: npt.NDArray[np.float64], most: int) -> list[int]:
    """Images that are shown, ascending: all, or `most`, half with the lowest keep rates, half evenly spaced."""
    if len(keep_rates) <= most:
        return list(range(len(keep_rates)))
    lowest = np.argsort(keep_rates, kind="stable")[: most - most // 2].tolist()
    rest = sorted(set(range(len(keep_rates))) - set(lowest))
    return sorted(lowest + [rest[i] for i in evenly_spaced(len(rest), most // 2)])
