"""What calibration promises of the labels in use, in words: it differs by variant, and so does what can be measured."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import calib

Facts = Mapping[str, Any]

OF_CLASS = {"pooled": "", "each": " of each class", "clustered": " of each cluster of classes"}
FOR_CLASS = {"pooled": "", "each": ", each class with its own", "clustered": ", each cluster of classes with its own"}
FALLBACKS = {"neighbourhood": "neighbourhood", "image": "whole image"}


class Promise(NamedTuple):
    """What is promised of labels at one alpha.

    is_risk:    the share of pixels labeled wrong is bounded, not the coverage
    is_of_images: coverage is a mean over images that count the same, however many pixels of them have a class
    target:     1 - alpha, which coverage shall reach; under risk alpha, which the share of wrong pixels shall not pass;
                None of a fixed threshold, which promises nothing
    target_name: what is written beside the line at the target
    shared_by:  which pixels share a threshold
    text:       the promise, a sentence
    caveats:    sentences on why it holds less than that
    """

    alpha: float
    is_risk: bool
    is_of_images: bool
    target: float | None
    target_name: str
    shared_by: str
    text: str
    caveats: list[str]


def promise(calibrated: Facts, alpha: float) -> Promise:
    """The promise at `alpha`. calibrated: receipt of calibrate, with its settings."""
    kind, classes = calib.find_variant(calibrated["variant"]), calibrated["class_thresholds"]
    if kind.bounds == "wrong labels":
        name = f"at most {exact_percent(alpha)} of all pixels wrong"
        text = f"On average over new images, at most {exact_percent(alpha)} of an image's pixels are labeled wrong."
        return Promise(alpha, True, False, alpha, name, kind.shared_by, text, caveats=[])
    if kind.bounds == "nothing":
        told = exact_percent(calibrated["settings"]["calibrate"]["fixed_threshold"])
        text = (
            f"The threshold is a fixed number: a class is believed from a probability of {told} on. Nothing was "
            "calibrated, so no coverage is promised, at any alpha."
        )
        return Promise(alpha, False, False, None, "nothing is promised", kind.shared_by, text, caveats=[])
    target = exact_percent(1 - alpha)
    covered = kind.covered.format(of_class=OF_CLASS[classes])
    text = f"{covered} has its true class in the set with a probability of {target} or more."
    return Promise(
        alpha,
        is_risk=False,
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
        yield "The same images made the regions and the thresholds, so this holds up to that reuse."
    if not kind.by_location and settings["pooling"] == "naive":
        yield "Naive pooling counts pixels as if they were independent, so this is hoped for, not guaranteed."
    if calibrated["quantile"] == "paper":
        yield "The plain quantile (calibrate.quantile: paper) leaves out the correction for few images: it covers less."
    if settings["uncalibrated"] == "max":
        yield "Where images are too few, the largest score is the threshold; n images then cover n / (n + 1) only."
    if calibrated["fallen_back"]:
        where, num = f"fewer than {settings['n_min']} labeled images", calibrated["fallen_back"]
        yield (
            f"Locations with {where} ({num} of all) took the "
            f"threshold of their {FALLBACKS[settings['fallback']]}; there it holds on average over that area only."
        )


def exact_percent(share: float | None) -> str:
    """`97.5 %`, without needless digits; `none` for what does not exist."""
    if share is None:
        return "none"
    return f"{round(100 * share, 4):g}\u00a0%"
