"""Counts of one image with known true classes: prediction sets, labels and correct labels at given thresholds.

With one threshold for all classes, counting is enough. A pixel is described by its best foreground class, by how its
true class relates to it and whether the background is most probable, and at each threshold by four bits. The labels
of a rule follow from a table of these counts and the truth table of the rule (`rules.Rule.table`). The labels of the
annotator's argmax are counted too.
"""

import functools
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
GRID_STEPS = 32  # grid numbers per bin of `Judgement.confidence`; 1 - P differs by at most 3 % within a bin
NUM_CONFIDENCES = -(-NUM_BINS // GRID_STEPS)

Counts = npt.NDArray[np.int64]


class Judgement(NamedTuple):
    """Counts of the pixels of one image, for A alphas, R rules and K classes; except `labeled`, of those with a class.

    valid:         int64 [K], pixels, by true class
    covered:       int64 [A, K], pixels whose prediction set contains their true class, by true class
    uncalibrated:  int64 [A], pixels at a location (class-wise: of a class) without a finite threshold, whose prediction
                   set contains every class; they count as covered
    sizes:         int64 [A, 3], pixels by the size of their prediction set: 0, 1, more (see SET_SIZES)
    kept:          int64 [A, R, K], labeled pixels, by label
    right:         int64 [A, R, K], pixels labeled with their true class, by label
    raw_kept:      int64 [K], pixels by their most probable class, which is the label of rule raw
    raw_right:     int64 [K], pixels whose most probable class is their true class, by class
    confidence:    int64 [NUM_CONFIDENCES, 2], pixels, and pixels whose most probable class is their true class, in bins
                   of the probability of the most probable class, the highest probabilities first
    labeled:       int64 [A, R], labeled pixels with and without a true class: what unlabeled images show, too
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
    labeled: Counts


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
    """Count prediction sets and labels of an image at thresholds that were computed without this image.

    planes:        of the image, from `class_planes`
    score:         float32 [H, W] in [0, 1], 1 - P(true class), NaN = void
    truth:         uint8 [H, W], true class; only used where the score is not NaN
    thresholds:    one map per alpha, float32 [H, W], or class-wise [K, H, W]; +inf: too few images, NaN: none
    rules:         names of `calib.rules.RULES`
    background:    index of the background class, None if there is none
    uncalibrated:  as in `calib.labels.label_pixels`
    probabilities: float32 [K, H, W] in [0, 1]; only needed for class-wise thresholds
    raises:        UnknownNameError
    """
    has_class = ~np.isnan(score)
    pixels = _pixels(has_class, planes, score, truth, probabilities)
    void = _pixels(~has_class, planes, score, np.zeros_like(truth), probabilities)
    judges = [_Judge(part, rules, num_classes, background, uncalibrated) for part in (pixels, void)]
    per_alpha = []
    for q_hat in thresholds:
        judged, of_void = (judge(q_hat[..., part]) for judge, part in zip(judges, (has_class, ~has_class), strict=True))
        per_alpha.append((*judged, judged[3].sum(axis=1) + of_void[3].sum(axis=1)))
    covered, is_open, sizes, kept, right, labeled = (np.stack(counts) for counts in zip(*per_alpha, strict=True))
    valid, of_raw = _by_class(pixels.truth, num_classes), _judge_raw(pixels, num_classes, background)
    return Judgement(valid, covered, is_open, sizes, kept, right, *of_raw, labeled)


def _judge_raw(pixels: "_Pixels", num_classes: int, background: int | None) -> tuple[Counts, Counts, Counts]:
    """raw_kept, raw_right and confidence of a Judgement."""
    label, probability = most_probable(pixels.planes, background)
    is_right = label == pixels.truth
    bins = grid_bins(1 - probability) // GRID_STEPS
    confidence = [np.bincount(chosen, minlength=NUM_CONFIDENCES) for chosen in (bins, bins[is_right])]
    return _by_class(label, num_classes), _by_class(label[is_right], num_classes), np.stack(confidence, axis=1)


class _Pixels(NamedTuple):
    """Some pixels of an image, n of them, flattened."""

    planes: Planes
    score: npt.NDArray[np.float32]
    truth: npt.NDArray[np.uint8]
    probabilities: npt.NDArray[np.float32] | None


def _pixels(
    chosen: npt.NDArray[np.bool_],
    planes: Planes,
    score: npt.NDArray[np.float32],
    truth: npt.NDArray[np.uint8],
    probabilities: npt.NDArray[np.float32] | None,
) -> _Pixels:
    of_planes = Planes(*(None if plane is None else plane[chosen] for plane in planes))  # type: ignore[arg-type]
    of_classes = None if probabilities is None else probabilities[:, chosen]
    return _Pixels(of_planes, score[chosen], truth[chosen], of_classes)


Judged = tuple[Counts, Counts, Counts, Counts, Counts]
"""covered [K], uncalibrated [], sizes [3], kept [R, K], right [R, K] at one threshold."""


class _Judge:
    """Counts some pixels of an image at one threshold map after the other."""

    def __init__(
        self,
        pixels: _Pixels,
        rules: Sequence[str],
        num_classes: int,
        background: int | None,
        uncalibrated: Literal["abstain", "accept"],
    ):
        self.pixels, self.rules, self.num_classes = pixels, rules, num_classes
        self.background, self.uncalibrated = background, uncalibrated

    def __call__(self, q: npt.NDArray[np.float32]) -> Judged:
        """q: float32 [n], or class-wise [K, n]"""
        if q.ndim == 1:
            return self._bits.judge(q, self.rules, self.uncalibrated)
        return _judge_class_wise(self.pixels, q, self.rules, self.num_classes, self.background, self.uncalibrated)

    @functools.cached_property
    def _bits(self) -> "_Bits":
        return _Bits(self.pixels, self.num_classes, self.background)


RELATIONS = 3  # the true class is the best foreground class, the background, or another class
CODES = 2 * NUM_CODES  # codes of the prediction set as in `rules.Rule.table`, and a bit for a threshold not finite
CODE_BITS = np.arange(CODES)[:, np.newaxis] >> np.arange(4) & 1 == 1  # bool [16, 4]


class _Bits:
    """Counts the pixels of an image at thresholds that all classes share."""

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
        """The counts at one threshold map. q: float32 [n]"""
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
        """Labeled pixels and correctly labeled pixels, by label: int64 [K] each; the same as `labels.label_pixels`."""
        # [background_wins, code]; the bit for a threshold that is not finite does not change the contents of a set
        decision = np.tile(find_rule(rule).table, 2)
        takes_foreground, takes_background = decision == FOREGROUND, decision == BACKGROUND
        foreground = (table * takes_foreground).sum(axis=(2, 3))  # [K, RELATIONS]
        kept, right = foreground.sum(axis=1), foreground[:, 0].copy()
        if self.background is not None:
            background = (table * takes_background).sum(axis=(0, 2, 3))
            kept[self.background] += background.sum()
            right[self.background] += background[1]
        return kept, right

    def _sizes(self, codes: Counts) -> Counts:
        """Pixels by the size of their prediction set, which is full where the threshold is not finite.

        codes: int64 [CODES], pixels by code
        """
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
    """The counts at class-wise thresholds. q_hat: float32 [K, n]"""
    assert pixels.probabilities is not None
    own = np.take_along_axis(q_hat, pixels.truth[np.newaxis].astype(np.intp), axis=0)[0]
    sets = _class_wise_row(pixels.probabilities, q_hat, background, uncalibrated)
    labels = [label_class_wise(sets, pixels.planes, rule, background, uncalibrated) for rule in rules]
    # Coverage treats a class without a finite threshold as a member of the set, and so does the size.
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
    """`class_wise_sets` of flattened pixels: probabilities and q_hat are float32 [K, n]."""
    sets = class_wise_sets(probabilities[:, np.newaxis], q_hat[:, np.newaxis], background, uncalibrated)
    best, first, second, p_background = sets.planes
    flat = Planes(best[0], first[0], second[0], None if p_background is None else p_background[0])
    return ClassWiseSets(flat, sets.threshold[0])


def _label_counts(
    label: npt.NDArray[np.float32], truth: npt.NDArray[np.uint8], num_classes: int
) -> tuple[Counts, Counts]:
    """Labeled pixels and correctly labeled pixels, by label: int64 [K] each."""
    is_kept = ~np.isnan(label)
    kept = label[is_kept].astype(np.uint8)
    return _by_class(kept, num_classes), _by_class(kept[kept == truth[is_kept]], num_classes)


def _by_class(classes: npt.NDArray[np.uint8], num_classes: int) -> Counts:
    """Number of pixels of each class: int64 [K]."""
    return np.bincount(classes, minlength=num_classes)
