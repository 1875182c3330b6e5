"""Labels of an image at every threshold at once, as curves: how many pixels are labeled, and how many of them wrong."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from calib.histogram import NUM_BINS, grid_bins, grid_values
from calib.interface import Block
from calib.labels import Planes, background_is_best
from calib.rules import ABSTAIN, BACKGROUND, FOREGROUND, NUM_CODES, find_rule
from calib.scores import IGNORE_INDEX
from calib.units import sums_of_units

GRID_STEP = 32  # grid numbers of `calib.histogram` from one candidate to the next: 1.6 to 3 % of 1 - P
CANDIDATES = np.arange((NUM_BINS - 1) % GRID_STEP, NUM_BINS, GRID_STEP)
OTHER_FOREGROUND = 2  # bit of `calib.rules.Rule.table`
BEST, BEHIND, OTHER = range(3)  # the true class: the best foreground class, the background, or another
RELATIONS = 3


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
    images, kept, wrong = [], [], []
    for number, image in enumerate(block.images):
        maps = {name: values[number] for name, values in block.maps.items()}
        truth = maps.pop("truth")
        is_valid = truth != IGNORE_INDEX
        if is_valid.any():
            planes = Planes(*(maps[name][is_valid] if name in maps else None for name in Planes._fields))  # type: ignore[arg-type]
            curves = _image_curves(planes, truth[is_valid], rule, background)
            images.append(int(image))
            kept.append(curves[0])
            wrong.append(curves[1])
    shape = len(images), len(CANDIDATES)
    return LabelCurves(np.array(images, np.int64), np.reshape(kept, shape), np.reshape(wrong, shape))


def _image_curves(
    planes: Planes, truth: npt.NDArray[np.uint8], rule: str, background: int | None
) -> npt.NDArray[np.float64]:
    """Fractions of the pixels that are labeled, and that are labeled wrong, at every candidate: float64 [2, T].

    As the threshold rises, a label changes only where a class that the rule depends on enters the prediction set. So
    the pixels are counted by their set and true class, as differences of histograms of these candidates.

    planes: [n] each; truth: uint8 [n]
    """
    table = find_rule(rule).table
    entries = {1: 1 - planes.p_foreground}  # bit of the truth table -> score
    if (table != table[:, np.arange(NUM_CODES) ^ OTHER_FOREGROUND]).any() and not np.isnan(planes.p_second).any():
        entries[OTHER_FOREGROUND] = 1 - planes.p_second
    if planes.p_background is not None:
        entries[4] = 1 - planes.p_background
    enters = {bit: _first_candidate(score) for bit, score in entries.items()}
    starts = _sorted(list(enters.values()))
    ends = [*starts[1:], np.full(len(truth), len(CANDIDATES), np.int16)]
    relation = np.where(planes.best_foreground == truth, BEST, np.where(truth == background, BEHIND, OTHER))
    cell = ((relation * 2 + background_is_best(planes, background)) * NUM_CODES).astype(np.int32)
    bins = len(CANDIDATES) + 1
    counts = np.zeros(RELATIONS * 2 * NUM_CODES * bins, np.int64)
    for start, end in zip(starts, ends, strict=True):
        code = sum((enter <= start).view(np.uint8) * np.uint8(bit) for bit, enter in enters.items())
        first = (cell + code) * bins
        counts += np.bincount(first + start, minlength=len(counts))
        counts -= np.bincount(first + end, minlength=len(counts))
    pixels = counts.reshape(RELATIONS, 2 * NUM_CODES, bins)
    decision = table.ravel()[:, np.newaxis]
    right = pixels[BEST] * (decision == FOREGROUND) + pixels[BEHIND] * (decision == BACKGROUND)
    kept = pixels.sum(axis=0) * (decision != ABSTAIN)
    steps = np.stack([kept.sum(axis=0), (kept - right).sum(axis=0)])
    fractions: npt.NDArray[np.float64] = steps.cumsum(axis=1)[:, : len(CANDIDATES)] / len(truth)
    return fractions


def _first_candidate(score: npt.NDArray[np.float32]) -> npt.NDArray[np.int16]:
    """The first candidate at which a class with this score is in the prediction set: int16, like `score`."""
    above = grid_bins(score).astype(np.int32) + np.int32(GRID_STEP - 1 - CANDIDATES[0])
    first: npt.NDArray[np.int16] = (np.maximum(above, 0) // np.int32(GRID_STEP)).astype(np.int16)
    return first


def _sorted(arrays: list[npt.NDArray[np.int16]]) -> list[npt.NDArray[np.int16]]:
    """The arrays in ascending order at every position; faster than np.sort along so short an axis."""
    arrays = list(arrays)
    for last in range(len(arrays) - 1, 0, -1):
        for i in range(last):
            pair = arrays[i], arrays[i + 1]
            arrays[i], arrays[i + 1] = np.minimum(*pair), np.maximum(*pair)
    return arrays
