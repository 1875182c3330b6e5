"""Held-out estimates of a store, from the receipt of calibrate beside it if that receipt belongs to the store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import calib
from pipeline.calibration.precision import guarantee_sentence, guaranteed_labels
from pipeline.calibration.rows import candidates, find_row
from pipeline.calibration.verdict import verdict
from pipeline.errors import RecordError
from pipeline.folder import Folder
from pipeline.receipt import read_receipt
from pipeline.store import CalibrationStore, LabelStore

Facts = dict[str, Any]

SHOWN = (
    "variant",
    "alpha",
    "rule",
    "coverage",
    "precision",
    "keep_rate",
    "miou",
    "uncalibrated",
    "set_sizes",
    "target",
)


def held_out_facts(store: CalibrationStore | LabelStore) -> Facts:
    """Rows of held-out estimates, and those of the first row by class; `problem` is the reason if there are none.

    For labels: the row of their variant, alpha and rule. For thresholds: all rows. `raw`: estimates of the annotator's
    own argmax on the same images. `verdict`: comparison of the labels with it; for thresholds, of the labels with the
    largest mIoU. `guarantee`: that of the precision of the labels, a sentence, or None.
    """
    path = Folder(store.path.parent).receipt("calibrate")
    if not path.is_file():
        return _nothing(f"no receipt {path} yet")
    try:
        receipt = read_receipt(path, "calibrate")
    except RecordError as error:
        return _nothing(str(error))
    if not _belongs(store, receipt):
        return _nothing(f"{path} belongs to other thresholds")
    if receipt["held_out"] is None:
        return _nothing("a single labeled image, or group of images: none can be held out")
    estimates = receipt["held_out"]
    rows = estimates["rows"]
    if isinstance(store, LabelStore):
        row = find_row(estimates, store.state["variant"], store.state["alpha"], store.rule)
        rows = [] if row is None else [row]
    if not rows:
        return _nothing(f"{path} has no estimates at the alpha and rule of these labels")
    guarantees_coverage = calib.find_variant(receipt["variant"]).bounds != "wrong labels"
    return {
        "problem": None,
        "num_images": estimates["num_images"],
        "num_groups": estimates.get("num_groups"),
        "folds": estimates["folds"],
        "rows": [
            {name: row[name] for name in SHOWN}
            | {"same_keep": (row["against_raw"] or {}).get("same_keep")}
            | ({} if guarantees_coverage else {"target": None})
            for row in rows
        ],
        "raw": {name: estimates["raw"][name] for name in ("precision", "miou")},
        "verdict": verdict(estimates, *_best(rows, estimates)),
        "guarantee": _guarantee(store, receipt),
        "per_class": {name: _class_facts(rows[0], name, guarantees_coverage) for name in rows[0]["coverage_per_class"]},
    }


def _guarantee(store: CalibrationStore | LabelStore, receipt: Mapping[str, Any]) -> str | None:
    if receipt.get("guarantee") is None:
        return None
    is_labels = isinstance(store, LabelStore)
    return guarantee_sentence(receipt, store.state["variant"] if is_labels else guaranteed_labels(receipt).variant)


def _best(rows: Sequence[Facts], estimates: Facts) -> tuple[str, float, str]:
    """Variant, alpha and rule of the only row or, of several rows and raw, those with the largest mIoU."""
    first = rows[0]
    ranked = [] if len(rows) == 1 else [candidate for candidate in candidates(estimates) if candidate.keep_rate > 0]
    return calib.rank(ranked)[0][0][:3] if ranked else (first["variant"], first["alpha"], first["rule"])


def _class_facts(row: Mapping[str, Any], name: str, guarantees_coverage: bool) -> Facts:
    """Estimates of one class; under-covered: the whole interval of its coverage lies below the target."""
    coverage, precision = row["coverage_per_class"][name], row["precision_per_class"][name]
    target = row["target"] if guarantees_coverage else None
    below = target is not None and coverage is not None and coverage["high"] < target
    fractions = row.get("fractions_per_class", {}).get(name, {"labels": None, "masks": None})
    return {"coverage": coverage, "precision": precision, "under_covered": below, "fractions": fractions}


def _belongs(store: CalibrationStore | LabelStore, receipt: Mapping[str, Any]) -> bool:
    """Whether the receipt is of this calibration, or of the one that made the labels.

    Labels without the fingerprint of a calibration belong to a receipt with their variant and alpha.
    """
    made_by = store.fingerprint if isinstance(store, CalibrationStore) else store.state.get("calibration")
    if made_by is not None:
        return bool(receipt["fingerprint"] == made_by)
    return receipt["variant"] == store.state.get("variant") and store.state.get("alpha") in receipt["alphas"]


def _nothing(problem: str) -> Facts:
    numbers: Facts = {"num_images": 0, "num_groups": None, "folds": 0, "rows": [], "per_class": {}, "raw": None}
    return {"problem": problem, **numbers, "verdict": None, "guarantee": None}
