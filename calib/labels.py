"""From planes and thresholds to pseudo-labels by a rule (paper Eq. 4), without building the prediction sets."""

from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from calib.compiled import compiled
from calib.planes import FlatPlanes, Planes, background_is_best, class_planes, flat_planes
from calib.rules import BACKGROUND, FOREGROUND, NUM_CODES, find_rule
from calib.sets import closed, prediction_sets

ONE = np.float32(1)


class LabelCounts(NamedTuple):
    """Numbers of pixels of an image; the counts of several images can be added field by field.

    pixels:               all pixels
    kept:                 labeled pixels
    empty:                calibrated pixels whose prediction set is empty
    background_only:      calibrated pixels whose prediction set contains the background only
    background_overruled: pixels labeled with a foreground class although the background is more probable and in the
                          set too (second line of Eq. 4)
    uncalibrated:         pixels at a location without a finite threshold (0 for accepted class-wise thresholds)
    """

    pixels: int
    kept: int
    empty: int
    background_only: int
    background_overruled: int
    uncalibrated: int


def label_pixels(
    planes: Planes,
    q_hat: npt.NDArray[np.float32],
    rule: str,
    background: int | None,
    uncalibrated: Literal["abstain", "accept"],
) -> npt.NDArray[np.float32]:
    """Label every pixel by a rule from its prediction set { j : 1 - P_j <= q } (paper Eq. 4 for rule paper).

    1 - P_j and q are compared in float32, in which the scores are computed.

    q_hat:        float32 [H, W], threshold; +inf = uncalibrated, NaN = never labeled
    rule:         name of an entry of `calib.rules.RULES`
    background:   index of the background class, as given to `class_planes`
    uncalibrated: prediction set at +inf: "accept": every class, "abstain": none
    returns:      float32 [H, W], class index, NaN = abstain
    raises:       UnknownNameError
    """
    label = np.empty(planes.best_foreground.shape, np.float32)
    q = np.ascontiguousarray(np.broadcast_to(q_hat, label.shape)).ravel()
    table, index = find_rule(rule).table.ravel(), -1 if background is None else background
    _label(flat_planes(planes), q, uncalibrated == "accept", table, index, label.ravel())
    return label


def _look_up(
    planes: Planes, codes: npt.NDArray[np.uint8], rule: str, background: int | None
) -> npt.NDArray[np.float32]:
    """Labels by the truth table of a rule: float32 [H, W], class index, NaN = abstain. codes: from `set_codes`"""
    decision = find_rule(rule).table.ravel()[background_is_best(planes, background) * np.uint8(NUM_CODES) | codes]
    label = np.where(decision == FOREGROUND, planes.best_foreground, np.float32(np.nan))
    if background is not None:
        np.copyto(label, np.float32(background), where=decision == BACKGROUND)
    return label


