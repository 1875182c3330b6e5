"""Shift: whether labeled and unlabeled images differ in what can be observed without masks.

Every promise of this package assumes that labeled and unlabeled images are exchangeable. Their annotator's maps can be
compared without a mask: if they differ by more than chance, the promise is in doubt. A permutation test compares the
observed difference of means with those of random divisions of the same images. If the images are exchangeable, all
divisions are equally likely, so a p-value of at most a has a probability of at most a, in any number of dimensions and
for any distribution (Lehmann and Romano, Testing Statistical Hypotheses, 2005, theorem 15.2.1; the observed division
counts as one of the random ones: Phipson and Smyth, 2010). Several tests are corrected by Holm's method (1979).

Images that are not independent are one unit (`calib.units`), and the units are divided instead of the images. If a unit
has labeled and unlabeled images, these are two units. They resemble each other more than others do, so the observed
difference is smaller than those of random divisions: the test then warns more rarely than it may.

That holds for what is computed from each image alone. Keep rates depend on thresholds from the labeled images; they are
compared with those of labeled images that were held out, which is nearly, not exactly, exchangeable.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from calib.compiled import compiled
from calib.planes import Planes, most_probable
from calib.units import each_alone, num_units, sums_of_units

NUM_DIVISIONS = 2000  # random ones; a p-value of 0.05 then has a standard error of 0.005
DIVISIONS_AT_ONCE = 100  # bounds the memory: 8 bytes for each unit and division
LEVEL = 0.05  # probability of a false warning

Values = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.integer]


class Observed(NamedTuple):
    """What is observed of an image without its mask, by the most probable class of its pixels.

    pixels:      int64 [K], how many
    probability: float64 [K], sum of their probabilities of that class
    """

    pixels: npt.NDArray[np.int64]
    probability: Values


def observe(planes: Planes, background: int | None, num_classes: int) -> Observed:
    """What is observed of the planes of an image, each [H, W]. background: index of that class, if there is one"""
    pixels, total = np.zeros(num_classes, np.int64), np.zeros(num_classes)
    label, probability = most_probable(planes, background)
    _add_up(label.ravel(), probability.ravel(), pixels, total)
    return Observed(pixels, total)


@compiled
def _add_up(
    label: npt.NDArray[np.uint8], probability: npt.NDArray[np.float32], pixels: npt.NDArray[np.int64], total: Values
) -> None:
    """Add the pixels, and their probabilities, to those of their labels."""
    for i in range(len(label)):
        pixels[label[i]] += 1
        total[label[i]] += probability[i]


class Difference(NamedTuple):
    """Means of a quantity over the labeled and over the unlabeled images, and the test of their difference.

    labeled, unlabeled: float64 [D]
    p_value:            of this test alone
    adjusted:           p-value with Holm's correction for all tests
    """

    labeled: Values
    unlabeled: Values
    p_value: float
    adjusted: float

    @property
    def is_shift(self) -> bool:
        return self.adjusted <= LEVEL


def compare(
    labeled: Mapping[str, Values],
    unlabeled: Mapping[str, Values],
    rng: np.random.Generator,
    units: tuple[IntArray, IntArray] | None = None,
) -> dict[str, Difference]:
    """Test for every quantity whether labeled and unlabeled images differ.

    labeled, unlabeled: quantity -> float64 [images, D], at least one image each, the same quantities and D
    rng:                draws the random divisions
    units:              integer [images], the unit of each labeled and of each unlabeled image; default: its own
    returns:            quantity -> test
    """
    p_values = {name: p_value(values, unlabeled[name], rng, units) for name, values in labeled.items()}
    adjusted = dict(zip(p_values, holm(list(p_values.values())), strict=True))
    return {
        name: Difference(values.mean(axis=0), unlabeled[name].mean(axis=0), p_values[name], adjusted[name])
        for name, values in labeled.items()
    }


def p_value(
    labeled: Values, unlabeled: Values, rng: np.random.Generator, units: tuple[IntArray, IntArray] | None = None
) -> float:
    """p-value of the permutation test of two samples of images.

    The statistic is the squared difference of the two means over images, relative to the standard deviation over all
    images, summed over the D dimensions; dimensions in which no two images differ are left out. A random division has
    as many labeled units as there are.

    labeled, unlabeled: float64 [images, D]
    units:              integer [images] each, as in `compare`
    returns:            in [1 / (NUM_DIVISIONS + 1), 1]
    """
    values = np.concatenate([labeled, unlabeled])
    spread = values.std(axis=0)
    values = (values - values.mean(axis=0))[:, spread > 0] / spread[spread > 0]
    of_labeled, of_unlabeled = units or (each_alone(len(labeled)), each_alone(len(unlabeled)))
    sums = np.concatenate(
        [sums_of_units(values[: len(labeled)], of_labeled), sums_of_units(values[len(labeled) :], of_unlabeled)]
    )
    sizes = np.concatenate([np.unique(of, return_counts=True)[1] for of in (of_labeled, of_unlabeled)])
    num_labeled = num_units(of_labeled)

    def statistics_of(is_labeled: Values) -> Values:
        """Of some divisions: float64 [divisions]. is_labeled: float64 [divisions, units] of 0 and 1"""
        # With all means at 0, the sum over the others is the opposite one, so the difference of the means is
        # proportional to the sum.
        size = is_labeled @ sizes
        difference = (is_labeled @ sums) * (1 / size + 1 / (len(values) - size))[:, np.newaxis]
        of_divisions: Values = np.square(difference).sum(axis=1)
        return of_divisions

    def random_divisions(number: int) -> Values:
        divisions = np.zeros((number, len(sums)))
        for division in divisions:
            division[rng.permutation(len(sums))[:num_labeled]] = 1
        return divisions

    statistic = statistics_of((np.arange(len(sums)) < num_labeled).astype(np.float64)[np.newaxis])[0]
    chunks = range(0, NUM_DIVISIONS, DIVISIONS_AT_ONCE)
    drawn = np.concatenate([statistics_of(random_divisions(min(DIVISIONS_AT_ONCE, NUM_DIVISIONS - i))) for i in chunks])
    # Two divisions with equal statistics can differ by rounding errors of their sums.
    num_larger = np.count_nonzero(drawn >= statistic * (1 - 1e-9))
    return (1 + num_larger) / (1 + NUM_DIVISIONS)


def can_be_shown(num_labeled: int, num_unlabeled: int, num_tests: int) -> bool:
    """Whether so many labeled and unlabeled units can show a difference at all, in `num_tests` tests.

    The observed division is one of all divisions, so the p-value is at least one over their number.
    """
    return num_tests / math.comb(num_labeled + num_unlabeled, num_labeled) <= LEVEL


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values, in the order of the given ones (Holm, 1979): at most one in 1 / a is wrongly <= a."""
    order = np.argsort(p_values, kind="stable")
    adjusted = np.empty(len(p_values))
    adjusted[order] = np.minimum(1, np.maximum.accumulate(np.sort(p_values) * np.arange(len(p_values), 0, -1)))
    return [float(value) for value in adjusted]


def most_different(labeled: Values, unlabeled: Values, number: int) -> npt.NDArray[np.intp]:
    """Indices of the unlabeled images that differ most from the labeled ones, in the direction of the difference.

    labeled, unlabeled: float64 [images, D]
    returns:            `number` indices or fewer, the most different image first
    """
    spread = np.concatenate([labeled, unlabeled]).std(axis=0)
    scaled = np.divide(unlabeled - labeled.mean(axis=0), spread, out=np.zeros_like(unlabeled), where=spread > 0)
    return np.argsort(-(scaled @ scaled.mean(axis=0)), kind="stable")[:number]
