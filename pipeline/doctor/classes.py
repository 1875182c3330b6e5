"""Findings about the labeled set: how many images show each class, and which alphas so many images allow."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

import calib
from pipeline.datasets import IGNORE_INDEX, mask_classes
from pipeline.doctor.findings import Finding, Level
from pipeline.doctor.survey import MaskLook, Survey
from pipeline.settings import DataSettings, Settings


def class_findings(survey: Survey, num_labeled: int, settings: Settings) -> list[Finding]:
    """Whether the labeled images are enough for the classes and the alphas.

    num_labeled: labeled images of the run, whether or not all were looked at
    """
    in_labeled = images_per_class(survey.masks_of("labeled"), settings.data)
    in_val = images_per_class(survey.masks_of("val"), settings.data)
    shown = ", ".join(f"{name}: {number}" for name, number in in_labeled.items())
    seen = "" if survey.is_whole else " (of those that were looked at)"
    findings = [Finding("note", f"labeled images that show each class{seen}: {shown}")]
    findings += [*_alphas(num_labeled, settings), *_held_out(num_labeled, settings)]
    if survey.is_whole:  # after a quick look a class may only not have been met
        findings += [*_absent(in_labeled, in_val), *_class_alphas(in_labeled, settings)]
    return findings


def images_per_class(masks: Sequence[MaskLook], data: DataSettings) -> dict[str, int]:
    """Class name -> number of masks in which it has a pixel."""
    shown = np.zeros(IGNORE_INDEX + 1, np.int64)
    for mask in masks:
        shown[np.unique(mask_classes(np.array(list(mask.values), np.int32), data))] += 1
    return {name: int(shown[k]) for k, name in enumerate(data.class_names)}


def _absent(in_labeled: Mapping[str, int], in_val: Mapping[str, int]) -> Iterator[Finding]:
    never = tuple(name for name, number in in_labeled.items() if not number)
    if never:
        what = f"{_classes(never)} in no labeled image, so only pseudo-labels teach the student what it is"
        yield Finding("warning", what, never, "label an image that shows it, or remove the class")
    unmeasured = tuple(name for name, number in in_val.items() if not number and name not in never)
    if unmeasured:
        what = f"{_classes(unmeasured)} in no val image, so no IoU can be measured"
        yield Finding("warning", what, unmeasured, "raise data.splits.num_val, or choose another data.splits.seed")


def _classes(names: Sequence[str]) -> str:
    return f"{len(names)} class{'' if len(names) == 1 else 'es'}"


def _alphas(num_labeled: int, settings: Settings) -> Iterator[Finding]:
    """Alphas below 1 / (n + 1): no threshold keeps such a promise, and `calibrate.uncalibrated` decides."""
    calibrate = settings.calibrate
    if not num_labeled or not counts_images(settings):
        return
    smallest = calib.smallest_alpha(num_labeled)
    told = f"{num_labeled} labeled images allow an alpha of {smallest:g} or more"
    if is_too_small(calibrate.alpha, num_labeled):
        means = {
            "abstain": "every pixel abstains and no pseudo-label is left",
            "raise": "calibrate stops",
            "accept": "every label is accepted, unfiltered",
            "max": "the largest score stands in, without any promise",
        }[calibrate.uncalibrated]
        level: Level = "error" if calibrate.uncalibrated in ("abstain", "raise") else "warning"
        fix = f"set calibrate.alpha to {smallest:g} or more, or label more images"
        yield Finding(level, f"{told}; below it {means}", (f"calibrate.alpha: {calibrate.alpha:g}",), fix)
    else:
        yield Finding("note", f"{told}; calibrate.alpha is {calibrate.alpha:g}")
    useless = tuple(f"{alpha:g}" for alpha in calibrate.alphas or () if is_too_small(alpha, num_labeled))
    if useless:
        yield Finding("warning", f"{told}; of no use are", useless, "leave them out of calibrate.alphas")


def _held_out(num_labeled: int, settings: Settings) -> Iterator[Finding]:
    held_out = settings.train.holdout
    if held_out >= num_labeled:
        what = f"stage1 has nothing to learn from: all of the {num_labeled} labeled images are held out"
        yield Finding("error", what, (f"train.holdout: {held_out}",), "lower it, or label more images")


def is_too_small(alpha: float, num_images: int) -> bool:
    """Whether no score among so many images' can keep the promise."""
    return calib.conformal_rank(num_images, alpha) > num_images


def counts_images(settings: Settings) -> bool:
    """Whether a threshold rests on as many observations as there are images, in finite-sample form."""
    calibrate = settings.calibrate
    if calibrate.variant in ("risk", "fixed"):
        return calibrate.variant == "risk"
    pools_pixels = calibrate.pooling == "naive" and (not calibrate.kind.by_location or calibrate.n_min > 0)
    return calibrate.quantile == "exact" and not pools_pixels


def _class_alphas(in_labeled: Mapping[str, int], settings: Settings) -> Iterator[Finding]:
    """Classes that show in too few labeled images for a threshold of their own."""
    alpha = settings.calibrate.alpha
    few = {name: number for name, number in in_labeled.items() if number and is_too_small(alpha, number)}
    if not few or not counts_images(settings):
        return
    where = tuple(
        f"{name} ({number} image{'' if number == 1 else 's'}, alpha {calib.smallest_alpha(number):g})"
        for name, number in few.items()
    )
    if settings.calibrate.class_thresholds == "each":
        what = f"too few labeled images for a threshold of its own at calibrate.alpha {alpha:g}"
        fix = "label more images of them, raise alpha, or set calibrate.class_thresholds: clustered or pooled"
        yield Finding("warning", what, where, fix)
    else:
        yield Finding("note", f"too few labeled images for a class-wise promise at calibrate.alpha {alpha:g}", where)
