"""The guarantee of the calibration in words. It differs by variant, and so does the quantity that is measured."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import calib

Facts = Mapping[str, Any]

OF_CLASS = {"pooled": "", "each": " of each class", "clustered": " of each cluster of classes"}
FOR_CLASS = {
    "pooled": "",
    "each": ", each class with its own",
    "partial": ", each class with its own, partly pooled",
    "clustered": ", each cluster of classes with its own",
}
FALLBACKS = {"neighbourhood": "neighbourhood", "image": "whole image"}


class Guarantee(NamedTuple):
    """The guarantee at one alpha.

    is_risk:      bounds the fraction of wrongly labeled pixels instead of the coverage
    is_precision: bounds the precision of the labels instead of the coverage
    is_of_images: coverage is a mean over images; each image counts the same, however many of its pixels have a class
    target:       in [0, 1]: lower bound of the coverage, 1 - alpha; under variant risk upper bound of the fraction of
                  wrong pixels, alpha; None for variants fixed, which has no guarantee, and precision_*
    target_name:  label of the line at the target in charts
    shared_by:    the pixels that share a threshold
    text:         the guarantee, one sentence
    caveats:      sentences on what weakens it
    """

    alpha: float
    is_risk: bool
    is_precision: bool
    is_of_images: bool
    target: float | None
    target_name: str
    shared_by: str
    text: str
    caveats: list[str]


def guarantee_of(calibrated: Facts, alpha: float) -> Guarantee:
    """The guarantee at `alpha`.

    calibrated: receipt of calibrate, with its settings
    """
    kind, classes = calib.find_variant(calibrated["variant"]), calibrated["class_thresholds"]
    if kind.bounds == "wrong labels":
        name = f"at most {exact_percent(alpha)} of all pixels labeled wrong"
        text = f"On average over new images, at most {exact_percent(alpha)} of an image's pixels are labeled wrong."
        return Guarantee(alpha, True, False, False, alpha, name, kind.shared_by, text, caveats=[])
    if kind.bounds == "precision":
        confidence = exact_percent(calibrated["settings"]["guarantee"]["confidence"])
        precise = f"at least {exact_percent(1 - alpha)} of the labels of new images"
        text = f"With a confidence of {confidence}, {precise} are right; if that cannot be shown, no pixel is labeled."
        return Guarantee(alpha, False, True, False, None, precise, kind.shared_by, text, caveats=[])
    if kind.bounds == "nothing":
        threshold = exact_percent(calibrated["settings"]["calibrate"]["fixed_threshold"])
        text = (
            f"The threshold is fixed: a class is in the prediction set if its probability is at least {threshold}. "
            "Nothing was calibrated, so no coverage is guaranteed, at any alpha."
        )
        return Guarantee(alpha, False, False, False, None, "no guarantee", kind.shared_by, text, caveats=[])
    target = exact_percent(1 - alpha)
    if classes == "partial":
        text = (
            f"The threshold of each class lies between its own, which covers {target} of the class or more, and the "
            "pooled one, and so does its coverage. No coverage is guaranteed."
        )
        shared_by = kind.shared_by + FOR_CLASS[classes]
        return Guarantee(alpha, False, False, False, None, "no guarantee", shared_by, text, caveats=[])
    covered = kind.covered.format(of_class=OF_CLASS[classes])
    text = f"{covered} has its true class in the prediction set with a probability of {target} or more."
    return Guarantee(
        alpha,
        is_risk=False,
        is_precision=False,
        is_of_images=kind.is_whole
        and classes == "pooled"
        and calibrated["settings"]["calibrate"]["pooling"] == "hierarchical",
        target=1 - alpha,
        target_name=f"target coverage {target}",
        shared_by=kind.shared_by + FOR_CLASS[classes],
        text=text,
        caveats=list(_caveats(calibrated)),
    )


def _caveats(calibrated: Facts) -> Iterator[str]:
    settings, kind = calibrated["settings"]["calibrate"], calib.find_variant(calibrated["variant"])
    if kind.learns_regions:
        yield "The same images define the regions and the thresholds; the guarantee does not account for this reuse."
    if kind.of_classes and settings["pooling"] == "naive":
        yield "Naive pooling treats pixels as independent, which they are not, so this coverage is not guaranteed."
    if calibrated["quantile"] == "paper":
        yield (
            "The plain quantile (calibrate.quantile: paper) has no correction for a small number of images, so the "
            "coverage is lower."
        )
    if settings["uncalibrated"] == "max":
        yield (
            "Where there are too few images, the largest score is the threshold: n images then guarantee a coverage of "
            "n / (n + 1) only."
        )
    if calibrated["fallen_back"]:
        yield (
            f"Locations with fewer than {settings['n_min']} labeled images ({calibrated['fallen_back']} locations) use "
            f"the threshold of their {FALLBACKS[settings['fallback']]}; there the guarantee is an average over that "
            "area only."
        )


def exact_percent(fraction: float | None) -> str:
    """`97.5 %` of 0.975, without trailing zeros; `none` of None."""
    if fraction is None:
        return "none"
    return f"{round(100 * fraction, 4):g}\u00a0%"
