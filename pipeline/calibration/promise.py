"""What calibration promises of the labels in use, in words: it differs by variant, and so does what can be measured."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

Facts = Mapping[str, Any]

SHARED_BY = {
    "pixel": "every location has its own",
    "image": "one for the whole image",
    "kmeans": "one a region of locations with similar scores",
    "genann": "one a concentric ring",
    "risk": "one for the whole image",
    "fixed": "one for the whole image",
}
COVERED = {
    "pixel": "At each location, a new image",
    "image": "A random pixel{of_class} of a new image",
    "kmeans": "A random pixel{of_class} of each region of a new image",
    "genann": "A random pixel{of_class} of each ring of a new image",
}
OF_CLASS = {"pooled": "", "each": " of each class", "clustered": " of each cluster of classes"}
FOR_CLASS = {"pooled": "", "each": ", each class with its own", "clustered": ", each cluster of classes with its own"}
FALLBACKS = {"neighbourhood": "neighbourhood", "image": "whole image"}


class Promise(NamedTuple):
    """What is promised of labels at one alpha.

    is_risk:    the share of pixels labelled wrong is bounded, not the coverage
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
    variant, classes = calibrated["variant"], calibrated["class_thresholds"]
    if variant == "risk":
        name = f"at most {exact_percent(alpha)} of all pixels wrong"
        text = f"On average over new images, at most {exact_percent(alpha)} of an image's pixels are labelled wrong."
        return Promise(alpha, True, False, alpha, name, SHARED_BY[variant], text, caveats=[])
    if variant == "fixed":
        told = exact_percent(calibrated["settings"]["calibrate"]["fixed_threshold"])
        text = (
            f"The threshold is a fixed number: a class is believed from a probability of {told} on. Nothing was "
            "calibrated, so no coverage is promised, at any alpha."
        )
        return Promise(alpha, False, False, None, "nothing is promised", SHARED_BY[variant], text, caveats=[])
    target = exact_percent(1 - alpha)
    covered = COVERED[variant].format(of_class=OF_CLASS[classes])
    text = f"{covered} has its true class in the set with a probability of {target} or more."
    return Promise(
        alpha,
        is_risk=False,
        is_of_images=variant == "image"
        and classes == "pooled"
        and calibrated["settings"]["calibrate"]["pooling"] == "hierarchical",
        target=1 - alpha,
        target_name=f"target coverage {target}",
        shared_by=SHARED_BY[variant] + FOR_CLASS[classes],
        text=text,
        caveats=list(_caveats(calibrated)),
    )


def _caveats(calibrated: Facts) -> Iterator[str]:
    settings = calibrated["settings"]["calibrate"]
    if calibrated["variant"] in ("kmeans", "genann"):
        yield "The same images made the regions and the thresholds, so this holds up to that reuse."
    if calibrated["variant"] != "pixel" and settings["pooling"] == "naive":
        yield "Naive pooling counts pixels as if they were independent, so this is hoped for, not guaranteed."
    if calibrated["quantile"] == "paper":
        yield "The plain quantile (calibrate.quantile: paper) leaves out the correction for few images: it covers less."
    if settings["uncalibrated"] == "max":
        yield "Where images are too few, the largest score is the threshold; n images then cover n / (n + 1) only."
    if calibrated["fallen_back"]:
        where, num = f"fewer than {settings['n_min']} labelled images", calibrated["fallen_back"]
        yield (
            f"Locations with {where} ({num} of all) took the "
            f"threshold of their {FALLBACKS[settings['fallback']]}; there it holds on average over that area only."
        )


def exact_percent(share: float | None) -> str:
    """`97.5 %`, without needless digits; `none` for what does not exist."""
    if share is None:
        return "none"
    return f"{round(100 * share, 4):g}\u00a0%"
