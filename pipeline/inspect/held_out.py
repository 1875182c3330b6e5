"""What held-out images say of a store, from the receipt of calibrate beside it, if that receipt is about this store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import calib
from pipeline.calibration.cross_fitting import candidates, find_row
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
    """Rows of held-out estimates, and those of the first row by class; `problem` says why there are none.

    Of labels, the row of their variant, alpha and rule; of thresholds, a row for each. `raw`: the annotator's own
    argmax on the same images; `verdict`: the labels beside it, of thresholds those of the largest mIoU.
    """
    path = Folder(store.path.parent).receipt("calibrate")
    if not path.is_file():
        return _nothing(f"no receipt {path} yet")
    try:
        receipt = read_receipt(path, "calibrate")
    except RecordError as error:
        return _nothing(str(error))
    if not _belongs(store, receipt):
        return _nothing(f"{path} is about other thresholds")
    if receipt["held_out"] is None:
        return _nothing("a single labeled image: none can be held out")
    found = receipt["held_out"]
    rows = found["rows"]
    if isinstance(store, LabelStore):
        row = find_row(found, store.state["variant"], store.state["alpha"], store.rule)
        rows = [] if row is None else [row]
    if not rows:
        return _nothing(f"{path} does not judge the alpha and rule of these labels")
    guarantees_coverage = calib.find_variant(receipt["variant"]).bounds != "wrong labels"
    return {
        "problem": None,
        "num_images": receipt["held_out"]["num_images"],
        "folds": receipt["held_out"]["folds"],
        "rows": [
            {name: row[name] for name in SHOWN}
            | {"same_keep": (row["against_raw"] or {}).get("same_keep")}
            | ({} if guarantees_coverage else {"target": None})
            for row in rows
        ],
        "raw": {name: found["raw"][name] for name in ("precision", "miou")},
        "verdict": verdict(found, *_best(rows, found)),
        "per_class": {name: _class_facts(rows[0], name, guarantees_coverage) for name in rows[0]["coverage_per_class"]},
    }


def _best(rows: Sequence[Facts], found: Facts) -> tuple[str, float, str]:
    """Variant, alpha and rule of the only row or, of several, those of the largest mIoU, raw among them."""
    shown = rows[0]
    known = [] if len(rows) == 1 else [candidate for candidate in candidates(found) if candidate.keep_rate > 0]
    return calib.rank(known)[0][0][:3] if known else (shown["variant"], shown["alpha"], shown["rule"])


def _class_facts(row: Mapping[str, Any], name: str, guarantees_coverage: bool) -> Facts:
    """Estimates of one class; under-covered: the whole interval of its coverage lies below the target."""
    coverage, precision = row["coverage_per_class"][name], row["precision_per_class"][name]
    target = row["target"] if guarantees_coverage else None
    below = target is not None and coverage is not None and coverage["high"] < target
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
    return {"problem": problem, "num_images": 0, "folds": 0, "rows": [], "per_class": {}, "raw": None, "verdict": None}
