"""Labels of an image at every threshold at once, as curves: how many pixels are labeled, and how many of them wrong."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from calib.histogram import DROPPED_BITS, FIRST, NUM_BINS, SMALLEST, grid_values
from calib.interface import Block
from calib.planes import Planes, background_is_best, row_tiles
from calib.relations import BEHIND, BEST, RELATIONS, VOID, relations_to_truth
from calib.rules import ABSTAIN, BACKGROUND, FOREGROUND, NUM_CODES, find_rule
from calib.scores import IGNORE_INDEX
from calib.units import sums_of_units

STEP_BITS = 5  # of the mantissa: every 32nd grid number of `calib.histogram` is a candidate, 1.6 to 3 % of 1 - P apart
CANDIDATES = np.arange(0, NUM_BINS, 1 << STEP_BITS)
CURVES_SHAPE = 2, len(CANDIDATES)  # of the curves of an image by one rule: labeled, labeled wrong
BINS = len(CANDIDATES) + 1  # first candidates at which a class is in the prediction set; the last one stands for none

BEST_IN, OTHER_IN, BACKGROUND_IN = 1, 2, 4  # bits of `calib.rules.Rule.table`
ORDERS = (  # in which the classes enter the prediction set as the threshold rises
    (BEST_IN, BACKGROUND_IN, OTHER_IN),
    (BACKGROUND_IN, BEST_IN, OTHER_IN),
    (BEST_IN, OTHER_IN, BACKGROUND_IN),
)
BACKGROUND_FIRST, OTHER_SECOND = 1, 2  # indices of orders; the background is first exactly if it is most probable
CASES = RELATIONS * len(ORDERS)


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

    block:  with the map "truth" and the planes of `calib.planes`
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

    Pixels without a true class do not count. As the threshold rises, a label changes only where a class enters the
    prediction set. How it changes depends on few cases: the relation of the true class to the classes, and the order in
    which they enter. So histograms of the first, second and third entries of each case give the curves of all rules.

    planes:  of the image, each [H, W]
    truth:   uint8 [H, W], IGNORE_INDEX = void
    rules:   R names of `calib.rules.RULES`
    returns: float64 [R, 2, T] in [0, 1], NaN without a pixel that has a true class
    raises:  UnknownNameError
    """
    tables = np.stack([find_rule(rule).table for rule in rules])
    num_valid = np.count_nonzero(truth != IGNORE_INDEX)
    if not num_valid:
        return np.full((len(rules), *CURVES_SHAPE), np.nan)
    bits = _bits(tables, planes)
    changes = _changes(tables, bits)
    has_changes = changes.any(axis=(0, 1, 3))
    histograms = np.zeros((len(bits), CASES * BINS), np.int64)
    for rows in row_tiles(truth.shape):
        case, entries = _entries(planes.of(rows), truth[rows], bits, background)
        first_bin = case * np.int16(BINS)
        for number in np.flatnonzero(has_changes):
            histograms[number] += np.bincount((first_bin + entries[number]).ravel(), minlength=CASES * BINS)
    counts: npt.NDArray[np.int64] = changes.reshape(len(rules), 2, -1) @ histograms.reshape(-1, BINS)
    return counts.cumsum(axis=-1)[..., : len(CANDIDATES)] / num_valid


def _bits(tables: npt.NDArray[np.uint8], planes: Planes) -> list[int]:
    """The bits of the classes that exist, and that a rule depends on. tables: uint8 [R, 2, NUM_CODES], of the rules"""
    depends = (tables != tables[..., np.arange(NUM_CODES) ^ OTHER_IN]).any()
    has_other = depends and not np.isnan(planes.p_second).any()
    return [BEST_IN, *([BACKGROUND_IN] if planes.p_background is not None else []), *([OTHER_IN] if has_other else [])]


def _changes(tables: npt.NDArray[np.uint8], bits: Sequence[int]) -> npt.NDArray[np.int64]:
    """How the first, second, ... entry changes the numbers of labeled pixels, and of those labeled wrong, by a pixel.

    tables:  uint8 [R, 2, NUM_CODES], of the rules
    bits:    of the E classes that enter
    returns: int64 [R, 2, E, CASES], each -1, 0 or 1
    """
    is_right = np.zeros((len(tables), RELATIONS, *tables.shape[1:]), np.bool_)
    is_right[:, BEST], is_right[:, BEHIND] = tables == FOREGROUND, tables == BACKGROUND
    is_labeled = np.broadcast_to((tables != ABSTAIN)[:, np.newaxis], is_right.shape).copy()
    is_labeled[:, VOID] = False
    counts = np.stack([is_labeled, is_labeled & ~is_right], axis=1).astype(np.int64)  # [R, 2, RELATIONS, 2, NUM_CODES]
    changes = []
    for number, order in enumerate(ORDERS):
        codes = np.cumsum([bit for bit in order if bit in bits])
        after_entry = counts[..., int(number == BACKGROUND_FIRST), codes]
        changes.append(np.diff(after_entry, axis=-1, prepend=0))  # no pixel is labeled before the first entry
    return np.stack(changes, axis=-1).swapaxes(2, 3).reshape(len(tables), 2, len(bits), CASES)


def _entries(
    planes: Planes, truth: npt.NDArray[np.uint8], bits: Sequence[int], background: int | None
) -> tuple[npt.NDArray[np.uint8], list[npt.NDArray[np.int16]]]:
    """The case of every pixel, RELATIONS x ORDERS; and the first candidates with one, two, ... of the E classes.

    Where classes enter at the same candidate, their order makes no difference.

    planes, truth: of some pixels of an image, [h, W]
    returns:       uint8 [h, W] and E int16 [h, W]
    """
    probabilities = {BEST_IN: planes.p_foreground, OTHER_IN: planes.p_second, BACKGROUND_IN: planes.p_background}
    entry = {bit: _first_candidate(1 - p) for bit, p in probabilities.items() if bit in bits and p is not None}
    order = background_is_best(planes, background) * np.uint8(BACKGROUND_FIRST)
    if OTHER_IN in bits and BACKGROUND_IN in bits:
        order |= (entry[OTHER_IN] < entry[BACKGROUND_IN]) * np.uint8(OTHER_SECOND)
    relation = relations_to_truth(planes, truth, truth == IGNORE_INDEX, background)
    return relation * np.uint8(len(ORDERS)) + order, _sorted(list(entry.values()))


def _first_candidate(score: npt.NDArray[np.float32]) -> npt.NDArray[np.int16]:
    """The first candidate at which a class with this score is in the prediction set: int16, like `score`.

    The bits of floats ascend like their values, and candidates are those with a mantissa of STEP_BITS bits.
    """
    dropped = DROPPED_BITS + STEP_BITS
    bits = np.clip(score, SMALLEST, np.float32(1)).view(np.uint32) + np.uint32((1 << dropped) - 1)
    return (bits >> np.uint32(dropped)).astype(np.int16) - np.int16(FIRST >> STEP_BITS)


def _sorted(arrays: list[npt.NDArray[np.int16]]) -> list[npt.NDArray[np.int16]]:
    """The arrays in ascending order at every position; faster than np.sort along so short an axis."""
    arrays = list(arrays)
    for last in range(len(arrays) - 1, 0, -1):
        for i in range(last):
            pair = arrays[i], arrays[i + 1]
            arrays[i], arrays[i + 1] = np.minimum(*pair), np.maximum(*pair)
    return arrays
