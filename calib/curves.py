"""Labels of an image at every threshold at once, as curves: how many pixels are labeled, and how many of them wrong."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from calib.histogram import NUM_BINS, grid_bins, grid_values
from calib.interface import Block
from calib.labels import Planes, background_is_best
from calib.relations import BEHIND, BEST, RELATIONS, VOID, relations_to_truth
from calib.rules import ABSTAIN, BACKGROUND, FOREGROUND, NUM_CODES, find_rule
from calib.scores import IGNORE_INDEX
from calib.units import sums_of_units

GRID_STEP = 32  # grid numbers of `calib.histogram` from one candidate to the next: 1.6 to 3 % of 1 - P
CANDIDATES = np.arange((NUM_BINS - 1) % GRID_STEP, NUM_BINS, GRID_STEP)
OTHER_FOREGROUND = 2  # bit of `calib.rules.Rule.table`
CURVES_SHAPE = 2, len(CANDIDATES)  # of the curves of an image by one rule: labeled, labeled wrong
NO_LABEL, WRONG, RIGHT = range(3)
OUTCOMES = 3


class LabelCurves(NamedTuple):
    """Labels of l images, or units, at each of the T candidate thresholds, in ascending order of the thresholds.

    images: int64 [l], indices of the images; of a unit, that of its first image
    kept:   float64 [l, T], fraction of the pixels with a true class that are labeled
    wrong:  float64 [l, T], fraction of them that are labeled wrong
    """

    images: npt.NDArray[np.int64]
    kept: npt.NDArray[np.float64]
    wrong: npt.NDArray[np.float64]

    def of(self, chosen: npt.NDArray[np.bool_] | npt.NDArray[np.intp]) -> "LabelCurves":
        """The curves of some of the images. chosen: bool [l], or positions"""
        return LabelCurves(self.images[chosen], self.kept[chosen], self.wrong[chosen])

    def by_unit(self, unit_of_image: npt.NDArray[np.integer]) -> "LabelCurves":
        """The means over the images of each unit, units in the order of their first images.

        unit_of_image: integer [L], by the images' indices
        """
        ordered = self.sorted()
        _, first, unit, size = np.unique(
            unit_of_image[ordered.images], return_index=True, return_inverse=True, return_counts=True
        )
        kept, wrong = (sums_of_units(of, unit) / size[:, np.newaxis] for of in (ordered.kept, ordered.wrong))
        return LabelCurves(ordered.images[first], kept, wrong).sorted()

    def sorted(self) -> "LabelCurves":
        """The curves in ascending order of the images' indices."""
        return self.of(np.argsort(self.images))


def candidate_thresholds() -> npt.NDArray[np.float32]:
    """The candidates, which depend on no image: float32 [T], ascending, in (0, 1]; the last one is 1."""
    return grid_values(CANDIDATES)


def merge_curves(first: LabelCurves, second: LabelCurves) -> LabelCurves:
    """The curves of the images of both."""
    return LabelCurves(*(np.concatenate(pair) for pair in zip(first, second, strict=True)))


def curves_of(rule: str, background: int | None, block: Block) -> LabelCurves:
    """The curves of the images of a block that have a true class.

    block:  with the map "truth" and the planes of `calib.labels`
    raises: UnknownNameError
    """
    curves = []
    for number in range(len(block.images)):
        maps = {name: values[number] for name, values in block.maps.items()}
        planes = Planes(*map(maps.get, Planes._fields))  # type: ignore[arg-type]
        curves.append(image_curves(planes, maps["truth"], [rule], background)[0])
    return label_curves(block.images, np.reshape(curves, (-1, *CURVES_SHAPE)))


def label_curves(images: npt.NDArray[np.integer], curves: npt.NDArray[np.float64]) -> LabelCurves:
    """The curves of the images that have a true class. images: [l], indices; curves: float64 [l, 2, T]"""
    has_class = ~np.isnan(curves[:, 0, 0])
    return LabelCurves(images[has_class].astype(np.int64), curves[has_class, 0], curves[has_class, 1])


