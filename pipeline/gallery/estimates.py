"""Held-out estimates at every stop, as data of the page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pipeline.calibration.guarantee import exact_percent, guarantee_of
from pipeline.calibration.precision import guaranteed_range
from pipeline.calibration.rows import find_row
from pipeline.gallery.labeled_run import LabeledRun, Stops

Facts = dict[str, Any]
DIGITS = 5


def held_out_estimates(
    stops: Stops, rules: Sequence[str], class_names: Sequence[str], calibrated: Facts
) -> dict[str, Any]:
    """Estimates [value, low, high] in [0, 1], or None, at each stop, as JSON types; by rule if they depend on it.

    calibrated: receipt of calibrate, for the guarantee at each stop
    """
    guarantees = [guarantee_of(calibrated, alpha) for alpha in stops.alphas]
    estimates, variant = stops.held_out, calibrated["variant"]
    rows = [[find_row(estimates, variant, alpha, rule) for alpha in stops.alphas] for rule in rules]
    return {
        "numImages": estimates["num_images"] if estimates else 0,
        "numGroups": estimates.get("num_groups") if estimates else None,
        "folds": estimates["folds"] if estimates else 0,
        "isRisk": guarantees[0].is_risk,
        "isDescending": stops.alphas[0] > stops.alphas[-1],
        "targets": [guarantee.target for guarantee in guarantees],
        "raw": [_rounded(estimates["raw"][name] if estimates else None) for name in ("precision", "miou")],
        "guarantees": [guarantee.text for guarantee in guarantees],
        "caveats": guarantees[0].caveats,
        "coverage": _series(rows[0], "coverage"),
        "coverageByClass": [_series(rows[0], "coverage_per_class", name) for name in class_names],
        "byRule": [
            {
                "precision": _series(row, "precision"),
                "miou": _series(row, "miou"),
                "sameKeep": [_same_keep(facts) for facts in row],
                "wrong": _series(row, "wrong"),
                "precisionByClass": [_series(row, "precision_per_class", name) for name in class_names],
            }
            for row in rows
        ],
    }


def guaranteed_stops(run: LabeledRun) -> Facts | None:
    """The stops whose labels have the precision of `pseudolabel.guarantee`, all of them together; None without one.

    returns: `rule` (its index), `stops` (whether each has the guarantee) and `text`, as JSON types
    """
    guarantee, kind = run.settings.pseudolabel.guarantee, run.settings.calibrate.kind
    if guarantee is None or kind.bounds != "precision":
        return None
    shown = guaranteed_range(run.settings, run.calibration)
    thresholds = run.stops.q[:, 0, 0]
    return {
        "rule": run.rules.index(str(kind.rule)),
        "stops": [shown is not None and bool(shown[0] <= q <= shown[1]) for q in thresholds],
        "text": (
            f"a precision of at least {exact_percent(guarantee.precision)} under rule {kind.rule}, "
            f"with a confidence of {exact_percent(guarantee.confidence)}"
        ),
    }


def _series(rows: Sequence[Facts | None], what: str, class_name: str | None = None) -> list[list[float] | None]:
    series = [None if row is None else row[what] if class_name is None else row[what][class_name] for row in rows]
    return [_rounded(estimate) for estimate in series]


def _rounded(estimate: Facts | None) -> list[float] | None:
    return None if estimate is None else [round(estimate[end], DIGITS) for end in ("value", "low", "high")]


def _same_keep(row: Facts | None) -> list[float] | None:
    """Precision of the annotator's argmax at the keep rate of these labels."""
    return None if row is None or row["against_raw"] is None else _rounded(row["against_raw"]["same_keep"])
