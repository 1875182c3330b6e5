"""What held-out images say of a store, from the receipt of calibrate beside it, if that receipt is about this store."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pipeline.held_out import find_row
from pipeline.receipt import read_receipt
from pipeline.store import CalibrationStore, LabelStore

Facts = dict[str, Any]

RECEIPT = "calibrate.json"
SHOWN = ("alpha", "rule", "coverage", "precision", "keep_rate", "uncalibrated", "set_sizes")
MEASURES = ("coverage", "precision")


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
    return {
        "problem": None,
        "num_images": receipt["held_out"]["num_images"],
        "folds": receipt["held_out"]["folds"],
        "rows": [{name: row[name] for name in SHOWN} for row in rows],
        "per_class": {
            name: {measure: rows[0][f"{measure}_per_class"][name] for measure in MEASURES}
            for name in rows[0]["coverage_per_class"]
        },
    }


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


def held_out_lines(facts: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """A line a row, then a line a class."""
    if facts["problem"] is not None:
        yield "held out", facts["problem"]
        return
    yield "held out", f"{facts['num_images']} labelled images in {facts['folds']} folds; [95 % interval over images]"
    for row in facts["rows"]:
        estimates = ", ".join(f"{name.replace('_', ' ')} {_told(row[name])}" for name in (*MEASURES, "keep_rate"))
        without = f"; {100 * row['uncalibrated']:.1f} % covered for want of a threshold" if row["uncalibrated"] else ""
        yield "held out", f"alpha {row['alpha']:<5g} rule {row['rule']:<13} {estimates}{without}"
    first = facts["rows"][0]
    yield "by class", f"at alpha {first['alpha']:g}, rule {first['rule']}"
    width = max(map(len, facts["per_class"]))
    for name, row in facts["per_class"].items():
        told = ", ".join(f"{what} {_told(row[what])}" for what in MEASURES)
        yield "by class", f"{name:<{width}} {told}".rstrip()


def _told(estimate: Mapping[str, float] | None) -> str:
    """`0.952 [0.941, 0.963]`, of one width; a dash for what does not exist."""
    return f"{'-':<20}" if estimate is None else "{value:.3f} [{low:.3f}, {high:.3f}]".format(**estimate)
