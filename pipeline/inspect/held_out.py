"""What held-out images say of a store, from the receipt of calibrate beside it, if that receipt is about this store."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.held_out import find_row
from pipeline.receipt import read_receipt
from pipeline.store import CalibrationStore, LabelStore

Facts = dict[str, Any]

RECEIPT = "calibrate.json"
SHOWN = ("alpha", "rule", "coverage", "precision", "keep_rate", "uncalibrated", "set_sizes")


def held_out_facts(store: CalibrationStore | LabelStore) -> Facts:
    """Rows of held-out estimates, and those of the first row by class; `problem` says why there are none.

    Of labels, the row of their alpha and rule; of thresholds, a row for every alpha and rule.
    """
    path = store.path.parent / RECEIPT
    if not path.is_file():
        return _nothing(f"no receipt {path} yet")
    receipt = read_receipt(path, "calibrate")
    if not _belongs(store, receipt):
        return _nothing(f"{path} is about other thresholds")
    if receipt["held_out"] is None:
        return _nothing("a single labelled image: none can be held out")
    rows = receipt["held_out"]["rows"]
    if isinstance(store, LabelStore):
        row = find_row(rows, store.state["alpha"], store.state["rule"])
        rows = [] if row is None else [row]
    if not rows:
        return _nothing(f"{path} does not judge the alpha and rule of these labels")
    promises_coverage = receipt["variant"] != "risk"  # which bounds the share of wrong labels instead
    return {
        "problem": None,
        "num_images": receipt["held_out"]["num_images"],
        "folds": receipt["held_out"]["folds"],
        "rows": [
            {name: row[name] for name in SHOWN} | {"target": row["target"] if promises_coverage else None}
            for row in rows
        ],
        "per_class": {name: _class_facts(rows[0], name, promises_coverage) for name in rows[0]["coverage_per_class"]},
    }


def _class_facts(row: Mapping[str, Any], name: str, promises_coverage: bool) -> Facts:
    """Estimates of one class; under-covered: the whole interval of its coverage lies below the target."""
    coverage, precision = row["coverage_per_class"][name], row["precision_per_class"][name]
    below = promises_coverage and coverage is not None and coverage["high"] < row["target"]
    return {"coverage": coverage, "precision": precision, "under_covered": below}


def _belongs(store: CalibrationStore | LabelStore, receipt: Mapping[str, Any]) -> bool:
    """Is the receipt of this calibration, or of the one that made the labels?

    Labels that do not name their calibration are taken to be of one with their variant and alpha.
    """
    made_by = store.fingerprint if isinstance(store, CalibrationStore) else store.state.get("calibration")
    if made_by is not None:
        return bool(receipt["fingerprint"] == made_by)
    return receipt["variant"] == store.state.get("variant") and store.state.get("alpha") in receipt["alphas"]


def _nothing(problem: str) -> Facts:
    return {"problem": problem, "num_images": 0, "folds": 0, "rows": [], "per_class": {}}
