"""Thresholds whose labels have a guaranteed precision, with confidence: Learn then Test on the labeled images.

Unlike coverage, this is a statement about the labels themselves: at least a fraction 1 - alpha of the labels of new
images is right. Nothing but the threshold itself is chosen, so most labeled images can test the candidates. A few, the
pilot images, choose where the tests start and how the bets are placed. Images that are not independent are one unit
(`calib.units`), and a unit is one observation: everything that is said here of images then holds of units.
"""

from collections.abc import Sequence
from functools import partial

import numpy as np
import numpy.typing as npt

from calib.betting import FRACTIONS, LogCapital, growth, last_rejected, log_evidence, log_growth, most_promising
from calib.curves import LabelCurves, candidate_thresholds, curves_of, label_curves, merge_curves
from calib.histogram import KEEP_NOTHING
from calib.interface import LabeledMaps, Variant

PILOT_EVERY = 10  # one of so many images is a pilot image; more of them leave too few for the tests


def precise_thresholds(
    rule: str, variant: Variant, labeled: LabeledMaps, held_out: Sequence[npt.NDArray[np.bool_]]
) -> tuple[npt.NDArray[np.float32], list[int]]:
    """The thresholds of every fit, each from all images but those that it holds out; see `precise_threshold`.

    held_out: bool [L] for each fit, of the first one none; the others divide the images
    returns:  float32 [fits, A], and the number of images of each fit
    """
    of_images = labeled_curves(rule, variant.background, labeled)
    curves = of_images.by_unit(labeled.unit_of_image)
    pilot = is_pilot(len(curves.images))
    folds = [fold[curves.images] for fold in held_out[1:]] or [np.ones(len(curves.images), np.bool_)]
    q = np.empty((len(held_out), len(variant.alphas)), np.float32)
    for a, alpha in enumerate(variant.alphas):
        of_folds = [log_capital(curves.of(fold), pilot[fold], alpha) for fold in folds]
        total = LogCapital(*(sum(parts) for parts in zip(*of_folds, strict=True)))
        q[0, a] = precise_threshold(total, variant.error)
        for fit, fold in enumerate(of_folds[: len(held_out) - 1], start=1):
            q[fit, a] = precise_threshold(LogCapital(total.pilot - fold.pilot, total.test - fold.test), variant.error)
    return q, [int(np.count_nonzero(~fold[of_images.images])) for fold in held_out]


def labeled_curves(rule: str, background: int | None, labeled: LabeledMaps) -> LabelCurves:
    """The labels of all labeled images that have a true class, in the order of the images. raises: UnknownNameError"""
    stored = labeled.label_curves(rule)
    if stored is not None:
        return label_curves(np.arange(labeled.num_images), stored)
    names = ("truth", "best_foreground", "p_foreground", "p_second", *(() if background is None else ("p_background",)))
    return labeled.reduce(
        names, partial(curves_of, rule, background), merge_curves, slice(0, labeled.shape[0])
    ).sorted()


def is_pilot(num_images: int) -> npt.NDArray[np.bool_]:
    """Whether each image is a pilot image, by its index alone: bool [L]."""
    pilot: npt.NDArray[np.bool_] = np.arange(num_images) % PILOT_EVERY == 0
    return pilot


def gains(curves: LabelCurves, alpha: float) -> npt.NDArray[np.float64]:
    """The gain of every image, or unit, at every threshold: float64 [L, T], at least -(1 - alpha) and at most alpha.

    That of an image is alpha x labeled - labeled wrong, in fractions of its pixels with a true class. Its mean over new
    images is above 0 exactly if more than a fraction 1 - alpha of their labels is right, each image with the same
    weight. That of a unit is the sum of the gains of its images over their number. So it has the bounds of an image,
    however large units can be, and its mean over new units is above 0 exactly if more than a fraction 1 - alpha of
    their labels is right, where each unit has the same weight, and in a unit each image. (A sum over the size of the
    largest unit would give each image the same weight instead. It needs a bound on the size of new units, and small
    units could then hardly show anything.)
    """
    return alpha * curves.kept - curves.wrong


def log_capital(curves: LabelCurves, pilot: npt.NDArray[np.bool_], alpha: float) -> LogCapital:
    """The evidence of some images against the hypotheses "the precision at the threshold is below 1 - alpha".

    pilot: bool [L], which images are pilot images
    alpha: in (0, 1)
    """
    of_images = gains(curves, alpha)
    return LogCapital(*(log_growth(of_images[chosen], 1 - alpha) for chosen in (pilot, ~pilot)))