def image_curves(
    planes: Planes, truth: npt.NDArray[np.uint8], rules: Sequence[str], background: int | None
) -> npt.NDArray[np.float64]:
    """Fractions of the pixels that are labeled, and that are labeled wrong, by every rule at every candidate.

    Pixels without a true class do not count. As the threshold rises, a label changes only where a class that the rules
    depend on enters the prediction set. So the pixels are counted by their outcome, as differences of histograms of
    these candidates.

    planes:  of the image, each [H, W]
    truth:   uint8 [H, W], IGNORE_INDEX = void
    rules:   R names of `calib.rules.RULES`
    returns: float64 [R, 2, T] in [0, 1], NaN without a pixel that has a true class
    raises:  UnknownNameError
    """
    tables = [find_rule(rule).table for rule in rules]
    is_void = truth == IGNORE_INDEX
    num_valid = truth.size - np.count_nonzero(is_void)
    if not num_valid:
        return np.full((len(rules), *CURVES_SHAPE), np.nan)
    entries = {1: 1 - planes.p_foreground}  # bit of the truth table -> score
    depends = any((table != table[:, np.arange(NUM_CODES) ^ OTHER_FOREGROUND]).any() for table in tables)
    if depends and not np.isnan(planes.p_second).any():
        entries[OTHER_FOREGROUND] = 1 - planes.p_second
    if planes.p_background is not None:
        entries[4] = 1 - planes.p_background
    enters = {bit: _first_candidate(score) for bit, score in entries.items()}
    starts = _sorted(list(enters.values()))
    ends = [*starts[1:], np.full_like(starts[0], len(CANDIDATES))]
    relation = relations_to_truth(planes, truth, is_void, background)
    case = (relation * np.uint8(2) + background_is_best(planes, background)) * np.uint8(NUM_CODES)
    codes = [case + sum((enter <= at).view(np.uint8) * np.uint8(bit) for bit, enter in enters.items()) for at in starts]
    return np.stack([_counts(_outcomes(table), codes, starts, ends) for table in tables]) / num_valid


def _counts(
    outcome_of: npt.NDArray[np.int16],
    codes: list[npt.NDArray[np.uint8]],
    starts: list[npt.NDArray[np.int16]],
    ends: list[npt.NDArray[np.int16]],
) -> npt.NDArray[np.int64]:
    """Labeled pixels, and those labeled wrong, at every candidate: int64 [2, T].

    outcome_of: of a rule, from `_outcomes`
    codes:      index into it of every pixel, [H, W], from a first to before a last candidate, [H, W] each
    """
    bins = len(CANDIDATES) + 1
    counts, first_of = np.zeros(OUTCOMES * bins, np.int64), outcome_of * np.int16(bins)
    for code, start, end in zip(codes, starts, ends, strict=True):
        first = first_of.take(code)
        counts += np.bincount((first + start).ravel(), minlength=len(counts))
        counts -= np.bincount((first + end).ravel(), minlength=len(counts))
    _, wrong, right = counts.reshape(OUTCOMES, bins)
    of_candidates: npt.NDArray[np.int64] = np.stack([wrong + right, wrong]).cumsum(axis=1)[:, : len(CANDIDATES)]
    return of_candidates


def _outcomes(table: npt.NDArray[np.uint8]) -> npt.NDArray[np.int16]:
    """NO_LABEL, WRONG or RIGHT by the true class and the entries of a truth table: int16 [RELATIONS * table.size].

    NO_LABEL stands for all pixels without a true class.
    """
    outcomes = np.where(table.ravel() == ABSTAIN, NO_LABEL, WRONG) * np.ones((RELATIONS, 1), np.int16)
    outcomes[BEST, table.ravel() == FOREGROUND] = RIGHT
    outcomes[BEHIND, table.ravel() == BACKGROUND] = RIGHT
    outcomes[VOID] = NO_LABEL
    return outcomes.astype(np.int16).ravel()


def _first_candidate(score: npt.NDArray[np.float32]) -> npt.NDArray[np.int16]:
    """The first candidate at which a class with this score is in the prediction set: int16, like `score`."""
    above = grid_bins(score).astype(np.int32) + np.int32(GRID_STEP - 1 - CANDIDATES[0])  # at least 0
    first: npt.NDArray[np.int16] = (above // np.int32(GRID_STEP)).astype(np.int16)
    return first


def _sorted(arrays: list[npt.NDArray[np.int16]]) -> list[npt.NDArray[np.int16]]:
    """The arrays in ascending order at every position; faster than np.sort along so short an axis."""
    arrays = list(arrays)
    for last in range(len(arrays) - 1, 0, -1):
        for i in range(last):
            pair = arrays[i], arrays[i + 1]
            arrays[i], arrays[i + 1] = np.minimum(*pair), np.maximum(*pair)
    return arrays
