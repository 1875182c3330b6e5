"""Judges the masks of a run together: whether calibration, training and evaluation can work with them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import calib
from pipeline.datasets import Split
from pipeline.settings import DataSettings, Settings

MAX_SHOWN = 3


class MaskCounts(NamedTuple):
    """What one mask contains."""

    path: str
    split: Split
    pixels: Mapping[int, int]
    """Class index -> number of pixels, without void."""
    highest: int
    """Largest value that a pixel of the file can have, e.g. 255 with 8 bits."""


class Judgement(NamedTuple):
    """Messages: with a problem, a later stage would stop or compute nothing useful; a warning has to be read."""

    problems: list[str]
    warnings: list[str]


def judge_masks(masks: Sequence[MaskCounts], settings: Settings) -> Judgement:
    """Judge all labeled and val masks, by what the later stages would make of them."""
    labeled = [mask for mask in masks if mask.split == "labeled"]
    val = [mask for mask in masks if mask.split == "val"]
    if not labeled:  # reported as an empty split
        return Judgement([], [])
    problems = [*_too_large_values(masks, settings.data), *_all_void(labeled, val, settings.data)]
    problems += [*_all_held_out(len(labeled), settings), *_refused_alphas(len(labeled), settings)]
    if problems:
        return Judgement(problems, [])
    return Judgement([], [*_some_void(labeled), *_classes(labeled, settings), *_one_image(len(labeled), settings)])


def _too_large_values(masks: Sequence[MaskCounts], data: DataSettings) -> Iterator[str]:
    """Classes whose values no file can have: probably they were cut off when the masks were saved."""
    highest = max(mask.highest for mask in masks)
    for name, values in zip(data.class_names, data.mask_values, strict=True):
        beyond = [value for value in values if value > highest]
        if beyond:
            yield (
                f"class {name} has the mask value {beyond[0]}, but the pixels of all masks hold values up to "
                f"{highest}; save the masks with 16 bits from the original, or correct data.classes"
            )


def _all_void(labeled: Sequence[MaskCounts], val: Sequence[MaskCounts], data: DataSettings) -> Iterator[str]:
    for masks, consequence in (
        (labeled, "nothing can be calibrated or trained"),
        (val, "no student can be evaluated"),
    ):
        if masks and not any(mask.pixels for mask in masks):
            yield (
                f"all {len(masks)} {masks[0].split} masks are void, e.g. {masks[0].path}: no pixel has a value of a "
                f"class, so {consequence}; correct data.classes (values) and data.ignore_values, or use other masks"
            )


def _all_held_out(num_labeled: int, settings: Settings) -> Iterator[str]:
    holdout = settings.train.holdout
    if holdout >= num_labeled:
        yield (
            f"train.holdout {holdout} leaves stage1 none of the {num_labeled} labeled images to train on; set "
            f"train.holdout below {num_labeled}, or label more images"
        )


def _refused_alphas(num_labeled: int, settings: Settings) -> Iterator[str]:
    """Alphas with which calibrate would stop."""
    too_small = [alpha for alpha in settings.alphas if is_too_small(alpha, num_labeled)]
    is_raised = settings.calibrate.uncalibrated == "raise" and counts_images(settings)
    if settings.needs_annotator and is_raised and too_small:
        smallest = calib.smallest_alpha(num_labeled)
        yield (
            f"calibrate.uncalibrated is raise, and alpha {too_small[0]:g} is below {smallest:g}, the smallest that "
            f"{num_labeled} labeled images can calibrate; set calibrate.alpha to {smallest:g} or more, or label more "
            "images"
        )


def is_too_small(alpha: float, num_images: int) -> bool:
    """Whether no threshold from `num_images` images can guarantee this alpha."""
    return calib.conformal_rank(num_images, alpha) > num_images


def counts_images(settings: Settings) -> bool:
    """Whether a threshold has one observation per image and the finite-sample correction."""
    calibrate = settings.calibrate
    if calibrate.variant in ("risk", "fixed"):
        return calibrate.variant == "risk"
    pools_pixels = calibrate.pooling == "naive" and (calibrate.kind.of_classes or calibrate.n_min > 0)
    return calibrate.quantile == "exact" and not pools_pixels


def _some_void(labeled: Sequence[MaskCounts]) -> Iterator[str]:
    void = [mask.path for mask in labeled if not mask.pixels]
    if void:
        yield (
            f"{len(void)} of {len(labeled)} labeled masks are void and count as no labeled image: {_listed(void)}; "
            "complete them, or remove them"
        )


def _classes(labeled: Sequence[MaskCounts], settings: Settings) -> Iterator[str]:
    """Classes without a labeled pixel."""
    images: Counter[int] = Counter(index for mask in labeled for index in mask.pixels)
    names = settings.data.class_names
    absent = [name for index, name in enumerate(names) if not images[index]]
    if len(images) == 1:
        only = names[next(iter(images))]
        yield (
            f"ALL LABELED PIXELS ARE OF ONE CLASS, {only}: thresholds are computed from it alone, and the labeled "
            "images teach a student nothing else; label images of other classes, or correct data.classes (values)"
        )
    elif absent:
        learned = (
            "no threshold is checked for them, and a student learns them from pseudo-labels only"
            if settings.needs_annotator
            else "and no stage uses pseudo-labels, so a student never learns them"
        )
        noun = "CLASS HAS" if len(absent) == 1 else "CLASSES HAVE"
        yield (
            f"{len(absent)} {noun} NO LABELED PIXEL: {_listed(absent)}; {learned}; label images that show them, or "
            "correct data.classes (values)"
        )


def _one_image(num_labeled: int, settings: Settings) -> Iterator[str]:
    if num_labeled == 1 and settings.needs_annotator:
        yield (
            "THERE IS ONE LABELED IMAGE: no image can be held out, so labels are not compared (rule auto takes the "
            f"annotator's own), and alpha is guaranteed from {calib.smallest_alpha(1):g} on; label more images"
        )


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:MAX_SHOWN]) + (f" and {len(names) - MAX_SHOWN} more" if len(names) > MAX_SHOWN else "")
