"""Findings about the labeled images: the number of images with each class, and the smallest possible alpha."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

import calib
from pipeline.datasets import IGNORE_INDEX, mask_classes
from pipeline.doctor.findings import Finding, Level, from_message
from pipeline.doctor.survey import MaskFacts, Survey
from pipeline.settings import DataSettings, Settings
from pipeline.sources.labeled_set import MaskCounts, counts_images, is_too_small, judge_masks


def class_findings(survey: Survey, num_labeled: int, settings: Settings) -> list[Finding]:
    """Check whether the labeled images suffice for the classes and the alphas.

    num_labeled: number of labeled images of the run, including those that were not surveyed
    """
    in_labeled = images_per_class(survey.masks_of("labeled"), settings.data)
    in_val = images_per_class(survey.masks_of("val"), settings.data)
    shown = ", ".join(f"{name}: {number}" for name, number in in_labeled.items())
    checked = "" if survey.is_complete else " (of the checked ones)"
    findings = [Finding("note", f"labeled images with each class{checked}: {shown}")]
    findings += _alphas(num_labeled, settings)
    if survey.is_complete:  # with --quick, a class may be in an image that was not checked
        findings += map(from_message, judge_masks(_mask_counts(survey, settings.data), settings).problems)
        findings += [*_absent(in_labeled, in_val), *_class_alphas(in_labeled, settings)]
    return findings


def _mask_counts(survey: Survey, data: DataSettings) -> list[MaskCounts]:
    return [
        MaskCounts(str(facts.sample.mask), facts.sample.split, pixels_per_class(facts.mask, data), facts.mask.highest)
        for facts in survey.samples
        if facts.mask is not None and not facts.mask.num_colours
    ]


def pixels_per_class(mask: MaskFacts, data: DataSettings) -> Counter[int]:
    """Class index -> pixels of a mask, without void."""
    classes = mask_classes(np.array(list(mask.values), np.int32), data).tolist()
    pixels: Counter[int] = Counter()
    for index, number in zip(classes, mask.values.values(), strict=True):
        if index != IGNORE_INDEX:
            pixels[index] += number
    return pixels


def images_per_class(masks: Sequence[MaskFacts], data: DataSettings) -> dict[str, int]:
    """Class name -> number of masks in which it has a pixel."""
    shown = np.zeros(IGNORE_INDEX + 1, np.int64)
    for mask in masks:
        shown[np.unique(mask_classes(np.array(list(mask.values), np.int32), data))] += 1
    return {name: int(shown[k]) for k, name in enumerate(data.class_names)}


def _absent(in_labeled: Mapping[str, int], in_val: Mapping[str, int]) -> Iterator[Finding]:
    never = tuple(name for name, number in in_labeled.items() if not number)
    if never:
        what = f"{_classes(never)} in no labeled image, so the student is trained on them by pseudo-labels only"
        yield Finding("warning", what, never, "label an image that shows the class, or remove the class")
    unmeasured = tuple(name for name, number in in_val.items() if not number and name not in never)
    if unmeasured:
        what = f"{_classes(unmeasured)} in no val image, so no IoU can be measured"
        yield Finding("warning", what, unmeasured, "increase data.splits.num_val, or set another data.splits.seed")


def _classes(names: Sequence[str]) -> str:
    return f"{len(names)} class{'' if len(names) == 1 else 'es'}"


def _alphas(num_labeled: int, settings: Settings) -> Iterator[Finding]:
    """Alphas below 1 / (n + 1): no threshold guarantees them, and `calibrate.uncalibrated` applies."""
    calibrate = settings.calibrate
    if not num_labeled or not counts_images(settings):
        return
    smallest = calib.smallest_alpha(num_labeled)
    smallest_text = f"the smallest alpha possible with {num_labeled} labeled images is {smallest:g}"
    if is_too_small(calibrate.alpha, num_labeled):
        effect = {
            "abstain": "no pixel gets a pseudo-label",
            "raise": "calibrate stops",
            "accept": "every label is accepted, unfiltered",
            "max": "the largest score is the threshold, without any guarantee",
        }[calibrate.uncalibrated]
        level: Level = "error" if calibrate.uncalibrated in ("abstain", "raise") else "warning"
        fix = f"set calibrate.alpha to {smallest:g} or more, or label more images"
        yield Finding(level, f"{smallest_text}; below it {effect}", (f"calibrate.alpha: {calibrate.alpha:g}",), fix)
    else:
        yield Finding("note", f"{smallest_text}; calibrate.alpha is {calibrate.alpha:g}")
    too_small = tuple(f"{alpha:g}" for alpha in calibrate.alphas or () if is_too_small(alpha, num_labeled))
    if too_small:
        yield Finding("warning", f"{smallest_text}; smaller alphas", too_small, "remove them from calibrate.alphas")


def _class_alphas(in_labeled: Mapping[str, int], settings: Settings) -> Iterator[Finding]:
    """Classes in too few labeled images for a class-wise threshold."""
    alpha = settings.calibrate.alpha
    few = {name: number for name, number in in_labeled.items() if number and is_too_small(alpha, number)}
    if not few or not counts_images(settings):
        return
    where = tuple(
        f"{name} ({number} image{'' if number == 1 else 's'}, alpha {calib.smallest_alpha(number):g})"
        for name, number in few.items()
    )
    if settings.calibrate.class_thresholds == "each":
        what = f"too few labeled images for a class-wise threshold at calibrate.alpha {alpha:g}"
        fix = "label more images of them, increase alpha, or set calibrate.class_thresholds: partial"
        yield Finding("warning", what, where, fix)
    else:
        yield Finding("note", f"too few labeled images for a class-wise guarantee at calibrate.alpha {alpha:g}", where)
