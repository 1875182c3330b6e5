"""Counts of one image with known true classes: prediction sets, labels and correct labels at given thresholds.

With one threshold for all classes, counting is enough. A pixel is described by its best foreground class, by how its
true class relates to it and whether the background is most probable, and at each threshold by four bits. The labels
of a rule follow from a table of these counts and the truth table of the rule (`rules.Rule.table`). The labels of the
annotator's argmax are counted too.
"""

import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from calib.compiled import compiled
from calib.histogram import NUM_BINS, grid_bins
from calib.labels import ClassWiseSets, class_wise_sets, label_class_wise, set_sizes
from calib.planes import FlatPlanes, Planes, background_is_best, flat_planes, most_probable
from calib.relations import BEHIND, BEST, RELATIONS, VOID, relations_to_truth
from calib.rules import BACKGROUND, FOREGROUND, NUM_CODES, find_rule

SET_SIZES = ("empty", "one", "several")
GRID_STEPS = 32  # grid numbers per bin of `Judgement.confidence`; 1 - P differs by at most 3 % within a bin
NUM_CONFIDENCES = -(-NUM_BINS // GRID_STEPS)

Counts = npt.NDArray[np.int64]
ImageCounts = npt.NDArray[np.int32]


class Judgement(NamedTuple):
    """Counts of the pixels of one image, for A alphas, R rules and K classes; except `labeled`, of those with a class.

    In 32 bits, because those of all images are in memory together, several times while they are summarised.

    valid:         int32 [K], pixels, by true class
    covered:       int32 [A, K], pixels whose prediction set contains their true class, by true class
    uncalibrated:  int32 [A], pixels at a location (class-wise: of a class) without a finite threshold, whose prediction
                   set contains every class; they count as covered
    sizes:         int32 [A, 3], pixels by the size of their prediction set: 0, 1, more (see SET_SIZES)
    kept:          int32 [A, R, K], labeled pixels, by label
    right:         int32 [A, R, K], pixels labeled with their true class, by label
    raw_kept:      int32 [K], pixels by their most probable class, which is the label of rule raw
    raw_right:     int32 [K], pixels whose most probable class is their true class, by class
    confidence:    int32 [NUM_CONFIDENCES, 2], pixels, and pixels whose most probable class is their true class, in bins
                   of the probability of the most probable class, the highest probabilities first
    labeled:       int32 [A, R], labeled pixels with and without a true class: what unlabeled images show, too
    """

    valid: ImageCounts
    covered: ImageCounts
    uncalibrated: ImageCounts
    sizes: ImageCounts
    kept: ImageCounts
    right: ImageCounts
    raw_kept: ImageCounts
    raw_right: ImageCounts
    confidence: ImageCounts
    labeled: ImageCounts

    def some(self, alphas: slice, rules: Sequence[int]) -> "Judgement":
        """The counts at some of the alphas and for some of the rules. rules: their indices"""
        return self._replace(
            covered=self.covered[alphas],
            uncalibrated=self.uncalibrated[alphas],
            sizes=self.sizes[alphas],
            kept=self.kept[alphas][:, rules],
            right=self.right[alphas][:, rules],
            labeled=self.labeled[alphas][:, rules],
        )


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
    thresholds:    one map per alpha, float32 [H, W], or class-wise [K, H, W]; +inf: too few images, NaN: none. H and W
                   can be 1: all pixels then share the threshold
    rules:         names of `calib.rules.RULES`
    background:    index of the background class, None if there is none
    uncalibrated:  as in `calib.labels.label_pixels`
    probabilities: float32 [K, H, W] in [0, 1]; only needed for class-wise thresholds
    raises:        UnknownNameError
    """
    image = _Image(planes, score, truth, probabilities, rules, num_classes, background, uncalibrated)
    per_alpha = [(image.by_class if q_hat.ndim == 3 else image.by_code)(q_hat) for q_hat in thresholds]
    covered, is_open, sizes, kept, right, labeled = (np.stack(counts) for counts in zip(*per_alpha, strict=True))
    valid = _by_class(truth[~np.isnan(score)], num_classes)
    counts = valid, covered, is_open, sizes, kept, right, *_judge_raw(image), labeled
    return Judgement(*(of.astype(np.int32) for of in counts))


Judged = tuple[Counts, Counts, Counts, Counts, Counts, Counts]
"""covered [K], uncalibrated [], sizes [3], kept [R, K], right [R, K] and labeled [R] at one threshold."""


@dataclass(frozen=True)
class _Image:
    """The arguments of `judge_image`, except the thresholds; and what counts them, for either kind of thresholds."""

    planes: Planes
    score: npt.NDArray[np.float32]
    truth: npt.NDArray[np.uint8]
    probabilities: npt.NDArray[np.float32] | None
    rules: Sequence[str]
    num_classes: int
    background: int | None
    uncalibrated: Literal["abstain", "accept"]

    @functools.cached_property
    def by_code(self) -> "_ByCode":
        return _ByCode(self)

    @functools.cached_property
    def by_class(self) -> "_ByClass":
        return _ByClass(self)


def _judge_raw(image: _Image) -> tuple[Counts, Counts, Counts]:
    """raw_kept, raw_right and confidence of a Judgement."""
    label, probability = most_probable(image.planes, image.background)
    state = np.where(np.isnan(image.score), np.uint8(2), label == image.truth)  # 0: wrong, 1: right, 2: void
    bins = grid_bins(1 - probability) // GRID_STEPS
    wrong_or_right = [
        np.bincount((values * 3 + state).ravel(), minlength=3 * size).reshape(-1, 3)[:, :2]
        for values, size in ((label.astype(np.intp), image.num_classes), (bins, NUM_CONFIDENCES))
    ]
    of_labels, of_bins = (np.stack([counts.sum(axis=1), counts[:, 1]], axis=1) for counts in wrong_or_right)
    return of_labels[:, 0], of_labels[:, 1], of_bins


CODES = 2 * NUM_CODES  # codes of the prediction set as in `rules.Rule.table`, and a bit for a threshold not finite
CODE_BITS = np.arange(CODES)[:, np.newaxis] >> np.arange(4) & 1 == 1  # bool [16, 4]


class _ByCode:
    """Counts the pixels of an image at thresholds that all classes share, with and without a class in one pass."""

    def __init__(self, image: _Image):
        planes, background, void = image.planes, image.background, np.isnan(image.score)
        self.image = image
        self.most_classes = 1 + int(not np.isnan(planes.p_second).any()) + (planes.p_background is not None)
        key = planes.best_foreground * np.int16(RELATIONS) + relations_to_truth(planes, image.truth, void, background)
        self.first_code = (key * np.int16(2) + background_is_best(planes, background)) * np.int16(CODES)
        self.first_cover = np.where(void, image.num_classes, image.truth) * np.int16(2)
        self.foreground, self.background = (
            np.array([np.tile(find_rule(rule).table, 2).ravel() == decision for rule in image.rules]).T
            for decision in (FOREGROUND, BACKGROUND)
        )  # bool [2 * CODES, R]; the bit for a threshold that is not finite does not change what is in a set

    def __call__(self, q: npt.NDArray[np.float32]) -> Judged:
        """The counts at one threshold map. q: float32 [H, W] or [1, 1]"""
        image, num_classes = self.image, self.image.num_classes
        counts = np.zeros(num_classes * RELATIONS * 2 * CODES, np.int64)
        covered = np.zeros(2 * num_classes + 2, np.int64)
        codes = image.score.ravel(), self.first_code.ravel(), self.first_cover.ravel()
        has_background, is_accepted = image.planes.p_background is not None, image.uncalibrated == "accept"
        limits = np.ascontiguousarray(q).ravel()
        _count(flat_planes(image.planes), *codes, limits, is_accepted, has_background, counts, covered)
        table = counts.reshape(num_classes, RELATIONS, 2 * CODES)
        of_codes = table[:, :VOID].sum(axis=(0, 1)).reshape(2, CODES).sum(axis=0)
        kept, right, labeled = self._label_counts(table)
        return covered[1:-1:2], of_codes[CODE_BITS[:, 3]].sum(), self._sizes(of_codes), kept, right, labeled

    def _label_counts(self, table: Counts) -> tuple[Counts, Counts, Counts]:
        """Labeled and correctly labeled pixels with a class, by rule and label, int64 [R, K] each; labeled pixels, [R].

        The labels are the same as those of `labels.label_pixels`. table: int64 [K, RELATIONS, 2 * CODES]
        """
        foreground = table @ self.foreground  # [K, RELATIONS, R]
        background = table.sum(axis=0) @ self.background  # [RELATIONS, R]
        kept, right = foreground[:, :VOID].sum(axis=1).T, foreground[:, BEST].T.copy()
        if self.image.background is not None:
            kept[:, self.image.background] += background[:VOID].sum(axis=0)
            right[:, self.image.background] += background[BEHIND]
        return kept, right, foreground.sum(axis=(0, 1)) + background.sum(axis=0)

    def _sizes(self, codes: Counts) -> Counts:
        """Pixels by the size of their prediction set, which is full where the threshold is not finite.

        codes: int64 [CODES], pixels by code
        """
        classes = np.where(CODE_BITS[:, 3], self.most_classes, CODE_BITS[:, :3].sum(axis=1))
        sizes = np.zeros(len(SET_SIZES), np.int64)
        np.add.at(sizes, np.minimum(classes, 2), codes)
        return sizes


ONE, OPEN = np.float32(1), CODES // 2
PIXELS = 2048  # counted together, so that what is computed from them stays in the cache


@compiled
def _count(
    planes: FlatPlanes,
    score: npt.NDArray[np.float32],
    first_code: npt.NDArray[np.int16],
    first_cover: npt.NDArray[np.int16],
    q_hat: npt.NDArray[np.float32],
    is_accepted: bool,
    has_background: bool,
    counts: Counts,
    covered: Counts,
) -> None:
    """Add the pixels to the counts of their codes, and to those that are covered. q_hat: [P], or [1] for all pixels"""
    _, first, second, p_background = planes
    zero, one, two, four, opened = np.int32(0), np.int32(1), np.int32(2), np.int32(4), np.int32(OPEN)
    limit, code, cover = np.empty(PIXELS, np.float32), np.empty(PIXELS, np.int32), np.empty(PIXELS, np.int32)
    for start in range(0, len(score), PIXELS):
        stop = min(start + PIXELS, len(score))
        length = stop - start
        q = q_hat[start:stop] if len(q_hat) > 1 else np.full(length, q_hat[0])
        for i in range(length):
            is_open = not np.abs(q[i]) < np.inf
            code[i] = opened if is_open else zero
            limit[i] = np.float32(np.nan) if is_open and not is_accepted else q[i]
        of = first[start:stop]
        for i in range(length):
            code[i] |= one if ONE - of[i] <= limit[i] else zero
        of = second[start:stop]
        for i in range(length):
            code[i] |= two if ONE - of[i] <= limit[i] else zero
        if has_background:
            of = p_background[start:stop]
            for i in range(length):
                code[i] |= four if ONE - of[i] <= limit[i] else zero
        of = score[start:stop]
        for i in range(length):
            cover[i] = one if of[i] <= limit[i] or code[i] >= opened else zero
        codes, covers = first_code[start:stop], first_cover[start:stop]
        for i in range(length):
            counts[codes[i] + code[i]] += 1
            covered[covers[i] + cover[i]] += 1


class _Pixels(NamedTuple):
    """Some pixels of an image, n of them, flattened."""

    planes: Planes
    score: npt.NDArray[np.float32]
    truth: npt.NDArray[np.uint8]
    probabilities: npt.NDArray[np.float32]


class _ByClass:
    """Counts the pixels of an image at class-wise thresholds; those without a class only as labeled."""

    def __init__(self, image: _Image):
        self.image, self.has_class = image, ~np.isnan(image.score)
        self.pixels, self.void = self._pixels(self.has_class), self._pixels(~self.has_class)

    def _pixels(self, chosen: npt.NDArray[np.bool_]) -> _Pixels:
        image, planes = self.image, self.image.planes.of(chosen)
        assert image.probabilities is not None
        return _Pixels(planes, image.score[chosen], image.truth[chosen], image.probabilities[:, chosen])

    def __call__(self, q_hat: npt.NDArray[np.float32]) -> Judged:
        """The counts at class-wise thresholds. q_hat: float32 [K, H, W] or [K, 1, 1]"""
        q_hat = np.broadcast_to(q_hat, (len(q_hat), *self.has_class.shape))
        of_pixels, of_void = q_hat[:, self.has_class], q_hat[:, ~self.has_class]
        truth, num_classes = self.pixels.truth, self.image.num_classes
        own = np.take_along_axis(of_pixels, truth[np.newaxis].astype(np.intp), axis=0)[0]
        # Coverage treats a class without a finite threshold as a member of the set, and so does the size.
        open_q = np.where(np.isfinite(of_pixels), of_pixels, np.float32(np.inf))
        planes, threshold = _class_wise_row(self.pixels.probabilities, open_q, self.image.background, "accept")
        open_end = ~np.isfinite(own)
        covered = (self.pixels.score <= own) | open_end
        labels = self._labels(self.pixels, of_pixels)
        kept, right = zip(*(_label_counts(label, truth, num_classes) for label in labels), strict=True)
        labels_of_void = self._labels(self.void, of_void)
        labeled = [np.count_nonzero(~np.isnan(of)) for of in (*labels, *labels_of_void)]
        return (
            _by_class(truth[covered], num_classes),
            np.array(np.count_nonzero(open_end)),
            np.bincount(set_sizes(planes, np.where(np.isnan(threshold), np.float32(np.inf), threshold)), minlength=3),
            np.stack(kept),
            np.stack(right),
            np.reshape(labeled, (2, -1)).sum(axis=0),
        )

    def _labels(self, pixels: _Pixels, q_hat: npt.NDArray[np.float32]) -> list[npt.NDArray[np.float32]]:
        """The labels of some pixels by every rule, float32 [n] each. q_hat: float32 [K, n]"""
        background, uncalibrated = self.image.background, self.image.uncalibrated
        sets = _class_wise_row(pixels.probabilities, q_hat, background, uncalibrated)
        return [label_class_wise(sets, pixels.planes, rule, background, uncalibrated) for rule in self.image.rules]


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
