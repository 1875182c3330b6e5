"""What small students learnt from each kind of labels (`conformalsam probe`), as the report's table shows it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, NamedTuple

from pipeline.run import Run

log = logging.getLogger(__name__)

Facts = Mapping[str, Any]

FIELDS = ("labels", "variant", "alpha", "rule", "weight")  # what tells one way to train from another


class ProbeRow(NamedTuple):
    """One way to train. weight: None for the labeled images alone; differences: None to itself."""

    labels: str
    weight: float | None
    miou: float
    to_none: Facts | None
    to_raw: Facts | None
    is_chosen: bool


def probe_receipt(run: Run, calibration: str) -> dict[str, Facts]:
    """The receipt of a probe under its name; nothing if there is none, or one of another calibration."""
    if not run.has_receipt("probe"):
        return {}
    receipt = run.recorded("probe")
    if receipt["fingerprint"] != calibration:
        log.warning(
            "report: %s is about another calibration and is left out; run %s",
            run.folder.receipt("probe"),
            run.command("probe", rerun="probe"),
        )
        return {}
    return {"probe": receipt}


def probe_rows(receipts: Mapping[str, Facts]) -> list[ProbeRow]:
    """A row for each way to train; none without a probe."""
    if "probe" not in receipts:
        return []
    chosen = receipts["probe"]["chosen"]
    return [
        ProbeRow(
            _labels(found),
            found["weight"] or None,
            found["miou"],
            None if found["labels"] == "none" else found["to_none"],
            None if found["labels"] == "raw" else found["to_raw"],
            all(found[name] == chosen[name] for name in FIELDS),
        )
        for found in receipts["probe"]["outcomes"]
    ]


def _labels(found: Facts) -> str:
    match found["labels"]:
        case "none":
            return "none: the labeled images alone"
        case "raw":
            return "the annotator’s argmax"
        case _:
            return f"calibrated: variant {found['variant']}, α = {found['alpha']:g}, rule {found['rule']}"
