"""Whether labeled and unlabeled images differ in what is observed without masks: facts, and one sentence about them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

import calib
from calib.shift import can_be_shown
from pipeline.datasets import SampleIndex, in_groups, num_groups, units_of
from pipeline.store import DONE, OUTCOMES, CalibrationStore, LabelStore, observed_in

Facts = Mapping[str, Any]

KEEP_RATE, CONFIDENCE, FRACTIONS = "keep rate", "mean confidence", "class fractions"
NUM_IMAGES = 5  # unlabeled images that are named
NUM_CLASSES = 3  # classes that are named


def shift_facts(
    calibration: CalibrationStore, labels: LabelStore, index: SampleIndex, seed: int
) -> dict[str, Any] | None:
    """Compare the labeled images of a run with the unlabeled ones (`calib.shift`).

    The quantities are, per image, the keep rate with the labels' variant, alpha and rule (of a labeled image with
    thresholds from other labeled images; not for rule raw), the mean probability of the most probable class, and the
    fraction of every class in the annotator's argmax. All pixels count, with and without a true class.

    calibration: with its thresholds
    labels:      with all its images
    index:       with the groups of the images, which are divided as a whole
    seed:        of the random divisions
    returns:     `tests`: quantity -> `labeled` and `unlabeled` (means; class name -> mean for the fractions),
                 `p_value`, `adjusted` (Holm); `is_shift`: whether one of the adjusted p-values is at most 0.05;
                 `classes`: names of the classes whose fractions differ most; `images`: ids of the unlabeled images that
                 differ most in the quantities that do (both [] without a shift); `num_images` and `num_groups`: of
                 `labeled` and `unlabeled`, the groups None without `data.groups`. None without images to compare
    raises:      StoreError if a store is damaged
    """
    of_labeled, of_unlabeled = np.flatnonzero(calibration.status == DONE), np.flatnonzero(labels.status == DONE)
    if not len(of_labeled) or not len(of_unlabeled):
        return None
    labeled, unlabeled = _values(observed_in(calibration, of_labeled)), _values(observed_in(labels, of_unlabeled))
    kept = _keep_rates(calibration, of_labeled, labels, of_unlabeled)
    if kept is not None:
        labeled, unlabeled = {KEEP_RATE: kept[0], **labeled}, {KEEP_RATE: kept[1], **unlabeled}
    samples = {
        "labeled": index.with_ids(calibration.sample_ids[i] for i in of_labeled),
        "unlabeled": index.with_ids(labels.sample_ids[i] for i in of_unlabeled),
    }
    units = units_of(samples["labeled"]), units_of(samples["unlabeled"])
    tests = calib.compare(labeled, unlabeled, np.random.default_rng(seed), units)
    shifted = [name for name, test in tests.items() if test.is_shift]
    images: list[str] = []
    if shifted:
        first, second = (np.concatenate([of[name] for name in shifted], axis=1) for of in (labeled, unlabeled))
        ids = labels.sample_ids
        images = [ids[i] for i in of_unlabeled[calib.most_different(first, second, NUM_IMAGES)]]
    gap = np.abs(tests[FRACTIONS].unlabeled - tests[FRACTIONS].labeled)
    classes = np.argsort(-gap, kind="stable")[:NUM_CLASSES] if FRACTIONS in shifted else np.array([], np.intp)
    return {
        "tests": {name: _test_facts(test, labels.class_names) for name, test in tests.items()},
        "is_shift": bool(shifted),
        "classes": [labels.class_names[k] for k in classes],
        "images": images,
        "num_images": {name: len(of) for name, of in samples.items()},
        "num_groups": {name: num_groups(of) for name, of in samples.items()},
    }


def _values(observed: calib.Observed) -> dict[str, npt.NDArray[np.float64]]:
    """Quantity -> float64 [images, D]."""
    pixels = observed.pixels.sum(axis=1, keepdims=True)
    return {
        CONFIDENCE: observed.probability.sum(axis=1, keepdims=True) / pixels,
        FRACTIONS: observed.pixels / pixels,
    }


def _keep_rates(
    calibration: CalibrationStore,
    of_labeled: npt.NDArray[np.intp],
    labels: LabelStore,
    of_unlabeled: npt.NDArray[np.intp],
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]] | None:
    """Keep rates of labeled and unlabeled images, float64 [images, 1] each; None if there are none to compare."""
    if labels.rule == calib.RAW:
        return None
    held_out = calibration.held_out_keep_rate(labels.state["variant"], labels.alphas[0], labels.rule)[of_labeled]
    if np.isnan(held_out).any():
        return None
    kept, pixels = (labels.outcome_pixels[of_unlabeled, OUTCOMES.index(name)] for name in ("kept", "pixels"))
    return held_out[:, np.newaxis], (kept / pixels)[:, np.newaxis]


def _test_facts(test: calib.Difference, class_names: list[str]) -> dict[str, Any]:
    labeled, unlabeled = (
        dict(zip(class_names, means.tolist(), strict=True)) if len(means) > 1 else float(means[0])
        for means in (test.labeled, test.unlabeled)
    )
    return {"labeled": labeled, "unlabeled": unlabeled, "p_value": test.p_value, "adjusted": test.adjusted}


def shift_sentence(facts: Facts | None) -> str | None:
    """The result in one sentence without a full stop. facts: of `shift_facts`"""
    if facts is None:
        return None
    parts = ", ".join(_parts(facts))
    if not facts["is_shift"]:
        compared = _groups(facts)
        return f"no difference beyond chance between labeled and unlabeled images{compared}: {parts}"
    return (
        f"SHIFT: the unlabeled images differ from the labeled ones{_groups(facts)}: {parts}; most of all "
        f"{', '.join(facts['images'])}. "
        "Coverage and precision are estimates for images like the labeled ones: label some of these images, too"
    )


def _groups(facts: Facts) -> str:
    """The numbers of groups in parentheses, and whether they are too few for any difference; "" without groups."""
    num = facts.get("num_groups") or {"labeled": None, "unlabeled": None}
    if num["labeled"] is None and num["unlabeled"] is None:
        return ""
    of = {name: in_groups(facts["num_images"][name], groups, name) for name, groups in num.items()}
    sides = [facts["num_images"][name] if groups is None else groups for name, groups in num.items()]
    few = "" if can_be_shown(sides[0], sides[1], len(facts["tests"])) else ", too few groups to show any difference"
    return f" ({of['labeled']}, {of['unlabeled']}{few})"


def _parts(facts: Facts) -> Iterator[str]:
    for name, test in facts["tests"].items():
        p = f"p = {test['adjusted']:.2g}"
        labeled, unlabeled = test["labeled"], test["unlabeled"]
        if isinstance(labeled, Mapping):  # receipts of earlier versions name the quantity otherwise
            named = [f"{c} {_percent(unlabeled[c])} against {_percent(labeled[c])}" for c in facts["classes"]]
            yield f"{FRACTIONS} ({'; '.join([p, *named])})"
        else:
            yield f"{name} {_percent(unlabeled)} against {_percent(labeled)} ({p})"


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.1f} %"
