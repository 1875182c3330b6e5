"""Held-out estimates as rows of a receipt, one per variant, alpha and rule, and the candidates of rule auto."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

import calib
from pipeline.settings import Settings

Fact = dict[str, Any]


def rows_of(
    settings: Settings,
    held_out: calib.HeldOut,
    names: Sequence[str],
    alphas: Sequence[float],
    thresholds: calib.Thresholds,
    rules: Sequence[str],
    folds: int,
) -> Iterator[Fact]:
    """Facts of each alpha and rule of a receipt.

    held_out:   estimates at `alphas` and `rules`, in their order
    thresholds: final ones at `alphas`, from all labeled images
    folds:      number of cross-fitting folds
    """
    variant = settings.calibrate.variant
    for a, alpha in enumerate(alphas):
        if _is_of_other_thresholds(held_out.uncalibrated[a], thresholds.map(a)):
            held_out = held_out.without(a)
        per_image = held_out.coverage_per_image[:, a]
        finite = per_image[~np.isnan(per_image)]
        coverage = {
            "target": 1 - alpha if settings.calibrate.kind.bounds in ("coverage", "wrong labels") else None,
            "folds": folds,
            "coverage": _estimate(held_out.coverage, a),
            "coverage_per_class": {n: _estimate(held_out.coverage_per_class, (a, k)) for k, n in enumerate(names)},
            "coverage_per_image": np.quantile(finite, np.linspace(0, 1, 11)).tolist() if finite.size else [],
            "image_coverage": _estimate(held_out.image_coverage, a),
            "uncalibrated": _number(held_out.uncalibrated[a]),
            "set_sizes": {name: _estimate(held_out.sizes, (a, size)) for size, name in enumerate(calib.SET_SIZES)},
        }
        for r, rule in enumerate(rules):
            against_raw = held_out.against_raw._asdict()
            yield {
                "variant": variant,
                "alpha": alpha,
                "rule": rule,
                **coverage,
                "precision": _estimate(held_out.precision, (a, r)),
                "precision_per_class": _by_class(held_out.precision_per_class, names, (a, r)),
                "recall_per_class": _by_class(held_out.recall_per_class, names, (a, r)),
                "fractions_per_class": _fractions(held_out, held_out.label_fractions[a, r], names),
                "miou": _estimate(held_out.miou, (a, r)),
                "keep_rate": _estimate(held_out.keep_rate, (a, r)),
                "wrong": _estimate(held_out.wrong, (a, r)),
                "against_raw": {name: _estimate(estimate, (a, r)) for name, estimate in against_raw.items()}
                | {"miou_is_larger": _number(held_out.miou_is_larger[a, r])},
            }


def raw_facts(settings: Settings, held_out: calib.HeldOut, names: Sequence[str]) -> Fact:
    """Facts of the annotator's own argmax. It has no alpha or variant: those of the settings are filled in."""
    raw = held_out.raw
    precision = _estimate(raw.precision, ())
    keep_rate = None if precision is None else dict.fromkeys(calib.Estimate._fields, 1.0)
    wrong = None if precision is None else {"value": 1 - precision["value"]}
    if precision is not None and wrong is not None:
        wrong |= {"low": 1 - precision["high"], "high": 1 - precision["low"]}
    return {
        "variant": settings.calibrate.variant,
        "alpha": settings.calibrate.alpha,
        "rule": calib.RAW,
        "precision": precision,
        "precision_per_class": _by_class(raw.precision_per_class, names, ()),
        "recall_per_class": _by_class(raw.recall_per_class, names, ()),
        "fractions_per_class": _fractions(held_out, raw.label_fractions, names),
        "miou": _estimate(raw.miou, ()),
        "keep_rate": keep_rate,
        "wrong": wrong,
        "against_raw": None,
    }


def _by_class(estimate: calib.Estimate, names: Sequence[str], index: tuple[int, ...]) -> Fact:
    return {name: _estimate(estimate, (*index, k)) for k, name in enumerate(names)}


def _fractions(held_out: calib.HeldOut, of_labels: npt.NDArray[np.float64], names: Sequence[str]) -> Fact:
    """Class -> its fraction of the labels and of the masks."""
    pairs = zip(of_labels, held_out.class_fractions, strict=True)
    return {
        name: {"labels": _number(labels), "masks": _number(masks)}
        for name, (labels, masks) in zip(names, pairs, strict=True)
    }