def set_codes(planes: Planes, threshold: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """The code of each prediction set in the truth tables of the rules: uint8 [H, W], 0..NUM_CODES - 1.

    Bit 0: the best foreground class is in the set; bit 1: another foreground class is; bit 2: the background is.

    threshold: float32 [H, W]; +inf: every class is in the set, NaN: none is
    """
    foreground_in, background_in = _membership(planes, threshold)
    second_in = 1 - planes.p_second <= threshold
    return foreground_in.view(np.uint8) | second_in * np.uint8(2) | background_in * np.uint8(4)


class ClassWiseSets(NamedTuple):
    """Prediction sets of class-wise thresholds, in the form that `label_pixels` and `summarise_labels` take.

    planes:    planes in which the probability of a class outside the set is -inf, which fails every finite threshold
    threshold: float32 [H, W]. 1: every class of the set passes. +inf: no class has a finite threshold (with "accept"
               the threshold is 1 there too). NaN: no class has a threshold.
    """

    planes: Planes
    threshold: npt.NDArray[np.float32]


def class_wise_sets(
    probabilities: npt.NDArray[np.float32],
    q_hat: npt.NDArray[np.float32],
    background: int | None,
    uncalibrated: Literal["abstain", "accept"],
) -> ClassWiseSets:
    """Prediction sets { j : 1 - P_j <= q_j } of class-wise thresholds, which need the probabilities of all classes.

    probabilities: float32 [K, H, W] in [0, 1]
    q_hat:         float32 [K, H, W]; +inf = uncalibrated, NaN = no threshold
    background:    index of the background class, None if there is none
    uncalibrated:  whether a class at +inf is in the set: "accept": it is, "abstain": it is not
    raises:        ValueError if a probability is NaN or +inf
    """
    members = np.where(prediction_sets(probabilities, q_hat, uncalibrated), probabilities, np.float32(-np.inf))
    best = np.fmin.reduce(q_hat, axis=0)  # finite if any threshold is, NaN if there is none
    passes = best < np.inf if uncalibrated == "abstain" else ~np.isnan(best)
    return ClassWiseSets(class_planes(members, background), np.where(passes, np.float32(1), best))


def label_class_wise(
    sets: ClassWiseSets,
    planes: Planes,
    rule: str,
    background: int | None,
    uncalibrated: Literal["abstain", "accept"],
) -> npt.NDArray[np.float32]:
    """`label_pixels` for class-wise thresholds: float32 [H, W], class index, NaN = abstain.

    sets:   from `class_wise_sets`
    planes: of all classes, from `class_planes`
    raises: UnknownNameError
    """
    if not find_rule(rule).of_all:
        return label_pixels(sets.planes, sets.threshold, rule, background, uncalibrated)
    codes = set_codes(sets.planes, closed(sets.threshold, uncalibrated))
    # Where the best foreground class of the set is not the best of all, the set has another class and not the best.
    is_best = sets.planes.best_foreground == planes.best_foreground
    codes = np.where(is_best, codes, codes & np.uint8(4) | (codes & np.uint8(1)) << np.uint8(1))
    return _look_up(planes, codes, rule, background)


def set_sizes(planes: Planes, q_hat: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """The size of every prediction set: uint8 [H, W], 0, 1, or 2 for two or more.

    q_hat: float32 [H, W], threshold; +inf: every class is in the set, NaN: none is
    """
    foreground_in, background_in = _membership(planes, q_hat)
    second_in = 1 - planes.p_second <= q_hat
    return np.minimum(foreground_in.astype(np.uint8) + second_in + background_in, 2).astype(np.uint8)


def summarise_labels(
    planes: Planes, q_hat: npt.NDArray[np.float32], label: npt.NDArray[np.float32], background: int | None
) -> LabelCounts:
    """Count the labels of an image.

    planes, q_hat, background: as given to `label_pixels`
    label:                     float32 [H, W], its result, NaN = abstain
    """
    calibrated = np.isfinite(q_hat)
    foreground_in, background_in = _membership(planes, q_hat)
    kept = ~np.isnan(label)
    overruled = kept & (label != background) & background_is_best(planes, background)
    return LabelCounts(
        pixels=label.size,
        kept=_count(kept),
        empty=_count(calibrated & ~foreground_in & ~background_in),
        background_only=_count(calibrated & ~foreground_in & background_in),
        background_overruled=_count(overruled),
        uncalibrated=_count(~calibrated),
    )


@compiled
def _label(
    planes: FlatPlanes,
    q_hat: npt.NDArray[np.float32],
    is_open: bool,
    table: npt.NDArray[np.uint8],
    background: int,
    label: npt.NDArray[np.float32],
) -> None:
    """Fill label [P] from planes and thresholds [P]. is_open: whether every class is in a set at +inf"""
    best, first, second, p_background = planes
    # by decision; a branch instead would often be guessed wrong by the processor
    values = np.array([np.nan, np.nan, background], np.float32)
    for i in range(len(label)):
        q = q_hat[i] if is_open or q_hat[i] < np.inf else np.float32(np.nan)
        case = (ONE - first[i] <= q) | (ONE - second[i] <= q) << 1
        if background >= 0:
            is_best = (p_background[i] > first[i]) | ((p_background[i] == first[i]) & (background < best[i]))
            case |= (ONE - p_background[i] <= q) << 2 | is_best << 3
        values[FOREGROUND] = best[i]
        label[i] = values[table[case]]


def _membership(
    planes: Planes, threshold: npt.NDArray[np.float32]
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Whether the best foreground class is in the set, and whether the background is: bool [H, W] each."""
    foreground_in = 1 - planes.p_foreground <= threshold
    if planes.p_background is None:
        return foreground_in, np.zeros_like(foreground_in)
    return foreground_in, 1 - planes.p_background <= threshold


def _count(pixels: npt.NDArray[np.bool_]) -> int:
    return int(np.count_nonzero(pixels))