def precise_threshold(capital: LogCapital, error: float) -> np.float32:
    """The largest threshold whose labels are shown to have a precision of at least 1 - alpha.

    Guarantee: with a probability of at least 1 - error over the labeled images, at least a fraction 1 - alpha of the
    labels of new images is right, or no pixel is labeled. Assumption: labeled and new images are independent draws from
    one distribution. The precision is that over all pixels of new images that are labeled and have a true class, where
    each image has the same weight; it is not that of a single image or class. The pixels of an image may depend on each
    other in any way. With units, the same holds of units instead of images: labeled and new units are independent, each
    unit has the same weight (`gains`), and the images of a unit may depend on each other in any way.

    The pilot images choose the first candidate, that with the most evidence on them. From there on, larger thresholds
    are tested on the other images in a fixed sequence (`calib.betting.last_rejected`), each with an e-value
    (`calib.betting.log_evidence`). The most cautious candidate would be a bad start: it labels almost nothing, so
    little can be shown about it. Even if all labels are right, log(error) / log(1 - alpha) test images are needed, 59
    for 95 % with a confidence of 95 %, and more if not all pixels are labeled.

    Sources: Angelopoulos et al. 2021 (arXiv 2110.01052); Waudby-Smith and Ramdas 2024 (arXiv 2010.09686).

    capital: from `log_capital`
    error:   in (0, 1)
    returns: one of `calib.curves.candidate_thresholds`; KEEP_NOTHING if nothing can be shown
    """
    shown = shown_thresholds(capital, error)
    return KEEP_NOTHING if shown is None else shown[1]


def shown_thresholds(capital: LogCapital, error: float) -> tuple[np.float32, np.float32] | None:
    """The first and the last of the thresholds that have the guarantee of `precise_threshold`; None if none has it.

    All candidates from the first to the last have it together: with a probability of at least 1 - error, the labels of
    every one of them are that precise. So one of them may be chosen after looking at the labeled images.

    capital, error: as of `precise_threshold`
    """
    first = most_promising(capital)
    last = last_rejected(log_evidence(capital), first, error)
    return None if last is None else (candidate_thresholds()[first], candidate_thresholds()[last])


NUM_DRAWS, POWER = 100, 0.8  # a number of images suffices if so many of these simulations show the precision
GROWTH, MOST = 1.25, 50  # numbers of images that are tried: from one to the next, and at most times the present one
EVERY = 4  # thresholds and, beyond MANY, images of the simulation
MANY = 1000


def largest_precision(curves: LabelCurves, alpha: float, error: float) -> float | None:
    """The largest precision below 1 - alpha, in percent points and at least 0.5, that the images show; None if none.

    It was chosen by the same images, so it has no confidence; new images have to test it.
    """
    pilot = is_pilot(len(curves.images))
    for percent in range(int(np.ceil(round(100 * (1 - alpha), 6))) - 1, 49, -1):
        if precise_threshold(log_capital(curves, pilot, 1 - percent / 100), error) > KEEP_NOTHING:
            return percent / 100
    return None


def images_needed(curves: LabelCurves, alpha: float, error: float, rng: np.random.Generator) -> int | None:
    """The number of labeled images, or units, that would show the precision 1 - alpha, simulated by draws from these.

    returns: about the smallest number with which it is shown in POWER of the simulations; None if MOST times as many
             are too few
    """
    of_images = gains(curves, alpha)[:: max(1, len(curves.images) // MANY), ::EVERY]
    num_images, num_thresholds = of_images.shape
    logarithms = np.log(growth(of_images, 1 - alpha)).reshape(num_images, -1)

    def suffices(size: int) -> bool:
        num_pilot = int(is_pilot(size).sum())
        shown = 0
        draws = [
            rng.multinomial(n, np.full(num_images, 1 / num_images), NUM_DRAWS) for n in (num_pilot, size - num_pilot)
        ]
        shape = NUM_DRAWS, num_thresholds, len(FRACTIONS)
        for sums in zip(*((drawn @ logarithms).reshape(shape) for drawn in draws), strict=True):
            capital = LogCapital(*sums)
            shown += last_rejected(log_evidence(capital), most_promising(capital), error) is not None
        return shown >= POWER * NUM_DRAWS

    steps = range(1, int(np.log(MOST) / np.log(GROWTH)) + 1)
    sizes = [int(np.ceil(len(curves.images) * GROWTH**step)) for step in steps]
    low, high = 0, len(sizes)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if suffices(sizes[middle]) else (middle + 1, high)
    return sizes[low] if low < len(sizes) else None
