"""What thresholds make of one image whose true classes are known: pixels by set, by label, and by whether it is right.

One threshold for all classes is judged by counting alone: a pixel is its best foreground class and two facts about its
true class and its background, and at each threshold four bits. What a rule labels follows from the table of these
counts and its truth table (`rules.Rule.table`). Beside it, the annotator's own argmax is counted.
"""

from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from calib.histogram import NUM_BINS, grid_bins
from calib.labels import (
    ClassWiseSets,
    Planes,
    class_wise_sets,
    label_class_wise,
    most_probable,
    set_codes,
    set_sizes,
)
from calib.rules import BACKGROUND, FOREGROUND, NUM_CODES, find_rule

SET_SIZES = ("empty", "one", "several")
GRID_STEPS = 32  # of the grid of thresholds that share a bin of confidence: 1 - P then differs by 3 % at most
NUM_CONFIDENCES = -(-NUM_BINS // GRID_STEPS)

Counts = npt.NDArray[np.int64]


class Judgement(NamedTuple):
    """Pixels of one image that have a true class, counted for A alphas and R rules.

    valid:         int64 [K], by true class
    covered:       int64 [A, K], their true class is in the prediction set, by true class
    uncalibrated:  int64 [A], at a location (class-wise: in a class) without a finite threshold: the set holds every
                   class, hence counts as covered
    sizes:         int64 [A, 3], by size of the set: 0, 1, more (see SET_SIZES)
    kept:          int64 [A, R, K], labeled, by label
    right:         int64 [A, R, K], labeled with their true class, by label
    raw_kept:      int64 [K], by most probable class, as rule "raw" labels them
    raw_right:     int64 [K], those of them whose most probable class is the true one
    confidence:    int64 [NUM_CONFIDENCES, 2], pixels, and those of them whose most probable class is the true one, by
                   the probability of that class, the most confident ones first
    """

    valid: Counts
    covered: Counts
    uncalibrated: Counts
    sizes: Counts
    kept: Counts
    right: Counts
    raw_kept: Counts
    raw_right: Counts
    confidence: Counts


def judge_image(
    planes: Planes,
    score: npt.NDArray[np.float32],
    truth: npt.NDArray[np.uint8],
    thresholds: Iterable[npt.NDArray[np.float32]],
    rules: Sequence[str],
    num_classes: int,
    background: int | None,
    uncalibrated: Literal["abstain", "accept"],
    probabilities: npt.NDArray[np.float32] | None = None,
) -> Judgement:
    """Count what thresholds that were learnt without this image make of it.

    planes:        of the image, as `class_planes` gives them
    score:         float32 [H, W], 1 - P(true class), NaN = void
    truth:         uint8 [H, W], true class, 255 = void
    thresholds:    of each alpha float32 [H, W], or [K, H, W] class-wise, which needs
    probabilities: float32 [K, H, W]
    """
    valid = ~np.isnan(score)
    seen = Planes(*(None if plane is None else plane[valid] for plane in planes))  # type: ignore[arg-type]
    pixels = _Pixels(seen, score[valid], truth[valid], None if probabilities is None else probabilities[:, valid])
    bits = None
    per_alpha = []
    for q_hat in thresholds:
        q = q_hat[..., valid]
        if q.ndim == 2:
            per_alpha.append(_judge_class_wise(pixels, q, rules, num_classes, background, uncalibrated))
        else:
            bits = bits or _Bits(pixels, num_classes, background)
            per_alpha.append(bits.judge(q, rules, uncalibrated))
    of_thresholds = [np.stack(parts) for parts in zip(*per_alpha, strict=True)]
    of_raw = _judge_raw(pixels, num_classes, background)
    return Judgement(*(_by_class(pixels.truth, num_classes), *of_thresholds, *of_raw))


def _judge_raw(pixels: "_Pixels", num_classes: int, background: int | None) -> tuple[Counts, Counts, Counts]:
    """raw_kept, raw_right and confidence of a Judgement."""
    named, probability = most_probable(pixels.planes, background)
    is_right = named == pixels.truth
    bins = grid_bins(1 - probability) // GRID_STEPS
    confidence = [np.bincount(chosen, minlength=NUM_CONFIDENCES) for chosen in (bins, bins[is_right])]
    return _by_class(named, num_classes), _by_class(named[is_right], num_classes), np.stack(confidence, axis=1)


class _Pixels(NamedTuple):
    """The pixels of an image that have a true class, in one row of n."""

    planes: Planes
    score: npt.NDArray[np.float32]
    truth: npt.NDArray[np.uint8]
    probabilities: npt.NDArray[np.float32] | None


Judged = tuple[Counts, Counts, Counts, Counts, Counts]
"""covered [K], uncalibrated [], sizes [3], kept [R, K], right [R, K] at one threshold."""

RELATIONS = 3  # the true class is the best foreground class, the background, or another
CODES = 2 * NUM_CODES  # of the set, as in `rules.Rule.table`, and whether the threshold is not finite
CODE_BITS = np.arange(CODES)[:, np.newaxis] >> np.arange(4) & 1 == 1  # bool [16, 4]


class _Bits:
    """Judges the pixels of an image by one threshold for all classes."""

    def __init__(self, pixels: _Pixels, num_classes: int, background: int | None):
        planes = pixels.planes
        self.pixels, self.num_classes, self.background = pixels, num_classes, background
        self.most_classes = 1 + int(not np.isnan(planes.p_second).any()) + (planes.p_background is not None)
        relation = np.where(pixels.truth == planes.best_foreground, 0, np.where(pixels.truth == background, 1, 2))
        background_wins = most_probable(planes, background)[0] == (-1 if background is None else background)
        key = (planes.best_foreground.astype(np.intp) * RELATIONS + relation) * 2 + background_wins
        self.first_code = key * CODES

    def judge(
        self, q: npt.NDArray[np.float32], rules: Sequence[str], uncalibrated: Literal["abstain", "accept"]
    ) -> Judged:
        """q: float32 [n]."""
        is_open = ~np.isfinite(q)
        threshold = np.where(q == np.inf, np.float32(np.nan), q) if uncalibrated == "abstain" else q
        code = set_codes(self.pixels.planes, threshold) | is_open.view(np.uint8) * np.uint8(NUM_CODES)
        size = self.num_classes * RELATIONS * 2 * CODES
        table = np.bincount(self.first_code + code, minlength=size)
        table = table.reshape(self.num_classes, RELATIONS, 2, CODES)
        covered = (self.pixels.score <= q) | is_open
        kept, right = zip(*(self._label_counts(table, rule) for rule in rules), strict=True)
        return (
            _by_class(self.pixels.truth[covered], self.num_classes),
            np.array(np.count_nonzero(is_open)),
            self._sizes(table.sum(axis=(0, 1, 2))),
            np.stack(kept),
            np.stack(right),
        )

    def _label_counts(self, table: Counts, rule: str) -> tuple[Counts, Counts]:
        """Labeled pixels by label, and those of them that are right: int64 [K] each. Rules: `labels.label_pixels`."""
        # [background_wins, code]; an open threshold does not change what a set holds
        made = np.tile(find_rule(rule).table, 2)
        takes_foreground, takes_background = made == FOREGROUND, made == BACKGROUND
        named = (table * takes_foreground).sum(axis=(2, 3))  # [K, RELATIONS]
        kept, right = named.sum(axis=1), named[:, 0].copy()
        if self.background is not None:
            behind = (table * takes_background).sum(axis=(0, 2, 3))
            kept[self.background] += behind.sum()
            right[self.background] += behind[1]
        return kept, right

    def _sizes(self, codes: Counts) -> Counts:
        """Pixels by the size of their set; a threshold that is not finite leaves every class in."""
        classes = np.where(CODE_BITS[:, 3], self.most_classes, CODE_BITS[:, :3].sum(axis=1))
        sizes = np.zeros(len(SET_SIZES), np.int64)
        np.add.at(sizes, np.minimum(classes, 2), codes)
        return sizes


def _judge_class_wise(
    pixels: _Pixels,
    q_hat: npt.NDArray[np.float32],
    rules: Sequence[str],
    num_classes: int,
    background: int | None,
    uncalibrated: Literal["abstain", "accept"],
) -> Judged:
    """q_hat: float32 [K, n]."""
    assert pixels.probabilities is not None
    own = np.take_along_axis(q_hat, pixels.truth[np.newaxis].astype(np.intp), axis=0)[0]
    sets = _class_wise_row(pixels.probabilities, q_hat, background, uncalibrated)
    labels = [label_class_wise(sets, pixels.planes, rule, background, uncalibrated) for rule in rules]
    # coverage counts a class without a finite threshold as one of the set, so the size does, too
    open_q = np.where(np.isfinite(q_hat), q_hat, np.float32(np.inf))
    planes, threshold = _class_wise_row(pixels.probabilities, open_q, background, "accept")
    open_end = ~np.isfinite(own)
    covered = (pixels.score <= own) | open_end
    kept, right = zip(*(_label_counts(label, pixels.truth, num_classes) for label in labels), strict=True)
    return (
        _by_class(pixels.truth[covered], num_classes),
        np.array(np.count_nonzero(open_end)),
        np.bincount(set_sizes(planes, np.where(np.isnan(threshold), np.float32(np.inf), threshold)), minlength=3),
        np.stack(kept),
        np.stack(right),
    )


def _class_wise_row(
    probabilities: npt.NDArray[np.float32],
    q_hat: npt.NDArray[np.float32],
    background: int | None,
    uncalibrated: Literal["abstain", "accept"],
) -> ClassWiseSets:
    """`class_wise_sets` of pixels in a row: probabilities and q_hat float32 [K, n]."""
    sets = class_wise_sets(probabilities[:, np.newaxis], q_hat[:, np.newaxis], background, uncalibrated)
    best, first, second, p_background = sets.planes
    flat = Planes(best[0], first[0], second[0], None if p_background is None else p_background[0])
    return ClassWiseSets(flat, sets.threshold[0])


def _label_counts(
    label: npt.NDArray[np.float32], truth: npt.NDArray[np.uint8], num_classes: int
) -> tuple[Counts, Counts]:
    kept = ~np.isnan(label)
    named = label[kept].astype(np.uint8)
    return _by_class(named, num_classes), _by_class(named[named == truth[kept]], num_classes)


def _by_class(classes: npt.NDArray[np.uint8], num_classes: int) -> Counts:
    return np.bincount(classes, minlength=num_classes)