def _is_of_other_thresholds(uncalibrated: float | np.floating, q_hat: npt.NDArray[np.float32]) -> bool:
    """Whether most pixels are uncalibrated in the folds but not with all images: the counts are then meaningless.

    uncalibrated: fraction of pixels without a finite threshold in the folds, in [0, 1]
    q_hat:        final thresholds, +inf = uncalibrated
    """
    return bool(uncalibrated > 0.5 and np.isposinf(q_hat).mean() < 0.5)


def _estimate(estimate: calib.Estimate, index: Any) -> Fact | None:
    """value, low and high at an index; None where the value is NaN (a fraction of zero pixels)."""
    if math.isnan(estimate.value[index]):
        return None
    return {name: float(values[index]) for name, values in estimate._asdict().items()}


def _number(value: float | npt.NDArray[np.float64]) -> float | None:
    return None if np.isnan(value) else float(value)


def of_variant(calibrated: Mapping[str, Any], variant: str) -> Fact:
    """The receipt of calibrate with the facts of another judged variant in place of those of `calibrate.variant`."""
    facts = dict(calibrated)
    return facts if variant == facts["variant"] else facts | facts["beside"][variant] | {"variant": variant}


def find_row(held_out: Mapping[str, Any] | None, variant: str, alpha: float, rule: str) -> Fact | None:
    """The row of a variant, alpha and rule; None if it was not judged on held-out images.

    For a rule that was not judged, the row is that of one of `calib.rules_alike`, which gives the same labels. For rule
    raw, the facts about prediction sets are those of the variant and alpha.
    """
    rows = held_out["rows"] if held_out else []
    same_labels = calib.RULES if rule == calib.RAW else (rule, *calib.rules_alike(rule))
    of_alpha = [row for row in rows if row["alpha"] == alpha and row["variant"] == variant]
    matches = [row for name in same_labels for row in of_alpha if row["rule"] == name]
    if not matches or held_out is None:
        return None
    row: Fact = matches[0]
    return row | held_out["raw"] | {"variant": variant, "alpha": alpha} if rule == calib.RAW else row


Measure = Literal["pixels", "macro", "every_class"]


def candidates(
    held_out: Mapping[str, Any], precision_of: Measure = "pixels", end: Literal["value", "low"] = "value"
) -> list[calib.Candidate]:
    """All combinations to choose from, rule raw first.

    Thresholds of a variant without a guarantee are the same at all alphas: only its first alpha is a candidate. Labels
    with a guaranteed precision are no candidates: they are chosen by their guarantee. A variant that needs more labeled
    images is none either, if there are others that bound the coverage.

    held_out:     of the receipt of calibrate
    precision_of: definition of precision, as in `pseudolabel.precision_of`
    end:          "value": the estimate of the precision; "low": the lower end of its interval
    """
    by_key: dict[tuple[Any, ...], calib.Candidate] = {}
    for row in (held_out["raw"], *_with_enough_images(held_out)):
        bounds = calib.find_variant(row["variant"]).bounds
        if row["precision"] is None or row["miou"] is None or bounds == "precision":
            continue
        numbers = row["miou"]["value"], _precision(row, precision_of, end), row["keep_rate"]["value"]
        key = (
            row["variant"],
            row["rule"],
            None if bounds == "nothing" else row["alpha"],
        )
        by_key.setdefault(key, calib.Candidate(row["variant"], row["alpha"], row["rule"], *numbers))
    return list(by_key.values())


def _with_enough_images(held_out: Mapping[str, Any]) -> list[Fact]:
    """Rows of the variants for which there are enough labeled images; all rows, if none of these bounds coverage."""
    rows: list[Fact] = held_out["rows"]
    kinds = {row["variant"]: calib.find_variant(row["variant"]) for row in rows}
    enough = {name for name, kind in kinds.items() if kind.least_images <= held_out["num_images"]}
    if not any(kinds[name].bounds == "coverage" for name in enough):
        return rows
    return [row for row in rows if row["variant"] in enough]


def _precision(row: Fact, precision_of: Measure, end: Literal["value", "low"]) -> float:
    if precision_of == "pixels":
        return float(row["precision"][end])
    per_class = [estimate[end] for estimate in row["precision_per_class"].values() if estimate is not None]
    return float(min(per_class) if precision_of == "every_class" else np.mean(per_class))
