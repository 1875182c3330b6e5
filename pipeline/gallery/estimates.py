"""Held-out estimates at every stop, as data of the page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pipeline.calibration.guarantee import guarantee_of
from pipeline.calibration.rows import find_row
from pipeline.gallery.labeled_run import Stops

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


def _series(rows: Sequence[Facts | None], what: str, class_name: str | None = None) -> list[list[float] | None]:
    series = [None if row is None else row[what] if class_name is None else row[what][class_name] for row in rows]
    return [_rounded(estimate) for estimate in series]


def _rounded(estimate: Facts | None) -> list[float] | None:
    return None if estimate is None else [round(estimate[end], DIGITS) for end in ("value", "low", "high")]


def _same_keep(row: Facts | None) -> list[float] | None:
    """Precision of the annotator's argmax at the keep rate of these labels."""
    return None if row is None or row["against_raw"] is None else _rounded(row["against_raw"]["same_keep"])
