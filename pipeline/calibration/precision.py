"""The guaranteed precision of a run's labels: which thresholds have it, the choice among them, and the refusal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

import calib
from calib.curves import LabelCurves
from calib.precision import images_needed, is_pilot, labeled_curves, largest_precision, log_capital, shown_thresholds
from pipeline.calibration.cross_fitting import labeled_maps
from pipeline.calibration.guarantee import exact_percent
from pipeline.calibration.rows import Fact, find_row
from pipeline.datasets import in_groups
from pipeline.errors import ConfigError
from pipeline.settings import GuaranteeSettings, Settings
from pipeline.store import CalibrationStore

Facts = Mapping[str, Any]

NO_NUMBER = float("nan")  # of an estimate that does not exist


def guarantee_facts(
    settings: Settings, thresholds: Mapping[str, calib.Thresholds], labeled: calib.LabeledMaps
) -> Fact | None:
    """The guarantee and the thresholds that have it, for the receipt of calibrate; None without a guarantee.

    thresholds: of the run's `guaranteed_variants`, at the run's alphas
    labeled:    maps of the labeled images, only read if no threshold has the guarantee
    returns:    `precision`, `confidence`, `alpha`, `num_images` (labeled), `num_groups` (of these; None without
                `data.groups`), and `shown`: variant, rule and threshold, argmax first
    raises:     ConfigError if no threshold has it
    """
    guarantee = settings.pseudolabel.guarantee
    if guarantee is None:
        return None
    index = settings.alphas.index(guarantee.alpha)
    num_groups = None if settings.data.groups is None else calib.num_units(labeled.unit_of_image)
    found = {name: float(thresholds[name].q[index, 0, 0]) for name in settings.guaranteed_variants}
    shown = [
        {"variant": name, "rule": calib.find_variant(name).rule, "threshold": threshold}
        for name, threshold in found.items()
        if threshold > 0
    ]
    if not shown:
        rules = [calib.find_variant(name).rule for name in settings.guaranteed_variants]
        background = settings.data.background_index
        curves = [labeled_curves(str(rule), background, labeled) for rule in rules]
        images = in_groups(len(curves[0].images), num_groups)
        of_units = [of_rule.by_unit(labeled.unit_of_image) for of_rule in curves]
        raise ConfigError(_refusal(settings, guarantee, of_units, images))
    num_images = int(thresholds[settings.guaranteed_variants[0]].num_images[0, 0])
    numbers = {"num_images": num_images, "num_groups": num_groups}
    return guarantee.tracked() | {"alpha": guarantee.alpha, **numbers, "shown": shown}


def _refusal(settings: Settings, guarantee: GuaranteeSettings, curves: list[LabelCurves], images: str) -> str:
    """The message for a precision that no threshold has: what can be shown, and how many images would suffice.

    curves: one for each tested rule, by unit
    images: the numbers of labeled images and of their groups, in words
    """
    what = "labeled images" if settings.data.groups is None else "groups of labeled images"
    error, rng = settings.error_of_each_test, np.random.default_rng(settings.seed)
    possible = [p for p in (largest_precision(of_rule, guarantee.alpha, error) for of_rule in curves) if p is not None]
    needed = [n for n in (images_needed(of_rule, guarantee.alpha, error, rng) for of_rule in curves) if n is not None]
    best = f"is {max(possible):g}" if possible else "is below 0.5"
    enough = (
        f"about {min(needed)} {what} like these would suffice"
        if needed
        else f"more {what} like these would not suffice, because no threshold is precise enough on them"
    )
    more = "label more images" if settings.data.groups is None else "label images of more groups"
    fixes = [more] if needed else []
    if possible:
        changes = f"{{precision: {max(possible):g}, confidence: {guarantee.confidence:g}}}"
        fixes.append(f"set pseudolabel.guarantee: {changes}")
    fixes.append("remove pseudolabel.guarantee")
    return (
        f"pseudolabel.guarantee: {images} do not show a precision of "
        f"{guarantee.precision:g} at any threshold, with a confidence of {guarantee.confidence:g}; the largest "
        f"precision that they show {best}, and {enough}; {', or '.join(fixes)}"
    )


def guaranteed_range(settings: Settings, store: CalibrationStore) -> tuple[float, float] | None:
    """The smallest and the largest threshold with the guarantee of the run; all candidates between them have it, too.

    settings: with one of `guaranteed_variants`
    returns:  None if no threshold has it
    """
    rule, guarantee = settings.calibrate.kind.rule, settings.pseudolabel.guarantee
    assert rule is not None
    assert guarantee is not None
    maps = labeled_maps(settings, store)
    curves = labeled_curves(rule, settings.data.background_index, maps).by_unit(maps.unit_of_image)
    capital = log_capital(curves, is_pilot(len(curves.images)), guarantee.alpha)
    shown = shown_thresholds(capital, settings.error_of_each_test)
    return None if shown is None else (float(shown[0]), float(shown[1]))


def _like(guarantee: Facts) -> str:
    """What new images are like."""
    num, groups = guarantee["num_images"], guarantee.get("num_groups")
    return (
        f"images like the {num} labeled ones"
        if groups is None
        else f"groups like those of the {in_groups(num, groups)}"
    )


def guaranteed_labels(calibrated: Facts) -> calib.Candidate:
    """The labels with the largest mIoU on held-out images among those that have the guarantee.

    If the folds have too few images to judge any of them, rule argmax is taken before the others.

    calibrated: receipt of calibrate, of a run with a guarantee
    """
    guarantee = calibrated["guarantee"]
    ranked = [_candidate(calibrated["held_out"], shown, guarantee["alpha"]) for shown in guarantee["shown"]]
    return max(ranked, key=lambda candidate: -1.0 if np.isnan(candidate.miou) else candidate.miou)


def _candidate(held_out: Facts | None, shown: Facts, alpha: float) -> calib.Candidate:
    row = find_row(held_out, shown["variant"], alpha, shown["rule"])
    numbers = [NO_NUMBER] * 3
    if row is not None:
        numbers = [row[name]["value"] if row[name] else NO_NUMBER for name in ("miou", "precision", "keep_rate")]
    return calib.Candidate(shown["variant"], alpha, shown["rule"], *numbers)


def guarantee_sentence(calibrated: Facts, variant: str) -> str | None:
    """The guarantee of the labels of a variant, one sentence without a full stop; None if it has none.

    calibrated: receipt of calibrate
    """
    guarantee = calibrated.get("guarantee")
    shown = next((one for one in (guarantee or {}).get("shown", []) if one["variant"] == variant), None)
    if guarantee is None or shown is None:
        return None
    return (
        f"with a confidence of {exact_percent(guarantee['confidence'])}, at least "
        f"{exact_percent(guarantee['precision'])} of the labels of new {_like(guarantee)} are right (rule "
        f"{shown['rule']}, threshold {shown['threshold']:.3f}; Learn then Test)"
    )
